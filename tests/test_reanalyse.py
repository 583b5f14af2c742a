"""Reanalysed targets against fresh searches and against brute force over episodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting, reanalyse, types
from muzero_jax import targets as targets_lib
from muzero_jax.codecs import make_two_hot_codec
from muzero_jax.config import build
from muzero_jax.errors import ArgumentError, BadInputError
from muzero_jax.history import history_from_window
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel
from muzero_jax.training import timing
from oracles import episodes as oracle
from presets import config_of
from test_targets import (
    WORLDS,
    assert_targets,
    expected_targets,
    make_sample,
    random_world,
    value_at_state,
    value_of_history,
)

KEY = jax.random.key(3)
NO_NOISE = acting.NO_EXPLORATION


def search_of_history(params, key, history, invalid_actions, explore):
    """Policies and values that only the right history of the right row can give."""
    del key, invalid_actions, explore
    value = value_of_history(params, history)
    policy = jnp.stack([value, value + 1.0, 7.0 - value], axis=-1)
    none = jnp.zeros(value.shape, jnp.int32)
    return types.SearchOutput(action=none, policy=policy, value=value, explored=none > 0)


def policy_at_state(episode, state, steps):
    value = value_at_state(episode, state, steps)
    return np.array([value, value + 1.0, 7.0 - value])


@pytest.mark.parametrize("name", WORLDS)
def test_equals_brute_force_over_episodes(name):
    """Fresh policies and values, each from the history of its own row and episode.

    Planted: searches at rows one later; values written to the row after the one searched; fresh
    policies at the bootstrap rows; target parameters where the newest are asked for; values of
    the stored rows where the window is searched as a whole.
    """
    episodes, rows, roots, window, rule = random_world(name, 400, seed=5)
    steps = window.history
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    # What is stored is poison: all of it must be replaced.
    stored = sample.rows.replace(policy=np.full_like(sample.rows.policy, oracle.POISON),
                                 value=np.full_like(sample.rows.value, oracle.POISON))
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    again = reanalyse.with_reanalyse(
        make, search_of_history, fraction=1.0, fresh_values=True, window=window)
    got = jax.jit(again)({"scale": 2.0}, {"scale": 99.0}, KEY, sample.replace(rows=stored))
    want = expected_targets(episodes, rows, roots, **rule,
                            value_at=lambda e, s: value_at_state(e, s, steps))
    want = [[target._replace(policy=None if target.policy is None else
                             policy_at_state(episodes[number], state + k, steps))
             for k, target in enumerate(targets)]
            for targets, (number, state) in zip(want, (rows[root].where for root in roots))]
    assert_targets(got, want)
    assert np.all(np.asarray(got.policy_age) == 0)


def random_params(network, seed):
    """Heads begin at 0, where all networks agree: noise makes them differ."""
    params = jax.jit(network.init)(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def moved(x):
        return np.asarray(x) + 0.3 * rng.normal(size=x.shape).astype(np.float32)

    return jax.tree.map(moved, params)


def tiny_search(num_simulations=4, num_actions=3, **options):
    spec = types.EnvSpec(observation=types.ArraySpec((2,), "float32"),
                         action=types.ActionSpec.discrete(num_actions), turn_sign=1,
                         truncates=False, max_steps=99)
    codec = types.Codecs(value=make_two_hot_codec(num_bins=9, low=-4.0, high=4.0,
                                                  transform="identity"),
                         reward=make_two_hot_codec(num_bins=3, low=-1.0, high=1.0,
                                                   transform="identity"))
    network = make_mlp_network(spec, codec, history_steps=2, width=8)
    make = functools.partial(gumbel.make_gumbel_search, network, codec, num_actions=num_actions,
                             turn_sign=1, discount=0.9, num_simulations=num_simulations)
    return network, codec, make(**options)


# Plain programs of other sizes round otherwise.
jit = functools.partial(jax.jit, compiler_options=fakes.OPTIMIZED)


@pytest.mark.parametrize("bootstrap_steps, masked", [
    pytest.param(2, False, marks=pytest.mark.slow), (7, True)])
def test_bit_equal_to_a_fresh_search(bootstrap_steps, masked):
    """Same key and flattened batch: policies and bootstraps are bit for bit those of one search.

    With n = 2 the window is searched once, with n = 7 the K+1 roots and the K+1 bootstrap rows.
    Planted: a mask of the row after; the key of the inner targets; noise where none is asked for.
    """
    network, codec, search_fn = tiny_search()
    window = types.Window(history=2, unroll=3, bootstrap=bootstrap_steps)
    rng = np.random.default_rng(0)
    episodes = oracle.random_episodes(rng, 100, num_actions=3, max_length=12, truncates=0.3,
                                      life_loss=0.0, blunders=0.1)
    rows = oracle.lay_out(episodes, players=1, same_step=False)
    roots = [i for i in range(len(rows) - 12) if not rows[i].last][:30]
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    sample = sample.replace(observations=sample.observations / 100)
    if masked:
        masks = rng.random((*sample.rows.reward.shape, 3)) < 0.3
        masks[..., 1] = False
        sample = sample.replace(rows=sample.rows.replace(invalid_actions=masks))
    params = random_params(network, 1)
    explore = NO_NOISE.replace(noise_scale=np.float32(1.0))
    make = targets_lib.make_targets(discount=0.9, window=window)
    again = jit(reanalyse.with_reanalyse(
        make, search_fn, fraction=1.0, fresh_values=True, explore=explore, window=window))
    got = again(params, None, KEY, sample)

    index = np.asarray(reanalyse.make_positions(fresh_values=True, window=window)(sample))
    assert index.shape[1] == (6 if bootstrap_steps == 2 else 8)
    window = jax.tree.map(np.asarray, (sample.observations, sample.rows))
    one = jax.jit(
        lambda observations, rows, row: history_from_window(observations, rows, row, 2))
    histories = [one(*jax.tree.map(lambda x, b=b: x[b], window), row)
                 for (b, _), row in np.ndenumerate(index)]
    histories = jax.tree.map(lambda *x: np.stack(x), *histories)
    masks = None
    if masked:
        masks = np.stack([window[1].invalid_actions[b, row]
                          for (b, _), row in np.ndenumerate(index)])
    fresh = jit(search_fn)(params, jax.random.split(KEY)[0], histories, masks, explore)
    policy = np.asarray(fresh.policy).reshape(*index.shape, 3)
    known = np.asarray(got.policy_mask) > 0
    np.testing.assert_array_equal(np.asarray(got.policy)[known], policy[:, :4][known])
    # The values through the same returns: stored in the rows they stand for.
    value = np.array(sample.rows.value)
    for (b, p), row in reversed(list(np.ndenumerate(index))):
        value[b, row] = np.asarray(fresh.value).reshape(index.shape)[b, p]
    plain = jit(make)(params, None, KEY, sample.replace(
        rows=sample.rows.replace(value=jnp.asarray(value))))
    np.testing.assert_array_equal(got.value, plain.value)
    assert np.abs(np.asarray(got.value) - jit(make)(params, None, KEY, sample).value).max() > 1


@pytest.mark.parametrize("fraction, num_fresh", [(0.0, 0), (0.3, 3), (0.7, 7), (1.0, 10)])
def test_only_the_first_part_is_fresh(fraction, num_fresh):
    """The rest equals the stored targets, and no search is made for it (planted: a search of all,
    of which a part is taken)."""
    episodes, rows, roots, window, rule = random_world("truncated", 10, seed=6)
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    sample = sample.replace(newest_updates=jnp.int32(50))
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    searched = []

    def counting(params, key, history, invalid_actions, explore):
        searched.append(history.action.shape[0])
        return search_of_history(params, key, history, invalid_actions, explore)

    again = reanalyse.with_reanalyse(
        make, counting, fraction=fraction, fresh_values=True, window=window)
    stored = jit(make)(None, None, KEY, sample)
    got = jit(again)({"scale": 2.0}, None, KEY, sample)
    assert searched == ([11 * num_fresh] if num_fresh else [])  # K+1+n rows of each.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[num_fresh:], b[num_fresh:]),
                 got, stored)
    np.testing.assert_array_equal(got.policy_age, [0] * num_fresh + [50] * (10 - num_fresh))
    if num_fresh:
        assert np.abs(np.asarray(got.value - stored.value))[:num_fresh].max() > 0.1
    if fraction == 0.0:
        assert again is make
    with pytest.raises(ValueError, match=r"^fraction must be in \[0, 1\] \(got 1.5\)"):
        reanalyse.with_reanalyse(make, counting, fraction=1.5, fresh_values=True, window=window)


@pytest.mark.parametrize("fraction, batch", [(0.5, 3), (0.05, 10), (0.99, 10), (0.8, 1)])
def test_the_fraction_is_exact_on_average_for_any_batch(fraction, batch):
    """Over 4,000 keys within 5 standard errors. An example is fresh in policy, value and age, or in
    none of them, and each but one always or never."""
    _, rows, roots, window, rule = random_world("truncated", batch, seed=6)
    sample = make_sample(rows, roots[:batch], num_frames=sum(window), window=window)
    sample = sample.replace(newest_updates=jnp.int32(50))
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    again, whole = (reanalyse.with_reanalyse(make, search_of_history, fraction=x, fresh_values=True,
                                             window=window) for x in (fraction, 1.0))
    stored, fresh = (jax.jit(f)({"scale": 2.0}, None, KEY, sample) for f in (make, whole))
    keys = jax.random.split(KEY, 4000)
    got = jax.jit(jax.vmap(functools.partial(again, {"scale": 2.0}, None), in_axes=(0, None)))(
        keys, sample)
    taken = np.asarray(got.policy_age) == 0
    assert abs(taken.mean() - fraction) < 5 * 0.5 / np.sqrt(4000) / batch
    assert ((taken.mean(axis=0) % 1) > 0).sum() == 1
    for name in ("policy", "value"):
        new, old, seen = (np.asarray(getattr(x, name)) for x in (fresh, stored, got))
        pick = taken.reshape(*taken.shape, *[1] * (new.ndim - 1))
        np.testing.assert_allclose(seen, np.where(pick, new, old), atol=1e-4)
        assert np.abs(new - old).max() > 0.1 or batch == 1


def test_policies_alone_read_few_frames():
    """S + K frames are enough, and values stay those stored (planted: values replaced too)."""
    episodes, rows, roots, window, rule = random_world("two players, same step", 50, seed=7)
    frames = window.history + window.unroll
    sample = make_sample(rows, roots, num_frames=frames, window=window)
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    again = jax.jit(reanalyse.with_reanalyse(
        make, search_of_history, fraction=1.0, fresh_values=False, window=window))
    got = again({"scale": 2.0}, None, KEY, sample)
    stored = jax.jit(make)(None, None, KEY, sample)
    np.testing.assert_array_equal(got.value, stored.value)
    assert np.abs(np.asarray(got.policy - stored.policy)).max() > 0.1


def test_target_parameters():
    """The slow copy searches where it is asked to."""
    _, rows, roots, window, rule = random_world("truncated", 20, seed=8)
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    options = dict(fraction=1.0, fresh_values=True, window=window)
    new, old = {"scale": 2.0}, {"scale": 3.0}
    newest = jax.jit(reanalyse.with_reanalyse(make, search_of_history, **options))
    slow = jax.jit(
        reanalyse.with_reanalyse(make, search_of_history, target_params=True, **options))
    a, b = newest(old, new, KEY, sample), slow(new, old, KEY, sample)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert np.abs(np.asarray(a.value - newest(new, old, KEY, sample).value)).max() > 0.1


@pytest.mark.parametrize("fresh_values, frames", [(False, 5), (True, 9)])
def test_frames_that_a_search_would_not_find_are_refused(fresh_values, frames):
    """A slice would give others, silently. Bug seen: so it did."""
    network, _, search = tiny_search()
    window = types.Window(history=2, unroll=3, bootstrap=4)
    rows = [oracle.Row((0.0, i), 0.0, 1.0, i == 0, False, 1, np.full(3, i), 0.0, False, (0, i))
            for i in range(20)]
    make = reanalyse.with_reanalyse(
        targets_lib.make_targets(discount=0.9, window=window), search, window=window,
        fraction=1.0, fresh_values=fresh_values)
    params = random_params(network, 2)
    sample = make_sample(rows, [3], num_frames=frames, window=window)
    jax.eval_shape(make, params, params, KEY, sample)
    sample = make_sample(rows, [3], num_frames=frames - 1, window=window)
    with pytest.raises(ArgumentError, match=f"^{frames} frames are needed for reanalyse"):
        jax.eval_shape(make, params, params, KEY, sample)


def test_an_unchanged_network_changes_no_value():
    """Stored values that are the network's own: targets from the network now are the same."""
    network, codec, _ = tiny_search()
    params = random_params(network, 2)
    window = types.Window(history=2, unroll=3, bootstrap=4)
    rng = np.random.default_rng(1)
    episodes = oracle.random_episodes(rng, 60, num_actions=3, max_length=12, truncates=0.3,
                                      life_loss=0.0, blunders=0.0)
    rows = oracle.lay_out(episodes, players=1, same_step=False)
    roots = [i for i in range(2, len(rows) - 12) if not rows[i].last][:40]
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    positions = jnp.broadcast_to(jnp.arange(2, 10), (40, 8))
    bootstrap = targets_lib.make_network_bootstrap(network, codec.value)
    values = jax.jit(
        lambda params, sample: bootstrap(params, targets_lib.histories_at(sample, positions, 2))
    )(params, sample).reshape(40, 8)
    sample = sample.replace(rows=sample.rows.replace(
        value=fakes.edited(sample.rows.value, np.s_[:, 2:], values)))
    stored = jax.jit(targets_lib.make_targets(discount=0.9, window=window))
    fresh = jax.jit(targets_lib.make_targets(
        discount=0.9, bootstrap_value=bootstrap, window=window))
    a, b = (make(params, params, KEY, sample).value for make in (stored, fresh))
    np.testing.assert_allclose(a, b, atol=1e-6)
    other = fresh(params, random_params(network, 9), KEY, sample).value
    assert np.abs(np.asarray(a - other)).max() > 1e-3


