"""Laws of the codec: on nano's, and on a random one whose acoustic half speaks too."""

import numpy as np
import pytest
import torch
from conftest import buzz

from llasa_lite.codec import (
    CHUNK_CODES,
    FADE_SAMPLES,
    LOOKAHEAD_CODES,
    MAX_ENCODE_SECONDS,
    SILENT_DECIBELS,
    Codec,
    pad_to_hop,
    semantic_features,
)
from llasa_lite.codec_training import new_codec, silence_acoustic, small_codec_config


@pytest.fixture(scope="module")
def full_codec():
    """A random small codec that listens with both halves, as the released one does."""
    torch.manual_seed(0)
    config = small_codec_config()
    config.num_hidden_layers = config.semantic_model_config.num_hidden_layers = 1
    config.downsampling_ratios = (2, 2, 4, 4, 5)
    model = new_codec(config)
    with torch.no_grad():
        model.quantizer.project_in.weight.mul_(40)  # spread over the codebook: as it stands one code wins everywhere
    return Codec(model, "full")


@pytest.fixture(params=["codec", "full_codec"])
def either(request):
    return request.getfixturevalue(request.param)


def log_mel(wav):
    import librosa

    mel = librosa.feature.melspectrogram(y=wav, sr=16_000, n_fft=512, hop_length=160, n_mels=80)
    return np.log(np.maximum(mel, 1e-5))


def gap(a, b):
    """Mean difference in log-mel, nats."""
    return float(np.abs(log_mel(a) - log_mel(b)).mean())


def snr(wanted, got):
    """Decibels."""
    return float(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()))


