"""Prints a table of scores as Markdown, and their aggregate over games and seeds.

  python experiments/aggregate.py benchmarks/results/atari_*.json
  python experiments/aggregate.py "runs/new-*" --versus="runs/old-*"

Words are run folders or files of benchmarks/results/. Files hold scores of the last checkpoint on
seeds never used in training; of a folder the score is the last evaluation in the run. Aggregates
are human-normalised, with 95 % intervals of a stratified bootstrap over seeds.
"""

from collections.abc import Callable

from absl import flags
import numpy as np

import command_line
from muzero_jax import errors
from muzero_jax.envs import atari_games
from muzero_jax.evaluation import results, statistics
from muzero_jax.training import run_folder

RESAMPLES = 10_000
ENOUGH_SEEDS = 5

_AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "interquartile mean": statistics.interquartile_mean,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality gap": statistics.optimality_gap,
}


def main(words: list[str]) -> None:
    if not words:
        raise errors.BadInputError("which runs? e.g. benchmarks/results/atari_*.json")
    ours = read_scores(words)
    theirs = read_scores(flags.FLAGS.versus) if flags.FLAGS.versus else None
    lines = table([run for runs in ours.values() for run in runs])
    scores = normalised(ours)
    if isinstance(scores, str):
        lines += ["", f"No aggregate: {scores}."]
    else:
        lines += ["", *aggregates(scores)]
    if theirs is not None:
        lines += ["", *comparison(ours, theirs)]
    print("\n".join(lines))


def read_scores(words: list[str]) -> dict[str, list[results.Run]]:
    """Task -> runs in the order of seeds, all under one protocol and by one config.

    Raises:
      BadInputError: where a run has no score, or two differ in what their scores mean.
    """
    runs = [results.read(path) for word in words for path in results.find(word)]
    first = runs[0]
    for run in runs:
        if run.score is None:
            raise errors.BadInputError(f"{run.path} has no evaluation yet")
        _check_alike("protocols", first, run, first.protocol, run.protocol)
        _check_alike("configs", first, run, results.method(first), results.method(run))
        _check_alike("budgets", first, run, results.budget(first), results.budget(run))
    return {task: list(seeds.values()) for task, seeds in results.seeds_of(runs).items()}


def table(runs: list[results.Run]) -> list[str]:
    """One row per game: scores with the interval of their mean over seeds, and references."""
    lines = [
        "| game | seeds | env steps | mean score | 95 % interval | random | human"
        " | human-normalised |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(run.task for run in runs):
        seeds = [run for run in runs if run.task == task]
        scores = np.array([run.score for run in seeds])
        steps = sorted({f"{run.env_steps:,}" for run in seeds}, key=lambda x: (len(x), x))
        interval, references = "–", ["–", "–", "–"]
        if len(scores) >= results.MIN_SEEDS:
            interval = _interval(*statistics.t_interval(scores), _score)
        if task in atari_games.RANDOM_AND_HUMAN_SCORES:
            both = atari_games.RANDOM_AND_HUMAN_SCORES[task]
            relative = atari_games.human_normalised(task, float(scores.mean()))
            references = [*map(_score, both), f"{relative:.3f}"]
        cells = [task, str(len(seeds)), " to ".join(steps[:: max(len(steps) - 1, 1)])]
        cells += [_score(scores.mean()), interval, *references]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Intervals: Student's t over seeds; none below {results.MIN_SEEDS} seeds."]
    return lines


def normalised(by_task: dict[str, list[results.Run]]) -> np.ndarray | str:
    """Human-normalised scores `[S, G]`, or why there are none."""
    if unknown := [x for x in by_task if x not in atari_games.RANDOM_AND_HUMAN_SCORES]:
        return f"there are no published random and human scores of {', '.join(unknown)}"
    counts = {task: len(runs) for task, runs in by_task.items()}
    if len(set(counts.values())) > 1:
        least, most = min(counts, key=counts.get), max(counts, key=counts.get)
        return (
            "every game needs the same number of seeds"
            f" ({least} has {counts[least]}, {most} has {counts[most]})"
        )
    columns = [
        [atari_games.human_normalised(task, run.score) for run in runs]
        for task, runs in by_task.items()
    ]
    return np.array(columns).T


def aggregates(scores: np.ndarray) -> list[str]:
    """The aggregate of human-normalised scores `[S, G]` as Markdown."""
    seeds, games = scores.shape
    lines = [
        f"Human-normalised, {_count(games, 'game')}, {_count(seeds, 'seed')} each"
        f"{_preliminary(seeds)}:",
        "",
        "| aggregate | value | 95 % interval |",
        "|---|---|---|",
    ]
    for name, statistic in _AGGREGATES.items():
        interval = "–"
        if seeds >= 2:
            bounds = statistics.bootstrap_interval(statistic, scores, resamples=RESAMPLES)
            interval = _interval(*bounds, "{:.3f}".format)
        lines.append(f"| {name} | {statistic(scores):.3f} | {interval} |")
    lines += ["", f"Intervals: percentiles of {RESAMPLES:,} resamples of the seeds of each game."]
    return lines


def comparison(
    ours: dict[str, list[results.Run]], theirs: dict[str, list[results.Run]]
) -> list[str]:
    """Ours against theirs, on the same games, as Markdown."""
    first, other = next(iter(ours.values()))[0], next(iter(theirs.values()))[0]
    _check_alike("protocols", first, other, first.protocol, other.protocol)
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        raise errors.BadInputError(f"--versus: only one side has {', '.join(alone)}")
    x, y = normalised(ours), normalised(theirs)
    for scores in (x, y):
        if isinstance(scores, str):
            raise errors.BadInputError(f"--versus: {scores}")
    lines = [
        f"Against {_count(len(y), 'seed')} each of --versus{_preliminary(min(len(x), len(y)))}:",
        "",
        "| | value | 95 % interval |",
        "|---|---|---|",
    ]
    for name, statistic in {
        "difference of interquartile means": _difference,
        "probability of improvement": statistics.probability_of_improvement,
    }.items():
        bounds = statistics.bootstrap_interval(statistic, x, y, resamples=RESAMPLES)
        interval = _interval(*bounds, "{:.3f}".format) if min(len(x), len(y)) >= 2 else "–"
        lines.append(f"| {name} | {statistic(x, y):.3f} | {interval} |")
    return lines


def _difference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return statistics.interquartile_mean(x) - statistics.interquartile_mean(y)


def _check_alike(what, first, run, one, other):
    """Refuses two runs whose protocols or configs differ; the game may."""
    differing = [
        f"{name} is {a} and {b}"
        for name, a, b in run_folder.differences(one, other)
        if name not in ("game", "task")
    ]
    if differing:
        raise errors.BadInputError(
            f"{first.path} and {run.path} have different {what}, so their scores cannot stand in"
            f" one table: {', '.join(differing)}"
        )


def _preliminary(seeds: int) -> str:
    return "" if seeds >= ENOUGH_SEEDS else f"; preliminary: fewer than {ENOUGH_SEEDS} seeds"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _interval(low, high, show: Callable[[float], str]) -> str:
    return f"[{show(low)}, {show(high)}]"


def _score(score: float) -> str:
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:.1f}"


if __name__ == "__main__":
    flags.DEFINE_list("versus", [], "Runs to compare with, on the same games.")
    command_line.run(main, takes_words=True)
