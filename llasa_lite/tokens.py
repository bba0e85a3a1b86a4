"""Llasa's token protocol: markers, prompts, code <-> id. The only file where a marker is written; knows no weights.

codes are codec indices (0 .. codebook size - 1); ids are the language model's vocabulary. They differ by one offset.

Source: arXiv 2502.04128, the model cards of HKUSTAudio/Llasa-*. The recognition template was never released; its
tokens exist in every checkpoint and the paper says only that the order is reversed, so `asr_prompt` is our choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TEXT_GENERATION_START, TEXT_GENERATION_END = "<|TEXT_GENERATION_START|>", "<|TEXT_GENERATION_END|>"
TEXT_UNDERSTANDING_START, TEXT_UNDERSTANDING_END = "<|TEXT_UNDERSTANDING_START|>", "<|TEXT_UNDERSTANDING_END|>"
SPEECH_GENERATION_START, SPEECH_GENERATION_END = "<|SPEECH_GENERATION_START|>", "<|SPEECH_GENERATION_END|>"
SPEECH_UNDERSTANDING_START, SPEECH_UNDERSTANDING_END = "<|SPEECH_UNDERSTANDING_START|>", "<|SPEECH_UNDERSTANDING_END|>"

# In the order in which they follow the base vocabulary; the codes <|s_0|> ... come right after.
MARKERS = (
    TEXT_GENERATION_START,
    TEXT_GENERATION_END,
    TEXT_UNDERSTANDING_START,
    TEXT_UNDERSTANDING_END,
    SPEECH_GENERATION_START,
    SPEECH_GENERATION_END,
    SPEECH_UNDERSTANDING_START,
    SPEECH_UNDERSTANDING_END,
)
TTS_INSTRUCTION = "Convert the text to speech:"
ASR_INSTRUCTION = "Convert the speech to text:"
IGNORE = -100  # label of positions without loss

# Llama's chat template writes today's date into the prompt, so that a seed would give another result tomorrow.
# This is the date the template itself falls back on.
DATE_STRING = "26 Jul 2024"


def speech_token(code: int) -> str:
    return f"<|s_{code}|>"


@dataclass(frozen=True)
class Example:
    """A training row: `labels` equal `input_ids` where the loss counts, and IGNORE elsewhere."""

    input_ids: list[int]
    labels: list[int]


class Protocol:
    """Prompts and id ranges of one checkpoint, read from its tokenizer.

    Args:
        tokenizer: a Transformers tokenizer that holds the markers, the codes and a chat template.
    Raises:
        ValueError: a marker or `<|s_0|>` is missing: not a Llasa checkpoint; or the codes have a gap.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (*MARKERS, speech_token(0)) if token not in vocabulary]
        if missing:
            raise ValueError(f"This is not a Llasa checkpoint: its tokenizer lacks {', '.join(missing)}.")
        self.code_offset: int = vocabulary[speech_token(0)]  # id of code 0
        self.codebook_size = sum(1 for token in vocabulary if re.fullmatch(r"<\|s_\d+\|>", token))
        if vocabulary.get(speech_token(self.codebook_size - 1)) != self.code_offset + self.codebook_size - 1:
            raise ValueError("The speech tokens of this checkpoint are not one run of ids.")
        self.speech_end: int = vocabulary[SPEECH_GENERATION_END]
        self.text_end: int = vocabulary[TEXT_GENERATION_END]
        self.pad: int = vocabulary.get("<|eot_id|>", tokenizer.pad_token_id)
        self._reserved = frozenset(tokenizer.get_added_vocab())

    # -- prompts ---------------------------------------------------------------------------------------------------

    def tts_prompt(self, text: str, codes: Sequence[int] = (), speaker: str | None = None) -> list[int]:
        """Prompt ids for speech; generation goes on with speech ids until `speech_end`.

        Args:
            text: all that is spoken, the transcript of `codes` first: a voice prompt is a continuation.
            codes: codes of the voice prompt or of the clip to continue; empty for no prompt.
            speaker: name of a finetuned speaker ("Speaker {name}" opens the assistant's turn).
        Raises:
            ValueError: empty text, a token of the protocol inside it, or a code out of range.
        """
        return self._tts(self.checked(text), codes, speaker)

    def unconditional_prompt(self, text: str = "", codes: Sequence[int] = (), speaker: str | None = None) -> list[int]:
        """As `tts_prompt`, without the words that are still to be said: what guidance compares with.

        Args:
            text: the transcript of `codes` alone; empty where there are none.
        """
        return self._tts(self.checked(text) if text else "", codes, speaker)

    def _tts(self, text: str, codes: Sequence[int], speaker: str | None) -> list[int]:
        opening = f"Speaker {self.checked(speaker)}" if speaker else ""
        user = f"{TTS_INSTRUCTION}{TEXT_UNDERSTANDING_START}{text}{TEXT_UNDERSTANDING_END}"
        return self._chat(user, opening + SPEECH_GENERATION_START) + self.codes_to_ids(codes)

    def asr_prompt(self, codes: Sequence[int]) -> list[int]:
        """Prompt ids for recognition; generation goes on with text ids until `text_end`."""
        user = f"{ASR_INSTRUCTION}{SPEECH_UNDERSTANDING_START}{SPEECH_UNDERSTANDING_END}"
        ids = self._chat(user, TEXT_GENERATION_START)
        # The codes go in as ids: the same tokens as their text "<|s_1|><|s_2|>...", without writing and parsing it.
        close = len(ids) - 1 - ids[::-1].index(self.tokenizer.convert_tokens_to_ids(SPEECH_UNDERSTANDING_END))
        return ids[:close] + self.codes_to_ids(codes) + ids[close:]

    def _chat(self, user: str, assistant: str) -> list[int]:
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        encoded = self.tokenizer.apply_chat_template(
            messages, tokenize=True, continue_final_message=True, date_string=DATE_STRING, return_dict=True
        )
        return list(encoded["input_ids"])

    def checked(self, text: str) -> str:
        """The text without surrounding space. Raises ValueError where it is blank, holds a token of the protocol or is
        no text at all."""
        text = text.strip()
        if not text:
            raise ValueError("There is no text to speak.")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError("The text holds a broken character (half of a surrogate pair). Type it again.")
        # A user's text must not hold a token of the protocol, or it would rewrite its own prompt.
        for found in re.findall(r"<\|[^<>|]*\|>", text):
            if found in self._reserved:
                raise ValueError(f"The text holds '{found}', which the model reads as a command. Remove it.")
        return text

    # -- training rows ---------------------------------------------------------------------------------------------

    def tts_example(self, text: str, codes: Sequence[int], unconditional: bool = False) -> Example:
        """Text in, speech out: the loss covers the codes and their END, nothing else.

        Args:
            unconditional: the text covers only the beginning of the codes, or nothing (`unconditional_prompt`).
        """
        prompt = self.unconditional_prompt(text) if unconditional else self.tts_prompt(text)
        return _example(prompt, [*self.codes_to_ids(codes), self.speech_end])

    def asr_example(self, text: str, codes: Sequence[int]) -> Example:
        """Speech in, text out: the loss covers the text and its END."""
        return _example(self.asr_prompt(codes), [*self.text_to_ids(self.checked(text)), self.text_end])

    # -- ids <-> codes, ids <-> text -------------------------------------------------------------------------------

    def codes_to_ids(self, codes: Sequence[int]) -> list[int]:
        """Codes (n,) -> speech ids. Raises ValueError on a code that this codebook has not."""
        apart = " The codec and the language model do not belong together."
        return (within_codebook(codes, self.codebook_size, apart) + self.code_offset).tolist()

    def ids_to_codes(self, ids: Sequence[int]) -> np.ndarray:
        """Speech ids -> codes (n,) int64. Raises ValueError on an id that is no speech token."""
        codes = np.asarray(ids, np.int64).reshape(-1) - self.code_offset
        if codes.size and not (0 <= codes.min() and codes.max() < self.codebook_size):
            raise ValueError("An id outside the speech range was given where only codes may stand.")
        return codes

    def text_to_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def unknown_letters(self, text: str) -> set[str]:
        """Letters and digits of a text that the tokenizer has no id for: a small one knows those of its language."""
        unknown = self.tokenizer.unk_token_id
        return {c for c in set(text) if c.isalnum() and unknown is not None and unknown in self.text_to_ids(c)}

    def ids_to_text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def speech_ids(self) -> np.ndarray:
        """Every id that may follow in speech: END first, then the codes in order."""
        return np.concatenate([[self.speech_end], self.code_offset + np.arange(self.codebook_size)])

    def text_ids(self) -> np.ndarray:
        """Every id that may follow in a transcript: END first, then the base vocabulary without special tokens."""
        special = set(self.tokenizer.get_added_vocab().values())
        first_marker = self.tokenizer.convert_tokens_to_ids(TEXT_GENERATION_START)
        return np.array([self.text_end, *(i for i in range(first_marker) if i not in special)])