@pytest.mark.parametrize("age, steps", [(0, 4), (9, 4), (10, 3), (25, 2), (30, 1), (999, 1)])
def test_returns_of_old_rows_are_shorter(age, steps):
    """One step less for every ten updates, at least one (planted: none at all; age of row 0)."""
    rows = [((0.0, i), float(i), 1.0, i == 0, False, 1, np.full(3, i), 100.0 * i, False, (0, i))
            for i in range(12)]
    rows = [oracle.Row(*row) for row in rows]
    window = types.Window(history=1, unroll=2, bootstrap=4)
    sample = make_sample(rows, [2], window=window)
    made_at = fakes.edited(sample.rows.made_at_updates, np.s_[:, 1], 1_000 - age)
    sample = sample.replace(newest_updates=np.int32(1_000),
                            rows=sample.rows.replace(made_at_updates=made_at))
    make = jax.jit(
        targets_lib.make_targets(discount=1.0, shorten_every_updates=10, window=window))
    got = make(None, None, KEY, sample)
    want = [sum(range(2 + k + 1, 2 + k + steps + 1)) + 100.0 * (2 + k + steps) for k in range(3)]
    np.testing.assert_allclose(np.asarray(got.value)[0], want)
    assert got.policy_age.tolist() == [age]
    # The fresh values are those of the rows where these shorter returns stop.
    window = window._replace(bootstrap=9)
    sample = make_sample(rows * 2, [2], window=window)
    sample = sample.replace(newest_updates=np.int32(10 * (9 - steps)))
    positions_of = jax.jit(
        reanalyse.make_positions(window, fresh_values=True, shorten_every_updates=10))
    index = positions_of(sample)
    assert index.tolist() == [[1, 2, 3, 1 + steps, 2 + steps, 3 + steps]]


