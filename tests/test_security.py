"""Laws for strangers: what they send to a running app or server is refused in a sentence, and opens nothing."""

import json
import math
import re
import secrets
import socket
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, buzz

httpx = pytest.importorskip("httpx", reason="pip install httpx")
pytest.importorskip("gradio", reason="pip install gradio")

from llasa_lite import Llasa, audio, receipts

FILE = {"_type": "gradio.FileData"}
SECRET = "/etc/passwd"


@pytest.fixture(scope="module")
def web(server):
    with httpx.Client(base_url=server, timeout=120) as web:
        yield web


@pytest.fixture(scope="module")
def uploaded(web, tmp_path_factory):
    path = audio.save(buzz(1.0), tmp_path_factory.mktemp("clip") / "clip.wav")
    (kept,) = web.post("/gradio_api/upload", files={"files": ("clip.wav", path.read_bytes())}).json()
    return {"path": kept, "meta": FILE}


@pytest.fixture(scope="module")
def trap():
    """An address that nobody may call, and the calls that came."""
    calls = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def listen():
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                calls.append(caller.recv(100))
                caller.close()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.wav", calls


def call(web, name, data):
    """What an endpoint answers over plain HTTP: status, and the text of the answer or of its event."""
    body = json.dumps({"data": data})  # with NaN and Infinity, as junk has it
    asked = web.post(f"/gradio_api/call/{name}", content=body, headers={"Content-Type": "application/json"})
    if asked.status_code != 200:
        return asked.status_code, asked.text
    answer = web.get(f"/gradio_api/call/{name}/{asked.json()['event_id']}")
    return answer.status_code, answer.text


def told(answer: str) -> str:
    """The sentence of an error event."""
    assert answer.startswith("event: error\n"), answer[:300]
    return json.loads(answer.partition("data: ")[2])["error"]


def is_sentence(sentence: str) -> bool:
    bare = not re.search(r"Traceback|File \"|\w+Error\b|0x[0-9a-f]{6}|site-packages", sentence)
    return bare and sentence.endswith(".") and 10 < len(sentence) < 700


# -- the app: a fuzz of every public endpoint ------------------------------------------------------------------------

NESTED = json.loads("[" * 60 + "]" * 60)
JUNK = [
    True, -1, 0.5, 1e308, math.nan, math.inf, 2**200, "", "x" * 30_000, "\0", "<|s_1|>", SECRET, [], [[[]]], {},
    {"a": [1]}, {"path": 5}, {"path": "", "meta": FILE}, {"path": "x", "meta": 5}, {"path": SECRET, "meta": FILE},
    {"path": "../../../../" + SECRET, "meta": FILE, "url": "x"}, NESTED,
]  # fmt: skip
# Arguments of every endpoint, all good but one that ends the call before a model runs.
GOOD = {
    "speak": ["", "emma", None, "", 3, None, None, None, "nano"],
    "continue": [None, "Oh.", "hello", 3, None, None, None, "nano"],
    "transcribe": [None, "nano"],
    "search": ["", "emma", None, "", "best_of_n", 1, "asr", "speaker", 1, 1.0, 3, None, None, None, "nano"],
    "check": [None, "nano"],
    "encode": [None, "nano"],
    "decode": [[], "nano"],
}


@pytest.mark.parametrize("name", GOOD)
def test_junk_in_any_argument_gives_a_sentence(web, name):
    """Each argument gets a share of the junk, all of it together many times over."""
    for place in range(len(GOOD[name])):
        for junk in JUNK[place % 4 :: 4]:
            data = list(GOOD[name])
            data[place] = junk
            status, answer = call(web, name, data)
            if "event: complete" in answer and place == 0:
                continue  # a number, say, is text that can be spoken
            assert status == 200 and is_sentence(told(answer)), (junk, answer[:500])
    for data in ({"a": 1}, [], [NESTED]):
        status, answer = call(web, name, data)
        assert status == 422 or is_sentence(told(answer)), (data, answer[:500])
    assert call(web, "voices", [])[1].startswith("event: complete")


def test_settings_of_the_wrong_kind_are_refused_by_name(web):
    """With all else good: the model is reached, and does not run."""
    good = ["Oh.", "emma", None, "", 3, None, None, None, "nano"]
    names = {4: "seed", 5: "temperature", 6: "top_p", 7: "guidance", 8: "not in the list of choices|Unknown model"}
    for place, name in names.items():
        for junk in (math.nan, "0.5", [2]):
            data = list(good)
            data[place] = junk
            sentence = told(call(web, "speak", data)[1])
            assert re.search(name, sentence) and is_sentence(sentence), (junk, sentence)


