"""Policies against numerical integration, enumeration and frequencies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from muzero_jax import distributions
from muzero_jax.types import ActionSpec
from worlds import chi_square

LOW, HIGH = -2.0, 3.0
NUMBER = ActionSpec.real([LOW], [HIGH])
REAL = {"gaussian": distributions.gaussian, "beta": distributions.beta}
# Mean and scale, or α and β, before their softplus: broad, off the middle, sharp, at an edge.
LOGITS = np.array(
    [[0.0, 0.0], [1.0, -1.0], [-0.4, -3.0], [2.5, 0.5], [3.0, 1.0], [-1.0, 3.0]], np.float32)
GRID = LOW + (HIGH - LOW) / 2 * (1 + np.tanh(np.linspace(-7, 7, 200_001)))  # Finer at the bounds.


def compiled(distribution):
    """The same of four programs; called one by one, its operations would be as many."""
    return distribution._replace(
        draw=jax.jit(distribution.draw, static_argnums=2), log_prob=jax.jit(distribution.log_prob),
        entropy=jax.jit(distribution.entropy), mode=jax.jit(distribution.mode))


def densities(distribution):
    """`[6, G]` at the points of the grid."""
    points = np.broadcast_to(GRID.astype(np.float32)[:, None], (6, len(GRID), 1))
    return np.exp(np.asarray(distribution.log_prob(LOGITS, points), np.float64))


@pytest.mark.parametrize("kind", REAL)
def test_a_density_integrates_to_one_and_is_drawn_from(kind):
    """By a grid of 200,000 points, and by 20,000 draws of each policy in 25 bins.

    Planted: the slope of tanh left out; the width of the bounds left out; α and β exchanged in the
    draws; a scale that is twice that of the density.
    """
    distribution = compiled(REAL[kind](NUMBER))
    density = densities(distribution)
    np.testing.assert_allclose(np.trapezoid(density, GRID), 1.0, atol=4e-3)
    drawn, prior = jax.device_get(distribution.draw(jax.random.key(0), LOGITS, 20_000, None))
    assert drawn.shape == (6, 20_000, 1) and drawn.dtype == jnp.float32
    assert (drawn >= LOW).all() and (drawn <= HIGH).all() and (prior == 0).all()
    edges = np.linspace(LOW, HIGH, 26)
    for row in range(6):
        mass = (density[row, 1:] + density[row, :-1]) / 2 * np.diff(GRID)
        each = np.add.reduceat(mass, np.searchsorted(GRID[1:], edges[:-1]))
        expected = 20_000 * each / each.sum()
        counts = np.histogram(drawn[row], edges)[0].astype(float)
        rare = expected < 8
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
        if expected[-1] < 8:
            assert counts[-1] < 40
            counts, expected = counts[:-1], expected[:-1]
        assert chi_square(counts, expected) < 1, (kind, row)


@pytest.mark.parametrize("kind", REAL)
def test_entropies_are_those_of_the_density(kind):
    """Planted: the quadrature's weights not normalised; the width left out; digamma(a) for b."""
    distribution = compiled(REAL[kind](NUMBER))
    density = densities(distribution)
    want = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), GRID)
    np.testing.assert_allclose(distribution.entropy(LOGITS), want, atol=0.02)


def test_the_mode_of_a_beta_policy_is_its_peak():
    """Planted: the mean in its place."""
    distribution = compiled(distributions.beta(NUMBER))
    peak = GRID[densities(distribution).argmax(1)]
    np.testing.assert_allclose(distribution.mode(LOGITS, None)[:, 0], peak, atol=0.01)


def test_the_mode_of_a_gaussian_policy_is_its_median():
    distribution = compiled(distributions.gaussian(NUMBER))
    below = densities(distribution) * (GRID < distribution.mode(LOGITS, None))
    np.testing.assert_allclose(np.trapezoid(below, GRID), 0.5, atol=4e-3)


