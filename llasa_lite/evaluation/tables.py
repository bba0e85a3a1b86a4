"""Rows of judged items to tables: means with bootstrap intervals, the paper's rows beside ours. Knows no audio."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..files import write_table

PAPER = Path(__file__).parent / "paper"  # Tables 1 to 7 of arXiv 2502.04128


@dataclass(frozen=True)
class Measure:
    """A column: the mean of a field of the rows or, with `over`, the sum of one field over the sum of another."""

    name: str
    label: str
    field: str
    over: str | None = None
    scale: float = 1.0  # what the number is multiplied with where people read it; the paper's error rates are percent
    digits: int = 3


WER = Measure("wer", "WER %", "edits", "words", 100, 1)
CER = Measure("wer", "CER %", "edits", "words", 100, 1)
SEED_WER = Measure("seed_wer", "WER % of seed-tts-eval", "error_rate", None, 100, 2)  # mean over utterances
SEED_CER = Measure("seed_wer", "CER % of seed-tts-eval", "error_rate", None, 100, 2)
SIM_O = Measure("sim_o", "SIM-o", "sim_o")
SIM_R = Measure("sim_r", "SIM-r", "sim_r")
SIM_OTHER = Measure("sim_other", "SIM to others", "sim_other")
RECOGNISED = Measure("recognised", "voice recognised %", "recognised", scale=100, digits=0)
EMOTION = Measure("emotion_sim", "emotion similarity", "emotion_sim")
STOI = Measure("stoi", "STOI", "stoi", digits=2)
PESQ_WB, PESQ_NB = (Measure(f"pesq_{b}", f"PESQ {b.upper()}", f"pesq_{b}", digits=2) for b in ("wb", "nb"))
SPK_SIM = Measure("spk_sim", "SPK-SIM", "spk_sim", digits=2)
MOS = Measure("dnsmos", "DNSMOS", "dnsmos", digits=2)
SCORE = Measure("score", "score 1-3", "score", digits=2)
CUT_OFF = Measure("incomplete", "cut off %", "incomplete", scale=100, digits=0)
SPEED = Measure("real_time_factor", "real-time factor", "seconds_taken", "seconds", digits=2)


def with_interval(name: str, above: Sequence[float], below: Sequence[float] | None = None) -> dict[str, float]:
    """{name, name_low, name_high}: a sum over another (left out: a mean), and its 95 % bootstrap interval over items.

    Items are drawn one by one, also where several are of one speaker: the interval is for these speakers alone.
    """
    above = np.asarray(above, np.float64)
    below = np.ones(len(above)) if below is None else np.asarray(below, np.float64)
    drawn = np.random.default_rng(0).integers(len(above), size=(2000, len(above)))
    sums, overs = above[drawn].sum(1), below[drawn].sum(1)
    low, high = np.percentile(sums[overs > 0] / overs[overs > 0], [2.5, 97.5])
    values = {name: above.sum() / below.sum(), f"{name}_low": low, f"{name}_high": high}
    return {key: round(float(value), 4) for key, value in values.items()}


def summarise(rows: list[dict], measures: Iterable[Measure]) -> dict:
    """Each measure with its 95 % bootstrap interval over items, and n: {"n", "wer", "wer_low", "wer_high", ...}.

    A measure whose field no row has, or that would be divided by nothing (the edits of no words), is left out; one
    that some rows lack says its own n ("sim_o_n").
    """
    summary: dict = {"n": len(rows)}
    for measure in measures:
        have = [row for row in rows if measure.field in row]
        if not any(row[measure.over] if measure.over else True for row in have):
            continue
        below = [row[measure.over] for row in have] if measure.over else None
        summary |= with_interval(measure.name, [row[measure.field] for row in have], below)
        if len(have) < len(rows):
            summary[f"{measure.name}_n"] = len(have)
    return summary


def by_system(rows: Iterable[dict], measures: Iterable[Measure]) -> dict[str, dict]:
    """Summary of each system, in the order in which they come."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["system"], []).append(row)
    return {system: summarise(group, measures) for system, group in groups.items()}


@cache
def paper_rows(table: str, name: str, columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, dict], ...]:
    """Rows of one of the paper's tables that have any of the columns: (name, {measure: the number as printed}).

    Args:
        table: file in `paper/`, "table2_seed_tts_eval".
        name: column(s) that name a row, joined by "+".
        columns: (measure, column of the paper).
    """
    with open(PAPER / f"{table}.csv", encoding="utf-8") as file:
        made = []
        for row in csv.DictReader(file):
            told = {measure: row[column] for measure, column in columns if row[column]}
            if told:
                made.append((", ".join(row[part] for part in name.split("+") if row[part]), told))
    return tuple(made)


def markdown(
    title: str, summaries: dict[str, dict], measures: list[Measure], paper=(), notes: Iterable[str] = ()
) -> str:
    """One table: our systems with intervals and n, then the paper's rows as printed there."""
    there = {key for s in summaries.values() for key in s} | {key for _, told in paper for key in told}
    shown = [m for m in measures if m.name in there]
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    lines += ["| system | n | " + " | ".join(m.label for m in shown) + " |", "|---|---|" + "---|" * len(shown)]
    for system, summary in summaries.items():
        cells = []
        for m in shown:
            value, low, high = (summary.get(f"{m.name}{end}") for end in ("", "_low", "_high"))
            text = (
                ""
                if value is None
                else "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*(m.scale * v for v in (value, low, high)), d=m.digits)
            )
            own_n = summary.get(f"{m.name}_n")
            cells.append(text + (f", n {own_n}" if own_n else ""))
        lines.append(f"| **{system}** | {summary['n']} | " + " | ".join(cells) + " |")
    for name, told in paper:
        lines.append(f"| paper: {name} | | " + " | ".join(told.get(m.name, "") for m in shown) + " |")
    return "\n".join(lines) + "\n"


def write_tables(folder: str | Path, title: str, rows: list[dict], measures: list[Measure], paper=(), notes=()) -> dict:
    """Write table.md, table.csv and table.json from the rows into the folder; returns the summary of each system."""
    folder, summaries = Path(folder), by_system(rows, measures)
    (folder / "table.md").write_text(markdown(title, summaries, measures, paper, notes), encoding="utf-8")
    told = {"title": title, "notes": list(notes), "systems": summaries}
    (folder / "table.json").write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
    ends = ("", "_low", "_high")
    names = [f"{m.name}{end}" for m in measures for end in ends if any(m.name in s for s in summaries.values())]
    table = [{"source": "measured", "system": system} | summary for system, summary in summaries.items()]
    scales = {m.name: m.scale for m in measures}
    for system, printed in paper:
        numbers = {k: round(float(v) / scales[k], 6) for k, v in printed.items()}
        table.append({"source": "paper", "system": system} | numbers)
    write_table(folder / "table.csv", ["source", "system", "n", *names], table)
    return summaries
