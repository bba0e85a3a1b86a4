"""The command line: one subcommand a verb. Prints results to standard output, everything else to standard error."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shlex
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path

from . import __version__, _wait_less, audio, cli_evaluate, cli_train, receipts
from . import cli_common as common
from .checkpoints import CHECKPOINTS, out_of_memory
from .files import read_json, unwritten, whole_numbers, why, write_text
from .search import SEARCH_METHODS, Finished, SearchSettings
from .verifiers import VERIFIERS
from .voices import Voice, builtin_voices, check_suffix

# options of the guided methods, and which methods heed them
GUIDED = {
    "branch": ("beam_search", "partial_prm"),
    "step_tokens": ("beam_search", "partial_prm"),
    "process_seconds": ("partial_prm",),
    "continuations": ("partial_prm",),
}


def parser() -> argparse.ArgumentParser:
    known = ", ".join(VERIFIERS)
    top = argparse.ArgumentParser("llasa-lite", description="Llasa: text-to-speech as one plain Llama.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", help="short name, hub id or folder (default: nano, which ships with the package)")
    model.add_argument("--codec", help="another codec than the model's own: folder or hub id")
    model.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    model.add_argument("--vllm", metavar="URL", help="run the model on this vLLM server; 'here': vLLM in this process")
    model.add_argument("--dtype", help="float32, bfloat16, float16; int8 on CPUs (default: by device)")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    sampled = argparse.ArgumentParser(add_help=False)
    sampled.add_argument("--temperature", type=float, help="0 to 2 (default: the checkpoint's)")
    sampled.add_argument("--top-p", type=float, help="above 0, up to 1 (default: the checkpoint's)")
    sampled.add_argument("--top-k", type=int, help="at most this many choices (default: no limit)")
    sampled.add_argument(
        "--guidance", type=float, help="how closely words are followed: 1 (off) to 5 (default: the checkpoint's)"
    )
    speaking = argparse.ArgumentParser(add_help=False, parents=[sampled])
    speaking.add_argument("-o", "--out", default="out.wav", help="wav, flac or ogg file to write (default: out.wav)")
    speaking.add_argument("--seed", type=int, help="the same seed gives the same speech (default: drawn, and shown)")
    timbre = argparse.ArgumentParser(add_help=False)
    told_timbre = "give speech in a voice the timbre that the codec loses (default: as the codec asks; nano's does)"
    timbre.add_argument("--timbre", action=argparse.BooleanOptionalAction, help=told_timbre)
    voicing = argparse.ArgumentParser(add_help=False, parents=[timbre])
    words = argparse.ArgumentParser(add_help=False)
    words.add_argument("text", metavar="TEXT", help="what to say; - reads it from standard input")
    voicing.add_argument("--voice", help="built-in voice, a voice saved as .json, or a clip of your own")
    voicing.add_argument("--voice-text", help="what is said in that clip (recognised where the model can)")
    voicing.add_argument("--speaker", help="speaker name of a finetuned checkpoint")

    def many(sub):
        sub.add_argument("--workers", type=int, help="processes to share the work, by Ray Data ([ray])")
        sub.add_argument("--gpus", type=float, help="GPUs of each worker, may be a fraction (default: 0)")

    def verb(name, handler, help, *parents):
        sub = verbs.add_parser(name, help=help, description=help, parents=parents)
        sub.set_defaults(handler=handler)
        return sub

    sub = verb("speak", speak, "Speak text into a file, or a list into a folder.", voicing, speaking, model, output)
    either = sub.add_mutually_exclusive_group(required=True)
    either.add_argument("text", metavar="TEXT", nargs="?", help="what to say; - reads it from standard input")
    either.add_argument(
        "--list", help="text file, one sentence a line, or .jsonl (text, id, voice, seed); -o: a folder"
    )
    sub.add_argument("--shard", default="1/1", help="with --list: 2/8 is the second of eight parts")
    many(sub)
    verb("stream", stream, "Speak text and write the file while it is made.", words, voicing, speaking, model, output)
    sub = verb("search", search, "Speak text many times, keep the best.", words, voicing, speaking, model, output)
    sub.add_argument(
        "--method", default=SearchSettings.method, help=f"{', '.join(SEARCH_METHODS)} (default: %(default)s)"
    )
    sub.add_argument("--n", type=int, default=SearchSettings.n, help="candidates, or beams (default: %(default)s)")
    told_outcome = (
        "verifier that chooses (default: likelihood; asr if the model cannot listen); 'asr, speaker' or weights"
    )
    sub.add_argument("--outcome", help=f"{told_outcome} ({known})")
    sub.add_argument("--process", help="verifier that prunes beams in beam_search, partial_prm (default: speaker)")
    for option, kind, told in (
        ("branch", int, "continuations of every beam at every step"),
        ("step-tokens", int, "tokens between two prunings; 50 are a second"),
        ("process-seconds", float, "seconds of speech under the process verifier in partial_prm"),
        ("continuations", int, "samples of every beam that partial_prm left, for the outcome verifier"),
    ):
        default = getattr(SearchSettings, option.replace("-", "_"))
        sub.add_argument(f"--{option}", type=kind, help=f"{told} (default: {default})")
    told = f"what speaker and emotion compare with (default: {SearchSettings.reference})"
    sub.add_argument("--reference", choices=["prompt", "resynthesis"], help=told)
    told = "all: write every candidate with its receipt (default: best)"
    sub.add_argument("--keep", choices=["best", "all"], default="best", help=told)
    sub = verb("continue", continue_, "Go on from a clip, in its voice, with new words.", speaking, model, output)
    sub.add_argument("clip", metavar="CLIP", help="audio file")
    sub.add_argument("text", metavar="TEXT", help="what is said next; - reads it from standard input")
    sub.add_argument("--transcript", help="what is said in the clip (recognised where the model can)")
    sub = verb("transcribe", transcribe, "Read speech back as text.", model, output)
    sub.add_argument("clip", metavar="CLIP", help="audio file")
    sub = verb("encode", encode, "Turn a clip into codec codes.", model, output)
    sub.add_argument("clip", metavar="CLIP", help="audio file")
    sub.add_argument("-o", "--out", help="JSON file for the codes (default: standard output)")
    sub = verb("decode", decode, "Turn codec codes back into a wave.", model, output)
    sub.add_argument("codes", metavar="CODES", help="JSON file as written by encode")
    sub.add_argument("-o", "--out", default="out.wav", help="wav, flac or ogg file to write (default: out.wav)")
    sub = verb("voices", voices, "List the built-in voices, or make one from a clip.", model, output)
    sub.add_argument("--from-audio", metavar="CLIP", help="make a voice from this clip of 0.5 to 15 s")
    sub.add_argument("--text", help="what is said in the clip (recognised where the model can)")
    sub.add_argument("--name", help="name of the voice made (default: my voice)")
    sub.add_argument("-o", "--out", help="file for the voice made (default: voice.json)")
    verb("models", models, "List the checkpoints that have a short name.", output)
    sub = verb("inspect", inspect, "Show how a wave was made: the receipt in it.", output)
    sub.add_argument("file", metavar="FILE", help="wav, flac, ogg or mp3 file, or a .receipt.json")
    sub = verb("replay", replay, "Make speech again from its receipt.", output)
    sub.add_argument("receipt", metavar="RECEIPT", help="a wave, or the .receipt.json beside it")
    sub.add_argument("--model", help="where the model is, if it is neither a known one nor a folder here")
    sub.add_argument("--codec", help="where its codec is, likewise")
    sub.add_argument("-o", "--out", default="out.wav", help="wav, flac or ogg file to write (default: out.wav)")

    cli_train.add(verbs, verb, many, model, output)
    cli_evaluate.add(verbs, model, output, timbre, sampled)

    sub = verb("serve", serve, "Serve speech as OpenAI's API does: POST /v1/audio/speech.", model)
    sub.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all machines can reach it (default: this one only)")
    sub.add_argument("--port", type=int, default=8000, help="default: 8000")
    sub.add_argument("--voices", help="folder of voices saved as .json, to serve beside the built-in ones")
    sub.add_argument("--at-once", type=int, default=1, help="requests at once (default: 1; more with --vllm URL)")

    sub = verb("bench", bench, "Measure speed and memory of every path on this machine.", output)
    sub.add_argument("--device", default="cpu", help="cpu (default), or cuda: the released shapes on a GPU")
    sub.add_argument(
        "--models", nargs="+", help="of: nano, medium (default), llasa-1b, -3b, -8b (shapes; on cuda: all)"
    )
    sub.add_argument("--batches", nargs="+", type=int, default=[1, 8, 16], help="rows at once (default: 1 8 16)")
    sub.add_argument("--only", nargs="+", help="of: paths, growth, codec, start; on cuda: paths, whole (default: all)")
    sub.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    sub.add_argument("--csv", help="file for the table; rows of earlier runs of the same kind are replaced")
    sub.add_argument("--plot", help="file for the figure, .png or .svg")

    sub = verb("demo", demo, "Open the Gradio app.")
    sub.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all machines can reach it (default: this one only)")
    sub.add_argument("--port", type=int, help="default: the first free one from 7860")
    sub.add_argument("--model", help="checkpoint shown first (default: nano)")

    verb("doctor", doctor, "Say what this machine can run, and why not more. Downloads nothing.", output)
    space = verbs.add_parser("space", help="Make a Hugging Face Space.", description="Make a Hugging Face Space.")
    kinds = space.add_subparsers(dest="kind", required=True, metavar="WHAT")
    sub = kinds.add_parser(
        "build", help="a folder that can be pushed", description="Make a folder to push.", parents=[output]
    )
    sub.set_defaults(handler=space_build)
    sub.add_argument("space", metavar="KIND", help="zerogpu (the released multilingual 1B) or cpu (nano)")
    sub.add_argument("out", metavar="OUT", help="new or empty folder")
    sub.add_argument("--repo", metavar="OWNER/NAME", help="where it will be pushed: gives its thumbnail an address")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input (one sentence on standard error), 130 interrupted."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before Transformers is imported, in this process alone
    _wait_less()
    try:
        options.handler(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nor may Python's own flush at the end complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"llasa-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llasa-lite: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if out_of_memory(error):
            first = ". ".join(str(error).split(". ")[:2]).rstrip(".")
            print(
                f"llasa-lite: There is too little memory for this ({first}). Use a smaller model or batch, a shorter "
                "text or clip, or the CPU.",
                file=sys.stderr,
            )
            return 2
        if (cause := unwritten(error)) is None:
            raise
        what = f"use '{cause.filename}'" if cause.filename else "go on"
        print(f"llasa-lite: Cannot {what}: {why(cause).rstrip('.')}.", file=sys.stderr)
        return 2
    return 0


# -- verbs -----------------------------------------------------------------------------------------------------------


def speak(o) -> None:
    if o.list is not None:
        return speak_list(o)
    if o.workers is not None or o.gpus is not None or o.shard != "1/1":
        raise ValueError("--workers, --gpus and --shard are for a --list.")
    common.check_sound_out(o.out, o.voice)
    llasa, words = common.load(o), common.given_text(o.text)
    with common.counting("speaking", o):
        speech = llasa.tts(words, common.given_voice(o), o.seed, common.given_sampling(o, llasa), o.speaker)
    common.finish(speech, o)


def speak_list(o) -> None:
    from .batch import read_list, speak_list, tally

    if o.speaker:
        raise ValueError("--speaker is for one text; name voices in the list instead.")
    if o.workers is not None and o.shard != "1/1":
        raise ValueError("--workers speak the whole list: give either them or a --shard.")
    common.check_gpus(o)
    lines = read_list(o.list)
    folder = Path("out" if o.out == "out.wav" else o.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"A list is spoken into a folder, and '{folder}' is a file. Give -o another name.")
    told = {"folder": str(folder), "made": 0, "there_already": 0, "incomplete": 0, "seconds": 0.0}

    def load():
        llasa = common.load(o)
        llasa.sampling = common.given_sampling(o, llasa)
        return llasa

    how = {"voice": common.given_voice(o), "seed": o.seed or 0}
    with common.counting("speaking", o, len(lines)) as bar:
        if o.workers is not None:
            from .distributed import speak_parts

            parts = speak_parts(load, lines, folder, o.workers, o.gpus or 0, **how)
        else:
            parts = map(tally, speak_list(load(), lines, folder, **how, shard=o.shard))
        for part in parts:
            bar.update(part["made"] + part["there_already"])
            told |= {k: round(told[k] + v, 2) for k, v in part.items() if k in told}
    line = "{made} made in {folder} ({seconds} s, {incomplete} incomplete), {there_already} there already, left alone"
    common.tell(told, o, line.format(**told))


def stream(o) -> None:
    if Path(o.out).suffix.lower() != ".wav":
        raise ValueError(f"Streams are written as .wav, not '{Path(o.out).suffix}'.")
    common.check_out(o.out, o.voice)
    llasa, words = common.load(o), common.given_text(o.text)
    began, chunks = time.perf_counter(), 0
    generator = llasa.stream(words, common.given_voice(o), o.seed, common.given_sampling(o, llasa), o.speaker)
    wav = next(generator)  # bad input is refused before there is a file; an answer is never empty
    first = time.perf_counter() - began
    try:  # the file grows where it can be listened to: a stop leaves what was spoken until then
        with wave.open(o.out, "wb") as file, common.counting("streaming", o) as bar:
            file.setparams((1, 2, audio.SAMPLE_RATE, 0, "NONE", ""))
            while True:
                chunks += 1
                file.writeframes(audio.to_int16(wav).tobytes())  # and the header
                bar.update(len(wav) / audio.SAMPLE_RATE)
                try:
                    wav = next(generator)
                except StopIteration as stop:
                    speech = stop.value
                    break
    except OSError as error:  # which libsndfile would call "system error"
        raise ValueError(f"Cannot write '{o.out}': {why(error)}.") from error
    common.finish(speech, o, more={"first_audio_seconds": round(first, 3), "chunks": chunks})


def search(o) -> None:
    common.check_sound_out(o.out, o.voice)
    for name, methods in GUIDED.items():
        if o.method in SEARCH_METHODS and o.method not in methods and getattr(o, name) is not None:
            option, allowed = name.replace("_", "-"), " and ".join(methods)
            raise ValueError(f"--{option} belongs to {allowed}; '{o.method}' would not heed it. Leave it out.")
    llasa, words = common.load(o), common.given_text(o.text)
    more = {name: getattr(o, name) for name in (*GUIDED, "reference") if getattr(o, name) is not None}
    more |= {"sampling": common.given_sampling(o, llasa), "seed": o.seed, "speaker": o.speaker}
    search = llasa.search_events(words, common.given_voice(o), o.method, o.n, o.process, o.outcome, **more)
    with common.counting("searching", o) as bar:
        try:
            for event in search:
                bar.set_postfix_str(_told(event))
                bar.update(event.seconds - bar.n)
        except KeyboardInterrupt:
            print("llasa-lite: stopped; this is the best so far.", file=sys.stderr)
    result = search.close()
    row = result.to_dict()
    if o.keep == "all":
        folder = Path(o.out).with_suffix(".candidates")
        for old in folder.glob("[0-9][0-9]*-[0-9][0-9][0-9]*.*"):  # of an earlier search under this name
            old.unlink()
        paths = result.save_all(folder)
        for candidate, path in zip(row["candidates"], paths):
            candidate["file"] = str(path)
    if not o.json:
        print(_candidate_table(row["candidates"]))
    common.finish(result.best, o, more={"search": row})


def _told(event) -> str:
    best = getattr(event, "candidates", None) or getattr(event, "kept", None)
    what = f"best {max(c.order for c in best)[0]:.3f}" if best and best[0].order else f"{event.stage} stage"
    chunk = f"piece {event.chunk + 1} of {event.chunks}, " if event.chunks > 1 else ""
    return chunk + ("done" if isinstance(event, Finished) else what)


def _candidate_table(rows: list[dict]) -> str:
    """Candidates of each piece, best first; the one chosen has a star."""
    names = list(rows[0]["scores"])
    lines = [f"  {'piece':>5} {'candidate':>9} {'seconds':>7} {'ended by':>8}" + "".join(f" {n:>10}" for n in names)]
    for before, row in zip([{"chunk": None}, *rows], rows):
        scores = "".join(f" {row['scores'][name]:10.3f}" for name in names if name in row["scores"])
        mark = "*" if row["chunk"] != before["chunk"] else " "
        lines.append(f"{mark} {row['chunk']:5} {row['index']:9} {row['seconds']:7.2f} {row['stopped']:>8}{scores}")
    return "\n".join(lines)


def continue_(o) -> None:
    common.check_sound_out(o.out, o.clip)
    words = common.given_text(o.text)
    clip = common.cloned(Voice.from_audio(o.clip, o.transcript, name="clip"))
    llasa = common.load(o)
    with common.counting("continuing", o):
        speech = llasa.continue_speech(clip, words, seed=o.seed, sampling=common.given_sampling(o, llasa))
    common.finish(speech, o)


def transcribe(o) -> None:
    llasa = common.load(o)
    with common.counting("listening", o):
        heard = llasa.transcribe(o.clip)
    row = {"text": heard.text, "probability": round(heard.probability, 4), "seconds": round(heard.seconds, 2)}
    common.tell(row | {"complete": heard.complete}, o, heard.text)


def encode(o) -> None:
    if o.out:
        common.check_out(o.out, o.clip)
    codec = common.load_codec(o)
    codes = codec.encode(audio.load(o.clip, "clip to encode"))
    row = {"codec": codec.name, "codes": codes.tolist()}
    if o.out:
        write_text(o.out, json.dumps(row))
        common.tell(row | {"file": o.out}, o, f"{len(codes)} codes of '{codec.name}' in {o.out}")
    else:
        print(json.dumps(row))


def decode(o) -> None:
    common.check_sound_out(o.out)
    wrong = f"'{o.codes}' holds no codes: make it with `encode -o FILE`."
    row = read_json(o.codes, "file", wrong)
    good = isinstance(row, dict) and isinstance(row.get("codec"), str) and whole_numbers(row.get("codes"), 10**6)
    if not good or not row["codes"]:
        raise ValueError(wrong)
    name, codes = row["codec"], row["codes"]
    codec = common.load_codec(o)
    if codec.name != name:
        raise ValueError(f"These codes are of the codec '{name}', not '{codec.name}'. Give --codec {name}.")
    wav = codec.decode(codes)
    audio.save(wav, o.out)
    seconds = round(len(wav) / audio.SAMPLE_RATE, 2)
    common.tell({"file": o.out, "seconds": seconds, "codes": len(codes)}, o, f"{seconds} s in {o.out}")


def voices(o) -> None:
    if o.from_audio:
        out, name = o.out or "voice.json", o.name or "my voice"
        check_suffix(out)
        common.check_out(out)
        common.check_out(str(Path(out).with_suffix(".clip.ogg")), o.from_audio)  # which it keeps beside
        voice = common.load(o).prepare(common.cloned(Voice.from_audio(o.from_audio, o.text, name)))
        voice.save(out)
        common.tell({"name": voice.name, "text": voice.text, "file": out}, o, f'"{voice.text}" kept as {out}')
        return
    for option in ("text", "name", "out"):
        if getattr(o, option) is not None:
            raise ValueError(f"--{option} belongs to a clip: give that with --from-audio.")
    known = builtin_voices()
    rows = [{"name": k, "description": v.description, "text": v.text} for k, v in known.items()]
    common.tell({"voices": rows}, o, "\n".join(f"{r['name']:10} {r['description']}" for r in rows))


def models(o) -> None:
    rows = [
        {
            "name": c.name,
            "source": c.source if c.name != "nano" else "ships with the package",
            "parameters": c.parameters,
            "languages": list(c.languages),
            "tasks": list(c.tasks),
            "licence": c.licence,
            "gigabytes": c.gigabytes,
        }
        for c in CHECKPOINTS.values()
    ]
    lines = [
        f"{r['name']:22} {r['parameters']:>3}  {r['licence']:13} {','.join(r['languages']):33} {r['source']}"
        for r in rows
    ]
    common.tell({"models": rows}, o, "\n".join(lines))


def replay(o) -> None:
    from .pipeline import Llasa

    common.check_sound_out(o.out)
    common.no_loading_bars()
    with common.counting("speaking", o):
        speech = Llasa.replay(o.receipt, o.model, o.codec)
    common.finish(speech, o)


def inspect(o) -> None:
    told = receipts.read(o.file)
    lines = [f"{key:14} {value}" for key, value in told.items() if not isinstance(value, (list, dict))]
    common.tell({"file": o.file, "receipt": told}, o, "\n".join(lines))


def serve(o) -> None:
    try:
        from . import serving
    except ModuleNotFoundError as error:
        raise ValueError(f"Serving needs '{error.name}': pip install \"llasa-lite[serve]\".") from error

    files = sorted(Path(o.voices).glob("*.json")) if o.voices else []
    if o.voices and not files:
        raise ValueError(f"There are no voices (.json) in '{o.voices}'.")
    voices = {file.stem: Voice.load(file) for file in files}
    if o.at_once < 1:
        raise ValueError("--at-once must be at least 1.")
    with serving.listen(o.host, o.port) as listening:
        app = serving.build(common.load(o), voices, o.at_once, key=os.environ.get("LLASA_API_KEY"))
        host, port = f"[{o.host}]" if ":" in o.host else o.host, listening.getsockname()[1]  # port 0 is a free one
        print(f"Speech at http://{host}:{port}/v1/audio/speech", file=sys.stderr)
        serving.serve(app, listening)


def bench(o) -> None:
    from .benchmark import Bench, read_csv, run, write_csv

    bench = Bench(o.models, o.batches, o.only, o.threads, device=o.device)
    if o.plot:
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError('Figures need matplotlib: pip install "llasa-lite[plot]".') from error
        if Path(o.plot).suffix not in (".png", ".svg") or not set(bench.only) & {"paths", "growth", "whole"}:
            raise ValueError("--plot draws paths, growth and whole into a .png or .svg file.")
    for path in filter(None, (o.csv, o.plot)):
        common.check_out(path)
    if o.csv and Path(o.csv).exists():
        read_csv(o.csv)  # its rows are kept: said before the work, if they are none of ours
    common.no_loading_bars()
    table = run(bench, lambda line: print(line, file=sys.stderr))
    if o.csv:
        write_csv(table, o.csv)
    if o.plot:
        from .plots import plot_bench

        plot_bench(table.to_dict()["rows"], o.plot)
    common.tell(table.to_dict(), o, table.text())


def demo(o) -> None:
    if o.port is not None and not 0 < o.port < 2**16:
        raise ValueError(f"A port is a number from 1 to 65535, not {o.port}.")
    _demo_package().launch(model=o.model, host=o.host, port=o.port)


def doctor(o) -> None:
    from .doctor import examine

    found = examine()
    common.tell(found.to_dict(), o, found.text())


def space_build(o) -> None:
    from .space import build_space

    out = build_space(o.space, o.out, o.repo)
    upload = shlex.join(["hf", "upload", o.repo or "OWNER/NAME", str(out), "--repo-type", "space"])
    common.tell({"space": str(out)}, o, f"{out} is ready: {upload}")


# -- helpers ---------------------------------------------------------------------------------------------------------


def _demo_package():
    """The app: inside the installed package, beside it in a checkout."""
    checkout = Path(__file__).parent.parent
    try:
        if (checkout / "app.py").is_file() and (checkout / "demo").is_dir():
            sys.path.insert(0, str(checkout))
            return importlib.import_module("demo")
        return importlib.import_module("llasa_lite.demo")
    except ModuleNotFoundError as error:
        raise ValueError(f"The app needs '{error.name}': pip install \"llasa-lite[demo]\".") from error
