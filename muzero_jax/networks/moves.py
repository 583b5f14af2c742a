"""How a dynamics step sees a move on a board: planes as large as the board."""

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, EnvSpec


def move_planes(
    encoding: str, action: Array, num_actions: int, board: tuple[int, int], dtype
) -> Array:
    """The planes `[B, H, W, P]` of actions `[B]`, zeros and ones.

    Args:
      encoding: see `network.action_encoding` in `make_conv_network`; not "constant".
      action: of the player to move, as the board is seen by that player.
      num_actions: A.
      board: H, W.
      dtype: of the planes.
    """
    height, width = board
    points = height * width
    if encoding == "column":
        played = jax.nn.one_hot(action, width, dtype=dtype)[:, None, :, None]
        return jnp.broadcast_to(played, (*action.shape, height, width, 1))
    if encoding == "spatial":
        # Action H·W, the pass, is out of range and leaves its plane empty.
        return jax.nn.one_hot(action, points, dtype=dtype).reshape(-1, height, width, 1)
    kinds = num_actions // points
    if encoding == "chess":
        kind, point = action % kinds, _chess_points(height, width)[action // kinds]
    else:
        kind, point = action // points, _shogi_points(height, width)[action % points]
    at = jax.nn.one_hot(point, points, dtype=dtype)
    planes = at[:, :, None] * jax.nn.one_hot(kind, kinds, dtype=dtype)[:, None, :]
    return planes.reshape(-1, height, width, kinds)


def _chess_points(height: int, width: int) -> Array:
    """Of each square, which counts up the files from the bottom left, its point row·W + column."""
    square = np.arange(height * width)
    return jnp.asarray((height - 1 - square % height) * width + square // height)


def _shogi_points(height: int, width: int) -> Array:
    """The same where squares count down the files from the top right."""
    square = np.arange(height * width)
    return jnp.asarray(square % height * width + width - 1 - square // height)


def check_encoding(name: str, spec: EnvSpec, *, same_size: bool) -> None:
    """Refuses an encoding that is none, or not for this board.

    Args:
      name: of the encoding.
      spec: observations are `(H, W, C)`.
      same_size: whether the embedding is as large as the board.

    Raises:
      ArgumentError: names the field and what it may be.
    """
    if name == "constant":
        return
    height, width, _ = spec.observation_shape
    points, actions = height * width, spec.num_actions
    whole, several = actions % points == 0, f"a multiple of {points} actions"
    # Whether the actions fit, and what would.
    fitting = {
        "spatial": (actions in (points, points + 1), f"{points} actions, or one more to pass"),
        "column": (actions == width, f"{width} actions"),
        "chess": (whole, several),
        "shogi": (whole, several),
    }
    if name not in fitting:
        raise ArgumentError(
            f"action_encoding must be one of {('constant', *fitting)} (got {name!r})"
        )
    fits, words = fitting[name]
    if not fits or not same_size:
        raise ArgumentError(
            f"action_encoding {name!r} needs stages of stride 1 and, on {height}x{width}"
            f" points, {words} (got {actions} actions); 'constant' takes any"
        )
