"""What notebooks show and play: figures, players, a progress bar, controls. Measures nothing itself.

Figures are returned (a notebook draws them) or written to a file; they come from waves, codes and finished tables.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps

import numpy as np

from . import audio
from .power_law import PowerLaw
from .search_benchmark import ORACLE, RANDOM

BOUNDS = {RANDOM: "silver", ORACLE: "black"}  # choosers between which the others lie, and how they are drawn
MOST_BANDS = 4  # intervals over one another


def plot_bench(rows: Sequence[dict], path: str | os.PathLike) -> None:
    """Side by side: how many times as fast as `generate` each path is, how time grows, and of a GPU's benchmark what
    the parts take, in samples by the language model alone.

    Args:
        rows: of `benchmark.read_csv`, or `BenchTable.to_dict()["rows"]`.
        path: .png or .svg file to write.
    """
    from matplotlib.figure import Figure

    decoding = [row for row in rows if row["benchmark"] == "paths" and row["to_generate"]]
    whole = [row for row in rows if row["benchmark"] == "whole"]
    grown = [row for row in rows if row["benchmark"] == "growth"]
    models = list(dict.fromkeys(row["model"] for row in decoding))
    panels = len(models) + bool(grown) + bool(whole)
    if not panels:
        raise ValueError("There is nothing to draw: no path was measured beside `generate`, nor growth, nor whole.")
    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, model in zip(axes, models):
        mine = [row for row in decoding if row["model"] == model]
        batches = sorted({row["size"] for row in mine})
        names = list(dict.fromkeys(row["path"] for row in mine))
        for k, name in enumerate(names):
            found = {row["size"]: row["to_generate"] for row in mine if row["path"] == name}
            heights = [found.get(batch, np.nan) for batch in batches]  # a path may have failed at one
            axis.bar(np.arange(len(batches)) + (k - len(names) / 2 + 0.5) * 0.8 / len(names), heights,
                     0.8 / len(names), label=name)  # fmt: skip
        axis.set_xticks(range(len(batches)), [f"{batch:.0f}" for batch in batches])
        axis.set(title=f"{model}: times as fast as generate", xlabel="rows at once")
    if models:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), fontsize=8, frameon=False)
    if grown:
        axis = axes[len(models)]
        for name in dict.fromkeys(row["path"] for row in grown):
            mine = sorted((row["size"], row["seconds"]) for row in grown if row["path"] == name)
            sizes, seconds = np.array(mine).T
            slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
            axis.loglog(sizes, seconds, "o-", label=f"{name}: exponent {slope:.2f}")
        axis.set(title="nano: seconds against size", xlabel="candidates, prompts, ids, characters")
        axis.legend(fontsize=7)
    if whole:
        axis = axes[-1]
        names = list(dict.fromkeys(f"{row['path']} ({row['size']:.0f})" for row in whole))
        for model in dict.fromkeys(row["model"] for row in whole):
            mine = [(names.index(f"{row['path']} ({row['size']:.0f})"), row["to_sample"])
                    for row in whole if row["model"] == model]  # fmt: skip
            axis.plot([share for _, share in mine], [place for place, _ in mine], "o", label=model)
        axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.invert_yaxis()
        axis.set(title="time, one sample = 1", xscale="log")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def plot_search(summary: Sequence[dict]):
    """What candidates buy: error rate and similarity against their number, against seconds, against each other.

    Args:
        summary: of `search_benchmark.summarise`, or `search_benchmark.read`.
    Returns:
        a figure of four parts, or of two where nobody judged similarity.
    """
    from matplotlib.figure import Figure

    curves = [row for row in summary if row["method"] == "best_of_n"]
    guided = [row for row in summary if row["method"] != "best_of_n"]
    known = summary[0]["similarity"] is not None
    figure = Figure(figsize=(11, 7.2 if known else 3.8), layout="constrained")
    axes = figure.subplots(1 + known, 2).flatten()
    labels = {"wer": "word error rate", "similarity": "similarity to the voice"}
    choosers = list(dict.fromkeys(row["chooser"] for row in curves))
    colors = {name: f"C{k}" for k, name in enumerate(c for c in choosers if c not in BOUNDS)} | BOUNDS
    for name in choosers:
        mine = [row for row in curves if row["chooser"] == name]
        style = {"label": f"best of n: {_shorter(name)}", "color": colors[name], "markersize": 3}
        style |= {"linestyle": "--"} if name in BOUNDS else {"marker": "o"}
        for axis, x, y in zip(axes, ("n", "seconds", "n", "wer"), ("wer", "wer", "similarity", "similarity")):
            along = [row[x] for row in mine]
            axis.plot(along, [row[y] for row in mine], **style)
            if x == "n":
                if len(choosers) <= MOST_BANDS:  # of more one sees none
                    low, high = ([row[f"{y}_{end}"] for row in mine] for end in ("low", "high"))
                    axis.fill_between(along, low, high, alpha=0.1, color=colors[name])
                axis.set(xlabel="candidates", xscale="log", ylabel=labels[y])
                axis.set_xticks(along, along, minor=False)
                axis.minorticks_off()
    for row in guided:
        name = f"{row['method']} {row['n']} x {row['branch']}: {_shorter(row['chooser'])}"
        style = {"marker": "s" if row["method"] == "partial_prm" else "D", "linestyle": ""}
        for axis, x, y in ((axes[1], "seconds", "wer"), (axes[-1], "wer", "similarity")):
            if row[y] is not None:
                axis.plot(row[x], row[y], label=name, color=colors.get(row["chooser"], "gray"), **style)
    axes[1].set(xlabel="seconds a sentence", ylabel=labels["wer"])
    if known:
        axes[3].set(xlabel=labels["wer"], ylabel=labels["similarity"])
    handles, names = axes[1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _shorter(chooser: str) -> str:
    """A criterion without the owners of its models."""
    return re.sub(r"(?<=:)[^\s,+*]*/", "", chooser)


# -- in a notebook ---------------------------------------------------------------------------------------------------


def player(clips: Mapping[str, np.ndarray]):
    """Players side by side, each under its caption, for the end of a cell.

    Args:
        clips: caption -> wave (samples,) at 16 kHz. Held as MP3: every browser plays it, in a quarter of the bytes.
    """
    from IPython.display import HTML

    shown = []
    for caption, wav in clips.items():
        file = io.BytesIO()
        audio.write(file, wav, "mp3")
        source = "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()
        shown.append(
            '<figure style="display: inline-block; margin: 0 12px 8px 0">'
            f"<figcaption>{html.escape(caption)}</figcaption>"
            f'<audio controls preload="metadata" src="{source}" style="width: 260px"></audio></figure>'
        )
    return HTML("".join(shown))


def tokens(codec, wav: np.ndarray, codes: Sequence[int]):
    """A wave as its spectrogram and, under it, its codes: every column a code, every row one of its digits."""
    from matplotlib.figure import Figure

    codes = np.asarray(codes)
    seconds = len(codes) / audio.FRAME_RATE
    figure = Figure(figsize=(10, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    mel = audio.log_mel(wav)  # (bands, frames)
    where = (0, len(wav) / audio.SAMPLE_RATE, 0, len(mel))
    above.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=where)
    above.set(ylabel="mel band", xlim=(0, seconds))
    digits = codec.digits(codes).T  # (dimensions, codes)
    below.imshow(digits, origin="lower", aspect="auto", interpolation="nearest", extent=(0, seconds, 0, len(digits)))
    below.set(ylabel="digit", xlabel=f"seconds; {len(codes)} codes, {audio.FRAME_RATE} a second")
    if len(codes) <= 25:  # there is room for their names
        for k, code in enumerate(codes):
            below.text((k + 0.5) / audio.FRAME_RATE, -0.2, str(code), rotation=90, ha="center", va="top", fontsize=8)
        below.tick_params(axis="x", pad=32)
    return figure


def matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str = "", digits=2, by_column=False):
    """A small table of numbers in colours: (rows, columns). by_column: each column has its own scale of colours."""
    from matplotlib.figure import Figure

    values = np.asarray(values, float)
    low, high = (f(0, keepdims=True) if by_column else f() for f in (values.min, values.max))
    shades = (values - low) / np.maximum(high - low, 1e-9)
    figure = Figure(figsize=(1.8 + 0.75 * len(columns), 1.4 + 0.45 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shades, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if shades[row, column] > 0.5 else "black"
        axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=ink)
    axis.set_xticks(range(len(columns)), columns, rotation=45 if max(map(len, columns)) > 10 else 0)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title)
    return figure


def progress(items: Iterable, what: str = "", total: int | None = None):
    """The same items, with a bar while they are gone through. Of an output that is updated only the last state is
    saved, which is why this is none of tqdm's own."""
    from IPython.display import display
    from tqdm import tqdm

    class Bar(tqdm):
        shown = None

        def display(self, msg=None, pos=None):
            text = {"text/plain": str(self)}
            if self.shown is None:
                self.shown = display(text, raw=True, display_id=True)
            elif self.shown:
                self.shown.update(text, raw=True)

    return Bar(items, desc=what, total=total, file=io.StringIO(), ncols=80, ascii=False)


