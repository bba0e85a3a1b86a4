"""Laws of what is written about the public API: its types are seen by a type checker, its examples run."""

import doctest
import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, buzz

import llasa_lite
from llasa_lite import audio


def test_type_checkers_see_what_is_public():
    source = (ROOT / "llasa_lite" / "__init__.py").read_text()
    seen = {name: module for module, name in re.findall(r"^    from \.(\w+) import (\w+) as \2$", source, re.M)}
    assert seen == llasa_lite._PUBLIC
    assert (ROOT / "llasa_lite" / "py.typed").is_file()


def test_the_public_api_is_typed(tmp_path):
    pytest.importorskip("mypy", reason="pip install mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted({"text", *llasa_lite._PUBLIC.values(), *llasa_lite._MODULES}))
def test_examples_in_docstrings_run(name, nano, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio.save(buzz(1.5), "me.wav")
    module = importlib.import_module(f"llasa_lite.{name}")
    for test in doctest.DocTestFinder().find(module, extraglobs={"llasa": nano, "np": np}):
        assert not doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed, test.name
