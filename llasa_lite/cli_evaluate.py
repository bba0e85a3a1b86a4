"""`python -m llasa_lite evaluate`: options of the paper's tables to tasks, rows to files. Knows `evaluation`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path

from . import cli_common as common
from . import evaluation
from .checkpoints import codec_source, fingerprint
from .evaluation import Ears, run_task, sheet, tables, tasks
from .evaluation.codecs import CODECS, TransformersCodec
from .evaluation.listening import BY_CHARACTER, NORMALIZERS, VoiceJudge, codec_measures
from .files import lines_of
from .measure import as_typed
from .plots import plot_search
from .records import Records, which
from .search import SEARCH_METHODS, SearchSettings
from .search_benchmark import SearchBench, agreement, evaluate_search, summarise, write
from .sources import read_clips
from .verifiers import Own, verifier

KINDS = {
    "tts": "Sentences spoken, and heard by a judge.",
    "seed-tts-eval": "Zero-shot cloning of prompts (paper, Table 2).",
    "continuation": "Clips continued after 3 s (paper, Table 5).",
    "asr": "The model's own transcripts (paper, Table 3).",
    "codec": "Clips through codecs (paper, Table 1).",
    "emotion": "Emotion of prompt and answer (paper, Table 4).",
    "search": "What more candidates buy, by every verifier.",
    "understanding": "Clips and a listening sheet, or its scores (paper, Tables 6 and 7).",
}
SPEAKERS = "nano, resemblyzer (a judge that is no verifier), or an AutoModelForAudioXVector: hub id or folder"
HARD_CASES = "hardcase.lst"  # as seed-tts-eval names the list of its test-hard
CLIPS = "corpus folders (manifest.jsonl; test splits are used) or LibriSpeech folders (*.trans.txt)"


def add(verbs, model, output, timbre, sampled) -> None:
    """Add the verb and its kinds to the parser."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--limit", type=int, help="at most this many items, drawn with seed 0")
    common.add_argument("--seed", type=int, default=0, help="item k is drawn with seed + k (default: 0)")
    common.add_argument("--language", default="en", help="zh and ja count characters, others words (default: en)")
    shared = argparse.ArgumentParser(add_help=False, parents=[common])
    shared.add_argument("--name", help="name of the system in the table (default: the model's)")
    judging = argparse.ArgumentParser(add_help=False)
    judging.add_argument(
        "--judge", default="openai/whisper-base", help="Whisper or CTC, hub id or folder (default: %(default)s)"
    )
    listening = argparse.ArgumentParser(add_help=False, parents=[judging])
    listening.add_argument("--no-judge", action="store_true", help="measure no word error rate")
    listening.add_argument("--speaker-model", help=SPEAKERS)
    listening.add_argument("--emotion-model", help="emotion classifier on raw waves: hub id or folder")
    listening.add_argument("--mos", action="store_true", help="predict a mean opinion score by DNSMOS ([quality])")
    listening.add_argument("--keep", action="store_true", help="keep the waves, in waves/ of the folder")
    searching = argparse.ArgumentParser(add_help=False)
    searching.add_argument("--method", help=f"search instead of one sample: {', '.join(SEARCH_METHODS)}")
    searching.add_argument(
        "--n", type=int, default=SearchSettings.n, help="candidates, or beams (default: %(default)s)"
    )
    searching.add_argument("--process", help="prunes beams (default: speaker)")
    searching.add_argument("--outcome", help="chooses among whole candidates (default: as `search`)")

    evaluate = verbs.add_parser("evaluate", help="Make the paper's tables.", description="Make the paper's tables.")
    kinds = evaluate.add_subparsers(dest="kind", required=True, metavar="WHAT")
    for kind, told in KINDS.items():
        speaks = kind not in ("asr", "codec", "search")
        heard = {"search": [common, judging, timbre], "asr": [shared], "understanding": [shared]}.get(
            kind, [shared, listening]
        )
        parents = [*heard, model, output] + [sampled, timbre, searching] * speaks
        sub = kinds.add_parser(kind, help=told, description=told, parents=parents)
        sub.set_defaults(handler=search if kind == "search" else run)
        sub.add_argument("--out", required=True, help="folder for rows and tables; a stopped run goes on")
        if heard == [shared]:  # a model that reads, or people
            sub.set_defaults(no_judge=True, speaker_model=None, emotion_model=None, mos=False, keep=False)
        if kind in ("seed-tts-eval", "emotion"):
            either = sub.add_mutually_exclusive_group(required=True)
            either.add_argument("--list", help="meta.lst: utt|prompt_text|prompt_wav|text(|ground truth)")
            either.add_argument("--data", nargs="+", help="make one: " + CLIPS)
        if kind in ("continuation", "asr", "codec"):
            sub.add_argument("--data", required=True, nargs="+", help=CLIPS)
        if kind == "continuation":
            told = "only clips of these lengths; 4 10 is what VALL-E and those after it take of test-clean"
            sub.add_argument("--seconds", nargs=2, type=float, metavar=("LEAST", "MOST"), help=told)
        if kind == "seed-tts-eval":
            told = f"paper's columns; zh and hard are Chinese (default: by language; of {HARD_CASES} hard)"
            sub.add_argument("--set", choices=("en", "zh", "hard"), help=told)
        if kind == "asr":
            sub.add_argument(
                "--set", default="clean", choices=("clean", "other"), help="the paper's column (default: clean)"
            )
        if kind == "codec":
            names = f"others beside the model's: {', '.join(CODECS)}, or all"
            sub.add_argument("--codecs", nargs="+", default=[], metavar="NAME", help=names)
        if kind == "search":
            sub.add_argument("--sentences", required=True, help="text file, one sentence a line")
            sub.add_argument("--voices", nargs="+", required=True, help="voices that speak the sentences in turn")
            sub.add_argument("--n", type=int, default=32, help="takes of every sentence (default: 32)")
            sub.add_argument(
                "--choosers",
                nargs="+",
                help="verifiers that choose among them (default: likelihood asr speaker 'asr, speaker')",
            )
            sub.add_argument("--process", default="speaker", help="prunes beams (default: speaker)")
            sub.add_argument("--outcome", default="asr", help="chooses after partial PRM (default: asr)")
            sub.add_argument("--guided", nargs="*", help="beams x branches of guided searches (default: 4x4 8x4)")
            sub.add_argument("--continuations", type=int, help="of every beam after partial PRM (default: 1)")
        if kind == "tts":
            sub.add_argument("--sentences", required=True, help="text file, one sentence a line")
            sub.add_argument("--voices", nargs="+", default=[], help="speak in turn (default: the model chooses)")
        if kind == "understanding":
            sub.add_argument("--voices", nargs=1, default=[], help="built-in voice (default: the model chooses)")
            sub.add_argument("--scores", nargs="+", help="CSVs of listeners: make the table of them instead")


