"""Speak: text and a voice in; speech out, whole or while it is made."""

from __future__ import annotations

import time
from functools import partial

import gradio as gr

from llasa_lite import Llasa, Voice, builtin_voices

from . import clips, player, results, settings
from .common import (
    BUSY,
    MAX_CHARS,
    Models,
    example_clips,
    plain_errors,
    sampling_of,
    seed_of,
    text_of,
    to_player,
    voice_labels,
)

ANY_VOICE, OWN_CLIP = "", "my clip"  # beside the names of built-in voices, which hold no spaces
FIRST_VOICE = "joe"  # the voice nano reads best in
EXAMPLES = [
    "Hello there. It is good to hear from you again.",
    "The rain had stopped, and the street was quiet.",
    "Could you read that back to me, a little slower?",
]
COUNT = f"""text => {{
    const n = [...text].length, shown = `${{n.toLocaleString('en')}} of {MAX_CHARS:,} characters`;
    return n > {MAX_CHARS} ? `<span class="over">${{shown}}: too long</span>` : shown;
}}"""

# Gradio's autoplay cannot be turned off again for a stream, which was heard already.
PLAY = """() => {
    let tries = 20;
    const press = () => {
        const button = document.querySelector('#speak-audio button[aria-label="Play"]');
        if (button) button.click(); else if (tries--) setTimeout(press, 100);
    };
    setTimeout(press, 300);
}"""


def layout(models: Models, model: gr.Radio) -> settings.Settings:
    first_voice = FIRST_VOICE if FIRST_VOICE in builtin_voices() else ANY_VOICE
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            text = gr.Textbox(
                EXAMPLES[0],
                label="Text",
                lines=4,
                max_lines=12,
                placeholder=f"What to say: up to {MAX_CHARS:,} characters",
                elem_id="speak-text",
            )
            counter = gr.HTML(f"{len(EXAMPLES[0])} of {MAX_CHARS:,} characters", elem_id="speak-counter")
            gr.Examples(EXAMPLES, text, label="Examples", elem_id="speak-examples", api_visibility="private")
            voice = gr.Dropdown(
                [(label, name) for name, label in voice_labels().items()]
                + [("No voice: let the model choose", ANY_VOICE), ("My own clip", OWN_CLIP)],
                value=first_voice,
                label="Voice",
                filterable=False,
                elem_id="speak-voice",
            )
            preview = gr.Audio(
                to_preview(first_voice),
                label="How this voice sounds",
                interactive=False,
                buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False),
                visible=first_voice in example_clips(),
                elem_id="speak-preview",
            )
            with gr.Column(visible=False) as own:
                own_clip = clips.layout(models, model, "speak")
            tuned = settings.layout(models.get(models.first).sampling, "speak")
        with gr.Column(scale=5, min_width=300):
            with gr.Row():
                say = gr.Button("Speak", variant="primary", min_width=80, elem_id="speak-button")
                live = gr.Button("Stream", min_width=80, elem_id="stream-button")
                stop = gr.Button("Stop", min_width=80, elem_id="stop-button")
            stream = player.stream_player("stream-button", ["stop-button", "speak-button"], elem_id="speak-stream")
            shown = results.layout("speak", "Speech")

    text.change(None, text, counter, js=COUNT)
    voice.change(show_voice, voice, [preview, own], queue=False, show_progress="hidden", api_visibility="private")
    inputs = [model, text, voice, own_clip.audio, own_clip.transcript, *tuned]
    outputs = [*shown, tuned.seed]
    busy = {"concurrency_id": BUSY, "show_progress_on": shown.audio}
    spoken = say.click(partial(speak, models), inputs, outputs, api_name="speak", **busy)
    streamed = live.click(partial(stream_speech, models), inputs, [stream, *outputs], api_name="stream", **busy)
    spoken.success(None, js=PLAY)
    for event in (spoken, streamed):
        results.open_downloads(event, shown)
    stop.click(None, cancels=[spoken, streamed])
    return tuned


def speak(models: Models, model, text, voice, clip, transcript, random_seed, seed, temperature, top_p):
    """Text to speech, whole: wave, a line about it, files of wave and receipt, the seed used."""
    with plain_errors():
        text, seed = text_of(text), seed_of(random_seed, seed)
        llasa = models.get(model)
        sampling = sampling_of(llasa, temperature, top_p)
        speech = llasa.tts(text, asked_voice(llasa, voice, clip, transcript), seed, sampling)
        return *results.to_results(speech), speech.seed


def stream_speech(models: Models, model, text, voice, clip, transcript, random_seed, seed, temperature, top_p):
    """Text to speech while it is made: chunks for the page's player; at the end all that `speak` returns."""
    with plain_errors():
        began, first = time.perf_counter(), None
        text, seed = text_of(text), seed_of(random_seed, seed)
        live = player.opened()
        yield live, *[gr.skip()] * 5
        llasa = models.get(model)
        sampling = sampling_of(llasa, temperature, top_p)
        waves = llasa.stream(text, asked_voice(llasa, voice, clip, transcript), seed, sampling)
        while True:
            try:
                wav = next(waves)
            except StopIteration as end:
                speech = end.value
                break
            first = first or time.perf_counter() - began
            live = player.grown(live, wav)
            yield live, *[gr.skip()] * 5
        yield live, *results.to_results(speech, first), speech.seed


def asked_voice(llasa: Llasa, voice: str, own_clip: str | None, transcript: str | None) -> str | Voice | None:
    if voice == OWN_CLIP:
        return clips.voice_of(llasa, own_clip, transcript)
    return voice or None


def show_voice(voice: str):
    """Preview of a built-in voice, or the fields for an own clip."""
    return gr.Audio(to_preview(voice), visible=voice in example_clips()), gr.Column(visible=voice == OWN_CLIP)


def to_preview(voice: str):
    return to_player(builtin_voices()[voice].wav) if voice in example_clips() else None
