"""Laws of lists: every line becomes a clip of a corpus, once, however often and by however many it is asked for."""

import json

import numpy as np
import pytest

from llasa_lite import audio
from llasa_lite.batch import Line, read_list, speak_list
from llasa_lite.cli import main
from llasa_lite.data import read_corpus
from llasa_lite.records import Records

LINES = [Line("a", "Oh."), Line("b", "Yes.", seed=5), Line("c", "No.")]


def test_a_list_becomes_a_corpus(nano, voice, tmp_path):
    spoken = {line.id: speech for line, speech in speak_list(nano, LINES, tmp_path, voice, seed=3)}
    clips = read_corpus(tmp_path)
    assert [(c.id, c.text, c.speaker) for c in clips] == [(n.id, n.text, "buzz") for n in LINES]
    assert [spoken[k].seed for k in "abc"] == [3, 5, 5]
    for clip in clips:
        np.testing.assert_allclose(audio.load(clip.path), spoken[clip.id].wav, atol=1e-4)


def test_a_list_goes_on_where_it_was_stopped(nano, voice, tmp_path):
    first = speak_list(nano, LINES, tmp_path, voice)
    next(first), next(first)
    with open(tmp_path / "manifest.jsonl", "a") as manifest:
        manifest.write('{"id": "c", "te')  # killed while writing
    again = list(speak_list(nano, LINES, tmp_path, voice))
    assert [speech is None for _, speech in again] == [True, True, False]
    assert [c.id for c in read_corpus(tmp_path)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="holds another text under the id 'a'"):
        list(speak_list(nano, [Line("a", "Ah.")], tmp_path, voice))
    with pytest.raises(ValueError, match="holds another voice under the id 'a'"):
        list(speak_list(nano, LINES, tmp_path, voice.replace(name="other")))
    (tmp_path / "clips" / "b.wav").unlink()
    with pytest.raises(ValueError, match="lacks 'clips/b.wav', which its manifest names"):
        list(speak_list(nano, LINES, tmp_path, voice))


def test_shards_make_what_one_machine_makes(nano, voice, tmp_path):
    list(speak_list(nano, LINES, tmp_path / "one", voice, seed=3))
    for shard in ("2/2", "1/2"):
        list(speak_list(nano, LINES, tmp_path / "two", voice, seed=3, shard=shard))
    assert {c.id for c in read_corpus(tmp_path / "two")} == {"a", "b", "c"}
    manifests = {path.name for path in (tmp_path / "two").glob("*.jsonl")}
    assert manifests == {"manifest-00001-of-00002.jsonl", "manifest-00002-of-00002.jsonl"}
    for file in (tmp_path / "one" / "clips").glob("*.wav"):
        assert (tmp_path / "two" / "clips" / file.name).read_bytes() == file.read_bytes()
    # a list that was begun by one goes on by three, and ends by one: no clip comes twice
    next(speak_list(nano, LINES, tmp_path / "one more", voice, seed=3, shard="1/2"))
    for shard, made in (("1/3", 0), ("2/3", 1), ("1/1", 1)):
        spoken = list(speak_list(nano, LINES, tmp_path / "one more", voice, seed=3, shard=shard))
        assert sum(speech is not None for _, speech in spoken) == made
    assert sorted(c.id for c in read_corpus(tmp_path / "one more")) == ["a", "b", "c"]
    for shard in ("3/2", "0/2", "2"):
        with pytest.raises(ValueError, match="A shard is written as 2/8"):
            list(speak_list(nano, LINES, tmp_path, shard=shard))


@pytest.mark.parametrize(
    "bad, sentence",
    [
        (Line("z", "Oh. " * 6000), "Line 'z': The text has 24,000 characters"),
        (Line("z", "Привет, мир."), "Line 'z': 'nano' cannot read"),
        (Line("z", "Oh.", "nobody"), "Line 'z': Unknown voice 'nobody'"),
        (Line("z", "Oh.", seed=-5), "Line 'z': A seed is a whole number from 0"),
    ],
    ids=["long", "script", "voice", "seed"],
)
def test_what_cannot_be_said_is_told_before_anything_is_spoken(nano, voice, tmp_path, bad, sentence):
    with pytest.raises(ValueError, match=sentence):
        next(speak_list(nano, [*LINES, bad], tmp_path, voice))
    assert not list(tmp_path.rglob("*.wav"))
    assert [line.id for line, _ in speak_list(nano, [*LINES, bad], tmp_path, voice, shard="3/4")] == ["c"]


