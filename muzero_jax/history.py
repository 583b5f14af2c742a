"""What the representation sees: a `History` from stored rows or kept while acting; image shifts."""

import chex
import jax
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.errors import ArgumentError
from muzero_jax.types import (
    ActionSpec,
    Array,
    History,
    Observation,
    Sample,
    TimeStep,
    Transition,
    Window,
)


def history_from_window(
    observations: Observation, rows: Transition, row: Array, length: int
) -> History:
    """The `History` of one row of one window (unbatched).

    Args:
      observations: arrays `[F, ...]`, frames of rows 1..F of the window.
      rows: `Transition` `[L]`.
      row: `[]` int32 in [length, F], the row whose history is wanted.
      length: S.

    Returns:
      `History` `[S]`, equal to what acting saw at that row.
    """
    chex.assert_rank([rows.reward, rows.first], 1)
    chex.assert_equal_shape([rows.reward, rows.first])
    chex.assert_tree_shape_prefix(rows.action, rows.first.shape)
    chex.assert_rank(row, 0)
    start = row - length + 1  # The oldest row in sight; rows before an episode's first are hidden.

    def take(x: Array, begin: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, begin, length)

    position = jnp.arange(length)
    first = take(rows.first, start)
    # The newest `first` row in sight; -1 when the episode began earlier.
    begin = jnp.max(jnp.where(first, position, -1))
    valid = position >= begin
    led_here = position > begin  # Nothing led to a `first` row.
    shown = jnp.maximum(position, begin)
    return History(
        observation=jax.tree.map(lambda x: take(x, start - 1)[shown], observations),
        action=_where(led_here, take(rows.action, start - 1), 0),
        reward=jnp.where(led_here, take(rows.reward, start), 0.0),
        valid=valid,
    )


def history_init(observation: Observation, action: ActionSpec, length: int) -> History:
    """An empty acting carry for observations like `observation` `[E, ...]`."""
    num_envs = jax.tree.leaves(observation)[0].shape[0]
    return History(
        observation=jax.tree.map(
            lambda x: jnp.zeros((num_envs, length, *x.shape[1:]), x.dtype), observation
        ),
        action=actions.zeros(action, num_envs, length),
        reward=jnp.zeros((num_envs, length), jnp.float32),
        valid=jnp.zeros((num_envs, length), bool),
    )


def history_push(history: History, timestep: TimeStep, action: Array) -> History:
    """Appends one time step `[E]` and the action `[E, ...]` that led to it.

    A `first` row begins a new history.

    Raises:
      ArgumentError: for actions of another shape or kind than those of the history.
    """
    batch, length = history.valid.shape
    chex.assert_tree_shape_prefix(history, (batch, length))
    actions.check(action, history.action[:, 0])
    for new, old in zip(
        jax.tree.leaves(timestep.observation), jax.tree.leaves(history.observation), strict=True
    ):
        chex.assert_shape(new, (batch, *old.shape[2:]))
    chex.assert_shape([timestep.reward, timestep.first], (batch,))
    first = timestep.first

    def push(old: Array, new: Array) -> Array:
        return jnp.concatenate([old[:, 1:], new[:, None]], axis=1)

    return History(
        observation=jax.tree.map(
            lambda old, new: _where(first, new[:, None], push(old, new)),
            history.observation,
            timestep.observation,
        ),
        action=_where(first, 0, push(history.action, action)),
        reward=jnp.where(first[:, None], 0.0, push(history.reward, timestep.reward)),
        valid=push(jnp.where(first[:, None], False, history.valid), jnp.ones_like(first)),
    )


def _where(rows: Array, then, otherwise) -> Array:
    """`jnp.where` of flags `[N]` for arrays `[N, ...]`: never along another axis of theirs."""
    rank = max(jnp.ndim(then), jnp.ndim(otherwise))
    return jnp.where(rows.reshape(rows.shape + (1,) * (rank - rows.ndim)), then, otherwise)


def check_window(
    sample: Sample, window: Window, *, frames: int | None = None, reader: str = "the root"
) -> None:
    """Refuses, while tracing, a sample whose arrays are not those of windows of this size.

    Args:
      sample: from a replay.
      window: S, K and n.
      frames: how many are read; None is S, those of the root.
      reader: what reads them, for the message.

    Raises:
      ArgumentError: where the sample has fewer frames: a slice would give others, silently.
    """
    frames = frames or window.history
    batch = sample.probability.shape[0]
    chex.assert_shape(sample.probability, (batch,))
    chex.assert_shape(sample.index, (batch, 2))
    chex.assert_tree_shape_prefix(sample.rows, (batch, window.history + 1 + window.future))
    chex.assert_tree_shape_prefix(sample.observations, (batch,))
    for x in jax.tree.leaves(sample.observations):
        if x.shape[1] < frames:
            raise ArgumentError(
                f"{frames} frames are needed for {reader}, and a sample has {x.shape[1]}: pass"
                f" observed_steps={frames} to make_agent"
            )
    chex.assert_rank([sample.num_drawable, sample.total_weight, sample.newest_updates], 0)


def random_shift(key: chex.PRNGKey, observations: Array, max_shift: int) -> Array:
    """Images padded with their edge pixels and cropped at random (DrQ, Yarats et al. 2021).

    All frames of an example move together: what moves between them stays what the game moved.

    Args:
      key: draws one shift per example, uniform over the (2·max_shift + 1)^2 crops.
      observations: `[B, F, H, W, C]` of any dtype, which is kept.
      max_shift: pixels of padding on each side; 4 for images of 84x84 in the paper.

    Returns:
      Images of the same shape.
    """
    if observations.ndim != 5 or max_shift < 0:
        raise ArgumentError(
            "random_shift needs images (H, W, C) and max_shift >= 0,"
            f" got [B, F, ...] of {observations.shape} and {max_shift}"
        )
    batch, num_frames, height, width, depth = observations.shape
    pad = (max_shift, max_shift)
    padded = jnp.pad(observations, ((0, 0), (0, 0), pad, pad, (0, 0)), mode="edge")
    corners = jax.random.randint(key, (batch, 2), 0, 2 * max_shift + 1)

    def crop(frames: Array, corner: Array) -> Array:
        shape = (num_frames, height, width, depth)
        return jax.lax.dynamic_slice(frames, (0, corner[0], corner[1], 0), shape)

    return jax.vmap(crop)(padded, corners)
