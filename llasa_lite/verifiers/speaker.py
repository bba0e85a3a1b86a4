"""Does it sound like the same person? Cosine of speaker embeddings, by any `AutoModelForAudioXVector`."""

from __future__ import annotations

from ..audio import SAMPLE_RATE
from ..checkpoints import NANO, converted, placed, reaching
from . import NO_LLASA, Cosine, Own

NANO_VERIFIER = NANO / "verifier"  # a small WavLMForXVector, trained on the voices of nano's corpus


class Speaker(Cosine):
    """SIM-o against the prompt, SIM-r against the prompt resynthesised: whichever is the reference.

    Args:
        source: "nano" (offline), or a folder or hub id: "microsoft/wavlm-base-plus-sv" for other voices than nano's;
            the paper's tables use a WavLM-large finetuned for speaker verification.
    """

    name = "speaker"
    min_samples = SAMPLE_RATE // 2  # an x-vector needs 15 frames of 20 ms; half a second is what a step of search adds

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.device = source or "nano", own.device

    def _load(self) -> None:
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        source = str(NANO_VERIFIER) if self.source == "nano" else self.source
        with reaching(source):
            self.features = AutoFeatureExtractor.from_pretrained(source)
            given = dict(dtype=torch.float32, use_safetensors=True, output_loading_info=True)
            model, loaded = AutoModelForAudioXVector.from_pretrained(source, **given, **converted(source))
        if any(name.startswith(("projector", "tdnn", "feature_extractor.")) for name in loaded["missing_keys"]):
            raise ValueError(  # Transformers would draw them: scores of noise, and others at every load
                f"'{self.source}' was not trained to tell speakers apart: it lacks the head that does. Take one that "
                "was, such as microsoft/wavlm-base-plus-sv."
            )
        self.model = placed(model, self.device, self.source).eval()

    def _vectors(self, inputs):
        return self.model(**inputs).embeddings
