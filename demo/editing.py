"""Tokens: see and hear what the codec keeps of a clip; cut, repeat and swap its tokens and hear what that does."""

from __future__ import annotations

import math
from functools import partial

import gradio as gr

from llasa_lite import Codec, audio, builtin_voices

from . import examples, picture
from .common import BUSY, MAX_CODES, example_clips, plain_errors, to_player, wav_of
from .models import Models
from .words import said, t

MAX_UNDO = 20
NOTHING = {"codec": None, "a": [], "b": [], "past": []}  # a visitor's tokens


def layout(models: Models, tab: gr.Tab, model: gr.Radio) -> None:
    gr.Markdown(t("tokens"), elem_classes="note")
    with gr.Row(equal_height=False):
        first, player_a, picture_a = _clip("a", "Clip A: as its tokens say it")
        second, player_b, picture_b = _clip("b", "Clip B: as its tokens say it")
    with gr.Row(elem_classes="tools"):
        begin = gr.Number(0, label=t("From token"), precision=0, minimum=0, min_width=90, elem_id="tokens-begin")
        end = gr.Number(50, label=t("to, not included"), precision=0, minimum=0, min_width=90, elem_id="tokens-end")
        times = gr.Slider(2, 8, 2, step=1, label=t("Times"), min_width=160, elem_id="tokens-times")
    with gr.Row(elem_classes="actions"):
        buttons = {
            name: gr.Button(t(label), min_width=100, size="md", elem_id=f"tokens-{name}")
            for name, label in (
                ("cut", "Cut out of A"),
                ("repeat", "Repeat in A"),
                ("swap", "Swap A and B here"),
                ("undo", "Undo"),
            )
        }
    facts = gr.Markdown("", label="Facts", elem_id="tokens-facts", elem_classes="note")
    held = gr.State(NOTHING)

    shown = [held, player_a, picture_a, player_b, picture_b, facts]
    hidden = {"concurrency_id": BUSY, "api_visibility": "private", "show_progress_on": [player_a, player_b]}
    tab.select(partial(opened, models), [model, held], shown, **hidden)
    for which, (sound, example) in (("a", first), ("b", second)):
        take = partial(receive, models, which)
        gr.on([sound.upload, sound.stop_recording], take, [model, sound, held], shown, **hidden)
        if example is not None:
            examples.wire(example, sound).then(take, [model, sound, held], shown, **hidden)
    for name, button in buttons.items():
        button.click(partial(edit, models, name), [model, held, begin, end, times], shown, **hidden)
    for drawn in (picture_a, picture_b):
        drawn.pick(picked, None, [begin, end], queue=False, show_progress="hidden", api_visibility="private")


def _clip(which: str, label: str) -> tuple:
    with gr.Column(min_width=300):
        player = picture.plain_player(label=t(label), buttons=["download"], elem_id=f"tokens-audio-{which}")
        drawn = picture.layout(f"tokens-audio-{which}", f"tokens-picture-{which}", selectable=True)
        with gr.Accordion(t("Another clip"), open=False, elem_id=f"tokens-other-{which}"):
            sound = gr.Audio(
                type="filepath",
                sources=["upload", "microphone"],
                editable=False,
                label=t(f"Clip {which.upper()}"),
                buttons=[],
                elem_id=f"tokens-clip-{which}",
            )
            example = examples.layout(f"tokens-{which}")
    return (sound, example), player, drawn


def opened(models: Models, model: str, held: dict) -> tuple:
    """Something to play with on the first visit: the first two built-in voices."""
    names = list(example_clips())[:2]
    if held["a"] or held["b"] or len(names) < 2:
        return (gr.skip(),) * 6
    with plain_errors():
        codec = models.get(model).codec
        a, b = (codec.encode(builtin_voices()[name].wav)[:-1].tolist() for name in names)
        return to_shown(codec, NOTHING | {"codec": codec.name, "a": a, "b": b})


