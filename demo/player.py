"""Plays waves in the browser while they are made; knows nothing of speech or models.

Gradio's own streaming player needs ffmpeg on the server and a codec in the browser; this one needs neither. Its value
is `{"run": name, "chunks": [16-bit samples in base64, ...]}`, where chunks only grow, so that Gradio sends the new one
alone and a chunk that the page did not draw in time is still played.
"""

from __future__ import annotations

import base64
import secrets

import gradio as gr
import numpy as np

from .common import SAMPLE_RATE, to_int16

TEMPLATE = '<div class="live" hidden><span class="dot"></span><span class="words"></span></div>'
CSS = """
.live {display: flex; align-items: center; gap: 0.6rem; padding: 0.6rem 0.8rem; border-radius: var(--radius-lg);
       background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary)}
.live[hidden] {display: none}
.dot {width: 0.6rem; height: 0.6rem; border-radius: 50%; background: var(--body-text-color-subdued)}
.playing .dot {background: var(--color-accent); animation: pulse 1s infinite alternate}
@keyframes pulse {to {opacity: 0.3}}
"""
SCRIPT = """
let context = null, run = null, taken = 0, end = 0, ready = 0, playing = [], timer = null, stopped = false;

function paint() {
    const live = element.querySelector('.live');
    if (!live || run === null) return;
    const left = Math.max(0, end - context.currentTime), sounds = left > 0 && context.state === 'running' && !stopped;
    live.hidden = false;
    live.classList.toggle('playing', sounds);
    live.querySelector('.words').textContent = stopped ? 'Stopped.' : !ready ? 'Waiting for the first sound …'
        : sounds ? `Playing, ${ready.toFixed(1)} s ready` : `Played ${ready.toFixed(1)} s`;
    if (stopped || (ready && !left)) timer = clearInterval(timer);
    Object.assign(element.dataset, {chunks: taken, seconds: ready.toFixed(2), playing: sounds});
}
function silence() {
    playing.forEach(source => source.stop());
    playing = [];
    end = 0;
}
function play(base64) {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const samples = Float32Array.from(new Int16Array(bytes.buffer), s => s / 32768);
    if (!samples.length) return;
    const buffer = context.createBuffer(1, samples.length, props.rate), source = context.createBufferSource();
    buffer.copyToChannel(samples, 0);
    source.buffer = buffer;
    source.connect(context.destination);
    end = Math.max(end, context.currentTime + 0.1);
    source.start(end);
    end += buffer.duration;
    ready += buffer.duration;
    playing.push(source);
}
document.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (!button) return;
    if (button.id === props.starter) {  // browsers let sound begin in a click only
        context = context || new AudioContext({sampleRate: props.rate});
        context.resume();
        silence();
    } else if (props.stoppers.includes(button.id) && run !== null) {
        stopped = true;
        silence();
        paint();
    }
});
watch('value', () => {
    const value = props.value;
    if (!value || !value.run) return;
    context = context || new AudioContext({sampleRate: props.rate});
    if (value.run !== run) {
        silence();
        [run, taken, ready, stopped] = [value.run, 0, 0, false];
    }
    for (; taken < value.chunks.length; taken++) if (!stopped) play(value.chunks[taken]);
    timer = timer || setInterval(paint, 200);
    paint();
});
"""


def stream_player(starter: str, stoppers: list[str], **more) -> gr.HTML:
    """
    Args:
        starter: element id of the button that starts a stream.
        stoppers: element ids of the buttons that silence it.
    """
    return gr.HTML(
        label="Stream",
        html_template=TEMPLATE,
        css_template=CSS,
        js_on_load=SCRIPT,
        rate=SAMPLE_RATE,
        starter=starter,
        stoppers=stoppers,
        **more,
    )


def opened() -> dict:
    """The value of a stream that has yet to sound."""
    return {"run": secrets.token_hex(8), "chunks": []}


def grown(live: dict, wav: np.ndarray) -> dict:
    """The value with one wave more; a copy, since Gradio compares it with the one before."""
    return live | {"chunks": [*live["chunks"], base64.b64encode(to_int16(wav).tobytes()).decode()]}
