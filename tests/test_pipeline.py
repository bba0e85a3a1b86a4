"""Laws of `Llasa`: text in, speech out, the same for the same seed, and a sentence for what cannot be done."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import WHISPER, buzz

from llasa_lite import Llasa, NotReachable, Sampling, Stopped, Voice, builtin_voices, recognition
from llasa_lite.checkpoints import CHECKPOINTS, NANO, find, load_codec, load_lm, pick_device, pick_dtype
from llasa_lite.codec import CHUNK_CODES
from llasa_lite.engine import ROWS_AT_ONCE
from llasa_lite.pipeline import CLIPS_REMEMBERED, MAX_TEXT_CHARS
from llasa_lite.speech import GAP_SECONDS, Transcript
from llasa_lite.text import edits, spell_out
from llasa_lite.text import normalize_transcript as bare
from llasa_lite.verifiers import Own, verifier

SHORT = "Yes, please."


def streamed(generator):
    """The waves of a stream, and the Speech it returns."""
    waves = []
    while True:
        try:
            waves.append(next(generator))
        except StopIteration as stop:
            return waves, stop.value


@pytest.fixture(scope="module")
def speech(nano, voice):
    return nano.tts(SHORT, voice, seed=7)


# -- text to speech --------------------------------------------------------------------------------------------------


def test_same_seed_same_speech(nano, voice, speech):
    again = nano.tts(SHORT, voice, seed=7)
    assert [c.tolist() for c in again.codes] == [c.tolist() for c in speech.codes]
    np.testing.assert_array_equal(again.wav, speech.wav)


def test_other_seed_other_speech(nano, voice, speech):
    assert nano.tts(SHORT, voice, seed=8).codes[0].tolist() != speech.codes[0].tolist()


def test_speech_that_is_not_wanted_any_more_is_given_up(nano, voice, speech):
    asked = []
    with pytest.raises(Stopped, match="stopped before it was whole"):
        nano.tts("A long story, told again and again. " * 100, voice, stop=lambda: asked.append(1) or len(asked) > 1)
    assert len(asked) == 2
    np.testing.assert_array_equal(nano.tts(SHORT, voice, seed=7, stop=lambda: False).wav, speech.wav)


def test_a_drawn_seed_is_told_and_repeats(nano):
    first = nano.tts("Oh.")
    assert nano.tts("Oh.", seed=first.seed).codes[0].tolist() == first.codes[0].tolist()
    assert nano.tts("Oh.").seed != first.seed


def test_speech_is_a_wave_of_320_samples_a_code(speech):
    assert speech.wav.dtype == np.float32 and speech.sample_rate == 16_000
    assert np.isfinite(speech.wav).all() and np.abs(speech.wav).max() <= 1
    assert len(speech.wav) == 320 * len(speech.codes[0]) > 0
    assert speech.complete == (speech.stopped == ["end"])


def test_prompt_text_and_prompt_audio_are_cut_together(nano, voice, speech):
    """The answer is the last part of prompt and answer decoded together: no sample of the prompt, none lost."""
    prompt = voice.codes[nano.codec.name]
    both = voice.timbre[nano.codec.name].given_to(nano.codec.decode([*prompt, *speech.codes[0]]))
    np.testing.assert_array_equal(speech.wav, both[320 * len(prompt) :])
    ids = nano.protocol.tts_prompt(f"{voice.text} {SHORT}", prompt)
    without = nano.protocol.unconditional_prompt(voice.text, prompt)
    beams = nano.engine.start(ids, 1, "speech", nano.sampling, seed=7, unconditional=without)
    beams.advance(len(speech.codes[0]))
    assert nano.protocol.ids_to_codes(beams.ids[0]).tolist() == speech.codes[0].tolist()


def test_a_clip_that_stops_inside_a_sentence_is_closed_unless_the_text_goes_on_with_it(nano, voice):
    """nano runs what it is to say into a sentence that the clip left open."""
    opened, ended = (replace(voice, text=told) for told in ("We went to the -", "We went to the."))

    def codes(voice, said):
        return nano.tts(said, voice, seed=3).codes[0].tolist()

    assert codes(opened, "Oh yes.") == codes(ended, "Oh yes.")
    assert codes(opened, "old house.") != codes(ended, "old house.")


def test_a_clip_whose_words_the_model_does_not_hear_is_spoken_after_by_what_it_hears(nano, monkeypatch, tmp_path):
    """Codes of a person may be unlike those it learned from: words that do not belong to them derail it."""
    monkeypatch.setattr(nano, "_heard", {})
    monkeypatch.setattr(nano, "transcribe", lambda clip: Transcript("oh well.", 0.9, 1.0, True))
    clip = Voice.builtin("emma").wav
    wrong = nano.prepare(Voice.from_audio((16_000, clip), "Seven grey elephants were dancing.", name="me"))
    assert wrong.text == "Seven grey elephants were dancing." and wrong.heard == {"nano": "oh well."}
    said = nano.tts("Oh yes.", wrong, seed=3)
    assert said.receipt["voice_text"] == "oh well."
    told = nano.tts("Oh yes.", replace(wrong, text="oh well.", heard={}), seed=3)
    assert said.codes[0].tolist() == told.codes[0].tolist()
    again = nano.prepare(Voice.load(wrong.save(tmp_path / "me.json")))  # it is kept with the voice
    assert again.heard == wrong.heard == {"nano": "oh well."} and nano._spoken_before(again, ["Oh yes."]) == "oh well."
    opened = nano.prepare(Voice.from_audio((16_000, clip), "Seven grey elephants were", name="me"))
    assert opened.heard == {"nano": "oh well"} and nano._spoken_before(opened, ["dancing."]) == "oh well"


def test_a_clip_whose_words_the_model_hears_keeps_its_transcript(nano, monkeypatch):
    monkeypatch.setattr(nano, "_heard", {})
    monkeypatch.setattr(nano, "transcribe", None)  # it is not even listened to
    emma = Voice.builtin("emma")
    for known in (emma.replace(codes={}), emma, emma.replace(text="Seven grey elephants were dancing.")):
        assert nano.prepare(known).heard == {}  # the last has codes: a voice is asked once, when they are made
    monkeypatch.setattr(nano, "_hears_transcript", lambda voice: False)
    monkeypatch.setattr(nano, "transcribe", lambda clip: Transcript("...", 0.1, 1.0, True))
    assert nano.prepare(Voice.from_audio((16_000, buzz(1.0, seed=9)), "one.")).heard == {}  # it hears nothing at all
    mute = Llasa(replace(nano.checkpoint, tasks=("tts",)), nano.protocol, nano.engine, nano.codec, nano.sampling)
    assert mute.prepare(emma.replace(codes={}, text="Seven grey elephants were dancing.")).heard == {}


def test_a_clip_is_listened_to_once(nano, monkeypatch):
    """By a page that is given the same clip at every press, and whose visitor corrects what was heard."""
    listened = []
    monkeypatch.setattr(nano, "_heard", {})
    monkeypatch.setattr(nano, "_hears_transcript", lambda voice: False)
    monkeypatch.setattr(
        nano, "transcribe", lambda clip: listened.append(len(clip.wav)) or Transcript("oh well.", 0.9, 1.0, True)
    )
    clip = buzz(1.0, seed=11)
    told = [nano.prepare(Voice.from_audio((16_000, clip.copy()), text)) for text in (None, "one.", "one.", "two.")]
    assert [voice.text for voice in told] == ["oh well.", "one.", "one.", "two."] and len(listened) == 1
    assert [voice.heard for voice in told] == [{}] + 3 * [{"nano": "oh well."}]
    for seed in range(CLIPS_REMEMBERED):
        nano.prepare(Voice.from_audio((16_000, buzz(1.0, seed=seed + 20)), "one."))
    assert len(nano._heard) == CLIPS_REMEMBERED and len(listened) == 1 + CLIPS_REMEMBERED
    nano.prepare(Voice.from_audio((16_000, clip), "one."))  # forgotten by now
    assert len(listened) == 2 + CLIPS_REMEMBERED


def test_of_a_long_clip_the_beginning_is_spoken_after_with_the_words_heard_there(nano):
    """nano has read prompts of some seconds: after 11 s it babbles."""
    parts = [Voice.builtin(name) for name in ("joe", "slt", "emma")]
    gap = np.zeros(3200, np.float32)
    wav = np.concatenate([parts[0].wav, gap, parts[1].wav, gap, parts[2].wav])
    assert 6 * 16_000 < len(wav) < 12 * 16_000
    words = " ".join(part.text for part in parts)
    long = nano.prepare(Voice.from_audio((16_000, wav), words, name="all"))
    assert long.text == words and len(long.wav) == pytest.approx(len(wav), abs=3200)  # the clip stays what it is
    prompt = long.codes[nano.codec.name]
    assert len(prompt) < 6 * 50 and long.timbre
    assert nano._spoken_before(long, ["Oh."]) == long.heard["nano"] != words
    assert nano.tts("Oh.", long, seed=1).receipt["voice_codes"] == prompt
    untyped = nano.prepare(Voice.from_audio((16_000, wav), name="all"))
    assert untyped.codes == long.codes and untyped.text == long.heard["nano"] and not untyped.heard
    mute = Llasa(replace(nano.checkpoint, tasks=("tts",)), nano.protocol, nano.engine, nano.codec, nano.sampling)
    whole = mute.prepare(Voice.from_audio((16_000, wav), words))  # who cannot listen cannot tell words apart
    assert not whole.heard and len(whole.codes["nano"]) > 6 * 50


def test_voice_changes_the_speech(nano, speech):
    assert nano.tts(SHORT, seed=7).codes[0].tolist() != speech.codes[0].tolist()


def test_greedy_speech_needs_no_seed(nano):
    greedy = Sampling(temperature=0)
    one, two = (nano.tts("Oh.", seed=s, sampling=greedy) for s in (1, 2))
    assert one.codes[0].tolist() == two.codes[0].tolist()


def test_speech_that_does_not_end_is_stopped_and_says_so(nano):
    """At temperature 2 with every code allowed, END all but never comes."""
    wild = nano.tts("Oh.", seed=1, sampling=Sampling(temperature=2.0, top_p=1.0))
    assert wild.stopped == ["length"] and not wild.complete
    assert wild.seconds < 4


def test_scripts_that_say_more_with_a_character_are_given_more_time(nano):
    few = replace_limit(nano, seconds=8)
    assert [few._limit(text) for text in ("abcde", "äbcdé", "今天天气好", "今天天气好" * 4)] == [150, 150, 250, 400]


def test_speech_that_goes_nowhere_is_stopped(nano):
    """After two seconds of silence, whose codes need not repeat themselves, or one of a loop."""
    patience = nano.engine.patience
    silent, said = (nano.protocol.codes_to_ids(codes) for codes in (nano.codec.silent_codes, range(60)))
    said = [id for id in said if id not in silent]
    quiet = np.random.default_rng(0).choice(sorted(silent), 99).tolist()
    assert patience.ended([*said, *quiet]) is None and patience.ended([*said, *quiet, silent[0]]) == "silence"
    assert patience.ended([*said[:8], *said[8:16] * 7]) is None
    assert patience.ended([*said[:8], *said[8:16] * 8]) == "repetition"


def test_a_thousand_characters_are_cut_and_joined(nano, voice):
    story = " ".join(f"This is sentence number {i}, and it is not long." for i in range(100))[:1000]
    few = replace_limit(nano, seconds=0.4)
    speech = few.tts(story, voice, seed=3)
    pieces = speech.receipt["pieces"]
    assert bare(" ".join(pieces)) == bare(spell_out(story)) and len(pieces) >= 1000 / nano.checkpoint.chunk_chars
    assert all(piece.endswith(".") for piece in pieces)
    assert len(speech.codes) == len(speech.stopped) == len(pieces)
    gaps = (len(pieces) - 1) * int(GAP_SECONDS * 16_000)
    assert len(speech.wav) == 320 * sum(map(len, speech.codes)) + gaps


def replace_limit(llasa, seconds):
    """The same model with a shorter leash: a piece is stopped after `seconds`."""
    checkpoint = replace(llasa.checkpoint, chunk_seconds=seconds)
    return Llasa(checkpoint, llasa.protocol, llasa.engine, llasa.codec, llasa.sampling)


def test_a_full_stop_that_is_missing_changes_nothing(nano):
    """nano has read whole sentences with few marks: without one at its end it went on for seconds. Other checkpoints
    read what is written."""
    with_it, without = (
        nano.tts(text, "emma", seed=3) for text in ("I think the report is late.", "I think the report is late")
    )
    assert with_it.codes[0].tolist() == without.codes[0].tolist()
    assert nano._pieces("“I think – (yes)”\n- late: so late") == ["I think, yes, late, so late."]
    released = Llasa(replace(nano.checkpoint, spell_out=False), nano.protocol, nano.engine, nano.codec, nano.sampling)
    for written in ("I think, then,", "“I think – (yes)” - late: so late"):
        assert released._pieces(written) == [written]


def test_pieces_without_a_voice_go_on_in_the_first_ones(nano):
    """Piece 2 is asked for with piece 1 as its prompt, or every piece would be spoken by someone else."""
    few = replace_limit(nano, seconds=0.6)
    first, second = "This is the first piece of what is to be said here.", "And this is the second piece, just as long."
    speech = few.tts(f"{first} {second}", seed=3)
    assert speech.receipt["pieces"] == [first, second] and speech.receipt["voice"] is None
    alone = few.tts(first, seed=3)
    assert speech.codes[0].tolist() == alone.codes[0].tolist()
    prompt = speech.codes[0].tolist()
    both = nano.codec.decode([*prompt, *speech.codes[1]])
    np.testing.assert_array_equal(speech.wav[-320 * len(speech.codes[1]) :], both[320 * len(prompt) :])


def test_pieces_draw_from_streams_of_their_own(nano, voice):
    """Two equal pieces are not the same sound twice."""
    few = replace_limit(nano, seconds=0.6)
    piece = "This is a sentence that fills a piece of its own."
    first, second = few.tts(f"{piece} {piece}", voice, seed=3).codes
    assert first.tolist() != second.tolist()


def test_texts_side_by_side_are_what_each_is_alone(nano, voice, monkeypatch):
    """More pieces than rows at once, with and without a voice; whatever is beside it, a text says what it says."""
    few, whole, rows = replace_limit(nano, seconds=0.4), nano.engine.start_batch, []
    monkeypatch.setattr(nano.engine, "rows_at_once", 4)
    monkeypatch.setattr(
        nano.engine, "start_batch", lambda some, *a, **k: rows.append(len(some)) or whole(some, *a, **k)
    )
    texts = ["This is the first piece of what is to be said here. " * 9, SHORT, "Oh. No."]
    voices, seeds = [voice, None, "emma"], [3, 4, None]
    began = time.perf_counter()
    together = few.tts_batch(texts, voices, seeds)
    assert max(rows) == 4 < sum(rows)
    assert sum(speech.receipt["seconds_taken"] for speech in together) <= time.perf_counter() - began + 0.01
    for text, asked, speech in zip(texts, voices, together):
        alone = few.tts(text, asked, speech.seed)
        assert [c.tolist() for c in speech.codes] == [c.tolist() for c in alone.codes]
        np.testing.assert_array_equal(speech.wav, alone.wav)
        assert {k: v for k, v in speech.receipt.items() if k != "seconds_taken"} == {
            k: v for k, v in alone.receipt.items() if k != "seconds_taken"
        }
    assert few.tts_batch([]) == []
    with pytest.raises(ValueError, match="2 texts need as many voices and seeds, not 1 and 2"):
        few.tts_batch(["Oh.", "No."], [voice])


def test_five_thousand_characters_and_emoji_are_spoken(nano):
    few = replace_limit(nano, seconds=0.1)
    text = ("Well 🎈🎉, that is how it goes, isn't it? " * 130)[:5000]
    speech = few.tts(text, seed=0)
    assert bare(" ".join(speech.receipt["pieces"])) == bare(text)
    assert len(speech.codes) == len(speech.receipt["pieces"]) > 62


def test_pieces_that_say_nothing_are_left_out(nano):
    few = replace_limit(nano, seconds=0.1)
    speech = few.tts("Hello there, my friend. " + "- " * 80 + "Good bye.", seed=0)
    assert all(any(c.isalnum() for c in piece) for piece in speech.receipt["pieces"])


# -- streaming -------------------------------------------------------------------------------------------------------


def test_streamed_codes_equal_whole_codes(nano, voice, speech):
    waves, told = streamed(nano.stream(SHORT, voice, seed=7))
    assert [c.tolist() for c in told.codes] == [c.tolist() for c in speech.codes]
    assert told.stopped == speech.stopped
    joined = np.concatenate(waves)
    np.testing.assert_array_equal(joined, told.wav)
    assert joined.shape == speech.wav.shape
    after_voice = nano.codec.decode_stream(told.codes[0], voice.codes["nano"], voice.timbre["nano"])
    np.testing.assert_allclose(joined, np.concatenate(list(after_voice)), atol=1e-5)  # the voice is its context


def test_a_stream_of_pieces_is_what_it_returns(nano, voice):
    few = replace_limit(nano, seconds=0.8)
    text = "This is the first piece of what is to be said here. And this is the second piece, just as long."
    waves, told = streamed(few.stream(text, voice, seed=3))
    whole = few.tts(text, voice, seed=3)
    assert len(told.codes) == 2 and [c.tolist() for c in told.codes] == [c.tolist() for c in whole.codes]
    np.testing.assert_array_equal(np.concatenate(waves), told.wav)
    assert told.wav.shape == whole.wav.shape


def test_a_stream_begins_before_it_is_finished(nano):
    generator = nano.stream("This is a sentence that takes some time.", seed=1, sampling=Sampling(2.0, 1.0))
    first = next(generator)
    assert len(first) == CHUNK_CODES * 320
    generator.close()  # and may be left at any time


# -- continuing, transcribing ----------------------------------------------------------------------------------------


def test_continuation_is_speech_in_the_clips_voice(nano):
    clip = (16_000, buzz(1.5))
    said = nano.continue_speech(clip, SHORT, transcript="hello there.", seed=7)
    voice = nano.prepare(Voice.from_audio(clip, "hello there.", name="clip"))
    np.testing.assert_array_equal(said.wav, nano.tts(SHORT, voice, seed=7).wav)
    assert said.receipt["task"] == "continue" and said.receipt["voice_codes"] == voice.codes[nano.codec.name]


def test_transcription_of_a_wave_a_file_and_a_voice_agree(nano, tmp_path):
    from llasa_lite import audio

    path = audio.save(buzz(1.5), tmp_path / "clip.flac")
    wav = audio.load(path)  # 16 bit, as the file has it
    heard = nano.transcribe((16_000, wav))
    assert isinstance(heard, Transcript) and 0 <= heard.probability <= 1
    assert heard.text == heard.text.strip()
    assert heard.seconds == pytest.approx(1.5, abs=0.2)
    assert nano.transcribe(wav).text == heard.text == nano.transcribe(str(path)).text
    assert nano.transcribe(Voice.from_audio((16_000, wav))).text == heard.text


def test_a_long_silence_in_a_clip_is_not_heard_as_words(nano):
    wav = buzz(1.5)
    gap = np.random.default_rng(0).normal(0, 1e-4, 20 * 16_000).astype(np.float32)
    short, long = (np.concatenate([wav, gap[: int(s * 16_000)], wav]) for s in (0.6, 20))
    first, second = (nano.transcribe((16_000, clip)) for clip in (short, long))
    assert len(second.text) < 1.5 * len(first.text) + 10
    assert second.seconds == pytest.approx(23, abs=0.3)  # of the clip as it was given


def test_a_click_is_not_transcribed(nano):
    with pytest.raises(ValueError, match="holds 6 ms of sound, too little for a word"):
        nano.transcribe((16_000, buzz(1.5)[:100]))


def test_speech_can_be_read_back(nano, speech):
    heard = nano.transcribe(speech)
    assert "<|" not in heard.text and heard.seconds <= speech.seconds + 1e-3


def test_a_transcript_tells_how_sure_it_is_of_each_word(nano, speech):
    heard = nano.transcribe(speech)
    assert [word for word, _ in heard.words] == heard.text.split()
    assert all(0 < sure <= 1 for _, sure in heard.words)
    # a word is as likely as its letters; a space alone counts for neither
    ids, logs = nano.protocol.text_to_ids("one two."), [-1.0, -1.0, -1.0, -7.0, -2.0, -2.0, -2.0, -2.0]
    words = recognition.sure_words(nano.protocol, ids, logs)
    assert words == [("one", pytest.approx(np.exp(-1))), ("two.", pytest.approx(np.exp(-2)))]


def test_a_transcript_that_was_cut_off_says_so(nano, monkeypatch):
    monkeypatch.setattr(recognition, "MAX_IDS", 3)
    heard = nano.transcribe(Voice.builtin("adam"))
    assert not heard.complete and 0 < len(heard.text) <= 3


def test_a_character_of_several_ids_is_as_sure_as_all_of_them(llama_3):
    ids = llama_3.text_to_ids("龘 one 갉.")
    assert len(ids) == 6  # two each, and the full stop
    words = recognition.sure_words(llama_3, ids, [-1.0, -5.0, -2.0, -3.0, -4.0, -8.0])
    assert words == [(word, pytest.approx(np.exp(log))) for word, log in (("龘", -3), ("one", -2), ("갉.", -5))]


def test_a_checkpoint_that_was_not_taught_refuses_to_transcribe(nano):
    mute = Llasa(replace(nano.checkpoint, tasks=("tts",)), nano.protocol, nano.engine, nano.codec, nano.sampling)
    with pytest.raises(ValueError, match="trained to speak, not to transcribe; type what is said.*'nano', which can"):
        mute.transcribe((16_000, buzz(1)))
    with pytest.raises(ValueError, match="Type what is said in the clip"):
        mute.tts(SHORT, Voice.from_audio((16_000, buzz(1))))
    with pytest.raises(ValueError, match="Type what is said in the clip"):
        mute.continue_speech((16_000, buzz(1)), SHORT)
    assert mute.tts("Oh.", Voice.from_audio((16_000, buzz(1)), "hello."), seed=1).seconds > 0


def test_a_voice_without_transcript_is_read_by_the_model(nano, monkeypatch):
    monkeypatch.setattr(nano, "_heard", {})
    monkeypatch.setattr(nano, "transcribe", lambda clip: Transcript("well heard.", 1.0, 1.0, True))
    assert nano.prepare(Voice.from_audio((16_000, buzz(1)))).text == "well heard."
    monkeypatch.setattr(nano, "transcribe", lambda clip: Transcript("", 1.0, 1.0, True))
    with pytest.raises(ValueError, match="No words were recognised"):
        nano.prepare(Voice.from_audio((16_000, buzz(1, seed=1))))


# -- receipts --------------------------------------------------------------------------------------------------------


def test_a_receipt_makes_the_same_speech_again(speech, tmp_path):
    path = speech.save(tmp_path / "yes.wav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["yes.receipt.json", "yes.wav"]
    again = Llasa.replay(json.loads(path.with_suffix(".receipt.json").read_text()) | {"task": "continue"})
    assert again.receipt["task"] == "continue"
    assert again.codes[0].tolist() == speech.codes[0].tolist()
    np.testing.assert_allclose(again.wav, speech.wav, atol=1e-5)


def test_weights_trained_anew_where_they_lie_are_told_from_those_before(tmp_path):
    from llasa_lite.checkpoints import fingerprint

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"before")
    before = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == before
    file.write_bytes(b"after it")
    assert fingerprint(str(tmp_path)) != before


def test_a_receipt_of_other_weights_is_not_replayed_as_something_else(speech):
    told = speech.receipt["weights"]
    assert len(told["model"]) == len(told["codec"]) == 12 and told["model"] != told["codec"]
    with pytest.raises(ValueError, match=r"other weights of the model 'nano' \(0123\) than those here"):
        Llasa.replay(speech.receipt | {"weights": told | {"model": "0123"}})
    older = {k: v for k, v in speech.receipt.items() if k != "weights"}  # of a version that did not tell
    np.testing.assert_array_equal(Llasa.replay(older).wav, speech.wav)
    with pytest.raises(ValueError, match="'weights' is missing or wrong"):
        Llasa.replay(speech.receipt | {"weights": ["0123"]})


def test_a_receipt_tells_what_was_used(nano, speech, voice):
    receipt = json.loads(json.dumps(speech.receipt))
    assert receipt["model"] == receipt["codec"] == "nano" and receipt["licence"] == nano.checkpoint.licence
    assert receipt["text"] == SHORT and receipt["seed"] == 7
    assert receipt["voice_codes"] == voice.codes["nano"] and receipt["voice_text"] == voice.text
    assert Sampling(**receipt["sampling"]) == nano.sampling
    assert set(receipt["versions"]) == {"llasa_lite", "torch", "transformers"}


@pytest.mark.parametrize("wrong", [{}, {"text": "hello"}, [], {"sampling": {"heat": 3}}], ids=str)
def test_what_is_no_receipt_gives_its_sentence(wrong):
    with pytest.raises(ValueError, match="This is not a receipt"):
        Llasa.replay(wrong)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "There is no text to speak"),
        ("  \n ", "There is no text to speak"),
        (None, "There is no text to speak"),
        ("🎈🎉", "There is nothing to say in this text: it holds no letters or digits"),
        ("?!...", "There is nothing to say"),
        ("a" * (MAX_TEXT_CHARS + 1), "The text has 20,001 characters; at most 20,000"),
        ("hello <|SPEECH_GENERATION_END|>", "which the model reads as a command"),
        ("hello <|s_12|> there", "which the model reads as a command"),  # also where digits are put into words
        ("caf\udce9", "The text holds a broken character"),
        ("今天天气很好。", "'nano' cannot read '今天天气很好。': its languages are en."),
        ("Чай is tea.", "'nano' cannot read 'Чай is tea.'"),
    ],
    ids=["empty", "blank", "none", "emoji", "punctuation", "long", "marker", "code", "surrogate", "chinese", "much"],
)
def test_text_that_cannot_be_spoken_gives_its_sentence(nano, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        nano.tts(text, seed=1)


def test_a_third_of_the_letters_may_be_unknown(nano):
    assert nano._pieces("Чай is a tea.") == ["Чай is a tea."]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", True])
def test_a_seed_that_is_none_gives_its_sentence(nano, seed):
    with pytest.raises(ValueError, match="A seed is a whole number"):
        nano.tts(SHORT, seed=seed)


def test_numbers_may_be_numpys(nano):
    sampling = Sampling(temperature=np.float32(0.5), top_k=np.int64(40))
    speech = nano.tts(SHORT, seed=np.int64(7), sampling=sampling)
    assert json.dumps(speech.receipt) and speech.receipt["seed"] == 7 and speech.receipt["sampling"]["top_k"] == 40


@pytest.mark.parametrize(
    "transcript, sentence",
    [
        ("...", "The transcript of 'me' holds no words. Type what is said in the clip."),
        ("🎈", "The transcript of 'me' holds no words."),
        ("你好，我叫艾玛。", "'nano' cannot read the transcript of 'me', '你好，我叫艾玛。': its languages are en."),
    ],
)
def test_a_transcript_that_cannot_be_read_gives_its_sentence(nano, transcript, sentence):
    """Or the words of the clip would be spoken into the answer."""
    with pytest.raises(ValueError, match=sentence):
        nano.tts(SHORT, Voice.from_audio((16_000, buzz(1)), transcript, "me"), seed=1)


def test_what_is_no_voice_and_no_batch_gives_its_sentence(nano, tmp_path):
    with pytest.raises(ValueError, match="A voice is a built-in name or a `Voice`: Voice.from_audio makes one"):
        nano.tts(SHORT, tmp_path / "me.wav")
    for asked in ((SHORT,), ([SHORT, SHORT], None, 7)):
        with pytest.raises(ValueError, match="A batch takes a list of texts and a list of seeds"):
            nano.tts_batch(*asked)


def test_a_voice_that_fills_the_context_gives_its_sentence(nano):
    codes = {"nano": [1] * (nano.engine.max_ids - 20)}
    with pytest.raises(ValueError, match="leaves no room for an answer. Use a shorter voice clip or text"):
        nano.tts(SHORT, Voice("long", "hello.", codes=codes))


def test_a_voice_that_leaves_no_room_for_this_text_gives_its_sentence(nano):
    """Or the text would be broken off in the middle, whatever the seed."""
    voice = Voice("long", "hello.", codes={"nano": [1] * (nano.engine.max_ids - 120)})
    assert nano.tts("Oh.", voice, seed=1).seconds > 0
    with pytest.raises(ValueError, match="clip of 'long' leaves .* too little to say 'A whole sentence.*shorter clip"):
        nano.tts("A whole sentence of some length needs more.", voice, seed=1)


def test_what_cannot_be_said_is_refused_before_anything_is_spoken(nano, monkeypatch):
    voice = Voice("long", "hello.", codes={"nano": [1] * (nano.engine.max_ids - 120)})
    long = "A whole sentence of some length needs more."
    monkeypatch.setattr(nano.engine, "start_batch", None)
    with pytest.raises(ValueError, match="too little to say"):
        nano.tts_batch([*["Oh."] * ROWS_AT_ONCE, long], voice, range(ROWS_AT_ONCE + 1))
    monkeypatch.setattr(nano, "_pieces", lambda text: ["oh.", long])
    with pytest.raises(ValueError, match="too little to say"):
        nano.search_events("Oh.", voice, n=1, outcome="likelihood")
    with pytest.raises(ValueError, match="too little to say"):
        next(nano.stream("Oh.", voice))
    full = Voice("full", "hello.", codes={"nano": [1] * (nano.engine.max_ids - 50)})  # no room at all for the last
    with pytest.raises(ValueError, match="leaves no room for an answer"):
        nano.tts("Oh.", full)


def test_the_longest_voice_leaves_room_for_an_answer(nano):
    voice = Voice.from_audio((16_000, buzz(14.9)), "a few words, said slowly, again and again.")
    assert nano.tts("Oh.", voice, seed=1).seconds > 0


def test_the_context_is_what_was_trained_not_what_the_config_promises(nano, tiny_llama, tmp_path):
    """Released configs promise Llama's 131,072 ids; they were trained on 2,048."""
    lm = tiny_llama(nano.engine.model.config.vocab_size, max_position_embeddings=131_072)
    lm.config.llasa = {"codec": "nano"}
    lm.save_pretrained(tmp_path / "long")
    nano.protocol.tokenizer.save_pretrained(tmp_path / "long")
    llasa = Llasa.from_pretrained(tmp_path / "long", device="cpu", dtype="float32")
    assert llasa.engine.max_ids == 2048
    speech = llasa.tts(SHORT, Voice("long", "hello.", codes={"nano": [1] * 1990}), seed=1)
    assert 0 < len(speech.codes[0]) < 2048 - 1990


