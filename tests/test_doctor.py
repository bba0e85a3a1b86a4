"""Laws of the doctor: it looks and never fetches, and says in sentences what runs, what does not, and why."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from llasa_lite import checkpoints
from llasa_lite.checkpoints import CHECKPOINTS
from llasa_lite.doctor import Machine, _free_memory, _torch_facts, examine, judge

PLAIN = Machine(
    python="3.12.0", system="Linux x86_64", packages={}, problems=[], device="cpu", device_name=None, cores=2,
    memory=16.0, gpu_memory=None, bfloat16=True, cpu_bfloat16=True, packed=True, int8=True, cache="/cache",
    cache_free=100.0, cached=[], extras={}, ffmpeg=False, checkpoints={},
)  # fmt: skip


def doctor(*arguments, path=""):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    return subprocess.run(
        [sys.executable, "-m", "llasa_lite", "doctor", *arguments],
        capture_output=True, text=True, timeout=300, env=environment, cwd=path or ROOT,
    )  # fmt: skip


def test_it_says_of_every_checkpoint_whether_it_runs_here():
    done = doctor("--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and not told["problems"], told["problems"]
    assert set(told["checkpoints"]) == set(CHECKPOINTS) and told["checkpoints"]["nano"]["runs"]
    assert all(name in one["why"] and one["why"].endswith(".") for name, one in told["checkpoints"].items())
    assert told["device"] in ("cuda", "mps", "cpu") and told["packages"]["torch"]


def test_a_broken_torch_is_told_not_raised(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: undefined symbol')")
    done = doctor(path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torch is installed but does not work here (libtorch_cpu.so" in done.stdout
    assert "✗ nano does not run until the above is put right." in done.stdout


@pytest.mark.parametrize("cuda, why", [(None, "a torch without CUDA cannot use"), ("13.0", "CUDA 13.0 does not reach")])
def test_a_gpu_that_torch_passes_over_is_told(monkeypatch, cuda, why):
    """As on Windows, where pip installs a torch without CUDA."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for smi in (None, "/usr/bin/nvidia-smi"):
        monkeypatch.setattr("shutil.which", lambda name, smi=smi: smi)
        machine = replace(PLAIN, **_torch_facts())
        assert ("no GPU" in machine.text()) == (smi is None) != (why in machine.text())
        assert ("and there is none:" in judge(CHECKPOINTS["llasa-1b"], machine)[1]) == (smi is None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as was asked for
    assert _torch_facts()["device_name"] is None


def test_a_mac_is_not_told_that_it_has_no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert "device     mps (Apple's GPU)" in replace(PLAIN, **_torch_facts()).text()


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="no /proc here")
def test_a_container_has_no_more_memory_than_it_may_use(tmp_path, monkeypatch):
    """Where the machine around it has more, llasa-8b was promised and then killed."""
    monkeypatch.setattr("llasa_lite.doctor.CGROUP", f"{tmp_path}/")
    assert (whole := _free_memory()) > 0.1
    for told, free in (("100000000\n", 0.1), ("max\n", pytest.approx(whole, rel=0.5))):
        (tmp_path / "memory.max").write_text(told)
        assert _free_memory() == free


def test_an_import_that_hangs_is_told_not_raised(monkeypatch):
    monkeypatch.setattr("llasa_lite.doctor.IMPORT_SECONDS", 0.01)
    machine = examine()
    assert machine.problems == [
        "Transformers takes more than 0.01 s to import Llama here. Try again on an idle machine."
    ]
    assert not machine.checkpoints["nano"]["runs"]


@pytest.mark.parametrize(
    "name, here, runs, why",
    [
        ("llasa-8b", {"device": "cuda", "gpu_memory": 80.0}, True, "on cuda, after a download of about 20 GB"),
        ("llasa-8b", {"device": "cuda", "gpu_memory": 15.0}, False, "needs about 20 GB of GPU memory, and 15.0 are"),
        ("llasa-1b", {}, True, "is meant for a GPU, and there is none: it runs on the CPU"),
        ("llasa-1b", {"cached": ["llasa-1b"], "cache_free": 0.1}, True, "it runs on the CPU, slowly (--device"),
        ("llasa-1b", {"cache_free": 1.0}, False, "needs 6 GB of disk"),
        ("llasa-3b", {"memory": 8.0}, False, "on the CPU it needs about 13 GB, and 8.0 are free"),
        ("llasa-3b", {"bfloat16": False, "cpu_bfloat16": False}, False, "on the CPU it needs about 26 GB"),
        ("llasa-3b", {"device": "cuda", "gpu_memory": 4.0, "cpu_bfloat16": False}, False, "it needs about 26 GB"),
        ("llasa-3b", {"device": "cuda", "gpu_memory": 4.0, "bfloat16": False}, True, "it runs on the CPU"),
        ("llasa-3b", {"device": "mps"}, True, "runs here, on mps"),
        ("nano", {"memory": 1.0}, True, "without a download"),
        ("nano", {"problems": ["torch is missing."]}, False, "until the above is put right"),
    ],
)  # fmt: skip
def test_what_fits_follows_from_what_was_found(name, here, runs, why):
    judged, sentence = judge(CHECKPOINTS[name], replace(PLAIN, **here))
    assert judged == runs and why in sentence, sentence


def test_the_cache_is_the_one_of_the_hub_client(monkeypatch):
    from huggingface_hub import constants

    assert Path(examine().cache) == Path(constants.HF_HUB_CACHE)
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert examine().cache == "/elsewhere/huggingface/hub"


@pytest.mark.parametrize(
    "onednn, told, has",
    [
        (True, {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),  # Ice Lake emulates it
        (True, {"avx512_f": False, "avx512_bf16": False, "avx_ne_convert": True}, False),  # Lunar Lake: no gradients
        (True, {"avx512_bf16": True, "amx_bf16": True}, True),
        (True, {"neon": True, "bf16": True}, True),  # ARM
        (False, {"avx512_bf16": True}, False),
    ],
)
def test_a_processor_that_only_emulates_bfloat16_does_not_have_it(monkeypatch, onednn, told, has):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert checkpoints.cpu_has_bf16() is has
    with checkpoints.autocast("cpu"):
        assert torch.is_autocast_enabled("cpu") is has
