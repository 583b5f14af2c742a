"""Aggregate scores of runs over games and seeds, with intervals.

Scores are `[..., S, G]`: one number for each of S seeds of each of G games, on a scale on which
games can be compared, such as human-normalised scores; leading axes are resamples. Every game needs
the same number of seeds. Source: Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of
the Statistical Precipice, sections 3 and 4.
"""

from collections.abc import Callable

import numpy as np
from scipy import special


def mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean over games of each game's mean over seeds, `[...]`."""
    return np.mean(scores, axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Returns the median over games of each game's mean over seeds, `[...]`."""
    return np.median(np.mean(scores, axis=-2), axis=-1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of all S·G scores, `[...]`.

    Of n scores the floor(n/4) smallest and as many of the largest are left out.
    """
    ordered = np.sort(np.reshape(scores, (*scores.shape[:-2], -1)), axis=-1)
    count = ordered.shape[-1]
    return np.mean(ordered[..., count // 4 : count - count // 4], axis=-1)


def optimality_gap(scores: np.ndarray, *, target: float = 1.0) -> np.ndarray:
    """Returns by how much scores fall short of `target` on average, `[...]`; what is above is 0."""
    return np.mean(np.maximum(target - scores, 0), axis=(-2, -1))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns how often a run of X beats a run of Y on a game, ties being half, `[...]`.

    It is the Mann-Whitney U of each game over S_x·S_y, averaged over games; `x` and `y` are
    `[..., S_x, G]` and `[..., S_y, G]`.
    """
    x, y = x[..., :, None, :], y[..., None, :, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-3, -2, -1))


def bootstrap_interval(
    statistic: Callable[..., np.ndarray],
    *scores: np.ndarray,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile interval of `statistic(*scores)` over a stratified bootstrap.

    Each resample draws, for each game on its own, S seeds with replacement; games are not drawn,
    so the interval says what other seeds would give, not other games. Below about five seeds it is
    too narrow.

    Args:
      statistic: `[R, S, G], ... -> [R]`, such as `interquartile_mean`.
      *scores: `[S, G]` each, with the same games; S may differ.
      resamples: R.
      level: Probability that the interval is to hold.
      seed: Of the resampling.

    Raises:
      ValueError: for scores that are not a matrix, are none, are not finite, or of other games.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for array in scores:
        array = np.asarray(array, np.float64)
        if array.ndim != 2 or not array.size:
            raise ValueError(f"scores must be [seeds, games] (got shape {array.shape})")
        if not np.isfinite(array).all():
            raise ValueError("scores must be finite")
        chosen = rng.integers(len(array), size=(resamples, *array.shape))
        drawn.append(array[chosen, np.arange(array.shape[1])])
    if len({array.shape[-1] for array in drawn}) > 1:
        raise ValueError("scores must be of the same games")
    tails = [50 * (1 - level), 50 * (1 + level)]
    # In parts, because a statistic of pairs holds seeds x seeds of each resample.
    parts = [[x[i : i + 500] for x in drawn] for i in range(0, resamples, 500)]
    low, high = np.percentile(np.concatenate([statistic(*part) for part in parts]), tails)
    return float(low), float(high)


def t_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Returns Student's t interval of the mean over the S ≥ 2 seeds of `values`, `[S, ...]`.

    Unlike a bootstrap it keeps its level for three seeds, where they are about normal.
    """
    seeds = len(values)
    if seeds < 2:
        raise ValueError(f"an interval needs two seeds or more (got {seeds})")
    error = np.std(values, axis=0, ddof=1) / np.sqrt(seeds)
    half = special.stdtrit(seeds - 1, 0.5 + level / 2) * error
    center = np.mean(values, axis=0)
    return center - half, center + half
