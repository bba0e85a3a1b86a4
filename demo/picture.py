"""A sound as one can see it: wave, spectrogram and, under them, its 50 tokens a second; a click plays from there.

It drives a `gr.Audio` with Gradio's plain player. Its value holds pictures and numbers only, no sound.
"""

from __future__ import annotations

import gradio as gr
import numpy as np

from llasa_lite import Codec, Speech, audio

from . import drawing
from .words import component

# Gradio gives its players no name and lets them all play at once. Sound events do not bubble, but they can be caught on
# their way down; those of sounds that are not on the page, or hidden in a player of Gradio's, only where they begin.
TEND_PLAYERS = """() => {
    document.addEventListener('loadedmetadata', event => {
        const label = event.target.closest('.block')?.querySelector('label')?.textContent.trim();
        if (label) event.target.setAttribute('aria-label', label);
    }, true);
    let last = null;
    addEventListener('sound', event => {
        if (last !== event.detail) last?.pause();
        last = event.detail;
    });
    const tell = sound => dispatchEvent(new CustomEvent('sound', {detail: sound})), media = HTMLMediaElement.prototype;
    const play = media.play;
    media.play = function () { tell(this); return play.call(this); };
    document.addEventListener('play', event => tell(event.target), true);
}"""


def layout(player: str, elem_id: str, selectable: bool = False) -> gr.HTML:
    """
    Args:
        player: element id of the `gr.Audio` it plays with.
        selectable: dragging picks tokens: the event `pick` brings `begin` and `end`.
    """
    return component(
        __file__,
        '<figure class="picture" hidden></figure>',
        label="Picture of the sound",
        player=player,
        selectable=selectable,
        rate=audio.FRAME_RATE,
        elem_id=elem_id,
        elem_classes="flat",
    )


def plain_player(**more) -> gr.Audio:
    """A player such as the picture can drive: the browser's own."""
    options = gr.WaveformOptions(show_recording_waveform=False)
    return gr.Audio(interactive=False, waveform_options=options, **more)


def of_codes(codec: Codec, wav: np.ndarray, codes) -> dict:
    """Value for one run of codes that starts with the wave."""
    return _value(codec, wav, [(0.0, codes)])


def of_speech(codec: Codec, speech: Speech, before: np.ndarray | None = None, before_codes=()) -> dict:
    """Value for a speech, its pieces' codes each at its place; with the clip that came before it where there is one."""
    lengths = [len(codes) / audio.FRAME_RATE for codes in speech.codes]
    gap = (speech.seconds - sum(lengths)) / max(1, len(lengths) - 1)  # of silence between pieces
    start = 0.0 if before is None else len(before) / audio.SAMPLE_RATE
    begins = start + np.cumsum([0.0, *(length + gap for length in lengths[:-1])])
    runs = list(zip(begins.tolist(), speech.codes))
    if before is None:
        return _value(codec, speech.wav, runs)
    wav = np.concatenate([before, speech.wav])
    end = start + speech.seconds
    parts = {"Clip": (0.0, start), "Answer": (start, end), "Both": (0.0, end)}
    return _value(codec, wav, [(0.0, before_codes), *runs], parts)


def _value(codec, wav, runs, parts: dict[str, tuple[float, float]] | None = None) -> dict:
    """`runs` are (second it begins, codes), `parts` named times in seconds that can be played apart."""
    seconds = len(wav) / audio.SAMPLE_RATE
    return {
        "seconds": seconds,
        "wave": drawing.peaks(wav, max(1, round(2 * audio.FRAME_RATE * seconds))),
        "mel": drawing.spectrogram(wav),
        "runs": [
            {"begin": begin, "codes": [int(c) for c in codes], "image": drawing.digits(codec, codes)}
            for begin, codes in runs
            if len(codes)
        ],
        "parts": [{"name": name, "begin": begin, "end": end} for name, (begin, end) in (parts or {}).items()],
    }
