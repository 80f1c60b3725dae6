"""The timeline as a picture: an SVG of three panels with one axis of time. Pure; needs no library and no font of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from xml.sax.saxutils import escape

import attrs

from sentinel.spike.timeline import Second

WIDTH, PANEL, GAP, LEFT, RIGHT, TOP = 860, 150, 56, 74, 24, 64
PLOT = WIDTH - LEFT - RIGHT


@attrs.frozen
class Line:
    """One line in a panel: its name, its color and what it shows."""

    name: str
    color: str
    value: Callable[[Second], float]


PANELS: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (
        "webhooks a second",
        (
            Line("planned", "#9aa0a6", lambda second: second.planned),
            Line("acknowledged", "#1a7f37", lambda second: second.acknowledged),
            Line("refused or unanswered", "#cf222e", lambda second: second.refused),
        ),
    ),
    (
        "jobs",
        (
            Line("not ended yet", "#8250df", lambda second: second.depth),
            Line("delivered a second", "#0969da", lambda second: second.delivered),
        ),
    ),
    (
        "acknowledgment, ms",
        (Line("p99", "#bc4c00", lambda second: second.p99_ms), Line("p50", "#1a7f37", lambda second: second.p50_ms)),
    ),
)


def plot(seconds: Sequence[Second], title: str) -> str:
    """The whole picture as the text of an SVG file."""
    height = TOP + len(PANELS) * (PANEL + GAP)
    body = "\n".join(part for place, panel in enumerate(PANELS) for part in _panel(seconds, *panel, TOP + place * (PANEL + GAP)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>\n{body}\n</svg>\n'
    )


def _panel(seconds: Sequence[Second], name: str, lines: Sequence[Line], top: int) -> Iterator[str]:
    greatest = _ceiling(max((line.value(second) for second in seconds for line in lines), default=0.0))
    yield f'<text x="{LEFT}" y="{top - 8}" fill="#57606a">{escape(name)}</text>'
    for step in range(5):
        y = top + PANEL - PANEL * step / 4
        yield f'<line x1="{LEFT}" y1="{y:.0f}" x2="{LEFT + PLOT}" y2="{y:.0f}" stroke="#d8dee4"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end" fill="#57606a">{greatest * step / 4:,.0f}</text>'
    yield from _ticks(len(seconds), top)
    for place, line in enumerate(lines):
        points = " ".join(
            f"{LEFT + PLOT * _share(number, len(seconds)):.1f},{top + PANEL - PANEL * line.value(second) / greatest:.1f}"
            for number, second in enumerate(seconds)
        )
        yield f'<polyline fill="none" stroke="{line.color}" stroke-width="1.8" points="{points}"/>'
        x = LEFT + PLOT - 170 * (len(lines) - place)
        yield f'<line x1="{x}" y1="{top - 12}" x2="{x + 18}" y2="{top - 12}" stroke="{line.color}" stroke-width="3"/>'
        yield f'<text x="{x + 24}" y="{top - 8}">{escape(line.name)}</text>'


def _ticks(count: int, top: int) -> Iterator[str]:
    """The axis of time: at most twelve numbers."""
    step = max(1, -(-count // 12))
    for number in range(0, count, step):
        x = LEFT + PLOT * _share(number, count)
        yield f'<text x="{x:.1f}" y="{top + PANEL + 16}" text-anchor="middle" fill="#57606a">{number} s</text>'


def _share(number: int, count: int) -> float:
    return number / max(1, count - 1)


def _ceiling(value: float) -> float:
    """The next round number, so that the four lines of the grid have readable names."""
    power = 1.0
    while value > power * 10:
        power *= 10
    return next((power * step for step in (1, 2, 4, 6, 8, 10) if value <= power * step), power * 10)
