"""What this machine can run, and why not more. Looks only: loads no weights, downloads nothing, needs no torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from .checkpoints import CHECKPOINTS, NANO, Checkpoint, cpu_has_bf16, has_bf16, pick_device

GB = 1e9
ON_CPU = 1.3  # memory beside the weights while they are read, times their size
IMPORT_SECONDS = 300  # ten from a slow disk
CGROUP = "/sys/fs/cgroup/"  # where Linux tells what a container may use
EXTRAS = {  # extra of pyproject.toml -> modules it brings
    "demo": ("gradio",),
    "train": ("accelerate", "peft", "datasets"),
    "eval": ("pystoi", "pesq", "opencc"),
    "serve": ("fastapi", "uvicorn"),
    "ray": ("ray",),
    "vllm": ("vllm",),
    "plot": ("matplotlib",),
    "quality": ("speechmos", "onnxruntime"),
    "voice-judge": ("resemblyzer",),
    "mcp": ("mcp",),
}


@dataclass(frozen=True)
class Machine:
    """What was found. Sizes are in GB; None is what could not be found out."""

    python: str
    system: str
    packages: dict[str, str | None]  # of those everything needs: installed version
    problems: list[str]  # sentences: what stands in the way of everything
    device: str | None  # the best there is, as `Llasa.from_pretrained` chooses
    device_name: str | None  # on the CPU: the GPU beside it, and why torch does not use that
    cores: int
    memory: float | None  # of this machine, free
    gpu_memory: float | None  # of the GPU, free
    bfloat16: bool | None  # computed by the device itself
    cpu_bfloat16: bool | None  # by the processor, whatever the device
    packed: bool | None  # the quick products on the CPU (oneDNN, private operators)
    int8: bool | None
    cache: str  # where the hub's files are kept
    cache_free: float | None
    cached: list[str]  # names of released checkpoints that are there already
    extras: dict[str, bool]
    ffmpeg: bool
    checkpoints: dict[str, dict]  # short name -> {"runs": bool, "why": sentence}

    def to_dict(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        def size(number):
            return "?" if number is None else f"{number:.1f} GB"

        gpu = f", {size(self.gpu_memory)} free" if self.gpu_memory is not None else ""
        here = [name for name, there in self.extras.items() if there]
        lines = [
            f"python     {self.python}, {self.system}",
            "packages   " + ", ".join(f"{name} {number or 'missing'}" for name, number in self.packages.items()),
            f"device     {self.device or 'unknown'} ({self.device_name or 'no GPU'}{gpu})",
            f"processor  {self.cores} cores, {size(self.memory)} of memory free",
            f"numbers    bfloat16 {_word(self.bfloat16)}, int8 {_word(self.int8)}; oneDNN {_word(self.packed)}",
            f"hub cache  {self.cache}: {size(self.cache_free)} free; holds {', '.join(self.cached) or 'no checkpoint'}",
            f"extras     {', '.join(here) or 'none'}; missing: "
            + (", ".join(name for name in self.extras if name not in here) or "none"),
            f"ffmpeg     {'found' if self.ffmpeg else 'not found'}; nothing here needs it",
            "",
            *(f"✗ {problem}" for problem in self.problems),
            *(f"{'✓' if told['runs'] else '✗'} {told['why']}" for told in self.checkpoints.values()),
        ]
        return "\n".join(lines)


def examine() -> Machine:
    """Look at this machine. Never raises for what is missing or broken here: it is what the answer is about."""
    packages = {
        name: _version(name) for name in ("torch", "transformers", "huggingface-hub", "numpy", "librosa", "soundfile")
    }
    problems = [f"'{name}' is not installed: pip install llasa-lite." for name, found in packages.items() if not found]
    facts: dict = {"device": None, "device_name": None, "gpu_memory": None}
    facts |= {"bfloat16": None, "cpu_bfloat16": None, "packed": None, "int8": None}
    if packages["torch"]:
        try:
            facts |= _torch_facts()
        except Exception as error:  # a torch that is broken fails in ways of its own
            problems.append(f"torch is installed but does not work here ({_line(error)}). Install it again.")
    if not problems:
        problems += _import_problem()
    if not (NANO / "lm" / "config.json").is_file():
        problems.append("The built-in model's files are missing: install the package again.")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    cache = os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    machine = Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=packages,
        problems=problems,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_free_memory(),
        cache=cache,
        cache_free=_free_disk(cache),
        cached=[c.name for c in CHECKPOINTS.values() if c.name != "nano" and _is_cached(cache, c.source)],
        extras={name: all(map(_is_there, modules)) for name, modules in EXTRAS.items()},
        ffmpeg=shutil.which("ffmpeg") is not None,
        checkpoints={},
        **facts,
    )
    for checkpoint in CHECKPOINTS.values():
        runs, why = judge(checkpoint, machine)
        machine.checkpoints[checkpoint.name] = {"runs": runs, "why": why}
    return machine


def judge(checkpoint: Checkpoint, machine: Machine) -> tuple[bool, str]:
    """Whether a checkpoint runs on a machine, and a sentence that says where, or why not."""
    name = checkpoint.name
    if machine.problems:
        return False, f"{name} does not run until the above is put right."
    if name == "nano":
        return True, f"{name} runs here, on {machine.device}, without a download."
    need = checkpoint.gigabytes
    on_cpu = need * (1.0 if machine.cpu_bfloat16 else 2.0) * ON_CPU  # float32 where bfloat16 is slow
    if name not in machine.cached and machine.cache_free is not None and machine.cache_free < need:
        return False, f"{name} needs {need:g} GB of disk for its download, and {machine.cache_free:.1f} are free."
    fetched = "" if name in machine.cached else f", after a download of about {need:g} GB"
    gpu_memory = machine.memory if machine.device == "mps" else machine.gpu_memory  # Apple's is one with the rest
    if gpu_memory is not None:
        if gpu_memory >= need:
            return True, f"{name} runs here, on {machine.device}{fetched}."
        short = f"needs about {need:g} GB of GPU memory, and {gpu_memory:.1f} are free"
    else:
        short = f"is meant for a GPU, and {'torch uses none here' if machine.device_name else 'there is none'}"
    if machine.memory is not None and machine.memory < on_cpu:
        return False, f"{name} {short}; on the CPU it needs about {on_cpu:.0f} GB, and {machine.memory:.1f} are free."
    quickest = " --dtype int8" if machine.int8 else ""
    return True, f"{name} {short}: it runs on the CPU, slowly{fetched} (--device cpu{quickest})."


# -- looking ---------------------------------------------------------------------------------------------------------


def _torch_facts() -> dict:
    import torch

    from .decoder import can_int8, can_pack

    device = pick_device()
    facts: dict = {"device": device, "device_name": "Apple's GPU" if device == "mps" else None}
    if device == "cpu" and shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        why = f"torch for CUDA {torch.version.cuda} does not reach: update its driver"
        if torch.version.cuda is None:
            why = "a torch without CUDA cannot use: pytorch.org/get-started/locally says how to install another"
        facts["device_name"] = f"an NVIDIA GPU, which {why}"
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        facts |= {"device_name": torch.cuda.get_device_name(), "gpu_memory": free / GB}
    packed = can_pack("cpu", torch.bfloat16 if cpu_has_bf16() else torch.float32)
    facts |= {"bfloat16": has_bf16(device), "cpu_bfloat16": cpu_has_bf16()}
    return facts | {"packed": packed, "int8": can_int8("cpu")}


def _import_problem() -> list[str]:
    """Whether Transformers gets as far as Llama, tried in a process of its own: a crash must not end this one."""
    code = "from transformers import LlamaForCausalLM, Xcodec2Model"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"Transformers takes more than {IMPORT_SECONDS} s to import Llama here. Try again on an idle machine."]
    if done.returncode == 0:
        return []
    said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    hint = (
        " Uninstall torchaudio: it does not fit this torch, and is not needed." if "torchaudio" in done.stderr else ""
    )
    return [f"Transformers cannot import Llama or Xcodec2Model here ({said[:200]}).{hint}"]


def _free_memory() -> float | None:
    limits = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of its version 2 and 1
        try:
            with open(CGROUP + name, encoding="ascii") as file:
                limits.append(int(file.read()) / GB)
        except (OSError, ValueError):  # not in a container, or in one without a limit ("max")
            pass
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":") for line in file)
        return min([int(rows["MemAvailable"].split()[0]) * 1024 / GB, *limits])
    except (OSError, KeyError, ValueError):
        pass
    try:  # other systems tell what is built in, not what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    except (OSError, ValueError, AttributeError):
        return None


def _free_disk(folder: str) -> float | None:
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free / GB
    except OSError:
        return None


def _is_cached(cache: str, source: str) -> bool:
    snapshots = os.path.join(cache, "models--" + source.replace("/", "--"), "snapshots")
    return os.path.isdir(snapshots) and any(
        name.endswith(".safetensors") for _, _, names in os.walk(snapshots) for name in names
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _word(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
