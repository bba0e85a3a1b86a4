"""Token ids in, token ids out, for any `LlamaForCausalLM`; knows nothing of text or audio.

One loop serves everything:

    beams = engine.start(prompt_ids, n=4, answer="speech")   # one prefill for n rows
    new = beams.advance(25)                                  # 25 more ids in every row
    beams.select([0, 2])                                     # keep these rows, in this order; a row may come twice
    beams.fork(8)                                            # every row becomes 8

Sampling one utterance, streaming, best-of-N and beam search are loops over these four calls; `start_batch` opens rows
of different prompts for the same loop. `likeliest` is another loop, for questions with one right answer; `weigh` says
how likely given answers are.

A row's ids depend on its prompt, its seed and its number alone, not on its neighbours: each row draws from a stream of
its own, attends over its own length, and on CPUs with packed weights even the arithmetic is the same bit for bit,
whatever its neighbours are. Two things do change the rounding: four or more rows opened on one prompt share its keys,
fewer do not; and where weights cannot be packed, a product of one row is summed otherwise than one of many. A draw that
falls that close to the border between two ids may then go the other way.

On CUDA rows live in static buffers and a step is a captured graph (`graphs`); elsewhere it is a plain loop (`beams`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from .beams import END, LENGTH, REPETITION, RUNNING, SILENCE, Beams, Patience, left_range
from .checkpoints import cpu_has_bf16
from .decoder import Decoder, Linear, Linear8, can_int8
from .graphs import StaticBeams, Stock
from .sampling import Sampling

__all__ = ["END", "LENGTH", "REPETITION", "RUNNING", "SILENCE", "Beams", "Engine", "Hypothesis", "Patience", "Sampling"]

DEFAULT_SAMPLING, DEFAULT_PATIENCE = Sampling(), Patience()
EVEN_WIDTH = 64  # the head's on a GPU is a multiple of this: 128 bytes in 16 bit
# Prompts that are worth answering side by side. More hardly gain on a CPU, and each takes memory. On CUDA a step reads
# the weights, whatever the rows: 64 of Llasa-1B, of 650 ids each, add 60 % to that (counted, not measured).
ROWS_AT_ONCE, ROWS_AT_ONCE_ON_CUDA = 16, 64
WEIGHED_AT_ONCE = 16  # rows of one pass of `weigh`: bounds memory


class Hypothesis(NamedTuple):
    """An answer: its ids without END, the log-probability of each and of END, and "end" or "length"."""

    ids: list[int]
    log_probabilities: list[float]
    stopped: str


class AnyEngine:
    """What engines do alike, ours and vLLM's: open rows. How they are held is each one's own: `_beams`."""

    max_ids: int  # of prompt and answer together
    rows_at_once = ROWS_AT_ONCE_ON_CUDA  # of many prompts, so many in a batch

    def start(
        self,
        prompt_ids: Sequence[int],
        n: int = 1,
        answer: str = "speech",
        sampling: Sampling = DEFAULT_SAMPLING,
        seed: int = 0,
        max_new: int = 1024,
        unconditional: Sequence[int] | None = None,
    ) -> Beams:
        """Read the prompt once and open n rows on it.

        Args:
            prompt_ids: (p,) ids.
            n: rows, at least 1.
            answer: which ids may follow, a key of `answers`.
            seed: row k draws from stream k of this seed, whatever n is.
            max_new: ids a row may get, 1,024 being 20 s of speech; cut down to what the context leaves.
            unconditional: the prompt without the words, which guidance compares with; read only where that is on.
        Raises:
            ValueError: no prompt, n < 1, max_new < 1, a prompt that leaves no room for an answer, or guidance without
                an unconditional prompt.
        """
        without = None if unconditional is None else [unconditional]
        return self._beams([prompt_ids], n, answer, sampling, [seed], [max_new], without)

    def start_batch(
        self,
        prompts: Sequence[Sequence[int]],
        answer: str = "speech",
        sampling: Sampling = DEFAULT_SAMPLING,
        seeds: Sequence[int] | None = None,
        max_new: Sequence[int] | None = None,
        n: int = 1,
        unconditional: Sequence[Sequence[int]] | None = None,
    ) -> Beams:
        """Open n rows on each of several prompts, side by side: rows r * n .. r * n + n - 1 are those of prompt r,
        and say what `start(prompts[r], n, seed=seeds[r], max_new=max_new[r])` would.

        Args:
            seeds: one a prompt; all 0 if left out. max_new: one a prompt; 1,024 if left out.
            unconditional: one a prompt, as in `start`.
        Raises:
            ValueError: no prompts, another number of seeds or limits than prompts, or as `start`.
        """
        seeds = [0] * len(prompts) if seeds is None else list(seeds)
        max_new = [1024] * len(prompts) if max_new is None else list(max_new)
        if not len(prompts) == len(seeds) == len(max_new) > 0:
            raise ValueError(
                f"A batch needs at least one prompt, and a seed and a limit for each; these are {len(prompts)} "
                f"prompts, {len(seeds)} seeds and {len(max_new)} limits."
            )
        return self._beams(prompts, n, answer, sampling, seeds, max_new, unconditional)

    def room(self, prompt_ids: Sequence[int]) -> int:
        """Ids an answer to this prompt may have. Raises ValueError where there is no prompt or no room."""
        if len(prompt_ids) == 0:
            raise ValueError("The prompt is empty.")
        room = self.max_ids - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"The prompt takes {len(prompt_ids)} of the model's {self.max_ids} ids and leaves no room for an "
                "answer. Use a shorter voice clip or text."
            )
        return room

    def _beams(self, prompts, n, answer, sampling, seeds, limits, unconditional) -> Beams:
        raise NotImplementedError


class Engine(AnyEngine):
    """Runs one checkpoint.

    Args:
        model: a `LlamaForCausalLM` on its device, in its dtype.
        answers: for each kind of answer, the ids that may be sampled, its END first
            (`{"speech": protocol.speech_ids(), "text": protocol.text_ids()}`).
        max_ids: ids of prompt and answer together; what the config allows if left out.
        patience: when rows that go nowhere are stopped; by default only at their limit.
        int8: weights and what they are multiplied with in 8 bits (CPU only): see `Linear8`.
        static: rows in static buffers, for CUDA graphs; None: on CUDA. (On a CPU it works and is slower.)
        compile: let `torch.compile` fuse the static step; minutes at the first use of every shape.
    Raises:
        ValueError: a Llama with biases, or int8 on a device or processor that cannot.
    """

    def __init__(
        self,
        model,
        answers: dict[str, Sequence[int]],
        max_ids: int | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        int8: bool = False,
        static: bool | None = None,
        compile: bool = False,
    ):
        if int8 and not can_int8(model.device.type):
            raise ValueError("int8 runs on processors with VNNI (AVX512 or AVX-VNNI) only. Leave the dtype out.")
        self.model = model.eval()
        self.dtype = "int8" if int8 else str(model.dtype).removeprefix("torch.")
        self.max_ids: int = min(max_ids or 10**9, model.config.max_position_embeddings)
        self.patience = patience
        self.answers = {name: torch.as_tensor(np.asarray(ids), device=model.device) for name, ids in answers.items()}
        self.ids_of = {name: np.asarray(ids) for name, ids in answers.items()}
        static = self.device.type == "cuda" if static is None else static
        self.rows_at_once = ROWS_AT_ONCE_ON_CUDA if static else ROWS_AT_ONCE
        linear = Linear8 if int8 else Linear
        head, answers = model.lm_head, self.answers  # not the engine itself: a cycle would outlive its last user

        def cut(name: str):
            rows = answers[name]
            if not static:
                return linear(head.weight[rows])
            # cuBLAS keeps its quick kernels for even widths: 65,537 rows become 65,600, whose last logits are cut off
            wider = linear(head.weight[F.pad(rows, (0, -len(rows) % EVEN_WIDTH))])
            return lambda hidden: wider(hidden)[:, : len(rows)]

        with torch.no_grad():  # not inference mode: ZeroGPU could not put its tensors on the GPU that is lent later
            self.decoder = Decoder(model, self.max_ids, linear)
        self.heads = Heads(cut)
        self.stock = Stock(self.decoder, self.heads, self.answers, compile) if static else None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.inference_mode()
    def likeliest(
        self, prompt_ids: Sequence[int], width: int, answer: str = "text", max_new: int = 1024, within: float = 0.0
    ) -> list[Hypothesis]:
        """The most probable answers that a beam search over ids finds, the likeliest first.

        For questions with one right answer, such as transcripts; speech that is always the likeliest drones. One wrong
        letter early on leads a greedy reader astray; `width` of them at once are seldom all wrong.

        Args:
            prompt_ids: (p,) ids.
            width: hypotheses kept after every id, at least 1 (greedy).
            answer, max_new: as in `start`.
            within: answers up to so many nats less likely than the likeliest are returned too; 0: that one alone.
        Returns:
            1 .. `width` that ended by themselves; where none did, the likeliest open one.
        Raises:
            ValueError: as `start`.
        """
        if width < 1 or max_new < 1:
            raise ValueError(f"A beam needs a width and a length of at least 1, not {width} and {max_new}.")
        limit, allowed = min(max_new, self.room(prompt_ids)), self.answers[answer]
        width = min(width, len(allowed) - 1)
        ids = torch.as_tensor(np.asarray(prompt_ids), device=self.device)
        begun = 0 if self.decoder.shares(width) else len(ids)  # ids at the beginning of every row of the cache
        # a new cache at every id would cost more than what is copied: memory is handed out page by page
        cache, spare = (self.decoder.new_cache(width, begun + limit) for _ in range(2))
        hidden, shared = self.decoder.read(ids, cache, range(width))
        open_, ended = [(0.0, Hypothesis([], [], RUNNING))], []  # each with the sum of its log-probabilities
        for step in range(limit):
            logs = self.heads[answer](hidden).float().log_softmax(-1)  # (hypotheses, choices)
            if step == 0:
                logs[:, 0] = -torch.inf  # an answer of nothing is never what was asked for
            total = logs + torch.tensor([score for score, _ in open_], device=logs.device)[:, None]
            places = total.flatten().topk(min(2 * width, total.numel())).indices
            parents, said, grown = [], [], []
            for rank, (place, log) in enumerate(zip(places.tolist(), logs.flatten()[places].tolist())):
                if math.isnan(log):
                    raise left_range(self.dtype)
                parent, choice = divmod(place, len(allowed))
                score, one = open_[parent]
                score, so_far = score + log, [*one.log_probabilities, log]
                if choice == 0:  # an end below the first `width` is no better than those that go on
                    if rank < width:
                        ended.append((score, Hypothesis(one.ids, so_far, END)))
                elif len(grown) < width:
                    parents.append(parent), said.append(choice)
                    grown.append((score, Hypothesis([*one.ids, int(self.ids_of[answer][choice])], so_far, LENGTH)))
            open_ = grown
            if ended:
                ended.sort(key=lambda found: -found[0])
                ended = [found for found in ended if found[0] >= ended[0][0] - within][:width]
                least = ended[-1][0] if len(ended) == width else ended[0][0] - within
                if open_[0][0] <= least:
                    break  # what is open can only become less likely
            if step + 1 < limit:
                if parents != list(range(width)):
                    cache, spare = self.decoder.take(cache, parents, begun + step, into=spare), cache
                lengths = [begun + step] * len(parents)
                hidden = self.decoder.decode(allowed[said], cache, lengths, shared[: len(parents)])
        return [one for _, one in ended or open_[:1]]

    @torch.inference_mode()
    def weigh(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], answer: str = "speech"
    ) -> list[np.ndarray]:
        """How likely given answers are, by one forward pass over several of them.

        Products are in bfloat16 where a processor is quick at it, whatever the engine's dtype: less than half the time,
        and nano's score of a whole answer moves by 0.1 nats where readings of one clip lie 14 apart.

        Args:
            prompts: (p,) ids each; one that all share is read once. answers: what follows, (a,) ids each, with their
                END if it is to count.
            answer: which ids compete, a key of `answers`.
        Returns:
            For each answer the log-probability of every id of it: (a,) float32.
        Raises:
            ValueError: an id in an answer that is none of the choices.
        """
        from transformers import DynamicCache

        allowed = self.answers[answer]
        order, found = allowed.argsort(), []
        quick = self.device.type == "cpu" and cpu_has_bf16()

        def llama(ids: list[list[int]] | torch.Tensor, cache: DynamicCache | None) -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=quick):
                # the cache by its place: until Transformers 5.23 its name is past_key_values, from 5.40 on cache
                ids = torch.as_tensor(ids, device=self.device)
                return self.model.model(ids, None, None, cache, use_cache=cache is not None).last_hidden_state

        prompts = [list(prompt) for prompt in prompts]
        begun, known = 0, None  # ids that were read already, and their keys and values
        if len(prompts) > 1 and all(prompt == prompts[0] for prompt in prompts):
            begun = len(prompts[0]) - 1
            known = DynamicCache(config=self.model.config)
            llama([prompts[0][:begun]], known)
        for start in range(0, len(answers), WEIGHED_AT_ONCE):
            said = answers[start : start + WEIGHED_AT_ONCE]
            rows = [torch.tensor([*p[begun:], *a]) for p, a in zip(prompts[start:], said)]
            # The padding comes last, where causal attention hides it: no mask, and the same score in any company.
            ids = pad_sequence(rows, batch_first=True)
            cache = copy.deepcopy(known)  # the pass adds to it
            if cache is not None:
                cache.batch_repeat_interleave(len(rows))
            hidden = llama(ids, cache)
            for k, one in enumerate(said):
                wanted = torch.tensor(one, device=self.device)
                column = order[torch.searchsorted(allowed[order], wanted).clamp(max=len(order) - 1)]
                if not torch.equal(allowed[column], wanted):
                    raise ValueError(f"An answer holds an id that is none of the choices of '{answer}'.")
                end = len(rows[k])
                before = hidden[k, end - len(one) - 1 : end - 1]  # each id is told by those before it
                before = before.to(self.model.dtype)  # autocast makes float32 of float16
                logs = self.heads[answer](before).float().log_softmax(-1)
                found.append(logs.gather(1, column[:, None])[:, 0].cpu().numpy())
        return found

    def _beams(self, prompts, n, answer, sampling, seeds, limits, unconditional) -> Beams:
        if sampling.guided and len(unconditional or ()) != len(prompts):
            raise ValueError("Guidance compares each prompt with one that lacks the words: give that, or guidance 1.")
        return (StaticBeams if self.stock else Beams)(self, prompts, n, answer, sampling, seeds, limits, unconditional)


class Heads(dict):
    """The rows of the head that an answer may pick from, cut out when they are first asked for."""

    def __init__(self, cut):
        self.cut = cut

    def __missing__(self, answer: str):
        with torch.inference_mode():
            self[answer] = self.cut(answer)
        return self[answer]
