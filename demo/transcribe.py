"""Transcribe: a clip in, its words out, read by the same model that speaks."""

from __future__ import annotations

from functools import partial

import gradio as gr

from . import examples
from .common import BUSY, Models, plain_errors


def layout(models: Models, model: gr.Radio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            clip = gr.Audio(
                type="filepath",
                sources=["upload", "microphone"],
                label="Clip",
                buttons=[],
                elem_id="transcribe-clip",
            )
            examples.wire(examples.layout("transcribe"), clip)
        with gr.Column(scale=5, min_width=300):
            go = gr.Button("Transcribe", variant="primary", elem_id="transcribe-button")
            text = gr.Textbox(label="What was heard", lines=4, buttons=["copy"], elem_id="transcribe-text")
            # a number for the API; the page shows it in the summary
            probability = gr.Number(label="Probability", visible="hidden", elem_id="transcribe-probability")
            summary = gr.Markdown("Nothing yet.", label="Summary", elem_id="transcribe-summary", elem_classes="note")

    go.click(
        partial(transcribe, models),
        [model, clip],
        [text, probability, summary],
        concurrency_id=BUSY,
        show_progress_on=text,
        api_name="transcribe",
    )


def transcribe(models: Models, model: str, clip: str | None) -> tuple[str, float, str]:
    """Speech to text: the text, its mean probability, a line about it."""
    with plain_errors():
        if not clip:
            raise ValueError("There is no clip yet: upload one or record it.")
        heard = models.get(model).transcribe(clip)
        summary = f"**{heard.seconds:.1f} s** of speech"
        summary += f" · mean probability of the model's own tokens {heard.probability:.2f}"
        if not heard.complete:
            summary += "\n\n⚠️ **Not complete:** cut off before the model ended the text."
        return heard.text, round(heard.probability, 4), summary
