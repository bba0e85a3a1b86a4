"""Token ids in, token ids out, for any `LlamaForCausalLM`; knows nothing of text or audio.

One loop serves everything:

    beams = engine.start(prompt_ids, n=4, answer="speech")   # one prefill, its cache copied to n rows
    new = beams.advance(25)                                  # 25 more ids in every row
    beams.select([0, 2])                                     # keep these rows, in this order; a row may come twice
    beams.fork(8)                                            # every row becomes 8

Sampling one utterance, streaming, best-of-N and beam search are loops over these four calls; `start_batch` opens rows
of different prompts for the same loop.

A row's ids depend on its prompt, its seed and its number alone, not on its neighbours: each row draws from a stream of
its own, attends over its own length, and on CPUs with packed weights even the arithmetic is the same bit for bit,
whatever the number of rows. Where weights cannot be packed, products of one row and of many round differently, and a
draw that falls within that rounding of a border may go the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .decoder import Decoder, Linear, Linear8, can_int8

END, LENGTH, SILENCE, REPETITION, RUNNING = "end", "length", "silence", "repetition", "running"  # why a row stopped

BLOCK = 256  # choices summed together while sampling
LOOP_CHECK_IDS = 8  # a loop is looked for every so many ids ...
LONGEST_LOOP_IDS = 25  # ... of at most so many


@dataclass(frozen=True)
class Sampling:
    """How the next id is drawn. Defaults: the authors' later advice for the released checkpoints."""

    temperature: float = 0.9  # 0 is greedy; 0 .. 2
    top_p: float = 0.95  # smallest set of ids with this probability; 0 < top_p <= 1
    top_k: int = 0  # at most this many ids; 0: no limit
    repetition_penalty: float = 1.0  # logits of ids already said are divided by it (multiplied where negative); >= 1

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in 0..2, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie above 0 and up to 1, not {self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or positive, not {self.top_k}.")
        if self.repetition_penalty < 1:
            raise ValueError(f"repetition_penalty must be at least 1 (off), not {self.repetition_penalty}.")


@dataclass(frozen=True)
class Patience:
    """When a row that goes nowhere is stopped before its limit. 0 waits for ever."""

    silence_ids: int = 0  # so many ids of `silent` one after the other
    repetition_ids: int = 0  # so many ids that only repeat the 1 .. 25 before them, over and over
    silent: frozenset[int] = frozenset()  # the ids that are heard as silence

    def __post_init__(self):
        if self.silence_ids < 0 or self.repetition_ids < 0:
            raise ValueError(
                f"Patience must be 0 (for ever) or positive, not {self.silence_ids} and {self.repetition_ids}."
            )

    def ended(self, ids: list[int]) -> str | None:
        """Why to stop a row of these ids, if there is a reason."""
        length = self.silence_ids
        if length and len(ids) >= length and ids[-1] in self.silent and self.silent.issuperset(ids[-length:]):
            return SILENCE
        length = self.repetition_ids
        if length and len(ids) % LOOP_CHECK_IDS == 0:
            tail = ids[-length:]
            for period in range(1, min(LONGEST_LOOP_IDS, len(ids) - length) + 1):
                if ids[-length - period : -period] == tail:
                    return REPETITION
        return None


class Engine:
    """Runs one checkpoint.

    Args:
        model: a `LlamaForCausalLM` on its device, in its dtype.
        answers: for each kind of answer, the ids that may be sampled, its END first
            (`{"speech": protocol.speech_ids(), "text": protocol.text_ids()}`).
        max_ids: ids of prompt and answer together; what the config allows if left out.
        patience: when rows that go nowhere are stopped; as it stands, only at their limit.
        int8: weights and what they are multiplied with in 8 bits (CPU only): see `Linear8`.
    Raises:
        ValueError: a Llama with biases, or int8 on a device or processor that cannot.
    """

    def __init__(
        self,
        model,
        answers: dict[str, Sequence[int]],
        max_ids: int | None = None,
        patience: Patience = Patience(),
        int8: bool = False,
    ):
        if int8 and not can_int8(model.device.type):
            raise ValueError("int8 runs on processors with VNNI (AVX512 or AVX-VNNI) only. Leave the dtype out.")
        self.model = model.eval()
        self.dtype = "int8" if int8 else str(model.dtype).removeprefix("torch.")
        self.max_ids: int = min(max_ids or 10**9, model.config.max_position_embeddings)
        self.patience = patience
        self.answers = {name: torch.as_tensor(np.asarray(ids), device=model.device) for name, ids in answers.items()}
        with torch.inference_mode():
            linear = Linear8 if int8 else Linear
            self.decoder = Decoder(model, self.max_ids, linear)
            self.heads = {name: linear(model.lm_head.weight[ids]) for name, ids in self.answers.items()}

    @property
    def device(self) -> torch.device:
        return self.model.device

    def start(
        self,
        prompt_ids: Sequence[int],
        n: int = 1,
        answer: str = "speech",
        sampling: Sampling = Sampling(),
        seed: int = 0,
        max_new: int = 1024,
    ) -> Beams:
        """Read the prompt once and open n rows on it.

        Args:
            prompt_ids: (p,) ids.
            n: rows, at least 1.
            answer: which ids may follow, a key of `answers`.
            seed: row k draws from stream k of this seed, whatever n is.
            max_new: ids a row may get; cut down to what the context of the checkpoint leaves.
        Raises:
            ValueError: no prompt, n < 1, max_new < 1, or a prompt that leaves no room for an answer.
        """
        return Beams(self, [prompt_ids], n, answer, sampling, [seed], [max_new])

    def start_batch(
        self,
        prompts: Sequence[Sequence[int]],
        answer: str = "speech",
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
        max_new: Sequence[int] | None = None,
        n: int = 1,
    ) -> Beams:
        """Open n rows on each of several prompts, side by side: rows r * n .. r * n + n - 1 are those of prompt r,
        and say what `start(prompts[r], n, seed=seeds[r], max_new=max_new[r])` would.

        Args:
            seeds: one a prompt; all 0 if left out. max_new: one a prompt; 1,024 if left out.
        Raises:
            ValueError: no prompts, another number of seeds or limits than prompts, or as `start`.
        """
        seeds = [0] * len(prompts) if seeds is None else list(seeds)
        max_new = [1024] * len(prompts) if max_new is None else list(max_new)
        if not len(prompts) == len(seeds) == len(max_new) > 0:
            raise ValueError(
                f"A batch needs at least one prompt, and a seed and a limit for each; these are {len(prompts)} "
                f"prompts, {len(seeds)} seeds and {len(max_new)} limits."
            )
        return Beams(self, prompts, n, answer, sampling, seeds, max_new)

    def room(self, prompt_ids: Sequence[int]) -> int:
        """Ids an answer to this prompt may have. Raises ValueError where there is no prompt or no room."""
        if len(prompt_ids) == 0:
            raise ValueError("The prompt is empty.")
        room = self.max_ids - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"The prompt takes {len(prompt_ids)} of the model's {self.max_ids} ids and leaves no room for an "
                "answer. Use a shorter voice clip or text."
            )
        return room


