"""Figures from tables that were measured before; measures nothing itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np


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
