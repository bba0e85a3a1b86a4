"""Search: many takes of one sentence, heard by verifiers while you watch; Stop keeps the best so far."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from importlib.util import find_spec

import gradio as gr

from llasa_lite import SEARCH_METHODS, VERIFIERS, Candidate, Extended, Pruned, Scored, SearchResult, audio

from . import asking, drawing, results, settings, takes
from .common import BUSY, asked_voice, flag_of, new_folder, plain_errors, sampling_of, seed_of, stops_and_keeps, text_of
from .models import Models
from .words import lasting, said, t

MAX_N, MAX_BRANCH = 32, 8
MAX_SEARCH_CHARS = 300  # every candidate says all of it
LIKELIHOOD, ASR, SPEAKER = "likelihood", "asr", "speaker"
# `quality` where its package is; `emotion` would be fetched from the hub, so that one has to know and write it
EXTRA = ["quality"] if find_spec("speechmos") else []
OUTCOMES = [LIKELIHOOD, ASR, SPEAKER, "asr, speaker", "0.7 * likelihood + 0.3 * speaker", *EXTRA]
PROCESSES = [SPEAKER, *EXTRA]
MAX_WORK = 20_000  # characters x candidates: three minutes of nano's on two cores, while others wait
TIMES = "asked[0] * (asked[1] === 'partial_prm' || asked[1] === 'beam_search' ? asked[2] : 1)"


def layout(models: Models, page: gr.Blocks, model: gr.Radio, pace: gr.Number) -> settings.Settings:
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            asked = asking.layout(models, model, "search")
            method = gr.Radio(
                [(t(f"method {name}"), name) for name in SEARCH_METHODS],
                value="best_of_n",
                label=t("Method"),
                elem_id="search-method",
            )
            with gr.Row():
                n = gr.Slider(1, MAX_N, 8, step=1, label=t("Candidates (N)"), min_width=140, elem_id="search-n")
                outcome = gr.Dropdown(
                    OUTCOMES,
                    value=chooser(models),
                    allow_custom_value=True,
                    label=t("Outcome verifier"),
                    info=t("Who chooses; several can be weighed"),
                    min_width=140,
                    elem_id="search-outcome",
                )
            with gr.Row(visible=False) as guided:
                process = gr.Dropdown(
                    PROCESSES,
                    value=SPEAKER,
                    allow_custom_value=True,
                    label=t("Process verifier"),
                    info=t("Who prunes beams on the way"),
                    min_width=140,
                    elem_id="search-process",
                )
                branch = gr.Slider(
                    1, MAX_BRANCH, 2, step=1, label=t("Continuations of a beam"), min_width=140, elem_id="search-branch"
                )
                seconds = gr.Slider(
                    0.5,
                    4,
                    2,
                    step=0.5,
                    label=t("Seconds under it (partial PRM)"),
                    min_width=140,
                    elem_id="search-seconds",
                )
            with gr.Row(elem_classes="actions"):
                go = gr.Button(t("Search"), variant="primary", min_width=80, elem_id="search-button")
                stop = gr.Button(t("Stop, keep the best"), min_width=80, elem_id="search-stop")
            tuned = settings.layout(models.get(models.first).sampling, "search")
        with gr.Column(scale=5, min_width=300):
            status = gr.Markdown(
                t("Press Search: candidates appear one by one with their scores, the best of them on top."),
                label="Progress",
                elem_id="search-status",
                elem_classes="note",
            )
            heard = takes.layout(
                "No candidates yet. Each will stand here with its scores, ready to be played.", "search-takes"
            )
            watched = gr.HTML(
                "", label="Score against candidates and time", apply_default_css=False, elem_id="search-curves",
                elem_classes="flat",
            )  # fmt: skip
            shown = results.layout("search", "The best so far", "")
            every = gr.DownloadButton(
                t("Download all candidates with scores"), size="sm", interactive=False, elem_id="search-zip"
            )

    asking.estimate(page, models, model, asked, pace, MAX_SEARCH_CHARS, TIMES, [n, method, branch])
    method.change(
        lambda name: (gr.Row(visible=name in ("beam_search", "partial_prm")), gr.Dropdown(visible=name != "sample")),
        method,
        [guided, outcome],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )

    def show_to(request: gr.Request, *asked):  # Gradio sees no request in a partial
        yield from show(models, heard, request.session_hash, *asked)

    searched = go.click(
        show_to,
        [model, *asked[:4], method, n, outcome, process, branch, seconds, *tuned],
        [status, heard, watched, *shown, every, tuned.seed, pace],
        concurrency_id=BUSY,
        show_progress_on=status,
        api_visibility="private",
    )
    stops_and_keeps(stop, "search", searched)
    return tuned


def chooser(models: Models) -> str:
    """What chooses unless a visitor says otherwise: the model itself where it listens too. Among few
    takes nano's likelihood chooses no worse than its transcripts, in less time (results/search.csv)."""
    return LIKELIHOOD if models.choices[models.first].can_transcribe else ASR


