"""A clip of the visitor's own and what is said in it: checked on arrival, heard through the codec, transcribed."""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import gradio as gr
import numpy as np

from llasa_lite import Voice, audio

from . import examples, picture
from .common import BUSY, SAMPLE_RATE, plain_errors, sentence_of, to_player, wav_of
from .models import Models
from .words import said, t, translated

BEST_SECONDS = (3.0, 6.0)  # of a voice prompt
MAX_CLIPPED = 1e-3  # share of samples
MAX_SILENT = 0.4  # share of frames
MIN_PEAK_DB = -30.0


class Clip(NamedTuple):
    audio: gr.Audio
    transcript: gr.Textbox
    recognised: gr.State  # what was last filled in, to tell it from what the visitor typed
    report: gr.Markdown
    trip: gr.Audio


def layout(models: Models, model: gr.Radio, tab: str, with_examples: bool = False) -> Clip:
    """A clip and, once it is there, what is wrong or right with it; its text open to correction.

    The clip is handed on as a file: Gradio itself reads little but wav without ffmpeg, and the library
    checks the length of a file before it is decoded.
    """
    sound = gr.Audio(
        type="filepath",
        sources=["upload", "microphone"],
        editable=False,  # cut alone, it would no longer say its transcript
        label=t("Clip: 3 to 6 s are best"),
        buttons=[],
        elem_id=f"{tab}-clip",
    )
    example = examples.layout(tab) if with_examples else None
    report = gr.Markdown("", label="Prompt check", elem_id=f"{tab}-check", elem_classes="check", visible=False)
    trip = picture.plain_player(
        label=t("As the model hears it: through the codec and back"), visible=False, buttons=[], elem_id=f"{tab}-trip"
    )
    transcript = gr.Textbox(
        "",
        label=t("What is said in the clip"),
        info=t("Word for word; filled in where the model can transcribe. Correct it if need be."),
        lines=2,
        elem_id=f"{tab}-transcript",
    )
    again = gr.Button(t("Recognise the words"), size="sm", elem_id=f"{tab}-recognise")
    gr.Markdown(t("consent"), elem_id=f"{tab}-consent", elem_classes=["note", "warning"])

    clip, guess = Clip(sound, transcript, gr.State(""), report, trip), gr.State()
    private = {"api_visibility": "private"}
    hidden = {"concurrency_id": BUSY, "show_progress_on": transcript, **private}
    filled = [transcript, clip.recognised, report]
    arrived = [sound.upload, sound.stop_recording]
    come = gr.on(
        arrived, partial(receive, models), [model, sound, transcript, clip.recognised], [report, trip, guess], **hidden
    )
    heard = [
        come,
        # the text is asked for again: the visitor may have typed while the clip was listened to
        come.success(fill, [transcript, clip.recognised, guess], filled, show_progress="hidden", **private),
        again.click(partial(recognise_again, models), [model, sound], [transcript, clip.recognised], **hidden),
    ]
    if example is not None:
        chosen = examples.wire(example, sound, transcript, clip.recognised)
        heard.append(chosen.then(partial(look, models), [model, sound], [report, trip], **hidden))
    # with the clip goes all that is still to be told of it
    gone = [*filled, trip]
    sound.clear(cleared, [transcript, clip.recognised], gone, queue=False, cancels=heard, **private)
    return clip


def receive(models: Models, model: str, clip: str | None, transcript: str, recognised: str) -> Iterator[tuple]:
    """Check a clip that has just come, say so, and guess its words, unless the visitor typed them; for `fill`."""
    report, trip = look(models, model, clip)
    yield dict(report), dict(trip), None  # Gradio takes them apart
    if trip["value"] is None:  # the report says why
        return
    with plain_errors():
        llasa, guess = models.get(model), ("", report)
        if typed(transcript, recognised):
            pass  # `fill` says that it is kept
        elif not llasa.checkpoint.can_transcribe:
            gr.Info(
                said("{0} cannot transcribe: type what is said in the clip.", html.escape(model)),
                title=translated("Info"),
            )
        else:
            heard = llasa.transcribe((SAMPLE_RATE, wav_of(clip)))
            told = said(
                "The text below is a guess: mean probability {0:.2f}. Correct it word for word.", heard.probability
            )
            guess = heard.text, report | {"value": f"{report['value']}\n- ✎ {told}"}
        yield gr.skip(), gr.skip(), guess


def fill(transcript: str, recognised: str, guess: tuple[str, dict] | None) -> tuple:
    """What was guessed by `receive` as the transcript, and what is told of it; what the visitor typed is kept."""
    if guess is None:
        return (gr.skip(),) * 3
    if typed(transcript, recognised):
        gr.Info(said("The text you typed is kept; check that it is what the new clip says."), title=translated("Info"))
        return (gr.skip(),) * 3
    return guess[0], *guess


def typed(transcript: str, recognised: str) -> bool:
    """Whether the visitor wrote it, not we."""
    return transcript.strip() not in ("", recognised)


def cleared(transcript: str, recognised: str) -> tuple:
    """A clip was taken away, and with it what was recognised in it; what the visitor typed is kept."""
    kept = gr.skip() if transcript != recognised else ""
    return kept, "", gr.Markdown(visible=False), gr.Audio(None, visible=False)


def look(models: Models, model: str, clip: str | None) -> tuple[dict, dict]:
    """A report on a clip and its way through the codec and back; a clip that cannot serve is told, not raised."""
    try:
        wav = wav_of(clip)
        llasa = models.get(model)
        trip = llasa.codec.resynthesize(Voice.from_audio((SAMPLE_RATE, wav)).wav)
        note = translated(llasa.checkpoint.note)
        told = [*checked(wav), *([f"ⓘ {model}: {note}"] if note else [])]
        report = "\n".join(f"- {line}" for line in told)
    except ValueError as error:
        told = translated(sentence_of(error))
        return gr.update(value=f"- ✗ {told}", visible=True), gr.update(value=None, visible=False)
    return gr.update(value=report, visible=True), gr.update(value=to_player(trip), visible=True)


def checked(wav: np.ndarray) -> list[str]:
    """What a look at the wave tells about it as a voice prompt, one line each; ✓ is good, ⚠ may be better."""
    level = audio.level(wav)
    low, high = BEST_SECONDS
    lines = [
        (
            low <= level.seconds <= high,
            said("Length {0:.1f} s", level.seconds),
            said("{0:g} to {1:g} s are best", low, high),
        ),
        (level.clipped <= MAX_CLIPPED, said("Clipping {0:.1f} %", 100 * level.clipped), said("record it quieter")),
        (level.peak_db >= MIN_PEAK_DB, said("Peak {0:.0f} dB", level.peak_db), said("record it closer or louder")),
        (
            level.silent <= MAX_SILENT,
            said("Silence {0:.0f} %", 100 * level.silent),
            said("what is at both ends is cut"),
        ),
    ]
    return [f"✓ {fact}" if good else f"⚠ {fact}: {advice}" for good, fact, advice in lines]


def recognise_again(models: Models, model: str, clip: str | None) -> tuple[str, str]:
    """All that is said in the clip; the words of a prepared voice are those of a long clip's beginning."""
    with plain_errors():
        llasa = models.get(model)
        if not llasa.checkpoint.can_transcribe:
            raise ValueError(said("{0} cannot transcribe: type what is said in the clip.", model))
        heard = llasa.transcribe(Voice.from_audio((SAMPLE_RATE, wav_of(clip))))
        return heard.text, heard.text
