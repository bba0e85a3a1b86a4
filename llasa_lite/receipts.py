"""What is needed to make a speech again: checked, kept inside the wave and beside it, read back. Knows no model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from . import audio
from .files import parse_json, read_json, whole_numbers
from .timbre import is_timbre
from .voices import builtin_voices

SUFFIX = ".receipt.json"
MAX_CODES = 100_000  # of one piece or voice: more than half an hour
MAX_CHARS = 100_000  # of one text
_LARGE = ("text", "voice_text", "voice_codes", "voice_timbre", "pieces", "codes", "candidates")


def beside(path: str | os.PathLike) -> Path:
    """Where the receipt of the wave at `path` lies."""
    return Path(path).with_suffix(SUFFIX)


def to_comment(receipt: dict, kind: str = "wav") -> str:
    """A receipt as the comment that travels inside a sound file.

    What was recorded of somebody (words, codes and timbre of a clip of one's own) stays out of it: files are passed on.
    An ogg file holds no long ones, so that there the long fields are left out, and named.
    """
    told = {k: v for k, v in receipt.items() if k != "seconds_taken"}  # the same seed writes the same file
    told = {"llasa_lite": "receipt"} | told
    known = builtin_voices().get(str(receipt.get("voice")))
    # a built-in voice is known by its words: under another codec it has other codes
    if known is None or receipt.get("voice_text") != known.text:
        private = [key for key in ("voice_text", "voice_codes", "voice_timbre") if told.get(key) is not None]
        told |= dict.fromkeys(private) | ({"left_out": private} if private else {})
    if kind == "ogg" and len(json.dumps(told, ensure_ascii=False).encode()) > audio.MAX_OGG_COMMENT:
        large = [key for key in _LARGE if key in told]
        told = {k: v for k, v in told.items() if k not in large} | {"left_out": large}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def read(path: str | os.PathLike) -> dict:
    """The receipt of a speech: from its .receipt.json, or from the wave (wav, flac, ogg, mp3); of a wave that has both,
    the one beside it, which is the fuller.

    Raises:
        ValueError: no such file, or no receipt in it.
    """
    path = Path(path)
    if path.suffix == ".json":
        return checked(read_json(path, "receipt"))
    inside = from_comment(audio.comment_of(path), f"'{path.name}' holds no receipt: it was not made here.")
    if beside(path).is_file() and inside.get("left_out"):
        fuller = checked(read_json(beside(path), "receipt"))
        same = ("text", "seed", "model", "voice", "task")
        if all(fuller.get(key) == inside.get(key) for key in same if key not in inside["left_out"]):
            return fuller
    return inside


def from_comment(comment: str, wrong: str) -> dict:
    """A receipt from what `to_comment` made of it; an mp3 has the comment's language before it. Raises
    ValueError(wrong)."""
    row = parse_json(comment[comment.find("{") :], wrong)
    if not isinstance(row, dict) or row.pop("llasa_lite", None) != "receipt":
        raise ValueError(wrong)
    return checked(row)


def checked(receipt) -> dict:
    """The same receipt, if it is one: every field that is used has its type and range.

    Raises:
        ValueError: it is none; what is wrong, in one sentence.
    """
    if not isinstance(receipt, dict):
        raise ValueError(f"This is not a receipt: it is a {type(receipt).__name__}, not an object.")
    left_out = receipt.get("left_out", [])
    left_out = left_out if isinstance(left_out, list) else []
    for key, (good, what) in _FIELDS.items():
        if key in receipt and (key in left_out or good(receipt[key])):
            continue
        if key not in receipt and (key in left_out or key in _OPTIONAL):
            continue
        raise ValueError(f"This is not a receipt: '{key}' is missing or wrong; it must be {what}.")
    if receipt["voice"] is not None and not ("voice_codes" in left_out or receipt["voice_codes"] is not None):
        raise ValueError("This is not a receipt: it names a voice and holds no codes of it.")
    return receipt


def _text(most: int):
    return lambda value: isinstance(value, str) and len(value) <= most


def _or_none(good):
    return lambda value: value is None or good(value)


_NAME, _WORDS = _text(1_000), _text(MAX_CHARS)
_FIELDS = {
    "task": (_NAME, "a word"),
    "text": (_WORDS, f"a text of at most {MAX_CHARS:,} characters"),
    "voice": (_or_none(_NAME), "a name or null"),
    "voice_text": (_or_none(_WORDS), "a text or null"),
    "voice_codes": (_or_none(lambda v: whole_numbers(v, MAX_CODES)), "a list of whole numbers from 0, or null"),
    "voice_timbre": (_or_none(is_timbre), "what a voice's timbre is in JSON, or null"),
    "model": (_NAME, "a name"),
    "codec": (_NAME, "a name"),
    "seed": (lambda v: type(v) is int and 0 <= v < 2**63, "a whole number from 0 to 2^63 - 1"),
    "sampling": (lambda v: isinstance(v, dict), "an object"),
    "device": (_NAME, "a name"),
    "dtype": (_NAME, "a name"),
    "speaker": (_or_none(_NAME), "a name or null"),
    "weights": (lambda v: isinstance(v, dict) and all(map(_or_none(_NAME), v.values())), "an object of names or null"),
    "search": (lambda v: isinstance(v, dict), "an object"),
    "codes": (
        lambda v: isinstance(v, list) and len(v) <= 10_000 and all(whole_numbers(one, MAX_CODES) for one in v),
        "a list of lists of whole numbers from 0",
    ),
    "left_out": (lambda v: isinstance(v, list) and all(map(_NAME, v)), "a list of words"),
    "stopped": (lambda v: isinstance(v, list) and all(map(_NAME, v)), "a list of words"),
}
_OPTIONAL = ("task", "voice_timbre", "device", "speaker", "weights", "search", "codes", "stopped", "left_out")
