"""How scalars are written as logits: the MuZero value transform, two-hot supports, identity."""

import chex
import jax
import jax.numpy as jnp
import optax

from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, Codec


def squash(x: Array, eps: float = 1e-3) -> Array:
    """h(x) = sign(x)(sqrt(|x|+1) - 1) + eps·x, any shape (MuZero appendix F; Pohlen et al. 2018).

    Written without the cancellation of the textbook form, which loses small values in float32.
    """
    magnitude = jnp.abs(x)
    return jnp.sign(x) * magnitude / (jnp.sqrt(magnitude + 1.0) + 1.0) + eps * x


def unsquash(y: Array, eps: float = 1e-3) -> Array:
    """Inverse of `squash`, any shape; relative error below 1e-6 in float32."""
    magnitude = jnp.abs(y)
    root = jnp.sqrt(1.0 + 4.0 * eps * (1.0 + eps + magnitude))
    # u = sqrt(|x| + 1) - 1, again without subtracting nearly equal numbers.
    u = magnitude * (2.0 - 4.0 * eps / (1.0 + 2.0 * eps + root)) / (1.0 + root)
    return jnp.sign(y) * u * (u + 2.0)


def two_hot(x: Array, low: float, high: float, num_bins: int) -> Array:
    """Distribution `[..., num_bins]` over equidistant atoms whose mean is `x` clipped to range.

    At most two neighbouring entries are non-zero. `x` is `[...]`, in the units of the atoms.
    """
    position = (jnp.clip(x, low, high) - low) * ((num_bins - 1) / (high - low))
    # One formula for both neighbours: a triangle of width one around each atom.
    distance = jnp.abs(position[..., None] - jnp.arange(num_bins, dtype=jnp.float32))
    return jnp.maximum(1.0 - distance, 0.0)


def make_two_hot_codec(
    *, num_bins: int, low: float, high: float, transform: str = "muzero"
) -> Codec:
    """A categorical head over `num_bins` atoms from `low` to `high` in transformed space.

    `transform` is "muzero" (squash) or "identity". Values outside the support become its edge.
    MuZero's Atari support is 601 bins from -300 to 300 (appendix F).
    """
    if num_bins < 2 or not low < high:
        raise ArgumentError(
            f"a support needs num_bins >= 2 and low < high, got {num_bins, low, high}"
        )
    pairs = {"muzero": (squash, unsquash), "identity": (lambda x: x, lambda y: y)}
    if transform not in pairs:
        raise ArgumentError(f"transform must be one of {sorted(pairs)}, got {transform!r}")
    forward, backward = pairs[transform]
    atoms = jnp.linspace(low, high, num_bins, dtype=jnp.float32)

    def encode(x: Array) -> Array:
        return two_hot(forward(jnp.asarray(x, jnp.float32)), low, high, num_bins)

    def decode(logits: Array) -> Array:
        chex.assert_axis_dimension(logits, -1, num_bins)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        # A plain sum of products: matrix units would round to bfloat16 or tf32 here.
        return backward(jnp.sum(probabilities * atoms, axis=-1))

    def loss(logits: Array, target: Array) -> Array:
        chex.assert_shape(logits, (*target.shape, num_bins))
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), encode(target))

    return Codec(
        num_logits=num_bins,
        encode=encode,
        decode=decode,
        loss=loss,
        low=float(backward(jnp.float32(low))),
        high=float(backward(jnp.float32(high))),
    )


def outside(codec: Codec, x: Array) -> Array:
    """Whether scalars `[...]` lie beyond the codec's support, by more than rounding; bool."""
    slack_low, slack_high = (1e-4 * max(1.0, abs(bound)) for bound in (codec.low, codec.high))
    return (x < codec.low - slack_low) | (x > codec.high + slack_high)


def clip(codec: Codec, x: Array) -> Array:
    """Scalars `[...]` as the codec can write them; what is not finite stays, and is seen."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, codec.low, codec.high), x)


def identity_codec() -> Codec:
    """A single output that is the scalar itself, trained with half the squared error."""

    def encode(x: Array) -> Array:
        return jnp.asarray(x, jnp.float32)[..., None]

    def decode(logits: Array) -> Array:
        chex.assert_axis_dimension(logits, -1, 1)
        return logits[..., 0].astype(jnp.float32)

    def loss(logits: Array, target: Array) -> Array:
        chex.assert_shape(logits, (*target.shape, 1))
        return 0.5 * jnp.square(decode(logits) - target)

    return Codec(num_logits=1, encode=encode, decode=decode, loss=loss)
