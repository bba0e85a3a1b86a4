"""Laws of the tables: what is counted, and how sure it is."""

import numpy as np
import pytest
from conftest import buzz

from llasa_lite.evaluation import Table, evaluate_asr, evaluate_codec, evaluate_tts, judged


def table(*pairs):
    return Table([judged(str(k), truth, heard, 1.0, 0.5) for k, (truth, heard) in enumerate(pairs)])


def test_errors_are_counted_over_all_words_of_all_utterances():
    summary = table(("The cat sat down.", "the cat sat down"), ("Oh, no!", "oh yes")).summary()
    assert summary["wer"] == pytest.approx(1 / 6, abs=1e-4) and summary["words"] == 6 and summary["n"] == 2
    assert summary["wer_low"] <= summary["wer"] <= summary["wer_high"]
    assert summary["real_time_factor"] == 0.5 and summary["incomplete"] == 0


def test_silence_is_all_wrong_and_a_perfect_table_is_sure():
    assert table(("one two", "")).summary()["wer"] == 1
    perfect = table(*[("one two", "One, two.")] * 5).summary()
    assert perfect["wer"] == perfect["wer_low"] == perfect["wer_high"] == 0


def test_more_utterances_narrow_the_interval():
    pairs = [("a b c d", "a b c d"), ("a b c d", "a b x y")]

    def width(times):
        summary = table(*pairs * times).summary()
        return summary["wer_high"] - summary["wer_low"]

    assert width(50) < 0.5 * width(5)


def test_speech_and_recognition_are_judged_by_whoever_listens(nano, voice):
    from types import SimpleNamespace

    heard = []
    spoken = evaluate_tts(nano, ["Oh.", "Yes."], lambda wav: heard.append(wav) or "oh", [voice], seed=3)
    assert [item.edits for item in spoken.items] == [0, 1]
    np.testing.assert_array_equal(heard[1], nano.tts("Yes.", voice, seed=4).wav)
    clip = SimpleNamespace(id=1, text="hello there.", load=lambda: buzz(1.0))
    read = evaluate_asr(lambda wav: nano.transcribe(wav).text, [clip])
    assert read.items[0].words == 2
    originals, resynthesis = evaluate_codec(nano.codec, [clip], lambda wav: str(len(wav)))
    assert originals.items[0].heard == resynthesis.items[0].heard == "16000"
