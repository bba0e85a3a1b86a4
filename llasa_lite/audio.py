"""Waves in and out of files and arrays; knows sample rates and loudness, nothing of codecs or models.

Inside the library a wave is always a float32 NumPy array of shape (samples,), mono, 16 kHz, in [-1, 1].
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import whole

SAMPLE_RATE = 16_000  # X-codec2's rate, in and out
HOP_LENGTH = 320  # samples a code
FRAME_RATE = SAMPLE_RATE // HOP_LENGTH  # 50 codes a second

MAX_FILE_BYTES = 100 * 2**20  # larger files are refused before they are decoded
MAX_FILE_SECONDS = 3600.0  # longer ones, by their header or by their samples, are refused
LENGTH_UNKNOWN = 2**63 - 1  # frames, as libsndfile has it of a flac that was written into a pipe
MAX_FILE_CHANNELS = 8
RATES = (1_000, 768_000)  # of what is read, Hz
SILENCE_PEAK = 1e-3  # a wave whose peak is below this (-60 dBFS) holds no speech
CLIPPED = 0.999  # samples this loud were cut off by the recorder
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
SAVED = ("wav", "flac", "ogg")  # what `save` writes
MAX_OGG_COMMENT = 30_000  # bytes; libsndfile writes more and cannot open what it wrote
QUIET_DB = 40.0  # below the peak: what counts as silence


def load(
    source: str | os.PathLike | bytes | tuple, name: str = "audio", max_seconds: float = MAX_FILE_SECONDS
) -> np.ndarray:
    """Read a wave from a file, from bytes, or from the `(rate, array)` pair that Gradio hands over.

    Args:
        source: path or bytes of anything libsndfile reads (wav, flac, ogg, mp3 ...), or `(sample_rate, samples)`
            with samples of shape (n,), (n, channels) or (channels, n), integers of 8 to 32 bits or floats.
        name: what to call it in an error ("voice clip", "the clip to continue").
        max_seconds: longer files are refused before they are decoded.
    Returns:
        float32 array of shape (samples,), mono, 16 kHz; what goes beyond [-1, 1] is made less loud, not cut off.
    Raises:
        ValueError: no such file, not audio, too large, empty, silent, or not finite; one plain sentence.
    """
    if isinstance(source, tuple):
        try:
            rate, samples = source
            rate, samples = int(rate), np.asarray(samples)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The {name} is no pair (sample_rate, samples) of a number and an array.") from error
        if samples.dtype.kind in "iu" and samples.dtype.itemsize > 4:
            # NumPy's own, that 16-bit samples are counted in: taken at its full level they would be silent
            raise ValueError(f"The {name} holds {samples.dtype} samples: give int16, int32, or floats in -1..1.")
        samples = _to_float(samples)
    else:
        samples, rate = _read(source, name, max_seconds)
    if samples.size == 0:
        raise ValueError(f"The {name} is empty: it holds no samples.")
    if not np.isfinite(samples).all():
        raise ValueError(f"The {name} holds values that are not numbers (NaN or infinity).")
    samples = mono(samples)
    wav = resample(samples, rate)
    if not np.isfinite(wav).all():
        raise ValueError(f"The {name} holds values too large for samples, which lie in -1..1.")
    if np.abs(wav).max() < SILENCE_PEAK:
        raise ValueError(f"The {name} is silent: nothing in it is louder than -60 dBFS. Record it again, closer.")
    # Floats may be louder than full scale. What resampling adds above it is cut off again: made less loud with the
    # rest, the flat tops of a clipped recording would no longer be at full level, where `level` looks for them.
    return np.clip(wav / max(np.abs(samples).max(), 1.0), -1.0, 1.0)


def _read(source, name: str, max_seconds: float) -> tuple[np.ndarray, int]:
    import soundfile  # heavy: not before a file is read

    if isinstance(source, (bytes, bytearray)):
        size, handle, shown = len(source), io.BytesIO(source), f"the {name}"
    else:
        path = _path(source, name)
        size, handle, shown = path.stat().st_size, path, f"'{path.name}'"
    if size == 0:
        raise ValueError(f"The {name} is an empty file.")
    if size > MAX_FILE_BYTES:
        raise ValueError(f"The {name} is {size / 2**20:.0f} MB; at most {MAX_FILE_BYTES / 2**20:.0f} MB are read.")
    most = f"{max_seconds / 60:.0f} minutes" if max_seconds > 120 else f"{max_seconds:.0f} s"
    too_long = f"The {name} is longer than {most}: at most {most} are read. Cut out the part you need."
    try:
        with soundfile.SoundFile(handle) as file:
            _check_rate(file.samplerate)
            if file.channels > MAX_FILE_CHANNELS:
                raise ValueError(f"The {name} has {file.channels} channels; at most {MAX_FILE_CHANNELS} are read.")
            parts, left = [], int(max_seconds * file.samplerate)
            if left < file.frames < LENGTH_UNKNOWN:
                raise ValueError(too_long)
            file.seekable = lambda: False  # soundfile would seek after every block, at whose last one such a flac fails
            # block by block, so that many channels never lie in memory together, and no header is believed; nor by
            # `file.blocks`, which has no end where libsndfile cannot seek (GSM, as telephones record)
            while len(block := file.read(2**16, dtype="float32", always_2d=True)):
                parts.append(_mixed(block, axis=1))
                left -= len(block)
                if left < 0:
                    raise ValueError(too_long)
            return np.concatenate(parts or [np.zeros(0, np.float32)]), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        raise ValueError(
            f"Cannot read {shown} as audio. Give a wav, flac, ogg or mp3 file; convert others first."
        ) from error


def _path(source, name: str) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"The {name} is a path, bytes or (sample_rate, samples), not a {type(source).__name__}.")
    try:
        path = Path(source)
        if path.is_file():
            return path
    except (ValueError, OSError):  # one with a zero byte, a name too long
        pass
    raise ValueError(f"There is no file '{source}' to read the {name} from.")


def _to_float(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.integer):
        info = np.iinfo(samples.dtype)
        offset = 0 if info.min < 0 else (info.max + 1) / 2  # 8-bit wav is unsigned
        return ((samples.astype(np.float32) - offset) / max(abs(info.min), (info.max + 1) / 2)).astype(np.float32)
    with np.errstate(over="ignore"):  # infinities are refused later
        return samples.astype(np.float32)


def mono(samples: np.ndarray) -> np.ndarray:
    """(n,), (n, channels) or (channels, n) -> (n,): channels are averaged; where they cancel each other out, as those
    of a microphone with crossed wires do, the loudest is taken."""
    samples = np.asarray(samples, np.float32)
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise ValueError(f"Audio must have one or two dimensions, not {samples.ndim}.")
    return _mixed(samples, int(np.argmin(samples.shape)))


def _mixed(samples: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = samples.mean(axis, dtype=np.float32)
        peaks = np.abs(samples).max(1 - axis, initial=0.0)  # of each channel
        cancelled = np.abs(mean).max(initial=0.0) < 10 ** (-QUIET_DB / 20) * peaks.max(initial=0.0)
    return samples.take(int(peaks.argmax()), axis) if cancelled else mean


def resample(wav: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Any rate -> 16 kHz with librosa's soxr. Raises ValueError on a rate outside 1 to 768 kHz."""
    _check_rate(rate)
    if rate == target or wav.size == 0:
        return np.ascontiguousarray(wav, np.float32)
    import librosa

    return librosa.resample(wav, orig_sr=rate, target_sr=target).astype(np.float32)


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"A sample rate of {rate} Hz is not audio; 8,000 to 192,000 Hz is usual.")