def start(
    models: Models, model, text, voice, clip, transcript, method, n, outcome, process, branch, seconds, random_seed,
    seed, *tuned, stop=None,
):  # fmt: skip
    """A search, ready to be iterated over. Raises ValueError on what it cannot do."""
    text, seed = text_of(text), seed_of(random_seed, seed)
    if len(text) > MAX_SEARCH_CHARS:
        raise ValueError(said("The text has {0:,} characters; search takes at most {1}.", len(text), MAX_SEARCH_CHARS))
    for name, value, most in (("N", n, MAX_N), (said("The continuations of a beam"), branch, MAX_BRANCH)):
        if not isinstance(value, (int, float)) or not 1 <= value <= most:
            raise ValueError(said("{0} must lie in 1..{1}, not {2!r}.", name, most, value))
    guided = method in ("beam_search", "partial_prm")
    if len(text) * n * (branch if guided else 1) > MAX_WORK:
        told = said(
            "{0} characters times {1:g} candidates would keep everybody waiting for minutes. Give a shorter text, or "
            "fewer candidates or continuations.",
            len(text),
            n * (branch if guided else 1),
        )
        raise ValueError(told)
    llasa = models.get(model)
    return llasa.search_events(
        text,
        asked_voice(llasa, voice, clip, transcript),
        method,
        int(n),
        process=criterion_of(process) if guided else None,
        outcome=None if method == "sample" else criterion_of(outcome),
        seed=seed,
        sampling=sampling_of(llasa, *tuned),
        stop=stop,
        branch=int(branch),
        process_seconds=seconds,
    )


def criterion_of(asked: str) -> str:
    """What a visitor wrote, where it names verifiers only: a visitor chooses no files or hub ids of this machine."""
    for part in re.split(r"[,+]", str(asked or "")):
        name = part.rpartition("*")[2].strip()
        if name not in VERIFIERS:
            raise ValueError(said("Unknown verifier '{0}'. Choose from: {1}.", name[:60], ", ".join(VERIFIERS)))
    return asked


def show(models: Models, heard: gr.HTML, session: str | None, model, *asked):
    """Candidates as they come; at the end, stopped or not, the best and a file of all."""
    with plain_errors(), flag_of(session, "search") as flag:
        quiet = [gr.skip()] * 8
        found = start(models, model, *asked, stop=flag.is_set)  # what is refused leaves the page as it was
        empty = *results.nothing(), gr.DownloadButton(value=None, interactive=False), gr.skip(), gr.skip()
        yield lasting(said("Reading the prompt ...")), takes.table([], []), "", *empty
        watch = Watch(heard)
        for event in found:
            watch.see(event)
            yield lasting(watch.status()), watch.table(), watch.drawn(), *quiet
        try:
            result = found.result
        except ValueError:  # stopped before anything was made
            yield lasting(said("Stopped.")), *[gr.skip()] * 10
            return
        best = result.best
        watch.finish(result)
        files = [gr.DownloadButton(value=str(packed(result)), interactive=True)]
        shown = results.to_results(models.codec_of(model, best), best)
        whole = not result.stopped_early and not found.settings.guided_tokens  # what pruning costs is another matter
        pace = asking.pace_of(watch.seconds, best.receipt["text"], found.settings.n) if whole else gr.skip()
        yield lasting(watch.status()), watch.table(), watch.drawn(), *shown, *files, best.seed, pace


