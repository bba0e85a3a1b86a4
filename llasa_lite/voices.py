"""A voice is a short clip and what is said in it, as codes, transcript and name; saved as JSON. Knows the codec."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from . import audio
from .files import read_json, whole, whole_numbers
from .timbre import Timbre

FOLDER = Path(__file__).parent / "nano" / "voices"  # the built-in voices: <name>.json beside <name>.clip.ogg

MIN_SECONDS = 0.5  # below this there is no voice to follow
MAX_CLIP_SECONDS = 600.0  # of a file that a clip is trimmed out of
MAX_VOICE_CHARS = 2_000  # of name and transcript in a voice file
MAX_VOICE_CODES = 2_000  # in a voice file, of each codec
MAX_SECONDS = 15.0  # more takes the context away from the answer; a longer clip is refused, never cut without its text


def check_suffix(path: str | os.PathLike) -> None:
    """Raises ValueError where a voice would be saved under a name that `--voice` takes for a clip."""
    if Path(path).suffix != ".json":
        raise ValueError(f"A voice is written as .json, not as '{Path(path).name}'.")


@dataclass(frozen=True)
class Voice:
    """What a voice prompt is made of. Text and speech stay together, or one would leak into the answer.

    Example:
        >>> Voice.builtin("emma").name
        'emma'
        >>> me = Voice.from_audio("me.wav", text="What I say in it.")
        >>> llasa.prepare(me).save("me.json").name  # encoded once, for later
        'me.json'
    """

    name: str
    text: str | None  # transcript; None: to be recognised by a checkpoint that can
    wav: np.ndarray | None = field(default=None, repr=False)  # (samples,) float32, 16 kHz
    codes: dict[str, list[int]] = field(default_factory=dict, repr=False)  # codec name -> codes
    description: str = ""
    timbre: dict[str, Timbre] = field(default_factory=dict, repr=False)  # codec name -> what its codes lose
    # codec name -> what a model hears in those codes, where that is not the transcript: the words of its prompt
    heard: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_audio(cls, source, text: str | None = None, name: str = "my voice") -> Voice:
        """A voice from a clip of 0.5 to 15 s: a path, bytes or `(sample_rate, samples)`.

        Silence at both ends is cut and the level set to that of the training clips.

        Raises:
            ValueError: unreadable, silent, shorter than 0.5 s or longer than 15 s after trimming.
        """
        wav = audio.normalize(audio.trim(audio.load(source, name="voice clip", max_seconds=MAX_CLIP_SECONDS)))
        seconds = len(wav) / audio.SAMPLE_RATE
        if seconds < MIN_SECONDS:
            raise ValueError(f"The voice clip holds {seconds:.1f} s of sound; at least {MIN_SECONDS} s are needed.")
        if seconds > MAX_SECONDS:
            raise ValueError(
                f"The voice clip is {seconds:.0f} s long; give {MAX_SECONDS:.0f} s or less (3 to 6 s work best) "
                "and only the text that is said in it."
            )
        return cls(name, text.strip() if text and text.strip() else None, wav)

    @classmethod
    def builtin(cls, name: str) -> Voice:
        """One of the voices that ship with the package. Raises ValueError on an unknown name."""
        known = builtin_voices()
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                f"Unknown voice '{str(name)[:60]}'. Choose from: {', '.join(known)}; or give a clip of your own "
                "(Voice.from_audio)."
            )
        return known[name]

    @classmethod
    def load(cls, path: str | os.PathLike) -> Voice:
        """Read a voice saved with `save`. Raises ValueError where the file is no voice."""
        path = Path(path)
        wrong = f"'{path.name}' is not a voice: it needs name, text and codes"
        row = read_json(path, "voice file", f"{wrong}.")
        told = [row.get(k, "") for k in ("name", "text", "description")] if isinstance(row, dict) else [None]
        if not all(isinstance(one, str) for one in told) or not all(told[:2]):
            raise ValueError(f"{wrong}.")
        if len(row["name"]) + len(row["text"]) > MAX_VOICE_CHARS:
            raise ValueError(
                f"'{path.name}' is not a voice: name and text have more than {MAX_VOICE_CHARS:,} characters."
            )
        codes = row.get("codes")
        if not isinstance(codes, dict) or not all(whole_numbers(v, MAX_VOICE_CODES) for v in codes.values()):
            raise ValueError(f"{wrong}; the codes of a codec are at most {MAX_VOICE_CODES:,} whole numbers from 0.")
        try:
            timbre = {codec: Timbre(tenths) for codec, tenths in row.get("timbre", {}).items()}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{path.name}' is not a voice: its timbre is wrong ({error}).") from error
        heard = row.get("heard", {})
        if not isinstance(heard, dict) or not all(
            isinstance(v, str) and len(v) <= MAX_VOICE_CHARS for v in heard.values()
        ):
            raise ValueError(f"'{path.name}' is not a voice: what was heard in it is wrong.")
        voice = cls(row["name"], row["text"], None, codes, row.get("description", ""), timbre, heard)
        sound = path.with_suffix(".clip.ogg")
        if not sound.is_file():
            return voice
        return voice.replace(wav=audio.load(sound, f"voice '{voice.name}'", MAX_CLIP_SECONDS))

    def save(self, path: str | os.PathLike) -> Path:
        """Write name, text, codes and timbre as JSON, and the clip beside it (.clip.ogg), for other codecs.

        Raises:
            ValueError: another ending than .json, no name, no transcript or no codes yet (`Llasa.prepare(voice)` fills
                in both), a transcript too long, or it cannot be written.
        """
        check_suffix(path)
        if self.text is None or not self.codes:
            raise ValueError(
                f"The voice '{self.name}' has no transcript or no codes yet; prepare it with a model first."
            )
        if not self.name or len(self.name) + len(self.text) > MAX_VOICE_CHARS:  # `load` would refuse it
            raise ValueError(
                f"A voice is saved with a name; it and the transcript have at most {MAX_VOICE_CHARS:,} characters."
            )
        row = {"name": self.name, "text": self.text, "description": self.description, "codes": self.codes}
        row |= {"timbre": {codec: timbre.tenths for codec, timbre in self.timbre.items()}, "heard": self.heard}
        path = Path(path)
        with whole(path) as partial:
            partial.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
            if self.wav is not None:
                audio.save(self.wav, path.with_suffix(".clip.ogg"))  # never the recording it was made from
            else:  # nor another voice's, saved here before
                path.with_suffix(".clip.ogg").unlink(missing_ok=True)
        return path

    def replace(self, **changes) -> Voice:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def encoded(self, codec) -> Voice:
        """A copy that holds this codec's codes, and the timbre they lose if it is one that restores it; both are made
        once.

        Raises:
            ValueError: codes of another codec only, and no audio to encode.
        """
        if codec.name in self.codes:
            return self._with_timbre(codec)
        if self.wav is None:
            raise ValueError(
                f"The voice '{self.name}' was saved for the codec {', '.join(self.codes)} and holds no audio; "
                f"make it again from its clip for '{codec.name}'."
            )
        # the last code of `encode` stands for appended zeros; the answer goes on from the sound itself
        codes = codec.encode(self.wav)[:-1].tolist()
        return self.replace(codes={**self.codes, codec.name: codes})._with_timbre(codec)

    def timbre_by(self, codec) -> Timbre | None:
        """What speech in this voice is given after this codec; None where it restores none, or none is known."""
        return self.timbre.get(codec.name) if codec.restores_timbre else None

    def _with_timbre(self, codec) -> Voice:
        if not codec.restores_timbre or codec.name in self.timbre or self.wav is None:
            return self
        timbre = Timbre.between(self.wav, codec.decode(self.codes[codec.name]))
        return self.replace(timbre={**self.timbre, codec.name: timbre}) if timbre else self


@lru_cache(None)
def builtin_voices() -> dict[str, Voice]:
    """Name -> voice, in alphabetical order."""
    return {path.stem: Voice.load(path) for path in sorted(FOLDER.glob("*.json"))}
