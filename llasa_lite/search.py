"""Inference-time scaling: sample more, listen, keep the best. Knows ids and scores; nothing of text, voices or models.

The paper's section 3.4 (arXiv 2502.04128), whose code was never released, as loops over the engine's four calls:

    best_of_n     ORM: n whole candidates, the outcome verifier chooses.
    beam_search   PRM: every `step_tokens` each of n beams is continued `branch` times, the process verifier keeps n.
    partial_prm   PRM for the first `process_seconds`, then plain sampling of the n beams, chosen by ORM.
    sample        no verifier: n takes to choose from by ear.

All four are one path: a guided beginning (empty for two of them), then plain sampling, then the outcome verifier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from .audio import FRAME_RATE
from .files import plain_numbers
from .verifiers import NO_LLASA, Criterion, Own, Target, criterion

MAX_PROCESS_SECONDS = 600  # of speech under PRM: more than any answer has
MAX_ROWS = 4096  # candidates at once: 16 times the paper's 16 x 16
END, RUNNING = "end", "running"  # the engine's words for a row that closed itself, and for one that did not stop yet

SEARCH_METHODS = {
    "sample": "plain sampling, nothing chooses",
    "best_of_n": "n whole candidates, the outcome verifier chooses (ORM)",
    "beam_search": "beams pruned by the process verifier all the way (PRM)",
    "partial_prm": "PRM for the first seconds, then plain sampling and the outcome verifier",
}


@dataclass(frozen=True)
class SearchSettings:
    """How to search. Where the paper is silent (marked: open), what was chosen and why."""

    method: str = "best_of_n"  # a key of SEARCH_METHODS
    n: int = 16  # candidates the outcome verifier chooses from; beams kept at every step of PRM (paper: 16)
    branch: int = 4  # continuations of every beam at every step; paper: 16, four times the compute of ours
    step_tokens: int = 25  # between two prunings: half a second, as in the paper
    process_seconds: float = 2.0  # of speech under PRM in partial_prm, as in the paper
    # open: how many candidates the ORM sees after PRM. One for every beam: the beams are diversity already paid for.
    continuations: int = 1  # plain samples of every beam that PRM left
    # open: how a partial beam is heard. The whole answer so far is scored, not the last half second alone: speaker
    # embeddings of half a second are mostly noise. It is decoded after so many codes of the prompt, since the decoder
    # looks back; more would cost time at every step. A finished candidate is decoded after all of it, as by `tts`.
    context_codes: int = 50
    # Finished candidates are scored as they come, a few at a time: one by one would waste the batch, and all at the end
    # would leave nothing to return when the search is stopped.
    score_batch: int = 4
    reference: str = "prompt"  # what speaker and emotion compare with: the prompt (SIM-o) or its "resynthesis" (SIM-r)

    # open: sampling during search. The checkpoint's own: what is chosen from is what a user would have got.
    # open: ties. The candidate drawn first wins, so that the same seed gives the same result.

    def __post_init__(self):
        plain_numbers(self)
        if not isinstance(self.method, str) or self.method not in SEARCH_METHODS:
            raise ValueError(f"Unknown search method '{self.method}'. Choose from: {', '.join(SEARCH_METHODS)}.")
        for name in ("n", "branch", "step_tokens", "continuations", "score_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        seconds = self.process_seconds
        if not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ValueError(f"process_seconds must be above 0, not {seconds!r}; without PRM: best_of_n.")
        if seconds > MAX_PROCESS_SECONDS:
            raise ValueError(f"process_seconds must be at most {MAX_PROCESS_SECONDS}, not {seconds}.")
        if not isinstance(self.context_codes, int) or self.context_codes < 0:
            raise ValueError(f"context_codes must be a whole number of at least 0, not {self.context_codes!r}.")
        if self.reference not in ("prompt", "resynthesis"):
            raise ValueError(f"reference must be 'prompt' or 'resynthesis', not '{self.reference}'.")
        if self.n * (max(self.branch, self.continuations) if self.guided_tokens else 1) > MAX_ROWS:
            smaller = "n, branch or continuations" if self.guided_tokens else "n"
            raise ValueError(f"More than {MAX_ROWS:,} candidates at once are asked for. Make {smaller} smaller.")

    @property
    def guided_tokens(self) -> float:
        """How many tokens are sampled under the process verifier."""
        tokens = max(1, round(self.process_seconds * FRAME_RATE))  # with none it would be best_of_n
        return {"beam_search": math.inf, "partial_prm": tokens}.get(self.method, 0)

    def criteria(self, process, outcome, own: Own = NO_LLASA) -> tuple[Criterion | None, Criterion | None]:
        """The verifiers of this method, as people write them (see `verifiers.criterion`) or None for the default.

        Returns:
            (process, outcome); None where the method has none. beam_search without an outcome verifier is decided by
            the process verifier to the end.
        Raises:
            ValueError: unknown, not to be had, cannot judge a beginning, or of no use to this method.
        """
        guided = self.guided_tokens > 0
        if process is not None and not guided:
            raise ValueError(
                f"'{self.method}' has no process verifier. Use partial_prm or beam_search, or leave it out."
            )
        if outcome is not None and self.method == "sample":
            raise ValueError("'sample' has no outcome verifier: nothing chooses. Use best_of_n, or leave it out.")
        process = criterion(process or "speaker", own) if guided else None
        for verifier in process.verifiers if process else ():
            if not verifier.judges_beginnings:
                raise ValueError(
                    f"The verifier '{verifier.name}' judges whole sentences and cannot guide a beginning. As process "
                    "verifier choose from: emotion, quality, speaker; or make it the outcome verifier."
                )
        if self.method == "sample":
            return None, None
        if self.method == "beam_search" and not outcome:
            return process, process
        outcome = criterion(outcome or own.ear, own)
        # a model that prunes and chooses is held once
        held = {(type(v), v.name, v.source): v for v in process.verifiers} if process else {}
        shared = tuple(held.get((type(v), v.name, v.source), v) for v in outcome.verifiers)
        return process, replace(outcome, verifiers=shared)


@dataclass(frozen=True)
class Task:
    """One chunk of text, as functions: what search may do with it.

    Attributes:
        start: rows -> the engine's `Beams` on the prompt, read once.
        to_codes: ids -> codes.
        decode: (list of codes, whole) -> waves without the prompt; whole: as they would be played.
        target: what verifiers compare with.
    """

    start: Callable[[int], object]
    to_codes: Callable[[Sequence[int]], np.ndarray]
    decode: Callable[[list[np.ndarray], bool], list[np.ndarray]]
    target: Target


@dataclass(frozen=True)
class Candidate:
    """One piece of speech, finished or not.

    Attributes:
        index: which row it was: k is what plain sampling of row k gives; of a guided search, its rank at the last
            pruning, or its place among the `continuations` of all beams in that order.
        codes, wav: as the task makes them: (n,) int64, and (samples,) float32 at 16 kHz.
        stopped: "end", "running", or the engine's word for why it was cut off ("length": the text ran out, or it is
            stuck).
        scores: verifier name -> score; empty before it was scored.
        order: what candidates are compared by, made of `scores`.
        chunk: which piece of a long text.
    """

    index: int
    codes: np.ndarray = field(repr=False)
    wav: np.ndarray = field(repr=False)
    stopped: str
    scores: dict[str, float] = field(default_factory=dict)
    order: tuple[float, ...] = ()
    chunk: int = 0

    @property
    def seconds(self) -> float:
        return len(self.codes) / FRAME_RATE

    @property
    def score(self) -> float | None:
        """The number that decided: the weighted sum, or the first verifier's. None: not scored."""
        return self.order[0] if self.order else None

    @property
    def rank(self) -> tuple:
        """The greater, the better. Speech that closed itself comes before any that was cut off, whatever its
        score: a stuck syllable can be very like the speaker."""
        return bool(self.order), self.stopped == END, *self.order, -self.index


