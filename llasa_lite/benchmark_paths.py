"""Decoding: Transformers' own paths against the engine on one model, on a CPU or a GPU; knows no sound.

Weights are random but for nano's: only their shape counts for time.
"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np

from .audio import FRAME_RATE
from .checkpoints import SHAPES as RELEASED
from .checkpoints import cpu_has_bf16, pick_dtype
from .measure import Peak, Row, bandwidth, sync

SECONDS_TO_MEASURE = 4  # at least, for the paths of one model and batch
PROMPT_IDS = 100  # 2 s of voice
STEPS = {"cpu": 24, "cuda": 128}
IGNORES_FAILURES = ("cuda",)  # there a run is dear, and some paths are not ours
CPU_LAYERS = 4  # of the released shapes: they show what a layer and the head take
SHAPES = {
    "medium": dict(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=66_000,
        tie_word_embeddings=True,
    ),
    **RELEASED,
}


def paths(bench) -> Iterator[Row]:
    """Transformers' `generate` against the engine, every row sampled at temperature 0.8 without top_p.

    On a GPU a path that fails leaves a row that says why, and costs the others nothing.
    """
    from transformers import LlamaForCausalLM  # noqa: F401  (its memory is no path's own)

    device, limit = bench.device, bandwidth(bench.device)
    steps = bench.steps or STEPS["cpu" if device == "cpu" else "cuda"]
    for model in bench.models:
        try:
            nano() if model == "nano" else random_lm(model, device)  # what all paths share is no path's own
        except Exception:  # too large for this GPU: each of its paths will say so
            if not ignores_failures(device):
                raise
        built, failed = {}, {}
        listed = _cpu_paths(model) if device == "cpu" else gpu_paths(model, device)
        for name, build in listed:
            peak = Peak(device)
            try:
                step = build()
                step(max(bench.batches), steps + 1)  # warm, and the memory of the largest batch
            except Exception as error:
                if not ignores_failures(device):
                    raise
                failed[name] = note(error)
                continue
            built[name], step.peak = step, peak.megabytes()
            if device != "cpu":  # the weights were there before
                step.peak += sum(p.nbytes for p in step.model.parameters()) / 1e6
        for batch in bench.batches:
            seconds = _seconds(built, failed, batch, steps, bench.rounds, device)
            first = seconds.get(listed[0][0])
            for name, _ in listed:
                if name not in seconds:
                    yield Row("paths", model, name, batch, None, note=failed[name])
                    continue
                step, took = built[name], seconds[name]
                yield Row(
                    "paths", model, name, batch, took, batch / took, batch / took / FRAME_RATE,
                    first and first / took,
                    step.bytes_read(batch, PROMPT_IDS + steps // 2) / limit / took, step.peak,
                )  # fmt: skip
        built.clear()
        step = None
        forget()


def _seconds(built: dict, failed: dict, batch: int, steps: int, rounds: int, device: str) -> dict[str, float]:
    """Of one step of each path; those that fail move from `built` to `failed`."""
    long, short, began = dict.fromkeys(built, np.inf), dict.fromkeys(built, np.inf), time.perf_counter()
    for round_ in itertools.count():
        if round_ >= rounds and time.perf_counter() - began > SECONDS_TO_MEASURE:
            break
        for name, step in list(built.items()):
            try:
                long[name] = min(long[name], step(batch, steps + 1))
                short[name] = min(short[name], step(batch, 1))  # reading the prompt is not counted
            except Exception as error:
                if not ignores_failures(device):
                    raise
                failed[name] = note(error)
                del built[name]
    return {name: (long[name] - short[name]) / steps for name in built}


def ignores_failures(device: str) -> bool:
    return device.split(":")[0] in IGNORES_FAILURES


def note(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _cpu_paths(model: str) -> list[tuple[str, Callable]]:
    import torch

    from .decoder import can_int8, can_pack

    kinds = [torch.float32, torch.bfloat16] if cpu_has_bf16() else [torch.float32]
    found = [(f"generate, {_name(kind)}", lambda kind=kind: Generate(model, kind)) for kind in kinds]
    found.append(("engine, plain, float32", lambda: EngineStep(model, torch.float32, pack=False)))
    found += [(f"engine, packed, {_name(k)}", lambda k=k: EngineStep(model, k)) for k in kinds if can_pack("cpu", k)]
    if can_int8("cpu"):
        found.append(("engine, int8", lambda: EngineStep(model, kinds[-1], int8=True)))
    return found


def gpu_paths(model: str, device: str) -> list[tuple[str, Callable]]:
    """All on the same weights, in the dtype of the device."""
    dtype = pick_dtype(device)
    given = model, dtype, device
    return [
        (f"generate, {_name(dtype)}", lambda: Generate(*given)),
        (f"generate, static cache, {_name(dtype)}", lambda: Generate(*given, cache_implementation="static")),
        (f"generate_batch, {_name(dtype)}", lambda: GenerateBatch(*given)),
        (f"engine, no graph, {_name(dtype)}", lambda: StaticStep(*given, captures=False)),
        (f"engine, graph, {_name(dtype)}", lambda: StaticStep(*given)),
        (f"engine, graph, compiled, {_name(dtype)}", lambda: StaticStep(*given, compile=True)),
    ]


class Generate:
    """The model card's recipe: `generate` over the whole vocabulary."""

    def __init__(self, model: str, dtype, device: str = "cpu", **settings):
        self.model, self.answer = build(model, dtype, device)
        self.head_rows = self.model.config.vocab_size
        self.weight_bytes = self.model.dtype.itemsize
        self.device, self.settings = device, settings

    def __call__(self, batch: int, steps: int) -> float:
        import torch

        ids = torch.arange(PROMPT_IDS, device=self.device)[None].repeat(batch, 1)
        settings = dict(do_sample=True, temperature=0.8, top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0)
        began = time.perf_counter()
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, **settings, **self.settings
        )
        sync(self.device)
        took = time.perf_counter() - began
        assert out.shape == (batch, PROMPT_IDS + steps)
        return took

    def bytes_read(self, rows: int, length: int) -> float:
        """Of weights and cache, for one step."""
        config, layers = self.model.config, self.model.model.layers
        cache = rows * length * len(layers) * 2 * config.num_key_value_heads * config.head_dim
        weights = sum(p.numel() for p in layers.parameters()) + self.head_rows * config.hidden_size
        return cache * self.model.dtype.itemsize + weights * self.weight_bytes


