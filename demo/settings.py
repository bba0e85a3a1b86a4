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


def layout(sampling: Sampling, tab: str) -> Settings:
    """
    Args:
        sampling: defaults of the model shown first.
        tab: prefix of the element ids.
    """
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
            temperature = gr.Slider(
                0,
                2,
                sampling.temperature,
                step=0.05,
                label=t("Temperature"),
                info=t("0 always takes the likeliest"),
                min_width=200,
                elem_id=f"{tab}-temperature",
            )
            top_p = gr.Slider(
                0.05,
                1,
                sampling.top_p,
                step=0.01,
                label=t("Top-p"),
                info=t("Share of likely codes kept"),
                min_width=200,
                elem_id=f"{tab}-top-p",
            )
            guidance = gr.Slider(
                1,
                5,
                sampling.guidance,
                step=0.1,
                label=t("Guidance"),
                info=t("How closely words are followed; 1 is off"),
                min_width=200,
                elem_id=f"{tab}-guidance",
            )
    return Settings(draw, seed, temperature, top_p, guidance)
