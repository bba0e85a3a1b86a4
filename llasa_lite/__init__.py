"""Llasa: text-to-speech as one plain Llama, slim and runnable. See README.md.

Importing this package is quick and changes nothing global; torch is loaded, and told how to wait, when `Llasa` or a
part of it is asked for.
"""

import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # what `__getattr__` gives, where type checkers and editors can see it
    from . import audio as audio
    from .checkpoints import CHECKPOINTS as CHECKPOINTS
    from .checkpoints import Checkpoint as Checkpoint
    from .checkpoints import NotReachable as NotReachable
    from .codec import Codec as Codec
    from .engine import Engine as Engine
    from .engine import Sampling as Sampling
    from .pipeline import Llasa as Llasa
    from .pipeline import Stopped as Stopped
    from .search import SEARCH_METHODS as SEARCH_METHODS
    from .search import Candidate as Candidate
    from .search import Extended as Extended
    from .search import Finished as Finished
    from .search import Pruned as Pruned
    from .search import Scored as Scored
    from .search import SearchSettings as SearchSettings
    from .speech import Speech as Speech
    from .speech import Transcript as Transcript
    from .text_search import Search as Search
    from .text_search import SearchResult as SearchResult
    from .verifiers import VERIFIERS as VERIFIERS
    from .voices import Voice as Voice
    from .voices import builtin_voices as builtin_voices

_PUBLIC = {
    "Llasa": "pipeline",
    "Stopped": "pipeline",
    "Speech": "speech",
    "Transcript": "speech",
    "Voice": "voices",
    "builtin_voices": "voices",
    "Codec": "codec",
    "Engine": "engine",
    "Sampling": "engine",
    "Search": "text_search",
    "SearchResult": "text_search",
    "SearchSettings": "search",
    "SEARCH_METHODS": "search",
    "Candidate": "search",
    "Extended": "search",
    "Scored": "search",
    "Pruned": "search",
    "Finished": "search",
    "VERIFIERS": "verifiers",
    "CHECKPOINTS": "checkpoints",
    "Checkpoint": "checkpoints",
    "NotReachable": "checkpoints",
}
_MODULES = ("audio", "receipts")
_WITH_TORCH = ("pipeline", "codec", "engine", "text_search")
__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str):
    from importlib import import_module

    if name in _PUBLIC:
        if _PUBLIC[name] in _WITH_TORCH:
            _wait_less()
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'llasa_lite' has no attribute '{name}'")


def _wait_less() -> None:
    """Before torch is loaded: its threads (on Linux GNU's OpenMP) wait for each other awake, some 300,000 turns, and
    may keep the one that they wait for from its core. On two cores beside one busy program nano made 0.11 s of speech
    in a second; so it makes 1.6 s, and where both cores are free 2.6 instead of 3.3 s. Whoever has told OpenMP how to
    wait is left alone."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __dir__():
    return sorted(__all__)
