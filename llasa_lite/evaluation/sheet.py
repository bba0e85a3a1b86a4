"""Text understanding as people hear it (paper, Tables 6 and 7): sentences, a listening sheet, and scores to a table.

The sheet is one HTML page beside its clips: it plays, takes 1 to 3 and writes a CSV, all in the browser. The order of
the clips is drawn, and their names say nothing of the system that made them.
"""

from __future__ import annotations

import csv
import html
import json
import random
from dataclasses import dataclass
from pathlib import Path

from .tables import PAPER

# The paper names seven Chinese categories without their sentences; these are ours.
CHINESE = (
    "“太好了！我们终于可以一起去看海了！”她激动得跳了起来。",
    "“嘘，小声点。唉，孩子好不容易才睡着。”他轻轻地说。",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "银行的行长说，这个方法行不行，还得重新衡量它的重量。",
    "难道你真的不知道，他昨天为什么没有来吗？",
    "四是四，十是十，十四是十四，四十是四十。",
    "饕餮盛宴之上，一位耄耋老人踽踽独行。",
)


@dataclass(frozen=True)
class Case:
    """One sentence of the test, and what its scores 1, 2 and 3 mean."""

    language: str
    category: str
    sentence: str
    scores: tuple[str, str, str]


def cases(language: str) -> list[Case]:
    """The seven cases of a language, "en" or "zh", in the paper's order."""
    rubric = json.loads((PAPER / "text_understanding_rubric.json").read_text(encoding="utf-8"))
    if language not in ("en", "zh"):
        raise ValueError(f"There are sentences in en and zh, not in '{language}'.")
    made = []
    for index, row in enumerate(rubric[language]):
        sentence = row.get("sentence") or CHINESE[index]
        made.append(Case(language, row["category"], sentence, tuple(row[f"score_{k}"] for k in (1, 2, 3))))
    return made


def write_sheet(clips: list[tuple[str, Case, str]], folder: str | Path, seed: int = 0) -> Path:
    """Write `sheet.html` for clips (system, case, wave file relative to the folder), in an order drawn by the seed."""
    order = random.Random(seed).sample(range(len(clips)), len(clips))
    cards = []
    for place, index in enumerate(order, 1):
        system, case, file = clips[index]
        choices = "".join(
            f'<label><input type="radio" name="c{index}" value="{k}"> {k}: {html.escape(meaning)}</label>'
            for k, meaning in enumerate(case.scores, 1)
        )
        facts = {"data-system": system, "data-category": case.category, "data-language": case.language}
        told = " ".join(f'{name}="{html.escape(value)}"' for name, value in facts.items())
        cards.append(
            f'<fieldset {told} data-clip="c{index}"><legend>{place} of {len(order)}: {html.escape(case.category)}'
            f'</legend><p lang="{case.language}">{html.escape(case.sentence)}</p>'
            f'<audio controls preload="none" src="{html.escape(file)}"></audio>{choices}</fieldset>'
        )
    path = Path(folder) / "sheet.html"
    path.write_text(_PAGE.replace("CARDS", "\n".join(cards)), encoding="utf-8")
    return path


def read_scores(paths: list[str | Path]) -> list[dict]:
    """Rows of the CSVs that listeners sent back. Raises ValueError on one that is none, a score outside 1 to 3, or no
    scores at all."""
    rows = []
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    score = int(row["score"])
                    if not 1 <= score <= 3:
                        raise ValueError(f"score {score}")
                    name = f"{row['system']}: {row['language']} {row['category']}"
                    rows.append({"system": name, "score": score, "listener": row["listener"]})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{path}' is no CSV of a listening sheet: {error!r}.") from error
    if not rows:
        raise ValueError(f"There are no scores in {', '.join(map(str, paths))}.")
    return rows


_PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Listening sheet</title>
<style>
body {font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328}
fieldset {border: 1px solid #d0d7de; border-radius: 8px; margin: 1.5rem 0; padding: 1rem}
legend {font-weight: 600} label {display: block; margin: .3rem 0} audio {width: 100%}
button {font: inherit; padding: .5rem 1rem}
</style>
<h1>Listening sheet</h1>
<p>Play each clip, as often as you like, and choose what fits best: 1 is worst, 3 is best. Nothing leaves this page
until you save your scores as a file and send it.</p>
<label>Your name or initials <input id="listener"></label>
CARDS
<p><span id="left"></span> <button id="save" disabled>Save scores</button></p>
<script>
const cards = [...document.querySelectorAll("fieldset")];
const score = card => card.querySelector("input:checked")?.value;
const listener = document.getElementById("listener"), save = document.getElementById("save");
function count() {
  const left = cards.filter(card => !score(card)).length;
  document.getElementById("left").textContent = left ? `${left} clips left` : "";
  save.disabled = left > 0 || !listener.value.trim();
}
document.addEventListener("input", count);
count();
const quote = text => '"' + String(text).replaceAll('"', '""') + '"';
save.onclick = () => {
  const head = ["listener", "system", "language", "category", "score"];
  const rows = cards.map(card =>
    [listener.value.trim(), card.dataset.system, card.dataset.language, card.dataset.category, score(card)]);
  const text = [head, ...rows].map(row => row.map(quote).join(",")).join("\\r\\n") + "\\r\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\\ufeff" + text], {type: "text/csv"}));
  link.download = "scores.csv";
  link.click();
};
</script>
"""
