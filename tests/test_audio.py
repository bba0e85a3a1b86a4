"""Laws of waves: whatever comes in is 16 kHz mono float32 in [-1, 1], or one plain sentence."""

import io

import numpy as np
import pytest
import soundfile
from conftest import buzz

from llasa_lite import audio


def pitch(wav):
    """Frequency of the loudest partial, Hz."""
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))))
    return np.argmax(spectrum) * 16_000 / len(wav)


def tone(rate, seconds=1.0, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def assert_is_a_wave(wav, seconds=1.0):
    assert wav.dtype == np.float32 and wav.ndim == 1
    assert len(wav) == pytest.approx(seconds * 16_000, abs=2)
    assert np.abs(wav).max() <= 1 and np.isfinite(wav).all()


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_every_wav_becomes_the_same_wave(tmp_path, rate, channels, subtype):
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone(rate)] * channels, 1), rate, subtype=subtype)
    wav = audio.load(path)
    assert_is_a_wave(wav)
    assert pitch(wav) == pytest.approx(440, abs=1.5)
    assert np.abs(wav).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["mono", "frames first", "channels first"])
def test_every_array_becomes_the_same_wave(kind, layout):
    wav = tone(48_000)
    if np.issubdtype(kind, np.integer):
        info = np.iinfo(kind)
        half = (info.max - info.min) / 2
        wav = np.round(wav * half + (128 if kind == np.uint8 else 0)).clip(info.min, info.max)
    array = {"mono": wav, "frames first": np.stack([wav] * 2, 1), "channels first": np.stack([wav] * 2)}[layout]
    loaded = audio.load((48_000, array.astype(kind)))
    assert_is_a_wave(loaded)
    assert pitch(loaded) == pytest.approx(440, abs=1.5)
    assert np.abs(loaded).max() == pytest.approx(0.5, abs=0.02) and abs(loaded.mean()) < 2e-3


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_bytes_and_files_of_every_kind_are_read(tmp_path, kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(16_000), 16_000, format=kind.upper())
    path = tmp_path / f"tone.{kind}"
    path.write_bytes(buffer.getvalue())
    for source in (buffer.getvalue(), path, str(path)):
        wav = audio.load(source)
        assert wav.dtype == np.float32 and pitch(wav) == pytest.approx(440, abs=2)


def test_channels_are_averaged():
    left, right = tone(16_000), np.zeros(16_000, np.float32)
    np.testing.assert_allclose(audio.load((16_000, np.stack([left, right], 1))), left / 2, atol=1e-6)


@pytest.mark.parametrize("right", [-1.0, -0.999])
def test_channels_that_cancel_each_other_out_are_not_silence(right):
    wav = np.tile(tone(16_000), 10)  # more than a block of a file
    both = np.stack([wav, np.float32(right) * wav], 1)
    for source in (wav_of(both), (16_000, both), (16_000, both.T)):
        np.testing.assert_array_equal(audio.load(source), wav)


@pytest.mark.parametrize("gain", [5, 32767])
def test_louder_than_full_scale_is_made_less_loud_and_not_cut_off(gain):
    """Floats have no full scale: recorders and mixes go beyond it."""
    wav = tone(16_000)
    np.testing.assert_allclose(audio.load((16_000, gain * wav)), wav / np.abs(wav).max(), atol=1e-4)


def wav_of(samples, rate=16_000):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


