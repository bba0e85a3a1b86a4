"""What Speak and Continue show of a speech: a player, a line about it, wave and receipt to download."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from llasa_lite import Speech

from .common import to_files, to_player, to_summary


class Results(NamedTuple):
    audio: gr.Audio
    summary: gr.Markdown
    wave: gr.DownloadButton
    receipt: gr.DownloadButton


def layout(tab: str, label: str) -> Results:
    audio = gr.Audio(label=label, interactive=False, buttons=[], elem_id=f"{tab}-audio")
    summary = gr.Markdown("Nothing yet.", label="Summary", elem_id=f"{tab}-summary", elem_classes="note")
    with gr.Row():
        wave = _download("Wave", f"{tab}-wave")
        receipt = _download("Receipt", f"{tab}-receipt")
    return Results(audio, summary, wave, receipt)


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(f"Download {label.lower()}", size="sm", interactive=False, min_width=120, elem_id=name)


def to_results(speech: Speech, first_seconds: float | None = None) -> tuple:
    """Values for the components of `Results`, in their order."""
    return to_player(speech.wav), to_summary(speech, first_seconds), *to_files(speech)


def open_downloads(event, results: Results) -> None:
    """The buttons can be pressed once there is something to download."""
    event.success(
        lambda: [gr.DownloadButton(interactive=True)] * 2,
        None,
        [results.wave, results.receipt],
        queue=False,
        api_visibility="private",
    )
