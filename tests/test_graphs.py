"""Laws of the static loop, the one that CUDA captures: it says what the plain loop says, and never asks the host.

All but the last test run without a GPU, on the function that is captured.
"""

import gc
import json
import os
import re
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LLAMA_3_ROPE, ROOT
from test_engine import ANSWERS, FREE, GREEDY, PROMPT, PROMPTS, SHAPES, WITHOUT, generated

from llasa_lite import decoder, graphs
from llasa_lite.checkpoints import CHECKPOINTS, CODEC_GIGABYTES, SPEECH_CHOICES, memory_needed
from llasa_lite.checkpoints import SHAPES as SHAPES_RELEASED
from llasa_lite.decoder import Decoder
from llasa_lite.engine import END, RUNNING, Engine, Patience, Sampling
from llasa_lite.graphs import Kind, Slots, StaticBeams

SAMPLINGS = {
    "greedy": GREEDY,
    "free": FREE,
    "the default": Sampling(),
    "a narrow nucleus": Sampling(1.2, 0.3),
    "top_k": Sampling(1.0, 1.0, top_k=7),
    "top_k, top_p and a penalty": Sampling(0.9, 0.6, top_k=20, repetition_penalty=1.3),
    "guided": Sampling(1.0, 0.9, guidance=2.0),
}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Every few ids a look of the host, and a wider window."""
    monkeypatch.setattr(graphs, "CHECK_STEPS", 5)
    monkeypatch.setattr(graphs, "KV_STEP", 8)


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return tiny_llama(100, rope_parameters=LLAMA_3_ROPE, tie_word_embeddings=True)


@pytest.fixture
def plain(llama):
    return Engine(llama, ANSWERS, static=False)


@pytest.fixture
def static(llama):
    return Engine(llama, ANSWERS, static=True)


def lived(engine, sampling, seed=3, **given):
    """Rows that grow, are pruned, branch and go on."""
    given |= {"unconditional": WITHOUT}
    beams = engine.start_batch(PROMPTS, "speech", sampling, [seed, 4, 5, 6], [60, 45, 50, 33], n=2, **given)
    beams.advance(7)
    beams.select([6, 1, 4, 1])
    beams.advance(9)
    beams.fork(5)
    beams.advance(1)
    beams.select([19, 3, 0])
    beams.advance(100)
    assert beams.done
    return beams


def same(one, other):
    assert one.ids == other.ids and one.stopped == other.stopped
    for ours, theirs in zip(one.log_probabilities, other.log_probabilities):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


# -- one loop, two backends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_equals_generate(tiny_llama, shape):
    model = tiny_llama(100, 1, **SHAPES[shape])
    beams = Engine(model, ANSWERS, static=True).start(PROMPT, 3, "speech", GREEDY, max_new=100)
    beams.advance(100)
    assert beams.ids == [generated(model, PROMPT, ANSWERS["speech"], 100)] * 3


def test_greedy_equals_generate_on_nano(nano, monkeypatch):
    monkeypatch.undo()  # as it runs on a GPU
    engine = Engine(nano.engine.model, {"speech": nano.protocol.speech_ids()}, static=True)
    prompt = nano.protocol.tts_prompt("hello there.")
    beams = engine.start(prompt, 1, "speech", GREEDY, max_new=60)
    beams.advance(60)
    assert beams.ids[0] == generated(nano.engine.model, prompt, nano.protocol.speech_ids(), 60)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_both_loops_say_the_same(plain, static, name, rounds, monkeypatch):
    """Also where a draw that missed the nucleus costs a step of its own."""
    monkeypatch.setattr(graphs, "ROUNDS", rounds)
    same(lived(static, SAMPLINGS[name]), lived(plain, SAMPLINGS[name]))


def test_both_loops_say_the_same_in_the_default_steps(nano, monkeypatch):
    monkeypatch.undo()
    answers = {"speech": nano.protocol.speech_ids()}
    prompt = nano.protocol.tts_prompt("hello there.")
    one, other = (Engine(nano.engine.model, answers, static=s).start(prompt, 3, seed=1) for s in (True, False))
    for beams in (one, other):
        beams.advance(25)
        beams.select([2, 0])
        beams.advance(45)
    same(one, other)


def test_an_end_inside_a_block_ends_the_row_there(tiny_llama):
    model = tiny_llama(100, initializer_range=0.05)
    one, other = (Engine(model, {"speech": [60, 61]}, static=s).start(PROMPT, 40, sampling=FREE) for s in (True, False))
    for beams in (one, other):
        beams.advance(30)
    same(one, other)
    assert len({len(ids) % graphs.CHECK_STEPS for ids in one.ids}) >= 3


def test_what_comes_after_a_loop_is_thrown_away(tiny_llama):
    model, few = tiny_llama(100, 2, initializer_range=0.1), {"speech": range(60, 66)}
    patience = Patience(repetition_ids=33)
    one, other = (
        Engine(model, few, patience=patience, static=s).start(PROMPT, sampling=GREEDY, max_new=200)
        for s in (True, False)
    )
    one.advance(200), other.advance(200)
    assert one.stopped == ["repetition"]
    same(one, other)


def test_beams_take_turns_on_one_engine(plain, static):
    """Two visitors: neither hears the other."""
    first, second = (static.start(PROMPT, 2, sampling=FREE, seed=s, max_new=30) for s in (1, 2))
    for _ in range(6):
        first.advance(3)
        second.advance(3)
    for beams, seed in ((first, 1), (second, 2)):
        wanted = plain.start(PROMPT, 2, sampling=FREE, seed=seed, max_new=30)
        wanted.advance(18)
        same(beams, wanted)


def test_slots_are_lent_again(static):
    def slots():
        return [id(one) for one in static.stock.free]

    beams = static.start(PROMPT, 3, sampling=GREEDY, max_new=20)
    beams.advance(20)
    first = slots()
    assert len(first) == 1
    beams = static.start(PROMPT[:3], 4, sampling=GREEDY, max_new=20)
    beams.advance(2)
    assert slots() == []
    del beams  # given up half way
    gc.collect()
    assert slots() == first


def test_a_plain_row_takes_no_place_of_guided_ones(static):
    """A search speaks with guidance and reads back without: each finds its slots again."""
    stock = static.stock
    guided = stock.lease(4, 32, guided=True)
    stock.give(guided)
    stock.give(stock.lease(4, 32))
    assert stock.lease(4, 32, guided=True) is guided


def test_what_waits_to_be_lent_takes_bounded_memory(static, monkeypatch):
    """The sizes that a search comes by; the last is kept whatever its size."""
    stock = static.stock
    stock.clear()
    monkeypatch.setattr("llasa_lite.graphs.MOST_FREE", 200)
    lent = [stock.lease(rows, 32) for rows in (4, 2, 1)]
    for slots in lent:
        stock.give(slots)
    assert stock.free == lent[1:] and [slots.room for slots in lent] == [128, 64, 32]
    stock.give(stock.lease(8, 32))
    assert [slots.rows for slots in stock.free] == [8]
    stock.clear()


@torch.inference_mode()
def test_the_head_has_an_even_width_of_which_nobody_hears(plain, static):
    hidden = torch.randn(3, 32)
    logits = static.heads["speech"](hidden)
    assert logits.stride(0) % 64 == 0
    torch.testing.assert_close(logits, plain.heads["speech"](hidden))


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """Memory for no more than so many rows: `short(4)`, and to how many it came in the end."""
    tried = []

    def limit(most, where="step"):
        whole = {"step": graphs.step, "slots": Slots.__init__}[where]

        def step(slots, *given):
            tried.append(slots.rows)
            if slots.rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return whole(slots, *given)

        def init(self, decoder, rows, *given):
            tried.append(rows)
            if rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            whole(self, decoder, rows, *given)

        if where == "step":
            monkeypatch.setattr(graphs, "step", step)
        else:
            monkeypatch.setattr(Slots, "__init__", init)
        return tried

    return limit


@pytest.mark.parametrize("where", ["step", "slots"])
@pytest.mark.parametrize("most", [1, 2, 8])
def test_short_memory_gives_smaller_batches_and_the_same_ids(llama, plain, short, most, where):
    tried = short(most, where)
    same(lived(Engine(llama, ANSWERS, static=True), SAMPLINGS["the default"]), lived(plain, SAMPLINGS["the default"]))
    assert max(tried) > most in tried


def test_memory_that_comes_back_is_not_waited_for(llama, short):
    short(4)
    beams = Engine(llama, ANSWERS, static=True).start(PROMPT, 8, sampling=FREE)
    beams.advance(3)
    assert beams.width == 4


def test_a_row_alone_in_slots_of_two_finds_memory_for_one(llama, plain, short):
    engine = Engine(llama, ANSWERS, static=True)
    tried = short(1)
    found = [one.start(PROMPT, 2, sampling=FREE, max_new=20) for one in (engine, plain)]
    for beams in found:
        beams.advance(3)
        beams.select([1])
    engine.stock.step = graphs.step  # short from now on
    for beams in found:
        beams.advance(20)
    same(*found)
    assert tried[:2] == [2, 1]


def test_no_memory_for_one_row_is_a_sentence(llama, short):
    short(0)
    beams = Engine(llama, ANSWERS, static=True).start(PROMPT, 8, sampling=FREE, max_new=20)
    with pytest.raises(ValueError, match="does not hold one row of 26 ids beside the model. Use a smaller"):
        beams.advance(3)
    assert beams.stopped == [RUNNING] * 8 and beams.ids == [[]] * 8


def test_numbers_out_of_range_are_a_sentence(tiny_llama):
    model = tiny_llama(100).to(torch.float16)
    model.lm_head.weight.data *= 60_000
    for static in (False, True):
        engine = Engine(model, ANSWERS, static=static)
        with pytest.raises(ValueError, match="left the range of float16. Use dtype='bfloat16' or 'float32'"):
            engine.start(PROMPT, 2, sampling=FREE).advance(9)
        with pytest.raises(ValueError, match="left the range of float16"):
            engine.likeliest(PROMPT, 3, "speech", 9)


def test_numbers_out_of_range_harm_no_later_speech(tiny_llama):
    """What is no number stays in the buffers, and would be multiplied though it is masked."""
    model = tiny_llama(100)
    model.model.embed_tokens.weight.data[59] = torch.inf
    engine = Engine(model, ANSWERS, static=True)

    def speak(prompt):
        beams = engine.start(prompt, 2, sampling=FREE, max_new=20)
        beams.advance(20)
        return beams.ids

    before = speak(PROMPT)
    with pytest.raises(ValueError, match="left the range"):
        speak([3] * 10 + [59, 3])
    assert speak(PROMPT) == before


@pytest.mark.parametrize("name", SHAPES_RELEASED)
def test_memory_is_counted_from_the_shape(name, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setattr(decoder, "fuse", lambda linear, *layers: None)
    shape = SHAPES_RELEASED[name]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
        cache = 16 * sum(part.nbytes for layer in Decoder(model, 8).new_static_cache(1, 1000) for part in layer)
    weights = sum(p.nbytes for p in model.parameters())
    head = SPEECH_CHOICES * shape["hidden_size"] * 2
    rest = memory_needed(shape, 16, 1000) * 1e9 - weights - head - cache
    assert 0 < rest < 0.1e9  # logits
    assert memory_needed(shape, 9, 1000) == memory_needed(shape, 16, 1000)
    told = re.search(
        rf"(?i)^\| {name} \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "llasa_lite/docs/speed.md").read_text(), re.M
    )
    assert [float(gb) for gb in told.groups()] == [round(memory_needed(shape, n) + CODEC_GIGABYTES, 1) for n in (1, 16)]
    assert CHECKPOINTS[name].gigabytes == pytest.approx(memory_needed(shape) + CODEC_GIGABYTES, abs=0.6)


# -- what is captured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_step_asks_nothing_of_the_host(tiny_llama, name, monkeypatch):
    """On the meta device there are no numbers: whatever read one, or mixed in a tensor of the host, would raise."""
    # weights there cannot become views of others
    monkeypatch.setattr(decoder, "fuse", lambda linear, *layers: linear(torch.cat([layer.weight for layer in layers])))
    model = tiny_llama(100).to("meta", torch.bfloat16)
    engine = Engine(model, ANSWERS, static=True)
    how = SAMPLINGS[name]
    slots = engine.stock.lease(5, 60, how.guided)
    slots.load(np.zeros((6, 8), np.int64), np.zeros(slots.uniforms.shape, np.float32), how, [[]] * 5)
    with torch.inference_mode():
        engine.stock.runner(slots, Kind.of("speech", how), 32)()
    buffers = [slots.state, slots.said, slots.logs, slots.floor, slots.how, slots.uniforms, slots.spoken]
    assert all(buffer.is_meta for buffer in [*buffers, *sum(slots.cache, ())])
    with pytest.raises(Exception, match="meta"):
        slots.state.sum().item()


def test_all_of_it_runs_on_another_device_than_the_host():
    """Speech, search with its verifiers and codec on a device pretended on the CPU: no tensor of one is mixed with one
    of the other, the same codes come, and the host waits for the device a few times a sentence, not at every step."""
    script = ROOT / "tests" / "standin" / "accelerator.py"
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT, env=one_thread)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["device"] == "pretended:0" and told["same"] == {"tts": True, "search": True, "encode": True}
    assert told["waits"] < 50


def test_a_step_is_one_graph_for_the_compiler(llama, plain, monkeypatch):
    """No breaks, the same ids, and any number of shapes; `aot_eager` follows the code as the compiler does and leaves
    out its kernels."""
    sampling = SAMPLINGS["top_k, top_p and a penalty"]
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    engine = Engine(llama, ANSWERS, static=True, compile=True)
    found = [one.start(PROMPT, 2, sampling=sampling, seed=3, max_new=12) for one in (engine, plain)]
    for beams in found:
        beams.advance(12)
    same(*found)


@torch.inference_mode()
def test_rows_that_stand_still_change_nothing(static):
    """What a capture does while it tries the step out."""
    beams = static.start_batch(PROMPTS, "speech", FREE, [1] * 4)
    beams.advance(7)
    slots = beams.slots
    slots.state[graphs.LEFT] = slots.state[graphs.MADE]
    before = slots.state.clone(), [part.clone() for layer in slots.cache for part in layer]
    static.stock.runner(slots, Kind.of("speech", FREE), slots.length)()
    assert torch.equal(slots.state, before[0])
    for row, place in ((row, beams.rows.index(row)) for row in range(4) if beams.stopped[row] == RUNNING):
        used = beams._tail(row)[1]
        for part, was in zip((part for layer in slots.cache for part in layer), before[1]):
            assert torch.equal(part[place, :, :used], was[place, :, :used])


class Cuda:
    """What PyTorch demands of captures, in place of `torch.cuda`: one at a time in a process, on a stream of the device
    that works, and in no pool whose graphs are all gone. A capture notes the call of the step that its replay repeats.
    """

    def __init__(self, monkeypatch):
        self.device_index, self.captures, self.underway, self.opened = 0, [], None, {}
        self.end = lambda rows: None  # of a capture of a step for so many rows
        self.memory = 1e12, 1e12  # free, total
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: self.memory)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        for name in ("CUDAGraph", "Stream", "current_stream", "device", "empty_cache", "graph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: self.device(stream.device))
        whole = graphs.step

        def step(slots, *given):
            if self.underway:
                self.underway.steps.append(partial(whole, weakref.proxy(slots), *given))
            whole(slots, *given)

        monkeypatch.setattr(graphs, "step", step)

    def engine(self, llama):
        engine = Engine(llama, ANSWERS, static=True)
        engine.stock.captures = True
        return engine

    def CUDAGraph(self):
        cuda = self

        class Graph:
            def __init__(self):
                self.steps, self.pool = [], None

            def replay(self):
                for step in self.steps:
                    step()

            def __del__(self):
                if self.pool:
                    cuda.opened[self.pool] -= 1

        return Graph()

    def Stream(self, device=None):
        return SimpleNamespace(device=torch.device("cuda", self.device_index), wait_stream=lambda other: None)

    current_stream = Stream

    @contextmanager
    def device(self, device):
        before, self.device_index = self.device_index, device.index or 0
        yield
        self.device_index = before

    def empty_cache(self):
        assert self.underway is None

    def graph_pool_handle(self):
        return len(self.opened), object()

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert self.underway is None and self.opened.get(pool, 1) > 0
        assert stream.device.index == self.device_index
        self.opened[pool] = self.opened.get(pool, 0) + 1
        graph.pool, self.underway = pool, graph
        self.captures.append(stream)
        time.sleep(0.01)
        try:
            yield
        finally:
            self.underway = None
            self.end(graph.steps[0].args[0].rows)


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_replayed_steps_say_what_the_plain_loop_says(llama, plain, cuda, name):
    same(lived(cuda.engine(llama), SAMPLINGS[name]), lived(plain, SAMPLINGS[name]))
    assert cuda.captures


def test_graphs_are_captured_again_after_all_were_thrown_away(llama, plain, cuda, short):
    """For a longer row, and where memory is short."""
    short(2)
    engine = cuda.engine(llama)
    for n, max_new in ((1, 10), (1, 40), (4, 40)):
        found = [one.start(PROMPT, n, sampling=FREE, max_new=max_new) for one in (engine, plain)]
        for beams in found:
            beams.advance(max_new)
        same(*found)
    assert len(cuda.opened) == 3


@pytest.mark.parametrize("free, width", [(100_000, 2), (0, 1)])
def test_rows_leave_memory_to_codec_and_verifiers(llama, plain, cuda, free, width):
    """One row of 96 ids takes 24,576 bytes here; where there are fewer, it is tried all the same."""
    engine, cuda.memory = cuda.engine(llama), (free, 300_000)
    found = lived(engine, SAMPLINGS["the default"])
    same(found, lived(plain, SAMPLINGS["the default"]))
    assert found.width == width


def ends(said):
    """An error of CUDA's own."""

    def end(rows):
        if rows > 2:
            raise torch.AcceleratorError(said)

    return end


