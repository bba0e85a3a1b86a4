"""Speech over HTTP as the clients of OpenAI's API expect it. Knows the pipeline and FastAPI; opens no path or URL of a
request: voices are those the server was started with.

    python -m llasa_lite serve --port 8000
    curl localhost:8000/v1/audio/speech -H "Content-Type: application/json" \\
        -d '{"input": "Hello there.", "voice": "emma"}' -o hello.mp3

`POST /v1/audio/speech` takes `input`, `voice`, `response_format` (mp3, opus, flac, wav, pcm), `stream_format`, and of
ours `seed`, `temperature`, `top_p`, `guidance`. Without `stream_format` the answer comes whole. With "audio" it comes
as it is made (wav and pcm), with "sse" as server-sent events of base64 pcm. pcm is 16-bit little-endian mono at 16 kHz;
OpenAI's has 24 kHz.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain
from typing import Annotated, Literal

import numpy as np
from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from . import __version__, audio, receipts
from .pipeline import Stopped
from .speech import Speech
from .vllm_engine import Unanswered
from .voices import Voice, builtin_voices

log = logging.getLogger(__name__)

# response_format -> media type, and what `audio.write` calls it
FORMATS = {
    "mp3": ("audio/mpeg", "mp3"),
    "opus": ("audio/ogg", "ogg"),
    "flac": ("audio/flac", "flac"),
    "wav": ("audio/wav", "wav"),
    "pcm": ("audio/pcm", None),
}
MAX_BODY = 2**20  # bytes of a request
LOOK_SECONDS = 0.2  # between two looks whether a client that waits is still there
ENDLESS = 0xFFFFFFFF  # length in the header of a wav that is still being made
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))]


class SpeechRequest(BaseModel):
    """The body of `POST /v1/audio/speech`; what a Llasa cannot follow (`instructions`, `speed`) is refused."""

    model_config = ConfigDict(extra="forbid")

    input: str
    model: str | None = None
    voice: str | None = None
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] | None = None
    speed: float = Field(1.0, ge=1.0, le=1.0)
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    guidance: float | None = None


class Wrong(BaseModel):
    """Any answer but 200: one sentence (`message`) and what kind of error it is (`type`), as OpenAI's errors."""

    error: dict[str, str | None]


class Refused(Exception):
    """An answer other than 200: status, and one sentence."""

    def __init__(self, status: int, sentence: str, kind: str = "invalid_request_error"):
        super().__init__(sentence)
        self.status, self.kind = status, kind


