"""What is shown of a speech: a player, its picture, a line about it, wave and receipt to download."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from llasa_lite import Codec, Speech

from . import picture
from .common import to_files, to_summary
from .words import lasting, t


class Results(NamedTuple):
    audio: gr.Audio
    picture: gr.HTML
    summary: gr.Markdown
    wave: gr.DownloadButton
    receipt: gr.DownloadButton


def layout(tab: str, label: str, empty: str) -> Results:
    """
    Args:
        tab: prefix of the element ids.
        label: of the player.
        empty: what to do to see something here.
    """
    audio = picture.plain_player(label=t(label), buttons=[], elem_id=f"{tab}-audio")
    drawn = picture.layout(f"{tab}-audio", f"{tab}-picture")
    summary = gr.Markdown(t(empty) if empty else "", label="Summary", elem_id=f"{tab}-summary", elem_classes="note")
    with gr.Row():
        wave = _download("Download wave", f"{tab}-wave")
        receipt = _download("Download receipt", f"{tab}-receipt")
    return Results(audio, drawn, summary, wave, receipt)


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(t(label), size="sm", interactive=False, min_width=120, elem_id=name)


def to_results(codec: Codec, speech: Speech, first_seconds: float | None = None) -> tuple:
    """Values for the components of `Results`, in their order."""
    drawn = picture.of_speech(codec, speech)
    wave, receipt = to_files(speech)
    files = [gr.DownloadButton(value=path, interactive=True) for path in (wave, receipt)]
    return wave, drawn, lasting(to_summary(speech, first_seconds)), *files


def nothing() -> tuple:
    """Values for the components of `Results` while a next speech is made: the one before is not taken for it."""
    return None, None, "", *[gr.DownloadButton(value=None, interactive=False)] * 2
