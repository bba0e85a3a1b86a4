"""Corpora and token rows: clips with transcripts -> codes -> training examples. Knows no model but the codec.

A corpus is a folder with `manifest*.jsonl`, one clip a line:
    {"id": 2, "text": "...", "speaker": "emma", "seconds": 2.5, "split": "train", "audio": "clips/000/00002.ogg"}
`audio` may be left out: it is `clips/<id // 1000>/<id>.ogg` then. Splits: train, test, test_speaker (voices kept out);
among tokens also heard (clips that are read as voice prompts and for recognition, and never learned to be said).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import audio
from .audio import FRAME_RATE, SAMPLE_RATE
from .checkpoints import codec_source, fingerprint
from .files import lines_of, whole
from .tokens import IGNORE

log = logging.getLogger(__name__)

SPLITS = "train", "test", "test_speaker", "heard"
SAVE_SECONDS = 180  # of encoding: what a stop costs at most; a large codec on a CPU takes seconds a clip
MOST_KEPT = 4 * 2**30  # bytes of clips in memory while something is trained on them: 37 hours
MAX_ROWS_BYTES = 99_000_000  # of texts, speakers and splits in one file: safetensors' header has 100 MB


@dataclass(frozen=True)
class Clip:
    """One utterance of a corpus, still audio."""

    id: int
    text: str
    speaker: str
    seconds: float
    split: str
    path: Path

    def load(self) -> np.ndarray:
        """(samples,) float32, mono, 16 kHz."""
        return audio.load(self.path, name=f"clip {self.id}")


@dataclass(frozen=True)
class Repitched:
    """A clip played at another speed, which makes it higher or lower and quicker or slower: the clip of another voice.

    Attributes:
        pitch: times the clip's own; 1.09 is a semitone and a half up.
    """

    clip: Clip
    pitch: float

    id = property(lambda self: f"{self.clip.id} at {self.pitch:g}")
    text = property(lambda self: self.clip.text)
    split = property(lambda self: self.clip.split)
    speaker = property(lambda self: f"{self.clip.speaker}_{self.pitch:g}")
    seconds = property(lambda self: self.clip.seconds / self.pitch)

    def load(self) -> np.ndarray:
        """(samples,) float32, mono, 16 kHz."""
        wav = audio.resample(self.clip.load(), SAMPLE_RATE, round(SAMPLE_RATE / self.pitch))
        return wav / np.abs(wav).max(initial=1.0)  # between samples a wave may be louder than full scale


@dataclass(frozen=True)
class Heard:
    """A training clip as another microphone, room or line would have brought it: always the same for the same clip."""

    clip: Clip | Repitched

    id = property(lambda self: f"{self.clip.id}, heard")
    text = property(lambda self: self.clip.text)
    speaker = property(lambda self: self.clip.speaker)
    split = "heard"

    def load(self) -> np.ndarray:
        """(samples,) float32, mono, 16 kHz."""
        return disturbed(self.clip.load(), np.random.default_rng(list(str(self.id).encode())))


class Kept(dict[object, np.ndarray]):
    """Waves by what they are of, made when they are first asked for, kept in 16 bits as far as there is room."""

    bytes = 0

    def wav(self, key, make: Callable[[], np.ndarray]) -> np.ndarray:
        """(samples,) float32, rounded to 16 bits."""
        if (wav := self.get(key)) is None:
            wav = (make() * 32767).astype(np.int16)
            if self.bytes + wav.nbytes <= MOST_KEPT:
                self[key] = wav
                self.bytes += wav.nbytes
        return wav.astype(np.float32) / 32767


def read_corpus(folder: str | Path) -> list[Clip]:
    """All clips of a corpus, in the order of the manifest.

    Raises:
        ValueError: no manifest there, or a line of it is not a clip.
    """
    folder = Path(folder)
    manifests = sorted(folder.glob("manifest*.jsonl"))
    if not manifests:
        raise ValueError(f"'{folder}' holds no corpus: there is no manifest.jsonl in it.")
    clips = []
    for manifest in manifests:
        for number, line in enumerate(lines_of(manifest), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row["text"], str):
                    raise TypeError(f"its text is {row['text']!r}")
                path = row.get("audio") or f"clips/{row['id'] // 1000:03d}/{row['id']:05d}.ogg"
                # a speaker may be a number; at another speed it is a name, and both are sorted together
                told = row["id"], row["text"], str(row["speaker"]), float(row["seconds"])
                clip = Clip(*told, row.get("split") or "train", folder / path)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{manifest.name}, line {number}, is not a clip: {error!r}.") from error
            clips.append(clip)
    if unknown := sorted({str(clip.split) for clip in clips} - {*SPLITS}):
        left = sum(clip.split not in SPLITS for clip in clips)
        told = "%d of %d clips in '%s' are of a split that nothing uses (%s): name it train, test or test_speaker."
        log.warning(told, left, len(clips), folder, ", ".join(unknown))
    return clips


def disturbed(wav: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The clip as another microphone, room or line would have brought it: (samples,) float32 in and out.

    A room's echo, a telephone band and coloured noise come at even odds, at least one of them; then another level.
    """
    from scipy.fft import next_fast_len
    from scipy.signal import butter, fftconvolve, sosfilt

    kinds = random.random(3) < 0.5
    kinds[random.integers(3)] = True
    out = wav.astype(np.float32)
    loudness = np.sqrt(np.mean(out**2)) + 1e-5
    if kinds[0]:
        fading = random.uniform(0.02, 0.12) * SAMPLE_RATE  # samples until 1/e; 60 dB take seven times that
        tail = random.normal(size=int(4 * fading)) * np.exp(-np.arange(int(4 * fading)) / fading)
        out = out + random.uniform(0.2, 0.8) * fftconvolve(out, tail / np.linalg.norm(tail))[: len(out)]
    if kinds[1]:
        band = random.uniform(80, 350), random.uniform(3000, 6500)  # Hz
        out = sosfilt(butter(3, band, "bandpass", fs=SAMPLE_RATE, output="sos"), out)
    if kinds[2]:
        slope = random.uniform(0, 1.2)  # 0: white, 1: pink
        spectrum = np.fft.rfft(random.normal(size=next_fast_len(len(out), real=True)))
        noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope)[: len(out)]
        out = out + noise * loudness / (noise.std() + 1e-9) * 10 ** (-random.uniform(5, 30) / 20)
    return (out / (np.abs(out).max() + 1e-5) * random.uniform(0.05, 0.95)).astype(np.float32)


