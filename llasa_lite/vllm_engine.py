"""The engine's calls on vLLM, in this process or over its OpenAI-compatible server. Token ids in, token ids out.

    export VLLM_USE_V2_MODEL_RUNNER=0
    python -m vllm.entrypoints.openai.api_server --model HKUSTAudio/Llasa-1B --max-model-len 2048 --skip-tokenizer-init
    python -m llasa_lite speak "Hello there." --model llasa-1b --vllm http://localhost:8000

    llasa = connect("llasa-1b", "http://localhost:8000")       # or connect("llasa-1b", tensor_parallel_size=2)

For those who outgrow one GPU: batching across requests, paged memory, tensor and data parallelism are vLLM's. A row is
asked for again with all it has said so far, which vLLM's prefix cache makes cheap, so that beams can be selected and
forked as on our own engine. What differs: rows that fall silent or repeat themselves are cut there only after vLLM has
made the rest, and log-probabilities are over the whole vocabulary. Greedy ids are the same; sampled ones come from the
same distribution, by other random numbers, drawn anew at every `advance`.

vLLM's second model runner, which newer versions take on GPUs by themselves, dies of more than 1,024 allowed ids, and
speech has 65,537: hence the variable. On a CPU, give the server --no-enable-chunked-prefill: vLLM 0.32 dies there of a
seeded row whose prompt it cuts.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from .checkpoints import CHECKPOINTS, described, find, load_codec, pick_device, pick_dtype, reaching
from .engine import DEFAULT_PATIENCE, RUNNING, AnyEngine, Beams, Hypothesis, Patience, Sampling

HTTP_SECONDS = 600.0  # for one request, waiting in vLLM's queue included
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"  # environment variable of vLLM: 0 for the first runner, see above
AT_ONCE = 64  # requests of one call that are under way together
BESIDE_BYTES = 2.5e9  # of GPU memory that vLLM in this process leaves to CUDA itself and to the codec at work


class Unanswered(ValueError):
    """The server is not there or refuses: nothing that whoever asked for speech could mend."""


@dataclass(frozen=True)
class Answer:
    """What one row got: new ids, END not included, and the log-probabilities of those and of END."""

    ids: list[int]
    log_probabilities: list[float]
    ended: bool


class Server:
    """vLLM behind HTTP.

    Args:
        url: of the server, "http://localhost:8000".
        key: sent as bearer token, if the server wants one; left out: what VLLM_API_KEY says.
    Raises:
        Unanswered: nothing answers there, or it serves no model.
    """

    dtype = "vllm server"

    def __init__(self, url: str, key: str | None = None):
        self.url, key = url.rstrip("/").removesuffix("/v1"), key or os.environ.get("VLLM_API_KEY")
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.model = self._send(lambda told: told["data"][0]["id"], "/v1/models")

    def complete(self, prompts: list[list[int]], settings: list[dict]) -> list[Answer]:
        """One answer a prompt, all asked for together."""
        with ThreadPoolExecutor(min(AT_ONCE, len(prompts))) as pool:
            return list(pool.map(self._one, prompts, settings))

    def _one(self, prompt: list[int], settings: dict) -> Answer:
        body = {"model": self.model, "prompt": prompt, "logprobs": 0, "return_token_ids": True}
        body |= {"return_tokens_as_token_ids": True, "ignore_eos": True} | settings
        allowed = _written(tuple(body.pop("allowed_token_ids")))
        asked = f'{json.dumps(body)[:-1]}, "allowed_token_ids": {allowed}}}'

        def made(told) -> Answer:
            choice = told["choices"][0]
            return _answer(choice["token_ids"], choice["logprobs"]["token_logprobs"], settings["stop_token_ids"][0])

        return self._send(made, "/v1/completions", asked.encode())

    def _send(self, read: Callable, path: str, body: bytes | None = None):
        """What `read` finds in the server's answer to a body, or to none. Raises Unanswered."""
        try:
            with urlopen(Request(self.url + path, body, self.headers), timeout=HTTP_SECONDS) as answer:
                said = answer.read()
        except HTTPError as error:
            told = f"vLLM at {self.url} refused with {error.code}: {error.read(300).decode(errors='replace')}"
            if error.code >= 500:
                told += f" Was it started with {RUNNER}=0? Otherwise it dies of so many allowed ids."
            raise Unanswered(told) from error
        except (OSError, HTTPException, ValueError) as error:
            raise Unanswered(f"No vLLM answers at {self.url}: {getattr(error, 'reason', error)}.") from error
        try:
            return read(json.loads(said))
        except (ValueError, LookupError, TypeError) as error:
            told = f"What answers at {self.url} is no vLLM that serves a model and tells the ids of its tokens."
            raise Unanswered(told) from error


