"""What every tab needs: limits, errors in plain words, sound and files for the page. Knows no layout."""

from __future__ import annotations

import ctypes
import html
import logging
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from llasa_lite import Llasa, Sampling, Speech, Stopped, Voice, audio, builtin_voices

from .words import said

log = logging.getLogger(__name__)

SAMPLE_RATE = audio.SAMPLE_RATE
HOUR = 3600  # seconds
MAX_TOLD = 500  # characters of an error
MAX_CHARS = 2_000  # of text at once: a minute or two of speech, so that a queue moves on
MAX_CLIP_SECONDS = 60.0  # of an upload
MAX_CODES = int(MAX_CLIP_SECONDS * audio.FRAME_RATE)  # decoded at once
MAX_SEED = 2**53 - 1  # above it a browser's numbers are not exact
ANY_VOICE, OWN_CLIP = "", "my clip"  # beside the names of built-in voices, which hold no spaces
BUSY = "model"  # handlers with this concurrency id take turns: one machine, one model at work
_at_work: set[tuple[str | None, str, threading.Event]] = set()  # visitor's session, tab, flag of each job


def sentence_of(error: Exception | str) -> str:
    """What is told of an error: it may repeat what was sent, so long ones are cut; safe to show on a page."""
    told = str(error)
    told = told if len(told) <= MAX_TOLD else f"{told[:MAX_TOLD]} ..."
    return html.escape(told if told.endswith((".", "。")) else f"{told}.", quote=False)


def unexpected() -> gr.Error:
    """What visitors are told of the error at hand, which is logged."""
    log.exception("A request failed.")
    if type(sys.exc_info()[1]).__name__ in ("MemoryError", "OutOfMemoryError"):  # Python's and torch's, of a GPU
        message = said("The memory of this machine does not suffice. Take a shorter text, or fewer candidates.")
    else:
        message = said("Something went wrong here, and it is not your input. Try again; the server's log says more.")
    return gr.Error(message, print_exception=False)


@contextmanager
def plain_errors() -> Iterator[None]:
    """ValueErrors of the library reach the visitor as they are; anything else is logged and told in general words.
    Stopped is no error: who asked for it knows."""
    try:
        yield
    except (gr.Error, Stopped):
        raise
    except ValueError as error:
        raise gr.Error(sentence_of(error), print_exception=False) from error
    except Exception as error:
        raise unexpected() from error
    finally:
        _give_back_memory()


def _give_back_memory() -> None:
    """Clips of every length leave holes of every size, which glibc keeps: 146 of 760 MB after 300 clips."""
    with suppress(AttributeError, OSError, TypeError):  # other systems look after themselves
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def flag_of(session: str | None, tab: str) -> Iterator[threading.Event]:
    """The flag of a visitor's job, set by their Stop (`stops`) or when they leave the page (`give_up`)."""
    job = session, tab, threading.Event()
    _at_work.add(job)
    try:
        yield job[-1]
    finally:
        _at_work.discard(job)


def stops(button: gr.Button, tab: str, cancelled: list | None = None) -> None:
    """A press sets the flag of the visitor's job in that tab, if one is at work, and frees the page of the events
    that are cancelled."""

    def stop(request: gr.Request):
        give_up(request, tab)

    button.click(stop, queue=False, show_progress="hidden", api_visibility="private", cancels=cancelled)


def stops_and_keeps(button: gr.Button, tab: str, asked: dict) -> None:
    """As `stops`, for an event that shows what it has when it is stopped: one at work ends by itself, and only one that
    still waits for its turn is cancelled."""
    at_work = gr.Checkbox(visible="hidden")
    withdraw = gr.Button(visible="hidden", elem_id=f"{tab}-withdraw")

    def stop(request: gr.Request):
        found = bool(_flags(request, tab))
        give_up(request, tab)
        return found

    pressed = button.click(stop, None, at_work, queue=False, show_progress="hidden", api_visibility="private")
    withdraw.click(None, cancels=asked)
    pressed.then(None, at_work, js=f"at_work => {{ at_work || document.getElementById('{tab}-withdraw').click(); }}")


def give_up(request: gr.Request, tab: str | None = None) -> None:
    """Set the flags of a visitor's jobs: those of one tab, or all of them where the page was closed or is loaded
    anew. Gradio cannot break off inside of a call, and would let the others wait for it."""
    for flag in _flags(request, tab):
        flag.set()


