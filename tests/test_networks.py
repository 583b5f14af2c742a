"""Shapes, dtypes, ranges and inputs of the networks, and their sizes counted by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import codecs, types
from muzero_jax.networks import blocks
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network

BATCH, ACTIONS, STEPS = 5, 3, 2
CODECS = types.Codecs(
    value=codecs.make_two_hot_codec(num_bins=7, low=-3.0, high=3.0),
    reward=codecs.make_two_hot_codec(num_bins=5, low=-1.0, high=1.0),
)
SHAPES = {"mlp": (4,), "gru": (4,), "conv": (8, 8, 2)}
EMBEDDINGS = {"mlp": (8,), "gru": (8,), "conv": (4, 4, 6)}


def spec_of(kind):
    return types.EnvSpec(
        observation=types.ArraySpec(SHAPES[kind], "uint8" if kind == "conv" else "float32"),
        action=types.ActionSpec.discrete(ACTIONS), turn_sign=1, truncates=True, max_steps=100)


def make(kind, history_steps=STEPS, **kwargs):
    spec = spec_of(kind)
    if kind != "conv":
        maker = {"mlp": make_mlp_network, "gru": make_gru_network}[kind]
        return maker(spec, CODECS, history_steps=history_steps, width=8, **kwargs)
    sizes = {"stages": ((4, 3, 2, 1),), "channels": 6, "representation_blocks": 1,
             "dynamics_blocks": 1, "prediction_blocks": 1, "head_planes": 2, "head_width": 5}
    return make_conv_network(spec, CODECS, history_steps=history_steps, **sizes | kwargs)


def history_of(kind, length=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    shape = (BATCH, length, *SHAPES[kind])
    observation = (rng.normal(size=shape).astype(np.float32) if kind != "conv"
                   else rng.integers(0, 256, shape).astype(np.uint8))
    return types.History(
        observation=jnp.asarray(observation),
        action=jnp.asarray(rng.integers(0, ACTIONS, (BATCH, length)), jnp.int32),
        reward=jnp.asarray(rng.normal(size=(BATCH, length)), jnp.float32),
        valid=jnp.ones((BATCH, length), bool),
    )


def shaken(shapes, seed=9):
    """Random parameters everywhere: at the start the last layers hide what heads read."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        noise = 0.3 * rng.normal(size=x.shape).astype(x.dtype)
        return (noise + ("scale" in jax.tree_util.keystr(path))).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def built(kind, **kwargs):
    """A compiled network and its shaken parameters."""
    network = make(kind, **kwargs)
    params = shaken(jax.eval_shape(network.init, jax.random.key(0)))
    return network._replace(
        initial_inference=jax.jit(network.initial_inference),
        recurrent_inference=jax.jit(network.recurrent_inference),
    ), params


KINDS = pytest.mark.parametrize("kind", ["mlp", "gru", "conv"])


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_dtypes_and_range(kind, dtype):
    """Logits and parameters are float32 whatever the body is; embeddings fill [0, 1] per example.

    Planted: the last layer of a head in the body's dtype; scaling by the minimum and maximum of
    the batch; the embedding of the dynamics not scaled.
    """
    network, params = built(kind, dtype=dtype)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    root = network.initial_inference(params, history_of(kind))
    action = jnp.arange(BATCH, dtype=jnp.int32) % ACTIONS
    after = network.recurrent_inference(params, root.embedding, action)
    for prediction in (root, after):
        assert prediction.embedding.shape == (BATCH, *EMBEDDINGS[kind])
        assert prediction.embedding.dtype == jnp.dtype(dtype)  # The search tree's memory.
        assert prediction.policy_logits.shape == (BATCH, ACTIONS)
        assert prediction.value_logits.shape == (BATCH, 7)
        assert prediction.reward_logits.shape == (BATCH, 5)
        for logits in (prediction.policy_logits, prediction.value_logits):
            assert logits.dtype == jnp.float32
            assert np.isfinite(logits).all() and np.std(logits) > 0
        assert prediction.reward_logits.dtype == jnp.float32
        flat = np.asarray(prediction.embedding, np.float32).reshape(BATCH, -1)
        np.testing.assert_array_equal(flat.min(axis=1), 0.0)
        assert (flat.max(axis=1) <= 1.0).all() and (flat.max(axis=1) > 0.99).all()
    np.testing.assert_array_equal(root.reward_logits, 0.0)
    assert np.std(after.reward_logits) > 0


