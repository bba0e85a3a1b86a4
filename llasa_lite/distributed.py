"""Large corpora to codes and long lists to speech, on many machines by Ray Data. Knows what is done to one part, and
that a part which is there is done; scheduling, retries and machines are Ray's.

    python -m llasa_lite train tokens --data LibriHeavy --model llasa-1b --out codes/ --workers 64 --gpus 0.25
    python -m llasa_lite speak --list book.jsonl -o book/ --workers 8 --gpus 1

Started on a machine of a Ray cluster it uses the cluster, elsewhere the cores of that machine. Folders must be shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .checkpoints import load_codec, pick_device, pick_dtype
from .data import codec_facts, encode_corpus, token_facts
from .files import write_text
from .records import which

CLIPS_PER_PART = 1000  # about an hour of speech: what is lost at most when a machine dies


def encode_parts(
    clips: list, codec: str, out: str | Path, workers: int = 1, gpus: float = 0, clips_per_part: int = CLIPS_PER_PART
) -> Iterator[dict]:
    """Clips to `out/part-00000.safetensors` and so on, each a token corpus (`data.read_tokens`), unaligned.

    Part k is always made of the same clips, so that a second run makes only what is missing; another corpus in the
    same folder is refused. Clips that cannot be read or encoded are left out and counted.

    Args:
        codec: short name, folder or hub id; loaded once by every worker.
        gpus: of each worker; 0 encodes on the CPU.
    Yields:
        {"part", "clips", "dropped"} of each part, as they are made; parts that were there already are not told.
    Raises:
        ValueError: no Ray, or a folder that holds the parts of other clips.
    """
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    plan = codec_facts(codec) | {"clips_per_part": clips_per_part}
    plan |= {"clips": which([str(clip.id), clip.text] for clip in clips)}
    known = out / "plan.json"
    if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != plan:
        raise ValueError(f"'{out}' holds the codes of other clips or another codec. Choose an empty folder.")
    write_text(known, json.dumps(plan))
    parts = range(-(-len(clips) // clips_per_part))
    todo = [
        {"part": k, "clips": clips[k * clips_per_part : (k + 1) * clips_per_part]}
        for k in parts
        if not _part(out, k).is_file()
    ]
    yield from _on_ray(_Encoder, (codec, out, gpus), todo, workers, gpus)


def parts_missing(out: Path) -> int:
    """How many parts a folder still lacks; 0 for one that `encode_parts` did not begin."""
    known = out / "plan.json"
    if not known.is_file():
        return 0
    plan = json.loads(known.read_text(encoding="utf-8"))
    clips = int(plan["clips"].partition(",")[0])  # as `which` tells them
    return sum(not _part(out, k).is_file() for k in range(-(-clips // plan["clips_per_part"])))


class _Encoder:
    """One worker: its codec, loaded once."""

    def __init__(self, codec: str, out: Path, gpus: float):
        device = pick_device("cuda" if gpus else "cpu")
        self.codec, self.out = load_codec(codec, device, pick_dtype(device, "float32")), out

    def __call__(self, part: int, clips: list) -> dict:
        partial = self.out / f".part-{part:05d}.safetensors"
        dropped = len(token_facts(encode_corpus(clips, self.codec, partial))["dropped"])
        partial.replace(_part(self.out, part))
        return {"part": part, "clips": len(clips) - dropped, "dropped": dropped}


def speak_parts(load: Callable, lines: list, folder: str | Path, workers: int = 1, gpus: float = 0, **how):
    """`batch.speak_list` by many workers, line k by worker k modulo their number; yields {"part", "made", ...} of each.

    Args:
        load: gives the `Llasa` of a worker; called once in each.
        how: voice and seed, as of `speak_list`. A voice is a name or a `Voice`.
    """
    todo = [{"part": k, "shard": f"{k + 1}/{workers}"} for k in range(workers)]
    yield from _on_ray(_Speaker, (load, lines, Path(folder).absolute(), how), todo, workers, gpus)


class _Speaker:
    def __init__(self, load: Callable, lines: list, folder: Path, how: dict):
        self.llasa, self.lines, self.folder, self.how = load(), lines, folder, how

    def __call__(self, part: int, shard: str) -> dict:
        from .batch import speak_list, tally

        told = {"part": part, "made": 0, "there_already": 0, "incomplete": 0, "seconds": 0.0}
        for spoken in speak_list(self.llasa, self.lines, self.folder, shard=shard, **self.how):
            told |= {k: told[k] + v for k, v in tally(spoken).items()}
        return told


def _on_ray(worker: type, arguments: tuple, todo: list[dict], workers: int, gpus: float) -> Iterator[dict]:
    """Call `worker(*arguments)(**row)` for every row, in `workers` processes that each make their worker once."""
    if workers < 1:
        raise ValueError(f"There must be at least 1 worker, not {workers}.")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError(f"Many workers need '{error.name}': pip install \"llasa-lite[ray]\".") from error
    if not todo:
        return

    class Caller:
        worker = None

        def __call__(self, row: dict) -> dict:
            try:  # Ray would tell a sentence from in here in a hundred lines, and not as the ValueError that it is
                self.worker = self.worker or worker(*arguments)
                return self.worker(**todo[row["id"]])
            except ValueError as error:
                return {"refused": str(error)}

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.range(len(todo), override_num_blocks=len(todo))
    for told in rows.map(Caller, concurrency=min(workers, len(todo)), num_gpus=gpus).iter_rows():
        if told.get("refused"):
            raise ValueError(told["refused"])
        yield told


def _part(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.safetensors"
