"""Names people type -> where weights are, under which licence; loading; clear words when it cannot be done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

NANO = Path(__file__).parent / "nano"  # ships with the package: lm/, codec/, voices/
MAX_FINGERPRINTED = 100e6  # bytes: some 50 ms of reading
PLAIN_GIT = "9MB"  # of a file of weights: the hub takes up to 10 without LFS

BUILT_IN = "The built-in model works offline: leave the model out, or say 'nano'."
NONE_BUILT_IN = "Fetch it once where the hub can be reached, or give a folder that holds it."
CC_BY_NC = "CC BY-NC 4.0"
RELEASED_CODEC = "HKUSTAudio/xcodec2-hf"
RELEASED_CODEC_REVISION = "64bd034d12d441299cdd535b15c33efd6ccdf252"  # as preloaded in spaces/zerogpu


@dataclass(frozen=True)
class Checkpoint:
    """A language model and what one must know to use it."""

    name: str  # short name
    source: str  # local folder or hub id
    codec: str  # "nano", local folder or hub id
    licence: str
    languages: tuple[str, ...]
    parameters: str
    gigabytes: float  # of GPU memory in 16 bit, codec included
    tasks: tuple[str, ...] = ("tts",)  # "asr" too where it was trained to read speech back
    chunk_chars: int = 100  # longer text is cut (the paper's rule; `text.HAN_CHARS` of them are one Chinese character)
    chunk_seconds: float = 25.0  # what a chunk may take before it is stopped
    context: int = 2048  # ids of prompt and answer together, as trained; the configs promise Llama's 131,072
    spell_out: bool = False  # numbers and abbreviations are put into words before it reads them (`text.spell_out`)
    speakers: tuple[str, ...] | None = ()  # names that it was finetuned on; None: nobody wrote them down
    revision: str | None = None
    note: str = ""  # what a user should know before relying on it

    @property
    def can_transcribe(self) -> bool:
        return "asr" in self.tasks

    @property
    def hub(self) -> dict:
        """What `from_pretrained` is given beside the source."""
        return {"revision": self.revision} if self.revision else {}


def _hkust(name, repo, languages, parameters, gigabytes, **more) -> Checkpoint:
    return Checkpoint(name, f"HKUSTAudio/{repo}", RELEASED_CODEC, CC_BY_NC, languages, parameters, gigabytes, **more)


_ZH_EN = ("zh", "en")
_MANY = ("zh", "en", "de", "fr", "ja", "ko", "nl", "es", "it", "pt", "pl")

CHECKPOINTS: dict[str, Checkpoint] = {
    c.name: c
    for c in (
        Checkpoint(
            "nano",
            str(NANO / "lm"),
            "nano",
            "Apache-2.0",
            ("en",),
            "8M",
            0.1,
            ("tts", "asr"),
            chunk_chars=80,
            chunk_seconds=8.0,
            context=1024,
            spell_out=True,
            note="Small, English only: one word in ten is not understood, after a person's clip more (a search finds "
            "clearer takes), and transcripts need correcting.",
        ),
        _hkust("llasa-1b", "Llasa-1B", _ZH_EN, "1B", 6),
        _hkust("llasa-3b", "Llasa-3B", _ZH_EN, "3B", 10),
        _hkust("llasa-8b", "Llasa-8B", _ZH_EN, "8B", 20),
        _hkust(
            "llasa-1b-multilingual",
            "Llasa-1B-Multilingual",
            _MANY,
            "1B",
            6,
            revision="7f094cb62b0a9779b334c60d039a61c5a6e04456",  # as preloaded in spaces/zerogpu
        ),
        _hkust("llasa-1b-kore-puck", "Llasa-1B-two-speakers-kore-puck", _ZH_EN, "1B", 6, speakers=("kore", "puck")),
        _hkust(
            "llasa-1b-genshin",
            "Llasa-1B-multi-speakers-genshin-zh-en-ja-ko",
            ("zh", "en", "ja", "ko"),
            "1B",
            6,
            speakers=None,
        ),
        _hkust("llasa-3b-textchat", "Llasa-3B-Preserve-TextChat", _ZH_EN, "3B", 10),
    )
}


# What the released checkpoints are made of: Llama 3.2 1B and 3B, Llama 3.1 8B, with Llasa's rows added.
_LLAMA = dict(vocab_size=193_800, num_key_value_heads=8)
SHAPES: dict[str, dict] = {
    "llasa-1b": _LLAMA
    | dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, head_dim=64)
    | dict(tie_word_embeddings=True),
    "llasa-3b": _LLAMA
    | dict(hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, head_dim=128)
    | dict(tie_word_embeddings=True),
    "llasa-8b": _LLAMA
    | dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, head_dim=128)
    | dict(tie_word_embeddings=False),
}
CODEC_GIGABYTES = 2.5  # X-codec2's weights, in float32
SPEECH_CHOICES = 65_537  # codes and END: the rows of the head that the engine copies


def memory_needed(shape: dict, rows: int = 1, ids: int = 2048, itemsize: int = 2) -> float:
    """Gigabytes (10^9) that a language model takes on a GPU; the codec comes on top (`CODEC_GIGABYTES`).

    Counted, not measured: weights, the speech rows of the head a second time, the cache of every row up to its last
    id, and the float32 copies of its logits while it draws. CUDA itself takes half a gigabyte more.

    Args:
        shape: a value of `SHAPES`.
        rows: side by side; the engine takes the next power of two.
        ids: of prompt and answer together.
        itemsize: bytes of a number: 2 for bfloat16 and float16, 4 for float32.
    """
    hidden, heads, kv = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    rows = 1 << (rows - 1).bit_length()
    attention = hidden * shape["head_dim"] * 2 * (heads + kv)
    layers = shape["num_hidden_layers"] * (attention + 3 * hidden * shape["intermediate_size"])
    head = hidden * (shape["vocab_size"] * (1 if shape["tie_word_embeddings"] else 2) + SPEECH_CHOICES)
    cache = shape["num_hidden_layers"] * 2 * kv * shape["head_dim"] * ids * rows
    return ((layers + head + cache) * itemsize + 8 * rows * SPEECH_CHOICES * 4) / 1e9


class NotReachable(ValueError):
    """Weights that are neither here nor to be had from the hub now."""


def find(name: str | None) -> Checkpoint:
    """What a name stands for: nothing (nano), a short name, a hub id, or a folder with a checkpoint.

    A checkpoint trained by this library says in its config, under "llasa", which codec and tasks it has;
    others are taken for the released kind: speech only, X-codec2.

    Raises:
        ValueError: neither known, nor a folder, nor of the form of a hub id.
    """
    if name is None:
        return CHECKPOINTS["nano"]
    name = str(name)
    if name.lower() in CHECKPOINTS:
        return CHECKPOINTS[name.lower()]
    for checkpoint in CHECKPOINTS.values():
        # "HKUST-Audio", too, under which the authors first published, and as their training repository has it
        if checkpoint.source.lower() == name.lower().replace("hkust-audio/", "hkustaudio/"):
            return checkpoint
    path = Path(name)
    if os.path.isdir(name):  # false, too, for what can be no name of a file
        config = path / "config.json"
        if not config.is_file():
            raise ValueError(f"The folder '{name}' holds no checkpoint: there is no config.json in it.")
        try:
            facts = json.loads(config.read_text(encoding="utf-8")).get("llasa", {})
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{config}' is not a model configuration.") from error
        called = Path(os.path.abspath(path)).name  # of "." too
        # receipts tell a known checkpoint by its short name, and a folder by its path
        return described(str(path) if called in CHECKPOINTS else called, str(path), facts)
    if name.count("/") == 1 and not os.path.exists(name) and all(name.split("/")):
        return described(name, name, {})
    raise ValueError(
        f"Unknown model '{name[:99]}'. Choose from: {', '.join(CHECKPOINTS)}; or a hub id (owner/name) or a folder."
    )


def find_described(name: str | None) -> Checkpoint:
    """As `find`, and of a checkpoint of the hub what its own config says, too. Raises NotReachable where it is not to
    be had."""
    checkpoint = find(name)
    if checkpoint.name in CHECKPOINTS or Path(checkpoint.source).is_dir():
        return checkpoint
    from transformers import AutoConfig  # takes a second, which what lies here need not wait for

    with reaching(checkpoint.source):
        facts = getattr(AutoConfig.from_pretrained(checkpoint.source), "llasa", None)
    return described(checkpoint.name, checkpoint.source, facts or {})


def config_facts(checkpoint: Checkpoint, tasks: Sequence[str] | None = None) -> dict:
    """The "llasa" entry for the config of a checkpoint trained from this one: what `described` reads."""
    names = ("codec", "licence", "chunk_chars", "chunk_seconds", "context", "spell_out")
    told = {name: getattr(checkpoint, name) for name in names}
    lists = {"tasks": list(tasks or checkpoint.tasks), "languages": list(checkpoint.languages)}
    return told | lists | ({} if checkpoint.speakers is None else {"speakers": list(checkpoint.speakers)})


def described(name: str, source: str, facts: dict) -> Checkpoint:
    """A checkpoint from the "llasa" entry of its own config; what that does not say is as in the released ones."""
    unknown = dict(codec=RELEASED_CODEC, licence="see its model card", languages=(), parameters="?", gigabytes=0.0)
    names = {field.name for field in fields(Checkpoint)} - {"name", "source", "revision", "note"}
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items() if k in names}
    return Checkpoint(name, source, **unknown | {"speakers": None} | told)


def pick_device(device: str | None = None) -> str:
    """The device asked for, else CUDA, else Apple's MPS, else the CPU. Raises ValueError where it is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device in (None, "auto"):
        return next(name for name, is_there in there.items() if is_there)
    kind, _, number = str(device).partition(":")
    if kind not in there:
        raise ValueError(f"Unknown device '{device}'. Choose from: {', '.join(there)}.")
    beyond = kind == "cuda" and number and not (number.isdecimal() and int(number) < torch.cuda.device_count())
    if not there[kind] or beyond:
        raise ValueError(f"There is no '{device}' on this machine. Use the CPU: device='cpu'.")
    return str(device)


