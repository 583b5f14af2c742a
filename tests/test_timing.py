"""Cadences, and the metrics of an interval, by a clock that the test sets."""

import time

import pytest

from muzero_jax import finite
from muzero_jax.training.timing import Interval, crossed
from muzero_jax.types import Counters


class _Clock:
    """Seconds that pass when they are asked to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = _Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def test_a_cadence_is_crossed_by_the_step_that_reaches_its_multiple():
    """Planted bug seen: a step early."""
    reached = [after for after in range(1, 31) if crossed(after - 1, after, 10)]
    assert reached == [10, 20, 30]
    assert crossed(9, 31, 10) and not crossed(10, 19, 10)


def test_rates_are_those_of_the_interval_without_its_pauses(clock):
    """Two pauses of 3 and 5 seconds in 18; then an interval of its own. Planted bugs seen: pauses
    counted; the last one alone counted."""
    interval = Interval(Counters(env_steps=1_000, rows=2_000, updates=10), num_simulations=7)
    for seconds in (3.0, 5.0):
        with interval.paused():
            clock.now += seconds
    clock.now += 10.0
    values = interval.take(Counters(env_steps=1_500, rows=2_600, updates=30))
    assert values["speed/env_steps_per_s"] == pytest.approx(50.0)
    assert values["speed/simulations_per_s"] == pytest.approx(60.0 * 7)
    assert values["speed/updates_per_s"] == pytest.approx(2.0)
    clock.now += 4.0
    values = interval.take(Counters(env_steps=1_600, rows=2_600, updates=30))
    assert values["speed/env_steps_per_s"] == pytest.approx(25.0)


def test_returns_add_up_and_of_the_rest_the_newest_update_counts(clock):
    """The second iteration makes no update (NaN), the first is a probe. Planted bugs seen: losses
    of an iteration without updates taken; shares of time on one line only."""
    interval = Interval(Counters())
    probe = {"train/skipped_in_a_row": 0.0, "train/loss": 2.0, "speed/share_env": 0.25}
    interval.add(probe | {"train/return_sum": 6.0, "train/episodes": 2.0})
    without = {"train/skipped_in_a_row": float("nan"), "train/loss": float("nan")}
    host = {"speed/host_share_env": 0.5}
    interval.add(without | host | {"train/return_sum": 3.0, "train/episodes": 1.0})
    clock.now += 1.0
    values = interval.take(Counters(env_steps=1))
    assert values["train/loss"] == 2.0 and values["train/return_mean"] == 3.0
    assert values["train/episodes"] == 3.0 and values["speed/host_share_env"] == 0.5
    assert values["speed/share_env"] == 0.25
    clock.now += 1.0
    values = interval.take(Counters(env_steps=2))
    assert values["speed/share_env"] == 0.25, "that of the newest probe"
    assert "train/return_mean" not in values and "train/loss" not in values


def test_bad_rows_are_those_of_their_interval(clock):
    """One is never too many, two of 100 are. Planted bugs seen: a single one too many; those of
    the interval before counted again."""
    one = {f"train/non_finite_{name}": 0 for name in finite.FIELDS}
    one |= {"train/non_finite_rows": 1, "train/non_finite_reward": 1}
    interval = Interval(Counters())
    interval.add(one)
    assert interval.fault(Counters(rows=20)) is None
    interval.add(one)
    assert "2 of 20 rows" in interval.fault(Counters(rows=20))
    clock.now += 1.0
    assert interval.take(Counters(rows=20))["train/non_finite_rows"] == 2
    assert interval.fault(Counters(rows=40)) is None
