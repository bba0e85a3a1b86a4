"""Makes a Hugging Face Space that can be pushed as it is: a folder of `spaces/` with this library's source inside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .checkpoints import check_repo

PACKAGE = Path(__file__).parent
SPACES = PACKAGE.parent / "spaces"
KINDS = ("zerogpu", "cpu")
# What a page never reads: training material, and figures of other pages.
LEFT_OUT = shutil.ignore_patterns("__pycache__", "tokens.safetensors", "*_log.csv", "*.png")


def build_space(kind: str, out: str | os.PathLike, repo: str | None = None) -> Path:
    """Write a Space into a new or empty folder; every file is below the 10 MB that plain git takes there.

    Args:
        kind: "zerogpu" (the authors' 1B on GPUs lent by the call) or "cpu" (nano).
        repo: owner/name of the Space, where known: its thumbnail needs an address.
    Raises:
        ValueError: an unknown kind, a folder that holds something, a library that is no checkout, or no name of a
            repository.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown Space '{kind}'. Choose from: {', '.join(KINDS)}.")
    if not (SPACES / kind).is_dir():
        raise ValueError("Spaces are built from a checkout of the repository, where the folder 'spaces' is.")
    if repo:
        check_repo(repo)
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"The folder '{out}' holds something already. Give a new or an empty one.")
    shutil.copytree(SPACES / kind, out, ignore=LEFT_OUT, dirs_exist_ok=True)
    shutil.copy(SPACES / "thumbnail.png", out)
    shutil.copy(PACKAGE.parent / "LICENSE", out)
    shutil.copytree(PACKAGE, out / "llasa_lite", ignore=LEFT_OUT)
    shutil.copytree(PACKAGE.parent / "demo", out / "llasa_lite" / "demo", ignore=LEFT_OUT)
    if repo:
        card = out / "README.md"
        address = f"thumbnail: https://huggingface.co/spaces/{repo}/resolve/main/thumbnail.png\n"
        card.write_text(card.read_text(encoding="utf-8").replace("license:", f"{address}license:", 1), encoding="utf-8")
    return out
