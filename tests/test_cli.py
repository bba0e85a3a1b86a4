"""Laws of the command line: --json is one JSON object on standard output; bad input is exit code 2 and one sentence."""

import io
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import buzz

from llasa_lite import Voice, audio, cli_common, training
from llasa_lite.checkpoints import CHECKPOINTS, NANO
from llasa_lite.cli import main, parser
from llasa_lite.data import Utterance, read_tokens, token_facts, write_tokens


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, with a clip in it."""
    monkeypatch.chdir(tmp_path)
    audio.save(buzz(1.5), "clip.wav")
    return tmp_path


@pytest.fixture
def loaded_once(nano, monkeypatch):
    """The session's nano wherever the default model is asked for: loading is tested elsewhere, in its own process."""
    real = cli_common.load
    monkeypatch.setattr(cli_common, "load", lambda o: real(o) if o.model or o.codec or o.device or o.dtype else nano)


def row(capsys, *arguments):
    """What a command prints with --json."""
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("}\n") and out.count("\n") == 1
    return json.loads(out)


def refused(capsys, *arguments):
    """The one sentence of a command that ends with exit code 2."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("llasa-lite: ")]
    assert captured.out == "" and len(lines) == 1 and "Traceback" not in captured.err
    return lines[0].removeprefix("llasa-lite: ")


def shell(*arguments, input=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "llasa_lite", *arguments],
        input=input,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONWARNINGS": "ignore"} | environment,
    )


# -- in a process of its own -----------------------------------------------------------------------------------------


def test_speak_prints_one_json_object_and_nothing_else(here, nano):
    done = shell("speak", "-", "--seed", "7", "-o", "yes.flac", "--json", "--dtype", "float32", input="Oh.\n")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    info = soundfile.info("yes.flac")
    assert (info.samplerate, info.channels) == (16_000, 1)
    assert told["seconds"] == pytest.approx(info.duration, abs=0.01) and told["seed"] == 7
    assert json.loads((here / "yes.receipt.json").read_text()) == told["receipt"]
    assert told["receipt"]["text"].strip() == "Oh."


def test_bad_input_ends_with_2_and_one_sentence(here):
    done = shell("speak", "hello", "--voice", "nobody")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("llasa-lite: Unknown voice 'nobody'. Choose from: ")
    assert "Traceback" not in done.stderr


def test_no_network_ends_with_2_and_a_way_to_go_on(here):
    """The hub's address answers nothing; no setting says that we are offline."""
    done = shell(
        *("speak", "hello", "--model", "somebody/no-such-llasa"),
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(here / "cache"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "llasa-lite: Cannot load 'somebody/no-such-llasa': it is not in the local cache and the hub did not answer. "
        "The built-in model works offline: leave the model out, or say 'nano'."
    )


# -- verbs -----------------------------------------------------------------------------------------------------------


def test_speak_stream_and_replay_agree(here, loaded_once, capsys):
    spoken = row(capsys, "speak", "Oh, yes.", "--seed", "3", "-o", "a.wav")
    streamed = row(capsys, "stream", "Oh, yes.", "--seed", "3", "-o", "b.wav")
    replayed = row(capsys, "replay", "a.receipt.json", "-o", "c.wav")
    a, b, c = (audio.load(f"{name}.wav") for name in "abc")
    assert len(a) == len(b) == len(c)
    np.testing.assert_allclose(a, c, atol=1e-3)
    assert spoken["seconds"] == streamed["seconds"] == replayed["seconds"]
    assert 0 < streamed["first_audio_seconds"] < streamed["seconds_taken"] + 1 and streamed["chunks"] >= 1
    assert json.loads((here / "b.receipt.json").read_text())["seed"] == 3


def test_sampling_can_be_set(here, loaded_once, nano, capsys):
    told = row(capsys, "speak", "Oh.", "--seed", "1", "--temperature", "0.5", "--top-k", "7", "--guidance", "2")
    assert told["receipt"]["sampling"] == {
        "temperature": 0.5,
        "top_p": nano.sampling.top_p,
        "top_k": 7,
        "repetition_penalty": nano.sampling.repetition_penalty,
        "guidance": 2.0,
    }
    assert (here / "out.wav").exists()


def test_without_json_a_line_is_printed(here, loaded_once, capsys):
    assert main(["speak", "Oh.", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("out.wav: ") and "seed 1" in out and out.count("\n") == 1


def test_continue_goes_on_from_a_clip(here, loaded_once, capsys):
    emma = Voice.builtin("emma")
    audio.save(emma.wav, "emma.wav")  # one in which the model hears its words
    told = row(capsys, "continue", "emma.wav", "Oh.", "--transcript", emma.text, "--seed", "1")
    assert told["receipt"]["task"] == "continue" and told["receipt"]["voice_text"] == emma.text


def test_transcribe_prints_text(here, loaded_once, nano, capsys):
    told = row(capsys, "transcribe", "clip.wav")
    assert set(told) == {"text", "probability", "seconds", "complete"}
    assert told["text"] == nano.transcribe("clip.wav").text


def test_encode_and_decode_are_the_codecs(here, codec, capsys):
    wav = audio.load("clip.wav")
    told = row(capsys, "encode", "clip.wav")
    assert told["codes"] == codec.encode(wav).tolist() and told["codec"] == "nano"
    row(capsys, "encode", "clip.wav", "-o", "codes.json")
    told = row(capsys, "decode", "codes.json", "-o", "back.wav")
    assert told["codes"] == len(wav) // 320 + 1
    np.testing.assert_allclose(audio.load("back.wav"), codec.decode(codec.encode(wav)), atol=1e-3)


def test_a_voice_made_from_a_clip_speaks(here, loaded_once, capsys):
    told = row(capsys, "voices", "--from-audio", "clip.wav", "--text", "hello there.", "--name", "me", "-o", "me.json")
    assert told["text"] == "hello there."
    saved = row(capsys, "speak", "Oh.", "--voice", "me.json", "--seed", "1", "-o", "a.wav")
    clip = row(
        capsys, "speak", "Oh.", "--voice", "clip.wav", "--voice-text", "hello there.", "--seed", "1", "-o", "b.wav"
    )
    assert saved["receipt"]["voice_codes"] == clip["receipt"]["voice_codes"]
    np.testing.assert_array_equal(audio.load("a.wav"), audio.load("b.wav"))  # their receipts name the voice differently


def test_voices_and_models_are_listed(here, capsys):
    from llasa_lite import builtin_voices

    assert [v["name"] for v in row(capsys, "voices")["voices"]] == list(builtin_voices())
    models = {m["name"]: m for m in row(capsys, "models")["models"]}
    assert list(models) == list(CHECKPOINTS)
    assert models["llasa-8b"]["licence"] == "CC BY-NC 4.0" and models["nano"]["tasks"] == ["tts", "asr"]
    assert main(["models"]) == 0
    assert capsys.readouterr().out.count("CC BY-NC 4.0") == len(CHECKPOINTS) - 1


def test_the_command_that_pushes_a_space_can_be_pasted(here, capsys):
    assert main(["space", "build", "cpu", "my space"]) == 0
    assert capsys.readouterr().out.endswith("is ready: hf upload OWNER/NAME 'my space' --repo-type space\n")


def test_every_verb_has_help():
    verbs = next(a for a in parser()._actions if a.dest == "verb").choices
    wanted = "speak stream continue transcribe encode decode voices models replay train demo"
    assert set(wanted.split()) <= set(verbs)
    for verb in verbs.values():
        assert verb.description and all(a.help for a in verb._actions if a.option_strings)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["speak", ""], "There is no text to speak."),
        (["speak", "🎈"], "There is nothing to say in this text: it holds no letters or digits."),
        (["speak", "Oh.", "--seed", "-4"], "A seed is a whole number from 0 to 2^63 - 1, not -4."),
        (["speak", "Oh.", "--temperature", "9"], "temperature must lie in 0..2, not 9.0."),
        (["speak", "Oh.", "--voice-text", "hm"], "--voice-text belongs to a clip: give that with --voice."),
        (["voices", "--text", "hm", "-o", "me.json"], "--text belongs to a clip: give that with --from-audio."),
        (["voices", "--name", "me"], "--name belongs to a clip: give that with --from-audio."),
        (["voices", "-o", "me.json"], "--out belongs to a clip: give that with --from-audio."),
        (["speak", "Oh.", "--voice", "no.wav"], "There is no file 'no.wav' to read the voice clip from."),
        (["speak", "Oh.", "--voice", "no.json"], "There is no voice file 'no.json'."),
        (["speak", "Oh.", "--voice", "notes.json"], "'notes.json' is not a voice: it needs name, text and codes."),
        (["speak", "Oh.", "-o", "oh.mp3"], "Cannot write 'oh.mp3': choose one of the endings .wav, .flac, .ogg."),
        (["search", "Oh.", "-o", "oh.mp3"], "Cannot write 'oh.mp3': choose one of the endings .wav, .flac, .ogg."),
        (["search", "Oh.", "-o", "no/such/oh.wav"], "Cannot write 'no/such/oh.wav': its folder does not exist."),
        (["bench", "--csv", "no/bench.csv"], "Cannot write 'no/bench.csv': its folder does not exist."),
        (["encode", "clip.wav", "-o", "clip.wav"], "Cannot write 'clip.wav': it is the clip itself."),
        (["voices", "--from-audio", "clip.wav", "-o", "clip.wav"], "A voice is written as .json, not as 'clip.wav'."),
        (["voices", "--from-audio", "me.clip.ogg", "-o", "me.json"], "Cannot write 'me.clip.ogg': it is the clip"),
        (["speak", "Oh.", "--shard", "2/3"], "--workers, --gpus and --shard are for a --list."),
        (["speak", "Oh.", "--gpus", "2"], "--workers, --gpus and --shard are for a --list."),
        (["speak", "--list", "notes.wav", "--gpus", "2"], "--gpus are those of --workers: give their number, too."),
        (["train", "tokens", "--data", "no", "--out", "x.safetensors", "--gpus", "2"], "--gpus are those of --workers"),
        (["speak", "--list", "no.txt"], "There is no file 'no.txt' to read a list from."),
        (["speak", "--list", "notes.wav", "-o", "clip.wav"], "A list is spoken into a folder, and 'clip.wav' is a"),
        (["search", "Oh.", "--branch", "3"], "--branch belongs to beam_search and partial_prm; 'best_of_n' would not"),
        (["search", "Oh.", "--method", "beam_search", "--continuations", "2"], "--continuations belongs to partial"),
        (["speak", "--list", "notes.wav", "--workers", "2", "--shard", "2/3"], "--workers speak the whole list"),
        (["speak", "--list", "notes.wav", "--workers", "-1"], "There must be at least 1 worker, not -1."),
        (["speak", "--list", "notes.wav", "--workers", "0"], "There must be at least 1 worker, not 0."),
        (["speak", "--list", ""], "Cannot read a list from ''"),
        (["speak", "Oh.", "--voice", "notes.json", "--voice-text", "hm"], "the voice 'notes.json' has its own."),
        (["demo", "--port", "99999"], "A port is a number from 1 to 65535, not 99999."),
        (["serve", "--at-once", "0"], "--at-once must be at least 1."),
        (["serve", "--port", "99999"], "A port is a number from 0 (any free one) to 65535, not 99999."),
        (["stream", "Oh.", "-o", "oh.flac"], "Streams are written as .wav, not '.flac'."),
        (["speak", "Oh.", "--model", "lasa"], "Unknown model 'lasa'."),
        (["speak", "Oh.", "--device", "tpu"], "Unknown device 'tpu'. Choose from: cuda, mps, cpu."),
        (["transcribe", "no.wav"], "There is no file 'no.wav' to read the clip to transcribe from."),
        (["transcribe", "notes.wav"], "Cannot read 'notes.wav' as audio."),
        (["encode", "notes.wav"], "Cannot read 'notes.wav' as audio."),
        (["decode", "no.json"], "There is no file 'no.json'."),
        (["decode", "notes.json"], "'notes.json' holds no codes: make it with `encode -o FILE`."),
        (["decode", "others.json"], "These codes are of the codec 'other', not 'nano'. Give --codec other."),
        (["decode", "wild.json"], "Codes must lie in 0..4095"),
        (["decode", "empty.json"], "'empty.json' holds no codes: make it with `encode -o FILE`."),
        (["replay", "no.json"], "There is no receipt 'no.json'."),
        (["replay", "notes.json"], "This is not a receipt"),
        (["replay", "notes.wav"], "Cannot read 'notes.wav' as audio."),
        (["continue", "clip.wav", ""], "There is no text to speak."),
        (["train", "lm", "--data", "no.safetensors", "--out", "run"], "There is no token corpus 'no.safetensors'."),
        (["train", "codec", "--data", "no", "--out", "run"], "'no' holds neither a corpus nor recordings (.wav, "),
        (["train", "codec", "--data", "hub:a/b", "--out", "run"], "A codec learns from folders"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_its_sentence(here, loaded_once, capsys, arguments, sentence):
    (here / "notes.wav").write_text("not audio")
    (here / "notes.json").write_text('{"dear": "diary"}')
    (here / "others.json").write_text('{"codec": "other", "codes": [1]}')
    (here / "empty.json").write_text('{"codec": "nano", "codes": []}')
    (here / "wild.json").write_text('{"codec": "nano", "codes": [1, 5000]}')
    assert sentence in refused(capsys, *arguments)


def test_what_is_piped_in_is_utf_8(monkeypatch):
    for given, words in ((b"\xef\xbb\xbfOh.", "Oh."), ("Öh.".encode(), "Öh.")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        assert cli_common.given_text("-") == words
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("Öh.".encode("latin-1"))))
    with pytest.raises(ValueError, match="What was piped in is not UTF-8"):
        cli_common.given_text("-")


def test_a_clip_is_not_written_over(here, loaded_once, capsys):
    recorded = (here / "clip.wav").read_bytes()
    given = ("Oh.", "--voice", "clip.wav", "--voice-text", "Hello.")
    for verb in (
        ("speak", *given),
        ("stream", *given),
        ("search", *given, "--n", "1"),
        ("continue", "clip.wav", "Oh."),
    ):
        assert refused(capsys, *verb, "-o", "./clip.wav").endswith("it is the clip itself."), verb
    assert (here / "clip.wav").read_bytes() == recorded


def test_a_file_does_not_hide_the_built_in_voice_of_its_name(here):
    (here / "emma").write_text("a letter to her")
    assert cli_common.given_voice(SimpleNamespace(voice="emma", voice_text=None)) == "emma"


@pytest.mark.skipif(os.name == "nt", reason="a shell of Windows has no head")
def test_who_reads_only_the_beginning_is_not_complained_to(here):
    for verb in ("voices", "models --json"):
        told = subprocess.run(
            f"{sys.executable} -m llasa_lite {verb} | head -c 20",
            shell=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert len(told.stdout) == 20 and told.stderr == ""


def test_an_address_that_is_taken_gives_its_sentence(here, capsys):
    pytest.importorskip("fastapi", reason="pip install llasa-lite[serve]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = refused(capsys, "serve", "--port", port)
        assert told.startswith(f"Cannot serve at 127.0.0.1:{port}: ") and "attempting" not in told


def test_a_folder_that_is_not_there_gives_a_sentence(here, loaded_once, capsys):
    for verb in ("speak", "stream"):
        assert "Cannot write" in refused(capsys, verb, "Oh.", "--seed", "1", "-o", "no/such/oh.wav")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_stream_onto_a_full_disk_says_so(here, loaded_once, capsys):
    (here / "oh.wav").symlink_to("/dev/full")
    assert refused(capsys, "stream", "Oh.", "--seed", "1", "-o", "oh.wav") == "Cannot write 'oh.wav': the disk is full."


def test_a_gpu_that_is_too_small_gives_a_sentence(here, capsys, monkeypatch):
    """Wherever memory ends: while a model is loaded, in its codec or verifier, in training."""
    told = "CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 5.79 GiB of which 36.00 "

    def load(o):
        raise torch.OutOfMemoryError(told + "MiB is free. Of the allocated memory 5.26 GiB is allocated by PyTorch.")

    monkeypatch.setattr(cli_common, "load", load)
    assert refused(capsys, "speak", "Oh.") == (
        "There is too little memory for this (CUDA out of memory. Tried to allocate 224.00 MiB). Use a smaller model "
        "or batch, a shorter text or clip, or the CPU."
    )


def test_a_refused_stream_leaves_no_file(here, loaded_once, capsys):
    refused(capsys, "stream", "", "-o", "oh.wav")
    assert not (here / "oh.wav").exists()


def test_wrong_options_end_with_2(here, capsys):
    for arguments in ([], ["sing"], ["speak"], ["speak", "Oh.", "--seed", "seven"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_token_corpus_is_aligned_anew(here, capsys, monkeypatch):
    """Codes and texts stay; folders and token files are not mixed."""
    random = np.random.default_rng(0)
    made = [Utterance("oh yes, it is.", "a", "train", random.integers(4096, size=40).astype(np.uint16))] * 3
    write_tokens(made, here / "tokens.safetensors")
    row(
        capsys,
        "train",
        "tokens",
        "--data",
        "tokens.safetensors",
        "--out",
        "new/runs/aligned.safetensors",
        "--align-steps",
        "2",
    )
    aligned = read_tokens(here / "new" / "runs" / "aligned.safetensors")
    assert [u.text for u in aligned] == [u.text for u in made]
    assert all((u.codes == m.codes).all() and len(u.alignment) == 40 for u, m in zip(aligned, made))
    assert main(["train", "tokens", "--data", "tokens.safetensors", ".", "--out", "no.safetensors"]) == 2
    assert "not both" in capsys.readouterr().err
    facts = {"codec": "owner/codec", "fingerprint": None}
    for k in range(2):
        write_tokens(made, here / f"{k}.safetensors", facts | {"dropped": [k]})
    given = ("train", "tokens", "--align-steps", "0", "--out", "joined.safetensors", "--data", "0.safetensors")
    row(capsys, *given, "1.safetensors")
    assert token_facts(here / "joined.safetensors") == facts  # or they would be taken for any codec's
    row(capsys, *given, "tokens.safetensors")
    assert token_facts(here / "joined.safetensors") == {}
    write_tokens(made, here / "2.safetensors", {"codec": "mine", "fingerprint": "0123456789ab"})
    for first in ("0.safetensors", "tokens.safetensors"):
        told = refused(capsys, *given[:-1], first, "0.safetensors", "2.safetensors")
        assert told.startswith("'2.safetensors' holds codes of the codec 'mine', and they are to be those of 'owner/")
    monkeypatch.setattr("llasa_lite.alignment.train_aligner", None)  # said before anything is learned
    given = ("train", "tokens", "--data", "tokens.safetensors")
    assert refused(capsys, *given, "--out", "new").startswith("Cannot write 'new': it is a folder")


def test_clips_that_are_aligned_are_not_aligned_again(here, codec, capsys, monkeypatch):
    """Nor are more of them left without."""
    from llasa_lite import alignment

    clips = [{"id": k, "text": f"oh {k}.", "speaker": "s", "seconds": 1.5, "audio": "clip.wav"} for k in range(3)]
    learned, train = [], alignment.train_aligner
    monkeypatch.setattr(alignment, "train_aligner", lambda *given: learned.append(given[-1]) or train(*given))
    given = ("train", "tokens", "--data", ".", "--out", "made.safetensors", "--align-steps")
    for count, steps in ((2, "1"), (2, "1"), (2, "2"), (3, "2")):
        (here / "manifest.jsonl").write_text("\n".join(map(json.dumps, clips[:count])))
        row(capsys, *given, steps)
        assert [u.alignment is None for u in read_tokens(here / "made.safetensors")] == [False] * count
    assert learned == [1, 2, 2]


@pytest.mark.parametrize(
    "verb, option",
    [
        ("codec", "--minutes"),
        ("lm", "--steps"),  # 0 was taken for "as many as there are by default"
        ("lm", "--layers"),
        ("verifier", "--minutes"),
        ("finetune", "--epochs"),  # 0 gave the base back as if it were trained
        ("finetune", "--max-steps"),
        ("finetune", "--rows-at-once"),
        ("finetune", "--save-every"),
        ("finetune", "--learning-rate"),
        ("pairs", "--n"),
        ("preferences", "--pairs-at-once"),
        ("ladder", "--steps"),
    ],
)
def test_nothing_is_trained_for_nothing(tmp_path, capsys, verb, option):
    source = "--pairs" if verb == "preferences" else "--data"
    assert main(["train", verb, source, "x", "--out", str(tmp_path / "out"), option, "0"]) == 2
    assert f"{option} is a number above 0, not 0." in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("layers, guided", [(1, {0}), (2, {0, 1}), (3, {1, 2}), (8, {2, 3})])
def test_a_model_of_few_layers_is_guided_too(here, monkeypatch, layers, guided):
    """Its last ones: without guidance a model of this size does not read for a long time."""
    pytest.importorskip("accelerate", reason="pip install accelerate")
    codes = np.random.default_rng(0).integers(4096, size=40).astype(np.uint16)
    places = np.linspace(0, 6, 40).astype(np.float16)
    write_tokens([Utterance("oh yes.", "a", "train", codes, places)], here / "tokens.safetensors")
    seen, attention = set(), training._guided_attention

    def noted(module, *told, guide=None, **more):
        seen.update({module.layer_idx} & set(guide.layers))
        return attention(module, *told, guide=guide, **more)

    monkeypatch.setattr(training, "_guided_attention", noted)
    given = ("--steps", "1", "--hidden-size", "128", "--layers", str(layers))
    assert main(["train", "lm", "--data", "tokens.safetensors", "--out", "run", *given]) == 0
    assert seen == guided


def test_a_start_that_is_not_there_is_named(here, capsys):
    clips = [{"id": k, "text": "oh.", "speaker": f"s{k}", "seconds": 2.0, "audio": "clip.wav"} for k in range(2)]
    (here / "manifest.jsonl").write_text("\n".join(map(json.dumps, clips)))
    codes = np.random.default_rng(0).integers(4096, size=40).astype(np.uint16)
    write_tokens([Utterance("oh yes.", "a", "train", codes)], here / "tokens.safetensors")
    for verb, data in (("codec", "."), ("verifier", "."), ("lm", "tokens.safetensors")):
        told = refused(capsys, "train", verb, "--data", data, "--out", "run", "--init", "no/such")
        assert told.startswith("Cannot load 'no/such': "), verb


def test_nano_is_a_start_by_its_name(here, capsys, monkeypatch):
    """Where it lies, nobody knows who installed it."""
    clips = [{"id": k, "text": "oh.", "speaker": f"s{k}", "seconds": 2.0, "audio": "clip.wav"} for k in range(2)]
    (here / "manifest.jsonl").write_text("\n".join(map(json.dumps, clips)))
    codes = np.random.default_rng(0).integers(4096, size=40).astype(np.uint16)
    write_tokens([Utterance("oh yes.", "a", "train", codes)], here / "tokens.safetensors")
    for verb, data in (("codec", "."), ("lm", "tokens.safetensors"), ("verifier", ".")):

        def started(*given, **more):
            raise ValueError(next(str(one) for one in given if str(one).startswith(str(NANO))))

        module = "training" if verb == "lm" else f"{verb}_training"
        monkeypatch.setattr(f"llasa_lite.{module}.train_{verb}", started)
        assert refused(capsys, "train", verb, "--data", data, "--out", "run", "--init", "nano") == str(NANO / verb)


def test_voices_of_all_that_are_kept_out_are_watched(here, capsys, monkeypatch):
    """Though the manifest has them one after the other, the first of them in hundreds of clips."""
    voices = ["a"] * 400 + ["b"] * 400
    clips = [{"id": k, "text": "oh.", "speaker": who, "seconds": 2.0} for k, who in enumerate(voices)]
    lines = (json.dumps(clip | {"audio": "clip.wav", "split": "test_speaker"}) for clip in clips)
    (here / "manifest.jsonl").write_text("\n".join(lines))

    def told(learned, out, settings, codec, watched, init):
        return sorted({clip.speaker for clip in watched}), len(watched)

    monkeypatch.setattr("llasa_lite.verifier_training.train_verifier", told)
    assert row(capsys, "train", "verifier", "--data", ".", "--out", "run")["verifier"] == str((["a", "b"], 300))


def test_clips_become_tokens_as_they_are_at_other_speeds_and_as_others_hear_them(here, codec, capsys):
    clips = [{"id": k, "text": f"oh {k}.", "speaker": "s", "seconds": 1.5, "audio": "clip.wav"} for k in range(4)]
    clips.append(clips[0] | {"id": 4, "split": "test"})
    (here / "manifest.jsonl").write_text("\n".join(map(json.dumps, clips)))
    given = ("train", "tokens", "--data", ".", "--align-steps", "0")
    told = row(capsys, *given, "--pitches", "1.25", "--disturbed", "0.5", "--out", "made.safetensors")
    made = read_tokens(here / "made.safetensors")
    assert told["clips"] == len(made) == 5 + 4 + 2 and told["dropped"] == 0
    told = [(u.split, u.speaker) for u in made]
    assert told[4:] == [("test", "s"), *[("train", "s_1.25")] * 4, *[("heard", "s")] * 2]
    assert {len(u.codes) for u in made[5:9]} == {60} and {len(u.codes) for u in made[9:]} == {75}
    assert all((u.codes != made[0].codes).mean() > 0.05 for u in made[9:])
    assert "holds other clips than these begin with" in refused(capsys, *given, "--out", "made.safetensors")
    for wrong in (("--disturbed", "1.5"), ("--pitches", "3"), ("--align-steps", "-1")):
        assert refused(capsys, *given, *wrong, "--out", "no.safetensors").startswith(wrong[0])
    (here / "manifest.jsonl").write_text("\n")
    assert "There are no clips in '.'." in refused(capsys, *given, "--out", "no.safetensors")
    given = ("train", "tokens", "--data", "made.safetensors", "--disturbed", "1", "--out", "no.safetensors")
    assert "give clips, not token corpora" in refused(capsys, *given)


def test_search_writes_the_best_and_every_candidate(here, loaded_once, capsys):
    given = ("search", "Oh.", "--voice", "clip.wav", "--voice-text", "Hello.", "--outcome", "likelihood")
    told = row(capsys, *given, "--n", "3", "--seed", "1", "--keep", "all", "-o", "best.flac")
    found = told["search"]
    files = {path.name for path in (here / "best.candidates").glob("*.wav")}
    assert {os.path.basename(c["file"]) for c in found["candidates"]} == files and len(files) == 3
    assert (told["seed"], found["method"], found["settings"]["n"]) == (1, "best_of_n", 3)
    assert main([*given, "--n", "2", "--seed", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    again = row(capsys, "replay", "best.flac", "-o", "again.wav")  # found in its receipt, and told as new
    assert again["seconds"] == told["seconds"] and again["seconds_taken"] > 0
    (here / "best.candidates" / "00-1000.wav").touch()
    assert row(capsys, *given, "--n", "2", "--seed", "1", "--keep", "all", "-o", "best.flac")
    assert len(list((here / "best.candidates").glob("*.wav"))) == 2  # none of the search before
    assert len(out) == 4 and "likelihood" in out[0] and [line[0] for line in out[1:3]] == ["*", " "]
    assert refused(capsys, "search", "Oh.", "--n", "0").startswith("n must be a whole number")
    assert refused(capsys, "search", "Oh.", "--outcome", "speaker:a/b", "--method", "best_of_n").startswith(
        "The verifier 'speaker:a/b' compares with a voice"
    )


def test_a_search_that_is_interrupted_keeps_the_best_so_far(here, loaded_once, capsys, monkeypatch):
    from llasa_lite import Search

    real, steps = Search.__next__, []

    def interrupted(self):
        if steps:
            raise KeyboardInterrupt
        steps.append(real(self))
        return steps[-1]

    monkeypatch.setattr(Search, "__next__", interrupted)
    given = ("search", "Oh, what a long day.", "--voice", "clip.wav", "--voice-text", "Hello.", "--n", "2")
    assert main([*given, "--outcome", "likelihood", "--seed", "1", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["search"]["stopped_early"] and not told["complete"] and "best so far" in captured.err
    assert audio.load("out.wav").size == round(16_000 * told["seconds"])
