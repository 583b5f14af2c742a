"""Curves of several seeds with intervals, drawn for print; the one place that knows matplotlib."""

from collections.abc import Sequence
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from muzero_jax.errors import BadInputError
from muzero_jax.evaluation.results import MIN_SEEDS
from muzero_jax.evaluation.statistics import t_interval

INTERVAL = "mean over seeds with its 95 % Student-t interval, where all seeds have data"
SUFFIXES = (".pdf", ".svg", ".png")

# Okabe and Ito 2008: told apart by color-blind readers; line styles tell them apart in gray.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_MAX_COLUMNS = 4
_PANEL_INCHES = (2.2, 1.75)
_ALONE_INCHES = (3.4, 2.4)

_SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # Text stays text, as publishers ask.
    "svg.fonttype": "none",
    "savefig.dpi": 200,
}


class Curve(NamedTuple):
    """One method on one task: a pair `(x [P], y [P])` per seed, x not falling."""

    label: str
    seeds: Sequence[tuple[np.ndarray, np.ndarray]]


class Panel(NamedTuple):
    """One task: its curves, and level lines by name, such as `{"human": 14.6}`."""

    title: str
    curves: Sequence[Curve]
    levels: dict[str, float]


def pool(
    seeds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (x, mean, low, high), `[P]` each, where every seed has data.

    Between its points a seed's curve is a straight line, so the mean of the curves is one between
    the points of all of them.
    """
    begin = max(x[0] for x, _ in seeds)
    end = min(x[-1] for x, _ in seeds)
    points = np.unique(np.concatenate([x for x, _ in seeds] + [[begin, end]]))
    points = points[(points >= begin) & (points <= end)]
    values = np.stack([np.interp(points, x, y) for x, y in seeds])
    return points, values.mean(axis=0), *t_interval(values)


def save(path: Path, panels: Sequence[Panel], *, x_label: str, y_label: str) -> None:
    """Draws the panels into a file; its suffix chooses the format.

    Raises:
      BadInputError: for another suffix, without matplotlib, or where the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"--out: use one of {', '.join(SUFFIXES)} (got {path.name!r})")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInputError("plots need matplotlib: pip install 'muzero_jax[plot]'") from None
    with matplotlib.rc_context(_SETTINGS):
        figure = _draw(Figure, panels, x_label, y_label)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        except OSError as error:
            raise BadInputError(f"--out: {path} cannot be written: {error}") from None


def compact(value: float, _position: int | None = None) -> str:
    """A tick label: 500, 10k, 2.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _draw(make_figure, panels, x_label, y_label):
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    rows = math.ceil(len(panels) / _MAX_COLUMNS)
    columns = math.ceil(len(panels) / rows)
    width, height = _ALONE_INCHES if len(panels) == 1 else _PANEL_INCHES
    legend_inches = 0.2 if len(labels) > 1 else 0
    figure = make_figure(
        figsize=(width * columns, height * rows + legend_inches), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    handles: dict[str, object] = {}
    for axis, panel in zip(grid.flat, panels, strict=False):
        for curve in panel.curves:
            style = labels.index(curve.label)
            handles.setdefault(curve.label, _draw_curve(axis, curve, style))
        _draw_levels(axis, panel.levels)
        axis.set_title(panel.title)
        axis.grid(axis="y")
        axis.margins(x=0.02)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(compact)
        axis.locator_params(nbins=5)
    figure.supxlabel(x_label, fontsize=8)
    figure.supylabel(y_label, fontsize=8)
    if len(labels) > 1:
        # Outside, so that it never hides a curve.
        columns = min(len(labels), 2 * columns)
        where = "outside upper center"
        figure.legend(handles.values(), handles.keys(), loc=where, ncols=columns)
    return figure


def _draw_curve(axis, curve, place):
    """Draws one method; returns the line that stands for it in the legend."""
    color = _COLORS[place % len(_COLORS)]
    pooled = len(curve.seeds) >= MIN_SEEDS
    for x, y in curve.seeds:
        look = {"linewidth": 0.6, "alpha": 0.35} if pooled else {"linewidth": 1.1, "alpha": 0.9}
        few = not pooled and len(x) <= 12
        (line,) = axis.plot(
            x,
            y,
            color=color,
            marker="o" if few else None,
            markersize=2.5,
            linestyle="-" if pooled else _STYLES[place % len(_STYLES)],
            **look,
        )
    if pooled:
        points, mean, low, high = pool(curve.seeds)
        axis.fill_between(points, low, high, color=color, alpha=0.18, linewidth=0)
        style = _STYLES[place % len(_STYLES)]
        (line,) = axis.plot(points, mean, color=color, linewidth=1.5, linestyle=style)
    return line


def _draw_levels(axis, levels):
    for name, level in levels.items():
        axis.axhline(level, color="0.45", linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        axis.annotate(
            name,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=6.5,
            color="0.35",
        )