class GenerateBatch(Generate):
    """Transformers' continuous batching."""

    def __call__(self, batch: int, steps: int) -> float:
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=steps, do_sample=True, temperature=0.8, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0
        )
        began = time.perf_counter()
        out = self.model.generate_batch([list(range(PROMPT_IDS))] * batch, generation_config=config)
        took = time.perf_counter() - began
        made = [len(one.generated_tokens) for one in out.values()]
        if made != [steps] * batch:
            raise RuntimeError(f"generate_batch made {made} ids, not {steps} in each of {batch} rows.")
        return took


class EngineStep(Generate):
    def __init__(self, model: str, dtype, device: str = "cpu", pack: bool = True, int8: bool = False):
        from .decoder import can_pack
        from .engine import Engine

        super().__init__(model, dtype, device)
        self.head_rows = len(self.answer)
        self.weight_bytes = 1 if int8 else self.weight_bytes
        with mock.patch("llasa_lite.decoder.can_pack", can_pack if pack else lambda device, dtype: False):
            self.engine = Engine(self.model, {"speech": self.answer}, int8=int8)

    def __call__(self, batch: int, steps: int) -> float:
        from .engine import Sampling

        for seed in itertools.count():
            began = time.perf_counter()
            beams = self.engine.start(range(PROMPT_IDS), batch, "speech", Sampling(0.8, 1.0), seed, steps)
            beams.advance(steps)
            took = time.perf_counter() - began
            if all(len(ids) == steps for ids in beams.ids):  # random weights say END once in 65,537 ids
                return took


class StaticStep(EngineStep):
    """The engine's step in static buffers: captured, or called as it is; all on one engine's weights."""

    def __init__(self, model: str, dtype, device: str, captures: bool | None = None, compile: bool = False):
        from .engine import Heads
        from .graphs import Stock

        Generate.__init__(self, model, dtype, device)
        self.engine = copy.copy(random_engine(model, device))
        self.engine.heads = Heads(self.engine.heads.cut)
        self.head_rows = len(self.answer)
        self.engine.stock = Stock(self.engine.decoder, self.engine.heads, self.engine.answers, compile)
        if captures is not None:
            self.engine.stock.captures = captures


def build(model: str, dtype, device: str = "cpu"):
    """A model and the ids it may say. On a CPU every path has a copy of its own, since it packs it its own way."""
    if model == "nano":
        llasa = nano()
        return (
            copy.deepcopy(llasa.engine.model).to(device, dtype),
            [
                llasa.protocol.pad,  # END is an id that it never says, so that rows keep their length
                *llasa.protocol.speech_ids()[1:],
            ],
        )
    lm, vocabulary = random_lm(model, device), SHAPES[model]["vocab_size"]
    lm = copy.deepcopy(lm).to(dtype) if device == "cpu" else lm
    return lm, [0, *range(vocabulary - 65_536, vocabulary)]


@functools.lru_cache(1)
def random_lm(model: str, device: str):
    """Made on its device, in 16 bits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    shape = SHAPES[model] | ({"num_hidden_layers": CPU_LAYERS} if device == "cpu" and model in RELEASED else {})
    config = LlamaConfig(**shape, max_position_embeddings=2048, rope_parameters=rope)
    torch.manual_seed(0)
    with torch.device(device):
        lm = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16 if device == "cpu" else pick_dtype(device))
    return lm.eval()


@functools.lru_cache(1)
def random_engine(model: str, device: str):
    from .engine import Engine

    lm, answer = build(model, pick_dtype(device), device)
    return Engine(lm, {"speech": answer}, static=True)


def forget() -> None:
    """Give back what the last model took."""
    random_engine.cache_clear()
    random_lm.cache_clear()
    gc.collect()


@functools.cache
def nano():
    from .pipeline import Llasa

    return Llasa.from_pretrained(device="cpu")


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")
