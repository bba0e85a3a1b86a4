"""Laws of the Spaces: what is pushed is whole, the CPU one speaks, the ZeroGPU one keeps to ZeroGPU's rules."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import ROOT

pytest.importorskip("gradio", reason="pip install gradio")

import gradio as gr

from llasa_lite import CHECKPOINTS, Llasa, Speech, Stopped, Voice, audio
from llasa_lite.checkpoints import RELEASED_CODEC, RELEASED_CODEC_REVISION
from llasa_lite.space import build_space

STANDIN = Path(__file__).parent / "standin"


@pytest.fixture(scope="module")
def standin():
    """By its file: where the repository is the current folder, `import spaces` finds our folder of that name."""
    spec = importlib.util.spec_from_file_location("standin", STANDIN / "spaces.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert [codes.tolist() for codes in one.codes] == [codes.tolist() for codes in other.codes]
    same_wave(one.wav, other.wav)


def same_wave(one: np.ndarray, other: np.ndarray):
    """Over there one thread computes, here as many as there are: sums may be taken in another order."""
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_what_a_lent_gpu_says_is_what_the_library_says(lent, nano, voice):
    same(lent.tts("Oh.", "emma", 7, lent.sampling), nano.tts("Oh.", "emma", 7))
    same(lent.continue_speech(voice, "Oh.", seed=7), nano.continue_speech(voice, "Oh.", seed=7))
    assert lent.transcribe(voice).text == nano.transcribe(voice).text
    codes = lent.codec.encode(voice.wav)
    np.testing.assert_array_equal(codes, nano.codec.encode(voice.wav))
    same_wave(lent.codec.decode(codes), nano.codec.decode(codes))


def test_a_lent_gpu_streams_and_ends_with_the_whole(lent, nano):
    def streamed(llasa):
        speech = yield from llasa.stream("Oh.", "emma", 7, llasa.sampling)
        yield speech

    *waves, speech = streamed(lent)
    *_, expected = streamed(nano)
    same(speech, expected)
    np.testing.assert_array_equal(np.concatenate(waves), speech.wav)


def searched(llasa, n=3, stop=None, sampling=None):
    asked = {"process": None, "outcome": "likelihood", "seed": 5, "sampling": sampling}
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


def test_what_the_page_says_of_its_models_holds_where_nano_is_not_the_first_of_them():
    """On ZeroGPU the page opens with the 1B, whose weights were loaded before."""
    from demo.words import CHINESE, ENGLISH

    said = " ".join(words[name] for words in (CHINESE, ENGLISH) for name in ("about", "licence"))
    assert not re.search("opens with|打开时|first chosen|首次选择", said)


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


def test_nano_stands_in_with_its_own_sampling_unless_another_was_chosen(lent, voice, quota, monkeypatch):
    theirs, chosen = replace(lent.sampling, guidance=1.0, top_p=0.9), replace(lent.sampling, top_p=0.8)
    monkeypatch.setattr(lent, "sampling", theirs)  # the released checkpoints' is not nano's
    quota(5)
    for given, used in ((theirs, lent._spare.sampling), (chosen, chosen)):
        assert lent.tts("Oh.", "emma", 7, given).receipt["sampling"] == asdict(used)
        assert lent.continue_speech(voice, "Oh.", seed=7, sampling=given).receipt["sampling"] == asdict(used)
        run = searched(lent, 1, sampling=given)
        assert list(run) and run.result.best.receipt["sampling"] == asdict(used)


def test_stop_reaches_nano_where_it_stands_in(lent, voice, quota):
    quota(5)
    for speak in (lent.tts, lambda text, stop: lent.continue_speech(voice, text, stop=stop)):
        with pytest.raises(Stopped):
            speak("Oh.", stop=lambda: True)


def test_what_goes_wrong_over_there_is_told_in_words(lent, nano):
    with pytest.raises(gr.Error, match="There is no text to speak"):
        lent.tts("")
    with pytest.raises(gr.Error, match="Something went wrong here"):
        lent.tts("Oh.", sampling=3)
    with pytest.raises(ValueError, match="n must be a whole number"):  # before a GPU is asked for
        searched(lent, 0)


def test_the_weights_do_not_compute_outside(lent):
    with pytest.raises(RuntimeError, match="Low-level CUDA init"):
        lent._llasa.tts("Oh.", "emma", 7)


def test_every_tab_works_on_a_lent_gpu_and_its_weights_stay_over_there(lent, standin, voice, tmp_path, monkeypatch):
    from demo import clips, continuing, editing, searching, speak
    from demo.models import Models

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    models = Models.__new__(Models)
    models.first, models.borrowed, models._there = "nano", ["nano"], {"nano": lent}
    page, clip = SimpleNamespace(temp_files=set()), str(audio.save(voice.wav, tmp_path / "clip.wav"))
    seed = (False, 7, 0.8, 0.95, 1.5)
    standin.jobs.clear()

    _, _, summary, *_ = speak.show(models, page, None, [], "nano", "Oh.", "emma", None, "", *seed)
    *_, streamed = speak.stream_speech(models, page, [], "nano", "Oh.", "my clip", clip, "hello there.", *seed)
    assert "of speech" in summary and "the first of it after" in streamed[3]
    search = ("best_of_n", 2, "likelihood", "speaker", 1, 2.0)
    *_, (status, *_) = searching.show(models, page, None, "nano", "Oh.", "emma", None, "", *search, *seed)
    assert "**2 heard**" in status
    whole, *_ = continuing.show(models, None, "nano", clip, "hello there.", "Oh.", *seed)
    assert len(audio.load(whole)) > 16_000
    (report, trip, _), (*_, (words, _)) = clips.receive(models, "nano", clip, "", "")  # told before it is transcribed
    assert "Length 1." in report["value"] and len(trip["value"][1]) > 16_000 and words
    held, player, *_ = editing.receive(models, "a", "nano", clip, editing.NOTHING)
    assert len(held["a"]) > 50 and len(player[1])
    jobs = [job["job"] for job in standin.jobs]
    two = ["codec.encode", "codec.decode_batch"]
    assert jobs == ["tts", "stream", "search_events", "continue_speech", "codec.resynthesize", "transcribe", *two]


def test_models_that_listen_are_fetched_before_the_page_opens_or_missed(nano, monkeypatch, caplog):
    from demo.zerogpu import Borrowed
    from llasa_lite.verifiers.asr import Asr

    fetched = []
    monkeypatch.setattr(Asr, "_load", lambda verifier: fetched.append(verifier.source))
    monkeypatch.setattr(nano, "checkpoint", replace(nano.checkpoint, tasks=("tts",)))  # as the released ones
    monkeypatch.delattr(nano.codec.model.config, "restore_timbre")
    Borrowed(nano, lambda duration: lambda task: task, nano)  # the stand-in would keep the shared nano from computing
    assert fetched == ["openai/whisper-base"]
    assert "The verifier 'speaker' will be missing: Cannot load 'microsoft/wavlm-base-plus-sv'" in caplog.text


def test_a_voice_of_ones_own_needs_no_gpu_before_it_speaks(lent, standin):
    standin.jobs.clear()
    assert lent.prepare(Voice.from_audio((16_000, lent.prepare("emma").wav), "Some words.")).text == "Some words."
    assert not standin.jobs


# -- what is pushed --------------------------------------------------------------------------------------------------

KINDS = ("zerogpu", "cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both Spaces as they are pushed: kind -> folder."""
    folder = tmp_path_factory.mktemp("spaces")
    return {kind: build_space(kind, folder / kind, repo="me/llasa") for kind in KINDS}


