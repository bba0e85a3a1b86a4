"""Seed and sampling of one tab."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from llasa_lite import Sampling

from .words import t


class Settings(NamedTuple):
    draw: gr.Checkbox
    seed: gr.Number
    temperature: gr.Slider
    top_p: gr.Slider
    guidance: gr.Slider


def values(sampling: Sampling) -> tuple[float, ...]:
    """What the sliders show of a sampling."""
    return tuple(getattr(sampling, name) for name in Settings._fields[2:])


def layout(sampling: Sampling, tab: str) -> Settings:
    """
    Args:
        sampling: defaults of the model shown first.
        tab: prefix of the element ids.
    """

    def slider(name: str, low: float, high: float, step: float, label, info) -> gr.Slider:
        value = getattr(sampling, name.replace("-", "_"))
        return gr.Slider(low, high, value, step=step, label=label, info=info, min_width=200, elem_id=f"{tab}-{name}")

    with gr.Accordion(t("Seed and sampling"), open=False, elem_id=f"{tab}-settings"):
        with gr.Row():
            draw = gr.Checkbox(
                True,
                label=t("Random each time"),
                info=t("Untick to keep the seed"),
                min_width=120,
                elem_id=f"{tab}-draw",
            )
            seed = gr.Number(
                0,
                label=t("Seed"),
                info=t("The last one used; same seed, same speech"),
                min_width=120,
                elem_id=f"{tab}-seed",
            )
        with gr.Row():
            temperature = slider("temperature", 0, 2, 0.05, t("Temperature"), t("0 always takes the likeliest"))
            top_p = slider("top-p", 0.05, 1, 0.01, t("Top-p"), t("Share of likely codes kept"))
            guidance = slider("guidance", 1, 5, 0.1, t("Guidance"), t("How closely words are followed; 1 is off"))
    return Settings(draw, seed, temperature, top_p, guidance)
