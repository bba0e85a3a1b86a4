"""Laws of the app, driven as its users drive it: through its API, and in a real browser."""

import ast
import json
import re
import runpy
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import ROOT, buzz

pytest.importorskip("gradio", reason="pip install gradio")

import gradio as gr

from llasa_lite import CHECKPOINTS, Llasa, Stopped, Voice, audio, builtin_voices
from llasa_lite.verifiers import Verifier


@pytest.fixture
def client(server):
    from gradio_client import Client

    return Client(server, verbose=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from gradio_client import handle_file

    return handle_file(str(audio.save(buzz(1.5), tmp_path_factory.mktemp("clip") / "clip.wav")))


def speak(client, text="Oh.", voice="", seed=7, **more):
    """The wave's samples and the receipt."""
    wave, told = client.predict(text=text, voice=voice, seed=seed, api_name="/speak", **more)
    return soundfile.read(wave, dtype="float32")[0], told


# -- through the API -------------------------------------------------------------------------------------------------


def test_every_job_has_a_named_documented_endpoint_and_nothing_else_is_open(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    jobs = {"speak", "continue", "transcribe", "search", "check", "encode", "decode", "voices", "models"}
    assert set(endpoints) == {f"/{job}" for job in jobs}
    assert all(facts["description"] and facts["returns"] for facts in endpoints.values())


def test_app_py_has_no_options_and_says_where_they_are(monkeypatch, capsys):
    for given, code in ((["--port", "1"], 2), (["--help"], 0)):
        monkeypatch.setattr("sys.argv", ["app.py", *given])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
        assert left.value.code == code
    assert "llasa-lite demo --help" in capsys.readouterr().out


def test_every_job_is_an_mcp_tool_too(server):
    pytest.importorskip("mcp", reason='pip install "gradio[mcp]"')
    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask():
        async with streamablehttp_client(f"{server}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool for tool in (await session.list_tools()).tools}
                spoken = await session.call_tool("speak", {"text": "Oh.", "voice": "emma", "seed": 7})
                refused = await session.call_tool("speak", {"text": ""})
                return tools, spoken, refused

    tools, spoken, refused = anyio.run(ask)
    assert set(tools) == {"speak", "continue", "transcribe", "search", "check", "encode", "decode", "voices", "models"}
    assert tools["speak"].inputSchema["required"] == ["text"]
    for tool in tools.values():
        assert tool.description and all(told["description"] for told in tool.inputSchema["properties"].values())
    assert tools["decode"].inputSchema["properties"]["codes"]["type"] == "array"
    assert not spoken.isError and "'seed': 7" in spoken.content[0].text
    assert refused.isError and refused.content[0].text == "There is no text to speak."


def test_a_clip_in_an_mcp_call_is_cleaned_away_as_uploads_are(monkeypatch, tmp_path):
    pytest.importorskip("mcp", reason='pip install "gradio[mcp]"')
    from gradio import mcp

    from demo.guard import Page

    monkeypatch.setattr(mcp, "DEFAULT_TEMP_DIR", str(tmp_path))
    with Page() as page:
        gr.Button().click(lambda clip: None, gr.Audio(type="filepath"), api_name="encode")
    page.mcp_server_obj = mcp.GradioMCPServer(page)  # as Gradio does when it opens the page
    for given in ("data:audio/wav;base64,UklGRg==", "https://example.com/a.wav", {"path": str(ROOT / "app.py")}):
        page.mcp_server_obj.convert_strings_to_filedata({"clip": given}, [["clip"]])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 and page.upload_file_set == {str(files[0])}


def test_what_the_app_speaks_can_be_made_again_from_its_receipt(client):
    samples, told = speak(client)
    again = Llasa.replay(told)
    np.testing.assert_allclose(samples, again.wav, atol=1e-3)
    assert told["seed"] == 7 and told["seconds"] == pytest.approx(len(samples) / 16_000, abs=1e-3)


def test_a_seed_is_drawn_where_none_is_given(client):
    assert len({speak(client, seed=None)[1]["seed"] for _ in range(2)}) == 2


def test_an_own_clip_is_a_voice(client, tmp_path):
    from gradio_client import handle_file

    emma = builtin_voices()["emma"]  # a clip in which the model hears its words
    clip = handle_file(str(audio.save(emma.wav, tmp_path / "clip.wav")))
    _, told = speak(client, voice="my clip", clip=clip, transcript=emma.text)
    assert told["voice_text"] == emma.text and len(told["voice_codes"]) == pytest.approx(50 * 2.1, abs=10)


def test_after_an_own_clip_the_likeliest_of_four_takes_is_heard(nano, tmp_path):
    from demo import common, speak

    emma = builtin_voices()["emma"]
    clip = str(audio.save(emma.wav, tmp_path / "clip.wav"))
    models = SimpleNamespace(get=lambda name: nano)

    def said(text="It is late.", voice="my clip", temperature=0.7, **more):
        return speak.speak(models, "nano", text, voice, clip, emma.text, False, 3, temperature, 0.95, 2.0, **more)

    best = said()
    found = nano.search("It is late.", nano.prepare(common.own_voice(clip, emma.text)), n=4, outcome="likelihood",
                        seed=3, sampling=common.sampling_of(nano, 0.7, 0.95, 2.0))  # fmt: skip
    assert best.codes[0].tolist() == found.best.codes[0].tolist() and best.seed == 3
    np.testing.assert_array_equal(Llasa.replay(best.receipt).wav, best.wav)
    assert "of 4 candidates" in common.to_summary(best)
    chose = best.receipt["search"]
    stopped = replace(best, receipt=best.receipt | {"search": chose | {"stopped_early": not chose["stopped_early"]}})
    assert "the best until it was stopped" in common.to_summary(stopped)
    assert "search" not in said(voice="emma").receipt  # one take; nor where a text would take too long
    assert "search" not in said("It is late, and we have been here before. " * 8).receipt
    assert "search" not in said(temperature=0).receipt  # all four would be the same
    with pytest.raises(Stopped):
        said(stop=lambda: True)


def test_eight_visitors_at_once_get_each_their_own(server):
    from gradio_client import Client

    asked = [dict(voice=voice, seed=seed) for seed, voice in enumerate(list(builtin_voices())[:8])]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: speak(Client(server, verbose=False), **one), asked))
    alone = Client(server, verbose=False)
    for one, (samples, told) in zip(asked, together):
        assert (told["voice"], told["seed"]) == (one["voice"], one["seed"])
        np.testing.assert_array_equal(samples, speak(alone, **one)[0])


def test_one_visitors_settings_do_not_touch_anothers(server):
    from gradio_client import Client

    mine, theirs = Client(server, verbose=False), Client(server, verbose=False)
    before, _ = speak(mine)
    speak(theirs, "Yes.", seed=1, temperature=1.5, top_p=0.5)
    np.testing.assert_array_equal(speak(mine)[0], before)


def test_continue_gives_the_answer_alone_and_after_its_clip(client, clip):
    whole, alone, told = client.predict(clip=clip, transcript="hello there.", text="Oh.", seed=3, api_name="/continue")
    frames = {name: soundfile.info(path).frames for name, path in {"whole": whole, "alone": alone}.items()}
    assert frames["whole"] - frames["alone"] == pytest.approx(1.5 * 16_000, abs=3200) and frames["alone"] > 0
    assert told["task"] == "continue" and told["seed"] == 3


def test_transcribe_reads_what_the_library_reads(client, clip, nano):
    told = client.predict(clip=clip, api_name="/transcribe")
    heard = nano.transcribe(clip["path"])
    assert told["text"] == heard.text and told["probability"] == pytest.approx(heard.probability, abs=1e-3)
    assert [word for word, _ in told["words"]] == heard.text.split()


def test_the_winner_of_a_search_is_its_best_candidate(client):
    wave, told, found, every = client.predict(text="Oh.", voice="emma", n=3, outcome="asr", seed=5, api_name="/search")
    scores = [candidate["scores"]["asr"] for candidate in found["candidates"]]
    assert len(scores) == 3 and scores[0] == max(scores)
    with zipfile.ZipFile(every) as file:
        assert json.loads(file.read("scores.json"))["candidates"] == found["candidates"]
        assert sum(name.endswith(".wav") for name in file.namelist()) == 3
    np.testing.assert_allclose(soundfile.read(wave, dtype="float32")[0], Llasa.replay(told).wav, atol=1e-3)


def test_tokens_survive_the_way_there_and_back(client, clip, nano):
    told = client.predict(clip=clip, api_name="/encode")
    wave = client.predict(codes=told["codes"], api_name="/decode")
    samples, _ = soundfile.read(wave, dtype="float32")
    np.testing.assert_allclose(samples, nano.codec.decode(told["codes"]), atol=1e-3)


def test_a_prompt_check_sees_clipping_and_silence(client, tmp_path):
    from gradio_client import handle_file

    bad = np.clip(4 * np.concatenate([buzz(1.0), np.zeros(16_000, np.float32)]), -1, 1)
    back, told = client.predict(clip=handle_file(str(audio.save(bad, tmp_path / "bad.wav"))), api_name="/check")
    assert told["clipped"] > 0.005 and told["silent"] == pytest.approx(0.5, abs=0.2)
    assert [line[0] for line in told["advice"]] == ["⚠", "⚠", "✓", "⚠"]
    assert soundfile.info(back).frames == len(bad)


@pytest.mark.parametrize("seconds, why", [(0.3, "at least 0.5 s are needed"), (16.0, "give 15 s or less")])
def test_a_prompt_check_tells_a_clip_that_cannot_serve(client, tmp_path, seconds, why):
    from gradio_client import handle_file

    _, told = client.predict(clip=handle_file(str(audio.save(buzz(seconds), tmp_path / "clip.wav"))), api_name="/check")
    assert told["advice"][0].startswith("✗ The voice clip") and why in told["advice"][0]


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(text=""), "There is no text to speak"),
        (dict(text="🎈"), "There is nothing to say in this text"),
        (dict(text="a" * 5000), "The text has 5,000 characters"),
        (dict(voice="my clip"), "There is no clip yet"),
        (dict(voice="nobody"), "not in the list of choices"),
        (dict(seed=0.5), "A seed is a whole number"),
        (dict(seed=10**400), "from 0 to 9,007,199,254,740,991"),
        (dict(temperature=3), "temperature must lie in 0..2"),
        (dict(model="llasa-8b"), "needs a GPU|Cannot load"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_reaches_the_visitor_as_its_sentence(client, given, sentence):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=sentence):
        speak(client, **given)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(outcome="asr:openai/whisper-base"), "Unknown verifier 'asr:openai/whisper-base'"),
        (dict(outcome="0.5*asr + x*speaker"), "is not a weight"),
        (dict(n=1000), "N must lie in 1..32"),
        (dict(text="word " * 100), "search takes at most 300"),
        (dict(text="word " * 50, method="beam_search", n=32, branch=4), "would keep everybody waiting"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_search_a_visitor_may_not_ask_for_is_refused(client, given, sentence):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=sentence):
        client.predict(api_name="/search", **(dict(text="Oh.", voice="emma") | given))


