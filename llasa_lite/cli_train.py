"""`python -m llasa_lite train ...` and `push`: options to the modules that train. Knows no training itself."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from . import cli_common as common
from .checkpoints import codec_source, find, find_described, reaching
from .cli_evaluate import sentences
from .data import (
    Heard,
    Repitched,
    check_alike,
    check_codec,
    encode_corpus,
    read_corpus,
    read_tokens,
    token_facts,
    write_tokens,
)
from .distributed import encode_parts
from .evaluation import Judge
from .ladder import SHARES, SIZES, Ladder, cell_names, held_out_sentences, run_ladder
from .sources import read_clips, read_recordings, read_utterances, write_memmap
from .tokens import Protocol, character_tokenizer
from .verifiers.speaker import NANO_VERIFIER


def add(verbs, verb, many, model, output) -> None:
    """Add `train`, first the parts of nano, then what takes checkpoints of any size, and `push`."""
    told = "Train models like nano, or finetune any checkpoint."
    kinds = verbs.add_parser("train", help=told, description=told).add_subparsers(
        dest="kind", required=True, metavar="WHAT"
    )

    def kind(name, told, *parents):
        description = f"{told[0].upper()}{told[1:]}."
        return kinds.add_parser(name, help=told, description=description, parents=parents)

    sub = kind("codec", "a small X-codec2, from clips", output)
    sub.set_defaults(handler=train_codec)
    sub.add_argument("--data", required=True, nargs="+", help="corpus folders, or any folders of recordings of speech")
    sub.add_argument("--out", required=True, help="folder for weights, log and state; an unfinished run goes on")
    sub.add_argument("--minutes", type=float, default=45.0, help="of training (default: %(default)g)")
    sub.add_argument("--init", help="codec to start from: nano, folder or hub id")
    pitches(sub)
    sub.add_argument("--freeze-codes", action="store_true", help="train the decoder only: codes keep their meaning")
    sub.add_argument("--learning-rate", type=float, help="at the start (default: 5e-4)")
    told = "train the half that hears the wave itself, too: a step takes three times as long on a CPU"
    sub.add_argument("--acoustic", action="store_true", help=told)
    told = "share of crops heard through a room, a narrow band or noise, and drawn clean (default: 0.2)"
    sub.add_argument("--disturbed", type=float, default=0.2, help=told)
    told = "weight of a recogniser that reads the transcripts off the codes, such as 0.3 (default: 0, none)"
    sub.add_argument("--reading", type=float, default=0.0, help=told)
    sub.add_argument(
        "--adversarial-after",
        type=float,
        default=float("inf"),
        help="minutes until discriminators join (default: they do not)",
    )
    sub.add_argument("--kept", type=float, help="share of the weights of --init in what is saved (default: 0)")
    sub = kind("tokens", "clips to a token corpus", model, output)
    sub.set_defaults(handler=train_tokens)
    sub.add_argument("--data", required=True, nargs="+", help="corpora, hub:owner/name; or token corpora, to align")
    sub.add_argument("--out", required=True, help="safetensors file; an unfinished one is continued")
    many(sub)
    pitches(sub)
    told = "share of the training clips also heard through a room, a line or noise, as voice prompts (default: 0)"
    sub.add_argument("--disturbed", type=float, default=0.0, help=told)
    told = "steps of the aligner's training; 0: no alignment (default: 2500, ten minutes on one core)"
    sub.add_argument("--align-steps", type=int, default=2500, help=told)
    sub = kind("lm", "a small Llasa, from a token corpus", model, output)
    sub.set_defaults(handler=train_lm)
    sub.add_argument("--data", required=True, nargs="+", help="token corpora made by `train tokens`")
    sub.add_argument("--out", required=True, help="folder for weights, log and checkpoints; an unfinished run goes on")
    sub.add_argument("--steps", type=int, help="optimizer steps of about 4,096 ids (default: 9000)")
    sub.add_argument("--init", help="checkpoint of the same shape to start from (default: from scratch)")
    told = "clips of --data in the codes that --init was trained on, where its codec was another"
    sub.add_argument("--init-data", nargs="+", default=[], help=told)
    sub.add_argument("--hidden-size", type=int, default=256, help="default: 256, as nano")
    sub.add_argument("--layers", type=int, default=8, help="default: 8, as nano")
    sub.add_argument("--seed", type=int, default=0, help="default: 0")

    sub = kind("verifier", "a small speaker verifier, from clips", model, output)
    sub.set_defaults(handler=train_verifier)
    sub.add_argument("--data", required=True, nargs="+", help="corpus folders (manifest.jsonl and clips)")
    sub.add_argument("--out", required=True, help="folder for weights and log; an unfinished run goes on")
    sub.add_argument("--minutes", type=float, default=20.0, help="of training (default: %(default)g)")
    sub.add_argument("--init", help="verifier to start from: nano, folder or hub id")
    pitches(sub)

    sub = kind("finetune", "any checkpoint, all weights or LoRA; also by torchrun", output)
    sub.set_defaults(handler=finetune)
    sub.add_argument(
        "--base",
        default="nano",
        help="short name, hub id or folder (default: nano); a text Llama is given Llasa's tokens",
    )
    told = "codes: .safetensors of `train tokens`, folders of memmap rows, or of metadata.csv and <id>.wav.npy"
    sub.add_argument("--data", required=True, nargs="+", help=told)
    sub.add_argument("--out", required=True, help="folder for weights, log and checkpoints; an unfinished run goes on")
    told_recipe = "finetune (default): all weights; lora: adapters; paper, released: as Llasa was pretrained"
    sub.add_argument(
        "--recipe", default="finetune", choices=("paper", "released", "finetune", "lora"), help=told_recipe
    )
    sub.add_argument("--epochs", type=float, help="default: the recipe's")
    sub.add_argument("--learning-rate", type=float, help="default: the recipe's")
    sub.add_argument("--rows-per-step", type=int, help="over all processes (default: the recipe's)")
    sub.add_argument("--rows-at-once", type=int, default=4, help="of one pass in one process (default: 4)")
    sub.add_argument("--max-steps", type=int, help="stop there (default: when the epochs are over)")
    sub.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default: 200)")
    sub.add_argument("--recognition", type=float, default=0.0, help="share of rows from speech to text (default: 0)")
    sub.add_argument("--seed", type=int, default=0, help="default: 0")
    more = "any other field of Transformers' TrainingArguments, the value as JSON or text; may come several times"
    sub.add_argument("--trainer", action="append", default=[], metavar="NAME=VALUE", help=more)
    sub = kind("pairs", "a search's best and worst takes, to learn from", model, output)
    sub.set_defaults(handler=pairs)
    told_pairs = "token corpora made by `train tokens`: their training clips are the voice prompts"
    sub.add_argument("--data", required=True, nargs="+", help=told_pairs)
    sub.add_argument("--sentences", help="text file, one a line (default: the transcripts of --data)")
    sub.add_argument("--out", required=True, help="JSON lines; an unfinished file goes on")
    sub.add_argument("--draws", type=int, default=2000, help="sentences spoken (default: %(default)s)")
    sub.add_argument("--n", type=int, default=8, help="takes of each, at least 2 (default: %(default)s)")
    sub.add_argument("--outcome", default="likelihood", help="verifier that ranks them (default: %(default)s)")
    told_gap = "how far best and worst must be apart, in its unit (default: %(default)s)"
    sub.add_argument("--gap", type=float, default=0.05, help=told_gap)
    sub.add_argument("--seed", type=int, default=0, help="default: 0")
    sub = kind("preferences", "any checkpoint, to prefer the best takes (DPO)", output)
    sub.set_defaults(handler=preferences)
    sub.add_argument(
        "--base", default="nano", help="checkpoint that spoke the takes: short name, hub id or folder (default: nano)"
    )
    sub.add_argument("--pairs", required=True, nargs="+", help="made by `train pairs`")
    sub.add_argument("--out", required=True, help="folder for weights, log and checkpoints; an unfinished run goes on")
    sub.add_argument("--epochs", type=float, help="default: 1")
    sub.add_argument("--learning-rate", type=float, help="at the start (default: 1e-4)")
    sub.add_argument("--beta", type=float, help="how close the model stays to what it was (default: 0.1)")
    sub.add_argument("--pairs-at-once", type=int, default=4, help="of one pass (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="default: 0")
    sub = kind("rows", "codes to the authors' memmap rows", model, output)
    sub.set_defaults(handler=rows)
    sub.add_argument("--data", required=True, nargs="+", help=told)
    sub.add_argument("--out", required=True, help="folder for {train,val}_input_ids.memmap")
    sub = kind("ladder", "three sizes on three shares of a corpus", model, output)
    sub.set_defaults(handler=ladder)
    sub.add_argument("--data", required=True, nargs="+", help="token corpora made by `train tokens`")
    sub.add_argument("--out", required=True, help="folder of cells; finished ones stay, an unfinished one goes on")
    sub.add_argument("--sizes", nargs="+", default=list(SIZES), help=f"of: {', '.join(SIZES)} (default: all)")
    sub.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the corpus (default: 0.25 0.5 1)")
    sub.add_argument("--cells", nargs="+", metavar="SIZE-SHARE", help="only these cells: 1M-0.25 nano-1")
    sub.add_argument("--steps", type=int, default=Ladder.steps, help="of about 2,048 ids (default: %(default)s)")
    sub.add_argument("--judge", help="recogniser for word error rates: hub id or folder (default: none)")
    sub.add_argument("--sentences", help="text file, one sentence a line (default: 40 held-out transcripts)")
    sub.add_argument("--seed", type=int, default=0, help="default: 0")
    sub = verb("push", push, "Upload a finetuned folder to the hub.", output)
    sub.add_argument("folder", metavar="FOLDER", help="made by `train finetune`")
    sub.add_argument("repo", metavar="OWNER/NAME", help="repository on the hub")
    sub.add_argument("--public", action="store_true", help="default: private")


def pitches(sub) -> None:
    told = "training clips also played at these speeds, as voices of their own: 0.92 1.09"
    sub.add_argument("--pitches", nargs="+", type=float, default=[], help=told)


def check_pitches(o) -> None:
    """Before anything is read."""
    if any(not 0.5 <= pitch <= 2 for pitch in o.pitches):
        raise ValueError(f"--pitches are speeds from 0.5 to 2, not {o.pitches}.")


def check_share(o, name: str) -> None:
    value = getattr(o, name)
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"--{name} is a share, 0 to 1, not {value}.")


def check_codecs(o, codec) -> None:
    for file in o.data:
        check_codec(file, codec.name)


def check_above_zero(o, *names: str) -> None:
    for name in names:
        value = getattr(o, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} is a number above 0, not {value:g}.")


def repitched(clips: list, o) -> list:
    return [Repitched(clip, pitch) for pitch in o.pitches for clip in clips if clip.split == "train"]


def clips_of(o) -> list:
    """What `train tokens` encodes: clips as they are, at other speeds, and as others hear them."""
    clips = [clip for source in o.data for clip in read_clips(source)]
    if not clips:
        raise ValueError(f"There are no clips in '{', '.join(o.data)}'.")
    learned = [clip for clip in clips if clip.split == "train"]
    some = random.Random(0).sample(learned, round(o.disturbed * len(learned)))  # the same ones when it goes on
    return clips + repitched(clips, o) + [Heard(clip) for clip in some]


def train_codec(o) -> None:
    from .codec_training import CodecTraining, note_silent_codes, train_codec

    check_pitches(o), check_above_zero(o, "minutes", "learning_rate")
    check_share(o, "disturbed"), check_share(o, "kept")
    clips = [clip for folder in o.data for clip in read_recordings(folder)]
    clips += repitched(clips, o)
    if o.reading < 0:
        raise ValueError(f"--reading is a weight from 0, not {o.reading:g}.")
    told = "minutes", "reading", "disturbed", "adversarial_after", "kept", "learning_rate"
    given = {k: getattr(o, k) for k in told}
    given = {k: value for k, value in given.items() if value is not None}
    settings = CodecTraining(train_encoder=not o.freeze_codes, train_acoustic=o.acoustic, **given)
    out = train_codec(clips, o.out, settings, o.init and codec_source(o.init))
    note_silent_codes(out)
    common.tell({"codec": str(out), "clips": len(clips)}, o, f"codec in {out}")


def train_tokens(o) -> None:
    from .alignment import align_corpus

    check_pitches(o), check_share(o, "disturbed")
    common.check_gpus(o)
    if o.align_steps < 0:
        raise ValueError(f"--align-steps is a number from 0, not {o.align_steps}.")
    codec = common.load_codec(o)
    files = [data for data in o.data if data.endswith(".safetensors")]
    if files and len(files) < len(o.data):
        raise ValueError("Give corpus folders or token corpora, not both: encode the clips first.")
    if files and (o.pitches or o.disturbed):
        raise ValueError("--pitches and --disturbed change sound: give clips, not token corpora.")
    if o.workers is not None:
        if files or o.align_steps:
            raise ValueError("Many workers encode clips and align nothing: give clips and --align-steps 0.")
        clips = clips_of(o)
        made = list(encode_parts(clips, str(o.codec or find_described(o.model).codec), o.out, o.workers, o.gpus or 0))
        told = {"tokens": o.out, "clips": len(clips), "parts_made": len(made)}
        told["dropped"] = sum(part["dropped"] for part in made)
        return common.tell(told, o, "{parts_made} parts made in {tokens}, {dropped} clips left out".format(**told))
    Path(o.out).parent.mkdir(parents=True, exist_ok=True)
    common.check_out(o.out)  # before ten minutes of aligning
    if not o.out.endswith(".safetensors"):
        raise ValueError(f"--out is a file that others know by its ending: call it '{o.out}.safetensors'.")
    if files:  # encoded already: only aligned anew
        if o.align_steps:
            check_codecs(o, codec)
        facts, *others = every = [token_facts(file) for file in files]
        told = next((one for one in every if one.get("codec")), None)  # a file may not say
        for file, one in zip(files, every) if told else ():
            check_alike(file, one, told)
        utterances = [u for file in files for u in read_tokens(file)]
        if others:  # places left out are those of one list of clips; whose the codes are stays known
            whose = [(one.get("codec"), one.get("fingerprint")) for one in (facts, *others)]
            facts = dict(zip(("codec", "fingerprint"), whose[0])) if len(set(whose)) == 1 else {}
        facts.pop("aligned", None)
    else:
        clips = clips_of(o)
        with common.counting("encoding", o, total=len(clips)) as bar:
            encode_corpus(clips, codec, o.out, lambda done, total: bar.update(done - bar.n))
        utterances, facts = read_tokens(o.out), token_facts(o.out)
        if not utterances:
            raise ValueError(f"None of the {len(clips)} clips can be encoded. Repair them and delete '{o.out}'.")
    if o.align_steps and facts.get("aligned") != o.align_steps:  # what is finished takes no ten minutes again
        levels = list(codec.model.config.quantization_levels)
        utterances = align_corpus(utterances, levels, character_tokenizer(codec.codebook_size), o.align_steps)
        facts["aligned"] = o.align_steps
    write_tokens(utterances, o.out, facts)
    told = {"tokens": o.out, "clips": len(utterances), "dropped": len(facts.get("dropped", ()))}
    common.tell(told, o, "{clips} clips in {tokens}, {dropped} left out".format(**told))


def train_lm(o) -> None:
    from .training import Training, train_lm

    check_above_zero(o, "steps", "hidden_size", "layers")
    settings = Training(seed=o.seed, **({"steps": o.steps} if o.steps else {}))
    utterances = [u for file in o.data for u in read_tokens(file)]
    codec = common.load_codec(o)
    check_codecs(o, codec)
    levels = list(codec.model.config.quantization_levels)
    known = [u for file in o.init_data for u in read_tokens(file)]
    if known and not o.init:
        raise ValueError("--init-data belongs to --init: the checkpoint that was trained on these codes.")
    init = o.init and find(o.init).source
    out = train_lm(utterances, levels, o.out, settings, o.hidden_size, o.layers, init, known, codec=codec.name)
    common.tell({"model": str(out), "utterances": len(utterances)}, o, f"model in {out}; speak --model {out}")


def train_verifier(o) -> None:
    from .verifier_training import VerifierTraining, train_verifier

    check_pitches(o), check_above_zero(o, "minutes")
    clips = [clip for folder in o.data for clip in read_corpus(folder)]
    learned = [clip for clip in clips if clip.split == "train"] + repitched(clips, o)
    watched = [clip for clip in clips if clip.split == "test_speaker" and clip.seconds > 1]
    watched = common.some(watched, 300)  # of all voices, though a manifest may have them one after the other
    init = NANO_VERIFIER if o.init == "nano" else o.init
    out = train_verifier(learned, o.out, VerifierTraining(minutes=o.minutes), common.load_codec(o), watched, init)
    common.tell({"verifier": str(out), "clips": len(learned)}, o, f"verifier in {out}")


def finetune(o) -> None:
    from .finetuning import RECIPES, finetune, is_first

    given = {k: getattr(o, k) for k in ("epochs", "learning_rate", "rows_per_step") if getattr(o, k) is not None}
    check_share(o, "recognition")
    check_above_zero(o, "epochs", "learning_rate", "rows_per_step", "rows_at_once", "max_steps", "save_every")
    arguments = dict(_pair(text) for text in o.trainer)
    for source in o.data:
        if not Path(source).exists():
            raise ValueError(f"There is no data '{source}'.")

    codec = find_described(o.base).codec

    def read(protocol):
        return [[read_utterances(source, protocol, split, codec) for source in o.data] for split in ("train", "test")]

    common.no_loading_bars()
    out = finetune(
        *(o.base, read, o.out, replace(RECIPES[o.recipe], **given)),
        **{k: getattr(o, k) for k in ("recognition", "rows_at_once", "save_every", "seed")},
        max_steps=o.max_steps or -1,
        trainer_arguments=arguments,
    )
    if is_first():
        common.tell({"model": str(out)}, o, f"model in {out}; speak --model {out}")


def pairs(o) -> None:
    from .preferences import collect_pairs

    check_above_zero(o, "draws", "n")
    if o.n < 2:
        raise ValueError("--n is at least 2: one take is both the best and the worst.")
    utterances = [u for file in o.data for u in read_tokens(file)]
    said = sentences(o) if o.sentences else [u.text for u in utterances if u.split == "train"]
    llasa = common.load(o)
    check_codecs(o, llasa.codec)
    with common.counting("saying", o, total=o.draws) as bar:
        told = (o.n, o.outcome, o.gap, o.seed, lambda done, total: bar.update(done - bar.n))
        count = collect_pairs(llasa, utterances, said, o.out, o.draws, *told)
    common.tell({"pairs": o.out, "count": count}, o, f"{count} pairs in {o.out}")


def preferences(o) -> None:
    from .preferences import Preferences, read_pairs, train_preferences

    check_above_zero(o, "epochs", "learning_rate", "beta", "pairs_at_once")
    given = {k: getattr(o, k) for k in ("epochs", "learning_rate", "beta", "seed") if getattr(o, k) is not None}
    common.no_loading_bars()
    codec = find_described(o.base).codec
    learned = [pair for file in o.pairs for pair in read_pairs(file, codec)]
    out = train_preferences(o.base, learned, o.out, Preferences(**given), o.pairs_at_once)
    common.tell({"model": str(out), "pairs": len(learned)}, o, f"model in {out}; speak --model {out}")


def rows(o) -> None:
    from transformers import AutoTokenizer

    checkpoint = find_described(o.model)
    with reaching(checkpoint.source):
        protocol = Protocol(AutoTokenizer.from_pretrained(checkpoint.source))
    told, codec = {"folder": o.out}, o.codec or checkpoint.codec
    for split, name in (("train", "train"), ("test", "val")):
        utterances = (u for data in o.data for u in read_utterances(data, protocol, split, codec))
        told[name], told[f"{name}_dropped"] = write_memmap(utterances, o.out, name, protocol)
    line = "{train} rows for training, {val} held out in {folder}; {train_dropped} and {val_dropped} left out"
    common.tell(told, o, line.format(**told))


def ladder(o) -> None:
    check_above_zero(o, "steps")
    cells = o.cells or cell_names(o.sizes, o.shares)
    utterances = [u for file in o.data for u in read_tokens(file)]
    spoken = sentences(o) if o.sentences else held_out_sentences(utterances)
    codec = common.load_codec(o)
    check_codecs(o, codec)
    levels = list(codec.model.config.quantization_levels)
    judge = Judge(o.judge, common.picked_device(o)) if o.judge else None
    settings = Ladder(steps=o.steps, seed=o.seed)
    rows = run_ladder(utterances, levels, o.out, settings, cells, judge, spoken, codec=codec.name)
    table = str(Path(o.out) / "ladder.csv")
    lines = [
        f"{r['size']:5} {r['hours']:6.2f} h  {r['flops']:.2e} FLOPs  held out {r['held_out']:.3f}"
        + (f"  WER {r['wer']:.2f} ({r['wer_low']:.2f} to {r['wer_high']:.2f})" if "wer" in r else "")
        for r in rows
    ]
    common.tell({"table": table, "cells": rows}, o, "\n".join([*lines, table]))


def push(o) -> None:
    from .finetuning import push

    address = push(o.folder, o.repo, private=not o.public)
    common.tell({"address": address}, o, address)


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--trainer takes NAME=VALUE, not '{text}'.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
