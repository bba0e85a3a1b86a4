"""What the page says, in English and Chinese: `t` marks a text, and the visitor's browser shows its own language;
`said` is a text with values, made here in the visitor's language or, by the function of the same name, in the browser.

words.json holds the Chinese, and the English of the texts that go by a name instead of their own words. The library
speaks English (its errors, receipts, notes on a model), and programs are answered in it; those of its sentences that
visitors meet often are there in Chinese too, for `translated`.
"""

from __future__ import annotations

import json
import re
from contextvars import ContextVar
from pathlib import Path

import gradio as gr

WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CHINESE = WORDS["zh"]
ENGLISH = {key: key for key in CHINESE} | WORDS["en"]
I18N = gr.I18n(**{"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE, "zh-TW": CHINESE})
_words: ContextVar[dict[str, str]] = ContextVar("words", default=ENGLISH)  # of the visitor who is being answered
# Goes before the scripts of components: `said` is a text in the language of the page, with values in place of {0}, {1};
# `onLanguage` does something when the visitor changes that language.
SAID = """const said = (key, ...values) =>
    (window.gradio_config.i18n_translations[document.documentElement.lang]?.[key] ?? key)
        .replace(/{(\\d)}/g, (_, k) => values[k]);
const onLanguage = redo =>
    new MutationObserver(redo).observe(document.documentElement, {attributes: true, attributeFilter: ['lang']});
"""


def component(file: str, template: str, **more) -> gr.HTML:
    """A component of our own: an HTML template with the script and the style that lie beside a Python file."""
    script, style = (Path(file).with_suffix(kind).read_text(encoding="utf-8") for kind in (".js", ".css"))
    return gr.HTML(
        html_template=template, css_template=style, js_on_load=SAID + script, apply_default_css=False, **more
    )


def t(key: str):
    """A text of the page by its English words or its name; one without Chinese stops the page from being built."""
    if key not in CHINESE:
        raise KeyError(f"No Chinese for {key!r} in demo/words.json.")
    return I18N(key)


def lasting(text: str) -> str:
    """A value that stands where the page was drawn with a `t`, and stays when the visitor changes the language: without
    a mark of its own, here one of a space, Gradio would go back to the first."""
    return text + I18N(" ")


def said(key: str, *values) -> str:
    """A text in the language of whoever is being answered, with values in place of {0}, {1:.1f}."""
    return _words.get()[key].format(*values)


def translated(sentence: str) -> str:
    """A sentence of the library, or a word of Gradio, in the language of whoever is being answered, if there known."""
    if _words.get() is CHINESE:
        for english, chinese in WORDS["library"].items():
            pattern = "(.*)".join(map(re.escape, re.split(r"{\d}", english)))
            if values := re.fullmatch(pattern, sentence, re.S):
                return chinese.format(*values.groups())
    return sentence


def answer_to(visitor: gr.Request | None) -> None:
    """Whom `said` speaks to from here on: a visitor in the language that the address of their page names, else in their
    browser's; a program (None) in English."""
    headers = {} if visitor is None else visitor.headers
    named = re.search(r"[?&]lang=(en|zh-CN)\b", headers.get("referer", ""))
    language = named[1] if named else headers.get("accept-language", "")
    _words.set(CHINESE if language.startswith("zh") else ENGLISH)
