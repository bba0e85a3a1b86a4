"""Laws of training any checkpoint: the loss counts answers only, runs go on, processes share, results load."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LLAMA_3_TEMPLATE, ROOT

pytest.importorskip("accelerate", reason="pip install accelerate")

from llasa_lite import Llasa, Sampling
from llasa_lite.checkpoints import RELEASED_CODEC, find, find_described
from llasa_lite.cli import main
from llasa_lite.data import Utterance, write_tokens
from llasa_lite.finetuning import RECIPES, Rows, finetune, last_checkpoint, load_base, push, training_arguments
from llasa_lite.sources import read_utterances
from llasa_lite.tokens import IGNORE, MARKERS, Protocol, character_tokenizer

RECIPE = replace(RECIPES["finetune"], learning_rate=1e-3, rows_per_step=4)
QUIET = {"logging_steps": 1}


def utterances(count=24):
    random = np.random.default_rng(0)
    words = "the old boat is on a river and we go home now".split()
    return [
        Utterance(
            " ".join(random.choice(words, random.integers(2, 6))) + ".",
            "s",
            "train",
            random.integers(4096, size=random.integers(20, 60)).astype(np.uint16),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Llasa of nano's protocol and a hundredth of its weights."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    tokenizer = character_tokenizer(4096)
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, max_position_embeddings=512, tie_word_embeddings=True)
    config.llasa = {"codec": "nano", "tasks": ["tts"], "licence": "Apache-2.0", "languages": ["en"], "context": 512}
    config.llasa["guidance"] = 1.5
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.8)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return str(folder)


def losses(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def run(base, out, recipe=RECIPE, **more):
    read = lambda protocol: ([utterances()], [utterances(4)])  # noqa: E731
    settings = dict(rows_at_once=2, max_steps=4, save_every=2, trainer_arguments=QUIET)
    return finetune(base, read, out, recipe, **(settings | more))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    return run(base, tmp_path_factory.mktemp("whole") / "lm", recognition=0.5)


@pytest.mark.parametrize(
    "major, quick, wanted", [(7, True, "fp16"), (8, False, "bf16"), (0, True, "bf16"), (0, False, "")]
)
def test_what_only_emulates_bfloat16_does_not_train_in_it(base, tmp_path, monkeypatch, major, quick, wanted):
    """A card of that major version, or a processor."""

    class Asked(Exception):
        pass

    def asked(**fields):
        raise Asked([name for name in ("bf16", "fp16") if fields[name]])

    monkeypatch.setattr("transformers.TrainingArguments", asked)
    monkeypatch.setattr("llasa_lite.checkpoints.cpu_has_bf16", lambda: quick)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: major > 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major, minor=0))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    with pytest.raises(Asked) as told:
        run(base, tmp_path)
    assert told.value.args == (wanted.split(),)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_the_protocols_and_too_long_ones_are_counted():
    protocol = Protocol(character_tokenizer(4096))
    made = utterances()
    longest = max(len(protocol.tts_example(u.text, u.codes).input_ids) for u in made)
    rows = Rows([made], protocol, longest - 1, recognition=0.5, seed=1)
    assert 0 < rows.dropped < len(made) and len(rows) + rows.dropped == len(made)
    assert max(len(row["input_ids"]) for row in rows) <= longest - 1
    kinds = set()
    for (_, place), row in zip(rows.places, rows):
        speech = protocol.tts_example(made[place].text, made[place].codes)
        text = protocol.asr_example(made[place].text, made[place].codes)
        kinds.add(row["input_ids"] == text.input_ids)
        wanted = text if row["input_ids"] == text.input_ids else speech
        assert (row["input_ids"], row["labels"]) == (wanted.input_ids, wanted.labels)
    assert kinds == {True, False}
    assert [row["labels"] for row in rows] == [row["labels"] for row in Rows([made], protocol, longest - 1, 0.5, 1)]


def test_utterances_without_text_or_codes_are_dropped_and_counted():
    protocol, (one, *made) = Protocol(character_tokenizer(4096)), utterances(4)
    rows = Rows([[*made, replace(one, text=" "), replace(one, codes=one.codes[:0])]], protocol, 512)
    assert (len(rows), rows.dropped) == (3, 2) and len(list(rows.collate([rows[k] for k in range(3)])["labels"])) == 3


def test_padding_has_no_loss():
    protocol = Protocol(character_tokenizer(4096))
    rows = Rows([utterances(3)], protocol, 512)
    batch = rows.collate([rows[k] for k in range(3)])
    for ids, labels, row in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), rows):
        assert ids[: len(row["input_ids"])] == row["input_ids"] and labels[: len(row["labels"])] == row["labels"]
        assert set(labels[len(row["labels"]) :]) <= {IGNORE} and set(ids[len(row["input_ids"]) :]) <= {protocol.pad}


def test_codes_of_another_codec_are_not_learned(base, tmp_path, capsys, caplog):
    """Those of a small codec would all be there among the released one's, and mean other sounds."""
    large, small = {"codec": RELEASED_CODEC, "fingerprint": None}, {"codec": "mine", "fingerprint": "0123456789ab"}
    protocol, file = Protocol(character_tokenizer(4096)), tmp_path / "tokens.safetensors"
    for facts, codec, refused in ((large, "nano", True), (small, RELEASED_CODEC, True), (large, "me/copy", False)):
        write_tokens(utterances(4), file, facts)
        if refused:
            with pytest.raises(ValueError, match=f"holds codes of the codec '{facts['codec']}', .* of '{codec}'"):
                read_utterances(file, protocol, codec=codec)
        else:
            assert len(read_utterances(file, protocol, codec=codec)) == 4
    write_tokens(utterances(4), file, small)
    assert len(read_utterances(file, protocol, codec="nano")) == 4 and "whose weights were others" in caplog.text
    write_tokens(utterances(4), file, large)
    for verb in (["tokens"], ["finetune", "--base", base], ["rows"], ["lm"], ["pairs"], ["ladder"]):
        out = tmp_path / "out.safetensors"
        assert main(["train", *verb, "--data", str(file), "--out", str(out)]) == 2
        assert "holds codes of the codec" in capsys.readouterr().err and not (out / "checkpoints").exists()


