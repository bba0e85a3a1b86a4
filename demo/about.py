"""About: the paper and its numbers beside what was measured here, licences, and what cloning a voice asks of one."""

from __future__ import annotations

import csv
import re
import time
from functools import partial
from importlib.resources import files

import gradio as gr

from llasa_lite import CHECKPOINTS, audio, builtin_voices

from .common import BUSY, plain_errors
from .models import WARM_UP, Models
from .words import lasting, said, t

PAPER = files("llasa_lite") / "evaluation" / "paper"
CARD = files("llasa_lite") / "nano" / "README.md"
TABLES = {
    "table1_codecs": "Table 1: codecs on LibriSpeech test-clean",
    "table2_seed_tts_eval": "Table 2: seed-tts-eval, with train-time and inference-time scaling",
    "table3_asr_librispeech": "Table 3: recognition, LibriSpeech WER",
    "table4_emotion_similarity": "Table 4: emotion similarity",
    "table5_librispeech_continuation": "Table 5: continuation on LibriSpeech test-clean",
}


def layout(models: Models, model: gr.Radio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            gr.Markdown(t("about"), elem_id="about-text")
            gr.Markdown(t("misuse"), elem_id="about-misuse", elem_classes="warning")
            gr.Markdown(t("## Licences"))
            gr.Markdown(licences(), elem_id="about-licences", elem_classes="compact")
        with gr.Column(scale=5, min_width=300):
            gr.Markdown(t("## This machine"))
            measure = gr.Button(t("Measure this machine"), size="md", elem_id="about-measure")
            measured = gr.Markdown(
                t("Not measured yet: it takes a few seconds."),
                label="Measured",
                elem_id="about-measured",
                elem_classes="compact",
            )
            gr.Markdown(t("## The built-in model, measured"))
            gr.Markdown(figures(), elem_id="about-figures", elem_classes="compact")
    gr.Markdown(t("## The paper's tables"))
    gr.Markdown(t("paper"), elem_classes="note")
    for name, title in TABLES.items():
        with gr.Accordion(title, open=False, elem_id=f"about-{name.split('_')[0]}"):
            gr.Markdown(paper_table(name), elem_classes="compact")
    measure.click(
        partial(measure_here, models),
        model,
        measured,
        concurrency_id=BUSY,
        show_progress_on=measured,
        api_visibility="private",
    )


def licences() -> str:
    rows = [f"| {c.name} | {c.parameters} | {c.licence} | {', '.join(c.languages)} |" for c in CHECKPOINTS.values()]
    return "\n".join(["| model | size | licence | languages |", "|---|---|---|---|", *rows])


def figures() -> str:
    """What nano's card says was measured on it."""
    card = CARD.read_text(encoding="utf-8")
    figures = card.partition("## Figures\n")[2].partition("\n## ")[0].strip()
    return re.sub(r"[^.]*\]\(#[^.]*\.", "", figures)  # what points elsewhere in the card leads nowhere here


def paper_table(name: str) -> str:
    """One of the paper's tables as Markdown, the numbers as printed there."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('_', ' ') for cell in line)} |" for line in lines)


def measure_here(models: Models, model: str) -> str:
    """Speed of this machine now: speech, first sound of a stream, codec; as a Markdown table."""
    with plain_errors():
        llasa = models.get(model)
        voice = next(iter(builtin_voices()), None)
        speech = llasa.tts(WARM_UP, voice, seed=0)
        began = time.perf_counter()
        next(llasa.stream(WARM_UP, voice, seed=0))
        first = time.perf_counter() - began
        began = time.perf_counter()
        codes = llasa.codec.encode(speech.wav)
        encoded = time.perf_counter() - began
        llasa.codec.decode(codes)
        decoded = time.perf_counter() - began - encoded
    rows = {
        said("speech"): said("{0:.1f} s in {1:.2f} s", speech.seconds, speech.receipt["seconds_taken"]),
        said("real-time factor"): f"{speech.receipt['seconds_taken'] / speech.seconds:.2f}",
        said("tokens a second"): f"{audio.FRAME_RATE * speech.seconds / speech.receipt['seconds_taken']:.0f}",
        said("first sound of a stream"): f"{first:.2f} s",
        said("codec, encode and decode"): said("{0:.3f} of real time", (encoded + decoded) / speech.seconds),
        said("device"): f"{speech.receipt['device']}, {speech.receipt['dtype']}",
    }
    lines = [
        f"| {model} | {said('here, now')} |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return lasting("\n".join(lines))
