"""What makes one piece of speech better than another: scores of waves, and how scores become an order.

A verifier is one call, `score(waves, target, codes) -> list[float]`, higher is better. It knows nothing of search.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from ..audio import SAMPLE_RATE, SILENCE_PEAK, equal_lengths

SECONDS_AT_ONCE = 64  # of sound in one pass, of several waves together: WavLM-base takes 16 MB of memory for each

# name -> (file, class); loaded when it is asked for
VERIFIERS = {
    "asr": ("asr", "Asr"),
    "emotion": ("emotion", "Emotion"),
    "likelihood": ("likelihood", "Likelihood"),
    "quality": ("quality", "Quality"),
    "speaker": ("speaker", "Speaker"),
}


@dataclass(frozen=True)
class Target:
    """What the candidates should be.

    Attributes:
        text: what they should say.
        reference: (samples,) float32, 16 kHz: who should say it and how. The prompt gives SIM-o, the prompt
            resynthesised by the codec SIM-r.
    """

    text: str = ""
    reference: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Own:
    """What a verifier may borrow from the Llasa that speaks, so that no second model is held.

    Attributes:
        device: where models are put.
        engine: which runs its language model; None where that is not in this process.
        protocol: its prompts and ids.
        read: list of codes -> transcripts by its recognition mode; None where it was never trained for that.
        languages: that it speaks.
        speaker: the model that compares its voices where none is named.
    """

    device: str = "cpu"
    languages: tuple[str, ...] = ("en",)
    engine: object = None
    protocol: object = None
    read: Callable[[list[np.ndarray]], list[str]] | None = None
    speaker: str = "nano"

    @property
    def ear(self) -> str:
        """The verifier that chooses where none is named: its own likelihood, which on nano finds better words than
        its transcripts do (results/search.csv), or a recogniser where it cannot listen."""
        return "likelihood" if self.read and self.engine is not None else "asr"


NO_LLASA = Own()


class Verifier(ABC):
    """One way to score. Its model is loaded by `load`, or at the first score.

    Attributes:
        name: key of its scores: that of `VERIFIERS`, with ":model" behind it where another was asked for than its own.
        source: the model that judges: a hub id, a folder, or "nano".
        unit, low, high: of the score. Empty and silent waves get `low` and never reach the model.
        needs_reference: whether `Target.reference` must be there.
        judges_beginnings: whether speech that has not ended yet can be scored: a process verifier.
    """

    name: str
    source: str
    unit: str
    low: float
    high: float
    needs_reference = False
    judges_beginnings = True
    _loaded = False

    def load(self) -> None:
        """Fetch the model now. Raises NotReachable (a ValueError) where it is neither here nor to be had."""
        if not self._loaded:
            self._load()
            self._loaded = True

    def score(
        self, waves: Sequence[np.ndarray], target: Target, codes: Sequence[np.ndarray] | None = None
    ) -> list[float]:
        """One score for each wave, whatever else is scored beside it.

        Args:
            waves: (samples,) float32 at 16 kHz each.
            codes: what each wave was decoded from, for verifiers that listen to codes.
        Raises:
            ValueError: no reference or no codes where they are needed; the model cannot be had.
        """
        if self.needs_reference and target.reference is None:
            raise ValueError(f"The verifier '{self.name}' compares with a reference: choose a voice.")
        heard = [k for k, wav in enumerate(waves) if np.abs(wav).max(initial=0.0) >= SILENCE_PEAK]
        scores = [self.low] * len(waves)
        if heard:
            self.load()
            chosen = None if codes is None else [codes[k] for k in heard]
            for k, score in zip(heard, self._score([waves[k] for k in heard], target, chosen)):
                scores[k] = min(max(self.low, float(score)), self.high)  # what is no number becomes low
        return scores

    def facts(self) -> dict:
        """Name, model, unit and range: what a result says about its scores."""
        return {"name": self.name, "source": self.source, "unit": self.unit, "low": self.low, "high": self.high}

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _score(self, waves: list[np.ndarray], target: Target, codes: list[np.ndarray] | None) -> Sequence[float]: ...


class Cosine(Verifier):
    """Cosine of a wave's embedding to that of the reference. `_load` sets `features` (a Transformers feature
    extractor), `model` and `device`; `_vectors` makes embeddings of the model's inputs."""

    unit, low, high = "cosine", -1.0, 1.0
    needs_reference = True
    min_samples: int  # below this the model has too few frames; a shorter wave is repeated up to it
    _known: tuple = (None, None)  # the last reference and its embedding: the same at every step of a search

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dimensions) float32, each of length 1."""
        import torch

        self.load()
        waves = [wav if len(wav) >= self.min_samples else np.resize(wav, self.min_samples) for wav in waves]
        vectors = [np.empty(0)] * len(waves)
        for rows in equal_lengths(waves, SECONDS_AT_ONCE * SAMPLE_RATE):
            inputs = self.features([waves[row] for row in rows], sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.inference_mode():
                out = torch.nn.functional.normalize(self._vectors(inputs.to(self.device)).float(), dim=-1)
            for row, vector in zip(rows, out.cpu().numpy()):
                vectors[row] = vector
        return np.stack(vectors)

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> np.ndarray:
        if self._known[0] is not target.reference:
            self._known = target.reference, self.embed([target.reference])[0]
        return self.embed(waves) @ self._known[1]

    @abstractmethod
    def _vectors(self, inputs): ...


@dataclass(frozen=True)
class Criterion:
    """One or several verifiers and the order they make.

    Attributes:
        weights: the order is that of the weighted sum; None: the first verifier decides, and the next only where
            it is equal (-WER is often the same for several candidates).
    """

    verifiers: tuple[Verifier, ...]
    weights: tuple[float, ...] | None = None

    def load(self) -> None:
        for verifier in self.verifiers:
            verifier.load()

    def score(self, waves, target: Target, codes=None) -> list[dict[str, float]]:
        """For each wave, verifier name -> score."""
        columns = {v.name: v.score(waves, target, codes) for v in self.verifiers}
        return [{name: column[k] for name, column in columns.items()} for k in range(len(waves))]

    def order(self, scores: dict[str, float]) -> tuple[float, ...]:
        """What candidates are compared by: the greater tuple is the better one."""
        values = [scores[v.name] for v in self.verifiers]
        if self.weights is None:
            return tuple(values)
        return (sum(weight * value for weight, value in zip(self.weights, values)),)

    def facts(self) -> dict:
        how = "first decides" if self.weights is None else "weighted sum"
        return {"verifiers": [v.facts() for v in self.verifiers], "order": how, "weights": self.weights}


def criterion(asked: str | Verifier | Criterion, own: Own = NO_LLASA) -> Criterion:
    """What people write -> a `Criterion`.

    "asr"                            one verifier
    "speaker:microsoft/wavlm-base-plus-sv"   with another model than its default: a hub id or a folder
    "asr, speaker"                   the first decides; where it is equal, the second
    "0.7*asr + 0.3*speaker"          weighted sum

    Raises:
        ValueError: an unknown name, a weight that is no number, a name given twice, or a verifier that cannot be
            had here.
    """
    if isinstance(asked, Criterion):
        return asked
    if isinstance(asked, Verifier):
        return Criterion((asked,))
    weighted = "*" in asked
    names, weights = [], []
    for part in asked.split("+" if weighted else ","):
        weight, star, name = part.rpartition("*")
        try:
            weights.append(float(weight) if star else 1.0)
            if not math.isfinite(weights[-1]):
                raise ValueError
        except ValueError:
            raise ValueError(f"'{weight.strip()}' in '{asked}' is not a weight. Write 0.7*asr + 0.3*speaker.") from None
        names.append(name.strip())
    verifiers = tuple(verifier(name, own) for name in names)
    if len({v.name for v in verifiers}) < len(verifiers):
        raise ValueError(f"'{asked}' names a verifier twice.")
    return Criterion(verifiers, tuple(weights) if weighted else None)


def verifier(asked: str, own: Own = NO_LLASA) -> Verifier:
    """ "name" or "name:model" -> a verifier, its model not loaded yet. Raises ValueError on an unknown name."""
    name, _, source = (part.strip() for part in asked.partition(":"))
    if name not in VERIFIERS:
        raise ValueError(f"Unknown verifier '{name[:60]}'. Choose from: {', '.join(VERIFIERS)}.")
    file, kind = VERIFIERS[name]
    made = getattr(import_module(f".{file}", __name__), kind)(source or None, own)
    if source:
        made.name = f"{name}:{source}"  # scores of two models stand beside each other
    return made