def test_a_checkpoint_of_the_hub_is_trained_as_its_config_says(base, monkeypatch):
    import transformers

    for kind in (transformers.AutoConfig, transformers.AutoTokenizer, transformers.LlamaForCausalLM):
        here = lambda name, *_, first=kind.from_pretrained, **more: first(base, **more)  # noqa: E731
        monkeypatch.setattr(kind, "from_pretrained", here)
    monkeypatch.setattr("llasa_lite.checkpoints.reaching", lambda *_: nullcontext())
    for checkpoint in (load_base("me/small")[0], find_described("me/small")):
        assert (checkpoint.source, checkpoint.codec, checkpoint.context) == ("me/small", "nano", 512)


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_finetuned_folder_speaks_and_says_what_it_is(whole):
    llasa = Llasa.from_pretrained(whole, device="cpu")
    assert llasa.checkpoint.can_transcribe and llasa.codec.name == "nano" and llasa.checkpoint.licence == "Apache-2.0"
    assert llasa.sampling == Sampling(0.6, 0.8, guidance=1.5)
    assert llasa.tts("Oh.", seed=1).seconds > 0
    card = (whole / "README.md").read_text()
    assert "| But for | logging_steps 1 |" in card
    assert "license: apache-2.0" in card and "24 (" in card and "50% of the rows" in card and "4 of 4 rows" in card
    assert not list(whole.glob("*.bin"))
    assert [row for row in map(json.loads, open(whole / "log.jsonl")) if "eval_loss" in row]


