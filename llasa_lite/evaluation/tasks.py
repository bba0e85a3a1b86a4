"""What is done to fill a table: each task is a list of items, each made and judged only when its row is missing.

A task yields `(system, name, make)`; `make()` gives the fields of one row. `run_task` keeps the rows.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .. import audio
from ..files import lines_of
from ..records import Records
from ..search import END, ChunkSearch, SearchSettings, Task
from ..verifiers import Cosine, Criterion, Target
from ..voices import MAX_SECONDS, Voice
from .listening import Crowd, Ears, counted

log = logging.getLogger(__name__)

Todo = Iterator[tuple[str, str, Callable[[], dict]]]
ONE_TAKE = SearchSettings("sample", 1)  # nothing is searched for
PROMPT_SECONDS = 3.0  # of a clip that is continued (paper, Table 5)
VOICE_SECONDS = 1.0, MAX_SECONDS  # of a clip taken as a voice prompt: what is left without its silence must do, too


def run_task(todo: Todo, records: Records, progress=lambda items: items) -> list[dict]:
    """Make the rows that are missing, in order; returns all rows of the task.

    Raises:
        ValueError: two items of a system share a name: the second would be counted by the row of the first.
    """
    todo, rows = list(todo), []
    for (system, name), times in Counter((system, name) for system, name, _ in todo).most_common(1):
        if times > 1:
            raise ValueError(f"{times} items of '{system}' are called '{name}'. Each needs an id of its own.")
    for system, name, make in progress(todo):
        key = f"{system}/{name}"
        if key not in records:
            made = {k: round(v, 5) if isinstance(v, float) else v for k, v in make().items()}
            records.add({"id": key, "system": system} | made)
        rows.append(records[key])
    return rows


@dataclass(frozen=True)
class Prompted:
    """A line of seed-tts-eval's meta.lst: `utt|prompt_text|prompt_wav|text`, some with `|ground truth wav`."""

    name: str
    prompt_text: str
    prompt_wav: Path
    text: str
    truth_wav: Path | None = None
    speaker: str = ""  # whose prompt it is; meta.lst does not say: each of its prompts counts as a voice of its own

    @property
    def voice(self) -> str:
        return self.speaker or str(self.prompt_wav)

    def prompt(self) -> Voice:
        """Raises ValueError where its clip cannot be a voice: missing, silent, too short, too long."""
        try:
            return Voice.from_audio(self.prompt_wav, self.prompt_text, self.name)
        except ValueError as error:
            raise ValueError(f"The prompt of '{self.name}' cannot be used. {error}") from error

    def check(self) -> None:
        """Raises ValueError where a clip cannot be used: before the work on the others, since rows of a list do not
        stand in one table with those of the list without this line."""
        self.prompt()
        if self.truth_wav:
            audio.load(self.truth_wav, f"ground truth of {self.name}")


def read_meta_list(path: str | Path) -> list[Prompted]:
    """Lines of a meta.lst; its wave paths are relative to its folder. Raises ValueError where a line is none."""
    path, lines = Path(path), []
    try:
        rows = lines_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read '{path}': {error}.") from error
    for number, row in enumerate(rows, 1):
        parts = row.strip().split("|")
        if not row.strip():
            continue
        if len(parts) not in (4, 5):
            raise ValueError(f"{path}, line {number}: 4 or 5 parts between | are needed, not {len(parts)}.")
        truth = path.parent / parts[4] if len(parts) == 5 else None
        lines.append(Prompted(parts[0], parts[1], path.parent / parts[2], parts[3], truth))
    if not lines:
        raise ValueError(f"'{path}' holds no lines.")
    return lines


def paired(clips) -> list[Prompted]:
    """Lines of the same kind from any corpus: each clip is said again after another clip of its speaker, as in
    seed-tts-eval, with itself as ground truth. The other is the last before it of 1 to 15 s; clips whose speaker has
    none are left out.

    Raises:
        ValueError: no line is left.
    """
    shortest, longest = VOICE_SECONDS
    by_speaker: dict[str, list] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    lines, alone = [], 0
    for group in by_speaker.values():
        for k, clip in enumerate(group):
            others = (group[k - back] for back in range(1, len(group)))
            prompt = next((other for other in others if shortest <= other.seconds <= longest), None)
            if prompt:
                lines.append(Prompted(str(clip.id), prompt.text, prompt.path, clip.text, clip.path, clip.speaker))
            alone += not prompt
    if not lines:
        raise ValueError("There is no clip with another of 1 to 15 s of its speaker, which would be its prompt.")
    if alone:
        told = "%d of %d clips have no other of 1 to 15 s of their speaker and are left out."
        log.warning(told, alone, alone + len(lines))
    return lines