def beside_paper(systems: Mapping[str, dict], measures: Sequence, paper: Iterable = ()):
    """A table of our systems with their intervals, and the paper's rows under them, as printed there.

    Args:
        systems: of `evaluation.tables.by_system`.
        measures: of `evaluation.tables`.
        paper: of `evaluation.tables.paper_rows`.
    """
    from IPython.display import Markdown

    from .evaluation.tables import markdown

    return Markdown(markdown("", dict(systems), list(measures), paper).lstrip("# \n"))


def controls(function: Callable, **given) -> None:
    """Controls for the arguments of a function and a button that calls it; without a live kernel, a line of text.

    Args:
        given: as `ipywidgets.interact`: `temperature=(0.1, 1.5, 0.1)`, `voice=["joe", "emma"]`, `text="Hello."`.
    """
    from IPython.display import display
    from ipywidgets import interactive

    @wraps(function)
    def told_why_not(**values):
        try:
            function(**values)
        except ValueError as error:  # what was typed cannot be done: a sentence, under a traceback nobody asked for
            print(error)

    box = interactive(told_why_not, {"manual": True, "manual_name": "Run"}, **given)
    # what ipywidgets 8 shows, and 7 (Colab's) too, but for the text
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    told = f"(controls for {', '.join(given)}: run the notebook to use them)"
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": told}, raw=True)


