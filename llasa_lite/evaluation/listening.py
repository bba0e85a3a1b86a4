"""Who listens: recognisers, speaker and emotion models of others, signal measures. Waves in, numbers out; knows no
Llasa. What a model here selects by, another must judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import audio
from ..text import normalize_transcript


class Judge:
    """A recogniser from the hub or a folder: Whisper-like (`openai/whisper-large-v3`) or CTC
    (`facebook/hubert-large-ls960-ft`, the paper's WER-H). Hears waves at 16 kHz, Whisper up to 30 s.
    """

    def __init__(self, source: str, device: str = "cpu", language: str = "en"):
        import torch
        from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

        from ..checkpoints import reaching

        self.torch, self.name, self.language = torch, str(source), language
        with reaching(str(source)):
            self.writes = AutoConfig.from_pretrained(source).is_encoder_decoder  # a CTC model labels frames instead
            kind = AutoModelForSpeechSeq2Seq if self.writes else AutoModelForCTC
            self.processor = AutoProcessor.from_pretrained(source)
            self.model = kind.from_pretrained(source, dtype=torch.float32).to(device).eval()

    def __call__(self, wav: np.ndarray) -> str:
        wav = np.asarray(wav, np.float32)
        inputs = self.processor(wav, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt").to(self.model.device)
        with self.torch.inference_mode(), self.torch.random.fork_rng():
            if not self.writes:
                return self.processor.batch_decode(self.model(**inputs).logits.argmax(-1))[0].strip()
            # Whisper's own decoding: a transcript that repeats itself is drawn again, warmer (Radford et al. 2022,
            # 4.5). Without that one stuck syllable becomes a hundred words.
            fallback = {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35}
            self.torch.manual_seed(0)
            ids = self.model.generate(**inputs, language=self.language, task="transcribe", max_length=124, **fallback)
        return self.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


class Embedder:
    """A speaker or emotion model of Transformers; waves at 16 kHz to unit vectors, compared by their product.

    A speaker verification model (`microsoft/wavlm-base-plus-sv`; "nano": the one that ships) gives its x-vector, any
    other audio encoder (an emotion recogniser) the mean of its last hidden states over time.
    """

    def __init__(self, source: str, device: str = "cpu"):
        import torch
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioXVector

        from ..checkpoints import NANO, reaching

        self.torch, self.name = torch, str(source)
        source = str(NANO / "verifier") if source == "nano" else str(source)
        with reaching(source):
            config = AutoConfig.from_pretrained(source)
            self.is_speaker = any(name.endswith("ForXVector") for name in config.architectures or ())
            kind = AutoModelForAudioXVector if self.is_speaker else AutoModel
            self.features = AutoFeatureExtractor.from_pretrained(source)
            self.model = kind.from_pretrained(source, dtype=torch.float32).to(device).eval()

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) -> (dimensions,) of length 1."""
        inputs = self.features(np.asarray(wav, np.float32), sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
        with self.torch.inference_mode():
            out = self.model(**inputs.to(self.model.device))
        vector = out.embeddings[0] if self.is_speaker else out.last_hidden_state[0].mean(0)
        return self.torch.nn.functional.normalize(vector, dim=0).float().cpu().numpy()

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        """Cosine of two waves, -1 to 1."""
        return float(self(a) @ self(b))


def mos_predictor() -> Callable[[np.ndarray], float]:
    """DNSMOS P.835 overall, 1 to 5 (Reddy et al. 2022), of the package `speechmos`, whose weights it carries.

    The paper's UTMOS has no package that is kept; the two scales are not the same, and the column says which it is.
    """
    try:
        from speechmos import dnsmos
    except ModuleNotFoundError as error:
        raise ValueError(f"The MOS predictor needs '{error.name}': pip install speechmos onnxruntime.") from error

    return lambda wav: float(dnsmos.run(np.clip(wav, -1, 1).astype(np.float64), audio.SAMPLE_RATE)["ovrl_mos"])


@dataclass(frozen=True)
class Ears:
    """All who listen to one table's waves; None: not asked, and its columns stay empty."""

    judge: Callable[[np.ndarray], str] | None = None
    speaker: Embedder | None = None
    emotion: Embedder | None = None
    mos: Callable[[np.ndarray], float] | None = None

    def read(self, wav: np.ndarray, truth: str) -> dict:
        """What was heard, and the edits that lead from it to the truth."""
        return counted(truth, self.judge(wav), getattr(self.judge, "language", "en")) if self.judge else {}

    def alike(self, wav: np.ndarray, prompt: np.ndarray, resynthesis: np.ndarray | None = None) -> dict:
        """Likeness to the prompt (SIM-o), to the prompt through the codec (SIM-r), and in emotion to the prompt."""
        row = {}
        if self.speaker:
            row["sim_o"] = self.speaker.similarity(wav, prompt)
            if resynthesis is not None:
                row["sim_r"] = self.speaker.similarity(wav, resynthesis)
        if self.emotion:
            row["emotion_sim"] = self.emotion.similarity(wav, prompt)
        return row

    def faithful(self, wav: np.ndarray, original: np.ndarray) -> dict:
        """A resynthesis against its original, sample by sample: STOI, PESQ wide and narrow band, speaker."""
        from pesq import NoUtterancesError, pesq
        from pystoi import stoi

        row = {"stoi": float(stoi(original, wav, audio.SAMPLE_RATE))}
        try:
            row["pesq_wb"] = float(pesq(audio.SAMPLE_RATE, original, wav, "wb"))
            row["pesq_nb"] = float(pesq(audio.SAMPLE_RATE, original, wav, "nb"))
        except NoUtterancesError:
            pass  # PESQ found no speech; the column's n says so
        if self.speaker:
            row["spk_sim"] = self.speaker.similarity(wav, original)
        return row

    def pleasant(self, wav: np.ndarray) -> dict:
        return {"dnsmos": self.mos(wav)} if self.mos else {}


def counted(truth: str, heard: str, language: str = "en") -> dict:
    """Edits between two transcripts, normalised as seed-tts-eval does: of words, in Chinese of characters."""
    import jiwer

    reference, hypothesis = normalize_transcript(truth), normalize_transcript(heard)
    if language == "zh":
        reference, hypothesis = (" ".join(side.replace(" ", "")) for side in (reference, hypothesis))
    measures = jiwer.process_words(reference, hypothesis or " ")
    edits = measures.substitutions + measures.insertions + measures.deletions
    return {"truth": truth, "heard": heard, "edits": edits, "words": len(reference.split())}