def run(o) -> None:
    if o.kind == "understanding" and o.scores:
        return scores(o)
    if o.kind == "seed-tts-eval":
        o.set = o.set or ("hard" if Path(o.list or "").name == HARD_CASES else None)
        if o.set and o.language != _language(o.set):
            told = f"The set '{o.set}' is counted in another way: give --language {_language(o.set)} with it."
            raise ValueError(told)
    out, device = Path(o.out), common.picked_device(o)
    # bad input is refused before a model is loaded
    given = {"tts": sentences, "seed-tts-eval": lines, "emotion": lines}
    given |= {"continuation": continued, "understanding": understanding}
    items = common.some(given.get(o.kind, clips)(o), o.limit)
    # nor would a clip that cannot be read stop it half way: without that clip the rows are those of other items
    for item in items:
        if o.kind in ("seed-tts-eval", "emotion"):
            item.check()
        elif o.kind in ("continuation", "asr", "codec"):
            tasks.check_clip(item, o.kind)
    if o.kind == "emotion" and not o.emotion_model:
        raise ValueError("'emotion' needs --emotion-model: a hub id or a folder.")
    own = Own(device)
    ears = Ears(
        None if o.no_judge else evaluation.Judge(o.judge, device, o.language),
        _speaker(o.speaker_model, own),
        verifier(f"emotion:{o.emotion_model}", own) if o.emotion_model else None,
        verifier("quality", own) if o.mos else None,
    )
    for judge in filter(None, (ears.speaker, ears.emotion, ears.quality)):
        judge.load()  # nor what is missing found after hours
    systems, settings = _tasks(o, items, ears)
    if o.kind == "codec":
        codec_measures()
    records = Records(out / "rows.jsonl", settings=settings)
    rows = run_task(chain(*systems), records, lambda todo: common.progress(o.kind, o, todo))
    if o.kind == "understanding":
        return _sheet(o, items, rows)
    by_character = o.language in BY_CHARACTER
    errors = tables.CER if by_character else tables.WER
    measures = [errors]
    if o.kind == "seed-tts-eval":
        measures.append(tables.SEED_CER if by_character else tables.SEED_WER)
    measures += [tables.SIM_O, tables.SIM_R, tables.SIM_OTHER, tables.RECOGNISED, tables.EMOTION, tables.STOI]
    measures += [tables.PESQ_WB, tables.PESQ_NB, tables.SPK_SIM, tables.MOS, tables.CUT_OFF, tables.SPEED]
    told = {k: v for k, v in settings.items() if v is not None and v is not False and v != []}  # a seed of 0 is told
    notes = [f"{k.replace('_', ' ')}: {_shown(v)}" for k, v in told.items()]
    summaries = tables.write_tables(out, KINDS[o.kind], rows, measures, _paper(o), notes)
    _told(o, summaries)


