"""Trains any Llasa, or a text Llama that is to become one, on Transformers' Trainer. Knows tokens, nothing of audio.

    python -m llasa_lite train finetune --base llasa-1b --data CODES --recipe lora --out runs/me
    torchrun --nproc-per-node 8 -m llasa_lite train finetune --base meta-llama/Llama-3.2-1B-Instruct --recipe paper ...
    ... --trainer deepspeed=zero3.json --trainer gradient_checkpointing=true      # any field of TrainingArguments

Several processes, several nodes, DeepSpeed and FSDP are Trainer's and come with `torchrun`: the recipe says how many
rows a step sees, and each process takes its share. What comes out is a plain `LlamaForCausalLM` in a folder that
`Llasa.from_pretrained` loads, with a model card. nano itself is trained by `training.py`, which has aids for its size.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .checkpoints import (
    CC_BY_NC,
    Checkpoint,
    check_repo,
    config_facts,
    find,
    fingerprint,
    has_bf16,
    load_lm,
    training_device,
)
from .data import Utterance, id_counts, ids_that_fit
from .records import Records
from .sampling import Sampling
from .tokens import IGNORE, MARKERS, Protocol, speech_token

log = logging.getLogger(__name__)

RELEASED_CODES = 65_536  # of X-codec2


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.1
    layers: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Recipe:
    """How long, how fast, on how much at once."""

    source: str
    epochs: float
    learning_rate: float
    rows_per_step: int  # over all processes
    warmup_share: float = 0.03
    final_share: float = 0.1  # of the learning rate, where the cosine ends
    weight_decay: float = 0.0
    beta_2: float = 0.999
    lora: Lora | None = None
    max_ids: int = 2048  # longer rows are dropped and counted


RECIPES = {
    "paper": Recipe("arXiv 2502.04128, training: 2M ids a step", 3, 5e-5, 1024),
    "released": Recipe("the authors' released training config", 2, 5e-5, 1024, weight_decay=0.01, beta_2=0.95),
    "finetune": Recipe("the authors' finetuning script; rows a step are ours", 2, 1e-5, 32),
    "lora": Recipe("the authors' LoRA script; epochs and rows a step are ours", 2, 5e-4, 16, lora=Lora()),
}


# Fields of TrainingArguments -> what `finetune` makes them of. Given past it, a step would have other rows than the
# recipe's, a run would not find its checkpoints, and the card would not be true.
ELSEWHERE = {
    "output_dir": "--out",
    "num_train_epochs": "--epochs",
    "learning_rate": "--learning-rate",
    "per_device_train_batch_size": "--rows-at-once",
    "gradient_accumulation_steps": "--rows-per-step",
    "max_steps": "--max-steps",
    "save_steps": "--save-every",
    "seed": "--seed",
}


class Rows(torch.utils.data.Dataset):
    """Training rows made as they are asked for; row k is speech or recognition by a draw of its own, the same in every
    process and after every restart.

    Args:
        recognition: share of rows that go from speech to text.
    Attributes:
        dropped: utterances that are longer than `max_ids`, have no text, or were dropped by their source.
        ids: of text and speech in the rows that are kept.
    """

    def __init__(self, sources: Sequence[Sequence[Utterance]], protocol: Protocol, max_ids, recognition=0.0, seed=0):
        self.sources, self.protocol, self.recognition, self.seed = sources, protocol, recognition, seed
        most = ids_that_fit(protocol, max_ids)
        self.places: list[tuple[int, int]] = []
        self.dropped = self.ids = 0
        for number, source in enumerate(sources):
            counts = getattr(source, "id_counts", None)
            if counts is None:
                counts = id_counts(source, protocol)
            fits = np.flatnonzero((counts > 0) & (counts <= most))
            self.places += [(number, int(k)) for k in fits]
            self.ids += int(counts[fits].sum())
            self.dropped += len(counts) - len(fits) + getattr(source, "dropped", 0)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        source, place = self.places[index]
        said = self.sources[source][place]
        read = self.recognition > 0 and np.random.default_rng([self.seed, index]).random() < self.recognition
        made = (self.protocol.asr_example if read else self.protocol.tts_example)(said.text, said.codes)
        return {"input_ids": made.input_ids, "labels": made.labels}

    def collate(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Padded on the right: a causal model needs no mask for that, and the loss skips it."""
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self.protocol.pad, "labels": IGNORE}
        return {k: torch.tensor([row[k] + [v] * (width - len(row[k])) for row in rows]) for k, v in fill.items()}


