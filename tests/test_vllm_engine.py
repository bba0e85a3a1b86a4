"""Laws of the engine on vLLM: beams are those of our own engine. A stand-in that speaks vLLM's protocol, with our own
engine behind it, runs everywhere; a real vLLM runs where there is one: VLLM_PYTHON names a Python that has it, VLLM_URL
a server of nano in float32.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from llasa_lite import Sampling, recognition, vllm_engine
from llasa_lite.checkpoints import NANO
from llasa_lite.pipeline import Llasa
from llasa_lite.vllm_engine import InProcess, Server, Unanswered, VllmEngine, connect

GREEDY = Sampling(temperature=0)


class StandIn:
    """Answers /v1/completions as vLLM does, by our own engine; remembers what it was asked."""

    def __init__(self, engine):
        self.engine, self.asked = engine, []

    def __call__(self, asked, body):
        if asked.path == "/v1/models":
            return 200, b'{"data": [{"id": "nano"}]}'
        body = json.loads(body)
        self.asked.append(body)
        if len(body["prompt"]) + body["max_tokens"] > 1024:
            return 400, b"too long"
        sampling = Sampling(body["temperature"], body["top_p"], max(0, body["top_k"]))
        end = body["stop_token_ids"][0]
        assert body["allowed_token_ids"][0] == end and body["ignore_eos"] and body["return_token_ids"]
        assert body["repetition_penalty"] == 1 and body["min_p"] == 0  # else those of the generation config
        answer = "speech" if end == int(self.engine.answers["speech"][0]) else "text"
        beams = self.engine.start(body["prompt"], 1, answer, sampling, body["seed"], body["max_tokens"])
        beams.advance(body["max_tokens"])
        ids = beams.ids[0] + [end] * (beams.stopped[0] == "end")
        choice = {"token_ids": ids, "logprobs": {"token_logprobs": beams.log_probabilities[0][: len(ids)]}}
        return 200, json.dumps({"choices": [choice]}).encode()


@pytest.fixture
def web():
    """Makes a server of what says to a request and its body (status, bytes); gives its address."""
    servers = []

    def serve(say):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, told = say(self, self.rfile.read(int(self.headers["Content-Length"] or 0)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(told)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.02], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def served(nano, web):
    """(stand-in, engine over it)"""
    stand_in = StandIn(nano.engine)
    server = Server(web(stand_in) + "/v1")
    answers = {"speech": nano.protocol.speech_ids(), "text": nano.protocol.text_ids()}
    return stand_in, VllmEngine(server, answers, nano.checkpoint.context, nano.engine.patience)


@pytest.fixture(scope="module")
def prompt(nano, voice):
    return nano.protocol.tts_prompt("hello there. oh yes.", voice.codes["nano"])


def test_greedy_ids_are_our_engines_in_one_go_and_in_pieces(nano, served, prompt):
    own = nano.engine.start(prompt, 1, "speech", GREEDY, 0, 40)
    own.advance(40)
    for pieces in ([40], [1, 7, 32]):
        beams = served[1].start(prompt, 1, "speech", GREEDY, 0, 40)
        for steps in pieces:
            beams.advance(steps)
        assert beams.ids == own.ids and beams.stopped == own.stopped
        np.testing.assert_allclose(beams.log_probabilities[0], own.log_probabilities[0], atol=1e-3)


def test_rows_are_asked_for_with_all_they_said(served, prompt):
    stand_in, engine = served
    beams = engine.start(prompt, 2, sampling=Sampling(1.0, 1.0), seed=3, max_new=30)
    new = beams.advance(5)
    assert [len(ids) for ids in new] == [5, 5] and new[0] != new[1]
    beams.select([1, 1, 0])
    assert beams.ids == [new[1], new[1], new[0]]
    beams.fork(2)
    stand_in.asked.clear()
    beams.advance(4)
    wanted = [prompt + ids for ids in (new[1], new[1], new[1], new[1], new[0], new[0])]
    assert sorted(body["prompt"] for body in stand_in.asked) == sorted(wanted)
    assert len({body["seed"] for body in stand_in.asked}) == 6 and {b["min_tokens"] for b in stand_in.asked} == {0}
    assert len({tuple(ids) for ids in beams.ids}) == 6  # rows that come twice go on differently
    beams.advance(100)
    assert beams.done and all(len(ids) <= 30 for ids in beams.ids) and beams.advance(5) == [[]] * 6


def test_the_same_seed_gives_the_same_rows(served, prompt):
    def ids(seed):
        beams = served[1].start(prompt, 2, seed=seed, max_new=10)
        beams.advance(10)
        return beams.ids

    assert ids(1) == ids(1) != ids(2)


def test_a_llasa_on_vllm_speaks_streams_and_reads_greedily(nano, served, voice, monkeypatch):
    llasa = Llasa(nano.checkpoint, nano.protocol, served[1], nano.codec, GREEDY)
    own = nano.tts("Oh, yes.", voice, sampling=GREEDY)
    speech = llasa.tts("Oh, yes.", voice, seed=1)
    assert speech.codes[0].tolist() == own.codes[0].tolist() and speech.receipt["device"] == "vllm"
    with pytest.raises(ValueError, match="This was made on vLLM"):
        Llasa.replay(speech.receipt)
    streamed = np.concatenate(list(llasa.stream("Oh, yes.", voice, seed=1)))
    assert len(streamed) == len(own.wav)
    codes = nano.codec.encode(own.wav)[:-1]
    assert recognition.recognise(served[1], nano.protocol, [codes, codes[1:]]).ids == (
        nano.engine.likeliest(nano.protocol.asr_prompt(codes), 1, "text")[0].ids
    )
    heard = llasa.transcribe(own.wav).text
    monkeypatch.delattr(type(nano.engine), "weigh")  # what cannot weigh reads greedily
    assert heard == nano.transcribe(own.wav).text


def test_what_cannot_be_asked_is_refused(served, prompt, web):
    engine = served[1]
    for wrong, sentence in (
        ({"n": 0}, "n must be at least 1"),
        ({"max_new": 0}, "max_new must be at least 1"),
        ({"sampling": Sampling(repetition_penalty=1.1)}, "repetition penalty must be 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            engine.start(prompt, **wrong)
    with pytest.raises(ValueError, match="The prompt is empty"):
        engine.start([])
    with pytest.raises(ValueError, match="leaves no room"):
        engine.start([5] * 1024)
    with pytest.raises(ValueError, match="select needs rows"):
        engine.start(prompt).select([1])
    with pytest.raises(ValueError, match="No vLLM answers at http://127.0.0.1:9"):
        connect(url="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="No vLLM answers at http://127.0.0.1:9a"):
        connect(url="http://127.0.0.1:9a")
    for told in (b'{"data": []}', b'{"status": "ok"}', b"<html>"):  # another program, or one without a model
        with pytest.raises(ValueError, match="What answers at http://127.* is no vLLM that serves a model"):
            Server(web(lambda *_, told=told: (200, told)))
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ValueError, match="There is no vLLM here"):
            connect()


@pytest.fixture
def in_process(monkeypatch):
    """vLLM's own `LLM`, as far as it is called here: it may be asked by one thread at a time. What it was made with."""
    made_with = {}

    class LLM:
        llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype="torch.bfloat16"))
        asked = threading.Lock()

        def __init__(self, source, **arguments):
            made_with.update(arguments)

        def generate(self, prompts, params, use_tqdm):
            assert self.asked.acquire(blocking=False) and os.environ[vllm_engine.RUNNER] == "0"
            time.sleep(0.01)
            self.asked.release()
            ids = [prompt["prompt_token_ids"][0] for prompt in prompts]
            rows = [SimpleNamespace(token_ids=[k], logprobs=[{k: SimpleNamespace(logprob=-1.0)}]) for k in ids]
            return [SimpleNamespace(outputs=[row]) for row in rows]

    monkeypatch.setenv(vllm_engine.RUNNER, "")  # so that it is put back
    monkeypatch.delenv(vllm_engine.RUNNER)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=lambda **given: given))
    return made_with


