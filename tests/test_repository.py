"""Laws of the repository: what is public, what ships, what the README promises."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import CARD_MARKERS, ROOT

import llasa_lite

PACKAGE = ROOT / "llasa_lite"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "demo").glob("*.py"), ROOT / "app.py"])
README = (ROOT / "README.md").read_text()


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


# -- the package -----------------------------------------------------------------------------------------------------


def test_public_names_import():
    for name in llasa_lite.__all__:
        assert getattr(llasa_lite, name) is not None
    assert set(llasa_lite.__all__) <= set(dir(llasa_lite))
    with pytest.raises(AttributeError, match="has no attribute 'lasa'"):
        llasa_lite.lasa  # noqa: B018


def test_importing_takes_no_torch_and_changes_nothing():
    code = """
import os, sys, logging, warnings, numpy
before = dict(os.environ), list(logging.root.handlers), list(warnings.filters)
import llasa_lite, llasa_lite.cli, llasa_lite.checkpoints, llasa_lite.voices, llasa_lite.text
llasa_lite.cli.parser(), llasa_lite.CHECKPOINTS, llasa_lite.Voice, llasa_lite.Speech
heavy = {"torch", "transformers", "librosa", "gradio", "scipy"} & set(sys.modules)
assert not heavy, heavy
assert before == (dict(os.environ), list(logging.root.handlers), list(warnings.filters))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("told, turns", [("", "1000"), ("OMP_WAIT_POLICY=ACTIVE", "None"), ("GOMP_SPINCOUNT=7", "7")])
@pytest.mark.parametrize("loads", ["from llasa_lite import Llasa", "from llasa_lite.cli import main; main(['voices'])"])
def test_threads_are_told_to_wait_less_before_torch_is_loaded(loads, told, turns, monkeypatch):
    """Those of two cores, one of them busy, otherwise keep each other from speaking."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if told:
        monkeypatch.setenv(*told.split("="))
    done = python(f"import os; {loads}; print(os.environ.get('GOMP_SPINCOUNT'))")
    assert done.stdout.split()[-1] == turns, done.stderr


def test_modules_know_nothing_of_those_above_them():
    """Imports point down; what a layer needs of the layer above is passed to it. Only imports at the top count."""
    layers = "audio text tokens checkpoints codec decoder sampling beams graphs engine voices pipeline".split()
    for path in PACKAGE.glob("*.py"):
        if path.stem not in layers:
            continue
        known = set(re.findall(r"^from \.(\w+) import", path.read_text(), re.M))
        known |= {n for names in re.findall(r"^from \. import (.+)", path.read_text(), re.M) for n in names.split(", ")}
        above = set(layers[layers.index(path.stem) + 1 :]) & known
        assert not above, f"{path.name} imports {above}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_downloaded_is_executed(path):
    source = path.read_text()
    assert "trust_remote_code" not in source
    for call in re.findall(r"torch\.load\([^\n]*", source):
        assert "weights_only=True" in call
    assert not re.search(r"\bpickle\b|\beval\(|\bexec\(", source.replace("model.eval()", "").replace(".eval()", ""))


def test_markers_are_written_in_one_file_only():
    names = [re.escape(marker) for marker in CARD_MARKERS] + [r"<\|s_"]
    for path in SOURCES:
        if path.name != "tokens.py":
            assert not re.search("|".join(names), path.read_text()), path.name


def test_the_demo_uses_public_names_only():
    for path in (ROOT / "demo").glob("*.py"):
        for names in re.findall(r"^\s*from llasa_lite import ([^\n(]+|\([^)]+\))", path.read_text(), re.M):
            used = {name.split(" as ")[0].strip() for name in names.strip("()").split(",") if name.strip()}
            assert used <= set(llasa_lite.__all__), f"{path.name}: {used - set(llasa_lite.__all__)}"
        assert not re.search(r"from llasa_lite\.\w+ import|import llasa_lite\.", path.read_text()), path.name


# -- what ships ------------------------------------------------------------------------------------------------------


def test_every_file_is_below_10_megabytes_and_all_below_40():
    """What the hub takes in plain git, and what a package may weigh."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        assert path.stat().st_size < 10e6, f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB"
    assert sum(path.stat().st_size for path in files) < 40e6


def test_weights_are_safetensors():
    kinds = {path.suffix for path in (PACKAGE / "nano").rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".jinja", ".ogg", ".md", ".csv"}


def test_weights_are_finite():
    from safetensors.numpy import load_file

    files = sorted((PACKAGE / "nano").rglob("*.safetensors"))
    assert files
    for file in files:
        for name, tensor in load_file(file).items():
            assert np.isfinite(tensor).all(), f"{file.name}: {name}"


def test_configs_tell_what_the_code_says():
    """nano is loaded by name here and from its folder elsewhere: both must know the same."""
    from llasa_lite.checkpoints import CHECKPOINTS, find

    by_name, by_folder = CHECKPOINTS["nano"], find(str(PACKAGE / "nano" / "lm"))
    assert by_folder is by_name or by_folder.tasks == by_name.tasks
    facts = json.loads((PACKAGE / "nano" / "lm" / "config.json").read_text()).get("llasa")
    if facts:
        assert facts["tasks"] == list(by_name.tasks) and facts["codec"] == "nano"
        assert (facts["chunk_chars"], facts["chunk_seconds"]) == (by_name.chunk_chars, by_name.chunk_seconds)


