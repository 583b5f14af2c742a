"""Players that make no mistakes, to measure others against."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation.actors import Actor

GAMES = ("tic_tac_toe",)
_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
_PLACES = 3 ** np.arange(9)  # A position's code: digit i is 0 (empty), 1 (mover's) or 2.


def make_choose(game: str) -> Callable[..., jax.Array]:
    """The choice of a perfect player: uniform among the moves that keep the game's value.

    Returns:
      `(carry, key, env_state, timestep [B]) -> action [B]` int32; it reads only `observation`, the
      planes `[B, 3, 3, 2]` of the mover's and the other's stones. Where a position is over, the
      action means nothing.

    Raises:
      ArgumentError: for a game without a perfect player.
    """
    if game not in GAMES:
        known = " and ".join(GAMES)
        raise ArgumentError(f"there is no perfect player for {game}; there is one for {known}")
    optimal = _optimal_moves()

    def choose(carry, key, env_state, timestep):
        del carry, env_state
        planes = timestep.observation.reshape(-1, 9, 2).astype(jnp.int32)
        code = (planes[..., 0] + 2 * planes[..., 1]) @ jnp.asarray(_PLACES, jnp.int32)
        logits = jnp.where(jnp.asarray(optimal)[code], 0.0, -jnp.inf)
        return jax.random.categorical(key, logits).astype(jnp.int32)

    return choose


def make_player(game: str) -> Actor:
    """The same as an `Actor`, which remembers nothing and takes any params."""
    return Actor(
        init=lambda params, num_games: (),
        observe=lambda carry, timestep, action: carry,
        choose=make_choose(game),
    )


def _optimal_moves() -> np.ndarray:
    """The moves `[3^9, 9]` bool that keep a position's value, by its code."""
    digits = np.arange(3**9)[:, None] // _PLACES % 3  # [3^9, 9]
    lines = np.array(_LINES)
    lost = (digits[:, lines] == 2).all(-1).any(-1)  # The one who moved last has a line.
    value = np.where(lost, -1, 0)
    optimal = np.zeros((3**9, 9), bool)
    empty = digits == 0
    # What a move leads to, as the other sees it: the stones change hands.
    swapped = np.array([0, 2, 1])[digits]
    after = (swapped @ _PLACES)[:, None] + 2 * _PLACES
    for stones in reversed(range(9)):
        codes = np.flatnonzero((~empty).sum(1) == stones)
        codes = codes[~lost[codes]]
        gains = np.where(empty[codes], -value[np.where(empty[codes], after[codes], 0)], -2)
        value[codes] = gains.max(1)
        optimal[codes] = gains == value[codes, None]
    return optimal
