"""Laws for whatever may come: some 2,500 generated inputs; each is taken, or refused in one sentence, and soon.

Most meet checks and cheap paths only; a few are spoken by nano. The same inputs every time.
"""

import json
import math
import re
from datetime import timedelta

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
pytest.importorskip("gradio", reason="pip install gradio")

from conftest import buzz
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from demo.endpoints import codes_of
from llasa_lite import Llasa, Sampling, SearchSettings, Speech, Voice, audio, receipts, text
from llasa_lite.batch import read_list
from llasa_lite.checkpoints import find
from llasa_lite.engine import Patience
from llasa_lite.verifiers import criterion


def law(examples: int):
    hurry = timedelta(seconds=60)  # what takes longer hangs, on the slowest machine
    checks = list(hypothesis.HealthCheck)
    return settings(
        max_examples=examples, deadline=hurry, derandomize=True, database=None, suppress_health_check=checks
    )


def taken(call, *arguments, **named):
    """The result, or None where it was refused in a sentence; anything else is what these laws forbid."""
    try:
        return call(*arguments, **named)
    except ValueError as error:
        sentence = str(error)
        assert type(error).__name__ in ("ValueError", "NotReachable"), repr(error)
        assert sentence.endswith(".") and len(sentence) > 15 and not re.search(r"0x[0-9a-f]{6}", sentence), sentence
        return None


WORDS = "Dr. $3.50 1999 9:30 No. 7 U.S.A. <|s_1|> <|eot_id|> 1,000,000 3rd 50% é 日本 👍".split()
TEXT = st.one_of(
    st.text(max_size=300),
    st.text("aB .,!?;:'\"-()&%$€£0123456789\n…。，", max_size=200),
    st.lists(st.sampled_from(WORDS)).map(" ".join),
)
NUMBER = st.one_of(st.integers(), st.floats(), st.integers(-3, 3), st.floats(0, 1))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CODES = st.lists(st.integers(0, 4095), max_size=20)

# -- texts -----------------------------------------------------------------------------------------------------------


@law(300)
@given(TEXT, st.integers(-1, 120))
def test_text_is_cut_without_loss(words, most):
    pieces = taken(text.split, words, most)
    if pieces is not None:
        assert "".join("".join(pieces).split()) == "".join(words.split())
        assert all(0 < len(piece) <= most and piece == piece.strip() for piece in pieces)


@law(300)
@given(TEXT, TEXT)
def test_text_is_put_into_words_and_compared(one, other):
    spoken = text.spell_out(one)
    assert spoken == " ".join(spoken.split())
    said = text.plain_marks(one)
    assert said == text.plain_marks(said) == " ".join(said.split()) and re.fullmatch(r"[\w\s.,?!'-]*", said)
    plain = text.normalize_transcript(one)
    assert text.normalize_transcript(plain) == plain
    assert text.error_rate(one, one) == 0 <= text.error_rate(one, other)
    joined = text.join(one, other)
    assert joined.replace(" ", "") == (one.strip() + other.strip()).replace(" ", "")


@pytest.mark.parametrize(
    "unit", ["1", "a.", ",", "$1", "(", "<|", "9:", "A", "'", "1,", "no. ", "a1", '"', "…", "-", "\n", "a\n", " "]
)
def test_work_grows_with_the_text_and_not_with_its_square(unit):
    """No pattern goes over the same text again and again. Eight times the text, at most some twenty times the work."""
    import time

    def seconds(characters):
        began = time.process_time()
        text.split(text.plain_marks(text.spell_out((unit * characters)[:characters])), 60)
        return time.process_time() - began

    seconds(1000)
    assert seconds(16_000) < 20 * max(min(seconds(2000), seconds(2000)), 0.01)


