"""Laws of many workers: what they make is what one makes, and nothing is made twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import buzz

from llasa_lite import audio, distributed
from llasa_lite.batch import Line
from llasa_lite.data import Clip, Repitched, read_corpus, read_tokens
from llasa_lite.distributed import _Encoder, encode_parts, speak_parts
from llasa_lite.sources import read_utterances


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="pip install 'ray[data]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_parts_are_the_codes_and_are_made_once(cluster, codec, tmp_path):
    (tmp_path / "clips").mkdir()
    facts = []
    for k in range(5):
        audio.save(buzz(0.6, seed=k), tmp_path / "clips" / f"{k}.wav")
        facts.append({"id": k, "text": f"clip {k}.", "speaker": "s", "seconds": 0.6, "audio": f"clips/{k}.wav"})
    (tmp_path / "clips" / "3.wav").write_text("not audio")
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, facts)))
    clips, out = read_corpus(tmp_path), tmp_path / "codes"
    told = list(encode_parts(clips, "nano", out, workers=2, clips_per_part=2))
    assert sorted((t["part"], t["clips"], t["dropped"]) for t in told) == [(0, 2, 0), (1, 1, 1), (2, 1, 0)]
    made = [u for k in range(3) for u in read_tokens(out / f"part-0000{k}.safetensors")]
    assert [u.text for u in made] == ["clip 0.", "clip 1.", "clip 2.", "clip 4."]
    assert made[3].codes.tolist() == codec.encode(clips[4].load())[:-1].tolist()
    assert [u.text for u in read_utterances(out, None)] == [u.text for u in made]
    (out / "part-00001.safetensors").unlink()
    assert [t["part"] for t in encode_parts(clips, "nano", out, workers=2, clips_per_part=2)] == [1]
    assert list(encode_parts(clips, "nano", out, workers=2, clips_per_part=2)) == []
    high = [Repitched(clip, 1.25) for clip in clips[:2]]
    assert [t["clips"] for t in encode_parts(clips[:2] + high, "nano", tmp_path / "both")] == [4]
    told = [(u.speaker, len(u.codes)) for u in read_utterances(tmp_path / "both", None)]
    assert told == [("s", 30), ("s", 30), ("s_1.25", 24), ("s_1.25", 24)]
    with pytest.raises(ValueError, match="holds the codes of other clips"):
        next(encode_parts(clips[:4], "nano", out, clips_per_part=2))


def test_parts_of_other_clips_or_of_another_codec_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_on_ray", lambda worker, arguments, todo, *_: iter(todo))
    clips = [Clip(k, f"clip {k}.", "s", 0.6, "train", tmp_path / f"{k}.wav") for k in range(3)]
    assert len(list(encode_parts(clips, "nano", tmp_path, clips_per_part=2))) == 2
    assert len(list(encode_parts(clips, "nano", tmp_path, clips_per_part=2))) == 2
    others = [clips[0], replace(clips[1], text="another."), clips[2]]
    for given, codec in ((others, "nano"), (clips[:2], "nano"), (clips, "owner/codec")):
        with pytest.raises(ValueError, match="holds the codes of other clips or another codec"):
            next(encode_parts(given, codec, tmp_path, clips_per_part=2))


def test_a_folder_that_lacks_parts_says_so(codec, tmp_path, monkeypatch, caplog):
    """Or a model would learn from a part of its corpus, and nobody know."""
    monkeypatch.setattr(distributed, "_on_ray", lambda worker, arguments, todo, *_: iter(todo))
    audio.save(buzz(0.6), tmp_path / "0.wav")
    clips, out = [Clip(k, f"clip {k}.", "s", 0.6, "train", tmp_path / "0.wav") for k in range(5)], tmp_path / "codes"
    todo, encoder = list(encode_parts(clips, "nano", out, clips_per_part=2)), _Encoder("nano", out, 0)
    encoder(**todo[0]), encoder(**todo[2])
    assert len(read_utterances(out, None)) == 3 and "lacks 1 of 3 parts" in caplog.text
    caplog.clear(), encoder(**todo[1])
    assert len(read_utterances(out, None)) == 5 and not caplog.text


def test_a_part_leaves_out_what_is_too_long_to_encode(codec, tmp_path):
    audio.save(buzz(0.6), tmp_path / "0.wav"), audio.save(buzz(61), tmp_path / "1.wav")
    clips = [Clip(k, f"clip {k}.", "s", 0.6, "train", tmp_path / f"{k}.wav") for k in range(2)]
    encoder = _Encoder("nano", tmp_path, 0)
    assert encoder(0, clips) == {"part": 0, "clips": 1, "dropped": 1}
    assert encoder(1, clips[1:]) == {"part": 1, "clips": 0, "dropped": 1}
    assert [u.text for u in read_utterances(tmp_path, None)] == ["clip 0."]


def test_what_a_worker_refuses_is_told_in_its_sentence(cluster, voice, tmp_path):
    def load():
        raise ValueError("There is no such model.")

    with pytest.raises(ValueError, match="^There is no such model.$"):
        list(speak_parts(load, [Line("a", "Oh."), Line("b", "Yes.")], tmp_path, workers=2, voice=voice))


def test_a_list_spoken_by_many_is_the_list_spoken_by_one(cluster, nano, voice, tmp_path):
    def load():
        from llasa_lite import Llasa

        return Llasa.from_pretrained(device="cpu", dtype="float32")

    lines = [Line("a", "Oh."), Line("b", "Yes."), Line("c", "No.")]
    told = list(speak_parts(load, lines, tmp_path, workers=2, voice=voice, seed=3))
    assert sum(t["made"] for t in told) == 3
    clips = {clip.id: clip for clip in read_corpus(tmp_path)}
    for index, line in enumerate(lines):
        wanted = nano.tts(line.text, voice, 3 + index).wav
        np.testing.assert_allclose(clips[line.id].load(), np.clip(wanted, -1, 1), atol=2e-3)
