"""Asks a solver (uv) whether our ranges and pins fit the places people run this in. Installs nothing; needs a network.

pip install uv && python spaces/matrix.py            # the table of CONTRIBUTING.md
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = ("torch", "transformers", "gradio", "numpy")
FILES = ("requirements.txt", "spaces/cpu/requirements.txt", "spaces/zerogpu/requirements.txt")


def pins_of(file: str) -> list[str]:
    """Without the index of CPU builds: the same versions."""
    return [line for line in (ROOT / file).read_text().splitlines() if "==" in line]


@dataclass(frozen=True)
class Case:
    where: str
    python: str
    asked: str  # a file of requirements, or extras of pyproject.toml ("" for none)
    pins: tuple[str, ...] = ()  # what is there already and must stay
    lowest: bool = False  # of every range instead of the newest
    fits: bool = True  # what is expected


COLAB = ("torch==2.11.0", "transformers==5.15.0", "numpy==2.1.*")  # of August 2026
ZEROGPU = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
CASES = [
    Case("Colab, library", "3.13", "", (*COLAB, "gradio==6.24.0")),
    Case("Colab, app: Gradio is upgraded", "3.13", "demo", COLAB),
    Case("Colab, app on its own Gradio", "3.13", "demo", (*COLAB, "gradio==6.24.0"), fits=False),
    *(Case("ZeroGPU", "3.12", "demo,mcp", (f"torch=={torch}", "spaces")) for torch in ZEROGPU),
    Case("our Space on ZeroGPU", "3.12", "spaces/zerogpu/requirements.txt"),
    Case("our Space on the CPU", "3.12", "spaces/cpu/requirements.txt"),
    *(Case("requirements.txt", python, "requirements.txt") for python in ("3.11", "3.12", "3.13")),
    *(Case("newest, [all]", python, "all") for python in ("3.10", "3.11", "3.12", "3.13")),
    Case("lowest of every range", "3.10", "demo", lowest=True),
    Case("the same, with training", "3.10", "demo,train", lowest=True),
    Case("tests, with requirements.txt", "3.11", "test", tuple(pins_of("requirements.txt"))),
]  # fmt: skip


def solve(case: Case) -> tuple[dict[str, str], str]:
    """What the solver chose, or why it could not."""
    from_file = case.asked in FILES
    asked = [] if from_file else ["pyproject.toml", *(f"--extra={name}" for name in case.asked.split(",") if name)]
    lowest = ["--resolution=lowest-direct"] if case.lowest else []
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", case.python, "--python-platform", "linux", *lowest, *asked]
    pins = "\n".join(pins_of(case.asked) if from_file else case.pins)
    done = subprocess.run([*command, "-"], cwd=ROOT, input=pins, capture_output=True, text=True)
    if done.returncode:
        return {}, " ".join(done.stderr.split())
    return dict(re.findall(r"^([\w-]+)==(\S+)", done.stdout, re.M)), ""


def main() -> int:
    print(f"| where | Python | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}")
    wrong = 0
    for case in CASES:
        found, why = solve(case)
        cells = [found.get(name, "not needed") for name in SHOWN] if found else ["does not fit", "", "", ""]
        print(f"| {case.where} | {case.python} | {' | '.join(cells)} |", flush=True)
        if bool(found) != case.fits:
            wrong += 1
            print(why or "This was expected not to fit.", file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
