"""Aggregates by hand and by rliable, intervals against every resample there is."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from muzero_jax.evaluation import statistics

# Five seeds of four games, and three seeds of the same games.
_X = np.array(
    [
        [0.1, 1.2, 0.4, 2.5],
        [0.3, 0.9, 0.45, 3.1],
        [0.2, 1.6, 0.35, 2.2],
        [-0.1, 1.1, 0.6, 2.9],
        [0.25, 1.3, 0.5, 0.7],
    ]
)
_Y = np.array([[0.2, 1.0, 0.4, 2.0], [0.15, 1.2, 0.3, 3.1], [0.3, 0.8, 0.35, 1.9]])

# By rliable 1.2.0 (arch 7.2.0, numpy 2.4.6; it needs pandas<3), `aggregate_*(X)` and
# `get_interval_estimates({"x": X}, aggregate, reps=200_000)` after `np.random.seed(0)`.
_RLIABLE = {
    "interquartile_mean": (0.75, [0.63, 0.92]),
    "median": (0.84, [0.735, 0.95]),
    "mean": (1.0275, [0.8125, 1.2]),
    "optimality_gap": (0.3675, [0.325, 0.415]),
}


@pytest.mark.parametrize("name", _RLIABLE)
def test_aggregates_and_intervals_are_those_of_rliable(name):
    """Planted bugs seen: median over all scores; a fifth trimmed instead of a quarter; the gap
    without its clip; one draw of seeds for all games (the mean's interval becomes [0.86, 1.18])."""
    value, interval = _RLIABLE[name]
    statistic = getattr(statistics, name)
    assert statistic(_X) == pytest.approx(value, abs=1e-12)
    ours = statistics.bootstrap_interval(statistic, _X, resamples=50_000)
    # Monte Carlo error of a 2.5 % quantile, twice: about 0.004 where these scores lie dense.
    np.testing.assert_allclose(ours, interval, atol=0.01)


def test_comparisons_are_those_of_rliable():
    """As above, `get_interval_estimates({"x": (X, Y)}, ..., reps=50_000)`.
    Planted bugs seen: ties counted as 1; both sides drawn by the same seeds."""
    probability = statistics.probability_of_improvement
    assert probability(_X, _Y) == pytest.approx(0.65, abs=1e-12)
    ours = statistics.bootstrap_interval(probability, _X, _Y, resamples=50_000)
    np.testing.assert_allclose(ours, [0.4666666666666666, 0.8333333333333333], atol=0.01)

    def difference(x, y):
        return statistics.interquartile_mean(x) - statistics.interquartile_mean(y)

    ours = statistics.bootstrap_interval(difference, _X, _Y, resamples=50_000)
    np.testing.assert_allclose(ours, [-0.07833333333333325, 0.275], atol=0.01)
    # Two sides of equal shape are drawn apart, too.
    low, high = statistics.bootstrap_interval(difference, _X, _X, resamples=2000)
    assert low < -0.1 and high > 0.1


def test_aggregates_by_hand():
    """Planted bug seen: the quarter rounded up."""
    # Games (0, 2, 4) and (1, 6, 11): means 2 and 6. Sorted 0 1 2 4 6 11; floor(6/4) = 1 goes off
    # each end: (1 + 2 + 4 + 6) / 4 = 3.25. Short of 3 by 3 1 0 and 2 0 0: 6 / 6 = 1.
    scores = np.array([[0.0, 1.0], [2.0, 6.0], [4.0, 11.0]])
    assert statistics.mean(scores) == 4.0
    assert statistics.median(scores) == 4.0
    assert statistics.interquartile_mean(scores) == 3.25
    assert statistics.optimality_gap(scores, target=3.0) == 1.0
    # Against (2, 2) and (1, 0): game 1 has 0 < 2 = 2 < 4, (0 + 1/2 + 1) / 3 = 1/2 for either;
    # game 2 has 1 = 1, 1 > 0 and all others greater: 5.5 / 6. Mean (3/6 + 5.5/6) / 2 = 8.5 / 12.
    other = np.array([[2.0, 1.0], [2.0, 0.0]])
    assert statistics.probability_of_improvement(scores, other) == pytest.approx(8.5 / 12)
    assert statistics.probability_of_improvement(other, scores) == pytest.approx(3.5 / 12)


@pytest.mark.parametrize("name", _RLIABLE)
def test_leading_axes_are_independent(name):
    """Planted bug seen: the interquartile mean sorted over resamples, too."""
    stacked = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    statistic = getattr(statistics, name)
    each = [[statistic(scores) for scores in row] for row in stacked]
    np.testing.assert_allclose(statistic(stacked), each, rtol=1e-12)


def test_bootstrap_interval_is_that_of_all_resamples():
    """Each game's three seeds are drawn in 27 ways, both games' in 729, all equally likely.
    Planted bugs seen: games drawn, too; one draw of seeds for all games; level 0.9."""
    games = [(0.0, 1.0, 5.0), (2.0, 2.5, 9.0)]
    # Sums of draws lie far from where the 2.5 % quantile jumps, so that Monte Carlo meets it.
    means = [
        (sum(first) + sum(second)) / 6
        for first in itertools.product(games[0], repeat=3)
        for second in itertools.product(games[1], repeat=3)
    ]
    ordered = sorted(means)
    exact = ordered[int(0.025 * 729)], ordered[int(0.975 * 729)]
    scores = np.array(games).T
    ours = statistics.bootstrap_interval(statistics.mean, scores, resamples=100_000)
    np.testing.assert_allclose(ours, exact, atol=0.1)


def test_bootstrap_interval_is_a_function_of_its_seed():
    """Planted bug seen: the seed left out."""
    intervals = [
        statistics.bootstrap_interval(statistics.mean, _X, resamples=2000, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert intervals[0] == intervals[1] != intervals[2]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.zeros(3), "seeds, games"),
        (np.zeros((0, 2)), "shape"),
        (np.array([[1.0, np.nan]]), "finite"),
        ([[1.0, 2.0], [3.0]], "inhomogeneous"),
    ],
)
def test_bad_scores_are_refused(scores, said):
    """Planted bug seen: NaN let through, which makes the interval NaN."""
    with pytest.raises(ValueError, match=said):
        statistics.bootstrap_interval(statistics.mean, scores)