def test_what_the_page_itself_calls_is_refused_in_a_sentence_too(web):
    """Its handlers have no names for programs; a stranger calls them by number."""
    page = web.get("/config").json()
    session = secrets.token_hex(5)
    handlers = [one for one in page["dependencies"] if one["backend_fn"] and one["inputs"]]
    assert len(handlers) > 20
    for handler in handlers:
        for junk in JUNK:
            body = {"data": [junk] * len(handler["inputs"]), "fn_index": handler["id"], "session_hash": session}
            asked = web.post("/gradio_api/queue/join", content=json.dumps(body), headers=JSON)
            assert asked.status_code == 200, asked.text
            with web.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as events:
                for line in events.iter_lines():
                    if '"process_completed"' in line:
                        break
            output = json.loads(line.removeprefix("data: "))["output"]
            assert "root:" not in line
            if output.get("error"):
                assert is_sentence(output["error"]), (handler["id"], junk, output)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[" * 100_000, b'{"data": [1e999]}', b"\xff\xfe", b'{"data": ["\\ud800"]}'],
    ids=lambda body: str(body[:12]),
)
def test_what_is_not_json_breaks_nothing(web, server, body):
    for door in ("call/speak", "queue/join", "run/speak", "component_server", "cancel"):
        answer = httpx.post(f"{server}/gradio_api/{door}", content=body, headers=JSON)  # it may close the connection
        assert "Traceback" not in answer.text and 'File "' not in answer.text, answer.text[:500]
    assert call(web, "models", [])[1].startswith("event: complete")


# -- the app: addresses and files ------------------------------------------------------------------------------------


def test_an_address_is_not_fetched_wherever_it_stands(web, trap):
    address, calls = trap
    forms = [
        address,
        " " + address,
        "HTTP" + address[4:],
        address.replace("127.0.0.1", "localhost"),
        "file://" + SECRET,
    ]
    for name, arguments in GOOD.items():
        for place in range(0, len(arguments), 2):
            file = {"path": forms[place % len(forms)], "meta": FILE, "url": address}
            data = list(arguments)
            data[place] = [file] if place % 2 else file
            assert "Addresses are not opened here" in told(call(web, name, data)[1])
    assert not calls


def test_gradios_own_client_cannot_make_the_app_fetch_either(server, trap):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    address, calls = trap
    with pytest.raises(AppError, match="Addresses are not opened here"):
        Client(server, verbose=False).predict(clip=handle_file(address), api_name="/transcribe")
    assert not calls


@pytest.mark.parametrize("door", ["file=", "file/", "proxy="])
def test_the_app_is_no_proxy(web, trap, door):
    address, calls = trap
    assert web.get(f"/gradio_api/{door}{address}").status_code in (400, 403, 404)
    assert web.get(f"/gradio_api/{door}https://example.com/a.wav").json() == {"detail": "This door is closed."}
    assert not calls


def test_files_of_the_server_are_not_read(web, uploaded, tmp_path):
    folder = Path(uploaded["path"]).parent
    others = [
        SECRET,
        str(ROOT / "README.md"),
        str(tmp_path),
        str(folder / ".." / ".." / "log.txt"),
        "app.py",
        "~/.bashrc",
    ]
    for path in others:
        answer = call(web, "encode", [{"path": path, "meta": FILE}, "nano"])[1]
        assert "not uploaded by a user" in told(answer), path
        assert web.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_a_visitors_files_are_served_to_those_alone_who_know_their_name(web, uploaded):
    path = Path(uploaded["path"])
    assert web.get(f"/gradio_api/file={path}").status_code == 200  # who uploaded it knows it
    for guess in (path.parent, path.parent.parent, path.parent.parent / "clip.wav", path.with_name("other.wav")):
        assert web.get(f"/gradio_api/file={guess}").status_code in (403, 404), guess
    assert re.fullmatch(r"[0-9a-f]{64}", path.parent.name)


def test_folders_of_results_cannot_be_guessed(monkeypatch, tmp_path):
    from demo.common import new_folder

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    names = [new_folder().name for _ in range(20)]
    assert len(set(names)) == 20 and all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)


def test_an_address_of_the_pages_own_file_serves_as_that_file(web, server, uploaded):
    """What one endpoint returned can be given to the next; it is not fetched but found."""
    file = {"path": f"{server}/gradio_api/file={uploaded['path']}", "meta": FILE}
    assert call(web, "encode", [file, "nano"])[1].startswith("event: complete")
    stolen = {"path": f"{server}/gradio_api/file={SECRET}", "meta": FILE}
    assert "not uploaded by a user" in told(call(web, "encode", [stolen, "nano"])[1])


@pytest.mark.parametrize("door", ["process_recording", "deep_link?session_hash=a", "vibe-edit/"])
def test_doors_the_page_does_not_use_are_closed(web, door):
    assert web.post(f"/gradio_api/{door}").status_code == 403
    assert web.get("/monitoring").status_code == 403


