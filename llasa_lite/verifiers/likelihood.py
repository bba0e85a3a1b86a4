"""Self-verification: how likely is the text, given the speech, to the model that spoke it? No other model is held."""

from __future__ import annotations

import numpy as np

from .. import recognition
from . import NO_LLASA, Own, Target, Verifier


class Likelihood(Verifier):
    """Mean log p(id of the text and its END | speech) in nats, by the recognition mode of the same Llasa.

    One forward pass reads every candidate. All candidates of one text have the same ids to explain, so the mean
    orders them as the sum does; unlike the sum it can be compared between texts.

    Raises:
        ValueError: a checkpoint that was never trained to recognise, or is not in this process; no codes given.
    """

    name, unit, low, high = "likelihood", "nats a text id", -20.0, 0.0
    judges_beginnings = False  # the text of what is still to be said would count against it

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        if source or not own.read:
            raise ValueError(
                "The verifier 'likelihood' is the checkpoint's own recognition mode, "
                + ("and takes no other model." if source else "which this one was never trained for: take 'asr'.")
            )
        if own.engine is None:
            raise ValueError("The verifier 'likelihood' needs the language model here, not on vLLM: take 'asr'.")
        self.source, self.own = "own", own

    def _load(self) -> None:
        pass

    def _score(self, waves, target: Target, codes: list[np.ndarray] | None) -> list[float]:
        if codes is None:
            raise ValueError("The verifier 'likelihood' listens to codes: give those of each wave.")
        logs = recognition.weigh_text(self.own.engine, self.own.protocol, target.text, codes)
        return [float(one.mean()) for one in logs]
