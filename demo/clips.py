"""A clip and what is said in it: the input that Speak and Continue share."""

from __future__ import annotations

import html
from functools import partial
from typing import NamedTuple

import gradio as gr

from llasa_lite import Llasa, Voice

from . import examples
from .common import BUSY, CONSENT, Models, plain_errors


class Clip(NamedTuple):
    audio: gr.Audio
    transcript: gr.Textbox
    recognised: gr.State  # what was last filled in, to tell it from what the visitor typed


def layout(models: Models, model: gr.Radio, tab: str, with_examples: bool = False) -> Clip:
    """A clip that is transcribed on arrival where the model can, the text open to correction.

    The clip is handed on as a file: Gradio itself reads little but wav without ffmpeg, and the library
    checks the length of a file before it is decoded.
    """
    audio = gr.Audio(
        type="filepath",
        sources=["upload", "microphone"],
        label="Clip: 3 to 8 s are best",
        buttons=[],
        elem_id=f"{tab}-clip",
    )
    example = examples.layout(tab) if with_examples else None
    transcript = gr.Textbox(
        "",
        label="What is said in the clip",
        info="Word for word; filled in where the model can transcribe. Correct it if need be.",
        lines=2,
        elem_id=f"{tab}-transcript",
    )
    again = gr.Button("Recognise the words", size="sm", elem_id=f"{tab}-recognise")
    gr.Markdown(CONSENT, elem_id=f"{tab}-consent", elem_classes=["note", "warning"])

    recognised = gr.State("")
    examples.wire(example, audio, transcript, recognised)
    hidden = {"concurrency_id": BUSY, "show_progress_on": transcript, "api_visibility": "private"}
    gr.on(
        [audio.upload, audio.stop_recording],
        partial(fill_in, models),
        [model, audio, transcript, recognised],
        [transcript, recognised],
        **hidden,
    )
    again.click(partial(recognise_again, models), [model, audio], [transcript, recognised], **hidden)
    return Clip(audio, transcript, recognised)


def fill_in(models: Models, model: str, clip: str | None, transcript: str, recognised: str) -> tuple[str, str]:
    """Transcribe a clip that has just come; what the visitor typed is kept."""
    if transcript.strip() not in ("", recognised):
        gr.Info("The text you typed is kept; check that it is what the new clip says.")
        return transcript, recognised
    with plain_errors():
        llasa = models.get(model)
        if not llasa.checkpoint.can_transcribe:
            gr.Info(f"{html.escape(model)} cannot transcribe: type what is said in the clip.")
            return "", ""
        text = voice_of(llasa, clip).text
        return text, text


def recognise_again(models: Models, model: str, clip: str | None) -> tuple[str, str]:
    with plain_errors():
        text = voice_of(models.get(model), clip).text
        return text, text


def voice_of(llasa: Llasa, clip: str | None, transcript: str | None = None) -> Voice:
    """A voice of the clip, ready to speak. Raises ValueError without clip, or as `Voice.from_audio` and `prepare`."""
    if not clip:
        raise ValueError("There is no clip yet: upload one or record it.")
    return llasa.prepare(Voice.from_audio(clip, transcript, name="my clip"))
