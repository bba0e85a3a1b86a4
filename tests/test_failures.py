"""Laws for bad days: broken files, a full disk, a clock that jumps, Ctrl-C. Nothing half-written, nothing lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, buzz

from llasa_lite import Llasa, Speech, Voice, audio, receipts
from llasa_lite.data import Utterance, read_tokens, token_facts, write_tokens
from llasa_lite.files import unwritten, whole, write_text
from llasa_lite.records import Records

NANO = ROOT / "llasa_lite" / "nano"


@pytest.fixture(scope="module")
def speech():
    """Speech that no model made, with a receipt that is one."""
    sampling = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.0}
    receipt = {"task": "tts", "text": "Oh.", "voice": None, "voice_text": None, "voice_codes": None, "model": "nano"}
    receipt |= {"codec": "nano", "seed": 1, "sampling": sampling, "device": "cpu", "dtype": "float32"}
    return Speech(buzz(0.5), [np.zeros(25, np.int64)], ["end"], receipt)


def left(folder):
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


# -- broken files ----------------------------------------------------------------------------------------------------


BREAKABLE = [
    path.relative_to(NANO)
    for part in ("lm", "codec")
    for path in sorted((NANO / part).iterdir())
    if path.name in ("config.json", "tokenizer.json") or path.suffix == ".safetensors"
]


@pytest.mark.parametrize("file", BREAKABLE, ids=str)
def test_a_model_file_cut_short_gives_a_sentence(tmp_path, file):
    part = file.parts[0]
    folder = tmp_path / part
    shutil.copytree(NANO / part, folder)
    os.truncate(tmp_path / file, (NANO / file).stat().st_size // 2)
    broken = (
        r"^Cannot load .* is missing or broken \(.*\)\. The built-in model works|^'.*' is not a model configuration\.$"
    )
    with pytest.raises(ValueError, match=broken):
        Llasa.from_pretrained(*([str(folder), "nano"] if part == "lm" else ["nano", str(folder)]), device="cpu")


def test_what_is_no_token_corpus_gives_a_sentence(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes((NANO / "tokens.safetensors").read_bytes()[:1000])
    for path, sentence in (
        (tmp_path / "torn.safetensors", "is no token corpus, or a torn one"),
        (next((NANO / "lm").glob("*.safetensors")), "holds other tensors than a token corpus"),
        (tmp_path, "There is no token corpus"),
    ):
        for read in (read_tokens, token_facts):
            with pytest.raises(ValueError, match=sentence):
                read(path)


def test_a_corrupt_voice_gives_a_sentence(voice, tmp_path):
    voice.save(tmp_path / "me.json")
    for name in ("me.json", "me.clip.ogg"):
        good = (tmp_path / name).read_bytes()
        for bad in (good[: len(good) // 2], b"", b"\xff" * 100, good[:100] + b"\0" * 50):
            (tmp_path / name).write_bytes(bad)
            try:
                assert Voice.load(tmp_path / "me.json").text == voice.text  # half a clip is still one
            except ValueError as error:
                assert str(error).endswith(".")
        (tmp_path / name).write_bytes(good)
    assert Voice.load(tmp_path / "me.json").codes == voice.codes


# -- a full disk, a folder that cannot be written to -----------------------------------------------------------------


@contextmanager
def no_room(tmp_path, monkeypatch):
    """Every file that is begun stands on a full device."""
    from llasa_lite import files

    with monkeypatch.context() as patch:
        patch.setattr(files.secrets, "token_hex", lambda _: "full")
        (tmp_path / ".full.part").symlink_to("/dev/full")
        yield
        (tmp_path / ".full.part").unlink(missing_ok=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_gives_a_sentence_and_keeps_what_was_there(speech, voice, tmp_path, monkeypatch):
    def write_state(path):
        with whole(path) as partial:
            torch.save({"weights": torch.zeros(10_000)}, partial)

    def fresh(seed):
        return Speech(buzz(0.5, seed=seed), speech.codes, speech.stopped, speech.receipt | {"seed": seed})

    fresh(1).save(tmp_path / "a.wav")
    voice.save(tmp_path / "me.json")
    before = {name: (tmp_path / name).read_bytes() for name in left(tmp_path)}
    writes = [
        lambda: fresh(2).save(tmp_path / "a.wav"),
        lambda: fresh(2).save(tmp_path / "b.flac"),
        lambda: voice.replace(text="other").save(tmp_path / "me.json"),
        lambda: write_text(tmp_path / "codes.json", "[]" * 10_000),
        lambda: write_state(tmp_path / "state.pt"),
    ]
    for write in writes:
        with no_room(tmp_path, monkeypatch), pytest.raises(ValueError, match="Cannot write .*: the disk is full."):
            write()
        assert {name: (tmp_path / name).read_bytes() for name in left(tmp_path)} == before


def test_a_limit_on_file_size_leaves_whole_rows(tmp_path):
    resource = pytest.importorskip("resource", reason="no limits on this system")
    rows = Records(tmp_path / "rows.jsonl")
    rows.add({"id": "a", "text": "x" * 100})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # before pytest itself writes
    try:
        with pytest.raises(ValueError, match="larger than files may be here"):
            rows.add({"id": "b", "text": "x" * 5000})
        with pytest.raises(ValueError, match="Cannot write .*larger than files may be here"):
            write_tokens([Utterance("oh", "s", "train", np.zeros(5000, np.uint16))], tmp_path / "t.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    rows.add({"id": "c", "text": "y"})
    assert set(Records(tmp_path / "rows.jsonl").rows) == {"a", "c"}


def test_a_run_without_room_for_its_checkpoint_is_a_sentence(tmp_path):
    """PyTorch and safetensors have errors of their own for it."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    random = np.random.default_rng(0)
    said = [Utterance("oh yes.", "s", "train", random.integers(4096, size=30).astype(np.uint16)) for _ in range(2)]
    write_tokens(said, tmp_path / "t.safetensors")
    command = [sys.executable, "-m", "llasa_lite", "train", "finetune", "--data", str(tmp_path / "t.safetensors")]
    command += ["--out", str(tmp_path / "lm"), "--rows-per-step", "2", "--rows-at-once", "2", "--max-steps", "1"]
    for megabytes in (10, 40):  # the weights have 32, the optimizer's state 63
        limit = lambda most=megabytes << 20: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, preexec_fn=limit)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
        assert done.stderr.splitlines()[-1].startswith("llasa-lite: Cannot go on: ")


