"""Plays waves in the browser while they are made; knows nothing of speech or models.

Gradio's own streaming player needs ffmpeg on the server and a codec in the browser; this one needs neither. Its value
is `{"run": name, "chunks": [16-bit samples in base64, ...], "ended": whether none will come}`, where chunks only
grow, so that Gradio sends the new one alone and a chunk that the page did not draw in time is still played.
"""

from __future__ import annotations

import base64
import secrets

import gradio as gr
import numpy as np

from llasa_lite import audio

from .common import SAMPLE_RATE
from .words import component

TEMPLATE = '<div class="live" hidden><span class="dot"></span><span class="words"></span></div>'


def stream_player(starter: str, stoppers: list[str], **more) -> gr.HTML:
    """
    Args:
        starter: element id of the button that starts a stream.
        stoppers: element ids of the buttons that silence it.
    """
    return component(
        __file__,
        TEMPLATE,
        label="Stream",
        rate=SAMPLE_RATE,
        starter=starter,
        stoppers=stoppers,
        **more,
    )


def opened() -> dict:
    """The value of a stream that has yet to sound."""
    return {"run": secrets.token_hex(8), "chunks": [], "ended": False}


def grown(live: dict, wav: np.ndarray) -> dict:
    """The value with one wave more; a copy, since Gradio compares it with the one before."""
    return live | {"chunks": [*live["chunks"], base64.b64encode(audio.to_int16(wav).tobytes()).decode()]}


def ended(live: dict) -> dict:
    """The value when no more will come."""
    return live | {"ended": True}
