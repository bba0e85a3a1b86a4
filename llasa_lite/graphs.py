"""Rows in static buffers: a step is one fixed function of tensors, which CUDA captures as a graph and replays.

A GPU makes a step of a small Llama in half a millisecond; asking for its three hundred kernels one by one takes ten
times that. So nothing in a step may depend on the host: where each row stands, what it drew and whether it ended is
kept on the device, and the host looks every `CHECK_STEPS`. What was said is known to the host alone from there on: the
device's rows can be thrown away and read in again at any time, which is what happens where memory is short.

`step` is an ordinary function: without CUDA it runs as it is.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from .beams import RUNNING, Beams
from .checkpoints import out_of_memory
from .sampling import Sampling, above, attempt, invert, masses, penalised

CHECK_STEPS = 32  # steps between two looks of the host; what a row would say after its end is never computed
KV_STEP = 256  # the cache is attended to up to a multiple of this: a graph for each
ROUNDS = 2  # draws a row may make in one step; with top_p 0.95 one in 800 needs more and takes another step for them
SHRINK = 4  # rows move to smaller buffers when they fill no more than this part of theirs
MOST_FREE = 2**18  # ids in slots that wait to be lent: the paper's 16 x 16 beams of 1,024, 8.6 GB of Llasa-1B
BESIDE = 0.1  # of a GPU's memory that rows leave to codec and verifiers at work, unless there is but one
MOST_GRAPHS = 64  # of one size; other settings of top_k ask for graphs of their own
WARM_UP = 3  # runs before a capture, so that libraries have what they need

LAST, LENGTH, FRESH, LEFT, OTHER, SHIFT, MADE, DRAWN, SPENT = range(9)  # rows of `Slots.state`


class Kind(NamedTuple):
    """What makes a step another step; temperature, top_p and penalty themselves are numbers on the device."""

    answer: str
    greedy: bool
    nucleus: bool  # top_p below 1
    top_k: int
    penalty: bool
    guided: bool

    @classmethod
    def of(cls, answer: str, how: Sampling) -> Kind:
        return cls(answer, how.greedy, how.top_p < 1, how.top_k, how.repetition_penalty > 1, how.guided)


class Slots:
    """Static buffers for so many rows of so many ids, and the graphs that were captured on them.

    The cache of guided rows holds their partners too, after all rows and in the same order.
    """

    def __init__(self, decoder, rows: int, length: int, guided: bool = False):
        self.rows, self.length, self.guided = rows, length, guided
        self.room = rows * (1 + guided) * length  # ids
        device = decoder.embedding.device
        self.cache = decoder.new_static_cache(rows * (1 + guided), length)
        # of each row: the id to be read next, how many are in the cache, 1 if nothing was said yet; how many ids it may
        # make in this block; the id its partner reads next, and how many more that has in the cache; ids it has made in
        # this block, uniform numbers it has drawn, and had drawn when it last made an id
        self.state = torch.zeros(9, rows, dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(rows, CHECK_STEPS * ROUNDS, device=device)
        self.floor = torch.zeros(rows, 1, device=device)  # a row that missed the nucleus draws above this next
        self.how = torch.zeros(4, device=device)  # temperature, top_p, repetition penalty, guidance
        self.said = torch.zeros(rows, CHECK_STEPS + 1, dtype=torch.int64, device=device)  # of this block, in `answers`
        self.logs = torch.zeros(rows, CHECK_STEPS + 1, device=device)
        vocabulary = len(decoder.embedding)
        self.spoken = partial(torch.zeros, rows, vocabulary, dtype=torch.bool, device=device)  # until it is needed
        self.graphs: dict[tuple[Kind, int], Callable[[], object]] = {}

    def load(self, state: np.ndarray, uniforms: np.ndarray, how: Sampling, spoken: list[list[int]] | None) -> None:
        """Begin a block: state (6, rows) as LAST .. SHIFT; spoken: ids each row has said, for the penalty."""
        self.state.zero_()
        self.state[: len(state)].copy_(torch.from_numpy(state))
        self.uniforms.copy_(torch.from_numpy(uniforms))
        self.how.copy_(torch.tensor([how.temperature, how.top_p, how.repetition_penalty, how.guidance]))
        self.floor.fill_(-1)
        if spoken is not None:
            if not torch.is_tensor(self.spoken):
                self.spoken = self.spoken()
            self.spoken.zero_()
            for row, ids in enumerate(spoken):
                self.spoken[row, torch.tensor(ids, dtype=torch.int64, device=self.state.device)] = True


def step(slots: Slots, decoder, head, allowed: torch.Tensor, kind: Kind, window: int) -> None:
    """One more id in every row that may make one, with what the host put into `slots`; all others stand still.

    A row reads its last id, draws, and goes on if what it drew lies in the nucleus; else it draws again from what is
    likelier, up to `ROUNDS` times, and beyond that in the next step, which reads the same id again. So a row draws what
    `sampling.sample` would have it draw, and never waits for another.
    """
    last, lengths, fresh, left, other, shift, made, drawn, spent = slots.state.unbind()
    temperature, top_p, penalty, guidance = slots.how.unbind()
    going = made < left
    # 1. what may come next
    read = (torch.cat([last, other]), torch.cat([lengths, lengths + shift])) if kind.guided else (last, lengths)
    logits = head(decoder.decode_static(*read, slots.cache, window)).float()  # (rows, choices), then of their partners
    choices = logits.clone()
    if kind.guided:
        logits, without = logits.chunk(2)
        choices = torch.lerp(without, logits, guidance)
    choices[:, 0].masked_fill_(fresh > 0, -torch.inf)  # an answer of nothing is never what was asked for
    if kind.penalty:
        choices = torch.where(slots.spoken[:, allowed], penalised(choices, penalty), choices)
    # 2. draw
    missed, floor = torch.zeros_like(going), torch.full_like(slots.floor, -1)
    if kind.greedy:
        picked = choices.argmax(-1)
    else:
        likeliest = None
        if 0 < kind.top_k < choices.shape[1]:
            choices, likeliest = choices.topk(kind.top_k)
        p = masses(choices, temperature)
        if kind.nucleus:
            p, floor, missed = above(p, slots.floor), slots.floor, torch.ones_like(going)
            picked = torch.zeros_like(lengths)[:, None]
            for _ in range(ROUNDS):
                uniform = slots.uniforms.gather(1, drawn[:, None])[:, 0]
                index, own, again, likelier = attempt(p, uniform, top_p)
                picked = torch.where(missed[:, None], index, picked)
                drawn = drawn + (missed & going)
                missed = missed & again
                floor = torch.where(missed[:, None], own, floor)
                p = torch.where(missed[:, None, None], likelier, p)
        else:
            picked = invert(p, slots.uniforms.gather(1, drawn[:, None])[:, 0])
            drawn = drawn + going
        picked = picked.clamp_max(choices.shape[1] - 1)  # as in `invert`
        picked = (picked if likeliest is None else likeliest.gather(1, picked))[:, 0]
    log = logits.softmax(-1).gather(1, picked[:, None]).log()
    if kind.guided:
        log = log + 0 * without.gather(1, picked[:, None])  # as in `beams`
    # 3. who goes on; a row that stands still writes where nobody looks
    slots.said.scatter_(1, made[:, None], picked[:, None])
    slots.logs.scatter_(1, made[:, None], log)
    ok = going & ~missed
    last, other = torch.where(ok, allowed[picked], last), torch.where(ok, allowed[picked], other)
    made = made + ok
    left = torch.where(ok & (picked == 0), made, left)
    spent = torch.where(ok, drawn, spent)
    slots.floor.copy_(torch.where((going & missed)[:, None], floor, -1))
    slots.state.copy_(torch.stack([last, lengths + ok, fresh * ~ok, left, other, shift, made, drawn, spent]))
    if kind.penalty:
        said = ok[:, None] | slots.spoken.gather(1, last[:, None])
        slots.spoken.scatter_(1, last[:, None], said)


def compiled() -> Callable[..., None]:
    """`step`, fused by the compiler anew for every number of rows, window and kind."""
    fused = torch.compile(step, fullgraph=True, dynamic=False)

    def run(*given) -> None:
        # a function of more than eight shapes is given up otherwise; these are not more than there are graphs
        with torch._dynamo.config.patch(recompile_limit=2**20, accumulated_recompile_limit=2**20):
            fused(*given)

    return run


class Stock:
    """Slots to lend, so that graphs are captured once and serve again."""

    # of all engines, since a process captures one graph at a time, and frees no memory meanwhile; taken again within,
    # since a capture collects garbage, and beams that go give their slots back
    lock = threading.RLock()

    def __init__(self, decoder, heads, answers: dict[str, torch.Tensor], compile: bool = False):
        self.decoder, self.heads, self.answers = decoder, heads, answers
        self.step = compiled() if compile else step
        self.device = decoder.embedding.device
        self.captures = self.device.type == "cuda"
        self.streams, self.pool = (), None  # to warm up and to capture on, and what memory graphs share
        self.alive: weakref.WeakSet = weakref.WeakSet()  # graphs that may still be replayed
        self.free: list[Slots] = []

    def lease(self, rows: int, length: int, guided: bool = False) -> Slots:
        """Slots for at least so many rows and ids. Raises OutOfMemoryError where others would have too little left."""
        rows, length = bucket(rows), -(-length // KV_STEP) * KV_STEP
        with self.lock:
            for slots in self.free:
                if (slots.rows, slots.guided) == (rows, guided) and slots.length >= length:
                    self.free.remove(slots)
                    return slots
            # those like it are too short: their place is needed
            self.free = [slots for slots in self.free if (slots.rows, slots.guided) != (rows, guided)]
        if self.captures and rows > 1:
            free, total = torch.cuda.mem_get_info(self.device)
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            if rows * (1 + guided) * length * self.decoder.id_bytes > free - BESIDE * total:
                raise torch.OutOfMemoryError("Out of memory, but for what codec and verifiers need.")
        return Slots(self.decoder, rows, length, guided)

    def give(self, slots: Slots) -> None:
        with self.lock:
            self.free.append(slots)
            while len(self.free) > 1 and sum(one.room for one in self.free) > MOST_FREE:
                del self.free[0]  # a search comes by many sizes; codec and verifiers need memory, too

    def clear(self) -> None:
        """Throw away what is not lent."""
        with self.lock:
            self.free = []
            if self.captures:
                torch.cuda.empty_cache()

    def runner(self, slots: Slots, kind: Kind, window: int) -> Callable[[], object]:
        """The step on these slots, captured where there is CUDA; what was loaded stays as it is."""
        key = kind, window
        if key not in slots.graphs:
            head, allowed = self.heads[kind.answer], self.answers[kind.answer]
            run = partial(self.step, slots, self.decoder, head, allowed, kind, window)
            if not self.captures:
                return run
            with self.lock:
                loaded = slots.state.clone()
                slots.state[LEFT].zero_()  # all stand still
                run = self._capture(run)
                slots.state.copy_(loaded)
            if len(slots.graphs) >= MOST_GRAPHS:
                slots.graphs.clear()
            slots.graphs[key] = run
        return slots.graphs[key]

    def _capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """What `run` does, as a CUDA graph. `run` must leave the buffers as they are while it is tried out."""
        if not self.alive:
            # no tensor outlives a step, so that all graphs may use the same memory in between; a pool whose graphs are
            # all gone is never opened again, since cuBLAS may still hold its workspace there
            self.pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self.device):
            # the same two for all of an engine's captures and for no other's: cuBLAS keeps a workspace for every
            # stream, and that of the capture must lie in the pool
            self.streams = self.streams or (torch.cuda.Stream(), torch.cuda.Stream())
            aside, stream = self.streams
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may go on: they work in buffers of their own
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                run()
        self.alive.add(graph)
        return graph.replay


def bucket(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


class Ahead:
    """Uniform numbers of one stream, drawn before it is known how many will be used."""

    def __init__(self, stream: np.random.Generator):
        self.stream, self.numbers = stream, np.empty(0)

    def peek(self, n: int) -> np.ndarray:
        if len(self.numbers) < n:
            self.numbers = np.concatenate([self.numbers, self.stream.random(n - len(self.numbers))])
        return self.numbers[:n]

    def skip(self, n: int) -> None:
        self.numbers = self.numbers[n:]

    def spawn(self, n: int) -> list[Ahead]:
        return [Ahead(stream) for stream in self.stream.spawn(n)]


class StaticBeams(Beams):
    """`Beams` whose rows are in `Slots`.

    `rows` are those the slots hold, the stopped ones among them until they move to smaller slots. It is empty before
    the first step, and when slots were given up; rows are then read in again, from prompt and ids.

    Attributes:
        width: rows that are advanced together; fewer than there are where memory is short.
    """

    slots: Slots | None = None

    def _open(self, prompts, n: int) -> None:
        self.width = 10**9
        self.streams = [Ahead(stream) for stream in self.streams]

    @torch.inference_mode()
    def advance(self, steps: int = 1) -> list[list[int]]:
        """Sample up to `steps` ids in every running row; returns the new ids of each row (shorter where it stopped).

        Raises:
            ValueError: memory for not even one row, or numbers out of the dtype's range.
        """
        before = [len(ids) for ids in self.ids]
        aims = [min(length + steps, limit) for length, limit in zip(before, self.limits)]
        while waiting := [row for row, aim in enumerate(aims) if self._runs(row) and len(self.ids[row]) < aim]:
            try:
                if not set(self.rows) & set(waiting):
                    self._hold(waiting[: self.width])
                self._block(set(waiting), aims)
                continue
            except ValueError:  # numbers out of range: what is masked is still multiplied, so these are not lent again
                self.slots, self.rows = None, []
                raise
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                together = self.slots.rows if self.slots else bucket(min(len(waiting), self.width))
            self._narrow(together)  # not above: the error would keep its tensors alive
        if self.done:
            self._release()
        return [ids[start:] for ids, start in zip(self.ids, before)]

    def _block(self, waiting: set[int], aims: list[int]) -> None:
        """Up to CHECK_STEPS steps in the rows that are held, and a look at what came."""
        slots, running = self.slots, [(place, row) for place, row in enumerate(self.rows) if self._runs(row)]
        state = np.zeros((6, slots.rows), np.int64)
        uniforms = np.zeros(slots.uniforms.shape, np.float32)
        for place, row in running:
            left = min(aims[row] - len(self.ids[row]), CHECK_STEPS) if row in waiting else 0
            state[:, place] = [*self._tail(row), len(self.ids[row]) == 0, left, *self._partner(row)]
            uniforms[place] = self.streams[row].peek(uniforms.shape[1])
        spoken = None
        if self.sampling.repetition_penalty > 1:
            spoken = [self.ids[row] if self._runs(row) else [] for row in self.rows]
        slots.load(state, uniforms, self.sampling, spoken)
        window = int((state[LENGTH] + state[LEFT] + state[SHIFT].clip(0)).max())
        window = min(-(-window // KV_STEP) * KV_STEP, slots.length)
        run = self.engine.stock.runner(slots, Kind.of(self.answer, self.sampling), window)
        budget, steps = CHECK_STEPS, int(state[LEFT].max())
        while steps > 0:
            for _ in range(steps):
                run()
            state, budget = slots.state.cpu().numpy(), budget - steps
            steps = min(budget, int((state[LEFT] - state[MADE]).max()))  # of rows that had to draw again
        said, logs = slots.said.cpu().numpy(), slots.logs.cpu().numpy()
        allowed = self.engine.ids_of[self.answer]
        for place, row in running:
            self.streams[row].skip(state[SPENT, place])
            for index, log in zip(said[place, : state[MADE, place]].tolist(), logs[place].tolist()):
                if not self._hear(row, index, int(allowed[index]), log):
                    break
        running = [row for row in self.rows if self._runs(row)]
        if running and bucket(len(running)) * SHRINK <= slots.rows:
            self._keep(running)

    def _hold(self, rows: list[int]) -> None:
        """Read these rows into slots, equal ones once."""
        self._release()
        length = max(max(len(self.prompts[row]), len(self.without[row])) + self.limits[row] for row in rows)
        self.slots = self.engine.stock.lease(len(rows), length, self.sampling.guided)
        equal: dict[tuple, list[int]] = {}
        for place, row in enumerate(rows):
            equal.setdefault((tuple(self.prompts[row]), tuple(self.ids[row])), []).append(place)
            if self.sampling.guided:
                key = tuple(self.without[row]), tuple(self.ids[row])
                equal.setdefault(key, []).append(self.slots.rows + place)
        for (prompt, ids), places in equal.items():
            past = torch.tensor((prompt + ids)[:-1], device=self.engine.device)  # the last is read by the first step
            if not len(past):
                continue
            self.engine.decoder.prefill(past, self.slots.cache, places[0])
            for place in places[1:]:
                for part in (part for layer in self.slots.cache for part in layer):
                    part[place, :, : len(past)] = part[places[0], :, : len(past)]
        self.rows = list(rows)

    def _keep(self, rows: list[int]) -> None:
        if rows == self.rows:
            return
        if not rows or not set(rows) <= set(self.rows) or len(rows) > self.width:
            return self._release()
        try:
            self._move([self.rows.index(row) for row in rows])
            self.rows = rows
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self._release()

    def _move(self, places: list[int]) -> None:
        """Copy these places to the front of slots of their number."""
        old, size = self.slots, bucket(len(places))
        new = old if size <= old.rows < SHRINK * size else self.engine.stock.lease(size, old.length, old.guided)
        used = max(self._tail(row)[1] + max(0, self._partner(row)[1]) for row in self.rows)
        index = torch.tensor(places, device=self.engine.device)
        halves = ((0, 0), (new.rows, old.rows)) if old.guided else ((0, 0),)
        for into, out in zip(new.cache, old.cache):
            for part, source in zip(into, out):
                for to, start in halves:
                    part[to : to + len(places), :, :used] = source[:, :, :used].index_select(0, index + start)
        self.slots = new
        if new is not old:
            self.engine.stock.give(old)

    def _narrow(self, together: int) -> None:
        """Memory was short for so many rows: throw away what nobody uses, then try half as many."""
        spare = bool(self.engine.stock.free)
        self._release()
        self.engine.stock.clear()
        if spare:
            return
        if together == 1:
            length = max(len(prompt) + limit for prompt, limit in zip(self.prompts, self.limits))
            raise ValueError(
                f"The memory of '{self.engine.device}' does not hold one row of {length} ids beside the model. Use a "
                "smaller checkpoint, a shorter prompt or text, or the CPU."
            )
        self.width = together // 2

    def _release(self) -> None:
        if self.slots is not None:
            self.engine.stock.give(self.slots)
        self.slots, self.rows = None, []

    def _runs(self, row: int) -> bool:
        return self.stopped[row] == RUNNING

    def _tail(self, row: int) -> tuple[int, int]:
        """The id of a row that is read next, and how many come before it."""
        prompt, ids = self.prompts[row], self.ids[row]
        return int(ids[-1] if ids else prompt[-1]), len(prompt) + len(ids) - 1

    def _partner(self, row: int) -> tuple[int, int]:
        """The id that the partner of a row reads next, and how many more than the row it has before that."""
        without, ids = self.without[row], self.ids[row]
        return ((ids or without)[-1], len(without) - len(self.prompts[row])) if self.sampling.guided else (0, 0)

    def __del__(self):
        if MOST_FREE:  # names go first where Python ends
            self._release()