def trim(wav: np.ndarray, top_db: float = QUIET_DB, margin_seconds: float = 0.1) -> np.ndarray:
    """Cut silence more than `top_db` below the peak from both ends, and leave a margin of it."""
    import librosa

    _, (start, end) = librosa.effects.trim(wav, top_db=top_db, frame_length=512, hop_length=128)
    margin = int(margin_seconds * SAMPLE_RATE)
    return wav[max(0, start - margin) : min(len(wav), end + margin)]


def shorten_pauses(wav: np.ndarray, most_seconds: float = 0.6) -> np.ndarray:
    """What is quiet for longer than that is quiet for so long: (samples,) -> (fewer samples,)."""
    import librosa

    around = int(most_seconds / 2 * SAMPLE_RATE)
    spoken = librosa.effects.split(wav, top_db=QUIET_DB, frame_length=512, hop_length=128)
    kept = np.zeros(len(wav), bool)
    for start, end in spoken:
        kept[max(0, start - around) : end + around] = True
    return wav[kept]


def cut_at_pauses(wav: np.ndarray, most_seconds: float) -> list[np.ndarray]:
    """Cut a wave where it is quietest, so that few words are cut through: (samples,) -> parts of at most so long, none
    a splinter."""
    step = SAMPLE_RATE // 100  # 10 ms
    frames, most = -(-len(wav) // step), int(most_seconds * SAMPLE_RATE) // step
    power = np.square(np.pad(wav, (0, frames * step - len(wav)))).reshape(frames, step).mean(1)
    power = np.convolve(power, np.hanning(22)[1:-1], "same")  # over 0.2 s: a pause, not the closure of a stop
    places, at = [], 0
    while frames - at > most:
        even = (frames - at) / math.ceil((frames - at) / most)
        half = math.ceil(even / 2)
        first, last = at + half, min(at + most, frames - half)
        at = first + int(power[first : last + 1].argmin())
        places.append(at * step)
    return np.split(wav, places)


def normalize(wav: np.ndarray, peak: float = 0.7) -> np.ndarray:
    """Scale to a peak of `peak`, the level of the built-in codec's training clips; a silent wave stays as it is."""
    top = float(np.abs(wav).max(initial=0.0))
    return wav if top < SILENCE_PEAK else (wav * (peak / top)).astype(np.float32)


def save(wav: np.ndarray, path: str | os.PathLike, comment: str = "") -> Path:
    """Write a wave as 16-bit PCM (format by the suffix: wav, flac; ogg is Opus); the file appears whole or not at all.

    Args:
        comment: kept in the file, where players and `comment_of` find it.
    Raises:
        ValueError: unknown suffix, or the folder is missing or the disk full, in one sentence.
    """
    path = Path(path)
    check_suffix(path)
    with whole(path) as partial, open(partial, "w+b") as file:
        write(file, wav, path.suffix.lower().lstrip("."), comment)
    return path


def check_suffix(path: str | os.PathLike) -> None:
    """Raises ValueError where `save` has no format for this name."""
    if Path(path).suffix.lower().lstrip(".") not in SAVED:
        endings = ", ".join(f".{kind}" for kind in SAVED)
        raise ValueError(f"Cannot write '{Path(path).name}': choose one of the endings {endings}.")


def write(file, wav: np.ndarray, kind: str, comment: str = "") -> None:
    """Write a wave into an open binary file; `kind` is one of `FORMATS`. Raises OSError where there is no room."""
    import soundfile

    if kind == "ogg" and len(comment.encode()) > MAX_OGG_COMMENT:
        raise ValueError(f"An ogg file holds comments of at most {MAX_OGG_COMMENT:,} bytes.")
    form, subtype = FORMATS[kind]
    encoded = io.BytesIO()  # libsndfile calls a full disk "system error"
    with soundfile.SoundFile(encoded, "w", SAMPLE_RATE, 1, subtype, format=form) as sound:
        if comment and kind != "wav":
            sound.comment = comment
        sound.write(np.clip(wav, -1.0, 1.0))
    if comment and kind == "wav":
        _append_comment(encoded, comment)
    file.write(encoded.getbuffer())


def _append_comment(file: io.BytesIO, comment: str) -> None:
    """A LIST INFO chunk at the end of a wav; libsndfile writes one, but does not read it back where it is long."""
    told = comment.encode() + b"\0"
    told += b"\0" * (len(told) % 2)
    file.seek(0, io.SEEK_END)
    file.write(struct.pack("<4sI4s4sI", b"LIST", 12 + len(told), b"INFO", b"ICMT", len(told)) + told)
    length = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", length))


def comment_of(path: str | os.PathLike) -> str:
    """The comment in a sound file (wav, flac, ogg, mp3); empty where there is none. Raises ValueError as `load`."""
    import soundfile

    path = _path(path, "receipt")
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"RIFF":
                return _wav_comment(file)
        with soundfile.SoundFile(path) as sound:
            return sound.comment
    except (soundfile.LibsndfileError, RuntimeError, OSError, struct.error) as error:
        raise ValueError(f"Cannot read '{path.name}' as audio. Give a wav, flac, ogg or mp3 file.") from error


def _wav_comment(file) -> str:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"LIST" and size <= MAX_FILE_BYTES:
            told, at = file.read(size), 4
            while told[:4] == b"INFO" and len(told) >= at + 8:  # other programs write their own lines before it
                key, length = struct.unpack_from("<4sI", told, at)
                if key == b"ICMT":
                    return told[at + 8 : at + 8 + length].rstrip(b"\0").decode("utf-8", "replace")
                at += 8 + length + length % 2
            size = 0
        file.seek(size + size % 2, os.SEEK_CUR)
    return ""


def to_int16(wav: np.ndarray) -> np.ndarray:
    """Float samples -> 16-bit ones of the same shape; what is beyond full level is cut off."""
    return np.rint(np.clip(wav, -1.0, 1.0) * 32767).astype(np.int16)


def join(waves: list[np.ndarray], gap_seconds: float = 0.0) -> np.ndarray:
    """Waves one after the other, `gap_seconds` of silence between two."""
    gap = np.zeros(int(gap_seconds * SAMPLE_RATE), np.float32)
    parts = [part for wav in waves for part in (wav, gap)][:-1]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def equal_lengths(sequences: Sequence[Sized], most: int) -> Iterator[list[int]]:
    """Places of those that may share a pass of a model without a mask, since padding would change what it makes of
    them: of one length, and no more of them than `most` samples or codes together. Empty ones are left out."""
    places: dict[int, list[int]] = {}
    for place, one in enumerate(sequences):
        places.setdefault(len(one), []).append(place)
    places.pop(0, None)
    for length, group in places.items():
        at_once = max(1, most // length)
        yield from (group[k : k + at_once] for k in range(0, len(group), at_once))


@dataclass(frozen=True)
class Level:
    """What a look at a recording tells before any model hears it."""

    seconds: float
    peak_db: float  # dBFS, at most 0
    clipped: float  # share of samples at full level, 0 .. 1
    silent: float  # share of 20 ms frames more than 40 dB below the loudest, 0 .. 1


def level(wav: np.ndarray) -> Level:
    """Length, peak, clipping and silence of a wave (samples,) at 16 kHz. Raises ValueError on an empty one."""
    if len(wav) == 0:
        raise ValueError("There is no sound to look at: the wave is empty.")
    size = np.abs(wav)
    frames = np.pad(size, (0, -len(size) % HOP_LENGTH)).reshape(-1, HOP_LENGTH)  # (n, 320)
    power = np.sqrt((frames**2).mean(1))
    floor = max(float(power.max()) * 10 ** (-QUIET_DB / 20), 1e-9)
    return Level(
        len(wav) / SAMPLE_RATE,
        float(20 * np.log10(max(float(size.max()), 1e-9))),
        float((size >= CLIPPED).mean()),
        float((power < floor).mean()),
    )


def log_mel(wav: np.ndarray, bands: int = 80, step: int = HOP_LENGTH // 2) -> np.ndarray:
    """What a wave looks like: (bands, frames) in dB below its loudest point, 0 .. -80, a frame every `step` samples."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=np.asarray(wav, np.float32), sr=SAMPLE_RATE, n_fft=512, hop_length=step, n_mels=bands
    )
    return librosa.power_to_db(power, ref=np.max, top_db=80.0)