@pytest.mark.parametrize("path", ["/dev/null/a.wav", "no/such/a.wav", "/proc/a.wav", "x" * 300 + ".wav"])
def test_where_nothing_can_be_written_is_a_sentence(speech, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^Cannot write .*: .*\.$"):
        speech.save(path)
    assert left(tmp_path) == []


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.wav").symlink_to(tmp_path / "disk" / "b.wav")
    for seed in (1, 2):  # a file that is not there yet, and one that is
        audio.save(buzz(0.2, seed=seed), tmp_path / "a.wav")
        assert (tmp_path / "a.wav").is_symlink()
        np.testing.assert_allclose(audio.load(tmp_path / "disk" / "b.wav"), buzz(0.2, seed=seed), atol=1e-4)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["b.wav"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(tmp_path / "pipe", "oh")
        assert os.read(reader, 10) == b"oh" and (tmp_path / "pipe").is_fifo()
    finally:
        os.close(reader)
    with pytest.raises(RuntimeError), whole(tmp_path / "pipe"):
        raise RuntimeError
    assert left(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder here that not even root can write to")
def test_a_read_only_home_and_cache_are_no_hindrance(tmp_path):
    """nano needs no cache: it speaks where nothing but the folder it writes to can be written."""
    names = "HOME HF_HOME XDG_CACHE_HOME XDG_CONFIG_HOME TORCH_HOME MPLCONFIGDIR TMPDIR".split()
    code = "from llasa_lite.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "speak", "Oh.", "--seed", "1", "-o", "oh.wav"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict.fromkeys(names, "/proc/self"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == ["oh.receipt.json", "oh.wav"]


# -- time and interruption -------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(nano, voice, monkeypatch):
    usual = nano.tts("Oh.", voice, seed=1)
    times = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    odd = nano.tts("Oh.", voice, seed=1)
    np.testing.assert_array_equal(odd.wav, usual.wav)
    assert 0 <= odd.receipt["seconds_taken"] < 600


WRITING = """
import json, signal, sys
import numpy as np
from llasa_lite import Speech
sampling = dict(temperature=0.8, top_p=0.95, top_k=0, repetition_penalty=1.0)
receipt = json.loads(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that was started in the background ignores it
print("ready", flush=True)
k = 0
while True:
    k += 1
    speech = Speech(np.full(160_000, k % 7 / 10, np.float32), [np.zeros(1)], ["end"], receipt | {"seed": k % 7})
    speech.save("a.wav")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_wave_is_whole_however_its_writer_dies(speech, tmp_path, how):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, json.dumps(speech.receipt)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.receipt.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(how)
    process.wait(60)
    process.stdout.close()
    samples, _ = soundfile.read(tmp_path / "a.wav")
    told = receipts.from_comment(audio.comment_of(tmp_path / "a.wav"), "no receipt")
    assert len(samples) == 160_000 and samples[0] == pytest.approx(told["seed"] / 10, abs=1e-3)
    assert set(json.loads((tmp_path / "a.receipt.json").read_text())) == set(speech.receipt)
    if how is signal.SIGINT:
        assert left(tmp_path) == ["a.receipt.json", "a.wav"]


def test_ctrl_c_between_wave_and_receipt_leaves_the_old_pair(speech, tmp_path, monkeypatch):
    speech.save(tmp_path / "a.wav")
    before = {name: (tmp_path / name).read_bytes() for name in left(tmp_path)}

    def stopped(*_):
        raise KeyboardInterrupt

    for name in ("write", "_append_comment"):
        with monkeypatch.context() as patch:
            patch.setattr(audio, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                Speech(buzz(0.4), speech.codes, speech.stopped, speech.receipt | {"seed": 2}).save(tmp_path / "a.wav")
        assert {name: (tmp_path / name).read_bytes() for name in left(tmp_path)} == before


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), whole(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert left(tmp_path) == []


# -- receipts in every file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", audio.SAVED)
def test_a_wave_carries_its_receipt(speech, tmp_path, kind):
    path = speech.save(tmp_path / f"a.{kind}", beside=False)
    assert receipts.read(path) == speech.receipt and left(tmp_path) == [path.name]
    np.testing.assert_allclose(audio.load(path)[:4000], speech.wav[:4000], atol=1e-3 if kind != "ogg" else 0.4)


@pytest.mark.parametrize("kind", audio.SAVED)
def test_long_receipts_fit_or_say_what_they_left_out(speech, tmp_path, kind):
    long = speech.receipt | {
        "text": "日本語 " * 5000,
        "search": {},
        "codes": [list(range(4000))] * 5,
        "stopped": ["end"] * 5,
    }
    path = Speech(speech.wav, speech.codes, speech.stopped, long).save(tmp_path / f"a.{kind}")
    assert receipts.read(path)["seed"] == 1 and receipts.read(path)["text"] == long["text"]  # from beside it
    path.with_suffix(".receipt.json").unlink()
    told = receipts.read(path)
    assert told == long if kind != "ogg" else set(told["left_out"]) >= {"text", "codes"}


def test_a_wave_of_anothers_makes_no_receipt(tmp_path):
    for comment in ("", "by me", '{"text": "Oh."}', '{"llasa_lite": "receipt", "seed": NaN}'):
        path = audio.save(buzz(0.3), tmp_path / "a.wav", comment)
        with pytest.raises(ValueError, match="'a.wav' holds no receipt: it was not made here."):
            receipts.read(path)
    audio.save(buzz(0.3), path, '{"llasa_lite": "receipt", "text": 5}')
    with pytest.raises(ValueError, match="'task' is missing|'text' is missing or wrong; it must be a text"):
        receipts.read(path)


def test_a_receipt_does_not_choose_what_is_downloaded(speech):
    for what in ("model", "codec"):
        with pytest.raises(ValueError, match=f"names the {what} 'evil/weights'"):
            Llasa.replay(speech.receipt | {what: "evil/weights"})


def test_a_wave_is_replayed_and_inspected(nano, tmp_path, monkeypatch, capsys):
    from llasa_lite.cli import main

    monkeypatch.setattr(Llasa, "from_pretrained", classmethod(lambda cls, *a, **k: nano))
    spoken = nano.tts("Oh.", "emma", seed=3)
    path = spoken.save(tmp_path / "a.flac", beside=False)
    assert Llasa.replay(path).codes[0].tolist() == spoken.codes[0].tolist()
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["receipt"]
    assert told == {k: v for k, v in spoken.receipt.items() if k != "seconds_taken"}


@pytest.mark.parametrize("name", ["me", "emma"])
def test_what_travels_in_a_wave_is_no_recording_of_anybody(nano, voice, tmp_path, name):
    """A clip of one's own stays in the receipt beside the wave, also under a built-in voice's name; the wave may be
    passed on."""
    voice = voice.replace(name=name)
    path = nano.tts("Oh.", voice, seed=3).save(tmp_path / "a.wav")
    assert receipts.read(path)["voice_codes"] == voice.codes["nano"]  # beside it
    path.with_suffix(".receipt.json").unlink()
    assert receipts.read(path)["voice_codes"] is None and voice.text not in audio.comment_of(path)
    nano.tts("Oh.", voice, seed=4).save(tmp_path / "b.wav").with_suffix(".receipt.json").rename(receipts.beside(path))
    assert receipts.read(path)["voice_codes"] is None and receipts.read(path)["seed"] == 3  # another's lies beside it


def test_cloning_is_preceded_by_a_word_on_consent(nano, tmp_path, monkeypatch, capsys):
    from llasa_lite.cli import main

    monkeypatch.setattr(Llasa, "from_pretrained", classmethod(lambda cls, *a, **k: nano))
    monkeypatch.chdir(tmp_path)
    audio.save(buzz(1.0), "me.wav")
    for arguments in (["speak", "Oh.", "--voice", "me.wav", "--voice-text", "oh"], ["continue", "me.wav", "Oh."]):
        arguments += ["--transcript", "oh"] if arguments[0] == "continue" else []
        assert main([*arguments, "--seed", "1", "--json"]) == 0
        said = capsys.readouterr()
        assert "only voices you may use" in said.err and json.loads(said.out)
    assert main(["speak", "Oh.", "--voice", "emma", "--seed", "1"]) == 0
    assert "only voices" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_copied_whole_says_why():
    """`shutil.copytree` gathers what went wrong, file by file, and is an error of the system without its number."""
    error = shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "[Errno 28] No space left")])
    assert unwritten(error).errno == errno.ENOSPC
    assert unwritten(RuntimeError("no disk is concerned")) is None