def _speaker(asked: str | None, own):
    if asked == VoiceJudge.name:
        return VoiceJudge()
    return verifier(f"speaker:{asked}", own) if asked else None


def _shown(value) -> str:
    """A setting as it stands in a table: of a folder its name, not where it lies on this machine."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return Path(value).name if isinstance(value, str) and Path(value).exists() else str(value)


def _tasks(o, items, ears) -> tuple[list, dict]:
    """What is to be done, a list of tasks, and what rows must share to stand in one table."""
    from .text_search import lent_by

    keep = Path(o.out) / "waves" if o.keep else None
    settings = {"task": o.kind, "items": which(map(_told_of, items)), "limit": o.limit, "language": o.language}
    settings |= {k: getattr(o, k) for k in ("speaker_model", "emotion_model", "mos")}
    # which recordings, not where they lie: others may have the same ids and words
    folders = [Path(folder).absolute().name for folder in getattr(o, "data", None) or ()]
    settings["data"] = ["/".join(Path(o.list).absolute().parts[-2:])] if getattr(o, "list", None) else folders
    if ears.judge:
        settings["judge"] = o.judge
    if o.language in NORMALIZERS and (ears.judge or o.kind == "asr"):
        settings["normalizer"] = NORMALIZERS[o.language]
    if getattr(o, "seconds", None):
        settings["seconds"] = o.seconds
    if o.keep:  # rows that are there would not be made again to keep their waves
        settings["keep"] = True
    if o.kind == "codec":
        made, name = _codec_tasks(o, items, ears, keep)
        return made, settings | {"codec": name, "weights": fingerprint(codec_source(name))}
    llasa = common.load(o)
    system = o.name or llasa.checkpoint.name
    settings |= {"seed": o.seed} | _model_of(llasa, o)
    if o.kind == "asr":
        return [tasks.asr(system, lambda wav: llasa.transcribe(wav).text, items, o.language)], settings
    for item in items:
        _check_words(llasa, item)
    sampling = common.given_sampling(o, llasa)
    settings |= {name: getattr(sampling, name) for name in ("temperature", "top_p", "guidance")}
    if sampling.top_k:  # folders begun before it could be given do not tell it
        settings["top_k"] = sampling.top_k
    settings["timbre"] = llasa.codec.restores_timbre

    how, process, outcome = tasks.ONE_TAKE, None, None
    if o.method:
        how = SearchSettings(o.method, o.n)
        process, outcome = how.criteria(o.process, o.outcome, lent_by(llasa))
        chose = {verifier.source for one in (process, outcome) if one for verifier in one.verifiers}
        if judges := chose & {ears.judge and o.judge, o.speaker_model, o.emotion_model, o.mos and ears.quality.source}:
            raise ValueError(f"'{judges.pop()}' chose the candidates and cannot judge them too. Give another judge.")
        settings |= {k: getattr(o, k) for k in ("method", "n", "process", "outcome")}
        system = o.name or f"{system}, {o.method}, n {o.n}"

    def speak(text, voice, seed):
        if not o.method:
            return llasa.tts(text, voice, seed, sampling)
        given = {"process": process, "outcome": outcome, "seed": seed, "sampling": sampling}
        return llasa.search(text, voice, how.method, how.n, **given).best

    if o.kind in ("tts", "understanding"):
        settings["voices"] = o.voices
        voices = [llasa.prepare(name) for name in o.voices]
        if o.kind == "understanding":
            keep, items = Path(o.out) / "waves", [case.sentence for case in items]
        return [tasks.tts(system, speak, items, ears, voices, o.seed, keep)], settings
    if o.kind == "continuation":
        given = (sampling, keep, how, process, outcome)
        return [tasks.continuation(system, llasa, items, ears, o.seed, *given)], settings
    return [tasks.seed_tts_eval(system, speak, llasa.codec, items, ears, o.seed, keep)], settings


def _model_of(llasa, o) -> dict:
    """Which model speaks, for `settings`: a folder may hold other weights by now, and int8 is less exact."""
    weights = [known for known in llasa._weights.values() if known]
    named = {"model": str(o.model or "nano"), "codec": llasa.codec.name}
    return named | {"weights": weights, "dtype": llasa.engine.dtype}


def _check_words(llasa, item) -> None:
    """Raises ValueError where an item says nothing that can be spoken: before the work on the others."""
    told = _told_of(item)
    name, words = (2 * told)[:2]  # a sentence is its own name
    try:
        llasa._pieces(words)
    except ValueError as error:
        raise ValueError(f"'{name}' cannot be spoken. {error}") from error


def _told_of(item) -> list[str]:
    """What makes a sentence, a line, a case or a clip the one it is: its id, if it has one, and its words."""
    if isinstance(item, str):
        return [item]
    words = ("id", "name", "text", "prompt_text", "sentence")
    return [str(getattr(item, word)) for word in words if hasattr(item, word)]


def _codec_tasks(o, items, ears, keep) -> tuple[list, str]:
    """The tasks, and the name of the model's codec."""
    wanted = list(CODECS) if o.codecs == ["all"] else o.codecs
    if unknown := set(wanted) - set(CODECS):
        raise ValueError(f"Unknown codec '{sorted(unknown)[0]}'. Choose from: {', '.join(CODECS)}, all.")
    own = common.load_codec(o)
    made = [tasks.codec("originals", None, items, ears)]
    name = o.name or ("X-codec2 50" if "xcodec2" in own.name else f"{own.name} 50")
    made.append(tasks.codec(name, own.resynthesize, items, ears, keep))
    for other in wanted:
        codec = TransformersCodec(CODECS[other].source, CODECS[other].codebooks, common.picked_device(o))
        made.append(tasks.codec(CODECS[other].row, codec.resynthesise, items, ears, keep))
    return made, own.name


