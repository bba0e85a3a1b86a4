"""Corpora of others as ours: folders of audio to clips, files of codes to utterances. Knows file formats, no model.

    audio:  manifest.jsonl (ours), LibriSpeech (*.trans.txt), LJ Speech (metadata.csv beside wavs/, which may be of any
            format), audiofolders, hub datasets; for a codec any folder of recordings
    codes:  safetensors (ours), the authors' memmap rows, metadata.csv beside <id>.wav.npy

What cannot be used is dropped and counted, never cut: a row without its END would teach not to stop.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import audio
from .checkpoints import NotReachable
from .data import Clip, Utterance, check_codec, id_counts, read_corpus, read_tokens
from .distributed import parts_missing
from .files import lines_of, whole
from .tokens import SPEECH_GENERATION_START, TEXT_UNDERSTANDING_END, TEXT_UNDERSTANDING_START, Protocol

log = logging.getLogger(__name__)

RECORDINGS = ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"
WORDS = "text", "transcription", "transcript", "sentence"  # columns of hub datasets, the first that is there
WHO = "speaker", "speaker_id", "client_id"  # as Common Voice has it
MEMMAP_IDS = 2048  # width of the authors' rows: the context of the released checkpoints


class NoCorpus(ValueError):
    """Raised where a folder is none of the corpora that can be read."""


# -- audio -----------------------------------------------------------------------------------------------------------


def read_clips(folder: str | Path) -> list[Clip]:
    """Clips of a folder in any of the audio formats, or of a hub dataset ("hub:owner/name", held in memory);
    LibriSpeech's `test-*` and `dev-*` are kept out of training. A clip that cannot be read lasts 0 s, and says why when
    it is loaded.

    Raises:
        ValueError: no corpus there, a broken line, or no clip that can be read.
    """
    if str(folder).startswith("hub:"):
        return list(read_hub_clips(str(folder).removeprefix("hub:")))
    given, folder = folder, Path(os.path.abspath(folder))  # "." names neither test-clean nor a speaker
    if any(folder.glob("manifest*.jsonl")):
        return read_corpus(folder)
    if (folder / "metadata.csv").is_file():
        told = _metadata(folder / "metadata.csv", 2)
        return _some_read([_clip(name, text, folder.name, "train", _sound(folder, name)) for name, text in told])
    clips = []
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        parts = (folder.name, *transcripts.relative_to(folder).parts)
        held_out = any(part.startswith(("test-", "dev-")) for part in parts)
        for line in filter(str.strip, lines_of(transcripts)):
            name, _, text = line.strip().partition(" ")
            path = transcripts.parent / f"{name}.flac"
            # LibriSpeech is all capitals, which a tokenizer cuts letter by letter
            clips.append(_clip(name, text.lower(), name.split("-")[0], "test" if held_out else "train", path))
    if not clips:
        raise NoCorpus(f"'{given}' holds no corpus: neither manifest.jsonl nor metadata.csv nor *.trans.txt.")
    return _some_read(clips)


def read_recordings(folder: str | Path) -> list[Clip]:
    """Training clips of a folder in any of the audio formats, or, where it is no corpus, of every recording in it and
    its folders, without words: what a codec learns from. A speaker is then the folder that a recording lies in.

    Raises:
        ValueError: neither a corpus nor a recording there, a broken line, or a dataset of the hub, which does not tell
            how long its clips are.
    """
    if str(folder).startswith("hub:"):
        raise ValueError(f"A codec learns from folders, and '{folder}' is a dataset of the hub: download it first.")
    given = folder
    try:
        clips = [clip for clip in read_clips(folder) if clip.split == "train"]
    except NoCorpus:
        folder = Path(os.path.abspath(folder))
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in RECORDINGS)
        if not paths:
            known = ", ".join(RECORDINGS)
            raise ValueError(f"'{given}' holds neither a corpus nor recordings ({known}).") from None
        clips = [_clip(str(path.relative_to(folder)), "", path.parent.name, "train", path) for path in paths]
    found = [clip for clip in clips if clip.seconds]
    if broken := len(clips) - len(found):
        if not found:
            raise ValueError(f"'{given}': none of {broken} recordings can be read.")
        log.warning("%d of %d recordings cannot be read", broken, len(clips))
    return found


def read_hub_clips(
    name: str, split: str = "train", text: str | None = None, speaker: str | None = None
) -> Iterator[Clip]:
    """Clips of a dataset of the hub, or of a local folder that `datasets` reads, streamed. Needs `datasets` ([train]).

    Args:
        text, speaker: columns; by default the first of `WORDS` and of `WHO` that is there. Without the latter all clips
            are one speaker's. The audio is looked for in the column `audio`.
    Raises:
        ValueError: a column that is not there; NotReachable: neither here nor on the hub.
    """
    try:
        from datasets import Audio, load_dataset
    except ModuleNotFoundError as error:
        raise ValueError(f"Hub datasets need '{error.name}': pip install \"llasa-lite[train]\".") from error

    try:
        rows = load_dataset(name, split=split, streaming=True)
    except (OSError, ConnectionError) as error:
        raise NotReachable(f"Cannot load the dataset '{name}': {str(error).splitlines()[0]}") from error
    text = text or next((word for word in WORDS if word in rows.column_names), WORDS[0])
    speaker = speaker or next((who for who in WHO if who in rows.column_names), None)
    missing = {"audio", text, *([speaker] if speaker else [])} - set(rows.column_names)
    if missing:
        raise ValueError(f"'{name}' has no column {sorted(missing)}; it has {', '.join(rows.column_names)}.")

    class AsItIs(Audio):  # for our own reader; `datasets` asks for torchcodec even to tell where a file lies
        def encode_example(self, value):
            return {"bytes": None, "path": value} if isinstance(value, str) else value

    for index, row in enumerate(rows.cast_column("audio", AsItIs(decode=False))):
        words = "" if row[text] is None else str(row[text])  # without text it is left out and counted later
        yield HubClip(index, words, str(row[speaker]) if speaker else name, 0.0, split, None, row["audio"])


@dataclass(frozen=True)
class HubClip(Clip):
    """A clip that `datasets` handed over as bytes or a path."""

    audio: dict | None = None

    def load(self) -> np.ndarray:
        source = self.audio["bytes"] or self.audio["path"]
        if isinstance(source, str) and "://" in source:  # a file of the hub, or one in an archive
            from datasets.utils.file_utils import xopen

            with xopen(source, "rb") as file:
                source = file.read()
        return audio.load(source, name=f"clip {self.id}")


def _clip(name: str, text: str, speaker: str, split: str, path: Path) -> Clip:
    """As long as its header says, or, where that does not know, its samples; 0 s where none can be read."""
    import soundfile

    try:
        told = soundfile.info(path)
        known = told.frames < audio.LENGTH_UNKNOWN
        seconds = told.duration if known else len(audio.load(path)) / audio.SAMPLE_RATE
    except (OSError, soundfile.LibsndfileError, ValueError):
        seconds = 0.0
    return Clip(name, text, speaker, seconds, split, path)


def _some_read(clips: list[Clip]) -> list[Clip]:
    """Of many a few may be broken; where all are, the first says why."""
    if not any(clip.seconds for clip in clips):
        clips[0].load()
    return clips


def _sound(folder: Path, name: str) -> Path:
    """The recording that metadata.csv calls so: in wavs/ or beside it, with or without its ending."""
    wav = folder / "wavs" / f"{name}.wav"
    places = (
        place / f"{name}{ending}"
        for place in (wav.parent, folder)
        for ending in ("", *RECORDINGS, *map(str.upper, RECORDINGS))
    )
    return wav if wav.is_file() else next(filter(Path.is_file, places), wav)


def _metadata(path: Path, column: int = 1) -> Iterator[tuple[str, str]]:
    """id and text of `id|text|…`, or of the columns of an audiofolder, `file_name,text` (`WORDS`). LJ Speech has the
    text with its numbers written out in a third column."""
    try:
        lines = lines_of(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8. Convert it first: iconv -t UTF-8.") from error
    if not any(line.strip() for line in lines):
        raise ValueError(f"'{path}' is empty: it needs lines of the form id|text.")
    columns = next(csv.reader(lines[:1]))
    words = next((word for word in WORDS if word in columns), "")
    if words and "file_name" in columns:
        rows = csv.reader(f"{line}\n" for line in lines[1:])  # texts with commas or line feeds stand in quotes
        at, wanted = (columns.index("file_name"), columns.index(words)), f"file_name,{words}"
        table = ([row[k].strip() for k in at if k < len(row)] for row in rows)
    else:
        table, wanted = ([part.strip() for part in line.split("|")] for line in lines), "id|text"
    for number, parts in enumerate(table, 1 + (wanted != "id|text")):
        if not any(parts):
            continue
        if len(parts) < 2 or not parts[1]:
            raise ValueError(f"{path}, line {number}, is not of the form {wanted}.")
        yield parts[0], parts[column] if len(parts) > column and parts[column] else parts[1]


# -- codes -----------------------------------------------------------------------------------------------------------


def read_utterances(
    source: str | Path, protocol: Protocol, split: str = "train", codec: str | None = None
) -> Sequence[Utterance]:
    """Utterances of one source of codes: a token corpus of ours (.safetensors), a folder with the authors' memmap rows,
    or one with metadata.csv beside `<id>.wav.npy` (all of it for training).

    Args:
        split: "train" or "test" (the authors' "val").
        codec: the one that codes are to be of, "nano", folder or hub id; None: whichever.
    Raises:
        ValueError: where it is none of these, or says that its codes are of another codec.
    """
    source = Path(source)
    # one file, or what many workers made
    parts = [source] if source.suffix == ".safetensors" else sorted(source.glob("part-*.safetensors"))
    for part in parts if codec else ():
        check_codec(part, codec)
    if parts:
        if split == "train" and (missing := parts_missing(source)):
            told = "'%s' lacks %d of %d parts: what encodes it has not ended. Give its command again."
            log.warning(told, source, missing, missing + len(parts))
        return [said for part in parts for said in read_tokens(part, split)]
    if any(source.glob("*_input_ids.memmap")):
        name = "val" if split == "test" else split
        return Memmap(source, name, protocol) if (source / f"{name}_input_ids.memmap").is_file() else []
    if (source / "metadata.csv").is_file():
        return read_codes(source) if split == "train" else []
    raise ValueError(
        f"'{source}' holds no codes: give a .safetensors of `train tokens`, a folder with train_input_ids.memmap, or "
        "one with metadata.csv and <id>.wav.npy."
    )


def read_codes(folder: str | Path) -> list[Utterance]:
    """The authors' folder of single files: `metadata.csv` (`id|text|…`) beside `<id>.wav.npy` of codes."""
    folder, made, missing = Path(folder), [], 0
    for name, text in _metadata(folder / "metadata.csv"):
        file = folder / f"{name}.wav.npy"
        if not file.is_file():
            missing += 1
            continue
        codes = np.load(file, allow_pickle=False).reshape(-1).astype(np.uint16)
        made.append(Utterance(text, folder.name, "train", codes))
    if not made:
        raise ValueError(
            f"'{folder}' holds no codes: there is no <id>.wav.npy beside its metadata.csv. Of sound make them first: "
            f"train tokens --data '{folder}'."
        )
    if missing:
        log.warning("%d of %d utterances of %s have no codes and are left out.", missing, missing + len(made), folder)
    return made


class Memmap(Sequence):
    """The authors' training rows as utterances, read from disk as they are asked for.

    `{split}_input_ids.memmap` is int32 of the shape in `{split}_input_ids_shape.npy`; a row is TEXT_UNDERSTANDING_START
    text END SPEECH_GENERATION_START codes END, padded with eot. Rows that were cut lack END: they are dropped.

    Attributes:
        dropped: rows without END, text or codes.
        id_counts: ids of text and codes of each row that is kept.
    """

    def __init__(self, folder: str | Path, split: str, protocol: Protocol):
        self.folder, self.split, self.protocol = Path(folder), split, protocol
        shape = tuple(np.load(self.folder / f"{split}_input_ids_shape.npy", allow_pickle=False).tolist())
        path = self.folder / f"{split}_input_ids.memmap"
        if path.stat().st_size != 4 * int(np.prod(shape)):
            raise ValueError(f"'{path}' has {path.stat().st_size} bytes, its shape {shape} another number.")
        ids = protocol.tokenizer.convert_tokens_to_ids
        self.text_start, self.text_end = ids(TEXT_UNDERSTANDING_START), ids(TEXT_UNDERSTANDING_END)
        self.speech_start = ids(SPEECH_GENERATION_START)
        # nothing cannot be mapped
        self.ids = np.memmap(path, np.int32, "r", shape=shape) if np.prod(shape) else np.zeros(shape, np.int32)
        closed, at = [np.zeros(0, bool)], [np.zeros(0, int)]
        for first in range(0, len(self.ids), 4096):
            some = self.ids[first : first + 4096]
            ends = some == protocol.speech_end
            at.append(ends.argmax(1))
            silent = some[np.arange(len(some)), at[-1] - 1] == self.speech_start
            closed.append(ends.any(1) & (some[:, 1] != self.text_end) & ~silent)  # a row begins with its text's START
        self.kept = np.flatnonzero(np.concatenate(closed))
        self.id_counts = np.concatenate(at)[self.kept] - 3  # of text and codes: three markers stand before the last END
        self.dropped = len(self.ids) - len(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Utterance:
        row = self.ids[self.kept[index]].tolist()
        text = row[row.index(self.text_start) + 1 : row.index(self.text_end)]
        codes = row[row.index(self.speech_start) + 1 : row.index(self.protocol.speech_end)]
        split = "test" if self.split == "val" else "train"
        codes = self.protocol.ids_to_codes(codes).astype(np.uint16)
        return Utterance(self.protocol.ids_to_text(text), str(self.folder), split, codes)


def write_memmap(
    utterances: Iterable[Utterance], folder: str | Path, split: str, protocol: Protocol, width: int = MEMMAP_IDS
) -> tuple[int, int]:
    """Write the authors' rows; returns how many were written and how many were dropped: longer than a row, without text
    or codes, or with a token of the protocol in the text, at which it would be read as ended."""
    folder, written, dropped = Path(folder), 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    start, end, speech = protocol.tokenizer.convert_tokens_to_ids(
        [TEXT_UNDERSTANDING_START, TEXT_UNDERSTANDING_END, SPEECH_GENERATION_START]
    )
    with whole(folder / f"{split}_input_ids.memmap") as partial:
        with open(partial, "wb") as file:
            for said in utterances:
                row = [start, *protocol.text_to_ids(said.text.strip()), end, speech]
                row += [*protocol.codes_to_ids(said.codes), protocol.speech_end]
                if len(row) > width or not id_counts([said], protocol)[0]:
                    dropped += 1
                    continue
                file.write(np.array(row + [protocol.pad] * (width - len(row)), np.int32).tobytes())
                written += 1
        np.save(folder / f"{split}_input_ids_shape.npy", np.array([written, width]))
    return written, dropped
