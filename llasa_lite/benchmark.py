"""How fast every path runs on this machine, in one process; knows the library, draws nothing.

Benchmarks are generators of rows: `paths` (Transformers' `generate` against the engine), `growth` (time against
candidates, prompt, text and batch), `codec`, `start` (cold starts), and `whole` (language model, codec and verifiers of
the released shapes, for GPUs). Times are the least of several rounds in which all
paths take turns, so that what else the machine does hits them alike; still, only ratios carry over to other machines.
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from .audio import FRAME_RATE
from .benchmark_paths import SHAPES, nano, paths
from .benchmark_whole import whole
from .checkpoints import SHAPES as RELEASED
from .checkpoints import pick_device
from .files import write_table
from .measure import Row, as_typed, least, machine

TEXT = "The quick brown fox jumps over the lazy dog near the river bank."


@dataclass(frozen=True)
class Bench:
    """What to measure; what is left out depends on the device."""

    models: Sequence[str] | None = None
    batches: Sequence[int] = (1, 8, 16)
    only: Sequence[str] | None = None  # names of benchmarks
    threads: int | None = None
    steps: int | None = None  # of a decoding; left out: 24, on CUDA 128
    rounds: int = 3
    device: str = "cpu"

    def __post_init__(self):
        cuda = self.device.startswith("cuda")
        if not cuda and self.device != "cpu":
            raise ValueError(f"Unknown device '{self.device}'. Choose from: cpu, cuda.")
        object.__setattr__(self, "models", self.models or (list(RELEASED) if cuda else ["nano", "medium"]))
        for given, allowed in ((self.models, ("nano", *SHAPES)), (self.only or (), BENCHMARKS)):
            for name in given:
                if name not in allowed:
                    raise ValueError(f"Unknown '{name}'. Choose from: {', '.join(allowed)}.")
        if min(self.batches, default=0) < 1:
            raise ValueError(f"Batches must be positive numbers, not {list(self.batches)}.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"Threads must be at least 1, not {self.threads}.")
        if cuda and (wrong := set(self.only or ()) - {"paths", "whole"}):
            raise ValueError(f"'{wrong.pop()}' measures nano on the CPU. On CUDA choose from: paths, whole.")
        object.__setattr__(self, "only", self.only or (["paths", "whole"] if cuda else list(OF_THE_CPU)))
        pick_device(self.device)


@dataclass(frozen=True)
class BenchTable:
    rows: list[Row]
    machine: str
    command: str

    def to_dict(self) -> dict:
        return {"machine": self.machine, "command": self.command, "rows": [asdict(row) for row in self.rows]}

    def text(self) -> str:
        lines = [self.machine, self.command]
        for name, rows in itertools.groupby(self.rows, lambda row: row.benchmark):
            rows = list(rows)
            shown = [f.name for f in fields(Row)[1:] if any(getattr(row, f.name) is not None for row in rows)]
            cells = [shown] + [[_cell(getattr(row, column)) for column in shown] for row in rows]
            widths = [max(len(line[k]) for line in cells) for k in range(len(shown))]
            lines += ["", name]
            lines += ["  ".join(f"{c:{w}}" if k < 2 else f"{c:>{w}}" for k, (c, w) in enumerate(zip(line, widths)))
                      for line in cells]  # fmt: skip
        return "\n".join(lines)


def run(bench: Bench, tell: Callable[[str], None] = lambda line: None) -> BenchTable:
    """Measure; `tell` is called with a line about every row as it comes."""
    import torch

    if bench.threads:
        torch.set_num_threads(bench.threads)
    rows = []
    for name in bench.only:
        for row in BENCHMARKS[name](bench):
            tell("  ".join(f"{k} {_cell(v)}" for k, v in asdict(row).items() if v is not None))
            rows.append(row)
    command = as_typed() if sys.argv[1:2] == ["bench"] else repr(bench)
    return BenchTable(rows, machine(bench.device), command)


def write_csv(table: BenchTable, path: str | os.PathLike) -> None:
    """Write the table; what is in the file already stays where this run did not measure the same thing."""
    new = [asdict(row) | {"machine": table.machine, "command": table.command} for row in table.rows]
    measured = set(map(_what, new))
    old = [row for row in read_csv(path) if _what(row) not in measured] if Path(path).exists() else []
    write_table(path, list(new[0]), ({name: _cell(value) for name, value in row.items()} for row in old + new))


def read_csv(path: str | os.PathLike) -> list[dict]:
    """Rows as `write_csv` wrote them: words, numbers and None. Raises ValueError where they are none."""
    numbers = {f.name for f in fields(Row)} - {"benchmark", "model", "path", "note"}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if missing := {"benchmark", "model", "path", "size"} - set(rows.fieldnames or ()):
                raise ValueError(f"no column '{sorted(missing)[0]}'")
            return [{k: (float(v) if v else None) if k in numbers else v for k, v in r.items()} for r in rows]
    except ValueError as error:
        raise ValueError(f"'{path}' is no table of a benchmark ({error}). Choose another file.") from error


def _what(row: dict) -> tuple:
    return row["benchmark"], row["model"], row["path"], float(row["size"])


# -- growth ----------------------------------------------------------------------------------------------------------


def growth(bench: Bench) -> Iterator[Row]:
    """nano's time against the number of candidates, different prompts, ids of the prompt, characters of text."""
    from .engine import Engine, Sampling

    llasa = nano()
    voice = llasa.prepare("joe")
    engine = Engine(llasa.engine.model, {"speech": [llasa.protocol.pad, *llasa.protocol.speech_ids()[1:]]})
    prompt, steps, sampling = llasa.protocol.tts_prompt(TEXT), 100, llasa.sampling
    without = llasa.protocol.unconditional_prompt()

    def candidates(n):
        engine.start(prompt, n, "speech", sampling, max_new=steps, unconditional=without).advance(steps)
        return n * steps

    def prompts(n):
        different = [prompt[: len(prompt) - k] for k in range(n)]
        beams = engine.start_batch(different, "speech", sampling, max_new=[steps] * n, unconditional=[without] * n)
        beams.advance(steps)
        return n * steps

    def prompt_ids(n):
        engine.start(np.resize(prompt, n).tolist(), 1, "speech", Sampling(0.8, 1.0), max_new=25).advance(25)
        return 25

    def characters(n):
        return sum(map(len, llasa.tts((20 * (TEXT + " "))[:n], voice, seed=0).codes))

    sizes = {candidates: (1, 2, 4, 8, 16, 32), prompts: (1, 4, 16), prompt_ids: (50, 100, 200, 400, 800)}
    sizes[characters] = (60, 120, 240, 480)
    for measure, grown in sizes.items():
        for n in grown:
            seconds, tokens = least(bench.rounds, measure, n)
            yield Row(
                "growth", "nano", measure.__name__.replace("_", " "), n, seconds, tokens / seconds,
                tokens / seconds / FRAME_RATE,
            )  # fmt: skip


