"""What the verbs of the command line share: models and voices asked for, bars, answers. Knows no verb."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

from . import checkpoints
from .audio import check_suffix
from .files import why
from .voices import Voice, builtin_voices


def load(o):
    from .pipeline import Llasa

    no_loading_bars()
    if o.vllm:
        from .vllm_engine import connect

        llasa = connect(o.model, None if o.vllm == "here" else o.vllm, o.codec, o.device)
    else:
        llasa = Llasa.from_pretrained(o.model, o.codec, o.device, o.dtype)
    if getattr(o, "timbre", None) is not None:
        llasa.codec.restores_timbre = o.timbre
    return llasa


def picked_device(o) -> str:
    return checkpoints.pick_device(o.device)


def load_codec(o):
    no_loading_bars()
    device = picked_device(o)
    name = o.codec or checkpoints.find_described(o.model).codec
    return checkpoints.load_codec(name, device, checkpoints.pick_dtype(device, "float32"))


def no_loading_bars() -> None:
    """Reading weights takes a second; only a download from the hub, which has bars of its own, is worth one."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def check_out(path: str, source: str | None = None) -> None:
    """Say before the work that its result could not be written to `path`.

    Args:
        source: file that the work reads, which is not to be written over.
    Raises:
        ValueError: its folder is none or may not be written to, it is a folder, or it is the source.
    """
    if source and Path(path).resolve() == Path(source).resolve():
        raise ValueError(f"Cannot write '{path}': it is the clip itself.")
    folder = Path(path).parent
    wrong = {
        errno.ENOENT: not folder.is_dir(),
        errno.EISDIR: Path(path).is_dir(),
        errno.EACCES: not os.access(folder, os.W_OK),
    }
    for code in filter(wrong.get, wrong):
        raise ValueError(f"Cannot write '{path}': {why(OSError(code, ''))}.")


def check_sound_out(path: str, source: str | None = None) -> None:
    """As `check_out`, for a sound file. Raises ValueError for an ending that is none of those written, too."""
    check_suffix(path)
    check_out(path, source)


def check_gpus(o) -> None:
    """Raises ValueError for --gpus without --workers, to whom they go: nobody else would heed them."""
    if o.gpus is not None and o.workers is None:
        raise ValueError("--gpus are those of --workers: give their number, too. One process takes --device cuda.")


def given_text(given: str) -> str:
    """The text given, or what is piped in for "-". Raises ValueError where there is none, or it is no UTF-8."""
    try:
        words = sys.stdin.buffer.read().decode("utf-8-sig") if given == "-" else given
    except UnicodeDecodeError as error:
        raise ValueError("What was piped in is not UTF-8. Convert it first: iconv -t UTF-8.") from error
    if not words.strip():
        raise ValueError("There is no text to speak.")
    return words


def cloned(voice):
    """The voice of a clip, with a word on what that asks of one, before anything is spoken in it."""
    print("llasa-lite: clone only voices you may use, and say that what is heard is synthetic.", file=sys.stderr)
    return voice


def given_voice(o):
    if not o.voice:
        if o.voice_text:
            raise ValueError("--voice-text belongs to a clip: give that with --voice.")
        return None
    if o.voice.endswith(".json"):
        if o.voice_text:
            raise ValueError(f"--voice-text belongs to a clip; the voice '{o.voice}' has its own.")
        return Voice.load(o.voice)
    if "." in o.voice or "/" in o.voice or (Path(o.voice).is_file() and o.voice not in builtin_voices()):
        return cloned(Voice.from_audio(o.voice, o.voice_text, name=Path(o.voice).stem))
    if o.voice_text:
        raise ValueError(f"--voice-text belongs to a clip; the built-in voice '{o.voice}' has its own.")
    return o.voice


def given_sampling(o, llasa):
    given = {name: getattr(o, name) for name in ("temperature", "top_p", "top_k", "guidance")}
    return replace(llasa.sampling, **{k: v for k, v in given.items() if v is not None})


def finish(speech, o, more: dict | None = None) -> None:
    speech.save(o.out)
    seconds, taken = round(speech.seconds, 2), speech.receipt["seconds_taken"]
    row = {"file": str(o.out), "seconds": seconds, "seconds_taken": taken, "seed": speech.seed}
    row |= {"complete": speech.complete, "receipt": speech.receipt} | (more or {})
    line = f"{o.out}: {seconds} s in {taken} s, seed {speech.seed}"
    if not speech.complete:
        line += "; the model did not end it by itself: listen before you use it, or try another seed"
    tell(row, o, line)


def tell(row: dict, o, line: str) -> None:
    print(json.dumps(row, ensure_ascii=False) if o.json else line)


def counting(name: str, o, total: float | None = None):
    from tqdm import tqdm

    unit = "clip" if total else "s"
    return tqdm(desc=name, total=total, unit=unit, file=sys.stderr, leave=False, disable=None if not o.json else True)


def progress(name: str, o, items: list):
    from tqdm import tqdm

    return tqdm(items, desc=name, file=sys.stderr, leave=False, disable=None if not o.json else True)


def some(items: list, limit: int | None) -> list:
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, not {limit}.")
    return items if limit is None else random.Random(0).sample(items, min(limit, len(items)))