@law(200)
@given(words=TEXT, speaker=st.none() | TEXT)
def test_no_text_rewrites_its_prompt(nano, words, speaker):
    """Whatever is said, the prompt holds each marker once, and ends where speech begins."""
    pieces = taken(nano._pieces, words)
    for piece in pieces or ():
        ids = taken(nano.protocol.tts_prompt, piece, (), speaker)
        if ids is not None:
            tokens = nano.protocol.tokenizer.convert_ids_to_tokens(ids)
            markers = [token for token in tokens if re.fullmatch(r"<\|[A-Z_]+\|>", token)]
            assert len(markers) == 3 and markers[-1] == tokens[-1]


# -- waves -----------------------------------------------------------------------------------------------------------

RATES = st.sampled_from([0, -1, 999, 1000, 8000, 16_000, 44_100, 10**9, 2**70])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40)
KINDS = st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, bool])


@law(200)
@given(
    wav=KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES)),
    rate=RATES,
)
def test_an_array_becomes_a_wave_or_a_sentence(wav, rate):
    loaded = taken(audio.load, (rate, wav))
    if loaded is not None:
        assert loaded.dtype == np.float32 and loaded.ndim == 1 and np.abs(loaded).max() <= 1
        assert audio.level(loaded).seconds == len(loaded) / audio.SAMPLE_RATE


def sounds():
    import io

    for kind in audio.FORMATS:
        file = io.BytesIO()
        audio.write(file, buzz(0.2), kind, '{"a": 1}')
        yield file.getvalue()


@st.composite
def broken_file(draw):
    """Bytes of no kind, or a sound file that was cut, or written over."""
    whole = draw(st.sampled_from(SOUNDS))
    way = draw(st.integers(0, 3))
    if way == 0:
        return draw(st.binary(max_size=200))
    place, more = draw(st.integers(0, min(len(whole), 400))), draw(st.binary(min_size=1, max_size=8))
    return [whole[:place], whole[:place] + more + whole[place + len(more) :], whole[:place] + more + whole[place:]][
        way - 1
    ]


SOUNDS = list(sounds())


@law(250)
@given(broken_file())
def test_a_broken_sound_file_becomes_a_wave_or_a_sentence(tmp_path_factory, data):
    loaded = taken(audio.load, data, max_seconds=2)
    assert loaded is None or (np.isfinite(loaded).all() and len(loaded) <= 2 * 16_000 + 1)
    path = tmp_path_factory.getbasetemp() / "broken.wav"
    path.write_bytes(data)
    assert isinstance(taken(audio.comment_of, path) or "", str)
    taken(receipts.read, path)


# -- settings --------------------------------------------------------------------------------------------------------


def of(kind, *names):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, JSON | NUMBER)).map(lambda given: (kind, given))


@law(300)
@given(
    st.one_of(
        of(Sampling, "temperature", "top_p", "top_k", "repetition_penalty", "guidance"),
        of(SearchSettings, "method", "n", "branch", "step_tokens", "process_seconds", "context_codes", "reference"),
        of(Patience, "silence_ids", "repetition_ids"),
    )
)
def test_settings_are_in_range_or_refused(asked):
    kind, given_ = asked
    made = taken(kind, **given_)
    for name in given_ if made is not None else ():
        value = getattr(made, name)
        assert isinstance(value, str) or (math.isfinite(value) and value >= 0)


CRITERIA = [*"asr speaker likelihood + , * : 0.5 nan -1".split(), " "]


@law(150)
@given(st.one_of(TEXT, st.lists(st.sampled_from(CRITERIA)).map("".join)))
def test_verifiers_and_models_are_known_or_refused(asked):
    made = taken(criterion, asked)
    assert made is None or made.verifiers
    taken(find, asked)
    taken(Voice.builtin, asked)


# -- codes -----------------------------------------------------------------------------------------------------------


@law(200)
@example(codes=[2**63])
@given(codes=st.lists(st.integers(-2, 4097) | NUMBER, max_size=6) | JSON)
def test_codes_are_codes_or_refused(nano, codes):
    checked = taken(codes_of, codes)
    if checked is not None:
        ids = taken(nano.protocol.codes_to_ids, checked)
        assert ids is None or nano.protocol.ids_to_codes(ids).tolist() == checked
        assert (ids is None) == (taken(nano.codec.digits, checked) is None)


