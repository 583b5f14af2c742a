"""MuZero's own search against a plain NumPy tree, under changes that must not matter, and noise.

Wrong on purpose, and seen to fail here (in a scratch copy of the library): see the docstrings.
"""

import functools

import jax
import numpy as np
import pytest

import fakes
from muzero_jax.search import muzero
from oracles import muzero_tree
from worlds import (
    CODECS,
    TABLE_NETWORK,
    WORLD_NETWORK,
    chi_square,
    explore,
    history_of,
    make_table,
    make_world,
    random_masks,
    rows_setup,
    world_model,
)


def make_search(network, num_actions, *, turn_sign=1, discount=0.9, num_simulations=16, **kwargs):
    return jax.jit(muzero.make_muzero_search(
        network, CODECS, num_actions=num_actions, turn_sign=turn_sign, discount=discount,
        num_simulations=num_simulations, **kwargs))


@functools.cache
def rows_search():
    """The one compiled search of `rows_setup`; all its worlds have the same shapes."""
    return make_search(WORLD_NETWORK, 6, turn_sign=-1, num_simulations=24)


SEARCHES = [
    # (num_actions, num_simulations, turn_sign, masked, noise fraction, other arguments)
    (3, 50, -1, False, 0.0, {"pb_c_init": 0.5, "pb_c_base": 10.0}),
    (5, 32, 1, True, 0.0, {"max_depth": 2}),
    (7, 33, -1, True, 0.25, {}),
    (18, 16, 1, False, 0.5, {"min_value_range": 3.0}),
]


@pytest.mark.parametrize("num_actions,num_simulations,turn_sign,masked,fraction,more", SEARCHES)
def test_equals_a_plain_tree(num_actions, num_simulations, turn_sign, masked, fraction, more):
    """Visits, value and action of every row are those of the plain tree; the noise of a very large
    concentration is the same for all legal actions.

    Planted: no turn sign in the model, or in the range of Q; that range without rewards, with the
    root, or of the present values only; N(s) as the children's sum; an unvisited action worth 0.5;
    2 + N below the prior; noise not mixed in; the root's mask in all nodes; no depth limit;
    equal visits to the lower action; a constant for `min_value_range`. Bug seen: Q computed for the
    range and again for the score, with two roundings: one value alone was worth -12, not 0.
    """
    batch = 24
    world = make_world(num_actions, seed=num_actions + num_simulations)
    rng = np.random.default_rng(7 * num_actions + num_simulations)
    roots = np.tanh(rng.normal(size=(batch, 5)).astype(np.float32))
    invalid = random_masks(rng, batch, num_actions) & masked
    noise = ~invalid / np.sum(~invalid, axis=1, keepdims=True)
    search = make_search(WORLD_NETWORK, num_actions, turn_sign=turn_sign, dirichlet_alpha=1e9,
                         num_simulations=num_simulations, **more)
    output = search(world, jax.random.key(0), history_of(roots), invalid if masked else None,
                    explore(noise_scale=fraction))

    compared, deepest = 0, 0
    for b in range(batch):
        tree = muzero_tree.MuZeroTree(
            world_model(world), discount=0.9 * turn_sign, num_simulations=num_simulations, **more)
        state = roots[b].astype(np.float64)
        want = tree.run(state, state @ world.value, state @ world.prior, invalid[b], noise[b],
                        fraction)
        assert want.visits.sum() == num_simulations
        deepest = max(deepest, want.depth)
        if want.margin < 1e-4:  # A near-tie: float32 may go the other way.
            continue
        compared += 1
        np.testing.assert_allclose(output.policy[b] * num_simulations, want.visits, atol=1e-4)
        np.testing.assert_allclose(output.value[b], want.value, atol=1e-4, err_msg=f"row {b}")
        assert int(output.action[b]) == want.action, f"row {b}"
    assert compared >= 0.75 * batch
    assert deepest == more.get("max_depth", deepest) and deepest >= min(3, more.get("max_depth", 3))


