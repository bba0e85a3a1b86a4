"""A Llasa on a GPU that is lent for seconds at a time, in another process: what ZeroGPU Spaces have.

There `spaces.GPU(duration=...)(job)` runs `job` in a forked process that has a GPU for so long. Arguments and results
are pickled on the way, the weights can only be computed with over there, and of an error only its class comes back
unless it is Gradio's own. So words, NumPy arrays and the library's dataclasses cross, and errors are put in words over
there. Who has no GPU time left is answered by nano on the CPU, and told so; the receipt says it too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from llasa_lite import Llasa, Sampling, SearchResult, SearchSettings, Speech, Voice

from .common import new_folder, plain_errors
from .words import said

log = logging.getLogger(__name__)

# Asked for before every call and shown before the click. Generous, and not measured on ZeroGPU: 20 ms a token is what
# plain `generate` takes there, and 6 tokens a character is slow reading. Less than was asked for is charged as used.
START_SECONDS = 15.0  # until the weights have moved to the GPU
CHARACTER_SECONDS = 0.12
MAX_SECONDS = 120
TAKES_FOR_TWICE = 8  # candidates share their passes: so many more take as long again


class End(NamedTuple):
    """The last of a job that answers step by step: generators lose their return value between processes."""

    value: Any


def gpu_seconds(characters: int, takes: int = 1) -> int:
    """Seconds of GPU to ask for: of the text's length and of how many candidates are made of it at once."""
    work = START_SECONDS + CHARACTER_SECONDS * characters * (1 + (takes - 1) / TAKES_FOR_TWICE)
    return min(MAX_SECONDS, math.ceil(work))


# The same in the visitor's browser, where `n` is the characters and TIMES the candidates.
GPU_SECONDS_JS = (
    f"Math.min({MAX_SECONDS}, Math.ceil({START_SECONDS} + {CHARACTER_SECONDS} * n * (1 + (TIMES - 1) / "
    f"{TAKES_FOR_TWICE})))"
)


def duration(name: str, args: tuple, kwargs: dict, *_) -> int:
    """What a job of `Borrowed` asks for."""
    text = kwargs.get("text") or next((a for a in args if isinstance(a, str)), "")
    settings = kwargs.get("settings")
    takes = settings.n * (settings.branch if settings.guided_tokens else 1) if settings else 1
    return gpu_seconds(len(text), takes)


def no_gpu(error: gr.Error) -> bool:
    """Whether this says that no GPU was to be had; a job that failed on one is another matter."""
    title = getattr(error, "title", "")
    return title.startswith("ZeroGPU") and title != "ZeroGPU worker error"


