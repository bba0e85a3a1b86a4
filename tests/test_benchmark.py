"""Laws of the benchmark, on a tiny shape: every path is measured, tables survive the file, figures are drawn."""

import json

import pytest
import torch
from conftest import ROOT

from llasa_lite import benchmark, benchmark_paths, benchmark_whole
from llasa_lite.benchmark import Bench, BenchTable, Row, read_csv, run, write_csv
from llasa_lite.cli import main

RESULTS = ROOT / "llasa_lite" / "results" / "bench.csv"


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        shape |= dict(num_key_value_heads=1, head_dim=16, vocab_size=66_000)
        patch.setitem(benchmark_paths.SHAPES, "tiny", shape)
        patch.setattr(benchmark_paths, "SECONDS_TO_MEASURE", 0)
        yield


@pytest.fixture(scope="module")
def table(tiny):
    told = []
    table = run(Bench(models=["tiny"], batches=[1, 3], only=["paths"], steps=4, rounds=1), told.append)
    assert len(told) == len(table.rows)
    return table


def test_every_path_is_measured_at_every_batch(table):
    names = {row.path for row in table.rows}
    assert {"generate, float32", "engine, plain, float32"} <= names
    assert {(row.path, row.size) for row in table.rows} == {(name, batch) for name in names for batch in (1, 3)}
    for row in table.rows:
        assert row.tokens_per_second == pytest.approx(row.size / row.seconds)
        assert row.real_time == pytest.approx(row.tokens_per_second / 50)
        if row.path == "generate, float32":
            assert row.to_generate == 1


def test_the_text_names_machine_command_and_columns(table):
    text = table.text()
    assert table.machine in text and table.command in text
    for word in ("paths", "tokens_per_second", "real_time", "to_generate", "to_bandwidth", "peak_megabytes"):
        assert word in text
    assert "decibels" not in text  # a column nothing is known of


def test_a_table_survives_its_file(table, tmp_path):
    write_csv(table, tmp_path / "bench.csv")
    rows = read_csv(tmp_path / "bench.csv")
    assert [(r["path"], r["size"]) for r in rows] == [(r.path, r.size) for r in table.rows]
    for row, measured in zip(rows, table.rows):
        assert row["seconds"] == pytest.approx(measured.seconds, rel=1e-3)
        assert row["decibels"] is None
        assert (row["machine"], row["command"]) == (table.machine, table.command)


def test_a_later_run_replaces_what_it_measured_again(tmp_path):
    file = tmp_path / "bench.csv"
    write_csv(BenchTable([Row("paths", "nano", "a", 1, 2.0), Row("paths", "nano", "b", 1, 2.0)], "old", "x"), file)
    write_csv(BenchTable([Row("paths", "nano", "a", 1, 1.0), Row("paths", "nano", "a", 8, 1.0)], "new", "y"), file)
    assert [(r["path"], r["size"], r["machine"]) for r in read_csv(file)] == [
        ("b", 1, "old"),
        ("a", 1, "new"),
        ("a", 8, "new"),
    ]


