"""The checkpoints that a page has in memory, and how fast they are here."""

from __future__ import annotations

import threading
from collections.abc import Callable

from llasa_lite import CHECKPOINTS, Checkpoint, Codec, Llasa, Speech

from .words import said
from .zerogpu import CHARACTER_SECONDS, Borrowed

WARM_UP = "One, two, three, four, five, six."  # said once by every model that is loaded, to see its pace here


class Models:
    """Checkpoints in memory by name: the one the page opened with, and the last other one asked for.

    With a `gpu` that is lent by the call (`zerogpu.py`), the first runs on it, nano stays on the CPU, and there is no
    other to choose: nothing is loaded while the page is open.
    """

    def __init__(self, name: str | None = None, gpu: Callable | None = None):
        name = "nano" if name is None else str(name)
        self.first = name.lower() if name.lower() in CHECKPOINTS else name
        first = Llasa.from_pretrained(self.first)
        self._there: dict[str, Llasa] = {self.first: first}
        self._other: tuple[str, Llasa] | None = None
        self._lock = threading.Lock()  # of the other one; nobody who uses the first waits for it
        self.borrowed = [] if gpu is None else [self.first]
        if gpu is None:
            self._pace = {self.first: _pace(first)}
            return
        spare = Llasa.from_pretrained("nano", device="cpu")
        self._there = {self.first: Borrowed(first, gpu, spare)}
        self._there.setdefault("nano", spare)
        self._pace = {"nano": _pace(spare), self.first: CHARACTER_SECONDS}

    @property
    def choices(self) -> dict[str, Checkpoint]:
        """Name -> facts of all that a visitor may choose."""
        there = {name: llasa.checkpoint for name, llasa in self._there.items()}
        return there if self.borrowed else there | CHECKPOINTS

    def codec_of(self, name: str, speech: Speech) -> Codec:
        """What a speech's codes belong to: the codec of the model asked for, or of nano where it stood in."""
        codec = self.get(name).codec
        return codec if codec.name == speech.receipt["codec"] else self._there["nano"].codec

    def get(self, name: str) -> Llasa:
        """Load a checkpoint, or take it from memory.

        Raises:
            ValueError: unknown to this page, weights that cannot be reached, or no GPU for a checkpoint that needs one.
        """
        if not isinstance(name, str) or name not in self.choices:
            raise ValueError(said("Unknown model '{0}'. Choose from: {1}.", str(name)[:60], ", ".join(self.choices)))
        if name in self._there:
            return self._there[name]
        with self._lock:
            if self._other is None or self._other[0] != name:
                _check_gpu(self.choices[name])
                self._other = None  # its memory is free before the next takes some
                self._other = (name, Llasa.from_pretrained(name))
                self._pace[name] = _pace(self._other[1])
            return self._other[1]

    def pace(self, name: str) -> float:
        """Seconds of work for a character of text on this machine, about; of the first model where `name` is not here
        yet."""
        return self._pace.get(name, self._pace[self.first])


def _pace(llasa: Llasa) -> float:
    """Measured on one sentence; the work before it makes sure that no visitor pays for what only a first run costs."""
    llasa.tts("One.", seed=0)
    return llasa.tts(WARM_UP, seed=0).receipt["seconds_taken"] / len(WARM_UP)


def _check_gpu(checkpoint: Checkpoint) -> None:
    """A visitor's click must not fetch gigabytes that this machine cannot run; who starts the page may (`--model`)."""
    import torch

    if checkpoint.gigabytes < 1 or torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    told = said(
        "'{0}' needs a GPU with about {1:g} GB of memory, and this machine has none. The built-in model 'nano' runs "
        "here.",
        checkpoint.name,
        checkpoint.gigabytes,
    )
    raise ValueError(told)