# -- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something happened. `seconds` since the search began; `stage` is "process" (under PRM) or "outcome"."""

    stage: str
    seconds: float
    chunk: int = field(default=0, kw_only=True)
    chunks: int = field(default=1, kw_only=True)


@dataclass(frozen=True)
class Extended(Event):
    """Every running row got longer."""

    tokens: int  # how long running rows are now
    running: int  # rows that go on
    ended: int  # candidates that have ended so far


@dataclass(frozen=True)
class Scored(Event):
    """A verifier listened. Under PRM: every distinct beam of this step, unfinished ones too, best first."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Pruned(Event):
    """Under PRM: the best beams were kept."""

    kept: tuple[Candidate, ...]
    dropped: int  # worse ones
    duplicates: int  # that said the same as another


@dataclass(frozen=True)
class Finished(Event):
    """This chunk is done, or was stopped. `candidates` are best first; the first is the one chosen. There are none
    where it was stopped before anything was made."""

    candidates: tuple[Candidate, ...]
    stopped_early: bool

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


# -- the search ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Beam:
    """A candidate while it grows: a row of the engine, or what is left of one that ended."""

    row: int | None
    ids: list[int]
    stopped: str = RUNNING
    index: int = 0
    candidate: Candidate | None = None  # as the process verifier last scored it

    @property
    def rank(self) -> tuple:
        """Under PRM. What was cut off (stuck, or endless) comes last, as in `Candidate.rank`."""
        return self.stopped in (END, RUNNING), *self.candidate.order


def _so_far(beam: _Beam) -> tuple:
    """What a beam is worth where nothing is whole: one that went nowhere is worth less than one that still speaks."""
    order = beam.candidate.order if beam.candidate else ()
    return beam.stopped == END, beam.stopped in (END, RUNNING), order, len(beam.ids)


class ChunkSearch:
    """Search over one chunk. `events()` runs it; `candidates()` may be asked at any moment.

    Args:
        process: prunes beams; for beam_search and partial_prm.
        outcome: chooses; None for `sample`.
        stop: asked between two steps; true ends the search with what there is.
    """

    def __init__(
        self,
        task: Task,
        settings: SearchSettings,
        process: Criterion | None = None,
        outcome: Criterion | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.task, self.settings, self.process, self.outcome, self._asked = task, settings, process, outcome, stop
        self._stopping = False
        self.spent = {"sampling": 0.0, "decoding": 0.0, "verifying": 0.0}  # seconds
        self.stopped_early = True  # until it is done
        self.done: list[Candidate] = []  # whole candidates, scored
        self.pool: list[_Beam] = []  # those that are not in `done`
        self.beams = None
        self._heard: dict[bytes, Candidate] = {}  # duplicates are decoded and scored once
        self._began = time.perf_counter()

    def events(self) -> Iterator[Event]:
        try:
            if self.settings.guided_tokens:
                yield from self._guided()
            else:
                with self._clock("sampling"):
                    self.beams = self.task.start(self.settings.n)
                self.pool = [_Beam(row, [], index=row) for row in range(self.settings.n)]
            if not self.stop():
                yield from self._sampled()
        finally:  # closed half way, too: its rows take memory, and the search is kept for its result
            self.beams = None
        yield Finished("outcome", self._now(), tuple(self.candidates()), self.stopped_early)

    def candidates(self) -> list[Candidate]:
        """Best first. Where nothing whole was scored yet: the best that is there, unfinished as it is."""
        if self.done:
            return sorted(self.done, key=lambda c: c.rank, reverse=True)
        started = [beam for beam in self.pool if beam.ids]
        if not started:
            return []
        best = max(started, key=_so_far)
        (whole,) = self._whole([best], None)
        if best.candidate:
            whole = replace(whole, scores=best.candidate.scores, order=best.candidate.order)
        return [whole]

    def stop(self) -> bool:
        self._stopping = self._stopping or bool(self._asked())
        return self._stopping

    def _guided(self) -> Iterator[Event]:
        """PRM: branch, extend, listen, prune."""
        s, length = self.settings, 0
        while length < s.guided_tokens and (length == 0 or any(b.row is not None for b in self.pool)):
            # 1. Every running beam is continued `branch` times; one that ended stays as it is: copies of it would
            #    only push others out. The first step has one beam, the prompt, and fills all places from it.
            ended = [beam for beam in self.pool if beam.row is None]
            with self._clock("sampling"):
                if length == 0:
                    self.beams = self.task.start(s.n * s.branch)
                else:
                    self.beams.fork(s.branch)  # its rows are those that still run: see `_keep_running`
                self.beams.advance(int(min(s.step_tokens, s.guided_tokens - length)))
            length = max(map(len, self.beams.ids))
            grown = self._rows()
            # 2. Beams that say the same are one beam.
            distinct, seen = [], {(*beam.ids, beam.stopped) for beam in ended}
            for beam in grown:
                if (said := (*beam.ids, beam.stopped)) not in seen:
                    seen.add(said)
                    distinct.append(beam)
            self.pool = ended + distinct
            going = sum(beam.stopped == RUNNING for beam in distinct)
            yield Extended("process", self._now(), length, going, len(self.pool) - going)
            # 3. The verifier listens to the answer so far. One that ended keeps the score it ended with, and
            #    competes with those that go on, as in any beam search.
            codes = [self.task.to_codes(beam.ids) for beam in distinct]
            with self._clock("decoding"):
                waves = self.task.decode(codes, False)
            with self._clock("verifying"):
                scores = self.process.score(waves, self.task.target, codes)
            for index, beam in enumerate(distinct):
                order = self.process.order(scores[index])
                beam.candidate = Candidate(index, codes[index], waves[index], beam.stopped, scores[index], order)
            # 4. The best n go on. Sorting is stable: of equals, the one drawn first is kept.
            ranked = sorted(ended + distinct, key=lambda beam: beam.rank, reverse=True)
            for index, beam in enumerate(ranked):
                beam.index, beam.candidate = index, replace(beam.candidate, index=index)
            self.pool = ranked[: s.n]
            self._keep_running()
            yield Scored("process", self._now(), tuple(beam.candidate for beam in ranked))
            kept = tuple(beam.candidate for beam in self.pool)
            yield Pruned("process", self._now(), kept, len(ranked) - len(kept), len(grown) - len(distinct))
            if self.stop():
                return

    def _sampled(self) -> Iterator[Event]:
        """Plain sampling of all that still run, and ORM over all that ended."""
        s = self.settings
        if s.guided_tokens and s.continuations > 1 and any(beam.row is not None for beam in self.pool):
            copies = [beam for beam in self.pool for _ in range(s.continuations if beam.row is not None else 1)]
            self.pool = [replace(beam, index=index) for index, beam in enumerate(copies)]
            self._keep_running()
        while self.pool:
            running = [beam for beam in self.pool if beam.row is not None]
            if running:
                with self._clock("sampling"):
                    self.beams.advance(s.step_tokens)
                for beam, now in zip(running, self._rows()):  # in one order: see `_keep_running`
                    beam.row, beam.ids, beam.stopped = now.row, now.ids, now.stopped
                self._keep_running()  # those that ended cost nothing from here on
            ended = [beam for beam in self.pool if beam.row is None]
            going = len(self.pool) - len(ended)
            if running:
                length = max(len(beam.ids) for beam in running)
                yield Extended("outcome", self._now(), length, going, len(ended) + len(self.done))
            while len(ended) >= s.score_batch or (ended and not going):
                if self.stop() and self.done:
                    return
                batch, ended = ended[: s.score_batch], ended[s.score_batch :]
                whole = self._whole(batch, self.outcome)
                self.pool = [beam for beam in self.pool if beam not in batch]
                self.done += whole
                yield Scored("outcome", self._now(), tuple(whole))
            if self.pool and self.stop():
                return
        self.stopped_early = False

    def _rows(self) -> list[_Beam]:
        """The engine's rows as beams, in its order."""
        b = self.beams
        rows = enumerate(zip(b.ids, b.stopped))
        return [_Beam(row if stopped == RUNNING else None, list(ids), stopped) for row, (ids, stopped) in rows]

    def _keep_running(self) -> None:
        """Leave only the rows of running beams of the pool in the engine."""
        running = [beam for beam in self.pool if beam.row is not None]
        if running and [beam.row for beam in running] != list(range(len(self.beams))):
            with self._clock("sampling"):
                self.beams.select([beam.row for beam in running])
        for row, beam in enumerate(running):
            beam.row = row

    def _whole(self, batch: list[_Beam], criterion: Criterion | None) -> list[Candidate]:
        """Decode these beams as they would be played, and score them."""
        codes = [self.task.to_codes(beam.ids) for beam in batch]
        keys = [one.tobytes() for one in codes]
        new = {key: k for k, key in enumerate(keys) if key not in self._heard}
        with self._clock("decoding"):
            waves = self.task.decode([codes[k] for k in new.values()], True)
        scores: list[dict] = [{}] * len(waves)
        if criterion:
            with self._clock("verifying"):
                scores = criterion.score(waves, self.task.target, [codes[k] for k in new.values()])
        heard = dict(self._heard)
        for (key, k), wav, score in zip(new.items(), waves, scores):
            order = criterion.order(score) if criterion else ()
            heard[key] = Candidate(batch[k].index, codes[k], wav, batch[k].stopped, score, order)
        if criterion:
            self._heard = heard
        return [replace(heard[key], index=beam.index, stopped=beam.stopped) for key, beam in zip(keys, batch)]

    def _now(self) -> float:
        return round(time.perf_counter() - self._began, 3)

    @contextmanager
    def _clock(self, what: str):
        began = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - began