# -- receipts, voices, lists -----------------------------------------------------------------------------------------

RECEIPT = {
    "task": "tts", "text": "Oh.", "voice": "me", "voice_text": "hello", "voice_codes": [1, 2], "model": "nano",
    "codec": "nano", "seed": 3, "sampling": {"temperature": 0.5}, "device": "cpu", "dtype": "float32",
}  # fmt: skip


@st.composite
def receipt(draw):
    """A receipt with some of its fields replaced by whatever may come, or missing."""
    made = RECEIPT | draw(st.fixed_dictionaries({}, optional={"text": TEXT, "voice": TEXT, "voice_codes": CODES}))
    keys = [*RECEIPT, "voice_timbre", "search", "codes", "stopped", "left_out", "speaker"]
    for key in draw(st.lists(st.sampled_from(keys), max_size=2)):
        if draw(st.booleans()):
            made[key] = draw(JSON)
        else:
            made.pop(key, None)
    return made


@law(300)
@given(asked=receipt() | JSON)
def test_a_receipt_survives_its_wave_or_is_refused(tmp_path_factory, asked):
    told = taken(receipts.checked, asked)
    if told is not None:
        comment = receipts.to_comment(told, "ogg")
        back = taken(receipts.from_comment, comment, "It holds no receipt.")
        if back is not None:  # NaN somewhere inside it is no JSON
            assert all(back[key] == told[key] for key in ("text", "voice", "seed", "model"))
            path = tmp_path_factory.getbasetemp() / "a.wav"
            audio.save(np.zeros(10), path, receipts.to_comment(told))
            assert receipts.read(path)["text"] == told["text"]


@law(100)
@given(asked=receipt() | JSON)
def test_a_receipt_is_replayed_or_refused_before_a_model_is_loaded(asked):
    class Reached(Exception):
        pass

    class Replaying(Llasa):
        @classmethod
        def from_pretrained(cls, *_, **__):
            raise Reached

    try:
        assert taken(Replaying.replay, asked) is None
    except Reached:
        pass


FIELDS = {name: TEXT | JSON for name in ("name", "text", "description")}
FIELDS["codes"] = st.dictionaries(st.text(max_size=8), CODES | JSON, max_size=3) | JSON


@law(250)
@given(row=st.fixed_dictionaries({}, optional=FIELDS) | JSON | st.binary(max_size=60))
def test_a_voice_file_is_a_voice_or_refused(tmp_path_factory, row):
    path = tmp_path_factory.getbasetemp() / "voice.json"
    path.write_bytes(row if isinstance(row, bytes) else json.dumps(row).encode())
    voice = taken(Voice.load, path)
    if voice is not None:
        assert voice.name == row["name"] and voice.codes == row["codes"]
        if taken(voice.save, path):
            assert Voice.load(path) == voice
        taken(receipts.read, path)
        taken(read_list, path)


# -- nano itself -----------------------------------------------------------------------------------------------------


@law(12)
@given(
    words=TEXT,
    seed=st.none() | st.integers(-1, 2**64),
    temperature=st.floats(0, 2.2),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 5) | st.just(10**30),
    guidance=st.floats(1, 5.2),
)
def test_whatever_is_spoken_is_speech_with_its_receipt(nano, words, seed, temperature, top_p, top_k, guidance):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano, "_limit", lambda piece: 10)  # tokens
        patch.setattr(nano, "_pieces", lambda said: Llasa._pieces(nano, said)[:2])
        sampling = taken(Sampling, temperature, top_p, top_k, guidance=guidance)
        speech = sampling and taken(nano.tts, words, None, seed, sampling)
    if speech:
        assert isinstance(speech, Speech) and np.isfinite(speech.wav).all() and speech.receipt["text"] == words
        assert receipts.checked(json.loads(json.dumps(speech.receipt))) == speech.receipt