def run_and_be_killed(base, out):
    """In a process of its own: killed by the system after step 3, between two checkpoints."""
    import transformers

    class Kill(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    first = transformers.Trainer.__init__
    transformers.Trainer.__init__ = lambda self, callbacks, **more: first(self, callbacks=[*callbacks, Kill()], **more)
    run(base, Path(out), recognition=0.5)


def test_a_killed_run_goes_on_to_the_same_losses(base, whole, tmp_path):
    code = f"import test_finetuning; test_finetuning.run_and_be_killed({base!r}, {str(tmp_path / 'lm')!r})"
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-3000:]
    before = losses(tmp_path / "lm")
    assert set(before) == {1, 2, 3} and not (tmp_path / "lm" / "config.json").exists()
    run(base, tmp_path / "lm", recognition=0.5)
    assert (tmp_path / "lm" / "checkpoints" / "checkpoint-4").is_dir()
    assert losses(tmp_path / "lm") == pytest.approx(losses(whole), abs=1e-6)


def test_a_checkpoint_that_a_kill_tore_is_passed_over(base, whole, tmp_path):
    """Trainer's last file of a checkpoint is missing, and so are others that it wrote before."""
    run(base, tmp_path / "lm", recognition=0.5)
    torn = tmp_path / "lm" / "checkpoints" / "checkpoint-4"
    (torn / "trainer_state.json").unlink(), (torn / "optimizer.pt").unlink()
    assert last_checkpoint(torn.parent) == (str(torn.parent / "checkpoint-2"), 2)
    assert last_checkpoint(tmp_path / "nowhere") == (None, 0)
    run(base, tmp_path / "lm", recognition=0.5)
    assert last_checkpoint(torn.parent) == (str(torn), 4)
    assert losses(tmp_path / "lm") == pytest.approx(losses(whole), abs=1e-6)


@pytest.mark.parametrize("recipe, steps", [(RECIPE, 4), (replace(RECIPE, epochs=0.5), -1)], ids=["steps", "epochs"])
def test_a_finished_run_takes_no_more_steps(base, tmp_path, recipe, steps):
    out, seen = tmp_path / "lm", []
    run(base, out, recipe, max_steps=steps)
    before, logged = (out / "model.safetensors").read_bytes(), (out / "log.jsonl").read_bytes()
    run(base, out, recipe, max_steps=steps, progress=lambda done, total: seen.append(done))
    assert not seen and (out / "model.safetensors").read_bytes() == before
    assert (out / "log.jsonl").read_bytes() == logged


def test_a_folder_goes_on_with_its_own_run_only(base, tmp_path):
    """Or a finished one would be told as the answer to another question, its card with figures that are not its own."""
    out = run(base, tmp_path / "lm", max_steps=2)
    card, weights = (out / "README.md").read_text(), (out / "model.safetensors").read_bytes()
    for changed, told in (
        ({"recipe": replace(RECIPE, learning_rate=1e-4)}, "begun with learning_rate 0.001"),
        ({"recipe": replace(RECIPE, lora=RECIPES["lora"].lora)}, "begun with lora None"),
        ({"base": "nano"}, "begun with base 'base"),
        ({"recognition": 0.5, "seed": 1}, r"begun with recognition 0\.0, seed 0"),
    ):
        with pytest.raises(ValueError, match=told):
            run(**{"base": base, "out": out, "max_steps": 2} | changed)
    other = tmp_path / Path(base).name  # another checkpoint that is called as the first one
    shutil.copytree(base, other)
    load_base(base)[2].half().save_pretrained(other)
    with pytest.raises(ValueError, match="begun with weights '"):
        run(str(other), out, max_steps=2)
    with pytest.raises(ValueError, match="begun with ids .*, rows 24"):
        finetune(base, lambda _: ([utterances(20)], []), out, RECIPE, rows_at_once=2, max_steps=2)
    with pytest.raises(ValueError, match="holds the checkpoint to start from"):
        run(str(out), out)
    assert (out / "README.md").read_text() == card and (out / "model.safetensors").read_bytes() == weights
    run(base, out, max_steps=3)  # longer is not another
    assert last_checkpoint(out / "checkpoints")[1] == 3
    shutil.rmtree(out / "checkpoints")
    run(base, out, replace(RECIPE, learning_rate=1e-4), max_steps=2)  # nothing to go on from


