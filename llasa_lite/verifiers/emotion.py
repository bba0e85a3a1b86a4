"""Is it said in the same mood? Cosine of mean-pooled embeddings, by any audio-classification checkpoint."""

from __future__ import annotations

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
        import torch
        from transformers import AutoFeatureExtractor
        from transformers import AutoModelForAudioClassification as Classifier

        with reaching(self.source, instead=NONE_BUILT_IN):
            self.features = AutoFeatureExtractor.from_pretrained(self.source)
            given = dict(dtype=torch.float32, use_safetensors=True)
            model = Classifier.from_pretrained(self.source, **given, **converted(self.source))
        if model.base_model is model:  # Whisper: its encoder reads spectrograms of 30 s
            raise ValueError(
                f"'{self.source}' is no emotion classifier on raw waves (wav2vec 2.0, HuBERT, WavLM). Take one that "
                "is, such as superb/wav2vec2-base-superb-er."
            )
        self.model = placed(model.base_model, self.device, self.source).eval()

    def _vectors(self, inputs):
        return self.model(**inputs).last_hidden_state.mean(1)
