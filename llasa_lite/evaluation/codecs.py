"""Codecs of others through Transformers, at the token rates of the paper's Table 1. Waves at 16 kHz in and out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import audio
from ..checkpoints import NONE_BUILT_IN, reaching


@dataclass(frozen=True)
class OtherCodec:
    """A row of Table 1: weights, and how many of its codebooks are kept."""

    source: str  # hub id or folder
    codebooks: int
    row: str  # model and token rate in the paper's table


CODECS = {
    "dac-12": OtherCodec("descript/dac_16khz", 12, "DAC 600"),
    "dac-2": OtherCodec("descript/dac_16khz", 2, "DAC 100"),
    "dac-1": OtherCodec("descript/dac_16khz", 1, "DAC 50"),
    "encodec-8": OtherCodec("facebook/encodec_24khz", 8, "Encodec 600"),
    "encodec-2": OtherCodec("facebook/encodec_24khz", 2, "Encodec 150"),
    "encodec-1": OtherCodec("facebook/encodec_24khz", 1, "Encodec 75"),
    "mimi-8": OtherCodec("kyutai/mimi", 8, "Mimi 100"),
    "mimi-6": OtherCodec("kyutai/mimi", 6, "Mimi 75"),
    "mimi-4": OtherCodec("kyutai/mimi", 4, "Mimi 50"),
    "x-codec-2": OtherCodec("hf-audio/xcodec-hubert-librispeech", 2, "X-codec 100"),
    "x-codec-1": OtherCodec("hf-audio/xcodec-hubert-librispeech", 1, "X-codec 50"),
}


class TransformersCodec:
    """DAC, EnCodec, Mimi or X-codec. All quantise residues, so that the first codebooks are the codec at a lower rate.

    Args:
        source: hub id or folder of a `DacModel`, `EncodecModel`, `MimiModel` or `XcodecModel`.
        codebooks: how many are kept; None: all.
    Raises:
        ValueError: another kind of model, or fewer codebooks than asked for; NotReachable: no weights.
    """

    def __init__(self, source: str, codebooks: int | None = None, device: str = "cpu"):
        import torch
        from transformers import AutoConfig, AutoModel

        self.torch, self.codebooks = torch, codebooks
        with reaching(str(source), instead=NONE_BUILT_IN):
            self.config = AutoConfig.from_pretrained(source)
            if self.config.model_type not in ("dac", "encodec", "mimi", "xcodec"):
                raise ValueError(f"'{source}' is a {self.config.model_type}, not a dac, encodec, mimi or xcodec.")
            self.rate = getattr(self.config, "sampling_rate", None) or self.config.sample_rate
            model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        self.model = model.to(device).eval()

    @property
    def tokens_per_second(self) -> float:
        """Codes of all codebooks kept."""
        every = getattr(self.config, "n_codebooks", None) or self.config.num_quantizers
        return self.config.frame_rate * (self.codebooks or every)

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) at 16 kHz -> codes (codebooks, frames)."""
        sound = audio.resample(wav, audio.SAMPLE_RATE, self.rate)
        step = round(self.rate / self.config.frame_rate)
        sound = np.pad(sound, (0, -len(sound) % step))
        inputs = self.torch.from_numpy(sound)[None, None].to(self.model.device)
        kind = self.config.model_type
        more = {"bandwidth": self.config.target_bandwidths[-1]} if kind in ("encodec", "xcodec") else {}
        with self.torch.inference_mode():
            codes = self.model.encode(inputs, **more).audio_codes
        codes = codes[0, 0] if kind == "encodec" else codes[0]  # EnCodec counts chunks first; one chunk at 24 kHz
        if self.codebooks and self.codebooks > len(codes):
            raise ValueError(f"This {kind} has {len(codes)} codebooks, not {self.codebooks}.")
        return codes[: self.codebooks].cpu().numpy()

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes (codebooks, frames) -> (samples,) at 16 kHz."""
        batch = self.torch.from_numpy(codes)[None].to(self.model.device)
        with self.torch.inference_mode():
            if self.config.model_type == "encodec":
                out = self.model.decode(batch[None], [None])
            else:
                out = self.model.decode(audio_codes=batch)
        sound = out.audio_values.reshape(-1).float().cpu().numpy()
        return audio.resample(np.clip(sound, -1, 1), self.rate, audio.SAMPLE_RATE)

    def resynthesise(self, wav: np.ndarray) -> np.ndarray:
        """There and back, as long as it was."""
        made = self.decode(self.encode(wav))[: len(wav)]
        return np.pad(made, (0, len(wav) - len(made)))
