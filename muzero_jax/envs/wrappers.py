"""What turns one environment into another: its resets, its openings, its batches on the host."""

from collections.abc import Callable
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from muzero_jax import actions, errors, types
from muzero_jax.envs.checked import check_host_env


@chex.dataclass(frozen=True)
class AutoResetState:
    """State of the plain environment, and whether its newest row was `last` (`[]` bool)."""

    env: Any
    last: types.Array


def auto_reset(env: types.Env, same_step: bool) -> types.Env:
    """Wraps a plain `env`, whose `step` marks the final row `last` and never resets.

    Args:
      env: one unbatched environment; it is never stepped after a `last` row.
      same_step: False: the row after a `last` row ignores the action and is the reset row. True:
        the last reward, with discount 0, arrives on the `first` row of the next episode and no
        row is `last`; refused where episodes can be truncated, because the observation that a
        truncation bootstraps from would be lost.

    Returns:
      An `Env` that can be stepped for ever.
    """
    if same_step and env.spec.truncates:
        raise errors.ArgumentError("same_step=True needs an environment that never truncates")

    def reset(key):
        state, timestep = env.reset(key)
        return AutoResetState(env=state, last=jnp.zeros((), bool)), _first_row(timestep, 0.0)

    step = _same_step(env) if same_step else _next_step(env)
    draw = None if env.draw is None else lambda state: env.draw(state.env)
    return types.Env(spec=env.spec, reset=reset, step=step, draw=draw)


def _next_step(env: types.Env):
    """Returns `step` in which the row after a `last` row is the reset row."""

    def step(state, action, key):
        step_key, reset_key = jax.random.split(key)
        inner, timestep = jax.lax.cond(
            state.last,
            lambda: _reset_row(env, reset_key, 0.0),
            lambda: _typed(*env.step(state.env, action, step_key)),
        )
        return AutoResetState(env=inner, last=timestep.last), timestep

    return step


def _same_step(env: types.Env):
    """Returns `step` in which the final row is replaced by the next episode's first row."""

    def step(state, action, key):
        step_key, reset_key = jax.random.split(key)
        inner, timestep = _typed(*env.step(state.env, action, step_key))
        inner, timestep = jax.lax.cond(
            timestep.last,
            lambda: _reset_row(env, reset_key, timestep.reward),
            lambda: (inner, timestep),
        )
        return AutoResetState(env=inner, last=state.last), timestep

    return step


def _reset_row(env: types.Env, key: chex.PRNGKey, reward):
    """Returns a new episode's state and its first row, which carries `reward` `[]`."""
    state, timestep = env.reset(key)
    return state, _first_row(timestep, reward)


def _first_row(timestep: types.TimeStep, reward) -> types.TimeStep:
    """Keeps what `timestep` `[]` shows and pins the rest of a first row."""
    return timestep.replace(
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.zeros((), jnp.float32),
        first=jnp.ones((), bool),
        last=jnp.zeros((), bool),
    )


def _typed(state, timestep: types.TimeStep):
    """Pins the dtypes of a stepped `timestep` `[]`: both branches of a reset must agree."""
    return state, timestep.replace(
        reward=jnp.asarray(timestep.reward, jnp.float32),
        discount=jnp.asarray(timestep.discount, jnp.float32),
        first=jnp.zeros((), bool),
        last=jnp.asarray(timestep.last, bool),
    )


