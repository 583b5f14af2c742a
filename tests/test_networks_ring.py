"""A network of places on a ring: what holds at one place holds at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import actions, codecs, distributions, types
from muzero_jax.errors import ArgumentError
from muzero_jax.networks.ring import make_ring_network

PLACES, CHOICES, BATCH, STEPS = 7, 3, 2, 2
SEEN = {"cars": types.ArraySpec((PLACES, 4), "float32"), "on": types.ArraySpec((PLACES,), "bool")}
CHOOSE = types.ActionSpec.several((CHOICES,) * PLACES)


def spec_of(observation=SEEN, action=CHOOSE):
    return types.EnvSpec(
        observation=observation, action=action, turn_sign=1, truncates=True, max_steps=9)


def codecs_of(spec, policy=None):
    value = codecs.make_two_hot_codec(num_bins=7, low=-3.0, high=3.0)
    reward = codecs.make_two_hot_codec(num_bins=5, low=-1.0, high=1.0)
    return types.Codecs(value, reward, policy or distributions.factored(spec.action))


def made(**options):
    """The network with random parameters everywhere, and a history."""
    spec = spec_of()
    network = make_ring_network(spec, codecs_of(spec), history_steps=STEPS, width=8, **options)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.float32(1.0 + rng.normal(size=x.shape)),
        jax.eval_shape(network.init, jax.random.key(0)))
    lead = (BATCH, STEPS, PLACES)
    history = types.History(
        observation={"cars": jnp.float32(rng.normal(size=(*lead, 4))),
                     "on": jnp.asarray(rng.integers(2, size=lead) == 1)},
        action=jnp.int32(rng.integers(CHOICES, size=lead)),
        reward=jnp.zeros((BATCH, STEPS)),
        valid=jnp.ones((BATCH, STEPS), bool).at[0, 0].set(False))
    return network, params, history


def turned(tree, axis, by=2):
    return jax.tree.map(lambda x: jnp.roll(x, by, axis=axis), tree)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_ring_that_is_turned_is_the_same_ring(num_layers):
    """The embedding and the policy turn with it; value and reward stay. Seen in a mirror it is
    another. Planted: zeros beside the first place and the last; time taken for a place."""
    network, params, history = made(num_layers=num_layers)
    taken = history.action[:, 1]
    look, step = jax.jit(network.initial_inference), jax.jit(network.recurrent_inference)

    def both(history, taken):
        root = look(params, history)
        return root, step(params, root.embedding, taken)

    moved = history.replace(
        observation=turned(history.observation, 2), action=turned(history.action, 2))
    for before, after in zip(both(history, taken), both(moved, turned(taken, 1))):
        assert before.embedding.shape == (BATCH, PLACES, 8)
        close(turned(before.embedding, 1), after.embedding)
        each = before.policy_logits.reshape(BATCH, PLACES, CHOICES)
        assert np.std(each, axis=1).min() > 1e-3
        close(turned(each, 1), after.policy_logits.reshape(each.shape))
        close(before.value_logits, after.value_logits)
        close(before.reward_logits, after.reward_logits)
    mirror = history.replace(
        observation=jax.tree.map(lambda x: x[:, :, ::-1], history.observation),
        action=history.action[:, :, ::-1])
    root, other = look(params, history), look(params, mirror)
    assert np.abs(root.embedding[:, ::-1] - other.embedding).max() > 0.01


def test_the_choice_of_each_place_is_read_and_past_ones_where_they_are_valid():
    """Planted: the choices left out of the model; those of padding read."""
    network, params, history = made()
    look, step = jax.jit(network.initial_inference), jax.jit(network.recurrent_inference)
    root = look(params, history)
    after = step(params, root.embedding, history.action[:, 1])
    for place in range(PLACES):
        other = history.action.at[:, :, place].set((history.action[:, :, place] + 1) % CHOICES)
        changed = step(params, root.embedding, other[:, 1])
        assert np.abs(changed.reward_logits - after.reward_logits).max(axis=1).min() > 1e-4
        oldest = history.action.at[:, 0].set(other[:, 0])
        seen = look(params, history.replace(action=oldest)).embedding != root.embedding
        np.testing.assert_array_equal(np.asarray(seen).any(axis=(1, 2)), history.valid[:, 0])


def test_what_is_no_ring_is_one_line():
    """Other actions, observations or policies than one for each place."""
    real = types.ActionSpec.real([-1.0] * PLACES, [1.0] * PLACES)
    for spec, line in (
        (spec_of(action=real), "a ring needs choices of one size, one a place"),
        (spec_of(action=types.ActionSpec.discrete(3)), "a ring needs choices of one size"),
        (spec_of(action=types.ActionSpec.several((2,) * 6 + (3,))), "a ring needs choices of one"),
        (spec_of({"a": types.ArraySpec((6, 2), "float32")}), r"needs observations of \[7, ...\]"),
        (spec_of({"a": types.ArraySpec((), "float32")}), r"needs observations of \[7, ...\]"),
    ):
        policy = distributions.gaussian(real)
        with pytest.raises(ArgumentError, match=line):
            make_ring_network(spec, codecs_of(spec, policy), history_steps=1)
    spec = spec_of()
    odd = distributions.factored(types.ActionSpec.several((2,)))
    with pytest.raises(ArgumentError, match="a policy of 2 logits cannot be shared by 7 places"):
        make_ring_network(spec, codecs_of(spec, odd), history_steps=1)
    with pytest.raises(ArgumentError, match="num_layers must be >= 1"):
        make_ring_network(spec, codecs_of(spec), history_steps=1, num_layers=0)


def test_features_are_those_of_each_choice():
    """One-hot choices of one size are one row a place, in order: the layout that the ring reads."""
    taken = jnp.int32([[0, 2, 1, 1, 0, 2, 0]])
    found = actions.features(CHOOSE, taken).reshape(PLACES, CHOICES)
    np.testing.assert_array_equal(found, np.eye(CHOICES)[np.asarray(taken[0])])
