"""Laws of preferences: pairs are a search's best and worst, and learning them makes the one likelier than the other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="pip install accelerate")

from llasa_lite import Llasa
from llasa_lite.cli import main
from llasa_lite.data import Utterance, write_tokens
from llasa_lite.preferences import (
    Pair,
    Preferences,
    _collate,
    _log_likelihoods,
    _row,
    collect_pairs,
    read_pairs,
    train_preferences,
)
from llasa_lite.voices import Voice

SENTENCES = ["Good morning.", "It is late.", "A" * 500]  # the last is longer than a piece


@pytest.fixture(scope="module")
def nano():
    return Llasa.from_pretrained("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def corpus():
    """Two built-in voices as a token corpus, and a clip that is kept out."""
    emma, joe = (Voice.builtin(name) for name in ("emma", "joe"))
    rows = [Utterance(v.text, v.name, "train", np.array(v.codes["nano"][:200], np.uint16)) for v in (emma, joe)]
    return [*rows, replace(rows[0], speaker="kept out", split="test")]


@pytest.fixture(scope="module")
def pairs(nano, corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    assert collect_pairs(nano, corpus, SENTENCES, path, draws=6, n=3, gap=0.0) == 6
    return path


def test_a_pair_is_the_best_and_the_worst_of_a_search(nano, corpus, pairs):
    voices = {u.text: u for u in corpus if u.split == "train"}
    for pair in read_pairs(pairs):
        assert pair.text in SENTENCES[:2] and pair.scores[0] >= pair.scores[1]
        clip = voices[pair.voice_text]
        voice = Voice("v", clip.text, codes={"nano": clip.codes.tolist()})
        takes = nano.search(pair.text, voice, n=3, outcome="likelihood", seed=pair.draw).candidates
        assert pair.chosen == takes[0].codes.tolist() and pair.rejected == takes[-1].codes.tolist()


def test_a_pair_has_the_prompt_that_was_spoken_to(nano, corpus, tmp_path):
    """Also where the clip stops inside a sentence."""
    cut = [replace(u, text="We went to the") for u in corpus]
    path = tmp_path / "pairs.jsonl"
    assert collect_pairs(nano, cut, SENTENCES, path, draws=2, n=2, gap=0.0)
    for pair in read_pairs(path):
        voice = Voice("v", "We went to the", codes={"nano": pair.voice})
        spoken_to, *_ = nano._opening(voice, [pair.text], 0, 0, None)
        row = _row(nano.protocol, pair, nano.engine.max_ids)
        assert all(ids[: len(spoken_to)] == spoken_to for ids, _ in row["takes"])


def test_a_clip_without_words_is_no_voice_prompt(nano, corpus, pairs, tmp_path):
    """A search refuses it: the collection would end at its draw, and at every start after it."""
    wordless = [replace(corpus[0], text=text, speaker=f"nobody {text}") for text in (" ", "...")]
    collect_pairs(nano, [*wordless, *corpus], SENTENCES, tmp_path / "pairs.jsonl", draws=2, n=3, gap=0.0)
    assert read_pairs(tmp_path / "pairs.jsonl") == read_pairs(pairs)[:2]


def test_takes_that_are_alike_give_no_pair(nano, corpus, tmp_path):
    assert collect_pairs(nano, corpus, SENTENCES, tmp_path / "p.jsonl", draws=2, n=2, gap=100.0) == 0


def test_a_killed_collection_goes_on_to_the_same_pairs(nano, corpus, pairs, tmp_path):
    whole = pairs.read_text().splitlines(keepends=True)
    torn = tmp_path / "pairs.jsonl"
    torn.write_text("".join(whole[:4]) + whole[4][:50])
    collect_pairs(nano, corpus, SENTENCES, torn, draws=6, n=3, gap=0.0)
    assert torn.read_text() == pairs.read_text()


def test_other_settings_do_not_share_a_file(nano, corpus, pairs):
    with pytest.raises(ValueError, match="was begun with"):
        collect_pairs(nano, corpus, SENTENCES, pairs, draws=7, n=4, gap=0.0)


def test_a_log_likelihood_is_the_engines_own(nano, pairs):
    """Of a take, id by id: what the model gives each among the ids that may follow, and END after the last."""
    pair = read_pairs(pairs)[0]
    row = _row(nano.protocol, pair, 2048)
    batch = _collate([row], nano.protocol.pad)
    allowed = torch.as_tensor(nano.protocol.speech_ids())
    with torch.no_grad():
        sums, lengths = _log_likelihoods(nano.engine.model, allowed, **batch)
        ids, columns = row["takes"][0]
        logs = nano.engine.model(torch.tensor([ids])).logits[0][:, allowed].log_softmax(-1)
    answer = [k for k, column in enumerate(columns) if column >= 0]
    assert (
        lengths[0] == len(pair.chosen) + 1 == len(answer) and columns[-1] == 0 and ids[-1] == nano.protocol.speech_end
    )
    assert sums[0].item() == pytest.approx(sum(logs[k - 1, columns[k]].item() for k in answer), rel=1e-4)


def test_what_was_cut_off_has_no_end(nano, pairs):
    pair = replace(read_pairs(pairs)[0], ended=False)
    (_, chosen), (ids, rejected) = _row(nano.protocol, pair, 2048)["takes"]
    assert chosen[-1] == 0 and rejected[-1] == pair.rejected[-1] + 1 and ids[-1] != nano.protocol.speech_end
    assert _row(nano.protocol, pair, 64) is None  # too long


@pytest.fixture(scope="module")
def learned(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "preferred"
    settings = Preferences(epochs=4, pairs_per_step=6, learning_rate=3e-4, chosen_weight=0.0)
    return train_preferences("nano", read_pairs(pairs), out, settings, pairs_at_once=3)


def test_the_best_become_likelier_than_the_worst(learned, pairs, nano):
    after = Llasa.from_pretrained(str(learned), "nano", device="cpu", dtype="float32")
    batch = _collate([_row(nano.protocol, pair, 2048) for pair in read_pairs(pairs)], nano.protocol.pad)
    allowed = torch.as_tensor(nano.protocol.speech_ids())
    with torch.no_grad():
        gaps = [
            torch.stack(_log_likelihoods(llasa.engine.model, allowed, **batch)[0].view(-1, 2).unbind(1))
            for llasa in (nano, after)
        ]
    before, now = (float((chosen - rejected).mean()) for chosen, rejected in gaps)
    assert now > before + 1
    rows = [json.loads(line) for line in (learned / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:-1]] == [1, 2, 3, 4] and {"loss", "margin", "agreed"} <= rows[0].keys()
    assert abs(rows[0]["margin"]) < 0.05 < rows[3]["margin"]  # it begins as what it was


def test_a_folder_that_learned_speaks_as_its_base_asks(learned, nano):
    after = Llasa.from_pretrained(str(learned), device="cpu", dtype="float32")
    assert after.sampling == nano.sampling and after.codec.name == "nano" and after.checkpoint.can_transcribe
    assert after.tts("Good morning.", "emma", seed=1).seconds > 0.2
    assert "direct preference optimisation" in (learned / "README.md").read_text()
    weights = [file.stat().st_size for file in learned.glob("*.safetensors")]
    assert max(weights) < 10e6 < sum(weights) < 20e6  # fp16 in files that plain git takes, as nano is kept
    assert after.engine.model.config.use_cache  # which Trainer turns off


def test_a_finished_run_takes_no_more_steps_and_a_torn_checkpoint_is_passed_over(pairs, tmp_path):
    some, settings, seen = read_pairs(pairs)[:4], Preferences(epochs=1.5, pairs_per_step=2, save_every=2), []

    def run():
        return train_preferences("nano", some, tmp_path / "lm", settings, 2, lambda done, total: seen.append(done))

    def weights():
        return [file.read_bytes() for file in sorted((tmp_path / "lm").glob("*.safetensors"))]

    out, first = run(), weights()
    assert run() == out and seen == [1, 2, 3] and weights() == first
    with pytest.raises(ValueError, match="begun with beta 0.1, pairs 4"):
        train_preferences("nano", some[:2], out, replace(settings, beta=0.5), 2)
    (out / "checkpoints" / "checkpoint-3" / "trainer_state.json").unlink()
    run()
    assert seen == [1, 2, 3, 3]


def test_accumulated_pairs_have_the_loss_of_all_at_once(pairs, tmp_path):
    settings = Preferences(epochs=1, pairs_per_step=6)
    losses = []
    for at_once in (2, 6):
        out = train_preferences("nano", read_pairs(pairs), tmp_path / str(at_once), settings, at_once)
        losses.append(json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_pairs_in_codes_of_another_codec_are_not_learned(pairs, tmp_path, monkeypatch, capsys):
    """The same numbers are other sounds. They come as soon as the base is not named, and nano is meant."""
    assert len(read_pairs(pairs, "nano")) == 6
    with pytest.raises(ValueError, match="holds codes of the codec 'nano', and they are to be those of 'owner/codec'"):
        read_pairs(pairs, "owner/codec")
    first, *rows = pairs.read_text().splitlines()
    other = json.loads(first)["settings"] | {"codec": "owner/codec", "fingerprint": None}
    (tmp_path / "pairs.jsonl").write_text("\n".join([json.dumps({"settings": other}), *rows, ""]))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "preferences", "--pairs", "pairs.jsonl", "--out", "run"]) == 2
    assert "holds codes of the codec 'owner/codec'" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["pairs", "--data", "none.safetensors", "--out", "p"], "There is no token corpus"),
        (["pairs", "--data", "TOKENS", "--sentences", "none.txt", "--out", "p"], "Cannot read sentences"),
        (["pairs", "--data", "TOKENS", "--sentences", "LONG", "--out", "p"], "no sentences of at most"),
        (["pairs", "--data", "TESTS", "--out", "p"], "no training clips of 1.5 to 6 s, with words,"),
        (["pairs", "--data", "TOKENS", "--outcome", "moon", "--out", "p"], "moon"),
        (["pairs", "--data", "TOKENS", "--n", "1", "--draws", "1", "--out", "p"], "--n is at least 2"),
        (["preferences", "--pairs", "none.jsonl", "--out", "run"], "There are no pairs"),
        (["preferences", "--pairs", "LONG", "--out", "run"], "holds other rows"),
        (["preferences", "--pairs", "PAIRS", "--pairs-at-once", "3", "--out", "run"], "16 pairs a step"),
    ],
)
def test_bad_input_gives_its_sentence(corpus, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    write_tokens(corpus, "TOKENS"), write_tokens(corpus[2:], "TESTS")
    (tmp_path / "LONG").write_text("b" * 500 + "\n")
    pair = Pair(0, "a", "b", [1], [2], [3], True, (0.0, -1.0))
    (tmp_path / "PAIRS").write_text(json.dumps(pair.__dict__) + "\n")
    assert main(["train", *arguments]) == 2
    assert sentence in capsys.readouterr().err
