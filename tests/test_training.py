"""Laws of training: rows, their order, and runs of a few steps whose checkpoints speak."""

import itertools
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import buzz

from llasa_lite import Llasa, audio, codec_training
from llasa_lite.alignment import (
    ALPHABET,
    BLANK,
    Aligner,
    align,
    align_corpus,
    best_path,
    letters,
    reading_loss,
    train_aligner,
)
from llasa_lite.checkpoints import codec_source, find
from llasa_lite.codec import Codec, code_digits
from llasa_lite.codec_training import (
    CodecTraining,
    PeriodJudge,
    SpectrumJudge,
    new_codec,
    silence_acoustic,
    train_codec,
)
from llasa_lite.data import (
    CLIP_STRIDE,
    NOWHERE,
    Clip,
    Heard,
    Mixture,
    Repitched,
    RowSampler,
    Utterance,
    encode_corpus,
    linger,
    make_row,
    pad_rows,
    ragged,
    read_corpus,
    read_tokens,
    token_facts,
    write_tokens,
)
from llasa_lite.preferences import train_preferences
from llasa_lite.sources import read_recordings
from llasa_lite.tokens import IGNORE, Protocol, character_tokenizer
from llasa_lite.training import (
    Guide,
    SpeechLM,
    Training,
    nano_config,
    rate_at,
    read_log,
    reading_gap,
    save_lm,
    train_lm,
)
from llasa_lite.verifier_training import VerifierTraining, VoiceCrops, train_verifier


@pytest.fixture(scope="module")
def protocol():
    return Protocol(character_tokenizer(4096))


def utterances(count=12, seed=0):
    random = np.random.default_rng(seed)
    words = "the old boat is on a river and we go home now".split()
    made = []
    for k in range(count):
        text = " ".join(random.choice(words, random.integers(2, 6))) + "."
        codes = random.integers(0, 4096, random.integers(20, 60)).astype(np.uint16)
        evenly = np.linspace(0, len(text) - 1, len(codes)).astype(np.float16)
        made.append(Utterance(text, f"speaker {k % 3}", "test" if k % 6 == 5 else "train", codes, evenly))
    return made


@pytest.fixture
def corpus(tmp_path):
    """A folder with four clips, one of them held out."""
    folder = tmp_path / "corpus"
    (folder / "clips").mkdir(parents=True)
    lines = []
    for k in range(4):
        path = audio.save(buzz(1.2, seed=k), folder / "clips" / f"{k}.flac")
        facts = {"id": k, "text": f"clip number {k}.", "speaker": "buzz", "seconds": 1.2}
        lines.append(facts | {"split": "test" if k == 3 else "train", "audio": f"clips/{path.name}"})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


# -- corpora ---------------------------------------------------------------------------------------------------------


def test_a_corpus_is_read_in_its_order(corpus):
    clips = read_corpus(corpus)
    assert [clip.id for clip in clips] == [0, 1, 2, 3]
    assert [clip.id for clip in read_recordings(corpus)] == [0, 1, 2]
    assert len(clips[0].load()) == 1.2 * 16_000


def test_what_is_no_corpus_gives_its_sentence(corpus, tmp_path):
    with pytest.raises(ValueError, match="holds no corpus"):
        read_corpus(tmp_path)
    (corpus / "manifest.jsonl").write_text('{"id": 1}')
    with pytest.raises(ValueError, match="manifest.jsonl, line 1, is not a clip"):
        read_corpus(corpus)


