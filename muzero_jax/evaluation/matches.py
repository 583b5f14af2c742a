"""Games of two players against each other in JAX environments, and every line of a small game.

The turns of `Env` alternate strictly, so the number of plies says whose turn it is, for a whole
batch. Scores are sums of raw rewards, and so +1, 0 or -1 in most games.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import actions
from muzero_jax.acting import beside
from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation.actors import (
    Actor,
    make_prior_player,
    make_random_player,
    make_search_player,
)
from muzero_jax.types import Array, Env, Params, TimeStep


class Outcomes(NamedTuple):
    """How many games are won, drawn and lost."""

    wins: int
    draws: int
    losses: int


def count_outcomes(scores: np.ndarray) -> Outcomes:
    """Counts scores above, at and below 0."""
    return Outcomes(*(int(np.sum(np.sign(scores) == x)) for x in (1, 0, -1)))


# Names that they have had: an actor plays episodes and matches.
make_search_match_player = make_search_player
make_prior_match_player = make_prior_player
make_random_match_player = make_random_player


def make_match(
    env: Env,
    first: Actor,
    second: Actor,
    *,
    num_games: int,
    max_plies: int,
    opening_plies: int = 0,
) -> Callable[..., np.ndarray | None]:
    """Plays a batch of games to their ends.

    The functions of each player are programs of their own, compiled once, however long the games
    and whatever the params.

    Args:
      env: of two players; what it does after a game's end is ignored.
      first: who makes the first move.
      second: the other.
      num_games: B.
      max_plies: games that are not over by then count what they have brought so far.
      opening_plies: how many moves are drawn uniformly before the players choose. Players without
        noise play one and the same game from one start; equal keys have equal openings, so that
        each can be played with either color.

    Returns:
      `play(key, first_params, second_params, stop)` -> scores `[num_games]` float32 from the view
      of `first`, or None where `stop()` was true before a ply; it may be left out. It raises
      `ArgumentError` where a player moves twice in a row.

    Raises:
      ArgumentError: for an environment without two alternating players.
    """
    _check_two_players(env)
    opener = make_random_player(env.spec)
    players = (first, second)
    choose, observe = ([jax.jit(getattr(x, f)) for x in players] for f in ("choose", "observe"))
    open_at_random = jax.jit(opener.choose)

    @jax.jit
    def begin(key):
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(key, num_games))
        return env_state, timestep, jnp.zeros(num_games), jnp.zeros(num_games, bool)

    @jax.jit
    def step(key, env_state, action, score, over, ply):
        actions.check(action, actions.zeros(env.spec.action, num_games))
        keys = jax.random.split(key, num_games)
        env_state, timestep = jax.vmap(env.step)(env_state, action, keys)
        score += jnp.where(over, 0.0, _gain(timestep, ply))
        again = jnp.any(~over & (timestep.discount > 0))
        return env_state, timestep, score, over | (timestep.discount == 0) | timestep.last, again

    def play(key, first_params, second_params, stop=lambda: False):
        both = first_params, second_params
        begin_key, ply_key = jax.random.split(beside(both, key))
        env_state, timestep, score, over = begin(begin_key)
        action = beside(both, actions.zeros(env.spec.action, num_games))
        carries = [beside(both, x.init(p, num_games)) for x, p in zip(players, both)]
        twice = []  # Of each ply, whether somebody has the turn again; read at the end.
        for ply in range(max_plies):
            if over.all():
                break
            if stop():
                return None
            carries = [see(x, timestep, action) for see, x in zip(observe, carries)]
            choose_key, step_key = jax.random.split(jax.random.fold_in(ply_key, ply))
            mover = ply % 2
            if ply < opening_plies:
                action = open_at_random((), choose_key, env_state, timestep)
            else:
                action = choose[mover](carries[mover], choose_key, env_state, timestep)
            env_state, timestep, score, over, again = step(
                step_key, env_state, action, score, over, np.int32(ply)
            )
            twice.append(again)
        for ply, again in enumerate(jax.device_get(twice)):
            _check_turns(ply, again)
        return jax.device_get(score)

    return play


def make_count_lines(
    env: Env, player: Actor, *, batch_size: int = 128, max_lines: int = 100_000
) -> Callable[[chex.PRNGKey, Params], tuple[Outcomes, Outcomes]]:
    """Follows every legal reply to a player who answers the same moves in the same way.

    A line is one game from beginning to end; a position that several lines share counts with each.
    A player without lost lines cannot be beaten.

    Args:
      env: of two players, and small: every reply multiplies the lines.
      player: without chance; with it, one drawn answer counts in each line.
      batch_size: B of the programs, which are compiled once; batches are filled up.
      max_lines: most lines that go on at one ply.

    Returns:
      `count(key, params)` -> `Outcomes` where it moves first, and where it moves second, of one
      start; it raises `ArgumentError` where there are more than `max_lines`, or a player moves
      twice in a row.

    Raises:
      ArgumentError: for an environment without two alternating players, or with other actions than
        one discrete choice.
    """
    _check_two_players(env)
    num_actions = env.spec.num_actions
    choose = jax.jit(player.choose)

    @jax.jit
    def begin(key, params):
        env_state, timestep = jax.vmap(env.reset)(jnp.broadcast_to(key, (batch_size,)))
        carry = player.init(params, batch_size)
        carry = player.observe(carry, timestep, jnp.zeros(batch_size, jnp.int32))
        return env_state, timestep, carry, jnp.zeros(batch_size)

    @jax.jit
    def step(state, action, key, ply):
        env_state, _, carry, score = state
        keys = jnp.broadcast_to(key, (batch_size,))
        env_state, timestep = jax.vmap(env.step)(env_state, action, keys)
        carry = player.observe(carry, timestep, action)
        return env_state, timestep, carry, score + _gain(timestep, ply)

    def longer(key, params, lines, side):
        """The lines `[N, plies]`, N <= B, with each next move; and the scores of those at an end.

        They are played from the start: nothing needs to be known of what a player remembers.
        """
        count, plies = lines.shape
        begin_key, step_key, choose_key = jax.random.split(key, 3)
        state = begin(begin_key, params)
        for ply, action in enumerate(np.resize(lines, (batch_size, plies)).T):
            state = step(state, action, step_key, np.int32(ply))
        env_state, timestep, carry, score = state
        seen, score = jax.tree.map(lambda x: x[:count], jax.device_get((timestep, score)))
        _check_turns(plies - 1, (seen.discount > 0).any())
        ended = ((seen.discount == 0) | seen.last) & (plies > 0)
        moves = np.ones((count, num_actions), bool)
        if plies % 2 == side:
            chosen = choose(carry, jax.random.fold_in(choose_key, plies), env_state, timestep)
            moves = np.arange(num_actions) == np.asarray(chosen)[:count, None]
        elif seen.invalid_actions is not None:
            moves = ~seen.invalid_actions
        line, move = np.nonzero(moves & ~ended[:, None])
        score = -score if side else score
        return np.column_stack([lines[line], move.astype(np.int32)]), score[ended]

    def follow(key, params, side):
        """`Outcomes` of the player who moves at the plies of parity `side`."""
        lines, scores = np.zeros((1, 0), np.int32), []
        while len(lines):
            if len(lines) > max_lines:
                count = f"more than {max_lines} lines after {lines.shape[1]} plies"
                raise ArgumentError(f"{count}: the game is too large to follow every reply")
            batches = np.split(lines, range(batch_size, len(lines), batch_size))
            lines, ends = zip(*(longer(key, params, batch, side) for batch in batches))
            lines, scores = np.concatenate(lines), [*scores, *ends]
        return count_outcomes(np.concatenate(scores))

    return lambda key, params: (follow(key, params, 0), follow(key, params, 1))


def _gain(timestep: TimeStep, ply: Array) -> Array:
    """What the ply has brought to the first player: a reward belongs to the player who moved."""
    return jnp.where(ply % 2 == 0, timestep.reward, -timestep.reward)


def _check_two_players(env: Env) -> None:
    if env.spec.turn_sign != -1:
        raise ArgumentError("a match needs an environment of two players (turn_sign -1)")


def _check_turns(ply: int, again) -> None:
    """Refuses games in which a player moves twice in a row, that is a discount above 0."""
    if again:
        raise ArgumentError(
            "a match needs players who alternate strictly, with discounts of -1 or 0 (got one"
            f" above 0 after ply {ply}: the same player moves again)"
        )