class Borrowed:
    """Answers the page as a `Llasa` does.

    Args:
        llasa: its weights on CUDA, loaded before the page opens.
        gpu: `spaces.GPU`.
        spare: answers on the CPU where no GPU is to be had.
    """

    def __init__(self, llasa: Llasa, gpu: Callable, spare: Llasa):
        self._llasa, self._spare = llasa, spare
        self._whole, self._by_steps = gpu(duration=duration)(self._do), gpu(duration=duration)(self._do_by_steps)
        self.checkpoint, self.sampling, self.codec = llasa.checkpoint, llasa.sampling, BorrowedCodec(self)
        for name in ("asr", "speaker"):  # models of others that listen to searches: loaded with the other weights
            try:
                llasa.verifier(name).load()
            except ValueError as error:
                log.warning("The verifier '%s' will be missing: %s", name, error)

    # -- what the page asks of a Llasa -----------------------------------------------------------------------------

    def tts(self, *args, stop=None, **kwargs) -> Speech:
        """`stop` cannot be asked from the other process, which is done in seconds; nano on the CPU is not."""
        return self._ask("tts", *args, stop=stop, **kwargs)

    def continue_speech(self, clip, text: str, *, stop=None, **kwargs) -> Speech:
        """`stop` as in `tts`."""
        return self._ask("continue_speech", clip, text=text, stop=stop, **kwargs)

    def transcribe(self, clip):
        return self._ask("transcribe", clip)

    def prepare(self, voice: str | Voice) -> Voice:
        """Only words are recognised over there; codes are made where the voice is first spoken with."""
        if isinstance(voice, str) or voice.text is not None:
            return Voice.builtin(voice) if isinstance(voice, str) else voice
        if not self.checkpoint.can_transcribe:
            raise ValueError(said("{0} cannot transcribe: type what is said in the clip.", self.checkpoint.name))
        return self._ask("prepare", voice)

    def stream(self, *args, **kwargs) -> Iterator[np.ndarray]:
        try:
            for step in self._by_steps("stream", args, kwargs):
                if isinstance(step, End):
                    return step.value
                yield step
        except gr.Error as error:
            self._without_gpu(error)
            args, kwargs = self._of_spare(args, kwargs)
            return (yield from self._spare.stream(*args, **kwargs))

    def search_events(self, text: str, voice, method: str, n: int, *, stop=None, **more) -> BorrowedSearch:
        asked = {name: more.pop(name) for name in ("process", "outcome", "seed", "sampling")}
        settings = SearchSettings(method, n, **more)  # what is wrong with them is said before a GPU is asked for
        return BorrowedSearch(self, (text, voice), asked | {"settings": settings}, stop or (lambda: False))

    # -- here ------------------------------------------------------------------------------------------------------

    def _ask(self, name: str, *args, stop: Callable[[], bool] | None = None, **kwargs):
        try:
            return self._whole(name, args, kwargs)
        except gr.Error as error:
            self._without_gpu(error)
            args, kwargs = self._of_spare(args, kwargs)
            return attrgetter(name)(self._spare)(*args, **kwargs, **({"stop": stop} if stop else {}))

    def _of_spare(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """What was asked for, with the spare's own sampling where nobody chose another than this model's."""

        def own(value):
            return self._spare.sampling if isinstance(value, Sampling) and value == self.sampling else value

        return tuple(map(own, args)), {name: own(value) for name, value in kwargs.items()}

    def _without_gpu(self, error: gr.Error) -> None:
        """Say why the spare answers. Raises the error where that is no reason to."""
        if getattr(error, "message", "") == "GPU task aborted":
            raise gr.Error(
                said("The GPU was taken back before this was done. Take a shorter text or fewer candidates."),
                print_exception=False,
            ) from error
        if not no_gpu(error):
            raise error
        name = self._spare.checkpoint.name
        told = said("Until then '{0}' answers, on the CPU.", name)
        gr.Warning(f"{error.message} {told}", title=said("No GPU time"))

    # -- over there ------------------------------------------------------------------------------------------------

    def _do(self, name: str, args: tuple, kwargs: dict):
        _one_thread()
        with plain_errors():
            return attrgetter(name)(self._llasa)(*args, **kwargs)

    def _do_by_steps(self, name: str, args: tuple, kwargs: dict, stop_file: str = ""):
        _one_thread()
        with plain_errors():
            if name == "stream":
                yield End((yield from self._llasa.stream(*args, **kwargs)))
            else:
                search = search_on(self._llasa, args, kwargs, Path(stop_file).exists)
                yield from search
                yield End(search.result)


class BorrowedCodec:
    """Answers the page as a `Codec` does; what its codes are made of is known without weights."""

    def __init__(self, owner: Borrowed):
        self._owner, codec = owner, owner._llasa.codec
        self.name, self.codebook_size, self.digits = codec.name, codec.codebook_size, codec.digits
        self.restores_timbre = codec.restores_timbre

    def resynthesize(self, wav: np.ndarray) -> np.ndarray:
        return self._owner._ask("codec.resynthesize", wav)

    def encode(self, wav: np.ndarray) -> np.ndarray:
        return self._ask("codec.encode", wav)

    def decode(self, codes) -> np.ndarray:
        return self.decode_batch([codes])[0]

    def decode_batch(self, batch: list) -> list[np.ndarray]:
        return self._ask("codec.decode_batch", batch)

    def _ask(self, name: str, argument):
        """Codes of the spare's codec mean something else: it cannot stand in here."""
        try:
            return self._owner._whole(name, (argument,), {})
        except gr.Error as error:
            if no_gpu(error):
                more = said(
                    "The tokens of '{0}' need one; those of 'nano' do not: choose it.", self._owner.checkpoint.name
                )
                raise gr.Error(f"{error.message} {more}", title=said("No GPU time"), print_exception=False) from error
            raise


class BorrowedSearch:
    """Answers the page as a `Search` does. Its Stop reaches the other process as a file that comes to be."""

    result: SearchResult  # once it has ended

    def __init__(self, owner: Borrowed, args: tuple, kwargs: dict, stop: Callable[[], bool]):
        self.settings, self._stop = kwargs["settings"], stop
        self._steps = self._run(owner, args, kwargs)

    def __iter__(self) -> BorrowedSearch:
        return self

    def __next__(self):
        return next(self._steps)

    def _run(self, owner: Borrowed, args: tuple, kwargs: dict):
        stop_file = new_folder() / "stop"
        try:
            for step in owner._by_steps("search_events", args, kwargs, str(stop_file)):
                if isinstance(step, End):
                    self.result = step.value
                    return
                if self._stop():
                    stop_file.touch()
                yield step
        except gr.Error as error:
            owner._without_gpu(error)
            search = search_on(owner._spare, *owner._of_spare(args, kwargs), self._stop)
            yield from search
            self.result = search.result


def search_on(llasa: Llasa, args: tuple, kwargs: dict, stop: Callable[[], bool]):
    settings = vars(kwargs["settings"])
    return llasa.search_events(*args, stop=stop, **{k: v for k, v in kwargs.items() if k != "settings"}, **settings)


def _one_thread() -> None:
    """A forked process has none of its parent's threads, and would wait for them on the CPU."""
    import torch

    torch.set_num_threads(1)
