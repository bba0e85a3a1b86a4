"""Trains Llasa language models on token rows with Transformers' Trainer. Knows tokens and Llama, nothing of audio.

    python -m llasa_lite train lm --data TOKENS.safetensors --out DIR --steps 6000

The checkpoint that comes out is a plain `LlamaForCausalLM`. Two aids exist only while a small model is trained, both
off for a released checkpoint:

* Guided attention (after Tachibana et al. 2017, arXiv 1710.08969): one head of two layers is told which character is
  being said (`alignment.py`). Without it a model of this size needs tens of millions of tokens before it reads.
* Shared digits: the embedding of a code is its own vector plus one vector for each of its FSQ digits, so that what is
  learned of a code is learned of its neighbours. Folded into the embedding table when the model is saved.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .checkpoints import CHECKPOINTS, PLAIN_GIT, autocast, config_facts, reaching
from .codec import code_digits
from .data import NOWHERE, Mixture, RowSampler, Utterance, make_row, with_rows
from .finetuning import begin, check_alone, go_on, last_checkpoint, training_arguments
from .tokens import IGNORE, Protocol, character_tokenizer

log = logging.getLogger(__name__)

WATCHED = 32  # held-out clips, at most, whose loss is taken on the way
TEMPERATURE, TOP_P, GUIDANCE = 0.6, 0.9, 2.0  # what a checkpoint asks for; tried on sentences of the corpus' test split


@dataclass(frozen=True)
class Training:
    """Settings of a run from scratch."""

    steps: int = 9000
    ids_per_batch: int = 4096
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    decay_share: float = 0.3  # last share of the steps, over which the rate falls linearly to 2 %
    weight_decay: float = 0.05
    guide_weight: float = 1.0  # of the guided-attention loss at the start
    guide_until: int = 4500  # step at which it has faded to a tenth
    guide_width: float = 1.5  # standard deviation of the band, in characters
    guide_layers: tuple[int, ...] = (2, 3)  # of a model with fewer than four, the last
    recognition_weight: float = 3.0  # of the loss on a transcript's character: one beside every four or five codes
    save_every: int = 250
    evaluate_every: int = 250
    seed: int = 0
    mixture: Mixture = field(default_factory=Mixture)


def nano_config(protocol: Protocol, hidden_size: int = 256, layers: int = 8):
    """nano's shape: 7.9M parameters at the defaults, heads of 64, tied head, Llama in every other respect."""
    from transformers import LlamaConfig

    tokenizer = protocol.tokenizer
    return LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=hidden_size // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


class Guide:
    """Carries the places of a batch (`data.Row`) into the attention of one forward pass, and their losses out."""

    def __init__(self, layers: tuple[int, ...], width: float, place, keys, task):
        self.layers, self.task = layers, task
        self.queries = (place > NOWHERE) & ~keys
        gap = (place[:, :, None] - place[:, None, :]) / width  # (rows, query, key)
        self.log_band = torch.where(keys[:, None, :], -0.5 * gap.square(), -1e4).clamp(min=-1e4)
        self.losses: list[torch.Tensor] = []

    def observe(self, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """query, key: (rows, heads, ids, dim), after rotation. Head 0 follows text, head 1 follows speech."""
        row = torch.arange(len(query), device=query.device)
        scores = (query[row, self.task] @ key[row, self.task].transpose(1, 2)).float() * scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -1e4)
        inside = (scores + self.log_band).logsumexp(-1) - scores.logsumexp(-1)  # log share of attention in the band
        self.losses.append(-(inside * self.queries).sum() / self.queries.sum().clamp(min=1))


def _guided_attention(module, query, key, value, attention_mask, scaling, guide: Guide | None = None, **kwargs):
    """Causal attention over rows padded on the right, with a guide looking in."""
    if guide is not None and module.layer_idx in guide.layers:
        guide.observe(query, key, scaling)
    if query.is_cuda:
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return mixed.transpose(1, 2), None
    # On a CPU the fused kernel takes 37 % of a training step at these lengths; three plain products take 15 %.
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    rows, heads, ids, dim = query.shape
    query, key, value = (x.reshape(rows * heads, ids, dim) for x in (query, key, value))
    future = torch.full((ids, ids), -torch.inf, dtype=query.dtype).triu(1)
    weights = torch.baddbmm(future, query, key.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights, value).view(rows, heads, ids, dim).transpose(1, 2), None


