"""`python -m llasa_lite train finetune | rows | ladder` and `push`: options to `finetuning`, `sources`, `ladder`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from . import cli
from .ladder import SHARES, SIZES, Ladder


def add(kinds, verb, model, output) -> None:
    """Add the kinds of `train` that take checkpoints of any size, the ladder of small ones, and `push`."""
    sub = kinds.add_parser("finetune", help="any checkpoint, all weights or LoRA; also by torchrun", parents=[output])
    sub.set_defaults(handler=finetune)
    sub.add_argument("--base", default="nano", help="short name, hub id or folder; a text Llama gets Llasa's tokens")
    told = "codes: .safetensors of `train tokens`, folders of memmap rows, or of metadata.csv and <id>.wav.npy"
    sub.add_argument("--data", required=True, nargs="+", help=told)
    sub.add_argument("--out", required=True, help="folder for weights, log and checkpoints; an unfinished run goes on")
    sub.add_argument("--recipe", default="finetune", choices=("paper", "released", "finetune", "lora"))
    sub.add_argument("--epochs", type=float, help="default: the recipe's")
    sub.add_argument("--learning-rate", type=float, help="default: the recipe's")
    sub.add_argument("--rows-per-step", type=int, help="over all processes (default: the recipe's)")
    sub.add_argument("--rows-at-once", type=int, default=4, help="of one pass in one process (default: 4)")
    sub.add_argument("--max-steps", type=int, default=-1, help="stop there (default: when the epochs are over)")
    sub.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default: 200)")
    sub.add_argument("--recognition", type=float, default=0.0, help="share of rows from speech to text (default: 0)")
    sub.add_argument("--seed", type=int, default=0)
    more = "any field of Transformers' TrainingArguments, the value as JSON or text; may come several times"
    sub.add_argument("--trainer", action="append", default=[], metavar="NAME=VALUE", help=more)
    sub = kinds.add_parser("rows", help="codes to the authors' memmap rows", parents=[model, output])
    sub.set_defaults(handler=rows)
    sub.add_argument("--data", required=True, nargs="+", help=told)
    sub.add_argument("--out", required=True, help="folder for {train,val}_input_ids.memmap")
    sub = kinds.add_parser("ladder", help="three sizes on three shares of a corpus", parents=[model, output])
    sub.set_defaults(handler=ladder)
    sub.add_argument("--data", required=True, nargs="+", help="token corpora made by `train tokens`")
    sub.add_argument("--out", required=True, help="folder of cells; finished ones stay, an unfinished one goes on")
    sub.add_argument("--sizes", nargs="+", default=list(SIZES), help=f"of: {', '.join(SIZES)} (default: all)")
    sub.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the corpus (default: 0.25 0.5 1)")
    sub.add_argument("--cells", nargs="+", metavar="SIZE-SHARE", help="only these, as 1M-0.25 nano-1")
    sub.add_argument("--steps", type=int, default=Ladder.steps, help="of about 2,048 ids (default: %(default)s)")
    sub.add_argument("--judge", help="recogniser for word error rates: hub id or folder (default: none)")
    sub.add_argument("--sentences", help="text file, one sentence a line (default: 40 held-out transcripts)")
    sub.add_argument("--seed", type=int, default=0)
    sub = verb("push", push, "Upload a finetuned folder to the hub.", output)
    sub.add_argument("folder", metavar="FOLDER", help="made by `train finetune`")
    sub.add_argument("repo", metavar="OWNER/NAME", help="repository on the hub")
    sub.add_argument("--public", action="store_true", help="default: private")


def finetune(o) -> None:
    from .finetuning import RECIPES, finetune
    from .sources import read_utterances

    given = {k: getattr(o, k) for k in ("epochs", "learning_rate", "rows_per_step") if getattr(o, k) is not None}
    if not 0 <= o.recognition <= 1:
        raise ValueError(f"--recognition is a share, 0 to 1, not {o.recognition}.")
    arguments = dict(_pair(text) for text in o.trainer)
    for source in o.data:
        if not Path(source).exists():
            raise ValueError(f"There is no data '{source}'.")

    def read(protocol):
        return [[read_utterances(source, protocol, split) for source in o.data] for split in ("train", "test")]

    cli._no_loading_bars()
    out = finetune(
        *(o.base, read, o.out, replace(RECIPES[o.recipe], **given)),
        **{k: getattr(o, k) for k in ("recognition", "rows_at_once", "max_steps", "save_every", "seed")},
        trainer_arguments=arguments,
    )
    if os.environ.get("RANK", "0") == "0":  # under torchrun, one process speaks
        cli._print({"model": str(out)}, o, f"model in {out}; speak --model {out}")


def rows(o) -> None:
    from transformers import AutoTokenizer

    from .checkpoints import find, reaching
    from .sources import read_utterances, write_memmap
    from .tokens import Protocol

    source = find(o.model).source
    with reaching(source):
        protocol = Protocol(AutoTokenizer.from_pretrained(source))
    told = {"folder": o.out}
    for split, name in (("train", "train"), ("test", "val")):
        utterances = (u for data in o.data for u in read_utterances(data, protocol, split))
        told[name], told[f"{name}_dropped"] = write_memmap(utterances, o.out, name, protocol)
    line = "{train} rows for training ({train_dropped} too long), {val} held out ({val_dropped} too long) in {folder}"
    cli._print(told, o, line.format(**told))


def ladder(o) -> None:
    from .cli_evaluate import sentences
    from .data import read_tokens
    from .evaluation import Judge
    from .ladder import cell_names, held_out_sentences, run_ladder

    cells = o.cells or cell_names(o.sizes, o.shares)
    utterances = [u for file in o.data for u in read_tokens(file)]
    spoken = sentences(o) if o.sentences else held_out_sentences(utterances)
    levels = list(cli._load_codec(o).model.config.quantization_levels)
    judge = Judge(o.judge, cli.picked_device(o)) if o.judge else None
    settings = Ladder(steps=o.steps, seed=o.seed)
    rows = run_ladder(utterances, levels, o.out, settings, cells, judge, spoken)
    table = str(Path(o.out) / "ladder.csv")
    lines = [
        f"{r['size']:5} {r['hours']:6.2f} h  {r['flops']:.2e} FLOPs  held out {r['held_out']:.3f}"
        + (f"  WER {r['wer']:.2f} ({r['wer_low']:.2f} to {r['wer_high']:.2f})" if "wer" in r else "")
        for r in rows
    ]
    cli._print({"table": table, "cells": rows}, o, "\n".join([*lines, table]))


def push(o) -> None:
    from .finetuning import push

    address = push(o.folder, o.repo, private=not o.public)
    cli._print({"address": address}, o, address)


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--trainer takes NAME=VALUE, not '{text}'.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
