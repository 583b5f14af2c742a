"""The search against a plain NumPy tree, hand-worked trees and exact values.

Wrong on purpose, and seen to fail here (in a scratch copy of the library): see the docstrings.
"""

import functools

import jax
import numpy as np
import pytest

from muzero_jax.search import gumbel
from oracles import gumbel_tree
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


@functools.cache
def make_search(network, num_actions, *, turn_sign=1, discount=0.9, num_simulations=16, **kwargs):
    search = gumbel.make_gumbel_search(
        network, CODECS, num_actions=num_actions, turn_sign=turn_sign, discount=discount,
        num_simulations=num_simulations, **kwargs)
    return jax.jit(search)


SEARCHES = [
    # (num_actions, num_simulations, max_num_considered_actions, turn_sign, masked)
    (3, 50, 16, -1, False),
    (7, 33, 16, -1, True),
    (6, 5, 1, -1, True),
    pytest.param(4, 16, 2, 1, True, marks=pytest.mark.slow),
    pytest.param(9, 64, 8, -1, False, marks=pytest.mark.slow),
    pytest.param(2, 8, 16, 1, False, marks=pytest.mark.slow),
    pytest.param(5, 32, 4, -1, True, marks=pytest.mark.slow),
    pytest.param(7, 7, 16, 1, True, marks=pytest.mark.slow),
    pytest.param(18, 16, 16, 1, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("num_actions,num_simulations,considered,turn_sign,masked", SEARCHES)
def test_equals_a_plain_tree(num_actions, num_simulations, considered, turn_sign, masked):
    """Policy, value and action of every row are those of the plain tree.

    Planted: discount without the turn sign; mctx's root node value as the search value; the masked
    value over all actions instead of the visited; the mask not handed on.
    """
    batch = 24
    world = make_world(num_actions, seed=num_actions + num_simulations)
    rng = np.random.default_rng(7 * num_actions + num_simulations)
    roots = np.tanh(rng.normal(size=(batch, 5)).astype(np.float32))
    invalid = random_masks(rng, batch, num_actions) if masked else None
    search = make_search(
        WORLD_NETWORK, num_actions, turn_sign=turn_sign, discount=0.9,
        num_simulations=num_simulations, max_num_considered_actions=considered)
    output = search(world, jax.random.key(0), history_of(roots), invalid, explore())

    compared = 0
    for b in range(batch):
        tree = gumbel_tree.GumbelTree(
            world_model(world), discount=0.9 * turn_sign, num_simulations=num_simulations,
            max_considered=considered)
        state = roots[b].astype(np.float64)
        want = tree.run(state, state @ world.value, state @ world.prior,
                        None if invalid is None else invalid[b])
        assert want.visits.sum() == num_simulations
        if want.margin < 1e-4:  # A near-tie: float32 may go the other way.
            continue
        compared += 1
        np.testing.assert_allclose(output.policy[b], want.policy, atol=2e-4, err_msg=f"row {b}")
        np.testing.assert_allclose(output.value[b], want.value, atol=2e-4, err_msg=f"row {b}")
        assert int(output.action[b]) == want.action, f"row {b}"
    assert compared >= 0.75 * batch


@pytest.mark.parametrize("num_actions,num_simulations,considered,turn_sign", [
    (18, 16, 16, 1), (9, 3, 4, -1), (4, 1, 1, 1),
    *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in (
        (18, 16, 16, -1), (7, 7, 16, 1), (7, 7, 16, -1), (9, 3, 4, 1), (4, 1, 1, -1)))])
def test_simulations_that_fit_at_the_root_are_one_call(
    num_actions, num_simulations, considered, turn_sign
):
    """The model is called once, for all of them, and the search says what mctx does: a mask without
    a masked action makes no difference, but for the tree that it needs.

    Planted: the value of the next state without its discount; the edges of greatest prior, noise or
    not; no noise; the edge of the greatest score, visited or not; the embeddings of other rows.
    """
    batch, shapes = 64, []
    world = make_world(num_actions, seed=num_actions)
    rng = np.random.default_rng(num_simulations)
    history = history_of(np.tanh(rng.normal(size=(batch, 5)).astype(np.float32)))

    def recurrent_inference(params, embedding, action):
        shapes.append(action.shape)
        return WORLD_NETWORK.recurrent_inference(params, embedding, action)

    network = WORLD_NETWORK._replace(recurrent_inference=recurrent_inference)
    search = jax.jit(gumbel.make_gumbel_search(
        network, CODECS, num_actions=num_actions, turn_sign=turn_sign, discount=0.9,
        num_simulations=num_simulations, max_num_considered_actions=considered))
    key = jax.random.key(3)
    search(world, key, history, None, explore())
    assert shapes == [(batch * num_simulations,)]
    for noise_scale, temperature in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        more = explore(noise_scale=noise_scale, temperature=temperature)
        one = search(world, key, history, None, more)
        tree = search(world, key, history, np.zeros((batch, num_actions), bool), more)
        np.testing.assert_array_equal(one.action, tree.action)
        np.testing.assert_allclose(one.policy, tree.policy, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(one.value, tree.value, rtol=2e-5, atol=1e-6)


# Trees written out by hand: state = index of a node, the world is a table.


def two_ply_table(payoff, wrong_value=0.0):
    """I pick a row, you pick a column, you are paid `-payoff[row, column]`.

    Node 0 is the root, 1..A after my move, A + 1 the end (which absorbs). All values but those of
    the end are `wrong_value`: the search has to find the payoffs.
    """
    size = len(payoff)
    end = size + 1
    next_node = np.full((size + 2, size), end)
    next_node[0] = np.arange(1, size + 1)
    reward = np.zeros((size + 2, size))
    reward[1 : size + 1] = -payoff
    value = np.full(size + 2, wrong_value)
    value[end] = 0.0
    return make_table(next_node, reward, value, np.zeros((size + 2, size)))


@pytest.mark.parametrize("payoff,truth", [
    # My three rows guarantee -0.5, 0.28 and -0.9: the tree is worth 0.28, though the averages of
    # the other rows (0.2, 0.03) are no worse a lead than that of the second (0.38).
    (np.array([[0.9, -0.5, 0.2], [0.28, 0.40, 0.46], [-0.9, 0.5, 0.5]]), 0.28),
    # Every row loses something; the least is 0.3.
    (np.array([[-0.3, 0.1, 0.0], [0.9, -0.7, 0.9], [-0.4, 0.6, 0.2]]), -0.3),
])
def test_two_ply_two_player_tree(payoff, truth):
    """The search value is the minimax value; mctx's own root value is not (planted, failed).

    Also planted: turn_sign ignored (value 0.5 and up).
    """
    assert payoff.min(axis=1).max() == truth
    table = two_ply_table(payoff)
    search = make_search(TABLE_NETWORK, 3, turn_sign=-1, discount=1.0, num_simulations=32)
    output = search(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    assert int(output.action[0]) == int(payoff.min(axis=1).argmax())
    np.testing.assert_allclose(output.value[0], truth, atol=0.05)

    # Negative control: one player who is paid by the other's choice would see something else.
    blind = make_search(TABLE_NETWORK, 3, turn_sign=1, discount=1.0, num_simulations=32)
    output = blind(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    assert abs(float(output.value[0]) - truth) > 0.05


def test_one_player_tree_by_hand():
    """Root 0, two actions, discount 0.5, each child visited once with two simulations.

    Left: reward 1, then a node worth 4: q = 1 + 0.5 * 4 = 3. Right: reward 2, node worth 0: q = 2.
    Equal priors. Both are visited, max N = 1, so sigma = (50 + 1) * 0.1 * (1, 0) = (5.1, 0), and
    pi'(left) = 1 / (1 + exp(-5.1)) = 0.993940. Value = 3 * 0.993940 + 2 * 0.006060 = 2.993940.
    """
    table = make_table(
        next_node=np.array([[1, 2], [1, 1], [2, 2]]), reward=np.array([[1.0, 2.0], [0, 0], [0, 0]]),
        value=np.array([7.0, 4.0, 0.0]), logits=np.zeros((3, 2)))
    search = make_search(TABLE_NETWORK, 2, discount=0.5, num_simulations=2)
    output = search(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    np.testing.assert_allclose(output.policy[0], [0.993940, 0.006060], atol=1e-6)
    np.testing.assert_allclose(output.value[0], 2.993940, atol=1e-5)
    assert int(output.action[0]) == 0


def test_value_counts_visited_actions_only():
    """Three actions, one considered, one simulation: only the best prior is ever visited.

    q(0) = 1 + 0.5 * 4 = 3. The root says 7, so the mixed value is (7 + 1 * 3) / 2 = 5: the policy
    leans to the unvisited actions, but the value is that of what was seen, 3. Planted: the sum over
    all actions.
    """
    table = make_table(
        next_node=np.array([[1, 1, 1], [1, 1, 1]]), reward=np.array([[1.0, 2.0, 3.0], [0, 0, 0]]),
        value=np.array([7.0, 4.0]), logits=np.array([[1.0, 0.0, -1.0], [0, 0, 0]]))
    search = make_search(TABLE_NETWORK, 3, discount=0.5, num_simulations=1,
                         max_num_considered_actions=1)
    output = search(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    np.testing.assert_allclose(output.value[0], 3.0, atol=1e-6)
    assert float(output.policy[0, 1]) > float(output.policy[0, 0])


def test_value_is_the_formula_even_where_the_policy_leans_away_from_what_was_visited():
    """18 actions, two of them visited 200 times each, q = 0 and -0.1; the root claims 100.

    Mixed value: (100 - 400 * 0.0475) / 401 = 0.2, the best of all: the visited get about 4e-9 of
    the policy. Between them sigma leads by (50 + 200) * 0.1 * 0.1 / 0.3 = 8.3, and so the formula
    gives -0.1 * exp(-8.4), while a mean over visits would say -0.05.
    """
    rewards = np.zeros((2, 18))
    rewards[0, 1] = -0.1
    logits = np.zeros((2, 18))
    logits[0, :2] = 1.0, 0.9
    table = make_table(np.ones((2, 18)), rewards, [100.0, 0.0], logits)
    search = make_search(TABLE_NETWORK, 18, discount=1.0, num_simulations=400,
                         max_num_considered_actions=2)
    output = search(table, jax.random.key(0), history_of(np.zeros(1)), None, explore())
    assert -0.001 < float(output.value[0]) <= 0.0


# Batch rows.


def test_rows_are_independent():
    """A batch equals its rows one by one, permuted or padded.

    Two actions are considered, so that most of the policy hangs on the root's raw value. Planted:
    raw value of row 0 for all rows.
    """
    world, roots, invalid = rows_setup()
    search = make_search(WORLD_NETWORK, 6, turn_sign=-1, num_simulations=12,
                         max_num_considered_actions=2)
    run = functools.partial(search, world, jax.random.key(1))
    whole = run(history_of(roots), invalid, explore())

    one = [run(history_of(roots[b : b + 1]), invalid[b : b + 1], explore()) for b in range(16)]
    one = jax.tree.map(lambda *rows: np.concatenate(rows), *one)
    order = np.random.default_rng(0).permutation(16)
    moved = run(history_of(roots[order]), invalid[order], explore())
    padded = run(history_of(np.concatenate([roots, 0 * roots])),
                 np.concatenate([invalid, np.zeros_like(invalid)]), explore())
    for other, index in ((one, slice(None)), (moved, order), (padded, slice(None))):
        np.testing.assert_array_equal(whole.action[index], other.action[:16])
        np.testing.assert_allclose(whole.policy[index], other.policy[:16], atol=1e-5)
        np.testing.assert_allclose(whole.value[index], other.value[:16], atol=1e-5)


def test_scaling_reward_and_value_changes_no_policy():
    """Reward and value times 4 (exact in binary): same policy, same action, four times the value.

    Planted: Q-values that are not rescaled before sigma.
    """
    world, roots, invalid = rows_setup()
    scaled = world._replace(reward=4 * world.reward, value=4 * world.value)
    search = make_search(WORLD_NETWORK, 6, turn_sign=-1, num_simulations=24)
    outputs = [search(w, jax.random.key(1), history_of(roots), invalid, explore())
               for w in (world, scaled)]
    np.testing.assert_array_equal(outputs[0].action, outputs[1].action)
    np.testing.assert_allclose(outputs[0].policy, outputs[1].policy, atol=1e-5)
    np.testing.assert_allclose(4 * outputs[0].value, outputs[1].value, rtol=1e-4, atol=1e-5)


# Exploration.


def test_invalid_actions_are_never_chosen():
    """Weight 0 and no choice, in evaluation, under noise, temperature and random moves.

    Planted: random moves over all actions; the mask left out.
    """
    world, roots, invalid = rows_setup()
    search = make_search(WORLD_NETWORK, 6, num_simulations=8)
    roots, invalid = np.repeat(roots, 32, 0), np.repeat(invalid, 32, 0)
    ways = [explore(), explore(noise_scale=1.0), explore(temperature=2.0, noise_scale=1.0),
            explore(random_move=1.0), explore(1.0, 1.0, 0.5)]
    for seed, way in enumerate(ways):
        output = search(world, jax.random.key(seed), history_of(roots), invalid, way)
        assert np.all(np.asarray(output.policy)[invalid] == 0.0)
        np.testing.assert_allclose(np.sum(output.policy, axis=-1), 1.0, atol=1e-5)
        assert not invalid[np.arange(len(roots)), output.action].any()
        assert np.isfinite(output.value).all()


def one_root_many_times(draws, way, key=5):
    world, roots, invalid = rows_setup()
    row = int(np.argmax((~invalid).sum(axis=1) == 4))
    search = make_search(WORLD_NETWORK, 6, num_simulations=6)
    same = np.full(draws, row)
    output = search(world, jax.random.key(key), history_of(roots[same]), invalid[same], way)
    return output, ~invalid[row]


def test_random_move_is_uniform_and_touches_the_action_only():
    """Planted: random_move also written into the policy; uniform over logits instead of moves."""
    calm, _ = one_root_many_times(2000, explore())
    output, legal = one_root_many_times(2000, explore(random_move=1.0))
    np.testing.assert_array_equal(calm.policy, output.policy)
    np.testing.assert_array_equal(calm.value, output.value)
    counts = np.bincount(output.action, minlength=6)
    assert counts[~legal].sum() == 0
    assert chi_square(counts[legal], 2000 / legal.sum()) < 1.0
    assert chi_square(np.bincount(calm.action, minlength=6)[legal], 2000 / legal.sum()) > 1.0

    # Half of the moves: the search's own choice keeps the other half and its fair share.
    half, _ = one_root_many_times(2000, explore(random_move=0.5))
    own = int(calm.action[0])
    expected = np.where(np.arange(6) == own, 1000, 0) + 1000 * legal / legal.sum()
    assert chi_square(np.bincount(half.action, minlength=6)[legal], expected[legal]) < 1.0


@pytest.mark.parametrize("temperature", [0.0, 4.0])
def test_explored_is_another_action_than_the_one_to_be_played(temperature):
    """The same key without random moves shows what was to be played, row by row.

    Planted bugs seen: every random draw counts, also of the same action; a drawn action counts as
    explored where it is not the greedy one.
    """
    own, legal = one_root_many_times(2000, explore(temperature=temperature))
    output, _ = one_root_many_times(2000, explore(temperature=temperature, random_move=0.5))
    assert output.explored.dtype == bool and not own.explored.any()
    np.testing.assert_array_equal(output.explored, output.action != own.action)
    share = 0.5 * (1 - 1 / legal.sum())
    assert abs(np.mean(output.explored) - share) < 4 * np.sqrt(share * (1 - share) / 2000)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_temperature_draws_from_the_policy(temperature):
    """Actions come as policy^(1/temperature) (planted: policy^temperature)."""
    draws = 2000
    output, legal = one_root_many_times(draws, explore(temperature=temperature))
    weights = np.where(legal, np.asarray(output.policy[0], np.float64) ** (1 / temperature), 0.0)
    expected = draws * weights / weights.sum()
    counts = np.bincount(output.action, minlength=6)
    common = expected >= 1.0
    assert common.sum() >= 2
    assert counts[~common].sum() <= 10
    assert chi_square(counts[common], expected[common]) < 1.0


def test_noise_changes_the_search_and_keys_differ():
    world, roots, _ = rows_setup()
    search = make_search(WORLD_NETWORK, 6, num_simulations=4, max_num_considered_actions=2)
    calm = [search(world, jax.random.key(k), history_of(roots), None, explore()) for k in (0, 1)]
    loud = [search(world, jax.random.key(k), history_of(roots), None, explore(noise_scale=1.0))
            for k in (0, 0, 1)]
    np.testing.assert_array_equal(calm[0].policy, calm[1].policy)
    np.testing.assert_array_equal(calm[0].action, calm[1].action)
    np.testing.assert_array_equal(loud[0].policy, loud[1].policy)
    assert np.any(np.asarray(loud[0].action) != np.asarray(loud[2].action))


def test_random_moves_are_spread_over_the_environments():
    """Of 8 the last one explores in half of its steps, the first one in a sixteenth.

    Planted: random moves as many in each.
    """
    world, roots, _ = rows_setup(batch=8)
    search = make_search(WORLD_NETWORK, 6, num_simulations=4, max_num_considered_actions=2)
    way = explore(random_move=0.5, spread=1.0)
    keys = jax.random.split(jax.random.key(5), 2000)
    explored = jax.vmap(lambda key: search(world, key, history_of(roots), None, way).explored)(keys)
    wanted = 0.5 * np.arange(1, 9) / 8 * 5 / 6  # A sixth of them is the search's own choice.
    np.testing.assert_allclose(explored.mean(axis=0), wanted, atol=0.05)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_the_spread_gives_each_environment_a_noise_of_its_own(spread):
    """Row i of B is, bit by bit, that of a search in which all have the noise
    `noise_scale` · (i/B)^spread.

    Planted: the positions from 0 on; the spread as a factor; the last row the quietest.
    """
    world, roots, _ = rows_setup()
    search = make_search(WORLD_NETWORK, 6, num_simulations=4, max_num_considered_actions=2)
    histories, key, most = history_of(roots), jax.random.key(3), 1.5
    spreads = search(world, key, histories, None, explore(noise_scale=most, spread=spread))
    for i in range(len(roots)):
        scale = most * ((i + 1) / len(roots)) ** spread
        alone = search(world, key, histories, None, explore(noise_scale=scale))
        assert spreads.action[i] == alone.action[i]
        np.testing.assert_array_equal(spreads.policy[i], alone.policy[i])
    calm = search(world, key, histories, None, explore())
    assert np.any(np.asarray(spreads.action) != np.asarray(calm.action))


@pytest.mark.slow
def test_policy_improves():
    """With exact q, sum pi' q >= sum pi q (Danihelka et al. 2022, section 4).

    One step to an absorbing end, so q is the reward, and the root value is the exact mean of it.
    """
    batch, num_actions = 4096, 8
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(batch, num_actions)) * rng.uniform(0.1, 4, size=(batch, 1))
    q = rng.normal(size=(batch, num_actions)) * rng.uniform(0.01, 10, size=(batch, 1))
    prior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    end = batch
    table = make_table(
        next_node=np.full((batch + 1, num_actions), end),
        reward=np.concatenate([q, np.zeros((1, num_actions))]),
        value=np.append((prior * q).sum(axis=1), 0.0),
        logits=np.concatenate([logits, np.zeros((1, num_actions))]))
    before = (prior * q).sum(axis=1)
    for num_simulations, considered in ((4, 4), (16, 16)):
        search = make_search(TABLE_NETWORK, num_actions, num_simulations=num_simulations,
                             max_num_considered_actions=considered)
        output = search(table, jax.random.key(0), history_of(np.arange(batch)), None, explore())
        after = (np.asarray(output.policy, np.float64) * q).sum(axis=1)
        assert np.all(after >= before - 1e-5 * np.maximum(1, np.abs(q).max(axis=1)))
        chosen = q[np.arange(batch), np.asarray(output.action)]
        assert chosen.mean() > before.mean()