def test_unknown_voice_gives_its_sentence(nano):
    with pytest.raises(ValueError, match="Unknown voice 'nobody'"):
        nano.tts(SHORT, "nobody")


def test_a_speaker_by_name_is_for_checkpoints_that_know_some(nano, monkeypatch):
    with pytest.raises(ValueError, match="Unknown speaker 'kore'. 'nano' knows none by name: give a voice."):
        nano.tts(SHORT, speaker="kore")
    known = CHECKPOINTS["llasa-1b-kore-puck"].speakers
    monkeypatch.setattr(nano, "checkpoint", replace(nano.checkpoint, speakers=known))
    with pytest.raises(ValueError, match="Unknown speaker 'korr'. 'nano' knows these by name: kore, puck."):
        nano.search("Oh.", speaker="korr")
    assert nano.tts("Oh.", seed=1, speaker="kore").receipt["speaker"] == "kore"
    assert CHECKPOINTS["llasa-1b-genshin"].speakers is None is find("somebody/finetuned").speakers
    monkeypatch.setattr(nano, "checkpoint", replace(nano.checkpoint, speakers=None))
    assert nano.tts("Oh.", seed=1, speaker="Somebody").receipt["speaker"] == "Somebody"


def test_unknown_model_names_those_there_are():
    with pytest.raises(ValueError, match="Unknown model 'lasa'. Choose from: nano, llasa-1b, .*or a folder"):
        Llasa.from_pretrained("lasa")