@pytest.mark.parametrize("door", ["run", "api"])
def test_nobody_passes_those_who_wait(web, door):
    """Gradio answers there without its queue, as many at once as it has threads, where it is not told otherwise."""
    ours = {one["api_name"]: one["id"] for one in web.get("/config").json()["dependencies"]}
    for name, data in GOOD.items():
        for body in ({"data": data}, {"data": data, "fn_index": ours[name], "session_hash": secrets.token_hex(5)}):
            answer = web.post(f"/gradio_api/{door}/{name}", json=body)
            assert answer.status_code == 404 and "queue" in answer.json()["detail"], (name, answer.text)
    assert web.post(f"/gradio_api/{door}/models", json={"data": []}).status_code == 200  # nothing to wait for


def test_bodies_are_bounded(web, server):
    many = json.dumps({"data": ["x" * 2**21]})
    assert web.post("/gradio_api/call/speak", content=many, headers=JSON).status_code == 413
    assert web.post("/gradio_api/call/speak", content=iter([b"{}"]), headers=JSON).status_code == 411
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as line:  # 30 MB that are announced and never sent
        line.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        assert b" 413 " in line.recv(100)


def test_visitors_who_left_do_not_fill_the_memory():
    """Gradio forgets a session when enough others have come, not when its page is closed."""
    from gradio.state_holder import SessionState

    from demo import LAUNCH, build

    page = build()
    tracemalloc.start()
    sessions = [SessionState(page) for _ in range(10)]
    size = tracemalloc.get_traced_memory()[0] / len(sessions)
    tracemalloc.stop()
    assert size * LAUNCH.get("state_session_capacity", 10_000) < 2**28


# -- clips that are more than they seem ------------------------------------------------------------------------------


def flac(rate, channels, seconds):
    """A small file of much silence."""
    import io

    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, "PCM_16", format="FLAC") as sound:
        for _ in range(int(seconds)):
            sound.write(np.zeros((rate, channels), np.int16))
    return file.getvalue()


def test_a_small_file_does_not_become_a_large_wave():
    bomb = flac(48_000, 8, 90)
    assert len(bomb) < 2**18
    with pytest.raises(ValueError, match="longer than 60 s"):
        audio.load(bomb, "clip", max_seconds=60)


def test_no_header_is_believed():
    """A wav that says it holds four gigabytes, and one that says it holds nothing."""
    import io

    file = io.BytesIO()
    audio.write(file, buzz(0.5), "wav")
    for size in (0xFFFFFFFF, 0x7FFFFFFE):
        lying = file.getvalue()[:40] + struct.pack("<I", size) + file.getvalue()[44:]
        assert len(audio.load(lying, "clip", max_seconds=2)) == 8_000


@pytest.mark.parametrize("rate, channels", [(900, 1), (16_000, 9)])
def test_odd_rates_and_many_channels_are_refused(rate, channels):
    import io

    file = io.BytesIO()
    soundfile.write(file, np.zeros((10, channels)), rate, format="WAV")
    with pytest.raises(ValueError, match="channels; at most 8|is not audio"):
        audio.load(file.getvalue())


# -- the server of OpenAI's API --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(nano):
    pytest.importorskip("fastapi", reason="pip install fastapi")
    from fastapi.testclient import TestClient

    from llasa_lite import serving

    return TestClient(serving.build(nano), raise_server_exceptions=False)


def test_the_servers_requests_are_refused_in_a_sentence(api):
    good = {"input": "", "voice": "emma"}
    fields = "input model voice response_format stream_format speed seed temperature top_p guidance x".split()
    for field in fields:
        for junk in JUNK:
            if field == "input" and junk in ("<|s_1|>", SECRET):
                continue  # text like any other
            answer = api.post("/v1/audio/speech", content=json.dumps(good | {field: junk}), headers=JSON)
            assert answer.status_code == 400, (field, junk, answer.text)
            assert is_sentence(answer.json()["error"]["message"]), (field, junk, answer.text)
    for body in (b"", b"{", b"[" * 100_000, b"null", b"\xff"):
        assert api.post("/v1/audio/speech", content=body, headers=JSON).status_code in (400, 422)
    assert api.post("/v1/audio/speech", content=b" " * 2**21, headers=JSON).status_code == 413


def test_a_server_sends_no_recording_of_its_owners_voice(nano, voice):
    """What a wave carries tells how it was made, and leaves out words and codes of a voice that is not public."""
    import io

    from fastapi.testclient import TestClient

    from llasa_lite import serving

    client = TestClient(serving.build(nano, {"mine": voice}))
    asked = {"input": "Oh.", "voice": "mine", "seed": 3, "response_format": "mp3"}
    answer = client.post("/v1/audio/speech", json=asked)
    with soundfile.SoundFile(io.BytesIO(answer.content)) as sound:
        told = receipts.from_comment(sound.comment, "no receipt")
    assert (
        told["text"] == "Oh."
        and told["seed"] == 3
        and told["voice_codes"] is told["voice_text"] is told["voice_timbre"] is None
    )
    assert set(told["left_out"]) == {"voice_text", "voice_codes", "voice_timbre"}
    with pytest.raises(ValueError, match="kept without voice_text, voice_codes"):
        Llasa.replay(told)
