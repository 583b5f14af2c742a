"""Device-resident replay: a ring of rows `[E, T]`, drawn uniformly or by priority.

A row is *drawable* when it is not `last`, when `future_steps` newer rows of its environment are in
the ring, and when the `history_steps` slots before it hold older rows or have never been written
(what lies before row 0 is never read: row 0 is `first`). Its weight is
(priority + floor)^exponent; weight 0 means "not drawable" and nothing else. An exponent of 0 is
uniform sampling.

Numbers that are not finite (`finite.py`) are stored as 0, and no window is drawn in which one has
stood, from the oldest row of its history to its newest; nor is a row whose priority is not finite.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from muzero_jax import finite
from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, Replay, Sample, Transition, Window


@chex.dataclass(frozen=True)
class ReplayState:
    """The ring.

    Attributes:
      rows: `Transition` with leading `[E, T]`; scalars are stored `[E, T]`, all else flat,
        `[E, T, size]`, because TPUs tile the two minor axes.
      weights: `[E, T]` float32.
      cursor: `[E]` int32, the slot that is written next.
      filled: `[E]` int32, how many slots hold rows.
    """

    rows: Transition
    weights: Array
    cursor: Array
    filled: Array


def check_length(rows_per_env: int, window: Window, *, rows_at_once: int) -> None:
    """Refuses a ring that is too short for a window beside the rows that are written at once.

    Raises:
      ArgumentError: naming what it has to hold.
    """
    least = window.history + 1 + window.future + rows_at_once
    if rows_per_env < least:
        raise ArgumentError(
            f"rows_per_env must be >= {least}, for {window.history} history +"
            f" {window.unroll} unroll + {window.bootstrap} bootstrap steps, the root and the"
            f" {rows_at_once} written at once (got {rows_per_env})"
        )


def make_replay(
    row: Transition,
    initial_priority: Callable[[Transition], Array],
    *,
    num_envs: int,
    rows_per_env: int,
    window: Window,
    observed_steps: int,
    priority_exponent: float,
    priority_floor: float,
) -> Replay:
    """A ring for `num_envs` environments (E) of `rows_per_env` rows each (T).

    Args:
      row: one example row, unbatched; arrays or `jax.ShapeDtypeStruct`s.
      initial_priority: `(Transition [t + n] of scalars) -> [t]`, the priority of the first t rows;
        it sees neither observations nor policies.
      num_envs: E.
      rows_per_env: T.
      window: S, K and n.
      observed_steps: F, frames in a sample.
      priority_exponent: α (Schaul et al. 2016).
      priority_floor: added to every priority, > 0.

    Raises:
      ArgumentError: where the ring is too short for a single window.
    """
    check_length(rows_per_env, window, rows_at_once=1)
    if not priority_floor > 0:
        raise ArgumentError(f"priority_floor must be > 0 (got {priority_floor})")
    layout = _Layout(
        row,
        num_envs,
        rows_per_env,
        window.history,
        window.future,
        observed_steps,
        window.bootstrap,
    )

    def to_weight(priority: Array) -> Array:
        usable = (priority >= 0) & (priority <= finite.LIMIT)  # NaN is neither.
        return jnp.where(usable, (priority + priority_floor) ** priority_exponent, 0.0)

    return Replay(
        init=functools.partial(_init, layout),
        add=functools.partial(_add, layout, initial_priority, to_weight),
        sample=functools.partial(_sample, layout),
        update_priorities=functools.partial(_update_priorities, to_weight),
        truncate_episodes=_truncate_episodes,
    )


class _Layout(NamedTuple):
    """The sizes of a ring, as `make_replay` names them; `ring` is T."""

    row: Transition
    num_envs: int
    ring: int
    history_steps: int
    future_steps: int
    observed_steps: int
    lookahead_steps: int


def _init(layout: _Layout) -> ReplayState:
    def empty(x):
        flat = (math.prod(x.shape),) if x.shape else ()
        return jnp.zeros((layout.num_envs, layout.ring, *flat), x.dtype)

    return ReplayState(
        rows=jax.tree.map(empty, layout.row),
        weights=jnp.zeros((layout.num_envs, layout.ring), jnp.float32),
        cursor=jnp.zeros((layout.num_envs,), jnp.int32),
        filled=jnp.zeros((layout.num_envs,), jnp.int32),
    )


def _add(
    layout: _Layout,
    initial_priority: Callable[[Transition], Array],
    to_weight: Callable[[Array], Array],
    state: ReplayState,
    env_start: Array,
    rows: Transition,
) -> ReplayState:
    if (rows.invalid_actions is None) != (state.rows.invalid_actions is None):
        raise ArgumentError(
            "replay: either the rows or the ring's example row have invalid_actions; masked of the"
            " environment's spec says which"
        )
    num_envs, steps = rows.reward.shape
    chex.assert_trees_all_equal_structs(rows, state.rows)
    for new, like in zip(jax.tree.leaves(rows), jax.tree.leaves(layout.row), strict=True):
        chex.assert_shape(new, (num_envs, steps, *like.shape))
    ring, future_steps = layout.ring, layout.future_steps
    if steps + layout.history_steps + 1 + future_steps > ring:
        raise ArgumentError(f"cannot add {steps} rows at once to a ring of {ring}")
    rows = finite.clean(rows)
    envs = env_start + jnp.arange(num_envs)
    cursor, filled = state.cursor[envs], state.filled[envs]
    slots = (cursor[:, None] + jnp.arange(steps)) % ring
    stored = jax.tree.map(
        lambda ring_leaf, new: ring_leaf.at[envs[:, None], slots].set(
            new.reshape(num_envs, steps, *ring_leaf.shape[2:]).astype(ring_leaf.dtype)
        ),
        state.rows,
        rows,
    )
    # The rows just written have no future yet, and the next S have lost their history.
    stale = (cursor[:, None] + jnp.arange(steps + layout.history_steps)) % ring
    weights = state.weights.at[envs[:, None], stale].set(0.0)
    # Exactly `steps` rows per environment have just got their last missing newer row. The age of
    # the newest row is 1.
    age = future_steps + steps - jnp.arange(steps + layout.lookahead_steps)
    matured = (cursor[:, None] + steps - age) % ring
    scalars = _scalars(stored, envs[:, None], matured)
    priority = jax.vmap(initial_priority)(scalars)
    written = filled[:, None] + steps >= age[:steps]
    drawable = written & ~scalars.last[:, :steps]
    drawable &= _has_clean_window(layout, stored, envs, (cursor + steps) % ring, steps)
    weights = weights.at[envs[:, None], matured[:, :steps]].set(
        jnp.where(drawable, to_weight(priority), 0.0)
    )
    return ReplayState(
        rows=stored,
        weights=weights,
        cursor=state.cursor.at[envs].set((cursor + steps) % ring),
        filled=state.filled.at[envs].set(jnp.minimum(filled + steps, ring)),
    )


def _has_clean_window(
    layout: _Layout, stored: Transition, envs: Array, cursor: Array, steps: int
) -> Array:
    """Whether the windows of the `steps` (t) rows that have just matured hold no marked row.

    `cursor` `[e]` is the slot after the newest row; returns `[e, t]`. A window is decided on once:
    when its root matures, all of it is stored.
    """
    window = layout.history_steps + 1 + layout.future_steps
    length = window - 1 + steps  # From the first window's oldest row to the newest row.
    slots = (cursor[:, None] - length + jnp.arange(length)) % layout.ring
    marked = finite.is_marked(stored.discount[envs[:, None], slots])
    seen = jnp.pad(jnp.cumsum(marked, axis=1), ((0, 0), (1, 0)))
    return seen[:, window:] == seen[:, :-window]


def _sample(layout: _Layout, state: ReplayState, key: chex.PRNGKey, batch_size: int) -> Sample:
    env, slot, probability = draw(state.weights, key, batch_size)
    offsets = jnp.arange(-layout.history_steps, layout.future_steps + 1)
    slots = (slot[:, None] + offsets) % layout.ring
    rows = jax.tree.map(
        lambda leaf, like: leaf[env[:, None], slots].reshape(*slots.shape, *like.shape),
        state.rows.replace(observation=None),
        layout.row.replace(observation=None),
    )
    # Only where nothing at all is drawable can there be a mark.
    rows = rows.replace(discount=jnp.where(finite.is_marked(rows.discount), 0.0, rows.discount))
    observed = slots[:, 1 : 1 + layout.observed_steps]
    frames = jax.tree.map(
        lambda leaf, like: leaf[env[:, None], observed].reshape(*observed.shape, *like.shape),
        state.rows.observation,
        layout.row.observation,
    )
    newest = (state.cursor - 1) % layout.ring
    weights = _usable(state.weights)
    return Sample(
        rows=rows,
        observations=frames,
        index=jnp.stack([env, slot], axis=-1),
        probability=probability,
        num_drawable=jnp.sum(weights > 0).astype(jnp.float32),
        total_weight=jnp.sum(weights),
        newest_updates=jnp.max(state.rows.made_at_updates[jnp.arange(len(newest)), newest]),
    )


def _update_priorities(
    to_weight: Callable[[Array], Array], state: ReplayState, index: Array, priority: Array
) -> ReplayState:
    chex.assert_shape(index, (*priority.shape, 2))
    chex.assert_rank(priority, 1)
    env, slot = index[:, 0], index[:, 1]
    old = state.weights[env, slot]
    new = jnp.where(old > 0, to_weight(priority), 0.0)
    # A row drawn twice gets the larger weight, in whatever order a GPU scatters.
    weights = state.weights.at[env, slot].set(0.0).at[env, slot].max(new)
    return state.replace(weights=weights)


def _truncate_episodes(state: ReplayState) -> ReplayState:
    num_envs, ring = state.weights.shape
    newest = (state.cursor - 1) % ring
    last = state.rows.last.at[jnp.arange(num_envs), newest].set(True)
    return state.replace(rows=state.rows.replace(last=last))


def _scalars(rows: Transition, envs: Array, slots: Array) -> Transition:
    """The scalar fields of stored rows at `[e, t]`; what is not a scalar is None."""
    names = ("reward", "discount", "first", "last", "value", "explored")
    return Transition(
        observation=None,
        invalid_actions=None,
        action=None,
        policy=None,
        made_at_updates=None,
        **{name: getattr(rows, name)[envs, slots] for name in names},
    )


def draw(weights: Array, key: chex.PRNGKey, batch_size: int) -> tuple[Array, Array, Array]:
    """Draws (environment, slot, true probability), each `[batch_size]`, by `weights` `[E, T]`.

    Two levels, a block and then a row inside it, each with its own uniform number: a single
    float32 cumulative sum over 1e6 weights loses 18 % of the rows, and one 23-bit uniform is too
    coarse for them. Where all weights are 0 it draws row 0 with probability 0. Weights that are not
    finite, or below 0, count as 0: one of them would draw all others' share, or spoil every sum.
    """
    block_key, row_key = jax.random.split(key)
    num_rows = weights.size
    block = math.ceil(math.sqrt(num_rows))
    num_blocks = math.ceil(num_rows / block)
    flat = jnp.pad(weights.reshape(-1), (0, num_blocks * block - num_rows))
    blocks = flat.reshape(num_blocks, block)
    sums = jnp.sum(_usable(blocks), axis=-1)
    which_block = inverse_cdf(sums, jax.random.uniform(block_key, (batch_size,)))
    inside = jax.vmap(inverse_cdf)(
        _usable(blocks[which_block]), jax.random.uniform(row_key, (batch_size,))
    )
    index = which_block * block + inside
    total = jnp.sum(sums)
    weight = _usable(weights.reshape(-1)[index])
    probability = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0)
    return index // weights.shape[1], index % weights.shape[1], probability


def _usable(weights: Array) -> Array:
    """Weights `[...]`, 0 where they are not finite or below 0."""
    return jnp.where((weights > 0) & jnp.isfinite(weights), weights, 0.0)


def inverse_cdf(weights: Array, uniform: Array) -> Array:
    """Indices drawn by `weights` `[N]` with numbers in [0, 1); weight 0 is never drawn."""
    # Rounding makes a parallel cumulative sum dip; the running maximum over positive entries
    # leaves entries of weight 0 exactly no width.
    total = jnp.where(weights > 0, jnp.cumsum(weights), 0.0)
    edges = jax.lax.cummax(total)
    index = jnp.searchsorted(edges, uniform * edges[-1], side="right")
    # uniform * total may round up to total: then the last entry with a width is meant.
    return jnp.minimum(index, jnp.searchsorted(edges, edges[-1], side="left")).astype(jnp.int32)
