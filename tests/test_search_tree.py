"""The tree that a search shows, against the model that it was grown in."""

import jax
import numpy as np
import pytest
import scipy.special

from muzero_jax import distributions, types
from muzero_jax.search import gumbel_plan, learned_model, make_search, muzero_plan, sampled_model
from worlds import CODECS, WORLD_NETWORK, explore, history_of, make_world, world_model

PLANS = {"gumbel": gumbel_plan, "muzero": muzero_plan}
BATCH, SIMULATIONS, DISCOUNT = 6, 24, -0.9


def _searched(plan, num_actions, num_samples=None, **options):
    """(world, roots `[B, D]`, output) of searches of two players in a random world."""
    world = make_world(num_actions, seed=num_actions)
    roots = np.tanh(np.random.default_rng(0).normal(size=(BATCH, 5))).astype(np.float32)
    action = types.ActionSpec.discrete(num_actions)
    model = learned_model(
        WORLD_NETWORK, CODECS, action=action, discount=-DISCOUNT, turn_sign=-1)
    if num_samples is not None:
        policy = distributions.categorical(action)
        model = sampled_model(model, policy, num_samples=num_samples)
    search = make_search(model, PLANS[plan](num_simulations=SIMULATIONS, **options))
    output = jax.jit(search)(world, jax.random.key(1), history_of(roots), None, explore())
    return world, roots, jax.device_get(output)


@pytest.mark.parametrize("plan, num_actions, num_samples", [
    ("muzero", 3, None), ("gumbel", 9, 4),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (("gumbel", 3, None), ("muzero", 9, 4)))])
def test_each_node_is_a_step_of_the_model_from_its_parent(plan, num_actions, num_samples):
    """Two deep at most, so that some nodes are none and others are visited again. Drawn actions are
    those of the drawn edges.

    Planted: the parent's action; the prior over other actions; an edge for its action; values of
    the parent; what is no node shown as one; rewards of the edge 0.
    """
    world, roots, output = _searched(plan, num_actions, num_samples, max_depth=2)
    tree, step = output.tree, world_model(world).step
    for b in range(BATCH):
        nodes = np.flatnonzero(tree.visits[b])
        assert 1 < len(nodes) < SIMULATIONS + 1
        none = tree.visits[b] == 0
        assert (tree.parent[b, none] == -1).all() and not tree.value[b, none].any()
        assert not tree.prior[b, none].any() and not tree.discount[b, none].any()
        state = roots[b].astype(np.float64)
        at = {0: (0.0, state @ world.value, state @ world.prior, state)}
        for n in nodes[1:]:
            at[n] = step(at[tree.parent[b, n]][3], tree.action[b, n])
            np.testing.assert_allclose(tree.reward[b, n], at[n][0], atol=1e-5)
            np.testing.assert_allclose(tree.discount[b, n], DISCOUNT, rtol=1e-6)
            prior = scipy.special.softmax(at[tree.parent[b, n]][2])[tree.action[b, n]]
            if num_samples is None:
                np.testing.assert_allclose(tree.prior[b, n], prior, rtol=1e-4)
            else:  # Of four of nine.
                assert prior < tree.prior[b, n] < 1
        assert tree.parent[b, 0] == -1 and tree.prior[b, 0] == 1 and tree.discount[b, 0] == 1
        for n in nodes:  # The mean of the model's own value and of all that was found below.
            below = np.flatnonzero(tree.parent[b] == n)
            q = tree.reward[b, below] + tree.discount[b, below] * tree.value[b, below]
            visits = tree.visits[b, below]
            own = tree.visits[b, n] - visits.sum()
            assert own >= 1
            mean = (own * at[n][1] + (visits * q).sum()) / tree.visits[b, n]
            np.testing.assert_allclose(tree.value[b, n], mean, atol=1e-4)
            if n == 0:
                assert own == 1 and visits.sum() == SIMULATIONS
                edges = [list(tree.root_action[b]).index(x) for x in tree.action[b, below]]
                np.testing.assert_array_equal(tree.root_visits[b, edges], visits)
                np.testing.assert_allclose(tree.root_q[b, edges], q, atol=1e-6)
                np.testing.assert_allclose(tree.root_prior[b, edges], tree.prior[b, below])
                unseen = np.setdiff1d(np.arange(len(tree.root_action[b])), edges)
                assert not tree.root_visits[b, unseen].any() and not tree.root_q[b, unseen].any()
        policy = output.policy if num_samples is None else output.policy["weights"]
        np.testing.assert_array_equal(tree.root_policy[b], policy[b])
        np.testing.assert_allclose(tree.root_prior[b].sum(), 1, rtol=1e-5)


def test_where_all_simulations_fit_at_the_root_it_has_the_edges_alone():
    """Planted: nodes of a tree that there is not."""
    world, roots, output = _searched("gumbel", 30, max_num_considered_actions=SIMULATIONS)
    tree, step = output.tree, world_model(world).step
    assert tree.visits.shape == (BATCH, 1) and (tree.visits == SIMULATIONS + 1).all()
    assert (tree.root_visits.sum(1) == SIMULATIONS).all() and tree.root_visits.max() == 1
    for b in range(BATCH):
        for action in np.flatnonzero(tree.root_visits[b]):
            reward, value, _, _ = step(roots[b].astype(np.float64), action)
            np.testing.assert_allclose(
                tree.root_q[b, action], reward + DISCOUNT * value, atol=1e-5)