class SpeechLM(nn.Module):
    """A Llama in training: the plain model plus the two aids. `plain()` gives the `LlamaForCausalLM` that ships."""

    def __init__(self, config, code_offset: int, levels: list[int]):
        super().__init__()
        from transformers import AttentionInterface, AttentionMaskInterface, LlamaModel
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register("guided", _guided_attention)
        AttentionMaskInterface.register("guided", sdpa_mask)
        config._attn_implementation = "guided"
        self.config, self.code_offset = config, code_offset
        self.llama = LlamaModel(config)
        self.register_buffer("which_digits", code_digits(levels), persistent=False)
        self.digits = nn.Parameter(0.02 * torch.randn(sum(levels), config.hidden_size))

    def start_from(self, folder: str | Path) -> None:
        """Take the weights of a trained checkpoint of the same shape; its digits are in its embeddings already."""
        from transformers import LlamaForCausalLM

        with reaching(str(folder)):
            trained = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        shape = "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_key_value_heads"
        if any(getattr(trained.config, name) != getattr(self.config, name) for name in shape):
            raise ValueError(f"The checkpoint in '{folder}' has another shape than the one to be trained.")
        self.llama.load_state_dict(trained.model.state_dict())
        nn.init.zeros_(self.digits)

    @torch.no_grad()
    def carry_over(self, known: Sequence[Utterance], utterances: Sequence[Utterance]) -> None:
        """Go on in the codes of another codec: a code's embedding becomes the mean of those of the old codes that stood
        in its place in the same clips.

        Args:
            known: clips in the old codes. utterances: those learned of the new corpus, some of them the same clips.
        Raises:
            ValueError: no clip in common.
        """
        codes = len(self.which_digits)
        there: dict[tuple[str, str], list[Utterance]] = {}
        for one in known:
            there.setdefault((one.text, one.speaker, one.split), []).append(one)
        pairs = np.zeros((codes, codes), np.float32)  # new, old
        for new in utterances:
            if old := there.get((new.text, new.speaker, new.split)):
                length = min(len(new.codes), len(old[0].codes))
                np.add.at(pairs, (new.codes[:length].astype(int), old.pop(0).codes[:length].astype(int)), 1)
        if not pairs.any():
            raise ValueError("The data of --init-data and of --data have no clip in common.")
        pairs = torch.from_numpy(pairs) + 1e-3 * torch.eye(codes)  # one that never came keeps its number's embedding
        own = self.llama.embed_tokens.weight[self.code_offset : self.code_offset + codes]
        mean = (pairs / pairs.sum(1, keepdim=True)) @ own
        # a mean is shorter than what it is the mean of
        own.copy_(mean * (own.norm(dim=1).mean() / mean.norm(dim=1, keepdim=True).clamp(min=1e-3)).clamp(max=1.5))

    def table(self) -> torch.Tensor:
        """The embedding table with the digits in it: (vocabulary, hidden)."""
        own, end = self.llama.embed_tokens.weight, self.code_offset + len(self.which_digits)
        codes = own[self.code_offset : end] + self.which_digits @ self.digits
        return torch.cat([own[: self.code_offset], codes, own[end:]])

    def forward(self, input_ids, labels, guide: Guide | None = None, weights=None):
        """Mean loss over labelled positions, and the mean of the guided heads' losses (0 without a guide).

        `weights`: (rows,), how much the positions of each row count; None counts all alike.
        """
        table = self.table()
        hidden = self.llama(inputs_embeds=F.embedding(input_ids, table), use_cache=False, guide=guide).last_hidden_state
        wanted = labels[:, 1:] != IGNORE  # only these need logits
        logits = F.linear(hidden[:, :-1][wanted], table)
        losses = F.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="none")
        each = torch.ones_like(losses) if weights is None else weights[:, None].expand_as(wanted)[wanted]
        loss = (losses * each).sum() / each.sum()
        return loss, torch.stack(guide.losses).mean() if guide and guide.losses else loss.new_zeros(())

    @torch.no_grad()
    def plain(self):
        """The trained weights as a `LlamaForCausalLM`, float32."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**{k: v for k, v in self.config.to_dict().items() if not k.startswith("_")})
        model = LlamaForCausalLM(config)
        model.model.load_state_dict(self.llama.state_dict())
        model.model.embed_tokens.weight.copy_(self.table())
        model.tie_weights()
        return model.eval()


def reading_gap(model: SpeechLM, protocol: Protocol, utterances: list[Utterance]) -> tuple[float, float]:
    """Loss (nats an id) on held-out clips with their own text and with another clip's: a model that reads has a gap."""
    device = model.digits.device
    losses = []
    for shift in (0, min(7, len(utterances) - 1)):  # of few clips another one too
        total = []
        for clip, other in zip(utterances, utterances[shift:] + utterances[:shift]):
            row = make_row(protocol, [Utterance(other.text, clip.speaker, clip.split, clip.codes)])
            ids, labels = (torch.tensor([one], device=device) for one in (row.input_ids, row.labels))
            with torch.no_grad(), autocast(device):
                total.append(model(ids, labels)[0].item())
        losses.append(float(np.mean(total)))
    return losses[0], losses[1]


