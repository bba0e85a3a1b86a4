"""Llasa: text-to-speech as one plain Llama, slim and runnable. See README.md.

Importing this package is quick and changes nothing global; torch is loaded when a model is.
"""

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
__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str):
    from importlib import import_module

    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'llasa_lite' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
