"""Games of pgx (Koyamada et al. 2023): board games for two, MinAtar and others for one."""

import difflib
from typing import Any

import jax
import jax.numpy as jnp

from muzero_jax.envs import wrappers
from muzero_jax.types import Env, EnvSpec, TimeStep

# Not for an agent that knows one value and signs: more than two players, or turns that do not
# alternate (a throw of dice, a betting round), so that the sign of a value is not that of a ply.
_REFUSED = {
    "backgammon": "its turns do not alternate strictly",
    "bridge_bidding": "it has four players",
    "leduc_holdem": "its turns do not alternate strictly",
    "sparrow_mahjong": "it has three players",
}
_NO_LIMIT = 2**31 - 1


def make_pgx(game: str, *, max_steps: int | None = None) -> Env:
    """Makes a game of pgx by its id, e.g. "connect_four", "go_9x9" or "minatar-breakout".

    Observation, legal actions and reward are those of the player to move, or who has just moved;
    with two players `turn_sign` is -1.

    Args:
      game: id.
      max_steps: None: an episode ends by the rules alone, and the next one begins in the same
        step. Else it is cut (truncated, bootstrapped) there, and resets are of the next step.

    Raises:
      ValueError: for an unknown id, naming the nearest, or a game that two alternating players or
        one cannot play.
    """
    import pgx  # Here, because it is an optional dependency.

    if game not in pgx.available_envs():
        near = difflib.get_close_matches(game, pgx.available_envs(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {pgx.available_envs()}"
        raise ValueError(f"unknown game {game!r}{hint}")
    if game in _REFUSED:
        raise ValueError(f"game {game!r} cannot be played: {_REFUSED[game]}")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps {max_steps} must be >= 1")
    return wrappers.auto_reset(_plain(pgx.make(game), max_steps), same_step=max_steps is None)


def _plain(game: Any, max_steps: int | None) -> Env:
    """The game as an `Env` whose final row is `last`, and which never resets."""


    shape = jax.eval_shape(game.init, jax.random.key(0))
    spec = EnvSpec(
        observation_shape=shape.observation.shape,
        observation_dtype=str(shape.observation.dtype),
        num_actions=game.num_actions,
        turn_sign=1 if game.num_players == 1 else -1,
        truncates=max_steps is not None,
        max_steps=_NO_LIMIT if max_steps is None else max_steps,
    )
    masked = not game.id.startswith("minatar")  # There every action is always legal.

    def timestep(state, *, reward, first):
        last = state.terminated
        if max_steps is not None:
            last |= state._step_count >= max_steps
        return TimeStep(
            observation=state.observation,
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(first | state.terminated, 0.0, spec.turn_sign).astype(jnp.float32),
            first=jnp.asarray(first),
            last=last & ~first,
            invalid_actions=~state.legal_action_mask if masked else None,
        )

    def reset(key):
        state = game.init(key)
        return state, timestep(state, reward=0.0, first=jnp.bool_(True))

    def step(state, action, key):
        mover = state.current_player
        state = game.step(state, action, key)
        return state, timestep(state, reward=state.rewards[mover], first=jnp.bool_(False))

    return Env(spec=spec, reset=reset, step=step)