def continuable(clips) -> list:
    """Those that go on for half a second after the prompt. Raises ValueError where there are none."""
    shortest = PROMPT_SECONDS + 0.5
    kept = [clip for clip in clips if clip.seconds > shortest]
    if not kept:
        raise ValueError(f"There is nothing to continue: none of the clips is longer than {shortest} s.")
    if short := len(clips) - len(kept):
        log.warning("%d of %d clips are no longer than %s s and are left out.", short, len(clips), shortest)
    return kept


def check_clip(clip, task: str) -> None:
    """Raises ValueError where a clip cannot serve this task: unreadable, for recognition silent or too short, else
    longer than a codec takes. Before the work on the others, as `Prompted.check`."""
    from ..codec import MAX_ENCODE_SECONDS  # not above: every command comes by here, and `doctor` where torch is broken
    from ..pipeline import to_be_read

    wav, name = clip.load(), f"clip '{clip.id}'"
    if task == "asr":
        to_be_read((audio.SAMPLE_RATE, wav), name)
    elif len(wav) > MAX_ENCODE_SECONDS * audio.SAMPLE_RATE:
        seconds = len(wav) / audio.SAMPLE_RATE
        raise ValueError(f"The {name} is {seconds:.0f} s long; a codec takes {MAX_ENCODE_SECONDS:.0f} s.")


def tts(system: str, speak, sentences: Iterable[str], ears: Ears, voices=(), seed: int = 0, keep=None) -> Todo:
    """Each sentence spoken once, sentence k with seed + k by voice k modulo their number, read back by the judge.

    Args:
        speak: `(text, voice, seed) -> Speech`: `llasa.tts`, or a search that returns its best.
        keep: folder for the waves; None keeps nothing.
    """

    def make(index: int, sentence: str) -> dict:
        speech = speak(sentence, voices[index % len(voices)] if voices else None, seed + index)
        return _kept(keep, f"{index:04d}", speech) | ears.read(speech.wav, sentence) | ears.pleasant(speech.wav)

    for index, sentence in enumerate(sentences):
        yield system, str(index), lambda index=index, sentence=sentence: make(index, sentence)


def seed_tts_eval(system: str, speak, codec, lines: Iterable[Prompted], ears: Ears, seed: int = 0, keep=None) -> Todo:
    """Zero-shot cloning (paper, Table 2; with emotion ears and ESD's lines, Table 4): likeness to the prompt and to
    the prompt through the codec, and whether the voice is recognised among those of all lines. Where a line has a
    ground truth, it and its resynthesis are rows of their own, and with a codec that restores timbres a third: decoded
    as an answer is, after the prompt and in its timbre."""
    lines = list(lines)

    @cache
    def crowd() -> Crowd | None:
        prompts = {line.voice: line.prompt_wav for line in lines}
        if not isinstance(ears.speaker, Cosine) or len(prompts) < 2:
            return None
        return Crowd(ears.speaker, {voice: audio.load(path, f"prompt of {voice}") for voice, path in prompts.items()})

    def judged(wav: np.ndarray, line: Prompted) -> dict:
        prompt = audio.load(line.prompt_wav, f"prompt of {line.name}")
        row = ears.read(wav, line.text) | ears.alike(wav, prompt, as_answer(prompt, line)) | ears.pleasant(wav)
        return row | (crowd().taken_for(wav, line.voice, prompt) if crowd() else {})

    def model(index: int, line: Prompted) -> dict:
        speech = speak(line.text, line.prompt(), seed + index)
        return _kept(keep, line.name, speech) | judged(speech.wav, line)

    def itself(wav: np.ndarray, line: Prompted) -> np.ndarray:
        return wav

    def through_codec(wav: np.ndarray, line: Prompted) -> np.ndarray:
        return codec.decode(codec.encode(wav)[:-1])

    def as_answer(wav: np.ndarray, line: Prompted) -> np.ndarray:
        voice = line.prompt().encoded(codec)
        return codec.decode_after(voice.codes[codec.name], [codec.encode(wav)[:-1]], voice.timbre_by(codec))[0]

    def truth(line: Prompted, heard: Callable[[np.ndarray, Prompted], np.ndarray]) -> dict:
        return judged(heard(audio.load(line.truth_wav, f"ground truth of {line.name}"), line), line)

    for index, line in enumerate(lines):
        if line.truth_wav is not None:
            yield "ground truth", line.name, lambda line=line: truth(line, itself)
            yield "codec resynthesis", line.name, lambda line=line: truth(line, through_codec)
            if codec.restores_timbre:
                yield "codec resynthesis in the prompt's timbre", line.name, lambda line=line: truth(line, as_answer)
        yield system, line.name, lambda index=index, line=line: model(index, line)


