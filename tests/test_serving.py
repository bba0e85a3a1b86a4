"""Laws of the server: OpenAI's own client is understood, streams are the whole, what is wrong is one sentence."""

import asyncio
import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi")
pytest.importorskip("httpx", reason="pip install httpx")

import soundfile
import uvicorn
from fastapi.testclient import TestClient

from llasa_lite import Stopped, builtin_voices, serving
from llasa_lite.vllm_engine import Unanswered

JSON = {"Content-Type": "application/json"}


def pcm(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<i2").astype(np.float32) / 32767


@pytest.fixture(scope="module")
def client(nano, voice):
    return TestClient(serving.build(nano, {"mine": voice}))


def said(client, **body):
    answer = client.post("/v1/audio/speech", json={"input": "Oh, yes.", "voice": "mine", "seed": 3} | body)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture(scope="module")
def whole(nano, voice):
    return nano.tts("Oh, yes.", voice, seed=3).wav


@pytest.mark.parametrize("kind", ["mp3", "opus", "flac", "wav"])
def test_files_hold_what_the_library_says(client, whole, kind):
    answer = said(client, response_format=kind)
    assert answer.headers["content-type"] == serving.FORMATS[kind][0]
    wav, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    assert rate == 16_000 and len(wav) == pytest.approx(len(whole), abs=0 if kind in ("wav", "flac") else 2500)
    if kind in ("wav", "flac"):
        np.testing.assert_allclose(wav, whole, atol=1e-4)


def test_a_stream_is_the_whole_as_the_library_streams_it(client, nano, voice):
    wanted = np.concatenate(list(nano.stream("Oh, yes.", voice, seed=3)))
    raw = said(client, response_format="pcm", stream_format="audio").content
    np.testing.assert_allclose(pcm(raw), wanted, atol=1e-4)
    wav = said(client, response_format="wav", stream_format="audio").content
    assert wav[:4] == b"RIFF" and wav[44:] == raw
    events = said(client, response_format="pcm", stream_format="sse").text.strip().split("\n\n")
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    assert told[-1] == {"type": "speech.audio.done"} and {t["type"] for t in told[:-1]} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(t["audio"]) for t in told[:-1]) == raw


