"""Rows of ids growing together: what was said, who goes on, when to stop; the model runs in `decoder`.

Here rows leave the model as they stop, so that none is computed in vain; `graphs` keeps them in static buffers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .sampling import Sampling, sample

END, LENGTH, SILENCE, REPETITION, RUNNING = "end", "length", "silence", "repetition", "running"  # why a row stopped

LOOP_CHECK_IDS = 8  # a loop is looked for every so many ids ...
LONGEST_LOOP_IDS = 25  # ... of at most so many


@dataclass(frozen=True)
class Patience:
    """When a row that goes nowhere is stopped before its limit. 0 waits for ever."""

    silence_ids: int = 0  # so many ids of `silent` one after the other
    repetition_ids: int = 0  # so many ids that only repeat the 1 .. 25 before them, over and over
    silent: frozenset[int] = frozenset()  # the ids that are heard as silence

    def __post_init__(self):
        if not all(isinstance(ids, int) and ids >= 0 for ids in (self.silence_ids, self.repetition_ids)):
            raise ValueError(
                f"Patience must be 0 (for ever) or a positive number, not {self.silence_ids} and {self.repetition_ids}."
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


def left_range(dtype: str) -> ValueError:
    """What to raise where a probability is not a number."""
    return ValueError(f"The model's numbers left the range of {dtype}. Use dtype='bfloat16' or 'float32'.")


class Beams:
    """Rows growing together. Made by `Engine.start` and `Engine.start_batch`.

    Attributes:
        ids: one list per row of the ids sampled so far, END not included.
        stopped: one word per row: "end", "length", "silence", "repetition" or "running".
        log_probabilities: one list per row: of each id in `ids`, then of END, under the model itself (temperature 1,
            no guidance), among the ids that may follow.
        max_new: ids the row with the highest limit may get.
    """

    @torch.inference_mode()
    def __init__(self, engine, prompts, n: int, answer: str, sampling: Sampling, seeds, limits, unconditional=None):
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        for limit in limits:
            if limit < 1:
                raise ValueError(f"max_new must be at least 1, not {limit}.")
        limits = [min(limit, engine.room(prompt)) for limit, prompt in zip(limits, prompts)]
        self.engine, self.answer, self.sampling = engine, answer, sampling
        # what is known of every row
        self.prompts = [prompt for prompt in prompts for _ in range(n)]
        without = unconditional if sampling.guided else [[] for _ in prompts]
        self.without = [prompt for prompt in without for _ in range(n)]
        self.ids: list[list[int]] = [[] for _ in self.prompts]
        self.log_probabilities: list[list[float]] = [[] for _ in self.ids]
        self.stopped = [RUNNING] * len(self.ids)
        self.limits = [limit for limit in limits for _ in range(n)]
        self.streams = [np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, k]) for seed in seeds for k in range(n)]
        self.max_new = max(limits)
        self.rows: list[int] = []  # what the model holds: whose rows, in its order
        self.twice = 2 if sampling.guided else 1  # guided rows have partners, which follow all rows in the same order
        self._open([*prompts, *without] if sampling.guided else prompts, n)

    def _open(self, prompts, n: int) -> None:
        """Read every prompt once; its n rows begin as copies."""
        engine = self.engine
        self.new = 0  # ids every running row has got
        self.rows = list(range(len(self.ids)))
        self.shared: list[torch.Tensor] = []  # for each row the cache of its prompt, or nothing at all
        shares = engine.decoder.shares(n)
        self.lengths = [0 if shares else len(prompt) for prompt in prompts for _ in range(n)]  # ids in its own
        length = max(length + limit for length, limit in zip(self.lengths, self.twice * self.limits))
        self.cache = engine.decoder.new_cache(len(self.lengths), length)
        hidden = []
        for index, prompt in enumerate(prompts):  # one by one: a prompt fills the processor, and padding costs
            ids = torch.as_tensor(np.asarray(prompt), device=engine.device)
            last, shared = engine.decoder.read(ids, self.cache, range(index * n, index * n + n))
            hidden.append(last)
            self.shared += shared
        self.logits = self._head(torch.cat(hidden)).repeat_interleave(n, 0)  # None: the last ids are still to be read
        self.said = torch.zeros(len(self.ids), self.max_new, dtype=torch.int64, device=engine.device)  # among `answers`

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def done(self) -> bool:
        """Every row has stopped."""
        return RUNNING not in self.stopped

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
                last = allowed[self.said[:, self.new - 1]].repeat(self.twice)
                self.logits = self._head(self.engine.decoder.decode(last, self.cache, self.lengths, self.shared))
                self.lengths = [length + 1 for length in self.lengths]
            own = logits = self.logits[: len(self.rows)]
            if self.sampling.guided:
                logits = torch.lerp(self.logits[len(self.rows) :], own, self.sampling.guidance)
            if self.new == 0:  # an answer of nothing is never what was asked for
                logits = logits.clone()
                logits[:, 0] = -torch.inf
            # 2. one of it for each row
            picked = sample(logits, self.sampling, self._draw, self.said[:, : self.new])  # (rows,) among `allowed`
            likely = own.softmax(-1).gather(1, picked[:, None])[:, 0].log()  # logsumexp takes twice as long
            if self.sampling.guided:  # the partner had its part in the draw: its NaN (0 * NaN is NaN) must show, too
                likely = likely + 0 * self.logits[len(self.rows) :].gather(1, picked[:, None])[:, 0]
            self.said[:, self.new] = picked
            self.logits = None
            self.new += 1
            # 3. who goes on
            heard = zip(*(x.tolist() for x in (picked, allowed[picked], likely)))
            going = [place for place, one in enumerate(heard) if self._hear(self.rows[place], *one)]
            self._close(going)
        return [ids[start:] for ids, start in zip(self.ids, before)]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order. A row that comes again goes on differently: it gets a stream of its own."""
        rows = list(rows)
        if not rows or not all(0 <= row < len(self) for row in rows):
            raise ValueError(f"select needs rows in 0..{len(self) - 1}, got {rows}.")
        self._keep([row for row in rows if self.stopped[row] == RUNNING])
        streams, used = [], set()
        for row in rows:
            streams.append(self.streams[row].spawn(1)[0] if row in used else self.streams[row])
            used.add(row)
        self.streams = streams
        self.prompts = [self.prompts[row] for row in rows]
        self.without = [self.without[row] for row in rows]
        self.ids = [list(self.ids[row]) for row in rows]
        self.log_probabilities = [list(self.log_probabilities[row]) for row in rows]
        self.stopped = [self.stopped[row] for row in rows]
        self.limits = [self.limits[row] for row in rows]
        if self.rows:
            self.rows = [row for row, stopped in enumerate(self.stopped) if stopped == RUNNING]

    def fork(self, n: int) -> None:
        """Every row becomes n rows, side by side: row r is at r * n .. r * n + n - 1."""
        if n < 1:
            raise ValueError(f"fork needs n of at least 1, got {n}.")
        self.select([row for row in range(len(self)) for _ in range(n)])

    def _hear(self, row: int, index: int, token: int, log: float) -> bool:
        """A row said the choice `index`, which is the id `token`; whether it goes on."""
        if math.isnan(log):
            raise left_range(self.engine.dtype)
        self.log_probabilities[row].append(log)
        if index == 0:
            self.stopped[row] = END
            return False
        ids = self.ids[row]
        ids.append(token)
        reason = self.engine.patience.ended(ids)
        self.stopped[row] = reason or (LENGTH if len(ids) >= self.limits[row] else RUNNING)
        return self.stopped[row] == RUNNING

    def _keep(self, rows: list[int]) -> None:
        """The model goes on with these of its rows, in this order."""
        places = [self.rows.index(row) for row in rows]
        if places != list(range(len(self.rows))):
            both = [half * len(self.rows) + place for half in range(self.twice) for place in places]
            self.cache = self.engine.decoder.take(self.cache, both, max(self.lengths, default=0))
            self.said = self.said[places]
            self.logits = None if self.logits is None else self.logits[both]
            self.lengths = [self.lengths[place] for place in both]
            self.shared = [self.shared[place] for place in both] if self.shared else []
        self.rows = rows

    def _close(self, going: list[int]) -> None:
        """Stopped rows leave the model: the last rows move into their places, so that only those are copied."""
        if len(going) == len(self.rows):
            return
        if self.sampling.guided:
            return self._keep([self.rows[place] for place in going])
        holes = sorted(set(range(len(going))) - set(going))
        for hole, mover in zip(holes, going[len(going) - len(holes) :]):
            length = self.lengths[mover]
            self.cache[:, :, hole, :, :length] = self.cache[:, :, mover, :, :length]
            self.said[hole] = self.said[mover]
            self.rows[hole], self.lengths[hole] = self.rows[mover], length
            if self.shared:
                self.shared[hole] = self.shared[mover]
        self.cache, self.said = self.cache[:, :, : len(going)], self.said[: len(going)]
        self.rows, self.lengths = self.rows[: len(going)], self.lengths[: len(going)]
        self.shared = self.shared[: len(going)]

    def _draw(self, places: list[int]) -> list[float]:
        return [self.streams[self.rows[place]].random() for place in places]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.engine.heads[self.answer](hidden).float()
