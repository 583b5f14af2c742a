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
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the percentile interval of `statistic(*scores)` over a stratified bootstrap.

    Each resample draws, for each game on its own, S seeds with replacement; games are not drawn,
    so the interval says what other seeds would give, not other games. Below about five seeds it is
    too narrow.

    Args:
      statistic: `[R, S, G], ... -> [R, ...]`, such as `interquartile_mean`.
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
    low, high = np.percentile(np.concatenate([statistic(*part) for part in parts]), tails, axis=0)
    return low, high


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


def elo_ratings(points: np.ndarray, *, prior_draws: float = 1.0) -> np.ndarray:
    """Returns the Elo ratings `[..., P]` that make what P players scored most likely.

    400 points are odds of 10 to 1; the first player is at 0. Draws are half a win for both. Source:
    Bradley and Terry 1952, Rank Analysis of Incomplete Block Designs, by Newton's method.

    Args:
      points: `[..., P, P]`, what player i scored against j: 1 for a win, 0.5 for a draw.
      prior_draws: games that are added to each pair that has met, all of them drawn: ratings stay
        finite where somebody won every game, and come out a little too close together.

    Raises:
      ValueError: for points that are no square, negative or not finite, or players who have not
        met, not even through others.
    """
    points = np.asarray(points, np.float64)
    if points.ndim < 2 or points.shape[-1] != points.shape[-2]:
        raise ValueError(f"points must be [players, players] (got shape {points.shape})")
    if not (np.isfinite(points).all() and (points >= 0).all()):
        raise ValueError("points must be finite and not negative")
    games = points + np.swapaxes(points, -1, -2)
    games *= ~np.eye(games.shape[-1], dtype=bool)
    met = games > 0
    if not (np.linalg.matrix_power(met + np.eye(met.shape[-1]), met.shape[-1]) > 0).all():
        raise ValueError("some players have not met, not even through others")
    excess = points + 0.5 * prior_draws * met
    games += prior_draws * met
    strength = np.zeros(points.shape[:-1])  # In natural units: odds are exp(difference).
    for _ in range(200):
        chance = special.expit(strength[..., :, None] - strength[..., None, :])
        gradient = np.sum((excess - games * chance) * met, axis=-1)
        slope = games * chance * (1 - chance)
        hessian = np.sum(slope, axis=-1)[..., None] * np.eye(slope.shape[-1]) - slope
        step = np.linalg.solve(hessian[..., 1:, 1:], gradient[..., 1:, None])[..., 0]
        strength[..., 1:] += np.clip(step, -2, 2)  # Far from its end a step may be too long.
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return 400 / np.log(10) * strength