def random_openings(env: types.Env, opening_plies: int) -> types.Env:
    """Begins each episode after 0 to `opening_plies` uniform legal moves of a plain `env`.

    So an agent that plays itself starts from positions that it would not come to (exploring
    starts, Sutton and Barto 2018, section 5.3), and every return is still one of its own play. A
    move that would end the episode is not made: the ply is left out. In a batch each step costs
    `opening_plies` more steps of the environment, whether an episode begins or not. Rewards on the
    way are dropped, and limits count these moves.

    Args:
      env: one unbatched environment, before `auto_reset`.
      opening_plies: the largest number, and each number is as likely.

    Raises:
      ArgumentError: for a number below 0.
    """
    if opening_plies < 0:
        raise errors.ArgumentError(f"opening_plies {opening_plies} must be >= 0")

    def reset(key):
        reset_key, number_key, moves_key = jax.random.split(key, 3)
        number = jax.random.randint(number_key, (), 0, opening_plies + 1)

        def play(ply, position):
            state, timestep = position
            action_key, step_key = jax.random.split(jax.random.fold_in(moves_key, ply))
            invalid = timestep.invalid_actions
            invalid = None if invalid is None else invalid[None]
            action = actions.draw(env.spec.action, action_key, 1, invalid)[0]
            moved = _typed(*env.step(state, action, step_key))
            stays = (ply >= number) | moved[1].last
            return jax.tree.map(lambda old, new: jnp.where(stays, old, new), position, moved)

        begun = _typed(*env.reset(reset_key))
        state, timestep = jax.lax.fori_loop(0, opening_plies, play, begun)
        return state, _first_row(timestep, 0.0)

    return env._replace(reset=reset)


def discretised(env: types.Env, num_bins: int) -> types.Env:
    """An environment of real actions as one of several choices: each number is one of `num_bins`.

    Args:
      env: with real actions `[D]`.
      num_bins: evenly spaced values of each number, both bounds among them; at least 2.
    """
    given = env.spec.action
    if given.sizes is not None:
        raise errors.ArgumentError(f"bins are for real numbers (the action is {given})")
    if num_bins < 2:
        raise errors.ArgumentError(f"bins {num_bins} must be >= 2")
    low, high = jnp.asarray(given.low), jnp.asarray(given.high)

    def step(state, action, key):
        numbers = low + action.astype(jnp.float32) * (high - low) / (num_bins - 1)
        return env.step(state, numbers.reshape(given.shape), key)

    action = types.ActionSpec.several((num_bins,) * len(given.low))
    return env._replace(spec=dataclasses.replace(env.spec, action=action), step=step)


def as_host_env(env: types.Env, num_envs: int, key: chex.PRNGKey) -> types.HostEnv:
    """Serves a JAX environment `[num_envs]` as a checked `HostEnv`, for evaluation or host code.

    Its programs are its own: who serves one environment again and again takes `make_host_env`.
    """
    return make_host_env(env)(num_envs, key)


def make_host_env(env: types.Env) -> Callable[[int, chex.PRNGKey], types.HostEnv]:
    """Serves a JAX environment any number of times, each time with other keys.

    Returns:
      `(num_envs, key) -> HostEnv`, checked; all of one `num_envs` share two compiled programs.
    """
    reset_all = jax.jit(jax.vmap(env.reset))
    step_all = jax.jit(
        lambda state, action, key, count: jax.vmap(env.step)(
            state, action, jax.random.split(jax.random.fold_in(key, count), action.shape[0])
        )
    )

    def serve(num_envs: int, key: chex.PRNGKey) -> types.HostEnv:
        reset_key, run_key = jax.random.split(key)
        memory: dict[str, Any] = {}

        def reset():
            state, timestep = reset_all(jax.random.split(reset_key, num_envs))
            memory.update(state=state, count=0)
            return jax.device_get(timestep)

        def step(action):
            memory["state"], timestep = step_all(
                memory["state"], action, run_key, memory["count"]
            )
            memory["count"] += 1
            return jax.device_get(timestep)

        def draw():
            states = jax.device_get(memory["state"])
            return [
                env.draw(jax.tree.map(lambda x, i=i: x[i], states)) for i in range(num_envs)
            ]

        host_env = types.HostEnv(
            spec=env.spec,
            num_envs=num_envs,
            reset=reset,
            step=step,
            draw=None if env.draw is None else draw,
        )
        return check_host_env(host_env)

    return serve