def within_codebook(codes: Sequence[int], size: int, reason: str = "") -> np.ndarray:
    """Codes (n,) as int64. Raises ValueError, followed by `reason`, where one lies outside 0 .. size - 1."""
    try:
        codes = np.asarray(codes, np.int64).reshape(-1)
    except OverflowError as error:
        raise ValueError(f"Codes must lie in 0..{size - 1}; one of these has more than 63 bits.{reason}") from error
    if codes.size and not (0 <= codes.min() and codes.max() < size):
        raise ValueError(f"Codes must lie in 0..{size - 1}; these go from {codes.min()} to {codes.max()}.{reason}")
    return codes


def _example(prompt: list[int], answer: list[int]) -> Example:
    return Example(prompt + answer, [IGNORE] * len(prompt) + answer)


# -- the built-in family's tokenizer --------------------------------------------------------------------------------

CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,!?;:'\"-()&%$"
_INSTRUCTION_TOKENS = {TTS_INSTRUCTION: "<|tts|>", ASR_INSTRUCTION: "<|asr|>"}
# Same roles and markers as Llama's template, one token each for role and instruction: with one token a character
# the full header would be longer than most sentences.
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    + "".join(
        "{% " + word + " message['content'].startswith('" + text + "') %}" + token + "{{ message['content'][27:] }}"
        for word, (text, token) in zip(("if", "elif"), _INSTRUCTION_TOKENS.items())
    )
    + "{% else %}{{ message['content'] }}{% endif %}<|eot_id|>{% endfor %}"
)


def character_tokenizer(codebook_size: int):
    """A Transformers tokenizer of lower-case characters with Llasa's markers, roles and codes.

    Accents are stripped, curly quotes and dashes made plain; what is then still unknown becomes `<|unk|>`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    assert all(len(text) == 27 for text in _INSTRUCTION_TOKENS)  # the template cuts them off by length
    base = [*CHARACTERS, "<|unk|>"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(base)}, unk_token="<|unk|>"))
    plain = {"[‘’`´]": "'", "[“”«»]": '"', "[‐-―−]": "-", "…": "...", r"\s+": " "}
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(pattern), to) for pattern, to in plain.items()]
        + [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|system|>", "<|user|>", "<|assistant|>"]
    special += _INSTRUCTION_TOKENS.values()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    # as in the released checkpoints, markers and codes are ordinary added tokens
    speech = [*MARKERS, *map(speech_token, range(codebook_size))]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in speech])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|eot_id|>",
        unk_token="<|unk|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _TEMPLATE
    return fast
