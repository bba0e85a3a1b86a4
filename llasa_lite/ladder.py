"""Train-time scaling in small: three sizes on three shares of a corpus, one table (its laws: `power_law`).

    python -m llasa_lite train ladder --data TOKENS.safetensors --out runs/ladder --judge openai/whisper-base

A cell is one size on one share, a folder of its own: weights, `log.jsonl`, `cell.jsonl` (its losses), `heard.jsonl`
(what a judge heard). A finished cell is not made again, a stopped one goes on; cells can be made by several processes,
one each at a time, and the table is made of whatever cells lie in the folder.

All cells take the same number of steps at the same rate on batches of the same size. So compute grows with the size
alone, and more speech means fewer rounds over each clip: the shares show what unheard speech is worth at equal cost.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .data import Mixture, Utterance, with_rows
from .files import write_table
from .records import Records, which
from .tokens import Protocol, character_tokenizer

log = logging.getLogger(__name__)

SIZES = {"1M": (128, 3), "3M": (192, 5), "nano": (256, 8)}  # name -> width, layers
SHARES = (0.25, 0.5, 1.0)
COLUMNS = (
    "size", "share", "parameters", "hours", "steps", "tokens", "flops", "seconds", "train_loss", "held_out",
    "held_out_wrong_text", "clips", "wer", "wer_low", "wer_high", "wer_n",
)  # fmt: skip
LOG_COLUMNS = ("size", "share", "step", "tokens", "flops", "seconds", "held_out", "held_out_wrong_text")


@dataclass(frozen=True)
class Ladder:
    """What all cells of a grid share, so that they can be compared."""

    steps: int = 800
    ids_per_batch: int = 2048
    clips: int = 100  # held out, and as many learned ones, whose losses are the table's
    voice: str = "joe"  # built-in voice that speaks for the judge
    seed: int = 0


def cell_names(sizes: Iterable[str] = tuple(SIZES), shares: Iterable[float] = SHARES) -> list[str]:
    """Names of the cells of a grid, the cheapest first: "1M-0.25". Raises ValueError on what is no size or share."""
    sizes, shares = list(sizes), list(shares)
    if unknown := set(sizes) - set(SIZES):
        raise ValueError(f"Unknown size '{sorted(unknown)[0]}'. Choose from: {', '.join(SIZES)}.")
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"A share of the corpus lies above 0 and up to 1, not {wrong[0]:g}.")
    return [f"{size}-{share:g}" for size in SIZES if size in sizes for share in sorted(set(shares))]


def nested_share(utterances: Sequence[Utterance], share: float) -> list[Utterance]:
    """A share of every speaker's clips, in an order that depends on the clips alone: each share holds the smaller."""
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in sorted(utterances, key=_order):
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    kept = [u for clips in by_speaker.values() for u in clips[: math.ceil(share * len(clips))]]
    return sorted(kept, key=_order)


def held_out_sentences(utterances: Sequence[Utterance], count: int = 40) -> list[str]:
    """Transcripts that no cell learns, short enough to be said in one piece, for a judge to hear."""
    learned = {u.text for u in utterances if u.split == "train"}
    texts = {u.text: None for u in sorted(utterances, key=_order) if u.split == "test" and 20 <= len(u.text) <= 60}
    return [text for text in texts if text not in learned][:count]


def run_ladder(
    utterances: Sequence[Utterance],
    levels: list[int],
    out: str | Path,
    ladder: Ladder = Ladder(),
    cells: Sequence[str] | None = None,
    judge: Callable[[np.ndarray], str] | None = None,
    sentences: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    codec: str = "nano",
) -> list[dict]:
    """Make the cells that are missing, and `ladder.csv` and `ladder_log.csv` of all that are there.

    Args:
        utterances: token corpus; shares are taken of `train`, `test` is held out from all cells. Those of which no row
            can be made, as without text, are left out.
        levels: FSQ levels of the codec the codes came from.
        cells: names as of `cell_names`; None: the whole grid.
        judge: wave -> what it heard (`evaluation.Judge`); None: no word error rate.
        sentences: that the judge hears from every cell.
        progress: called after every step of a cell with the steps done and all of them.
        codec: the codec the codes came from: "nano", folder or hub id.
    Returns:
        Rows of `ladder.csv`.
    Raises:
        ValueError: nothing held out, an unknown cell, or a folder begun with other settings.
    """
    from filelock import FileLock, Timeout

    out, grid = Path(out), cell_names() if cells is None else list(dict.fromkeys(map(_cell_name, cells)))
    protocol = Protocol(character_tokenizer(math.prod(levels)))
    train, held_out = (with_rows([u for u in utterances if u.split == split], protocol) for split in ("train", "test"))
    held_out = sorted(held_out, key=_order)[: ladder.clips]
    if not train or not held_out:
        raise ValueError("A ladder needs clips to learn (split 'train') and clips held out (split 'test').")
    out.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(grid, 1):
        try:
            mine = FileLock(out / f"{name}.lock").acquire(timeout=0)  # the system frees it if its process dies
        except Timeout:
            log.info("cell %s (%d of %d) is being made by another process", name, place, len(grid))
            continue
        with mine:
            size, share = _size_and_share(name)
            learned = nested_share(train, share)
            told = {"utterances": learned, "held_out": held_out}
            settings = asdict(ladder) | {name: which(_order(u).hex() for u in some) for name, some in told.items()}
            made = Records(out / name / "cell.jsonl", settings=settings)
            if name in made:
                log.info("cell %s (%d of %d) is there already", name, place, len(grid))
            else:
                log.info("cell %s (%d of %d): %d clips", name, place, len(grid), len(learned))
                made.add({"id": name} | _cell(size, learned, held_out, levels, out / name, ladder, progress, codec))
                shutil.rmtree(out / name / "checkpoints")
            if judge:
                _hear(out / name, judge, sentences, ladder)
    return write_ladder(out)