@pytest.mark.parametrize("kind", ["gaussian", pytest.param("beta", marks=pytest.mark.slow)])
def test_components_are_independent_and_keep_their_own_bounds(kind):
    """An action of shape (2, 2) is four of one number each.

    Planted: the bounds of the first component for all; a mean over components; logits in the order
    mean, scale, mean, scale.
    """
    low, high = (-1.0, -2.0, 0.0, 5.0), (1.0, 3.0, 0.5, 9.0)
    action = ActionSpec.real(low, high, shape=(2, 2))
    distribution = compiled(REAL[kind](action))
    logits = np.asarray(jax.random.normal(jax.random.key(1), (3, distribution.num_logits)))
    drawn, _ = jax.device_get(distribution.draw(jax.random.key(2), logits, 500, None))
    assert drawn.shape == (3, 500, 2, 2)
    flat = drawn.reshape(3, 500, 4)
    assert (flat >= low).all() and (flat <= high).all()
    assert (np.ptp(flat, axis=(0, 1)) > 0.4 * (np.array(high) - low)).all()
    log_prob, entropy = 0.0, 0.0
    for i in range(4):
        one = compiled(REAL[kind](ActionSpec.real(low[i : i + 1], high[i : i + 1])))
        own = logits[:, [i, 4 + i]]
        log_prob += np.asarray(one.log_prob(own, flat[..., i : i + 1]))
        entropy += np.asarray(one.entropy(own))
        np.testing.assert_allclose(
            distribution.mode(logits, None).reshape(3, 4)[:, i], one.mode(own, None)[:, 0],
            rtol=1e-6)
    np.testing.assert_allclose(distribution.log_prob(logits, drawn), log_prob, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distribution.entropy(logits), entropy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", REAL)
def test_an_action_on_its_bounds_is_scored_and_learned_from(kind):
    """Planted: no distance kept from the bounds: infinite densities, gradients that are none."""
    distribution = compiled(REAL[kind](NUMBER))
    ends = np.broadcast_to(np.array([[LOW], [HIGH]], np.float32), (6, 2, 1))
    score = lambda logits: distribution.log_prob(logits, ends).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(score)(LOGITS)
    assert np.isfinite(value) and np.isfinite(gradient).all()


SIZES = (3, 2, 3)
SEVERAL = ActionSpec.several(SIZES)
JOINT = np.array([*itertools.product(*map(range, SIZES))], np.int32)  # [18, 3]


def test_a_factored_policy_is_a_policy_over_joint_actions():
    """By enumeration of all 18: it sums to 1, its entropy is theirs, its best is the best of them,
    and 30,000 draws are as frequent as it says.

    Planted: the entropy of the first choice alone; a mean in place of a sum; the same key for each
    choice; parts cut at other places.
    """
    distribution = compiled(distributions.factored(SEVERAL))
    assert distribution.num_logits == 8
    logits = 1.5 * np.asarray(jax.random.normal(jax.random.key(0), (5, 8)))
    joint = np.broadcast_to(JOINT, (5, *JOINT.shape))
    log_prob = np.asarray(distribution.log_prob(logits, joint), np.float64)
    probability = np.exp(log_prob)
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-5)
    each = [scipy.special.softmax(logits[:, a:b], axis=1) for a, b in ((0, 3), (3, 5), (5, 8))]
    product = each[0][:, :, None, None] * each[1][:, None, :, None] * each[2][:, None, None]
    np.testing.assert_allclose(probability, product.reshape(5, 18), rtol=1e-5)
    np.testing.assert_allclose(
        distribution.entropy(logits), -(probability * log_prob).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(
        distribution.mode(logits, None), JOINT[probability.argmax(1)])
    drawn, prior = jax.device_get(distribution.draw(jax.random.key(1), logits, 30_000, None))
    assert drawn.dtype == np.int32 and (prior == 0).all() and prior.shape == (5, 30_000)
    index = np.ravel_multi_index(tuple(np.moveaxis(drawn, -1, 0)), SIZES)
    for row in range(5):
        assert chi_square(np.bincount(index[row], minlength=18), 30_000 * probability[row]) < 1


def test_a_factored_policy_of_one_choice_is_categorical():
    one = ActionSpec.discrete(5)
    logits = jax.random.normal(jax.random.key(0), (4, 5))
    chosen = np.array([[0, 3], [1, 1], [4, 2], [2, 0]], np.int32)
    a, b = (compiled(x(one)) for x in (distributions.factored, distributions.categorical))
    np.testing.assert_allclose(a.log_prob(logits, chosen), b.log_prob(logits, chosen), rtol=1e-6)
    np.testing.assert_allclose(a.entropy(logits), b.entropy(logits), rtol=1e-6)
    np.testing.assert_array_equal(a.mode(logits, None), b.mode(logits, None))
    assert a.draw(jax.random.key(0), logits, 3, None)[0].shape == (4, 3)


@pytest.mark.parametrize("num_actions, num_rows", [(4, 20_000), (45, 100_000)])
def test_a_categorical_policy_draws_without_replacement(num_actions, num_rows):
    """Pairs of actions are as frequent as drawing one after the other makes them; of a large set
    too, which is drawn from in blocks, here of 12 blocks of four with three slots to spare.

    Planted: with replacement; all times the same; rates whose logarithms are halved. In blocks: the
    times of actions as they come, whatever the first of their block is; a block's largest rate for
    their sum; all blocks at the same time; slots to spare that are drawn.
    """
    distribution = compiled(distributions.categorical(ActionSpec.discrete(num_actions)))
    logits = np.array([1.0, 0.0, -0.5, 0.3], np.float32)
    others = np.random.default_rng(0).normal(-1.0, 1.5, num_actions - 4).astype(np.float32)
    logits = np.concatenate([logits, others])
    rows = np.broadcast_to(logits, (num_rows, num_actions))
    drawn, prior = jax.device_get(distribution.draw(jax.random.key(0), rows, 2, None))
    assert (drawn[:, 0] < drawn[:, 1]).all() and drawn.dtype == np.int32
    np.testing.assert_array_equal(prior, logits[drawn])
    p = scipy.special.softmax(logits.astype(np.float64))
    i, j = np.triu_indices(num_actions, 1)
    expected = num_rows * (p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]))
    seen = np.zeros((num_actions, num_actions))
    np.add.at(seen, (drawn[:, 0], drawn[:, 1]), 1)
    counts, rare = seen[i, j], expected < 8
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert chi_square(counts, expected) < 1
    np.testing.assert_allclose(
        distribution.log_prob(rows[:1], np.arange(4)[None])[0], np.log(p[:4]), rtol=1e-5)