def test_lists_are_read_from_text_and_from_json_lines(tmp_path):
    (tmp_path / "book.txt").write_text("Oh.\n\nYes.\n")
    assert [(n.id, n.text) for n in read_list(tmp_path / "book.txt")] == [("000000", "Oh."), ("000002", "Yes.")]
    (tmp_path / "book.txt").write_text("\ufeffOh.\n* * *\n---\nYes.\r\n", encoding="utf-8")  # breaks say nothing
    assert [(n.id, n.text) for n in read_list(tmp_path / "book.txt")] == [("000000", "Oh."), ("000003", "Yes.")]
    (tmp_path / "book.jsonl").write_text('{"text": "Oh.\u2028Yes."}', encoding="utf-8")
    assert [n.text for n in read_list(tmp_path / "book.jsonl")] == ["Oh.\u2028Yes."]
    rows = '{"text": "Oh.", "id": 7, "voice": "emma", "seed": 1}\n{"text": "Yes.", "id": null}'
    (tmp_path / "book.jsonl").write_text(rows)
    (tmp_path / "BOOK.JSONL").write_text((tmp_path / "book.jsonl").read_text())
    for name in ("book.jsonl", "BOOK.JSONL"):
        assert read_list(tmp_path / name) == [Line("7", "Oh.", "emma", 1), Line("000001", "Yes.")]


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ('{"id": "x"}', "line 1, needs at least a text"),
        ('{"text": "Oh."}\n{"text": "..."}', "line 2: there is nothing to say in the text '...'"),
        ('{"text": "Oh.", "voice": ["x"]}', "line 1: a voice is a name and a seed a whole number"),
        ('{"text": "Oh.", "seed": true}', "line 1: a voice is a name and a seed a whole number"),
        ('"just a string"', "line 1, needs at least a text"),
        ('{"text": ' + "[" * 100_000, "line 1, needs at least a text: RecursionError"),
        ('{"text": "Oh.", "id": "../x"}', "the id '../x' is no plain file name"),
        ('{"text": "Oh.", "id": 1}\n{"text": "Oh.", "id": 1}', "An id comes twice"),
        ("\n", "holds nothing to say"),
    ],
)
def test_what_is_no_list_gives_its_sentence(tmp_path, rows, sentence):
    (tmp_path / "book.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=sentence):
        read_list(tmp_path / "book.jsonl")


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    Records(tmp_path / "rows.jsonl", settings={"seed": 1}).add({"id": "a"})
    assert "a" in Records(tmp_path / "rows.jsonl", settings={"seed": 1})
    with pytest.raises(ValueError, match="was begun with seed 1"):
        Records(tmp_path / "rows.jsonl", settings={"seed": 2})


def test_a_row_that_another_machine_is_writing_stays(nano, tmp_path):
    theirs = tmp_path / "new" / "book" / "manifest-00002-of-00002.jsonl"
    Records(theirs).add({"id": "a"})
    torn = theirs.read_bytes() + b'{"id": "b'
    theirs.write_bytes(torn)
    assert list(speak_list(nano, [], theirs.parent, shard="1/2")) == [] and theirs.read_bytes() == torn
    assert set(Records(theirs).rows) == {"a"} and theirs.read_bytes() != torn  # whose it is cuts it off


def test_speak_takes_a_list(nano, tmp_path, monkeypatch, capsys):
    from llasa_lite import cli_common

    monkeypatch.setattr(cli_common, "load", lambda o: nano)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("Oh.\nYes.\n")
    for made in (2, 0):
        assert main(["speak", "--list", "book.txt", "-o", "book", "--seed", "1", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["made"] == made and told["there_already"] == 2 - made
    assert len(read_corpus("book")) == 2
    with pytest.raises(SystemExit):
        main(["speak", "Oh.", "--list", "book.txt"])