def training_device():
    """The `torch.device` that our trainers use: CUDA, else the CPU. Not MPS, on which none of them was tried."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: str, dtype: str | None = None, small: bool = False):
    """The dtype asked for; else bfloat16 on GPUs that have it, float16 on those that do not (T4) and on MPS, and on
    the CPU float32 for small models and where bfloat16 is slow. Raises ValueError on another name."""
    import torch

    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in (None, "auto"):
        name = str(dtype).removeprefix("torch.")
        if name not in names:
            raise ValueError(f"Unknown dtype '{dtype}'. Choose from: {', '.join(names)}, and int8 on CPUs.")
        return names[name]
    if device.startswith("cuda"):
        return torch.bfloat16 if has_bf16(device) else torch.float16
    if device.startswith("mps"):
        return torch.float16
    return torch.bfloat16 if not small and cpu_has_bf16() else torch.float32


def has_bf16(device) -> bool:
    """Whether a device ("cpu", "cuda:0") multiplies bfloat16 by itself. A T4 only emulates it, and a processor without
    AVX512 is ten to eighty times slower in it than in float32 (products of nano's sizes on one with AVX2)."""
    import torch

    if (kind := torch.device(device).type) == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return kind == "cpu" and cpu_has_bf16()


def autocast(device):
    """bfloat16 autocast on a device that `has_bf16`, elsewhere nothing."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_bf16(device))


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX512-BF16, AMX, ARM's); elsewhere it is slower than
    float32. oneDNN also counts those whose AVX512 emulates it (slower, pytorch/pytorch#86550) and laptops that
    have it without gradients (#148861)."""
    import torch

    try:
        multiplies = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {"bf16": True}  # older ones
    return multiplies and any(told.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def check_repo(repo: str) -> None:
    """Raises ValueError where this is no name of a repository of the hub."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"A repository is named owner/name, not '{repo}'.")


def load_lm(checkpoint: Checkpoint, device: str, dtype):
    """Tokenizer and `LlamaForCausalLM` of a checkpoint, on its device; its "llasa" facts override the guessed ones.

    Returns:
        (tokenizer, model, checkpoint)
    Raises:
        NotReachable: not in the cache and no hub; ValueError: not a Llama.
    """
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    with reaching(checkpoint.source, checkpoint.revision):
        config = AutoConfig.from_pretrained(checkpoint.source, **checkpoint.hub)
        if config.model_type != "llama":
            raise ValueError(f"'{checkpoint.source}' is a {config.model_type} model; Llasa checkpoints are Llamas.")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **checkpoint.hub)
        given = {"config": config, "dtype": dtype, "use_safetensors": True}  # other files may hold code
        model = LlamaForCausalLM.from_pretrained(checkpoint.source, **given, **checkpoint.hub)
    model = placed(model, device, checkpoint.name)
    facts = getattr(config, "llasa", None)
    if facts and checkpoint.name not in CHECKPOINTS:
        checkpoint = described(checkpoint.name, checkpoint.source, facts)
    return tokenizer, model, checkpoint


def placed(model, device: str, name: str):
    """A model on its device. Raises ValueError where it does not fit."""
    try:
        return model.to(device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ValueError(
            f"'{name}' does not fit into the memory of '{device}': its weights alone take "
            f"{sum(p.nbytes for p in model.parameters()) / 1e9:.1f} GB. Use a smaller checkpoint, or the CPU."
        ) from None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory is short, or came while one that does was on its way.

    torch.OutOfMemoryError is raised for tensors of CUDA alone. What a Mac's GPU raises, and CUDA itself where it lacks
    memory for a graph or a kernel, has no type of its own; and a capture that breaks off may end in another error.
    """
    while error is not None:
        # cuBLAS tells of memory that it lacks for itself in words of its own
        if any(told in str(error).lower() for told in ("out of memory", "cublas_status_alloc_failed")):
            return True
        error = error.__context__
    return False


def codec_source(name: str) -> str:
    return str(NANO / "codec") if name == "nano" else name


def fingerprint(source: str) -> str | None:
    """What tells the weights in a folder from others of the same name: 12 hex digits. None for large ones, which would
    take seconds to read, and for those of the hub."""
    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    states = [(file, file.stat()) for file in files]
    if not files or sum(state.st_size for _, state in states) > MAX_FINGERPRINTED:
        return None
    return _hashed(tuple((str(file), state.st_size, state.st_mtime_ns) for file, state in states))


@lru_cache(64)
def _hashed(files: tuple[tuple[str, int, int], ...]) -> str:
    """12 hex digits of what stands in files as they are now: they may be trained anew where they lie."""
    found = hashlib.sha256()
    for name, _, _ in files:
        found.update(Path(name).read_bytes())
    return found.hexdigest()[:12]


def load_codec(name: str, device: str, dtype):
    """A codec by name: "nano", a folder or a hub id. Raises NotReachable as `load_lm` does."""
    from .codec import Codec

    source = codec_source(name)
    revision = RELEASED_CODEC_REVISION if name == RELEASED_CODEC else None
    with reaching(source, revision):
        codec = Codec.from_pretrained(source, "cpu", dtype, **({"revision": revision} if revision else {}))
    codec.model = placed(codec.model, device, name)
    codec.name = name  # as given: receipts and voices find it again by this
    return codec


def converted(source: str) -> dict:
    """What `from_pretrained` must be given to find safetensors that were fetched before for a repository whose main
    branch holds pickles alone (superb/wav2vec2-base-superb-er, facebook/hubert-large-ls960-ft): Transformers takes
    those that the hub's own converter proposed, and asks the hub each time where they are."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE, REPO_ID_SEPARATOR
    from transformers import AutoConfig

    files = ("model.safetensors", "model.safetensors.index.json")

    def is_here(revision: str) -> bool:
        return any(isinstance(try_to_load_from_cache(source, file, revision=revision), str) for file in files)

    if source.count("/") != 1 or Path(source).is_dir() or is_here("main"):
        return {}
    folder = REPO_ID_SEPARATOR.join(["models", *source.split("/")])
    for proposal in sorted(Path(HF_HUB_CACHE, folder, "refs", "refs", "pr").glob("*")):
        if is_here(revision := f"refs/pr/{proposal.name}"):
            return {"config": AutoConfig.from_pretrained(source), "revision": revision}
    return {}


class reaching:
    """Turns what goes wrong while weights are fetched into a sentence, and one that says how to go on (`instead`)."""

    def __init__(self, source: str, revision: str | None = None, instead: str = BUILT_IN):
        self.source, self.revision, self.instead = source, revision, instead

    def __enter__(self):
        """Ask the hub once, briefly, for what is not in the cache: its client itself tries for half a minute."""
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.constants import is_offline_mode
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        if Path(self.source).is_dir():
            return self
        try:
            if isinstance(try_to_load_from_cache(self.source, "config.json", revision=self.revision), str):
                return self
        except HFValidationError as error:
            raise self._sentence("there is no such folder, and it is no hub id (owner/name)") from error
        try:
            if is_offline_mode():
                raise OSError("offline mode is on")
            HfApi().model_info(self.source, timeout=5)
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            why = "the hub does not know it or wants you to log in" if status in (401, 403, 404) else "the hub failed"
            raise self._sentence(why) from error
        except Exception as error:  # which errors a lost connection raises depends on the hub client's own client
            raise self._sentence("it is not in the local cache and the hub did not answer") from error
        return self

    def __exit__(self, kind, error, trace):
        from huggingface_hub.errors import GatedRepoError

        # a plain ValueError is a sentence already; a broken file raises whatever its reader does (SafetensorError ...)
        if not isinstance(error, Exception) or kind in (ValueError, NotReachable):
            return False
        full = getattr(error, "errno", None) == 28
        why = "the disk is full" if full else "it is not in the local cache and the hub did not answer"
        if any(isinstance(one, GatedRepoError) for one in (error, error.__cause__)):  # the hub tells of it, not from it
            why = "who may have it is decided on its page: ask for access there, and log in with 'hf auth login'"
        elif Path(self.source).is_dir():
            told = (str(error).splitlines() or [kind.__name__])[0].rstrip(".")
            why = f"a file in it is missing or broken ({told})"
        elif not isinstance(error, OSError):
            why = f"what is in the local cache is broken ({kind.__name__}); delete it there and try again"
        raise self._sentence(why) from error

    def _sentence(self, why: str) -> NotReachable:
        return NotReachable(f"Cannot load '{self.source}': {why}. {self.instead}")
