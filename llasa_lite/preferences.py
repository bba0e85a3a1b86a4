"""Search as a teacher: a Llasa learns to say at once what a search of its own would have kept.

    python -m llasa_lite train pairs --data TOKENS.safetensors --sentences TEXT --out PAIRS.jsonl
    python -m llasa_lite train preferences --pairs PAIRS.jsonl --out DIR

Compute that was spent on searching becomes training: `collect_pairs` says sentences many times over and keeps the take
that a verifier likes best and the one it likes least; `train_preferences` makes the one likelier than the other by
direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290; on speech tokens: Tian et al. 2024, arXiv
2409.12403). With the verifier `likelihood`, nano learns from nothing but its own ear.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from .audio import FRAME_RATE
from .checkpoints import PLAIN_GIT, autocast, training_device
from .data import Utterance, check_alike, codec_facts
from .finetuning import begin, check_alone, dress, finish, go_on, kept_dtype, load_base, training_arguments
from .records import Records
from .search import END
from .text import join, says_something
from .tokens import IGNORE, Protocol
from .voices import Voice

log = logging.getLogger(__name__)

PROMPT_SECONDS = 1.5, 6.0  # of the clips that are taken as voice prompts


@dataclass(frozen=True)
class Pair:
    """One sentence in one voice, said twice."""

    draw: int  # of the seed's voices and sentences
    text: str
    voice_text: str
    voice: list[int]  # codes of the voice prompt
    chosen: list[int]  # codes of the take that was liked best; it ended by itself
    rejected: list[int]  # codes of the one that was liked least
    ended: bool  # whether that one ended by itself
    scores: tuple[float, float]  # of both


def collect_pairs(
    llasa,
    utterances: Sequence[Utterance],
    sentences: Sequence[str],
    out: str | Path,
    draws: int,
    n: int = 8,
    outcome: str = "likelihood",
    gap: float = 0.05,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Say sentences in voices, `n` takes each, and write the best and the worst of each to `out`, one a line (`Pair`).

    A run that was stopped goes on behind the last line that was written.

    Args:
        llasa: the `Llasa` that speaks; its own sampling draws, so that it learns from what its users would hear.
        utterances: token corpus in the codes of its codec; clips of 1.5 to 6 s of the split `train`, with words, are
            voice prompts, each voice drawn equally often.
        sentences: what is said; those that it would cut into pieces are left out.
        draws: sentences said. A draw whose takes differ by less than `gap` of the verifier's unit, or of which none
            ended by itself, gives no pair.
        outcome: verifier, as `Llasa.search` takes it.
    Returns:
        How many pairs there are in `out`.
    Raises:
        ValueError: no clip or no sentence to be used, or as `Llasa.search`.
    """
    shortest, longest = (seconds * FRAME_RATE for seconds in PROMPT_SECONDS)
    by_voice: dict[str, list[Utterance]] = {}
    for one in utterances:
        if one.split == "train" and shortest <= len(one.codes) <= longest and says_something(one.text):
            by_voice.setdefault(one.speaker, []).append(one)
    if not by_voice:
        raise ValueError("There are no training clips of 1.5 to 6 s, with words, to take as voice prompts.")
    texts = [pieces[0] for one in filter(says_something, sentences) if len(pieces := llasa._pieces(one)) == 1]
    if not texts:
        raise ValueError(f"There are no sentences of at most {llasa.checkpoint.chunk_chars} characters to say.")
    settings = codec_facts(llasa.codec.name)
    settings |= {"model": llasa.checkpoint.name, "n": n, "outcome": outcome, "seed": seed}
    records, voices = Records(out, "draw", settings), sorted(by_voice)
    for draw in range(max(records.rows, default=-1) + 1, draws):
        random = np.random.default_rng([seed, draw])
        clip, text = _any(by_voice[_any(voices, random)], random), _any(texts, random)
        voice = Voice(clip.speaker, clip.text, codes={llasa.codec.name: clip.codes.tolist()})
        takes = llasa.search(text, voice, n=n, outcome=outcome, seed=draw).candidates
        best, worst = takes[0], takes[-1]
        if best.stopped == END and (worst.stopped != END or best.score - worst.score >= gap):
            pair = Pair(
                draw,
                text,
                llasa._spoken_before(voice, [text]),
                clip.codes.tolist(),
                best.codes.tolist(),
                worst.codes.tolist(),
                worst.stopped == END,
                (round(best.score, 4), round(worst.score, 4)),
            )
            records.add(asdict(pair))
        progress(draw + 1, draws)
    return len(records.rows)


