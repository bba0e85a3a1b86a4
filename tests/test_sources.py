"""Laws of corpora of others: what is read is what was written, what cannot be used is dropped and counted."""

import json
import re
import zipfile

import numpy as np
import pytest
import soundfile
from conftest import buzz

from llasa_lite import audio
from llasa_lite.cli import main
from llasa_lite.data import Utterance, encode_corpus, read_tokens, write_tokens
from llasa_lite.sources import Memmap, read_clips, read_hub_clips, read_recordings, read_utterances, write_memmap
from llasa_lite.tokens import TEXT_UNDERSTANDING_END, Protocol, character_tokenizer


@pytest.fixture(scope="module")
def protocol():
    return Protocol(character_tokenizer(4096))


def said(text, count, seed=0, split="train"):
    return Utterance(text, "s", split, np.random.default_rng(seed).integers(4096, size=count).astype(np.uint16))


def same(a, b):
    return [(u.text, u.codes.tolist()) for u in a] == [(u.text, u.codes.tolist()) for u in b]


def test_memmap_rows_survive_the_round_trip(protocol, tmp_path):
    made = [said("oh yes.", 40), said("it is.", 7, 1), said("far too long", 90, 2)]
    assert write_memmap(made, tmp_path, "train", protocol, width=64) == (2, 1)
    back = read_utterances(tmp_path, protocol)
    assert same(back, made[:2]) and back.dropped == 0 and len(read_utterances(tmp_path, protocol, "test")) == 0
    assert back.id_counts.tolist() == [len(protocol.text_to_ids(u.text)) + len(u.codes) for u in made[:2]]


def test_memmap_rows_are_the_authors(llama_3, tmp_path):
    """int32 of 2048: TEXT_UNDERSTANDING_START text END SPEECH_GENERATION_START codes+128264 END, padded with eot."""
    write_memmap(
        [Utterance("Hello, Ångström!", "s", "train", np.array([0, 65_535], np.uint16))], tmp_path, "val", llama_3
    )
    assert np.load(tmp_path / "val_input_ids_shape.npy").tolist() == [1, 2048]
    row = np.fromfile(tmp_path / "val_input_ids.memmap", np.int32)
    text = llama_3.tokenizer.encode("Hello, Ångström!", add_special_tokens=False)
    wanted = [128_258, *text, 128_259, 128_260, 128_264, 193_799, 128_261]
    assert row.tolist() == wanted + [128_009] * (2048 - len(wanted))
    (back,) = read_utterances(tmp_path, llama_3, "test")
    assert back.text == "Hello, Ångström!" and back.codes.tolist() == [0, 65_535] and back.split == "test"


def test_rows_that_lost_their_end_are_dropped_and_counted(protocol, tmp_path):
    write_memmap([said("oh yes.", 40), said("it is.", 7, 1)], tmp_path, "train", protocol, width=64)
    rows = np.memmap(tmp_path / "train_input_ids.memmap", np.int32, "r+", shape=(2, 64))
    rows[0, 45:] = protocol.code_offset  # cut at the width, as the authors' rows are
    rows.flush()
    back = Memmap(tmp_path, "train", protocol)
    assert (len(back), back.dropped, back[0].text) == (1, 1, "it is.")
    np.save(tmp_path / "train_input_ids_shape.npy", np.array([3, 64]))
    with pytest.raises(ValueError, match="its shape"):
        Memmap(tmp_path, "train", protocol)


def test_an_empty_split_has_no_rows_and_a_row_without_text_is_dropped(protocol, tmp_path):
    assert write_memmap([], tmp_path, "val", protocol, width=64) == (0, 0)
    assert len(read_utterances(tmp_path, protocol, "test")) == 0
    blank = [said(" ", 9), said("oh yes.", 40)]
    assert write_memmap(blank, tmp_path, "train", protocol, width=64) == (1, 1)
    rows = np.memmap(tmp_path / "train_input_ids.memmap", np.int32, "r+", shape=(1, 64))
    rows[0, 1:-7] = rows[0, 8:].copy()  # as others may have written it: no text
    rows.flush()
    back = Memmap(tmp_path, "train", protocol)
    assert (len(back), back.dropped) == (0, 1)


