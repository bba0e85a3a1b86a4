"""Llasa: text-to-speech as one plain Llama, slim and runnable. See README.md.

Importing this package is quick and changes nothing global; torch is loaded when a model is.
"""

__version__ = "0.1.0"

_PUBLIC = {
    "Llasa": "pipeline",
    "Speech": "pipeline",
    "Transcript": "pipeline",
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
