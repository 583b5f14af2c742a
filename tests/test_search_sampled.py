"""Searches over drawn actions: against flat ones, against the best of what was drawn."""

import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from muzero_jax import actions, distributions, types
from muzero_jax.search import (
    answer,
    gumbel_plan,
    learned_model,
    make_search,
    muzero_plan,
    sampled_model,
)
from worlds import (
    CODECS,
    WORLD_NETWORK,
    chi_square,
    explore,
    history_of,
    make_world,
    random_masks,
)

PLANS = {"gumbel": gumbel_plan, "muzero": muzero_plan}


@pytest.mark.parametrize("plan", ["gumbel", pytest.param("muzero", marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_samples", [9, pytest.param(6, marks=pytest.mark.slow)])
def test_all_actions_drawn_are_the_flat_search(num_samples, plan):
    """K = A without replacement draws nothing: the same actions, and the same policies and values
    but for the rounding of another program. Edges beyond the actions are never taken.

    Planted: edges taken for actions of another order; the mask not handed on; a prior for empty
    slots.
    """
    num_actions, batch = 6, 16
    world = make_world(num_actions, seed=3)
    rng = np.random.default_rng(0)
    history = history_of(np.tanh(rng.normal(size=(batch, 5)).astype(np.float32)))
    invalid = random_masks(rng, batch, num_actions)
    action = types.ActionSpec.discrete(num_actions)
    flat = learned_model(WORLD_NETWORK, CODECS, action=action, discount=0.9, turn_sign=-1)
    drawn = sampled_model(flat, distributions.categorical(action), num_samples=num_samples)
    plan = PLANS[plan](num_simulations=24)
    key = jax.random.key(0)
    want = jax.jit(make_search(flat, plan))(world, key, history, invalid, explore())
    got = jax.jit(make_search(drawn, plan))(world, key, history, invalid, explore())
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.action, want.action)
    same(got.policy["weights"][:, :num_actions], want.policy)
    same(got.value, want.value)
    assert (np.asarray(got.policy["weights"])[:, num_actions:] == 0).all()
    np.testing.assert_array_equal(
        got.policy["actions"][:, :num_actions], np.tile(np.arange(num_actions), (batch, 1)))


AIM = types.ActionSpec.real([-2.0, 0.0], [3.0, 1.0])
POLICY = distributions.gaussian(AIM)


def aim_network():
    """The reward is minus the distance of an action from what is seen; there is nothing after."""

    def predict(embedding, reward):
        batch = embedding.shape[0]
        return types.Prediction(
            embedding=embedding, reward_logits=reward[:, None], value_logits=jnp.zeros((batch, 1)),
            policy_logits=jnp.zeros((batch, POLICY.num_logits)))

    def initial_inference(params, history):
        seen = history.observation[:, -1]
        return predict(seen, jnp.zeros(len(seen)))

    def recurrent_inference(params, embedding, action):
        return predict(embedding, -jnp.linalg.norm(action - embedding, axis=-1))

    return types.Network(lambda key: {}, initial_inference, recurrent_inference)


def aim_search(plan, num_samples=8):
    model = learned_model(aim_network(), CODECS, action=AIM, discount=0.0, turn_sign=1)
    return jax.jit(make_search(sampled_model(model, POLICY, num_samples=num_samples), plan))


def aim_history(batch):
    targets = jax.random.uniform(jax.random.key(5), (batch, 2), minval=jnp.array([-2.0, 0.0]),
                                 maxval=jnp.array([3.0, 1.0]))
    return targets, history_of(targets)


@pytest.mark.parametrize("plan", PLANS)
def test_the_best_of_the_drawn_actions_is_found(plan):
    """The action is that of the edge with the greatest weight; Gumbel search tries all eight edges,
    and so takes the nearest (visits are spread more evenly: MuZero's own takes one of the nearest).

    Planted: the action of another edge stored; the step of another edge searched.
    """
    options = dict(gumbel=dict(max_num_considered_actions=8), muzero={})[plan]
    search = aim_search(PLANS[plan](num_simulations=64, **options))
    targets, history = aim_history(32)
    output = search({}, jax.random.key(1), history, None, explore())
    drawn = np.asarray(output.policy["actions"])
    assert drawn.shape == (32, 8, 2)
    distance = np.linalg.norm(drawn - np.asarray(targets)[:, None], axis=-1)
    best = distance.argmin(1)
    weights = np.asarray(output.policy["weights"])
    chosen = (drawn == np.asarray(output.action)[:, None]).all(-1).argmax(1)
    np.testing.assert_array_equal(output.action, drawn[np.arange(32), chosen])
    np.testing.assert_array_equal(weights[np.arange(32), chosen], weights.max(1))
    if plan == "gumbel":
        np.testing.assert_array_equal(chosen, best)
    else:
        rank = (distance < distance[np.arange(32), chosen][:, None]).sum(1)
        assert rank.mean() < 1.5  # Of eight: 3.5 by chance.
    other = search({}, jax.random.key(2), history, None, explore())
    assert not np.isin(other.policy["actions"], drawn).any(), "nothing was drawn"


@pytest.mark.parametrize("plan", ["gumbel", pytest.param("muzero", marks=pytest.mark.slow)])
def test_an_empty_slot_is_never_entered(plan):
    """Of 9 edges 6 have an action, at the root and below: a step along another would be worth 1e6.

    Planted: a prior of 0 in the empty slots; the root's edges without their mask.
    """
    num_actions, batch = 6, 32
    action = types.ActionSpec.discrete(num_actions)
    flat = learned_model(WORLD_NETWORK, CODECS, action=action, discount=0.9, turn_sign=1)
    drawn = sampled_model(flat, distributions.categorical(action), num_samples=9)

    def step(params, key, edge, node):
        output, node = drawn.step(params, key, edge, node)
        return output.replace(reward=output.reward + 1e6 * (edge >= num_actions)), node

    search = jax.jit(make_search(drawn._replace(step=step), PLANS[plan](num_simulations=64)))
    roots = np.random.default_rng(0).normal(size=(batch, 5)).astype(np.float32)
    world = make_world(num_actions, seed=2)
    for masks in (None, random_masks(np.random.default_rng(1), batch, num_actions)):
        more = explore(noise_scale=0.25, temperature=1.0)
        output = search(world, jax.random.key(0), history_of(roots), masks, more)
        assert (np.abs(output.value) < 1e3).all()
        assert (np.asarray(output.policy["weights"])[:, num_actions:] == 0).all()


def fixed_draws(drawn, prior):
    """A policy of one choice whose draws are always these, with this prior."""
    drawn, prior = jnp.asarray(drawn, jnp.int32), jnp.log(jnp.asarray(prior))

    def draw(key, logits, num_samples, invalid_actions=None):
        return (jnp.broadcast_to(x, (logits.shape[0], num_samples)) for x in (drawn, prior))

    return distributions.categorical(types.ActionSpec.discrete(6))._replace(draw=draw)


@pytest.mark.parametrize("batch, visits", [
    (4, 600), pytest.param(32, 1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("plan", ["gumbel", pytest.param("muzero", marks=pytest.mark.slow)])
def test_equal_drawn_actions_share_their_visits_as_one_would(plan, batch, visits):
    """Drawn twice, each with half of the prior, an action has the weight of one drawn once.

    Of a single step, whose values the visits do not change: exactly in the improved policy, and but
    for 2 % of the visits in MuZero's (with the whole prior for each of the two it is 15 %).
    """
    world = make_world(6, seed=5)
    action = types.ActionSpec.discrete(6)
    history = history_of(np.random.default_rng(0).normal(size=(batch, 5)).astype(np.float32))
    flat = learned_model(WORLD_NETWORK, CODECS, action=action, discount=0.0, turn_sign=1)
    found = {}
    for name, drawn, prior in (("twice", [1, 1, 4, 2], [0.25, 0.25, 0.2, 0.3]),
                               ("once", [1, 4, 2], [0.5, 0.2, 0.3])):
        options, num_simulations = {}, visits
        if plan == "gumbel":  # Each edge once, so that the most visits are as many.
            options = dict(max_num_considered_actions=len(drawn))
            num_simulations = len(drawn)
        model = sampled_model(flat, fixed_draws(drawn, prior), num_samples=len(drawn))
        search = jax.jit(
            make_search(model, PLANS[plan](num_simulations=num_simulations, **options)))
        output = search(world, jax.random.key(0), history, None, explore())
        found[name] = np.asarray(output.policy["weights"])
    twice = np.concatenate([found["twice"][:, :2].sum(1, keepdims=True), found["twice"][:, 2:]], 1)
    within = 1e-5 if plan == "gumbel" else 0.02
    np.testing.assert_allclose(twice, found["once"], atol=within)


POLICIES = {
    "categorical": (types.ActionSpec.discrete(40), distributions.categorical),
    "factored": (types.ActionSpec.several((2, 3, 4)), distributions.factored),
    "gaussian": (AIM, distributions.gaussian),
    "beta": (AIM, distributions.beta),
}


@pytest.mark.parametrize("kind,num_simulations", [
    ("gaussian", 8), ("factored", 8),
    *(pytest.param(*x, marks=pytest.mark.slow)
      for x in [*((kind, 8) for kind in ("beta", "categorical")),
                *((kind, 16) for kind in POLICIES)])])
def test_drawn_actions_are_improved_upon(kind, num_simulations):
    """Bandits with known values, 10,000 of them: Σ π' q >= Σ π q over the eight drawn actions.

    π is the prior that the draw gives them: equal shares with replacement, else the policy's own.
    Planted: Q with another sign; the actions of the next row.
    """
    spec, make = POLICIES[kind]
    policy, batch = make(spec), 10_000
    rng = np.random.default_rng(0)
    size = rng.uniform(0.1, 3.0, size=(batch, 1))
    logits = (rng.normal(size=(batch, policy.num_logits)) * size).astype(np.float32)
    width = actions.num_features(spec)
    slopes = rng.normal(size=(batch, width)) * rng.uniform(0.01, 10.0, size=(batch, 1))
    bandits = {"logits": logits, "slopes": slopes.astype(np.float32)}

    def value_of(slopes, chosen):
        return jnp.sin(jnp.sum(slopes * actions.features(spec, chosen), axis=-1)) + slopes[..., 0]

    def predict(rows, reward):
        zeros = jnp.zeros((rows.shape[0], 1))
        return types.Prediction(embedding=rows, reward_logits=reward[:, None], value_logits=zeros,
                                policy_logits=jnp.asarray(bandits["logits"])[rows])

    def look(params, history):
        rows = history.observation[:, -1]
        return predict(rows, jnp.zeros(rows.shape))

    def pull(params, rows, chosen):
        return predict(rows, value_of(jnp.asarray(bandits["slopes"])[rows], chosen))

    network = types.Network(lambda key: {}, look, pull)
    model = learned_model(network, CODECS, action=spec, discount=0.0, turn_sign=1)
    plan = gumbel_plan(num_simulations=num_simulations, max_num_considered_actions=8)
    search = jax.jit(make_search(sampled_model(model, policy, num_samples=8), plan))
    output = search({}, jax.random.key(1), history_of(np.arange(batch)), None,
                    explore(noise_scale=1.0))
    drawn, weights = output.policy["actions"], np.asarray(output.policy["weights"], np.float64)
    q = np.asarray(value_of(bandits["slopes"][:, None], drawn), np.float64)
    prior = np.full((batch, 8), 1 / 8)
    if kind == "categorical":
        prior = np.exp(np.take_along_axis(logits, np.asarray(drawn), axis=1).astype(np.float64))
        prior /= prior.sum(axis=1, keepdims=True)
    before, after = (prior * q).sum(axis=1), (weights * q).sum(axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    assert (after >= before - 1e-5 * np.maximum(1, np.abs(q).max(axis=1))).all()
    assert (after - before).mean() > 0.05
    chosen = np.asarray(value_of(bandits["slopes"], output.action))
    assert chosen.mean() > before.mean()


def test_random_moves_come_from_all_of_the_space():
    """Not from the drawn actions: uniform in the bounds, half of the time, and then explored.

    Planted: a uniform edge; one component of the random action alone.
    """
    search = aim_search(gumbel_plan(num_simulations=4), num_samples=2)
    _, history = aim_history(4_000)
    output = search({}, jax.random.key(1), history, None, explore(random_move=0.5))
    plain = search({}, jax.random.key(1), history, None, explore())
    explored = np.asarray(output.explored)
    assert abs(explored.mean() - 0.5) < 0.04
    np.testing.assert_array_equal(output.action[~explored], plain.action[~explored])
    assert (output.action[explored] != plain.action[explored]).all()
    for i, (low, high) in enumerate(zip(AIM.low, AIM.high)):
        counts = np.histogram(output.action[explored, i], 20, (low, high))[0]
        assert counts.sum() == explored.sum()
        assert chi_square(counts, counts.sum() / 20) < 1
    assert not plain.explored.any()


def test_a_random_move_is_another_action_in_any_of_its_numbers():
    """Of 2 x 2 joint actions one in four is that to be played. Planted: all have to differ."""
    action = types.ActionSpec.several((2, 2))

    def root(params, key, history, invalid_actions):
        node = dict(prior_logits=jnp.zeros((4_000, 1)), value=jnp.zeros(4_000), embedding=None)
        return types.Root(mctx.RootFnOutput(**node), None, None)

    model = types.Model(
        action, 1, root, step=None,
        action_of=lambda embedding, edge: jnp.zeros((*edge.shape, 2), jnp.int32))

    def plan(params, key, model, root, explore):
        zeros = jnp.zeros(4_000)
        return answer(key, model, root, greedy=zeros.astype(jnp.int32), weights=zeros[:, None] + 1,
                      value=zeros, explore=explore)

    output = make_search(model, plan)(None, jax.random.key(0), None, None, explore(random_move=1.0))
    np.testing.assert_array_equal(output.explored, output.action.any(axis=1))
    assert abs(output.explored.mean() - 0.75) < 0.03


def test_a_large_set_is_searched_by_few_of_its_actions():
    """40 actions, 5 drawn, 3 to 40 of them legal: what is played is legal and was drawn, at every
    temperature; edges without an action have no weight.

    Planted: the root's edges without their mask.
    """
    num_actions, batch = 40, 64
    world = make_world(num_actions, seed=1)
    rng = np.random.default_rng(0)
    history = history_of(np.tanh(rng.normal(size=(batch, 5)).astype(np.float32)))
    invalid = rng.random((batch, num_actions)) < np.linspace(0, 0.97, batch)[:, None]
    invalid[:, 7] = False
    action = types.ActionSpec.discrete(num_actions)
    flat = learned_model(WORLD_NETWORK, CODECS, action=action, discount=0.9, turn_sign=1)
    model = sampled_model(flat, distributions.categorical(action), num_samples=5)
    for plan in PLANS.values():
        search = jax.jit(make_search(model, plan(num_simulations=12)))
        for temperature in (0.0, 1.0, 100.0):
            output = search(world, jax.random.key(3), history, invalid,
                            explore(temperature=temperature, noise_scale=1.0))
            drawn, weights = output.policy["actions"], np.asarray(output.policy["weights"])
            legal = ~np.take_along_axis(invalid, np.asarray(drawn), axis=1)
            np.testing.assert_array_equal(legal.sum(1), np.minimum(5, (~invalid).sum(1)))
            assert (weights[~legal] == 0).all()
            np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-5)
            assert not invalid[np.arange(batch), output.action].any()
            assert (np.asarray(drawn) == np.asarray(output.action)[:, None]).any(1).all()


def test_what_cannot_be_searched_is_refused():
    model = learned_model(aim_network(), CODECS, action=AIM, discount=0.0, turn_sign=1)
    with pytest.raises(ValueError, match="model: it has no edges of real numbers"):
        make_search(model, gumbel_plan(num_simulations=2))({}, jax.random.key(0),
                                                           aim_history(2)[1], None, explore())
    with pytest.raises(ValueError, match="num_samples must be >= 1"):
        sampled_model(model, POLICY, num_samples=0)