@pytest.mark.parametrize("fraction, fresh_values, source, frames", [
    (0.5, True, "search", 1 + 5 + 10), (1.0, False, "target_network", 1 + 5 + 10),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        (0.0, True, "search", 1), (0.5, False, "search", 1 + 5),
        (0.0, False, "target_network", 1 + 5 + 10)))])
def test_samples_hold_as_many_frames_as_are_read(fraction, fresh_values, source, frames):
    """S, S + K or S + K + n of them (planted: always all)."""
    config = config_of("cartpole", "on_device", **{
        "reanalyse.fraction": fraction, "reanalyse.fresh_values": fresh_values,
        "targets.value_source": source, "targets.bootstrap_steps": 10})
    experiment = build.experiment(config)
    ring = jax.eval_shape(experiment.replay.init)
    sample = jax.eval_shape(lambda state, key: experiment.replay.sample(state, key, 8),
                            ring, KEY)
    assert sample.observations.shape == (8, frames, 4)
    again = experiment.agent.search_again
    assert (again is None) == (fraction == 0.0)
    if fraction:
        number = again.num_examples(128)
        assert number == round(128 * fraction)
        train = jax.eval_shape(experiment.agent.init_train, KEY)
        part = jax.eval_shape(lambda state, key: experiment.replay.sample(state, key, number),
                              ring, KEY)
        values = jax.eval_shape(again.values, train.params, part, KEY)
        assert values.shape == (number, 12 if fresh_values else 6)
    simulations = config.reanalyse.num_simulations * 128 * fraction * (12 if fresh_values else 6)
    for made in experiment, build.experiment(config, jax.devices("cpu")[:4]):
        assert timing.ReanalyseCost(made).simulations_per_update == simulations


