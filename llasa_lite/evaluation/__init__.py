"""The paper's tables as commands: who listens (`listening`), what is done (`tasks`, `codecs`), what comes out
(`tables`, `sheet`).

    python -m llasa_lite evaluate tts --sentences FILE --voices joe emma --out runs/tts
    python -m llasa_lite evaluate seed-tts-eval --list seedtts_testset/en/meta.lst --speaker-model ID --out runs/seed
    python -m llasa_lite evaluate continuation --data LibriSpeech/test-clean --seconds 4 10 --out runs/continued
    python -m llasa_lite evaluate asr --data LibriSpeech/test-clean --out runs/asr
    python -m llasa_lite evaluate codec --data LibriSpeech/test-clean --codecs mimi-8 x-codec-1 --out runs/codec
    python -m llasa_lite evaluate emotion --list esd.lst --emotion-model ID --out runs/emotion
    python -m llasa_lite evaluate understanding --out runs/understanding

Every item is a line of `rows.jsonl` in the folder, so that a stopped run goes on; `table.md`, `table.csv` and
`table.json` are written from those lines when it ends.
"""

from .listening import Ears, Judge
from .tables import Measure, summarise, write_tables
from .tasks import run_task

__all__ = ["Ears", "Judge", "Measure", "run_task", "summarise", "write_tables"]
