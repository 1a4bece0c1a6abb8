"""Small charts as inline SVG; colours are CSS classes (s0, s1, ...; before; after) that the page sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

Point = tuple[float, float]

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38
SERIES = 8  # colours in the theme; further series reuse them


def line_chart(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """One line per series, marked where it has few points; axes span the data."""
    points = [point for values in series.values() for point in values]
    if not points:
        return ""
    xs, ys = _ticks([x for x, _ in points]), _ticks([y for _, y in points])

    def place(point: Point) -> Point:
        return (
            _scale(point[0], xs, _LEFT, _WIDTH - _RIGHT),
            _scale(point[1], ys, _HEIGHT - _BOTTOM, _TOP),
        )

    parts = []
    for y in ys:
        height = place((xs[0], y))[1]
        parts.append(_line("rule", _LEFT, height, _WIDTH - _RIGHT, height))
        parts.append(_text(_LEFT - 6, height + 4, _number(y), "end"))
    for x in xs:
        parts.append(_text(place((x, ys[0]))[0], _HEIGHT - _BOTTOM + 16, _number(x), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle"))
    for i, (name, values) in enumerate(series.items()):
        placed = [place(point) for point in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        title = f"<title>{escape(name)}</title>"
        parts.append(f'<polyline class="line s{i % SERIES}" points="{path}">{title}</polyline>')
        if len(placed) <= 12:
            parts += [
                f'<circle class="dot s{i % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>'
                for x, y in placed
            ]
    return _svg(parts, _HEIGHT, f"{y_label} by {x_label}")


def pair_chart(rows: Sequence[tuple[str, float, float]], label: str, before: str, after: str) -> str:
    """Rows (name, score of `before`, score of `after`): a hollow dot, a full one, and a bar between them."""
    if not rows:
        return ""
    left, step = 118, 30
    height = _TOP + step * len(rows) + 22
    xs = _ticks([value for _, *values in rows for value in values])
    parts = []
    for x in xs:
        place = _scale(x, xs, left, _WIDTH - _RIGHT - 8)
        parts.append(_line("rule", place, _TOP, place, height - 22))
        parts.append(_text(place, height - 6, _number(x), "middle"))
    for i, (name, *scores) in enumerate(rows):
        y = _TOP + step * (i + 0.5)
        a, b = (_scale(value, xs, left, _WIDTH - _RIGHT - 8) for value in scores)
        said = f"{name}: {before} {scores[0]:.4f}, {after} {scores[1]:.4f}"
        title = f"<title>{escape(said)}</title>"
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line("between", a, y, b, y))
        parts.append(f'<circle class="dot before" cx="{a:.1f}" cy="{y:.1f}" r="5">{title}</circle>')
        parts.append(f'<circle class="dot after" cx="{b:.1f}" cy="{y:.1f}" r="5">{title}</circle>')
    return _svg(parts, height, label)


def thin(points: Sequence[Point], at_most: int = 60) -> list[Point]:
    """Means of equal runs of points, so that a noisy curve of any length can be read."""
    size = max(1, ceil(len(points) / at_most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _ticks(values: Sequence[float], about: int = 4) -> list[float]:
    """Round numbers, evenly apart, from at or below the smallest value to at or above the largest."""
    low, high = min(values), max(values)
    scale = max(abs(low), abs(high), 1e-3)
    if high - low < 1e-6 * scale:  # nothing to tell apart: any axis around it will do
        low, high = low - 0.5 * scale, high + 0.5 * scale
    rough = (high - low) / about
    unit = 10 ** floor(log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _scale(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
