"""The unrolled loss against NumPy in float64, and its gradients against arithmetic."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

import fakes
from muzero_jax import codecs as codecs_lib
from muzero_jax import losses, types
from muzero_jax import targets as targets_lib
from muzero_jax.errors import ArgumentError

ACTIONS, WIDTH = 3, 4
VALUE_SUPPORT, REWARD_SUPPORT = (-2.0, 2.0, 5), (-1.0, 1.0, 3)


def two_hot_codec(low, high, num_bins):
    return codecs_lib.make_two_hot_codec(num_bins=num_bins, low=low, high=high,
                                         transform="identity")


CODECS = types.Codecs(value=two_hot_codec(*VALUE_SUPPORT), reward=two_hot_codec(*REWARD_SUPPORT))


def linear_network():
    """A linear map for everything; frames are vectors of 2, and the whole history is read."""

    def init(key):
        def normal(*shape):
            nonlocal key
            key, now = jax.random.split(key)
            return jax.random.normal(now, shape)

        return {"see": normal(2, WIDTH), "move": normal(ACTIONS, WIDTH, WIDTH),
                "reward": normal(WIDTH, 3), "value": normal(WIDTH, 5),
                "policy": normal(WIDTH, ACTIONS)}

    def predict(params, embedding, reward_logits):
        return types.Prediction(
            embedding=embedding, reward_logits=reward_logits,
            value_logits=embedding @ params["value"], policy_logits=embedding @ params["policy"])

    def initial_inference(params, history):
        weight = (1.0 + history.action) * history.valid
        embedding = jnp.einsum("bs,bso->bo", weight, history.observation) @ params["see"]
        return predict(params, embedding, jnp.zeros((embedding.shape[0], 3), embedding.dtype))

    def recurrent_inference(params, embedding, action):
        embedding = jnp.einsum("bi,bij->bj", embedding, params["move"][action])
        return predict(params, embedding, embedding @ params["reward"])

    return types.Network(init, initial_inference, recurrent_inference)


def random_batch(batch, history_steps, unroll_steps, bootstrap_steps=1, seed=0):
    rng = np.random.default_rng(seed)
    length = history_steps + 1 + unroll_steps + bootstrap_steps
    shape, heads = (batch, length), (batch, unroll_steps + 1)
    rows = types.Transition(
        observation=None, invalid_actions=None,
        reward=rng.normal(size=shape).astype(np.float32),
        discount=rng.choice([0.0, 1.0], shape, p=[0.2, 0.8]).astype(np.float32),
        first=rng.random(shape) < 0.2, last=np.zeros(shape, bool),
        action=rng.integers(0, ACTIONS, shape).astype(np.int32),
        policy=rng.dirichlet(np.ones(ACTIONS), shape).astype(np.float32),
        value=rng.normal(size=shape).astype(np.float32),
        explored=np.zeros(shape, bool),
        made_at_updates=np.zeros(shape, np.int32))
    sample = types.Sample(
        rows=rows, observations=rng.normal(size=(batch, length - 1, 2)).astype(np.float32) / 3,
        index=np.zeros((batch, 2), np.int32), probability=np.ones(batch, np.float32),
        num_drawable=np.float32(batch), total_weight=np.float32(batch),
        newest_updates=np.int32(0))
    targets = types.Targets(
        policy=rng.dirichlet(np.ones(ACTIONS), heads).astype(np.float32),
        value=rng.uniform(-2.5, 2.5, heads).astype(np.float32),
        reward=rng.uniform(-1.2, 1.2, heads).astype(np.float32),
        **{name: (rng.random(heads) < 0.7).astype(np.float32)
           for name in ("policy_mask", "value_mask", "reward_mask")},
        policy_age=np.zeros(batch, np.int32))
    return sample, targets


def numpy_cross_entropy(logits, distribution):
    shifted = logits - logits.max()
    return -np.sum(distribution * (shifted - np.log(np.sum(np.exp(shifted)))))


def numpy_two_hot(x, low, high, num_bins):
    position = (min(max(x, low), high) - low) / (high - low) * (num_bins - 1)
    out = np.zeros(num_bins)
    out[int(np.floor(position))] += 1 - (position - np.floor(position))
    out[int(np.ceil(position))] += position - np.floor(position)
    return out


def numpy_loss(params, sample, targets, example, history_steps, unroll_steps):
    """One example in float64, one step after the other: the losses of value, reward and policy,
    and the values said at the root and at each step after it."""
    params, rows, targets = jax.tree.map(
        lambda x: np.asarray(x, np.float64), (params, sample.rows, targets))
    root = history_steps
    begin = root  # Walk back to the first row of the root's episode, as far as can be seen.
    while begin > 1 and not rows.first[example, begin]:
        begin -= 1
    frames = np.asarray(sample.observations[example], np.float64)
    seen = np.zeros(2)
    for row in range(max(begin, root - history_steps + 1), root + 1):
        led = 0 if rows.first[example, row] else rows.action[example, row - 1]
        seen += (1.0 + led) * frames[row - 1]
    embedding = seen @ params["see"]
    total, values = {"value": 0.0, "reward": 0.0, "policy": 0.0}, []
    for step in range(unroll_steps + 1):
        weight = 1.0 if step == 0 else 1.0 / unroll_steps
        if step:
            embedding = embedding @ params["move"][int(rows.action[example, root + step - 1])]
        logits = {name: embedding @ params[name] for name in total}
        shares = np.exp(logits["value"]) / np.exp(logits["value"]).sum()
        values.append(shares @ np.linspace(*VALUE_SUPPORT))
        wanted = {"value": numpy_two_hot(targets.value[example, step], *VALUE_SUPPORT),
                  "reward": numpy_two_hot(targets.reward[example, step], *REWARD_SUPPORT),
                  "policy": targets.policy[example, step]}
        for name in total:
            if getattr(targets, name + "_mask")[example, step]:
                if name == "reward" and step == 0:
                    logits[name] = np.zeros(3)  # The root's reward logits are those of nothing.
                total[name] += weight * numpy_cross_entropy(logits[name], wanted[name])
    return *(total[name] for name in ("value", "reward", "policy")), *values


@pytest.mark.parametrize("history_steps, unroll_steps", [(1, 1), (1, 5), (3, 2)])
def test_equals_numpy(history_steps, unroll_steps):
    """24 random examples with random masks, each recomputed alone.

    Planted: weight 1 instead of 1/K; the unroll's actions shifted by one; mean instead of sum over
    steps; renormalising by the mask; the reward's mask for the value; weights of the heads swapped;
    of the priority over the unroll: masked steps counted; the mean for the largest.
    """
    sample, targets = random_batch(24, history_steps, unroll_steps)
    network = linear_network()
    params = jax.jit(network.init)(jax.random.key(0))
    weights = {"value_weight": 0.25, "reward_weight": 0.7, "policy_weight": 1.3}
    loss = jax.jit(losses.make_loss(network, CODECS, **weights,
                                    window=types.Window(history_steps, unroll_steps, 1)))
    got, aux = loss(params, jax.random.key(1), sample, targets)
    want = np.array([numpy_loss(params, sample, targets, b, history_steps, unroll_steps)
                     for b in range(24)])
    value, reward, policy, *values = want.T
    close = {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(aux["value_loss"], value, **close)
    np.testing.assert_allclose(aux["reward_loss"], reward, **close)
    np.testing.assert_allclose(aux["policy_loss"], policy, **close)
    np.testing.assert_allclose(got, 0.25 * value + 0.7 * reward + 1.3 * policy, **close)
    np.testing.assert_allclose(aux["root_value"], values[0], **close)
    errors = np.abs(np.stack(values, axis=1) - np.clip(targets.value, *VALUE_SUPPORT[:2]))
    for name in ("root_error", "priority"):
        np.testing.assert_allclose(aux[name], errors[:, 0], **close)
    largest = np.max(errors, axis=1, where=np.asarray(targets.value_mask) > 0, initial=0.0)
    assert np.mean(largest > errors[:, 0]) > 0.3 and np.any(targets.value_mask == 0)
    loss = jax.jit(losses.make_loss(network, CODECS, **weights, priority_unroll=0.75,
                                    window=types.Window(history_steps, unroll_steps, 1)))
    other, aux = loss(params, jax.random.key(1), sample, targets)
    np.testing.assert_array_equal(other, got)
    np.testing.assert_allclose(aux["root_error"], errors[:, 0], **close)
    np.testing.assert_allclose(aux["priority"], 0.25 * errors[:, 0] + 0.75 * largest, **close)
    for head, (low, high, _) in ("value", VALUE_SUPPORT), ("reward", REWARD_SUPPORT):
        rows = zip(np.asarray(targets[head]), np.asarray(targets[head + "_mask"]), strict=True)
        known = [[x for x, mask in zip(*row, strict=True) if mask] for row in rows]
        beyond = [sum(not low <= x <= high for x in row) / max(len(row), 1) for row in known]
        assert 0 < np.mean(beyond) < 1
        np.testing.assert_allclose(aux[head + "_outside"], beyond, **close)
    assert all(x.shape == (24,) for x in aux.values())


def step_network(unroll_steps):
    """Logits are one table `[K+1, ...]` per head, so that a gradient shows its step and head."""
    tables = {"value": 5, "reward": 3, "policy": ACTIONS}

    def init(key):
        del key
        return {name: jnp.zeros((unroll_steps + 1, size)) for name, size in tables.items()}

    def predict(params, step):
        at = step[:, 0].astype(jnp.int32)
        return types.Prediction(embedding=step, reward_logits=params["reward"][at],
                                value_logits=params["value"][at],
                                policy_logits=params["policy"][at])

    return types.Network(init, lambda params, h: predict(params, jnp.zeros((len(h.action), 1))),
                         lambda params, step, action: predict(params, step + 1.0))


def ones_mask(targets):
    ones = np.ones_like(targets.value)
    return targets.replace(
        policy_mask=ones, value_mask=ones, reward_mask=fakes.edited(ones, np.s_[:, 0], 0.0))


def test_weights_and_masks_literally():
    """Zero logits, K = 4: a head of m logits costs ln m at the root and ln m / 4 at each step.

    Planted: weight 1 instead of 1/K; masked terms renormalised; a mask multiplied into the logits.
    """
    sample, targets = random_batch(3, 1, 4)
    targets = ones_mask(targets)
    network = step_network(4)
    loss = jax.jit(losses.make_loss(network, CODECS, window=types.Window(1, 4, 1)))
    params, key = network.init(None), jax.random.key(0)
    full = 0.25 * 2 * np.log(5) + np.log(3) + 2 * np.log(ACTIONS)
    np.testing.assert_allclose(loss(params, key, sample, targets)[0], full, rtol=1e-6)
    # Costs example 1 a whole 0.25 ln 5, example 2 two steps of ln 3 / 4 and one of ln 3 / 4.
    masked = targets.replace(
        value_mask=fakes.edited(targets.value_mask, (1, 0), 0.0),
        policy_mask=fakes.edited(targets.policy_mask, np.s_[2, 3:], 0.0),
        reward_mask=fakes.edited(targets.reward_mask, (2, 1), 0.0))
    want = full - np.array([0.0, 0.25 * np.log(5), 2 * np.log(ACTIONS) / 4 + np.log(3) / 4])
    np.testing.assert_allclose(loss(params, key, sample, masked)[0], want, rtol=1e-6)


def test_gradients_at_zero_logits_literally():
    """d/d logits = weight · (softmax - target), per head and per step, and 0 where masked.

    Planted: weight 1 instead of 1/K; the root's reward trained.
    """
    sample, targets = random_batch(1, 1, 2)
    targets = ones_mask(targets).replace(policy=np.eye(3, dtype=np.float32)[None])
    network = step_network(2)
    loss = losses.make_loss(network, CODECS, window=types.Window(1, 2, 1))
    targets = targets.replace(policy_mask=np.array([[1.0, 1.0, 0.0]], np.float32))
    run = jax.jit(jax.grad(lambda p: loss(p, None, sample, targets)[0].sum()))
    grads = run(network.init(None))
    third = 1.0 / 3.0
    want = np.array([[third - 1, third, third], [third / 2, (third - 1) / 2, third / 2], [0, 0, 0]])
    np.testing.assert_allclose(grads["policy"], want, atol=1e-6)
    np.testing.assert_array_equal(grads["reward"][0], 0.0)
    np.testing.assert_allclose(grads["value"][0], 0.25 * (
        0.2 - numpy_two_hot(float(targets.value[0, 0]), *VALUE_SUPPORT)), atol=1e-6)


def affine_network():
    """One number: e_0 = w x, e_k = g e_{k-1} + u; the value and reward logit are e_k itself."""

    def predict(embedding, reward):
        flat = jnp.zeros((len(embedding), ACTIONS), embedding.dtype)
        return types.Prediction(embedding=embedding, reward_logits=reward, value_logits=embedding,
                                policy_logits=flat)

    def initial_inference(params, history):
        embedding = params["w"] * history.observation[:, -1, :1]
        return predict(embedding, jnp.zeros_like(embedding))

    def recurrent_inference(params, embedding, action):
        embedding = params["g"] * embedding + params["u"]
        return predict(embedding, embedding)

    return types.Network(None, initial_inference, recurrent_inference)


@pytest.mark.parametrize("head", ["value", "reward"])
def test_the_gradient_is_halved_at_each_dynamics_step(head):
    """With a loss that is the logit itself, at step k only, weighing 1/K:

    d e_k / d w = x (g/2)^k and d e_k / d u = 1 + g/2 + ... + (g/2)^(k-1).

    Planted: no halving; halving after the step instead of before it, which halves d/du too; both.
    """
    codec = types.Codec(num_logits=1, encode=None, decode=lambda logits: logits[..., 0],
                        loss=lambda logits, target: logits[..., 0])
    unroll, x, g = 3, 1.5, 0.8
    sample, targets = random_batch(1, 1, unroll)
    sample = sample.replace(observations=jnp.full_like(sample.observations, x))
    loss = losses.make_loss(affine_network(), types.Codecs(value=codec, reward=codec),
                            window=types.Window(1, unroll, 1), value_weight=1.0)
    params = {"w": jnp.float32(2.0), "g": jnp.float32(g), "u": jnp.float32(0.3)}
    none = jnp.zeros((1, unroll + 1))
    slope = jax.jit(jax.grad(lambda p, targets: loss(p, None, sample, targets)[0].sum()))
    for k in range(0 if head == "value" else 1, unroll + 1):
        only = targets.replace(policy_mask=none, value_mask=none, reward_mask=none)
        only = only.replace(**{head + "_mask": none.at[0, k].set(1.0)})
        grads = slope(params, only)
        weight = 1.0 if k == 0 else 1.0 / unroll
        np.testing.assert_allclose(grads["w"], weight * x * (g / 2) ** k, rtol=1e-6)
        np.testing.assert_allclose(grads["u"], weight * sum((g / 2) ** i for i in range(k)),
                                   rtol=1e-6)


def test_scale_gradient_keeps_the_value():
    """Planted: the scale applied to the value too."""
    x = jnp.array([1.0, -3.0])
    value, pullback = jax.vjp(lambda x: losses.scale_gradient(x, 0.25), x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pullback(jnp.array([4.0, 8.0]))[0], [1.0, 2.0])


def test_gradients_are_those_of_finite_differences_in_float64():
    """`check_grads` to 1e-4; the network doubles the gradients that the loss halves, for which it
    has a test of its own.

    Planted: `stop_gradient` around the embedding of the root; around the policy logits.
    """
    sample, targets = random_batch(4, 2, 3)

    def codec(num_logits):  # The library's codecs compute in float32.
        return types.Codec(
            num_logits=num_logits, encode=None, decode=lambda logits: logits.sum(axis=-1),
            loss=lambda logits, target: jnp.log1p(jnp.square(logits.sum(axis=-1) - target)))

    plain = linear_network()

    def doubled(params, embedding, action):
        return plain.recurrent_inference(params, losses.scale_gradient(embedding, 2.0), action)

    network = plain._replace(recurrent_inference=doubled)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
                            (network.init(jax.random.key(0)), sample, targets))
        params, sample, targets = wide
        loss = losses.make_loss(network, types.Codecs(value=codec(5), reward=codec(3)),
                                window=types.Window(2, 3, 1))
        objective = jax.jit(lambda params: loss(params, None, sample, targets)[0].sum())
        assert objective(params).dtype == jnp.float64
        check_grads(objective, (params,), order=1, modes=["rev"], rtol=1e-4, atol=1e-6)


def made_targets(network, **kwargs):
    return targets_lib.make_targets(window=types.Window(2, 3, 2),
                                    discount=0.9, **kwargs)


def test_no_gradient_flows_through_targets():
    """Targets bootstrapped from the very parameters that learn: the same gradient as constants.

    Planted: `stop_gradient` of the targets left out.
    """
    network = linear_network()
    make = made_targets(network, bootstrap_value=targets_lib.make_network_bootstrap(
        network, CODECS.value))
    loss = losses.make_loss(network, CODECS, window=types.Window(2, 3, 2))
    sample, _ = random_batch(6, 2, 3, bootstrap_steps=2)
    params = jax.jit(network.init)(jax.random.key(0))

    def through(params):
        return loss(params, None, sample, make(params, params, None, sample))[0].sum()

    constants = jax.jit(make)(params, params, None, sample)
    assert np.std(constants.value) > 0.1
    got = jax.jit(jax.grad(through))(params)
    want = jax.jit(jax.grad(lambda p: loss(p, None, sample, constants)[0].sum()))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), got, want)


def test_what_lies_beyond_an_end_trains_only_what_is_known():
    """Past a termination: value and reward 0, no policy. Past a truncation: nothing at all.

    Planted: the policy of absorbing steps trained; padding after a truncation trained.
    """
    network = step_network(3)
    sample, _ = random_batch(2, 2, 3, bootstrap_steps=2)
    ended = np.arange(8) == np.full((2, 1), 3)  # Row 3 is one step after the root.
    discount = np.ones((2, 8), np.float32)
    discount[0, 3] = 0.0  # Example 1 is truncated.
    discount[:, 4] = 0.0
    sample = sample.replace(rows=sample.rows.replace(
        last=ended, first=np.roll(ended, 1, axis=1), discount=discount))
    loss = losses.make_loss(network, CODECS, window=types.Window(2, 3, 2))
    targets = jax.jit(made_targets(network))(None, None, None, sample)
    params = jax.tree.map(
        lambda x: np.asarray(x) + np.arange(x.shape[1], dtype=np.float32) / 3, network.init(None))
    slopes = jax.jit(jax.jacrev(lambda p: loss(p, None, sample, targets)[0]))(params)

    def steps_trained(example):
        """For each head, which of the steps 0 to 3 have a gradient."""
        grads = jax.tree.map(lambda x: np.asarray(x[example]), slopes)
        return {name: np.flatnonzero(np.abs(x).sum(axis=1)).tolist() for name, x in grads.items()}

    assert steps_trained(0) == {"policy": [0], "value": [0, 1, 2, 3], "reward": [1, 2, 3]}
    assert steps_trained(1) == {"policy": [0], "value": [0], "reward": [1]}
    np.testing.assert_array_equal(targets.value[0, 1:], 0.0)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_masked_target_poisons_neither_loss_nor_gradient(poison):
    """Planted: the mask as a factor (NaN loss); `where` around the loss only (NaN gradient)."""
    sample, targets = random_batch(6, 1, 3)
    network = linear_network()
    loss = losses.make_loss(network, CODECS, window=types.Window(1, 3, 1))
    params = jax.jit(network.init)(jax.random.key(0))
    # The root's value is the priority, so that it is never masked.
    targets = targets.replace(value_mask=fakes.edited(targets.value_mask, np.s_[:, 0], 1.0))
    poison = np.float32(poison)
    bad = targets.replace(
        value=np.where(targets.value_mask > 0, targets.value, poison),
        reward=np.where(targets.reward_mask > 0, targets.reward, poison),
        policy=np.where(targets.policy_mask[..., None] > 0, targets.policy, poison))
    run = jax.jit(jax.value_and_grad(lambda p, t: loss(p, None, sample, t)[0].sum()))
    want, got = run(params, targets), run(params, bad)
    assert np.isfinite(want[0])
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_examples_do_not_touch_each_other():
    """The loss of an example is the same alone; n copies of a batch have its mean gradient.

    Planted: the policy loss averaged over the batch.
    """
    sample, targets = random_batch(5, 2, 3)
    network = linear_network()
    params = jax.jit(network.init)(jax.random.key(0))
    loss = jax.jit(losses.make_loss(network, CODECS, window=types.Window(2, 3, 1)))
    together = np.asarray(loss(params, None, sample, targets)[0])

    def take(index):
        return jax.tree.map(lambda x: x[np.asarray(index)] if x.ndim else x, (sample, targets))

    for b in range(5):
        alone, _ = loss(params, None, *take([b] * 5))  # The others are replaced by copies of b.
        np.testing.assert_allclose(alone, np.full(5, together[b]), rtol=1e-5)
    mean_grad = jax.jit(jax.grad(lambda p, s, t: loss(p, None, s, t)[0].mean()))
    copies = take([0, 1, 2, 3, 4] * 3)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
                 mean_grad(params, *copies), mean_grad(params, sample, targets))


def test_another_policy_loss_sees_logits_and_the_stored_policy():
    """The policy is opaque: it may be any pytree that the given loss understands.

    Planted: cross-entropy called whatever was given.
    """
    sample, targets = random_batch(2, 1, 2)
    targets = ones_mask(targets).replace(policy={"best": jnp.ones((2, 3), jnp.int32)})
    network = step_network(2)
    loss = losses.make_loss(network, CODECS, window=types.Window(1, 2, 1), value_weight=0.0,
                            reward_weight=0.0, policy_weight=2.0,
                            policy_loss=lambda logits, policy: policy["best"] + logits[..., 0])
    # 2 · (1 + 1/2 + 1/2) · 1
    got, _ = jax.jit(loss)(network.init(None), None, sample, targets)
    np.testing.assert_allclose(got, 4.0)


def counting_network(dtype):
    """`linear_network` that counts its steps in a leaf of the embedding, and reads the count."""
    network = linear_network()

    def count_into(prediction, count):
        seen = 1.0 + count.astype(jnp.float32)[:, None]
        return prediction.replace(
            embedding={"x": prediction.embedding, "count": count, "odd": count % 2 == 1},
            value_logits=prediction.value_logits * seen)

    def initial_inference(params, history):
        count = jnp.ones(history.action.shape[:1], dtype)
        return count_into(network.initial_inference(params, history), count)

    def recurrent_inference(params, embedding, action):
        prediction = network.recurrent_inference(params, embedding["x"], action)
        return count_into(prediction, embedding["count"] + 1)

    return types.Network(network.init, initial_inference, recurrent_inference)


def test_integers_in_an_embedding_pass():
    """Loss and gradients are those of a network that counts in float32; flags pass as well. (The
    tables that both searches walk in their tests have an integer for their whole embedding.) Seen
    before: a TypeError of `scan`."""
    sample, targets = random_batch(6, 2, 3)
    params = linear_network().init(jax.random.key(0))

    def run(dtype):
        loss = losses.make_loss(counting_network(dtype), CODECS, window=types.Window(2, 3, 1))
        total = lambda params: jnp.sum(  # noqa: E731
            loss(params, jax.random.key(1), sample, targets)[0])
        return jax.jit(jax.value_and_grad(total))(params)

    (value, grads), (other, other_grads) = run(jnp.int32), run(jnp.float32)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 grads, other_grads)
    assert np.abs(grads["move"]).max() > 1e-3


@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_unroll_equals_single_steps(unroll_steps):
    """Each prediction is that of one more recurrent step, embeddings of several leaves included.

    Planted: actions shifted by one; the embedding that a step began with in place of its own.
    """
    sample, _ = random_batch(4, 2, unroll_steps)
    network = counting_network(jnp.int32)
    params = network.init(jax.random.key(0))
    history = jax.jit(losses.root_history, static_argnums=1)(sample, 2)
    actions = sample.rows.action[:, 2:2 + unroll_steps]
    got = jax.jit(losses.unroll, static_argnums=0)(network, params, history, actions)
    got = jax.tree.map(np.asarray, got)
    want = jax.jit(network.initial_inference)(params, history)
    recurrent_inference = jax.jit(network.recurrent_inference)
    for step in range(unroll_steps + 1):
        now = jax.tree.map(lambda x, step=step: x[:, step], got)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), now, want)
        assert (now.embedding["count"] == step + 1).all()
        if step < unroll_steps:
            want = recurrent_inference(params, want.embedding, actions[:, step])
    assert got.embedding["count"].dtype == jnp.int32
    assert {x.shape[:2] for x in jax.tree.leaves(got)} == {(4, unroll_steps + 1)}


def drawn_term(name, scale):
    """Adds a random number to each example, and the size of the last embedding."""

    def loss(params, key, sample, targets, prediction):
        chance = jax.random.uniform(key, sample.probability.shape)
        size = jnp.sum(prediction.embedding[:, -1] ** 2, axis=-1) + params["reward"].sum()
        return scale * chance + size, {name: chance}

    return losses.Term(loss)


def test_terms_add_up():
    """The loss of all terms is that of none and of each alone; every term has its own key.

    Planted: the last term alone; one key for all terms.
    """
    sample, targets = random_batch(5, 2, 3)
    network = linear_network()
    params, key = network.init(jax.random.key(0)), jax.random.key(1)

    def run(*terms):
        loss = losses.make_loss(network, CODECS, window=types.Window(2, 3, 1), terms=terms)
        return jax.jit(loss)(params, key, sample, targets)

    first, second = drawn_term("first", 1.0), drawn_term("second", 10.0)
    (none, aux), (one, _), (both, both_aux) = jax.tree.map(
        np.asarray, (run(), run(first), run(first, second)))
    chance = both_aux["second"]
    assert both_aux.keys() == aux.keys() | {"first", "second"}
    assert not np.allclose(both_aux["first"], chance)
    size = one - none - both_aux["first"]
    np.testing.assert_allclose(both - one, 10 * chance + size, rtol=1e-4)
    predicted = jax.jit(lambda params, sample: losses.unroll(
        network, params, losses.root_history(sample, 2), sample.rows.action[:, 2:5]
    ).embedding[:, 3])(params, sample)
    want = np.sum(np.square(predicted), axis=-1) + np.sum(params["reward"])
    np.testing.assert_allclose(size, want, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_a_term_goes_through_the_unroll():
    """Into the root it is halved at each step, as that of the heads is: d e_k / d w = x (g/2)^k.

    Planted: the embeddings that `unroll` returns without their gradients.
    """
    sample, _ = random_batch(3, 1, 2)
    network, g = affine_network(), 0.8
    params = {"w": jnp.float32(2.0), "g": jnp.float32(g), "u": jnp.float32(0.3)}

    def slope(step):
        def embedding(params):
            history = losses.root_history(sample, 1)
            predicted = losses.unroll(network, params, history, sample.rows.action[:, 1:3])
            return jnp.sum(predicted.embedding[:, step])

        return jax.jit(jax.grad(embedding))(params)["w"]

    x = sample.observations[:, 0, 0].sum()
    np.testing.assert_allclose([slope(0), slope(1), slope(2)], x * (g / 2) ** np.arange(3),
                               rtol=1e-5)


def test_refusals_of_terms():
    """A metric that is there already; fewer frames than a term reads, which slices would hide."""
    sample, targets = random_batch(2, 1, 2)
    network, window = linear_network(), types.Window(1, 2, 1)
    params = network.init(jax.random.key(0))

    def run(*terms, sample=sample):
        loss = losses.make_loss(network, CODECS, window=window, terms=terms)
        return jax.eval_shape(loss, params, jax.random.key(0), sample, targets)

    with pytest.raises(ArgumentError, match="metric 'value_loss' already"):
        run(drawn_term("value_loss", 1.0))
    far = drawn_term("far", 1.0)._replace(observed_steps=2)
    assert losses.observed_steps(window, [far, drawn_term("near", 1.0)]) == 3
    assert losses.observed_steps(window, []) == 1
    run(far, sample=sample.replace(observations=sample.observations[:, :3]))
    with pytest.raises(ArgumentError, match="3 frames are needed for terms, and a sample has 2"):
        run(far, sample=sample.replace(observations=sample.observations[:, :2]))