def test_rows_that_cannot_be_read_to_their_end_leave_no_file(protocol, tmp_path):
    def torn():
        yield said("oh yes.", 9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_memmap(torn(), tmp_path, "train", protocol, width=64)
    assert list(tmp_path.iterdir()) == []


def test_a_text_with_a_token_of_the_protocol_makes_no_row(protocol, tmp_path):
    """It would come back cut off there, with all of its codes."""
    made = [said(f"oh {TEXT_UNDERSTANDING_END} yes.", 9), said("oh yes.", 9)]
    assert write_memmap(made, tmp_path, "train", protocol, width=64) == (1, 1)
    assert [back.text for back in Memmap(tmp_path, "train", protocol)] == ["oh yes."]


def test_a_row_without_codes_is_dropped(protocol, tmp_path):
    """It would teach to end at once."""
    assert write_memmap([said("oh yes.", 0), said("oh yes.", 9)], tmp_path, "train", protocol, width=64) == (1, 1)
    rows = np.memmap(tmp_path / "train_input_ids.memmap", np.int32, "r+", shape=(1, 64))
    end = rows[0].tolist().index(protocol.speech_end)
    rows[0, end - 9] = protocol.speech_end  # as others may have written it
    rows.flush()
    back = Memmap(tmp_path, "train", protocol)
    assert (len(back), back.dropped) == (0, 1)


def test_single_files_of_codes_are_read(protocol, tmp_path, caplog):
    (tmp_path / "metadata.csv").write_text("a|oh yes.|x\nb|it is.|y\n")
    np.save(tmp_path / "a.wav.npy", np.arange(5)[None])
    (back,) = read_utterances(tmp_path, protocol)
    assert back.text == "oh yes." and back.codes.tolist() == [0, 1, 2, 3, 4] and "1 of 2" in caplog.text
    (tmp_path / "metadata.csv").write_text("a\n")
    with pytest.raises(ValueError, match="line 1, is not of the form"):
        read_utterances(tmp_path, protocol)
    with pytest.raises(ValueError, match="holds no codes"):
        read_utterances(tmp_path / "nothing", protocol)


def test_lj_speech_and_librispeech_are_corpora(tmp_path, monkeypatch):
    (tmp_path / "LJ" / "wavs").mkdir(parents=True)
    audio.save(buzz(1), tmp_path / "LJ" / "wavs" / "LJ1.wav")
    (tmp_path / "LJ" / "metadata.csv").write_text("LJ1|Dr. 5.|Doctor five.\n")
    (clip,) = read_clips(tmp_path / "LJ")
    assert (clip.id, clip.text, clip.split, clip.seconds) == ("LJ1", "Doctor five.", "train", 1.0)
    folder = tmp_path / "LibriSpeech" / "test-clean" / "61" / "70968"
    folder.mkdir(parents=True)
    audio.save(buzz(1), folder / "61-70968-0000.flac")
    (folder / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\r\n\n")
    (clip,) = read_clips(tmp_path / "LibriSpeech")
    assert (clip.text, clip.speaker, clip.split) == ("he began a confused complaint", "61", "test")
    assert len(clip.load()) == 16_000
    monkeypatch.chdir(tmp_path / "LibriSpeech" / "test-clean")
    assert [one.split for one in read_clips(".")] == ["test"]
    monkeypatch.chdir(tmp_path / "LJ" / "wavs")
    assert [one.speaker for one in read_clips("..")] == ["LJ"]
    (folder / "61-70968-0000.flac").unlink()
    with pytest.raises(ValueError, match="There is no file '.*61-70968-0000.flac' to read the clip 61-70968-0000 from"):
        read_clips(tmp_path / "LibriSpeech")
    with pytest.raises(ValueError, match="holds no corpus"):
        read_clips(tmp_path / "LJ" / "wavs")


@pytest.mark.parametrize(
    "told, wanted",
    [
        (b"\xef\xbb\xbfa|oh yes.\r\nb|it is.\r\n", ["oh yes.", "it is."]),  # as editors on Windows write
        (b"a | oh yes.\nb | it\xe2\x80\xa8is.\n", ["oh yes.", "it\u2028is."]),
        (b'a|"oh yes."\nb|a half-open " quote\n', ['"oh yes."', 'a half-open " quote']),  # as LJ Speech means them
        (b"a|oh yes.\nb|\n", "line 2, is not of the form id|text"),
        (b"a,oh yes.\n", "line 1, is not of the form id|text"),
        (b"a.wav|oh yes.\nwavs/b.wav|it is.\n", ["oh yes.", "it is."]),
        (b"c|oh yes.\n", "wavs/c.wav' to read the clip c from."),
        (
            b'file_name,who,transcription\na.wav,me,"oh, ""yes"".\nOh."\n\nb.wav,me,it is.\n',
            ['oh, "yes".\nOh.', "it is."],
        ),
        (b"transcription,file_name\noh yes.,a.wav\n,b.wav\n", "line 3, is not of the form file_name,transcription"),
        ("a|oh yes.\n".encode("utf-16"), "is not UTF-8"),
        (b"a|caf\xe9.\n", "is not UTF-8"),
        (b"\n", "is empty: it needs lines of the form id|text"),
    ],
)
def test_a_list_of_ones_own_clips_is_read_as_it_was_meant(tmp_path, told, wanted):
    (tmp_path / "wavs").mkdir()
    for name in "ab":
        audio.save(buzz(0.5), tmp_path / "wavs" / f"{name}.wav")
    (tmp_path / "metadata.csv").write_bytes(told)
    if isinstance(wanted, list):
        assert [clip.text for clip in read_clips(tmp_path)] == wanted
    else:
        with pytest.raises(ValueError, match=re.escape(wanted)):
            read_clips(tmp_path)


def test_ones_own_clips_may_be_of_any_format_and_a_few_of_them_broken(codec, tmp_path, caplog, capsys):
    """One broken file among ten thousand had ended it, and so would have the next."""
    (tmp_path / "wavs").mkdir()
    names = ("a.wav", "wavs/b, é.mp3", "wavs/c.flac", "wavs/d.OGG", "broken.wav")
    for name, rate in zip(names, (8000, 44_100, 48_000, 24_000, 16_000)):
        soundfile.write(tmp_path / name, np.stack([buzz(1, rate)] * 2, 1), rate, format=name.split(".")[-1].upper())
    piped = bytearray((tmp_path / "wavs/c.flac").read_bytes())  # whose header does not know how long it is
    piped[21] &= 0xF0
    piped[22:26] = bytes(4)
    (tmp_path / "wavs/c.flac").write_bytes(piped)
    (tmp_path / "broken.wav").write_text("not audio")
    (tmp_path / "metadata.csv").write_text("a|A.\nb, é|B.\nc|C.\nd|D.\nbroken|E.\nmissing|F.\n", encoding="utf-8")
    clips = read_clips(tmp_path)
    assert [round(clip.seconds, 1) for clip in clips] == [1, 1, 1, 1, 0, 0]
    assert [clip.path.name for clip in clips[:4]] == ["a.wav", "b, é.mp3", "c.flac", "d.OGG"]
    assert [u.text for u in read_tokens(encode_corpus(clips, codec, tmp_path / "t.safetensors"))] == [
        "A.",
        "B.",
        "C.",
        "D.",
    ]
    assert "Clip broken is left out" in caplog.text and "Clip missing is left out" in caplog.text
    assert read_recordings(tmp_path) == clips[:4] and "2 of 6 recordings cannot be read" in caplog.text
    folder = tmp_path / "test-clean" / "1"
    folder.mkdir(parents=True)
    (folder / "1.trans.txt").write_text("1-1 OH YES\n1-2 IT IS\n")
    audio.save(buzz(4), folder / "1-1.flac"), (folder / "1-2.flac").write_text("not audio")
    for task in ("asr", "continuation"):  # its rows would be those of other items
        command = ["evaluate", task, "--data", str(folder.parent), "--out", str(tmp_path / task)]
        assert main(command) == 2 and "Cannot read '1-2.flac' as audio" in capsys.readouterr().err


def test_sound_without_codes_is_told_how_to_get_them(tmp_path, capsys):
    audio.save(buzz(1), tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("a|oh yes.\n")
    assert main(["train", "finetune", "--data", str(tmp_path), "--out", str(tmp_path / "lm")]) == 2
    assert f"make them first: train tokens --data '{tmp_path}'" in capsys.readouterr().err
    assert main(["train", "tokens", "--data", str(tmp_path), "--out", "codes"]) == 2  # which nobody would know as codes
    assert "call it 'codes.safetensors'" in capsys.readouterr().err


def test_a_codec_learns_from_any_folder_of_recordings(tmp_path, caplog):
    for name in ("ann/one.wav", "ann/deeper/two.WAV", "bob/three.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        audio.save(buzz(1.5), tmp_path / name)
    (tmp_path / "bob" / "broken.wav").write_text("not audio")
    (tmp_path / "notes.txt").write_text("not audio either")
    clips = read_recordings(tmp_path)
    told = [(clip.speaker, clip.text, clip.split, clip.seconds) for clip in clips]
    assert told == [("deeper", "", "train", 1.5), ("ann", "", "train", 1.5), ("bob", "", "train", 1.5)]
    assert len({clip.id for clip in clips}) == 3 and len(clips[0].load()) == 24_000
    assert "1 of 4 recordings cannot be read" in caplog.text
    with pytest.raises(ValueError, match="holds neither a corpus nor recordings"):
        read_recordings(tmp_path / "nowhere")
    (tmp_path / "bob" / "three.wav").unlink()
    with pytest.raises(ValueError, match="none of 1 recordings can be read"):
        read_recordings(tmp_path / "bob")


def test_recordings_of_a_corpus_are_its_training_clips(tmp_path):
    audio.save(buzz(1.5), tmp_path / "one.wav")
    rows = [
        {"id": k, "text": "Oh.", "speaker": "s", "seconds": 1.5, "split": split, "audio": "one.wav"}
        for k, split in enumerate(("train", "test"))
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [clip.id for clip in read_recordings(tmp_path)] == [0]


def test_a_manifest_is_read_line_by_line(tmp_path):
    row = {"id": 1, "text": "it\u2028is.", "speaker": "s", "seconds": 1.0}
    lines = [json.dumps(row, ensure_ascii=False), "", json.dumps(row | {"id": 2})]
    (tmp_path / "manifest.jsonl").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert [(clip.id, clip.text) for clip in read_clips(tmp_path)] == [(1, row["text"]), (2, row["text"])]
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row | {"text": None}))
    with pytest.raises(ValueError, match="line 1, is not a clip: .*its text is None"):
        read_clips(tmp_path)


def test_hub_datasets_are_corpora(tmp_path):
    pytest.importorskip("datasets", reason="pip install datasets")
    audio.save(buzz(1), tmp_path / "a.wav")
    (tmp_path / "hub").mkdir()
    row = {"audio": str(tmp_path / "a.wav"), "sentence": "oh yes.", "who": 3, "speaker_id": 19}
    (tmp_path / "hub" / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"sentence": None}))
    clip, untold = read_hub_clips(str(tmp_path / "hub"), text="sentence", speaker="who")
    assert untold.text == ""  # which everything that reads tokens leaves out
    assert (clip.text, clip.speaker, clip.split) == ("oh yes.", "3", "train") and len(clip.load()) == 16_000
    assert [clip.speaker for clip in read_clips(f"hub:{tmp_path / 'hub'}")] == ["19", "19"]  # found by name
    with pytest.raises(ValueError, match="has no column"):
        next(read_hub_clips(str(tmp_path / "hub"), text="words"))


@pytest.mark.parametrize("archived", [False, True])
def test_hub_datasets_of_single_files_are_corpora(tmp_path, archived):
    """As the hub shows how to make one: metadata.csv beside sound; `datasets` alone would ask for torchcodec."""
    pytest.importorskip("datasets", reason="pip install datasets")
    audio.save(buzz(1), tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text('file_name,transcription\na.wav,"oh, yes."\n')
    if archived:
        with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
            for name in ("a.wav", "metadata.csv"):
                file.write(tmp_path / name, name)
                (tmp_path / name).unlink()
    (clip,) = read_clips(f"hub:{tmp_path}")
    assert clip.text == "oh, yes." and len(clip.load()) == 16_000


def test_a_token_corpus_becomes_memmap_rows(protocol, tmp_path, capsys):
    made = [said("oh yes.", 40), said("it is.", 7, 1, "test"), said("long", 2050, 2)]
    write_tokens(made, tmp_path / "tokens.safetensors")
    arguments = ["--data", str(tmp_path / "tokens.safetensors"), "--out", str(tmp_path / "rows"), "--json"]
    assert main(["train", "rows", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["train"], told["train_dropped"], told["val"], told["val_dropped"]) == (1, 1, 1, 0)
    assert same(read_utterances(tmp_path / "rows", protocol), made[:1])