@dataclass(frozen=True)
class Utterance:
    """One utterance as tokens: what the language model learns from."""

    text: str
    speaker: str
    split: str
    codes: np.ndarray  # (n,) uint16
    alignment: np.ndarray | None = None  # (n,) float16: where in the ids of the text each code is (`alignment.align`)

    @property
    def seconds(self) -> float:
        return len(self.codes) / FRAME_RATE


def encode_corpus(clips: list[Clip], codec, out: str | Path, progress=lambda done, total: None) -> Path:
    """Encode clips into one token file (safetensors: codes, lengths; transcripts and speakers as JSON metadata).

    Resumable: what is done is written every three minutes and read back on the next call. Clips that cannot be
    read or are too long to encode are logged and left out, and their places in the list kept in the file
    (`token_facts`): to try them again, delete it.

    Raises:
        ValueError: `out` holds other clips than these begin with, or codes of another codec, or these are more than one
            file holds.
    """
    out = Path(out)
    _rows_of(clips)  # said before hours of encoding
    out.parent.mkdir(parents=True, exist_ok=True)
    done, dropped = [], []
    facts = codec_facts(codec.name) | {"dropped": dropped}
    if out.exists():
        known, done = token_facts(out), read_tokens(out)
        dropped += known.get("dropped", [])
        there, left_out = len(done) + len(dropped), set(dropped)
        begun = [(c.text, c.speaker, c.split) for k, c in enumerate(clips[:there]) if k not in left_out]
        if begun != [(u.text, u.speaker, u.split) for u in done]:
            raise ValueError(f"'{out}' holds other clips than these begin with. Choose another file, or delete it.")
        by = "fingerprint" if facts["fingerprint"] and known.get("fingerprint") else "codec"
        if known.get(by) and known[by] != facts[by]:  # a file may not say
            was = f"'{known['codec']}' ({known['fingerprint']}), not of '{codec.name}' ({facts['fingerprint']})"
            raise ValueError(f"'{out}' holds codes of the codec {was}. Choose another file, or delete it.")
    saved = time.monotonic()
    for place in range(len(done) + len(dropped), len(clips)):
        clip = clips[place]
        try:
            # the last code of `encode` stands for appended zeros: a clip is heard without it
            codes = codec.encode(clip.load())[:-1]
        except ValueError as error:
            log.warning("Clip %s is left out: %s", clip.id, error)
            dropped.append(place)
        else:
            done.append(Utterance(clip.text, clip.speaker, clip.split, codes.astype(np.uint16)))
        progress(place + 1, len(clips))
        if place + 1 == len(clips) or time.monotonic() - saved > SAVE_SECONDS:
            write_tokens(done, out, facts)
            saved = time.monotonic()
    return out


