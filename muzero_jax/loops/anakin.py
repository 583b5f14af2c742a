"""Environments, search, replay and learning in one compiled program, on one device or many."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from muzero_jax import finite
from muzero_jax.acting import init_carry
from muzero_jax.learner import check_ratio, fold_count, make_updates, split_count, updates_due
from muzero_jax.mesh import (
    AXIS,
    REPLICATED,
    SHARDED,
    fetch,
    make_mesh,
    shard,
    shard_key,
    shard_run,
)
from muzero_jax.types import Array, EnvSpec, Explore, Replay, RunState, Transition

ITERATION = 0  # The purpose of a key, beside `learner.LEARN`.

# A running return of which nothing is known; finite, because it is saved, and no reward changes it.
UNKNOWN = np.finfo(np.float32).max


@chex.dataclass(frozen=True)
class AnakinCarry:
    """`acting` of a `RunState`: the `ActingCarry` `[E]`, the running raw return of each episode
    `[E]` (`UNKNOWN` before the first one, and where one of its rewards was not finite), and how
    many steps of each environment were but next-step resets since the run began (`[E]` uint32, it
    may wrap)."""

    carry: Any
    running_return: Array
    resets: Array


def init_anakin_carry(spec: EnvSpec, num_envs: int, history_steps: int) -> AnakinCarry:
    """The carry of a new run."""
    return AnakinCarry(
        carry=init_carry(spec, num_envs, history_steps),
        running_return=jnp.full((num_envs,), UNKNOWN, jnp.float32),
        resets=jnp.zeros((num_envs,), jnp.uint32),
    )


Loop = Callable[[RunState], Iterator[tuple[RunState, dict[str, Any]]]]


def anakin(run: RunState, **options: Any) -> Iterator[tuple[RunState, dict[str, Any]]]:
    """The loop of `make_anakin(**options)` from `run` on."""
    return make_anakin(**options)(run)


def make_anakin(
    *,
    rollout: Callable[..., Any],
    replay: Replay,
    learn: Callable[..., Any],
    explore_at: Callable[[int], Explore],
    key: chex.PRNGKey,
    min_rows: int,
    rows_per_update: int,
    steps_per_iteration: int,
    mesh: Mesh | None = None,
) -> Loop:
    """A loop of one compiled program (Podracer, Hessel et al. 2021).

    An iteration is one program: act `steps_per_iteration` (T) steps in all E environments, store
    them, run the updates that have become due. It is written for one shard and runs on every
    device of the mesh with that device's share of the environments and of the replay. All runs of
    the loop share it.

    Args:
      rollout: from `make_rollout` with T steps.
      replay: takes the rows.
      learn: from `make_learn`, for one shard: with more than one its update averages over the
        axis `mesh.AXIS`, and its batch is a shard's.
      explore_at: `(attempted updates) -> Explore`.
      key: of the run.
      min_rows: rows stored before the first update.
      rows_per_update: r; updates attempted = floor((rows - min_rows) / r), exactly.
      steps_per_iteration: T.
      mesh: from `make_mesh`; None is the first device.

    Returns:
      `(run) -> ` a generator that yields `(run, metrics)` after every iteration, for ever.
      `run.acting` is an `AnakinCarry`. The buffers of the run are donated, and so are those of a
      yielded one once the next is asked for. `run.counters.env_steps` learns of the resets of one
      iteration during the next, so that the device never waits for the host.

    `train/non_finite_rows` of the metrics is how many of an iteration's rows held what is not
    finite, `train/non_finite_reward` and so on how many in each of `finite.FIELDS`.

    Raises:
      ArgumentError: by the generator, where E·T and the ratio do not divide.
    """
    mesh = make_mesh() if mesh is None else mesh
    state = (REPLICATED, SHARDED, SHARDED, SHARDED, SHARDED)
    iteration = make_iteration(rollout, replay, learn, key)
    iterate = jax.jit(
        shard(iteration, mesh, (*state, *4 * [REPLICATED]), (*state, REPLICATED)),
        donate_argnums=(0, 1, 2, 3, 4),
    )

    def loop(run: RunState) -> Iterator[tuple[RunState, dict[str, Any]]]:
        num_rows = run.timestep.reward.shape[0] * steps_per_iteration
        check_ratio(num_rows, min_rows=min_rows, rows_per_update=rows_per_update)
        run = shard_run(run, mesh)
        counters = run.counters
        resets = jnp.sum(run.acting.resets)
        while True:
            rows = counters.rows + num_rows
            due = updates_due(rows, min_rows=min_rows, rows_per_update=rows_per_update)
            train, replay_state, env, timestep, acting, metrics = iterate(
                run.train,
                run.replay,
                run.env,
                run.timestep,
                run.acting,
                explore_at(counters.updates),
                split_count(counters.iteration),
                split_count(counters.updates),
                np.int32(due - counters.updates),
            )
            # Waits for the iteration before, while the device is busy with this one.
            resets_told = np.uint32((counters.rows - counters.env_steps) & 0xFFFFFFFF)
            # Uint32, right even where the sum has wrapped.
            newly_told = fetch(resets) - resets_told
            resets = metrics.pop("resets")
            counters = counters._replace(
                iteration=counters.iteration + 1,
                env_steps=counters.env_steps + num_rows - int(newly_told),
                rows=rows,
                updates=due,
            )
            run = RunState(
                train=train,
                replay=replay_state,
                env=env,
                timestep=timestep,
                acting=acting,
                counters=counters,
            )
            yield run, {f"train/{name}": x for name, x in metrics.items()}

    return loop


def make_iteration(rollout, replay: Replay, learn, key: chex.PRNGKey) -> Callable[..., Any]:
    """One iteration of one shard as a pure function; `num_updates` is traced, so that warm-up is
    no second program."""
    update = make_updates(learn, key)

    def iteration(
        train, replay_state, env, timestep, acting, explore, count, updates, num_updates
    ):
        (env, timestep, carry), rows = rollout(
            train.params,
            shard_key(fold_count(key, ITERATION, count)),
            env,
            timestep,
            acting.carry,
            explore,
            (updates[1] & 0x7FFFFFFF).astype(jnp.int32),
        )
        replay_state = replay.add(replay_state, 0, rows)
        train, replay_state, metrics = update(train, replay_state, updates, num_updates)
        running, returns = episode_returns(acting.running_return, rows)
        arrived = jnp.concatenate([rows.first[:, 1:], timestep.first[:, None]], axis=1)
        resets = acting.resets + jnp.sum(arrived & rows.last, axis=1, dtype=jnp.uint32)
        acting = AnakinCarry(carry=carry, running_return=running, resets=resets)
        bad = finite.count(finite.faults(rows))
        # A few numbers cross the mesh in an iteration; the rest is averaged where it is made.
        sums = {**returns, "resets": jnp.sum(resets)}
        sums |= {f"non_finite_{name}": x for name, x in bad.items()}
        sums = jax.lax.psum(sums, AXIS)
        return train, replay_state, env, timestep, acting, metrics | sums

    return iteration


def episode_returns(running: Array, rows: Transition) -> tuple[Array, dict[str, Array]]:
    """Sum and number of the raw returns that finish in rows `[E, T]`; `running` is `[E]`.

    The reward of a `first` row still belongs to the episode before (same-step resets), or is 0
    (next-step resets). `running` is `UNKNOWN` before the run's first row, which finishes nothing;
    neither does an episode with a reward that is not finite.
    """
    reward_is_bad = finite.faults(rows) & 1  # Of `finite.FIELDS` the first.

    def step(running, row):
        reward, first, bad = row
        running = jnp.where(bad, UNKNOWN, running + reward)
        ends = first & (running < UNKNOWN)
        return jnp.where(first, 0.0, running), (jnp.where(ends, running, 0.0), ends)

    columns = (rows.reward.T, rows.first.T, reward_is_bad.T > 0)
    running, (finished, ends) = jax.lax.scan(step, running, columns)
    return running, {
        "return_sum": jnp.sum(finished),
        "episodes": jnp.sum(ends).astype(jnp.float32),
    }
