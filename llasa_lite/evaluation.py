"""Word error rates with their uncertainty, heard by a recogniser that is not ours. Knows the pipeline; changes nothing.

python -m llasa_lite evaluate tts   --judge openai/whisper-base --sentences FILE --voice joe
python -m llasa_lite evaluate codec --judge openai/whisper-base --data CORPUS
python -m llasa_lite evaluate asr   --data CORPUS
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import audio
from .text import edits
from .verifiers.asr import Recogniser


@dataclass(frozen=True)
class Item:
    """One judged utterance."""

    name: str
    truth: str
    heard: str
    edits: int  # word substitutions, insertions and deletions
    words: int  # of the truth
    seconds: float  # of audio
    seconds_taken: float
    complete: bool = True


@dataclass(frozen=True)
class Table:
    """Judged utterances and what they add up to."""

    items: list[Item]

    def summary(self, draws: int = 2000, seed: int = 0) -> dict:
        """Corpus WER (edits / words) with its 95 % bootstrap interval over utterances, n and the real-time factor."""
        edits, words = (np.array([getattr(i, k) for i in self.items]) for k in ("edits", "words"))
        rows = np.random.default_rng(seed).integers(len(edits), size=(draws, len(edits)))
        low, high = np.percentile(edits[rows].sum(1) / words[rows].sum(1), [2.5, 97.5])
        spoken = sum(i.seconds for i in self.items)
        return {
            "wer": round(float(edits.sum() / words.sum()), 4),
            "wer_low": round(float(low), 4),
            "wer_high": round(float(high), 4),
            "n": len(self.items),
            "words": int(words.sum()),
            "incomplete": sum(not i.complete for i in self.items),
            "real_time_factor": round(sum(i.seconds_taken for i in self.items) / max(spoken, 1e-9), 4),
        }

    def to_dict(self) -> dict:
        """The summary and every item, JSON-ready."""
        return {"summary": self.summary(), "items": [asdict(i) for i in self.items]}


class Judge(Recogniser):
    """A recogniser that listens with patience, one wave at a time."""

    def __call__(self, wav: np.ndarray) -> str:
        # Whisper's own decoding: a transcript that repeats itself is drawn again, warmer (Radford et al. 2022, 4.5).
        # Without that one stuck syllable becomes a hundred words.
        fallback = {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35}
        with self.torch.random.fork_rng():
            self.torch.manual_seed(0)
            return self.hear([wav], "en", **({} if self.is_ctc else fallback))[0]


def judged(name: str, truth: str, heard: str, seconds: float, taken: float, complete: bool = True) -> Item:
    """Count the word edits between two transcripts, both normalised as seed-tts-eval does."""
    return Item(name, truth, heard, *edits(truth, heard), round(seconds, 2), round(taken, 3), complete)


def evaluate_tts(llasa, sentences: Iterable[str], judge: Judge, voices=(), seed: int = 0, keep=None) -> Table:
    """Speak each sentence once (sentence k with seed + k) and let the judge read it back.

    Args:
        voices: sentence k is spoken by voice k modulo their number; none: the model chooses.
        keep: folder for the waves; None keeps nothing.
    """
    items = []
    for index, sentence in enumerate(sentences):
        speech = llasa.tts(sentence, voices[index % len(voices)] if voices else None, seed + index)
        if keep:
            Path(keep).mkdir(parents=True, exist_ok=True)
            speech.save(Path(keep) / f"{index:04d}.wav")
        taken = speech.receipt["seconds_taken"]
        items.append(judged(str(index), sentence, judge(speech.wav), speech.seconds, taken, speech.complete))
    return Table(items)


def evaluate_codec(codec, clips, judge: Judge) -> tuple[Table, Table]:
    """Originals and their resynthesis through the codec, both read by the judge."""
    originals, resynthesis = [], []
    for clip in clips:
        wav = clip.load()
        seconds = len(wav) / audio.SAMPLE_RATE
        began = time.perf_counter()
        again = codec.decode(codec.encode(wav))[: len(wav)]
        taken = time.perf_counter() - began
        originals.append(judged(str(clip.id), clip.text, judge(wav), seconds, 0.0))
        resynthesis.append(judged(str(clip.id), clip.text, judge(again), seconds, taken))
    return Table(originals), Table(resynthesis)


def evaluate_asr(hear: Callable[[np.ndarray], str], clips) -> Table:
    """Recognition of clips: `hear` is `lambda wav: llasa.transcribe(wav).text`, or a Judge."""
    items = []
    for clip in clips:
        wav, began = clip.load(), time.perf_counter()
        heard = hear(wav)
        items.append(judged(str(clip.id), clip.text, heard, len(wav) / audio.SAMPLE_RATE, time.perf_counter() - began))
    return Table(items)
