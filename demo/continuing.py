"""Continue: a clip and what comes next in; the answer in the clip's voice out, after the clip and alone."""

from __future__ import annotations

from contextlib import suppress

import gradio as gr
import numpy as np

from llasa_lite import Speech, Stopped

from . import clips, picture, results, settings
from .common import BUSY, flag_of, own_voice, plain_errors, sampling_of, seed_of, stops, text_of, to_wave
from .models import Models
from .words import t


def layout(models: Models, model: gr.Radio) -> settings.Settings:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            start = clips.layout(models, model, "continue", with_examples=True)
            text = gr.Textbox(
                "", label=t("What comes next"), lines=2, placeholder="and then he said no.", elem_id="continue-text"
            )
            with gr.Row(elem_classes="actions"):
                go = gr.Button(t("Continue"), variant="primary", min_width=80, elem_id="continue-button")
                stop = gr.Button(t("Stop"), min_width=80, elem_id="continue-stop")
            tuned = settings.layout(models.get(models.first).sampling, "continue")
        with gr.Column(scale=5, min_width=300):
            shown = results.layout(
                "continue",
                "Clip and answer",
                "Give a clip and what comes next, then press Continue. A dashed line will show where the clip ends.",
            )

    def show_to(request: gr.Request, *asked):  # Gradio sees no request in a partial
        return show(models, request.session_hash, *asked)

    continued = go.click(
        show_to,
        [model, start.audio, start.transcript, text, *tuned],
        [*shown, tuned.seed],
        concurrency_id=BUSY,
        show_progress_on=shown.audio,
        api_visibility="private",
    )
    stops(stop, "continue", [continued])
    return tuned


def continue_clip(
    models: Models, model, clip, transcript, text, random_seed, seed, *tuned, stop=None
) -> tuple[np.ndarray, Speech]:
    """Go on from a clip: its wave, without the silence at both ends, and the answer. Raises gr.Error in plain words,
    and Stopped."""
    with plain_errors():
        text, seed = text_of(text), seed_of(random_seed, seed)
        llasa = models.get(model)
        own = own_voice(clip, transcript)
        voice = llasa.prepare(own)  # may be the beginning of the clip alone
        return own.wav, llasa.continue_speech(voice, text, seed=seed, sampling=sampling_of(llasa, *tuned), stop=stop)


def show(models: Models, session: str | None, model, *asked) -> tuple:
    """What the page shows of `continue_clip`: clip and answer in one, the files of the answer alone."""
    with flag_of(session, "continue") as flag, suppress(Stopped):
        before, speech = continue_clip(models, model, *asked, stop=flag.is_set)
        codec = models.codec_of(model, speech)
        _, _, *rest = results.to_results(codec, speech)
        drawn = picture.of_speech(codec, speech, before, speech.receipt["voice_codes"])
        return to_wave(speech, np.concatenate([before, speech.wav])), drawn, *rest, speech.seed
    return (gr.skip(),) * 6
