"""A task of memory alone: repeat what was shown at the beginning."""

import chex
import jax
import jax.numpy as jnp

from muzero_jax import errors, types
from muzero_jax.envs import wrappers


@chex.dataclass(frozen=True)
class MemoryState:
    """The cue of this episode, 0 or 1, and the steps that are over (`[]` int32 each)."""

    cue: types.Array
    steps: types.Array


def make_memory(*, length: int) -> types.Env:
    """Makes a task of `length + 2` decisions, of which only the last one counts.

    The first row shows a cue, `length` rows show nothing, then a row asks: reward 1 if the action
    there is the cue, else -1; the next episode begins in the same step. The observation `[3]` is
    (cue is 0, cue is 1, asked). Who sees fewer than `length + 2` rows, and remembers none, scores
    0 on average.
    """
    if length < 0:
        raise errors.ArgumentError(f"length {length} must be >= 0")
    spec = types.EnvSpec(
        observation=types.ArraySpec((3,), "bool"),
        action=types.ActionSpec.discrete(2),
        turn_sign=1,
        truncates=False,
        max_steps=length + 2,
    )

    def timestep(state, *, reward, first):
        last = state.steps == length + 2
        cue = (jnp.arange(2) == state.cue) & (state.steps == 0)
        return types.TimeStep(
            observation=jnp.append(cue, state.steps == length + 1),
            reward=jnp.where(last, reward, 0.0),
            discount=jnp.where(first | last, 0.0, 1.0),
            first=first,
            last=last,
            invalid_actions=None,
        )

    def reset(key):
        cue = jax.random.randint(key, (), 0, 2)
        state = MemoryState(cue=cue, steps=jnp.zeros((), jnp.int32))
        return state, timestep(state, reward=0.0, first=jnp.ones((), bool))

    def step(state, action, key):
        del key  # Only the start is random.
        state = state.replace(steps=state.steps + 1)
        reward = jnp.where(action == state.cue, 1.0, -1.0)
        return state, timestep(state, reward=reward, first=jnp.zeros((), bool))

    return wrappers.auto_reset(types.Env(spec=spec, reset=reset, step=step), same_step=True)
