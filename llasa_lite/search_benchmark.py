"""What search buys: error rate and similarity against the number of candidates, heard by judges that did not choose.

python -m llasa_lite evaluate search --sentences FILE --judge openai/whisper-base --out runs/search

Every sentence is sampled n times once; best-of-N for smaller N is read off the same takes, block by block, so that the
curves differ in who chooses and in nothing else. Searches under a process verifier are run as they are.
"""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from .evaluation.listening import counted
from .evaluation.tables import with_interval
from .files import write_table
from .records import Records
from .search import Candidate, SearchSettings
from .verifiers import Criterion, Own, Target, Verifier, criterion

RANDOM, ORACLE = "random", "oracle"  # the lower and the upper line: a take at random, and the one the judge likes best
TIMED = 8  # sentences on which every number of takes is timed


@dataclass(frozen=True)
class SearchBench:
    """What to measure."""

    n: int = 32  # takes of every sentence
    choosers: tuple[str, ...] = ("likelihood", "asr", "speaker", "asr, speaker")  # as `verifiers.criterion` reads them
    process: str = "speaker"
    outcome: str = "asr"
    # (beams, branches): the paper's 16 x 16, and what two cores bear
    guided: tuple[tuple[int, int], ...] = ((4, 4), (8, 4))
    continuations: int = 1  # of every beam that partial PRM left, for the outcome verifier
    seed: int = 0

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}.")


@dataclass(frozen=True)
class Take:
    """One candidate and what everybody thought of it."""

    sentence: int
    method: str
    n: int  # beams of a guided search; takes of plain sampling
    branch: int
    candidate: Candidate
    edits: int  # heard by the judge
    words: int
    similarity: float | None  # to the prompt, by the judge of voices


def evaluate_search(
    llasa,
    sentences: Sequence[str],
    voices,
    hear: Callable,
    like: Verifier | None,
    bench: SearchBench,
    keep: Callable[[], Records] | None = None,
) -> Iterator[tuple[list[Take], dict, Own]]:
    """Sample, score, judge.

    Args:
        voices: sentence k is spoken by voice k modulo their number.
        hear: wave -> transcript, counted in its `language` if it has one, else in English.
        like: who compares a take with the voice's clip, or None.
        keep: opens the rows of what was measured of each sentence, once nothing is left to refuse; sentences that are
            there are read from them, without their waves.
    Yields:
        after every sentence that is measured, and after the last, all so far: (takes, seconds, own): seconds by what
        was done, one for each sentence that was timed: ("sample", n) and (method, n, branch) of searches, ("verify",
        name) of all n takes; own: what the Llasa lent its verifiers.
    Raises:
        ValueError: before anything is sampled: no sentences, one without words or too long for one piece, a verifier
            that cannot be had, or one that is the judge of words, too.
    """
    if not sentences:
        raise ValueError("There are no sentences to measure on.")
    language = getattr(hear, "language", "en")
    if mute := next((sentence for sentence in sentences if not counted(sentence, "", language)["words"]), None):
        raise ValueError(f"'{mute}' has no word that counts (English ones like 'hmm' do not); leave it out.")
    takes: list[Take] = []
    seconds: dict[tuple, list[float]] = {}
    # what cannot be measured is refused before anything is sampled
    searches = [llasa.search_events(sentence, method="sample") for sentence in sentences]
    if long := next((search.text for search in searches if len(search.pieces) > 1), None):
        raise ValueError(f"'{long}' would be spoken in pieces; give shorter sentences.")
    own = searches[0].own
    asked = choosers(bench, own)
    guides = [SearchSettings("partial_prm", *pair, continuations=bench.continuations) for pair in bench.guided]
    guides = [one for settings in guides for one in settings.criteria(bench.process, bench.outcome, own)]
    judge = getattr(hear, "name", None)
    if any(verifier.source == judge for one in (*asked, *guides) for verifier in one.verifiers):
        raise ValueError(f"'{judge}' chooses among the takes and cannot judge them too. Give another judge.")
    for one in asked:
        one.load()
    records = keep() if keep else None

    def add(mine: list[Take], spent: dict[tuple, float]) -> None:
        takes.extend(mine)
        for what, taken in spent.items():
            seconds.setdefault(what, []).append(taken)

    for k, sentence in enumerate(sentences):
        if records is not None and k in records:
            add(*_read(records[k]))
            if k + 1 == len(sentences):
                yield takes, seconds, own
            continue
        voice = llasa.prepare(voices[k % len(voices)])
        given = dict(voice=voice, seed=bench.seed + k)
        spent: dict[tuple, float] = {}

        def judged(candidate: Candidate, method: str, n: int, branch: int, sentence=sentence, voice=voice, k=k) -> Take:
            similarity = like.score([candidate.wav], Target(reference=voice.wav))[0] if like else None
            found = counted(sentence, hear(candidate.wav), language)
            return Take(k, method, n, branch, candidate, found["edits"], found["words"], similarity)

        # 1. n plain takes; how long fewer take is timed on the first sentences
        for n in powers(bench.n) if k < TIMED else [bench.n]:
            search = llasa.search_events(sentence, method="sample", n=n, **given)
            for _ in search:
                pass
            spent["sample", n] = search.result.seconds
        target = search.chunks[0][0].task.target
        candidates = sorted(search.result.candidates, key=lambda c: c.index)
        # 2. every verifier scores all of them
        for one in asked:
            for verifier in one.verifiers:
                if verifier.name not in candidates[0].scores:
                    began = time.perf_counter()
                    scores = verifier.score([c.wav for c in candidates], target, [c.codes for c in candidates])
                    spent["verify", verifier.name] = time.perf_counter() - began
                    candidates = [
                        replace(c, scores=c.scores | {verifier.name: score}) for c, score in zip(candidates, scores)
                    ]
        mine = [judged(c, "sample", bench.n, 1) for c in candidates]
        # 3. guided searches
        for n, branch in bench.guided:
            for method in ("beam_search", "partial_prm"):
                more = given | {"process": bench.process, "n": n, "branch": branch}
                if method == "partial_prm":
                    more |= {"outcome": bench.outcome, "continuations": bench.continuations}
                found = llasa.search(sentence, method=method, **more)
                spent[method, n, branch] = found.seconds
                mine += [judged(c, method, n, branch) for c in found.candidates]
        add(mine, spent)
        if records is not None:
            records.add({"id": k, "takes": [_row(take) for take in mine], "seconds": [*map(list, spent.items())]})
        yield takes, seconds, own


