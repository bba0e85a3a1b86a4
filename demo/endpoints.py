"""The page's jobs for programs: named endpoints of plain values and files, for `gradio_client`, HTTP and MCP.

They share the jobs with the tabs and nothing else: no visitor's page is touched by a call. What the tabs themselves
call is private.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import gradio as gr
import numpy as np

from llasa_lite import SEARCH_METHODS, SearchSettings, Speech, Voice, audio, builtin_voices

from . import asking, clips, continuing, searching, settings, speak, transcribe
from .common import ANY_VOICE, BUSY, MAX_CODES, OWN_CLIP, plain_errors, to_player, to_wave, wav_of
from .models import Models


def layout(models: Models) -> None:
    """Unseen components that give the endpoints their types and defaults, and the endpoints on them."""
    with gr.Group(visible=False):
        text = gr.Textbox(None, label="text")
        voice = gr.Dropdown([*builtin_voices(), ANY_VOICE, OWN_CLIP], value=asking.first_voice(), label="voice")
        clip = gr.Audio(type="filepath", label="clip")
        transcript = gr.Textbox("", label="transcript")
        seed = gr.Number(None, label="seed")
        temperature = gr.Number(None, label="temperature")
        top_p = gr.Number(None, label="top_p")
        guidance = gr.Number(None, label="guidance")
        model = gr.Dropdown(list(models.choices), value=models.first, label="model")
        codes = gr.JSON(label="codes")
        codes.api_info = lambda: {"type": "array", "items": {"type": "integer", "minimum": 0}}  # not any JSON
        method = gr.Dropdown(list(SEARCH_METHODS), value=SearchSettings.method, label="method")
        n = gr.Number(8, label="n", precision=0)
        chooser = searching.chooser(models)
        outcome = gr.Textbox(chooser, label="outcome")
        process = gr.Textbox(searching.SPEAKER, label="process")
        branch = gr.Number(SearchSettings.branch, label="branch", precision=0)
        process_seconds = gr.Number(SearchSettings.process_seconds, label="process_seconds")
        wave, answer = gr.Audio(label="wave"), gr.Audio(label="wave of the answer alone")
        receipt, facts, every = gr.JSON(label="receipt"), gr.JSON(label="facts"), gr.File(label="all candidates")

    def tuned(name: str, seed, *asked) -> tuple:
        """What a tab's `Settings` hold, with the model's own where nothing is said."""
        with plain_errors():
            own = settings.values(models.get(name).sampling)
        return seed is None, seed, *(theirs if given is None else given for given, theirs in zip(asked, own))

    def speak_(
        text, voice, clip=None, transcript="", seed=None, temperature=None, top_p=None, guidance=None,
        model=models.first,
    ):  # fmt: skip
        """Text to speech.

        Args:
            text: what to say, at most 2,000 characters.
            voice: a built-in voice, "" to let the model choose one, or "my clip" to follow `clip`: in the likeliest of
                four takes, where the model can transcribe and the text has at most 300 characters.
            clip: 0.5 to 15 s of a voice; only with voice "my clip".
            transcript: what is said in the clip, word for word; recognised where the model can.
            seed: the same seed gives the same speech; drawn if left out.
            temperature: 0 to 2; the model's own if left out.
            top_p: above 0, up to 1; the model's own if left out.
            guidance: how closely words are followed, 1 (off) to 5; the model's own if left out.
            model: which checkpoint speaks.
        Returns:
            The wave at 16 kHz, and its receipt: everything needed to make it again.
        """
        speech = speak.speak(
            models, model, text, voice, clip, transcript, *tuned(model, seed, temperature, top_p, guidance)
        )
        return to_wave(speech), told(speech)

    def continue_(
        clip, text, transcript="", seed=None, temperature=None, top_p=None, guidance=None, model=models.first
    ):
        """Go on from a clip in its voice with new words.

        Args:
            clip: 0.5 to 15 s of speech.
            text: what is said next.
            transcript: what is said in the clip, word for word; recognised where the model can.
            seed: the same seed gives the same speech; drawn if left out.
            temperature: 0 to 2; the model's own if left out.
            top_p: above 0, up to 1; the model's own if left out.
            guidance: how closely words are followed, 1 (off) to 5; the model's own if left out.
            model: which checkpoint speaks.
        Returns:
            Clip and answer in one wave, the answer alone, and the receipt of the answer.
        """
        before, speech = continuing.continue_clip(
            models, model, clip, transcript, text, *tuned(model, seed, temperature, top_p, guidance)
        )
        return to_wave(speech, np.concatenate([before, speech.wav])), to_wave(speech), told(speech)

    def transcribe_(clip, model=models.first):
        """Speech to text.

        Args:
            clip: up to 60 s of speech.
            model: a checkpoint that can transcribe.
        Returns:
            text, probability (mean of the model's own ids, 0 to 1), words with theirs, seconds, complete.
        """
        return asdict(transcribe.transcribe(models, model, clip))

    def search(
        text, voice, clip=None, transcript="", method="best_of_n", n=8, outcome=chooser,
        process=searching.SPEAKER, branch=SearchSettings.branch, process_seconds=SearchSettings.process_seconds,
        seed=None, temperature=None, top_p=None, guidance=None, model=models.first,
    ):  # fmt: skip
        """Speak a text many times over and keep what verifiers like best.

        Args:
            text: what to say, at most 300 characters.
            voice: a built-in voice, "" to let the model choose one, or "my clip" to follow `clip`.
            clip: 0.5 to 15 s of a voice; only with voice "my clip".
            transcript: what is said in the clip, word for word; recognised where the model can.
            method: best_of_n, partial_prm, beam_search or sample.
            n: candidates, and beams kept under the process verifier; 1 to 32.
            outcome: what chooses: asr, likelihood, speaker, quality, emotion, or a weighing: 0.7*asr + 0.3*speaker.
            process: what prunes beams in partial_prm and beam_search: speaker, quality or emotion.
            branch: continuations of every beam at every step; 1 to 8.
            process_seconds: of speech under the process verifier in partial_prm.
            seed: the same seed gives the same search; drawn if left out.
            temperature: 0 to 2; the model's own if left out.
            top_p: above 0, up to 1; the model's own if left out.
            guidance: how closely words are followed, 1 (off) to 5; the model's own if left out.
            model: which checkpoint speaks.
        Returns:
            The best wave, its receipt, all candidates with their scores, and a zip of every wave and receipt.
        """
        given = (method, n, outcome, process, branch, process_seconds)
        sampling = tuned(model, seed, temperature, top_p, guidance)
        with plain_errors():
            run = searching.start(models, model, text, voice, clip, transcript, *given, *sampling)
            for _ in run:
                pass
            found = run.result
            return to_wave(found.best), told(found.best), found.to_dict(), str(searching.packed(found))

    def check(clip, model=models.first):
        """Look at a clip before it serves as a voice.

        Args:
            clip: the clip.
            model: the checkpoint whose codec it goes through.
        Returns:
            The clip as it comes back from the codec, and seconds, peak_db, clipped and silent (shares) and advice,
            which begins with ✗ where the clip cannot serve.
        """
        with plain_errors():
            wav = wav_of(clip)
            back = models.get(model).codec.resynthesize(wav)
            advice = clips.checked(wav)
            try:
                Voice.from_audio((audio.SAMPLE_RATE, wav))
            except ValueError as error:  # it cannot be followed
                advice.insert(0, f"✗ {error}")
            return to_player(back), asdict(audio.level(wav)) | {"advice": advice}

    def encode(clip, model=models.first):
        """A clip as codec tokens.

        Args:
            clip: up to 60 s of sound.
            model: the checkpoint whose codec encodes it.
        Returns:
            codes (50 a second, whole numbers from 0), codec, codebook_size and codes_per_second.
        """
        with plain_errors():
            codec = models.get(model).codec
            codes = codec.encode(wav_of(clip)).tolist()
            sizes = {"codebook_size": codec.codebook_size, "codes_per_second": audio.FRAME_RATE}
            return {"codes": codes, "codec": codec.name} | sizes

    def decode(codes, model=models.first):
        """Codec tokens as sound.

        Args:
            codes: a list of whole numbers from 0 to the size of the codebook, at most 3,000.
            model: the checkpoint whose codec decodes them.
        Returns:
            The wave at 16 kHz, 320 samples a code.
        """
        with plain_errors():
            return to_player(models.get(model).codec.decode(codes_of(codes)))

    def voices():
        """The built-in voices.

        Returns:
            name, description, and the words of its clip, of each.
        """
        return [{"name": v.name, "description": v.description, "text": v.text} for v in builtin_voices().values()]

    def models_():
        """The checkpoints this page can be asked for.

        Returns:
            name, source (a hub id, or "here"), licence, languages, parameters, gigabytes of memory, tasks and a note,
            of each.
        """
        shown = ("licence", "languages", "parameters", "gigabytes", "tasks", "note")
        return [
            # where a folder lies on the server is nobody's business
            {"name": name, "source": "here" if Path(c.source).is_dir() else c.source}
            | {key: getattr(c, key) for key in shown}
            for name, c in models.choices.items()
        ]

    tuning = [seed, temperature, top_p, guidance, model]
    _open(speak_, "speak", [text, voice, clip, transcript, *tuning], [wave, receipt])
    _open(continue_, "continue", [clip, text, transcript, *tuning], [wave, answer, receipt])
    _open(transcribe_, "transcribe", [clip, model], facts)
    choosing = [method, n, outcome, process, branch, process_seconds]
    _open(search, "search", [text, voice, clip, transcript, *choosing, *tuning], [wave, receipt, facts, every])
    _open(check, "check", [clip, model], [wave, facts])
    _open(encode, "encode", [clip, model], facts)
    _open(decode, "decode", [codes, model], wave)
    _open(voices, "voices", [], facts, queue=False)
    _open(models_, "models", [], facts, queue=False)


def _open(job, name: str, inputs, outputs, **more) -> None:
    job.__name__ = name  # what the MCP tool is called
    gr.Button(visible=False).click(job, inputs, outputs, api_name=name, concurrency_id=BUSY, **more)


def told(speech: Speech) -> dict:
    """A receipt, and whether the speech ended by itself."""
    return speech.receipt | {"seconds": round(speech.seconds, 3), "complete": speech.complete}


def codes_of(codes) -> list[int]:
    """Codes that a program sent. Raises ValueError on anything but a list of whole numbers, or too many."""
    if not isinstance(codes, list) or not all(type(code) is int and code >= 0 for code in codes):
        raise ValueError("Codes are a list of whole numbers from 0, such as [12, 3058, 77].")
    if not 1 <= len(codes) <= MAX_CODES:
        raise ValueError(f"There are {len(codes):,} codes; give 1 to {MAX_CODES:,}.")
    return codes
