"""The papers' networks as arguments, counted by hand; each kind of stage and input in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import codecs, types
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.convolve import convolve_for_cpu
import published_networks
from test_networks import count, shaken

BINS = codecs.make_two_hot_codec(num_bins=601, low=-300.0, high=300.0)
SCALAR = codecs.identity_codec()


def make(shape, actions, codec=SCALAR, observed="uint8", **options):
    spec = types.EnvSpec(
        observation=types.ArraySpec(shape, observed),
        action=types.ActionSpec.discrete(actions),
        turn_sign=1, truncates=True, max_steps=100)
    return make_conv_network(spec, types.Codecs(value=codec, reward=codec), **options)


def bare(shape, actions=3, history_steps=1, **options):
    """Floats in, no tower: what the stages leave is the embedding, but for its scale."""
    sizes = {"stages": (), "channels": None, "representation_blocks": 0, "dynamics_blocks": 0,
             "action_planes": False, "head_planes": 1, "head_width": 2}
    return make(shape, actions, observed="float32", history_steps=history_steps,
                **sizes | options)


def shapes_of(network, history_steps, shape, dtype):
    """Shapes of parameters and of one root and one step, without memory."""
    history = types.History(
        observation=jax.ShapeDtypeStruct((2, history_steps, *shape), dtype),
        action=jax.ShapeDtypeStruct((2, history_steps), jnp.int32),
        reward=jax.ShapeDtypeStruct((2, history_steps), jnp.float32),
        valid=jax.ShapeDtypeStruct((2, history_steps), bool))

    def play(key, history):
        params = jax.jit(network.init)(key)
        root = network.initial_inference(params, history)
        return params, root, network.recurrent_inference(
            params, root.embedding, history.action[:, -1])

    return jax.eval_shape(play, jax.random.key(0), history)


# A block of c planes: two convolutions 9·c·c, two norms 2·c.
BLOCK_64, BLOCK_128, BLOCK_256 = 73_984, 295_424, 1_180_672


def test_the_atari_network_of_muzero():
    """MuZero appendix F; 18 actions, 601 bins.

    Planted: a block too few in a stage; a last convolution to 256 planes; action planes left
    out. Seen in the making: a pool that made its bfloat16 planes float32.
    """
    options = published_networks.MUZERO_ATARI
    network = make((96, 96, 3), 18, BINS, **options, dtype="bfloat16")
    params, root, after = shapes_of(network, 32, (96, 96, 3), jnp.uint8)
    for prediction in (root, after):
        assert prediction.embedding.shape == (2, 6, 6, 256)
        assert prediction.embedding.dtype == jnp.bfloat16
        assert prediction.value_logits.shape == prediction.reward_logits.shape == (2, 601)
        assert {x.dtype for x in (prediction.value_logits, prediction.reward_logits,
                                  prediction.policy_logits)} == {jnp.dtype("float32")}
    assert count(params["representation"]) == (
        147_456 + 256  # 32 · (3 + 1) = 128 planes to 128: 9·128·128, norm 2·128; 48x48.
        + 2 * BLOCK_128
        + 294_912 + 512  # To 256 planes: 9·128·256, norm 2·256; 24x24.
        + 3 * BLOCK_256
        + 3 * BLOCK_256  # After pooling to 12x12; pooling has none.
        + 16 * BLOCK_256)  # After pooling to 6x6.
    # Planes to 2: 512, norm 4; 6·6·2 = 72 numbers to 256 units 18,432, norm 512.
    head = 512 + 4 + 18_432 + 512
    bins = 256 * 601 + 601
    assert count(params["dynamics"]) == (
        589_824 + 18 * 256 + 512  # 9·256·256, a vector for each action, norm.
        + 16 * BLOCK_256 + head + bins)
    assert count(params["prediction"]) == head + 256 * 18 + 18 + head + bins
    assert count(params) == 46_866_384


def test_the_64_channel_network():
    """Ye et al. 2021, appendix A, without value prefix; 18 actions, 601 bins.

    Planted: a plain convolution in place of the residual block with stride; no pooling at the end
    (12x12); a block too few after the first pooling.
    """
    network = make((96, 96, 3), 18, BINS, **published_networks.ATARI_100K)
    params, root, after = shapes_of(network, 4, (96, 96, 3), jnp.uint8)
    for prediction in (root, after):
        assert prediction.embedding.shape == (2, 6, 6, 64)
    assert count(params["representation"]) == (
        3_456 + 64  # 4 · 3 = 12 planes to 32: 9·12·32, norm 2·32; 48x48.
        + 18_560  # A block of 32: 2·(9·32·32 + 64).
        # A block with stride 2 to 64, 24x24: 9·32·64 and norm, 9·64·64 and norm, skip 32·64 and
        # norm.
        + 18_432 + 128 + 36_864 + 128 + 2_048 + 128
        + BLOCK_64 + BLOCK_64  # Before and after pooling to 12x12.
        + BLOCK_64)  # The representation's own, after pooling to 6x6.
    # Planes to 16: 1,024, norm 32; 6·6·16 = 576 numbers to 32 units 18,432, norm 64.
    head = 1_024 + 32 + 18_432 + 64
    bins = 32 * 601 + 601
    assert count(params["dynamics"]) == 36_864 + 18 * 64 + 128 + BLOCK_64 + head + bins
    assert count(params["prediction"]) == BLOCK_64 + head + 32 * 18 + 18 + head + bins
    assert count(params) == 586_788


def test_the_board_network_of_muzero():
    """Go 19x19 with 17 planes and a pass: nothing is downsampled, one plane for the action.

    Planted: constant planes for the action; a block too few.
    """
    network = make((19, 19, 17), 362, observed="bool", **published_networks.MUZERO_BOARD)
    params, root, after = shapes_of(network, 1, (19, 19, 17), jnp.bool_)
    for prediction in (root, after):
        assert prediction.embedding.shape == (2, 19, 19, 256)
        assert prediction.policy_logits.shape == (2, 362)
    # 9·17·256 and norm.
    assert count(params["representation"]) == 39_168 + 512 + 16 * BLOCK_256
    # Planes to 2: 512, norm 4; 19·19·2 = 722 numbers to 256 units 184,832, norm 512.
    head = 512 + 4 + 184_832 + 512
    assert count(params["dynamics"]) == (
        592_128 + 512  # 9·257·256, norm.
        + 16 * BLOCK_256 + head + 256 + 1)
    assert count(params["prediction"]) == head + 256 * 362 + 362 + head + 256 + 1
    assert count(params) == 39_064_952


def history_of(shape, steps=1, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    return types.History(
        observation=jnp.asarray(rng.normal(size=(batch, steps, *shape)), jnp.float32),
        action=jnp.asarray(rng.integers(0, 3, (batch, steps)), jnp.int32),
        reward=jnp.asarray(20 * rng.normal(size=(batch, steps)), jnp.float32),
        valid=jnp.ones((batch, steps), bool))


@functools.cache
def embed_with(**options):
    """Compiled `(params, history) -> embedding`, and shaken parameters."""
    network = bare(**options)
    params = shaken(jax.eval_shape(network.init, jax.random.key(0)))
    return jax.jit(lambda history: network.initial_inference(params, history).embedding), params


def scaled(x):
    return (x - x.min()) / (x.max() - x.min() + 1e-5)


def test_input_planes_literally():
    """With no layers at all, the embedding is the input: frames, actions a/A, squashed rewards.

    Planted: raw rewards; rewards read where `valid` is False.
    """
    embed, _ = embed_with(shape=(2, 3, 2), history_steps=2, action_planes=True,
                          history_rewards=True)
    history = history_of((2, 3, 2), steps=2)
    history = history.replace(valid=jnp.array([[False, True], [True, True], [False, True]]))
    got = embed(history)
    for example in range(3):
        frames = [history.observation[example, step] for step in range(2)]
        levels = []
        for step in range(2):
            levels.append(float(history.action[example, step]) / 3)
        for step in range(2):
            reward = float(history.reward[example, step])
            levels.append(np.sign(reward) * (np.sqrt(abs(reward) + 1) - 1) + 0.001 * reward)
        for place in (0, 2):  # Of step 0.
            levels[place] *= bool(history.valid[example, 0])
        want = np.concatenate([*frames, np.full((2, 3, 4), levels)], axis=-1)
        np.testing.assert_allclose(got[example], scaled(want), atol=1e-5)


@pytest.mark.parametrize("size, stride, begin", [(4, 2, 1), (3, 1, 1), (3, 2, 0)])
def test_a_convolution_of_planes_equals_numpy(size, stride, begin):
    """As one of images with planes behind them, whose padding has zeros in the place of planes too.

    Planted: planes without borders; the planes of actions and rewards exchanged.
    """
    shape = (6, 8, 2)
    embed, params = embed_with(shape=shape, history_steps=2, action_planes=True,
                               history_rewards=True, stages=((4, size, stride, 0),))
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), params["representation"]["params"])
    history = history_of(shape, steps=2)
    got = embed(history)
    rewards = np.asarray(history.reward, np.float64)
    squashed = np.sign(rewards) * (np.sqrt(np.abs(rewards) + 1) - 1) + 0.001 * rewards
    for example in range(3):
        frames = [*np.asarray(history.observation[example], np.float64)]
        levels = [*np.asarray(history.action[example]) / 3, *squashed[example]]
        x = np.concatenate([*frames, np.full((6, 8, 4), levels)], axis=-1)
        y = numpy_conv(x, weights["Conv_0"]["kernel"], stride, begin)
        want = np.maximum(numpy_norm(y, weights["LayerNorm_0"]), 0)
        np.testing.assert_allclose(got[example], scaled(want), atol=1e-5)


@pytest.mark.parametrize("size, stride", [(3, 2), (2, 2), (3, 1)])
def test_pooling_equals_numpy(size, stride):
    """The mean of those pixels that are there; at the edges fewer.

    Planted: padding counted as zeros; the maximum in place of the mean.
    """
    shape = (6, 8, 2)
    embed, params = embed_with(shape=shape, stages=(("pool", size, stride, 0),))
    assert not jax.tree.leaves(params["representation"])
    history = history_of(shape)
    got = embed(history)
    for example in range(3):
        x = np.asarray(history.observation[example, 0], np.float64)
        want = np.zeros((-(-6 // stride), -(-8 // stride), 2))
        for i, j in np.ndindex(want.shape[:2]):
            # An even length at stride 2 is padded at its end alone.
            begin = 0 if stride == 2 else -1
            top, left = i * stride + begin, j * stride + begin
            want[i, j] = x[max(top, 0):top + size, max(left, 0):left + size].mean(axis=(0, 1))
        np.testing.assert_allclose(got[example], scaled(want), atol=1e-5)


def numpy_conv(x, kernel, stride, begin):
    """`x` `[H, W, C]`, whose windows start `begin` before each multiple of the stride."""
    size = kernel.shape[0]
    padded = np.pad(x, ((begin, size), (begin, size), (0, 0)))
    out = np.zeros((x.shape[0] // stride, x.shape[1] // stride, kernel.shape[-1]))
    for i, j in np.ndindex(out.shape[:2]):
        window = padded[i * stride:i * stride + size, j * stride:j * stride + size]
        out[i, j] = np.einsum("hwc,hwco->o", window, kernel)
    return out


def numpy_norm(x, norm):
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation * norm["scale"] + norm["bias"]


def test_a_residual_stage_equals_numpy():
    """A 3x3 convolution with stride 2, another without, and a skip of 1x1 with stride 2.

    Planted: the stride on the second convolution; no ReLU after the sum.
    """
    shape = (6, 8, 2)
    embed, params = embed_with(shape=shape, stages=(("residual", 4, 2, 0),))
    block = jax.tree.map(lambda x: np.asarray(x, np.float64),
                         params["representation"]["params"]["ResidualBlock_0"])
    history = history_of(shape)
    got = embed(history)
    assert got.shape == (3, 3, 4, 4)
    for example in range(3):
        x = np.asarray(history.observation[example, 0], np.float64)
        y = numpy_norm(numpy_conv(x, block["Conv_0"]["kernel"], 2, 0), block["LayerNorm_0"])
        y = numpy_conv(np.maximum(y, 0), block["Conv_1"]["kernel"], 1, 1)
        y = numpy_norm(y, block["LayerNorm_1"])
        skip = numpy_norm(x[::2, ::2] @ block["Conv_2"]["kernel"][0, 0], block["LayerNorm_2"])
        np.testing.assert_allclose(got[example], scaled(np.maximum(y + skip, 0)), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoding", ["spatial", "column"])
def test_an_action_is_a_point_or_a_column(encoding, dtype):
    """From an empty embedding through a kernel that copies the action's plane to channel 0:

    1 at the point played, or all over its column, 0 elsewhere, and nowhere a 1 after a pass.

    Planted: rows and columns exchanged; the pass wrapped to the first point; a row played.
    """
    rows, columns, channels = 2, 3, 5
    num_actions = {"spatial": rows * columns + 1, "column": columns}[encoding]
    network = bare((rows, columns, channels), actions=num_actions, dtype=dtype,
                   action_encoding=encoding)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape),
                          jax.eval_shape(network.init, jax.random.key(0)))
    dynamics = params["dynamics"]["params"]
    kernel = dynamics["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, channels + 1, channels)
    dynamics["Conv_0"]["kernel"] = kernel.at[1, 1, channels, 0].set(1.0)
    dynamics["LayerNorm_0"]["scale"] += 1.0
    actions = jnp.arange(num_actions)
    empty = jnp.zeros((len(actions), rows, columns, channels), dtype)
    after = jax.jit(network.recurrent_inference)(params, empty, actions)
    assert after.embedding.dtype == jnp.dtype(dtype)
    want = np.zeros(after.embedding.shape)
    for row in range(rows):
        for column in range(columns):
            want[columns * row + column if encoding == "spatial" else column, row, column, 0] = 1
    np.testing.assert_allclose(np.asarray(after.embedding, np.float32), want, atol=1e-4)


@pytest.mark.parametrize("options, message", [
    ({"actions": 7}, r"needs stages of stride 1 and, on 6x7 .* 42 actions, or .* \(got 7 actions"),
    ({"actions": 6, "action_encoding": "column"}, r"stride 1 and, .* 7 actions \(got 6"),
    ({"actions": 7, "action_encoding": "column", "stages": ((8, 3, 2, 0),)}, "stages of stride 1"),
    ({"actions": 41, "action_encoding": "chess"}, r"a multiple of 42 actions \(got 41"),
    ({"actions": 43, "action_encoding": "shogi"}, r"a multiple of 42 actions \(got 43"),
    ({"actions": 42, "stages": ((8, 3, 2, 0),)}, "needs stages of stride 1"),
    ({"actions": 42, "action_encoding": "plane"}, r"^action_encoding .* \(got 'plane'\)"),
    ({"stages": ((8, 3, 2),)}, r"stages must be .* \(got \(8, 3, 2\)\)"),
    ({"stages": (("max", 3, 2, 0),)}, "stages must be"),
    ({"stages": (("pool", 3, 0, 0),)}, "stages must be"),
    ({"stages": ((8, 3, 2, -1),)}, "stages must be"),
    ({"stages": ((8, 3.0, 2, 1),)}, "stages must be"),
])
def test_refusals(options, message):
    """One line that names the field; connect four has 7 actions on 42 points.

    Planted: the conditions on sizes, signs, types and names left out one at a time.
    """
    with pytest.raises(ValueError, match=message) as caught:
        bare((6, 7, 2), **{"actions": 3, "action_encoding": "spatial"} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [42, 43])
def test_spatial_actions_with_and_without_a_pass(actions):
    """Planted: the pass refused."""
    network = bare((6, 7, 2), actions=actions, action_encoding="spatial", stages=((4, 3, 1, 1),))
    _, root, step = shapes_of(network, 1, (6, 7, 2), "float32")
    assert step.embedding.shape == root.embedding.shape == (2, 6, 7, 4)
    assert step.policy_logits.shape == (2, actions)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_gradient_for_a_cpu_is_the_gradient(size):
    """To float32 rounding, of input and kernel, on a board that is not square, for float32 and
    through a whole network. Planted bugs seen: the kernel not turned round; rows and columns of the
    kernel's points exchanged."""
    keys = jax.random.split(jax.random.key(size), 3)
    x = jax.random.normal(keys[0], (4, 5, 7, 3))
    kernel = jax.random.normal(keys[1], (size, size, 3, 2))
    weight = jax.random.normal(keys[2], (4, 5, 7, 2))
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def gradient(convolve):
        return jax.jit(jax.grad(
            lambda x, kernel: jnp.sum(weight * convolve(x, kernel, (1, 1), "SAME", **layout) ** 2),
            argnums=(0, 1),
        ))(x, kernel)

    plain, other = gradient(jax.lax.conv_general_dilated), gradient(convolve_for_cpu)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_for_a_cpu_has_the_same_params_outputs_and_gradients():
    """With strides too, which keep the plain gradient. Planted bug seen: strides ignored."""
    options = dict(history_steps=2, channels=4, head_planes=2, head_width=8,
                   stages=((4, 3, 2, 1), ("residual", 4, 2, 0)))
    spec = types.EnvSpec(observation=types.ArraySpec((9, 8, 2), "float32"),
                         action=types.ActionSpec.discrete(3),
                         turn_sign=1, truncates=False, max_steps=9)
    codec = types.Codecs(value=SCALAR, reward=SCALAR)
    plain, other = (make_conv_network(spec, codec, convolve=convolve, **options)
                    for convolve in (None, convolve_for_cpu))
    params, same = (jax.jit(network.init)(jax.random.key(0)) for network in (plain, other))
    jax.tree.map(np.testing.assert_array_equal, params, same)
    history = types.History(
        observation=jax.random.normal(jax.random.key(1), (3, 2, 9, 8, 2)),
        action=jnp.ones((3, 2), jnp.int32), reward=jnp.ones((3, 2)), valid=jnp.ones((3, 2), bool))

    def total(params, network):
        root = network.initial_inference(params, history)
        step = network.recurrent_inference(params, root.embedding, jnp.array([0, 1, 2]))
        # Heads begin at zero: the embedding is what depends on the convolutions.
        return jnp.sum(root.embedding**2) + jnp.sum(jnp.sin(3 * step.embedding))

    gradient = jax.jit(jax.value_and_grad(total), static_argnums=1)
    values = [gradient(params, network) for network in (plain, other)]
    np.testing.assert_allclose(values[1][0], values[0][0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3),
                 values[0][1], values[1][1])
