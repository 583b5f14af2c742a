"""Actions of every kind: what a network sees of them, how they are drawn, which are none."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax.errors import ArgumentError
from muzero_jax.types import ActionSpec, Array


def zeros(spec: ActionSpec, *lead: int) -> Array:
    """What stands where there is no action yet: `[*lead, *shape]` of the spec's dtype."""
    return jnp.zeros((*lead, *spec.shape), spec.dtype)


def num_features(spec: ActionSpec) -> int:
    """D of `features`."""
    return len(spec.low) if spec.sizes is None else sum(spec.sizes)


def flat(spec: ActionSpec, action: Array) -> Array:
    """Actions `[..., *shape]` as `[..., D]`; of another shape or kind they are refused."""
    lead = action.shape[: action.ndim - len(spec.shape)]
    check(action, jax.ShapeDtypeStruct((*lead, *spec.shape), jnp.dtype(spec.dtype)))
    return action.reshape(*lead, -1)


def features(spec: ActionSpec, action: Array, dtype="float32") -> Array:
    """What a network sees of actions `[..., *shape]`: `[..., D]`.

    A choice is one-hot, several are their one-hots in order, and real numbers are scaled from their
    bounds to [-1, 1].
    """
    numbers = flat(spec, action)
    if spec.sizes is None:
        low, high = jnp.asarray(spec.low), jnp.asarray(spec.high)
        return (2.0 * (numbers - low) / (high - low) - 1.0).astype(dtype)
    if not spec.shape:
        return jax.nn.one_hot(action, spec.sizes[0], dtype=dtype)
    each = [jax.nn.one_hot(numbers[..., i], n, dtype=dtype) for i, n in enumerate(spec.sizes)]
    return jnp.concatenate(each, axis=-1)


def legal_actions(invalid_actions: Array | None, shape: tuple[int, ...]) -> Array:
    """The legal actions `[B, A]` bool, all of `shape` where there is no mask."""
    if invalid_actions is None:
        return jnp.ones(shape, bool)
    chex.assert_type(invalid_actions, bool)
    chex.assert_shape(invalid_actions, shape)
    return ~invalid_actions


def draw(
    spec: ActionSpec, key: chex.PRNGKey, batch_size: int, invalid_actions: Array | None = None
) -> Array:
    """Uniform actions `[B, *shape]`.

    Args:
      spec: of what kind.
      key: of the draws.
      batch_size: B.
      invalid_actions: `[B, A]` bool, of one discrete action: those are not drawn.
    """
    if spec.sizes is None:
        uniform = jax.random.uniform(key, (batch_size, len(spec.low)))
        low, high = jnp.asarray(spec.low), jnp.asarray(spec.high)
        # Rounding may not lead out of the bounds.
        drawn = jnp.clip(low + uniform * (high - low), low, high)
        return drawn.reshape(batch_size, *spec.shape)
    if not spec.shape:
        legal = legal_actions(invalid_actions, (batch_size, spec.sizes[0]))
        logits = jnp.where(legal, 0.0, -jnp.inf)
        return jax.random.categorical(key, logits).astype(jnp.int32)
    sizes = jnp.asarray(spec.sizes)
    return jax.random.randint(key, (batch_size, len(spec.sizes)), 0, sizes, jnp.int32)


def is_one(spec: ActionSpec, action: np.ndarray) -> np.ndarray:
    """Whether each of `[..., *shape]` of NumPy is an action of this kind: bool `[...]`."""
    lead = action.shape[: action.ndim - len(spec.shape)]
    flat = np.asarray(action).reshape(*lead, -1)
    if spec.sizes is None:
        low, high = (np.asarray(x, np.float32) for x in (spec.low, spec.high))
        return ((flat >= low) & (flat <= high)).all(axis=-1)
    return ((flat >= 0) & (flat < np.asarray(spec.sizes))).all(axis=-1)


def check(action: Array, like: Array) -> None:
    """Refuses, while tracing, actions of another shape or kind: broadcast, they would pass unseen.

    Args:
      action: of any shape.
      like: an action of the wanted shape, of integers or of real numbers; its values mean nothing.

    Raises:
      ArgumentError: naming both.
    """
    kind = jnp.integer if jnp.issubdtype(like.dtype, jnp.integer) else jnp.floating
    if action.shape != like.shape or not jnp.issubdtype(action.dtype, kind):
        raise ArgumentError(
            f"an action must be {like.dtype}{like.shape} (got {action.dtype}{action.shape})"
        )
