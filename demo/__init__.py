"""The Gradio app around the library: puts the page together and opens it. Uses public names of the library only."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from . import about, continuing, editing, endpoints, picture, searching, sidebar, speak, transcribe
from .common import HOUR, give_up
from .guard import UPLOAD_BYTES, Page
from .models import Models
from .words import I18N, t

# oneDNN keeps a compiled product for each length of clip it met; a thousand of them, if one lets it
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

SYSTEM_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # no font is fetched

# How the page is opened, by `launch` and by app.py alike.
LAUNCH = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS).set(
        body_text_color_subdued="*neutral_500",  # a shade darker than Gradio's: notes and warnings are to be read
        checkbox_border_color_dark="*neutral_500",  # Gradio's is hardly seen on its ground
    ),
    "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
    "i18n": I18N,
    "max_file_size": UPLOAD_BYTES,
    # Gradio keeps half a megabyte of each visitor, and what the page last showed them, until as many have come after
    "state_session_capacity": 256,
    "allowed_paths": [],
    "show_error": True,
    "enable_monitoring": False,
    "footer_links": ["api"],
    "run_history": False,  # what visitors type and record is not kept, in their browser neither
    "ssr_mode": False,
    "mcp_server": find_spec("mcp") is not None,  # gradio[mcp]
}


def build(model: str | None = None, gpu: Callable | None = None) -> gr.Blocks:
    """The page, its queue set, not yet opened. Loads the model it shows first.

    Args:
        model: short name, hub id or folder; None is nano, which ships with the library.
        gpu: `spaces.GPU` where GPUs are lent by the call (ZeroGPU): the model runs on them, nano on the CPU.
    Raises:
        ValueError: as `Llasa.from_pretrained`.
    """
    models = Models(model, gpu)
    with Page(title="llasa_lite", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        chosen = sidebar.layout(models)
        gr.Markdown(t("header"), elem_id="header")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(t("Speak"), id="speak"):
                speaking = speak.layout(models, page, chosen.model, chosen.pace)
            with gr.Tab(t("Continue"), id="continue"):
                going_on = continuing.layout(models, chosen.model)
            with gr.Tab(t("Transcribe"), id="transcribe"):
                transcribe.layout(models, chosen.model)
            with gr.Tab(t("Search"), id="search"):
                seeking = searching.layout(models, page, chosen.model, chosen.pace)
            with gr.Tab(t("Tokens"), id="tokens") as tokens:
                editing.layout(models, tokens, chosen.model)
            with gr.Tab(t("About"), id="about"):
                about.layout(models, chosen.model)
        gr.Markdown(t("footer"), elem_id="footer", elem_classes="note")
        sidebar.wire(models, page, chosen, [speaking, going_on, seeking])
        endpoints.layout(models)
        page.load(None, js=picture.TEND_PLAYERS)
        page.unload(give_up)
    # a GPU that is lent is each visitor's own; a machine is shared. api_open would let calls pass those that wait.
    return page.queue(default_concurrency_limit=4 if gpu else 1, max_size=32, api_open=False)


def launch(model: str | None = None, host: str | None = None, port: int | None = None) -> None:
    """Open the page and serve it until interrupted.

    Args:
        model: as for `build`.
        host: address to listen on; None: GRADIO_SERVER_NAME, else this machine alone.
        port: None: GRADIO_SERVER_PORT, else the first free one from 7860.
    """
    build(model).launch(server_name=host, server_port=port, **LAUNCH)