def test_scale_embedding_literally():
    """Each example by its own range; one without a range becomes 0, not NaN.

    Planted: scaling by the minimum and maximum of the batch; eps left out.
    """
    x = jnp.array([[1.0, 2.0, 5.0], [-10.0, 0.0, 10.0], [3.0, 3.0, 3.0]])
    want = [[0.0, 0.25, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(blocks.scale_embedding(x), want, atol=1e-5)
    # All axes but the first belong to one example: here from -10 to 10, and from 0 to 4.
    boards = jnp.array([[[-10.0, 5.0], [0.0, 10.0]], [[4.0, 0.0], [1.0, 2.0]]])
    want = [[[0.0, 0.75], [0.5, 1.0]], [[1.0, 0.0], [0.25, 0.5]]]
    np.testing.assert_allclose(blocks.scale_embedding(boards), want, atol=1e-5)


@KINDS
def test_all_logits_are_zero_at_the_start(kind):
    """So that the first search is uniform and the first values are 0.

    Planted: the default initialiser in the last layer.
    """
    network, _ = built(kind)
    params = jax.jit(network.init)(jax.random.key(1))
    root = network.initial_inference(params, history_of(kind))
    after = network.recurrent_inference(params, root.embedding, jnp.zeros(BATCH, jnp.int32))
    for prediction in (root, after):
        for name in ("policy_logits", "value_logits", "reward_logits"):
            np.testing.assert_array_equal(getattr(prediction, name), 0.0)
    assert np.std(root.embedding) > 0.01  # The body is alive.
    other = jax.jit(network.init)(jax.random.key(2))
    assert any(not np.array_equal(x, y) for x, y in zip(
        jax.tree.leaves(params), jax.tree.leaves(other)))


@KINDS
def test_batch_rows_are_independent(kind):
    """Other rows may hold anything: row 2 keeps every bit.

    Planted: LayerNorm over the batch axis too; scaling by the range of the batch.
    """
    network, params = built(kind)
    action = jnp.arange(BATCH, dtype=jnp.int32) % ACTIONS

    def predict(history, action):
        root = network.initial_inference(params, history)
        return root, network.recurrent_inference(params, root.embedding, action)

    one, other = history_of(kind), history_of(kind, seed=1)

    def mixed(x, y):
        return y.at[2].set(x[2])

    got = predict(jax.tree.map(mixed, one, other), (action + 1).at[2].set(action[2]))
    want = predict(one, action)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_array_equal(mine[2], theirs[2])
    assert not np.array_equal(got[1].value_logits[0], want[1].value_logits[0])


def embedding_changes(made, history, **changes):
    """Which examples `[B]` see another embedding when `history` has `changes`."""
    network, params = made
    before = network.initial_inference(params, history).embedding
    after = network.initial_inference(params, history.replace(**changes)).embedding
    return (np.asarray(before) != np.asarray(after)).reshape(BATCH, -1).any(axis=1)


@KINDS
def test_the_representation_reads_the_history(kind):
    """Every frame; the actions where they are valid; nothing of an action that is not.

    The GRU does not step where an entry is not valid, so that it reads no frame there either.

    Planted: only the newest frame read; actions read where `valid` is False; actions not read.
    """
    made = built(kind)
    history = history_of(kind)
    history = history.replace(valid=history.valid.at[:2, 0].set(False))
    for step in range(STEPS):
        frames = history.observation.at[:, step].set(history.observation[:, step] // 2 + 1)
        seen = history.valid[:, step] if kind == "gru" else np.ones(BATCH, bool)
        np.testing.assert_array_equal(embedding_changes(made, history, observation=frames), seen)
    moved = history.action.at[:, 0].set((history.action[:, 0] + 1) % ACTIONS)
    np.testing.assert_array_equal(embedding_changes(made, history, action=moved),
                                  [False, False, True, True, True])
    newest = history.action.at[:, 1].set((history.action[:, 1] + 1) % ACTIONS)
    assert embedding_changes(made, history, action=newest).all()
    if kind == "mlp":  # `valid` is an input of its own: action 0 differs from no action.
        hidden = history.replace(action=jnp.zeros_like(history.action))
        changed = embedding_changes(made, hidden, valid=jnp.ones_like(history.valid))
        np.testing.assert_array_equal(changed, [True, True, False, False, False])


def test_a_network_without_actions_reads_none():
    """One frame (MLP) and `action_planes=False` (conv).

    Planted: `action_planes` ignored.
    """
    history = history_of("mlp", length=1)
    made = built("mlp", history_steps=1)
    moved = (history.action + 1) % ACTIONS
    assert not embedding_changes(made, history, action=moved).any()
    history = history_of("conv")
    made = built("conv", action_planes=False)
    moved = (history.action + 1) % ACTIONS
    assert not embedding_changes(made, history, action=moved).any()


@KINDS
def test_history_rewards(kind):
    """Read where the preset says so and where they are valid (the GRU: always); else never.

    Planted: rewards read where `valid` is False; `history_rewards` ignored.
    """
    history = history_of(kind)
    history = history.replace(valid=history.valid.at[:2, 0].set(False))
    options = {} if kind == "gru" else {"history_rewards": True}
    for step, valid in enumerate(np.asarray(history.valid).T):
        moved = history.reward.at[:, step].add(1.0)
        changed = embedding_changes(built(kind, **options), history, reward=moved)
        np.testing.assert_array_equal(changed, valid)
        if options:
            assert not embedding_changes(built(kind), history, reward=moved).any()


@KINDS
def test_the_dynamics_reads_the_action(kind):
    """Three actions, three futures.

    Planted: the one-hot of the action multiplied by 0.
    """
    network, params = built(kind)
    embedding = jax.random.uniform(jax.random.key(1), (1, *EMBEDDINGS[kind]))
    embedding = jnp.repeat(embedding, ACTIONS, axis=0)
    after = network.recurrent_inference(params, embedding, jnp.arange(ACTIONS))
    for leaf in (after.embedding, after.reward_logits, after.value_logits):
        assert len(np.unique(np.asarray(leaf).reshape(ACTIONS, -1), axis=0)) == ACTIONS


@KINDS
def test_a_dynamics_step_is_a_change_of_the_embedding(kind):
    """With parameters of 0 nothing changes: the embedding goes around all layers of the dynamics.

    Planted: the skip around the MLP's trunk left out; the one around the convolution that the
    action enters by; those of the residual blocks.
    """
    network, params = built(kind)
    zeros = jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(0)
    embedding = blocks.scale_embedding(jnp.float32(rng.normal(size=(BATCH, *EMBEDDINGS[kind]))))
    action = jnp.arange(BATCH, dtype=jnp.int32) % ACTIONS
    after = network.recurrent_inference(zeros, embedding, action).embedding
    np.testing.assert_allclose(after, embedding, atol=1e-4)
    assert np.std(embedding) > 0.1


def test_the_representation_of_the_mlp_equals_numpy():
    """Frames, valid, actions and squashed rewards, where they are valid; Dense, norm and ReLU.

    Planted: raw rewards; rewards or actions read where `valid` is False; no ReLU.
    """
    network, params = built("mlp", history_rewards=True)
    history = history_of("mlp")
    history = history.replace(
        reward=20 * history.reward, valid=history.valid.at[:2, 0].set(False))
    got = network.initial_inference(params, history).embedding
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params["representation"]["params"])
    frames, action, reward, valid = (np.asarray(history[name], np.float64) for name in (
        "observation", "action", "reward", "valid"))
    squashed = np.sign(reward) * (np.sqrt(np.abs(reward) + 1) - 1) + 1e-3 * reward
    for example in range(BATCH):
        actions = np.eye(ACTIONS)[action[example].astype(int)] * valid[example, :, None]
        x = np.concatenate([frames[example].ravel(), valid[example], actions.ravel(),
                            squashed[example] * valid[example]])
        x = x @ tree["_Trunk_0"]["Dense_0"]["kernel"]
        norm = tree["_Trunk_0"]["LayerNorm_0"]
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0) @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"]
        want = (x - x.min()) / (x.max() - x.min() + 1e-5)
        np.testing.assert_allclose(got[example], want, atol=2e-5)


@pytest.mark.parametrize("num_actions", [ACTIONS, 70])
def test_a_dynamics_step_of_the_mlp_equals_numpy(num_actions):
    """One-hot actions behind the embedding, also where rows of weights are looked up for them.

    Planted: a row that belongs to the embedding; the next action's row.
    """
    action = types.ActionSpec.discrete(num_actions)
    spec = dataclasses.replace(spec_of("mlp"), action=action)
    network = make_mlp_network(spec, CODECS, history_steps=1, width=8)
    params = shaken(jax.eval_shape(network.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    embedding = rng.uniform(size=(BATCH, 8)).astype(np.float32)
    action = rng.integers(num_actions, size=BATCH).astype(np.int32)
    got = network.recurrent_inference(params, embedding, action).embedding
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params["dynamics"]["params"])
    x = np.concatenate([embedding, np.eye(num_actions)[action]], axis=1)
    x = x @ tree["_Trunk_0"]["Dense_0"]["kernel"]
    norm = tree["_Trunk_0"]["LayerNorm_0"]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    x = np.maximum(x * norm["scale"] + norm["bias"], 0)
    x = embedding + x @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"]
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    np.testing.assert_allclose(got, (x - low) / (high - low + 1e-5), atol=2e-5)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_one_frame_of_twice_the_size_is_another(kind):
    """Planted, and found in a network that stalled on CartPole: nothing but the observation goes
    into a Dense layer without bias, whose LayerNorm then makes x and 2x the same."""
    network = make(kind, history_steps=1)
    params = jax.jit(network.init)(jax.random.key(0))
    history = jax.tree.map(lambda x: x[:, :1], history_of(kind))
    history = history.replace(valid=jnp.ones_like(history.valid))
    large = history.replace(observation=2 * history.observation)
    look = jax.jit(network.initial_inference)
    a, b = (np.asarray(look(params, x).embedding) for x in (history, large))
    assert (np.abs(a - b).max(axis=1) > 0.005).all()


def test_uint8_images_are_scaled_and_floats_are_not():
    """Planted: the division by 255 left out."""
    history = history_of("conv")
    floats = history.replace(observation=history.observation.astype(jnp.float32) / 255)
    network, params = built("conv")
    np.testing.assert_allclose(network.initial_inference(params, history).embedding,
                               network.initial_inference(params, floats).embedding, atol=1e-5)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameter_counts_of_the_mlp():
    """Counted by hand; width 8, one layer, S = 2 frames of 4 numbers, A = 3, 7 and 5 logits.

    Planted: a bias before a LayerNorm; `valid` not among the inputs.
    """
    params = jax.eval_shape(make("mlp").init, jax.random.key(0))
    # Inputs: 2 x 4 observed, 2 x 3 one-hot actions, 2 valid = 16. Dense without bias 16·8 = 128,
    # LayerNorm 2·8 = 16, then Dense 8·8 + 8 = 72.
    assert count(params["representation"]) == 128 + 16 + 72
    # Inputs 8 + 3 = 11: 11·8 + 16 = 104. Reward head 8·8 + 16 + (8·5 + 5) = 125. Dense 72.
    assert count(params["dynamics"]) == 104 + 125 + 72
    # Policy head 64 + 16 + (8·3 + 3) = 107, value head 64 + 16 + (8·7 + 7) = 143.
    assert count(params["prediction"]) == 107 + 143
    # A reward for each frame more among the inputs.
    rewards = jax.eval_shape(make("mlp", history_rewards=True).init, jax.random.key(0))
    assert count(rewards) == 216 + 301 + 250 + 2 * 8
    assert count(jax.eval_shape(make("mlp", num_layers=3).init, jax.random.key(0))) == (
        216 + 301 + 250 + 2 * 2 * (64 + 16))  # Two more layers in two trunks.


def test_parameter_counts_of_the_gru():
    """Counted by hand; width 8, one layer, entries of 4 numbers, 3 one-hot actions, 1 reward."""
    params = jax.eval_shape(make("gru").init, jax.random.key(0))
    # Entries of 8: 8·8 + 16 = 80. Three gates: 3·(8·8 + 8) from the entry, 3·8·8 and one bias of 8
    # from the state (the reset gate is inside of it) = 416. Then Dense 72.
    assert count(params["representation"]) == 80 + 416 + 72
    assert count(params["dynamics"]) == 301 and count(params["prediction"]) == 250  # As the MLP.


def test_parameter_counts_of_the_conv_network():
    """Counted by hand; 8x8x2 images, S = 2, one stage of 4 planes with a block, then 6 planes.

    Planted: no action planes; a residual block too few in a stage.
    """
    params = jax.eval_shape(make("conv").init, jax.random.key(0))
    # Inputs: 2 x 2 planes of images, 2 of actions = 6. Stage: 9·6·4 = 216, norm 8, and a block of
    # 2·(9·4·4 + 8) = 304. To 6 planes: 9·4·6 = 216, norm 12. A block of 2·(9·6·6 + 12) = 672.
    block = 672
    assert count(params["representation"]) == 216 + 8 + 304 + 216 + 12 + block
    # 9·6·6 = 324, 3 actions 3·6 = 18, norm 12, a block, and the reward head: 1x1 to 2 planes 12,
    # norm 4, 4·4·2 = 32 numbers to 5 units 160, norm 10, to 5 logits 5·5 + 5 = 30.
    assert count(params["dynamics"]) == 324 + 18 + 12 + block + (12 + 4 + 160 + 10 + 30)
    # To 3 policy logits 5·3 + 3 = 18, to 7 value logits 5·7 + 7 = 42.
    head = 12 + 4 + 160 + 10
    assert count(params["prediction"]) == block + head + 18 + head + 42


def test_stored_parameters_keep_their_names():
    """What a checkpoint holds: trees of the default networks, written once.

    Planted: `Trunk` without its stored name.
    """

    def names(kind):
        params = jax.eval_shape(make(kind).init, jax.random.key(0))
        return {part: set(tree["params"]) for part, tree in params.items()}

    assert names("mlp") == {
        "representation": {"_Trunk_0", "Dense_0"},
        "dynamics": {"_Trunk_0", "Head_0", "Dense_0"},
        "prediction": {"Head_0", "Head_1"}}
    assert names("conv") == {
        "representation": {"Conv_0", "LayerNorm_0", "ResidualBlock_0", "Conv_1", "LayerNorm_1",
                           "ResidualBlock_1"},
        "dynamics": {"Dense_0", "Conv_0", "LayerNorm_0", "ResidualBlock_0", "_FlatHead_0"},
        "prediction": {"ResidualBlock_0", "_FlatHead_0", "_FlatHead_1"}}


def test_conv_refuses_what_is_no_image():
    """Planted: the check left out (flax then fails with an unpacking error)."""
    with pytest.raises(ValueError, match=r"images have shape \(H, W, C\), got \(4,\)"):
        make_conv_network(spec_of("mlp"), CODECS, history_steps=1)
