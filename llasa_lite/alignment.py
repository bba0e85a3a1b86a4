"""Which character is being said at each code: a small CTC recogniser on codes, and the best path through it.

Only training uses it. A language model of a few million parameters takes tens of millions of tokens to find out that
speech follows its text; shown where each clip stands in its text (`training.Guide`), it reads at once.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .checkpoints import autocast
from .codec import code_digits
from .data import Utterance
from .tokens import CHARACTERS, within_codebook
from .training import cosine_rate

log = logging.getLogger(__name__)

# What is said of a text: letters and the pauses punctuation stands for.
ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
BLANK = len(ALPHABET)
LEARNING_RATE = 3e-3


class Aligner(nn.Module):
    """Codes (rows, time) -> log-probabilities of letters (rows, time, 29). Convolutions only: about 0.3 s each way."""

    def __init__(self, levels: list[int], width: int = 128, blocks: int = 5):
        super().__init__()
        self.register_buffer("digits", code_digits(levels), persistent=False)
        self.open = nn.Linear(sum(levels), width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(width), "conv": nn.Conv1d(width, 2 * width, 7, padding=3)})
            for _ in range(blocks)
        )
        self.close = nn.Linear(width, len(ALPHABET) + 1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.read(self.digits[codes])

    def read(self, digits: torch.Tensor) -> torch.Tensor:
        """As `forward`, of what the codes are made of: (rows, time, sum of levels)."""
        x = self.open(digits)
        for block in self.blocks:
            x = x + F.glu(block["conv"](block["norm"](x).transpose(1, 2)), 1).transpose(1, 2)
        return self.close(x).float().log_softmax(-1)


def letters(text: str, tokenizer) -> tuple[list[int], list[int]]:
    """What of a text is spoken: indices into ALPHABET, and the index of each among the text's ids, without the space
    around it, as rows have them."""
    known, spoken, where = {c: i for i, c in enumerate(ALPHABET)}, [], []
    for position, index in enumerate(tokenizer.encode(text.strip(), add_special_tokens=False)):
        letter = known.get(CHARACTERS[index]) if index < len(CHARACTERS) else None
        if letter is not None:
            spoken.append(letter)
            where.append(position)
    return spoken, where


def can_be_read(codes: int, spoken: list[int]) -> bool:
    """Whether so many codes have room for what is spoken: CTC wants a code a letter, and blanks between equal ones."""
    return 0 < len(spoken) < 0.7 * codes


def reading_loss(scores: torch.Tensor, lengths: list[int], texts: list[list[int]]) -> torch.Tensor:
    """CTC's loss a letter of texts (indices into ALPHABET) by what was heard in `lengths` codes of each row."""
    targets = torch.tensor([letter for text in texts for letter in text], device=scores.device)
    lengths = torch.tensor(lengths), torch.tensor(list(map(len, texts)))
    return F.ctc_loss(scores.transpose(0, 1), targets, *lengths, blank=BLANK, zero_infinity=True)


def train_aligner(utterances: list[Utterance], levels: list[int], tokenizer, steps: int, rows: int = 24):
    """Fit the recogniser to a token corpus; the rate falls along a cosine over the steps."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = Aligner(levels).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    # neighbours in length share a batch; what CTC cannot fit (more letters than codes) is left out
    data = [(u.codes.astype(np.int64), letters(u.text, tokenizer)[0]) for u in utterances]
    data = sorted((d for d in data if can_be_read(len(d[0]), d[1])), key=lambda d: len(d[0]))
    if not data:
        raise ValueError(
            f"None of {len(utterances)} training clips can be aligned: their texts have no letters from a to z, or "
            "more than their codes have room for. Leave the alignment out (--align-steps 0)."
        )
    losses = []
    for step in range(steps):
        start = random.integers(max(1, len(data) - rows + 1))
        batch = data[start : start + rows]
        width = -(-max(len(c) for c, _ in batch) // 32) * 32
        codes = torch.from_numpy(np.stack([np.pad(c, (0, width - len(c))) for c, _ in batch]))
        with autocast("cpu"):
            scores = model(codes)
        loss = reading_loss(scores, [len(c) for c, _ in batch], [text for _, text in batch])
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * cosine_rate(step, 100, step / steps, 0.02)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 100 == 0:
            log.info("aligner: step %d of %d, loss a letter %.3f", len(losses), steps, np.mean(losses[-100:]))
    return model.eval()


@torch.inference_mode()
def align(model: Aligner, utterance: Utterance, tokenizer) -> np.ndarray | None:
    """Where in its text each code is: (codes,) float16, in ids of the text; None where the text does not fit.

    The best CTC path puts every letter at a code; between letters the position runs evenly.
    """
    spoken, where = letters(utterance.text, tokenizer)
    codes = torch.from_numpy(utterance.codes.astype(np.int64))
    if not can_be_read(len(codes), spoken):
        return None
    with autocast("cpu"):
        scores = model(codes[None])[0].numpy()  # (time, letters + 1)
    times = best_path(scores, spoken)
    last = len(codes) - 1
    ends = [0, *times, last], [where[0] - 0.5, *where, where[-1] + 0.5]
    return np.interp(np.arange(len(codes)), *ends).astype(np.float16)


def best_path(scores: np.ndarray, spoken: list[int]) -> np.ndarray:
    """Viterbi through CTC's states (blank, letter, blank, ...): the time at which each letter is surest, (letters,)."""
    states = np.full(2 * len(spoken) + 1, BLANK)
    states[1::2] = spoken
    skip = np.zeros(len(states), bool)  # a letter may follow another letter without a blank, unless it is the same
    skip[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf)
    best[:2] = scores[0, states[:2]]
    came = np.zeros((len(scores), len(states)), np.int8)
    for t in range(1, len(scores)):
        options = np.full((3, len(states)), -np.inf)
        options[0], options[1, 1:] = best, best[:-1]
        options[2, 2:] = np.where(skip[2:], best[:-2], -np.inf)
        came[t] = options.argmax(0)
        best = options.max(0) + scores[t, states]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    surest = np.full(len(spoken), -np.inf)
    times = np.zeros(len(spoken), np.int64)
    for t in range(len(scores) - 1, -1, -1):
        if state % 2 and scores[t, states[state]] > surest[state // 2]:
            surest[state // 2], times[state // 2] = scores[t, states[state]], t
        state -= int(came[t, state])
    return times


def align_corpus(utterances: list[Utterance], levels: list[int], tokenizer, steps: int) -> list[Utterance]:
    """Train a recogniser on the training split and give every utterance its alignment. Raises ValueError on a code that
    the codec of these levels has not."""
    for utterance in utterances:
        within_codebook(utterance.codes, math.prod(levels), " They are of another codec: name it with --codec.")
    model = train_aligner([u for u in utterances if u.split == "train"], levels, tokenizer, steps)
    return [replace(u, alignment=align(model, u, tokenizer)) for u in utterances]
