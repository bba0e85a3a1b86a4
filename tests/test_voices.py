"""Laws of voices: clip, codes and transcript stay together."""

import json
import re

import numpy as np
import pytest
from conftest import buzz

from llasa_lite import Voice, builtin_voices


def test_a_voice_survives_the_round_trip_through_its_file(tmp_path, voice):
    voice = voice.replace(heard={"nano": "hallo dear."}, description="a friend")
    back = Voice.load(voice.save(tmp_path / "voice.json"))
    assert (back.name, back.text, back.codes, back.timbre) == (voice.name, voice.text, voice.codes, voice.timbre)
    assert (back.heard, back.description) == (voice.heard, voice.description)
    assert len(back.wav) == pytest.approx(len(voice.wav), abs=640)  # its clip goes with it


def test_a_voice_without_its_clip_survives_too(tmp_path, voice):
    back = Voice.load(voice.replace(wav=None).save(tmp_path / "voice.json"))
    assert back.codes == voice.codes and back.wav is None


def test_a_voice_is_saved_as_json(tmp_path, voice):
    """Two named alike up to a dot would share one clip, and `--voice` take other endings for sound."""
    with pytest.raises(ValueError, match="A voice is written as .json, not as 'emma.v2'"):
        voice.save(tmp_path / "emma.v2")


def test_a_voice_saved_over_another_does_not_take_its_sound(tmp_path, voice):
    voice.replace(wav=buzz(1.0)).save(tmp_path / "voice.json")
    back = Voice.load(voice.replace(name="other", wav=None).save(tmp_path / "voice.json"))
    assert back.name == "other" and back.wav is None


def test_saving_a_voice_leaves_the_recording_it_was_made_from(tmp_path, nano):
    from llasa_lite import audio

    recording = audio.save(np.concatenate([buzz(1.5), np.zeros(16_000, np.float32)]), tmp_path / "me.ogg")
    before = recording.read_bytes()
    nano.prepare(Voice.from_audio(recording, "hello there.", name="me")).save(tmp_path / "me.json")
    assert recording.read_bytes() == before


def test_codes_of_a_voice_are_those_of_its_clip(codec, voice):
    assert voice.codes[codec.name] == codec.encode(voice.wav)[:-1].tolist()
    assert voice.encoded(codec) is voice  # encoded once


def test_a_clip_is_trimmed_and_levelled():
    padded = np.concatenate([np.zeros(16_000), 0.2 * buzz(2), np.zeros(16_000)]).astype(np.float32)
    wav = Voice.from_audio((16_000, padded)).wav
    assert len(wav) < 2.3 * 16_000 and np.abs(wav).max() == pytest.approx(0.7, abs=1e-4)


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_transcript_means_unknown(blank):
    assert Voice.from_audio((16_000, buzz(1)), blank).text is None


def test_a_ten_minute_prompt_is_refused():
    wav = np.tile(buzz(10), 60)
    with pytest.raises(ValueError, match="voice clip is 600 s long; give 15 s or less"):
        Voice.from_audio((16_000, wav))


def test_a_prompt_just_too_long_is_refused():
    with pytest.raises(ValueError, match="give 15 s or less"):
        Voice.from_audio((16_000, buzz(16)))


def test_a_click_is_no_voice():
    with pytest.raises(ValueError, match="holds 0.[0-4] s of sound; at least 0.5 s are needed"):
        Voice.from_audio((16_000, buzz(0.2)))


def test_a_text_file_is_no_voice(tmp_path):
    path = tmp_path / "me.wav"
    path.write_text("not audio")
    with pytest.raises(ValueError, match="Cannot read 'me.wav' as audio"):
        Voice.from_audio(path)


@pytest.mark.parametrize(
    "content",
    ["", "hello", "[]", "3", "{}", '{"name": "a", "text": "b"}', '{"name": "a", "text": "b", "codes": [1, 2]}',
     '{"name": "a", "text": "b", "codes": {"nano": ["x"]}}', '{"name": "a", "text": "b", "codes": {"nano": 3}}',
     '{"name": "a", "text": "b", "codes": {"nano": [1, -1]}}', '{"name": "a", "text": "", "codes": {}}',
     '{"name": "a", "text": "b", "codes": {"nano": [1, true]}}',
     '{"name": "a", "text": "b", "description": 3, "codes": {}}'],
)  # fmt: skip
def test_json_that_is_no_voice_gives_its_sentence(tmp_path, content):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="'odd.json' is not a voice: it needs name, text and codes"):
        Voice.load(path)


@pytest.mark.parametrize("heard", ["hello", ["hello"], {"nano": 3}, {"nano": "so " * 1000}], ids=str)
def test_what_was_heard_in_a_voice_is_words(tmp_path, voice, heard):
    path = voice.save(tmp_path / "odd.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"heard": heard}))
    with pytest.raises(ValueError, match="'odd.json' is not a voice: what was heard in it is wrong"):
        Voice.load(path)


def test_bytes_that_are_no_text_are_no_voice(tmp_path):
    path = tmp_path / "odd.json"
    path.write_bytes(b"\xff\xfe\x00RIFF")
    with pytest.raises(ValueError, match="is not a voice"):
        Voice.load(path)


def test_a_voice_file_that_is_not_there_gives_its_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no voice file"):
        Voice.load(tmp_path / "nobody.json")


def test_an_unfinished_voice_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="no transcript or no codes yet"):
        Voice.from_audio((16_000, buzz(1))).save(tmp_path / "voice.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"name": ""}, {"text": "so " * 1000}], ids=str)
def test_a_voice_that_could_not_be_loaded_is_not_saved(tmp_path, voice, changes):
    with pytest.raises(ValueError, match="A voice is saved with a name; it and the transcript have at most 2,000"):
        voice.replace(**changes).save(tmp_path / "voice.json")
    assert not list(tmp_path.iterdir())


def test_unknown_voice_names_those_there_are():
    with pytest.raises(ValueError, match="Unknown voice 'nobody'. Choose from: ") as error:
        Voice.builtin("nobody")
    assert all(name in str(error.value) for name in builtin_voices())


def test_codes_of_another_codec_without_audio_are_refused(codec):
    with pytest.raises(ValueError, match="saved for the codec other and holds no audio"):
        Voice("v", "hello", codes={"other": [1, 2]}).encoded(codec)


def test_builtin_voices_are_whole(codec):
    """Each has a transcript, codes of nano's codec, and its clip to listen to, in agreement."""
    known = builtin_voices()
    if not known:
        pytest.skip("no voices are built in yet")
    assert list(known) == sorted(known)
    for name, voice in known.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert voice.text and voice.text.strip() == voice.text and voice.description
        codes = voice.codes["nano"]
        assert 0 <= min(codes) and max(codes) < codec.codebook_size
        assert 25 <= len(codes) <= 750
        assert len(voice.wav) / 320 == pytest.approx(len(codes), abs=5)
