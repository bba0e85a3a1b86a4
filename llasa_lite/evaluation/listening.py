"""Who listens: a recogniser of others, verifiers, signal measures. Waves in, numbers out; knows no Llasa.
What a verifier selects by, another must judge.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import numpy as np

from .. import audio
from ..audio import SILENCE_PEAK
from ..text import edits, seed_tts_error_rate, simplified
from ..verifiers import Cosine, Target, Verifier
from ..verifiers.asr import Recogniser

BY_CHARACTER = "zh", "ja"  # languages that put no spaces between words
NORMALIZERS = {"en": "whisper"}  # of `counted`: rows counted otherwise stand in another table


class Judge(Recogniser):
    """A recogniser that listens with patience, one wave at a time: Whisper (`openai/whisper-large-v3`) or CTC
    (`facebook/hubert-large-ls960-ft`, the paper's WER-H). Raises ValueError as `counted`."""

    def __init__(self, source: str, device: str = "cpu", language: str = "en"):
        if language == "zh":
            simplified("")  # what is missing is not found when the first clip is heard
        super().__init__(source, device)
        self.language = language

    def __call__(self, wav: np.ndarray) -> str:
        # Whisper's own decoding: a transcript that repeats itself is drawn again, warmer (Radford et al. 2022, 4.5).
        # Without that one stuck syllable becomes a hundred words.
        fallback = {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35}
        with self.torch.random.fork_rng():
            self.torch.manual_seed(0)
            return self.hear([wav], self.language, **(fallback if self.is_whisper else {}))[0]


class VoiceJudge(Cosine):
    """Resemblyzer (`pip install "llasa-lite[voice-judge]"`), a speaker encoder that nothing here is trained or searched
    with. Its embeddings have no negative part: cosines lie in 0 .. 1."""

    name, source, low = "resemblyzer", "resemblyzer", 0.0

    def _load(self) -> None:
        try:
            from resemblyzer import VoiceEncoder
        except ModuleNotFoundError as error:
            needs = f"The judge of voices needs '{error.name}': pip install \"llasa-lite[voice-judge]\"."
            raise ValueError(needs) from error
        self.encoder = VoiceEncoder("cpu", verbose=False)

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        from resemblyzer import preprocess_wav

        self.load()
        spoken = [preprocess_wav(wav) for wav in waves]  # silences cut out; nothing may be left of a bad take
        heard = [speech if len(speech) > 1600 else wav for speech, wav in zip(spoken, waves)]
        return np.stack([self.encoder.embed_utterance(wav) for wav in heard])

    def _vectors(self, inputs):
        raise NotImplementedError("Resemblyzer takes waves.")


class Crowd:
    """Voices that one might be taken for: speaker -> a wave of his."""

    def __init__(self, speaker: Cosine, waves: dict[str, np.ndarray]):
        self.speaker, self.names = speaker, list(waves)
        self.vectors = speaker.embed(list(waves.values()))  # (voices, dimensions)

    def taken_for(self, wav: np.ndarray, name: str, prompt: np.ndarray) -> dict:
        """Mean likeness to the others than `name`, and whether the prompt of `name` is nearer than any of them. His
        wave in the crowd does not count: it may be the very one that is judged."""
        if np.abs(wav).max(initial=0.0) < SILENCE_PEAK:
            return {"sim_other": self.speaker.low, "recognised": 0}
        heard, own = self.speaker.embed([wav, prompt])
        others = np.delete(self.vectors, self.names.index(name), axis=0) @ heard
        return {"sim_other": float(others.mean()), "recognised": int(own @ heard > others.max())}


@dataclass(frozen=True)
class Ears:
    """All who listen to one table's waves; None: not asked, and its columns stay empty."""

    judge: Callable[[np.ndarray], str] | None = None
    speaker: Verifier | None = None
    emotion: Verifier | None = None
    quality: Verifier | None = None

    def read(self, wav: np.ndarray, truth: str) -> dict:
        """What was heard, and the edits that lead from it to the truth."""
        return counted(truth, self.judge(wav), getattr(self.judge, "language", "en")) if self.judge else {}

    def alike(self, wav: np.ndarray, prompt: np.ndarray, resynthesis: np.ndarray | None = None) -> dict:
        """Likeness to the prompt (SIM-o), to the prompt through the codec (SIM-r), and in emotion to the prompt."""
        row = {}
        if self.speaker:
            row["sim_o"] = _score(self.speaker, wav, prompt)
            if resynthesis is not None:
                row["sim_r"] = _score(self.speaker, wav, resynthesis)
        if self.emotion:
            row["emotion_sim"] = _score(self.emotion, wav, prompt)
        return row

    def faithful(self, wav: np.ndarray, original: np.ndarray) -> dict:
        """A resynthesis against its original, sample by sample: STOI, PESQ wide and narrow band, speaker. Raises
        ValueError as `codec_measures`."""
        pesq, stoi = codec_measures()
        row = {}
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                row["stoi"] = float(stoi.stoi(original, wav, audio.SAMPLE_RATE))
            except RuntimeWarning:
                pass  # less than 0.4 s of speech, for which STOI would give 0.00001
        try:
            row["pesq_wb"] = float(pesq.pesq(audio.SAMPLE_RATE, original, wav, "wb"))
            row["pesq_nb"] = float(pesq.pesq(audio.SAMPLE_RATE, original, wav, "nb"))
        except (pesq.BufferTooShortError, pesq.NoUtterancesError):
            pass  # PESQ found no speech, or less than 0.25 s; the column's n says so
        if self.speaker:
            row["spk_sim"] = _score(self.speaker, wav, original)
        return row

    def pleasant(self, wav: np.ndarray) -> dict:
        """A predicted mean opinion score. The paper's UTMOS has no package that is kept; DNSMOS is another scale."""
        return {"dnsmos": _score(self.quality, wav)} if self.quality else {}


def codec_measures() -> list:
    """The packages that measure codecs, `pesq` and `pystoi`. Raises ValueError where one is missing."""
    try:
        return [import_module(name) for name in ("pesq", "pystoi")]
    except ModuleNotFoundError as error:
        raise ValueError(f"Codecs are measured with '{error.name}': pip install \"llasa-lite[eval]\".") from error


def counted(truth: str, heard: str, language: str = "en") -> dict:
    """Edits between two transcripts (of words, or of characters: `BY_CHARACTER`), and the error rate as seed-tts-eval
    counts.

    English words are those that Whisper's normaliser leaves (Radford et al. 2022, appendix C; the rule of the Open ASR
    leaderboard): "twelve" and "12", "don't" and "do not" are the same. seed-tts-eval compares what is written.
    Chinese is put into simplified characters: there what is heard, since Whisper writes both; here the truth, too.

    Raises:
        ValueError: Chinese, and OpenCC is not installed.
    """
    if language == "zh":
        truth, heard = simplified(truth), simplified(heard)
    by_word = language not in BY_CHARACTER
    plain = _whisper_english() if NORMALIZERS.get(language) == "whisper" else str
    wrong, words = edits(plain(truth), plain(heard), by_word)
    rate = seed_tts_error_rate(truth, heard, by_word)
    return {"truth": truth, "heard": heard, "edits": wrong, "words": words, "error_rate": rate}


@lru_cache(1)
def _whisper_english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # its table of British spellings comes with a tokenizer, and some judges have none


def _score(verifier: Verifier, wav: np.ndarray, reference: np.ndarray | None = None) -> float:
    return float(verifier.score([wav], Target(reference=reference))[0])
