"""The side bar: which model answers, what one must know before choosing it, and the language of the page."""

from __future__ import annotations

import html
from functools import partial
from typing import NamedTuple

import gradio as gr

from llasa_lite import Checkpoint

from .common import plain_errors
from .models import Models
from .settings import Settings, values
from .words import said, t, translated

# On a phone the open bar covers the page, so it opens by itself on wide screens only.
OPEN_IF_WIDE = "() => { if (innerWidth > 1000) document.querySelector('#sidebar:not(.open) .toggle-button')?.click() }"


# Changes the language as Gradio's own settings page does. The address keeps it (`?lang=`), so that a reload and a link
# do too.
SPEAK_LANGUAGE = """async language => {
    const core = performance.getEntriesByType('resource').map(e => e.name).find(n => /[/]core-[^/]*[.]js$/.test(n));
    if (!core) return;
    (await import(core)).changeLocale(language);
    const page = new URL(location);
    page.searchParams.set('lang', language);
    history.replaceState(history.state, '', page);
}"""
# Tabs that were not opened yet keep the words they were drawn with, and where not all have room Gradio draws all anew
# at every change of tab: their names are changed by hand, also those it measures by.
NAME_TABS = """() => {
    const words = window.gradio_config.i18n_translations, tabs = document.querySelector('#tabs .tab-wrapper');
    const keys = Object.fromEntries(Object.values(words).flatMap(Object.entries).map(([key, said]) => [said, key]));
    const rename = () => {
        for (const button of tabs.querySelectorAll('button'))
            for (const text of button.childNodes) {
                const key = text.nodeType === Node.TEXT_NODE && keys[text.nodeValue.trim()];
                if (key) text.nodeValue = words[document.documentElement.lang]?.[key] ?? key;
            }
    };
    new MutationObserver(rename).observe(tabs, {childList: true, subtree: true});
    new MutationObserver(rename).observe(document.documentElement, {attributes: true, attributeFilter: ['lang']});
}"""
# Of Chinese browsers Gradio knows those of zh-CN and zh-TW, and shows English to others, such as Hong Kong's.
FIRST_LANGUAGE = f"""async () => {{
    const named = new URLSearchParams(location.search).get('lang'), known = ['en', 'zh-CN'].includes(named);
    const language = known ? named : navigator.language.startsWith('zh') ? 'zh-CN' : 'en';
    const shown = document.documentElement.lang;
    if (known || language === 'zh-CN' && !shown.startsWith('zh')) await ({SPEAK_LANGUAGE})(language);
    return language;
}}"""


class Choice(NamedTuple):
    model: gr.Radio
    facts: gr.Markdown
    pace: gr.Number  # seconds of work a character, for the estimates the page shows
    language: gr.Radio


def layout(models: Models) -> Choice:
    with gr.Sidebar(elem_id="sidebar", width=300, open=False):
        language = gr.Radio(
            [("English", "en"), ("中文", "zh-CN")],
            value="en",
            label=t("Language"),
            show_label=False,
            container=False,
            elem_id="language",
        )
        model = gr.Radio(
            [(_label(name, checkpoint), name) for name, checkpoint in models.choices.items()],
            value=models.first,
            label=t("Model"),
            info=t("parameters · licence · GPU memory"),
            elem_id="model",
        )
        facts = gr.Markdown(to_facts(models.choices[models.first]), elem_id="model-facts")
        gr.Markdown(t("licence"), elem_id="licence-note", elem_classes=["note", "warning"])
        pace = gr.Number(models.pace(models.first), label="Seconds a character", visible="hidden", elem_id="pace")
    return Choice(model, facts, pace, language)


def wire(models: Models, page: gr.Blocks, choice: Choice, settings: list[Settings]) -> None:
    """A choice loads the model and sets its own sampling in every tab that has some."""
    sliders = [slider for tab in settings for slider in tab[2:]]
    choice.model.input(
        partial(choose, models, len(settings)),
        choice.model,
        [*choice[:3], *sliders],
        concurrency_id="load",
        show_progress_on=choice.facts,
        api_visibility="private",
    )
    spoken = choice.language.input(None, choice.language, None, js=SPEAK_LANGUAGE)
    found = page.load(None, None, choice.language, js=FIRST_LANGUAGE)
    for chosen in (spoken, found):
        chosen.then(
            lambda name: to_facts(models.choices[name]),
            choice.model,
            choice.facts,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    page.load(None, js=OPEN_IF_WIDE)
    page.load(None, js=NAME_TABS)


def choose(models: Models, tabs: int, name: str, progress=gr.Progress(track_tqdm=True)):  # noqa: B008, where Gradio looks
    """Load a model; where that fails the choice goes back to the one the page opened with, and says why."""
    progress(0.0, said("Loading {0}", name))
    try:
        with plain_errors():
            llasa = models.get(name)
    except gr.Error as error:
        gr.Warning(translated(error.message), title=translated("Warning"))
        name, llasa = models.first, models.get(models.first)
    return name, to_facts(llasa.checkpoint), models.pace(name), *values(llasa.sampling) * tabs


def to_facts(checkpoint: Checkpoint) -> str:
    does = said("speaks and transcribes") if checkpoint.can_transcribe else said("speaks; it cannot transcribe")
    languages = ", ".join(checkpoint.languages) or said("see its model card")
    facts = said(
        "**{0}** {1}. Languages: {2}. Licence: {3}. {4}",
        checkpoint.name,
        does,
        languages,
        checkpoint.licence,
        translated(checkpoint.note),
    )
    return html.escape(facts.strip(), quote=False)


def _label(name: str, checkpoint: Checkpoint) -> str:
    memory = f"{checkpoint.gigabytes:g} GB" if checkpoint.gigabytes >= 1 else "CPU"
    return f"{name}\n{checkpoint.parameters} · {checkpoint.licence} · {memory}"
