"""n-step returns and unroll masks over rows; everything here is unbatched.

Row j holds the reward r_j and discount d_j that arrived with its observation. Wherever an episode
ends, these functions look only at `last` and at zeros of d, and a return also stops where a random
move was executed (see docs/conventions.md).
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from muzero_jax.types import Array


def bootstrap_offsets(last: Array, explored: Array, n: int) -> Array:
    """m_j for rows j in [0, L-n): how many steps the return of row j runs before its bootstrap.

    The least of n, the first i >= 1 with `last[j+i]` and the first i >= 0 with `explored[j+i]`:
    what followed a random move is not what the policy is worth.

    `last` and `explored` are `[L]` bool; returns `[L-n]` int32 in [0, n].
    """
    chex.assert_rank([last, explored], 1)
    chex.assert_equal_shape([last, explored])
    rows = last.shape[0] - n
    stops = last | explored
    offsets = jnp.full((rows,), n, jnp.int32)
    for i in reversed(range(1, n + 1)):
        offsets = jnp.where(stops[i : i + rows], i, offsets)
    return jnp.where(explored[:rows], 0, offsets)


def n_step_returns(
    rewards: Array, discounts: Array, offsets: Array, bootstraps: Array, *, n: int, gamma: float
) -> Array:
    """z_j = sum_{i=1..m} (prod_{l<i} γ d_{j+l}) r_{j+i} + (prod_{l<=m} γ d_{j+l}) v, m = m_j.

    Args:
      rewards: `[L]`, reward of row j from the view of the player who moved into it.
      discounts: `[L]` in {-1, 0, 1}.
      offsets: `[L-n]` int32 in [0, n], from `bootstrap_offsets`.
      bootstraps: `[L-n]`, the value v of row j + m_j from the view of the player to move there.
      n: most steps.
      gamma: discount per step.

    Returns:
      `[L-n]` float32; MuZero section 3, with the signs of two players carried by d.
    """
    chex.assert_rank([rewards, discounts, offsets, bootstraps], 1)
    chex.assert_equal_shape([rewards, discounts])
    chex.assert_shape([offsets, bootstraps], (rewards.shape[0] - n,))
    rows = offsets.shape[0]
    returns = bootstraps  # Until step m_j, from which rewards are added backwards.
    for i in reversed(range(1, n + 1)):
        r_i, d_i = rewards[i : i + rows], gamma * discounts[i : i + rows]
        returns = jnp.where(i <= offsets, r_i + d_i * returns, returns)
    return returns


class UnrollMasks(NamedTuple):
    """Bool `[K+1]` along an unroll from its root.

    Attributes:
      alive: nothing has terminated between the root and this step.
      cut: an earlier step was a truncated end, so nothing is known of this one.
      last: this row is a final observation.
      truncated: this row is a final observation that did not terminate.
    """

    alive: Array
    cut: Array
    last: Array
    truncated: Array


def unroll_masks(discounts: Array, last: Array) -> UnrollMasks:
    """Masks along rows t..t+K from the root t; `discounts` and `last` are `[K+1]`.

    The root's own discount is never used: whatever ended before it is not of its episode.
    """
    chex.assert_rank([discounts, last], 1)
    chex.assert_equal_shape([discounts, last])
    continues = (discounts != 0).at[0].set(True)
    alive = jnp.cumprod(continues).astype(bool)
    truncated = last & continues
    ended = jnp.cumsum(alive & truncated) > 0
    cut = jnp.concatenate([jnp.zeros((1,), bool), ended[:-1]])
    return UnrollMasks(alive=alive, cut=cut, last=last, truncated=truncated)
