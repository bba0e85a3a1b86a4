"""What the page says, in English and Chinese: `t` marks a text, and the visitor's browser shows its own language.

words.json holds the Chinese, and the English of the texts that go by a name instead of their own words. What the
server says (errors, receipts, scores, one line about a result) is English.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CHINESE = WORDS["zh"]
ENGLISH = {key: key for key in CHINESE} | WORDS["en"]
I18N = gr.I18n(**{"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE, "zh-TW": CHINESE})
# Goes before the scripts of components: `said` is a text in the language of the page, with values in place of {0}, {1};
# `onLanguage` does something when the visitor changes that language.
SAID = """const said = (key, ...values) =>
    (window.gradio_config.i18n_translations[document.documentElement.lang]?.[key] ?? key)
        .replace(/{(\\d)}/g, (_, k) => values[k]);
const onLanguage = redo =>
    new MutationObserver(redo).observe(document.documentElement, {attributes: true, attributeFilter: ['lang']});
"""


def t(key: str):
    """A text of the page by its English words or its name; one without Chinese stops the page from being built."""
    if key not in CHINESE:
        raise KeyError(f"No Chinese for {key!r} in demo/words.json.")
    return I18N(key)