class Watch:
    """What has been seen of one search, as the page shows it."""

    def __init__(self, heard: gr.HTML):
        self.heard = heard
        self.rows: list[tuple[Candidate, dict]] = []
        self.points: list[tuple[float, float]] = []  # (seconds, score) of every whole candidate
        self.steps: list[tuple[tuple, tuple]] = []  # beams kept and dropped at each pruning
        self.beams: tuple[Candidate, ...] = ()  # of this step, best first
        self.seconds = 0.0
        self.words = ""

    def see(self, event) -> None:
        self.seconds = event.seconds
        if isinstance(event, Extended):
            seconds = event.tokens / audio.FRAME_RATE
            self.words = said("{0:.1f} s long, {1} still speaking", seconds, event.running)
        elif isinstance(event, Scored) and event.stage == "outcome":
            for candidate in event.candidates:
                self.add(candidate, event.chunk, event.chunks)
        elif isinstance(event, Scored):
            self.beams = event.candidates
        elif isinstance(event, Pruned):
            self.steps.append((event.kept, self.beams[len(event.kept) :]))
            self.words = said("{0} beams kept, {1} dropped", len(event.kept), event.dropped)

    def add(self, candidate: Candidate, chunk: int = 0, chunks: int = 1) -> None:
        title = said("Candidate {0}", candidate.index + 1) + (said(", piece {0}", chunk + 1) if chunks > 1 else "")
        note = {
            "length": "ran into its limit",
            "silence": "fell silent",
            "repetition": "went on repeating itself",
            "running": "not finished",
        }.get(candidate.stopped, "")
        scores = [f"{score:.3f}" for score in candidate.scores.values()]
        candidate = replace(candidate, chunk=chunk)
        self.rows.append((candidate, takes.row(self.heard, candidate.wav, title, note, scores)))
        if candidate.score is not None:
            self.points.append((self.seconds, candidate.score))

    def finish(self, result: SearchResult) -> None:
        """A search that was stopped before it scored a whole candidate still has a best one."""
        if not self.rows:
            self.add(result.candidates[0])
        early = said("Stopped; the best so far is kept. ") if result.stopped_early else ""
        spent = said(
            "sampling {0:.1f} s, decoding {1:.1f} s, verifying {2:.1f} s",
            *(result.spent[what] for what in ("sampling", "decoding", "verifying")),
        )
        self.words = f"{early}{spent}"
        self.seconds = result.seconds

    def ranked(self) -> list[tuple[Candidate, dict, bool]]:
        """Piece by piece, best first; whether it is the one of its piece that is chosen."""
        ranked = sorted(self.rows, key=lambda pair: (-pair[0].chunk, pair[0].rank), reverse=True)
        before = [None, *(one.chunk for one, _ in ranked)]
        return [(one, row, one.score is not None and one.chunk != last) for (one, row), last in zip(ranked, before)]

    def status(self) -> str:
        line = said("**{0} heard** after {1:.1f} s", len(self.rows), self.seconds)
        for candidate, row, best in self.ranked():
            if best:
                line += said(" · best: {0}, {1:.3f}", row["title"].lower(), candidate.score)
        return f"{line} · {self.words}" if self.words else line

    def table(self) -> dict:
        rows = self.ranked()
        columns = list(rows[0][0].scores) if rows else []
        return takes.table(columns, [row | {"best": best} for _, row, best in rows])

    def drawn(self) -> str:
        """Score against candidates and against time, and the beams where there are any."""
        pictures = [drawing.tree(self.steps)] if self.steps else []
        if self.points:
            scores = [score for _, score in self.points]
            pictures.append(drawing.curve(list(enumerate(scores, 1)), said("candidates heard"), said("score")))
            pictures.append(drawing.curve(self.points, said("seconds"), said("score")))
        return f'<div class="charts">{"".join(pictures)}</div>' if pictures else ""


def packed(result: SearchResult):
    """All candidates as waves with receipts, and their scores, in one zip."""
    folder = new_folder()
    path = folder / "candidates.zip"
    waves = result.save_all(folder / "candidates")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scores.json", json.dumps(result.to_dict(), indent=1, ensure_ascii=False))
        for wave in waves:
            for one in (wave, wave.with_suffix(".receipt.json")):
                file.write(one, one.name)
                one.unlink()  # the zip is what the page's own cleaning knows of
    (folder / "candidates").rmdir()
    return path