def test_scores_of_other_games_are_refused():
    """One column would be spread over all of the other's. Planted bug seen: not checked."""
    with pytest.raises(ValueError, match="same games"):
        statistics.bootstrap_interval(
            statistics.probability_of_improvement, np.zeros((3, 4)), np.zeros((3, 1))
        )


def test_t_interval_by_hand():
    """Planted bugs seen: division by S instead of S - 1; one-sided level."""
    # Mean 2, standard deviation 1, and 4.302653 is the 97.5 % point of Student's t of 2 degrees
    # (printed tables): 4.302653 / sqrt(3) = 2.484138. The second column is twice the first.
    low, high = statistics.t_interval(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    np.testing.assert_allclose(low, [2 - 2.484138, 4 - 4.968275], atol=1e-5)
    np.testing.assert_allclose(high, [2 + 2.484138, 4 + 4.968275], atol=1e-5)
    with pytest.raises(ValueError, match="two seeds"):
        statistics.t_interval(np.zeros((1, 4)))


def test_random_scores_agree_with_rliable_itself():
    """Where rliable is installed: equal aggregates, and equal intervals of equal draws."""
    library = pytest.importorskip("rliable.library")
    theirs = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(0)
    pairs = {
        theirs.aggregate_iqm: statistics.interquartile_mean,
        theirs.aggregate_median: statistics.median,
        theirs.aggregate_mean: statistics.mean,
        theirs.aggregate_optimality_gap: statistics.optimality_gap,
    }
    for shape in ((3, 4), (5, 7), (10, 26)):
        scores = rng.normal(1, 2, shape)
        other = rng.normal(1, 2, (4, shape[1])).round(1)
        for expected, ours in pairs.items():
            assert ours(scores) == pytest.approx(expected(scores), abs=1e-12)
        ours = statistics.probability_of_improvement(scores.round(1), other)
        expected = theirs.probability_of_improvement(scores.round(1), other)
        assert ours == pytest.approx(expected, abs=1e-12)
    np.random.seed(0)
    draws = [x[0][0] for x in library.StratifiedBootstrap(scores).bootstrap(2000)]
    ours = np.percentile(statistics.interquartile_mean(np.stack(draws)), [2.5, 97.5])
    np.random.seed(0)
    _, intervals = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([theirs.aggregate_iqm(x)]), reps=2000
    )
    np.testing.assert_allclose(intervals["x"][:, 0], ours, atol=1e-12)


