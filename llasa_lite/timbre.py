"""The timbre that a codec's codes lose, given back to speech in a voice: a filter learned from its clip. Knows waves.

Few bits a second tell what is said and how high, and hardly by whom: X-codec2 reads spectra whose mean over the clip
is taken away, and a decoder draws the voices it was trained on. But clip and resynthesis are one utterance twice, frame
by frame. A linear regression from the resynthesis' mel-cepstrum to what its spectrum lacks (Valbret et al. 1992) learns
the difference, and speech in that voice gets it as a filter on the wave itself (Kobayashi et al. 2014, "direct waveform
modification based on spectrum differential").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .audio import SAMPLE_RATE

N_FFT, HOP = 1024, 256  # samples
BANDS, CEPSTRA = 40, 12
CEPSTRUM_UNIT = 30.0  # dB, about what a cepstral coefficient strays
# In decibels squared a frame: what the regression would rather leave unexplained than follow a few frames. 30 to 300
# are alike on 20 voices kept out of training, from prompts of 1.3 to 5 s.
RIDGE = 100.0
HEARD_DECIBELS = 30.0  # below the loudest band: quieter frames are background, which is not to be learned
MIN_FRAMES = 10
MOST_DECIBELS = 15.0  # a band is raised or lowered by: what a telephone took away cannot be raised again
MOST_TENTHS = 10_000  # in a file: more is none of a voice
QUIETEST = 1e-7  # power of a band that counts as silence


@dataclass(frozen=True)
class Timbre:
    """What to add to each band of speech, in decibels: a part for all frames, and one for each cepstral coefficient.

    Attributes:
        tenths: (1 + 12) x 40 whole numbers, tenths of a decibel: what JSON holds.

    Example:
        >>> voice = llasa.prepare("emma")
        >>> timbre = Timbre.between(voice.wav, llasa.codec.resynthesize(voice.wav))
        >>> timbre.given_to(np.zeros(3200, np.float32)).shape
        (3200,)
    """

    tenths: list[list[int]]

    def __post_init__(self):
        if not is_timbre(self.tenths):
            raise ValueError(f"A timbre is {1 + CEPSTRA} lists of {BANDS} whole numbers, tenths of a decibel.")

    @classmethod
    def between(cls, wav: np.ndarray, resynthesis: np.ndarray) -> Timbre | None:
        """Learn what a resynthesis lacks: (samples,) float32 at 16 kHz each, of which the common length counts.

        None where fewer than ten frames of both are heard.
        """
        length = min(len(wav), len(resynthesis))
        if length < MIN_FRAMES * HOP:
            return None
        wanted, made = _bands(wav[:length]), _bands(resynthesis[:length])
        heard = np.logical_and(*(one.max(0) > one.max() - HEARD_DECIBELS for one in (wanted, made)))
        heard &= made.max(0) > 10 * np.log10(QUIETEST) + 1
        if heard.sum() < MIN_FRAMES:
            return None
        wanted, made = wanted[:, heard], made[:, heard]
        shape = _shape(made)
        center = shape.mean(1, keepdims=True)
        lacking = wanted - made
        mean = lacking.mean(1, keepdims=True)
        strayed = shape - center
        penalty = RIDGE * heard.sum() / CEPSTRUM_UNIT**2 * np.eye(CEPSTRA)
        slopes = (lacking - mean) @ strayed.T @ np.linalg.inv(strayed @ strayed.T + penalty)  # (bands, cepstra)
        level = mean - slopes @ center
        # the level of the speech stays what it is
        power = 10 ** (made / 10)
        level -= 10 * np.log10((power * 10 ** ((level + slopes @ shape) / 10)).sum() / power.sum())
        tenths = np.rint(10 * np.concatenate([level, slopes], 1).T).clip(-MOST_TENTHS, MOST_TENTHS)
        return cls(tenths.astype(int).tolist())

    def given_to(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz -> the same speech in this timbre."""
        from scipy.ndimage import gaussian_filter1d

        if not len(wav):
            return wav
        spectrum = _spectrum(wav)
        level, slopes = np.split(np.array(self.tenths) / 10, [1])
        gains = level.T + slopes.T @ _shape(_decibels(spectrum))  # (bands, frames)
        gains = gaussian_filter1d(gains, 1.0, axis=1).clip(-MOST_DECIBELS, MOST_DECIBELS)
        return _wave(spectrum * 10 ** (_spread() @ gains / 20), len(wav)).clip(-1.0, 1.0)


def is_timbre(rows) -> bool:
    """Whether this is what `Timbre.tenths` is."""
    if not isinstance(rows, list) or len(rows) != 1 + CEPSTRA:
        return False
    return all(isinstance(row, list) and len(row) == BANDS and all(map(_is_tenths, row)) for row in rows)


def _is_tenths(value) -> bool:
    return type(value) is int and abs(value) <= MOST_TENTHS


# PyTorch and Transformers are there when speech is made; librosa would take a second to import.


def _spectrum(wav: np.ndarray) -> np.ndarray:
    """(samples,) -> (bins, frames) complex"""
    import torch

    wav, window = torch.from_numpy(np.array(wav, np.float32)), torch.hann_window(N_FFT)
    return torch.stft(wav, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True).numpy()


def _wave(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """(bins, frames) complex -> (samples,) float32"""
    import torch

    spectrum = torch.from_numpy(spectrum.astype(np.complex64))
    return torch.istft(spectrum, N_FFT, HOP, window=torch.hann_window(N_FFT), length=samples).numpy()


def _decibels(spectrum: np.ndarray) -> np.ndarray:
    return 10 * np.log10(_bank() @ np.abs(spectrum) ** 2 + QUIETEST)  # (bands, frames)


def _bands(wav: np.ndarray) -> np.ndarray:
    return _decibels(_spectrum(wav))


def _shape(bands: np.ndarray) -> np.ndarray:
    """Mel-cepstrum without its first coefficient, the loudness: (cepstra, frames)."""
    from scipy.fft import dct

    return dct(bands, axis=0, norm="ortho")[1 : 1 + CEPSTRA] / CEPSTRUM_UNIT


@lru_cache(None)
def _bank() -> np.ndarray:
    """(bands, bins): triangles between mel-spaced frequencies."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(N_FFT // 2 + 1, BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, mel_scale="slaney").T


@lru_cache(None)
def _spread() -> np.ndarray:
    """(bins, bands): a bin's gain lies on the line between those of the two bands around it."""
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    highest = hertz_to_mel(SAMPLE_RATE / 2, mel_scale="slaney")
    centers = mel_to_hertz(np.linspace(0.0, highest, BANDS + 2)[1:-1], mel_scale="slaney")
    bins = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    return np.stack([np.interp(bins, centers, row) for row in np.eye(BANDS)], 1)