NAN = tone(16_000)
NAN[100:200] = np.nan
BAD = {
    "no bytes": (b"", "is an empty file"),
    "no samples": (wav_of(np.zeros(0, np.float32)), "empty: it holds no samples"),
    "empty array": ((16_000, np.zeros((0, 2), np.int16)), "empty: it holds no samples"),
    "silence": (wav_of(np.zeros(16_000, np.float32)), "is silent: nothing in it is louder than -60 dBFS"),
    "a whisper below -60 dBFS": ((48_000, 1e-4 * tone(48_000)), "is silent"),
    "NaN": (wav_of(NAN), "not numbers"),
    "NaN at 48 kHz": ((48_000, NAN), "not numbers"),
    "infinity": ((16_000, np.full(800, np.inf, np.float32)), "not numbers"),
    "text": (b"This is not audio, whatever its name says.\n" * 50, "Cannot read .* as audio. Give a wav"),
    "a cut-off header": (wav_of(tone(16_000))[:20], "Cannot read .* as audio"),
    "rate 0": ((0, tone(16_000)), "0 Hz is not audio"),
    "rate of 10 MHz": ((10_000_000, tone(16_000)), "10000000 Hz is not audio"),
    "whole numbers of 64 bits": ((16_000, (9_999 * tone(16_000)).astype(np.int64)), "int64 samples: give int16"),
    "an array without its rate": (tone(16_000), "a path, bytes or .sample_rate, samples., not a ndarray"),
    "a pair the wrong way round": ((tone(16_000), 16_000), "no pair .sample_rate, samples."),
    "no rate": ((None, tone(16_000)), "no pair"),
    "three dimensions": ((16_000, np.ones((2, 2, 2), np.float32)), "one or two dimensions"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_audio_gives_its_sentence(case):
    source, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        audio.load(source, name="voice clip")


def test_a_text_file_named_wav_gives_its_sentence(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("dear diary,")
    with pytest.raises(ValueError, match="Cannot read 'notes.wav' as audio. Give a wav, flac, ogg or mp3 file"):
        audio.load(path)


def test_a_file_that_is_not_there_gives_its_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no file .*no.wav' to read the voice clip from"):
        audio.load(tmp_path / "no.wav", name="voice clip")
    with pytest.raises(ValueError, match="There is no file"):
        audio.load(tmp_path)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.wav"
    with open(path, "wb") as file:
        file.truncate(audio.MAX_FILE_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(ValueError, match="is 100 MB; at most 100 MB are read"):
        audio.load(path)


def test_hours_of_compressed_silence_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "hours.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(62):
            file.write(np.zeros(60 * 8_000, np.int16))
    with pytest.raises(ValueError, match="longer than 60 minutes"):
        audio.load(path)
    assert len(audio.load(wav_of(tone(16_000)), max_seconds=1)) == 16_000  # exactly as long as it may be


def test_trim_cuts_silence_and_keeps_the_speech():
    speech = buzz(1.0)
    wav = np.concatenate([np.zeros(16_000, np.float32), speech, np.zeros(24_000, np.float32)])
    trimmed = audio.trim(wav)
    assert len(speech) * 0.9 < len(trimmed) < len(speech) + 0.3 * 16_000
    assert (trimmed**2).sum() > 0.999 * (speech**2).sum()
    for begin in (trimmed, trimmed[::-1]):  # a tenth of a second is left of the silence, at both ends
        assert np.flatnonzero(begin)[0] == pytest.approx(1_600, abs=512)


def test_long_pauses_are_made_short_and_short_ones_stay():
    spoken = buzz(1.0) + 0.05  # never quiet within
    for pause, left in ((0.4, 0.4), (0.7, 0.6), (3.0, 0.6)):
        wav = np.concatenate([spoken, np.zeros(int(pause * 16_000), np.float32), spoken])
        assert len(audio.shorten_pauses(wav)) == pytest.approx(32_000 + left * 16_000, abs=1_024)


def test_normalize_sets_the_peak_and_leaves_silence():
    assert np.abs(audio.normalize(0.1 * buzz(1))).max() == pytest.approx(0.7, abs=1e-5)
    quiet = np.full(100, 1e-5, np.float32)
    assert (audio.normalize(quiet) == quiet).all()
    assert audio.normalize(np.zeros(0, np.float32)).size == 0


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_saved_waves_come_back(tmp_path, kind):
    wav = buzz(1.0)
    path = audio.save(wav, tmp_path / f"out.{kind}")
    back = audio.load(path)
    assert abs(len(back) - len(wav)) <= 640
    if kind != "ogg":  # which is lossy
        np.testing.assert_allclose(back, wav, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-written stays


@pytest.mark.parametrize("name, sentence", [("out.mp5", "choose one of the endings"), ("no/out.wav", "Cannot write")])
def test_what_cannot_be_written_gives_its_sentence(tmp_path, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        audio.save(buzz(0.1), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_join_puts_silence_between_and_nowhere_else():
    a, b = np.ones(100, np.float32), np.full(50, 0.5, np.float32)
    assert audio.join([a, b], 0.01).tolist() == [1.0] * 100 + [0.0] * 160 + [0.5] * 50
    assert audio.join([a], 1.0).tolist() == a.tolist()
    assert audio.join([]).size == 0


def test_sixteen_bits_hold_what_is_within_full_level():
    told = audio.to_int16(np.float32([[0, 0.5, 1], [-1, 2, -3]]))
    assert told.dtype == np.int16 and told.tolist() == [[0, 16_384, 32_767], [-32_767, 32_767, -32_767]]


def test_level_tells_length_peak_clipping_and_silence():
    half = np.concatenate([0.5 * np.sin(np.arange(16_000)), np.zeros(16_000)]).astype(np.float32)
    told = audio.level(half)
    assert told.seconds == 2 and told.peak_db == pytest.approx(-6.02, abs=0.01)
    assert told.clipped == 0 and told.silent == pytest.approx(0.5)
    loud = audio.level(np.clip(4 * half, -1, 1))
    assert loud.peak_db == 0 and loud.clipped > 0.2
    with pytest.raises(ValueError, match="the wave is empty"):
        audio.level(np.zeros(0, np.float32))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_clipped_recording_of_any_rate_is_seen_to_be_clipped(rate):
    loud = np.clip(3 * tone(rate) / np.abs(tone(rate)).max(), -1, 1)
    quiet = loud / 2
    assert audio.level(audio.load((rate, loud))).clipped > 0.1
    assert audio.level(audio.load((rate, quiet))).clipped == 0


def test_a_tone_is_one_line_of_its_log_mel():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    picture = audio.log_mel(tone)
    assert picture.shape == (80, 101) and picture.max() == 0 and picture.min() >= -80
    bands = picture[:, 10:-10].argmax(0)
    assert len(set(bands.tolist())) == 1 and audio.log_mel(tone[::2])[:, 10:-10].argmax(0).min() > bands[0]


def test_constants_agree():
    assert audio.FRAME_RATE * audio.HOP_LENGTH == audio.SAMPLE_RATE == 16_000


def test_a_long_wave_is_cut_in_its_pauses():
    pause = np.zeros(4_000, np.float32)
    spoken = [buzz(seconds, seed=k) + 0.05 for k, seconds in enumerate((2.2, 1.4, 2.6, 1.9))]  # never quiet within
    wav = np.concatenate([part for one in spoken for part in (one, pause)])
    parts = audio.cut_at_pauses(wav, 3.0)
    ends = np.cumsum([len(one) + len(pause) for one in spoken])[:-1]
    assert len(parts) == 4
    assert all(end - len(pause) <= cut <= end for end, cut in zip(ends, np.cumsum([len(part) for part in parts])))


@pytest.mark.parametrize("samples", [1, 48_000, 48_001, 50_000, 144_007, 960_000])
def test_parts_of_a_wave_are_all_of_it_and_none_is_a_splinter(samples):
    wav = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    parts = audio.cut_at_pauses(wav, 3.0)
    np.testing.assert_array_equal(np.concatenate(parts), wav)
    assert all(len(part) <= 48_000 for part in parts)
    assert len(parts) == 1 or min(map(len, parts)) >= 0.45 * 24_000


def test_a_recording_of_a_telephone_is_read(tmp_path):
    soundfile.write(tmp_path / "call.wav", tone(8_000), 8_000, subtype="GSM610")
    wav = audio.load(tmp_path / "call.wav")
    assert len(wav) == pytest.approx(16_000, abs=700) and pitch(wav) == pytest.approx(440, abs=2)


def test_a_flac_that_came_through_a_pipe_is_read(tmp_path):
    """Its header was written before its length was known (the last 36 bits of STREAMINFO)."""
    soundfile.write(tmp_path / "told.flac", tone(16_000), 16_000)
    flac = bytearray((tmp_path / "told.flac").read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    np.testing.assert_array_equal(audio.load(bytes(flac)), audio.load(tmp_path / "told.flac"))
    with pytest.raises(ValueError, match="longer than"):
        audio.load(bytes(flac), max_seconds=0.5)


@pytest.mark.parametrize("told", ["odd", "even"])  # with the zero at its end the other way round
def test_a_comment_fits_into_its_wav(tmp_path, told):
    kept = audio.save(tone(16_000), tmp_path / "x.wav", told).read_bytes()
    assert int.from_bytes(kept[4:8], "little") == len(kept) - 8 and len(kept) % 2 == 0
    assert audio.comment_of(tmp_path / "x.wav") == told


def test_a_comment_is_found_behind_the_lines_of_other_programs(tmp_path):
    path = audio.save(tone(16_000), tmp_path / "x.wav", "how it was made")
    kept = path.read_bytes().replace(b"INFOICMT", b"INFOIART\x03\0\0\0me\0\0ICMT")
    kept = kept.replace(b"LIST\x1c", b"LIST\x28").replace(b"data", b"junk\x03\0\0\0odd\0data", 1)
    path.write_bytes(kept)
    assert audio.comment_of(path) == "how it was made" and len(audio.load(path)) == 16_000
    path.write_bytes(kept.replace(b"ICMT", b"ISFT"))
    assert audio.comment_of(path) == ""


def test_an_ogg_file_holds_what_it_gives_back(tmp_path):
    told = "é" * (audio.MAX_OGG_COMMENT // 2)  # two bytes each
    assert audio.comment_of(audio.save(tone(16_000), tmp_path / "x.ogg", told)) == told
    with pytest.raises(ValueError, match="An ogg file holds comments of at most 30,000 bytes."):
        audio.save(tone(16_000), tmp_path / "x.ogg", told + "!")
