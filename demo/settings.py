"""Seed and sampling of one tab."""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from llasa_lite import Sampling


class Settings(NamedTuple):
    draw: gr.Checkbox
    seed: gr.Number
    temperature: gr.Slider
    top_p: gr.Slider


def layout(sampling: Sampling, tab: str) -> Settings:
    """
    Args:
        sampling: defaults of the model shown first.
        tab: prefix of the element ids.
    """
    with gr.Accordion("Seed and sampling", open=False, elem_id=f"{tab}-settings"):
        with gr.Row():
            draw = gr.Checkbox(
                True, label="Random each time", info="Untick to keep the seed", min_width=120, elem_id=f"{tab}-draw"
            )
            seed = gr.Number(
                0, label="Seed", info="The last one used; same seed, same speech", min_width=120, elem_id=f"{tab}-seed"
            )
        with gr.Row():
            temperature = gr.Slider(
                0,
                2,
                sampling.temperature,
                step=0.05,
                label="Temperature",
                info="0 always takes the likeliest",
                min_width=120,
                elem_id=f"{tab}-temperature",
            )
            top_p = gr.Slider(
                0.05,
                1,
                sampling.top_p,
                step=0.01,
                label="Top-p",
                info="Share of likely codes kept",
                min_width=120,
                elem_id=f"{tab}-top-p",
            )
    return Settings(draw, seed, temperature, top_p)