# -- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 15_999, 16_000, 16_001, 24_123])
def test_L_samples_give_L_over_320_plus_1_codes(either, samples):
    codes = either.encode(buzz(2)[:samples])
    assert codes.shape == (samples // 320 + 1,) and codes.dtype == np.int64
    assert 0 <= codes.min() and codes.max() < either.codebook_size


@pytest.mark.parametrize("samples", [320, 16_000, 31_999])
def test_features_equal_SeamlessM4Ts(samples):
    from transformers import SeamlessM4TFeatureExtractor

    wav = pad_to_hop(torch.from_numpy(buzz(2)[:samples]))
    theirs = SeamlessM4TFeatureExtractor()(np.pad(wav.numpy(), 160), sampling_rate=16_000, return_tensors="pt")
    ours = semantic_features(wav[None])
    assert ours.shape == theirs["input_features"].shape == (1, samples // 320 + 1, 160)
    assert (ours - theirs["input_features"]).abs().max() <= 1e-3


def test_features_of_a_batch_equal_those_of_each_wave():
    waves = torch.from_numpy(np.stack([buzz(1, seed=s)[:16_000] for s in range(3)]))
    torch.testing.assert_close(semantic_features(waves)[1:2], semantic_features(waves[1:2]))


def test_encode_is_transformers_encode(full_codec):
    from transformers import SeamlessM4TFeatureExtractor

    wav = buzz(1.3)
    padded = pad_to_hop(torch.from_numpy(wav))
    features = SeamlessM4TFeatureExtractor()(np.pad(padded.numpy(), 160), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = full_codec.model.encode(padded[None, None], features["input_features"]).audio_codes[0, 0]
    assert len(theirs.unique()) > 10
    assert (torch.from_numpy(full_codec.encode(wav)) == theirs).float().mean() >= 0.95  # features differ by up to 1e-3


def test_a_silent_acoustic_half_may_be_left_out(codec, full_codec):
    wav = buzz(1.5)
    silenced = Codec(full_codec.model.__class__(full_codec.model.config), "silenced")
    silenced.model.load_state_dict(full_codec.model.state_dict())
    silence_acoustic(silenced.model)
    silenced = Codec(silenced.model, "silenced")
    assert silenced._acoustic_is_silent and not full_codec._acoustic_is_silent
    for shortcut in (silenced, codec) if codec._acoustic_is_silent else (silenced,):
        whole = Codec(shortcut.model, "whole path")
        whole._acoustic_is_silent = False
        assert (shortcut.encode(wav) == whole.encode(wav)).all()
    assert (silenced.encode(wav) != full_codec.encode(wav)).any()  # the half that was silenced did say something


@pytest.mark.parametrize(
    "wav", [np.zeros(0), np.zeros((2, 800)), np.zeros(())], ids=["empty", "two channels", "a number"]
)
def test_what_is_no_mono_wave_is_refused(codec, wav):
    with pytest.raises(ValueError, match="Encode one mono wave of at least one sample"):
        codec.encode(wav)


def test_a_wave_too_long_for_memory_is_refused(codec):
    with pytest.raises(ValueError, match="70 s are too long to encode at once; at most 60 s"):
        codec.encode(np.zeros(70 * 16_000, np.float32))
    assert MAX_ENCODE_SECONDS == 60


# -- decode ----------------------------------------------------------------------------------------------------------


def codes_of(codec, n, seed=0):
    return np.random.default_rng(seed).integers(0, codec.codebook_size, n)


CHUNK = CHUNK_CODES + LOOKAHEAD_CODES  # codes that must be there before the first wave


@pytest.mark.parametrize("n", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK])
def test_a_code_is_320_samples(codec, n):
    codes = codes_of(codec, n)
    wav = codec.decode(codes)
    assert wav.shape == (320 * n,) and wav.dtype == np.float32
    assert np.abs(wav).max(initial=0) <= 1
    assert sum(len(part) for part in codec.decode_stream(codes)) == 320 * n


def test_batch_decode_equals_single_decode(codec):
    batch = [codes_of(codec, n, n) for n in (40, 7, 0, 40)]
    for wav, codes in zip(codec.decode_batch(batch), batch):
        np.testing.assert_allclose(wav, codec.decode(codes), atol=1e-5)


def test_a_batch_of_any_size_takes_bounded_memory(codec, monkeypatch):
    """A beam search asks for 256 beams, longer at every step."""
    passes, decode = [], codec.model.decode
    batch = [codes_of(codec, n, k) for k, n in enumerate([30] * 7 + [150])]
    whole = codec.decode_batch(batch)
    monkeypatch.setattr("llasa_lite.codec.DECODED_AT_ONCE", 100)
    monkeypatch.setattr(codec.model, "decode", lambda audio_codes: passes.append(audio_codes) or decode(audio_codes))
    for wav, same in zip(codec.decode_batch(batch), whole):
        np.testing.assert_allclose(wav, same, atol=1e-5)
    assert [tuple(one.shape) for one in passes] == [(3, 1, 30), (3, 1, 30), (1, 1, 30), (1, 1, 150)]


def test_a_code_is_made_of_its_digits(codec):
    levels = codec.model.config.quantization_levels
    every = np.arange(codec.codebook_size)
    digits = codec.digits(every)
    assert digits.shape == (codec.codebook_size, len(levels)) and (digits.max(0) == np.array(levels) - 1).all()
    np.testing.assert_array_equal(digits @ np.cumprod([1, *levels[:-1]]), every)


@pytest.mark.parametrize("code", [-1, "size"])
def test_a_code_out_of_range_is_refused(codec, code):
    code = codec.codebook_size if code == "size" else code
    with pytest.raises(ValueError, match=f"Codes must lie in 0..{codec.codebook_size - 1}"):
        codec.decode([0, code])
    with pytest.raises(ValueError, match="Codes must lie"):
        list(codec.decode_stream([0] * 10 + [code]))


def test_all_of_the_codebook_can_be_heard(codec):
    firsts = {codec.decode([code, code])[:640].tobytes() for code in range(0, codec.codebook_size, 41)}
    assert len(firsts) == len(range(0, codec.codebook_size, 41))


@pytest.mark.trained
def test_silent_codes_are_heard_as_silence(codec):
    quiet = codec.silent_codes
    assert 10 < len(quiet) < codec.codebook_size / 4
    mixed = codec.decode(np.random.default_rng(0).choice(quiet, 200))
    assert 10 * np.log10((mixed**2).mean()) < SILENT_DECIBELS
    voice = codec.decode(codec.encode(buzz(2)))
    assert 10 * np.log10((voice**2).mean()) > SILENT_DECIBELS + 15


# -- streaming -------------------------------------------------------------------------------------------------------


def test_streamed_decode_is_close_to_the_whole_decode(either):
    """Bounds from measurement: 0.10 to 0.28 nats and 9 to 17 dB with context, 0.31 to 0.73 nats without."""
    gaps, bare_gaps, ratios = [], [], []
    for seed in range(3):
        codes = either.encode(buzz(4, seed=seed)) if seed else codes_of(either, 200)
        whole = either.decode(codes)
        streamed = np.concatenate(list(either.decode_stream(codes)))
        bare = np.concatenate([either.decode(codes[i : i + CHUNK_CODES]) for i in range(0, len(codes), CHUNK_CODES)])
        assert streamed.shape == whole.shape
        gaps.append(gap(whole, streamed)), bare_gaps.append(gap(whole, bare)), ratios.append(snr(whole, streamed))
    assert np.mean(gaps) < 0.35 and np.mean(ratios) > 8
    assert np.mean(gaps) < 0.7 * np.mean(bare_gaps)  # context is what makes it so


def test_neighbouring_chunks_are_cross_faded(codec):
    """A chunk begins with the last one's idea of its first samples and ends the fade with its own."""
    codes = codes_of(codec, 2 * CHUNK_CODES + LOOKAHEAD_CODES)
    first, second, *_ = codec.decode_stream(codes)
    border = CHUNK_CODES * 320
    before = codec.decode(codes[:CHUNK])[border : border + FADE_SAMPLES]
    after = codec.decode(codes)[border : 2 * border]
    np.testing.assert_allclose(first, codec.decode(codes[:CHUNK])[:border], atol=1e-5)
    np.testing.assert_allclose(second[FADE_SAMPLES - 1 :], after[FADE_SAMPLES - 1 :], atol=1e-5)
    assert second[0] == pytest.approx(before[0], abs=1e-5) and abs(before[0] - after[0]) > 1e-4
    low, high = np.minimum(before, after[:FADE_SAMPLES]), np.maximum(before, after[:FADE_SAMPLES])
    assert (second[:FADE_SAMPLES] >= low - 1e-5).all() and (second[:FADE_SAMPLES] <= high + 1e-5).all()


def test_history_is_context_and_is_not_played(codec):
    codes = codec.encode(buzz(4, seed=1))
    whole = codec.decode(codes)[80 * 320 :]
    with_history = np.concatenate(list(codec.decode_stream(codes[80:], codes[:80])))
    without = np.concatenate(list(codec.decode_stream(codes[80:])))
    assert with_history.shape == without.shape == whole.shape
    assert gap(whole[:8000], with_history[:8000]) < gap(whole[:8000], without[:8000])


def test_the_first_wave_comes_before_the_last_code(codec):
    taken = []

    def slowly():
        for code in codes_of(codec, 100):
            taken.append(code)
            yield code

    first = next(codec.decode_stream(slowly()))
    assert len(first) == CHUNK_CODES * 320 and len(taken) == CHUNK


def test_codec_of_another_rate_is_refused():
    config = small_codec_config()
    config.downsampling_ratios = (5, 8, 4)
    with pytest.raises(ValueError, match="a hop of 160; Llasa needs 16000 Hz and 320"):
        Codec(new_codec(config), "wrong")


# -- the trained codec -----------------------------------------------------------------------------------------------


@pytest.mark.trained
def test_resynthesis_keeps_the_speech(codec):
    from llasa_lite import builtin_voices

    clips = [voice.wav for voice in builtin_voices().values() if voice.wav is not None]
    if not clips:
        pytest.skip("no built-in voice carries its clip")
    for wav in clips:
        made = codec.decode(codec.encode(wav)[:-1])
        other = np.resize(clips[0] if wav is not clips[0] else clips[-1], len(made))
        wav = wav[: len(made)]
        assert gap(wav, made) < 1.0
        assert gap(wav, made) < 0.6 * gap(wav, other.astype(np.float32))
