"""Cadences in env steps, and what is told about the time between two lines of metrics."""

import contextlib
import time
from typing import Any

import numpy as np

from muzero_jax import finite
from muzero_jax.types import Counters

_BAD_ROWS = "train/non_finite_"  # What metrics about rows that are not finite begin with.


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in `(before, after]`."""
    return before // interval != after // interval


class Interval:
    """What happened since the last line of metrics; evaluation and saving do not count as time."""

    def __init__(self, counters: Counters):
        self._restart(counters)
        self._shares: dict[str, float] = {}

    def _restart(self, counters: Counters) -> None:
        self._counters, self._begin, self._paused = counters, time.perf_counter(), 0.0
        self._values: dict[str, float] = {}
        self._return_sum, self._episodes = 0.0, 0.0
        self._bad_rows: dict[str, int] = {}  # By the names of `finite.count`.

    @contextlib.contextmanager
    def paused(self):
        """Time inside is not training time."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def is_over(self, counters: Counters, interval_env_steps: int) -> bool:
        """Whether a line is due."""
        return crossed(self._counters.env_steps, counters.env_steps, interval_env_steps)

    def add(self, news: dict[str, Any]) -> None:
        """Takes one iteration's metrics: returns and rows add up, of the rest the newest counts."""
        news = dict(news)
        # NaN everywhere says that the iteration made no update.
        updated = np.isfinite(news.get("train/skipped_in_a_row", np.nan))
        self._return_sum += float(news.pop("train/return_sum", 0.0))
        self._episodes += float(news.pop("train/episodes", 0.0))
        for name in [x for x in news if x.startswith(_BAD_ROWS)]:
            field, rows = name.removeprefix(_BAD_ROWS), int(news.pop(name))
            self._bad_rows[field] = self._bad_rows.get(field, 0) + rows
        for name, value in news.items():
            if name.startswith("speed/share_"):
                self._shares[name] = value  # Told only by the iterations that were probes.
            elif updated or not name.startswith("train/"):
                self._values[name] = float(value)

    def fault(self, counters: Counters) -> str | None:
        """One line where more than 1 % of the interval's rows held what is not finite, else None.

        A single row never is too many, however short the interval.
        """
        rows, bad = counters.rows - self._counters.rows, self._bad_rows.get("rows", 0)
        if bad <= max(rows / 100, 1):
            return None
        fields = {name: self._bad_rows[name] for name in finite.FIELDS if self._bad_rows[name]}
        of_env = fields.keys() & {"reward", "observation", "discount"}
        told = ", ".join(f"{name} in {count}" for name, count in fields.items())
        group, culprit = ("env", "environment") if of_env else ("search", "network or the search")
        return (
            f"{group}: {bad} of {rows} rows since the line of metrics before held numbers that are"
            f" not finite, or beyond {finite.LIMIT:g}: {told}. No row of them was learned from, but"
            f" more than 1 % are a fault of the {culprit}"
        )

    def take(self, counters: Counters, config) -> dict[str, float]:
        """The values of one line of metrics; then starts anew."""
        old, seconds = self._counters, time.perf_counter() - self._begin - self._paused
        rows = (counters.rows - old.rows) / seconds
        values = self._values | self._shares
        values |= {
            "speed/env_steps_per_s": (counters.env_steps - old.env_steps) / seconds,
            "speed/simulations_per_s": rows * config.search.num_simulations,
            "speed/updates_per_s": (counters.updates - old.updates) / seconds,
            "train/episodes": self._episodes,
        }
        # Which fields is said only where there is something to say.
        bad_rows = {name: x for name, x in self._bad_rows.items() if x or name == "rows"}
        values |= {f"{_BAD_ROWS}{name}": x for name, x in bad_rows.items()}
        if self._episodes:
            values["train/return_mean"] = self._return_sum / self._episodes
        self._restart(counters)
        return values
