"""The Gradio app around the library: puts the page together and opens it. Uses public names of the library only."""

from __future__ import annotations

import gradio as gr

from . import continuing, sidebar, speak, transcribe
from .common import HOUR, Models

HEADER = """
# llasa_lite
Text to speech as one plain Llama. Type a sentence, pick a voice, listen; nothing leaves the machine this page runs on.
"""
FOOTER = """
Speech made here is synthetic; say so where you share it. The code and the built-in model are Apache-2.0, the released
Llasa and X-codec2 weights CC BY-NC 4.0. Every result comes with a receipt from which it can be made again.
Paper: [Llasa, arXiv 2502.04128](https://arxiv.org/abs/2502.04128).
"""
CSS = """
#header h1 {margin-bottom: 0.25rem}
#speak-counter {margin: -0.75rem 0; text-align: right}
#speak-counter * {font-size: var(--text-sm); color: var(--body-text-color-subdued)}
#speak-counter .over {color: var(--error-text-color); font-weight: 600}
#speak-stream, #speak-stream .html-container {padding: 0 !important; margin: 0 !important}
#speak-stream:has(.live[hidden]) {display: none}
#model label {width: 100%; padding: 0.25rem 0.6rem; font-size: var(--text-sm)}
#model label span {white-space: pre-line; line-height: 1.35}
#model .wrap {gap: 0.3rem}
footer .divider, [data-testid="status-tracker"]:has(.error) {display: none !important}  /* a toast says what is wrong */
.note, .note p {font-size: var(--text-sm); color: var(--body-text-color-subdued)}
.warning {border-left: 3px solid var(--color-accent); padding-left: 0.75rem}
.warning .warning {border: 0; padding: 0}
@media (max-width: 768px) {#header h1 {padding-left: 0.6rem}}
"""
SYSTEM_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # no font is fetched

# How the page is opened, by `launch` and by app.py alike.
LAUNCH = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS),
    "css": CSS,
    "max_file_size": "25mb",  # of an upload
    "allowed_paths": [],
    "show_error": True,
    "footer_links": ["api"],
    "run_history": False,  # what visitors type and record is not kept, in their browser neither
    "ssr_mode": False,
}


def build(model: str | None = None) -> gr.Blocks:
    """The page, its queue set, not yet opened. Loads the model it shows first.

    Args:
        model: short name, hub id or folder; None is nano, which ships with the library.
    Raises:
        ValueError: as `Llasa.from_pretrained`.
    """
    models = Models(model)
    with gr.Blocks(title="llasa_lite", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        chosen = sidebar.layout(models)
        gr.Markdown(HEADER, elem_id="header")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Speak", id="speak"):
                speaking = speak.layout(models, chosen.model)
            with gr.Tab("Continue", id="continue"):
                going_on = continuing.layout(models, chosen.model)
            with gr.Tab("Transcribe", id="transcribe"):
                transcribe.layout(models, chosen.model)
        gr.Markdown(FOOTER, elem_id="about", elem_classes="note")
        sidebar.wire(models, chosen, [speaking, going_on])
        page.load(None, js=sidebar.OPEN_IF_WIDE)
    return page.queue(default_concurrency_limit=1, max_size=32)


def launch(model: str | None = None, host: str | None = None, port: int | None = None) -> None:
    """Open the page and serve it until interrupted.

    Args:
        model: as for `build`.
        host: address to listen on; None: GRADIO_SERVER_NAME, else this machine alone.
        port: None: GRADIO_SERVER_PORT, else the first free one from 7860.
    """
    build(model).launch(server_name=host, server_port=port, **LAUNCH)