@pytest.mark.parametrize("forbidden", [0, 146])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 6])
def test_drawn_actions_are_legal_while_there_are_some(num_samples, forbidden):
    """Legal are two of four, one of them of next to no probability, of another row one, of the last
    all: as many edges have a prior; also where many more actions are forbidden, of which some
    blocks are full.

    Planted: masks not looked at, or not while drawing; slots without an action given a prior;
    forbidden actions as likely as the rarest legal ones.
    """
    distribution = compiled(distributions.categorical(ActionSpec.discrete(4 + forbidden)))
    invalid = np.array([[True, False, True, False], [True, True, True, False], [False] * 4])
    logits = np.array(
        [[9.0, 0.0, 9.0, -200.0], [9.0, 9.0, 9.0, -9.0], [0.0, 1.0, 2.0, 3.0]], np.float32)
    invalid = np.pad(invalid, [(0, 0), (0, forbidden)], constant_values=True)
    logits = np.pad(logits, [(0, 0), (0, forbidden)], constant_values=9.0)
    for seed in range(20):
        drawn, prior = jax.device_get(
            distribution.draw(jax.random.key(seed), logits, num_samples, invalid))
        known = prior > distributions.MIN_LOGIT
        assert np.isfinite(prior).all() and (drawn < 4 + forbidden).all()
        np.testing.assert_array_equal(known.sum(1), np.minimum([2, 1, 4], num_samples))
        assert not np.take_along_axis(invalid, drawn, 1)[known].any()
        for row in range(3):
            assert len(set(drawn[row][known[row]])) == known[row].sum()
    np.testing.assert_array_equal(distribution.mode(logits, invalid), [1, 3, 3])


