"""Laws of reading back: both directions of one model decide, over several hearings of the same sound."""

import numpy as np
import pytest

from llasa_lite import audio, builtin_voices
from llasa_lite.engine import Hypothesis
from llasa_lite.recognition import SHIFTS, SPEAKING_WEIGHT, recognise
from llasa_lite.text import edits


class Told:
    """An engine whose answers are told beforehand: the readings of each hearing with their log-probabilities, what each
    text weighs on the others, and what it weighs as speech."""

    def __init__(self, protocol, readings, reading, speaking):
        self.protocol, self.readings, self.reading, self.speaking = protocol, readings, reading, speaking
        self.heard = 0

    def likeliest(self, prompt, width, answer, max_new, within=0.0):
        found = []
        for text, log, stopped in self.readings[self.heard]:
            ids = self.protocol.text_to_ids(text)
            found.append(Hypothesis(ids, [log / (len(ids) + 1)] * (len(ids) + 1), stopped))
        self.heard = (self.heard + 1) % len(self.readings)
        return found

    def weigh(self, prompts, answers, answer="speech"):
        if answer == "text":
            texts = [self.protocol.ids_to_text(ids[:-1]) for ids in answers]
            return [np.full(len(ids), self.reading[text] / len(ids)) for text, ids in zip(texts, answers)]
        asked = {tuple(self.protocol.tts_prompt(text)): weight for text, weight in self.speaking.items()}
        return [np.full(len(ids), asked[tuple(prompt)] / len(ids)) for prompt, ids in zip(prompts, answers)]


def heard(nano, readings, reading, speaking) -> Hypothesis:
    hearings = [np.arange(20)] * len(readings)
    return recognise(Told(nano.protocol, readings, reading, speaking), nano.protocol, hearings)


def test_what_would_also_have_been_said_so_is_what_was_said(nano):
    readings = [[("a cat.", -3.0, "end"), ("a hat.", -4.0, "end")]]
    reading = {"a cat.": -3.0, "a hat.": -4.0}  # as `readings` has it
    enough = 1.1 / SPEAKING_WEIGHT  # nats by which speaking must differ to make up for one nat of reading
    for speaking, best in (((-60.0, -60.0), "a cat."), ((-60.0 - enough, -60.0), "a hat.")):
        found = heard(nano, readings, {}, dict(zip(reading, speaking)))
        assert nano.protocol.ids_to_text(found.ids) == best and found.stopped == "end"
        assert sum(found.log_probabilities) == pytest.approx(reading[best])
        assert len(found.log_probabilities) == len(found.ids) + 1  # END too


def test_a_reading_of_any_hearing_may_win(nano):
    readings = [[("a cat.", -1.0, "end")], [("the cat.", -9.0, "end")]]
    reading = {"a cat.": -12.0, "the cat.": -2.0}  # each on the hearing that did not find it
    found = heard(nano, readings, reading, {"a cat.": -50.0, "the cat.": -50.0})
    assert nano.protocol.ids_to_text(found.ids) == "the cat."
    assert sum(found.log_probabilities) == pytest.approx((-9.0 - 2.0) / 2)


@pytest.mark.parametrize("text, stopped", [("on and on", "length"), ("...", "end")])
def test_where_nothing_can_be_weighed_the_likeliest_reading_stays(nano, text, stopped):
    found = heard(nano, [[(text, -2.0, stopped)]], {}, {})
    assert nano.protocol.ids_to_text(found.ids) == text and found.stopped == stopped


def test_more_hearings_and_both_directions_hear_more_words(nano):
    """Against the likeliest reading of one hearing, on the clips of six built-in voices."""
    wrong = {"alone": 0, "together": 0}
    for voice in list(builtin_voices().values())[:6]:
        wav = audio.normalize(voice.wav)
        hearings = [nano.codec.encode(wav[shift:])[:-1] for shift in SHIFTS]
        alone = nano.engine.likeliest(nano.protocol.asr_prompt(hearings[0]), 4, "text", 400)[0]
        for how, found in (("alone", alone), ("together", recognise(nano.engine, nano.protocol, hearings))):
            wrong[how] += edits(voice.text, nano.protocol.ids_to_text(found.ids))[0]
    assert wrong["together"] < wrong["alone"]