def test_one_process_takes_one_gpu(tmp_path, monkeypatch):
    """Or DataParallel would hide the model's parts, and a step have the rows of all GPUs."""
    import transformers

    def several(self):
        self._n_gpu = getattr(self, "_n_gpu", 2)
        return torch.device("cpu")

    monkeypatch.setattr(transformers.TrainingArguments, "_setup_devices", property(several))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = training_arguments(output_dir=str(tmp_path), per_device_train_batch_size=3)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 3


def test_weights_that_were_not_gathered_are_not_told_to_be_there(base, tmp_path, monkeypatch):
    """As by DeepSpeed's ZeRO 3, which leaves them spread unless it is told: its run would end with a card alone."""
    import transformers

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="gathered no weights .* no step is lost"):
        patch.setattr(
            transformers.Trainer, "save_model", lambda self, folder=None, **_: Path(folder).mkdir(exist_ok=True)
        )
        run(base, tmp_path / "lm", max_steps=2, save_every=9)
    assert not (tmp_path / "lm" / "README.md").exists()


def test_training_without_accelerate_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_accelerate_available", lambda *_: False)
    with pytest.raises(ValueError, match=r"Training needs 'accelerate': pip install \"llasa-lite\[train\]\"\."):
        training_arguments(output_dir=str(tmp_path))


def test_two_processes_have_the_loss_of_one(base, whole, tmp_path):
    """By torchrun, on the same rows: each takes half of every step."""
    write_tokens(utterances(), tmp_path / "tokens.safetensors")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "llasa_lite", "train", "finetune", "--base", base, "--data", str(tmp_path / "tokens.safetensors")]
    command += ["--out", str(tmp_path / "two"), "--rows-per-step", "4", "--rows-at-once", "2", "--max-steps", "4"]
    command += ["--learning-rate", "1e-3", "--recognition", "0.5", "--trainer", "logging_steps=1", "--json"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"model": str(tmp_path / "two")}
    assert losses(tmp_path / "two") == pytest.approx(losses(whole), abs=2e-4)
    assert Llasa.from_pretrained(tmp_path / "two", device="cpu").checkpoint.can_transcribe


def test_an_adapter_is_merged_into_a_plain_checkpoint(base, tmp_path):
    pytest.importorskip("peft", reason="pip install peft")
    recipe = replace(RECIPES["lora"], learning_rate=1e-2, rows_per_step=4)
    out = run(base, tmp_path / "lm", recipe, max_steps=2)
    _, _, before = load_base(base)
    _, _, after = load_base(str(out))
    changed = {
        name for name, p in after.state_dict().items() if not torch.allclose(p, before.state_dict()[name], atol=1e-7)
    }
    assert changed == {f"model.layers.0.self_attn.{name}.weight" for name in ("q_proj", "v_proj")}
    assert (out / "adapter" / "adapter_model.safetensors").is_file() and not list(out.rglob("adapter/*.bin"))
    assert not Llasa.from_pretrained(out, device="cpu").checkpoint.can_transcribe


@pytest.mark.parametrize("recipe", ["finetune", "lora"])
def test_what_was_kept_in_16_bits_is_kept_in_16_bits(base, tmp_path, recipe):
    """It is trained in 32, in which its files would be twice as large."""
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    if recipe == "lora":
        pytest.importorskip("peft", reason="pip install peft")
    shutil.copytree(base, tmp_path / "base")
    LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    out = run(str(tmp_path / "base"), tmp_path / "lm", replace(RECIPES[recipe], learning_rate=1e-2, rows_per_step=4))
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", out))
    assert {p.dtype for p in after.values()} == {torch.bfloat16}
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    assert find(str(out)).codec == "nano" and Llasa.from_pretrained(out, device="cpu").sampling.top_p == 0.8


