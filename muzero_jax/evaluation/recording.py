"""Whole episodes as trajectories: every row that was played, with what the search made of it."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np

from muzero_jax import acting
from muzero_jax.data.trajectories import take_rows
from muzero_jax.evaluation.actors import make_random_player
from muzero_jax.types import EnvSpec, Explore, HostEnv, Params, SearchFn, TimeStep, Transition

# `(carry, TimeStep [E], count) -> (carry, rows [E])`, all of NumPy but the carry.
Play = Callable[[Any, TimeStep, int], tuple[Any, Transition]]


def episode_trajectories(
    env: HostEnv, play: Play, carry: Any, *, episodes_per_env: int
) -> Iterator[Transition]:
    """Plays whole episodes, the same number in each environment; each is a trajectory.

    Args:
      env: not yet reset.
      play: chooses the actions, and makes the rows.
      carry: that of `play` before the first row.
      episodes_per_env: how many from each environment.
    """
    timestep, count = env.reset(), 0
    running: list[list[Transition]] = [[] for _ in range(env.num_envs)]
    done = np.zeros(env.num_envs, int)
    while done.min() < episodes_per_env:
        carry, rows = play(carry, timestep, count)
        for i in np.flatnonzero(done < episodes_per_env):
            same_step = bool(timestep.first[i] and running[i])
            running[i].append(_at(rows, i))
            if same_step or timestep.last[i]:
                trajectory = jax.tree.map(lambda *x: np.stack(x), *running[i])
                # After a reset in the same step the newest row is the next episode's first.
                end = len(running[i]) - same_step
                yield take_rows(trajectory, 0, end)
                running[i] = running[i][end:]
                done[i] += 1
        timestep, count = env.step(rows.action), count + 1


def _at(rows: Transition, index: int) -> Transition:
    return jax.tree.map(lambda x: x[index], rows)


def search_play(
    search: SearchFn, params: Params, key: chex.PRNGKey, explore: Explore, updates: int
) -> Play:
    """Plays by a search, as training does; its carry is that of `acting.init_carry`.

    Args:
      search: that acts.
      params: that it acts with.
      key: of all that it draws.
      explore: how it explores.
      updates: that made the params, to be written beside each row.
    """

    @jax.jit
    def step(carry, timestep, count):
        key_of_step = jax.random.fold_in(key, count)
        carry, output = acting.act(search, params, key_of_step, carry, timestep, explore)
        return carry, acting.transition(timestep, output, updates)

    def play(carry, timestep, count):
        carry, rows = step(carry, timestep, np.int32(count))
        return carry, jax.device_get(rows)

    return play


def random_play(spec: EnvSpec, *, seed: int) -> Play:
    """Plays uniformly among the legal actions; there are neither policies nor values."""
    key, player = jax.random.key(seed), make_random_player(spec)

    @jax.jit
    def choose(timestep, count):
        return player.choose((), jax.random.fold_in(key, count), None, timestep)

    def play(carry, timestep, count):
        action = jax.device_get(choose(timestep, np.int32(count)))
        no_search = dict.fromkeys(["policy", "value", "made_at_updates"])
        return carry, Transition(
            **timestep, action=action, explored=np.zeros(len(action), bool), **no_search
        )

    return play