def write_tokens(utterances: list[Utterance], path: str | Path, facts: dict | None = None) -> None:
    """Save a token corpus as one safetensors file; a missing alignment is kept as NaN.

    Args:
        facts: what else is known of it (`token_facts`).
    Raises:
        ValueError: it cannot be written, or there are more utterances than one file holds.
    """
    from safetensors.numpy import save_file

    rows = _rows_of(utterances)
    tensors = {
        "codes": np.concatenate([np.zeros(0, np.uint16), *[u.codes for u in utterances]]).astype(np.uint16),
        "lengths": np.array([len(u.codes) for u in utterances], np.int32),
    }
    if any(u.alignment is not None for u in utterances):
        missing = [
            np.full(len(u.codes), np.nan, np.float16) if u.alignment is None else u.alignment for u in utterances
        ]
        tensors["alignment"] = np.concatenate(missing).astype(np.float16)
    with whole(path) as partial:
        save_file(tensors, partial, metadata={"rows": rows, "facts": json.dumps(facts or {})})


def _rows_of(some: Sequence[Clip | Utterance]) -> str:
    rows = json.dumps([[one.text, one.speaker, one.split] for one in some])
    if (size := len(json.dumps(rows))) > MAX_ROWS_BYTES:  # as it stands in the header: JSON in JSON
        raise ValueError(
            f"The texts of {len(some):,} clips take {size / 1e6:.0f} MB, and one file holds "
            f"{MAX_ROWS_BYTES / 1e6:.0f} MB of them. Make several files: --data takes many."
        )
    return rows


def token_facts(path: str | Path) -> dict:
    """What is known of a token corpus beside its rows: {"codec", "fingerprint", "dropped", "aligned"}, the codec's name
    and weights, the places of clips that were left out and the steps of the aligner, where all that is there is
    aligned; empty for a file that does not say. Raises as `read_tokens`."""
    with _opened(path) as file:
        return json.loads(file.metadata().get("facts", "{}"))


def read_tokens(path: str | Path, split: str | None = None) -> list[Utterance]:
    """Read a token corpus, all of it or one split. Raises ValueError where there is none, or another file."""
    with _opened(path) as file:
        rows = json.loads(file.metadata()["rows"])
        cuts = np.cumsum(file.get_tensor("lengths"))[:-1]
        codes = np.split(file.get_tensor("codes"), cuts)
        aligned = np.split(file.get_tensor("alignment"), cuts) if "alignment" in file.keys() else [None] * len(codes)
    aligned = [None if a is None or np.isnan(a).any() else a for a in aligned]
    return [Utterance(*row, c, a) for row, c, a in zip(rows, codes, aligned) if split is None or row[2] == split]


def check_codec(path: str | Path, codec: str) -> None:
    """Raises ValueError where a token corpus says that its codes are another codec's than this one's ("nano", folder or
    hub id): the same numbers mean other sounds. Two large ones are not told apart: they have no fingerprint."""
    check_alike(path, token_facts(path), codec_facts(codec))