def test_speakers_that_are_numbers_are_names_and_seconds_are_numbers(corpus):
    """At another speed a speaker is a name in any case, and voices are sorted."""
    manifest = corpus / "manifest.jsonl"
    rows = [json.loads(line) | {"speaker": 7, "seconds": "1.2"} for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    clips = read_corpus(corpus)
    assert {(clip.speaker, clip.seconds) for clip in clips} == {("7", 1.2)}
    crops = VoiceCrops(clips + [Repitched(clip, 1.25) for clip in clips], None, VerifierTraining())
    assert [known[0].speaker for known in crops.clips] == ["7", "7_1.25"]
    manifest.write_text(json.dumps(rows[0] | {"seconds": "long"}))
    with pytest.raises(ValueError, match="line 1, is not a clip"):
        read_corpus(corpus)


def test_a_split_that_nothing_uses_is_told(corpus, caplog):
    """Or clips that are named dev or validation would be encoded, and then neither learned nor watched."""
    manifest = corpus / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[1]["split"], rows[2]["split"] = None, "heard"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert [clip.split for clip in read_corpus(corpus)] == ["train", "train", "heard", "test"] and not caplog.text
    rows[0]["split"] = rows[1]["split"] = "dev"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert len(read_corpus(corpus)) == 4 and "2 of 4 clips in" in caplog.text and "nothing uses (dev)" in caplog.text


def test_tokens_survive_the_round_trip_through_their_file(tmp_path):
    made = utterances()
    write_tokens(made, tmp_path / "tokens.safetensors")
    back = read_tokens(tmp_path / "tokens.safetensors")
    assert [(u.text, u.speaker, u.split, u.codes.tolist(), u.alignment.tolist()) for u in back] == [
        (u.text, u.speaker, u.split, u.codes.tolist(), u.alignment.tolist()) for u in made
    ]
    held_out = read_tokens(tmp_path / "tokens.safetensors", "test")
    assert [u.text for u in held_out] == [u.text for u in made if u.split == "test"]


def test_a_missing_alignment_stays_missing(tmp_path):
    made = utterances(3)
    mixed = [made[0], replace(made[1], alignment=None), made[2]]
    for kept, wanted in ((mixed, [True, False, True]), ([replace(u, alignment=None) for u in made], [False] * 3)):
        write_tokens(kept, tmp_path / "tokens.safetensors")
        back = read_tokens(tmp_path / "tokens.safetensors")
        assert [u.alignment is not None for u in back] == wanted
        assert [u.codes.tolist() for u in back] == [u.codes.tolist() for u in made]


def test_encoding_a_corpus_goes_on_where_it_stopped(corpus, codec, tmp_path):
    clips = read_corpus(corpus)
    heard = []
    counting = SimpleNamespace(name="nano", encode=lambda wav: heard.append(len(wav)) or codec.encode(wav))
    out = encode_corpus(clips[:2], counting, tmp_path / "tokens.safetensors")
    encode_corpus(clips, counting, out)
    assert len(heard) == 4  # the first two were not encoded again
    back = read_tokens(out)
    assert [u.codes.tolist() for u in back] == [codec.encode(clip.load())[:-1].tolist() for clip in clips]


def test_encoding_that_is_stopped_loses_minutes_and_not_hours(corpus, codec, tmp_path, monkeypatch):
    """However long a clip takes: what is done is written by the clock, here of a minute a look."""
    clips, ticks, out = read_corpus(corpus), itertools.count(0, 60), tmp_path / "tokens.safetensors"
    monkeypatch.setattr("llasa_lite.data.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr("llasa_lite.data.SAVE_SECONDS", 100)

    def stopped(wav):
        if heard.append(1) or len(heard) == 4:
            raise KeyboardInterrupt
        return codec.encode(wav)

    heard = []
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(clips, SimpleNamespace(name="nano", encode=stopped), out)
    assert [u.text for u in read_tokens(out)] == ["clip number 0.", "clip number 1."]


def test_clips_that_cannot_be_encoded_are_left_out_once_and_counted(corpus, codec, tmp_path, caplog):
    """And what is encoded goes on behind them."""
    clips = read_corpus(corpus)
    audio.save(buzz(61), clips[1].path)
    clips[2].path.write_text("not audio")
    out = encode_corpus(clips[:3], codec, tmp_path / "tokens.safetensors")
    assert "Clip 1 is left out: 61 s are too long" in caplog.text and "Clip 2 is left out" in caplog.text
    assert [u.text for u in read_tokens(out)] == ["clip number 0."] and token_facts(out)["dropped"] == [1, 2]
    caplog.clear(), encode_corpus(clips, codec, out)
    assert [u.text for u in read_tokens(out)] == ["clip number 0.", "clip number 3."] and not caplog.text
    assert read_tokens(encode_corpus(clips[1:3], codec, tmp_path / "none.safetensors")) == []


def test_more_clips_than_one_file_holds_are_refused_before_they_are_encoded(corpus, codec, tmp_path, monkeypatch):
    """Or hours of encoding would end where the file is written, every time. What is let through can be written."""
    from llasa_lite import data

    many = utterances(1) * 2 + [replace(utterances(1)[0], text='"\u4f60' * 8_990_000)]
    assert len(json.dumps(data._rows_of(many))) > 98_800_000
    write_tokens(many, tmp_path / "many.safetensors")
    assert len(read_tokens(tmp_path / "many.safetensors")) == 3
    monkeypatch.setattr(data, "MAX_ROWS_BYTES", 100)
    for make in (lambda out: encode_corpus(read_corpus(corpus), None, out), lambda out: write_tokens(many[:2], out)):
        with pytest.raises(ValueError, match="and one file holds"):
            make(tmp_path / "no.safetensors")


def test_a_file_of_other_clips_or_of_another_codec_is_refused(corpus, codec, tmp_path):
    clips, out = read_corpus(corpus), tmp_path / "tokens.safetensors"
    encode_corpus(clips[:2], codec, out)
    assert (token_facts(out)["codec"], len(token_facts(out)["fingerprint"])) == ("nano", 12)
    for others in (clips[1:], clips[:1], [replace(clips[0], text="another"), *clips[1:]]):
        with pytest.raises(ValueError, match="holds other clips than these begin with"):
            encode_corpus(others, codec, out)
    with pytest.raises(ValueError, match="of the codec 'nano' .*, not of 'owner/codec' "):
        encode_corpus(clips, SimpleNamespace(name="owner/codec", encode=codec.encode), out)
    shutil.copytree(codec_source("nano"), tmp_path / "moved")
    encode_corpus(clips[:3], SimpleNamespace(name=str(tmp_path / "moved"), encode=codec.encode), out)
    write_tokens(read_tokens(out), out)  # as files were before they said so
    assert token_facts(out) == {}
    assert len(read_tokens(encode_corpus(clips, codec, out))) == 4


def test_a_clip_at_another_speed_is_another_voice(corpus):
    clip = read_corpus(corpus)[0]
    high = Repitched(clip, 1.25)
    assert (high.text, high.split, high.speaker) == (clip.text, clip.split, "buzz_1.25")
    assert len(high.load()) == pytest.approx(len(clip.load()) / 1.25, abs=2)
    power = [np.abs(np.fft.rfft(one.load(), 32_000)) ** 2 for one in (clip, high)]
    middle = [np.searchsorted(np.cumsum(p), p.sum() / 2) for p in power]  # half the energy lies below
    assert middle[1] == pytest.approx(1.25 * middle[0], rel=0.03)


def test_a_loud_clip_at_another_speed_stays_within_full_scale(tmp_path):
    """Crops are kept as 16-bit numbers, in which what is louder would come back with the other sign."""
    path = audio.save(np.clip(3 * buzz(1.2), -1, 1), tmp_path / "loud.flac")
    high = Repitched(Clip(0, "oh.", "buzz", 1.2, "train", path), 1.09)
    assert np.abs(high.load()).max() <= 1
    crops = codec_training.Crops([high], 0, [0.8])
    crops.batch(1, 0.8)
    np.testing.assert_allclose(crops.cache[high] / 32767, high.load(), atol=1e-4)


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recognition", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_labels_of_a_row_cover_its_answer_only(protocol, count, recognition):
    clips = utterances()[:count]
    row = make_row(protocol, clips, recognition)
    text, codes = " ".join(c.text for c in clips), np.concatenate([c.codes for c in clips])
    end = protocol.text_end if recognition else protocol.speech_end
    answer = protocol.text_to_ids(text) if recognition else protocol.codes_to_ids(codes)
    assert [i for i in row.labels if i != IGNORE] == [*answer, end] == row.input_ids[-len(answer) - 1 :]
    prompt = protocol.asr_prompt(codes) if recognition else protocol.tts_prompt(text)
    assert row.input_ids == prompt + answer + [end] and row.task == recognition


@pytest.mark.parametrize("recognition", [False, True])
def test_places_mark_what_is_read_and_what_is_said(protocol, recognition):
    clips = utterances()[:2]
    row = make_row(protocol, clips, recognition)
    place, keys, ids = np.array(row.place), np.array(row.keys), np.array(row.input_ids)
    assert len(place) == len(keys) == len(ids) == len(row.labels)
    texts = [protocol.text_to_ids(c.text) for c in clips]
    codes = [protocol.codes_to_ids(c.codes) for c in clips]
    says = (place > NOWHERE) & ~keys
    read, said = (codes, texts) if recognition else (texts, codes)
    assert ids[keys].tolist() == sum(read, [])
    assert ids[1:][says[:-1]].tolist() == sum(said, [])  # each position predicts the next id
    at_text, at_speech = (says, keys) if recognition else (keys, says)
    counted = [CLIP_STRIDE * k + np.arange(len(t)) for k, t in enumerate(texts)]
    assert place[at_text].tolist() == np.concatenate(counted).tolist()
    aligned = [CLIP_STRIDE * k + c.alignment.astype(float) for k, c in enumerate(clips)]
    assert place[at_speech].tolist() == np.concatenate(aligned).tolist()


@pytest.mark.parametrize("recognition", [False, True])
def test_a_clip_without_alignment_is_nowhere(protocol, recognition):
    known, unknown = utterances()[0], replace(utterances()[1], alignment=None)
    row = make_row(protocol, [unknown, known], recognition)
    place = np.array(row.place)
    inside = place[place > NOWHERE]
    assert len(inside) == len(known.text) + len(known.codes) and (inside >= CLIP_STRIDE - 1).all()
    alone = np.array(make_row(protocol, [unknown], recognition).place)
    assert (alone == NOWHERE).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_unconditional_row_says_what_it_was_not_told(protocol, count):
    clips = utterances()[:count]
    row = make_row(protocol, clips, unconditional=True)
    text, codes = " ".join(c.text for c in clips[:-1]), np.concatenate([c.codes for c in clips])
    answer = [*protocol.codes_to_ids(codes), protocol.speech_end]
    assert row.input_ids == protocol.unconditional_prompt(text) + answer
    assert [i for i in row.labels if i != IGNORE] == answer
    place, keys = np.array(row.place), np.array(row.keys)
    assert keys.sum() == sum(len(protocol.text_to_ids(c.text)) for c in clips[:-1])
    assert ((place > NOWHERE) & ~keys).sum() == sum(len(c.codes) for c in clips[:-1])  # no guide where nothing is told


def test_as_many_rows_are_unconditional_as_asked_for(protocol):
    mixture = Mixture(recognition=0.25, clips_per_row=(1.0,), unconditional=0.4)
    sampler = RowSampler(utterances(), protocol, mixture, seed=3)
    empty = protocol.unconditional_prompt()
    rows = [sampler.row() for _ in range(600)]
    found = [row.input_ids[: len(empty)] == empty for row in rows]
    assert 0.25 < np.mean(found) < 0.35  # 0.75 x 0.4
    assert 0.2 < np.mean([row.task for row in rows]) < 0.3


@pytest.mark.parametrize("unconditional", [False, True])
def test_a_background_that_goes_on_is_read_and_answered_with_end(protocol, unconditional):
    clips = utterances()[:2]
    last, extra = linger(clips[1], np.random.default_rng(4))
    spoken = len(clips[1].codes) - 2
    assert len(last.codes) == len(last.alignment) == spoken + extra and extra > 1
    assert (last.codes[:spoken] == clips[1].codes[:-2]).all()
    assert set(last.codes[spoken:]) <= set(clips[1].codes[-8:-2])
    row = make_row(protocol, [clips[0], last], unconditional=unconditional, ended=extra)
    said = protocol.codes_to_ids(np.concatenate([clips[0].codes, last.codes]))
    assert row.input_ids[-len(said) - 1 :] == [*said, protocol.speech_end]
    wanted = [i for i in row.labels if i != IGNORE]
    assert wanted == said[: len(said) - extra] + [protocol.speech_end] * (extra + 1)


def test_a_ragged_clip_is_a_part_of_itself_and_never_all_gone():
    clip, random = utterances()[0], np.random.default_rng(0)
    for known in (clip, replace(clip, alignment=None), replace(clip, codes=clip.codes[:3], alignment=None)):
        lengths = set()
        for _ in range(200):
            cut = ragged(known, random)
            start = next(k for k in range(5) if (known.codes[k : k + len(cut.codes)] == cut.codes).all())
            assert 0 <= len(known.codes) - len(cut.codes) <= 12 and len(cut.codes) > 0
            assert cut.alignment is None or (cut.alignment == known.alignment[start:][: len(cut.codes)]).all()
            lengths.add(len(cut.codes))
        assert len(lengths) > 5 or len(known.codes) < 20


def test_a_mixture_says_how_many_rows_linger_and_how_many_prompts_are_ragged(protocol):
    def rows(**shares):
        mixture = Mixture(recognition=0.25, clips_per_row=(0.0, 1.0), **shares)
        sampler = RowSampler(utterances(), protocol, mixture, seed=3)
        return [sampler.row() for _ in range(400)]

    def lingers(row):
        return row.labels[-2:] == [protocol.speech_end] * 2

    assert 0.3 < np.mean([lingers(row) for row in rows(lingering=0.5)]) < 0.45  # 0.75 x 0.5
    assert not any(lingers(row) for row in rows(lingering=0.0))
    whole = {protocol.codes_to_ids(u.codes)[0] for u in utterances()}  # where no clip's beginning is cut

    def begins_whole(row):
        return next(i for i in row.input_ids if i >= protocol.code_offset) in whole

    assert all(begins_whole(row) for row in rows(ragged=0.0))
    assert 0.05 < 1 - np.mean([begins_whole(row) for row in rows(ragged=1.0)])


def test_a_clip_that_was_only_heard_is_a_prompt_and_never_a_target(protocol):
    said, other = utterances()[:2]
    heard = replace(other, split="heard", speaker=said.speaker)
    row = make_row(protocol, [heard, said])
    both, plain = protocol.codes_to_ids(np.concatenate([heard.codes, said.codes])), make_row(protocol, [other, said])
    assert row.input_ids == plain.input_ids and row.place == plain.place and row.keys == plain.keys
    assert [i for i in row.labels if i != IGNORE] == [*both[len(heard.codes) :], protocol.speech_end]
    read = make_row(protocol, [heard, said], recognition=True)
    assert read.labels == make_row(protocol, [other, said], recognition=True).labels

    mixture = Mixture(recognition=0.5, clips_per_row=(0.5, 0.5), lingering=0.0, ragged=0.0)
    sampler = RowSampler([said, heard], protocol, mixture, seed=0)
    first = {tuple(protocol.codes_to_ids(u.codes[:5])): u.split for u in (said, heard)}
    seen = set()
    for row in (sampler.row() for _ in range(200)):
        ids = row.input_ids
        splits = [first[tuple(ids[k : k + 5])] for k in range(len(ids)) if tuple(ids[k : k + 5]) in first]
        seen.add((row.task, *splits))
        answer = [i for i in row.labels if i != IGNORE]
        said_too = protocol.codes_to_ids(heard.codes)[2] in answer  # its third code: none of the other's
        assert row.task or (splits[-1] == "train" and not said_too)
    assert {(0, "train"), (0, "heard", "train"), (0, "train", "train")} <= seen
    assert {(1, "heard"), (1, "train"), (1, "heard", "train"), (1, "train", "heard")} <= seen


def test_a_clip_is_always_heard_alike_and_not_as_it_is(tmp_path):
    audio.save(buzz(1.2), tmp_path / "clip.wav")
    clip = Clip(7, "oh", "s", 1.2, "train", tmp_path / "clip.wav")
    first, again, other = (Heard(one).load() for one in (clip, clip, replace(clip, id=8)))
    assert first.dtype == np.float32 and len(first) == len(clip.load()) and (first == again).all()
    assert np.abs(first - clip.load()).max() > 0.01 and np.abs(first - other).max() > 0.01
    assert Heard(Repitched(clip, 1.25)).speaker == "s_1.25" and Heard(clip).split == "heard"


def test_rows_repeat_with_their_seed(protocol):
    def first(seed):
        sampler = RowSampler(utterances(), protocol, Mixture(), seed)
        return [sampler.row().input_ids for _ in range(20)]

    assert first(1) == first(1) != first(2)


def test_rows_hold_one_voice_and_fit(protocol):
    mixture = Mixture(recognition=0.5, clips_per_row=(0.0, 0.0, 1.0), max_ids=220)
    known = utterances()
    sampler = RowSampler(known, protocol, mixture, 0)
    by_code = {tuple(u.codes[:5].tolist()): u.speaker for u in known}
    tasks = set()
    for _ in range(30):
        row = sampler.row()
        assert len(row.input_ids) <= 220
        codes = [i - protocol.code_offset for i in row.input_ids if i >= protocol.code_offset]
        speakers = {by_code[tuple(codes[k : k + 5])] for k in range(len(codes)) if tuple(codes[k : k + 5]) in by_code}
        assert len(speakers) == 1
        tasks.add(row.task)
    assert tasks == {0, 1}


def test_what_makes_no_row_is_left_out_and_nothing_at_all_is_a_sentence(protocol):
    known = utterances()[:5]
    longer = replace(known[0], codes=np.zeros(700, np.uint16), alignment=None)
    unusable = [replace(known[0], text=" "), longer, replace(known[0], codes=known[0].codes[:0], alignment=None)]
    sampler = RowSampler([*known, *unusable], protocol, Mixture(), 1)
    alone = RowSampler(known, protocol, Mixture(), 1)
    assert sampler.dropped == 3 and alone.dropped == 0
    assert [sampler.row() for _ in range(20)] == [alone.row() for _ in range(20)]
    for nothing in ([], unusable, [replace(known[0], split="heard")]):
        with pytest.raises(ValueError, match="no clip to learn to say"):
            RowSampler(nothing, protocol, Mixture())
    row = make_row(protocol, [longer])
    assert RowSampler([longer], protocol, Mixture(recognition=0, clips_per_row=(1,), max_ids=len(row.input_ids))).row()


def test_noise_changes_some_codes_that_are_read_and_none_that_are_to_be_said(protocol):
    def batches(noise):
        mixture = Mixture(recognition=0.3, code_noise=noise, text_noise=0.0)
        return next(RowSampler(utterances(), protocol, mixture, seed=1).batches(1024))

    clean, noisy = batches(0.0), batches(0.2)
    codes = clean["input_ids"] >= protocol.code_offset
    changed = clean["input_ids"] != noisy["input_ids"]
    assert 0.1 < changed[codes].mean() < 0.3 and not changed[~codes].any()
    assert (clean["labels"] == noisy["labels"]).all()


def test_noise_changes_some_characters_of_transcripts_and_none_of_the_text_to_be_said(protocol):
    def batches(noise):
        mixture = Mixture(recognition=0.5, code_noise=0.0, text_noise=noise)
        return next(RowSampler(utterances(), protocol, mixture, seed=1).batches(2048))

    clean, noisy = batches(0.0), batches(0.3)
    assert (clean["labels"] == noisy["labels"]).all()
    transcript = (clean["labels"] != IGNORE) & (clean["labels"] != protocol.text_end) & (clean["task"] == 1)[:, None]
    assert set(clean["task"]) == {0, 1}
    changed = clean["input_ids"] != noisy["input_ids"]
    assert 0.15 < changed[transcript].mean() < 0.35 and not changed[~transcript].any()
    assert (noisy["input_ids"][transcript] < protocol.code_offset).all()


def test_batches_have_few_shapes_and_pad_without_loss(protocol):
    sampler = RowSampler(utterances(), protocol, Mixture(), 0)
    for batch in itertools.islice(sampler.batches(1024), 8):
        rows, width = batch["input_ids"].shape
        assert width in (128, 192, 256, 320, 384, 512, 640) and rows == max(1, 1024 // width)
        assert all(batch[name].shape == (rows, width) for name in ("labels", "place", "keys"))
    row = make_row(protocol, utterances()[:1], False)
    padded = pad_rows([row], len(row.input_ids) + 9, protocol.pad)
    assert (padded["labels"][0, -9:] == IGNORE).all() and (padded["input_ids"][0, -9:] == protocol.pad).all()
    assert not padded["keys"][0, -9:].any() and (padded["place"][0, -9:] == NOWHERE).all()


def test_rows_longer_than_the_usual_widths_make_batches_too(protocol):
    long = [replace(u, codes=np.resize(u.codes, 350), alignment=None) for u in utterances()]
    mixture = Mixture(clips_per_row=(0.0, 1.0), max_ids=900)
    batch = next(RowSampler(long, protocol, mixture).batches(1800))
    assert batch["input_ids"].shape == (2, 900)


def test_learning_rate_warms_up_stays_and_falls():
    settings = Training(steps=1000, warmup_steps=100, decay_share=0.3)
    rates = [rate_at(step, settings) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01) and rates[99:700] == [1.0] * 601
    assert rates[850] == pytest.approx(0.5) and rates[1000] == 0.02
    assert rates[:100] == sorted(rates[:100]) and rates[700:] == sorted(rates[700:], reverse=True)


# -- the model in training -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech_lm(protocol):
    torch.manual_seed(0)
    return SpeechLM(nano_config(protocol, 128, 4), protocol.code_offset, [4] * 6).eval()


def test_rows_count_in_the_loss_as_much_as_their_weight_says(speech_lm, protocol):
    batch = pad_rows([make_row(protocol, [u], recognition=bool(i)) for i, u in enumerate(utterances()[:2])], 128, 0)
    ids, labels = (torch.from_numpy(batch[name]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        each = [speech_lm(ids[i : i + 1], labels[i : i + 1])[0] for i in (0, 1)]
        counts = (labels[:, 1:] != IGNORE).sum(1)
        alike = speech_lm(ids, labels)[0]
        weighted = speech_lm(ids, labels, weights=torch.tensor([1.0, 3.0]))[0]
    torch.testing.assert_close(alike, (counts[0] * each[0] + counts[1] * each[1]) / counts.sum())
    shares = counts * torch.tensor([1.0, 3.0])
    torch.testing.assert_close(weighted, (shares[0] * each[0] + shares[1] * each[1]) / shares.sum())


def test_aids_vanish_in_the_plain_model(speech_lm, protocol):
    """Shared digits and guided attention leave a plain Llama with the same logits and the same loss."""
    from transformers import LlamaForCausalLM

    plain = speech_lm.plain()
    assert type(plain) is LlamaForCausalLM and plain.config._attn_implementation != "guided"
    row = make_row(protocol, utterances()[:2], False)
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    with torch.no_grad():
        loss, guided = speech_lm(ids, labels)
        hidden = speech_lm.llama(inputs_embeds=speech_lm.table()[ids]).last_hidden_state
        out = plain(ids, labels=labels)
        torch.testing.assert_close(hidden @ speech_lm.table().T, out.logits, atol=1e-4, rtol=1e-4)
    assert guided == 0
    torch.testing.assert_close(loss, out.loss, atol=1e-4, rtol=1e-4)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_codes_that_share_digits_share_their_vectors(speech_lm, protocol):
    """Code 5 = 1 + 1 * 4 differs from code 1 in its second digit only."""
    table, own = speech_lm.table(), speech_lm.llama.embed_tokens.weight
    added = table - own
    at = protocol.code_offset
    assert (added[:at] == 0).all() and (added[at + 4096 :] == 0).all()
    digits = speech_lm.digits
    torch.testing.assert_close(added[at + 5] - added[at + 1], digits[4 + 1] - digits[4 + 0])
    torch.testing.assert_close(added[at + 4095], digits[[3, 7, 11, 15, 19, 23]].sum(0))


def guide_for(row, width=1.5):
    return Guide((2, 3), width, torch.tensor([row.place]), torch.tensor([row.keys]), torch.tensor([row.task]))


@pytest.mark.parametrize("recognition", [False, True])
def test_a_guide_watches_and_changes_nothing(speech_lm, protocol, recognition):
    row = make_row(protocol, utterances()[:1], recognition)
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    guide = guide_for(row)
    with torch.no_grad():
        watched, guided = speech_lm(ids, labels, guide)
        alone, _ = speech_lm(ids, labels)
    assert watched == alone and len(guide.losses) == 2 and guided > 0


def test_attention_on_what_is_being_said_costs_less_than_anywhere_else(protocol):
    row = make_row(protocol, utterances()[:1])
    place, keys = np.array(row.place), np.flatnonzero(row.keys)
    says = np.flatnonzero((place > NOWHERE) & ~np.array(row.keys))
    total = len(row.input_ids)

    def loss(look_at):
        """Head 0 attends from each speaking position to the character that `look_at` names."""
        query, key = torch.zeros(1, 2, total, total), torch.zeros(1, 2, total, total)
        key[0, 0] = torch.eye(total)
        for position in says:
            query[0, 0, position, keys[int(np.clip(look_at(place[position]), 0, len(keys) - 1))]] = 30
        guide = guide_for(row)
        guide.observe(query, key, 1.0)
        return guide.losses[0].item()

    right = loss(round)
    assert right < 0.1 < loss(lambda at: at + 3) < loss(lambda at: at + 8)
    assert loss(lambda at: 0) > 10 * right


def test_a_row_without_alignment_gives_no_guidance(speech_lm, protocol):
    row = make_row(protocol, [replace(utterances()[0], alignment=None)])
    with torch.no_grad():
        _, guided = speech_lm(torch.tensor([row.input_ids]), torch.tensor([row.labels]), guide_for(row))
    assert guided == 0


# -- alignment -------------------------------------------------------------------------------------------------------


def test_letters_are_those_that_are_spoken(protocol):
    spoken, where = letters("Oh, it's 5!", protocol.tokenizer)
    assert "".join(ALPHABET[i] for i in spoken) == "oh it's "
    assert ["Oh, it's 5!"[i].lower() for i in where] == list("oh it's ")
    assert letters(" Oh, it's 5! ", protocol.tokenizer) == (spoken, where)  # as rows have it: `make_row` strips


@pytest.mark.parametrize("spoken", [[3], [3, 5], [4, 4], [2, 2, 7]])
def test_best_path_is_the_best_of_all_paths(spoken):
    """Against every path that CTC allows: stay, step on, or jump a blank between two different letters."""
    states = [BLANK]
    for letter in spoken:
        states += [letter, BLANK]

    def allowed(a, b):
        return b - a in (0, 1) or b - a == 2 and states[b] != BLANK and states[b] != states[a]

    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=(6, len(ALPHABET) + 1)).astype(np.float32)
        paths = [
            path
            for path in itertools.product(range(len(states)), repeat=6)
            if path[0] <= 1
            and path[-1] >= len(states) - 2
            and all(itertools.starmap(allowed, itertools.pairwise(path)))
        ]
        best = max(paths, key=lambda path: sum(scores[t, states[s]] for t, s in enumerate(path)))
        wanted = [
            max((t for t in range(6) if best[t] == 2 * k + 1), key=lambda t: scores[t, letter])
            for k, letter in enumerate(spoken)
        ]
        assert best_path(scores, spoken).tolist() == wanted


def test_an_alignment_goes_through_its_text_once(protocol):
    """A recogniser that is sure of one letter every five codes: the place of a code follows."""
    text = "oh yes."
    clip = Utterance(text, "s", "train", np.arange(40, dtype=np.uint16))
    spoken, where = letters(text, protocol.tokenizer)
    scores = torch.full((1, 40, len(ALPHABET) + 1), -10.0)
    scores[..., BLANK] = 0
    for k, letter in enumerate(spoken):
        scores[0, 5 * k + 4, [letter, BLANK]] = torch.tensor([0.0, -10.0])
    places = align(lambda codes: scores, clip, protocol.tokenizer)
    assert places.shape == (40,) and (np.diff(places.astype(float)) >= 0).all()
    assert places[[5 * k + 4 for k in range(len(spoken))]].tolist() == where


def test_text_that_does_not_fit_its_codes_is_not_aligned(protocol):
    short = Utterance("far too many words for so few codes", "s", "train", np.arange(10, dtype=np.uint16))
    silent = Utterance("...", "s", "train", np.arange(40, dtype=np.uint16))
    assert align(None, short, protocol.tokenizer) is None and align(None, silent, protocol.tokenizer) is None


def test_what_cannot_be_aligned_at_all_is_a_sentence(protocol):
    chinese = Utterance("你好", "s", "train", np.arange(40, dtype=np.uint16))
    with pytest.raises(ValueError, match="None of 1 training clips can be aligned"):
        align_corpus([chinese], [4] * 6, protocol.tokenizer, steps=2)
    large = Utterance("oh yes.", "s", "train", np.arange(4090, 4130, dtype=np.uint16))
    with pytest.raises(ValueError, match="go from 4090 to 4129. They are of another codec"):
        align_corpus([large], [4] * 6, protocol.tokenizer, steps=2)


def test_an_aligner_learns_a_code_that_is_a_letter(protocol):
    """Every letter has a code of its own, said for three codes; a few hundred steps find it out."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(60):
        text = "".join(random.permutation(list("abcdefgh"))[:6])
        made.append(Utterance(text, "s", "train", np.repeat([ord(c) - 96 for c in text], 3).astype(np.uint16)))
    (placed,) = align_corpus(made, [4] * 6, protocol.tokenizer, steps=150)[:1]
    np.testing.assert_allclose(placed.alignment.astype(float)[1::3], np.arange(6), atol=0.7)


def test_an_aligner_hears_every_clip_the_longest_too(protocol, monkeypatch):
    made = [Utterance("oh", "s", "train", np.full(20 + k, k, np.uint16)) for k in range(4)]
    heard, forward = set(), Aligner.forward

    def noted(model, codes):
        heard.update(codes.flatten().tolist())
        return forward(model, codes)

    monkeypatch.setattr(Aligner, "forward", noted)
    train_aligner(made, [4] * 6, protocol.tokenizer, steps=20, rows=2)
    assert heard == {0, 1, 2, 3}


# -- runs ------------------------------------------------------------------------------------------------------------

SMALL = dict(ids_per_batch=256, warmup_steps=2, save_every=2, evaluate_every=2, guide_until=10)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps, then the same run asked for three."""
    pytest.importorskip("accelerate", reason="pip install accelerate")
    out = tmp_path_factory.mktemp("run") / "lm"
    train_lm(utterances(), [4] * 6, out, Training(steps=2, **SMALL), hidden_size=128, layers=4)
    written = (out / "checkpoints" / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns
    train_lm(utterances(), [4] * 6, out, Training(steps=3, **SMALL), hidden_size=128, layers=4)
    return out, written


def test_a_short_run_gives_a_checkpoint_that_speaks(run):
    out, _ = run
    llasa = Llasa.from_pretrained(out, device="cpu", dtype="float32")
    assert llasa.codec.name == "nano" and llasa.checkpoint.can_transcribe
    assert find(str(out)).codec == "nano"
    speech = llasa.tts("Oh.", seed=1)
    assert speech.seconds > 0
    assert isinstance(llasa.transcribe(speech.wav if np.abs(speech.wav).max() > 1e-3 else buzz(1)).text, str)


def test_a_checkpoint_names_the_codec_it_was_trained_on(speech_lm, protocol, tmp_path, monkeypatch):
    """A folder so that it is found from anywhere; what is none, as it was given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir(), (tmp_path / "nano").mkdir()
    for given, wanted in (("mine", str(tmp_path / "mine")), ("nano", "nano"), ("owner/codec", "owner/codec")):
        save_lm(speech_lm, protocol, tmp_path / "lm", given)
        assert find(str(tmp_path / "lm")).codec == wanted


def test_a_stopped_run_goes_on(run):
    out, written = run
    state = json.loads((out / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    # steps 1 and 2 were not made again: their checkpoint is the one the first run wrote
    assert (out / "checkpoints" / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns == written


def test_a_checkpoint_that_a_kill_tore_and_a_row_that_a_full_disk_tore_are_passed_over(run, tmp_path):
    from safetensors.numpy import load_file

    out, _ = run
    shutil.copytree(out, tmp_path / "lm")
    torn, seen = tmp_path / "lm" / "checkpoints" / "checkpoint-3", []
    (torn / "trainer_state.json").unlink(), (torn / "optimizer.pt").unlink()
    with open(tmp_path / "lm" / "log.jsonl", "a") as record:
        record.write('{"loss": 8.1, "spee')
    settings = Training(steps=3, **SMALL)
    train_lm(utterances(), [4] * 6, tmp_path / "lm", settings, 128, 4, progress=lambda done, total: seen.append(done))
    assert seen == [3] and (torn / "trainer_state.json").is_file()
    assert [row["step"] for row in read_log(tmp_path / "lm")] == [row["step"] for row in read_log(out)]
    (one,), (other,) = (list(folder.glob("model*.safetensors")) for folder in (out, tmp_path / "lm"))
    assert {k: v.tolist() for k, v in load_file(one).items()} == {k: v.tolist() for k, v in load_file(other).items()}


@pytest.mark.parametrize("changed, told", [({"layers": 3}, "layers 4"), ({"init": "lm"}, "holds the checkpoint to")])
def test_a_folder_goes_on_with_its_own_run_only(run, tmp_path, monkeypatch, changed, told):
    shutil.copytree(run[0], tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        train_lm(utterances(), [4] * 6, "lm", Training(steps=3, **SMALL), **{"hidden_size": 128, "layers": 4} | changed)


def test_a_run_logs_held_out_losses_with_right_and_wrong_text(run):
    out, _ = run
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (watched,) = [row for row in rows if "held_out" in row]
    assert watched["step"] == 2 and 5 < watched["held_out"] < 12 and 5 < watched["held_out_wrong_text"] < 12


@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_the_wrong_text_is_another_clips(protocol, monkeypatch, count):
    model, told = SpeechLM(nano_config(protocol, 128, 1), protocol.code_offset, [4] * 6), []
    clips = [replace(u, text=f"number {k}.") for k, u in enumerate(utterances(count))]
    monkeypatch.setattr("llasa_lite.training.make_row", lambda p, some: told.append(some[0].text) or make_row(p, some))
    right, wrong = reading_gap(model.eval(), protocol, clips)
    assert right != wrong and told[:count] == [clip.text for clip in clips]
    assert sorted(told[count:]) == sorted(told[:count]) and all(a != b for a, b in zip(told, told[count:]))


def test_a_start_without_any_alignment_is_told(tmp_path, caplog):
    """As of nano's corpus as it ships: a small model would not read for tens of millions of tokens."""
    pytest.importorskip("accelerate", reason="pip install accelerate")
    unaligned = [replace(u, alignment=None) for u in utterances()]
    for k, clips in enumerate(([*unaligned, *utterances(1)], unaligned)):
        train_lm(clips, [4] * 6, tmp_path / str(k), Training(steps=1, **SMALL), 128, 2)
        assert ("No clip is aligned" in caplog.text) == bool(k)


def test_a_held_out_clip_without_text_or_codes_is_not_watched(tmp_path):
    """Or the run would end where it is first watched, and there again when it goes on."""
    pytest.importorskip("accelerate", reason="pip install accelerate")
    first, *others = [u for u in utterances() if u.split == "test"]
    bad = [replace(first, text=" "), replace(first, codes=first.codes[:0], alignment=None)]
    known = [u for u in utterances() if u.split != "test"] + bad
    for k, clips in enumerate((known, known + others)):
        train_lm(clips, [4] * 6, tmp_path / str(k), Training(steps=2, **SMALL), 128, 2)
        assert sum("held_out" in row for row in read_log(tmp_path / str(k))) == k


def test_clips_of_all_voices_are_watched(tmp_path, monkeypatch):
    """A corpus has them one after the other: the first would have been of one voice."""
    pytest.importorskip("accelerate", reason="pip install accelerate")
    one = next(u for u in utterances() if u.split == "test")
    held_out, seen = [replace(one, speaker=str(k // 3)) for k in range(9)], []
    monkeypatch.setattr("llasa_lite.training.WATCHED", 3)
    monkeypatch.setattr(
        "llasa_lite.training.reading_gap", lambda model, protocol, some: seen.extend(some) or (1.0, 1.0)
    )
    known = [u for u in utterances() if u.split == "train"]
    train_lm([*known, *held_out], [4] * 6, tmp_path / "lm", Training(steps=2, **SMALL), 128, 2)
    assert [clip.speaker for clip in seen] == ["0", "1", "2"]


def test_files_of_a_trained_checkpoint_stay_below_10_megabytes(run):
    out, _ = run
    assert all(file.stat().st_size < 10e6 for file in out.iterdir() if file.is_file())


def test_training_goes_on_from_shipped_weights(run, protocol):
    """Without optimizer and digits a saved checkpoint still is where it was, up to fp16; other shapes are refused."""
    from transformers import LlamaForCausalLM

    out, _ = run
    model = SpeechLM(nano_config(protocol, 128, 4), protocol.code_offset, [4] * 6).eval()
    model.start_from(out)
    saved = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    row = torch.tensor([make_row(protocol, utterances()[:1]).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(model.plain()(row).logits, saved(row).logits)
    assert saved.config.use_cache  # or `generate` would read all before every token
    for width, layers in ((64, 4), (128, 3), (128, 5)):
        other = SpeechLM(nano_config(protocol, width, layers), protocol.code_offset, [4] * 6)
        with pytest.raises(ValueError, match="has another shape"):
            other.start_from(out)


def test_embeddings_are_carried_over_to_the_codes_of_another_codec(protocol):
    """Where the other codec only gave every code another number, nothing is lost; what never came stays."""
    torch.manual_seed(0)
    model = SpeechLM(nano_config(protocol, 64, 2), protocol.code_offset, [4] * 6)
    torch.nn.init.zeros_(model.digits)
    clips, at = utterances(), protocol.code_offset
    number = np.random.default_rng(1).permutation(4096).astype(np.uint16)
    renumbered = [replace(u, codes=number[u.codes]) for u in clips]
    before = model.table().detach().clone()
    model.carry_over(clips[1:], renumbered[::-1])
    after, came = model.table(), np.unique(np.concatenate([u.codes for u in clips[1:]])).astype(int)
    torch.testing.assert_close(after[at + number[came].astype(int)], before[at + came], atol=1e-2, rtol=0.2)
    assert (after[:at] == before[:at]).all()
    with pytest.raises(ValueError, match="no clip in common"):
        model.carry_over(clips, [replace(u, text="something else.") for u in clips])


def test_embeddings_are_carried_over_by_the_clips_that_are_learned(tmp_path, monkeypatch):
    """What is held out would tell which of its codes stand for which; and of two clips with the same words, one of them
    held out, each stands beside itself."""
    clips, seen, carry_over = utterances(), [], SpeechLM.carry_over
    old = [replace(clips[0], split="test", codes=clips[1].codes), *clips]

    def carried(model, known, some):
        carry_over(model, known, some)
        seen.extend([{u.split for u in some}, model.table().detach().clone()])
        raise KeyboardInterrupt

    monkeypatch.setattr(SpeechLM, "carry_over", carried)
    monkeypatch.setattr(SpeechLM, "start_from", lambda model, folder: torch.nn.init.zeros_(model.digits))
    for known in (old, clips):
        with pytest.raises(KeyboardInterrupt):
            train_lm(clips, [4] * 6, tmp_path, Training(steps=1, **SMALL), 128, 2, "init", known)
    assert seen[0] == {"train"} and torch.equal(seen[1], seen[3])


def test_clips_of_a_weighted_speaker_are_drawn_more_often(protocol):
    weighted = [replace(u, speaker=f"{'joe' if k % 2 else 'amy'}_{k}") for k, u in enumerate(utterances())]
    sampler = RowSampler(weighted, protocol, Mixture(clips_per_row=(1.0,), speakers=(("joe", 3.0),)), seed=1)
    share = np.diff(sampler.cumulative, prepend=0.0)
    assert {u.speaker[:3]: w for u, w in zip(weighted, share)} == {"joe": 3.0, "amy": 1.0}


@pytest.mark.parametrize(
    "split, size, sentence", [("test", 128, "no clip to learn to say"), ("train", 64, "128, 192 ..., not 64")]
)
def test_what_cannot_be_learned_is_refused_before_it_begins(tmp_path, split, size, sentence):
    known = [replace(u, split=split) for u in utterances()]
    with pytest.raises(ValueError, match=sentence):
        train_lm(known, [4] * 6, tmp_path / "lm", Training(steps=1, **SMALL), size, 4)
    assert not (tmp_path / "lm").exists()


def test_what_one_process_trains_is_refused_to_several(monkeypatch, corpus, tmp_path):
    """They would write into one folder, and take turns in nothing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    clips, out = read_corpus(corpus), tmp_path / "out"
    for started in (
        lambda: train_lm(utterances(), [4] * 6, out, Training(steps=1, **SMALL), 128, 4),
        lambda: train_codec(clips, out, CodecTraining(minutes=1e-4, batch=2, crop_seconds=(0.8,))),
        lambda: train_verifier(clips, out, VerifierTraining(minutes=1e-4, batch=2)),
        lambda: train_preferences("nano", [], out),
    ):
        with pytest.raises(ValueError, match="trained by one process. Start it without torchrun"):
            started()
    assert not out.exists()


def codec_run(monkeypatch, corpus, out, steps, init=None, **settings):
    """`steps` steps, by a clock that counts one second a step."""
    ticks = itertools.count()
    monkeypatch.setattr(codec_training, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    settings = {"crop_seconds": (0.8,)} | settings
    settings = CodecTraining(minutes=(steps - 0.5) / 60, batch=2, warmup_steps=1, **settings)
    return train_codec(read_recordings(corpus), out, settings, init)


@pytest.mark.parametrize("what", ["aligner", "lm", "codec", "verifier"])
@pytest.mark.parametrize("quick", [False, True])
def test_training_is_in_bfloat16_where_the_processor_has_it(monkeypatch, corpus, tmp_path, protocol, quick, what):
    """One that only emulates it would be at it for days."""
    out, seen, linear = tmp_path / "out", set(), F.linear

    def noted(*given, **named):
        seen.add(torch.is_autocast_enabled("cpu"))
        return linear(*given, **named)

    monkeypatch.setattr("llasa_lite.checkpoints.cpu_has_bf16", lambda: quick)
    monkeypatch.setattr(F, "linear", noted)
    if what == "aligner":
        train_aligner(utterances(), [4] * 6, protocol.tokenizer, steps=1, rows=2)
    elif what == "lm":
        train_lm(utterances(), [4] * 6, out, Training(steps=1, **SMALL), 128, 2)
    elif what == "codec":
        codec_run(monkeypatch, corpus, out, 1)
    else:
        clips = [replace(clip, speaker=str(k % 2)) for k, clip in enumerate(read_corpus(corpus))]
        train_verifier(clips, out, VerifierTraining(minutes=1e-4, batch=2, crop_seconds=(0.8,)))
    assert seen and (True in seen) == quick


def test_two_codec_steps_give_a_codec_that_loads(monkeypatch, corpus, tmp_path):
    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 2)
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 2
    codec = Codec.from_pretrained(str(out))
    assert codec._acoustic_is_silent and codec.codebook_size == 4096
    wav = codec.decode(codec.encode(buzz(1)))
    assert len(wav) == 320 * 51 and np.isfinite(wav).all()


def test_both_halves_of_a_codec_learn_and_stay(monkeypatch, corpus, tmp_path):
    """The half that hears the wave learns where it is asked to; a run that starts from it keeps it, with its codes."""
    out = codec_run(monkeypatch, corpus, tmp_path / "both", 3, train_acoustic=True)
    both = Codec.from_pretrained(str(out))
    assert not both._acoustic_is_silent
    kept = codec_run(monkeypatch, corpus, tmp_path / "kept", 2, init=out, train_encoder=False)
    after = Codec.from_pretrained(str(kept))
    assert np.array_equal(after.encode(buzz(1)), both.encode(buzz(1)))
    assert (after.decode(range(9)) != both.decode(range(9))).any()
    with pytest.raises(ValueError, match="cannot hear more"):
        codec_run(monkeypatch, corpus, tmp_path / "none", 1, init=out, train_encoder=False, train_acoustic=True)


def test_a_codec_run_goes_on_and_discriminators_join(monkeypatch, corpus, tmp_path):
    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 1)
    judges = torch.load(out / "state.pt", weights_only=True)["judges"]
    codec_run(monkeypatch, corpus, out, 2, adversarial_after=0.0)
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert all((state["judges"][name] != weights).any() for name, weights in judges.items() if "original1" in name)


def test_codes_that_learn_to_be_read(monkeypatch, corpus, tmp_path):
    """What the recogniser says reaches the encoder through rounding, and a run that was stopped goes on with it."""
    torch.manual_seed(0)
    model, reader = new_codec(), Aligner([4] * 6)
    values, codes = codec_training.encode_values(model, torch.from_numpy(buzz(1))[None, :16_000], acoustic=False)
    scores = reader.read(codec_training.soft_digits(values, [4] * 6))
    assert torch.equal(scores, reader(codes.long()))
    reading_loss(scores, [50], [[1, 2, 3]]).backward()
    reached = [p.grad is not None and p.grad.abs().sum() > 0 for p in model.semantic_encoder.parameters()]
    assert np.mean(reached) > 0.9
    monkeypatch.setattr(codec_training, "READER_FIRST", 1)
    long = {"crop_seconds": (9.0,)}  # of whole clips, as far as they are that long
    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 50, reading=1.0, reading_seconds=1.0, **long)
    (row,) = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    assert 0 < row["reading"] < 30
    reader = torch.load(out / "state.pt", weights_only=True)["reader"]
    codec_run(monkeypatch, corpus, out, 51, reading=1.0, reading_seconds=1.0, **long)
    again = torch.load(out / "state.pt", weights_only=True)
    assert again["step"] == 51 and any((again["reader"][name] != weights).any() for name, weights in reader.items())
    silent = [replace(clip, text="") for clip in read_recordings(corpus)]
    with pytest.raises(ValueError, match="none of 3 clips has one"):
        train_codec(silent, tmp_path / "other", CodecTraining(reading=1.0))
    with pytest.raises(ValueError, match="cannot learn to be read"):
        train_codec(silent, tmp_path / "third", CodecTraining(reading=1.0, train_encoder=False), out)


@pytest.mark.parametrize("levels", [[4] * 6, [8, 5, 2]])
def test_soft_digits_are_those_of_the_codes_and_lead_back_to_what_was_rounded(levels):
    from transformers.models.xcodec2.modeling_xcodec2 import Xcodec2FiniteScalarQuantization

    fsq = Xcodec2FiniteScalarQuantization(SimpleNamespace(quantization_levels=levels))
    before = torch.linspace(-2, 2, 40 * len(levels)).view(2, 20, -1).requires_grad_()
    values, codes = fsq(before)
    soft = codec_training.soft_digits(values, levels)
    assert torch.equal(soft, code_digits(levels)[codes.long()])
    soft[..., levels[0] - 1].sum().backward()  # wanted: more of the first dimension's highest digit
    assert (before.grad[..., 0] >= 0).all() and before.grad[..., 0].max() > 0
    assert not before.grad[..., 1:].any()


def test_a_codecs_folder_goes_on_with_its_own_run_only(monkeypatch, corpus, tmp_path):
    """What was asked for would not be done, as another start, or be an error of PyTorch's, as frozen codes."""
    from llasa_lite.checkpoints import NANO

    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 1)
    before = (out / "state.pt").read_bytes()
    for changed, told in (
        ({"init": NANO / "codec", "train_encoder": False}, "begun with base None, train_encoder True"),
        ({"disturbed": 0.5}, "begun with disturbed 0.0"),
        ({"init": out}, "holds the checkpoint to start from"),
    ):
        with pytest.raises(ValueError, match=told):
            codec_run(monkeypatch, corpus, out, 2, **changed)
    with open(corpus / "manifest.jsonl", "a") as manifest:
        manifest.write("\n" + (corpus / "manifest.jsonl").read_text().splitlines()[0])
    with pytest.raises(ValueError, match="begun with clips 3"):
        codec_run(monkeypatch, corpus, out, 2)
    assert (out / "state.pt").read_bytes() == before
    (out / "state.pt").unlink()
    codec_run(monkeypatch, corpus, out, 1, disturbed=0.5)  # nothing to go on from


def test_a_codec_run_killed_while_it_writes_keeps_the_state_before(monkeypatch, corpus, tmp_path):
    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 1)

    def killed(state, file):
        with open(file, "wb") as torn:
            torn.write(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        codec_run(monkeypatch, corpus, out, 2)
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 1
    codec_run(monkeypatch, corpus, out, 2)
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 2


def test_a_codec_run_that_is_stopped_loses_minutes_and_not_all(monkeypatch, corpus, tmp_path):
    """However slow its steps are: it is saved by the clock."""

    def stopped(wavs, share):
        if steps.append(1) or len(steps) == 4:
            raise KeyboardInterrupt
        return wavs

    steps = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(codec_training.Crops, "disturb", lambda self, wavs, share: stopped(wavs, share))
        codec_run(monkeypatch, corpus, tmp_path / "codec", 5, save_minutes=2 / 60)
    assert torch.load(tmp_path / "codec" / "state.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize("make", [lambda: SpectrumJudge(512, 128), lambda: PeriodJudge(5)], ids=["spectrum", "period"])
def test_a_discriminator_tells_a_blurred_wave_within_a_few_steps(make):
    """A decoder has minutes to learn from it, not days."""
    torch.manual_seed(0)
    judge = make()
    real = torch.from_numpy(np.stack([buzz(0.5, seed=k) for k in range(4)]))
    blurred = torch.nn.functional.avg_pool1d(real[:, None], 9, 1, 4)[:, 0]
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-3)
    losses = []
    for _ in range(60):
        loss = (1 - judge(real)[0]).relu().mean() + (1 + judge(blurred)[0]).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and np.mean(losses[-5:]) < 1


def test_losses_of_any_size_pull_alike():
    """The slope of a spectral loss at the wave is a thousand times a discriminator's."""
    made = torch.from_numpy(buzz(0.5))[None].requires_grad_()
    loss = (made**2).sum()
    small, large = (codec_training._pull(scale * loss, made)[0] for scale in (1e-3, 1e3))
    torch.testing.assert_close(small, large)
    assert small.norm().item() == pytest.approx(1, abs=1e-3)


def test_crops_are_disturbed_where_they_are_heard_and_clean_where_they_are_drawn():
    crops = codec_training.Crops([], seed=0)
    real = torch.from_numpy(np.stack([buzz(0.5, seed=k) for k in range(40)]))
    kept = real.clone()
    heard = crops.disturb(real, 0.25)
    changed = (heard != real).any(1)
    assert (real == kept).all() and heard.shape == real.shape and torch.isfinite(heard).all()
    assert 3 <= changed.sum() <= 18
    assert (crops.disturb(real, 0.0) == real).all()


def test_crops_are_of_clips_that_fill_most_of_them(corpus):
    clips = read_corpus(corpus)
    crops = codec_training.Crops([*clips, replace(clips[0], seconds=0.4)], 0, (0.8, 1.6))
    assert [len(long) for long in crops.clips.values()] == [4, 4]
    assert crops.batch(3, 1.6).shape == (3, 25_600) and (crops.batch(3, 1.6)[:, 19_200:] == 0).all()
    with pytest.raises(ValueError, match="Crops of 2.4 s need clips that are at least 1.4 s long; none of 4 is"):
        codec_training.Crops(clips, 0, (0.8, 2.4))


def test_rows_that_are_read_have_few_shapes(monkeypatch):
    """A CPU compiles kernels for each, and there were as many as lengths of clips."""
    monkeypatch.setattr(Clip, "load", lambda clip: np.full(int(16_000 * clip.seconds), 0.1, np.float32))
    clips = [Clip(k, "oh yes.", "a", 0.5 + 0.02 * k, "train", None) for k in range(60)]
    crops = codec_training.Crops(clips, 0, read=True)
    batches = [crops.told_batch(8.0) for _ in range(60)]
    assert len({real.shape for real, *_ in batches}) <= 6
    for real, codes, texts in batches:
        assert 4 <= len(real) == len(codes) == len(texts) and real.numel() <= 12 * 16_000
        assert ((real > 0).sum(1) // 320).tolist() == codes and max(codes) * 320 < real.shape[1]


def test_a_clip_that_cannot_be_read_is_left_out_and_the_run_goes_on(corpus, caplog):
    """As `train tokens` does. It would end a run, and end it again when it goes on."""
    clips = read_corpus(corpus)
    clips[1].path.write_text("not audio"), audio.save(np.zeros(19_200, np.float32), clips[2].path)
    crops = codec_training.Crops(clips, 0, (0.8, 1.6))
    for seconds in (0.8, 1.6, 0.8):
        assert len(crops.batch(12, seconds)) == 12
    assert [one.id for one in crops.clips[0.8]] == [one.id for one in crops.clips[1.6]] == [0, 3]
    assert [caplog.text.count(f"Clip {k} is left out: ") for k in (1, 2)] == [1, 1]
    with pytest.raises(ValueError, match="is silent"):
        codec_training.Crops(clips[2:3], 0, (0.8,)).batch(1, 0.8)


def test_crops_keep_as_many_clips_as_there_is_room_for(corpus, monkeypatch):
    """Or a large corpus would fill the memory, and end the run."""
    clips = read_corpus(corpus)
    size = 2 * len(clips[0].load())
    monkeypatch.setattr("llasa_lite.data.MOST_KEPT", 2 * size)
    some, all_kept = codec_training.Crops(clips, 0, (0.8,)), codec_training.Crops(clips, 0, (0.8,))
    made = [some.batch(4, 0.8) for _ in range(8)]
    assert len(some.cache) == 2 and sum(wav.nbytes for wav in some.cache.values()) == 2 * size
    monkeypatch.setattr("llasa_lite.data.MOST_KEPT", 9 * size)
    assert all(torch.equal(one, all_kept.batch(4, 0.8)) for one in made) and len(all_kept.cache) == 4


def test_crops_of_a_clip_at_another_speed_are_its_own(corpus):
    """It is of the same file, and takes longer or less long."""
    clip = read_corpus(corpus)[0]
    slow = Repitched(clip, 0.8)
    assert slow.seconds == pytest.approx(len(slow.load()) / 16_000, abs=1e-3)
    alone = [codec_training.Crops([each], 0, (0.8,)).batch(1, 0.8) for each in (clip, slow)]
    both = codec_training.Crops([clip, slow], 0, (0.8,))
    lengths = set()
    for _ in range(8):
        both.batch(1, 0.8)
        lengths |= {len(wav) for wav in both.cache.values()}
    assert (alone[0] != alone[1]).any() and lengths == {len(clip.load()), len(slow.load())}


def test_training_the_decoder_alone_leaves_the_codes(monkeypatch, corpus, tmp_path, codec):
    """Or every token corpus and language model of the codec would be worth nothing after it."""
    from llasa_lite.checkpoints import NANO

    out = codec_run(monkeypatch, corpus, tmp_path / "codec", 2, init=NANO / "codec", train_encoder=False)
    trained = Codec.from_pretrained(str(out))
    for seed in range(3):
        wav = buzz(1.5, seed=seed)
        codes = codec.encode(wav)
        assert trained.encode(wav).tolist() == codes.tolist()
    assert np.abs(trained.decode(codes) - codec.decode(codes)).max() > 1e-4  # and the decoder did learn


def test_codes_stay_only_where_there_are_some(monkeypatch, corpus, tmp_path):
    """Or a decoder would learn codes that an encoder drawn at random makes."""
    with pytest.raises(ValueError, match="Codes that stay are those of a codec to start from: give it with --init"):
        codec_run(monkeypatch, corpus, tmp_path / "codec", 1, train_encoder=False)
    config = codec_training.small_codec_config()
    config.quantization_levels = [4] * 5
    new_codec(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has another shape than the one to be trained: its codes cannot stay"):
        codec_run(monkeypatch, corpus, tmp_path / "codec", 1, init=tmp_path / "other", train_encoder=False)


def test_a_share_of_the_first_weights_is_kept(monkeypatch, corpus, tmp_path, codec):
    from llasa_lite.checkpoints import NANO

    made = {}
    for kept in (0.0, 0.5, 1.0):
        out = codec_run(
            monkeypatch, corpus, tmp_path / f"{kept}", 1, init=NANO / "codec", train_encoder=False, kept=kept
        )
        made[kept] = Codec.from_pretrained(str(out)).model.acoustic_decoder.head.linear.weight
    torch.testing.assert_close(made[1.0], codec.model.acoustic_decoder.head.linear.weight)
    assert (made[0.0] - made[1.0]).abs().max() > 1e-4
    torch.testing.assert_close(made[0.5], (made[0.0] + made[1.0]) / 2, atol=1e-3, rtol=1e-2)
    with pytest.raises(ValueError, match="give it with --init"):
        codec_run(monkeypatch, corpus, tmp_path / "none", 1, kept=0.5)


def test_a_fresh_codec_can_learn():
    """Transformers' own initialisation gives every code the same digits; ours must reach the encoder's weights."""
    torch.manual_seed(0)
    model = new_codec()
    silence_acoustic(model)
    wav = torch.from_numpy(buzz(1))[None, :16_000]
    values, codes = codec_training.encode_values(model, wav, acoustic=False)
    made = codec_training.decode_latents(model, model.quantizer.project_out(values))
    codec_training.SpectralLoss()(made, wav).backward()
    reached = [p.grad is not None and p.grad.abs().sum() > 0 for p in model.semantic_encoder.parameters()]
    assert np.mean(reached) > 0.9
