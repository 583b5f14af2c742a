"""The value transform and the two-hot support against textbook forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import codecs

ATARI = {"num_bins": 601, "low": -300.0, "high": 300.0}


def numpy_two_hot(x, low, high, num_bins):
    """The textbook form: the mass is shared between the atoms at floor and ceil, in float64."""
    x = np.asarray(x, np.float64)
    position = (np.clip(x, low, high) - low) / (high - low) * (num_bins - 1)
    below, above = np.floor(position).astype(int), np.ceil(position).astype(int)
    share = position - below
    out = np.zeros((x.size, num_bins))
    out[np.arange(x.size), below] += 1.0 - share
    out[np.arange(x.size), above] += share
    return out


def both_signs(count):
    magnitude = np.geomspace(1e-6, 1e5, count)
    return np.concatenate([-magnitude, magnitude]).astype(np.float32)


def test_squash_has_the_published_values():
    """h(x) = sign(x)(√(|x|+1) - 1) + 0.001 x, where the square root comes out even.

    Planted: the linear term left out; eps = 1e-2.
    """
    # √4-1 = 1, √9-1 = 2, √100-1 = 9, √1e6-1 = 999; plus x/1000.
    x = np.array([0.0, 3.0, -3.0, 8.0, -8.0, 99.0, 999_999.0], np.float32)
    want = [0.0, 1.003, -1.003, 2.008, -2.008, 9.099, 1998.999]
    np.testing.assert_allclose(codecs.squash(x), want, rtol=3e-7)
    np.testing.assert_allclose(codecs.unsquash(np.float32(want)), x, rtol=1e-6)


def test_squash_and_unsquash_are_exact_and_inverse_from_1e_6_to_1e5():
    """Relative errors against float64, and of the round trip, are at most 1e-6.

    Planted: the textbook `sqrt(|x|+1) - 1` in float32 (wrong by 20 % at 1e-6).
    """
    x = both_signs(20_000)
    wide = x.astype(np.float64)
    # The textbook form; in float64 its cancellation costs 1e-10 at most.
    squashed = np.sign(wide) * (np.sqrt(np.abs(wide) + 1.0) - 1.0) + 1e-3 * wide
    np.testing.assert_allclose(codecs.squash(x), squashed, rtol=1e-6)
    np.testing.assert_allclose(codecs.unsquash(np.float32(squashed)), wide, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: codecs.unsquash(codecs.squash(x)))(x), x,
                               rtol=1e-6)


@pytest.mark.parametrize("low, high, num_bins", [(-300.0, 300.0, 601), (-1.0, 3.0, 7),
                                                 (0.0, 1.0, 2)])
def test_two_hot_is_a_distribution_with_the_right_mean(low, high, num_bins):
    """Sum 1, at most two neighbours non-zero, none negative, mean = clipped x, = floor/ceil form.

    Planted: mass on the floor atom only; the shares of the two atoms swapped; x not clipped.
    """
    rng = np.random.default_rng(0)
    margin = 0.2 * (high - low)
    atoms = np.linspace(low, high, num_bins)
    x = np.concatenate([rng.uniform(low - margin, high + margin, 3000), atoms]).astype(np.float32)
    out = np.asarray(codecs.two_hot(x, low, high, num_bins))
    np.testing.assert_allclose(out.sum(axis=1), 1.0, atol=1e-6)
    assert (out >= 0).all()
    assert ((out > 0).sum(axis=1) <= 2).all()
    # The non-zero entries are neighbours: none is further than one from the first.
    last = num_bins - 1 - np.argmax(out[:, ::-1] > 0, axis=1)
    assert (last - np.argmax(out > 0, axis=1) <= 1).all()
    np.testing.assert_allclose(out @ atoms, np.clip(x, low, high), atol=3e-5 * (high - low))
    np.testing.assert_allclose(out, numpy_two_hot(x, low, high, num_bins), atol=1e-4)


def test_two_hot_at_the_edges_and_at_a_literal_point():
    """Outside the support all mass is on the edge; h(3) = 1.003 lies 0.003 past the atom at 1.

    Planted: x not clipped; bins counted from 1.
    """
    codec = codecs.make_two_hot_codec(**ATARI)
    edges = np.asarray(codec.encode(jnp.array([-1e9, 1e9])))
    assert edges[0, 0] == 1.0 and edges[1, -1] == 1.0
    assert edges.sum() == 2.0
    row = np.asarray(codec.encode(3.0))
    np.testing.assert_allclose(row[[301, 302]], [0.997, 0.003], atol=3e-5)
    assert np.count_nonzero(row) == 2


@pytest.mark.parametrize("transform", ["muzero", "identity"])
def test_encode_and_decode_are_inverse(transform):
    """1e5 points of the support come back to 1e-4 (relative above 1, where float32 ends).

    Planted: decode without the inverse transform; decode in bfloat16; one bin too few in decode.
    """
    codec = codecs.make_two_hot_codec(**ATARI, transform=transform)
    edge = float(codecs.unsquash(jnp.float32(300.0))) if transform == "muzero" else 300.0
    assert codec.num_logits == 601
    rng = np.random.default_rng(1)
    magnitude = np.concatenate([rng.uniform(0.0, edge, 25_000),
                                np.exp(rng.uniform(np.log(1e-3), np.log(edge), 25_000))])
    x = np.concatenate([-magnitude, magnitude]).astype(np.float32).reshape(20, -1)
    back = jax.lax.map(lambda x: codec.decode(jnp.log(codec.encode(x))), x)
    assert back.dtype == jnp.float32
    assert (np.abs(back - x) <= 1e-4 * np.maximum(1.0, np.abs(x))).all()


def test_loss_is_least_at_the_target():
    """d loss / d logits = softmax - encode(target), so 0 at the target and only uphill from it.

    Planted: cross-entropy with the arguments' roles swapped; target not transformed.
    """
    codec = codecs.make_two_hot_codec(num_bins=11, low=-5.0, high=5.0)
    target = jnp.array([-40.0, -2.2, 0.0, 0.3, 7.0, 30.0])
    best = jnp.log(codec.encode(target) + 1e-9)
    edge = codecs.unsquash(5.0)  # 34.6: the first target lies outside.
    np.testing.assert_allclose(codec.decode(best), jnp.clip(target, -edge, edge), atol=1e-3)
    slope = jax.grad(lambda logits: codec.loss(logits, target).sum())
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-6)
    steps = np.random.default_rng(2).normal(size=(200, *best.shape)).astype(np.float32)
    wide = jnp.broadcast_to(target, steps.shape[:-1])
    climb = codec.loss(best + steps, wide) - codec.loss(best, target)
    assert climb.min() >= -1e-6
    assert climb[:, [1, 3, 5]].mean() > 0.1  # Where two atoms share the mass.
    flat = jnp.zeros_like(best)
    np.testing.assert_allclose(codec.loss(flat, target), np.log(11.0), rtol=1e-6)
    wanted = 1.0 / 11.0 - numpy_two_hot(np.asarray(codecs.squash(target)), -5.0, 5.0, 11)
    np.testing.assert_allclose(slope(flat), wanted, atol=1e-5)


def test_identity_codec_is_half_a_squared_error():
    """Planted: the factor 1/2 left out."""
    codec = codecs.identity_codec()
    logits = jnp.array([[3.0], [-1.0]], jnp.bfloat16)
    np.testing.assert_array_equal(codec.decode(logits), [3.0, -1.0])
    assert codec.decode(logits).dtype == jnp.float32
    np.testing.assert_array_equal(codec.loss(logits, jnp.array([1.0, -1.0])), [2.0, 0.0])
    np.testing.assert_array_equal(codec.encode(jnp.array([5.0])), [[5.0]])
    assert codec.num_logits == 1


def test_leading_axes_and_bfloat16_logits():
    """Planted: softmax over the first axis."""
    codec = codecs.make_two_hot_codec(num_bins=5, low=-2.0, high=2.0, transform="identity")
    x = jnp.array([[-2.0, -0.25, 0.5], [1.75, 2.0, 9.0]])
    encoded = codec.encode(x)
    assert encoded.shape == (2, 3, 5)
    logits = jnp.log(encoded).astype(jnp.bfloat16)
    np.testing.assert_allclose(codec.decode(logits), jnp.clip(x, -2.0, 2.0), atol=0.01)
    assert codec.decode(logits).dtype == codec.loss(logits, x).dtype == jnp.float32
    assert codec.loss(jnp.zeros((2, 3, 5)), x).shape == (2, 3)


@pytest.mark.parametrize("transform", ["muzero", "identity"])
def test_nan_is_never_hidden(transform):
    """A NaN target gives a NaN loss, which the learner refuses.

    Planted: `jnp.nan_to_num` in `two_hot`.
    """
    codec = codecs.make_two_hot_codec(num_bins=5, low=-2.0, high=2.0, transform=transform)
    assert np.isnan(codec.loss(jnp.zeros((5,)), jnp.array(jnp.nan)))


@pytest.mark.parametrize("bad", [
    {"num_bins": 1, "low": -1.0, "high": 1.0},
    {"num_bins": 5, "low": 1.0, "high": 1.0},
    {"num_bins": 5, "low": 1.0, "high": -1.0},
    {"num_bins": 5, "low": -1.0, "high": 1.0, "transform": "log"},
])
def test_bad_arguments_are_refused(bad):
    """Planted: `low <= high` allowed."""
    with pytest.raises(ValueError, match="support|transform"):
        codecs.make_two_hot_codec(**bad)


def test_logits_of_a_wrong_size_are_refused():
    """Planted: the assertion on the last axis left out of the identity codec's decode."""
    with pytest.raises(AssertionError):
        codecs.make_two_hot_codec(num_bins=5, low=-1.0, high=1.0).decode(jnp.zeros((2, 6)))
    with pytest.raises(AssertionError):
        codecs.identity_codec().decode(jnp.zeros((2, 2)))
