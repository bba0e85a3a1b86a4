"""Continue: a clip and what comes next in; the answer in the clip's voice out, alone and after the clip."""

from __future__ import annotations

from functools import partial

import gradio as gr
import numpy as np

from . import clips, results, settings
from .common import BUSY, Models, plain_errors, sampling_of, seed_of, text_of, to_player


def layout(models: Models, model: gr.Radio) -> settings.Settings:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            start = clips.layout(models, model, "continue", with_examples=True)
            text = gr.Textbox(
                "", label="What comes next", lines=2, placeholder="and then he said no.", elem_id="continue-text"
            )
            tuned = settings.layout(models.get(models.first).sampling, "continue")
        with gr.Column(scale=5, min_width=300):
            go = gr.Button("Continue", variant="primary", elem_id="continue-button")
            whole = gr.Audio(label="Clip and answer", interactive=False, buttons=["download"], elem_id="continue-whole")
            shown = results.layout("continue", "The answer alone")

    event = go.click(
        partial(continue_clip, models),
        [model, start.audio, start.transcript, text, *tuned],
        [whole, *shown, tuned.seed],
        concurrency_id=BUSY,
        show_progress_on=[whole, shown.audio],
        api_name="continue",
    )
    results.open_downloads(event, shown)
    return tuned


def continue_clip(models: Models, model, clip, transcript, text, random_seed, seed, temperature, top_p):
    """Go on from a clip: clip and answer, the answer, a line about it, files of wave and receipt, the seed used."""
    with plain_errors():
        text, seed = text_of(text), seed_of(random_seed, seed)
        llasa = models.get(model)
        voice = clips.voice_of(llasa, clip, transcript)
        speech = llasa.continue_speech(voice, text, seed=seed, sampling=sampling_of(llasa, temperature, top_p))
        whole = np.concatenate([voice.wav, speech.wav])
        return to_player(whole), *results.to_results(speech), speech.seed
