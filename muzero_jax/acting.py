"""One act step, which searches and stores, and its scan over JAX environments."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import actions, finite
from muzero_jax.history import history_init, history_push
from muzero_jax.types import (
    Array,
    Env,
    EnvSpec,
    Explore,
    History,
    Observation,
    Params,
    Replay,
    SearchFn,
    SearchOutput,
    TimeStep,
    Transition,
)

NO_EXPLORATION = Explore(
    temperature=np.float32(0.0),
    noise_scale=np.float32(0.0),
    random_move=np.float32(0.0),
    spread=np.float32(0.0),
)


@chex.dataclass(frozen=True)
class ActingCarry:
    """What acting remembers between steps.

    Attributes:
      history: `[E, S]`.
      action: the newest one, `[E, *action.shape]`.
    """

    history: History
    action: Array


def init_carry(spec: EnvSpec, num_envs: int, history_steps: int) -> ActingCarry:
    """The carry before the first time step."""
    return ActingCarry(
        history=history_init(_blank(spec, num_envs), spec.action, history_steps),
        action=actions.zeros(spec.action, num_envs),
    )


def beside(params: Params, tree: Any) -> Any:
    """A first carry or key where programs with these params leave theirs, so that one program
    serves the first step and all others."""
    leaves = [x for x in jax.tree.leaves(params) if isinstance(x, jax.Array) and x.committed]
    if not leaves or not leaves[0].is_fully_replicated:
        return tree
    return jax.device_put(tree, leaves[0].sharding)


def act(
    search: SearchFn,
    params: Params,
    key: chex.PRNGKey,
    carry: ActingCarry,
    timestep: TimeStep,
    explore: Explore,
) -> tuple[ActingCarry, SearchOutput]:
    """Searches every environment at its newest time step `[E]`.

    Rows that are `last` are searched too: their value bootstraps a truncation; the action then
    means nothing. What is not finite in a time step is seen as 0: the replay learns nothing of such
    a row, and the search goes on.

    Raises:
      ArgumentError: for a search whose actions are not those of the environments.
    """
    history = history_push(carry.history, finite.clean(timestep), carry.action)
    output = search(params, key, history, timestep.invalid_actions, explore)
    actions.check(output.action, carry.action)
    return ActingCarry(history=history, action=output.action), output


def transition(timestep: TimeStep, output: SearchOutput, made_at_updates: Array) -> Transition:
    """The row `[E]` that replay stores for a time step and the search made at it."""
    return Transition(
        observation=timestep.observation,
        reward=timestep.reward,
        discount=timestep.discount,
        first=timestep.first,
        last=timestep.last,
        invalid_actions=timestep.invalid_actions,
        action=output.action,
        policy=output.policy,
        value=output.value,
        explored=output.explored & ~timestep.last,  # The action of a `last` row is never executed.
        made_at_updates=jnp.full(timestep.reward.shape, made_at_updates, jnp.int32),
    )


def blank_timestep(spec: EnvSpec, num_envs: int) -> TimeStep:
    """A time step `[num_envs]` of zeros, for its shapes."""
    numbers, flags = jnp.zeros((num_envs,), jnp.float32), jnp.zeros((num_envs,), bool)
    return TimeStep(
        observation=_blank(spec, num_envs),
        reward=numbers,
        discount=numbers,
        first=flags,
        last=flags,
        invalid_actions=jnp.zeros((num_envs, spec.num_actions), bool) if spec.masked else None,
    )


def _blank(spec: EnvSpec, num_envs: int) -> Observation:
    """Observations `[num_envs]` of zeros."""
    return jax.tree.map(
        lambda x: jnp.zeros((num_envs, *x.shape), x.dtype), spec.observation_tree()
    )


def example_row(
    spec: EnvSpec, search: SearchFn, params: Params, history_steps: int
) -> Transition:
    """Shapes and dtypes of one stored row, unbatched; nothing is computed."""

    def row(params, key):
        timestep, carry = blank_timestep(spec, 1), init_carry(spec, 1, history_steps)
        _, output = act(search, params, key, carry, timestep, NO_EXPLORATION)
        return jax.tree.map(lambda x: x[0], transition(timestep, output, 0))

    return jax.eval_shape(row, params, jax.random.key(0))


def make_rollout(
    env: Env,
    search: SearchFn | Callable[[Any], SearchFn],
    *,
    num_steps: int,
    bind_env_state: bool = False,
) -> Callable[..., Any]:
    """Acts `num_steps` (T) steps in a batch of JAX environments with `lax.scan`.

    Args:
      env: one environment.
      search: a `SearchFn`, or with `bind_env_state` what makes one at each step:
        `(env_state [E]) -> SearchFn`, for searches whose model is the environment.
      num_steps: T.
      bind_env_state: which of the two.

    Returns:
      `rollout(params, key, env_state, timestep, carry, explore, made_at_updates)` ->
      `((env_state, timestep, carry), Transition [E, T])`. The time step passed in is the first
      row; the one returned has not been searched yet, and is cleaned as `finite.clean` does.
    """

    def rollout(params, key, env_state, timestep, carry, explore, made_at_updates):
        def step(state, key):
            env_state, timestep, carry = state
            search_key, env_key = jax.random.split(key)
            bound = search(env_state) if bind_env_state else search
            carry, output = act(bound, params, search_key, carry, timestep, explore)
            row = transition(timestep, output, made_at_updates)
            env_keys = jax.random.split(env_key, output.action.shape[0])
            env_state, timestep = jax.vmap(env.step)(env_state, output.action, env_keys)
            return (env_state, timestep, carry), row

        keys = jax.random.split(key, num_steps)
        state, rows = jax.lax.scan(step, (env_state, timestep, carry), keys)
        env_state, timestep, carry = state
        state = (env_state, finite.clean(timestep), carry)  # It may be saved as it is.
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)

    return rollout


def make_act_and_add(search: SearchFn, replay: Replay) -> Callable[..., Any]:
    """One act step for a group of e host environments, stored at once.

    Returns:
      `act_and_add(params, replay_state, carry, timestep, env_start, key, explore,
      made_at_updates)` -> `(replay_state, carry, faults)`; the actions are `carry.action` `[e]`,
      and `faults` `[e]` are those of `finite.faults` in the rows that were stored.
    """

    def act_and_add(
        params, replay_state, carry, timestep, env_start, key, explore, made_at_updates
    ):
        carry, output = act(search, params, key, carry, timestep, explore)
        rows = transition(timestep, output, made_at_updates)
        found = finite.faults(rows)
        rows = jax.tree.map(lambda x: x[:, None], rows)
        return replay.add(replay_state, env_start, rows), carry, found

    return act_and_add
