"""Noise-free whole episodes: one row per episode, raw rewards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from muzero_jax.acting import NO_EXPLORATION, act, init_carry
from muzero_jax.types import Array, EnvSpec, HostEnv, Params, SearchFn, TimeStep


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


class Player(NamedTuple):
    """How actions are chosen.

    Attributes:
      init: `() -> carry`.
      step: `(carry, TimeStep [E] of NumPy, count) -> (carry, action [E])`.
    """

    init: Callable[[], Any]
    step: Callable[[Any, TimeStep, int], tuple[Any, Array]]


def make_search_player(
    search: SearchFn,
    spec: EnvSpec,
    *,
    num_envs: int,
    history_steps: int,
    random_move: float = 0.0,
) -> Callable[[Params, chex.PRNGKey], Player]:
    """Plays the search's own choice, without noise or temperature.

    Args:
      search: a `SearchFn`.
      spec: of the environments.
      num_envs: E.
      history_steps: S.
      random_move: probability of a uniform legal action instead. Mnih et al. 2015 evaluate with
        0.05: where a game does not go on by itself, a player without chance can wait for ever.

    Returns:
      `(params, key) -> Player`; all its players share one compiled program.
    """

    explore = NO_EXPLORATION.replace(random_move=np.float32(random_move))

    @jax.jit
    def step(params, key, carry, timestep, count):
        count_key = jax.random.fold_in(key, count)
        return act(search, params, count_key, carry, timestep, explore)[0]

    def player(params: Params, key: chex.PRNGKey) -> Player:
        def play(carry, timestep, count):
            carry = step(params, key, carry, timestep, np.int32(count))
            return carry, jax.device_get(carry.action)

        return Player(lambda: init_carry(spec, num_envs, history_steps), play)

    return player


def make_random_player(spec: EnvSpec, *, seed: int) -> Player:
    """Plays uniformly among the legal actions."""
    random = np.random.default_rng(seed)

    def play(carry, timestep, count):
        del count
        noise = random.random((timestep.reward.shape[0], spec.num_actions))
        if timestep.invalid_actions is not None:
            noise = np.where(timestep.invalid_actions, -1.0, noise)
        return carry, np.argmax(noise, axis=1).astype(np.int32)

    return Player(lambda: None, play)


def play_episodes(env: HostEnv, player: Player, *, episodes_per_env: int) -> list[Episode]:
    """Plays whole episodes, the same number in each environment, so that short ones are not
    counted more often than long ones.

    Args:
      env: not yet reset; its own step limit ends episodes that would not.
      player: of the same batch size.
      episodes_per_env: how many from each environment.

    Returns:
      `episodes_per_env * env.num_envs` episodes, in order of environment.
    """
    carry, timestep = player.init(), env.reset()
    scores, steps = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    episodes: list[list[Episode]] = [[] for _ in range(env.num_envs)]
    count = 0
    while min(map(len, episodes)) < episodes_per_env:
        carry, action = player.step(carry, timestep, count)
        was_last = timestep.last
        timestep, count = env.step(np.asarray(action)), count + 1
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