def receive(models: Models, which: str, model: str, clip: str | None, held: dict) -> tuple:
    """A new clip takes the place of one of the two; edits of the other stay."""
    with plain_errors():
        codec = models.get(model).codec
        codes = codec.encode(wav_of(clip)).tolist()
        if held["codec"] != codec.name:
            held = NOTHING | {"codec": codec.name}
        return to_shown(codec, held | {which: codes, "past": _past(held)})


def edit(models: Models, name: str, model: str, held: dict, begin, end, times) -> tuple:
    """Carry out one of the buttons on tokens begin .. end - 1."""
    with plain_errors():
        codec = models.get(model).codec
        if not held["a"]:
            raise ValueError(said("There is no clip A yet: upload one, record it or choose a built-in voice."))
        if held["codec"] != codec.name:
            raise ValueError(
                said("These tokens are of the codec '{0}', not of this model's. Load the clip again.", held["codec"])
            )
        if name == "undo":
            if not held["past"]:
                raise ValueError(said("There is nothing to undo."))
            *past, (a, b) = held["past"]
            return to_shown(codec, held | {"a": a, "b": b, "past": past})
        a, b = EDITS[name](held["a"], held["b"], *span_of(begin, end, len(held["a"])), int(times))
        if len(a) > MAX_CODES:
            raise ValueError(said("That would be {0:,} tokens; at most {1:,} are decoded here.", len(a), MAX_CODES))
        return to_shown(codec, held | {"a": a, "b": b, "past": _past(held)})


def span_of(begin, end, length: int) -> tuple[int, int]:
    """A range of tokens. Raises ValueError where it is none."""
    if begin is None or end is None or not 0 <= begin < end <= length:
        raise ValueError(
            said("Pick tokens of A: from 0 or more, to at most {0}, and the first before the last.", length)
        )
    return int(begin), int(end)


def cut(a: list[int], b: list[int], begin: int, end: int, times: int) -> tuple[list[int], list[int]]:
    if end - begin == len(a):
        raise ValueError(said("Nothing would be left of A. Pick fewer tokens."))
    return a[:begin] + a[end:], b


def repeat(a: list[int], b: list[int], begin: int, end: int, times: int) -> tuple[list[int], list[int]]:
    return a[:begin] + a[begin:end] * times + a[end:], b


def swap(a: list[int], b: list[int], begin: int, end: int, times: int) -> tuple[list[int], list[int]]:
    if len(b) < end:
        raise ValueError(
            said("Clip B has {0} tokens, so it has none up to {1} to give. Pick earlier ones.", len(b), end)
        )
    return a[:begin] + b[begin:end] + a[end:], b[:begin] + a[begin:end] + b[end:]


EDITS = {"cut": cut, "repeat": repeat, "swap": swap}


def picked(event: gr.EventData) -> tuple[int, int]:
    return event.begin, event.end


def to_shown(codec: Codec, held: dict) -> tuple:
    """The visitor's tokens and, of both clips, sound, picture and what they amount to."""
    drawn, both = [], [held["a"], held["b"]]
    for codes, wav in zip(both, codec.decode_batch(both)):
        drawn += [to_player(wav), picture.of_codes(codec, wav, codes)] if codes else [None, None]
    bits = audio.FRAME_RATE * math.log2(codec.codebook_size)
    plain = 16 * audio.SAMPLE_RATE
    facts = said(
        "A: {0} tokens, B: {1}. Each is one of {2:,}, shown as a column of its digits; {3} a second are {4:,.0f} "
        "bit/s, where the wave itself takes {5:,}.",
        *map(len, both),
        codec.codebook_size,
        audio.FRAME_RATE,
        bits,
        plain,
    )
    return held, *drawn, facts


def _past(held: dict) -> list[tuple]:
    return [*held["past"], (held["a"], held["b"])][-MAX_UNDO:]
