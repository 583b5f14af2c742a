"""Noise-free whole episodes: one row per episode, raw rewards."""

import functools
from typing import NamedTuple

import chex
import jax
import numpy as np

from muzero_jax import actions
from muzero_jax.acting import beside
from muzero_jax.evaluation.actors import Actor
from muzero_jax.types import HostEnv, Params


class Episode(NamedTuple):
    """One finished episode.

    Attributes:
      environment: which of the batch played it.
      score: sum of raw rewards.
      steps: agent steps.
      cut: whether it was truncated, by the task's own limit or by the protocol's cap.
    """

    environment: int
    score: float
    steps: int
    cut: bool


def play_episodes(
    env: HostEnv,
    player: Actor,
    params: Params,
    key: chex.PRNGKey,
    *,
    episodes_per_env: int,
) -> list[Episode]:
    """Plays whole episodes, the same number in each environment, so that short ones are not
    counted more often than long ones.

    Args:
      env: not yet reset; its own step limit ends episodes that would not.
      player: chooses the actions; one actor is one compiled program, whatever the params.
      params: that it plays with.
      key: of its draws.
      episodes_per_env: how many from each environment.

    Returns:
      `episodes_per_env * env.num_envs` episodes, in order of environment.
    """
    carry, timestep = beside(params, player.init(params, env.num_envs)), env.reset()
    action = np.zeros((env.num_envs, *env.spec.action.shape), env.spec.action.dtype)
    scores, steps = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    episodes: list[list[Episode]] = [[] for _ in range(env.num_envs)]
    count = 0
    while min(map(len, episodes)) < episodes_per_env:
        carry, chosen = _step(player, carry, timestep, action, key, np.int32(count))
        was_last, action = timestep.last, np.asarray(chosen)
        timestep, count = env.step(action), count + 1
        # A reset of the same step brings the last reward on the `first` row; one of the next step
        # follows a `last` row, brings no reward and is no step.
        same_step = timestep.first & ~was_last
        scores += timestep.reward
        steps += (~timestep.first | same_step).astype(int)
        for i in np.flatnonzero(timestep.last | same_step):
            cut = bool(timestep.last[i] and timestep.discount[i] != 0)
            episodes[i].append(Episode(int(i), float(scores[i]), int(steps[i]), cut))
            scores[i], steps[i] = 0.0, 0
    return [episode for played in episodes for episode in played[:episodes_per_env]]


@functools.partial(jax.jit, static_argnums=0)
def _step(player: Actor, carry, timestep, action, key, count):
    carry = player.observe(carry, timestep, action)
    chosen = player.choose(carry, jax.random.fold_in(key, count), None, timestep)
    actions.check(chosen, action)
    return carry, chosen
