"""Laws of search: what is kept, what it costs, what stopping leaves; on nano with its own recognition as verifier."""

import numpy as np
import pytest

from llasa_lite.search import Extended, Finished, Scored

TEXT = "Oh, yes."


def same(one, other):
    assert [c.codes.tolist() for c in one.candidates] == [c.codes.tolist() for c in other.candidates]
    assert [c.scores for c in one.candidates] == [c.scores for c in other.candidates]


@pytest.fixture(scope="module")
def found(nano, voice):
    return nano.search(TEXT, voice, n=6, outcome="likelihood", seed=5, score_batch=2)


def test_the_best_has_the_highest_score(found):
    closed = [c for c in found.candidates if c.stopped == "end"] or found.candidates
    assert found.candidates[0].score == max(c.score for c in closed)
    assert sorted(c.index for c in found.candidates) == list(range(6))
    np.testing.assert_array_equal(found.best.wav, found.candidates[0].wav)


def test_best_of_1_equals_tts(nano, voice):
    found = nano.search(TEXT, voice, n=1, outcome="likelihood", seed=5)
    np.testing.assert_array_equal(found.best.wav, nano.tts(TEXT, voice, seed=5).wav)


def test_same_seed_same_result(nano, voice, found):
    same(found, nano.search(TEXT, voice, n=6, outcome="likelihood", seed=5, score_batch=2))


def test_events_tell_what_happened(nano, voice, found):
    events = list(nano.search_events(TEXT, voice, n=6, outcome="likelihood", seed=5, score_batch=2))
    assert {type(e) for e in events} == {Extended, Scored, Finished}
    assert isinstance(events[-1], Finished) and not events[-1].stopped_early
    assert sum(len(e.candidates) for e in events if isinstance(e, Scored)) == 6
    assert [e.seconds for e in events] == sorted(e.seconds for e in events)