def test_all_actions_are_drawn_in_their_places():
    """Then nothing is drawn at all: logits are the prior to the last bit. Planted: normalised."""
    distribution = compiled(distributions.categorical(ActionSpec.discrete(5)))
    logits = 3.0 * jax.random.normal(jax.random.key(0), (7, 5))
    drawn, prior = distribution.draw(jax.random.key(1), logits, 5, None)
    np.testing.assert_array_equal(drawn, np.tile(np.arange(5), (7, 1)))
    np.testing.assert_array_equal(prior, logits)


def test_the_loss_of_drawn_actions_pulls_towards_their_weights():
    """Gradient steps bring a policy to the weights of the search, whose cross-entropy it is.

    Planted: the sign; weights not looked at; an empty slot that counts.
    """
    action = ActionSpec.discrete(4)
    loss = distributions.sampled_cross_entropy(distributions.categorical(action))
    weights = jnp.array([0.7, 0.0, 0.1, 0.2])
    policy = {"actions": jnp.array([2, 1, 0, 3]), "weights": weights}
    logits = jnp.array([0.3, -jnp.inf, 0.0, 0.1])  # What has no weight may have no probability.
    want = -(0.1 * jax.nn.log_softmax(logits)[0] + 0.7 * jax.nn.log_softmax(logits)[2]
             + 0.2 * jax.nn.log_softmax(logits)[3])
    np.testing.assert_allclose(loss(logits, policy), want, rtol=1e-6)
    step = jax.jit(lambda x: x - 1.0 * jax.grad(lambda x: loss(x, policy))(x))
    logits = jnp.zeros(4)
    for _ in range(300):
        logits = step(logits)
    np.testing.assert_allclose(jax.nn.softmax(logits), [0.1, 0.0, 0.7, 0.2], atol=0.01)


CATEGORICAL = distributions.categorical(ActionSpec.discrete(3))
GAUSSIAN = distributions.gaussian(ActionSpec.real([0.0] * 3, [1.0] * 3))
FACTORED = distributions.factored(SEVERAL)


@pytest.mark.parametrize(
    "call",
    [
        lambda: CATEGORICAL.draw(jax.random.key(0), jnp.zeros((2, 4)), 2, None),
        lambda: CATEGORICAL.draw(jax.random.key(0), jnp.zeros((2, 3)), 2, jnp.zeros((2, 4), bool)),
        lambda: CATEGORICAL.mode(jnp.zeros((2, 3)), jnp.zeros((1, 3), bool)),
        lambda: CATEGORICAL.log_prob(jnp.zeros((2, 2)), jnp.zeros((2, 1), jnp.int32)),
        lambda: GAUSSIAN.log_prob(jnp.zeros((2, 6)), jnp.zeros((2, 5, 2))),
        lambda: GAUSSIAN.log_prob(jnp.zeros((2, 5)), jnp.zeros((2, 5, 3))),
        lambda: GAUSSIAN.entropy(jnp.zeros((2, 3))),
        lambda: GAUSSIAN.draw(jax.random.key(0), jnp.zeros((2, 6)), 2, jnp.zeros((2, 3), bool)),
        lambda: GAUSSIAN.log_prob(jnp.zeros((2, 6)), jnp.zeros((2, 5, 3), jnp.int32)),
        lambda: FACTORED.log_prob(jnp.zeros((2, 8)), jnp.zeros((2, 5, 2), jnp.int32)),
        lambda: FACTORED.log_prob(jnp.zeros((2, 8)), jnp.zeros((2, 5, 3))),
        lambda: FACTORED.mode(jnp.zeros((2, 7)), None),
        lambda: FACTORED.mode(jnp.zeros((2, 8)), jnp.zeros((2, 8), bool)),
        lambda: distributions.categorical(SEVERAL),
        lambda: distributions.factored(NUMBER),
        lambda: distributions.gaussian(SEVERAL),
        lambda: distributions.beta(ActionSpec.discrete(3)),
    ],
)
def test_other_shapes_and_kinds_are_refused(call):
    with pytest.raises((ValueError, AssertionError)):
        jax.eval_shape(call)
