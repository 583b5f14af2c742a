"""A loss on changed observations: what it sees, what stays, which keys it gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import losses
from muzero_jax.history import random_shift
from muzero_jax.types import Window
from test_losses import CODECS, linear_network, random_batch


def augment(key, observations):
    """Adds a number to each example."""
    return observations + jax.random.normal(key, observations.shape[:1])[:, None, None]


def test_only_observations_change():
    """The loss is called once, with all else as it was.

    Planted: the stored observations given to the loss; another index.
    """
    sample, targets = random_batch(5, 2, 3)
    seen = []

    def loss(params, key, sample, targets):
        seen.append((params, sample, targets))
        return jnp.sum(sample.observations, axis=(1, 2)), {"priority": jnp.ones(5)}

    value, aux = losses.with_augmentation(loss, augment)(3.0, jax.random.key(0), sample, targets)
    (params, sample_seen, targets_seen), = seen
    assert params == 3.0 and targets_seen is targets and set(aux) == {"priority"}
    for name, x in sample.items():
        if name != "observations":
            assert getattr(sample_seen, name) is x, name
    moved = np.asarray(sample_seen.observations - sample.observations)
    assert len(np.unique(moved[:, 0, 0])) == 5 and (moved != 0).all()
    np.testing.assert_allclose(value, sample_seen.observations.sum(axis=(1, 2)), rtol=1e-6)


def test_keys_are_used_once():
    """The augmentation and the loss each get a key of their own, and other keys change both.

    Planted: the same key for both; the key of the caller for the loss.
    """
    sample, targets = random_batch(5, 2, 3)
    seen = []

    def keep(key, observations):
        seen.append(jax.random.key_data(key).tolist())
        return observations

    def loss(params, key, sample, targets):
        seen.append(jax.random.key_data(key).tolist())
        return jnp.zeros(5), {}

    for seed in range(2):
        seen.append(jax.random.key_data(jax.random.key(seed)).tolist())
        losses.with_augmentation(loss, keep)(None, jax.random.key(seed), sample, targets)
    assert len({tuple(key) for key in seen}) == 6


def test_composes_with_the_library():
    """MuZero's loss on shifted images is the loss on the shifted batch.

    Images are what `random_shift` takes; the network sees their first row of pixels.
    """
    sample, targets = random_batch(6, 2, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6, 3, 2, 1)), jnp.float32)
    sample = sample.replace(observations=images)
    base = losses.make_loss(linear_network(), CODECS, window=Window(2, 3, 1))

    def loss(params, key, sample, targets):
        flat = sample.replace(observations=sample.observations[:, :, 0, :, 0])
        return base(params, key, flat, targets)

    shift = functools.partial(random_shift, max_shift=2)
    shifted = jax.jit(losses.with_augmentation(loss, shift))
    params, key = linear_network().init(jax.random.key(1)), jax.random.key(2)
    value, aux = shifted(params, key, sample, targets)
    augment_key, loss_key = jax.random.split(key)
    unshifted = jax.jit(loss)
    want, want_aux = unshifted(
        params, loss_key, sample.replace(observations=shift(augment_key, images)), targets)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(aux["priority"], want_aux["priority"], rtol=1e-4, atol=1e-5)
    plain, _ = unshifted(params, loss_key, sample, targets)
    assert np.abs(value - plain).max() > 0.01
