"""`Llasa`: text and voices in, speech with its receipt out. Ties tokens, engine, codec and voices together."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from . import __version__, audio, receipts, recognition, text
from .checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    codec_source,
    find,
    fingerprint,
    load_codec,
    load_lm,
    pick_device,
    pick_dtype,
)
from .codec import CHUNK_CODES, Codec
from .engine import END, Engine, Patience, Sampling
from .search import SearchSettings
from .speech import GAP_SECONDS, Speech, Transcript, piece_seed
from .text_search import Search, SearchResult, lent_by
from .timbre import Timbre
from .tokens import Protocol
from .verifiers import Criterion, Verifier, verifier
from .voices import Voice

MAX_TEXT_CHARS = 20_000
# Speech that is sure to be too long for its text is stopped: slow reading takes 0.12 s a character.
SECONDS_PER_CHARACTER = 0.2
SECONDS_TO_SPARE = 2.0
MIN_SECONDS_HEARD = 0.1  # of a clip to transcribe
# So is a row that goes nowhere. In 20,225 clips of nano's corpus the longest silence takes 1.2 s, and no loop 0.4 s.
SILENCE_SECONDS = 2.0
REPETITION_SECONDS = 1.0
# Nats a letter of a clip's transcript: less likely, and what is heard there is another text. nano's voices have -0.4 to
# 0, other synthetic ones -1.3 to -0.1, 25 of 29 people less than -0.8.
UNHEARD = -0.8
CLIPS_REMEMBERED = 16  # by what was heard in them, which takes seconds to find out
STOP_STEPS = 100  # ids between two looks at `stop`


class Stopped(RuntimeError):
    """Raised where `stop` said that the speech is no longer wanted."""


class Llasa:
    """A Llasa checkpoint with its codec.

    Example:
        >>> from llasa_lite import Llasa
        >>> llasa = Llasa.from_pretrained()
        >>> speech = llasa.tts("Hello there.", seed=7)
        >>> speech.sample_rate
        16000
    """

    def __init__(self, checkpoint: Checkpoint, protocol: Protocol, engine: Engine, codec: Codec, sampling: Sampling):
        if protocol.codebook_size != codec.codebook_size:
            raise ValueError(
                f"The codec '{codec.name}' has {codec.codebook_size} codes, the language model '{checkpoint.name}' "
                f"{protocol.codebook_size}: they do not belong together."
            )
        self.checkpoint, self.protocol, self.engine, self.codec = checkpoint, protocol, engine, codec
        self.sampling = sampling  # the checkpoint's own defaults
        self._builtin: dict[str, Voice] = {}  # those that were spoken with: their timbre is learned once
        self._heard: dict[bytes, str] = {}  # digest of a clip -> the words that were heard in it
        # fingerprints of the weights at work, where they are small enough to have one; taken now, since a training may
        # write others to where these were read from
        self._weights = {"model": fingerprint(checkpoint.source), "codec": fingerprint(codec_source(codec.name))}

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        codec: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
    ) -> Llasa:
        """Load a checkpoint.

        Args:
            model: nothing (nano, ships with the package), a short name ("llasa-1b"), a hub id or a folder.
            codec: another codec than the checkpoint's own: "nano", a folder or a hub id in Transformers format.
            device: "cuda", "mps" or "cpu"; chosen by itself if left out: the best there is, for int8 the CPU.
            dtype: "float32", "bfloat16" or "float16"; chosen by device if left out. "int8", on the CPU, is the quickest
                for the large checkpoints and a little less exact.
            compile: on CUDA, let `torch.compile` fuse the decoding step: minutes at first use, for long runs.
        Raises:
            ValueError: unknown name, device or dtype, or not a Llasa checkpoint.
            NotReachable: weights that are not here while the hub cannot be reached (a ValueError too).
        """
        checkpoint = find(None if model is None else str(model))
        int8 = dtype == "int8"
        device = pick_device("cpu" if int8 and device in (None, "auto") else device)
        small = checkpoint.codec == "nano"
        tokenizer, lm, checkpoint = load_lm(checkpoint, device, pick_dtype(device, None if int8 else dtype, small))
        protocol = Protocol(tokenizer)
        answers = {"speech": protocol.speech_ids(), "text": protocol.text_ids()}
        # the codec runs in float32: it is small beside the language model, and its phases need the digits
        codec_model = load_codec(str(codec or checkpoint.codec), device, pick_dtype(device, "float32"))
        patience = patience_with(protocol, codec_model)
        engine = Engine(lm, answers, checkpoint.context, patience, int8, compile=compile)
        return cls(checkpoint, protocol, engine, codec_model, Sampling.of(lm.config, lm.generation_config))

    # -- text to speech --------------------------------------------------------------------------------------------

    def tts(
        self,
        text: str,
        voice: str | Voice | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        speaker: str | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Speech:
        """Speak `text`. Long text is cut into pieces that are spoken one after the other in the same voice.

        Args:
            text: what to say, at most 20,000 characters.
            voice: name of a built-in voice or a `Voice`; None lets the model choose one.
            seed: the same seed gives the same speech on the same machine; None draws one (see `speech.seed`).
            sampling: other settings than the checkpoint's own (`llasa.sampling`).
            speaker: name of a speaker the checkpoint was finetuned on.
            stop: asked every 2 s of speech; true gives up, at the latest after the pieces at hand, 16 of them (on CUDA
                64), are decoded.
        Raises:
            ValueError: no text, too long, unknown voice or speaker, a voice without transcript, or no room for an
                answer.
            Stopped: `stop` was true.
        """
        return self.tts_batch([text], [voice], [seed], sampling, speaker, stop)[0]

    def tts_batch(
        self,
        texts: Sequence[str],
        voices: Sequence[str | Voice | None] | str | Voice | None = None,
        seeds: Sequence[int | None] | None = None,
        sampling: Sampling | None = None,
        speaker: str | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[Speech]:
        """Speak several texts side by side: each as `tts` would with its voice and seed, in less time together.

        Args:
            voices, seeds: one a text; a single voice is that of all. Left out, the model chooses the voices, and seeds
                are drawn.
            stop: as `tts`; nothing is kept then.
        Raises:
            ValueError: as `tts`, and another number of voices or seeds than texts. Nothing is spoken then.
            Stopped: as `tts`.
        """
        began = time.perf_counter()
        if isinstance(texts, str) or seeds is not None and not isinstance(seeds, Sequence | np.ndarray):
            raise ValueError("A batch takes a list of texts and a list of seeds; `tts` takes one of each.")
        one_voice = voices is None or isinstance(voices, (str, Voice))
        voices = [voices] * len(texts) if one_voice else list(voices)
        seeds = [None] * len(texts) if seeds is None else list(seeds)
        if not len(texts) == len(voices) == len(seeds):
            raise ValueError(f"{len(texts)} texts need as many voices and seeds, not {len(voices)} and {len(seeds)}.")
        pieces = [self._pieces(text_) for text_ in texts]
        once = {id(voice): self.prepare(voice) for voice in voices if voice is not None}
        voices = asked = [once.get(id(voice)) for voice in voices]
        seeds = [_seed(seed) for seed in seeds]
        sampling, rows = sampling or self.sampling, self.engine.rows_at_once
        said: dict[tuple[int, int], tuple[np.ndarray, str, np.ndarray]] = {}  # (text, piece): codes, stopped, wave
        # without a voice every piece would be spoken by another: the others wait for the voice of the first
        at_once = [(t, k) for t, voice in enumerate(voices) for k in range(1 if voice is None else len(pieces[t]))]
        while at_once:
            # all of them now: what cannot be said is refused before anything is spoken
            openings = {(t, k): self._opening(voices[t], pieces[t], k, seeds[t], speaker) for t, k in at_once}
            for group in (at_once[i : i + rows] for i in range(0, len(at_once), rows)):
                prompts, row_seeds, limits, without = zip(*map(openings.get, group))
                beams = self.engine.start_batch(prompts, "speech", sampling, row_seeds, limits, unconditional=without)
                while not beams.done:
                    if stop and stop():
                        raise Stopped("The speech was stopped before it was whole.")
                    beams.advance(STOP_STEPS if stop else beams.max_new)
                for row, (t, k) in enumerate(group):
                    codes = self.protocol.ids_to_codes(beams.ids[row])
                    said[t, k] = codes, beams.stopped[row], self._decode_answers([codes], voices[t])[0]
            voices = [voice or self._first_piece(pieces[t][0], said[t, 0][0]) for t, voice in enumerate(voices)]
            at_once = [(t, k) for t in range(len(texts)) for k in range(len(pieces[t])) if (t, k) not in said]
        share = (time.perf_counter() - began) / max(len(texts), 1)
        whole = [[said[t, k] for k in range(len(pieces[t]))] for t in range(len(texts))]
        receipts = [self._receipt("tts", texts[t], asked[t], seeds[t], sampling, share) for t in range(len(texts))]
        return [self._speech(*each, speaker) for each in zip(receipts, pieces, whole)]

    def stream(
        self,
        text: str,
        voice: str | Voice | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        speaker: str | None = None,
    ) -> Generator[np.ndarray, None, Speech]:
        """Speak `text` as `tts` does and yield waves (samples,) as soon as they can be heard.

        The same seed samples the same codes as `tts`; the generator's return value is the whole `Speech`. Raises
        ValueError as `tts`, before the first wave where a voice is given, else before the second piece.
        """
        began = time.perf_counter()
        pieces = self._pieces(text)
        asked = voice = self.prepare(voice) if voice is not None else None
        seed = _seed(seed)
        sampling = sampling or self.sampling
        openings, whole = self._openings(voice, pieces, seed, speaker), []
        for index, piece in enumerate(pieces):
            ids, *how, without = openings[index]
            beams = self.engine.start(ids, 1, "speech", sampling, *how, unconditional=without)
            parts = [np.zeros(0, np.float32)]
            before = self._codes_of(voice), self._timbre_of(voice)
            for wav in self.codec.decode_stream(self._codes_as_they_come(beams), *before):
                parts.append(wav)
                yield wav
            if index + 1 < len(pieces):
                yield np.zeros(int(GAP_SECONDS * audio.SAMPLE_RATE), np.float32)
            whole.append((self.protocol.ids_to_codes(beams.ids[0]), beams.stopped[0], np.concatenate(parts)))
            if voice is None:
                voice = self._first_piece(piece, whole[0][0])
                openings += self._openings(voice, pieces, seed, speaker, 1)
        receipt = self._receipt("tts", text, asked, seed, sampling, time.perf_counter() - began)
        return self._speech(receipt, pieces, whole, speaker)

    def _openings(self, voice, pieces, seed, speaker, after: int = 0) -> list[tuple[list[int], int, int, list[int]]]:
        """`_opening` of the pieces from `after` on, all of them now: what cannot be said is refused before anything is
        spoken. Without a voice of the first alone, whose voice the others wait for."""
        return [self._opening(voice, pieces, k, seed, speaker) for k in range(after, len(pieces) if voice else 1)]

    def _opening(self, voice, pieces, index, seed, speaker) -> tuple[list[int], int, int, list[int]]:
        """What the engine needs to speak a piece: prompt, seed, limit, and the prompt without the piece's words."""
        own, codes = self._spoken_before(voice, pieces, index) if voice else "", self._codes_of(voice)
        known = self.checkpoint.speakers
        if speaker and known is not None and speaker not in known:
            knows = f"knows these by name: {', '.join(known)}" if known else "knows none by name: give a voice"
            raise ValueError(f"Unknown speaker '{speaker[:60]}'. '{self.checkpoint.name}' {knows}.")
        ids = self.protocol.tts_prompt(text.join(own, pieces[index]) if voice else pieces[index], codes, speaker)
        without = self.protocol.unconditional_prompt(own, codes, speaker)
        room = self.engine.room(ids) / audio.FRAME_RATE
        if voice and room < _slowly(pieces[index]) / 4:
            raise ValueError(
                f"The clip of '{voice.name}' leaves {room:.1f} s of what this model can hold, too little to say "
                f"'{pieces[index]}'. Give a shorter clip; 3 to 6 s work best."
            )
        return ids, piece_seed(seed, index), self._limit(pieces[index]), without

    def _speech(self, receipt: dict, pieces: list[str], whole, speaker: str | None) -> Speech:
        """What was said, put together from (codes, stopped, wave) of each piece."""
        codes, stopped, waves = (list(part) for part in zip(*whole))
        receipt = receipt | {"stopped": stopped, "pieces": pieces} | ({"speaker": speaker} if speaker else {})
        return Speech(audio.join(waves, GAP_SECONDS), codes, stopped, receipt)

    def _first_piece(self, piece: str, codes: np.ndarray) -> Voice:
        """The voice that the model chose for the first piece: the others go on in it."""
        return Voice("first piece", piece, codes={self.codec.name: codes.tolist()})

    def _codes_of(self, voice: Voice | None) -> list[int]:
        return voice.codes[self.codec.name] if voice else []

    def _timbre_of(self, voice: Voice | None) -> Timbre | None:
        return voice.timbre_by(self.codec) if voice else None

    def continue_speech(
        self,
        clip,
        text: str,
        transcript: str | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Speech:
        """Go on from a clip in its voice with new words; the answer is returned without the clip.

        Args:
            clip: path, bytes, `(sample_rate, samples)` or a `Voice`.
            text: what is said next.
            transcript: what is said in the clip; recognised where the checkpoint can.
            stop: as `tts`.
        Raises:
            ValueError: as `tts`, and as `Voice.from_audio` of the clip.
            Stopped: `stop` was true.
        """
        voice = clip if isinstance(clip, Voice) else Voice.from_audio(clip, transcript, name="clip")
        speech = self.tts(text, voice, seed, sampling, stop=stop)
        return replace(speech, receipt=speech.receipt | {"task": "continue"})

    # -- speech to text --------------------------------------------------------------------------------------------

    def transcribe(self, clip) -> Transcript:
        """Read speech back with the same model, asked in both of its directions: see `recognition`.

        Args:
            clip: path, bytes, `(sample_rate, samples)`, a `Voice`, a `Speech` or a wave at 16 kHz; a clip longer
                than `recognition.PART` of `checkpoint.chunk_seconds` is cut where it is quietest and read in parts.
        Raises:
            ValueError: a checkpoint that was never trained for it; unreadable or silent audio.
        """
        if not self.checkpoint.can_transcribe:
            raise ValueError(
                f"'{self.checkpoint.name}' was trained to speak, not to transcribe; type what is said in the clip, "
                "or use the built-in model 'nano', which can."
            )
        if isinstance(clip, Voice) and clip.wav is None:
            clip = self.codec.decode(clip.encoded(self.codec).codes[self.codec.name])
        elif isinstance(clip, (Voice, Speech)):
            clip = clip.wav
        if isinstance(clip, np.ndarray):
            clip = (audio.SAMPLE_RATE, clip)
        wav = to_be_read(clip, "clip to transcribe")
        seconds = len(wav) / audio.SAMPLE_RATE
        wav = audio.shorten_pauses(wav)  # in a long silence a small model hears words
        texts, words, logs, complete = [], [], [], True
        for part in audio.cut_at_pauses(wav, self._seconds_heard):
            hearings = [self.codec.encode(part[shift:])[:-1] for shift in recognition.SHIFTS]
            heard = recognition.recognise(self.engine, self.protocol, hearings)
            texts.append(self.protocol.ids_to_text(heard.ids))
            words += recognition.sure_words(self.protocol, heard.ids, heard.log_probabilities)
            logs += heard.log_probabilities
            complete &= heard.stopped == END
        probability = math.exp(float(np.mean(logs))) if logs else 0.0
        text_ = " ".join(t for t in texts if t)
        return Transcript(text_, probability, seconds, complete, words)

    # -- search ----------------------------------------------------------------------------------------------------

    def search(
        self,
        text: str,
        voice: str | Voice | None = None,
        method: str = SearchSettings.method,
        n: int = SearchSettings.n,
        process: str | Verifier | Criterion | None = None,
        outcome: str | Verifier | Criterion | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        speaker: str | None = None,
        stop: Callable[[], bool] | None = None,
        **settings,
    ) -> SearchResult:
        """Speak `text` many times over and keep what verifiers like best (arXiv 2502.04128, section 3.4).

        Long text is searched piece by piece, every piece in the same voice.

        Args:
            voice: as `tts`; needed by verifiers that compare with one (speaker, emotion).
            seed, sampling, speaker: as `tts`; row k of n draws what `tts` would from stream k of the seed.
            method: "best_of_n", "beam_search", "partial_prm" or "sample": see `SEARCH_METHODS`.
            n: candidates, and beams under the process verifier.
            process: verifier that prunes beams in beam_search and partial_prm, as `verifiers.criterion` reads it:
                "speaker", "speaker:HUB_ID", "speaker, quality" or "0.7*speaker + 0.3*quality". Default: speaker.
            outcome: verifier that chooses among whole candidates. Default: likelihood where the checkpoint can
                transcribe, else asr; in beam_search the process verifier.
            stop: asked between two steps; true ends the search with the best so far.
            settings: other fields of `SearchSettings` than their defaults (branch, process_seconds, reference ...).
        Returns:
            `SearchResult`: best (a `Speech`), candidates, method, seconds and more. The same seed gives the same.
        Raises:
            ValueError: as `tts`; an unknown method or verifier, n < 1, or a verifier that cannot be had.

        Example:
            >>> result = llasa.search("Oh.", voice="emma", n=2, outcome="likelihood", seed=7)
            >>> result.best.save("oh.wav").name
            'oh.wav'
        """
        given = (process, outcome, seed, sampling, speaker, stop)
        search = self.search_events(text, voice, method, n, *given, **settings)
        for _ in search:
            pass
        return search.result

    def search_events(
        self,
        text: str,
        voice: str | Voice | None = None,
        method: str = SearchSettings.method,
        n: int = SearchSettings.n,
        process: str | Verifier | Criterion | None = None,
        outcome: str | Verifier | Criterion | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        speaker: str | None = None,
        stop: Callable[[], bool] | None = None,
        **settings,
    ) -> Search:
        """As `search`, step by step: iterate over what comes back for events (`Extended`, `Scored`, `Pruned`,
        `Finished`); its `result` is the best so far at any moment, and `close()` ends it there."""
        given = (process, outcome, _seed(seed), sampling or self.sampling, speaker, stop)
        return Search(self, text, self._pieces(text), voice, SearchSettings(method, n, **settings), *given)

    def verifier(self, asked: str) -> Verifier:
        """ "name" or "name:model", as searches of this Llasa have it: to fetch its model early (`load`), or to score
        waves by (`score`). Raises ValueError on an unknown name."""
        return verifier(asked, lent_by(self))

    # -- receipts --------------------------------------------------------------------------------------------------

    @classmethod
    def replay(cls, receipt: dict | str | os.PathLike, model: str | None = None, codec: str | None = None) -> Speech:
        """Make speech again from its receipt: same model, voice codes, seed and settings.

        Args:
            receipt: of a `Speech`; or its .receipt.json, or the wave that holds it.
            model: where the checkpoint is (hub id or folder), if it is neither in `CHECKPOINTS` nor a folder here: a
                receipt may come from anybody, and does not choose what is downloaded.
            codec: where its codec is, likewise.
        Raises:
            ValueError: not a receipt, or of a checkpoint that cannot be loaded here.
        """
        receipt = receipts.read(receipt) if isinstance(receipt, (str, os.PathLike)) else receipts.checked(receipt)
        if missing := receipt.get("left_out"):
            raise ValueError(
                f"This receipt was kept without {', '.join(map(str, missing))}: it tells how the speech was made, and "
                "cannot make it again. Give the .receipt.json that was written beside the wave."
            )
        try:
            sampling = Sampling(**receipt["sampling"])
        except TypeError as error:
            raise ValueError(f"This is not a receipt: its sampling is wrong ({error}).") from error
        voice = None
        if receipt["voice"] is not None:
            told = receipt.get("voice_timbre")
            timbre = {receipt["codec"]: Timbre(told)} if told else {}
            codes = {receipt["codec"]: receipt["voice_codes"]}
            voice = Voice(receipt["voice"], receipt["voice_text"], codes=codes, timbre=timbre)
        # one that was stopped has codes of its first pieces only
        if "search" in receipt and not 0 < len(receipt.get("codes", ())) <= len(receipt.get("stopped", ())):
            raise ValueError("This is not a receipt: a search names the codes it found and why each piece stopped.")
        if receipt.get("device") == "vllm":
            raise ValueError("This was made on vLLM, which draws other random numbers: our engine cannot replay it.")
        llasa = cls.from_pretrained(
            model or _known("model", receipt["model"]),
            codec or _known("codec", receipt["codec"]),
            dtype=receipt["dtype"],
        )
        if receipt.get("voice_timbre"):  # asked for where it was made, whatever the codec asks for by itself
            llasa.codec.restores_timbre = True
        here, there = llasa._weights, receipt.get("weights", {})
        for part in ("codec",) if "search" in receipt else ("model", "codec"):
            if here[part] and there.get(part) and here[part] != there[part]:
                raise ValueError(
                    f"This was made by other weights of the {part} '{receipt[part]}' ({there[part]}) than those here "
                    f"({here[part]}), which would say something else. Keep its wave."
                )
        began = time.perf_counter()
        if "search" in receipt:  # what was found is in the receipt: it is not searched for again
            speech = llasa._found(receipt["codes"], receipt["stopped"], receipt, voice)
        else:
            speech = llasa.tts(receipt["text"], voice, receipt["seed"], sampling, receipt.get("speaker"))
        now = {"task": receipt.get("task", "tts"), "seconds_taken": round(time.perf_counter() - began, 3)}
        return replace(speech, receipt=speech.receipt | now)

    # -- voices ----------------------------------------------------------------------------------------------------

    def prepare(self, voice: str | Voice) -> Voice:
        """A voice with codes for this codec and a transcript: what `tts` needs, done once.

        A checkpoint that can transcribe listens to a clip that is new to it. It is prompted by the beginning of one
        longer than it hears at once (nano: 6 s), and by what it hears, if that is not the transcript (`voice.heard`).
        What it heard in the last 16 clips it remembers. Of 29 people's clips of 3 to 5 s, nano hears the transcript in
        four.

        Raises:
            ValueError: unknown name, a transcript that the model cannot read, or none and a checkpoint that cannot
                recognise.
        """
        if isinstance(voice, str):
            self._builtin[voice] = (self._builtin.get(voice) or Voice.builtin(voice)).encoded(self.codec)
            voice = self._builtin[voice]
        if not isinstance(voice, Voice):
            raise ValueError("A voice is a built-in name or a `Voice`: Voice.from_audio makes one of a clip.")
        if voice.text is not None:
            if not text.says_something(voice.text):
                raise ValueError(f"The transcript of '{voice.name}' holds no words. Type what is said in the clip.")
            for words in (voice.text, self._prompt_text(voice)):
                self._check_can_read(
                    self._in_words(self.protocol.checked(words)), f"the transcript of '{voice.name}', "
                )
        listens = self.checkpoint.can_transcribe and hasattr(self.engine, "weigh")
        if listens and voice.wav is not None and self.codec.name not in voice.codes:
            voice = self._listened_to(voice)
        voice = voice.encoded(self.codec)
        if voice.text is not None:
            return voice
        if not self.checkpoint.can_transcribe:
            raise ValueError(
                f"Type what is said in the clip '{voice.name}': '{self.checkpoint.name}' cannot transcribe it, and "
                "a voice without its text would be spoken into the answer."
            )
        heard = self._words_in(voice)
        if not heard:
            raise ValueError(f"No words were recognised in the clip '{voice.name}'. Type what is said in it.")
        return voice.replace(text=heard)

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def _seconds_heard(self) -> float:
        """What it listens to at once."""
        return recognition.PART * self.checkpoint.chunk_seconds

    def _listened_to(self, voice: Voice) -> Voice:
        """A voice of a clip that is new: prompted by its beginning, if it is longer than what the model listens to at
        once, and by what the model hears there, if that is not the transcript."""
        first, *more = audio.cut_at_pauses(voice.wav, self._seconds_heard)
        prompt = voice.replace(wav=audio.trim(first)) if more else voice
        if voice.text is None:  # what is heard will be its transcript: nothing is known of the rest
            return prompt
        prompt = prompt.encoded(self.codec)
        if not more and self._hears_transcript(prompt):
            return prompt
        heard = self._words_in(prompt)
        if not text.says_something(heard):
            return voice
        if not more and text.closed(voice.text) != voice.text:  # a clip that stops inside a sentence still does
            heard = heard.rstrip(" .,?!")
        return prompt.replace(wav=voice.wav, heard=voice.heard | {self.codec.name: heard})

    def _words_in(self, voice: Voice) -> str:
        """What the model hears in a voice; of the last clips it remembers that."""
        clip = None if voice.wav is None else hashlib.sha256(voice.wav.tobytes()).digest()
        if (heard := self._heard.get(clip)) is None:
            heard = self.transcribe(voice).text
            if clip:
                while len(self._heard) >= CLIPS_REMEMBERED:
                    self._heard.pop(next(iter(self._heard)), None)
                self._heard[clip] = heard
        return heard

    def _hears_transcript(self, voice: Voice) -> bool:
        words, codes = self._spoken(voice.text), np.asarray(self._codes_of(voice))
        logs = recognition.weigh_text(self.engine, self.protocol, words, [codes])[0]
        return bool(logs.sum() > UNHEARD * len(words))

    def _prompt_text(self, voice: Voice) -> str:
        """What is said in the codes of the prompt."""
        return voice.heard.get(self.codec.name, voice.text)

    def _pieces(self, text_: str) -> list[str]:
        if not isinstance(text_, str) or not text_.strip():
            raise ValueError("There is no text to speak.")
        if len(text_) > MAX_TEXT_CHARS:
            raise ValueError(f"The text has {len(text_):,} characters; at most {MAX_TEXT_CHARS:,} are spoken at once.")
        spoken = self._in_words(self.protocol.checked(text_))
        if len(spoken) > MAX_TEXT_CHARS:
            raise ValueError(
                f"Put into words the text has {len(spoken):,} characters; at most {MAX_TEXT_CHARS:,} are spoken."
            )
        pieces = text.split(spoken, self.checkpoint.chunk_chars)
        pieces = [piece for piece in pieces if text.says_something(piece)]
        if not pieces:
            raise ValueError("There is nothing to say in this text: it holds no letters or digits.")
        for piece in pieces:
            self._check_can_read(piece)
        # Of 24 sentences of 62 to 110 characters nano said 36 % of the words wrong in halves as they were cut, 12 % in
        # halves that end; of 30 short ones without their full stop 58 %, with it 16 %.
        return [text.closed(text.plain_marks(piece)) for piece in pieces] if self.checkpoint.spell_out else pieces

    def _check_can_read(self, words: str, whose: str = "") -> None:
        """Raises ValueError where more than a third of the letters are none that the model knows."""
        unknown, letters = self.protocol.unknown_letters(words), [c for c in words if c.isalnum()]
        if 3 * sum(c in unknown for c in letters) > len(letters):
            raise ValueError(
                f"'{self.checkpoint.name}' cannot read {whose}'{words[:40]}': its languages are "
                f"{', '.join(self.checkpoint.languages)}. Write it in one of them, or choose another model."
            )

    def _in_words(self, text_: str) -> str:
        return text.spell_out(text_) if self.checkpoint.spell_out else text_

    def _spoken(self, text_: str) -> str:
        return text.plain_marks(text.spell_out(text_)) if self.checkpoint.spell_out else text_

    def _spoken_before(self, voice: Voice, pieces: list[str], index: int = 0) -> str:
        """What is said in the voice's clip, as the model reads it before a piece. A clip may stop inside a sentence,
        which what is said next does not go on with unless it begins in lower case."""
        words = self._spoken(self._prompt_text(voice))
        goes_on = index == 0 and pieces[0][:1].islower()
        return self._closed(words) if words and not goes_on else words

    def _closed(self, words: str) -> str:
        """Ended as a sentence, for a model that has read nothing else."""
        return text.closed(words) if self.checkpoint.spell_out else words

    def _limit(self, piece: str) -> int:
        seconds = SECONDS_TO_SPARE + _slowly(piece)
        return int(min(seconds, self.checkpoint.chunk_seconds) * audio.FRAME_RATE)

    def _codes_as_they_come(self, beams) -> Iterator[int]:
        while not beams.done:
            yield from self.protocol.ids_to_codes(beams.advance(CHUNK_CODES)[0]).tolist()

    def _found(self, codes: list[list[int]], stopped: list[str], receipt: dict, voice: Voice | None) -> Speech:
        """Speech that was searched for, from its codes."""
        first = voice or self._first_piece("", np.asarray(codes[0]))
        waves = [self._decode_answers([one], first if voice or k else None)[0] for k, one in enumerate(codes)]
        return Speech(audio.join(waves, GAP_SECONDS), [np.asarray(one, np.int64) for one in codes], stopped, receipt)

    def _decode_answers(
        self, batch: list[np.ndarray], voice: Voice | None, context: int | None = None
    ) -> list[np.ndarray]:
        """As they are heard after the voice's prompt, or after so many codes (`context`) of its end."""
        prompt = self._codes_of(voice)
        prompt = prompt if context is None else prompt[max(0, len(prompt) - context) :]
        return self.codec.decode_after(prompt, batch, self._timbre_of(voice))

    def _receipt(self, task, text_, voice, seed, sampling, seconds) -> dict:
        import torch
        import transformers

        timbre = self._timbre_of(voice)
        return {
            "task": task,
            "text": text_,
            "voice": None if voice is None else voice.name,
            "voice_text": None if voice is None else self._prompt_text(voice),
            "voice_codes": None if voice is None else list(voice.codes[self.codec.name]),
            "voice_timbre": timbre and timbre.tenths,
            "model": self.checkpoint.name if self.checkpoint.name in CHECKPOINTS else self.checkpoint.source,
            "codec": self.codec.name,
            "weights": self._weights,
            "licence": self.checkpoint.licence,
            "seed": seed,
            "sampling": asdict(sampling),
            "device": str(self.engine.device),
            "dtype": self.engine.dtype,
            "seconds_taken": round(seconds, 3),
            "versions": {
                "llasa_lite": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }


def _slowly(piece: str) -> float:
    """Seconds that nobody takes to read it; scripts that say more with a character count three times."""
    return SECONDS_PER_CHARACTER * (len(piece) + 2 * sum(ord(c) > 0x2E7F for c in piece))


def to_be_read(clip, name: str) -> np.ndarray:
    """What `audio.load` takes -> the sound in it that can be read. Raises ValueError: unreadable, silent, too short."""
    wav = audio.normalize(audio.trim(audio.load(clip, name)))
    seconds = len(wav) / audio.SAMPLE_RATE
    if seconds < MIN_SECONDS_HEARD:
        raise ValueError(f"The {name} holds {1000 * seconds:.0f} ms of sound, too little for a word.")
    return wav


def patience_with(protocol: Protocol, codec: Codec) -> Patience:
    """When speech in the codes of this codec goes nowhere."""
    return Patience(
        int(SILENCE_SECONDS * audio.FRAME_RATE),
        int(REPETITION_SECONDS * audio.FRAME_RATE),
        frozenset(protocol.codes_to_ids(codec.silent_codes)),
    )


def _known(what: str, name: str) -> str:
    """A model or codec that a receipt may choose. Raises ValueError."""
    known = {*CHECKPOINTS, *(c.source for c in CHECKPOINTS.values()), *(c.codec for c in CHECKPOINTS.values())}
    if name not in known and not os.path.isdir(name):
        raise ValueError(
            f"This receipt names the {what} '{name}', which is none that this version knows. If you trust it, name it "
            f"yourself: {what}='{name}', or --{what}."
        )
    return name


def _seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbelow(2**31)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed!r}.")
    return int(seed)
