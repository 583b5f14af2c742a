"""Learning from stored rows alone: no environment is stepped (MuZero Unplugged, Schrittwieser et
al. 2021). What the ring cannot hold at once streams through it."""

from collections.abc import Callable, Iterator
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from muzero_jax import finite
from muzero_jax.learner import make_updates, split_count
from muzero_jax.mesh import (
    AXIS,
    REPLICATED,
    SHARDED,
    fetch,
    make_mesh,
    put_rows,
    shard,
    shard_run,
)
from muzero_jax.types import Replay, RunState, Transition


def unplugged(
    run: RunState,
    *,
    blocks: Callable[[int], Iterator[Transition]],
    blocks_at_first: int,
    num_blocks: int,
    streams: bool,
    replay: Replay,
    learn: Callable[..., Any],
    key: chex.PRNGKey,
    rows_per_update: int,
    updates_per_iteration: int,
    mesh: Mesh | None = None,
) -> Iterator[tuple[RunState, dict[str, Any]]]:
    """Yields `(run, metrics)` after every iteration, for ever.

    A new run first puts `blocks_at_first` blocks into its ring. An iteration is then
    `updates_per_iteration` (U) updates in one program; where data stream, one more block is added
    before them. No environment steps: `counters.env_steps` and `rows` count the rows that a run
    which acts would have made for as many updates, r for each. What is read, and every key, is a
    function of the counters.

    Args:
      run: where to start; `env`, `timestep` and `acting` are None. Its buffers are donated, and so
        are those of a yielded run once the next is asked for.
      blocks: `(i) -> ` blocks i, i + 1, ... for ever: rows `[e, t]` of NumPy for the lanes of this
        process.
      blocks_at_first: with which a new run fills its ring.
      num_blocks: of a round through all data; `data/passes` counts those that have been made.
      streams: whether each iteration adds a block.
      replay: takes the rows.
      learn: from `make_learn`, for one shard; over several devices, see `anakin`.
      key: of the run.
      rows_per_update: r.
      updates_per_iteration: U; where data stream, U·r are the E·t rows of a block.
      mesh: from `make_mesh`; None is the first device.

    `train/non_finite_rows` and those beside it are as in `anakin`, of the rows that were added.
    """
    mesh = make_mesh() if mesh is None else mesh
    run = shard_run(run, mesh)

    def add_rows(state, bad, rows):
        news = jax.lax.psum(finite.count(finite.faults(rows)), AXIS)
        return replay.add(state, 0, rows), jax.tree.map(jnp.add, bad, news)

    add = shard(add_rows, mesh, (SHARDED, REPLICATED, SHARDED), (SHARDED, REPLICATED))
    add = jax.jit(add, donate_argnums=0)
    update = shard(
        make_updates(learn, key),
        mesh,
        (REPLICATED, SHARDED, REPLICATED, REPLICATED),
        (REPLICATED, SHARDED, REPLICATED),
    )
    update = jax.jit(update, donate_argnums=(0, 1))
    counters, train, state = run.counters, run.train, run.replay
    none = finite.count(np.zeros(0, np.uint8))
    none = bad = jax.device_put(none, NamedSharding(mesh, REPLICATED))
    if not counters.rows:
        for block in itertools.islice(blocks(0), blocks_at_first):
            state, bad = add(state, bad, put_rows(mesh, block))
    rows_per_iteration = updates_per_iteration * rows_per_update
    more = blocks(blocks_at_first + counters.rows // rows_per_iteration) if streams else None
    before = None
    while True:
        if more is not None:
            state, bad = add(state, bad, put_rows(mesh, next(more)))
        train, state, metrics = update(
            train, state, split_count(counters.updates), np.int32(updates_per_iteration)
        )
        # Waits for the iteration before, so that no more than one block is on its way.
        fetch(before)
        before = jax.tree.leaves(metrics)[:1]
        counters = counters._replace(
            iteration=counters.iteration + 1,
            env_steps=counters.env_steps + rows_per_iteration,
            rows=counters.rows + rows_per_iteration,
            updates=counters.updates + updates_per_iteration,
        )
        run = run.replace(train=train, replay=state, counters=counters)
        added = blocks_at_first + (streams * counters.rows) // rows_per_iteration
        passes = {"data/passes": added / num_blocks}
        metrics |= {f"non_finite_{name}": x for name, x in bad.items()}
        bad = none
        yield run, {f"train/{name}": x for name, x in metrics.items()} | passes
