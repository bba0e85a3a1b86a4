"""What to say and in whose voice: the inputs that Speak and Search share, with an estimate of the seconds to wait."""

from __future__ import annotations

import json
from typing import NamedTuple

import gradio as gr

from llasa_lite import builtin_voices

from . import clips, gallery, zerogpu
from .common import ANY_VOICE, MAX_CHARS, OWN_CLIP
from .models import WARM_UP, Models
from .words import SAID, t

# A take more takes a quarter of the time of one, since takes share their passes: of nano's on two cores, chosen by its
# own likelihood, 4 took 1.8 times as long as one, 8 2.8, 32 8.9 (results/search.csv).
A_TAKE_MORE = 0.25
FIRST_VOICE = "michael"  # of ten sentences by each of seven voices, the one with the fewest words wrong
EXAMPLES = [
    "Hello there. It is good to hear from you again.",
    "The rain had stopped.",
    "Could you read that back to me?",
]
COUNT = (
    f"(text, pace, model, ...asked) => {{{SAID}"
    + f"const work = takes => 1 + {A_TAKE_MORE} * (takes - 1);"
    + """
    const n = [...text].length, shown = `${n.toLocaleString('en')} / ${(MOST).toLocaleString('en')}`;
    if (n > MOST) return `<span class="over">${shown}</span>`;
    const wait = n * pace * work(TIMES);
    const gpu = BORROWED.includes(model) ? said(' · asks for {0} s of GPU', GPU_SECONDS) : '';
    return `${shown} · ~ ${wait < 10 ? wait.toFixed(1) : Math.round(wait)} s${gpu}`;
}"""
)


class Asked(NamedTuple):
    text: gr.Textbox
    voice: gr.HTML
    clip: gr.Audio
    transcript: gr.Textbox
    counter: gr.HTML


def first_voice() -> str:
    return FIRST_VOICE if FIRST_VOICE in builtin_voices() else ANY_VOICE


def layout(models: Models, model: gr.Radio, tab: str) -> Asked:
    text = gr.Textbox(
        EXAMPLES[0],
        label=t("Text"),
        lines=3,
        max_lines=12,
        placeholder=t("What to say"),
        elem_id=f"{tab}-text",
    )
    counter = gr.HTML("", label="Characters and seconds to wait", elem_id=f"{tab}-counter", elem_classes="counter")
    gr.Examples(EXAMPLES, text, label=t("Examples"), elem_id=f"{tab}-examples", api_visibility="private")
    voice = gallery.layout(first_voice(), t("Voice"), f"{tab}-voice")
    with gr.Column(visible=False) as own:
        own_clip = clips.layout(models, model, tab)
    voice.input(
        lambda name: gr.Column(visible=name == OWN_CLIP),
        voice,
        own,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return Asked(text, voice, own_clip.audio, own_clip.transcript, counter)


def estimate(
    page: gr.Blocks,
    models: Models,
    model: gr.Radio,
    asked: Asked,
    pace: gr.Number,
    most: int = MAX_CHARS,
    times: str = "1",
    more: list = (),
) -> None:
    """Keep characters, seconds to wait, and those of a GPU that is lent beside the text.

    Args:
        most: characters that are allowed.
        times: how many takes are asked for: JavaScript on `asked`, the values of `more`.
    """
    told = {"GPU_SECONDS": zerogpu.GPU_SECONDS_JS, "BORROWED": json.dumps(models.borrowed)}
    script = COUNT
    for name, value in (told | {"MOST": str(most), "TIMES": f"({times})"}).items():
        script = script.replace(name, value)
    changed = [component.change for component in (asked.text, pace, model, *more)]
    gr.on([page.load, *changed], None, [asked.text, pace, model, *more], asked.counter, js=script)


def pace_of(seconds: float, text: str, takes: int = 1):
    """Seconds of work a character of one take, for what the page announces; nothing new of a word or two, where what
    every call costs would pass for pace."""
    return seconds / (1 + A_TAKE_MORE * (takes - 1)) / len(text) if len(text) >= len(WARM_UP) else gr.skip()