class Bounded:
    """ASGI middleware: a body is not longer than a request needs, whether it says how long it is or not."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        told = int(dict(scope.get("headers", ())).get(b"content-length") or 0)
        # of a body that is too long nothing is read: a client that asks first gets to see the sentence
        left = MAX_BODY if told <= MAX_BODY else -1

        async def bounded():
            nonlocal left
            message = await receive() if left >= 0 else {}
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A request has at most {MAX_BODY:,} bytes", {"connection": "close"})
            return message

        await self.app(scope, bounded, send)


def build(llasa, voices: dict[str, Voice] | None = None, at_once: int = 1, waiting: int = 32, key: str | None = None):
    """The FastAPI app around one loaded checkpoint.

    Args:
        llasa: a `Llasa` on any engine.
        voices: name -> voice beside the built-in ones; a name given here hides the built-in one.
        at_once: requests served together; 1 for our own engine, as many as the GPU takes for vLLM.
        waiting: requests that may wait for their turn; more are refused with 429.
        key: if given, requests must carry it ("Authorization: Bearer ...").
    """

    @asynccontextmanager
    async def running(_):
        # each request that is served or waits keeps one of the 40 threads that answer: the others need theirs
        current_default_thread_limiter().total_tokens += at_once + waiting
        yield

    app = FastAPI(title="llasa_lite", version=__version__, lifespan=running, responses={"default": {"model": Wrong}})
    known = builtin_voices() | (voices or {})
    began = int(time.time())
    prepared: dict[str, Voice] = {}
    line: list[threading.Event] = []  # who is served or waits, in the order they came; the first are served
    moved = threading.Condition()

    def allowed(given: Bearer) -> None:
        said = given.credentials.encode("latin-1") if given else b""  # as its bytes came
        if not secrets.compare_digest(said, key.encode()):
            raise Refused(401, "Wrong or missing API key.", "authentication_error")

    guarded = [Depends(allowed)] if key else []

    def speak(asked: SpeechRequest, gone: threading.Event) -> Iterator[bytes | Speech]:
        voice = None
        if asked.voice is not None:
            if asked.voice not in known:
                raise ValueError(f"Unknown voice '{asked.voice[:60]}'. Choose from: {', '.join(known)}.")
            voice = prepared[asked.voice] = prepared.get(asked.voice) or llasa.prepare(known[asked.voice])
        given = {name: getattr(asked, name) for name in ("temperature", "top_p", "guidance")}
        sampling = replace(llasa.sampling, **{k: v for k, v in given.items() if v is not None})
        if asked.stream_format:
            yield from map(_pcm, llasa.stream(asked.input, voice, asked.seed, sampling))
        else:
            yield llasa.tts(asked.input, voice, asked.seed, sampling, stop=gone.is_set)

    def work(asked: SpeechRequest, made: queue.SimpleQueue, gone: threading.Event) -> None:
        """Make the sound of one request in a thread of their own: a client that reads slowly holds up nobody."""
        try:
            with moved:
                while line.index(gone) >= at_once and not gone.is_set():
                    moved.wait(LOOK_SECONDS)  # whose client is gone gives up the place, too
            for part in () if gone.is_set() else speak(asked, gone):
                made.put(part)
                if gone.is_set():
                    break
        except Stopped:
            pass  # the client is gone
        except Exception as error:  # told to the client by the thread that answers it
            made.put(error)
        finally:
            with moved:
                line.remove(gone)
                moved.notify_all()
            made.put(None)

    def parts(asked: SpeechRequest, gone: threading.Event) -> Iterator[bytes | Speech]:
        with moved:
            if len(line) >= at_once + waiting:
                raise Refused(429, f"{waiting} requests wait already. Try again later.", "rate_limit_error")
            line.append(gone)
        made: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=work, args=(asked, made, gone), daemon=True).start()
        while (part := made.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    app.add_middleware(Bounded)

    @app.exception_handler(Refused)
    async def refused(_, error: Refused):
        return JSONResponse(_error(str(error), error.kind), error.status)

    @app.exception_handler(ValueError)
    async def bad_value(_, error: ValueError):
        return JSONResponse(_error(str(error)), 400)

    @app.exception_handler(Unanswered)
    async def no_model(_, error: Unanswered):
        log.warning("%s", error)  # with the address, which is nothing for clients
        return JSONResponse(_error("The language model does not answer. Try again later.", "server_error"), 502)

    @app.exception_handler(Exception)
    async def broken(_, error: Exception):  # which is logged, too
        return JSONResponse(_error("Something went wrong here. The server's log says what.", "server_error"), 500)

    @app.exception_handler(RequestValidationError)
    async def bad_shape(_, error: RequestValidationError):
        first = error.errors()[0]
        if first["loc"] == ("body",) or first["type"] == "json_invalid":  # no field of it is to blame
            told = "A request is a JSON object, sent with 'Content-Type: application/json'."
        else:
            told = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}."
        return JSONResponse(_error(told), 400)

    @app.exception_handler(HTTPException)
    async def bad_call(_, error: HTTPException):
        return JSONResponse(_error(f"{error.detail}."), error.status_code, error.headers)

    sound = {media: {} for media, _ in FORMATS.values()} | {"text/event-stream": {}}

    @app.post("/v1/audio/speech", dependencies=guarded, response_class=Response, responses={200: {"content": sound}})
    async def speech(asked: SpeechRequest, request: Request) -> Response:
        if asked.stream_format and asked.response_format not in ("wav", "pcm"):
            raise ValueError(f"'{asked.response_format}' cannot be streamed. Choose response_format wav or pcm.")
        media, kind = FORMATS[asked.response_format]
        gone = threading.Event()
        made = parts(asked, gone)
        # what is wrong with the request is said before the answer begins
        first = await first_part(made, request, gone)
        if first is None:
            return Response(status_code=499)  # nobody is there to read it
        if asked.stream_format == "sse":
            return Streamed(gone, _events(chain([first], made)), media_type="text/event-stream")
        if asked.stream_format == "audio":
            opening = _wav_header() if asked.response_format == "wav" else b""
            return Streamed(gone, chain([opening + first], made), media_type=media)
        if kind is None:
            return Response(_pcm(first.wav), media_type=media)
        file, comment = io.BytesIO(), receipts.to_comment(first.receipt, kind)
        await run_in_threadpool(audio.write, file, first.wav, kind, comment)
        return Response(file.getvalue(), media_type=media)

    @app.get("/v1/models", dependencies=guarded)
    def models() -> dict:
        served = {"id": llasa.checkpoint.name, "object": "model", "created": began, "owned_by": "llasa"}
        return {"object": "list", "data": [served]}

    @app.get("/v1/models/{name:path}", dependencies=guarded)  # a name may be owner/name
    def model(name: str) -> dict:
        if name != llasa.checkpoint.name:
            raise Refused(404, f"Here is no model '{name[:60]}'. It is '{llasa.checkpoint.name}' that is served.")
        return models()["data"][0]

    @app.get("/v1/audio/voices", dependencies=guarded)
    def voice_list() -> dict:
        return {"voices": [{"id": name, "description": v.description} for name, v in known.items()]}

    @app.head("/health", include_in_schema=False)  # what some load balancers ask
    @app.get("/health")
    def health() -> dict:
        return {"status": "ok", "model": llasa.checkpoint.name, "licence": llasa.checkpoint.licence}

    return app


def listen(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Take the address before anything is loaded: who comes early waits. Raises ValueError where it cannot be had."""
    if not 0 <= port < 2**16:
        raise ValueError(f"A port is a number from 0 (any free one) to 65535, not {port}.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        told = str(error.strerror or error).split(" (while")[0]  # attempting what is said already
        raise ValueError(f"Cannot serve at {host}:{port}: {told.rstrip('.')}.") from error


def serve(app, listening: socket.socket) -> None:
    """Serve the app at an address that was taken until interrupted."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _error(sentence: str, kind: str = "invalid_request_error") -> dict:
    sentence = sentence.encode(errors="backslashreplace").decode()  # it may quote half of a surrogate pair
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


def _pcm(wav: np.ndarray) -> bytes:
    return audio.to_int16(wav).astype("<i2").tobytes()


def _wav_header() -> bytes:
    rate = audio.SAMPLE_RATE
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", ENDLESS, b"WAVE") + form + struct.pack("<4sI", b"data", ENDLESS)


class Streamed(StreamingResponse):
    """Parts as they come. When the client has had them all or hung up, be it before the first, the thread that makes
    them is told. Where they break off, so does the answer: the server closes the connection."""

    def __init__(self, gone: threading.Event, parts: Iterator, media_type: str):
        super().__init__(parts, media_type=media_type)
        self.gone = gone

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ValueError as error:
            log.warning("A stream broke off: %s", error)
        finally:
            self.gone.set()


async def first_part(made: Iterator, request: Request, gone: threading.Event):
    """The first of what is made, or None; who hangs up while waiting for it sets `gone`, so that it can end early."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(LOOK_SECONDS)
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        return await run_in_threadpool(next, made, None)
    finally:
        watching.cancel()


def _events(made: Iterator[bytes]) -> Iterator[str]:
    for part in made:
        sound = base64.b64encode(part).decode()
        yield f"data: {json.dumps({'type': 'speech.audio.delta', 'audio': sound})}\n\n"
    yield f"data: {json.dumps({'type': 'speech.audio.done'})}\n\n"