def test_a_server_that_died_tells_how_to_start_it(web):
    with pytest.raises(Unanswered, match="500: EngineCore died Was it started with VLLM_USE_V2_MODEL_RUNNER=0?"):
        Server(web(lambda *_: (500, b"EngineCore died")))


def test_a_server_with_a_key_is_given_it(web, monkeypatch):
    def say(asked, _):
        known = asked.headers["Authorization"] == "Bearer sesame"
        return (200, b'{"data": [{"id": "nano"}]}') if known else (401, b'{"error":"Unauthorized"}')

    assert Server(web(say), "sesame").model == "nano"
    with pytest.raises(Unanswered, match="refused with 401: .*Unauthorized"):
        Server(web(say))
    monkeypatch.setenv("VLLM_API_KEY", "sesame")  # all that the command line has
    assert Server(web(say)).model == "nano"


def test_a_request_that_was_broken_off_is_not_asked_for_for_ever(served, prompt, monkeypatch):
    """vLLM answers with what there is, be it nothing, where it is shut down or put to sleep meanwhile."""
    stand_in, engine = served
    choice = {"token_ids": [], "logprobs": {"token_logprobs": []}, "finish_reason": "abort"}
    beams = engine.start(prompt, 2, max_new=30)
    beams.advance(3)
    monkeypatch.setattr(StandIn, "__call__", lambda *_: (200, json.dumps({"choices": [choice]}).encode()))
    with pytest.raises(Unanswered, match="vLLM broke off a request before it made anything"):
        beams.advance(30)
    monkeypatch.undo()
    beams.advance(30)
    assert beams.done