@pytest.mark.parametrize(
    "codes", [[], [-1], ["a"], [True], [10**9], {"0": 1}, list(range(4000))], ids=lambda v: str(v)[:12]
)
def test_codes_that_are_none_are_refused(client, codes):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="[Cc]odes"):
        client.predict(codes=codes, api_name="/decode")


def test_clips_are_capped(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    long = audio.save(np.tile(buzz(1.0), 61), tmp_path / "long.flac")
    with pytest.raises(AppError, match="at most 60 s"):
        client.predict(clip=handle_file(str(long)), api_name="/encode")
    (tmp_path / "notes.wav").write_text("dear diary")
    with pytest.raises(AppError, match="Cannot read .* as audio"):
        client.predict(clip=handle_file(str(tmp_path / "notes.wav")), api_name="/transcribe")


def test_files_of_the_server_cannot_be_asked_for(server):
    """Neither as a clip that was never uploaded, nor by address."""
    asked = {"data": [{"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}, "nano"]}
    request = urllib.request.Request(
        f"{server}/gradio_api/call/transcribe", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{server}/gradio_api/call/transcribe/{event}").read().decode()
    assert "event: error" in answer and "was not uploaded by a user" in answer
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/gradio_api/file={ROOT / 'README.md'}")
    assert refused.value.code in (403, 404)


def test_the_readmes_example_for_programs_runs(server, monkeypatch, tmp_path):
    (example,) = re.findall(r"```python\n(from gradio_client .*?)```", (ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    audio.save(buzz(1.5), "me.wav")
    exec(example.replace("http://127.0.0.1:7860", server), {})


def test_licences_are_shown_where_models_are_chosen(server, client):
    page = json.load(urllib.request.urlopen(f"{server}/config"))
    (radio,) = [c for c in page["components"] if c["props"].get("elem_id") == "model"]
    choices = {name: label for label, name in radio["props"]["choices"]}
    told = client.predict(api_name="/models")
    assert list(choices) == list(CHECKPOINTS) == [row["name"] for row in told]
    assert told[0]["source"] == "here" and told[1]["source"] == CHECKPOINTS[told[1]["name"]].source
    assert all(CHECKPOINTS[name].licence in label for name, label in choices.items())


# -- the page's parts ------------------------------------------------------------------------------------------------


def test_edits_of_tokens_do_what_their_names_say():
    from demo import editing

    a, b = list(range(10)), list(range(100, 112))
    assert editing.cut(a, b, 2, 5, 2) == ([0, 1, 5, 6, 7, 8, 9], b)
    assert editing.repeat(a, b, 2, 4, 3)[0] == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9]
    assert editing.swap(*editing.swap(a, b, 2, 5, 2), 2, 5, 2) == (a, b)
    for begin, end in ((5, 5), (-1, 3), (0, 11), (None, 3)):
        with pytest.raises(ValueError, match="Pick tokens of A"):
            editing.span_of(begin, end, len(a))


def test_a_picture_has_every_token_at_its_place(nano):
    """Long text is spoken in pieces with silence between them."""
    from demo import picture

    speech = nano.tts("Oh yes. " * 12, "emma", seed=1)
    assert len(speech.codes) > 1
    drawn = picture.of_speech(nano.codec, speech)
    assert [run["codes"] for run in drawn["runs"]] == [codes.tolist() for codes in speech.codes]
    ends = [run["begin"] + len(run["codes"]) / 50 for run in drawn["runs"]]
    gaps = [run["begin"] - end for run, end in zip(drawn["runs"][1:], ends)]
    assert ends[-1] == pytest.approx(drawn["seconds"]) and gaps == pytest.approx([gaps[0]] * len(gaps))


class Longest(Verifier):
    name, source, unit, low, high = "speaker", "test", "s", 0.0, 1e6

    def _load(self):
        pass

    def _score(self, waves, target, codes):
        return [len(wav) / 16_000 for wav in waves]


def watched(nano, monkeypatch, tmp_path, stop_after=10**9, seen=None, **asked):
    """What Search shows a visitor, event by event, `seen` at once; Stop is pressed after so many."""
    import gradio as gr

    from demo import common, searching

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(searching, "criterion_of", lambda name: Longest())
    given = dict(method="best_of_n", n=4, outcome="speaker", process="speaker", branch=2, seconds=0.5) | asked
    models = SimpleNamespace(get=lambda name: nano, codec_of=lambda name, speech: nano.codec)
    with gr.Blocks():
        heard = gr.HTML()
    seen = [] if seen is None else seen
    for shown in searching.show(
        models, heard, "visitor", "nano", "Oh yes, I do.", "emma", None, "", *given.values(), False, 3, 0.7, 0.95, 1.5
    ):
        seen.append(shown)
        if len(seen) == stop_after:
            common.give_up(SimpleNamespace(session_hash="visitor"), "search")
    return seen


def test_stop_and_leaving_the_page_give_up_whole_speech(nano, clip):
    """Gradio frees the page; the machine has to be told."""
    from demo import common, continuing, speak

    told, long = [], "Oh yes, that is what I said. " * 60

    def begun(tab):  # None: the page is left, no Stop of a tab
        for session, place in (("visitor", "search"), ("another", None), ("visitor", tab)):
            common.give_up(SimpleNamespace(session_hash=session), place)
            told.extend(flag.is_set() for _, _, flag in common._at_work)
        return nano

    for tab in ("speak", None):
        models = SimpleNamespace(get=lambda name, tab=tab: begun(tab))
        shown = speak.show(models, None, "visitor", [], "nano", long, "emma", None, "", False, 3, 0.7, 0.95, 1.5)
        assert shown == (shown[0],) * 9  # the page stays as it is
    for tab in ("continue", None):
        models = SimpleNamespace(get=lambda name, tab=tab: begun(tab))
        shown = continuing.show(models, "visitor", "nano", clip["path"], "hello there.", long, False, 3, 0.7, 0.95, 1.5)
        assert shown == (shown[0],) * 6
    assert told == [False, False, True] * 4 and not common._at_work


def test_who_asks_for_more_than_the_memory_holds_is_told_to_ask_for_less():
    import torch

    from demo import common

    for error, told in (
        (MemoryError(), "Take a shorter text, or fewer candidates"),
        (torch.OutOfMemoryError("CUDA out of memory."), "Take a shorter text, or fewer candidates"),
        (RuntimeError("CUDA error"), "it is not your input"),
    ):
        with pytest.raises(gr.Error, match=told), common.plain_errors():
            raise error


@pytest.mark.parametrize("temperature, advice", [(0.0, "Raise the temperature"), (0.7, "Try another seed")])
def test_no_other_seed_is_advised_where_all_say_the_same(nano, temperature, advice):
    from demo import common

    tuned = common.sampling_of(nano, temperature, 0.95, 1.0)
    one, other = (nano.tts("Oh.", "michael", seed, tuned) for seed in (1, 2))
    assert np.array_equal(one.wav, other.wav) == (temperature == 0)
    assert advice in common.to_summary(replace(one, stopped=["repetition"]))


def test_the_first_sound_of_a_stream_comes_before_its_last(nano, monkeypatch, tmp_path):
    """Also where a clip was listened to before."""
    from demo import speak

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(speak, "asked_voice", lambda *asked: time.sleep(2))
    models = SimpleNamespace(get=lambda name: nano, codec_of=lambda name, speech: nano.codec)
    asked = ("nano", "Oh.", "my clip", "clip.wav", "", False, 3, 0.7, 0.95, 2.0)
    *_, last = speak.stream_speech(models, SimpleNamespace(temp_files=set()), [], *asked)
    whole, first = re.search(r"speech in ([\d.]+) s, the first of it after ([\d.]+) s", last[3]).groups()
    assert float(first) <= float(whole)


def test_a_clip_longer_than_a_prompt_stands_whole_before_its_continuation(nano, tmp_path):
    """With words that are recognised too."""
    from demo import continuing

    waves = [voice.wav for voice in list(builtin_voices().values())[:3]]
    long = str(audio.save(np.concatenate(waves), tmp_path / "long.wav"))
    models = SimpleNamespace(get=lambda name: nano)
    before, speech = continuing.continue_clip(models, "nano", long, "", "Oh.", False, 3, 0.7, 0.95, 2.0)
    assert len(before) == pytest.approx(sum(map(len, waves)), abs=3200)
    assert len(speech.receipt["voice_codes"]) * 320 < 0.7 * len(before)


def test_words_are_recognised_in_all_of_a_clip_that_is_longer_than_a_prompt(nano, tmp_path):
    from demo import clips

    waves = [voice.wav for voice in list(builtin_voices().values())[:3]]
    long = str(audio.save(np.concatenate(waves), tmp_path / "long.wav"))
    text, recognised = clips.recognise_again(SimpleNamespace(get=lambda name: nano), "nano", long)
    assert text == recognised == nano.transcribe(long).text


def test_a_word_does_not_set_the_pace_that_long_texts_are_announced_by(nano, monkeypatch, tmp_path):
    from demo import speak

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for text, known in (("Oh.", False), ("Oh yes, that is what I said to him.", True)):
        _, pace, *_ = speak.remember(SimpleNamespace(temp_files=set()), [], nano.tts(text, "emma", seed=3))
        assert isinstance(pace, float) == known


def test_takes_that_are_chosen_from_do_not_count_as_one_in_the_pace():
    from demo import asking

    text = "Oh yes, that is what I said to him."
    assert asking.pace_of(1.75 * 2.0, text, 4) == pytest.approx(asking.pace_of(2.0, text)) == 2.0 / len(text)


def test_the_cards_figures_point_at_nothing_that_the_page_does_not_have():
    from demo import about

    figures = about.figures()
    assert "| WER |" in figures and "](#" not in figures and figures.endswith(").")


def test_stop_keeps_the_best_so_far(nano, monkeypatch, tmp_path):
    full = watched(nano, monkeypatch, tmp_path, n=8)
    first = next(k for k, shown in enumerate(full) if shown[1]["rows"])
    stopped = watched(nano, monkeypatch, tmp_path, n=8, stop_after=first + 1)
    rows = stopped[-1][1]["rows"]
    assert 0 < len(rows) < len(full[-1][1]["rows"]) == 8 and "Stopped" in stopped[-1][0]
    assert rows[0]["best"] and rows[0]["seconds"] == max(row["seconds"] for row in rows)
    *_, summary, wave, receipt, every, seed, _ = stopped[-1]
    assert (
        seed == 3 and zipfile.ZipFile(every.value["path"] if isinstance(every.value, dict) else every.value).namelist()
    )


def test_a_search_stopped_before_anything_was_made_says_so_on_the_page(nano, monkeypatch, tmp_path):
    seen = watched(nano, monkeypatch, tmp_path, stop_after=1)
    assert seen[0][0].startswith("Reading the prompt") and seen[-1][0].startswith("Stopped.")
    assert seen[-1][1:] == (seen[-1][1],) * 10  # the rest of the page stays as it is


def test_while_a_search_runs_no_speech_of_the_one_before_is_called_its_best(nano, monkeypatch, tmp_path):
    wave, drawn, summary, *files = watched(nano, monkeypatch, tmp_path)[0][3:9]
    assert wave is None and drawn is None and summary == ""
    assert all(file.interactive is False and file.value is None for file in files) and len(files) == 3


def test_while_a_stream_is_heard_no_speech_before_it_is_shown_as_it(nano, monkeypatch, tmp_path):
    import gradio as gr

    from demo import speak

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    models = SimpleNamespace(get=lambda name: nano, codec_of=lambda name, speech: nano.codec)
    given = ("emma", None, "", False, 3, 0.7, 0.95, 1.5)
    opened, first, *_ = speak.stream_speech(models, SimpleNamespace(temp_files=set()), [], "nano", "Oh yes.", *given)
    assert opened[1:] == (gr.skip(),) * 9  # what is refused leaves the page as it was
    assert first[1:4] == (None, None, "") and not any(file.interactive for file in first[4:6])


def test_every_candidate_that_was_cut_off_says_why(monkeypatch, tmp_path):
    from demo import searching
    from llasa_lite import Candidate, beams

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    watch = searching.Watch(SimpleNamespace(temp_files=set()))
    for stopped in (beams.END, beams.LENGTH, beams.SILENCE, beams.REPETITION, beams.RUNNING):
        watch.add(Candidate(0, np.zeros(1, int), np.zeros(320, np.float32), stopped))
    ended, *cut_off = [row["note"] for _, row in watch.rows]
    assert not ended and all(cut_off) and len(set(cut_off)) == 4


def test_of_a_text_in_pieces_the_best_of_every_piece_is_marked(monkeypatch, tmp_path):
    """The speech is made of these, and one piece's scores say nothing of another's."""
    from demo import searching
    from llasa_lite import Candidate

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    watch = searching.Watch(SimpleNamespace(temp_files=set()))
    for chunk, scores in ((0, (-3.0, -2.0)), (1, (-0.5, -1.0))):
        for index, score in enumerate(scores):
            wav, scored = np.zeros(320, np.float32), ({"asr": score}, (score,))
            watch.add(Candidate(index, np.zeros(1, int), wav, "end", *scored), chunk, 2)
    rows = [(row["title"], row["best"]) for row in watch.table()["rows"]]
    assert rows == [
        ("Candidate 2, piece 1", True),
        ("Candidate 1, piece 1", False),
        ("Candidate 1, piece 2", True),
        ("Candidate 2, piece 2", False),
    ]
    assert "best: candidate 2, piece 1, -2.000 · best: candidate 1, piece 2, -0.500" in watch.status()


def test_a_search_that_is_refused_leaves_the_page_as_it_was(nano, monkeypatch, tmp_path):
    import gradio as gr

    seen = []
    with pytest.raises(gr.Error, match="N must lie in 1..32"):
        watched(nano, monkeypatch, tmp_path, seen=seen, n=1000)
    assert not seen


def test_a_guided_search_shows_its_beams(nano, monkeypatch, tmp_path):
    final = watched(nano, monkeypatch, tmp_path, method="partial_prm", n=2)[-1]
    assert final[2].count("<svg") == 3 and re.search(r"\d+ beams in \d+ steps, [12] of them left", final[2])


def test_every_text_of_the_page_is_there_in_both_languages_and_used(server):
    from demo.words import CHINESE, ENGLISH

    def keys(value):
        if isinstance(value, str):
            return {json.loads(value.removeprefix("__i18n__"))["key"]} if value.startswith("__i18n__") else set()
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set().union(*map(keys, parts))

    page = json.load(urllib.request.urlopen(f"{server}/config"))
    (cards,) = [c["props"]["props"]["cards"] for c in page["components"] if c["props"].get("elem_id") == "speak-voice"]
    notes = {card["note"] for card in cards}
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "demo").glob("*.[jp][sy]"))
    nodes = [
        node for file in (ROOT / "demo").glob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    ]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "said"]
    said = {ast.literal_eval(call.args[0]) for call in calls}
    in_the_browser = set(re.findall(r"said\('(.*?)'[,)]", sources))
    quoted = {node.value for node in nodes if isinstance(node, ast.Constant)}
    named = {key for key in CHINESE if key in quoted or re.search(f"'{re.escape(key)}'", sources)}
    assert said and in_the_browser and said | in_the_browser | notes <= set(CHINESE)
    assert set(ENGLISH) == set(CHINESE) == keys(page["components"]) | named | notes
    for key in said | in_the_browser:
        values = [sorted(re.findall(r"{.*?}", words[key])) for words in (ENGLISH, CHINESE)]
        assert values[0] == values[1], key


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # which a container's root needs
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--window-size=1280,1200")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield page
    page.quit()


def until(page, what, seconds=120):
    """Wait until a JavaScript expression is true; its value. What is not there yet is not true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := page.execute_script(f"try {{ return {what} }} catch {{ return null }}"):
            return value
        time.sleep(0.2)
    raise AssertionError(f"this did not become true: {what}\n{page.find_element('tag name', 'body').text}")


def opened(page, server, address="/"):
    page.get(server + address)
    until(page, "document.querySelectorAll('#speak-voice input').length && document.querySelector('#speak-button')")
    until(page, "document.querySelector('#speak-text textarea').value.length > 0")
    page.get_log("browser")  # of the page before
    return page


def type_text(page, text, tab="speak"):
    box = page.find_element("css selector", f"#{tab}-text textarea")
    box.clear()
    box.send_keys(text)


def press(page, name):
    page.execute_script(f"document.getElementById('{name}').click()")


def text_of(name):
    return f"document.getElementById('{name}').innerText"


def go_to(page, tab):
    """A tab by its name; narrow pages keep some behind a button."""
    page.execute_script(
        """
        const named = () => [...document.querySelectorAll('#tabs button')].filter(b => b.textContent.trim() === TAB);
        const shown = named().find(b => b.role === 'tab' && b.offsetParent);
        if (!shown) document.querySelector('#tabs .overflow-menu > button').click();
        setTimeout(() => (shown ?? named().at(-1)).click(), shown ? 0 : 200);
        """.replace("TAB", repr(tab))
    )
    until(page, f"document.querySelector('#tabs button[aria-selected=true]')?.textContent.trim() === {tab!r}")


def errors(page):
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_click_on_speak_gives_sound_and_its_tokens(browser, server):
    page = opened(browser, server)
    assert re.match(r"47 / 2,000 · ~ [\d.]+ s", until(page, text_of("speak-counter")))
    type_text(page, "Oh, yes.")
    press(page, "speak-button")
    summary = until(page, f"/seed \\d+/.test({text_of('speak-summary')}) && {text_of('speak-summary')}")
    seconds = float(re.match(r"([\d.]+) s of speech", summary)[1])
    assert until(page, "document.querySelector('#speak-audio audio').duration") == pytest.approx(seconds, abs=0.06)
    tokens = int(re.match(r"(\d+) tokens", until(page, text_of("speak-picture")))[1])
    assert tokens / 50 == pytest.approx(seconds, abs=0.06)
    assert until(page, "document.querySelectorAll('#speak-takes tbody tr').length") == 1
    assert until(page, "document.querySelector('#speak-wave').closest('a, button').disabled !== true")
    assert not errors(page)


def test_an_error_is_told_in_its_own_words(browser, server):
    page = opened(browser, server)
    type_text(page, "?!")
    press(page, "speak-button")
    until(page, "document.body.innerText.includes('There is nothing to say in this text')")


def test_no_sound_is_waited_for_where_a_stream_is_refused(browser, server):
    page = opened(browser, server)
    type_text(page, "?!")
    press(page, "stream-button")
    until(page, "document.body.innerText.includes('There is nothing to say in this text')")
    until(page, "!document.querySelector('#speak-stream').offsetParent", 10)  # not: Waiting for the first sound
    type_text(page, "Oh.")
    press(page, "stream-button")
    until(page, "document.querySelector('#speak-stream [data-seconds]').dataset.seconds > 0.2")


def test_words_are_not_shown_beside_another_clip(browser, server, tmp_path):
    page, heard = opened(browser, server), "document.querySelector('#transcribe-text textarea').value"
    go_to(page, "Transcribe")
    clip = audio.save(builtin_voices()["emma"].wav, tmp_path / "emma.wav")
    page.find_element("css selector", "#transcribe-clip input[type=file]").send_keys(str(clip))
    until(page, "document.querySelector('#transcribe-clip [aria-label=Clear]')")
    press(page, "transcribe-button")
    until(page, f"{heard} && {text_of('transcribe-summary')}.includes('probability')")
    page.find_element("css selector", "#transcribe-clip [aria-label=Clear]").click()
    until(page, f"{heard} === '' && {text_of('transcribe-summary')}.includes('then press Transcribe')")
    assert not page.find_elements("css selector", "#transcribe-words li")


def test_a_voice_is_chosen_and_a_sentence_spoken_with_the_keyboard_alone(browser, server):
    from selenium.webdriver.common.keys import Keys

    page = opened(browser, server)
    focus = page.find_element("css selector", "#speak-text textarea")
    for _ in range(40):
        focus.send_keys(Keys.TAB)
        focus = page.switch_to.active_element
        if focus.get_attribute("name") == "speak-voice":
            break
    focus.send_keys(Keys.ARROW_RIGHT)
    voice = page.execute_script("return document.querySelector('#speak-voice input:checked').value")
    for _ in range(40):
        focus = page.switch_to.active_element
        if focus.get_attribute("id") == "speak-button":
            break
        focus.send_keys(Keys.TAB)
    focus.send_keys(Keys.ENTER)
    row = until(page, "document.querySelector('#speak-takes tbody tr')?.innerText")
    assert voice != "michael" and f"{voice} · nano" in row


def test_of_takes_pressed_one_after_the_other_the_one_that_plays_can_be_stopped(browser, server):
    page = opened(browser, server)
    for count in (1, 2):
        type_text(page, "Oh, yes.")
        press(page, "speak-button")
        until(page, f"document.querySelectorAll('#speak-takes tbody button').length === {count}")
        # which plays by itself, and would silence the takes
        speech = "document.querySelector('#speak-audio audio')"
        until(page, f"{speech}.played.length && {speech}.currentSrc !== window.before")
        page.execute_script(f"window.before = {speech}.currentSrc")
    page.set_network_conditions(offline=False, latency=500, throughput=500 * 1024)  # a wave takes a while to come
    try:
        shown = page.execute_async_script("""
            const done = arguments[0], button = k => document.querySelectorAll('#speak-takes tbody button')[k];
            button(0).click();
            setTimeout(() => button(1).click(), 50);
            setTimeout(() => done([0, 1].map(k => button(k).textContent)), 400);
        """)
    finally:
        page.delete_network_conditions()
    assert shown == ["▶", "■"]


def test_one_sound_is_heard_at_a_time(browser, server, clip):
    page = opened(browser, server)
    type_text(page, "Oh yes, that is what I said to him. " * 3)
    press(page, "speak-button")
    until(page, "document.querySelector('#speak-takes tbody button')")
    take, voice = "#speak-takes tbody button", "#speak-voice button[data-name=emma]"
    playing = f"""[!document.querySelector('#speak-audio audio').paused,
                   ...['{take}', '{voice}'].map(name => document.querySelector(name).textContent === '■')].join()"""
    until(page, f"{playing} === 'true,false,false'", 20)
    for pressed, heard in ((take, "false,true,false"), (voice, "false,false,true")):
        page.execute_script(f"document.querySelector('{pressed}').click()")
        until(page, f"{playing} === '{heard}'", 20)
    # pressed by the page itself: on a busy machine a chunk may sound for less than we need to look
    streams = f"{playing} === 'false,false,false' && {text_of('speak-stream')}.includes('Playing')"
    click = f"if ({streams}) {{ clearInterval(looks); document.querySelector('{take}').click() }}"
    page.execute_script(f"const looks = setInterval(() => {{ try {{ {click} }} catch {{}} }}, 50)")
    press(page, "stream-button")
    until(page, f"{playing} === 'false,true,false' && {text_of('speak-stream')}.includes('Stopped')")
    page.execute_script("document.querySelector('#speak-voice input[value=\"my clip\"]').click()")
    until(page, "document.querySelector('#speak-clip input[type=file]')")
    page.find_element("css selector", "#speak-clip input[type=file]").send_keys(clip["path"])
    until(page, "document.querySelector('#speak-clip button[aria-label=Play]')")
    page.execute_script("document.querySelector('#speak-audio audio').play()")
    until(page, f"{playing} === 'true,false,false'", 20)
    page.execute_script("document.querySelector('#speak-clip button[aria-label=Play]').click()")  # a player of Gradio's
    until(page, f"{playing} === 'false,false,false'", 5)  # long before the speech ends
    assert not errors(page)


def test_a_stream_that_is_made_slower_than_it_sounds_says_that_more_comes(browser, server):
    page, told = opened(browser, server), text_of("speak-stream")
    type_text(page, "Oh yes, that is what I said to him. " * 3)
    page.set_network_conditions(offline=False, latency=0, throughput=12 * 1024)  # 0.7 s of sound are 30 KB
    try:
        press(page, "stream-button")
        until(page, f"{told}.includes('waiting for more')")
    finally:
        page.delete_network_conditions()
    until(page, f"/^Played [0-9.]+ s$/.test({told}.trim())")
    assert not errors(page)


def test_a_voice_that_could_not_be_heard_can_be_pressed_again(browser, server):
    page, button = opened(browser, server), "document.querySelector('#speak-voice button[data-name=emma]')"
    away = "window.fetch = (...a) => /component_server/.test(a[0]?.url ?? a[0]) ? ANSWER : answered(...a)"
    page.execute_script("window.answered = window.fetch; " + away.replace("ANSWER", "new Promise(() => null)"))
    page.execute_script(f"{button}.click(); {button}.click()")  # waited for, then given up
    until(page, f"{button}.textContent === '▶'", 20)
    page.execute_script(away.replace("ANSWER", "Promise.reject(Error('away'))"))
    page.execute_script(f"{button}.click()")
    until(page, f"{button}.textContent === '▶'", 20)
    page.execute_script(away.replace("ANSWER", "(window.came = answered(...a))"))
    page.execute_script(f"{button}.click()")
    until(page, "window.came", 20)  # it is asked for again


def test_an_own_clip_is_checked_and_transcribed_on_arrival(browser, server, clip):
    page = opened(browser, server)
    announced = f"parseFloat({text_of('speak-counter')}.split('~')[1])"
    one = until(page, announced)
    page.execute_script("document.querySelector('#speak-voice input[value=\"my clip\"]').click()")
    until(page, "document.querySelector('#speak-clip input[type=file]')")
    until(page, f"Math.abs({announced} / {one} - 1.75) < 0.1", 10)  # the likeliest of four takes
    page.find_element("css selector", "#speak-clip input[type=file]").send_keys(clip["path"])
    report = until(page, f"/mean probability/.test({text_of('speak-check')}) && {text_of('speak-check')}")
    assert "Length 1.5 s" in report and "✓ Clipping 0.0 %" in report
    assert until(page, "document.querySelector('#speak-trip audio').duration") == pytest.approx(1.5, abs=0.2)
    assert until(page, "document.querySelector('#speak-transcript textarea').value.length")
    page.execute_script("document.querySelector('#speak-clip button[aria-label=Clear]').click()")
    until(page, "document.querySelector('#speak-transcript textarea').value === ''")  # it was of that clip
    assert not errors(page)


def test_nothing_is_told_of_a_clip_that_was_taken_away_while_it_waited(browser, server, client, clip):
    page = opened(browser, server)
    page.execute_script("document.querySelector('#speak-voice input[value=\"my clip\"]').click()")
    until(page, "document.querySelector('#speak-clip input[type=file]')")
    ahead = client.submit(text="Oh yes, that is what I said. " * 60, voice="emma", seed=7, api_name="/speak")
    time.sleep(1)
    page.find_element("css selector", "#speak-clip input[type=file]").send_keys(clip["path"])
    waits = "document.querySelector('#speak-transcript').innerText.includes('queue:')"
    until(page, waits)
    page.execute_script("document.querySelector('#speak-clip button[aria-label=Clear]').click()")
    until(page, f"!{waits}", 10)
    ahead.result()
    speak(client)  # what was asked for before it would be done now
    assert page.execute_script("return document.querySelector('#speak-transcript textarea').value") == ""
    assert not page.execute_script("return document.querySelector('#speak-check')?.innerText")
    assert not errors(page)


def test_what_a_visitor_types_while_a_clip_is_listened_to_is_kept(browser, server, client, clip):
    page = opened(browser, server)
    go_to(page, "Continue")
    ahead = client.submit(text="Oh yes, that is what I said. " * 60, voice="emma", seed=7, api_name="/speak")
    time.sleep(1)
    page.find_element("css selector", "#continue-clip input[type=file]").send_keys(clip["path"])
    until(page, "document.querySelector('#continue-transcript').innerText.includes('queue:')")
    page.find_element("css selector", "#continue-transcript textarea").send_keys("I know it.")
    ahead.result()
    until(page, "document.body.innerText.includes('The text you typed is kept')")
    assert page.execute_script("return document.querySelector('#continue-transcript textarea').value") == "I know it."
    assert "is a guess" not in page.execute_script(f"return {text_of('continue-check')}")
    assert not errors(page)


def test_what_of_a_long_clip_the_model_was_not_given_is_no_silence(browser, server, tmp_path):
    page = opened(browser, server)
    go_to(page, "Continue")
    page.find_element("css selector", "#continue-transcript textarea").send_keys("hello there.")
    waves = [voice.wav for voice in list(builtin_voices().values())[:3]]
    long = audio.save(np.concatenate(waves), tmp_path / "long.wav")
    page.find_element("css selector", "#continue-clip input[type=file]").send_keys(str(long))
    until(page, f"/Length 7/.test({text_of('continue-check')})")
    type_text(page, "Oh.", "continue")
    press(page, "continue-button")
    until(page, f"/Clip 7/.test({text_of('continue-picture')})")
    told = page.execute_script("""
        const plane = document.querySelector('#continue-picture .plane'), box = plane.getBoundingClientRect();
        return [0.1, 0.75].map(place => {
            plane.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + place * box.width}));
            return document.querySelector('#continue-picture .foot span').innerText;
        });
    """)
    assert told[0].startswith("token ") and "past the part of the clip" in told[1]
    assert not errors(page)


def test_a_model_that_cannot_run_here_says_so_and_leaves_the_choice(browser, server):
    page = opened(browser, server)
    page.execute_script("document.querySelector('#model input[value=llasa-8b]').click()")
    until(page, "/needs a GPU|Cannot load/.test(document.body.innerText)")
    until(page, "document.querySelector('#model input:checked').value === 'nano'")


def test_speech_and_streams_survive_stop_and_a_reload_in_the_middle(browser, server):
    page = opened(browser, server)
    type_text(page, "Oh yes, that is what I said. " * 60)
    press(page, "speak-button")
    until(page, "document.querySelector('#speak-audio .progress-text, #speak-audio .eta-bar')")
    press(page, "stop-button")
    until(page, "!document.querySelector('#speak-audio .progress-text, #speak-audio .eta-bar')")
    type_text(page, "Oh yes, that is what I said. " * 12)
    press(page, "stream-button")
    until(page, "document.querySelector('#speak-stream [data-chunks]')?.dataset.chunks > 0")
    page.execute_script("""
        const sound = AudioBufferSourceNode.prototype, stop = sound.stop;
        window.cut = 0;
        sound.stop = function () { window.cut++; return stop.call(this); };
    """)
    press(page, "stream-button")  # which Gradio ignores while it is at work: what is waiting to be heard still is
    assert page.execute_script("return window.cut") == 0
    press(page, "stop-button")
    until(page, f"{text_of('speak-stream')}.includes('Stopped')")
    press(page, "stream-button")
    page = opened(page, server)  # while it speaks
    type_text(page, "Oh.")
    press(page, "stream-button")
    until(page, f"{text_of('speak-summary')}.includes('the first of it after')")
    assert not errors(page)


def test_nobody_waits_for_speech_whose_visitor_has_left(browser, server, served, client):
    def long_ones():
        return {path for path in served.rglob("speech.wav") if soundfile.info(path).duration > 60}

    before = long_ones()
    page = opened(browser, server)
    type_text(page, "Oh yes, that is what I said. " * 68)  # two minutes of speech
    until(page, f"/1,97/.test({text_of('speak-counter')})")
    press(page, "speak-button")
    until(page, "document.querySelector('#speak-audio .progress-text, #speak-audio .eta-bar')")
    page.get("about:blank")
    speak(client)  # one at a time: what was begun before it has ended, one way or the other
    assert long_ones() == before


def test_stop_withdraws_a_search_that_still_waits_for_its_turn(browser, server, client):
    page = opened(browser, server)
    go_to(page, "Search")
    ahead = client.submit(text="Oh yes, that is what I said. " * 60, voice="emma", seed=7, api_name="/speak")
    time.sleep(1)
    press(page, "search-button")
    waits = "document.querySelector('#search-status').innerText.includes('queue:')"
    until(page, waits)
    press(page, "search-stop")
    until(page, f"!{waits}", 10)
    ahead.result()
    speak(client)  # what was asked for before it would be done now
    assert page.execute_script(f"return {text_of('search-status')}").startswith("Press Search")
    assert not errors(page)


def test_search_shows_candidates_and_tokens_can_be_edited(browser, server):
    page = opened(browser, server)
    go_to(page, "Search")
    type_text(page, "Oh.", "search")
    press(page, "search-button")
    until(page, f"{text_of('search-status')}.includes('verifying')")
    assert page.execute_script("return document.querySelectorAll('#search-takes tbody tr').length") == 8
    assert page.execute_script("return document.querySelectorAll('#search-takes tr.best').length") == 1
    assert len(page.find_elements("css selector", "#search-curves svg")) == 2
    type_text(page, "Oh yes, that is what I said. " * 8, "search")  # in pieces: there is time to press Stop
    press(page, "search-button")
    until(page, "/piece 1/.test(document.querySelector('#search-takes tbody').innerText)")
    press(page, "search-stop")
    until(page, f"{text_of('search-status')}.includes('Stopped')")
    until(page, f"{text_of('search-summary')}.includes('Not complete')")
    go_to(page, "Tokens")
    before = until(page, f"(t => t && parseInt(t.match(/A: (\\d+)/)[1]))({text_of('tokens-facts')})")
    press(page, "tokens-cut")
    until(page, f"parseInt({text_of('tokens-facts')}.match(/A: (\\d+)/)[1]) === {before - 50}")
    press(page, "tokens-undo")
    until(page, f"parseInt({text_of('tokens-facts')}.match(/A: (\\d+)/)[1]) === {before}")
    assert not errors(page)


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
CONTROLS = {"Audio", "button", "textbox", "radio", "slider", "combobox", "checkbox", "spinbutton", "tab", "link"}


def test_a_phone_shows_every_tab_without_scrolling_sideways_and_every_control_has_a_name(browser, server):
    page = browser
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        opened(page, server)
        box = "document.querySelector('#speak-voice {}').getBoundingClientRect()"
        card, cards = box.format(".card:has(input:checked)"), box.format(".cards")
        assert until(page, f"{card}.left >= {cards}.left - 1 && {card}.right <= {cards}.right + 1")  # the chosen voice
        for tab in ("Speak", "Continue", "Transcribe", "Search", "Tokens", "About"):
            go_to(page, tab)
            if tab == "Tokens":
                until(page, "document.querySelector('#tokens-audio-a audio').duration")
                until(page, "document.querySelector('#tokens-audio-b audio').duration")
            assert page.execute_script("return document.documentElement.scrollWidth") <= 390, tab
            headings = (
                "[...document.querySelectorAll('h1, h2, h3, h4')].filter(h => h.offsetParent).map(h => h.tagName)"
            )
            assert set(page.execute_script(f"return {headings}")) <= {"H1", "H2"}, tab  # no level is left out
            tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
            seen = [node for node in tree if not node["ignored"] and node.get("role", {}).get("value") in CONTROLS]
            nameless = [node for node in seen if not node.get("name", {}).get("value")]
            assert not nameless, (tab, nameless)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_fingers_and_the_mouse_pick_tokens_and_a_finger_scrolls_past_them(browser, server):
    page = browser

    def dragged(kind, across, down):
        """From the middle of clip A's picture, by parts of its width and by pixels."""
        box = page.execute_script(
            "const plane = document.querySelector('#tokens-picture-a .plane'); plane.scrollIntoView({block: 'center'});"
            "return plane.getBoundingClientRect()"
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for k, step in enumerate(("Start", "Move", "Move", "Move", "End")):
            at = {"x": x + box["width"] * across * min(k, 3) / 3, "y": y + down * min(k, 3) / 3}
            if kind == "touch":
                event = {"type": f"touch{step}", "touchPoints": [] if step == "End" else [at]}
                page.execute_cdp_cmd("Input.dispatchTouchEvent", event)
            else:
                step = {"Start": "Pressed", "Move": "Moved", "End": "Released"}[step]
                event = {"type": f"mouse{step}", "button": "left", "buttons": int(step != "Released"), "clickCount": 1}
                page.execute_cdp_cmd("Input.dispatchMouseEvent", event | at)
            time.sleep(0.1)

    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        opened(page, server)
        go_to(page, "Tokens")
        tokens = int(until(page, f"{text_of('tokens-facts')}.match(/A: (\\d+)/)[1]"))
        until(page, "document.querySelector('#tokens-picture-a .plane').offsetWidth")
        picked = "['begin', 'end'].map(name => Number(document.querySelector(`#tokens-${name} input`).value))"
        dragged("touch", -0.3, 0)
        until(page, f"(([begin, end]) => begin > 0 && end < {tokens})({picked})", 10)
        page.execute_script("addEventListener('scrollend', () => { window.scrolled = true; })")
        dragged("touch", 0, -150)
        until(page, "window.scrolled", 10)
        assert page.execute_script("return document.querySelector('#tokens-audio-a audio').paused")
    finally:
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    dragged("mouse", 0.6, 0)  # ends beside the picture
    until(page, f"(([begin, end]) => begin > 0 && end === {tokens})({picked})", 10)


def test_the_page_speaks_chinese_from_its_address_and_from_the_side_bar(browser, server):
    page = opened(browser, server)
    page.execute_script("document.querySelector('#language input[value=zh-CN]').click()")
    for _ in range(2):
        until(
            page, f"{text_of('speak-button')} === '朗读' && document.querySelector('#tabs').innerText.includes('转写')"
        )
        until(page, f"/我的录音/.test({text_of('speak-voice')}) && !/US|clip/.test({text_of('speak-voice')})")
        titles = "[...document.querySelectorAll('#speak-voice small')].slice(-2).map(note => note.title).join()"
        assert page.execute_script(f"return {titles}") == "由模型选一个,上传或录制一段录音"
        assert page.execute_script("return document.querySelector('#speak-voice input:checked').value") == "michael"
        assert "lang=zh-CN" in page.current_url
        page.refresh()
    until(page, f"/能朗读/.test({text_of('model-facts')})")
    type_text(page, "Oh, yes.")
    press(page, "speak-button")
    until(page, f"/秒语音，用时 .* · 种子 \\d+ · 完整/.test({text_of('speak-summary')})")
    go_to(page, "转写")
    press(page, "transcribe-button")
    until(page, "document.body.innerText.includes('还没有录音')")
    assert not errors(page)


def test_the_tabs_of_a_phone_keep_their_chinese_names(browser, server):
    """Gradio draws them anew at every change of tab, where not all have room."""
    page = browser
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        opened(page, server, "/?lang=zh-CN")
        until(page, f"{text_of('speak-button')} === '朗读'")
        for tab in ("续说", "转写", "搜索", "Token", "关于", "朗读"):
            go_to(page, tab)
            names = until(page, "[...document.querySelectorAll('#tabs .tab-wrapper button')].map(b => b.textContent)")
            assert {name.strip() for name in names} <= {"", "朗读", "续说", "转写", "搜索", "Token", "关于"}, names
        assert not errors(page)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_browser_of_any_chinese_gets_all_of_the_page_in_it(browser, server):
    agent, own = browser.execute_script("return [navigator.userAgent, navigator.language]")
    speaks = {"userAgent": agent, "acceptLanguage": "zh-HK"}
    browser.execute_cdp_cmd("Emulation.setUserAgentOverride", speaks)
    try:
        page = opened(browser, server)
        assert page.execute_script("return navigator.language") == "zh-HK"
        until(page, f"/能朗读/.test({text_of('model-facts')})")
        until(page, f"{text_of('speak-button')} === '朗读' && /我的录音/.test({text_of('speak-voice')})", 10)
        assert not errors(page)
    finally:
        browser.execute_cdp_cmd("Emulation.setUserAgentOverride", speaks | {"acceptLanguage": own})


def test_a_change_of_language_keeps_results_and_what_was_typed(browser, server):
    page = opened(browser, server)
    go_to(page, "About")
    press(page, "about-measure")
    until(page, f"{text_of('about-measured')}.includes('real-time')")
    go_to(page, "Search")
    type_text(page, "Oh.", "search")
    press(page, "search-button")
    until(page, f"{text_of('search-status')}.includes('verifying')")
    go_to(page, "Speak")
    type_text(page, "Oh, yes.")
    press(page, "speak-button")
    summary = until(page, f"/seed/.test({text_of('speak-summary')}) && {text_of('speak-summary')}")
    page.execute_script("document.querySelector('#language input[value=zh-CN]').click()")
    until(page, f"/能朗读/.test({text_of('model-facts')})")
    assert page.execute_script(f"return {text_of('speak-summary')}") == summary
    assert page.execute_script("return document.querySelector('#speak-text textarea').value") == "Oh, yes."
    go_to(page, "搜索")
    until(page, f"{text_of('search-status')}.includes('verifying')", 10)
    go_to(page, "关于")
    until(page, f"{text_of('about-measured')}.includes('real-time')", 10)
    assert not errors(page)


def test_programs_are_answered_in_english_wherever_they_come_from(server):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    headers = {"referer": f"{server}/?lang=zh-CN", "accept-language": "zh-CN"}
    with pytest.raises(AppError, match="There is no clip yet"):
        Client(server, verbose=False, headers=headers).predict(clip=None, api_name="/transcribe")


def test_a_visitor_is_answered_in_the_language_of_their_page_else_of_their_browser():
    from demo.words import answer_to, said

    for page, browser, shown in (
        ("http://a/?lang=zh-CN", "en-GB,en", "种子"),
        ("http://a/?lang=en", "zh-CN,zh", "seed"),
        ("http://a/", "zh-TW,zh;q=0.9", "种子"),
        ("http://a/?lang=fr", "fr,zh", "seed"),
        ("http://[", "", "seed"),  # no address at all
    ):
        answer_to(SimpleNamespace(headers={"referer": page, "accept-language": browser}))
        assert said(" · seed {0}", 7) == f" · {shown} 7"
    answer_to(None)
    assert said(" · seed {0}", 7) == " · seed 7"


def test_what_the_library_refuses_is_told_to_visitors_in_their_language(nano, tmp_path, monkeypatch):
    """As it raises them here: a sentence that is put in other words there would be told in English."""
    from demo import common
    from demo.words import WORDS, answer_to, translated

    def of(seconds, text=None):
        return Voice.from_audio((16_000, buzz(seconds)), text)

    silent, long, notes = (tmp_path / f"{name}.wav" for name in ("silent", "long", "notes"))
    audio.save(np.zeros(32_000, np.float32), silent)
    audio.save(np.tile(buzz(1.0), 61), long)
    notes.write_text("dear diary")
    monkeypatch.setattr(nano, "_words_in", lambda voice: "")
    refused = [
        *(partial(nano.tts, text) for text in ("", "?!", "你好")),
        *(partial(nano.tts, "Oh.", of(1.5, text)) for text in ("你好", "...", None)),
        *(partial(of, seconds) for seconds in (0.3, 16.0)),
        *(partial(common.wav_of, str(file)) for file in (silent, long, notes)),
        lambda: nano.transcribe((16_000, buzz(0.05))),
        lambda: nano.search("Oh.", n=1, outcome="speaker"),
    ]
    told = {nano.checkpoint.note, "Info", "Warning"}
    for job in refused:
        with pytest.raises(ValueError) as error:
            job()
        told.add(str(error.value))
    assert len(told) == len(WORDS["library"])
    answer_to(SimpleNamespace(headers={"accept-language": "zh"}))
    in_chinese = [translated(sentence) for sentence in told]
    answer_to(None)
    assert all(re.search("[\u4e00-\u9fff]", sentence.replace("你好", "")) for sentence in in_chinese), in_chinese
    assert {translated(sentence) for sentence in told} == told


def test_last_results_name_the_visitors_own_clip_in_their_language(nano, monkeypatch, tmp_path):
    from demo import speak
    from demo.words import answer_to

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    speech = nano.tts("Oh.", seed=3)
    speech = replace(speech, receipt=speech.receipt | {"voice": "my clip"})
    for language, shown in (("zh", "我的录音"), ("en", "My clip")):
        answer_to(SimpleNamespace(headers={"accept-language": language}))
        *_, (row,) = speak.remember(SimpleNamespace(temp_files=set()), [], speech)
        assert row["note"].startswith(f"{shown} · nano")
    answer_to(None)


def test_the_page_fetches_nothing_from_elsewhere(browser, server):
    page = opened(browser, server)
    names = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names and not [name for name in names if not name.startswith((server, "data:", "blob:"))]