def _points(rng, ratings, games):
    """What each scored against each: wins by the logistic curve, a third of the games drawn."""
    players = len(ratings)
    points = np.zeros((players, players))
    for i, j in itertools.combinations(range(players), 2):
        expected = 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400))
        drawn = min(1 / 3, 2 * min(expected, 1 - expected))
        chances = [expected - drawn / 2, drawn, 1 - expected - drawn / 2]
        results = rng.choice([1, 0.5, 0], size=games, p=chances)
        points[i, j], points[j, i] = results.sum(), games - results.sum()
    return points


def test_elo_ratings_of_a_known_league():
    """Five players, 4000 games of each two: the standard error is about 5 points.

    Planted bugs seen: natural odds for factors of ten; the stronger and the weaker exchanged.
    """
    known = np.array([0.0, 150.0, -80.0, 420.0, 300.0])
    rng = np.random.default_rng(0)
    leagues = np.stack([_points(rng, known, 4000) for _ in range(3)])
    found = statistics.elo_ratings(leagues)
    assert found.shape == (3, 5) and (found[:, 0] == 0).all()
    np.testing.assert_allclose(found, np.tile(known, (3, 1)), atol=25)


def test_elo_ratings_of_two_are_the_odds():
    """9 points of 12 and half a drawn game each: 400·log10(9.5 / 3.5); a perfect score is finite.
    Planted bug seen: a prior of a win for each."""
    wins = statistics.elo_ratings(np.array([[0, 3], [9, 0]]))
    np.testing.assert_allclose(wins, [0, 400 * np.log10(9.5 / 3.5)], atol=1e-6)
    exact = statistics.elo_ratings(np.array([[0, 3], [9, 0]]), prior_draws=0.0)
    np.testing.assert_allclose(exact, [0, 400 * np.log10(3)], atol=1e-6)
    perfect = statistics.elo_ratings(np.array([[0, 0], [1000, 0]]))
    np.testing.assert_allclose(perfect, [0, 400 * np.log10(1000.5 / 0.5)], atol=1e-6)


def test_elo_ratings_are_most_likely():
    """A general minimiser of the likelihood, written out game by game, finds the same; pairs may
    have met unequally often, or not at all. Planted bug seen: a prior for those who never met."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        games = rng.integers(0, 30, size=(6, 6))
        games[np.arange(5), np.arange(1, 6)] += 3  # Neighbors have met: all are connected.
        share = rng.random((6, 6)).round(1)
        points = np.triu(games * share, 1) + np.triu(games * (1 - share), 1).T

        def unlikely(rest, points=points):
            strength, total = [0.0, *rest], 0.0
            for i, j in itertools.combinations(range(6), 2):
                prior = 0.5 if points[i, j] + points[j, i] else 0.0
                chance = 1 / (1 + np.exp(strength[j] - strength[i]))
                total -= (points[i, j] + prior) * np.log(chance)
                total -= (points[j, i] + prior) * np.log(1 - chance)
            return total

        best = optimize.minimize(unlikely, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
        ours = statistics.elo_ratings(points) * np.log(10) / 400
        np.testing.assert_allclose(ours[1:], best, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (np.zeros((2, 3)), "players, players"),
        (np.array([[0, -1.0], [2.0, 0]]), "negative"),
        (np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0]]), "not met"),
    ],
)
def test_points_without_ratings_are_refused(points, said):
    """Planted bug seen: two leagues that never met rated on one scale."""
    with pytest.raises(ValueError, match=said):
        statistics.elo_ratings(points)


def test_an_interval_of_several_numbers():
    """A statistic of a vector has an interval for each of its numbers. Planted bug seen: one
    percentile over all of them."""
    low, high = statistics.bootstrap_interval(lambda x: x.mean(axis=1), _X, resamples=2000)
    for game in range(4):
        alone = statistics.bootstrap_interval(statistics.mean, _X[:, game : game + 1])
        np.testing.assert_allclose((low[game], high[game]), alone, atol=0.06)