def _paper(o) -> tuple:
    """The paper's rows that stand beside a task's own."""
    both = o.kind in ("seed-tts-eval", "emotion")  # LibriSpeech is English
    if o.language not in (("en", "zh") if both else ("en",)):
        return ()
    if o.kind == "seed-tts-eval":
        part = o.set or o.language
        error = "zh_cer" if part == "zh" else f"{part}_wer"
        columns = (("seed_wer", error), ("sim_o", f"{part}_sim_o"), ("sim_r", f"{part}_sim_r"))
        return tables.paper_rows("table2_seed_tts_eval", "model+group", columns)
    if o.kind == "continuation":
        columns = (("wer", "wer_h"), ("sim_o", "sim_o"), ("sim_r", "sim_r"))
        return tables.paper_rows("table5_librispeech_continuation", "system+group", columns)
    if o.kind == "asr":
        return tables.paper_rows("table3_asr_librispeech", "model", (("wer", f"test_{o.set}_wer"),))
    if o.kind == "codec":
        same = tuple((name, name) for name in ("wer", "stoi", "pesq_wb", "pesq_nb", "spk_sim"))
        return tables.paper_rows("table1_codecs", "model+token_rate", same)
    if o.kind == "emotion":
        return tables.paper_rows("table4_emotion_similarity", "model+group", (("emotion_sim", o.language),))
    return ()


def _language(part: str) -> str:
    """Of a set of seed-tts-eval."""
    return "en" if part == "en" else "zh"


def _sheet(o, cases, rows) -> None:
    clips = [(row["system"], case, f"waves/{k:04d}.wav") for k, (case, row) in enumerate(zip(cases, rows))]
    path = sheet.write_sheet(clips, o.out, o.seed)
    told = {"sheet": str(path), "clips": len(clips)}
    common.tell(told, o, f"{len(clips)} clips to be heard: open {path}, then evaluate understanding --scores")


