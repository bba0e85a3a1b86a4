"""Draws one choice a row from logits; knows nothing of models, nor of what the choices stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .files import plain_numbers

BLOCK = 256  # choices summed together while sampling
COLDEST, SMALLEST = 1e-3, 1e-6  # temperature and top_p below which it is greedy


@dataclass(frozen=True)
class Sampling:
    """How the next id is drawn. Defaults: the authors' later advice for the released checkpoints."""

    temperature: float = 0.9  # 0 is greedy; 0 .. 2
    top_p: float = 0.95  # smallest set of ids with this probability; 0 < top_p <= 1
    top_k: int = 0  # at most this many ids; 0: no limit
    repetition_penalty: float = 1.0  # logits of ids already said are divided by it (multiplied where negative); >= 1
    # classifier-free guidance (arXiv 2306.17806; on speech 2502.05236): logits = without + guidance * (with - without),
    # with and without the words in the prompt; 1 is off, more follows the words more closely, at twice the rows; 1 .. 5
    guidance: float = 1.0

    def __post_init__(self):
        plain_numbers(self)
        for name in ("temperature", "top_p", "repetition_penalty", "guidance"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)!r}.")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in 0..2, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie above 0 and up to 1, not {self.top_p}.")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or a positive whole number, not {self.top_k!r}.")
        if not 1 <= self.repetition_penalty <= 100:
            raise ValueError(f"repetition_penalty must lie in 1 (off)..100, not {self.repetition_penalty}.")
        if not 1 <= self.guidance <= 5:
            raise ValueError(f"guidance must lie in 1 (off)..5, not {self.guidance}.")

    @classmethod
    def of(cls, config, generation_config) -> Sampling:
        """What a checkpoint asks for, if its config says that it is a Llasa of this library (the entry "llasa"): the
        generation config of any other is Llama's own."""
        known = getattr(config, "llasa", None)
        if not known:
            return cls()
        asked = {k: getattr(generation_config, k, None) for k in ("temperature", "top_p")}
        # not the generation config's `guidance_scale`: `generate` would take it up, and has no unconditional prompt
        asked |= {"guidance": known.get("guidance")}
        return cls(**{k: value for k, value in asked.items() if value is not None})

    @property
    def guided(self) -> bool:
        return self.guidance > 1

    @property
    def greedy(self) -> bool:
        """Whether the likeliest choice always wins; drawing would then overflow float32, or divide by zero."""
        return self.temperature < COLDEST or self.top_p < SMALLEST


def sample(
    logits: torch.Tensor, how: Sampling, draw: Callable[[list[int]], Sequence[float]], said: torch.Tensor | None = None
) -> torch.Tensor:
    """Draw one index a row by inverting the cumulative distribution.

    One random number a row takes a twelfth of the time of one a choice (multinomial, Gumbel). top_p needs no sorted
    row: what was drawn lies in the nucleus when the choices likelier than it hold less than top_p; if it does not,
    neither does anything less likely, and the next draw is from the likelier ones alone, as FlashInfer does. Sums are
    taken in blocks: quicker than one long cumulative sum, and rounded alike for any number of rows and threads. (8 rows
    of 65,537: 0.5 ms; their 1,024 likeliest take 3 ms, sorting them 32 ms.)

    Args:
        logits: (rows, choices) float32.
        draw: a number in [0, 1) for each of these rows; asked again for those that missed the nucleus.
        said: (rows, t) indices to which the repetition penalty applies.
    Returns:
        (rows,) int64.
    """
    if said is not None and how.repetition_penalty > 1:
        logits = logits.scatter(1, said, penalised(logits.gather(1, said), how.repetition_penalty))
    if how.greedy:
        return logits.argmax(-1)
    likeliest = None
    if 0 < how.top_k < logits.shape[-1]:
        logits, likeliest = logits.topk(how.top_k)
    p = masses(logits, how.temperature)
    picked = torch.empty(len(p), 1, dtype=torch.int64, device=p.device)
    rows = torch.arange(len(p), device=p.device)
    while True:
        uniform = torch.tensor(draw(rows.tolist()), dtype=p.dtype, device=p.device)
        if how.top_p == 1:
            picked = invert(p, uniform)
            break
        picked[rows], _, missed, likelier = attempt(p, uniform, how.top_p)
        if not missed.any():
            break
        rows, p = rows[missed], likelier[missed]
    picked.clamp_max_(logits.shape[-1] - 1)  # as in `invert`
    return (picked if likeliest is None else likeliest.gather(1, picked))[:, 0]


def penalised(logits: torch.Tensor, penalty: float | torch.Tensor) -> torch.Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def masses(logits: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Probabilities (rows, blocks, BLOCK) of logits (rows, choices), filled up with zeros."""
    logits = F.pad(logits, (0, -logits.shape[-1] % BLOCK), value=-torch.inf)
    return torch.softmax(logits.div_(temperature), -1).view(len(logits), -1, BLOCK)


def attempt(p: torch.Tensor, uniform: torch.Tensor, top_p: float | torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One draw from each row of the mass p (rows, blocks, BLOCK): what was drawn (rows, 1), its own mass (rows, 1),
    whether it missed the nucleus (rows,), and the mass of all that is likelier, from which to draw again."""
    index = invert(p, uniform)
    own = p.flatten(1).gather(1, index)
    likelier = above(p, own)
    return index, own, likelier.sum(-1).cumsum(-1)[:, -1] >= top_p, likelier


def above(p: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """p (rows, blocks, BLOCK) where it is above the floor (rows, 1) of its row, else 0."""
    return p * (p - floor[..., None]).sign_().clamp_min_(0)  # a third of the time of a comparison and `where`


def invert(p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The choice (rows, 1) below which lies a share `uniform` (rows,) in [0, 1) of the mass p (rows, blocks, BLOCK)."""
    blocks = p.sum(-1).cumsum(-1)  # (rows, blocks)
    target = (uniform[:, None] * blocks[:, -1:]).minimum(below(blocks[:, -1:]))
    # clamped: a row that is not finite would point past the end, which a GPU does not survive
    block = torch.searchsorted(blocks, target, right=True).clamp_max_(p.shape[1] - 1)
    target = target - F.pad(blocks, (1, 0)).gather(1, block)
    inside = p[torch.arange(len(p), device=p.device), block[:, 0]].cumsum(-1)  # (rows, BLOCK)
    target = target.minimum(below(inside[:, -1:]))
    return block * BLOCK + torch.searchsorted(inside, target, right=True).clamp_max_(BLOCK - 1)


def below(x: torch.Tensor) -> torch.Tensor:
    """The next smaller number: a draw just below 1 may round to the total, and would pick what has no probability."""
    return x.nextafter(torch.zeros_like(x))
