"""What reanalysing costs, told beside the other shares of time."""

import time

import jax
from jax.sharding import Mesh

from intervals import Interval
from muzero_jax.mesh import SPLIT, WHOLE, shard, shard_key
from muzero_jax.types import RunState
from parts import Parts

_ROUNDS = 3


class Stopwatch:
    """Seconds that the searches of one update take, measured once; nothing where it makes none.

    An update is one program, in which a part cannot be timed. So its searches are run once more
    by themselves, on a batch of the run's own replay: the best of three times.
    """

    def __init__(self, parts: Parts, mesh: Mesh):
        self._key = parts.run_key
        self._seconds: float | None = None
        self._program = None
        if parts.search_again is not None:

            def search_again(params, replay_state, key):
                return parts.search_again(params, replay_state, shard_key(key))

            program = shard(search_again, mesh, (WHOLE, SPLIT, WHOLE), SPLIT)
            self._program = jax.jit(program)

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