def continuation(
    system: str,
    llasa,
    clips,
    ears: Ears,
    seed: int = 0,
    sampling=None,
    keep=None,
    settings: SearchSettings = ONE_TAKE,
    process: Criterion | None = None,
    outcome: Criterion | None = None,
) -> Todo:
    """The first 3 s of a clip gone on with to the end of its own transcript (paper, Table 5, after VALL-E).

    The text is the whole transcript, put as `tts` puts it; nothing says where the prompt's part of it ends. Words are
    counted over prompt and answer; likeness is that of the answer alone.

    Args:
        settings, process, outcome: how to search; by default there is one answer. The process verifier hears the answer
            so far and the outcome verifier prompt and answer, since the words are those of both.
    """
    from ..pipeline import SECONDS_TO_SPARE

    codec, cut = llasa.codec, int(PROMPT_SECONDS * audio.FRAME_RATE) * audio.HOP_LENGTH

    def judged(wav: np.ndarray, clip, again: np.ndarray) -> dict:
        return ears.read(wav, clip.text) | ears.alike(wav[cut:], clip.load()[:cut], again[:cut]) | ears.pleasant(wav)

    def model(index: int, clip) -> dict:
        began = time.perf_counter()
        # cut before it is encoded: the encoder hears both ways, and codes of the whole clip know how it goes on
        voice = Voice("prompt", "", clip.load()[:cut]).encoded(codec)
        codes, timbre = voice.codes[codec.name], voice.timbre_by(codec)
        room = int((1.5 * clip.seconds + SECONDS_TO_SPARE) * audio.FRAME_RATE) - len(codes)
        # nano: of LibriSpeech's kind of text 31 % of the words wrong without its full stop, 13 % with it (16 clips)
        prompt = llasa.protocol.tts_prompt(llasa._closed(llasa._spoken(clip.text)), codes)
        without, how = llasa.protocol.unconditional_prompt("", codes), sampling or llasa.sampling

        def decode(both: list[np.ndarray], whole: bool) -> list[np.ndarray]:
            return [wav[0 if whole else cut :] for wav in codec.decode_after([], both, timbre)]

        task = Task(
            lambda n: llasa.engine.start(prompt, n, "speech", how, seed + index, room, without),
            lambda ids: np.array([*codes, *llasa.protocol.ids_to_codes(ids)]),
            decode,
            Target(clip.text, voice.wav),
        )
        (*_, finished) = ChunkSearch(task, settings, process, outcome).events()
        wav = finished.best.wav
        if keep:
            audio.save(wav, _folder(keep) / f"{_plain(clip.id)}.wav")
        row = {"seconds": len(wav) / audio.SAMPLE_RATE, "seconds_taken": time.perf_counter() - began}
        row |= {"incomplete": int(finished.best.stopped != END)}
        return row | judged(wav, clip, codec.decode_after([], [codes], timbre)[0])

    def truth(clip, through_codec: bool) -> dict:
        wav = clip.load()
        again = codec.decode(codec.encode(wav)[:-1])
        return judged(again if through_codec else wav, clip, again)

    for index, clip in enumerate(continuable(clips)):
        yield "ground truth", str(clip.id), lambda clip=clip: truth(clip, False)
        yield "codec resynthesis", str(clip.id), lambda clip=clip: truth(clip, True)
        yield system, str(clip.id), lambda index=index, clip=clip: model(index, clip)


def asr(system: str, hear: Callable[[np.ndarray], str], clips, language: str = "en") -> Todo:
    """Recognition (paper, Table 3): `hear` is `lambda wav: llasa.transcribe(wav).text`, or a Judge."""

    def make(clip) -> dict:
        wav, began = clip.load(), time.perf_counter()
        heard = hear(wav)
        row = {"seconds": len(wav) / audio.SAMPLE_RATE, "seconds_taken": time.perf_counter() - began}
        return counted(clip.text, heard, language) | row  # the first to be counted loads a normaliser

    for clip in clips:
        yield system, str(clip.id), lambda clip=clip: make(clip)


def codec(system: str, resynthesise: Callable[[np.ndarray], np.ndarray] | None, clips, ears: Ears, keep=None) -> Todo:
    """A codec against its originals (paper, Table 1). `resynthesise` keeps 16 kHz and length; None: the originals."""

    def make(clip) -> dict:
        wav, began = clip.load(), time.perf_counter()
        made = wav if resynthesise is None else resynthesise(wav)
        row = {"seconds": len(wav) / audio.SAMPLE_RATE, "seconds_taken": time.perf_counter() - began}
        if keep and resynthesise is not None:
            audio.save(made, _folder(keep) / f"{_plain(system)}-{_plain(clip.id)}.wav")
        row |= ears.read(made, clip.text) | ears.pleasant(made)
        return row if resynthesise is None else row | ears.faithful(made, wav)

    for clip in clips:
        yield system, str(clip.id), lambda clip=clip: make(clip)


def _kept(keep, name: str, speech) -> dict:
    if keep:
        speech.save(_folder(keep) / f"{_plain(name)}.wav")
    taken = speech.receipt["seconds_taken"]
    return {"seconds": speech.seconds, "seconds_taken": taken, "incomplete": int(not speech.complete)}


def _folder(keep) -> Path:
    Path(keep).mkdir(parents=True, exist_ok=True)
    return Path(keep)


def _plain(name) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in str(name))
