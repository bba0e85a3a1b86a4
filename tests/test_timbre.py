"""Laws of timbre: what a codec takes from a voice comes back, and nothing else changes."""

import json

import numpy as np
import pytest
from conftest import buzz
from scipy.signal import lfilter

from llasa_lite import Llasa, Voice
from llasa_lite.timbre import BANDS, CEPSTRA, Timbre, _bands

WAV = 0.5 * buzz(3.0)


def dulled(wav):
    """As a codec that loses the brightness of a voice would: (samples,) float32."""
    return lfilter([0.3], [1, -0.7], wav).astype(np.float32)


def apart(one, other):
    """Mean distance of two waves' mean band spectra in decibels, loudness aside."""
    difference = _bands(one).mean(1) - _bands(other).mean(1)
    return np.abs(difference - difference.mean()).mean()


def loudness(wav):
    return 20 * np.log10(np.sqrt(np.mean(wav**2)) + 1e-9)


def test_what_was_lost_of_a_voice_comes_back_on_other_words():
    timbre = Timbre.between(WAV, dulled(WAV))
    other = 0.5 * buzz(2.0, seed=5, pitch=130)
    lost, restored = dulled(other), timbre.given_to(dulled(other))
    assert apart(restored, other) < 0.3 * apart(lost, other)


def test_speech_that_lost_nothing_stays_what_it_is():
    given = Timbre.between(WAV, WAV).given_to(WAV)
    assert 10 * np.log10(np.mean(WAV**2) / np.mean((given - WAV) ** 2)) > 30  # decibels


def test_loudness_stays():
    lost = dulled(WAV)
    assert loudness(Timbre.between(WAV, lost).given_to(lost)) == pytest.approx(loudness(lost), abs=1.0)


@pytest.mark.parametrize("samples", [0, 1, 100, 1023, 8001])
def test_every_length_stays_and_nothing_clips(samples):
    given = Timbre.between(WAV, dulled(WAV)).given_to(WAV[:samples] * 2)
    assert given.shape == (samples,) and given.dtype == np.float32
    assert np.isfinite(given).all() and np.abs(given).max(initial=0.0) <= 1


def test_silence_stays_silent():
    assert not np.abs(Timbre.between(WAV, dulled(WAV)).given_to(np.zeros(16_000, np.float32))).max() > 1e-6


@pytest.mark.parametrize("wav", [np.zeros(16_000, np.float32), WAV[:1000], WAV[:0]])
def test_of_next_to_nothing_no_timbre_is_learned(wav):
    assert Timbre.between(wav, wav) is None
    assert Timbre.between(WAV, wav) is None


@pytest.mark.parametrize(
    "tenths", [None, [], [[0] * BANDS] * CEPSTRA, [[0.5] * BANDS] * (1 + CEPSTRA), [[10**9] * BANDS] * (1 + CEPSTRA)]
)
def test_what_is_no_timbre_is_refused(tenths):
    with pytest.raises(ValueError, match="A timbre is 13 lists of 40 whole numbers"):
        Timbre(tenths)


@pytest.mark.trained
def test_voices_the_codec_never_heard_come_nearer_on_other_words(codec):
    lost, restored = [], []
    for pitch in (90, 110, 150, 200):
        clip, said = 0.5 * buzz(3.0, pitch=pitch), 0.5 * buzz(3.0, seed=5, pitch=pitch)
        again = codec.resynthesize(said)
        lost.append(apart(again, said))
        restored.append(apart(Timbre.between(clip, codec.resynthesize(clip)).given_to(again), said))
    assert np.mean(restored) < 0.8 * np.mean(lost), (lost, restored)


def test_speech_in_a_voice_is_given_its_timbre(nano, voice):
    speech = nano.tts("Oh.", voice, seed=1)
    plain = nano.codec.decode_after(voice.codes["nano"], speech.codes)[0]
    given = nano.codec.decode_after(voice.codes["nano"], speech.codes, voice.timbre["nano"])[0]
    np.testing.assert_array_equal(speech.wav, given)
    assert len(plain) == len(given) and not np.allclose(plain, given, atol=1e-3)


def test_it_may_be_left_away(nano, voice, monkeypatch):
    monkeypatch.setattr(nano.codec, "restores_timbre", False)
    speech = nano.tts("Oh.", voice, seed=1)
    np.testing.assert_array_equal(speech.wav, nano.codec.decode_after(voice.codes["nano"], speech.codes)[0])
    assert speech.receipt["voice_timbre"] is None
    assert Voice.builtin("emma").encoded(nano.codec).timbre == {}


def test_a_voice_without_its_clip_keeps_its_timbre(nano, voice, tmp_path):
    back = Voice.load(voice.replace(wav=None).save(tmp_path / "me.json"))
    assert back.timbre == voice.timbre and back.wav is None
    np.testing.assert_array_equal(nano.tts("Oh.", back, seed=1).wav, nano.tts("Oh.", voice, seed=1).wav)


@pytest.mark.parametrize("timbre", [None, [], 3, {"nano": None}, {"nano": [[1.5] * BANDS] * (1 + CEPSTRA)}])
def test_a_voice_file_with_another_timbre_gives_its_sentence(voice, tmp_path, timbre):
    path = voice.save(tmp_path / "odd.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"timbre": timbre}))
    with pytest.raises(ValueError, match="'odd.json' is not a voice: its timbre is wrong"):
        Voice.load(path)


def test_a_receipt_holds_what_makes_the_same_sound_again(nano, voice):
    speech = nano.tts("Oh.", voice, seed=1)
    again = Llasa.replay(json.loads(json.dumps(speech.receipt)))
    np.testing.assert_allclose(again.wav, speech.wav, atol=1e-5)
    with pytest.raises(ValueError, match="'voice_timbre' is missing or wrong"):
        Llasa.replay(speech.receipt | {"voice_timbre": [[1]]})


def test_a_timbre_that_was_asked_for_is_replayed(nano, voice, monkeypatch):
    """Other codecs restore none unless `restores_timbre` is set, or --timbre given."""
    speech = nano.tts("Oh.", voice, seed=1)
    monkeypatch.setattr(nano.codec, "restores_timbre", False)
    monkeypatch.setattr(Llasa, "from_pretrained", lambda *given, **more: nano)
    np.testing.assert_allclose(Llasa.replay(speech.receipt).wav, speech.wav, atol=1e-5)


def test_a_streamed_answer_has_the_colour_of_the_whole(nano, voice):
    text = "This is a sentence of some length."
    whole = nano.tts(text, voice, seed=7)
    streamed = np.concatenate(list(nano.stream(text, voice, seed=7)))
    plain = nano.codec.decode_after(voice.codes["nano"], whole.codes)[0]
    assert apart(streamed, whole.wav) < 0.5 * apart(plain, whole.wav)
