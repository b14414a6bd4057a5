"""What the report draws: accuracies as dots with intervals, matrices as heat maps, training metrics as small multiples.

Charts are plotly's, as fragments of HTML that need plotly.js on the page; a heat map is a plain table with shaded cells, so
that it can be copied, printed and read aloud. Texts and grids take their colours from the page, light or dark; what is
drawn with data has colours that stand out on both and that colour-blind readers can tell apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

from osler.errors import RunError
from osler.matrix import Matrix
from osler.runs import Run
from osler.schema import Outcome
from osler.stats import Estimate
from osler.summary import Cell

SCALE = "Cividis"
COLOURS = ("#3d8bd0", "#d9722e", "#2a9d78", "#c167a0", "#a58400", "#7a86a8")
"""One a run, over and over; at least 3 to 1 against the page, be it light or dark."""

METRICS: dict[str, tuple[str, str]] = {
    "reward": ("Reward", "mean total reward of a step's completions"),
    "rewards/*": ("Reward: {}", "mean of this part of the reward, before its weight"),
    "reward_std": ("Spread of the reward", "standard deviation over a step's completions"),
    "frac_reward_zero_std": ("Groups without spread", "share of groups in which all completions scored the same"),
    "kl": ("KL to the start", "how far the policy has moved from where it began"),
    "entropy": ("Entropy", "how undecided the policy is, in nats a token"),
    "completions/mean_length": ("Length", "mean tokens of a completion"),
    "completions/clipped_ratio": ("Cut off", "share of completions that reached the token limit"),
    "loss": ("Loss", "training loss"),
    "eval_loss": ("Validation loss", "loss on held-out rows"),
    "learning_rate": ("Learning rate", "step size of the optimizer"),
}
"""Title and meaning of the metrics that are drawn, in order; `rewards/*` stands for each part of the reward."""


@dataclass(frozen=True)
class Chart:
    """A figure on the page: `html` to insert as it is, and `told`, what a reader who cannot see it is told."""

    title: str
    about: str
    html: str
    told: str


@dataclass(frozen=True)
class Shaded:
    """A cell of a heat map: its numbers, its colours (CSS), whether it lies on the diagonal, and what a hover adds."""

    cell: Cell
    background: str
    ink: str
    diagonal: bool
    more: str


# --- accuracies


def accuracy_chart(accuracies: Mapping[str, Estimate], floors: Mapping[str, Estimate]) -> Chart | None:
    """A line a model: accuracy with its interval, and the floor as a tick; None where nothing has rows."""
    names = [name for name, accuracy in accuracies.items() if accuracy.n]
    floored = [name for name in names if name in floors and floors[name].n]
    if not names:
        return None
    dots = _dots({name: accuracies[name] for name in names}, "accuracy, strict", {"size": 12, "color": COLOURS[0]})
    tick = {"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": COLOURS[1]}}
    ticks = _dots({name: floors[name] for name in floored}, "floor: the best of four blind attackers", tick)
    figure = go.Figure([dots, ticks] if floored else [dots])
    figure.update_xaxes(range=[-1, 101], ticksuffix=" %", automargin=True)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    figure.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}, showlegend=True)
    told = "; ".join(f"{name}: {accuracies[name]}" for name in names)
    return Chart("", "", _html(figure, "accuracy-chart", 90 + 46 * len(names)), told)


def _dots(estimates: Mapping[str, Estimate], name: str, marker: dict[str, Any]) -> go.Scatter:
    value, low, high = (
        [100 * getattr(estimate, end) for estimate in estimates.values()] for end in ("value", "ci_low", "ci_high")
    )
    colour = marker.get("color") or marker["line"]["color"]
    return go.Scatter(
        x=value,
        y=["<br>".join(escape(line, quote=False) for line in wrap(label, 24)) for label in estimates],
        customdata=[str(estimate) for estimate in estimates.values()],
        error_x={"array": np.subtract(high, value), "arrayminus": np.subtract(value, low), "color": colour, "width": 5},
        mode="markers",
        marker=marker,
        name=name,
        hovertemplate="%{y}<br>" + name + " %{customdata}<extra></extra>",
    )


# --- matrices


def heat_map(matrix: Matrix) -> list[tuple[str, str, list[Shaded]]]:
    """The lines of `matrix`: label, state of the run, and a shaded cell for each column and, last, for all rows together."""
    return [
        (
            line.label,
            line.state,
            [_shaded(cell, column == line.domain) for column, cell in line.cells.items()] + [_shaded(line.overall, False)],
        )
        for line in matrix.lines
    ]


def scale_stops() -> str:
    """The colours of the scale from 0 to 100 %, as CSS has them in a gradient."""
    return ", ".join(sample_colorscale(SCALE, [k / 8 for k in range(9)]))


def _shaded(cell: Cell, diagonal: bool) -> Shaded:
    (background,) = sample_colorscale(SCALE, [cell.accuracy.value or 0.0])
    return Shaded(cell, background, _ink(background), diagonal, _more(cell) if cell.n else "")


def _ink(background: str) -> str:
    """Black or white, whichever stands out more from `background`: at least 4.5 to 1 (WCAG 2's relative luminance)."""
    channels = [channel / 255 for channel in unlabel_rgb(background)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def _more(cell: Cell) -> str:
    floor = f"floor {cell.floor}" if cell.floor else "floor unknown"
    counts = f"{cell.unparseable} unparseable, {cell.unjudged} {Outcome.UNJUDGED}, {cell.truncated} truncated"
    return f"strict {cell.accuracy}\nlenient {cell.lenient}\n{floor}\n{counts}"


# --- training curves


def curves(runs: Mapping[str, Run], prefix: str) -> list[Chart]:
    """A chart for each metric that any of `runs` (by label) logged, the runs overlaid; ids in the page begin with `prefix`.

    Errors: RunError where a logged value is no number.
    """
    rows = {label: run.rows("metrics") for label, run in runs.items()}
    charts: list[Chart] = []
    for key, title, about in _logged(rows.values()):
        points = {label: _points(runs[label], rows[label], key) for label in runs}
        charts.append(_curve(title, about, points, f"{prefix}-{len(charts)}"))
    return charts


def _logged(tables: Iterable[list[dict[str, Any]]]) -> list[tuple[str, str, str]]:
    """Key, title and meaning of the metrics that occur in `tables`, each part of the reward by its name."""
    keys = {key for rows in tables for row in rows for key, value in row.items() if value is not None}
    parts = sorted(key for key in keys if key.startswith("rewards/") and key.count("/") == 1)
    found = []
    for metric, (title, about) in METRICS.items():
        for key in parts if metric == "rewards/*" else [metric]:
            if key in keys:
                found.append((key, title.format(key.removeprefix("rewards/")), about))
    return found


def _points(run: Run, rows: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of `key`, which TRL logs as numbers or as their text."""
    steps, values = [], []
    for row in rows:
        if row.get(key) is not None:
            try:
                steps.append(int(row["step"]))
                values.append(float(f"{float(row[key]):.6g}"))
            except (TypeError, ValueError, KeyError) as error:
                raise RunError(f"{run.path / 'metrics.jsonl'}: {key} is no number in {row!r} ({error}).") from error
    return steps, values


def _curve(title: str, about: str, points: Mapping[str, tuple[list[int], list[float]]], div_id: str) -> Chart:
    figure, told = go.Figure(), []
    for index, (label, (steps, values)) in enumerate(points.items()):
        if not values:
            continue
        colour, smooth = COLOURS[index % len(COLOURS)], smoothed(values)
        hover = f"{escape(label, quote=False)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
        raw = {"size": 4, "color": colour, "opacity": 0.3}
        figure.add_scatter(x=steps, y=values, mode="markers", marker=raw, hoverinfo="skip")
        lone = "lines" if len(values) > 1 else "markers"
        figure.add_scatter(x=steps, y=smooth, mode=lone, line={"width": 2.2, "color": colour}, hovertemplate=hover)
        told.append(f"{label} goes from {smooth[0]:.3g} at step {steps[0]} to {smooth[-1]:.3g} at step {steps[-1]}")
    figure.update_xaxes(title={"text": "step", "standoff": 6}, nticks=5)
    seen = {value for _, values in points.values() for value in values}
    level = "tozero" if len(seen) == 1 else "normal"  # else a constant 0.001 would stand in a range from -1 to 1
    figure.update_yaxes(nticks=5, automargin=True, exponentformat="power", rangemode=level)
    return Chart(title, about, _html(figure, div_id, 210), f"{title} over training. " + "; ".join(told) + ".")


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean of `values` over about a tenth of them around each; what is not finite is left out of it."""
    reach = len(values) // 20
    windows = [values[max(0, k - reach) : k + reach + 1] for k in range(len(values))]
    finite = [[value for value in window if math.isfinite(value)] for window in windows]
    return [float(f"{sum(window) / len(window):.6g}") if window else math.nan for window in finite]


def _html(figure: go.Figure, div_id: str, height_px: int) -> str:
    """`figure` as a div and its script, transparent, as wide as its place; the same bytes for the same figure."""
    figure.update_layout(
        template="none",
        height=height_px,
        margin={"l": 46, "r": 12, "t": 8, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#76818d"},
        hoverlabel={"bgcolor": "#1d2630", "bordercolor": "#1d2630", "font": {"color": "#f4f6f8"}},
    )
    if figure.layout.showlegend is None:
        figure.update_layout(showlegend=False)
    figure.update_xaxes(gridcolor="rgba(128,140,152,0.25)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,140,152,0.25)", zeroline=False)
    config = {"displayModeBar": False, "responsive": True, "scrollZoom": False}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=div_id, config=config, default_height="100%")
    return html
