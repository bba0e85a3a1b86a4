"""Laws of the ladder and its power laws: shares nest, cells are made once, a stopped cell ends as if never stopped."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from test_training import utterances

pytest.importorskip("accelerate", reason="pip install accelerate")

from llasa_lite import ladder
from llasa_lite.cli import main
from llasa_lite.data import write_tokens
from llasa_lite.ladder import Ladder, cell_names, held_out_sentences, nested_share, read_ladder, run_ladder
from llasa_lite.power_law import fit_power_law
from llasa_lite.training import read_log

TINY = Ladder(steps=24, ids_per_batch=128, clips=2)  # checkpoints and held-out losses every second step
CORPUS = utterances(24)


@pytest.fixture(autouse=True, scope="module")
def tiny_sizes():
    """The smallest shapes the guide works in: the laws do not depend on size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "SIZES", {"1M": (128, 2), "3M": (192, 2)})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two cells, never stopped."""
    out = tmp_path_factory.mktemp("whole")
    rows = run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5", "3M-1"])
    return out, rows


def test_every_share_holds_the_smaller_and_every_voice():
    shares = [nested_share(CORPUS, share) for share in (0.25, 0.5, 1.0)]
    names = [{(u.speaker, u.text, u.codes.tobytes()) for u in kept} for kept in shares]
    assert names[0] < names[1] < names[2] and len(names[2]) == len(CORPUS)
    for share, kept in zip((0.25, 0.5, 1.0), shares):
        for speaker in ("speaker 0", "speaker 1", "speaker 2"):
            mine = [sum(u.speaker == speaker for u in some) for some in (kept, CORPUS)]
            assert mine[0] == int(np.ceil(share * mine[1]))


def test_a_share_depends_on_its_clips_not_on_their_order():
    backwards = nested_share(CORPUS[::-1], 0.5)
    assert [u.text for u in backwards] == [u.text for u in nested_share(CORPUS, 0.5)]
    others = nested_share([replace(u, speaker="another") for u in utterances(9, seed=5)] + CORPUS, 0.5)
    assert {u.text for u in backwards} <= {u.text for u in others}


def test_a_cell_that_another_process_makes_is_left_to_it(tmp_path):
    other = FileLock(tmp_path / "1M-0.5.lock")
    with other:
        rows = run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5", "3M-1"])
    assert [row["size"] for row in rows] == ["3M"] and not (tmp_path / "1M-0.5").exists()
    assert [row["size"] for row in run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5", "3M-1"])] == ["1M", "3M"]


def test_a_grid_names_its_cells_and_refuses_others():
    assert cell_names(["3M", "1M"], [1, 0.25]) == ["1M-0.25", "1M-1", "3M-0.25", "3M-1"]
    with pytest.raises(ValueError, match="Unknown size '2M'. Choose from: 1M, 3M"):
        cell_names(["2M"])
    with pytest.raises(ValueError, match="above 0 and up to 1, not 2"):
        cell_names(["1M"], [2])
    with pytest.raises(ValueError, match="'1M' is no cell"):
        run_ladder(CORPUS, [4] * 6, "nowhere", TINY, ["1M"])
    with pytest.raises(ValueError, match="split 'test'"):
        run_ladder([u for u in CORPUS if u.split == "train"], [4] * 6, "nowhere", TINY, ["1M-1"])


def test_a_cell_has_one_name_however_its_share_is_written(whole, monkeypatch):
    out, rows = whole
    monkeypatch.setattr(ladder, "_cell", lambda *a: pytest.fail("a finished cell was trained"))
    assert run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.50", "3M-1.0", "3M-1"]) == rows
    assert {folder.name for folder in out.iterdir() if folder.is_dir()} == {"1M-0.5", "3M-1"}


def test_the_table_says_what_each_cell_cost_and_reached(whole):
    out, rows = whole
    assert [(row["size"], row["share"]) for row in rows] == [("1M", 0.5), ("3M", 1.0)]
    for row in rows:
        assert row["flops"] == 6 * row["parameters"] * row["tokens"] and row["steps"] == 24 and row["clips"] == 2
        assert all(5 < row[name] < 12 for name in ("train_loss", "held_out", "held_out_wrong_text"))
        assert 24 * 100 < row["tokens"] <= 24 * 640 and row["seconds"] > 0 and "wer" not in row
    assert rows[1]["parameters"] > rows[0]["parameters"]
    assert rows[0]["tokens"] == pytest.approx(rows[1]["tokens"], rel=0.2)
    train = [u for u in CORPUS if u.split == "train"]
    assert rows[1]["hours"] == pytest.approx(sum(u.seconds for u in train) / 3600, abs=1e-3)
    read = read_ladder(out / "ladder.csv")
    assert [row["held_out"] for row in read] == [row["held_out"] for row in rows] and "wer" not in read[0]
    curve = [row for row in read_ladder(out / "ladder_log.csv") if row["size"] == "3M"]
    assert [row["step"] for row in curve] == list(range(2, 25, 2))
    assert curve[-1]["tokens"] == rows[1]["tokens"] and np.all(np.diff([row["seconds"] for row in curve]) > 0)


def test_clips_without_text_are_in_no_cell(tmp_path):
    """One among those whose losses are taken would end a cell after all its training."""
    blank = [replace(u, text=" ", speaker=f"nobody {k}") for k, u in enumerate(CORPUS)]
    rows = []
    for k, clips in enumerate(([*blank, *CORPUS], CORPUS)):
        rows += run_ladder(clips, [4] * 6, tmp_path / str(k), replace(TINY, steps=1), ["1M-1"])
    assert all(rows[0][name] == rows[1][name] for name in ("hours", "held_out", "train_loss"))


def test_a_finished_cell_is_not_made_again(whole, monkeypatch):
    out, rows = whole
    assert not (out / "1M-0.5" / "checkpoints").exists()
    monkeypatch.setattr(ladder, "_cell", lambda *a: pytest.fail("a finished cell was trained"))
    assert run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5", "3M-1"]) == rows
    with pytest.raises(ValueError, match="begun with steps 24"):
        run_ladder(CORPUS, [4] * 6, out, replace(TINY, steps=30), ["1M-0.5"])
    other_codec = [replace(u, codes=u.codes[::-1].copy()) for u in CORPUS]
    with pytest.raises(ValueError, match="begun with .*utterances '"):
        run_ladder(other_codec, [4] * 6, out, TINY, ["3M-1"])
    with pytest.raises(ValueError, match="begun with .*utterances"):
        run_ladder(CORPUS[: len(CORPUS) // 2], [4] * 6, out, TINY, ["1M-0.5"])


class Stopped(Exception):
    pass


def test_a_stopped_cell_ends_as_if_it_had_never_been_stopped(whole, tmp_path):
    """Stopped at step 5, one after a checkpoint: the same rows, the same losses, the same weights."""
    from safetensors.numpy import load_file

    def stop(done, total):
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5"], progress=stop)
    assert not (tmp_path / "ladder.csv").exists()
    before = read_log(tmp_path / "1M-0.5")[-1]["seconds"]
    seen = []
    (row,) = run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5"], progress=lambda done, total: seen.append(done))
    assert seen == list(range(5, 25)) and row["seconds"] > before
    out, rows = whole
    assert row | {"seconds": 0} == rows[0] | {"seconds": 0}
    one, other = (load_file(folder / "1M-0.5" / "model.safetensors") for folder in (out, tmp_path))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_cell_stopped_between_training_and_its_losses_takes_no_more_steps(whole, tmp_path, monkeypatch):
    def stop(self, folder):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("llasa_lite.training.SpeechLM.start_from", stop)
        run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5"])
    seen = []
    (row,) = run_ladder(CORPUS, [4] * 6, tmp_path, TINY, ["1M-0.5"], progress=lambda done, total: seen.append(done))
    assert not seen and row | {"seconds": 0} == whole[1][0] | {"seconds": 0}


def test_a_judge_hears_what_no_cell_learned(whole, nano):
    out, _ = whole
    spoken = held_out_sentences([replace(u, text=f"{u.text} {u.split} sentence.") for u in CORPUS], 2)
    assert len(spoken) == 2 and all("test sentence" in text for text in spoken)
    heard = []

    def judge(wav):
        heard.append(len(wav))
        return spoken[0]

    (row, _) = run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5"], judge, spoken)
    assert len(heard) == 2 and row["wer_n"] == 2 and row["wer_low"] <= row["wer"] <= row["wer_high"]
    run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5"], judge, spoken)
    assert len(heard) == 2  # nothing was heard twice
    judge.language = "de"  # whose words are compared as they are written
    with pytest.raises(ValueError, match="begun with normalizer 'whisper'"):
        run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5"], judge, spoken)
    judge.language = "en"
    with pytest.raises(ValueError, match="begun with sentences '2, "):
        run_ladder(CORPUS, [4] * 6, out, TINY, ["1M-0.5"], judge, spoken[::-1])
    with open(out / "ladder.csv", encoding="utf-8") as file:
        assert [bool(line["wer"]) for line in csv.DictReader(file)] == [True, False]


def test_the_command_makes_cells_and_prints_one_object(tmp_path, capsys):
    write_tokens(CORPUS, tmp_path / "tokens.safetensors")
    data, out = str(tmp_path / "tokens.safetensors"), str(tmp_path / "ladder")
    common = ["train", "ladder", "--data", data, "--out", out, "--steps", "1"]
    assert main([*common, "--cells", "1M-0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["table"] == f"{out}/ladder.csv" and [cell["size"] for cell in told["cells"]] == ["1M"]
    assert main([*common, "--sizes", "9M"]) == 2 and "Unknown size '9M'" in capsys.readouterr().err


# -- power laws ------------------------------------------------------------------------------------------------------


def test_a_power_law_without_noise_is_found_exactly():
    hours = np.array([1.0, 2, 4, 8, 16])
    law = fit_power_law(2 + 3 * hours**-0.4, hours=hours)
    assert law.floor == pytest.approx(2, rel=1e-4) and law.scale == pytest.approx(3, rel=1e-4)
    assert law.exponents["hours"] == pytest.approx([0.4] * 3, abs=1e-3)
    assert law.interval(hours=64)[0] == pytest.approx(2 + 3 * 64**-0.4, rel=1e-4)
    both = fit_power_law(9 * hours**-0.1 * (size := hours[::-1] ** 2 + hours) ** -0.2, hours=hours, size=size)
    assert both.floor is None and both.exponents["size"][0] == pytest.approx(0.2, abs=1e-4)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95 % each, over 50 noisy grids; seven misses in 50 come by chance once in a hundred."""
    random, x = np.random.default_rng(0), np.array([1.0, 2, 4] * 3)
    held = []
    for _ in range(50):
        law = fit_power_law(5 * x**-0.2 + random.normal(0, 0.02, 9), x=x)
        low, high = law.exponents["x"][1:]
        _, below, above = law.interval(x=16.0)
        held.append((low < 0.2 < high, below < 5 * 16**-0.2 < above))
    assert (np.mean(held, 0) >= 0.88).all()


def test_three_points_carry_no_floor_and_a_wide_interval():
    """The paper's 1B rows on 80k, 160k and 250k hours."""
    law = fit_power_law([3.71, 3.60, 3.22], hours=[80, 160, 250])
    assert law.floor is None and law.spare == 1 and "1 to spare" in str(law)
    _, low, high = law.exponents["hours"]
    assert low < 0 < high  # one point to spare cannot even say that more speech helps
    with pytest.raises(ValueError, match="2 points leave none to spare"):
        fit_power_law([3.7, 3.6], hours=[80, 160])
    with pytest.raises(ValueError, match="as many values above 0"):
        fit_power_law([3.7, 3.6, 3.2], hours=[0, 80, 160])
