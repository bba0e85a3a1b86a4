"""Is it said in the same mood? Cosine of mean-pooled embeddings, by any audio-classification checkpoint."""

from __future__ import annotations

import numpy as np

from ..audio import SAMPLE_RATE
from ..checkpoints import reaching
from . import NO_LLASA, Own, Target, Verifier, by_length

MIN_SAMPLES = SAMPLE_RATE // 10  # five frames of a wav2vec 2.0


class Emotion(Verifier):
    """Cosine to the reference.

    Args:
        source: folder or hub id of an emotion classifier on raw waves (wav2vec 2.0, HuBERT, WavLM). The paper's
            emotion2vec-plus-large is published as a pickle for FunASR only, and pickles are not loaded here.
    """

    name, unit, low, high = "emotion", "cosine", -1.0, 1.0
    needs_reference = True

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.device = source or "superb/wav2vec2-base-superb-er", own.device

    def _load(self) -> None:
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        with reaching(self.source):
            self.features = AutoFeatureExtractor.from_pretrained(self.source)
            model = AutoModelForAudioClassification.from_pretrained(
                self.source, dtype=torch.float32, use_safetensors=True
            )
        self.model = model.base_model.to(self.device).eval()  # below its classifier

    def embed(self, waves: list[np.ndarray]) -> np.ndarray:
        """(n, dimensions) float32 of length 1: the mean of the last layer over time."""
        import torch

        self.load()
        waves = [wav if len(wav) >= MIN_SAMPLES else np.resize(wav, MIN_SAMPLES) for wav in waves]
        vectors = [None] * len(waves)
        for rows in by_length(waves):
            inputs = self.features([waves[row] for row in rows], sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.inference_mode():
                out = self.model(**inputs.to(self.device)).last_hidden_state.float().mean(1)  # (rows, dimensions)
            for row, vector in zip(rows, torch.nn.functional.normalize(out, dim=-1).cpu().numpy()):
                vectors[row] = vector
        return np.stack(vectors)

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> np.ndarray:
        return self.embed(waves) @ self.embed([target.reference])[0]
