"""Transcribe: a clip in, its words out, read by the same model that speaks, and how sure it is of each."""

from __future__ import annotations

import html
from functools import partial

import gradio as gr

from llasa_lite import Transcript

from . import examples
from .common import BUSY, SAMPLE_RATE, plain_errors, wav_of
from .models import Models
from .words import lasting, said, t, translated


def layout(models: Models, model: gr.Radio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            clip = gr.Audio(
                type="filepath",
                sources=["upload", "microphone"],
                label=t("Clip"),
                buttons=[],
                elem_id="transcribe-clip",
            )
            example = examples.layout("transcribe")
            if example is not None:
                examples.wire(example, clip)
            go = gr.Button(t("Transcribe"), variant="primary", elem_id="transcribe-button")
        with gr.Column(scale=5, min_width=300):
            text = gr.Textbox(label=t("What was heard"), lines=3, elem_id="transcribe-text")
            words = gr.HTML(
                "",
                label="How sure of each word",
                apply_default_css=False,
                elem_id="transcribe-words",
                elem_classes="flat",
            )
            before = t("Upload or record a clip, then press Transcribe.")
            summary = gr.Markdown(
                before,
                label="Summary",
                elem_id="transcribe-summary",
                elem_classes="note",
            )

    clip.change(  # the words of one clip are not shown beside another
        lambda: ("", "", before),
        None,
        [text, words, summary],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    go.click(
        partial(show, models),
        [model, clip],
        [text, words, summary],
        concurrency_id=BUSY,
        show_progress_on=text,
        api_visibility="private",
    )


def transcribe(models: Models, model: str, clip: str | None) -> Transcript:
    """Speech to text. Raises gr.Error in plain words."""
    with plain_errors():
        return models.get(model).transcribe((SAMPLE_RATE, wav_of(clip)))


def show(models: Models, model: str, clip: str | None) -> tuple[str, str, str]:
    heard = transcribe(models, model, clip)
    summary = said(
        "**{0:.1f} s** of speech · mean probability of the model's own letters or word parts **{1:.2f}**; the fainter "
        "the bar, the less sure it is of the word.",
        heard.seconds,
        heard.probability,
    )
    note = translated(models.choices[model].note)
    if note:
        summary += f"\n\n{html.escape(note)}"
    if not heard.complete:
        summary += "\n\n" + said("⚠️ **Not complete:** cut off before the model ended the text.")
    return heard.text, to_words(heard.words), lasting(summary)


def to_words(words: list[tuple[str, float]]) -> str:
    """Each word over a bar as strong as the model is sure of it."""
    shown = "".join(
        f'<li style="--sure: {sure:.2f}">{html.escape(word)}<small>{100 * sure:.0f} %</small></li>'
        for word, sure in words
    )
    return f'<ol class="words" aria-label="{said("Words with their probability")}">{shown}</ol>' if words else ""
