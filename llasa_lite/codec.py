"""Waves to codes and back with X-codec2; knows nothing of text, token ids or language models.

codes: one integer in [0, codebook_size) for every 320 samples (50 a second), one codebook.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from .audio import HOP_LENGTH, SAMPLE_RATE, equal_lengths
from .timbre import Timbre
from .tokens import within_codebook

# Streaming decode: the decoder looks both ways and normalises over time, so each chunk is decoded with context
# on both sides, and neighbours are cross-faded. Against the whole decode, mean of 40 clips of nano's codec, whose
# decoder learned from discriminators to make phases up: 50 codes back and 5 ahead (NeuTTS's choice) 8.6 dB, 100 and 10
# (here) 9.7 dB, 300 and 25 12.0 dB; the spectra of the test's clips differ by 0.1 to 0.2 nats.
CHUNK_CODES = 25
HISTORY_CODES = 100
LOOKAHEAD_CODES = 10
FADE_SAMPLES = HOP_LENGTH  # cross-fade between two chunks, inside the look-ahead

DECODED_AT_ONCE = 4096  # codes of one pass, of several waves together: X-codec2 takes 0.12 MB of memory for each
SILENT_DECIBELS = -50.0  # below full scale: what is quieter counts as silence
MAX_ENCODE_SECONDS = 60.0  # memory grows with the square of the length in the semantic encoder


class Codec:
    """`Xcodec2Model` with NumPy at both doors.

    Attributes:
        restores_timbre: whether a voice gets back the timbre that its codes lose (see `timbre`): as the codec's config
            says, which nano's does and the released one does not. May be set.

    Example:
        >>> codec = llasa.codec
        >>> codes = codec.encode(np.zeros(16_000, np.float32))  # a second: (samples // 320 + 1,) int64
        >>> codec.decode(codes).shape  # (320 * len(codes),) float32
        (16320,)
    """

    sample_rate = SAMPLE_RATE
    hop_length = HOP_LENGTH

    def __init__(self, model, name: str = "codec"):
        if model.config.hop_length != HOP_LENGTH or model.config.sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"The codec '{name}' has {model.config.sampling_rate} Hz and a hop of {model.config.hop_length}; "
                f"Llasa needs {SAMPLE_RATE} Hz and {HOP_LENGTH}."
            )
        self.model = model.eval()
        self.name = name
        self.restores_timbre = bool(getattr(model.config, "restore_timbre", False))
        # A small codec may have been trained on its semantic half alone; then the costly other half is not run.
        self._acoustic_is_silent = not acoustic_columns(model).any().item()

    @classmethod
    def from_pretrained(
        cls, source: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **hub
    ):
        """Load from a local folder or a hub id in Transformers format (`HKUSTAudio/xcodec2-hf`).

        `hub` goes to `Xcodec2Model.from_pretrained` (revision, local_files_only).
        """
        from transformers import Xcodec2Model

        model = Xcodec2Model.from_pretrained(source, dtype=dtype, use_safetensors=True, **hub)
        return cls(model.to(device), name=str(source))

    @property
    def codebook_size(self) -> int:
        return math.prod(self.model.config.quantization_levels)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def silent_codes(self) -> list[int]:
        """Codes that are heard as silence, as its config says; empty for a codec of which it was never measured."""
        return list(getattr(self.model.config, "silent_codes", ()))

    def find_silent_codes(self) -> list[int]:
        """Listen to every code, said eight times: takes seconds for 4,096, so a codec's training does it once."""
        quiet = []
        for first in range(0, self.codebook_size, 256):
            codes = range(first, min(first + 256, self.codebook_size))
            middles = np.stack(self.decode_batch([[code] * 8 for code in codes]))[:, 3 * HOP_LENGTH : 5 * HOP_LENGTH]
            loudness = 10 * np.log10((middles**2).mean(1) + 1e-12)
            quiet += [code for code, decibels in zip(codes, loudness) if decibels < SILENT_DECIBELS]
        return quiet

    def digits(self, codes: np.ndarray | list[int]) -> np.ndarray:
        """What codes are made of: (n, dimensions) int64, in each dimension a level from 0. Raises ValueError as
        `decode`."""
        codes = torch.from_numpy(within_codebook(codes, self.codebook_size))
        return digits(codes, self.model.config.quantization_levels).numpy()

    @torch.inference_mode()
    def encode(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz -> codes (samples // 320 + 1,) int64.

        Raises:
            ValueError: empty, not one-dimensional, or longer than 60 s.
        """
        wav = np.asarray(wav, np.float32)
        if wav.ndim != 1 or wav.size == 0:
            raise ValueError(f"Encode one mono wave of at least one sample, not an array of shape {wav.shape}.")
        if len(wav) > MAX_ENCODE_SECONDS * SAMPLE_RATE:
            raise ValueError(
                f"{len(wav) / SAMPLE_RATE:.0f} s are too long to encode at once; at most {MAX_ENCODE_SECONDS:.0f} s."
            )
        padded = pad_to_hop(torch.from_numpy(wav)).to(self.device)[None]  # (1, samples)
        features = semantic_features(padded).to(self.model.dtype)
        if not self._acoustic_is_silent:
            codes = self.model.encode(padded[:, None].to(self.model.dtype), features).audio_codes[0, 0]
        else:
            semantic = self.model.semantic_encoder(features).last_hidden_state.transpose(1, 2)
            semantic = self.model.semantic_adapter(semantic).transpose(1, 2)  # (1, codes, semantic)
            silent = semantic.new_zeros(*semantic.shape[:2], self.model.config.hidden_size)
            codes = self.model.quantizer(self.model.fc_encoder(torch.cat([semantic, silent], -1)))[1][0, :, 0]
        return codes.long().cpu().numpy()

    def decode(self, codes: np.ndarray | list[int]) -> np.ndarray:
        """codes (n,) -> wave (320 n,) float32; none give an empty wave. Raises ValueError on a code out of range."""
        return self.decode_batch([codes])[0]

    def resynthesize(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) -> (samples,): what the codec keeps of a wave. Raises ValueError as `encode`."""
        return self.decode(self.encode(wav))[: len(wav)]

    @torch.inference_mode()
    def decode_batch(self, batch: list[np.ndarray | list[int]]) -> list[np.ndarray]:
        """Several code sequences -> several waves. Equal lengths share passes: the decoder normalises over time."""
        batch = [within_codebook(codes, self.codebook_size) for codes in batch]
        waves: list[np.ndarray] = [np.zeros(0, np.float32)] * len(batch)
        for rows in equal_lengths(batch, DECODED_AT_ONCE):
            codes = torch.from_numpy(np.stack([batch[row] for row in rows])).to(self.device)  # (rows, length)
            decoded = self.model.decode(audio_codes=codes[:, None]).audio_values[:, 0].float().cpu().numpy()
            for row, wav in zip(rows, decoded):
                waves[row] = np.clip(wav, -1.0, 1.0)
        return waves

    def decode_after(
        self, prompt: np.ndarray | list[int], batch: list[np.ndarray | list[int]], timbre: Timbre | None = None
    ) -> list[np.ndarray]:
        """What is said after a prompt: decoded together with it, since the decoder looks back (as on the model card),
        given the timbre, and without the prompt's part. Raises ValueError as `decode`."""
        waves = self.decode_batch([[*prompt, *codes] for codes in batch])
        return [(timbre.given_to(wav) if timbre else wav)[len(prompt) * HOP_LENGTH :] for wav in waves]

    def decode_stream(
        self, codes: Iterable[int], history: np.ndarray | list[int] = (), timbre: Timbre | None = None
    ) -> Iterator[np.ndarray]:
        """Codes as they come -> waves as soon as they can be heard, close to the whole decode.

        Each chunk of 25 codes is decoded with up to 100 codes before it and 10 after it, and cross-faded over 20 ms
        with the one before. The first wave comes after 35 codes (0.7 s of speech).

        Args:
            codes: an iterable of codes; consumed as the result is iterated.
            history: codes that were there before (a voice prompt); context only, they are not played.
            timbre: what every chunk is given.
        Yields:
            float32 waves; joined they have 320 samples a code.
        """
        # context and codes so far
        seen = list(within_codebook(list(history)[-HISTORY_CODES:], self.codebook_size))
        start = played = len(seen)
        tail = np.zeros(0, np.float32)  # what the last chunk decoded of this one's first samples
        for code in codes:
            seen.append(int(code))
            if len(seen) >= played + CHUNK_CODES + LOOKAHEAD_CODES:
                wav, tail = self._decode_chunk(seen, played, played + CHUNK_CODES, tail, timbre)
                played += CHUNK_CODES
                yield wav
        if len(seen) > max(played, start):
            yield self._decode_chunk(seen, played, len(seen), tail, timbre)[0]

    def _decode_chunk(
        self, seen: list[int], begin: int, end: int, tail: np.ndarray, timbre: Timbre | None
    ) -> tuple[np.ndarray, np.ndarray]:
        first = max(0, begin - HISTORY_CODES)
        wav = self.decode(seen[first : end + LOOKAHEAD_CODES])
        wav = (timbre.given_to(wav) if timbre else wav)[(begin - first) * HOP_LENGTH :]
        if len(tail):
            fade = np.linspace(0.0, 1.0, len(tail), dtype=np.float32)
            wav[: len(tail)] = fade * wav[: len(tail)] + (1 - fade) * tail
        cut = (end - begin) * HOP_LENGTH
        return wav[:cut], wav[cut : cut + FADE_SAMPLES]


def acoustic_columns(model) -> torch.Tensor:
    """Where an `Xcodec2Model`'s `fc_encoder` reads the acoustic encoder: (out, acoustic), a view of its weight."""
    return model.fc_encoder.weight[:, model.config.semantic_model_config.hidden_size :]


def digits(codes: torch.Tensor, levels: list[int]) -> torch.Tensor:
    """(n,) codes -> (n, dimensions) digits.

    FSQ counts dimension 0 first: code = sum of digit_i * product of the levels before i.
    """
    return codes[:, None] // torch.tensor([1, *np.cumprod(levels[:-1])]) % torch.tensor(levels)


def code_digits(levels: list[int]) -> torch.Tensor:
    """What each code is made of: (codes, sum of levels) float32, a one in every dimension's block of digits."""
    every = digits(torch.arange(math.prod(levels)), levels)
    return F.one_hot(every + torch.tensor([0, *np.cumsum(levels[:-1])]), sum(levels)).sum(1).float()


def pad_to_hop(wav: torch.Tensor) -> torch.Tensor:
    """(..., samples) -> (..., multiple of 320): always appends 320 - samples % 320 zeros, as X-codec2 was trained."""
    return F.pad(wav, (0, HOP_LENGTH - wav.shape[-1] % HOP_LENGTH))


def semantic_features(wav: torch.Tensor) -> torch.Tensor:
    """What X-codec2's semantic encoder reads: normalised log-mel energies, two 10 ms frames side by side.

    Args:
        wav: (batch, samples) in [-1, 1] at 16 kHz, samples a multiple of 320.
    Returns:
        (batch, samples // 320, 160) float32.

    Equal to `SeamlessM4TFeatureExtractor` on the wave padded by 160 samples on both sides, without torchaudio.
    """
    mel = kaldi_fbank(F.pad(wav, (HOP_LENGTH // 2, HOP_LENGTH // 2)))  # (batch, frames, 80)
    mel = (mel - mel.mean(1, keepdim=True)) / (mel.var(1, keepdim=True) + 1e-7).sqrt()
    frames = mel.shape[1] // 2
    return mel[:, : 2 * frames].reshape(mel.shape[0], frames, 2 * mel.shape[2])


def kaldi_fbank(wav: torch.Tensor) -> torch.Tensor:
    """(..., samples) in [-1, 1] -> (..., frames, 80) natural-log mel energies of 25 ms frames every 10 ms.

    The operations of `torchaudio.compliance.kaldi.fbank` (povey window, pre-emphasis 0.97, no dither) in the same
    order, so that the released codec sees the numbers it was trained on; torchaudio itself is not needed.
    """
    bank, window = _fbank_tables(str(wav.device))
    frames = (wav.float() * 2**15).unfold(-1, 400, 160)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], -1)
    power = torch.fft.rfft(frames * window, 512).abs().pow(2.0)
    return (power @ bank).clamp_min(torch.finfo(torch.float32).eps).log()


@functools.lru_cache(None)
def _fbank_tables(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel filters (257, 80), from 20 to 8,000 Hz, and the window (400,)."""
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (20.0, 8000.0))  # mel
    step = (high - low) / 81
    index = torch.arange(80)[:, None]
    left, center, right = (low + (index + k) * step for k in (0.0, 1.0, 2.0))
    bins = 1127.0 * (1.0 + (SAMPLE_RATE / 512 * torch.arange(512 / 2)) / 700.0).log()[None]
    bank = torch.minimum((bins - left) / (center - left), (right - bins) / (right - center)).clamp(min=0.0)
    window = torch.hann_window(400, periodic=False).pow(0.85)
    return F.pad(bank, (0, 1)).T.to(device), window.to(device)