class Beams:
    """Rows growing together. Made by `Engine.start` and `Engine.start_batch`.

    Attributes:
        ids: one list per row of the ids sampled so far, END not included.
        stopped: one word per row: "end", "length", "silence", "repetition" or "running".
        log_probabilities: one list per row: of each id in `ids`, then of END, under the model itself (temperature 1).
        max_new: ids the row with the highest limit may get.
    """

    @torch.inference_mode()
    def __init__(self, engine: Engine, prompts, n: int, answer: str, sampling: Sampling, seeds, limits):
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        for limit in limits:
            if limit < 1:
                raise ValueError(f"max_new must be at least 1, not {limit}.")
        limits = [min(limit, engine.room(prompt)) for limit, prompt in zip(limits, prompts)]
        self.engine, self.answer, self.sampling = engine, answer, sampling
        # what is known of every row
        self.ids: list[list[int]] = [[] for _ in range(len(prompts) * n)]
        self.log_probabilities: list[list[float]] = [[] for _ in self.ids]
        self.stopped = [RUNNING] * len(self.ids)
        self.limits = [limit for limit in limits for _ in range(n)]
        self.streams = [np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, k]) for seed in seeds for k in range(n)]
        self.max_new = max(limits)
        self.new = 0  # ids every running row has got
        # what the model holds, of the running rows only: `rows` says whose, `lengths` how many ids are in the cache
        self.rows = list(range(len(self.ids)))
        self.lengths = [len(prompt) for prompt in prompts for _ in range(n)]
        length = max(len(prompt) + limit for prompt, limit in zip(prompts, limits))
        self.cache = engine.decoder.new_cache(len(self.ids), length)
        hidden = []
        for index, prompt in enumerate(prompts):  # one by one: a prompt fills the processor, and padding costs
            ids = torch.as_tensor(np.asarray(prompt), device=engine.device)
            hidden.append(engine.decoder.prefill(ids, self.cache, index * n))
            for row in range(index * n + 1, index * n + n):
                self.cache[:, :, row, :, : len(ids)] = self.cache[:, :, index * n, :, : len(ids)]
        self.logits = self._head(torch.cat(hidden)).repeat_interleave(n, 0)  # None: the last ids are still to be read
        self.said = torch.zeros(len(self.ids), self.max_new, dtype=torch.int64, device=engine.device)  # among `answers`

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def done(self) -> bool:
        """Every row has stopped."""
        return not self.rows

    @torch.inference_mode()
    def advance(self, steps: int = 1) -> list[list[int]]:
        """Sample up to `steps` ids in every running row; returns the new ids of each row (shorter where it stopped)."""
        allowed = self.engine.answers[self.answer]
        before = [len(ids) for ids in self.ids]
        for _ in range(steps):
            if self.done:
                break
            # 1. what may come next
            if self.logits is None:
                last = allowed[self.said[:, self.new - 1]]
                self.logits = self._head(self.engine.decoder.decode(last, self.cache, self.lengths))
                self.lengths = [length + 1 for length in self.lengths]
            logits = self.logits
            if self.new == 0:  # an answer of nothing is never what was asked for
                logits = logits.clone()
                logits[:, 0] = -torch.inf
            # 2. one of it for each row
            picked = sample(logits, self.sampling, self._draw, self.said[:, : self.new])  # (rows,) among `allowed`
            likely = self.logits.softmax(-1).gather(1, picked[:, None])[:, 0].log()  # logsumexp takes twice as long
            self.said[:, self.new] = picked
            self.logits = None
            self.new += 1
            # 3. who goes on
            going = []
            for place, (index, token, log) in enumerate(zip(*(x.tolist() for x in (picked, allowed[picked], likely)))):
                row = self.rows[place]
                self.log_probabilities[row].append(log)
                if index == 0:
                    self.stopped[row] = END
                    continue
                self.ids[row].append(token)
                reason = self.engine.patience.ended(self.ids[row])
                self.stopped[row] = reason or (LENGTH if self.new >= self.limits[row] else RUNNING)
                if self.stopped[row] == RUNNING:
                    going.append(place)
            self._close(going)
        return [ids[start:] for ids, start in zip(self.ids, before)]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order. A row that comes again goes on differently: it gets a stream of its own."""
        rows = list(rows)
        if not rows or not all(0 <= row < len(self) for row in rows):
            raise ValueError(f"select needs rows in 0..{len(self) - 1}, got {rows}.")
        places = [self.rows.index(row) for row in rows if self.stopped[row] == RUNNING]
        if places != list(range(len(self.rows))):
            self.cache = self.engine.decoder.take(self.cache, places, max(self.lengths, default=0))
            self.said = self.said[places]
            self.logits = None if self.logits is None else self.logits[places]
            self.lengths = [self.lengths[place] for place in places]
        streams, used = [], set()
        for row in rows:
            streams.append(self.streams[row].spawn(1)[0] if row in used else self.streams[row])
            used.add(row)
        self.streams = streams
        self.ids = [list(self.ids[row]) for row in rows]
        self.log_probabilities = [list(self.log_probabilities[row]) for row in rows]
        self.stopped = [self.stopped[row] for row in rows]
        self.limits = [self.limits[row] for row in rows]
        self.rows = [row for row, stopped in enumerate(self.stopped) if stopped == RUNNING]

    def fork(self, n: int) -> None:
        """Every row becomes n rows, side by side: row r is at r * n .. r * n + n - 1."""
        if n < 1:
            raise ValueError(f"fork needs n of at least 1, got {n}.")
        self.select([row for row in range(len(self)) for _ in range(n)])

    def _close(self, going: list[int]) -> None:
        """Stopped rows leave the model: the last rows move into their places, so that only those are copied."""
        if len(going) == len(self.rows):
            return
        holes = sorted(set(range(len(going))) - set(going))
        for hole, mover in zip(holes, going[len(going) - len(holes) :]):
            length = self.lengths[mover]
            self.cache[:, :, hole, :, :length] = self.cache[:, :, mover, :, :length]
            self.said[hole] = self.said[mover]
            self.rows[hole], self.lengths[hole] = self.rows[mover], length
        self.cache, self.said = self.cache[:, :, : len(going)], self.said[: len(going)]
        self.rows, self.lengths = self.rows[: len(going)], self.lengths[: len(going)]

    def _draw(self, places: list[int]) -> list[float]:
        return [self.streams[self.rows[place]].random() for place in places]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.engine.heads[self.answer](hidden).float()


# -- sampling --------------------------------------------------------------------------------------------------------


def sample(
    logits: torch.Tensor,
    how: Sampling,
    draw: Callable[[list[int]], Sequence[float]],
    said: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw one index a row by inverting the cumulative distribution.

    One random number a row takes a twelfth of the time of one a choice (multinomial, Gumbel). top_p needs no sorted
    row: what was drawn lies in the nucleus when the choices likelier than it hold less than top_p; if not, neither
    does anything less likely, and it is drawn again from the rest, as FlashInfer does. Sums are taken in blocks:
    quicker than one long cumulative sum, and rounded alike for any number of rows and threads. (8 rows of 65,537:
    0.5 ms; their 1,024 likeliest take 3 ms, sorting them 32 ms.)

    Args:
        logits: (rows, choices) float32.
        draw: a number in [0, 1) for each of these rows; asked again for those that missed the nucleus.
        said: (rows, t) indices to which the repetition penalty applies.
    Returns:
        (rows,) int64.
    """
    if said is not None and how.repetition_penalty > 1:
        old = logits.gather(1, said)
        old = torch.where(old > 0, old / how.repetition_penalty, old * how.repetition_penalty)
        logits = logits.scatter(1, said, old)
    if how.temperature == 0:
        return logits.argmax(-1)
    likeliest = None
    if 0 < how.top_k < logits.shape[-1]:
        logits, likeliest = logits.topk(how.top_k)
    logits = F.pad(logits, (0, -logits.shape[-1] % BLOCK), value=-torch.inf)
    p = torch.softmax(logits.div_(how.temperature), -1).view(len(logits), -1, BLOCK)  # (rows, blocks, BLOCK)
    picked = torch.empty(len(p), 1, dtype=torch.int64, device=p.device)
    rows = torch.arange(len(p), device=p.device)
    while True:
        index = invert(p, torch.tensor(draw(rows.tolist()), dtype=p.dtype, device=p.device))  # (rows, 1)
        picked[rows] = index
        if how.top_p == 1:
            break
        own = p.flatten(1).gather(1, index)
        likelier = p * (p - own[..., None]).sign_().clamp_min_(0)  # a third of the time of a comparison and `where`
        missed = likelier.sum(-1).cumsum(-1)[:, -1] >= how.top_p
        if not missed.any():
            break
        rows, p = rows[missed], likelier[missed]
    return (picked if likeliest is None else likeliest.gather(1, picked))[:, 0]


def invert(p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The choice (rows, 1) below which lies a share `uniform` (rows,) in [0, 1) of the mass p (rows, blocks, BLOCK)."""
    blocks = p.sum(-1).cumsum(-1)  # (rows, blocks)
    target = (uniform[:, None] * blocks[:, -1:]).minimum(below(blocks[:, -1:]))
    block = torch.searchsorted(blocks, target, right=True)
    target = target - F.pad(blocks, (1, 0)).gather(1, block)
    inside = p[torch.arange(len(p), device=p.device), block[:, 0]].cumsum(-1)  # (rows, BLOCK)
    return block * BLOCK + torch.searchsorted(inside, target.minimum(below(inside[:, -1:])), right=True)


def below(x: torch.Tensor) -> torch.Tensor:
    """The next smaller number: a draw just below 1 may round to the total, and would pick what has no probability."""
    return x.nextafter(torch.zeros_like(x))
