"""How likely is the text, given the speech, to the model that spoke it (self-verification) or to a recogniser?"""

from __future__ import annotations

import numpy as np

from .. import recognition
from . import NO_LLASA, Own, Target, Verifier
from .asr import language_of, recogniser


class Likelihood(Verifier):
    """Mean log p(id of the text and its END | speech) in nats.

    By the recognition mode of the same Llasa, which listens to codes, so that no other model is held; or by a speech
    recogniser, which listens to waves. One forward pass reads every candidate. All candidates of one text have the same
    ids to explain, so the mean orders them as the sum does; unlike the sum it can be compared between texts. Unlike an
    error rate (`asr`) it tells apart what is all understood, and it needs no decoding.

    Args:
        source: a Transformers speech-recognition checkpoint (folder or hub id), or "own". Left out: "own".
    Raises:
        ValueError: "own", and the checkpoint was never trained to recognise, or is not in this process; no codes given.
    """

    name, unit, low, high = "likelihood", "nats a text id", -20.0, 0.0
    judges_beginnings = False  # the text of what is still to be said would count against it

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        self.source, self.own = source or "own", own
        if self.source == "own" and not own.read:
            raise ValueError(
                "The verifier 'likelihood' is the checkpoint's own recognition mode, which this one was never trained "
                "for: take 'asr', or name a recogniser: likelihood:HUB_ID."
            )
        if self.source == "own" and own.engine is None:
            raise ValueError(
                "The verifier 'likelihood' needs the language model here, not on vLLM: take 'asr', or name a "
                "recogniser: likelihood:HUB_ID."
            )

    def _load(self) -> None:
        self.recogniser = recogniser(self.source, self.own.device) if self.source != "own" else None

    def _score(self, waves, target: Target, codes: list[np.ndarray] | None) -> list[float]:
        if self.recogniser:
            logs = self.recogniser.weigh(waves, target.text, language_of(target.text, self.own))
        elif codes is None:
            raise ValueError("The verifier 'likelihood' listens to codes: give those of each wave.")
        else:
            logs = recognition.weigh_text(self.own.engine, self.own.protocol, target.text, codes)
        return [float(one.mean()) for one in logs]
