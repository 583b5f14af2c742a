"""The recurrent representation against NumPy, and what lies before an episode's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import codecs, types
from muzero_jax.networks.gru import make_gru_network
from test_networks import shaken

BATCH, STEPS, ACTIONS, WIDTH = 4, 5, 3, 6
SCALAR = codecs.make_two_hot_codec(num_bins=5, low=-1.0, high=1.0)
SPEC = types.EnvSpec(
    observation=types.ArraySpec((2, 2), "float32"),
    action=types.ActionSpec.discrete(ACTIONS),
    turn_sign=1, truncates=False, max_steps=100)
NETWORK = make_gru_network(
    SPEC, types.Codecs(value=SCALAR, reward=SCALAR), history_steps=STEPS, width=WIDTH)
embed = jax.jit(lambda params, history: NETWORK.initial_inference(params, history).embedding)


def history_from(first_valid, seed=0):
    """Example b is valid from entry `first_valid[b]` on."""
    rng = np.random.default_rng(seed)
    return types.History(
        observation=jnp.asarray(rng.normal(size=(BATCH, STEPS, 2, 2)), jnp.float32),
        action=jnp.asarray(rng.integers(0, ACTIONS, (BATCH, STEPS)), jnp.int32),
        reward=jnp.asarray(5 * rng.normal(size=(BATCH, STEPS)), jnp.float32),
        valid=jnp.arange(STEPS) >= jnp.asarray(first_valid)[:, None])


def params_of():
    return shaken(jax.eval_shape(NETWORK.init, jax.random.key(0)))


def test_padding_changes_no_bit():
    """Anything may lie before the episode's start, NaN included.

    Planted: the state multiplied by `valid` (0 · NaN); the mask on the features alone, where the
    biases of the gates still move the state; no mask.
    """
    params, first_valid = params_of(), [0, 1, 3, 4]
    history, other = history_from(first_valid), history_from(first_valid, seed=1)
    other = other.replace(observation=other.observation * jnp.nan, reward=other.reward + jnp.inf)

    def hidden_from(name):
        mine, theirs = getattr(history, name), getattr(other, name)
        valid = history.valid.reshape(history.valid.shape + (1,) * (mine.ndim - 2))
        return jnp.where(valid, mine, theirs)

    changed = history.replace(
        **{name: hidden_from(name) for name in ("observation", "action", "reward")})
    np.testing.assert_array_equal(embed(params, history), embed(params, changed))


def test_a_padded_history_is_a_shorter_one():
    """The parameters know no S: the valid end alone gives the same embedding.

    Planted: no mask.
    """
    params, history = params_of(), history_from([0, 1, 3, 4])
    whole = embed(params, history)
    for example, start in ((1, 1), (2, 3)):
        short = types.History(**{name: x[example:example + 1, start:]
                                 for name, x in history.items()})
        np.testing.assert_allclose(embed(params, short)[0], whole[example], atol=1e-5)


def numpy_embedding(params, history, example):
    """One example in float64 by the equations of Cho et al. 2014 as flax writes them."""
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params["representation"]["params"])
    cell = next(iter(tree["Scan_Step_0"].values()))
    trunk = tree["Trunk_0"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state = np.zeros(WIDTH)
    for step in range(STEPS):
        if not history.valid[example, step]:
            continue
        reward = float(history.reward[example, step])
        squashed = np.sign(reward) * (np.sqrt(abs(reward) + 1) - 1) + 1e-3 * reward
        entry = np.concatenate([
            np.ravel(history.observation[example, step]),
            np.eye(ACTIONS)[int(history.action[example, step])], [squashed]])
        x = entry @ trunk["Dense_0"]["kernel"]
        norm = trunk["LayerNorm_0"]
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
        gate = {name: x @ cell["i" + name]["kernel"] + cell["i" + name]["bias"] for name in "rzn"}
        past = {name: state @ cell["h" + name]["kernel"] for name in "rzn"}
        reset, keep = sigmoid(gate["r"] + past["r"]), sigmoid(gate["z"] + past["z"])
        new = np.tanh(gate["n"] + reset * (past["n"] + cell["hn"]["bias"]))
        state = (1 - keep) * new + keep * state
    x = state @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"]
    return (x - x.min()) / (x.max() - x.min() + 1e-5)


def test_equals_numpy():
    """Planted: the newest entry first; raw rewards; the state started at ones."""
    params, history = params_of(), history_from([0, 0, 2, 4])
    got = embed(params, history)
    for example in range(BATCH):
        want = numpy_embedding(params, history, example)
        np.testing.assert_allclose(got[example], want, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_reach_the_oldest_entry(dtype):
    """Of what is valid; padding gets none.

    Planted: `stop_gradient` around the state.
    """
    network = make_gru_network(
        SPEC, types.Codecs(value=SCALAR, reward=SCALAR), history_steps=STEPS, width=WIDTH,
        dtype=dtype)
    history = history_from([0, 1, 3, 4])

    @jax.jit
    @jax.grad
    def slope(observation):
        seen = history.replace(observation=observation)
        return jnp.sum(network.initial_inference(params, seen).value_logits[:, 0])

    params = params_of()
    moved = np.asarray(slope(history.observation)).reshape(BATCH, STEPS, -1)
    np.testing.assert_array_equal(np.abs(moved).max(axis=-1) > 0, history.valid)
    assert np.isfinite(moved).all()