def is_cut_short(rows):
    """The allocator finds nothing, and what the capture was until then is no graph."""
    if rows > 2:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("end", [ends("CUDA error: out of memory"), is_cut_short])
def test_memory_that_ends_at_a_capture_gives_smaller_batches_and_the_same_ids(llama, plain, cuda, end):
    """Memory of a graph itself is no tensor's: its lack is told by another error."""
    cuda.end = end
    same(lived(cuda.engine(llama), SAMPLINGS["the default"]), lived(plain, SAMPLINGS["the default"]))


def test_other_errors_of_a_capture_are_not_taken_for_short_memory(llama, cuda):
    cuda.end = ends("CUDA error: operation not permitted when stream is capturing")
    with pytest.raises(torch.AcceleratorError, match="not permitted"):
        cuda.engine(llama).start(PROMPT, 4, sampling=FREE).advance(3)


def test_graphs_are_captured_on_the_device_of_the_model(llama, cuda):
    engine = cuda.engine(llama)
    engine.stock.device = torch.device("cuda", 1)
    for n in (1, 4):
        engine.start(PROMPT, n, sampling=FREE, max_new=10).advance(10)
    assert {stream.device.index for stream in cuda.captures} == {1} and len(set(map(id, cuda.captures))) == 1


def test_engines_capture_one_after_the_other(llama, cuda):
    """A page loads one model while another speaks."""
    with ThreadPoolExecutor(4) as pool:
        beams = [cuda.engine(llama).start(PROMPT, 2, sampling=FREE, max_new=30) for _ in range(4)]
        rows = list(pool.map(lambda one: one.advance(30), beams))
    assert all(row == rows[0] for row in rows)
    assert len(set(map(id, cuda.captures))) == 4  # each on a stream of its own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here: nothing can be captured")
@pytest.mark.parametrize("compile", [False, True])
def test_on_cuda_captured_steps_say_what_the_plain_loop_says(tiny_llama, compile):
    model = tiny_llama(100, rope_parameters=LLAMA_3_ROPE).to("cuda")
    for name in ("greedy",) if compile else SAMPLINGS:
        one = lived(Engine(model, ANSWERS, compile=compile), SAMPLINGS[name])
        assert isinstance(one, StaticBeams) and END in one.stopped or one.done
        same(one, lived(Engine(model, ANSWERS, static=False), SAMPLINGS[name]))
