"""Catch, the game of falling balls of bsuite (Osband et al. 2020)."""

import chex
import jax
import jax.numpy as jnp

from muzero_jax import errors, types
from muzero_jax.envs import wrappers


@chex.dataclass(frozen=True)
class CatchState:
    """Row of the ball, its column, and the paddle's (`[]` int32 each)."""

    ball_row: types.Array
    ball_column: types.Array
    paddle: types.Array


def make_catch(*, rows: int = 10, columns: int = 5) -> types.Env:
    """Makes Catch: a ball falls one row per step, and the paddle at the bottom has to be under it.

    Actions move the paddle left, not at all, or right; it begins in the middle, the ball in any
    column. After `rows - 1` steps the reward is 1 for a caught ball and -1 for a lost one; the
    next episode begins in the same step. The observation `[rows, columns, 1]` is True at ball and
    paddle. Every ball can be caught where `columns // 2 < rows`.
    """
    if rows < 2:
        raise errors.ArgumentError(f"rows {rows} must be >= 2")
    if columns < 1:
        raise errors.ArgumentError(f"columns {columns} must be >= 1")
    spec = types.EnvSpec(
        # 0 and 1 to every network; a uint8 would be divided by some.
        observation=types.ArraySpec((rows, columns, 1), "bool"),
        action=types.ActionSpec.discrete(3),
        turn_sign=1,
        truncates=False,
        max_steps=rows - 1,
    )

    def timestep(state, first):
        last = state.ball_row == rows - 1
        board = jnp.zeros((rows, columns, 1), bool)
        board = board.at[state.ball_row, state.ball_column].set(True)
        score = jnp.where(state.ball_column == state.paddle, 1.0, -1.0)
        return types.TimeStep(
            observation=board.at[rows - 1, state.paddle].set(True),
            reward=jnp.where(last, score, 0.0),
            discount=jnp.where(first | last, 0.0, 1.0),
            first=first,
            last=last,
            invalid_actions=None,
        )

    def reset(key):
        state = CatchState(
            ball_row=jnp.zeros((), jnp.int32),
            ball_column=jax.random.randint(key, (), 0, columns),
            paddle=jnp.asarray(columns // 2, jnp.int32),
        )
        return state, timestep(state, jnp.ones((), bool))

    def step(state, action, key):
        del key  # Only the start is random.
        state = state.replace(
            ball_row=state.ball_row + 1,
            paddle=jnp.clip(state.paddle + action - 1, 0, columns - 1).astype(jnp.int32),
        )
        return state, timestep(state, jnp.zeros((), bool))

    return wrappers.auto_reset(types.Env(spec=spec, reset=reset, step=step), same_step=True)
