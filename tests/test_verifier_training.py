"""Laws of the speaker verifier's training: two buzzes of different pitch are told apart after a few seconds of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import buzz
from safetensors import safe_open

from llasa_lite import verifier_training
from llasa_lite.audio import save
from llasa_lite.data import Clip, disturbed
from llasa_lite.verifier_training import (
    PHASES,
    VerifierTraining,
    VoiceCrops,
    equal_error_rate,
    new_verifier,
    normalized,
    small_verifier_config,
    train_verifier,
    trials,
)


def clips(folder, voices=4, each=3, split="train"):
    """Voices are buzzes of different pitch."""
    made = []
    for voice in range(voices):
        for k in range(each):
            path = save(buzz(1.3, pitch=90 * 1.4**voice, seed=k), folder / f"{split}_{voice}_{k}.flac")
            made.append(Clip(10 * voice + k, "buzz", f"voice {voice}", 1.3, split, path))
    return made


def test_a_small_run_tells_voices_apart_and_loads_as_any_verifier(tmp_path, codec):
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    known = clips(tmp_path)
    settings = VerifierTraining(minutes=0.05, batch=4, crop_seconds=(0.8, 1.0), warmup_steps=1, through_codec=0.2)
    out = train_verifier(known, tmp_path / "out", settings, codec, known)
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] >= 1 and 0 <= last["equal_error_rate"] <= 1
    before = {name: (out / name).read_bytes() for name in ("model.safetensors", "log.jsonl")}
    train_verifier(known, out, settings, codec, known)  # a finished one is not made again
    assert before == {name: (out / name).read_bytes() for name in before} and not list(out.glob("*.pt"))
    model = AutoModelForAudioXVector.from_pretrained(out, dtype=torch.float32)
    heard = AutoFeatureExtractor.from_pretrained(out)(known[0].load(), sampling_rate=16000, return_tensors="pt")
    assert model(**heard).embeddings.shape == (1, small_verifier_config().xvector_output_dim)


def test_a_run_stopped_between_its_state_and_its_row_goes_on(tmp_path, monkeypatch):
    """At its first checkpoint: the state is there, and no row of the log."""
    known = clips(tmp_path, voices=2, each=2)
    settings = VerifierTraining(minutes=0.05, batch=2, crop_seconds=(0.8, 1.0), warmup_steps=1, save_minutes=0)
    drawn, batch = [], VoiceCrops.batch

    def noted(crops):
        drawn.append(batch(crops))
        return drawn[-1]

    monkeypatch.setattr(VoiceCrops, "batch", noted)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verifier_training, "embedding", stopped)
        train_verifier(known, tmp_path / "out", settings, None, known)
    with safe_open(tmp_path / "out" / "state.safetensors", "pt") as file:
        spent = float(file.metadata()["minutes"])
    shutil.copytree(tmp_path / "out", tmp_path / "shorter")
    shorter = train_verifier(known, tmp_path / "shorter", replace(settings, minutes=spent / 2), None, known)
    assert "NaN" not in (shorter / "log.jsonl").read_text()  # no step was taken, and it ends
    del drawn[2:]
    out = train_verifier(known, tmp_path / "out", replace(settings, minutes=spent + 1e-4), None, known)
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and last["minutes"] >= round(spent, 2)
    (_, before), (_, after) = ([wavs.numpy() for wavs, _ in some] for some in (drawn[:2], drawn[2:]))  # 0: for the bank
    assert before.shape != after.shape or (before != after).any()  # no crop once more


@pytest.mark.parametrize("voices, each", [(1, 1), (1, 2), (2, 1)])
def test_a_rate_that_no_pairs_tell_is_left_out(tmp_path, caplog, voices, each):
    """And the run ends like any other."""
    known, watched = clips(tmp_path, 2, 2), clips(tmp_path, voices, each, "test_speaker")
    settings = VerifierTraining(minutes=1e-4, batch=2, crop_seconds=(0.8, 1.0), warmup_steps=1)
    out = train_verifier(known, tmp_path / "out", settings, None, watched)
    (row,) = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    assert set(row) == {"step", "minutes", "loss"} and "No equal error rate" in caplog.text


def test_a_clip_longer_than_the_codec_takes_is_heard_through_it_too(tmp_path, codec, monkeypatch):
    for module in ("codec", "verifier_training"):
        monkeypatch.setattr(f"llasa_lite.{module}.MAX_ENCODE_SECONDS", 1.0)
    settings = VerifierTraining(batch=2, crop_seconds=(0.8, 1.0), through_codec=1)
    crops = VoiceCrops(clips(tmp_path, 2, 1), codec, settings)
    assert crops.batch()[0].isfinite().all()
    kept = {through: [len(wav) for (_, one), wav in crops.cache.items() if one == through] for through in (True, False)}
    assert kept == {True: [51 * 320] * 2, False: [int(1.3 * 16_000)] * 2}


def test_voices_are_kept_as_far_as_there_is_room(tmp_path, codec, monkeypatch):
    """Or thousands of them, of which each is bounded, would fill the memory."""
    settings = VerifierTraining(batch=2, crop_seconds=(0.8, 1.0), through_codec=0.5)
    made = []
    for room in (0, 2**30):
        monkeypatch.setattr("llasa_lite.data.MOST_KEPT", room)
        crops = VoiceCrops(clips(tmp_path, 2, 1), codec, settings)
        made.append([crops.batch()[0] for _ in range(4)])
        assert bool(crops.cache) == bool(room)
    assert all(map(torch.equal, *made))


def test_a_folder_goes_on_with_its_own_run_only(tmp_path):
    """Other voices would be an error of PyTorch's, and another start would not be made."""
    settings = VerifierTraining(minutes=1e-4, batch=2, crop_seconds=(0.8, 1.0), warmup_steps=1)
    out = train_verifier(clips(tmp_path, 3, 2), tmp_path / "out", settings)
    shutil.copytree(out, tmp_path / "start")
    for given, told in (
        ((clips(tmp_path, 2, 3), settings), "begun with voices 3"),
        ((clips(tmp_path, 3, 2), replace(settings, margin=0.3)), "begun with margin 0.2"),
        ((clips(tmp_path, 3, 2), settings, None, (), tmp_path / "start"), "begun with base None"),
        ((clips(tmp_path, 3, 2), settings, None, (), out), "holds the checkpoint to start from"),
    ):
        with pytest.raises(ValueError, match=told):
            train_verifier(given[0], out, *given[1:])