@pytest.mark.parametrize("fields, line", [
    ({"reanalyse.fraction": 1.5}, "reanalyse.fraction must be >= 0 and <= 1 (got 1.5)"),
    ({"reanalyse.num_simulations": 0},
     "reanalyse.num_simulations must be >= 1 and <= 10000 (got 0)"),
    ({"reanalyse.fraction": 0.5, "reanalyse.fresh_values": True,
      "targets.value_source": "target_network"},
     "reanalyse.fresh_values must be False where targets.value_source is not 'search'"
     " (got 'target_network')"),
    ({"targets.shorten_every_updates": 0}, "targets.shorten_every_updates must be >= 1 (got 0)")])
def test_bad_numbers_are_refused(fields, line):
    with pytest.raises(BadInputError) as caught:
        config_of("cartpole", "on_device", **fields)
    assert str(caught.value) == line


def test_published_settings():
    """MuZero Reanalyze (appendix H): 80 %, two samples per state, value weight 0.25, n = 5."""
    config = config_of("atari_paper", "Pong,reanalyze")
    assert config.reanalyse.fraction == 0.8
    assert config.replay.batch_size / config.replay.rows_per_update == 2.0
    assert config.loss.value_weight == 0.25 and config.targets.bootstrap_steps == 5
    assert config.targets.value_source == "target_network"
    few = config_of("atari_100k", "Pong")
    assert few.reanalyse.fraction == 0.99 and few.reanalyse.fresh_values
    assert few.targets.shorten_every_updates == 30_000