@pytest.mark.parametrize(
    "body, sentence",
    [
        ({"input": " "}, "There is no text to speak."),
        ({"voice": "alloy"}, "Unknown voice 'alloy'. Choose from: "),
        ({"voice": "../../etc/passwd"}, "Unknown voice '../../etc/passwd'."),
        ({"response_format": "aac"}, "response_format: "),
        ({"response_format": "mp3", "stream_format": "audio"}, "'mp3' cannot be streamed."),
        ({"response_format": "pcm", "stream_format": "sse", "input": "\U0001f388"}, "There is nothing to say"),
        ({"temperature": 9}, "temperature must lie in 0..2, not 9.0."),
        ({"guidance": 9}, "guidance must lie in 1 (off)..5, not 9.0."),
        ({"speed": 2.0}, "speed: "),
        ({"seed": -1}, "A seed is a whole number"),
    ],
    ids=str,
)
def test_bad_requests_are_400_and_one_sentence(client, body, sentence):
    answer = client.post("/v1/audio/speech", json={"input": "Oh.", "voice": "mine"} | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(sentence)


@pytest.mark.parametrize(
    "body, kind, sentence",
    [
        (b'{"input": "Oh."}', "application/x-www-form-urlencoded", "A request is a JSON object, sent with"),  # curl -d
        (b"", "application/json", "A request is a JSON object, sent with"),
        (b"[]", "application/json", "A request is a JSON object, sent with"),
        (b"{", "application/json", "A request is a JSON object, sent with"),
        (b'{"input": "caf\xe9"}', "application/json", "There was an error parsing the body."),
        (rb'{"input": "Oh.", "voice": "\ud800"}', "application/json", r"Unknown voice '\ud800'. Choose from: "),
        (b"{}", "application/json", "input: Field required."),
    ],
    ids=str,
)
def test_a_body_that_is_no_request_is_400_and_one_sentence(client, body, kind, sentence):
    answer = client.post("/v1/audio/speech", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(sentence)


def test_a_body_in_chunks_is_read_and_no_body_is_longer_than_a_request_needs(client):
    """As .NET sends JSON, without saying how long it is."""
    answer = client.post("/v1/audio/speech", content=iter([b'{"inp', b'ut": " "}']), headers=JSON)
    assert answer.status_code == 400 and answer.json()["error"]["message"] == "There is no text to speak."
    for body in (b" " * 2**21, iter([b" " * 2**16] * 20)):
        answer = client.post("/v1/audio/speech", content=body, headers=JSON)
        assert answer.status_code == 413 and "at most 1,048,576 bytes" in answer.json()["error"]["message"]


def test_the_document_says_what_is_answered(client, nano):
    """Programs generate clients from it: it had sound as JSON, and errors of a shape and status that never came."""
    told = client.get("/openapi.json").json()
    answers = told["paths"]["/v1/audio/speech"]["post"]["responses"]
    kinds = {media for media, _ in serving.FORMATS.values()}
    assert set(answers) == {"200", "default"} and set(answers["200"]["content"]) == kinds | {"text/event-stream"}
    shape = answers["default"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
    assert told["components"]["schemas"][shape]["required"] == ["error"] and "securitySchemes" not in str(told)
    told = TestClient(serving.build(nano, key="open sesame")).get("/openapi.json").json()
    assert told["paths"]["/v1/models"]["get"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in told["paths"]["/health"]["get"]


def test_what_nobody_foresaw_is_told_in_the_shape_of_openais_errors(plain_replace):
    def tts(*_, stop):
        raise RuntimeError("CUDA out of memory")

    app = serving.build(SimpleNamespace(sampling=SimpleNamespace(), tts=tts))
    answer = TestClient(app, raise_server_exceptions=False).post("/v1/audio/speech", json={"input": "Oh."})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error" and "CUDA" not in answer.text


def test_a_stream_that_breaks_off_is_one_line_in_the_log(plain_replace, caplog):
    def stream(*_):
        yield np.zeros(1, np.float32)
        raise Unanswered("No vLLM answers at http://10.0.0.7:8000: gone.")

    client = TestClient(serving.build(SimpleNamespace(sampling=SimpleNamespace(), stream=stream)))
    for kind in ("audio", "sse"):
        body = {"input": "Oh.", "response_format": "pcm", "stream_format": kind}
        assert b"done" not in client.post("/v1/audio/speech", json=body).content
        assert caplog.messages.pop() == "A stream broke off: No vLLM answers at http://10.0.0.7:8000: gone."


def test_a_vllm_that_is_gone_is_no_fault_of_the_client(plain_replace, caplog):
    def tts(*_, stop):
        raise Unanswered("No vLLM answers at http://10.0.0.7:8000: gone.")

    client = TestClient(serving.build(SimpleNamespace(sampling=SimpleNamespace(), tts=tts)))
    answer = client.post("/v1/audio/speech", json={"input": "Oh."})
    assert answer.status_code == 502 and answer.json()["error"]["type"] == "server_error"
    assert "10.0.0.7" not in answer.text and "10.0.0.7" in caplog.text


def test_a_key_is_asked_for(nano):
    client = TestClient(serving.build(nano, key="open sesame"))
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "open sesame"}):
        answer = client.get("/v1/models", headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
    for scheme in ("Bearer", "bearer"):
        answer = client.get("/v1/models", headers={"Authorization": f"{scheme} open sesame"})
        assert answer.json()["data"][0]["id"] == "nano"
    assert client.get("/health").json()["licence"] == "Apache-2.0" and client.head("/health").status_code == 200
    client = TestClient(serving.build(nano, key="Öffne dich"))
    assert client.get("/v1/models", headers={"Authorization": "Bearer Öffne dich".encode()}).status_code == 200


def slow(steps: threading.Semaphore):
    """A checkpoint that makes one sample whenever the test lets it."""

    def stream(*_):
        for _ in range(3):
            steps.acquire(timeout=10)
            yield np.zeros(1, np.float32)

    return SimpleNamespace(
        checkpoint=SimpleNamespace(name="slow", licence=""), sampling=SimpleNamespace(), stream=stream
    )


@pytest.fixture
def plain_replace(monkeypatch):
    monkeypatch.setattr(serving, "replace", lambda settings, **_: settings)


def test_who_hangs_up_lets_the_next_one_in_and_too_many_are_sent_away(plain_replace):
    steps = threading.Semaphore(0)
    app = serving.build(slow(steps), waiting=0)
    body = {"input": "Oh.", "response_format": "pcm", "stream_format": "audio"}
    client = TestClient(app)
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/v1/audio/speech", json=body)))
    first.start()
    time.sleep(0.3)
    refused = client.post("/v1/audio/speech", json=body)
    assert refused.status_code == 429 and "Try again later" in refused.json()["error"]["message"]
    steps.release(3)
    first.join()
    assert len(answers[0].content) == 6
    steps.release(3)
    assert len(client.post("/v1/audio/speech", json=body).content) == 6


def test_many_who_wait_keep_nobody_from_an_answer(plain_replace):
    go_on = threading.Event()

    def tts(*_, stop):
        go_on.wait(timeout=20)
        return SimpleNamespace(wav=np.zeros(1, np.float32))

    checkpoint = SimpleNamespace(name="slow", licence="")
    app = serving.build(
        SimpleNamespace(sampling=SimpleNamespace(), tts=tts, checkpoint=checkpoint), at_once=20, waiting=20
    )
    body = {"input": "Oh.", "response_format": "pcm"}
    with TestClient(app) as client, ThreadPoolExecutor(41) as pool:
        asked = [pool.submit(client.post, "/v1/audio/speech", json=body) for _ in range(41)]
        try:
            assert next(as_completed(asked, timeout=10)).result().status_code == 429
            assert client.get("/health").status_code == 200
        finally:
            go_on.set()
        assert sorted(answer.result().status_code for answer in asked) == [200] * 40 + [429]


def hang_up_on(app, **body) -> list[dict]:
    """What is sent to a client that asks, and hangs up as soon as it has asked."""
    body = json.dumps(body).encode()
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    scope |= {"method": "POST", "path": "/v1/audio/speech", "raw_path": b"/v1/audio/speech", "root_path": ""}
    scope |= {"scheme": "http", "query_string": b"", "server": ("a", 1), "client": ("b", 2)}
    scope |= {"headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]}
    messages, sent = iter([{"type": "http.request", "body": body, "more_body": False}]), []

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        await asyncio.sleep(0.05)  # long enough to hear that the client is gone
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_who_hangs_up_before_the_answer_begins_is_not_spoken_to_for_long(plain_replace):
    """Where a server cancels an answer that was never asked for its first part, nothing inside that answer runs."""
    made, done = [], threading.Event()

    def stream(*_):
        for k in range(200):
            made.append(k)
            yield np.zeros(1, np.float32)
            time.sleep(0.01)
        done.set()

    app = serving.build(SimpleNamespace(sampling=SimpleNamespace(), stream=stream))
    hang_up_on(app, input="Oh.", response_format="pcm", stream_format="audio")
    assert not done.wait(timeout=0.5) and len(made) < 50


def test_who_hangs_up_on_a_whole_answer_is_not_spoken_to_to_its_end(plain_replace):
    def tts(*_, stop):
        for _ in range(1000):
            if stop():
                raise Stopped
            time.sleep(0.01)
        return SimpleNamespace(wav=np.zeros(1, np.float32))

    app = serving.build(SimpleNamespace(sampling=SimpleNamespace(), tts=tts), waiting=0)
    for _ in range(2):  # the second would be sent away if the first still had its place
        assert hang_up_on(app, input="Oh.", response_format="pcm")[0]["status"] == 499


def test_who_hangs_up_while_waiting_gives_up_the_place(plain_replace):
    steps = threading.Semaphore(0)
    app = serving.build(slow(steps), waiting=1)
    body = {"input": "Oh.", "response_format": "pcm", "stream_format": "audio"}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(TestClient(app).post, "/v1/audio/speech", json=body)
        time.sleep(0.3)
        for _ in range(2):  # the second would be sent away if the first still had its place
            assert hang_up_on(app, **body)[0]["status"] == 499
        assert not first.done()
        steps.release(3)
        assert len(first.result().content) == 6


def test_openais_client_speaks_with_a_running_server(nano, voice, whole, tmp_path):
    openai = pytest.importorskip("openai", reason="pip install openai")
    server = uvicorn.Server(uvicorn.Config(serving.build(nano, {"mine": voice}), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["nano"] == [client.models.retrieve("nano").id]
        with pytest.raises(openai.NotFoundError, match="Here is no model 'HKUSTAudio/Llasa-1B'. It is 'nano'"):
            client.models.retrieve("HKUSTAudio/Llasa-1B")
        asked = {"model": "nano", "voice": "mine", "input": "Oh, yes.", "extra_body": {"seed": 3}}
        client.audio.speech.create(**asked).write_to_file(tmp_path / "oh.mp3")
        assert soundfile.info(tmp_path / "oh.mp3").samplerate == 16_000
        with client.audio.speech.with_streaming_response.create(
            **asked, response_format="pcm", stream_format="audio"
        ) as answer:
            streamed = b"".join(answer.iter_bytes())
        assert len(streamed) == 2 * len(whole)
        with pytest.raises(openai.BadRequestError, match="Unknown voice 'alloy'"):
            client.audio.speech.create(**asked | {"voice": "alloy"})
        # one who hangs up in the middle of a story does not keep the next one waiting for its end
        with client.audio.speech.with_streaming_response.create(
            **asked | {"input": "A long story. " * 1400}, response_format="pcm", stream_format="audio"
        ) as answer:
            next(answer.iter_bytes())
        began = time.monotonic()
        client.audio.speech.create(**asked)
        assert time.monotonic() - began < 60
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def test_the_servers_voices_are_the_built_in_ones_and_those_it_was_given(client):
    listed = [v["id"] for v in client.get("/v1/audio/voices").json()["voices"]]
    assert listed == [*builtin_voices(), "mine"]


def test_the_page_on_scale_says_what_its_arithmetic_says():
    """The figures under the code are what the code prints, and its commands are understood."""
    import contextlib
    import re
    import shlex

    from llasa_lite.cli import parser

    page = (Path(serving.__file__).parent / "docs" / "serving_at_scale.md").read_text()
    (code,), printed = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})  # noqa: S102
    assert f"```\n{printed.getvalue()}```" in page
    for line in re.findall(r"^llasa-lite (.+)", page, re.M):
        assert parser().parse_args(shlex.split(line)).handler


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_address_that_is_told_is_the_one_that_is_served(nano, monkeypatch, capsys, host):
    from llasa_lite import cli_common
    from llasa_lite.cli import main

    def serve(app, listening):
        port = listening.getsockname()[1]
        told = f"[{host}]" if ":" in host else host
        assert f"Speech at http://{told}:{port}/v1/audio/speech\n" in capsys.readouterr().err

    monkeypatch.setattr(cli_common, "load", lambda o: nano)
    monkeypatch.setattr(serving, "serve", serve)
    if main(["serve", "--host", host, "--port", "0"]) == 2:
        pytest.skip(capsys.readouterr().err)  # no IPv6 here


def test_a_server_without_its_voices_does_not_start(tmp_path, capsys):
    from llasa_lite.cli import main

    assert main(["serve", "--voices", str(tmp_path)]) == 2
    assert "There are no voices (.json) in" in capsys.readouterr().err
