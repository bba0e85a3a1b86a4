"""Many texts into a folder of waves that is itself a corpus (`data.read_corpus`). Knows the pipeline; resumable.

    python -m llasa_lite speak --list book.txt -o book/ --voice emma --seed 7
    python -m llasa_lite speak --list book.txt -o book/ --shard 2/8      # the second of eight machines, one folder

A list is a text file, one sentence a line, or .jsonl with `text` and, if wanted, `id`, `voice`, `seed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import lines_of
from .pipeline import _seed
from .records import Records
from .speech import Speech
from .text import says_something


@dataclass(frozen=True)
class Line:
    """One thing to say. `id` names its file; `voice` and `seed` take the place of those given for the whole list."""

    id: str
    text: str
    voice: str | None = None
    seed: int | None = None


def read_list(path: str | Path) -> list[Line]:
    """Lines of a list; those without a letter or digit are left out. Unnamed ones are named by their place.

    Raises:
        ValueError: no such file, a line that is none, an id that is no plain file name or comes twice.
    """
    try:
        rows = lines_of(path)
    except FileNotFoundError:
        raise ValueError(f"There is no file '{path}' to read a list from.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read a list from '{path}': {error}.") from error
    lines = []
    for place, row in enumerate(rows):
        if not says_something(row):
            continue  # blank, or a break between scenes
        line = Line(f"{place:06d}", row.strip())
        if str(path).lower().endswith(".jsonl"):
            try:
                told = json.loads(row)
                named = line.id if told.get("id") is None else str(told["id"])
                line = Line(named, told["text"], told.get("voice"), told.get("seed"))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path}, line {place + 1}, needs at least a text: {error!r}.") from error
            if not isinstance(line.text, str) or not says_something(line.text):
                raise ValueError(f"{path}, line {place + 1}: there is nothing to say in the text {line.text!r}.")
            if not isinstance(line.voice, str | None) or type(line.seed) not in (int, type(None)):
                raise ValueError(f"{path}, line {place + 1}: a voice is a name and a seed a whole number.")
        if not re.fullmatch(r"\w[\w.-]*", line.id):
            raise ValueError(f"{path}, line {place + 1}: the id '{line.id}' is no plain file name.")
        lines.append(line)
    if not lines:
        raise ValueError(f"'{path}' holds nothing to say.")
    if len({line.id for line in lines}) < len(lines):
        raise ValueError(f"An id comes twice in '{path}'.")
    return lines


def speak_list(
    llasa,
    lines: Iterable[Line],
    folder: str | Path,
    voice=None,
    seed: int = 0,
    shard="1/1",
) -> Iterator[tuple[Line, Speech | None]]:
    """Speak every line into `folder/clips/<id>.wav`, with its receipt; line k is drawn with seed + k.

    Lines are spoken 16 at a time, on CUDA 64. Yields (line, speech) as they are made; speech is None for a line that
    was there already with the same text and voice. Each shard writes a manifest of its own, so that machines can share
    a folder; line k is spoken by shard k modulo their number, the same way whichever shard runs first. What is there
    from another number of shards stays: a list may go on with more machines or fewer.

    Args:
        voice: for lines that name none: a built-in name, a `Voice`, or None (the model chooses).
        shard: "2/8": the second of eight parts.
    Raises:
        ValueError: a shard that is none, or, naming the line and before anything is spoken, a text that cannot be, a
            voice that is not there or a seed out of range; another text or voice under an id that is there, whereupon
            what was made until then is kept.
    """
    part, parts = _shard(shard)
    mine = [(index, line) for index, line in enumerate(lines) if index % parts == part - 1]
    folder = Path(folder)
    name = "manifest.jsonl" if parts == 1 else f"manifest-{part:05d}-of-{parts:05d}.jsonl"
    manifest = Records(folder / name)
    others = _rows_beside(manifest)
    voices = {None: None if voice is None else llasa.prepare(voice)}  # each is encoded once
    for index, line in mine:  # what cannot be said is told now, and not after a night
        try:
            llasa._pieces(line.text)
            if line.voice not in voices:
                voices[line.voice] = llasa.prepare(line.voice)
            _seed(seed + index if line.seed is None else line.seed)
        except ValueError as error:
            raise ValueError(f"Line '{line.id}': {error}") from error
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[Line, int]] = []  # with their seeds

    def speak() -> Iterator[tuple[Line, Speech]]:
        asked = [voices[line.voice] for line, _ in waiting]
        made = llasa.tts_batch([line.text for line, _ in waiting], asked, [seed for _, seed in waiting])
        for (line, _), speech in zip(waiting, made):
            path = speech.save(folder / "clips" / f"{line.id}.wav")
            row = {"id": line.id, "text": line.text, "speaker": speech.receipt["voice"] or "", "split": "train"}
            row |= {"seconds": round(speech.seconds, 3), "audio": f"clips/{path.name}", "complete": speech.complete}
            manifest.add(row)  # after its wave: a kill costs what was waiting at most
            yield line, speech
        waiting.clear()

    for index, line in mine:
        if there := manifest.rows.get(line.id) or others.get(line.id):
            speaker = line.voice or (voices[None].name if voices[None] else "")
            for what, wanted, kept in (("text", line.text, there["text"]), ("voice", speaker, there["speaker"])):
                if wanted != kept:
                    raise ValueError(
                        f"'{folder}' holds another {what} under the id '{line.id}'. Choose another folder."
                    )
            if not (folder / there["audio"]).is_file():
                raise ValueError(
                    f"'{folder}' lacks '{there['audio']}', which its manifest names. Choose another folder."
                )
            yield line, None
            continue
        waiting.append((line, seed + index if line.seed is None else line.seed))
        if len(waiting) == llasa.engine.rows_at_once:
            yield from speak()
    yield from speak()


def _rows_beside(manifest: Records) -> dict[str, dict]:
    """Rows by id of the other manifests in the folder, some of which other machines may be writing now."""
    rows = {}
    for path in sorted(set(manifest.path.parent.glob("manifest*.jsonl")) - {manifest.path}):
        rows |= Records(path, ours=False).rows
    return rows


def tally(spoken: tuple[Line, Speech | None]) -> dict:
    """What one line of `speak_list` adds to the sums."""
    _, speech = spoken
    if speech is None:
        return {"made": 0, "there_already": 1}
    row = {"made": 1, "there_already": 0, "incomplete": int(not speech.complete)}
    return row | {"seconds": speech.seconds}


def _shard(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"A shard is written as 2/8 (the second of eight), not '{shard}'.")
    return int(found[1]), int(found[2])
