"""Built-in voices as clips to try a tab with; shows nothing where none ship."""

from __future__ import annotations

import gradio as gr

from llasa_lite import Voice

from .common import example_clips, plain_errors, to_player
from .words import t


def layout(tab: str) -> gr.Dropdown | None:
    names = example_clips()
    if not names:
        return None
    return gr.Dropdown(
        [(label, name) for name, label in names.items()],
        value=None,
        label=t("Or the clip of a built-in voice"),
        filterable=False,
        elem_id=f"{tab}-example",
    )


def wire(chosen: gr.Dropdown, audio: gr.Audio, *texts: gr.components.Component):
    """A choice fills in the clip, and what is said in it wherever `texts` are given; the event."""

    def fill(name: str):
        with plain_errors():
            voice = Voice.builtin(name)
        return [to_player(voice.wav), *[voice.text] * len(texts)] if texts else to_player(voice.wav)

    return chosen.input(fill, chosen, [audio, *texts], queue=False, show_progress="hidden", api_visibility="private")
