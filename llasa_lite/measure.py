"""What a benchmark is made of: a row of figures, time, memory, the machine. Knows no path that is measured."""

from __future__ import annotations

import gc
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def as_typed() -> str:
    """The command line at work, as a shell takes it."""
    return shlex.join(["python", "-m", "llasa_lite", *sys.argv[1:]])


@dataclass(frozen=True)
class Row:
    """One measurement; what does not apply is None."""

    benchmark: str
    model: str
    path: str
    size: float  # rows (paths), or what grows
    seconds: float | None  # of one step (paths), or of the whole; None: see `note`
    tokens_per_second: float | None = None  # of all rows together
    real_time: float | None = None  # seconds of speech made in a second, all rows together
    to_generate: float | None = None  # times as fast as the first path, Transformers' generate
    to_bandwidth: float | None = None  # share of the speed at which memory could be read
    peak_megabytes: float | None = None  # weights, packed weights and cache of this path
    decibels: float | None = None  # signal to difference, streamed against whole decode
    to_sample: float | None = None  # time, where that of one sample by the language model alone is 1
    note: str | None = None  # why nothing was measured


def machine(device: str = "cpu") -> str:
    """Processor or GPU, threads, versions."""
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if device.startswith("cuda"):
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        return f"{torch.cuda.get_device_name(device)}, {memory:.0f} GB, CUDA {torch.version.cuda}, {versions}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M)
        name = found.group(1) if found else name
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {versions}"


def bandwidth(device: str = "cpu") -> float:
    """Bytes a second at which memory is read: on a CPU by a sum, on a GPU by a copy (half of its bytes are written)."""
    import torch

    on_cpu = device == "cpu"
    memory = torch.ones((512 if on_cpu else 2048) * 2**18, device=device)  # float32
    if on_cpu:
        return memory.nbytes / least(5, memory.sum)[0]
    into = torch.empty_like(memory)

    def copy():
        for _ in range(10):
            into.copy_(memory)
        sync(device)

    return 20 * memory.nbytes / least(5, copy)[0]


def sync(device: str) -> None:
    """Wait until a GPU has done what it was asked for."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device != "cpu":
        getattr(torch, device).synchronize()


class Peak:
    """The most megabytes that were held since, beyond those held before: by this process, or by it on a GPU.

    None where Linux does not tell.
    """

    def __init__(self, device: str = "cpu"):
        self.device, self.before = device, None
        gc.collect()
        if device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device) / 1e6
            return
        self.before = _status("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def megabytes(self) -> float | None:
        if self.before is None:
            return None
        if self.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self.device) / 1e6 - self.before
        return _status("VmHWM") - self.before


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
