"""Does it sound like the same person? Cosine of speaker embeddings, by any `AutoModelForAudioXVector`."""

from __future__ import annotations

import numpy as np

from ..audio import SAMPLE_RATE
from ..checkpoints import NANO, reaching
from . import NO_LLASA, Own, Target, Verifier, by_length

NANO_VERIFIER = NANO / "verifier"  # a small WavLMForXVector, trained on the voices of nano's corpus
MIN_SAMPLES = SAMPLE_RATE // 2  # an x-vector needs 15 frames of 20 ms; half a second is what a step of search adds


class Speaker(Verifier):
    """SIM-o against the prompt, SIM-r against the prompt resynthesised: whichever is the reference.

    Args:
        source: "nano" (offline), or a folder or hub id: "microsoft/wavlm-base-plus-sv" for other voices than nano's;
            the paper's tables use a WavLM-large finetuned for speaker verification.
    Raises:
        ValueError: "nano" is asked for and did not ship with this package.
    """

    name, unit, low, high = "speaker", "cosine", -1.0, 1.0
    needs_reference = True

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.device = source or "nano", own.device
        if self.source == "nano" and not (NANO_VERIFIER / "config.json").is_file():
            raise ValueError(
                "nano's own speaker verifier is not part of this package. Give another: "
                "speaker:microsoft/wavlm-base-plus-sv, or a folder."
            )

    def _load(self) -> None:
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        source = str(NANO_VERIFIER) if self.source == "nano" else self.source
        with reaching(source):
            self.features = AutoFeatureExtractor.from_pretrained(source)
            model = AutoModelForAudioXVector.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        self.model = model.to(self.device).eval()

    def embed(self, waves: list[np.ndarray]) -> np.ndarray:
        """(n, dimensions) float32, each of length 1. A wave below half a second is repeated up to it."""
        import torch

        self.load()
        waves = [wav if len(wav) >= MIN_SAMPLES else np.resize(wav, MIN_SAMPLES) for wav in waves]
        vectors = [None] * len(waves)
        for rows in by_length(waves):
            inputs = self.features([waves[row] for row in rows], sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.inference_mode():
                out = self.model(**inputs.to(self.device)).embeddings.float()
            for row, vector in zip(rows, torch.nn.functional.normalize(out, dim=-1).cpu().numpy()):
                vectors[row] = vector
        return np.stack(vectors)

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> np.ndarray:
        return self.embed(waves) @ self.embed([target.reference])[0]
