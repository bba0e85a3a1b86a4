"""What type checkers and editors know of the public API: read by `python -m mypy`, never run."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import assert_type

from llasa_lite import (
    CHECKPOINTS,
    Candidate,
    Checkpoint,
    Codec,
    Llasa,
    Sampling,
    Search,
    SearchResult,
    Speech,
    Transcript,
    Voice,
    audio,
    builtin_voices,
)


def speaking(llasa: Llasa) -> None:
    assert_type(Llasa.from_pretrained("llasa-1b", dtype="bfloat16"), Llasa)
    speech = llasa.tts("Hello.", voice="emma", seed=7, sampling=Sampling(temperature=0.8))
    assert_type(speech, Speech)
    assert_type(speech.wav, np.ndarray)
    assert_type(speech.receipt, dict[Any, Any])
    assert_type(speech.seconds, float)
    assert_type(speech.complete, bool)
    assert_type(speech.save("hello.wav"), Path)
    assert_type(llasa.stream("Hello."), Generator[np.ndarray, None, Speech])
    assert_type(llasa.continue_speech("clip.wav", "and more."), Speech)
    assert_type(Llasa.replay(speech.receipt), Speech)


def listening(llasa: Llasa) -> None:
    heard = llasa.transcribe("clip.wav")
    assert_type(heard, Transcript)
    assert_type(heard.words, list[tuple[str, float]])


def searching(llasa: Llasa) -> None:
    result = llasa.search("Hello.", voice="emma", n=4, outcome="likelihood")
    assert_type(result, SearchResult)
    assert_type(result.best, Speech)
    assert_type(result.candidates, list[Candidate])
    assert_type(llasa.search_events("Hello."), Search)


def voices(llasa: Llasa) -> None:
    assert_type(builtin_voices(), dict[str, Voice])
    assert_type(llasa.prepare(Voice.from_audio("me.wav", text="What I say.")), Voice)
    assert_type(CHECKPOINTS["nano"], Checkpoint)


def tokens(codec: Codec) -> None:
    assert_type(audio.load("clip.wav"), np.ndarray)
    assert_type(codec.decode([1, 2, 3]), np.ndarray)
