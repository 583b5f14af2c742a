"""Cadences in env steps, and what is told about the time between two lines of metrics."""

import contextlib
import time
from typing import Any

import numpy as np

from muzero_jax.types import Counters


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
        """Takes one iteration's metrics: returns add up, of the rest the newest counts."""
        news = dict(news)
        # NaN everywhere says that the iteration made no update.
        updated = np.isfinite(news.get("train/skipped_in_a_row", np.nan))
        self._return_sum += float(news.pop("train/return_sum", 0.0))
        self._episodes += float(news.pop("train/episodes", 0.0))
        for name, value in news.items():
            if name.startswith("speed/share_"):
                self._shares[name] = value  # Told only by the iterations that were probes.
            elif updated or not name.startswith("train/"):
                self._values[name] = float(value)

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
        if self._episodes:
            values["train/return_mean"] = self._return_sum / self._episodes
        self._restart(counters)
        return values