def test_in_this_process_callers_take_turns(in_process):
    llm = InProcess("some/llasa", 1024)
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda k: llm.complete([[k]], [{"stop_token_ids": [0]}]), range(1, 9))
        assert [answer.ids for (answer,) in made] == [[k] for k in range(1, 9)]


def test_in_this_process_the_codec_has_room_on_the_gpu(nano, in_process, monkeypatch):
    for name, there in (("pick_device", "cuda"), ("pick_dtype", None), ("load_codec", nano.codec)):
        monkeypatch.setattr(vllm_engine, name, lambda *given, there=there: there)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (18.5e9, 24e9))
    connect()
    assert in_process["gpu_memory_utilization"] == pytest.approx(16 / 24)
    connect(gpu_memory_utilization=0.5)
    assert in_process["gpu_memory_utilization"] == 0.5


# -- a real one ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_vllm(tmp_path_factory):
    """The address of a vLLM that serves nano in float32."""
    if os.environ.get("VLLM_URL"):
        yield os.environ["VLLM_URL"]
        return
    python = os.environ.get("VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else None)
    if python is None:
        pytest.skip("there is no vLLM here: set VLLM_PYTHON or VLLM_URL")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(NANO / "lm"), "--port", port]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--skip-tokenizer-init", "--enforce-eager"]
    command += ["--no-enable-chunked-prefill"]  # see vllm_engine.py
    more = {vllm_engine.RUNNER: "0", "VLLM_CPU_KVCACHE_SPACE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with open(log, "wb") as file:
        server = subprocess.Popen(command, env=os.environ | more, stdout=file, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{address}/health")
            break
        except OSError:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
    yield address
    server.terminate()
    server.wait(timeout=30)


def test_a_real_vllm_says_what_our_engine_says(nano, real_vllm, prompt):
    engine = connect(url=real_vllm).engine
    own = nano.engine.start(prompt, 1, "speech", GREEDY, 0, 60)
    own.advance(60)
    beams = engine.start(prompt, 1, "speech", GREEDY, 0, 60)
    while not beams.done:
        beams.advance(25)
    assert beams.ids == own.ids and beams.stopped == own.stopped


def test_a_real_vllm_samples_from_our_distribution(nano, real_vllm, prompt):
    """The first id of 300 rows, at temperature 1 over speech ids only: shares against our engine's probabilities."""
    engine = connect(url=real_vllm).engine
    beams = engine.start(prompt, 300, "speech", Sampling(1.0, 1.0), 5, 1)
    beams.advance(1)
    drawn = [ids[0] for ids in beams.ids]
    own = nano.engine.start(prompt, 300, "speech", Sampling(1.0, 1.0), 5, 1)
    own.advance(1)
    probability = {ids[0]: np.exp(logs[0]) for ids, logs in zip(own.ids, own.log_probabilities)}
    for code, p in sorted(probability.items(), key=lambda pair: -pair[1])[:5]:
        share, spread = np.mean([d == code for d in drawn]), np.sqrt(p * (1 - p) / len(drawn))
        assert abs(share - p) < 4 * spread + 0.01