def train_lm(
    utterances: list[Utterance],
    levels: list[int],
    out: str | Path,
    settings: Training,
    hidden_size: int = 256,
    layers: int = 8,
    init: str | Path | None = None,
    init_data: Sequence[Utterance] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    codec: str = "nano",
) -> Path:
    """Train a small Llasa and save it, with its tokenizer, as a folder `from_pretrained` reads.

    A run that was stopped goes on from its last checkpoint in `out/checkpoints`, on the rows it would have seen; the
    log is `out/log.jsonl` (`read_log`).

    Args:
        utterances: token corpus; `train` and `heard` are learned from, `test` is watched.
        levels: FSQ levels of the codec the codes came from.
        init: checkpoint folder of the same shape to start from; None starts from scratch.
        init_data: clips of the corpus in the codes that `init` was trained on, where its codec was another.
        progress: called after every step with the steps done and all of them.
        codec: the codec the codes came from, which the checkpoint is to speak with: "nano", folder or hub id.
    Raises:
        ValueError: nothing to learn to say, a size without the two heads that are guided, an `init` of another shape,
            more than one process, or an `out` that is `init` or was begun with other settings or clips.
    """
    import transformers
    from transformers import Trainer

    check_alone("A small language model is")
    if hidden_size % 64 or (hidden_size < 128 and settings.guide_weight > 0):
        raise ValueError(f"The hidden size is made of heads of 64, at least two: 128, 192 ..., not {hidden_size}.")
    out = Path(out)
    checkpoints = out / "checkpoints"
    torch.manual_seed(settings.seed)
    protocol = Protocol(character_tokenizer(int(np.prod(levels))))
    learned = [u for u in utterances if u.split in ("train", "heard")]
    sampler = RowSampler(learned, protocol, settings.mixture)
    if sampler.dropped:
        log.warning("%d of %d clips are too long or have no text and are left out.", sampler.dropped, len(learned))
    if init is None and settings.guide_weight > 0 and all(u.alignment is None for u in learned):
        log.warning("No clip is aligned, and nothing guides the model to its text: align with `train tokens --data`.")
    model = SpeechLM(nano_config(protocol, hidden_size, layers), protocol.code_offset, list(levels))
    if init is not None:
        model.start_from(init)
        if init_data:
            model.carry_over(init_data, learned)
    same = {"utterances": len(utterances), "codec": codec, "hidden_size": hidden_size, "layers": layers}
    begin(out, init, same | {"seed": settings.seed})
    _, begun = last_checkpoint(checkpoints)
    seconds_before = max((row.get("seconds", 0.0) for row in read_log(out) if row["step"] <= begun), default=0.0)
    beyond = max(0, max(settings.guide_layers) + 1 - layers)  # of few layers the last are guided
    guided_layers = tuple(layer - beyond for layer in settings.guide_layers)
    watched = with_rows([u for u in utterances if u.split == "test"], protocol)
    watched = watched[:: -(-len(watched) // WATCHED) or 1]  # of all voices: they may stand one after the other

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            # drawn anew from every checkpoint on, so that a run that goes on from one needs not replay what was before
            for start in itertools.count(begun, settings.save_every):
                sampler.random = np.random.default_rng(settings.seed + start)
                yield from itertools.islice(sampler.batches(settings.ids_per_batch), settings.save_every)

    class SpeechTrainer(Trainer):
        parts: dict[str, list[float]] = {"speech": [], "guide": []}

        def compute_loss(self, model, inputs, return_outputs=False, **_):
            step = self.state.global_step
            weight = settings.guide_weight * max(0.1, 1 - step / max(1, settings.guide_until))
            places = (inputs[name] for name in ("place", "keys", "task"))
            guide = Guide(guided_layers, settings.guide_width, *places) if weight > 0 else None
            weights = torch.where(inputs["task"] == 1, settings.recognition_weight, 1.0)
            loss, guided = model(inputs["input_ids"], inputs["labels"], guide, weights)
            self.parts["speech"].append(loss.item()), self.parts["guide"].append(guided.item())
            return loss + weight * guided

        def log(self, logs, *args, **kwargs):
            if "loss" in logs:
                logs |= {k: round(float(np.mean(v)), 4) for k, v in self.parts.items() if v}
                self.parts.update({k: [] for k in self.parts})
            super().log(logs, *args, **kwargs)
            told = {"step": self.state.global_step, "seconds": round(seconds_before + time.perf_counter() - began, 2)}
            with open(out / "log.jsonl", "a", encoding="utf-8") as record:
                record.write(json.dumps(logs | told) + "\n")
            if "speech" in logs:
                log.info("step %d of %d: loss %.4f", self.state.global_step, settings.steps, logs["speech"])

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % settings.evaluate_every == 0 and watched:
                model.eval()
                own, other = reading_gap(model, protocol, watched)
                model.train()
                trainer.log({"held_out": round(own, 4), "held_out_wrong_text": round(other, 4)})
            progress(state.global_step, settings.steps)

    arguments = training_arguments(
        output_dir=str(checkpoints),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # a batch of the sampler is a whole batch already
        fp16=False,  # a GPU without bfloat16 computes in float32: these losses were never scaled
        logging_steps=50,
        save_steps=settings.save_every,
        ignore_data_skip=True,  # `Rows` begins where the run goes on
        include_num_input_tokens_seen=True,  # padding counted: it is computed like the rest
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=settings.seed,
    )
    groups = {True: [], False: []}  # matrices decay; embeddings, digits and norms do not
    for name, p in model.named_parameters():
        groups[p.ndim == 2 and "embed" not in name and name != "digits"].append(p)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
    )
    trainer = SpeechTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(),
        data_collator=lambda batch: {k: torch.from_numpy(v) for k, v in batch[0].items()},
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate_at(s, settings))),
        callbacks=[Watch()],
    )
    began = time.perf_counter()
    go_on(trainer)
    save_lm(model, protocol, out, codec)
    return out


