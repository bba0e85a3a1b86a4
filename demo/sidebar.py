"""The side bar: which model answers, and what one must know before choosing it."""

from __future__ import annotations

import html
from functools import partial
from typing import NamedTuple

import gradio as gr

from llasa_lite import Checkpoint

from .common import Models, plain_errors
from .settings import Settings

LICENCE_NOTE = """
The released weights are **CC BY-NC 4.0**: [non-commercial use only](https://creativecommons.org/licenses/by-nc/4.0/),
and that goes for what you make with them. They need a GPU and are fetched from the hub when first chosen.
"""


# On a phone the open bar covers the page, so it opens by itself on wide screens only.
OPEN_IF_WIDE = "() => { if (innerWidth > 1000) document.querySelector('#sidebar:not(.open) .toggle-button')?.click() }"


class Choice(NamedTuple):
    model: gr.Radio
    facts: gr.Markdown


def layout(models: Models) -> Choice:
    with gr.Sidebar(elem_id="sidebar", width=300, open=False):
        model = gr.Radio(
            [(_label(name, checkpoint), name) for name, checkpoint in models.choices.items()],
            value=models.first,
            label="Model",
            info="parameters · licence · GPU memory",
            elem_id="model",
        )
        facts = gr.Markdown(to_facts(models.choices[models.first]), elem_id="model-facts")
        gr.Markdown(LICENCE_NOTE, elem_id="licence-note", elem_classes=["note", "warning"])
    return Choice(model, facts)


def wire(models: Models, choice: Choice, settings: list[Settings]) -> None:
    """A choice loads the model and sets its own sampling in every tab that has some."""
    sliders = [slider for tab in settings for slider in (tab.temperature, tab.top_p)]
    choice.model.input(
        partial(choose, models, len(settings)),
        choice.model,
        [choice.model, choice.facts, *sliders],
        concurrency_id="load",
        show_progress_on=choice.facts,
        api_visibility="private",
    )


def choose(models: Models, tabs: int, name: str, progress=gr.Progress()):  # noqa: B008, where Gradio looks for it
    """Load a model; where that fails the choice goes back to the one the page opened with, and says why."""
    progress(0.1, f"Loading {name}")
    try:
        with plain_errors():
            llasa = models.get(name)
    except gr.Error as error:
        gr.Warning(error.message)
        name, llasa = models.first, models.get(models.first)
    return name, to_facts(llasa.checkpoint), *[llasa.sampling.temperature, llasa.sampling.top_p] * tabs


def to_facts(checkpoint: Checkpoint) -> str:
    does = "speaks and transcribes" if checkpoint.can_transcribe else "speaks; it cannot transcribe"
    languages = ", ".join(checkpoint.languages) or "see its model card"
    facts = f"**{checkpoint.name}** {does}. Languages: {languages}. Licence: {checkpoint.licence}. {checkpoint.note}"
    return html.escape(facts.strip(), quote=False)


def _label(name: str, checkpoint: Checkpoint) -> str:
    memory = f"{checkpoint.gigabytes:g} GB" if checkpoint.gigabytes >= 1 else "CPU"
    return f"{name}\n{checkpoint.parameters} · {checkpoint.licence} · {memory}"
