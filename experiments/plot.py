"""Draws curves of runs over seeds, from what they wrote: run folders, or files of results.

  python experiments/plot.py --out=curves.pdf runs/pong-0 runs/pong-1 runs/pong-2
  python experiments/plot.py --out=two.svg --x=wall_s "small=runs/small-*" "large=runs/large-*"

There is one panel per game or task. Runs whose configs differ in the seed only are one curve,
unless a `label=pattern` says otherwise: the mean over three seeds or more with its 95 % Student-t
interval and thin lines for the seeds; fewer seeds are drawn one by one.
"""

from collections.abc import Sequence
import math
from pathlib import Path
import re
from typing import Any, NamedTuple

from absl import flags
import numpy as np

import command_line
from muzero_jax import errors
from muzero_jax.envs import atari_games
from muzero_jax.evaluation import results
from muzero_jax.evaluation.statistics import t_interval
from muzero_jax.training import run_folder

_Y_LABELS = {"eval/return_mean": "evaluation return", "train/return_mean": "training return"}
_X_LABELS = {"env_steps": "environment steps", "updates": "updates"}
_SECONDS = {"wall-clock hours": 3600.0, "wall-clock minutes": 60.0, "wall-clock seconds": 1.0}
_LEVELS = ("random", "human")


INTERVAL = "mean over seeds with its 95 % Student-t interval, where all seeds have data"
SUFFIXES = (".pdf", ".svg", ".png")

# Okabe and Ito 2008: color-blind readers can separate them; in gray print the line styles do.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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


def main(words: list[str]) -> None:
    args = flags.FLAGS
    if not words:
        raise errors.BadInputError("which runs? e.g. runs/pong-0 runs/pong-1 or 'mine=runs/pong-*'")
    if unknown := sorted(set(args.levels) - set(_LEVELS)):
        raise errors.BadInputError(f"--levels: of {', '.join(_LEVELS)} (got {unknown[0]!r})")
    groups = grouped(words)
    every = [run for runs in groups.values() for run in runs]
    metric = args.y or usual_metric(every)
    points = {run.path: series(run, args.x, metric) for run in every}
    x_label = _X_LABELS.get(args.x)
    if x_label is None:
        longest = max(x[-1] for x, _ in points.values())
        x_label, unit = next(
            ((name, unit) for name, unit in _SECONDS.items() if longest >= 2 * unit),
            ("wall-clock seconds", 1.0),
        )
        points = {path: (x / unit, y) for path, (x, y) in points.items()}
    panels = make_panels(groups, points, args.levels)
    y_label = _Y_LABELS.get(metric, metric)
    save(Path(args.out), panels, x_label=x_label, y_label=y_label)
    print(f"{args.out}: {y_label}, {INTERVAL}; thin lines are single seeds")


def grouped(words: list[str]) -> dict[str, list[results.Run]]:
    """Label -> runs of one method, by the `label=pattern` of the words, else by config."""
    labelled: dict[str, list[results.Run]] = {}
    rest: list[results.Run] = []
    for word in words:
        label, equals, pattern = word.partition("=")
        if equals and not Path(word).exists():
            labelled.setdefault(label, []).extend(map(results.read, results.find(pattern)))
        else:
            rest.extend(map(results.read, results.find(word)))
    methods: list[list[results.Run]] = []
    for run in rest:
        alike = [m for m in methods if results.method(m[0]) == results.method(run)]
        if alike:
            alike[0].append(run)
        else:
            methods.append([run])
    return labelled | dict(zip(_names(methods), methods, strict=True))


def usual_metric(runs: Sequence[results.Run]) -> str:
    """Returns of evaluations; those of training where a run has not come to an evaluation yet."""
    evaluation, training = _Y_LABELS

    def have(metric):
        return all(any(_is_number(r.get(metric)) for r in run.records) for run in runs)

    return training if have(training) and not have(evaluation) else evaluation


def series(run: results.Run, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points `(x [P], y [P])` of one metric of a run; what was not finite is left out."""
    found = [(r[x], r[y]) for r in run.records if _is_number(r.get(x)) and _is_number(r.get(y))]
    if not found:
        there = sorted({name for r in run.records for name, v in r.items() if _is_number(v)})
        raise errors.BadInputError(f"--y: {run.path} has no {y!r}; it has {', '.join(there)}")
    values = np.asarray(found, np.float64)
    return values[:, 0], values[:, 1]


def make_panels(
    groups: dict[str, list[results.Run]],
    points: dict[Path, tuple[np.ndarray, np.ndarray]],
    levels: list[str],
) -> list[Panel]:
    """One panel per task, in the order of the alphabet; curves in the order of the groups."""
    by_task: dict[str, list[Curve]] = {}
    for label, runs in groups.items():
        for task, seeds in results.seeds_of(runs).items():
            curve = Curve(label, [points[run.path] for run in seeds.values()])
            by_task.setdefault(task, []).append(curve)
    return [
        Panel(task, curves, _published(task, levels))
        for task, curves in sorted(by_task.items())
    ]


def _published(task: str, levels: list[str]) -> dict[str, float]:
    scores = atari_games.RANDOM_AND_HUMAN_SCORES.get(task)
    if scores is None:
        return {}
    both = dict(zip(_LEVELS, scores, strict=True))
    return {name: both[name] for name in _LEVELS if name in levels}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _names(methods: list[list[results.Run]]) -> list[str]:
    """A label per method: the fields in which it differs, or else its folder's name."""
    configs = [results.method(runs[0]) for runs in methods]
    fields: dict[str, None] = {}
    for config in configs[1:]:
        fields |= {name: None for name, _, _ in run_folder.differences(configs[0], config)}
    if 0 < len(fields) <= 2:
        return [", ".join(f"{n.split('.')[-1]} {_leaf(c, n)}" for n in fields) for c in configs]
    paths = [runs[0].path for runs in methods]
    for name in (lambda p: re.sub(r"[-_.]?\d+$", "", p.stem), lambda p: p.stem, str):
        names = [name(path) for path in paths]
        if all(names) and len(set(names)) == len(names):
            break
    return names


def _leaf(config: dict, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


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
        raise errors.BadInputError(f"--out: use one of {', '.join(SUFFIXES)} (got {path.name!r})")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        needed = "plots need matplotlib: pip install 'muzero_jax[plot]'"
        raise errors.BadInputError(needed) from None
    with matplotlib.rc_context(_SETTINGS):
        figure = draw(Figure, panels, x_label, y_label)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        except OSError as error:
            raise errors.BadInputError(f"--out: {path} cannot be written: {error}") from None


def compact(value: float, _position: int | None = None) -> str:
    """A tick label: 500, 10k, 2.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def draw(make_figure, panels: Sequence[Panel], x_label: str, y_label: str):
    """The figure of the panels; `make_figure` is `matplotlib.figure.Figure`."""
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
    color = COLORS[place % len(COLORS)]
    pooled = len(curve.seeds) >= results.MIN_SEEDS
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


if __name__ == "__main__":
    command_line.define_path("out", "curves.png", f"File; one of {', '.join(SUFFIXES)}.")
    flags.DEFINE_enum("x", "env_steps", ["env_steps", "wall_s", "updates"], "What runs across.")
    flags.DEFINE_string("y", None, "The metric; default: returns of evaluations, else of training.")
    flags.DEFINE_list("levels", [], "Published scores drawn as lines: random,human (Atari).")
    command_line.run(main, takes_words=True)