def _row(take: Take) -> dict:
    """A take as JSON, without its wave."""
    one = take.candidate
    told = {"index": one.index, "codes": one.codes.tolist(), "stopped": one.stopped, "scores": one.scores}
    return vars(take) | {"candidate": told | {"order": one.order}}


def _read(row: dict) -> tuple[list[Take], dict[tuple, float]]:
    takes = []
    for one in row["takes"]:
        told = one["candidate"]
        told |= {"codes": np.array(told["codes"], np.int64), "order": tuple(told["order"])}
        takes.append(Take(**one | {"candidate": Candidate(wav=np.zeros(0, np.float32), **told)}))
    return takes, {tuple(what): taken for what, taken in row["seconds"]}


def choosers(bench: SearchBench, own: Own) -> list[Criterion]:
    """The criteria of a benchmark; a verifier that several use is held once."""
    made, known = [], {}
    for one in (criterion(asked, own) for asked in bench.choosers):
        made.append(replace(one, verifiers=tuple(known.setdefault(v.name, v) for v in one.verifiers)))
    return made


def powers(n: int) -> list[int]:
    """Of two below n, and n."""
    return [*(2**k for k in range((n - 1).bit_length())), n]


# -- tables ----------------------------------------------------------------------------------------------------------


def summarise(takes: Sequence[Take], seconds: dict, bench: SearchBench, own: Own) -> list[dict]:
    """One row for each chooser and N, and for each guided search."""
    sentences = sorted({take.sentence for take in takes})
    rows = []
    plain = [[t for t in takes if t.sentence == k and t.method == "sample"] for k in sentences]
    chance = _errors([[block] for block in plain])
    asked = {RANDOM: None} | dict(zip(bench.choosers, choosers(bench, own)))
    for name, one in (asked | {ORACLE: None}).items():
        for n in powers(bench.n):
            chosen = []
            for mine in plain:
                blocks = [mine[start : start + n] for start in range(0, len(mine) - n + 1, n)]
                chosen.append([_choose(name, one, block) for block in blocks])
            cost = np.mean(seconds[("sample", n)])
            for verifier in one.verifiers if one else ():
                cost += np.mean(seconds[("verify", verifier.name)]) * n / bench.n
            rows.append({"method": "best_of_n", "chooser": name, "n": n, "branch": 1} | _figures(chosen, cost, chance))
    if bench.guided:
        asked |= {name: criterion(name, own) for name in (bench.process, bench.outcome) if name not in asked}
    for n, branch in bench.guided:
        for method in ("beam_search", "partial_prm"):
            mine = [
                [t for t in takes if (t.sentence, t.method, t.n, t.branch) == (k, method, n, branch)] for k in sentences
            ]
            cost = np.mean(seconds[(method, n, branch)])
            # what PRM left is chosen from at random, by the outcome verifier, and by all who need no other scores
            scored = set(mine[0][0].candidate.scores)
            names = [bench.process] if method == "beam_search" else [RANDOM, bench.outcome, *bench.choosers]
            for name in dict.fromkeys(names):
                one = asked[name]
                if one is None or scored >= {verifier.name for verifier in one.verifiers}:
                    figures = _figures([[_choose(name, one, m)] for m in mine], cost, chance)
                    rows.append({"method": method, "chooser": name, "n": n, "branch": branch} | figures)
    return rows


