"""What comes out: speech with its receipt, and transcripts. Knows no model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import audio, receipts
from .files import whole
from .search import END

GAP_SECONDS = 0.15  # of silence between two pieces of long text


@dataclass(frozen=True)
class Speech:
    """What came out, with all that is needed to make it again.

    Attributes:
        wav: (samples,) float32, 16 kHz, without the voice prompt.
        codes: codes of each piece of text, without the voice prompt.
        stopped: for each piece, "end" (the model closed it), or what is wrong with it: "length" (cut off at its limit),
            "silence" (it fell silent) or "repetition" (it went round in circles), or
            "running" (a search was stopped before it).
        receipt: JSON-ready settings: model, codec, voice, text, seed, sampling, versions, seconds.
    """

    wav: np.ndarray = field(repr=False)
    codes: list[np.ndarray] = field(repr=False)
    stopped: list[str]
    receipt: dict

    sample_rate = audio.SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return len(self.wav) / self.sample_rate

    @property
    def complete(self) -> bool:
        """False where a piece was not closed by the model: listen before you use it."""
        return all(why == END for why in self.stopped)

    @property
    def seed(self) -> int:
        return self.receipt["seed"]

    def save(self, path: str | os.PathLike, beside: bool = True) -> Path:
        """Write the wave (.wav, .flac or .ogg) with its receipt inside, and the receipt beside it (same name,
        .receipt.json) unless `beside` is false. Files appear whole or not at all; raises ValueError where they cannot.

        The receipt inside leaves out what was recorded of somebody (words, codes and timbre of a clip of one's own).
        """
        audio.check_suffix(path)
        comment = receipts.to_comment(self.receipt, Path(path).suffix.lower().lstrip("."))
        if not beside:
            return audio.save(self.wav, path, comment)
        with whole(receipts.beside(path)) as partial:
            partial.write_text(json.dumps(self.receipt, indent=1, ensure_ascii=False), encoding="utf-8")
            return audio.save(self.wav, path, comment)


@dataclass(frozen=True)
class Transcript:
    """What was heard, and how sure the model is of it.

    Attributes:
        probability: the mean probability the model gave its own ids, END too (geometric), 0 .. 1.
        seconds: of speech.
        complete: False where a part was cut off before the model ended its text.
        words: each word of `text` with the mean probability of its ids.
    """

    text: str
    probability: float
    seconds: float
    complete: bool
    words: list[tuple[str, float]] = field(default_factory=list, repr=False)


def piece_seed(seed: int, index: int) -> int:
    """The first piece keeps the seed itself; later ones draw from their own."""
    return seed if index == 0 else int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
