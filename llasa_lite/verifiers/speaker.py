"""Does it sound like the same person? Cosine of speaker embeddings, by any `AutoModelForAudioXVector`."""

from __future__ import annotations

from functools import lru_cache

from ..audio import SAMPLE_RATE
from ..checkpoints import NANO, converted, placed, reaching
from . import NO_LLASA, Cosine, Own

NANO_VERIFIER = NANO / "verifier"  # a small WavLMForXVector, trained on the voices of nano's corpus
OF_PEOPLE = "microsoft/wavlm-base-plus-sv"  # by which nano's, trained on synthetic voices, is no match (nano's card)


class Speaker(Cosine):
    """SIM-o against the prompt, SIM-r against the prompt resynthesised: whichever is the reference.

    Args:
        source: "nano" (offline), or a folder or hub id; the paper's tables use a WavLM-large finetuned for speaker
            verification. Left out: "nano" for voices of nano's codec, else "microsoft/wavlm-base-plus-sv".
    """

    name = "speaker"
    min_samples = SAMPLE_RATE // 2  # an x-vector needs 15 frames of 20 ms; half a second is what a step of search adds

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.device = source or own.speaker, own.device

    def _load(self) -> None:
        self.features, self.model = speaker_model(self.source, self.device)

    def _vectors(self, inputs):
        return self.model(**inputs).embeddings


@lru_cache(2)
def speaker_model(source: str, device: str) -> tuple:
    """A feature extractor and the model that makes embeddings of its features. Kept for the next search."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    folder = str(NANO_VERIFIER) if source == "nano" else source
    with reaching(folder):
        features = AutoFeatureExtractor.from_pretrained(folder)
        given = dict(dtype=torch.float32, use_safetensors=True, output_loading_info=True)
        model, loaded = AutoModelForAudioXVector.from_pretrained(folder, **given, **converted(folder))
    if any(name.startswith(("projector", "tdnn", "feature_extractor.")) for name in loaded["missing_keys"]):
        raise ValueError(  # Transformers would draw them: scores of noise, and others at every load
            f"'{source}' was not trained to tell speakers apart: it lacks the head that does. Take one that was, such "
            f"as {OF_PEOPLE}."
        )
    return features, placed(model, device, source).eval()
