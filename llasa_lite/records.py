"""Rows that survive a kill: JSON lines, appended one at a time. Knows nothing of what they say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from .files import why


def which(things: Iterable) -> str:
    """What tells a list of strings, or of rows of them, from others as long, for `settings`: "40, 0f4a5d3b2c1e"."""
    told = list(things)
    return f"{len(told)}, {hashlib.blake2b(json.dumps(told).encode(), digest_size=6).hexdigest()}"


class Records:
    """Rows by key, in a file that is read back on the next start; a row torn by a kill is cut off.

    Args:
        path: JSON lines file, made with its folder if it is not there.
        key: name of the field that tells rows apart.
        settings: what rows must share to be comparable, kept as the first line; None: whatever they share.
        ours: no other process is writing it. Of one that may be, a torn row is passed over and stays.
    Attributes:
        settings: what its rows share, as the first line says; empty where none does.
    Raises:
        ValueError: the file holds rows of other settings, or is none of ours.
    """

    def __init__(self, path: str | Path, key: str = "id", settings: dict | None = None, ours: bool = True):
        self.path, self.key, self.rows = Path(path), key, {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = self.path.read_bytes() if self.path.exists() else b""
        whole = known[: known.rfind(b"\n") + 1]
        if ours and len(whole) < len(known):
            os.truncate(self.path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if settings is not None:
                settings = json.loads(json.dumps(settings))
                if not lines:
                    self._append({"settings": settings})
                    lines = [{"settings": settings}]
                elif (before := lines[0]["settings"]) != settings:
                    names = sorted(k for k in before | settings if before.get(k) != settings.get(k))
                    was = ", ".join(f"{k} {before.get(k)!r}" for k in names)
                    raise ValueError(f"'{path}' was begun with {was}. Choose another folder, or the same settings.")
                lines = lines[1:]
            elif lines and "settings" in lines[0]:  # rows of any settings are wanted
                settings, lines = lines[0]["settings"], lines[1:]
            self.settings = settings or {}
            self.rows = {row[key]: row for row in lines}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' holds other rows than expected: {error!r}.") from error

    def __contains__(self, key) -> bool:
        return key in self.rows

    def __getitem__(self, key) -> dict:
        return self.rows[key]

    def add(self, row: dict) -> None:
        self._append(row)
        self.rows[row[self.key]] = row

    def _append(self, row: dict) -> None:
        told = json.dumps(row, ensure_ascii=False) + "\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(told)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)  # or the next row would stand behind a torn one
            raise ValueError(f"Cannot write '{self.path}': {why(error)}.") from error