def codec_facts(codec: str) -> dict:
    """Of a codec by name, what `token_facts` tells of it."""
    return {"codec": codec, "fingerprint": fingerprint(codec_source(codec))}


def check_alike(path: str | Path, facts: dict, wanted: dict) -> None:
    """As `check_codec`, of a file of which `facts` are known and a codec of which `wanted` is."""
    codec, was, wanted = wanted["codec"], facts.get("fingerprint"), wanted.get("fingerprint")
    if not facts.get("codec") or was == wanted:
        return
    if was and wanted:  # small ones with other weights, of which some may have learned to decode only
        told = "'%s' holds codes of '%s', whose weights were others than those of '%s': fine if codes are alike."
        return log.warning(told, path, facts["codec"], codec)
    raise ValueError(
        f"'{path}' holds codes of the codec '{facts['codec']}', and they are to be those of '{codec}'. Make it anew: "
        f"--codec {codec}."
    )


def _opened(path: str | Path):
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"There is no token corpus '{path}'. Make one with `train tokens`.")
    try:
        file = safe_open(path, "numpy")
    except SafetensorError as error:
        raise ValueError(f"'{path}' is no token corpus, or a torn one: {error}.") from error
    if "rows" not in (file.metadata() or {}):
        raise ValueError(f"'{path}' holds other tensors than a token corpus.")
    return file


# -- rows for the language model ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """What a training row holds, and how much of each kind."""

    recognition: float = 0.35  # share of rows that go from speech to text
    clips_per_row: tuple[float, ...] = (0.35, 0.5, 0.15)  # shares of 1, 2, 3 clips of one voice: 2+ teach cloning
    unconditional: float = 0.1  # share of the speech rows without their last clip's words: what guidance compares with
    max_ids: int = 640  # rows longer than this are drawn again
    code_noise: float = 0.1  # share of the codes read (never of those to be said) that are replaced by others at random
    text_noise: float = 0.1  # the same of a transcript's characters
    lingering: float = 0.3  # share of the speech rows whose background goes on after the end, END wanted all along
    ragged: float = 0.5  # share of the voice prompts (clips before a row's last) with ends cut as visitors' clips are
    speakers: tuple[tuple[str, float], ...] = ()  # (beginning of a name, how often its clips are drawn; others: 1)


@dataclass(frozen=True)
class Row:
    """A training row, and for every position that is aligned where in the text it is.

    `place` counts ids of the text, plus CLIP_STRIDE for every clip before, for the ids of the text and for the codes;
    on the answer's side it stands at the position that predicts. NOWHERE elsewhere. `keys` marks the side that is
    read. `task` is 0 for speech, 1 for recognition.
    """

    input_ids: list[int]
    labels: list[int]
    place: list[float]
    keys: list[bool]
    task: int


WIDTHS = 128, 192, 256, 320, 384, 512, 640  # ids of a batch's rows, padding included
CLIP_STRIDE = 1000.0
NOWHERE = -1e6


def make_row(
    protocol, clips: list[Utterance], recognition: bool = False, unconditional: bool = False, ended: int = 0
) -> Row:
    """Clips of one voice, joined as a voice prompt and its target are joined, as one training row.

    Codes of a clip that was only `heard` are read and not learned to be said.

    `unconditional`: without the words of the last one, which is still said. `ended`: so many codes of the last one come
    after its end; each is read, and END is what it should have been.
    """
    told = clips[:-1] if unconditional else clips
    text = " ".join(c.text.strip() for c in told)
    codes = np.concatenate([c.codes for c in clips])
    example = protocol.asr_example(text, codes) if recognition else protocol.tts_example(text, codes, unconditional)
    ids = example.input_ids
    labels = [*example.labels[: len(ids) - ended - 1], *[ids[-1]] * (ended + 1)]
    place, keys = [NOWHERE] * len(ids), [False] * len(ids)
    answer = sum(label != IGNORE for label in labels)
    if recognition:
        at_text, at_speech = len(ids) - answer - 1, ids.index(protocol.code_offset + int(codes[0]))
    else:
        at_text, at_speech = _find(ids, protocol.text_to_ids(text)), len(ids) - answer - 1
    for index, clip in enumerate(told):
        characters = len(protocol.text_to_ids(clip.text.strip()))
        if clip.alignment is not None:
            shift = CLIP_STRIDE * index
            for at, places, is_key in (
                (at_text, shift + np.arange(characters), not recognition),
                (at_speech, shift + clip.alignment.astype(np.float64), recognition),
            ):
                place[at : at + len(places)] = places.tolist()
                keys[at : at + len(places)] = [is_key] * len(places)
        if clip.split == "heard" and not recognition:
            labels[at_speech + 1 : at_speech + 1 + len(clip.codes)] = [IGNORE] * len(clip.codes)
        at_text += characters + 1  # and the space between two clips
        at_speech += len(clip.codes)
    return Row(ids, labels, place, keys, int(recognition))


