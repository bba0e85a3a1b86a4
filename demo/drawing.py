"""Waves, spectrograms, tokens and curves as small pictures for the page; knows numbers and colours, no components."""

from __future__ import annotations

import base64
import html
import io

import numpy as np

from llasa_lite import Codec, audio

from .words import said

ACCENT = (99, 102, 241)  # the theme's indigo; pictures are this colour on nothing, so they fit dark and light


def peaks(wav: np.ndarray, bars: int) -> list[int]:
    """(samples,) -> the loudest sample of each of `bars` even parts, 0 .. 100."""
    parts = np.array_split(np.abs(wav), bars)
    return [int(round(100 * float(min(1.0, part.max(initial=0.0))))) for part in parts]


def spectrogram(wav: np.ndarray) -> str:
    """A log-mel spectrogram, low frequencies at the bottom, as a PNG in a data address."""
    level = 1 + np.maximum(audio.log_mel(wav), -70.0) / 70.0  # (bands, frames) 0 .. 1
    return _png((255 * level[::-1] ** 1.5).astype(np.uint8))


def digits(codec: Codec, codes) -> str:
    """Each code as a column of its digits, the darker the higher, as a PNG of one pixel a digit."""
    rows = codec.digits(codes).T  # (dimensions, n)
    return _png((40 + 200 * rows / max(1, rows.max())).astype(np.uint8))


def _png(strength: np.ndarray) -> str:
    """(rows, columns) uint8 -> data address of a PNG in the accent colour, `strength` being how much it covers."""
    from PIL import Image

    image = Image.fromarray(strength, "P")
    image.putpalette(ACCENT * 256)
    written = io.BytesIO()
    image.save(written, "PNG", transparency=bytes(range(256)))
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


class Chart:
    """Axes of an SVG that grows with its box; the page's style gives it its colours."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 200, 46, 10, 10, 34

    def __init__(self, points: list[tuple[float, float]], x: str, y: str):
        xs, ys = zip(*points)
        self.x, self.y, self.x_most = x, y, max(xs) or 1.0
        low, high = min(ys), max(ys)
        margin = 0.05 * (high - low) or 0.05
        self.low, self.high = low - margin, high + margin

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        across, up = point[0] / self.x_most, (point[1] - self.low) / (self.high - self.low)
        return (
            round(self.LEFT + across * (self.WIDTH - self.LEFT - self.RIGHT), 1),
            round(self.TOP + (1 - up) * (self.HEIGHT - self.TOP - self.BOTTOM), 1),
        )

    def dot(self, point: tuple[float, float], kind: str = "") -> str:
        across, down = self.at(point)
        return f'<circle cx="{across}" cy="{down}" r="3" class="{kind}"/>'

    def line(self, points: list[tuple[float, float]], kind: str = "") -> str:
        path = " ".join(f"{across},{down}" for across, down in map(self.at, points))
        return f'<polyline points="{path}" class="{kind}"/>'

    def svg(self, drawn: str, told: str) -> str:
        left, floor, end, middle = self.LEFT, self.HEIGHT - self.BOTTOM, self.WIDTH - self.RIGHT, self.HEIGHT / 2 - 12
        texts = [
            (left - 6, self.TOP + 8, "end", f"{self.high:.2f}"),
            (left - 6, floor, "end", f"{self.low:.2f}"),
            (left, floor + 16, "start", "0"),
            (end, floor + 16, "end", f"{self.x_most:.3g}"),
            ((left + end) / 2, self.HEIGHT - 4, "middle", html.escape(self.x)),
        ]
        shown = "".join(f'<text x="{x}" y="{y}" text-anchor="{how}">{text}</text>' for x, y, how, text in texts)
        turned = f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        return (
            f'<svg class="chart" viewBox="0 0 {self.WIDTH} {self.HEIGHT}" role="img" aria-label="{html.escape(told)}">'
            f'<path d="M{left} {self.TOP}V{floor}H{end}"/>{drawn}{shown}{turned}{html.escape(self.y)}</text></svg>'
        )


def curve(points: list[tuple[float, float]], x: str, y: str) -> str:
    """A dot for each (x, y), in the order in which they came, and the best so far as a line of steps."""
    chart, steps, best = Chart(points, x, y), [], None
    for across, height in points:
        if best is None:
            best = height
        steps.append((across, best))
        best = max(best, height)
        steps.append((across, best))
    steps.append((chart.x_most, best))
    drawn = chart.line(steps, "best") + "".join(map(chart.dot, points))
    return chart.svg(drawn, said("{0} against {1}: {2} points, the best {3:.2f}", y, x, len(points), best))


def tree(steps: list[tuple[list, list]]) -> str:
    """Beams as they grew: length against score, every beam joined to the one it goes on from.

    Args:
        steps: for each pruning (kept, dropped); a beam has `codes` and `score`.
    """
    beams = [beam for kept, dropped in steps for beam in (*kept, *dropped)]
    chart = Chart([_place(beam) for beam in beams], said("seconds of speech"), said("score"))
    faint, strong, before = [], [], []
    for kept, dropped in steps:
        for beam, drawn, kind in [*((b, faint, "dropped") for b in dropped), *((b, strong, "kept") for b in kept)]:
            parent = next((p for p in before if np.array_equal(p.codes, beam.codes[: len(p.codes)])), None)
            if parent is not None and len(parent.codes) < len(beam.codes):
                drawn.append(chart.line([_place(parent), _place(beam)], kind))
            drawn.append(chart.dot(_place(beam), kind))
        before = kept
    told = said("{0} beams in {1} steps, {2} of them left", len(beams), len(steps), len(steps[-1][0]))
    return chart.svg("".join(faint + strong), told)


def _place(beam) -> tuple[float, float]:
    return len(beam.codes) / audio.FRAME_RATE, beam.score
