"""Speak: text and a voice in; speech out, whole or while it is made."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial

import gradio as gr

from llasa_lite import Speech, Stopped

from . import asking, player, results, settings, takes
from .common import BUSY, OWN_CLIP, asked_voice, flag_of, plain_errors, sampling_of, seed_of, stops, text_of
from .models import Models
from .searching import LIKELIHOOD, MAX_SEARCH_CHARS
from .words import said, t

KEPT = 6  # results of a visitor that stay beside each other
# After a clip of one's own the likeliest of so many takes is kept, where the model can listen to itself: cloned from
# 29 people they had a third fewer wrong words than one take each (nano's card).
OWN_TAKES = 4
# Gradio's autoplay cannot be turned off again for a stream, which was heard already.
PLAY = """() => {
    let tries = 20;
    const press = () => {
        const sound = document.querySelector('#speak-audio audio');
        if (sound) sound.play().catch(() => {}); else if (tries--) setTimeout(press, 100);
    };
    setTimeout(press, 300);
}"""


def layout(models: Models, page: gr.Blocks, model: gr.Radio, pace: gr.Number) -> settings.Settings:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            asked = asking.layout(models, model, "speak")
            with gr.Row(elem_classes="actions"):
                say = gr.Button(t("Speak"), variant="primary", min_width=80, elem_id="speak-button")
                live = gr.Button(t("Stream"), min_width=80, elem_id="stream-button")
                stop = gr.Button(t("Stop"), min_width=80, elem_id="stop-button")
            tuned = settings.layout(models.get(models.first).sampling, "speak")
        with gr.Column(scale=5, min_width=300):
            stream = player.stream_player(
                "stream-button", ["stop-button", "speak-button"], elem_id="speak-stream", elem_classes="flat"
            )
            shown = results.layout("speak", "Speech", "Press Speak: what is said appears here, with its tokens.")
    gr.Markdown(t("## Your last results"), elem_classes="section")
    last = takes.layout(
        "Nothing to compare yet. The last results of this visit will stand here beside each other.", "speak-takes"
    )
    kept = gr.State([])

    listens = json.dumps([name for name, checkpoint in models.choices.items() if checkpoint.can_transcribe])
    several = f"asked[0] === '{OWN_CLIP}' && asked[1] && {listens}.includes(model) && n <= {MAX_SEARCH_CHARS}"
    times = f"{several} ? {OWN_TAKES} : 1"  # as `speak` has it
    asking.estimate(page, models, model, asked, pace, times=times, more=[asked.voice, tuned.temperature])
    inputs = [model, *asked[:4], *tuned]
    outputs = [*shown, tuned.seed, pace, last, kept]
    busy = {"concurrency_id": BUSY, "show_progress_on": shown.audio, "api_visibility": "private"}

    def show_to(request: gr.Request, *asked):  # Gradio sees no request in a partial
        return show(models, last, request.session_hash, *asked)

    spoken = say.click(show_to, [kept, *inputs], outputs, **busy)
    streamed = live.click(partial(stream_speech, models, last), [kept, *inputs], [stream, *outputs], **busy)
    spoken.success(None, js=PLAY)
    streamed.failure(None, None, stream, js="() => null")
    # The page is free at once; whole speech, which Gradio cannot break off inside, is given up by its flag.
    stops(stop, "speak", [spoken, streamed])
    return tuned


def speak(models: Models, model, text, voice, clip, transcript, random_seed, seed, *tuned, stop=None) -> Speech:
    """Text to speech, whole; after a clip of one's own the likeliest of several takes (`OWN_TAKES`). Raises gr.Error in
    plain words, and Stopped."""
    with plain_errors():
        text, seed = text_of(text), seed_of(random_seed, seed)
        llasa = models.get(model)
        sampling = sampling_of(llasa, *tuned)
        asked = asked_voice(llasa, voice, clip, transcript)
        if (
            voice != OWN_CLIP
            or not llasa.checkpoint.can_transcribe
            or len(text) > MAX_SEARCH_CHARS
            or sampling.temperature == 0  # all takes would be the same
        ):
            return llasa.tts(text, asked, seed, sampling, stop=stop)
        found = llasa.search_events(
            text, asked, n=OWN_TAKES, outcome=LIKELIHOOD, seed=seed, sampling=sampling, stop=stop
        )
        for _ in found:
            pass
        if stop and stop():
            raise Stopped("The speech was stopped before it was whole.")
        return found.result.best


def show(models: Models, last: gr.HTML, session: str | None, kept: list[dict], model, *asked):
    """What the page shows of `speak`: results, the seed, this machine's pace, and the visitor's last results. One
    answer, no generator: at the first of several Gradio takes away the seconds that it counts for who waits."""
    with flag_of(session, "speak") as flag, suppress(Stopped):
        speech = speak(models, model, *asked, stop=flag.is_set)
        return *results.to_results(models.codec_of(model, speech), speech), *remember(last, kept, speech)
    return (gr.skip(),) * 9


def stream_speech(models: Models, last: gr.HTML, kept, model, text, voice, clip, transcript, random_seed, seed, *tuned):
    """Text to speech while it is made: chunks for the page's player; at the end all that `show` returns."""
    with plain_errors():
        text, seed = text_of(text), seed_of(random_seed, seed)
        live = player.opened()
        yield live, *[gr.skip()] * 9
        llasa = models.get(model)
        sampling = sampling_of(llasa, *tuned)
        waves = llasa.stream(text, asked_voice(llasa, voice, clip, transcript), seed, sampling)
        began, first = time.perf_counter(), None  # as the speech's own seconds: a clip has been listened to before
        while True:
            try:
                wav = next(waves)
            except StopIteration as end:
                speech = end.value
                break
            before = [gr.skip()] * 5 if first else results.nothing()  # what is refused leaves the page as it was
            first = first or time.perf_counter() - began
            live = player.grown(live, wav)
            yield live, *before, *[gr.skip()] * 4
        shown = results.to_results(models.codec_of(model, speech), speech, first)
        yield player.ended(live), *shown, *remember(last, kept, speech)


def remember(last: gr.HTML, kept: list[dict], speech: Speech) -> tuple:
    """The seed, seconds of work a character, the visitor's last results with one more, newest first, and to keep."""
    told = speech.receipt
    text = told["text"] if len(told["text"]) <= 60 else told["text"][:57] + "..."
    voice = said("My clip") if told["voice"] == OWN_CLIP else told["voice"] or said("No voice")
    note = " · ".join([voice, told["model"], *([] if speech.complete else [said("not complete")])])
    kept = [takes.row(last, speech, text, note, [str(speech.seed)]), *kept][:KEPT]
    pace = asking.pace_of(told["seconds_taken"], told["text"], told.get("search", {}).get("n", 1))
    return speech.seed, pace, takes.table(["Seed"], kept), kept