ENDING = 8  # codes: clips are trimmed to end on about so much of their background


def linger(clip: Utterance, random: np.random.Generator) -> tuple[Utterance, int]:
    """A clip whose background goes on, and for how many codes.

    Clips end on a few quiet codes, a trimmed edge, and END. A model that misses the edge, as it does when unlikely
    codes are left out, has never seen a longer quiet and stays in it. The edge is left out here.
    """
    extra = int(random.integers(1, 3 * ENDING))
    heard, background = clip.codes[:-2], clip.codes[-ENDING:-2]
    codes = np.concatenate([heard, random.choice(background, extra)])
    places = None if clip.alignment is None else np.pad(clip.alignment[:-2], (0, extra), "edge")
    return replace(clip, codes=codes, alignment=places), extra


def ragged(clip: Utterance, random: np.random.Generator) -> Utterance:
    """A clip with up to 80 ms less at its beginning and up to 160 ms less at its end."""
    most = min(ENDING, len(clip.codes) // 4)
    kept = slice(random.integers(most // 2 + 1), len(clip.codes) - random.integers(most + 1))
    places = None if clip.alignment is None else clip.alignment[kept]
    return replace(clip, codes=clip.codes[kept], alignment=places)


def _find(ids: list[int], part: list[int]) -> int:
    for start in range(len(ids) - len(part) + 1):
        if ids[start : start + len(part)] == part:
            return start
    raise AssertionError("the text is not in its own prompt")


def id_counts(utterances: Sequence[Utterance], protocol) -> np.ndarray:
    """Ids of text and codes of each, (n,) int; 0 where a row cannot be made: no text, no codes, a token in the text."""

    def count(said: Utterance) -> int:
        try:
            return len(said.codes) and len(protocol.text_to_ids(protocol.checked(said.text))) + len(said.codes)
        except ValueError:
            return 0

    return np.array([count(said) for said in utterances], int)


def with_rows(utterances: Sequence[Utterance], protocol) -> list[Utterance]:
    """Those of which a row can be made (`id_counts`)."""
    return [said for said, ids in zip(utterances, id_counts(utterances, protocol)) if ids]


def ids_that_fit(protocol, max_ids: int) -> int:
    """Ids of text and codes of the longest clip that has room in a row, whichever way the row goes."""
    whole = protocol.tts_example("a", [0]), protocol.asr_example("a", [0])
    return max_ids - max(len(e.input_ids) for e in whole) + len(protocol.text_to_ids("a")) + 1


class RowSampler:
    """An endless, seeded stream of training rows.

    Attributes:
        dropped: utterances that no row can be made of (`id_counts`), or that are longer than a row.
    Raises:
        ValueError: there is nothing to be said.
    """

    def __init__(self, utterances: list[Utterance], protocol, mixture: Mixture, seed: int = 0):
        self.protocol, self.mixture, self.random = protocol, mixture, np.random.default_rng(seed)
        counts = id_counts(utterances, protocol)
        fits = np.flatnonzero((counts > 0) & (counts <= ids_that_fit(protocol, mixture.max_ids)))
        self.dropped = len(utterances) - len(fits)
        utterances = [utterances[k] for k in fits]
        self.said = [u for u in utterances if u.split != "heard"]
        if not self.said:
            raise ValueError(
                f"There is no clip to learn to say: {self.dropped} have no text or are longer than {mixture.max_ids} "
                f"ids, {len(utterances)} are only heard."
            )
        weights = [next((w for name, w in mixture.speakers if u.speaker.startswith(name)), 1.0) for u in self.said]
        self.cumulative = np.cumsum(weights)
        self.by_speaker: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self.by_speaker.setdefault(utterance.speaker, []).append(utterance)

    def row(self) -> Row:
        while True:
            draw = self.random.random() * self.cumulative[-1]
            drawn = self.said[int(self.cumulative.searchsorted(draw, side="right"))]
            shares = np.array(self.mixture.clips_per_row)
            count = 1 + self.random.choice(len(shares), p=shares / shares.sum())
            same = self.by_speaker[drawn.speaker]
            kind, recognised = self.random.random(), self.mixture.recognition
            clips = [same[self.random.integers(len(same))] for _ in range(count)]
            if kind >= recognised:
                clips[-1] = drawn  # a prompt may be one that was only heard, its target may not
            unconditional = recognised <= kind < recognised + (1 - recognised) * self.mixture.unconditional
            for i in np.flatnonzero(self.random.random(count - 1) < self.mixture.ragged):
                clips[i] = ragged(clips[i], self.random)
            ended = 0
            lingers = self.random.random() < self.mixture.lingering and len(clips[-1].codes) > ENDING
            if kind >= recognised and lingers:
                clips[-1], ended = linger(clips[-1], self.random)
            row = make_row(self.protocol, clips, kind < recognised, unconditional, ended)
            if len(row.input_ids) <= self.mixture.max_ids:
                return row

    def batches(self, ids_per_batch: int):
        """Batches of rows of about equal length, each padded to one of a few widths (new shapes cost memory and
        compiling), what is longer than these to `max_ids`: yields dicts of arrays of shape (rows, width)."""
        widths = (*WIDTHS, self.mixture.max_ids)
        pools: dict[int, list[Row]] = {width: [] for width in widths}
        while True:
            row = self.row()
            width = next(w for w in widths if len(row.input_ids) <= w)
            pools[width].append(row)
            if len(pools[width]) == max(1, ids_per_batch // width):
                batch = pad_rows(pools[width], width, self.protocol.pad)
                self.add_noise(batch)
                yield batch
                pools[width] = []

    def add_noise(self, batch: dict[str, np.ndarray]) -> None:
        """Replace a share of the codes, and of the characters of transcripts, in place, by others of the same batch.

        A small model learns its clips' codes by heart from the codes before, and its sentences from the letters
        before; with some of those wrong it has to look at what it is to read, and it has met wrong ones before it
        makes its own.
        """
        ids, first, size = batch["input_ids"], self.protocol.code_offset, self.protocol.codebook_size
        answer = (batch["labels"] != IGNORE) & (batch["labels"] != self.protocol.text_end)
        for share, places in (
            (self.mixture.code_noise, (ids >= first) & (ids < first + size)),
            (self.mixture.text_noise, answer & (batch["task"] == 1)[:, None]),
        ):
            read = np.flatnonzero(places)
            chosen = read[self.random.random(len(read)) < share]
            ids.flat[chosen] = ids.flat[self.random.permutation(read)[: len(chosen)]]


def pad_rows(rows: list[Row], width: int, pad: int) -> dict[str, np.ndarray]:
    """Rows -> arrays (rows, width), padded on the right: a causal model needs no mask for that."""

    def stack(name, fill, dtype):
        return np.array([[*getattr(r, name), *[fill] * (width - len(r.input_ids))] for r in rows], dtype)

    return {
        "input_ids": stack("input_ids", pad, np.int64),
        "labels": stack("labels", IGNORE, np.int64),
        "place": stack("place", NOWHERE, np.float32),
        "keys": stack("keys", False, bool),
        "task": np.array([r.task for r in rows], np.int64),
    }
