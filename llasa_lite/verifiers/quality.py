"""Does it sound clean? A mean opinion score without a reference, by DNSMOS (the `speechmos` package, an extra)."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from ..audio import SAMPLE_RATE
from . import NO_LLASA, Own, Target, Verifier


class Quality(Verifier):
    """Overall DNSMOS P.835: 1 (bad) to 5 (excellent). Its weights come with the package; no download.

    Raises:
        ValueError: `speechmos` is not installed, or another model is named.
    """

    name, unit, low, high = "quality", "DNSMOS overall", 1.0, 5.0

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        if source not in (None, "dnsmos"):
            raise ValueError(f"Unknown quality model '{source}'. There is one: dnsmos.")
        if find_spec("speechmos") is None:
            raise ValueError("The verifier 'quality' needs the package speechmos: pip install \"llasa-lite[quality]\".")
        self.source = "dnsmos"

    def _load(self) -> None:
        from speechmos import dnsmos

        self.dnsmos = dnsmos

    def _score(self, waves: list[np.ndarray], target: Target, codes) -> list[float]:
        # One at a time: its graph has a batch of one, and takes 9 s of sound whatever the length.
        return [self.dnsmos.run(np.clip(w, -1, 1), SAMPLE_RATE, return_df=False)["ovrl_mos"] for w in waves]