# -- training and scaling --------------------------------------------------------------------------------------------


def counter(what: str = "") -> Callable[[int, int], None]:
    """What a training takes as `progress=`: a bar of its steps, a new one for every run."""
    bar = None

    def count(done: int, total: int) -> None:
        nonlocal bar
        bar = progress((), what, total) if bar is None else bar
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None

    return count


def learning(rows: Sequence[dict]):
    """Held-out loss on the way, against tokens and against compute; dashed: with another clip's text.

    Args:
        rows: of `ladder_log.csv` (`ladder.read_ladder`).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axis, x, told in zip(
        figure.subplots(1, 2, sharey=True), ("tokens", "flops"), ("tokens seen", "compute, FLOPs")
    ):
        for k, cell in enumerate(dict.fromkeys((row["size"], row["share"]) for row in rows)):
            mine = [row for row in rows if (row["size"], row["share"]) == cell]
            for y, line in (("held_out", "-"), ("held_out_wrong_text", "--")):
                label = f"{cell[0]}, {cell[1]:.0%} of the speech" if line == "-" else None
                axis.plot([r[x] for r in mine], [r[y] for r in mine], line, color=f"C{k}", label=label)
        axis.set(xscale="log", xlabel=told)
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.axes[0].set_ylabel("loss on held-out clips, nats a token")
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def losses(rows: Sequence[dict], **lines: str):
    """Losses of a log (`training.read_log`) against its steps.

    Args:
        lines: field -> what it is, as `loss="clips it learns"`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, told in lines.items():
        there = [row for row in rows if name in row]
        axis.plot([row["step"] for row in there], [row[name] for row in there], "o-", label=told)
    axis.set(xlabel="steps", ylabel="loss, nats a token")
    axis.legend(frameon=False)
    return figure


def scaling(rows: Sequence[dict], y: str, told: str, laws: Mapping[str, PowerLaw] | None = None):
    """A measure against parameters, hours and compute, each on a logarithmic axis; what else differs has its line.

    Args:
        rows: with "size", "parameters", "hours", "flops" and the measure; `y` + "_low", "_high" become bars.
        told: label of the measure.
        laws: factor -> `power_law.PowerLaw` of that factor alone, drawn on to five times the largest with its interval.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    rows = [row for row in rows if y in row]
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    labels = {"parameters": "parameters", "hours": "hours of speech", "flops": "compute, FLOPs"}
    for axis, (x, label) in zip(figure.subplots(1, 3, sharey=True), labels.items()):
        group = "hours" if x == "parameters" else "size"
        for same in dict.fromkeys(row[group] for row in rows):
            mine = sorted((row for row in rows if row[group] == same), key=lambda row: row[x])
            bars = [[abs(row.get(y + end, row[y]) - row[y]) for row in mine] for end in ("_low", "_high")]
            name = f"{same:,.{0 if same >= 100 else 1}f} h" if group == "hours" else same
            axis.errorbar([row[x] for row in mine], [row[y] for row in mine], bars, fmt="o-", capsize=3, label=name)
        if law := (laws or {}).get(x):
            across = np.geomspace(min(r[x] for r in rows), 5 * max(r[x] for r in rows), 60)
            middle, low, high = law.interval(**{x: across})
            axis.plot(across, middle, "k--", lw=1)
            axis.fill_between(across, low, high, color="k", alpha=0.1, lw=0)
        axis.set(xscale="log", xlabel=label)
        digits, named = (1, "{:.0e}".format) if x == "flops" else (2, EngFormatter(sep=""))
        ticks = sorted({float(f"{row[x]:.{digits}g}") for row in rows})  # few, often less than a decade apart
        axis.set_xticks(ticks, [named(value).replace("G", "B") for value in ticks], fontsize=8)  # a billion, as in 1B
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend(fontsize=8, frameon=False)
    seen = [row[y + end] for row in rows for end in ("", "_low", "_high") if y + end in row]
    if seen:  # an interval as wide as the sky would leave nothing to see of the points
        room = max(seen) - min(seen) or 1.0
        figure.axes[0].set_ylim(min(seen) - room, max(seen) + room)
    figure.axes[0].set_ylabel(told)
    return figure