def test_bench_prints_and_keeps_its_table(tiny, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["bench", "--models", "tiny", "--batches", "1", "--only", "paths", "--json"]
    arguments += ["--csv", str(tmp_path / "b.csv"), "--plot", str(tmp_path / "b.png")]
    assert main(arguments) == 0
    out = json.loads(capsys.readouterr().out)
    assert len(out["rows"]) == len(read_csv(tmp_path / "b.csv")) >= 2
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(models=["huge"]), "Unknown 'huge'. Choose from: nano, medium, llasa-1b"),
        (dict(only=["speed"]), "Unknown 'speed'. Choose from: paths, growth, codec, start, whole"),
        (dict(device="tpu"), "Unknown device 'tpu'. Choose from: cpu, cuda."),
        (dict(device="cuda", only=["growth"]), "'growth' measures nano on the CPU. On CUDA choose from: paths, whole"),
        (dict(batches=[0]), "Batches must be positive"),
        (dict(batches=[]), "Batches must be positive"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Bench(**bad)


# -- a GPU's benchmarks, on the CPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        (["--threads", "-1"], "Threads must be at least 1, not -1."),
        (["--csv", "letter.csv"], "'letter.csv' is no table of a benchmark (no column 'benchmark')."),
        (["--plot", "bench.doc"], "--plot draws paths, growth and whole into a .png or .svg file."),
        (["--plot", "bench.png"], "--plot draws paths, growth and whole into a .png or .svg file."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_written_is_said_before_the_work(options, words, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pip install llasa-lite[plot]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.csv").write_text("Dear all,\n")
    monkeypatch.setitem(benchmark.BENCHMARKS, "codec", lambda bench: pytest.fail("it was measured"))
    assert main(["bench", "--only", "codec", *options]) == 2
    assert words in capsys.readouterr().err and (tmp_path / "letter.csv").read_text() == "Dear all,\n"


def test_without_cuda_the_command_is_one_sentence(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    assert main(["bench", "--device", "cuda"]) == 2
    assert (
        capsys.readouterr().err.strip() == "llasa-lite: There is no 'cuda' on this machine. Use the CPU: device='cpu'."
    )


def test_the_paths_of_a_gpu_run(tiny, monkeypatch):
    """All but the compiler and Transformers' batching, which take minutes and gigabytes on a CPU: their places show
    what becomes of a path that fails."""

    def fail(*_, **__):
        raise RuntimeError("not here\nand more")

    monkeypatch.setattr(benchmark_paths, "_cpu_paths", lambda model: benchmark_paths.gpu_paths(model, "cpu"))
    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(benchmark_paths.GenerateBatch, "__call__", fail)
    monkeypatch.setattr(benchmark_paths, "IGNORES_FAILURES", ("cpu", "cuda"))
    rows = run(Bench(["tiny"], [2], ["paths"], steps=4, rounds=1)).rows
    measured = [row.path for row in rows if row.seconds]
    for name in ("generate", "generate, static cache", "engine, no graph", "engine, graph"):
        assert any(path.startswith(name) for path in measured), rows
    notes = {row.path.rsplit(", ", 1)[0]: row.note for row in rows if row.seconds is None}
    assert notes == dict.fromkeys(["engine, graph, compiled", "generate_batch"], "RuntimeError: not here")
    assert all(row.tokens_per_second is None for row in rows if row.seconds is None)


def test_the_whole_of_it_runs(tiny, monkeypatch):
    monkeypatch.setattr(benchmark_whole, "BEAMS", 2)
    rows = run(Bench(["tiny"], only=["whole"], steps=40, rounds=1)).rows
    found = {(row.path, row.size): row for row in rows}
    assert found["one sample", 1].to_sample == 1
    parts = [row.seconds for row in rows if row.path.startswith("partial PRM 2 x 2:")]
    assert len(parts) == 3 and sum(parts) == pytest.approx(found["partial PRM 2 x 2", 4].seconds)
    assert {("codec, decode", 2), ("speaker verifier, nano's", 2), ("first sound of a stream", 1)} <= set(found)
    for row in rows:
        assert row.to_sample == pytest.approx(row.seconds / found["one sample", 1].seconds) and row.seconds > 0


def test_a_model_too_large_for_a_gpu_costs_the_others_nothing(tiny, monkeypatch):
    whole = benchmark_paths.random_lm

    def random_lm(model, device):
        if model == "medium":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(model, device)

    monkeypatch.setattr(benchmark_paths, "random_lm", random_lm)
    monkeypatch.setattr(benchmark_paths, "forget", lambda: None)
    monkeypatch.setattr(benchmark_whole, "forget", lambda: None)
    monkeypatch.setattr(benchmark_whole, "BEAMS", 2)
    monkeypatch.setattr(benchmark_paths, "IGNORES_FAILURES", ("cpu", "cuda"))
    rows = run(Bench(["medium", "tiny"], [1], ["paths", "whole"], steps=4, rounds=1)).rows
    for name in ("paths", "whole"):
        for model, told in (("medium", "OutOfMemoryError: CUDA out of memory."), ("tiny", None)):
            assert {row.note for row in rows if (row.benchmark, row.model) == (name, model)} == {told}


def test_the_figure_of_a_gpu_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from llasa_lite.plots import plot_bench

    rows = [Row("paths", "m", path, n, 1.0, to_generate=2.0) for path in "ab" for n in (1, 8)]
    rows += [Row("paths", "m", "c", 1, None, note="failed")]
    rows += [Row("whole", "m", path, 1, 1.0, to_sample=share) for path, share in (("one sample", 1), ("codec", 0.1))]
    rows += [Row("whole", "n", "what comes next", 1, None, note="failed")]
    plot_bench(BenchTable(rows, "", "").to_dict()["rows"], tmp_path / "gpu.svg")
    with pytest.raises(ValueError, match="There is nothing to draw"):
        plot_bench(BenchTable([rows[4]], "", "").to_dict()["rows"], tmp_path / "none.svg")
    assert "one sample = 1" in (tmp_path / "gpu.svg").read_text() or (tmp_path / "gpu.svg").stat().st_size > 10_000


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_kept_results_say_where_they_come_from():
    rows = read_csv(RESULTS)
    assert {row["benchmark"] for row in rows} == set(benchmark.OF_THE_CPU)
    assert all(row["machine"] and row["command"].startswith("python -m llasa_lite bench") for row in rows)
    assert all(row["seconds"] is not None for row in rows)


def test_the_figure_is_drawn_from_kept_results(tmp_path):
    pytest.importorskip("matplotlib")
    from llasa_lite.plots import plot_bench

    plot_bench(read_csv(RESULTS), tmp_path / "bench.svg")
    svg = (tmp_path / "bench.svg").read_text()
    assert svg.lstrip().startswith("<?xml") and svg.count("<path") > 20