def read_log(folder: str | Path) -> list[dict]:
    """Rows of a run's log by step, its own or a finetune's; of what a stopped run made twice, the later. Empty before
    the first row; a torn one is passed over.

    Each has `step`; of a run from scratch also `seconds` of training up to it and `num_input_tokens_seen`. Some have
    `speech` (loss of the last steps, nats an id) and `guide`, others `held_out` and `held_out_wrong_text`; those of a
    finetune `loss` or `eval_loss`.
    """
    path, rows = Path(folder) / "log.jsonl", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # torn by a full disk: it is of a step that is made again
            continue
        rows[(row["step"], *row)] = row
    return sorted(rows.values(), key=lambda row: row["step"])


def rate_at(step: int, settings: Training) -> float:
    """Warm-up, plateau, linear decay: a run can be lengthened by resuming from a checkpoint of its plateau."""
    left = (settings.steps - step) / max(1.0, settings.decay_share * settings.steps)
    return min(1.0, (step + 1) / settings.warmup_steps, max(0.02, left))


def cosine_rate(step: int, warmup_steps: int, done: float, final: float) -> float:
    """Warm-up by steps, then half a cosine over the share `done` (0 .. 1) of a run timed by the clock, to `final`."""
    return min(1.0, (step + 1) / warmup_steps) * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def save_lm(model: SpeechLM, protocol: Protocol, out: str | Path, codec: str = "nano") -> None:
    """Save as fp16 safetensors in files below 10 MB (what plain git takes on the hub), with tokenizer and sampling, and
    the codec it speaks with: "nano", folder or hub id."""
    from transformers import GenerationConfig

    plain = model.plain().half()
    plain.generation_config = GenerationConfig(
        do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, eos_token_id=protocol.speech_end
    )
    plain.config.llasa = config_facts(CHECKPOINTS["nano"]) | {
        "codec": str(Path(codec).absolute()) if codec != "nano" and Path(codec).is_dir() else codec,
        "context": plain.config.max_position_embeddings,
        "guidance": GUIDANCE,
    }
    plain.save_pretrained(out, max_shard_size=PLAIN_GIT)
    protocol.tokenizer.save_pretrained(out)