def _choose(name: str, one: Criterion | None, block: list[Take]) -> list[Take]:
    """The take that is chosen; all of them where chance chooses."""
    if name == RANDOM:
        return block
    if name == ORACLE:
        return [min(block, key=lambda t: (t.edits, -(t.similarity or 0)))]
    return [max(block, key=lambda t: replace(t.candidate, order=one.order(t.candidate.scores)).rank)]


def _errors(chosen: list[list[list[Take]]]) -> np.ndarray:
    """Sentences > blocks > takes: mean word errors of each sentence."""
    return np.array([np.mean([np.mean([t.edits for t in block]) for block in blocks]) for blocks in chosen])


def _figures(chosen: list[list[list[Take]]], cost: float, chance: np.ndarray) -> dict:
    """Sentences > blocks > takes: corpus WER and mean similarity with 95 % bootstrap intervals over sentences.

    `wer_change` is against a take at random, sentence by sentence (`chance`: word errors of each): sentences differ
    more than choosers do, so that two intervals beside each other say little of their difference.
    """
    wrong = _errors(chosen)
    words = [blocks[0][0].words for blocks in chosen]
    row = with_interval("wer", wrong, words) | with_interval("wer_change", wrong - chance, words)
    if chosen[0][0][0].similarity is None:
        row |= dict.fromkeys(("similarity", "similarity_low", "similarity_high"))
    else:
        like = [np.mean([np.mean([t.similarity for t in block]) for block in blocks]) for blocks in chosen]
        row |= with_interval("similarity", like)
    return row | {"seconds": round(cost, 3), "sentences": len(chosen)}


def agreement(takes: Sequence[Take]) -> list[dict]:
    """How well each verifier orders the takes of a sentence as the judges do: Spearman's rank correlation with -WER
    and with similarity, its mean over sentences and 95 % bootstrap interval. Sentences without any order drop out."""
    from scipy.stats import spearmanr

    plain = [take for take in takes if take.method == "sample"]
    rows = []
    for name in plain[0].candidate.scores:
        for judge in ("-wer", "similarity"):
            found = []
            for k in sorted({take.sentence for take in plain}):
                mine = [take for take in plain if take.sentence == k]
                theirs = [-t.edits / t.words if judge == "-wer" else t.similarity for t in mine]
                ours = [t.candidate.scores[name] for t in mine]
                if None not in theirs and len(set(theirs)) > 1 and len(set(ours)) > 1:
                    found.append(spearmanr(ours, theirs).statistic)
            if found:
                mean, low, high = with_interval("spearman", found).values()
                row = {"verifier": name, "judge": judge, "spearman": mean, "low": low, "high": high}
                rows.append(row | {"sentences": len(found), "takes": len(plain)})
    return rows


def write(folder: str | Path, takes: Sequence[Take], summary, agreed, command: str) -> list[Path]:
    """`search.csv`, `search_agreement.csv` and `search_takes.csv`, whose last columns are what each verifier gave; each
    row of the first two tells its command."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"machine": f"{platform.machine()}, {platform.system()}", "command": command}
    raw = [
        {"sentence": t.sentence, "method": t.method, "n": t.n, "branch": t.branch, "candidate": t.candidate.index}
        | {"stopped": t.candidate.stopped, "codes": len(t.candidate.codes), "edits": t.edits, "words": t.words}
        | {"similarity": None if t.similarity is None else round(t.similarity, 4)}
        | {name: round(score, 4) for name, score in t.candidate.scores.items()}
        for t in takes
    ]
    tables = {
        "search": [r | about for r in summary],
        "search_agreement": [r | about for r in agreed],
        "search_takes": raw,
    }
    paths = []
    for name, rows in tables.items():
        if not rows:  # no sentence yet whose takes can be put in order
            (folder / f"{name}.csv").unlink(missing_ok=True)  # that of another run
            continue
        paths.append(folder / f"{name}.csv")
        write_table(paths[-1], list(dict.fromkeys(chain.from_iterable(rows))), rows)
    return paths


def read(path: str | Path) -> list[dict]:
    """Rows of a `search.csv` with their numbers, as `summarise` gave them."""
    texts = ("method", "chooser", "machine", "command")
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {k: v if k in texts else None if v == "" else float(v) if "." in v else int(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]
