"""Search over a text: chunk by chunk in one voice; candidates become `Speech` with receipts. Behind `Llasa.search`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from . import audio, recognition
from .engine import RUNNING
from .search import Candidate, ChunkSearch, Event, SearchSettings, Task
from .speech import GAP_SECONDS, Speech
from .verifiers import Own, Target
from .verifiers.speaker import OF_PEOPLE
from .voices import Voice


def lent_by(llasa) -> Own:
    """What verifiers may borrow from a Llasa."""
    read = partial(recognition.read_greedily, llasa.engine, llasa.protocol) if llasa.checkpoint.can_transcribe else None
    engine = llasa.engine if hasattr(llasa.engine, "weigh") else None  # vLLM has the weights elsewhere
    trained_here = getattr(llasa.codec.model.config, "restore_timbre", False)  # a codec of nano's kin
    speaker = "nano" if trained_here else OF_PEOPLE
    return Own(str(llasa.codec.device), llasa.checkpoint.languages, engine, llasa.protocol, read, speaker)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: the `Speech` chosen; of long text, the best of every chunk, joined.
        candidates: every whole candidate, chunk by chunk, best first; of a chunk that was stopped before one was whole,
            the best as far as it came.
        speeches: the `Speech` of each candidate, with a receipt of its own.
        method: a key of `search.SEARCH_METHODS`.
        seconds: from start to end.
        spent: of those, seconds of sampling, decoding and verifying.
        verifiers: for "process" and "outcome": model, unit and range of each, and how they make an order; None where
            the method has none.
        reference: what speaker and emotion compared with: "prompt" or "resynthesis" (asked for, or the voice holds no
            audio); None without a voice.
        stopped_early: it was stopped before every candidate was heard.
    """

    best: Speech
    candidates: list[Candidate]
    speeches: list[Speech] = field(repr=False)
    method: str
    seconds: float
    spent: dict[str, float]
    verifiers: dict[str, dict | None]
    reference: str | None
    settings: SearchSettings
    stopped_early: bool

    def save_all(self, folder) -> list[Path]:
        """Write every candidate as `{chunk}-{index}.wav` with its receipt beside it; returns the paths, best first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{c.chunk:02d}-{c.index:03d}.wav" for c in self.candidates]
        return [speech.save(folder / name) for name, speech in zip(names, self.speeches)]

    def to_dict(self) -> dict:
        """JSON-ready, without waves and codes."""
        rows = [
            {
                "chunk": c.chunk,
                "index": c.index,
                "seconds": round(c.seconds, 2),
                "stopped": c.stopped,
                "scores": {name: round(score, 4) for name, score in c.scores.items()},
            }
            for c in self.candidates
        ]
        return {
            "method": self.method,
            "settings": asdict(self.settings),
            "verifiers": self.verifiers,
            "reference": self.reference,
            "seconds": self.seconds,
            "spent": self.spent,
            "stopped_early": self.stopped_early,
            "candidates": rows,
        }


class Search:
    """A search under way: iterate over it for events; `result` is the best so far, at any moment.

    Made by `Llasa.search_events`. Closing it, or a `stop` that says yes, ends it with what there is.

    Example:
        >>> search = llasa.search_events("Oh.", voice="emma", n=2, outcome="likelihood", seed=7)
        >>> for event in search:
        ...     if event.seconds > 60:
        ...         break
        >>> search.close().best.complete
        True
    """

    def __init__(
        self, llasa, text_, pieces, voice, settings: SearchSettings, process, outcome, seed, sampling, speaker, stop
    ):
        self.llasa, self.text, self.pieces, self.settings = llasa, text_, pieces, settings
        self.seed, self.sampling, self.speaker = seed, sampling, speaker
        self.stop: Callable[[], bool] = stop or (lambda: False)
        # names and needs first, then what takes time: models are fetched before anything is sampled
        self.own = lent_by(llasa)
        self.process, self.outcome = settings.criteria(process, outcome, self.own)
        for verifier in self._verifiers():
            if verifier.needs_reference and voice is None:
                raise ValueError(f"The verifier '{verifier.name}' compares with a voice: choose one.")
        self.voice = llasa.prepare(voice) if voice is not None else None
        self.openings = llasa._openings(self.voice, pieces, seed, speaker)
        for verifier in self._verifiers():
            verifier.load()
        self.reference = None
        if self.voice:
            self.reference = "resynthesis" if self.voice.wav is None else settings.reference
        self.chunks: list[tuple[ChunkSearch, Voice | None]] = []  # each with the voice it was spoken in
        self._began, self._seconds = time.perf_counter(), 0.0
        self._events = self._run()

    def __iter__(self) -> Search:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> SearchResult:
        """End it now; returns the best so far."""
        self._events.close()
        return self.result

    @property
    def result(self) -> SearchResult:
        """The best so far. Raises ValueError before anything was made."""
        found = [(run.candidates(), run, voice) for run, voice in self.chunks]
        found = [(candidates, run, voice) for candidates, run, voice in found if candidates]
        if not found:
            raise ValueError("The search was stopped before anything was made.")
        early = len(found) < len(self.pieces) or any(run.stopped_early for _, run, _ in found)
        candidates, speeches = [], []
        for chunk, (ranked, _, voice) in enumerate(found):
            piece = self.pieces[chunk]
            for candidate in ranked:
                candidates.append(replace(candidate, chunk=chunk))
                speeches.append(self._speech([candidates[-1]], piece, [piece], voice, early))
        spent = {what: round(sum(run.spent[what] for _, run, _ in found), 3) for what in found[0][1].spent}
        facts = {"process": self.process, "outcome": self.outcome}
        return SearchResult(
            best=self._speech([ranked[0] for ranked, _, _ in found], self.text, self.pieces, self.voice, early),
            candidates=candidates,
            speeches=speeches,
            method=self.settings.method,
            seconds=round(self._seconds, 3),
            spent=spent,
            verifiers={stage: one.facts() if one else None for stage, one in facts.items()},
            reference=self.reference,
            settings=self.settings,
            stopped_early=early,
        )

    # -- chunk by chunk --------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[Event]:
        """The paper's rule for long text cuts it; every chunk is searched in the same voice. Without one, the best of
        the first chunk becomes the voice of those that follow."""
        voice = self.voice
        for index, piece in enumerate(self.pieces):
            run = ChunkSearch(self._task(index, piece, voice), self.settings, self.process, self.outcome, self.stop)
            self.chunks.append((run, voice))
            offset = time.perf_counter() - self._began
            for event in run.events():
                self._seconds = time.perf_counter() - self._began
                seconds = round(offset + event.seconds, 3)
                yield replace(event, seconds=seconds, chunk=index, chunks=len(self.pieces))
            if run.stopped_early:
                return
            if voice is None:
                voice = self.llasa._first_piece(piece, run.candidates()[0].codes)
                self.openings += self.llasa._openings(voice, self.pieces, self.seed, self.speaker, 1)

    def _task(self, index: int, piece: str, voice: Voice | None) -> Task:
        # what the task needs of the search, and not the search itself: it would keep rows and weights in memory
        llasa, sampling, context_codes = self.llasa, self.sampling, self.settings.context_codes
        ids, *how, without = self.openings[index]

        def decode(batch: list[np.ndarray], whole: bool) -> list[np.ndarray]:
            return llasa._decode_answers(batch, voice, None if whole else context_codes)

        reference = None
        if voice:
            resynthesis = self.reference == "resynthesis"
            reference = llasa._decode_answers([llasa._codes_of(voice)], voice, 0)[0] if resynthesis else voice.wav
        return Task(
            lambda n: llasa.engine.start(ids, n, "speech", sampling, *how, unconditional=without),
            llasa.protocol.ids_to_codes,
            decode,
            Target(piece, reference),
        )

    def _verifiers(self):
        return {v.name: v for c in (self.process, self.outcome) if c for v in c.verifiers}.values()

    def _speech(
        self, chosen: list[Candidate], words: str, pieces: list[str], voice: Voice | None, early: bool
    ) -> Speech:
        """The `Speech` of one candidate a piece; pieces that were not reached count as not closed."""
        receipt = self.llasa._receipt("search", words, voice, self.seed, self.sampling, self._seconds)
        receipt |= {
            "stopped": [c.stopped for c in chosen] + [RUNNING] * (len(pieces) - len(chosen)),
            "pieces": pieces,
            # kept, so that `replay` decodes what was found and need not search again, nor have the verifiers
            "codes": [c.codes.tolist() for c in chosen],
            "search": asdict(self.settings)
            | {
                "process": self.process and self.process.facts(),
                "outcome": self.outcome and self.outcome.facts(),
                "reference": self.reference,
                "stopped_early": early,
                "chosen": [{"chunk": c.chunk, "index": c.index, "scores": c.scores} for c in chosen],
            },
        }
        if self.speaker:
            receipt["speaker"] = self.speaker
        wav = audio.join([c.wav for c in chosen], GAP_SECONDS)
        return Speech(wav, [c.codes for c in chosen], receipt["stopped"], receipt)