def test_three_simulations_by_hand():
    """Root 0, two actions of equal prior, discount 0.5.

    First: both scores are 1.25 * sqrt(1) * 0.5 (the root has its own visit), and the lower action
    goes: q = 1 + 0.5 * 4 = 3. Second: one value alone is no range, so 0.44 against 0.88: the other,
    q = 2 + 0.5 * 0 = 2. Third: Q is (1, 0), so 1.54 against 0.54: the first again, and at node 1
    its action 0, which brings 6 and leads to a node worth 0: that return is 1 + 0.5 * 6 = 4, the
    mean of the first 3.5. Value = (2 * 3.5 + 2) / 3 = 3.
    """
    table = make_table(
        next_node=[[1, 2], [2, 2], [2, 2]], reward=[[1, 2], [6, 0], [0, 0]],
        value=[7, 4, 0], logits=np.zeros((3, 2)))
    search = make_search(TABLE_NETWORK, 2, discount=0.5, num_simulations=3)
    output = search(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    np.testing.assert_allclose(output.policy[0], [2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(output.value[0], 3.0, atol=1e-6)
    assert int(output.action[0]) == 0


# What must not matter.


def test_rows_are_independent():
    """A batch permuted, and one with another second half. Planted: the Q range of row 0 for all."""
    world, roots, invalid = rows_setup()
    run = functools.partial(rows_search(), world, jax.random.key(1))
    whole = run(history_of(roots), invalid, explore())
    order = np.random.default_rng(0).permutation(16)
    moved = run(history_of(roots[order]), invalid[order], explore())
    part = np.r_[0:8, 9:16, 8]
    other = run(history_of(roots[part] * np.where(part < 8, 1, -1)[:, None]), invalid[part],
                explore())
    for got, index, rows in ((moved, order, slice(None)), (other, part, slice(8))):
        np.testing.assert_array_equal(whole.action[index][rows], got.action[rows])
        np.testing.assert_allclose(whole.policy[index][rows], got.policy[rows], atol=1e-6)
        np.testing.assert_allclose(whole.value[index][rows], got.value[rows], atol=1e-5)


def test_names_of_actions_do_not_matter():
    """Planted: invalid actions in reverse order."""
    world, roots, invalid = rows_setup()
    order = np.array([3, 0, 5, 1, 4, 2])
    renamed = world._replace(
        move=world.move[order], shift=world.shift[order], prior=world.prior[:, order])
    plain = rows_search()(world, jax.random.key(1), history_of(roots), invalid, explore())
    other = rows_search()(
        renamed, jax.random.key(1), history_of(roots), invalid[:, order], explore())
    np.testing.assert_allclose(plain.policy[:, order], other.policy, atol=1e-6)
    np.testing.assert_allclose(plain.value, other.value, atol=1e-5)
    np.testing.assert_array_equal(plain.action, order[other.action])


@pytest.mark.parametrize("scale", [1024.0, 2.0**-10])
def test_scaling_reward_and_value_changes_no_policy(scale):
    """By a power of two, exact in binary. Planted: the bare Q before two differ."""
    world, roots, invalid = rows_setup()
    scaled = world._replace(reward=scale * world.reward, value=scale * world.value)
    outputs = [rows_search()(w, jax.random.key(1), history_of(roots), invalid, explore())
               for w in (world, scaled)]
    np.testing.assert_array_equal(outputs[0].action, outputs[1].action)
    np.testing.assert_array_equal(outputs[0].policy, outputs[1].policy)
    np.testing.assert_allclose(scale * outputs[0].value, outputs[1].value, rtol=1e-4,
                               atol=1e-5 * scale)


def test_values_below_the_least_range_are_no_values():
    """Scaled to 1e-12 of the others', far below `min_value_range`: the visits follow the prior.

    Planted: `min_value_range` not handed on.
    """
    world, roots, invalid = rows_setup()
    outputs = [
        rows_search()(world._replace(reward=scale * world.reward, value=scale * world.value),
                      jax.random.key(1), history_of(roots), invalid, explore())
        for scale in (np.float32(0), np.float32(1e-12), np.float32(1))]
    np.testing.assert_array_equal(outputs[0].policy, outputs[1].policy)
    assert np.any(outputs[0].policy != outputs[2].policy)


# Exploration.


WAYS = [explore(), explore(noise_scale=1.0), explore(temperature=2.0, noise_scale=0.25),
        explore(random_move=1.0), explore(1.0, 0.5, 0.5)]


def test_invalid_actions_are_never_chosen_and_nothing_compiles_again():
    """Weight 0 and no choice under noise, temperature and random moves, which are all traced.

    The first row has no legal action at all: it means nothing, but stays finite. In the second
    search priors count for nothing, so that only the mask keeps out what is illegal. Planted: the
    mask not handed to mctx; noise that asks on the host whether it is on.
    """
    world, roots, invalid = rows_setup()
    invalid = invalid.copy()
    invalid[0] = True
    bare = make_search(WORLD_NETWORK, 6, num_simulations=4, pb_c_init=0.0, pb_c_base=1e30)
    for search in (rows_search(), bare):
        search(world, jax.random.key(0), history_of(roots), invalid, explore())
        with fakes.compiled(lambda: None) as programs:
            outputs = jax.device_get([
                search(world, jax.random.key(seed), history_of(roots), invalid, way)
                for seed, way in enumerate(WAYS)])
        assert not programs
        for output in outputs:
            assert np.all(output.policy[1:][invalid[1:]] == 0.0)
            np.testing.assert_allclose(np.sum(output.policy, axis=-1), 1.0, atol=1e-5)
            assert not invalid[np.arange(1, 16), output.action[1:]].any()
            assert np.isfinite(output.value).all() and np.isfinite(output.policy).all()


def test_explored_is_another_action_than_the_one_to_be_played():
    """The same key without random moves shows it. Planted: `explored` all False."""
    world, roots, invalid = rows_setup()
    own, output = [rows_search()(world, jax.random.key(2), history_of(roots), invalid, way)
                   for way in (explore(1.0, 0.5), explore(1.0, 0.5, random_move=0.5))]
    np.testing.assert_array_equal(output.explored, output.action != own.action)
    assert output.explored.any() and not output.explored.all() and not own.explored.any()


def test_without_noise_the_key_does_nothing():
    """And with noise it does. Planted: ties broken by the key at any noise; noise not mixed in."""
    world, roots, invalid = rows_setup()
    flat = world._replace(prior=0 * world.prior)  # All priors tie, in all nodes.
    for one in (world, flat):
        calm, loud = [
            [rows_search()(one, jax.random.key(k), history_of(roots), invalid, way)
             for k in (0, 1)]
            for way in (explore(), explore(noise_scale=0.25))]
        jax.tree.map(np.testing.assert_array_equal, calm[0], calm[1])
        assert np.any(loud[0].policy != loud[1].policy)


def test_under_noise_ties_inside_the_tree_do_not_all_go_one_way():
    """One legal move, then a tie of three that pay 0, 1 and 2: the second simulation breaks it.

    Value = mean of the two returns = 0.5 * (0 + pay). Planted: no tie-break, or the same for every
    row.
    """
    table = make_table(next_node=[[1] * 3, [2] * 3, [2] * 3],
                       reward=[[0] * 3, [0, 1, 2], [0] * 3], value=[0] * 3, logits=[[0] * 3] * 3)
    search = make_search(TABLE_NETWORK, 3, discount=1.0, num_simulations=2)
    batch = 300
    invalid = np.tile([False, True, True], (batch, 1))
    calm, loud = [
        search(table, jax.random.key(0), history_of(np.zeros(batch)), invalid, way).value
        for way in (explore(), explore(noise_scale=0.25))]
    np.testing.assert_array_equal(calm, 0.0)
    counts = np.bincount(np.rint(2 * np.asarray(loud)).astype(int), minlength=3)
    assert chi_square(counts, np.full(3, batch / 3)) < 1.0


def test_the_spread_gives_each_environment_a_noise_of_its_own():
    """Row i of B is, bit by bit, that of a search in which all have the fraction
    `noise_scale` · (i/B)^2.

    Planted: no spread.
    """
    world, roots, _ = rows_setup(batch=6)
    search = make_search(WORLD_NETWORK, 6, num_simulations=8)
    histories, key = history_of(roots), jax.random.key(3)
    spreads = search(world, key, histories, None, explore(noise_scale=1.0, spread=2.0))
    for i in range(len(roots)):
        fraction = ((i + 1) / len(roots)) ** 2
        alone = search(world, key, histories, None, explore(noise_scale=fraction))
        np.testing.assert_array_equal(spreads.policy[i], alone.policy[i])


@pytest.mark.parametrize("alpha", [0.003, 0.3, 2.0])
def test_dirichlet_noise_is_drawn_over_the_legal_actions(alpha):
    """Sum 1 over them, mean 1/k, variance (1/k)(1 - 1/k)/(k alpha + 1); 0 elsewhere.

    A row without any stays finite. Planted: drawn over all actions and then masked; gamma variables
    that underflow (NaN at 0.003); an infinite logit for what is illegal.
    """
    draws = 20_000
    legal = np.tile([True, False, True, True, False, True], (draws, 1))
    noise = np.asarray(muzero.draw_dirichlet(jax.random.key(0), legal, alpha), np.float64)
    np.testing.assert_array_equal(noise[~legal], 0.0)
    np.testing.assert_allclose(noise.sum(axis=1), 1.0, atol=1e-5)
    variance = 0.25 * 0.75 / (4 * alpha + 1)
    none = muzero.draw_dirichlet(jax.random.key(0), 0 * legal[:16] > 0, alpha)
    assert np.isfinite(none).all()
    some = noise[:, legal[0]]
    np.testing.assert_allclose(some.mean(axis=0), 0.25, atol=5 * np.sqrt(variance / draws))
    np.testing.assert_allclose(some.var(axis=0), variance, rtol=0.08)


def test_temperature_draws_from_the_visits():
    """Actions come as visits^(1/temperature), the policy stays. Planted: visits^temperature;
    the policy under the temperature.
    """
    world, roots, _ = rows_setup()
    invalid = np.zeros((16, 6), bool)
    same = history_of(np.tile(roots[:1], (16, 1)))
    calm, *warm = [rows_search()(world, jax.random.key(k), same, invalid, way)
                   for k, way in enumerate([explore()] + [explore(temperature=2.0)] * 100)]
    np.testing.assert_array_equal(calm.policy, warm[0].policy)
    weights = np.sqrt(np.asarray(calm.policy[0], np.float64))
    assert len(set(weights[weights > 0])) >= 2
    counts = np.bincount(np.concatenate([output.action for output in warm]), minlength=6)
    assert counts[weights == 0].sum() == 0
    expected = counts.sum() * weights / weights.sum()
    assert chi_square(counts[weights > 0], expected[weights > 0]) < 1.0
    np.testing.assert_array_equal(calm.action, weights.argmax())


def test_lowers_for_tpu():
    """Planted: `jax.pure_callback` in the search."""
    world, roots, invalid = rows_setup()
    traced = rows_search().trace(world, jax.random.key(0), history_of(roots), invalid, explore())
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text and "f64" not in text and "custom_call" not in text


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_noise_that_cannot_be_drawn_is_refused(alpha):
    """Planted bug seen: not checked."""
    with pytest.raises(ValueError, match="^dirichlet_alpha must be > 0"):
        muzero.make_muzero_search(
            None, None, num_actions=2, turn_sign=1, discount=1.0, num_simulations=1,
            dirichlet_alpha=alpha,
        )
