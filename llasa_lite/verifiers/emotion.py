"""Is it said in the same mood? Cosine of mean-pooled embeddings, by any audio-classification checkpoint."""

from __future__ import annotations

from functools import lru_cache

from ..audio import SAMPLE_RATE
from ..checkpoints import NONE_BUILT_IN, converted, placed, reaching
from . import NO_LLASA, Cosine, Own


class Emotion(Cosine):
    """Cosine to the reference: of the mean over time of what lies below the classifier.

    Args:
        source: folder or hub id of an emotion classifier on raw waves (wav2vec 2.0, HuBERT, WavLM). The paper's
            emotion2vec-plus-large is published for FunASR only, in a format that can hold code: not loaded here.
    """

    name = "emotion"
    min_samples = SAMPLE_RATE // 10  # five frames

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.device = source or "superb/wav2vec2-base-superb-er", own.device

    def _load(self) -> None:
        self.features, self.model = emotion_model(self.source, self.device)

    def _vectors(self, inputs):
        return self.model(**inputs).last_hidden_state.mean(1)


@lru_cache(1)
def emotion_model(source: str, device: str) -> tuple:
    """A feature extractor and what lies below the classifier of its features. Kept for the next search."""
    import torch
    from transformers import AutoFeatureExtractor
    from transformers import AutoModelForAudioClassification as Classifier

    with reaching(source, instead=NONE_BUILT_IN):
        features = AutoFeatureExtractor.from_pretrained(source)
        model = Classifier.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **converted(source))
    if model.base_model is model:  # Whisper: its encoder reads spectrograms of 30 s
        raise ValueError(
            f"'{source}' is no emotion classifier on raw waves (wav2vec 2.0, HuBERT, WavLM). Take one that is, such as "
            "superb/wav2vec2-base-superb-er."
        )
    return features, placed(model.base_model, device, source).eval()