@pytest.mark.parametrize("device, sentence", [("tpu", "Unknown device 'tpu'. Choose from: cuda, mps, cpu")])
def test_unknown_device_gives_its_sentence(device, sentence):
    with pytest.raises(ValueError, match=sentence):
        Llasa.from_pretrained(device=device)


def test_a_device_that_is_not_here_gives_its_sentence():
    import torch

    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"There is no '{missing}' on this machine. Use the CPU: device='cpu'"):
        Llasa.from_pretrained(device=missing)


def test_a_gpu_beyond_those_there_are_gives_its_sentence(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == "cuda:1" and pick_device("cuda") == "cuda"
    for device in ("cuda:2", "cuda:x"):
        with pytest.raises(ValueError, match=f"There is no '{device}' on this machine"):
            pick_device(device)


def test_unknown_dtype_gives_its_sentence():
    with pytest.raises(ValueError, match="Unknown dtype 'int3'. Choose from: float32, float16, bfloat16"):
        Llasa.from_pretrained(device="cpu", dtype="int3")


def test_device_and_dtype_are_chosen_alone_and_can_be_named():
    import torch

    assert pick_device("cpu") == "cpu" and pick_device() in ("cuda", "mps", "cpu")
    assert pick_dtype("cpu", small=True) == torch.float32 and pick_dtype("mps") == torch.float16
    assert pick_dtype("cpu", "torch.bfloat16") == pick_dtype("cpu", "bfloat16") == torch.bfloat16


def test_an_unreachable_hub_gives_one_sentence_that_mentions_nano():
    for name in ("somebody/no-such-llasa", "llasa-1b-genshin"):
        with pytest.raises(
            NotReachable, match=r"Cannot load '.*': it is not in the local cache .* say 'nano'\."
        ) as error:
            Llasa.from_pretrained(name)
        assert "\n" not in str(error.value)


def test_a_codec_that_cannot_be_reached_gives_its_sentence():
    with pytest.raises(NotReachable, match="Cannot load 'somebody/no-such-codec'"):
        Llasa.from_pretrained(codec="somebody/no-such-codec")


def test_a_gated_checkpoint_says_where_access_is_asked_for(monkeypatch):
    """The hub tells anybody about a gated repository, and refuses its files: Transformers then raises an OSError."""
    from huggingface_hub.errors import GatedRepoError
    from transformers import AutoConfig

    def refuse(*_, **__):
        answer = httpx.Response(403, request=httpx.Request("HEAD", "https://huggingface.co"))
        raise OSError("You are trying to access a gated repo.") from GatedRepoError("restricted", response=answer)

    httpx = pytest.importorskip("httpx", reason="pip install httpx")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(NotReachable, match="ask for access there, and log in"):
        Llasa.from_pretrained("somebody/gated-llasa")


@pytest.mark.parametrize("raised", ["OutOfMemoryError", "RuntimeError"])  # CUDA's, and that of a Mac's GPU
def test_a_model_that_does_not_fit_gives_its_sentence(monkeypatch, raised):
    """And not that its files are broken."""
    import torch

    def to(self, device):
        if device == "cuda":
            raise getattr(torch, raised, RuntimeError)("The backend is out of memory.")
        return self

    monkeypatch.setattr(torch.nn.Module, "to", to)
    for load in (
        lambda: load_lm(find(None), "cuda", torch.float32),
        lambda: load_codec("nano", "cuda", torch.float32),
        verifier("speaker", Own("cuda")).load,
    ):
        with pytest.raises(ValueError, match="'nano' does not fit into the memory of 'cuda': its weights alone take 0"):
            load()


def test_a_folder_without_a_checkpoint_gives_one_sentence(tmp_path):
    with pytest.raises(ValueError) as error:
        Llasa.from_pretrained(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_codec_and_language_model_must_belong_together(nano):
    from llasa_lite.codec import Codec
    from llasa_lite.codec_training import new_codec, small_codec_config

    config = small_codec_config()
    config.quantization_levels = [4] * 5
    with pytest.raises(ValueError, match="1024 codes, the language model 'nano' 4096: they do not belong together"):
        Llasa(nano.checkpoint, nano.protocol, nano.engine, Codec(new_codec(config), "five digits"), nano.sampling)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_every_name_is_found_by_name_and_by_hub_id():
    for name, checkpoint in CHECKPOINTS.items():
        assert find(name) is find(name.upper()) is find(checkpoint.source) is checkpoint
        assert name == "nano" or checkpoint.licence == "CC BY-NC 4.0" and not checkpoint.can_transcribe
    assert find(None).name == "nano"
    assert find("HKUST-Audio/Llasa-8B") is CHECKPOINTS["llasa-8b"]  # as the authors' first links have it


def test_a_community_finetune_is_taken_for_the_released_kind():
    checkpoint = find("someone/llasa-finetune")
    assert checkpoint.source == "someone/llasa-finetune" and checkpoint.codec == CHECKPOINTS["llasa-1b"].codec
    assert not checkpoint.can_transcribe and checkpoint.licence == "see its model card"


def test_a_checkpoint_in_a_folder_speaks(nano, tiny_llama, tmp_path):
    """A Llama of another shape, saved as anyone would save it; its config says which codec it belongs to."""
    lm = tiny_llama(nano.engine.model.config.vocab_size, max_position_embeddings=512)
    lm.config.llasa = {"codec": "nano", "tasks": ["tts"], "licence": "mine", "chunk_chars": 40, "chunk_seconds": 1.0}
    lm.save_pretrained(tmp_path / "mine")
    nano.protocol.tokenizer.save_pretrained(tmp_path / "mine")
    mine = Llasa.from_pretrained(tmp_path / "mine", device="cpu", dtype="float32")
    assert (mine.checkpoint.licence, mine.checkpoint.chunk_chars, mine.codec.name) == ("mine", 40, "nano")
    speech = mine.tts(SHORT, seed=1)
    assert 0 < speech.seconds <= 1.0
    assert Llasa.replay(speech.receipt).codes[0].tolist() == speech.codes[0].tolist()
    with pytest.raises(ValueError, match="trained to speak, not to transcribe"):
        mine.transcribe((16_000, buzz(1)))


def test_a_folder_is_not_taken_for_a_known_checkpoint_of_its_name(tmp_path, monkeypatch):
    """A receipt would name that one."""
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text('{"llasa": {"codec": "nano"}}')
    assert find(tmp_path / "nano").name == find(tmp_path / "nano").source == str(tmp_path / "nano")
    (tmp_path / "nano").rename(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert find(".").name == find("../mine").name == "mine"


def test_a_codec_in_a_folder_is_used(nano):
    other = Llasa.from_pretrained(codec=str(NANO / "codec"), device="cpu", dtype="float32")
    wav = buzz(1)
    assert (other.codec.encode(wav) == nano.codec.encode(wav)).all()


@pytest.mark.parametrize("part", ["lm", "codec"])
def test_weights_that_are_no_safetensors_are_refused(part, tmp_path):
    """A pickle may hold code."""
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(NANO / part, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors*"))
    shards = (NANO / part).glob("*.safetensors")
    torch.save({name: t for shard in shards for name, t in load_file(shard).items()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Cannot load .*pickled"):
        Llasa.from_pretrained(str(folder)) if part == "lm" else Llasa.from_pretrained(codec=str(folder))


# -- the trained nano ------------------------------------------------------------------------------------------------


@pytest.mark.trained
def test_speech_of_a_builtin_voice_ends_by_itself(nano):
    if not builtin_voices():
        pytest.skip("no voices are built in yet")
    name = next(iter(builtin_voices()))
    ends = [nano.tts("The birch canoe slid on the smooth planks.", name, seed=seed) for seed in range(4)]
    assert sum(speech.complete for speech in ends) >= 3
    assert all(1.0 < speech.seconds < 7.0 for speech in ends if speech.complete)


@pytest.mark.trained
def test_whisper_hears_what_nano_said(nano):
    """A floor, not a figure: most words of eight sentences are heard."""
    if not WHISPER.is_dir():
        pytest.skip(f"no Whisper weights in '{WHISPER}': name their folder in the variable WHISPER")
    if not builtin_voices():
        pytest.skip("no voices are built in yet")
    from llasa_lite.evaluation import Judge
    from llasa_lite.text import error_rate

    judge = Judge(str(WHISPER))
    sentences = [
        "The house stands on a hill near the river.",
        "She opened the window and looked at the garden.",
        "We will meet again in the morning.",
        "He put the old books back on the shelf.",
        "It was a cold night, and the road was dark.",
        "Please tell me what you think about it.",
        "They walked along the beach for an hour.",
        "My brother has a small farm in the south.",
    ]
    errors = []
    for index, sentence in enumerate(sentences):
        speech = nano.tts(sentence, "joe", seed=index)
        errors.append(min(1.0, error_rate(sentence, judge(speech.wav))))
    assert np.mean(errors) < 0.6, errors


@pytest.mark.trained
def test_nano_hears_what_is_said(nano):
    """In three clips that are longer together than what it listens to at once."""
    spoken, pause = [Voice.builtin(name) for name in ("adam", "alice", "george")], np.zeros(4800, np.float32)
    wav = np.concatenate([part for voice in spoken for part in (voice.wav, pause)])
    assert len(wav) > 16_000 * nano._seconds_heard
    heard = nano.transcribe(wav)
    wrong, words = edits(" ".join(voice.text for voice in spoken), heard.text)
    assert words == 24 and wrong <= 6
    assert [word for word, _ in heard.words] == heard.text.split() and heard.complete and heard.probability > 0.5


def test_nano_reads_numbers_in_words(nano):
    speech = nano.tts("Room 12 is free.", "joe", seed=1)
    assert speech.receipt["text"] == "Room 12 is free." and speech.receipt["pieces"] == ["Room twelve is free."]