def read_pairs(path: str | Path, codec: str | None = None) -> list[Pair]:
    """Pairs that `collect_pairs` wrote.

    Args:
        codec: the one that codes are to be of, "nano", folder or hub id; None: whichever.
    Raises:
        ValueError: there are none, the file holds something else, or says that its codes are of another codec.
    """
    if not Path(path).is_file():
        raise ValueError(f"There are no pairs '{path}'. Make them with `train pairs`.")
    records = Records(path, "draw", ours=False)
    if codec:
        check_alike(path, records.settings, codec_facts(codec))
    try:
        return [Pair(**row) for row in records.rows.values()]
    except TypeError as error:
        raise ValueError(f"'{path}' holds other rows than pairs: {error}.") from error


@dataclass(frozen=True)
class Preferences:
    """Settings of a run."""

    epochs: float = 1.0
    pairs_per_step: int = 16
    learning_rate: float = 1e-4  # falls linearly to nothing
    warmup_share: float = 0.1
    beta: float = 0.1  # how far the model may go from the one it was: small is far
    chosen_weight: float = 1.0  # of the plain loss on the best take, without which DPO lowers both (Pang et al. 2024)
    save_every: int = 50  # steps
    seed: int = 0


def train_preferences(
    base: str,
    pairs: Sequence[Pair],
    out: str | Path,
    settings: Preferences = Preferences(),
    pairs_at_once: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Train `base` on pairs and save it as a folder `Llasa.from_pretrained` reads; the log is `out/log.jsonl`.

    A run that was stopped goes on from its last checkpoint in `out/checkpoints`.

    Args:
        base: checkpoint (short name, hub id, folder) whose takes the pairs are: what it thinks of them is noted before
            the first step, and it need not be held beside the one that learns.
        pairs_at_once: pairs of one forward pass; `pairs_per_step` is reached by accumulation.
    Raises:
        ValueError: no pairs that fit, codes of another codec, `pairs_per_step` not a multiple of `pairs_at_once`,
            more than one process, or an `out` that is the base or was begun with other settings or pairs.
    """
    import transformers

    out = Path(out)
    check_alone("Preferences are")
    accumulation, left = divmod(settings.pairs_per_step, pairs_at_once)
    if left or not accumulation:
        raise ValueError(f"{settings.pairs_per_step} pairs a step are not made of {pairs_at_once} at once.")
    torch.manual_seed(settings.seed)
    checkpoint, protocol, model = load_base(base)
    rows = [row for pair in pairs if (row := _row(protocol, pair, checkpoint.context))]
    if not rows:
        raise ValueError(f"There is no pair of at most {checkpoint.context} ids to train on, of {len(pairs)} given.")
    same = {name: value for name, value in asdict(settings).items() if name not in ("epochs", "save_every")}
    begin(out, checkpoint.source, same | {"pairs": len(rows)})
    dress(model, checkpoint, protocol)
    device = training_device()
    allowed = torch.as_tensor(protocol.speech_ids(), device=device)  # what the engine lets follow
    model.to(device).eval()
    with torch.no_grad(), autocast(device):
        for row in rows:
            batch = {name: value.to(device) for name, value in _collate([row], protocol.pad).items()}
            row["before"] = _log_likelihoods(model, allowed, **batch)[0].tolist()
    if device.type == "cuda":
        torch.cuda.empty_cache()

    class PreferenceTrainer(transformers.Trainer):
        parts: dict[str, list[float]] = {"agreed": [], "margin": [], "chosen": []}

        def compute_loss(self, model, inputs, return_outputs=False, **_):
            before = inputs.pop("before").flatten()
            sums, lengths = _log_likelihoods(model, allowed, **inputs)
            chosen, rejected = (sums - before).view(-1, 2).unbind(1)
            margins = settings.beta * (chosen - rejected)
            plain = -(sums / lengths).view(-1, 2)[:, 0].mean()  # nats a code
            self.parts["agreed"].append((margins > 0).float().mean().item())
            self.parts["margin"].append(margins.mean().item())
            self.parts["chosen"].append(plain.item())
            return -F.logsigmoid(margins).mean() + settings.chosen_weight * plain

        def log(self, logs, *args, **kwargs):
            if "loss" in logs:
                logs |= {name: round(float(np.mean(values)), 4) for name, values in self.parts.items() if values}
                self.parts.update({name: [] for name in self.parts})
            super().log(logs, *args, **kwargs)
            with open(out / "log.jsonl", "a", encoding="utf-8") as record:
                record.write(json.dumps({"step": self.state.global_step} | logs) + "\n")
            if "agreed" in logs:
                at = f"step {self.state.global_step} of {self.state.max_steps}"
                log.info("%s: loss %.3f, %.0f %% of the pairs agreed", at, logs["loss"], 100 * logs["agreed"])

    class Told(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            progress(state.global_step, state.max_steps)

    arguments = training_arguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=pairs_at_once,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_share,  # below 1: a share of all steps
        logging_steps=1,
        save_steps=settings.save_every,
        remove_unused_columns=False,
        seed=settings.seed,
    )
    trainer = PreferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda some: _collate(some, protocol.pad),
        callbacks=[Told()],
    )
    trainer.model_accepts_loss_kwargs = False  # our loss is a mean: Trainer is to divide it by the accumulation
    go_on(trainer)
    # as the base was kept; a small one in files that plain git takes
    size = {"max_shard_size": PLAIN_GIT} if model.num_parameters() < 20e6 else {}
    model.to(kept_dtype(checkpoint)).save_pretrained(out, **size)
    told = {
        "Recipe": "direct preference optimisation on its own takes",
        "Pairs": f"{len(rows):,}, {len(pairs) - len(rows):,} too long and left out",
        "Steps": f"{trainer.state.global_step:,} of {settings.pairs_per_step} pairs, seed {settings.seed}",
        "Settings": f"beta {settings.beta:g}, {settings.chosen_weight:g} x the best take's loss, "
        f"learning rate {settings.learning_rate:g}",
    }
    finish(out, checkpoint, protocol, told)
    return out


def _any(things: Sequence, random: np.random.Generator):
    return things[random.integers(len(things))]


def _row(protocol: Protocol, pair: Pair, max_ids: int) -> dict | None:
    """Both takes behind their prompt, each with the columns of its answer among `speech_ids`; None: too long."""
    prompt = protocol.tts_prompt(join(pair.voice_text, pair.text), pair.voice)
    takes = []
    for codes, ended in ((pair.chosen, True), (pair.rejected, pair.ended)):
        answer = [*protocol.codes_to_ids(codes), *[protocol.speech_end] * ended]
        columns = [*[1 + code for code in codes], *[0] * ended]  # END comes first among `speech_ids`
        takes.append((prompt + answer, [IGNORE] * len(prompt) + columns))
    return {"takes": takes} if max(len(ids) for ids, _ in takes) <= max_ids else None


def _collate(rows: list[dict], pad: int) -> dict[str, torch.Tensor]:
    """ids and columns (2 x pairs, t), padded on the right: chosen, rejected, chosen ..."""
    ids, columns = zip(*(map(torch.tensor, take) for row in rows for take in row["takes"]))
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "columns": pad_sequence(columns, batch_first=True, padding_value=IGNORE),
    }
    return batch | ({"before": torch.tensor([row["before"] for row in rows])} if "before" in rows[0] else {})


def _log_likelihoods(model, allowed, input_ids, columns) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row's answer: its log-likelihood in nats among the ids that may follow, and its length in ids."""
    hidden = model.model(input_ids, use_cache=False).last_hidden_state
    wanted = columns[:, 1:] != IGNORE
    logits = F.linear(hidden[:, :-1][wanted], model.lm_head.weight[allowed]).float()
    logs = -F.cross_entropy(logits, columns[:, 1:][wanted], reduction="none")
    row = wanted.nonzero()[:, 0]
    lengths = wanted.sum(1)
    return torch.zeros(len(columns), device=logs.device).index_add(0, row, logs), lengths