def test_a_text_llama_gets_llasas_tokens_in_the_released_order(tmp_path, tiny_llama):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|begin_of_text|>", "<|eot_id|>", "<unk>", "oh"]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token=words[0], eos_token=words[1], unk_token="<unk>"
    )
    tokenizer.save_pretrained(tmp_path)
    tiny_llama(len(words), tie_word_embeddings=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        load_base(str(tmp_path))
    tokenizer.chat_template = LLAMA_3_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a text Llama, and LoRA would leave"):
        run(str(tmp_path), tmp_path / "lm", RECIPES["lora"])
    _, protocol, model = load_base(str(tmp_path))
    assert protocol.tokenizer.convert_tokens_to_ids(list(MARKERS)) == list(range(4, 12))
    assert (protocol.code_offset, protocol.codebook_size) == (12, 65_536)
    assert model.config.vocab_size == 12 + 65_536 == len(model.get_output_embeddings().weight)
    example = protocol.tts_example("oh", [0, 65_535])
    assert example.input_ids[-3:] == [12, 12 + 65_535, protocol.speech_end]


# -- hub -------------------------------------------------------------------------------------------------------------


def test_a_finished_folder_is_pushed_without_its_checkpoints(whole, tmp_path):
    calls = []
    hub = SimpleNamespace(
        create_repo=lambda repo, **more: calls.append((repo, more)),
        upload_folder=lambda **more: calls.append(more) or "https://hub/me/llasa",
    )
    assert push(whole, "me/llasa", api=hub) == "https://hub/me/llasa"
    assert calls[0] == ("me/llasa", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == str(whole) and {"checkpoints/*", "adapter/*"} <= {*calls[1]["ignore_patterns"]}
    with pytest.raises(ValueError, match="A repository is named owner/name"):
        push(whole, "llasa", api=hub)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no finished checkpoint"):
        push(tmp_path, "me/llasa", api=hub)


def test_a_hub_that_refuses_or_is_silent_is_a_sentence(whole):
    from huggingface_hub.errors import HfHubHTTPError

    httpx = pytest.importorskip("httpx", reason="pip install httpx")
    answer = httpx.Response(401, request=httpx.Request("POST", "https://huggingface.co/api/repos/create"))
    for error, sentence in (
        (HfHubHTTPError("Client error '401 Unauthorized'", response=answer), "log in with 'hf auth login'"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "the hub did not answer"),
    ):

        def fail(*_, error=error, **__):
            raise error

        with pytest.raises(ValueError, match=f"Cannot push to 'me/llasa': {sentence}"):
            push(whole, "me/llasa", api=SimpleNamespace(create_repo=fail))


def test_a_codec_that_nobody_else_has_is_not_left_behind(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "lm", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "codec").mkdir()
    config = json.loads((whole / "config.json").read_text())
    config["llasa"]["codec"] = str(tmp_path / "codec")
    (tmp_path / "lm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="which lies on this machine alone. Upload it"):
        push(tmp_path / "lm", "me/llasa", api=None)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--data", "no.safetensors"], "There is no data 'no.safetensors'."),
        (["--data", ".", "--trainer", "fsdp"], "--trainer takes NAME=VALUE, not 'fsdp'."),
        (["--data", ".", "--recognition", "2"], "--recognition is a share, 0 to 1, not 2.0."),
        (["--data", "."], "'.' holds no codes"),
        (["--data", "long.safetensors"], "There is no row of at most"),
        (["--data", "short.safetensors", "--rows-at-once", "3"], "32 rows a step are not shared evenly by 1 processes"),
        (["--data", "short.safetensors", "--trainer", "sing=true"], "TrainingArguments refuses this"),
        (["--data", "short.safetensors", "--trainer", "per_device_train_batch_size=1"], "give --rows-at-once."),
        (["--data", "short.safetensors", "--base", "lasa"], "Unknown model 'lasa'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_its_sentence(base, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    write_tokens(utterances(2), "short.safetensors")
    write_tokens([replace(utterances(1)[0], codes=np.zeros(600, np.uint16))], "long.safetensors")
    arguments = arguments if "--base" in arguments else [*arguments, "--base", base]
    assert main(["train", "finetune", *arguments, "--out", "run"]) == 2
    assert sentence in capsys.readouterr().err
