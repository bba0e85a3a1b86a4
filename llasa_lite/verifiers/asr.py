"""Does it say the text? Minus the error rate of a transcript, by a recogniser of others or by the Llasa itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np

from ..audio import SAMPLE_RATE
from ..checkpoints import NONE_BUILT_IN, converted, placed, reaching
from ..text import error_rate, has_words, normalize_transcript, simplified, spell_out
from . import NO_LLASA, Own, Target, Verifier

WAVES_AT_ONCE = 16  # bounds memory
WHISPER_SECONDS = 30  # that Whisper hears at once
LEAST_SAMPLES = SAMPLE_RATE // 10  # of a wave: of less, convolutions make no frame


class Recogniser:
    """A speech recogniser from the hub or a folder: Whisper, any other encoder-decoder (Moonshine), or CTC. Hears
    waves at 16 kHz."""

    def __init__(self, source: str, device: str = "cpu"):
        import torch
        from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor
        from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING

        self.torch, self.name = torch, str(source)
        with reaching(self.name, instead=NONE_BUILT_IN):
            config = AutoConfig.from_pretrained(source)
            self.is_ctc, self.is_whisper = type(config) in MODEL_FOR_CTC_MAPPING, config.model_type == "whisper"
            kind = AutoModelForCTC if self.is_ctc else AutoModelForSpeechSeq2Seq
            self.processor = AutoProcessor.from_pretrained(source)
            given = dict(dtype=torch.float32, use_safetensors=True, output_loading_info=True)
            model, loaded = kind.from_pretrained(source, **given, **converted(self.name))
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
            how, further = {}, {}
            if long[start]:  # what comes after 30 s would be left out
                how = {"truncation": False, "padding": "longest"}
                further = {"return_timestamps": True}
            inputs = self._inputs(waves[start : start + at_once], **how)
            with self.torch.inference_mode():
                if self.is_ctc:
                    ids = self.model(**inputs).logits.argmax(-1)
                else:
                    ids = self.model.generate(**inputs, **decoding, **further)
            heard += self.processor.batch_decode(ids, skip_special_tokens=True)
        return [words.strip() for words in heard]

    def weigh(self, waves: Sequence[np.ndarray], text: str, language: str | None = None) -> list[np.ndarray]:
        """How likely a text is in each wave: the natural logarithms of the probabilities of its tokens and of their
        end, in the order they are written; of CTC, whose frames are not tokens, the whole text's in equal shares.

        Args:
            waves, language: as `hear`. Whisper hears the first 30 s.
            text: as it would be written; CTC reads letters alone, in its own case.
        Raises:
            ValueError: more text than Whisper writes at once.
        """
        weighed, at_once = [], WAVES_AT_ONCE if self.is_whisper else 1
        for start in range(0, len(waves), at_once):
            inputs = self._inputs(waves[start : start + at_once])
            with self.torch.inference_mode():
                weighed += self._weigh_letters(inputs, text) if self.is_ctc else self._weigh(inputs, text, language)
        return weighed

    def _inputs(self, waves: Sequence[np.ndarray], **how):
        if self.is_whisper:
            how["return_attention_mask"] = True  # without one, it warns of a batch
        waves = [np.pad(np.asarray(wav, np.float32), (0, max(0, LEAST_SAMPLES - len(wav)))) for wav in waves]
        return self.processor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", **how).to(self.model.device)

    def _weigh(self, inputs, text: str, language: str | None) -> list[np.ndarray]:
        tokenizer, begin = self.processor.tokenizer, self.model.config.decoder_start_token_id
        # Whisper writes a space before its first word
        ids = tokenizer(" " * self.is_whisper + text.strip(), add_special_tokens=False).input_ids
        ids = self.torch.tensor([*ids, self.model.config.eos_token_id], device=self.model.device)
        before = self.torch.full((len(next(iter(inputs.values()))), 1), begin, device=self.model.device)
        if self.is_whisper:
            told = ["<|transcribe|>"] if self.knows_languages else []
            if language and self.knows_languages:
                told.insert(0, f"<|{language}|>")
            elif self.knows_languages:  # what it takes each wave for
                before = self.torch.cat([before, self.model.detect_language(inputs.input_features)[:, None]], 1)
            told = self.torch.tensor(tokenizer.convert_tokens_to_ids([*told, "<|notimestamps|>"]), device=before.device)
            before = self.torch.cat([before, told.expand(len(before), -1)], 1)
            most = self.model.config.max_target_positions - before.shape[1]
            if len(ids) > most:
                raise ValueError(f"'{self.name}' writes at most {most} tokens at once; this text has {len(ids)}.")
        known = before.shape[1]
        rows = self.torch.cat([before, ids.expand(len(before), -1)], 1)
        logs = self.model(**inputs, decoder_input_ids=rows[:, :-1]).logits[:, known - 1 :].float().log_softmax(-1)
        return list(logs.gather(-1, rows[:, known:, None])[..., 0].cpu().numpy())

    def _weigh_letters(self, inputs, text: str) -> list[np.ndarray]:
        tokenizer, words = self.processor.tokenizer, normalize_transcript(text)
        forms = [tokenizer(form, add_special_tokens=False).input_ids for form in (words, words.upper())]
        ids = min(forms, key=lambda form: form.count(tokenizer.unk_token_id))
        ids = [k for k in ids if k != tokenizer.unk_token_id]  # nothing that is heard says what it cannot write
        logs = self.model(**inputs).logits.float().log_softmax(-1).transpose(0, 1)  # (frames, 1, letters)
        answer, blank = self.torch.tensor([ids], device=logs.device), self.model.config.pad_token_id
        loss = self.torch.nn.functional.ctc_loss(logs, answer, (len(logs),), (len(ids),), blank, reduction="sum")
        shares = max(len(ids), 1)
        return [np.full(shares, -loss.item() / shares, np.float32)]


@lru_cache(2)  # one that writes and another that weighs
def recogniser(source: str, device: str) -> Recogniser:
    """Kept for the next search: reading its weights takes longer than to hear a sentence with it."""
    return Recogniser(source, device)


def language_of(text: str, own: Own) -> str | None:
    """What a recogniser is told to hear: left to itself it takes babble for Welsh. With many languages it is left to
    itself (None)."""
    language = "en" if has_words(text) else "zh"
    return language if language in own.languages and set(own.languages) <= {"en", "zh"} else None


class Asr(Verifier):
    """-WER, or -CER for scripts that put no spaces between words; both sides without case and
    punctuation; English numbers are put into words too, and Chinese into simplified characters where OpenCC is
    installed ([eval]).

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
            heard = self.recogniser.hear(waves, language_of(target.text, self.own))
        elif codes is None:
            raise ValueError("A Llasa reads back codes: give those of each wave.")
        else:
            heard = self.own.read(codes)
        said = target.text
        if by_word and "en" in self.own.languages:  # a recogniser writes $5 for what was spoken as five dollars
            said, heard = spell_out(said), map(spell_out, heard)
        elif not by_word:
            with suppress(ValueError):  # as they are written, where OpenCC is not installed
                said, heard = simplified(said), [simplified(words) for words in heard]
        return [-error_rate(said, words, by_word) for words in heard]