@lru_cache(maxsize=4)
def _written(ids: tuple[int, ...]) -> str:
    """The same half megabyte in every request, written once."""
    return json.dumps(ids, separators=(",", ":"))


class InProcess:
    """vLLM in this process, for one caller at a time. Arguments go to `vllm.LLM` (tensor_parallel_size,
    gpu_memory_utilization ...)."""

    def __init__(self, source: str, max_ids: int, **arguments):
        try:
            import vllm
        except ModuleNotFoundError as error:
            raise ValueError("There is no vLLM here: pip install vllm, or give the address of a server.") from error
        os.environ.setdefault(RUNNER, "0")
        self.params, self.turn = vllm.SamplingParams, threading.Lock()
        defaults = {"max_model_len": max_ids, "skip_tokenizer_init": True, "enable_prefix_caching": True}
        self.llm = vllm.LLM(source, **defaults | arguments)
        self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def complete(self, prompts: list[list[int]], settings: list[dict]) -> list[Answer]:
        params = [self.params(logprobs=0, ignore_eos=True, detokenize=False, **s) for s in settings]
        with self.turn:  # of two callers the first would be handed the other's answers too
            made = self.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        answers = []
        for out, s in zip(made, settings):
            ids = list(out.outputs[0].token_ids)
            logs = [place[token].logprob for place, token in zip(out.outputs[0].logprobs, ids)]
            answers.append(_answer(ids, logs, s["stop_token_ids"][0]))
        return answers


def _answer(ids: list[int], logs: list[float], end: int) -> Answer:
    ended = bool(ids) and ids[-1] == end
    return Answer(ids[: len(ids) - ended], logs, ended)


class VllmEngine(AnyEngine):
    """Takes the place of `Engine`, with the same errors; guidance and a repetition penalty are refused too.

    Args:
        vllm: a `Server` or an `InProcess`.
        answers: as of `Engine`: for each kind of answer the ids that may be sampled, its END first.
        max_ids: ids of prompt and answer together.
        patience: as of `Engine`; what vLLM made beyond it is thrown away.
    """

    def __init__(
        self,
        vllm: Server | InProcess,
        answers: dict[str, Sequence[int]],
        max_ids: int,
        patience: Patience = DEFAULT_PATIENCE,
    ):
        self.vllm, self.max_ids, self.patience = vllm, max_ids, patience
        self.answers = {name: [int(i) for i in ids] for name, ids in answers.items()}
        self.device, self.dtype = "vllm", vllm.dtype  # what receipts say of an engine

    def _beams(self, prompts, n, answer, sampling, seeds, limits, unconditional) -> VllmBeams:
        if sampling.repetition_penalty > 1:
            raise ValueError("With vLLM the repetition penalty must be 1: it would punish the ids of the voice too.")
        if sampling.guided:
            raise ValueError("With vLLM guidance must be 1: it has no second prompt to compare with.")
        return VllmBeams(self, [list(map(int, prompt)) for prompt in prompts], n, answer, sampling, seeds, limits)

    def likeliest(
        self, prompt_ids, width: int, answer: str = "text", max_new: int = 1024, within: float = 0.0
    ) -> list[Hypothesis]:
        """As `Engine.likeliest` of width 1, whatever the width: vLLM's beams know no `allowed_token_ids`."""
        beams = self.start(prompt_ids, 1, answer, Sampling(temperature=0), 0, max_new)
        beams.advance(beams.max_new)
        return [Hypothesis(beams.ids[0], beams.log_probabilities[0], beams.stopped[0])]


