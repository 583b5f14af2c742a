"""Cadences in env steps, and the metrics of the time between two lines of them."""

import contextlib
import time
from typing import Any

import jax
import numpy as np

from muzero_jax import finite
from muzero_jax.mesh import REPLICATED, SHARDED, shard, shard_key
from muzero_jax.training.experiment import Experiment
from muzero_jax.types import Counters, RunState

_BAD_ROWS = "train/non_finite_"  # What metrics about rows that are not finite begin with.


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in `(before, after]`."""
    return before // interval != after // interval


class Interval:
    """What happened since the last line of metrics; evaluation and saving do not count as time.

    `num_simulations` are those of the search that made each row.
    """

    def __init__(self, counters: Counters, num_simulations: int = 0):
        self._num_simulations = num_simulations
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
        which = ", ".join(f"{name} in {count}" for name, count in fields.items())
        group, culprit = ("env", "environment") if of_env else ("search", "network or the search")
        return (
            f"{group}: {bad} of {rows} rows since the line of metrics before held numbers that are"
            f" not finite, or beyond {finite.LIMIT:g}: {which}. No row of them was learned from,"
            f" but more than 1 % are a fault of the {culprit}"
        )

    def take(self, counters: Counters) -> dict[str, float]:
        """The values of one line of metrics; the next interval begins."""
        old, seconds = self._counters, time.perf_counter() - self._begin - self._paused
        rows = (counters.rows - old.rows) / seconds
        values = self._values | self._shares
        values |= {
            "speed/env_steps_per_s": (counters.env_steps - old.env_steps) / seconds,
            "speed/simulations_per_s": rows * self._num_simulations,
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


_ROUNDS = 3


class ReanalyseCost:
    """Seconds that the searches of one update take, measured once; nothing where it makes none.

    An update is one program, in which a part cannot be timed. So its searches are run once more
    by themselves, on a batch of the run's own replay: the best of three times.

    Attributes:
      simulations_per_update: of these searches, on all devices.
    """

    def __init__(self, experiment: Experiment):
        self._key = experiment.key
        self._seconds: float | None = None
        self._program = None
        self.simulations_per_update = 0
        again, mesh = experiment.agent.search_again, experiment.mesh
        if again is None:
            return
        num_examples = again.num_examples(experiment.batch_size)

        def search_again(params, replay_state, key):
            sample = experiment.replay.sample(replay_state, key, num_examples)
            return again.values(params, sample, key)

        run = jax.eval_shape(experiment.init)
        shard_state = jax.eval_shape(experiment.replay.init)
        searched = jax.eval_shape(search_again, run.train.params, shard_state, self._key)
        self.simulations_per_update = searched.size * mesh.size * again.num_simulations

        def of_shard(params, replay_state, key):
            return search_again(params, replay_state, shard_key(key))

        self._program = jax.jit(shard(of_shard, mesh, (REPLICATED, SHARDED, REPLICATED), SHARDED))

    def look(self, run: RunState, interval: Interval) -> None:
        """Measures after the first update; that is no training time."""
        if self._program is None or self._seconds is not None or not run.counters.updates:
            return
        with interval.paused():
            jax.block_until_ready(run.train)
            self._time(run)  # Compiles.
            self._seconds = min(self._time(run) for _ in range(_ROUNDS))

    def share(self, updates_per_s: float) -> dict[str, float]:
        """The metric of an interval with so many updates a second."""
        if self._seconds is None:
            return {}
        return {"speed/share_reanalyse": self._seconds * updates_per_s}

    def _time(self, run: RunState) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(self._program(run.train.params, run.replay, self._key))
        return time.perf_counter() - begin
