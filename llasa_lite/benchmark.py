"""How fast every path runs on this machine, in one process; knows the library, draws nothing.

Four benchmarks, each a generator of rows: `paths` (Transformers' `generate` against the engine), `growth` (time against
candidates, prompt, text and batch), `codec`, `start` (cold starts). Times are the least of several rounds in which all
paths take turns, so that what else the machine does hits them alike; still, only ratios carry over to other machines.
"""

from __future__ import annotations

import copy
import csv
import functools
import gc
import itertools
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from unittest import mock

import numpy as np

from .audio import FRAME_RATE

SECONDS_TO_MEASURE = 4  # at least, for the paths of one model and batch
PROMPT_IDS = 100  # of the decoding benchmark; 2 s of voice
TEXT = "The quick brown fox jumps over the lazy dog near the river bank."

# Random weights: only their shape counts. llasa-1b has 16 layers; 4 show what a layer and the head take.
SHAPES = {
    "medium": dict(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=66_000,
    ),
    "llasa-1b": dict(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=193_800,
    ),
}
MODELS = ("nano", *SHAPES)


@dataclass(frozen=True)
class Row:
    """One measurement; what does not apply is None."""

    benchmark: str
    model: str
    path: str
    size: float  # rows (paths), or what grows
    seconds: float  # of one step (paths), or of the whole
    tokens_per_second: float | None = None  # of all rows together
    real_time: float | None = None  # seconds of speech made in a second, all rows together
    to_generate: float | None = None  # times as fast as Transformers' generate in float32
    to_bandwidth: float | None = None  # share of the speed at which memory could be read
    peak_megabytes: float | None = None  # weights, packed weights and cache of this path
    decibels: float | None = None  # signal to difference, streamed against whole decode


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    models: Sequence[str] = ("nano", "medium")
    batches: Sequence[int] = (1, 8, 16)
    only: Sequence[str] | None = None  # names of benchmarks; None: all
    threads: int | None = None
    steps: int = 24
    rounds: int = 3

    def __post_init__(self):
        for given, allowed in ((self.models, MODELS), (self.only or (), BENCHMARKS)):
            for name in given:
                if name not in allowed:
                    raise ValueError(f"Unknown '{name}'. Choose from: {', '.join(allowed)}.")
        if min(self.batches, default=0) < 1:
            raise ValueError(f"Batches must be positive numbers, not {list(self.batches)}.")


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
    for name in bench.only or BENCHMARKS:
        for row in BENCHMARKS[name](bench):
            tell("  ".join(f"{k} {_cell(v)}" for k, v in asdict(row).items() if v is not None))
            rows.append(row)
    command = " ".join(["python -m llasa_lite", *sys.argv[1:]]) if sys.argv[1:2] == ["bench"] else repr(bench)
    return BenchTable(rows, machine(), command)


def write_csv(table: BenchTable, path: str | os.PathLike) -> None:
    """Write the table; what is in the file already stays where this run did not measure the same thing."""
    new = [asdict(row) | {"machine": table.machine, "command": table.command} for row in table.rows]
    measured = set(map(_what, new))
    old = [row for row in read_csv(path) if _what(row) not in measured] if Path(path).exists() else []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(new[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in old + new)


def read_csv(path: str | os.PathLike) -> list[dict]:
    """Rows as `write_csv` wrote them: words, numbers and None."""
    numbers = {f.name for f in fields(Row)} - {"benchmark", "model", "path"}
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {k: (float(v) if v else None) if k in numbers else v for k, v in r.items()} for r in csv.DictReader(file)
        ]


def _what(row: dict) -> tuple:
    return row["benchmark"], row["model"], row["path"], float(row["size"])


# -- paths -----------------------------------------------------------------------------------------------------------


def paths(bench: Bench) -> Iterator[Row]:
    """Transformers' `generate` against the engine, every row sampled at temperature 0.8 without top_p."""
    from transformers import LlamaForCausalLM  # noqa: F401  (its memory is no path's own)

    limit = bandwidth()
    for model in bench.models:
        _nano() if model == "nano" else _random(model)  # what all paths are copied from is no path's own
        built = {}
        for name, build in _paths(model):
            before, peak = rss(), Peak()
            built[name] = step = build()
            step(max(bench.batches), bench.steps + 1)  # warm, and the memory of the largest batch
            after = peak.megabytes()
            step.peak = None if after is None or before is None else after - before
        for batch in bench.batches:
            long, short, began = dict.fromkeys(built, np.inf), dict.fromkeys(built, np.inf), time.perf_counter()
            for round_ in itertools.count():
                if round_ >= bench.rounds and time.perf_counter() - began > SECONDS_TO_MEASURE:
                    break
                for name, step in built.items():
                    long[name] = min(long[name], step(batch, bench.steps + 1))
                    short[name] = min(short[name], step(batch, 1))  # reading the prompt is not counted
            seconds = {name: (long[name] - short[name]) / bench.steps for name in built}
            for name, step in built.items():
                speed = batch / seconds[name]
                yield Row(
                    "paths", model, name, batch, seconds[name], speed, speed / FRAME_RATE,
                    seconds[next(iter(built))] / seconds[name],
                    step.bytes_read(batch, PROMPT_IDS + bench.steps // 2) / limit / seconds[name], step.peak,
                )  # fmt: skip
        del built, step
        gc.collect()


def _paths(model: str) -> list[tuple[str, Callable]]:
    import torch

    from .checkpoints import cpu_has_bf16
    from .decoder import can_int8, can_pack

    kinds = [torch.float32, torch.bfloat16] if cpu_has_bf16() else [torch.float32]
    found = [(f"generate, {_name(kind)}", lambda kind=kind: Generate(model, kind)) for kind in kinds]
    found.append(("engine, plain, float32", lambda: EngineStep(model, torch.float32, pack=False)))
    found += [(f"engine, packed, {_name(k)}", lambda k=k: EngineStep(model, k)) for k in kinds if can_pack("cpu", k)]
    if can_int8("cpu"):
        found.append(("engine, int8", lambda: EngineStep(model, kinds[-1], int8=True)))
    return found


class Generate:
    """The model card's recipe: `generate` over the whole vocabulary."""

    def __init__(self, model: str, dtype):
        self.model, self.answer = build(model, dtype)
        self.head_rows = self.model.config.vocab_size
        self.weight_bytes = self.model.dtype.itemsize

    def __call__(self, batch: int, steps: int) -> float:
        import torch

        ids = torch.arange(PROMPT_IDS)[None].repeat(batch, 1)
        settings = dict(do_sample=True, temperature=0.8, top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0)
        began = time.perf_counter()
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, **settings)
        took = time.perf_counter() - began
        assert out.shape == (batch, PROMPT_IDS + steps)
        return took

    def bytes_read(self, rows: int, length: int) -> float:
        """Of weights and cache, for one step."""
        config, layers = self.model.config, self.model.model.layers
        cache = rows * length * len(layers) * 2 * config.num_key_value_heads * config.head_dim
        weights = sum(p.numel() for p in layers.parameters()) + self.head_rows * config.hidden_size
        return cache * self.model.dtype.itemsize + weights * self.weight_bytes


