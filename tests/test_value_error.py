"""The running error of a network's values: kept beside parameters, and what searches make of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import learner, metrics, types, value_error
from muzero_jax.config import build
from muzero_jax.errors import ArgumentError
from muzero_jax.search import gumbel
from muzero_jax.training.saving import newest_params
from presets import config_of
import processes
from test_learner import sample_of
from worlds import CODECS, WORLD_NETWORK, explore, history_of, make_world

KEY = jax.random.key(0)


def _params_of(world, error):
    """The parameters of a world whose values are off by `error`."""
    params = value_error.with_value_error(WORLD_NETWORK).init(KEY) | {"network": world}
    return value_error.track(params, jnp.float32(error**2))


def _loss(params, key, sample, targets):
    del key, targets
    return params["network"]["w"] * sample.rows, {"priority": jnp.abs(sample.rows)}


def test_it_is_the_error_of_uniform_rows_in_newest_updates():
    """Literal numbers: rows that were drawn twice as likely count half, one that was not drawn not
    at all; the mean over updates has no bias to its start; and the network learns beside it.

    Planted: rows not weighted; weighted by their probability; the sum of the decayed weights left
    out; the running mean not handed on; the newest update alone.
    """
    inner = types.Network(lambda key: {"w": jnp.float32(2.0)}, None, None)
    network = value_error.with_value_error(inner)
    optimizer = learner.make_optimizer(learning_rate=1.0, weight_decay=0.5, max_grad_norm=1e9)
    update = jax.jit(
        learner.make_update(
            lambda *_: None, _loss, optimizer, target_interval_updates=2, importance_exponent=0.4,
            track=value_error.track,
        )
    )
    train = learner.init_train_state(network, optimizer, KEY)
    assert np.isinf(value_error.value_error(train.params))
    total = weight = 0.0
    for scale in (1.0, 3.0, 0.5):
        sample = sample_of([4.0 * scale, -1.0 * scale, 100.0], [0.2, 0.1, 0.0])
        before = train.params["network"]["w"]
        train, output = update(train, KEY, sample)
        square = scale**2 * (16.0 * 5.0 + 1.0 * 10.0) / (5.0 + 10.0)
        np.testing.assert_allclose(output.metrics["value_error"], np.sqrt(square), rtol=1e-5)
        total = 0.99 * total + 0.01 * square
        weight = 0.99 * weight + 0.01
        want = np.sqrt(total / weight)
        np.testing.assert_allclose(value_error.value_error(train.params), want, rtol=1e-4)
        assert train.params["network"]["w"] != before
    # The target is of the second update.
    assert value_error.value_error(train.target_params) > value_error.value_error(train.params)
    # An update that cannot be applied leaves it; so does one whose square is beyond float32.
    for large in (np.inf, 1e30):
        after, output = update(train, KEY, sample_of([large, 1.0, 1.0], [0.2, 0.1, 0.1]))
        assert not output.applied
        np.testing.assert_array_equal(after.params["value_error"], train.params["value_error"])


@functools.cache
def _search(network, **options):
    return jax.jit(
        gumbel.make_gumbel_search(
            network, CODECS, num_actions=5, turn_sign=1, discount=0.9, num_simulations=12,
            **options,
        )
    )


@pytest.mark.parametrize("error, scale, floor", [(0.7, 2.0, 0.01), (0.7, 2.0, 3.0)])
def test_a_range_below_the_error_is_not_stretched(error, scale, floor):
    """The same search as with a constant range: that of the error, or `min_value_range` where
    that is more. Planted: the error without its scale; `min_value_range` not looked at."""
    world, key = make_world(5, seed=3), jax.random.key(1)
    history = history_of(np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32))
    options = {"min_value_range": floor, "value_error_scale": scale}
    tracked = _search(value_error.with_value_error(WORLD_NETWORK), **options)
    got = tracked(_params_of(world, error), key, history, None, explore())
    plain = _search(WORLD_NETWORK, min_value_range=max(floor, scale * error))
    want = plain(world, key, history, None, explore())
    np.testing.assert_allclose(got.policy, want.policy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.action, want.action)
    without = _search(WORLD_NETWORK, min_value_range=min(floor, scale * error))
    assert np.abs(without(world, key, history, None, explore()).policy - got.policy).max() > 0.01


def test_before_the_first_update_the_policy_is_the_prior():
    """Nothing is known of the values yet."""
    world, key = make_world(5, seed=3), jax.random.key(1)
    network = value_error.with_value_error(WORLD_NETWORK)
    history = history_of(np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32))
    params = network.init(KEY) | {"network": world}
    got = _search(network, value_error_scale=1.0)(params, key, history, None, explore())
    logits = network.initial_inference(params, history).policy_logits
    np.testing.assert_allclose(got.policy, jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)


def test_a_network_without_it_is_refused_by_field():
    world = make_world(5, seed=3)
    history = history_of(np.zeros((2, 5), np.float32))
    with pytest.raises(ArgumentError, match=r"^value_error_scale must be 0 for"):
        _search(WORLD_NETWORK, value_error_scale=1.0)(world, KEY, history, None, explore())


@pytest.mark.slow
def test_a_run_keeps_it_over_a_resume_and_among_its_parameters(tmp_path):
    """By `search.value_error_scale` in the config; bit for bit what an undisturbed run has."""
    fields = processes.TINY_CONTROL | {
        "env.num_groups": 1, "search.value_error_scale": 1.0, "logging.interval_env_steps": 50,
    }
    kept = []
    for name, stretches in (("at once", (300,)), ("resumed", (150, 300))):
        for env_steps in stretches:
            config = config_of("cartpole", "on_device", **fields | {"total_env_steps": env_steps})
            processes.train(config, tmp_path / name)
        network = build.experiment(config).agent.network
        _, params, _ = newest_params(tmp_path / name, jax.eval_shape(network.init, KEY))
        kept.append(params)
    fakes.assert_trees_equal(*kept)
    assert np.isfinite(value_error.value_error(kept[0])) and kept[0]["value_error"][1] > 0
    lines = metrics.read_jsonl(tmp_path / "at once" / "metrics.jsonl")
    errors = [x for line in lines if (x := line.get("train/value_error")) is not None]
    assert len(errors) > 1 and all(0 < x < np.inf for x in errors)
