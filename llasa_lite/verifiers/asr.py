"""Does it say the text? Minus the error rate of a transcript, by a recogniser of others or by the Llasa itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..audio import SAMPLE_RATE
from ..checkpoints import placed, reaching
from ..text import error_rate, has_words, spell_out
from . import NO_LLASA, Own, Target, Verifier

WAVES_AT_ONCE = 16  # bounds memory
WHISPER_SECONDS = 30  # that Whisper hears at once


class Recogniser:
    """A speech recogniser from the hub or a folder: Whisper, any other encoder-decoder (Moonshine), or CTC. Hears
    waves at 16 kHz."""

    def __init__(self, source: str, device: str = "cpu"):
        import torch
        from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor
        from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING

        self.torch, self.name = torch, str(source)
        with reaching(self.name):
            config = AutoConfig.from_pretrained(source)
            self.is_ctc, self.is_whisper = type(config) in MODEL_FOR_CTC_MAPPING, config.model_type == "whisper"
            kind = AutoModelForCTC if self.is_ctc else AutoModelForSpeechSeq2Seq
            self.processor = AutoProcessor.from_pretrained(source)
            given = dict(dtype=torch.float32, use_safetensors=True, output_loading_info=True)
            model, loaded = kind.from_pretrained(source, **given)
        if any(name.startswith("lm_head") for name in loaded["missing_keys"]):
            raise ValueError(f"'{source}' was not trained to transcribe: it lacks the head that does.")
        self.model = placed(model, device, self.name).eval()
        self.knows_languages = not self.is_ctc and getattr(model.generation_config, "is_multilingual", False)

    def hear(self, waves: Sequence[np.ndarray], language: str | None = None, **decoding) -> list[str]:
        """Transcripts, greedy unless `decoding` says otherwise.

        Args:
            waves: (samples,) each; Whisper hears 16 in one pass, since it pads all to 30 s; one that is longer, by
                itself and 30 s after 30 s. Others hear one: many were trained without padding and would hear a wave
                otherwise beside a longer one.
            language: of all of them; None: found out for each.
        """
        if self.knows_languages:
            decoding |= {"language": language, "task": "transcribe"}
        long = [self.is_whisper and len(wav) > WHISPER_SECONDS * SAMPLE_RATE for wav in waves]
        at_once = WAVES_AT_ONCE if self.is_whisper and not any(long) else 1
        heard = []
        for start in range(0, len(waves), at_once):
            batch = [np.asarray(wav, np.float32) for wav in waves[start : start + at_once]]
            how = {"return_attention_mask": True} if self.is_whisper else {}  # without one, it warns of a batch
            further = {}
            if long[start]:  # what comes after 30 s would be left out
                how |= {"truncation": False, "padding": "longest"}
                further = {"return_timestamps": True}
            inputs = self.processor(batch, sampling_rate=SAMPLE_RATE, return_tensors="pt", **how)
            inputs = inputs.to(self.model.device)
            with self.torch.inference_mode():
                if self.is_ctc:
                    ids = self.model(**inputs).logits.argmax(-1)
                else:
                    ids = self.model.generate(**inputs, **decoding, **further)
            heard += self.processor.batch_decode(ids, skip_special_tokens=True)
        return [words.strip() for words in heard]


@lru_cache(1)
def recogniser(source: str, device: str) -> Recogniser:
    """Kept for the next search: reading its weights takes longer than to hear a sentence with it."""
    return Recogniser(source, device)


class Asr(Verifier):
    """-WER, or -CER for scripts that put no spaces between words; both sides without case and
    punctuation; English numbers are put into words too.

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
        self.recogniser = recogniser(self.source, self.own.device) if self.source != "own" else None

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> list[float]:
        by_word = has_words(target.text)
        if self.recogniser:
            # Left to itself, a recogniser takes babble for Welsh; with many languages it is left to itself.
            language = "en" if by_word else "zh"
            known = language in self.own.languages and set(self.own.languages) <= {"en", "zh"}
            heard = self.recogniser.hear(waves, language if known else None)
        elif codes is None:
            raise ValueError("A Llasa reads back codes: give those of each wave.")
        else:
            heard = self.own.read(codes)
        said = target.text
        if by_word and "en" in self.own.languages:  # a recogniser writes $5 for what was spoken as five dollars
            said, heard = spell_out(said), map(spell_out, heard)
        return [-error_rate(said, words, by_word) for words in heard]
