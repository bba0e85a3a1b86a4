"""Laws of the Spaces: what is pushed is whole, the CPU one speaks, the ZeroGPU one keeps to ZeroGPU's rules."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="pip install gradio")

import gradio as gr

from llasa_lite import Llasa, Speech, Voice, audio

STANDIN = Path(__file__).parent / "standin"


@pytest.fixture(scope="module")
def standin():
    sys.path.insert(0, str(STANDIN))
    try:
        import spaces

        assert Path(spaces.__file__).parent == STANDIN
        yield spaces
    finally:
        sys.path.remove(str(STANDIN))
        sys.modules.pop("spaces", None)


@pytest.fixture(scope="module")
def lent(standin, nano):
    """nano on a GPU that is lent; nano itself stands in for it on the CPU."""
    from demo.zerogpu import Borrowed

    return Borrowed(Llasa.from_pretrained(device="cpu", dtype="float32"), standin.GPU, nano)


@pytest.fixture
def quota(standin, monkeypatch, tmp_path):
    """A function that sets the seconds of GPU that are left."""
    file = tmp_path / "quota"
    monkeypatch.setattr(standin, "QUOTA", file)
    return lambda seconds: file.write_text(str(seconds))


def same(one: Speech, other: Speech):
    np.testing.assert_array_equal(one.wav, other.wav)


def test_what_a_lent_gpu_says_is_what_the_library_says(lent, nano, voice):
    same(lent.tts("Oh.", "emma", 7, lent.sampling), nano.tts("Oh.", "emma", 7))
    same(lent.continue_speech(voice, "Oh.", seed=7), nano.continue_speech(voice, "Oh.", seed=7))
    assert lent.transcribe(voice).text == nano.transcribe(voice).text
    codes = lent.codec.encode(voice.wav)
    np.testing.assert_array_equal(codes, nano.codec.encode(voice.wav))
    np.testing.assert_array_equal(lent.codec.decode(codes), nano.codec.decode(codes))


def test_a_lent_gpu_streams_and_ends_with_the_whole(lent, nano):
    waves, stream = [], lent.stream("Oh.", "emma", 7, lent.sampling)
    while True:
        try:
            waves.append(next(stream))
        except StopIteration as end:
            speech = end.value
            break
    same(speech, nano.tts("Oh.", "emma", 7))
    assert sum(map(len, waves)) == len(speech.wav)


def searched(llasa, n=3, stop=None):
    asked = {"process": None, "outcome": "likelihood", "seed": 5, "sampling": None}
    return llasa.search_events("Oh.", "emma", "best_of_n", n, stop=stop, branch=1, process_seconds=2.0, **asked)


def test_a_search_crosses_the_border_step_by_step(lent, nano):
    run = searched(lent)
    events, expected = list(run), searched(nano)
    assert len(events) == len(list(expected)) > 2
    same(run.result.best, expected.result.best)
    assert run.settings == expected.settings and not run.result.stopped_early


def test_stop_reaches_the_other_process_and_keeps_the_best_so_far(lent):
    run = searched(lent, 32, stop=lambda: True)
    events = list(run)
    assert run.result.stopped_early and len(events) < len(list(searched(lent, 2)))
    assert len(run.result.best.wav)


def test_seconds_asked_for_grow_with_the_text_and_the_candidates(lent, standin):
    from demo.zerogpu import MAX_SECONDS, gpu_seconds

    assert gpu_seconds(10) < gpu_seconds(300) < gpu_seconds(300, 8) < gpu_seconds(300, 16) <= MAX_SECONDS
    assert gpu_seconds(2_000, 256) == MAX_SECONDS
    standin.jobs.clear()
    lent.tts("Oh.", "emma", 7)
    list(searched(lent, 4))
    assert [job["seconds"] for job in standin.jobs] == [gpu_seconds(3), gpu_seconds(3, 4)]
    assert len({job["process"] for job in standin.jobs}) == 2


def test_the_page_shows_the_seconds_it_will_ask_for():
    """The browser's sum is JavaScript of the same numbers; what it says is computed here by hand."""
    from demo.zerogpu import GPU_SECONDS_JS, gpu_seconds

    python = GPU_SECONDS_JS.replace("Math.min", "min").replace("Math.ceil", "math.ceil")
    for n, takes in ((0, 1), (48, 1), (300, 8), (2000, 32)):
        value = eval(python.replace("TIMES", str(takes)), {"math": __import__("math")}, {"n": n})  # noqa: S307
        assert value == gpu_seconds(n, takes)


def test_without_quota_nano_answers_on_the_cpu_and_says_so(lent, nano, quota, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", lambda message, **more: told.append(message))
    quota(5)
    same(lent.tts("Oh.", "emma", 7), nano.tts("Oh.", "emma", 7))
    assert "exceeded your free ZeroGPU quota" in told[0] and "'nano' answers, on the CPU" in told[0]
    assert sum(map(len, lent.stream("Oh.", "emma", 7)))
    run = searched(lent)
    assert len(list(run)) > 2 and len(run.result.candidates) == 3
    with pytest.raises(gr.Error, match="choose it"):  # tokens of another codec: nano cannot stand in
        lent.codec.encode(np.zeros(16_000, np.float32))


def test_what_goes_wrong_over_there_is_told_in_words(lent, nano):
    with pytest.raises(gr.Error, match="There is no text to speak"):
        lent.tts("")
    with pytest.raises(gr.Error, match="Something went wrong here"):
        lent.tts("Oh.", voice=3)
    with pytest.raises(ValueError, match="n must be a whole number"):  # before a GPU is asked for
        searched(lent, 0)


def test_the_weights_do_not_compute_outside(lent):
    with pytest.raises(RuntimeError, match="Low-level CUDA init"):
        lent._llasa.tts("Oh.", "emma", 7)


def test_a_voice_of_ones_own_needs_no_gpu_before_it_speaks(lent, standin):
    standin.jobs.clear()
    assert lent.prepare(Voice.from_audio((16_000, lent.prepare("emma").wav), "Some words.")).text == "Some words."
    assert not standin.jobs and audio.SAMPLE_RATE == 16_000