# -- codec -----------------------------------------------------------------------------------------------------------


def codec(bench: Bench) -> Iterator[Row]:
    """nano's codec: seconds of speech in a second, and what streaming costs in time and likeness."""
    from .voices import builtin_voices

    codec = nano().codec
    codes = np.concatenate([voice.codes["nano"] for voice in builtin_voices().values()])

    def row(path, size, seconds, speech, decibels=None):
        return Row("codec", "nano", path, size, seconds, None, speech / seconds, decibels=decibels)

    for seconds in (1, 4, 16):
        some = np.resize(codes, seconds * FRAME_RATE)
        wav = codec.decode(some)
        yield row("encode", seconds, least(bench.rounds, codec.encode, wav)[0], seconds)
        yield row("decode", seconds, least(bench.rounds, codec.decode, some)[0], seconds)
        took, parts = least(bench.rounds, lambda codes: list(codec.decode_stream(codes)), some)
        decibels = 10 * np.log10((wav**2).sum() / ((wav - np.concatenate(parts)) ** 2).sum())
        yield row("decode, streamed", seconds, took, seconds, decibels)
    many = [np.resize(np.roll(codes, -100 * k), 200) for k in range(16)]
    yield row("decode, 16 one by one", 4, least(bench.rounds, lambda: [codec.decode(c) for c in many])[0], 64)
    yield row("decode, 16 at once", 4, least(bench.rounds, codec.decode_batch, many)[0], 64)


# -- start -----------------------------------------------------------------------------------------------------------


def start(bench: Bench) -> Iterator[Row]:
    """Cold starts in processes of their own, and the first sound of a stream."""

    def cold(*arguments):
        command = [sys.executable, *arguments]
        return least(bench.rounds, lambda: subprocess.run(command, check=True, capture_output=True))[0]

    empty = cold("-c", "pass")
    yield Row("start", "", "import llasa_lite", 1, cold("-c", "import llasa_lite") - empty)
    with tempfile.TemporaryDirectory() as folder:
        speak = ("-m", "llasa_lite", "speak", TEXT, "--seed", "1", "-o", f"{folder}/out.wav")
        yield Row("start", "nano", "speak, from cold to file", 1, cold(*speak))
    llasa = nano()
    for voice in (None, "joe"):
        took, _ = least(bench.rounds, lambda voice: next(llasa.stream(TEXT, voice, seed=1)), voice)
        yield Row("start", "nano", f"first sound of a stream, voice {voice}", 1, took)
    try:
        yield Row("start", "nano", "app, from cold to page", 1, min(_serve() for _ in range(bench.rounds)))
    except ImportError:
        pass  # gradio is not installed


def _serve() -> float:
    import socket
    from urllib.error import URLError
    from urllib.request import urlopen

    import gradio  # noqa: F401

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    app = subprocess.Popen(
        [sys.executable, "-m", "llasa_lite", "demo", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                return time.perf_counter() - began
            except (URLError, OSError):
                if app.poll() is not None or time.perf_counter() - began > 120:
                    raise RuntimeError("The app did not come up.") from None
                time.sleep(0.05)
    finally:
        app.terminate()
        app.wait()


OF_THE_CPU: dict[str, Callable[[Bench], Iterator[Row]]] = {f.__name__: f for f in (paths, growth, codec, start)}
BENCHMARKS = OF_THE_CPU | {"whole": whole}


def _cell(value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}"
