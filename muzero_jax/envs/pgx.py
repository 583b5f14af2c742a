"""Games of pgx (Koyamada et al. 2023): board games for two, MinAtar and others for one."""

import difflib
from typing import Any

import jax
import jax.numpy as jnp

from muzero_jax.envs import wrappers
from muzero_jax.errors import ArgumentError
from muzero_jax.types import ActionSpec, ArraySpec, Env, EnvSpec, TimeStep

# `turn_sign` -1 says that the other player moves next, always; here that is not so.
_REFUSED = {
    "backgammon": "a player moves once for each die, so that turns do not alternate strictly",
    "leduc_holdem": "the player who began the first round begins the second, so that turns do not"
    " alternate strictly",
    "sparrow_mahjong": "it has three players",
}
# Most steps that the rules allow, those of pgx included: it ends Go after twice as many moves as
# points, the chess games and shogi after a fixed number. Games that are absent have no limit.
_MAX_STEPS = {
    "animal_shogi": 256,
    "chess": 512,
    "connect_four": 42,
    "gardner_chess": 256,
    "go_9x9": 2 * 81,
    "go_19x19": 2 * 361,
    "hex": 121 + 1,  # And the swap.
    "kuhn_poker": 3,
    "minatar-freeway": 2501,
    "othello": 2 * 60,  # A pass is followed by a disc or by the end.
    "shogi": 512,
    "tic_tac_toe": 9,
}
_NO_LIMIT = 2**31 - 1


def make_pgx(game: str, *, max_steps: int | None = None, opening_plies: int = 0) -> Env:
    """Makes a game of pgx by its id, e.g. "connect_four", "go_9x9" or "minatar-breakout".

    Observation and legal actions are those of the player to move, the reward is that of the one
    who has moved; with two players `turn_sign` is -1. MinAtar is pgx's default: the least set of
    actions, and each is replaced by the one before with probability 0.1.

    Args:
      game: id.
      max_steps: None: an episode ends by the rules alone, and the next one begins in the same
        step. Else it is cut (truncated, bootstrapped) there, and resets are of the next step.
      opening_plies: each game begins after 0 to so many random moves, which `max_steps` counts;
        see `random_openings`.

    Raises:
      ArgumentError: for an unknown id, naming the nearest, or a game that two alternating players
        or one cannot play.
    """
    import pgx  # Here, because it is an optional dependency.

    if game not in pgx.available_envs():
        near = difflib.get_close_matches(game, pgx.available_envs(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {pgx.available_envs()}"
        raise ArgumentError(f"unknown game {game!r}; {hint}")
    if game in _REFUSED:
        raise ArgumentError(f"game {game!r} cannot be played: {_REFUSED[game]}")
    if max_steps is not None and max_steps < 1:
        raise ArgumentError(f"max_steps {max_steps} must be >= 1")
    plain = _plain(pgx.make(game), max_steps)
    if opening_plies:
        plain = wrappers.random_openings(plain, opening_plies)
    return wrappers.auto_reset(plain, same_step=max_steps is None)


def _plain(game: Any, max_steps: int | None) -> Env:
    """The game as an `Env` whose final row is `last`, and which never resets."""
    shape = jax.eval_shape(game.init, jax.random.key(0))
    spec = EnvSpec(
        observation=ArraySpec(shape.observation.shape, str(shape.observation.dtype)),
        action=ActionSpec.discrete(shape.legal_action_mask.shape[0]),
        turn_sign=1 if game.num_players == 1 else -1,
        truncates=max_steps is not None,
        max_steps=min(max_steps or _NO_LIMIT, _MAX_STEPS.get(game.id, _NO_LIMIT)),
        masked=not game.id.startswith("minatar"),  # There every action is always legal.
    )

    def timestep(state, *, reward, first):
        last = state.terminated  # No game sets `state.truncated`.
        if max_steps is not None:
            last |= state._step_count >= max_steps
        return TimeStep(
            observation=state.observation,
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(first | state.terminated, 0.0, spec.turn_sign).astype(jnp.float32),
            first=first,
            last=last,
            invalid_actions=~state.legal_action_mask if spec.masked else None,
        )

    def reset(key):
        state = game.init(key)
        return state, timestep(state, reward=0.0, first=jnp.ones((), bool))

    def step(state, action, key):
        mover = state.current_player
        state = game.step(state, action, key)
        return state, timestep(state, reward=state.rewards[mover], first=jnp.zeros((), bool))

    return Env(spec=spec, reset=reset, step=step, draw=lambda state: state.to_svg())