def _flags(request: gr.Request, tab: str | None) -> list[threading.Event]:
    return [flag for session, place, flag in list(_at_work) if session == request.session_hash and tab in (None, place)]


def text_of(text: str | None) -> str:
    """Text that is not too long for the page. Raises ValueError."""
    text = str(text or "")
    if len(text) > MAX_CHARS:
        raise ValueError(
            said("The text has {0:,} characters; this page speaks at most {1:,} at once.", len(text), MAX_CHARS)
        )
    return text


def seed_of(draw: bool, seed: float | None) -> int | None:
    """The seed asked for, None where one is to be drawn. Raises ValueError on anything but a whole number."""
    if draw:
        return None
    if not isinstance(seed, (int, float)) or not 0 <= seed <= MAX_SEED or not float(seed).is_integer():
        raise ValueError(
            said("A seed is a whole number from 0 to {0:,}. Type one, or tick 'Random each time'.", MAX_SEED)
        )
    return int(seed)


def sampling_of(llasa: Llasa, temperature: float, top_p: float, guidance: float) -> Sampling:
    return replace(llasa.sampling, temperature=temperature, top_p=top_p, guidance=guidance)


def wav_of(clip: str | None) -> np.ndarray:
    """The wave of an uploaded or recorded file. Raises ValueError without one, too long, or as `audio.load`."""
    if not clip:
        raise ValueError(said("There is no clip yet: upload one or record it."))
    return audio.load(clip, name="clip", max_seconds=MAX_CLIP_SECONDS)


def own_voice(clip: str | None, transcript: str | None = None) -> Voice:
    """A voice of a clip, which `Llasa.prepare` makes ready to speak. Raises ValueError as `wav_of` and
    `Voice.from_audio`."""
    return Voice.from_audio((SAMPLE_RATE, wav_of(clip)), text_of(transcript), name=OWN_CLIP)


def asked_voice(llasa: Llasa, voice: str, clip: str | None, transcript: str | None) -> str | Voice | None:
    """What a gallery's value stands for. Raises ValueError as `own_voice` and `Llasa.prepare`."""
    return llasa.prepare(own_voice(clip, transcript)) if voice == OWN_CLIP else voice or None


def to_player(wav: np.ndarray) -> tuple[int, np.ndarray]:
    """Gradio scales float waves to full level; whole numbers it leaves alone."""
    return SAMPLE_RATE, audio.to_int16(wav)


def new_folder() -> Path:
    """A new folder in Gradio's cache, whose name no request can guess or choose."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder


def to_wave(speech: Speech, wav: np.ndarray | None = None) -> str:
    """Speech as a file that holds its receipt; `wav` instead of its own where it stands after a clip."""
    told = speech if wav is None else replace(speech, wav=wav)
    return str(told.save(new_folder() / "speech.wav", beside=False))


def to_files(speech: Speech) -> tuple[str, str]:
    """Wave and receipt as files."""
    wave = speech.save(new_folder() / "speech.wav")
    return str(wave), str(wave.with_suffix(".receipt.json"))


def to_summary(speech: Speech, first_seconds: float | None = None) -> str:
    """One line of Markdown: how much, how long it took, and whether it can be trusted."""
    line = said("**{0:.1f} s** of speech in {1:.1f} s", speech.seconds, speech.receipt["seconds_taken"])
    if first_seconds is not None:
        line += said(", the first of it after {0:.1f} s", first_seconds)
    if search := speech.receipt.get("search"):
        early = search.get("stopped_early")
        line += said(" · the best until it was stopped") if early else said(" · of {0} candidates", search["n"])
    line += said(" · seed {0}", speech.seed)
    if speech.complete:
        return line + said(" · complete")
    if speech.receipt["sampling"]["temperature"] == 0:
        told = said(
            "⚠️ **Not complete:** the model did not end it by itself. Raise the temperature: at 0 all seeds agree."
        )
    else:
        told = said("⚠️ **Not complete:** the model did not end it by itself. Try another seed.")
    return f"{line}\n\n{told}"


def example_clips() -> dict[str, str]:
    """Names of the built-in voices that have sound -> what to show for them."""
    return {
        name: f"{name}: {voice.description}" if voice.description else name
        for name, voice in builtin_voices().items()
        if voice.wav is not None
    }
