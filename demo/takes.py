"""Recordings beside each other: a row each with a play button, its wave and its figures; the best one marked.

The rows refer to files of Gradio's cache, which the page's own cleaning deletes.
"""

from __future__ import annotations

import gradio as gr
import numpy as np

from llasa_lite import Speech, audio

from . import drawing
from .common import new_folder, to_wave
from .words import component, t

BARS = 48


def layout(empty: str, elem_id: str) -> gr.HTML:
    """
    Args:
        empty: what stands there before there are any.
    """
    return component(
        __file__,
        '<div class="takes" data-empty="${label}"></div>',
        label=t(empty),
        elem_id=elem_id,
        elem_classes="flat",
    )


def row(takes: gr.HTML, heard: Speech | np.ndarray, title: str, note: str = "", cells: list[str] = ()) -> dict:
    """A row for a speech or a wave, which is written to the cache and deleted with the other files of `takes`."""
    if isinstance(heard, Speech):
        wav, path = heard.wav, to_wave(heard)
    else:
        wav, path = heard, str(audio.save(heard, new_folder() / "speech.wav"))
    takes.temp_files.add(path)
    shown = {"title": title, "note": note, "cells": list(cells)}
    return shown | {"path": path, "peaks": drawing.peaks(wav, BARS), "seconds": len(wav) / audio.SAMPLE_RATE}


def table(columns: list[str], rows: list[dict]) -> dict:
    """Value: rows as `row` makes them, `columns` naming their cells; a row with "best" is marked."""
    return {"columns": columns, "rows": rows}
