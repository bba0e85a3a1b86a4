"""Laws of the notebooks: they run from top to bottom on nano, are saved with outputs, small, and teach as promised."""

import base64
import copy
import csv
import json
import os
import re
import shlex

import pytest
from conftest import ROOT, buzz

nbformat = pytest.importorskip("nbformat", reason="pip install llasa-lite[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="pip install llasa-lite[notebooks]")

FOLDER = ROOT / "notebooks"
NAMES = [
    "01_speak",
    "02_codec_tokens",
    "03_inference_time_scaling",
    "04_train_time_scaling",
    "05_recognition_and_self_verification",
    "06_finetune_a_voice",
    "07_evaluate",
]
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))}
REPOSITORY = re.search(r'^Repository = "https://github.com/(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
MAX_BYTES = 2e6
MAX_LINES = 10  # of a code cell, blank ones not counted
MINUTES = 8  # after which a cell counts as hanging: idle cores need less than one for a whole notebook

every = pytest.mark.parametrize("name", BOOKS)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tagged(book, tag):
    (cell,) = [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]
    return cell


def solutions(book):
    """Python of the folded solutions."""
    told = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    return [block for folded in re.findall(r"<details>.*?</details>", told, re.S) for block in python_of(folded)]


def python_of(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def printed(book):
    """(cell source, text) of whatever a reader sees as text."""
    for cell in code(book):
        for output in cell.outputs:
            if output.output_type == "stream":
                yield cell.source, output.text
            elif output.output_type == "error":
                yield cell.source, "\n".join(output.traceback)
            else:
                yield cell.source, "\n".join(v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def assert_clean(book):
    for cell in code(book):
        for output in cell.outputs:
            assert output.output_type != "error", f"{output.ename}: {output.evalue}\n{cell.source}"
            if output.get("name") == "stderr":  # but for what Trainer says of quick disks
                said = [line for line in output.text.splitlines() if "mtime may not be reliable" not in line]
                assert not said, f"on stderr: {said[:5]}\n{cell.source}"
    for source, text in printed(book):
        assert "Traceback (most recent call last)" not in text, f"{text[:500]}\n{source}"
        assert not re.search(r"\w+Warning:", text), f"{text[:500]}\n{source}"


def run(book, folder, monkeypatch):
    """A copy, executed where nothing can be left behind in the repository."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads on two busy cores take ten times as long as one
    book = copy.deepcopy(book)
    for cell in code(book):
        cell.outputs = []
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=60 * MINUTES, resources=resources, coalesce_streams=True).execute()
    return book


# -- they run --------------------------------------------------------------------------------------------------------


@every
def test_runs_from_top_to_bottom_with_its_solutions(name, tmp_path, monkeypatch):
    book = copy.deepcopy(BOOKS[name])
    book.cells += [nbformat.v4.new_code_cell(block) for block in solutions(book)]
    done = run(book, tmp_path, monkeypatch)
    assert_clean(done)
    assert all(cell.execution_count for cell in code(done))


@pytest.mark.parametrize("name", [n for n in BOOKS if any('MODE != "replay"' in c.source for c in code(BOOKS[n]))])
def test_replays_without_measuring(name, tmp_path, monkeypatch):
    book = copy.deepcopy(BOOKS[name])
    tagged(book, "parameters").source = tagged(book, "parameters").source.replace("small", "replay", 1)
    assert_clean(run(book, tmp_path, monkeypatch))


# -- as they are saved -----------------------------------------------------------------------------------------------


def test_there_are_no_others():
    assert list(BOOKS) == NAMES


@every
def test_saved_with_outputs(name):
    cells = code(BOOKS[name])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not run in one go"
    kinds = {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert_clean(BOOKS[name])


def rows_of(file):
    with (ROOT / "llasa_lite" / file).open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def percent(row):
    wer, low, high = (100 * float(row[key]) for key in ("wer", "wer_low", "wer_high"))
    return f"{wer:.1f} ({low:.1f} to {high:.1f})"


def test_results_that_ship_are_saved_as_they_are_now():
    """Notebooks show files of the package: what was measured again has to be shown again."""
    shown = {name[:2]: "\n".join(text for _, text in printed(book)) for name, book in BOOKS.items()}
    search, asr = rows_of("results/search.csv"), rows_of("nano/results/asr.csv")
    most = max(int(row["n"]) for row in search)
    for row in search:
        if row["method"] != "best_of_n" or int(row["n"]) == most:
            name = f"{row['method']} {row['n']} x {row['branch']}, {row['chooser']}"
            assert f"| **{name}** | {row['sentences']} | {percent(row)} |" in shown["03"]
    oracle = {int(row["n"]): 100 * float(row["wer"]) for row in search if row["chooser"] == "oracle"}
    first, last = oracle[1] - oracle[2], oracle[most // 4] - oracle[most]
    told = f"its first doubling saves {first:.1f} points of word errors, the last two together {last:.1f}."
    assert any(told in cell.source for cell in BOOKS["03_inference_time_scaling"].cells)
    before, after = (
        {key: 100 * float(row[key]) for key in ("wer", "recognised")}
        for row in rows_of("nano/results/seed-tts-eval.csv")[:2]
    )
    told = (
        f"{before['wer']:.1f} % of the words before the codec and {after['wer']:.1f} % after it; the right voice of 34 "
        f"is the nearest in {before['recognised']:.0f} % before and in {after['recognised']:.0f} % after."
    )
    assert any(told in cell.source for cell in BOOKS["02_codec_tokens"].cells)
    assert f"| **nano** | {asr[0]['n']} | {percent(asr[0])} |" in shown["05"]
    for row in rows_of("results/search_agreement.csv"):
        rho, low, high = (float(row[key]) for key in ("spearman", "low", "high"))
        line = f"{row['verifier']:39} against {row['judge']:11} {rho:.2f} ({low:.2f} to {high:.2f})"
        assert line in shown["05"]
    for row in rows_of("results/ladder.csv"):
        assert f"held out {float(row['held_out']):.3f}  WER {float(row['wer']):.2f}" in shown["04"]
    for task in ("seed-tts-eval", "continuation"):
        table = (ROOT / "llasa_lite" / "nano" / "results" / f"{task}.md").read_text(encoding="utf-8")
        for line in re.findall(r"^\| \*\*.*", table, re.M):
            assert line in shown["07"]


@every
def test_small_and_free_of_this_machine(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < MAX_BYTES
    held = path.read_text(encoding="utf-8")
    assert str(ROOT) not in held
    for _, text in printed(BOOKS[name]):
        shown = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
        assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|usr|mnt|opt|Users)/", shown), shown[:500]


@every
def test_opens_with_badge_goal_minutes_and_hardware(name):
    book = BOOKS[name]
    first = book.cells[0].source
    assert f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb" in first
    for word in ("**Goal**", "**Minutes**", "**Hardware**"):
        assert word in first
    assert REPOSITORY in tagged(book, "install").source
    assert re.match(r'MODE = "small"', tagged(book, "parameters").source)
    assert book.cells.index(tagged(book, "install")) < book.cells.index(tagged(book, "parameters")) < 5


@every
def test_cells_are_short_and_explained(name):
    book = BOOKS[name]
    for cell in code(book):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= MAX_LINES, cell.source
    told = sum(cell.cell_type == "markdown" for cell in book.cells)
    assert told >= len(code(book)) / 2


@every
def test_three_exercises_with_folded_solutions(name):
    told = "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")
    exercises = told.partition("## Exercises")[2]
    assert exercises.count("<details>") == exercises.count("</details>") == 3
    assert exercises.count("<summary>") == 3


@every
def test_defines_nothing_that_the_library_has(name):
    import ast

    public = {
        node.name
        for path in (ROOT / "llasa_lite").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    for cell in code(BOOKS[name]):
        assert not public & set(re.findall(r"^(?:def|class) (\w+)", cell.source, re.M)), cell.source


@every
def test_commands_of_the_notebooks_are_understood(name):
    from llasa_lite.cli import parser

    told = "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown").replace("\\\n", "")
    for line in re.findall(r"^(?:llasa-lite|python -m llasa_lite) (.+)$", told, re.M):
        assert callable(parser().parse_args(shlex.split(line, comments=True)).handler)


def test_the_list_names_every_notebook():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert name in listed
    for name in BOOKS:
        assert f"({name}.ipynb)" in listed


def test_notebooks_are_json_as_jupyter_writes_it():
    for name in BOOKS:
        text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
        nbformat.validate(json.loads(text))
        assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == text


# -- what they show with ---------------------------------------------------------------------------------------------


def test_a_player_holds_its_clips_in_a_quarter_of_a_wave():
    from llasa_lite import audio, plots

    wav = buzz(1.5)
    shown = plots.player({"<one>": wav, "two": wav[:8000]}).data
    assert "&lt;one&gt;" in shown and shown.count("<audio controls") == 2
    held = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", shown)]
    assert len(held[0]) < len(wav) * 2 / 4
    for data, length in zip(held, (len(wav), 8000)):
        assert abs(len(audio.load(data)) - length) < 0.1 * audio.SAMPLE_RATE  # MP3 comes in frames


def test_a_bar_gives_back_what_it_counts():
    from llasa_lite import plots

    assert list(plots.progress(range(3), "items")) == [0, 1, 2]
    assert list(plots.progress(iter("ab"), total=2)) == ["a", "b"]


def test_controls_call_their_function_when_the_button_is_pressed(monkeypatch):
    import ipywidgets

    from llasa_lite import plots

    shown, boxes, called, interactive = [], [], [], ipywidgets.interactive
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw=False: shown.append(bundle))
    monkeypatch.setattr(ipywidgets, "interactive", lambda *a, **k: boxes.append(interactive(*a, **k)) or boxes[-1])
    plots.controls(lambda n, by: called.append((n, by)), n=(1, 8), by=["asr", "speaker"])
    assert called == [] and "n, by" in shown[0]["text/plain"]
    n, by, button, *_ = boxes[0].children
    n.value = 3
    button.click()
    assert called == [(3, "asr")]


def test_what_was_typed_into_a_control_and_cannot_be_done_is_a_sentence(monkeypatch, capsys):
    import ipywidgets

    from llasa_lite import plots

    def refuse(text):
        raise ValueError("There is no text to speak.")

    boxes, interactive = [], ipywidgets.interactive
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw=False: None)
    monkeypatch.setattr(ipywidgets, "interactive", lambda *a, **k: boxes.append(interactive(*a, **k)) or boxes[-1])
    plots.controls(refuse, text="")
    boxes[0].children[1].click()
    assert capsys.readouterr().out.endswith("There is no text to speak.\n")
