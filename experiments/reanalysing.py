"""What reanalysing costs, told beside the other shares of time."""

from collections.abc import Callable
import time

import jax
from jax.sharding import Mesh

from muzero_jax.mesh import SPLIT, WHOLE, shard, shard_key
from muzero_jax.types import RunState
from parts import Parts

_ROUNDS = 3


def make_stopwatch(parts: Parts, mesh: Mesh) -> Callable[[RunState], float] | None:
    """`(run) -> ` seconds that the searches of one update take; None where it makes none.

    An update is one program, in which a part cannot be timed. So its searches are run once more
    by themselves, on a batch of the run's own replay: the best of three times.
    """
    if parts.search_again is None:
        return None

    def search_again(params, replay_state, key):
        return parts.search_again(params, replay_state, shard_key(key))

    program = jax.jit(shard(search_again, mesh, (WHOLE, SPLIT, WHOLE), SPLIT))

    def seconds(run: RunState) -> float:
        def once(i: int) -> float:
            begin = time.perf_counter()
            key = jax.random.fold_in(parts.run_key, i)
            jax.block_until_ready(program(run.train.params, run.replay, key))
            return time.perf_counter() - begin

        jax.block_until_ready(run.train)
        once(0)  # Compiles.
        return min(map(once, range(_ROUNDS)))

    return seconds
