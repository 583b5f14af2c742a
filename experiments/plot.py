"""Draws curves of runs over seeds, from what they wrote: run folders, or files of results.

  python experiments/plot.py --out=curves.pdf runs/pong-0 runs/pong-1 runs/pong-2
  python experiments/plot.py --out=two.svg --x=wall_s "small=runs/small-*" "large=runs/large-*"

There is one panel per game or task. Runs whose configs differ in the seed only are one curve,
unless a `label=pattern` says otherwise: the mean over three seeds or more with its 95 % Student-t
interval and thin lines for the seeds; fewer seeds are drawn one by one.
"""

from pathlib import Path
import re
from typing import Any

from absl import flags
import numpy as np

import command_line
import figures
from muzero_jax import errors
from muzero_jax.envs import atari_games
from muzero_jax.evaluation import results
from muzero_jax.training import run_folder

_Y_LABELS = {"eval/return_mean": "evaluation return", "train/return_mean": "training return"}
_X_LABELS = {"env_steps": "environment steps", "updates": "updates"}
_SECONDS = {"wall-clock hours": 3600.0, "wall-clock minutes": 60.0, "wall-clock seconds": 1.0}
_LEVELS = ("random", "human")


def main(words: list[str]) -> None:
    args = flags.FLAGS
    if not words:
        raise errors.BadInputError("which runs? e.g. runs/pong-0 runs/pong-1 or 'mine=runs/pong-*'")
    if unknown := sorted(set(args.levels) - set(_LEVELS)):
        raise errors.BadInputError(f"--levels: of {', '.join(_LEVELS)} (got {unknown[0]!r})")
    groups = grouped(words)
    points = {run.path: series(run, args.x, args.y) for runs in groups.values() for run in runs}
    x_label = _X_LABELS.get(args.x)
    if x_label is None:
        longest = max(x[-1] for x, _ in points.values())
        x_label, unit = next(
            ((name, unit) for name, unit in _SECONDS.items() if longest >= 2 * unit),
            ("wall-clock seconds", 1.0),
        )
        points = {path: (x / unit, y) for path, (x, y) in points.items()}
    panels = make_panels(groups, points, args.levels)
    y_label = _Y_LABELS.get(args.y, args.y)
    figures.save(Path(args.out), panels, x_label=x_label, y_label=y_label)
    print(f"{args.out}: {figures.INTERVAL}; thin lines are single seeds")


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
) -> list[figures.Panel]:
    """One panel per task, in the order of the alphabet; curves in the order of the groups."""
    by_task: dict[str, list[figures.Curve]] = {}
    for label, runs in groups.items():
        for task, seeds in results.seeds_of(runs).items():
            curve = figures.Curve(label, [points[run.path] for run in seeds.values()])
            by_task.setdefault(task, []).append(curve)
    return [
        figures.Panel(task, curves, _published(task, levels))
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
    """A label per method: the fields that tell it from the others, or else its folder's name."""
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


if __name__ == "__main__":
    command_line.define_path("out", "curves.png", f"File; one of {', '.join(figures.SUFFIXES)}.")
    flags.DEFINE_enum("x", "env_steps", ["env_steps", "wall_s", "updates"], "What runs across.")
    flags.DEFINE_string("y", "eval/return_mean", "The metric.")
    flags.DEFINE_list("levels", [], "Published scores drawn as lines: random,human (Atari).")
    command_line.run(main, takes_words=True)