def test_the_token_corpus_that_ships_says_whose_codes_it_holds(caplog):
    """Or a large model would learn them as its own codec's."""
    from llasa_lite.checkpoints import RELEASED_CODEC
    from llasa_lite.data import check_codec

    check_codec(PACKAGE / "nano" / "tokens.safetensors", "nano")
    assert not caplog.text
    with pytest.raises(ValueError, match="holds codes of the codec 'nano'"):
        check_codec(PACKAGE / "nano" / "tokens.safetensors", RELEASED_CODEC)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("llasa_lite-*.whl")
    return zipfile.ZipFile(wheel)


def test_the_wheel_speaks_and_has_its_app_far_from_the_repository(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = """
import sys, llasa_lite.cli as cli
assert cli._demo_package().__name__ == "llasa_lite.demo"
sys.exit(cli.main(["speak", "Oh.", "--voice", "emma", "--seed", "7", "--json"]))
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] and (tmp_path / "empty" / "out.wav").is_file()


def test_the_wheel_holds_the_model_and_the_app(wheel):
    held = set(wheel.namelist())
    shipped = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in shipped} <= held
    assert {f"llasa_lite/demo/{p.name}" for p in (ROOT / "demo").glob("*.py")} <= held
    assert {name.split("/")[0] for name in held} == {"llasa_lite", f"llasa_lite-{llasa_lite.__version__}.dist-info"}


def test_pins_lie_in_the_ranges():
    from packaging.requirements import Requirement

    text = (ROOT / "pyproject.toml").read_text()
    ranges = [Requirement(found) for found in re.findall(r'^\s*"([a-z0-9-]+[>=<].*?)",?', text, re.M)]
    ranges += [Requirement(found) for found in re.findall(r'\["([a-z0-9-]+>=[\d.]+)"\]', text)]
    wanted = {r.name: r.specifier for r in ranges}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {"torch", "transformers", "gradio", "soundfile", "librosa"} <= set(pins)
    for name, version in pins.items():
        assert wanted[name].contains(version), f"{name}=={version} is outside {wanted[name]}"


def test_what_is_built_stands_in_one_place():
    """The container and the Spaces install what the app was run with; test_spaces compares the pins themselves."""
    docker = (ROOT / "spaces" / "docker" / "Dockerfile").read_text()
    for folder in re.findall(r"^COPY (\S+) \S+$", docker, re.M):
        assert (ROOT / folder).exists(), folder
    copied = " ".join(re.findall(r"^COPY (.+) \S+$", docker, re.M)).split()
    kept = (ROOT / "spaces" / "docker" / "Dockerfile.dockerignore").read_text()
    assert {f"!{name}" for name in copied} <= set(kept.split())


def anchor(heading):
    """What GitHub names a heading by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken(page):
    """Links to files, and to headings in them, that are not there. A Space has the library's folder beside its card."""
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        name, _, part = target.partition("#")
        found = ((ROOT if page.startswith("spaces/") else (ROOT / page).parent) / name) if name else ROOT / page
        headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M) if part and found.exists() else []
        if not found.exists() or part and part not in map(anchor, headings):
            yield target


FOLDERS = ". llasa_lite/docs llasa_lite/nano llasa_lite/nano/results notebooks spaces/cpu spaces/zerogpu".split()
PAGES = sorted(page.relative_to(ROOT).as_posix() for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_links_and_commands_of_the_documents_hold(page):
    from llasa_lite.cli import parser

    assert not list(broken(page))
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^(?:\.venv/bin/)?(?:llasa-lite|python -m llasa_lite) (.+)$", text, re.M)
    for line in lines + re.findall(r"\| `llasa-lite ([^`]+)` \|", text):
        assert callable(parser().parse_args(shlex.split(line, comments=True)).handler)


# -- the README ------------------------------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_test_command_is_what_ci_runs():
    command = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()[-1]
    assert command in README and re.search(r" -m pytest( -n \d+ --dist worksteal)?$", command)  # all of the tests
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_readme_sends_people_to_this_repository():
    (repository,) = re.findall(r'^Repository = "https://github.com/(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"git clone https://github.com/{repository} " in README
    opened = re.findall(r"colab.research.google.com/github/(\S+?)\)", README)
    assert opened
    for page in opened:
        assert (ROOT / page.removeprefix(f"{repository}/blob/main/")).is_file(), page


def test_python_of_the_readme_runs(nano, voice, tmp_path, monkeypatch, capsys):
    """Every block, from top to bottom, with the session's nano in place of whatever it loads."""
    from llasa_lite import Llasa, audio

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Llasa, "from_pretrained", classmethod(lambda cls, *a, **k: nano))
    for name in re.findall(r'"(\w+\.wav)"', "".join(blocks("python"))):
        audio.save(voice.wav, name)
    names = {}
    assert blocks("python")
    for block in blocks("python"):
        if "gradio_client" in block:
            continue  # needs a running app: test_app has one
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102


def test_commands_of_the_readme_are_understood():
    from llasa_lite.cli import parser

    commands = [
        line
        for block in blocks("bash")
        for line in block.splitlines()
        if re.match(r"(python -m llasa_lite|llasa-lite) ", line)
    ]
    assert len(commands) >= 5
    for line in commands:
        arguments = shlex.split(line, comments=True)
        arguments = arguments[3:] if arguments[0] == "python" else arguments[1:]
        options = parser().parse_args(arguments)
        assert callable(options.handler)


def test_every_checkpoint_is_in_the_readme_with_its_licence():
    from llasa_lite import CHECKPOINTS

    for checkpoint in CHECKPOINTS.values():
        (line,) = [line for line in README.splitlines() if line.startswith(f"| `{checkpoint.name}`")]
        assert checkpoint.licence in line
        assert checkpoint.name == "nano" or checkpoint.source in line
