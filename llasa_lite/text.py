"""Cutting long text, and making transcripts comparable; knows nothing of tokens or audio."""

from __future__ import annotations

import re
import unicodedata

# Where a cut is heard least, best first: sentence, clause, word.
_BOUNDARIES = (r"(?<=[.!?…])[\"')\]]*\s+|(?<=[。！？])", r"(?<=[,;:])\s+|(?<=[，；：、])|\s+(?=[-–—(])", r"\s+")


def split(text: str, max_chars: int = 100) -> list[str]:
    """Cut text into pieces of at most about `max_chars` characters, as even as the boundaries allow.

    The number of pieces follows the paper ("if len(char) > 100 -> 2 chunks, > 200 -> 3 chunks, ..."); where to cut
    is not said there: we cut at the sentence end nearest to the even cut, else at a clause, else at a word, else
    in the word. Spaces run together; nothing else of the text is lost.

    Returns:
        pieces without surrounding space; [] for blank text. `" ".join(pieces)` reads as the text did.
    Raises:
        ValueError: max_chars below 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}.")
    text = " ".join(text.split())
    if len(text) <= max_chars:
        return [text] if text else []
    pieces = -(-len(text) // max_chars)
    target = len(text) / pieces  # even pieces
    cut = _nearest_cut(text, target, max_chars)
    head, tail = text[:cut].strip(), text[cut:].strip()
    return ([head] if head else []) + split(tail, max_chars)


def _nearest_cut(text: str, target: float, max_chars: int) -> int:
    for pattern in _BOUNDARIES:
        cuts = [m.end() for m in re.finditer(pattern, text) if 0 < m.end() < len(text)]
        cuts = [c for c in cuts if 0.4 * target <= c and len(text[:c].strip()) <= max_chars]
        if cuts:
            return min(cuts, key=lambda c: abs(c - target))
    return min(max_chars, len(text))


def normalize_transcript(text: str) -> str:
    """Lower case, no punctuation, single spaces: what is compared for a word error rate (as seed-tts-eval does)."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"(?<=\w)'(?=\w)", "'", text)
    text = "".join(" " if unicodedata.category(c)[0] in "PSZ" and c != "'" else c for c in text)
    return " ".join(word.strip("'") for word in text.split() if word.strip("'"))


def join(first: str, second: str) -> str:
    """Transcript of a voice prompt + text to speak: one space between, none where either side writes without spaces."""
    first, second = first.strip(), second.strip()
    spaced = first and second and not (_is_cjk(first[-1]) or _is_cjk(second[0]))
    return f"{first} {second}" if spaced else first + second


def _is_cjk(character: str) -> bool:
    return bool(re.match(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]", character))


def word_error_rate(truth: str, heard: str) -> float:
    """Word edits / words of the truth, both normalised; 0 is perfect, above 1 is possible. Needs `jiwer` ([eval])."""
    import jiwer

    return jiwer.wer(normalize_transcript(truth) or "(empty)", normalize_transcript(heard) or "(empty)")