def scores(o) -> None:
    rows = sheet.read_scores(o.scores)
    Path(o.out).mkdir(parents=True, exist_ok=True)
    notes = [f"{len({row['listener'] for row in rows})} listeners; n counts their scores"]
    _told(o, tables.write_tables(o.out, KINDS["understanding"], rows, [tables.SCORE], (), notes))


def _told(o, summaries: dict) -> None:
    row = {"table": str(Path(o.out) / "table.md"), "systems": summaries}
    common.tell(row, o, (Path(o.out) / "table.md").read_text(encoding="utf-8").rstrip())


def search(o) -> None:
    try:
        guided = tuple(tuple(map(int, pair.split("x"))) for pair in o.guided) if o.guided is not None else None
        assert guided is None or all(len(pair) == 2 for pair in guided)
    except (ValueError, AssertionError):
        raise ValueError(f"--guided takes beams x branches, as 4x4, not {' '.join(o.guided)}.") from None
    given = {"n": o.n, "process": o.process, "outcome": o.outcome, "seed": o.seed, "guided": guided}
    given |= {"continuations": o.continuations, "choosers": tuple(o.choosers) if o.choosers else None}
    bench = SearchBench(**{name: value for name, value in given.items() if value is not None})
    texts = common.some(sentences(o), o.limit)
    llasa, like = common.load(o), VoiceJudge()
    like.load()  # before hours of work
    command = as_typed()
    hear = evaluation.Judge(o.judge, str(llasa.codec.device), o.language)
    settings = asdict(bench) | {"items": which(texts), "voices": o.voices, "judge": o.judge, "language": o.language}
    settings |= {"normalizer": NORMALIZERS.get(o.language), "timbre": llasa.codec.restores_timbre}
    settings |= _model_of(llasa, o)
    keep = partial(Records, Path(o.out) / "rows.jsonl", settings=settings)
    measured = evaluate_search(llasa, texts, o.voices, hear, like, bench, keep)
    for takes, seconds, own in measured:  # written after every sentence: it may take hours
        print(f"{takes[-1].sentence + 1} of {len(texts)} sentences", file=sys.stderr)
        summary, agreed = summarise(takes, seconds, bench, own), agreement(takes)
        files = write(o.out, takes, summary, agreed, command)
    plot_search(summary).savefig(Path(o.out) / "search.png", dpi=110)
    lines = [
        f"{r['method']:12} {r['chooser']:14} {r['n']:3} x {r['branch']:2}  WER {r['wer']:.3f} ({r['wer_low']:.3f} to "
        f"{r['wer_high']:.3f})  similarity {r['similarity']:.3f}  {r['seconds']:.1f} s"
        for r in summary
    ]
    lines += [
        f"{r['verifier']} against {r['judge']}: {r['spearman']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in agreed
    ]
    common.tell({"search": summary, "agreement": agreed, "files": list(map(str, files))}, o, "\n".join(lines))


def sentences(o) -> list[str]:
    try:
        rows = lines_of(o.sentences)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read sentences from '{o.sentences}': {error}.") from error
    if not any(map(str.strip, rows)):
        raise ValueError(f"'{o.sentences}' holds no sentences.")
    return [row.strip() for row in rows if row.strip()]


def lines(o) -> list:
    return tasks.read_meta_list(o.list) if o.list else tasks.paired(clips(o))


def understanding(o) -> list:
    return sheet.cases(o.language)


def continued(o) -> list:
    """Clips that can be continued, before any are drawn, so that there are as many as are asked for."""
    least, most = o.seconds or (0, float("inf"))
    found = [clip for clip in clips(o) if least <= clip.seconds <= most]
    if not found:
        raise ValueError(f"None of the clips lasts {least:g} to {most:g} s.")
    return tasks.continuable(found)


def clips(o) -> list:
    found = []
    for folder in o.data:
        read = read_clips(folder)
        if len(o.data) > 1:  # each may count its clips from 0
            read = [replace(clip, id=f"{Path(folder).absolute().name}/{clip.id}") for clip in read]
        found += read
    held_out = [clip for clip in found if clip.split.startswith("test")]
    if not held_out:
        raise ValueError(f"{', '.join(o.data)} holds no clips kept out of training.")
    for clip in held_out:
        if not clip.seconds:  # it cannot be read: too short for some tasks, which would leave it out
            clip.load()
    return held_out