def test_a_clip_that_cannot_be_read_is_left_out_and_the_run_goes_on(tmp_path, caplog):
    settings = VerifierTraining(minutes=1e-4, batch=8, crop_seconds=(0.8, 1.0), warmup_steps=1)
    known, watched = clips(tmp_path, 2, 2), clips(tmp_path, 2, 3, "test_speaker")
    for broken in (known[0], watched[0]):
        broken.path.write_text("not audio")
    (row,) = map(json.loads, open(train_verifier(known, tmp_path / "out", settings, None, watched) / "log.jsonl"))
    assert row["equal_error_rate"] >= 0 and caplog.text.count("Clip 0 is left out: ") == 2
    known[1].path.write_text("not audio")
    with pytest.raises(ValueError, match="Cannot read 'train_0_"):
        train_verifier(known, tmp_path / "none", settings)


def test_one_voice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two voices"):
        train_verifier(clips(tmp_path, voices=1), tmp_path / "out", VerifierTraining())


def test_the_first_filters_follow_frequency():
    """A tone wakes most the filter that stands for it."""
    bank = new_verifier().wavlm.feature_extractor.conv_layers[0].conv.weight.detach().numpy()[:, 0]
    spectra = np.abs(np.fft.rfft(bank, 4096))
    peaks = spectra.argmax(1).reshape(-1, 4) * 16000 / 4096
    assert (np.diff(peaks[:, 0]) > 0).all() and np.ptp(peaks, axis=1).max() < 40


def test_bands_are_as_loud_as_each_other_in_the_speech_given():
    """Or the faint ones pass the rectifier straight, their phases cancel, and the model hears only the lowest."""
    speech = np.stack([np.convolve(disturbed(buzz(1.0, seed=k), np.random.default_rng(k)), [1, 0.9]) for k in range(4)])
    speech = torch.from_numpy(np.stack([normalized(wav) for wav in speech]).astype(np.float32))
    first = new_verifier(speech=speech).wavlm.feature_extractor.conv_layers[0]
    with torch.no_grad():
        loudness = first.conv(speech[:, None]).square().mean((0, 2)).sqrt().view(-1, PHASES).mean(1)
        plain = new_verifier().wavlm.feature_extractor.conv_layers[0].conv(speech[:, None]).square().mean((0, 2)).sqrt()
    assert loudness.min() > 0.9 and loudness.max() < 1.1
    assert plain.max() > 10 * plain.min()


def test_the_bank_stays_what_it_is(tmp_path):
    from transformers import WavLMForXVector

    settings = VerifierTraining(minutes=0.02, batch=4, crop_seconds=(0.8, 1.0), warmup_steps=1)
    out = train_verifier(clips(tmp_path), tmp_path / "out", settings)
    again = train_verifier(clips(tmp_path), tmp_path / "again", settings, init=out)
    first, second = (
        WavLMForXVector.from_pretrained(folder).wavlm.feature_extractor.conv_layers[0] for folder in (out, again)
    )
    assert torch.equal(first.conv.weight, second.conv.weight)
    assert not torch.equal(first.layer_norm.weight, second.layer_norm.weight)  # and what reads it learns


def test_equal_error_rate_knows_its_ends():
    same = np.array([True] * 5 + [False] * 20)
    apart = np.r_[np.linspace(0.6, 1, 5), np.linspace(-1, 0.5, 20)]
    assert equal_error_rate(apart, same) == 0 and equal_error_rate(-apart, same) == 1
    blind = np.random.default_rng(0).random(4000)
    assert equal_error_rate(blind, np.arange(4000) % 4 == 0) == pytest.approx(0.5, abs=0.04)


def test_trials_are_all_pairs():
    scores, same = trials(np.eye(3), ["a", "b", "a"])
    assert scores.tolist() == [0, 0, 0] and same.tolist() == [False, True, False]


def test_a_disturbed_clip_keeps_its_length_and_is_another(subtests):
    wav = buzz(1.0)
    for seed in range(20):
        with subtests.test(seed=seed):
            heard = disturbed(wav, np.random.default_rng(seed))
            assert heard.shape == wav.shape and heard.dtype == np.float32 and np.isfinite(heard).all()
            assert 0.04 < np.abs(heard).max() < 0.96 and np.corrcoef(heard, wav)[0, 1] < 0.999
    assert np.isfinite(disturbed(np.zeros(1600, np.float32), np.random.default_rng(0))).all()
