"""Does it say the text? Minus the error rate of a transcript, by a recogniser of others or by the Llasa itself."""

from __future__ import annotations

import numpy as np

from ..checkpoints import reaching
from ..text import error_rate, has_words
from . import NO_LLASA, Own, Target, Verifier


class Asr(Verifier):
    """-WER, or -CER for scripts that put no spaces between words; both sides normalised as seed-tts-eval does.

    Args:
        source: a Transformers speech-recognition checkpoint (folder or hub id), or "own": the recognition mode of
            the Llasa that speaks. Left out: "own" where it can transcribe (offline), else Whisper large v3 turbo on
            a GPU and Whisper base on the CPU.
    Raises:
        ValueError: "own" is asked for and the checkpoint cannot transcribe.

    The score is cut off at -1: a transcript that repeats itself is not worse than one with no right word.
    """

    name, unit, low, high = "asr", "-WER or -CER", -1.0, 0.0
    judges_beginnings = False  # half a sentence lacks its other half

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        default = "openai/whisper-large-v3-turbo" if own.device.startswith("cuda") else "openai/whisper-base"
        self.source, self.own = source or ("own" if own.read else default), own
        if self.source == "own" and not own.read:
            raise ValueError("This checkpoint cannot transcribe its own speech. Give a recogniser: asr:HUB_ID.")

    def _load(self) -> None:
        if self.source != "own":
            from ..evaluation import Judge

            with reaching(self.source):
                self.judge = Judge(self.source, self.own.device)

    def hear(self, waves: list[np.ndarray], codes: list[np.ndarray] | None = None) -> list[str]:
        """Transcripts. Raises ValueError where the Llasa itself is to read and gets no codes."""
        self.load()
        if self.source != "own":
            return self.judge.hear(waves)
        if codes is None:
            raise ValueError("A Llasa reads back codes: give those of each wave.")
        return [self.own.read(one) for one in codes]

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> list[float]:
        by_word = has_words(target.text)
        return [-error_rate(target.text, heard, by_word) for heard in self.hear(waves, codes)]
