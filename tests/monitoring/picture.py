"""What the dashboard's expressions said while something happened, as SVG; nothing but the standard library."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from perenne.local.prometheus import CLUSTER, Prometheus
from tests.monitoring.dashboard import panels, substituted

SHOWN: Final = (
    "Leaders",
    "Copies against nodes",
    "Nodes that take stores",
    "Stores by node",
    "Time to answer a store",
    "Oldest uncommitted",
    "Lag in records",
    "Does it answer?",
    "Behind",
    "Damage now",
    "Damage found and repaired",
    "Memory",
)
"""Titles of panels of the dashboard."""
WIDTH: Final = 460
HEIGHT: Final = 118
LEFT: Final = 52
TOP: Final = 22
GAP: Final = 34
COLUMNS: Final = 2
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f", "#bcbd22")
POINTS: Final = 150
"""Of each line, at most; and not closer than a scrape."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values by Unix time."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done, at a Unix time."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    unit: str
    lines: tuple[Line, ...]


def step(start: float, end: float) -> float:
    return max(0.25, (end - start) / POINTS)


def ranged(prometheus: Prometheus, expression: str, start: float, end: float) -> list[tuple[dict[str, str], Any]]:
    """Labels and values of every series."""
    asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step(start, end):.3f}"}
    return [(series["metric"], series["values"]) for series in prometheus.ask("query_range", **asked)["result"]]


def charts(prometheus: Prometheus, start: float, end: float) -> list[Chart]:
    """The panels that are shown, with what their expressions said. Raises LookupError for a title that is none."""
    known = {panel.title: panel for panel in panels()}
    found: list[Chart] = []
    for title in SHOWN:
        panel, lines = known[title], list[Line]()
        for target in panel.facts["targets"]:
            for labels, values in ranged(prometheus, substituted(target["expr"], CLUSTER), start, end):
                name = str(target["legendFormat"]).replace("__auto", "")
                for label, value in labels.items():
                    name = name.replace("{{" + label + "}}", value)
                points = tuple((float(at), float(value)) for at, value in values if value != "NaN")
                lines.append(Line(name, points))
        if not any(line.points for line in lines):
            raise LookupError(f"the panel {title} has no data")
        unit = str(panel.facts["fieldConfig"]["defaults"]["unit"])
        found.append(Chart(title, {"none": "", "short": "", "ops": "per s"}.get(unit, unit), tuple(lines)))
    return found


def alerts(prometheus: Prometheus, start: float, end: float) -> list[Line]:
    """Each alert that fired, and when."""
    found: dict[str, list[float]] = {}
    for labels, values in ranged(prometheus, 'ALERTS{alertstate="firing"}', start, end):
        name = f"{labels['alertname']} {labels.get('node', '')}".strip()
        found.setdefault(name, []).extend(float(at) for at, _ in values)
    return [Line(name, tuple((at, 1.0) for at in sorted(times))) for name, times in sorted(found.items())]


def drawn(shown: Sequence[Chart], fired: Sequence[Line], marks: Sequence[Mark], start: float, end: float) -> str:
    """The SVG."""
    rows = -(-len(shown) // COLUMNS)
    block = HEIGHT + TOP + GAP
    marked = 18 * (len(marks) + 1)
    width = COLUMNS * (WIDTH + LEFT + 16)
    height = rows * block + 40 + 18 * len(fired) + 50 + marked
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, chart in enumerate(shown):
        x, y = (number % COLUMNS) * (WIDTH + LEFT + 16) + LEFT, (number // COLUMNS) * block + TOP
        parts += _chart(chart, marks, x, y, start, end)
    y = rows * block + 24
    parts.append(f'<text x="{LEFT}" y="{y}" font-weight="bold">Alerts that fired</text>')
    parts += _bars(fired, marks, y + 8, width - LEFT - 230, start, end)
    y += 8 + 18 * len(fired) + 30
    for number, mark in enumerate(marks, 1):
        text = escape(f"{number}: {mark.at - start:.1f} s, {mark.text}")
        parts.append(f'<text x="{LEFT}" y="{y + 18 * (number - 1)}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: Chart, marks: Sequence[Mark], x: int, y: int, start: float, end: float) -> Iterable[str]:
    most = max((value for line in chart.lines for _, value in line.points), default=0.0) or 1.0
    unit = f" ({chart.unit})" if chart.unit else ""
    yield f'<text x="{x}" y="{y - 8}" font-weight="bold">{escape(chart.title + unit)}</text>'
    yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbbbbb"/>'
    yield f'<text x="{x - 4}" y="{y + 9}" text-anchor="end">{_short(most)}</text>'
    yield f'<text x="{x - 4}" y="{y + HEIGHT}" text-anchor="end">0</text>'
    yield from _marks(marks, x, y, WIDTH, HEIGHT, start, end)
    for number, line in enumerate(chart.lines):
        colour = COLOURS[number % len(COLOURS)]
        # A gap in the data is a gap in the line: a node that is away says nothing.
        run = list[str]()
        before = None
        for at, value in line.points:
            if before is not None and at - before > 1.5 * step(start, end):
                yield _path(run, colour)
                run = []
            before = at
            run.append(f"{x + (at - start) / (end - start) * WIDTH:.1f},{y + HEIGHT - value / most * (HEIGHT - 4):.1f}")
        yield _path(run, colour)
    yield from _legend(chart, x, y + HEIGHT + 13)


def _legend(chart: Chart, x: int, y: int) -> Iterable[str]:
    """As many names as there is room for, of those first that were ever more than 0."""
    told = sorted(enumerate(chart.lines), key=lambda one: max((v for _, v in one[1].points), default=0.0) <= 0)
    at = float(x)
    for number, line in told:
        wide = 5.0 * len(line.name) + 12
        if line.name and at + wide <= x + WIDTH:
            fill = COLOURS[number % len(COLOURS)]
            yield f'<text x="{at:.0f}" y="{y}" fill="{fill}" font-size="9">{escape(line.name)}</text>'
            at += wide


def _path(points: Sequence[str], colour: str) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.3"/>'


def _marks(
    marks: Sequence[Mark], x: float, y: float, width: float, height: float, start: float, end: float
) -> Iterable[str]:
    for number, mark in enumerate(marks, 1):
        at = x + (mark.at - start) / (end - start) * width
        yield f'<line x1="{at:.1f}" y1="{y}" x2="{at:.1f}" y2="{y + height}" stroke="#aaaaaa" stroke-dasharray="3,3"/>'
        yield f'<text x="{at + 2:.1f}" y="{y + 9}" fill="#666666" font-size="9">{number}</text>'


def _bars(fired: Sequence[Line], marks: Sequence[Mark], y: int, width: int, start: float, end: float) -> Iterable[str]:
    x = LEFT + 200
    yield from _marks(marks, x, y, width, 18 * len(fired) + 4, start, end)
    for number, line in enumerate(fired):
        top = y + 18 * number
        yield f'<text x="{LEFT}" y="{top + 12}">{escape(line.name)}</text>'
        for first, last in _spans([at for at, _ in line.points], 1.5 * step(start, end)):
            left, right = (x + (at - start) / (end - start) * width for at in (first, last))
            yield f'<rect x="{left:.1f}" y="{top + 3}" width="{right - left + 1:.1f}" height="11" fill="#d62728"/>'


def _spans(times: Sequence[float], gap: float) -> Iterable[tuple[float, float]]:
    """From when to when, where nothing is missing between."""
    first = last = times[0]
    for at in times[1:]:
        if at - last > gap:
            yield first, last
            first = at
        last = at
    yield first, last


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
