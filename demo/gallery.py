"""The voices as cards: hear each before choosing one. Its value is the name of the voice chosen."""

from __future__ import annotations

import base64
import io

import gradio as gr

from llasa_lite import audio, builtin_voices

from .common import ANY_VOICE, OWN_CLIP, SAMPLE_RATE
from .words import component

TEMPLATE = """<fieldset><legend>${label}</legend><div class="cards">{{#each cards}}<div class="card">
{{#if sounds}}<button type="button" data-name="{{name}}" aria-label="Hear {{title}}">▶</button>{{/if}}
<label><input type="radio" name="{{../group}}" value="{{name}}"><span class="title">{{title}}</span>
<small title="{{full}}">{{note}}</small></label>
</div>{{/each}}</div></fieldset>"""


def layout(value: str, label: str, elem_id: str) -> gr.HTML:
    """Cards of the built-in voices, of none, and of the visitor's own clip."""
    cards = [
        {"name": name, "title": name, "note": _short(voice.description), "full": voice.description}
        | {"sounds": voice.wav is not None}
        for name, voice in builtin_voices().items()
    ]
    cards.append({"name": ANY_VOICE, "title": "No voice", "note": "model's choice", "full": "The model chooses one"})
    cards.append({"name": OWN_CLIP, "title": "My clip", "note": "upload, record", "full": "Upload or record a clip"})
    return component(
        __file__,
        TEMPLATE,
        value=value,
        label=label,
        server_functions=[hear],
        cards=cards,
        group=elem_id,
        elem_id=elem_id,
        elem_classes="flat",
    )


def _short(description: str) -> str:
    """ "American man (Piper), synthetic" -> "US man": what fits on a card; the whole is its title."""
    return description.split(",")[0].split(" (")[0].replace("American", "US").replace("British", "UK")


def hear(name) -> str:
    """The clip of a built-in voice as a data address; called by the page's script, so `name` may be anything."""
    import soundfile

    voice = builtin_voices().get(name) if isinstance(name, str) else None
    if voice is None or voice.wav is None:
        return ""
    file = io.BytesIO()
    soundfile.write(file, audio.to_int16(voice.wav), SAMPLE_RATE, format="WAV")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