def card(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if "==" in line]
    return dict(line.replace("[mcp]", "").split("==") for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_can_be_pushed_as_it_is(built, kind):
    files = [path for path in built[kind].rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 10e6  # plain git takes them
    assert not any(path.suffix in (".pyc", ".whl") or path.name == "tokens.safetensors" for path in files)
    names = {str(path.relative_to(built[kind])) for path in files}
    assert {"README.md", "app.py", "requirements.txt", "LICENSE", "thumbnail.png", "llasa_lite/demo/page.css"} <= names


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_is_one_the_hub_takes(built, kind):
    from huggingface_hub import SpaceHardware

    told = card(built[kind])
    assert told["sdk"] == "gradio" and told["python_version"] == "3.12" and len(told["short_description"]) <= 60
    assert {"mcp-server", "arxiv:2502.04128"} <= set(told["tags"]) and "2502.04128" in (
        built[kind] / "README.md"
    ).read_text()
    assert told["suggested_hardware"] in {one.value for one in SpaceHardware}
    assert told["thumbnail"] == "https://huggingface.co/spaces/me/llasa/resolve/main/thumbnail.png"
    assert told["sdk_version"] == pins(built[kind] / "requirements.txt")["gradio"]


def test_pins_are_those_of_the_app_but_for_zerogpus_torch(built):
    app = pins(ROOT / "requirements.txt")
    assert pins(built["cpu"] / "requirements.txt") == app
    zerogpu = pins(built["zerogpu"] / "requirements.txt")
    assert zerogpu.pop("spaces") and (2, 8) <= tuple(map(int, zerogpu["torch"].split(".")[:2])) <= (2, 11)
    assert zerogpu | {"torch": app["torch"]} == app


def test_preloaded_is_what_the_space_loads(built):
    told = card(built["zerogpu"])
    preloaded = {row.split()[0]: row.split()[2] for row in told["preload_from_hub"]}
    assert list(preloaded) == told["models"]
    (model,) = re.findall(r'"LLASA_MODEL", "([^"]+)"', (built["zerogpu"] / "app.py").read_text())
    assert preloaded[CHECKPOINTS[model].source] == CHECKPOINTS[model].revision
    assert preloaded[RELEASED_CODEC] == RELEASED_CODEC_REVISION


@pytest.mark.parametrize(
    "kind, prepare, sentence",
    [("gpu", None, "Unknown Space 'gpu'. Choose from"), ("cpu", "x", "holds something already")],
)
def test_what_cannot_be_built_is_said(tmp_path, kind, prepare, sentence):
    if prepare:
        (tmp_path / prepare).write_text("")
    with pytest.raises(ValueError, match=sentence):
        build_space(kind, tmp_path)


def test_an_address_needs_an_owner(tmp_path):
    with pytest.raises(ValueError, match="A repository is named owner/name, not 'llasa'."):
        build_space("cpu", tmp_path / "out", repo="llasa")
    assert not (tmp_path / "out").exists()


@contextmanager
def opened(folder: Path, path: Path | None = None, **environment):
    """A Space's own app.py, run in its own folder, not in ours; a client of it."""
    from gradio_client import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(path or ""), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["GRADIO_TEMP_DIR"] = str(folder.parent / f"{folder.name}-files")
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as file:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=os.environ | environment, stdout=file, stderr=file
        )
    try:
        for _ in range(300):
            assert app.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the Space did not answer: {log.read_text()}")
        yield Client(f"http://127.0.0.1:{port}", verbose=False)
        assert "A request failed." not in log.read_text()
    finally:
        app.terminate()
        app.wait(30)


def spoken(client, **more) -> tuple[np.ndarray, dict]:
    wave, told = client.predict(text="Oh.", voice="emma", seed=7, api_name="/speak", **more)
    return soundfile.read(wave, dtype="float32")[0], told


def test_the_cpu_space_speaks(built, nano):
    with opened(built["cpu"]) as client:
        wave, told = spoken(client)
    assert told["model"] == "nano" and told["device"] == "cpu"
    np.testing.assert_allclose(wave, Llasa.replay(told).wav, atol=1e-3)


def test_the_zerogpu_space_lends_a_gpu_and_falls_back_to_nano(built, nano, tmp_path):
    """nano from a folder plays the released checkpoint: what the folder's name says was made on the lent GPU."""
    lm, quota, log = ROOT / "llasa_lite" / "nano" / "lm", tmp_path / "quota", tmp_path / "jobs.json"
    quota.write_text("1000")
    stand = {"LLASA_MODEL": str(lm), "STANDIN_QUOTA": str(quota), "STANDIN_LOG": str(log)}
    with opened(built["zerogpu"], STANDIN, **stand) as client:
        assert [model["name"] for model in client.predict(api_name="/models")] == [str(lm), "nano"]
        wave, told = spoken(client)
        *_, found, _ = client.predict(text="Oh.", voice="emma", n=3, outcome="asr", seed=5, api_name="/search")
        jobs = json.loads(log.read_text())
        quota.write_text("3")
        wave_again, told_again = spoken(client)
    assert told["model"] == str(lm) and told_again["model"] == "nano"
    np.testing.assert_allclose(wave, wave_again, atol=1e-3)  # the same weights
    assert [job["job"] for job in jobs] == ["tts", "search_events"] and len(found["candidates"]) == 3
    assert jobs[0]["process"] != jobs[1]["process"]