def load_base(source: str, may_grow: bool = True) -> tuple[Checkpoint, Protocol, torch.nn.Module]:
    """A checkpoint to train, float32. A text Llama gets Llasa's tokens, in the released order, and fresh rows for them.

    Args:
        may_grow: False refuses a text Llama.
    Raises:
        ValueError: not a Llama, or no tokenizer with a chat template; NotReachable: no weights.
    """
    tokenizer, model, checkpoint = load_lm(find(source), "cpu", torch.float32)
    if MARKERS[0] not in tokenizer.get_vocab():
        if not tokenizer.chat_template:
            raise ValueError(f"'{source}' has no chat template: start from an Instruct model.")
        if not may_grow:
            raise ValueError(
                f"'{source}' is a text Llama, and LoRA would leave the vectors of Llasa's tokens, which it lacks, as "
                "they are drawn. Train all weights: --recipe paper, released or finetune."
            )
        tokenizer.add_tokens([*MARKERS, *map(speech_token, range(RELEASED_CODES))])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        log.info("%d tokens of Llasa added to '%s'.", len(MARKERS) + RELEASED_CODES, source)
    return checkpoint, Protocol(tokenizer), model


def finetune(
    base: str,
    read: Callable[[Protocol], tuple[list[Sequence[Utterance]], list[Sequence[Utterance]]]],
    out: str | Path,
    recipe: Recipe,
    recognition: float = 0.0,
    rows_at_once: int = 4,
    max_steps: int = -1,
    save_every: int = 200,
    seed: int = 0,
    trainer_arguments: dict | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Train `base` on utterances and save it as a folder `Llasa.from_pretrained` reads.

    A run that was stopped goes on from its last checkpoint in `out/checkpoints`, on the same rows in the same order,
    also with another number of processes; the log is `out/log.jsonl`.

    Args:
        base: checkpoint (short name, hub id, folder) or a text Llama.
        read: gives, for the protocol of the base, the utterances to learn, one sequence a source, and those whose
            loss is logged whenever a checkpoint is saved.
        recognition: share of rows that go from speech to text; the checkpoint can then transcribe.
        rows_at_once: rows of one forward pass in one process; the recipe's `rows_per_step` is reached by accumulation.
        max_steps: stop there; -1: as many epochs as the recipe says.
        trainer_arguments: fields of `transformers.TrainingArguments` that take the place of ours, but for those that
            have an argument of their own here.
        progress: called after every step with the steps done and all of them.
    Raises:
        ValueError: no rows that fit, a base that is no Llama, rows a step that the processes cannot share evenly, a
            field that is given elsewhere, an `out` that is the base or was begun with other settings or rows, or no
            weights that Trainer gathered.
    """
    import transformers

    out = Path(out)
    if twice := sorted(ELSEWHERE.keys() & (trainer_arguments or {})):
        raise ValueError(f"'{twice[0]}' is not given to Trainer: give {ELSEWHERE[twice[0]]}.")
    torch.manual_seed(seed)
    checkpoint, protocol, model = load_base(base, may_grow=recipe.lora is None)
    sources, watched = read(protocol)
    max_ids = min(recipe.max_ids, checkpoint.context, model.config.max_position_embeddings)
    rows = Rows(sources, protocol, max_ids, recognition, seed)
    if not len(rows):
        raise ValueError(f"There is no row of at most {max_ids} ids to train on; {rows.dropped} are longer or blank.")
    held_out = Rows(watched, protocol, max_ids, recognition, seed)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    accumulation, left = divmod(recipe.rows_per_step, rows_at_once * processes)
    if left or not accumulation:
        raise ValueError(
            f"{recipe.rows_per_step} rows a step are not shared evenly by {processes} processes of {rows_at_once} rows "
            "at once. Change --rows-at-once or --rows-per-step."
        )
    same = {name: value for name, value in asdict(recipe).items() if name not in ("source", "epochs", "max_ids")}
    same |= {"rows": len(rows), "ids": rows.ids, "recognition": recognition, "seed": seed}
    begin(out, checkpoint.source, same)
    learned = ["asr"] if recognition > 0 and not checkpoint.can_transcribe else []
    dress(model, checkpoint, protocol, learned)
    fields = dict(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=recipe.epochs,
        max_steps=max_steps,
        per_device_train_batch_size=rows_at_once,
        per_device_eval_batch_size=rows_at_once,
        gradient_accumulation_steps=accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": recipe.final_share},
        warmup_steps=recipe.warmup_share,  # below 1: a share of all steps
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.beta_2,
        logging_steps=10,
        save_steps=save_every,
        eval_strategy="steps" if len(held_out) else "no",
        eval_steps=save_every,
        prediction_loss_only=True,
        ddp_find_unused_parameters=False,
        seed=seed,
    )
    arguments = training_arguments(**fields | (trainer_arguments or {}))
    if recipe.lora:
        model = _with_adapter(model, recipe.lora)

    class Log(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            progress(state.global_step, state.max_steps)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.is_world_process_zero:
                with open(out / "log.jsonl", "a", encoding="utf-8") as record:
                    record.write(json.dumps({"step": state.global_step} | logs) + "\n")
                shown = ", ".join(f"{k} {v:.4g}" for k, v in logs.items() if "loss" in k or k == "learning_rate")
                log.info("step %d of %d: %s", state.global_step, state.max_steps, shown)

    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held_out if len(held_out) else None,
        data_collator=rows.collate,
        callbacks=[Log()],
    )
    go_on(trainer)
    saved = out / "adapter" if recipe.lora else out
    trainer.save_model(str(saved))  # gathers what DeepSpeed and FSDP have spread
    if trainer.is_world_process_zero():
        if not any(saved.glob("*.safetensors")):
            raise ValueError(
                f"Trainer gathered no weights for '{saved}'. Tell it to (in DeepSpeed's configuration by "
                '"stage3_gather_16bit_weights_on_model_save": true) and give the command again: no step is lost.'
            )
        if recipe.lora:
            _merge_adapter(base, out, model.config, model.generation_config)
        if (kept := kept_dtype(checkpoint)) != torch.float32:
            # as the base was kept: what it learned in float32 takes twice the room
            transformers.LlamaForCausalLM.from_pretrained(out, dtype=kept).save_pretrained(out)
        for file in (out / "training_args.bin", out / "adapter" / "training_args.bin"):
            file.unlink(missing_ok=True)  # Python objects, which nobody who loads the folder needs
        told = {
            "Recipe": recipe.source + (", LoRA " + str(asdict(recipe.lora)) if recipe.lora else ", all weights"),
            "Rows": f"{len(rows):,} ({rows.ids:,} ids of text and speech), {rows.dropped:,} too long or without text",
            "From speech to text": f"{recognition:.0%} of the rows",
            "Steps": f"{trainer.state.global_step:,} of {recipe.rows_per_step} rows, seed {seed}",
            "Learning rate": f"{recipe.learning_rate:g}, cosine to {recipe.final_share:.0%}",
        }
        if trainer_arguments:
            shown = {k: Path(v).name if isinstance(v, str) else v for k, v in trainer_arguments.items()}  # no folders
            told["But for"] = ", ".join(f"{name} {value}" for name, value in shown.items())
        finish(out, checkpoint, protocol, told)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # a process group left open can hang the interpreter's exit
    return out


def training_arguments(**fields):
    """Transformers' `TrainingArguments`: the fields given, and what all our runs share. Raises ValueError on a field
    that there is not, and where 'accelerate' is missing."""
    import transformers

    if not transformers.utils.is_accelerate_available():
        raise ValueError("Training needs 'accelerate': pip install \"llasa-lite[train]\".")
    on_gpu, bf16 = (device := training_device()).type == "cuda", has_bf16(device)
    shared = dict(use_cpu=not on_gpu, bf16=bf16, fp16=on_gpu and not bf16, dataloader_pin_memory=on_gpu)
    shared |= dict(save_total_limit=2, report_to=[], disable_tqdm=True)
    try:
        made = transformers.TrainingArguments(**shared | fields)
    except TypeError as error:
        raise ValueError(f"Transformers' TrainingArguments refuses this: {error}.") from error
    if made.n_gpu > 1 and "WORLD_SIZE" not in os.environ:
        made._n_gpu = 1  # or Trainer wraps the model in DataParallel, and a step has other rows than the recipe's
    return made


def begin(out: Path, base: str | Path | None, settings: dict, state: Path | None = None) -> None:
    """Make a run's folder, and note in it what checkpoints of the run share: one of another run would be gone on from,
    whatever was asked for.

    Args:
        base: folder or hub id that the run starts from; of a small one its weights are noted, too: names may be alike.
        state: file that the run goes on from; None: Trainer's checkpoints in `out/checkpoints`.
    Raises:
        ValueError: the folder is the base's own, or holds checkpoints of a run with other settings.
    """
    if base is not None and Path(base).resolve() == out.resolve():
        raise ValueError(f"'{out}' holds the checkpoint to start from. Choose another folder for the one that is made.")
    if not is_first():
        return
    note = (state.parent if state else out / "checkpoints") / "begun.jsonl"
    if not (state.exists() if state else last_checkpoint(note.parent)[0]):
        note.unlink(missing_ok=True)
    told = base and {"base": Path(base).name if Path(base).is_dir() else str(base), "weights": fingerprint(str(base))}
    Records(note, settings=settings | (told or {"base": None}))


def check_alone(what: str) -> None:
    """Raises ValueError where torchrun started several processes: `what` ("A codec is") is trained by one."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"{what} trained by one process. Start it without torchrun.")


def is_first() -> bool:
    """Whether this is the process that writes and speaks, where torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def last_checkpoint(folder: str | Path) -> tuple[str | None, int]:
    """The newest whole checkpoint of a run and its step; (None, 0) where there is none.

    Trainer writes trainer_state.json last: a run that was killed before leaves a newer folder without it.
    """
    whole = (file.parent for file in Path(folder).glob("checkpoint-*/trainer_state.json"))
    steps = {int(one.name.removeprefix("checkpoint-")): str(one) for one in whole}
    return (steps[max(steps)], max(steps)) if steps else (None, 0)


def go_on(trainer) -> None:
    """Train, from the last whole checkpoint on if there is one. Of a run that was at its end already only the weights
    are taken: Trainer would take one step more."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    last, done = last_checkpoint(trainer.args.output_dir)
    first = trainer.set_initial_training_values

    def no_more_than_asked(*given, **more):
        epochs, *rest, steps = first(*given, **more)
        if steps > done:
            return epochs, *rest, steps
        trainer.log = lambda *_, **__: None  # of no step
        return 0, *rest, steps

    trainer.set_initial_training_values = no_more_than_asked
    trainer.train(resume_from_checkpoint=last)
    trainer.model.config.use_cache = True  # Trainer turns it off, and it is saved: whoever loads the model generates


def kept_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Of a checkpoint's weights where they are kept, as its config says."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(checkpoint.source, **checkpoint.hub).dtype or torch.float32


def dress(model, checkpoint: Checkpoint, protocol: Protocol, learned: Sequence[str] = ()) -> None:
    """Note in a model that is to be trained what its folder tells `Llasa.from_pretrained`: sampling, tasks and more.

    Args:
        learned: tasks that the checkpoint did not have.
    """
    from transformers import GenerationConfig

    own = Sampling.of(model.config, model.generation_config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=own.temperature, top_p=own.top_p, eos_token_id=protocol.speech_end
    )
    model.config.llasa = config_facts(checkpoint, [*checkpoint.tasks, *learned]) | {"guidance": own.guidance}


def finish(out: Path, checkpoint: Checkpoint, protocol: Protocol, told: dict[str, str]) -> None:
    """Tokenizer and model card beside weights that were saved; `told` is what the card says after the base."""
    protocol.tokenizer.save_pretrained(out)
    base = {"Base": f"`{checkpoint.source if checkpoint.name != 'nano' else 'nano'}`"}
    (out / "README.md").write_text(card(out.name, checkpoint, base | told), encoding="utf-8")


def card(name: str, checkpoint: Checkpoint, told: dict[str, str]) -> str:
    """A model card that says what it was made of: `told`, name to value, becomes its table."""
    licence = {CC_BY_NC: "cc-by-nc-4.0", "Apache-2.0": "apache-2.0"}.get(checkpoint.licence, "other")
    front = [f"license: {licence}", "library_name: transformers", "pipeline_tag: text-to-speech", "tags: [llasa]"]
    if checkpoint.languages:
        front.append(f"language: [{', '.join(checkpoint.languages)}]")
    if "/" in checkpoint.source and not Path(checkpoint.source).exists():
        front.append(f"base_model: {checkpoint.source}")
    table = "\n".join(f"| {key} | {value} |" for key, value in told.items())
    return _CARD.format(front="\n".join(front), name=name, table=table, licence=checkpoint.licence)


def push(folder: str | Path, repo: str, private: bool = True, api=None) -> str:
    """Upload a finetuned folder to the hub, without checkpoints, adapter and logs; returns its address.

    Args:
        repo: owner/name.
        api: a `huggingface_hub.HfApi`; None: one of the account that is logged in.
    Raises:
        ValueError: no checkpoint in the folder, a codec that nobody else has, not a name of a repository, or a hub that
            cannot be reached or refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(folder)
    codec = find(str(folder)).codec
    if not (folder / "README.md").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(f"'{folder}' holds no finished checkpoint: weights (.safetensors) or README.md are missing.")
    check_repo(repo)
    if Path(codec).is_dir():
        raise ValueError(
            f"'{folder}' speaks with the codec in '{codec}', which lies on this machine alone. Upload it (hf upload "
            f'OWNER/CODEC {codec}) and put that name into \'{folder / "config.json"}\', under "llasa", "codec".'
        )
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    # an adapter is in the weights already, and its files name the base's folder on this machine
    left = ["checkpoints/*", "adapter/*", "*.jsonl", "*.bin", "*.pt"]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=str(folder), ignore_patterns=left))
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        refused = "log in with 'hf auth login', by a token that may write there"
        why = refused if status in (401, 403) else f"the hub failed (status {status})"
        raise ValueError(f"Cannot push to '{repo}': {why}.") from error
    except Exception as error:  # which errors a lost connection raises depends on the hub client's own client
        if isinstance(error, (ValueError, OSError)) and not isinstance(error, ConnectionError):
            raise
        raise ValueError(f"Cannot push to '{repo}': the hub did not answer.") from error


# -- helpers ---------------------------------------------------------------------------------------------------------


def _with_adapter(model, lora: Lora):
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ValueError("LoRA needs 'peft': pip install \"llasa-lite[train]\".") from error

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _merge_adapter(base: str, out: Path, config, generation_config) -> None:
    """Weights of the base with the adapter in them, from what was saved: whole however training had spread it."""
    from peft import PeftModel

    _, _, model = load_base(base)
    model = PeftModel.from_pretrained(model, str(out / "adapter")).merge_and_unload()
    model.config.llasa, model.generation_config = config.llasa, generation_config
    model.save_pretrained(out)


_CARD = """---
{front}
---
# {name}

A [Llasa](https://arxiv.org/abs/2502.04128): text to speech as one plain Llama, trained with
[llasa_lite](https://pypi.org/project/llasa-lite/).

| | |
|---|---|
{table}

```python
from llasa_lite import Llasa

llasa = Llasa.from_pretrained("path or hub id of this checkpoint")
llasa.tts("Hello there.", seed=7).save("hello.wav")
```

Licence: {licence}, as of the checkpoint it was trained from. What it says is synthetic speech: say so where it is
heard, and use only voices you have permission to use.
"""