class EngineStep(Generate):
    def __init__(self, model: str, dtype, pack: bool = True, int8: bool = False):
        from .decoder import can_pack
        from .engine import Engine

        super().__init__(model, dtype)
        self.head_rows = len(self.answer)
        self.weight_bytes = 1 if int8 else self.weight_bytes
        with mock.patch("llasa_lite.decoder.can_pack", can_pack if pack else lambda device, dtype: False):
            self.engine = Engine(self.model, {"speech": self.answer}, int8=int8)

    def __call__(self, batch: int, steps: int) -> float:
        from .engine import Sampling

        began = time.perf_counter()
        beams = self.engine.start(range(PROMPT_IDS), batch, "speech", Sampling(0.8, 1.0), max_new=steps)
        beams.advance(steps)
        took = time.perf_counter() - began
        assert all(len(ids) == steps for ids in beams.ids)
        return took


def build(model: str, dtype):
    """A model and the ids it may say; END is an id that it never says, so that rows keep their length."""
    if model == "nano":
        llasa = _nano()
        return copy.deepcopy(llasa.engine.model).to(dtype), [llasa.protocol.pad, *llasa.protocol.speech_ids()[1:]]
    vocabulary = SHAPES[model]["vocab_size"]
    return copy.deepcopy(_random(model)).to(dtype), [0, *range(vocabulary - 65_536, vocabulary)]


@functools.lru_cache(1)
def _random(model: str):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(**SHAPES[model], max_position_embeddings=2048, tie_word_embeddings=True, rope_parameters=rope)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(torch.bfloat16)  # as small as can be: every path has a copy of its own


# -- growth ----------------------------------------------------------------------------------------------------------


def growth(bench: Bench) -> Iterator[Row]:
    """nano's time against the number of candidates, different prompts, ids of the prompt, characters of text."""
    from .engine import Engine, Sampling

    llasa = _nano()
    voice = llasa.prepare("joe")
    engine = Engine(llasa.engine.model, {"speech": [llasa.protocol.pad, *llasa.protocol.speech_ids()[1:]]})
    prompt, steps, sampling = llasa.protocol.tts_prompt(TEXT), 100, llasa.sampling

    def candidates(n):
        engine.start(prompt, n, "speech", sampling, max_new=steps).advance(steps)
        return n * steps

    def prompts(n):
        different = [prompt[: len(prompt) - k] for k in range(n)]
        engine.start_batch(different, "speech", sampling, max_new=[steps] * n).advance(steps)
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

    codec = _nano().codec
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
    llasa = _nano()
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


BENCHMARKS: dict[str, Callable[[Bench], Iterator[Row]]] = {f.__name__: f for f in (paths, growth, codec, start)}


# -- the machine -----------------------------------------------------------------------------------------------------


def machine() -> str:
    """Processor, threads, versions."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M)
        name = found.group(1) if found else name
    return (
        f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def bandwidth(megabytes: int = 512) -> float:
    """Bytes a second at which memory is read, by the sum of what is larger than the caches."""
    import torch

    memory = torch.ones(megabytes * 2**18)
    return memory.nbytes / least(5, memory.sum)[0]


def rss() -> float | None:
    """Megabytes this process holds now; None where Linux does not tell."""
    gc.collect()
    return _status("VmRSS")


class Peak:
    """The most megabytes this process held since."""

    def __init__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def megabytes(self) -> float | None:
        return _status("VmHWM")


def _status(name: str) -> float | None:
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found.group(1)) / 1e3 if found else None


def least(rounds: int, measured: Callable, *arguments) -> tuple[float, object]:
    """The shortest of several calls, after one that is not counted, in seconds; and what it returned."""
    result, best = measured(*arguments), np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        result = measured(*arguments)
        best = min(best, time.perf_counter() - began)
    return best, result


@functools.cache
def _nano():
    from .pipeline import Llasa

    return Llasa.from_pretrained(device="cpu")


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cell(value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}"