class VllmBeams(Beams):
    """`Beams` whose rows are their ids, and nothing else: vLLM reads them again at every `advance`."""

    def _open(self, prompts, n: int) -> None:
        pass

    def _keep(self, rows: list[int]) -> None:
        pass

    def advance(self, steps: int = 1) -> list[list[int]]:
        """Sample up to `steps` ids in every running row; returns the new ids of each row (shorter where it stopped).

        Raises:
            Unanswered: vLLM is not there, refuses, or broke off a request before it made anything.
        """
        before = [len(ids) for ids in self.ids]
        rows = [row for row, stopped in enumerate(self.stopped) if stopped == RUNNING]
        settings = [self._settings(row, steps) for row in rows]
        prompts = [self.prompts[row] + self.ids[row] for row in rows]
        for row, answer in zip(rows, self.engine.vllm.complete(prompts, settings) if rows else ()):
            if not answer.ids and not answer.ended:  # who goes on until a row has stopped would ask for ever
                raise Unanswered(
                    "vLLM broke off a request before it made anything, as it does when it is shut down or put to "
                    "sleep. Try again when it is back."
                )
            said = [(1, token) for token in answer.ids] + [(0, -1)] * answer.ended  # to `_hear` 0 is END
            for (choice, token), log in zip(said, answer.log_probabilities, strict=True):
                if not self._hear(row, choice, token, log):
                    break
        return [ids[start:] for ids, start in zip(self.ids, before)]

    def _settings(self, row: int, steps: int) -> dict:
        allowed = self.engine.answers[self.answer]
        return {
            "max_tokens": min(steps, self.limits[row] - len(self.ids[row])),
            "min_tokens": 0 if self.ids[row] else 1,  # an answer of nothing is never what was asked for
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k or -1,
            "repetition_penalty": 1.0,  # a server takes what is not said from the checkpoint's generation config
            "min_p": 0.0,
            "seed": int(self.streams[row].integers(2**31)),
            "stop_token_ids": allowed[:1],
            "allowed_token_ids": allowed,
        }


def connect(model=None, url: str | None = None, codec: str | None = None, device: str | None = None, **arguments):
    """A `Llasa` whose language model runs on vLLM; only tokenizer and codec are loaded here.

    Args:
        model, codec, device: as of `Llasa.from_pretrained`; `device` is the codec's.
        url: of a running server; None starts vLLM in this process.
        arguments: to `Server` (key) or, in process, to `vllm.LLM`.
    Raises:
        ValueError: as `Llasa.from_pretrained`; no server there, or no vLLM here.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from .pipeline import Llasa, patience_with
    from .tokens import Protocol

    checkpoint = find(model)
    hub = checkpoint.hub
    with reaching(checkpoint.source, checkpoint.revision):
        protocol = Protocol(AutoTokenizer.from_pretrained(checkpoint.source, **hub))
        config = AutoConfig.from_pretrained(checkpoint.source, **hub)
        sampling = Sampling.of(config, GenerationConfig.from_pretrained(checkpoint.source, **hub))
        sampling = replace(sampling, guidance=1.0)  # vLLM has none
    if (facts := getattr(config, "llasa", None)) and checkpoint.name not in CHECKPOINTS:
        checkpoint = described(checkpoint.name, checkpoint.source, facts)
    device = pick_device(device)
    own_codec = load_codec(str(codec or checkpoint.codec), device, pick_dtype(device, "float32"))
    if url is None and device.startswith("cuda"):
        import torch

        # left to itself it takes 92 % of a GPU, and will not start where the codec leaves less
        free, total = torch.cuda.mem_get_info(device)
        arguments.setdefault("gpu_memory_utilization", min(0.9, (free - BESIDE_BYTES) / total))
    vllm = Server(url, **arguments) if url else InProcess(checkpoint.source, checkpoint.context, **hub, **arguments)
    answers = {"speech": protocol.speech_ids(), "text": protocol.text_ids()}
    engine = VllmEngine(vllm, answers, checkpoint.context, patience_with(protocol, own_codec))
    return Llasa(checkpoint, protocol, engine, own_codec, sampling)
