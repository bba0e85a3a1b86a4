"""Files that appear whole or not at all, and JSON of strangers read with care. Knows nothing of what they say."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_JSON_BYTES = 4 * 2**20  # a receipt of 20,000 characters takes a quarter of it


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to. What is there at the end takes the place of `path`; after an error, a full disk
    or Ctrl-C nothing does, and what was there before stays. A link stays, and what it leads to is replaced. A pipe or a
    device is itself written to: a file in its place would leave whoever reads it waiting, and root without /dev/null.

    Raises:
        ValueError: it cannot be written, in one sentence.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    stays = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    partial = path if stays else path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield partial
        if not stays:
            os.replace(partial, path)
    except Exception as error:
        if (cause := unwritten(error)) is None:
            raise
        raise ValueError(f"Cannot write '{path}': {why(cause)}.") from error
    finally:
        try:
            if not stays:
                partial.unlink(missing_ok=True)
        except OSError:
            pass  # a folder that cannot be written to holds nothing of ours either


def lines_of(path: str | os.PathLike) -> list[str]:
    """Lines of a UTF-8 text that people, Windows or Excel wrote: without the mark that some put first, cut at line
    feeds alone, since other breaks may stand inside a text. Raises OSError, UnicodeDecodeError."""
    return Path(path).read_text(encoding="utf-8-sig").split("\n")


def unwritten(error: Exception) -> OSError | None:
    """The error of the system in an error: itself, or what safetensors and PyTorch tell of in words. None: another."""
    if isinstance(error, OSError) and not isinstance(error, shutil.Error):
        return error
    if found := re.search(r"\b(?:[Oo]s (?:error|{ code:) |Errno )(\d+)", str(error)):  # safetensors, a copied folder
        return OSError(int(found[1]), os.strerror(int(found[1])))
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # PyTorch does not say why: hardly else
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def why(error: OSError) -> str:
    """What went wrong with a file, in words."""
    known = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota is used up",
        errno.EFBIG: "it is larger than files may be here",
        errno.EROFS: "the disk is read-only",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.ENOENT: "its folder does not exist",
        errno.ENOTDIR: "its folder is a file",
        errno.EISDIR: "it is a folder",
        errno.ENAMETOOLONG: "the name is too long",
    }
    return known.get(error.errno, str(error.strerror or error))


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a text file whole or not at all. Raises ValueError as `whole`."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """Write rows as CSV, whole or not at all: their fields of these names. Raises ValueError as `whole`."""
    with whole(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def read_json(path: str | os.PathLike, name: str, wrong: str = "") -> Any:
    """What a JSON file holds.

    Args:
        name: what to call it in an error ("voice file", "receipt").
        wrong: the sentence for what is not JSON.
    Raises:
        ValueError: no such file, too large, not JSON.
    """
    path = Path(path)
    wrong = wrong or f"'{path.name}' is not a {name}: it holds no JSON."
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"The {name} '{path.name}' has {size:,} bytes; at most {MAX_JSON_BYTES:,} are read.")
        told = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"There is no {name} '{path}'.") from None
    except (OSError, TypeError) as error:
        raise ValueError(f"Cannot read the {name} '{path}': {getattr(error, 'strerror', None) or error}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(wrong) from error
    return parse_json(told, wrong)


def parse_json(told: str, sentence: str) -> object:
    """JSON without NaN or infinities. Raises ValueError(sentence)."""

    def refuse(constant):
        raise ValueError(constant)

    try:
        return json.loads(told, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(sentence) from error


def plain_numbers(settings) -> None:
    """Make Python's numbers of NumPy's in a frozen dataclass: JSON knows no others."""
    for name, value in vars(settings).items():
        if isinstance(value, np.generic):
            object.__setattr__(settings, name, value.item())


def whole_numbers(value, most: int) -> bool:
    """Whether it is a list of at most so many whole numbers from 0."""
    good = isinstance(value, list) and len(value) <= most
    return good and all(type(one) is int and 0 <= one < 2**31 for one in value)