def _cell(size: str, learned, held_out, levels, folder: Path, ladder: Ladder, progress, codec: str) -> dict:
    """Train one cell and take its losses."""
    from .training import SpeechLM, Training, nano_config, read_log, reading_gap, train_lm

    width, layers = SIZES[size]
    every = max(1, ladder.steps // 12)
    settings = Training(
        steps=ladder.steps,
        ids_per_batch=ladder.ids_per_batch,
        warmup_steps=min(Training.warmup_steps, max(1, ladder.steps // 8)),
        # cells are compared with each other: a corpus without alignment, as the one that ships, serves as well
        guide_weight=Training.guide_weight if any(u.alignment is not None for u in learned) else 0.0,
        guide_until=max(1, ladder.steps // 2),
        save_every=every,
        evaluate_every=every,
        recognition_weight=1.0,  # this and the mixture as in the grid that ships: its cells compare loss on speech
        mixture=Mixture(recognition=0.2, unconditional=0.0, text_noise=0.0, lingering=0.0, ragged=0.0),
        seed=ladder.seed,
    )
    train_lm([*learned, *held_out], levels, folder, settings, width, layers, progress=progress, codec=codec)
    protocol = Protocol(character_tokenizer(math.prod(levels)))
    model = SpeechLM(nano_config(protocol, width, layers), protocol.code_offset, levels)
    model.start_from(folder)
    right, wrong = reading_gap(model.eval(), protocol, held_out)
    known, _ = reading_gap(model, protocol, learned[: len(held_out)])  # about the same in every share
    last = read_log(folder)[-1]
    parameters, tokens = sum(p.numel() for p in model.llama.parameters()), last["num_input_tokens_seen"]
    return {
        "parameters": parameters,
        "hours": round(sum(u.seconds for u in learned) / 3600, 3),
        "steps": ladder.steps,
        "tokens": tokens,
        "flops": 6 * parameters * tokens,
        "seconds": last["seconds"],
        "train_loss": round(known, 4),
        "held_out": round(right, 4),
        "held_out_wrong_text": round(wrong, 4),
        "clips": len(held_out),
    }


def _hear(folder: Path, judge, sentences: Sequence[str], ladder: Ladder) -> None:
    """Let a judge hear every sentence spoken by a cell, where it has not yet."""
    from .evaluation import Ears, run_task
    from .evaluation.listening import NORMALIZERS
    from .evaluation.tasks import tts
    from .pipeline import Llasa

    settings = {"judge": getattr(judge, "name", "judge"), "sentences": which(sentences), "voice": ladder.voice}
    settings |= {"normalizer": NORMALIZERS.get(getattr(judge, "language", "en"))}
    heard = Records(folder / "heard.jsonl", settings=settings)
    if len(heard.rows) < len(sentences):
        llasa = Llasa.from_pretrained(folder, device="cpu")
        speak = lambda text, voice, seed: llasa.tts(text, voice, seed)  # noqa: E731
        run_task(tts("cell", speak, sentences, Ears(judge), [llasa.prepare(ladder.voice)], ladder.seed), heard)


def write_ladder(out: str | Path) -> list[dict]:
    """Write the tables of all finished cells in a folder; returns the rows of the first."""
    from .evaluation import summarise
    from .evaluation.tables import WER
    from .training import read_log

    out, rows, curves = Path(out), [], []
    for folder in sorted(file.parent for file in out.glob("*/cell.jsonl")):
        size, share = _size_and_share(folder.name)
        if folder.name not in (made := Records(folder / "cell.jsonl")):
            continue
        row = made[folder.name] | {"size": size, "share": share}
        if (folder / "heard.jsonl").is_file():
            heard = list(Records(folder / "heard.jsonl").rows.values())
            row |= summarise(heard, [WER]) | {"wer_n": len(heard)}
        rows.append(row)
        for point in (point for point in read_log(folder) if "held_out" in point):
            tokens = point["num_input_tokens_seen"]
            told = {"size": size, "share": share, "tokens": tokens, "flops": 6 * row["parameters"] * tokens}
            curves.append(point | told)
    for name, columns, table in (("ladder.csv", COLUMNS, rows), ("ladder_log.csv", LOG_COLUMNS, curves)):
        table.sort(key=lambda row: (list(SIZES).index(row["size"]), row["share"]))
        write_table(out / name, columns, table)
    return rows


def read_ladder(path: str | Path) -> list[dict]:
    """Rows of `ladder.csv` or `ladder_log.csv`, numbers as numbers; what is missing (no judge) is left out."""
    with open(path, encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [{k: v if k == "size" else float(v) for k, v in row.items() if v} for row in rows]


def _order(utterance: Utterance) -> bytes:
    told = f"{utterance.speaker}\0{utterance.text}".encode()
    return hashlib.blake2b(told + utterance.codes.tobytes(), digest_size=8).digest()


def _cell_name(given: str) -> str:
    """As `cell_names` writes it: 1M-1.0 is the cell 1M-1."""
    size, _, share = given.partition("-")
    try:
        (name,) = cell_names([size], [float(share)])
    except ValueError as error:
        raise ValueError(f"'{given}' is no cell of a ladder. Name one as 1M-0.25. {error}") from None
    return name


def _size_and_share(name: str) -> tuple[str, float]:
    size, _, share = _cell_name(name).partition("-")
    return size, float(share)
