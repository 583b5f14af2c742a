"""One update by arithmetic, what is refused, ratios and keys; a chain solved to its true values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fakes
from muzero_jax import codecs as codecs_lib
from muzero_jax import learner, losses, types
from muzero_jax import replay as replay_lib
from muzero_jax import targets as targets_lib

KEY = jax.random.key(0)


def sample_of(numbers, probability=None, num_drawable=4.0):
    """A batch whose rows are plain numbers `[B]`."""
    size = len(numbers)
    return types.Sample(
        rows=jnp.asarray(numbers, jnp.float32), observations=None,
        index=jnp.zeros((size, 2), jnp.int32),
        probability=jnp.full(size, 0.25) if probability is None else jnp.asarray(probability),
        num_drawable=jnp.float32(num_drawable), total_weight=jnp.float32(1.0),
        newest_updates=jnp.int32(0))


def linear_loss(params, key, sample, targets):
    """w · x of each row, so that the gradient is x."""
    del key, targets
    return params["w"] * sample.rows, {"priority": sample.rows}


def plain_sgd(learning_rate=1.0):
    return learner.make_optimizer(learning_rate=learning_rate, weight_decay=0.0,
                                  max_grad_norm=1e9, momentum=0.0)


def make_toy(optimizer, loss=linear_loss, *, interval=1000, exponent=0.0, start=2.0,
             targets=lambda *_: None, tracker=None):
    """A compiled update of one number w, and its first state."""
    update = learner.make_update(targets, loss, optimizer, target_interval_updates=interval,
                                 importance_exponent=exponent, tracker=tracker)
    network = types.Network(lambda key: {"w": jnp.float32(start)}, None, None)
    return jax.jit(update), learner.init_train_state(network, optimizer, KEY, tracker)


def assert_same(one, other):
    """Bit-equal trees."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_importance_weights_literally():
    """(N P)^-β; only β < 1 is divided by the batch's largest.

    Planted: divided at β = 1 too; not divided below 1; the sign of the exponent.
    """
    sample = sample_of([0, 0, 0], [0.5, 0.25, 0.125])  # N P = 2, 1, 1/2.
    weights = functools.partial(learner.importance_weights, sample)
    np.testing.assert_allclose(weights(0.0), [1.0, 1.0, 1.0])
    np.testing.assert_allclose(weights(1.0), [0.5, 1.0, 2.0])
    np.testing.assert_allclose(weights(0.5), [0.5, 0.5**0.5, 1.0], rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_importance_weights_are_applied_exactly_once(exponent):
    """SGD at rate 1 on w·x moves w by the mean of weight · x.

    Planted: weights applied twice; not at all; the weighted sum divided by the sum of weights.
    """
    x, probability = np.array([1.0, -2.0, 5.0]), np.array([0.5, 0.25, 0.125])
    weights = {0.0: [1, 1, 1], 0.5: [0.5, 0.5**0.5, 1], 1.0: [0.5, 1, 2]}[exponent]
    update, train = make_toy(plain_sgd(), exponent=exponent)
    after, output = update(train, KEY, sample_of(x, probability))
    np.testing.assert_allclose(after.params["w"], 2.0 - np.mean(weights * x), rtol=1e-6)
    np.testing.assert_allclose(output.metrics["loss"], np.mean(weights * (2.0 * x)), rtol=1e-6)
    np.testing.assert_array_equal(output.priority, x)  # Not weighted.
    assert output.applied and after.step == 1


@pytest.mark.parametrize("name", ["priority", "aux of the loss"])
def test_metrics_are_means_over_the_batch(name):
    """Of what the loss hands out for each example, unweighted.

    Planted: maxima in place of means; sums.
    """

    def loss(params, key, sample, targets):
        return linear_loss(params, key, sample, targets)[0], {
            "priority": sample.rows, "aux of the loss": 2.0 * sample.rows}

    update, train = make_toy(plain_sgd(), loss, exponent=1.0)
    _, output = update(train, KEY, sample_of([1.0, -2.0, 7.0], [0.5, 0.25, 0.125]))
    np.testing.assert_allclose(output.metrics[name], 2.0 if name == "priority" else 4.0)


def root_loss(params, key, sample, targets):
    """|√w| of each row: at w = 0 the loss is finite and its gradient is not."""
    del key, targets
    return jnp.sqrt(params["w"]) * sample.rows, {"priority": sample.rows}


def clipped_loss(params, key, sample, targets):
    """Finite whatever the row is, as behind the edge of a support; the priority is not."""
    del key, targets
    return params["w"] * jnp.clip(sample.rows, -1.0, 1.0), {"priority": sample.rows}


@pytest.mark.parametrize("loss, start, rows", [
    (linear_loss, 2.0, [1.0, np.nan]),
    (linear_loss, 2.0, [1.0, np.inf]),
    (linear_loss, 2.0, [-np.inf, 1.0]),
    (linear_loss, np.inf, [1.0, 1.0]),
    (root_loss, 0.0, [1.0, 1.0]),
    (clipped_loss, 2.0, [1.0, np.inf]),
], ids=["nan", "inf", "minus inf", "inf parameter", "gradient only", "priority only"])
def test_an_update_that_is_not_finite_changes_only_its_counter(loss, start, rows):
    """Parameters, target, optimiser and step keep every bit; twice in a row counts 2.

    Planted: only the loss judged; only NaN judged; priorities not judged; the optimiser's state
    let through; `step` counted.
    """
    optimizer = learner.make_optimizer(learning_rate=0.1)
    update, train = make_toy(optimizer, loss, start=start, interval=1)
    for count in (1, 2):
        after, output = update(train, KEY, sample_of(rows))
        assert not output.applied
        assert_same(after, train.replace(skipped_in_a_row=jnp.int32(count)))
        train = after


def test_after_ten_in_a_row_nothing_is_applied_any_more():
    """Nine and then a good one go on; after ten even good ones are refused, and still counted.

    Planted: the limit off by one, both ways; the counter not reset by a good update.
    """
    update, fresh = make_toy(plain_sgd())
    bad, good = sample_of([np.nan]), sample_of([1.0])
    train = fresh
    for _ in range(9):
        train, _ = update(train, KEY, bad)
    assert train.skipped_in_a_row == 9
    nine, output = update(train, KEY, good)
    assert output.applied and nine.skipped_in_a_row == 0 and nine.params["w"] == 1.0
    train, _ = update(train, KEY, bad)
    assert train.skipped_in_a_row == 10
    for count in (11, 12):
        train, output = update(train, KEY, good)
        assert not output.applied
        assert_same(train, fresh.replace(skipped_in_a_row=jnp.int32(count)))
    assert output.metrics["skipped_in_a_row"] == 12.0


def test_target_parameters_follow_every_third_applied_update():
    """w grows by 1; skipped updates do not count.

    Planted: attempted updates counted; refreshed one update late; the old parameters copied.
    """
    update, train = make_toy(plain_sgd(), interval=3, start=0.0)
    seen = []
    for x in (-1.0, -1.0, np.nan, -1.0, -1.0, np.nan, np.nan, -1.0, -1.0, -1.0):
        train, _ = update(train, KEY, sample_of([x]))
        seen.append((float(train.params["w"]), float(train.target_params["w"])))
    assert seen == [(1, 0), (2, 0), (2, 0), (3, 3), (4, 3), (4, 3), (4, 3), (5, 3), (6, 6), (7, 6)]


def old_params_loss(params, key, sample, targets):
    """Moves w by 1; says what the targets were made from."""
    del key
    seen = jnp.full(sample.rows.shape, targets["w"])
    return params["w"] * sample.rows, {"priority": sample.rows, "old_w": seen}


def test_targets_see_the_average_of_the_parameters():
    """w is 1, 2, then a skipped update, 3; the average with a decay of 3/4 starts at the first w.

    Planted: the average of the parameters before the update; a skipped update counted; targets
    from the old copies; the decay taken for its rest.
    """
    update, train = make_toy(plain_sgd(), old_params_loss, start=0.0, interval=1,
                             targets=lambda params, old, key, sample: old,
                             tracker=learner.averaged_params(0.75))
    seen, kept = [], []
    for x in (-1.0, -1.0, np.nan, -1.0):
        train, output = update(train, KEY, sample_of([x]))
        seen.append(float(output.metrics["old_w"]))
        kept.append(float(train.tracked["w"]))
    assert kept == [0.25, 0.6875, 0.6875, 1.265625]
    assert seen == [0.0, 0.25, 0.6875, 0.6875]
    assert train.target_params["w"] == 3.0
    with pytest.raises(types.ArgumentError, match=r"decay must be in \[0, 1\) \(got 1.0\)"):
        learner.averaged_params(1.0)


def moments():
    """Running sums of the rows, of their squares and of their number."""

    def measure(sample, targets, aux):
        del targets
        return jnp.stack([sample.rows.mean(), (aux["priority"] ** 2).mean()])

    return types.Tracker(
        init=lambda params: jnp.zeros(3),
        update=lambda state, params, measured: state + jnp.append(measured, 1.0),
        measure=measure, old_params=lambda state, old: {"w": state[0] / jnp.maximum(state[2], 1)})


def test_statistics_of_batches_are_kept_and_read_by_targets():
    """Means and squares of three batches against NumPy; one that is infinite is not applied.

    Planted: the batch counted that was not applied.
    """
    update, train = make_toy(plain_sgd(), old_params_loss, tracker=moments(),
                             targets=lambda params, old, key, sample: old)
    batches = [[1.0, 2.0], [np.inf, 1.0], [-3.0, 5.0], [0.5, 0.5]]
    means, applied = [], []
    for batch in batches:
        train, output = update(train, KEY, sample_of(batch))
        means.append(float(output.metrics["old_w"]))
        applied.append(bool(output.applied))
    assert applied == [True, False, True, True]
    good = np.array([batches[i] for i in (0, 2, 3)])
    np.testing.assert_allclose(
        train.tracked, [good.mean(1).sum(), (good**2).mean(1).sum(), 3], rtol=1e-6)
    np.testing.assert_allclose(means, [0.0, 1.5, 1.5, 1.25], rtol=1e-6)


def test_statistics_that_are_not_finite_are_not_kept():
    """Though loss and gradient are. Planted: not looked at."""
    tracker = types.Tracker(
        init=lambda params: jnp.zeros(()), update=lambda state, params, measured: state + measured,
        measure=lambda sample, targets, aux: jnp.log(sample.rows.mean()))
    update, train = make_toy(plain_sgd(), tracker=tracker)
    after, output = update(train, KEY, sample_of([-1.0, -1.0]))
    assert not output.applied and after.tracked == 0
    after, output = update(train, KEY, sample_of([1.0, 3.0]))
    assert output.applied
    np.testing.assert_allclose(after.tracked, np.log(2.0), rtol=1e-6)


def test_statistics_of_all_devices_are_those_of_their_batch():
    """Two shards of two rows, and four rows at once. Planted: each device's own."""
    options = dict(target_interval_updates=9, importance_exponent=0.0, tracker=moments())
    targets = lambda params, old, key, sample: old  # noqa: E731
    one, train = make_toy(plain_sgd(), old_params_loss, targets=targets, tracker=moments())
    rows = np.array([1.0, 2.0, -3.0, 5.0])
    whole, _ = one(train, KEY, sample_of(rows))
    update = learner.make_update(targets, old_params_loss, plain_sgd(), axis_name="x", **options)
    shards = jax.tree.map(lambda *x: np.stack(x), sample_of(rows[:2]), sample_of(rows[2:]))
    each, _ = jax.jit(jax.vmap(update, in_axes=(None, None, 0), axis_name="x"))(train, KEY, shards)
    np.testing.assert_allclose(each.tracked, np.stack([whole.tracked] * 2), rtol=1e-6)


def test_the_target_is_a_copy_of_its_own():
    """Donating parameters must not take the target with them.

    Planted: the same buffers for both.
    """
    network = types.Network(lambda key: {"w": jnp.ones((3,))}, None, None)
    train = learner.init_train_state(network, optax.sgd(0.1), KEY)
    assert_same(train.params, train.target_params)
    jax.jit(lambda x: jax.tree.map(lambda x: x + 1.0, x), donate_argnums=0)(train.params)
    np.testing.assert_array_equal(train.target_params["w"], 1.0)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_only_matrices_are_decayed(momentum):
    """No gradient: a matrix shrinks by rate · decay, a bias and a scale keep every bit.

    Planted: the mask left out; the mask inverted; the decay of SGD not multiplied by the rate.
    """
    optimizer = learner.make_optimizer(learning_rate=0.5, weight_decay=0.1, momentum=momentum)
    params = {"kernel": np.full((2, 3), 2.0), "conv": np.full((3, 3, 1, 1), 4.0),
              "bias": np.full((3,), 2.0), "scale": np.float32(2.0)}
    params = jax.tree.map(np.float32, params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(lambda x: optimizer.update(zeros, optimizer.init(x), x))(params)
    after = jax.tree.map(np.add, params, updates)
    np.testing.assert_allclose(after["kernel"], 2.0 - 0.5 * 0.1 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(after["conv"], 4.0 - 0.5 * 0.1 * 4.0, rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], 2.0)
    np.testing.assert_array_equal(after["scale"], 2.0)


@pytest.mark.parametrize("kwargs, want", [
    ({}, {0: 0.1, 1: 0.1, 5000: 0.1}),
    ({"warmup_updates": 4}, {0: 0.0, 1: 0.025, 2: 0.05, 4: 0.1, 5: 0.1, 5000: 0.1}),
    # A cosine from update 4 to 12: half-way, at 8, it is the mean of 0.1 and 0.01.
    ({"warmup_updates": 4, "decay_updates": 12, "final_fraction": 0.1},
     {0: 0.0, 3: 0.075, 4: 0.1, 8: 0.055, 12: 0.01, 5000: 0.01}),
    ({"decay_updates": 10}, {0: 0.1, 5: 0.05, 10: 0.0, 11: 0.0}),
    # A tenth every 350 updates, without end.
    ({"decay": "exponential", "decay_updates": 350, "final_fraction": 0.1},
     {0: 0.1, 175: 0.1 / 10**0.5, 350: 0.01, 700: 0.001}),
    # After the warm-up the rest of the way: 4 updates up, 8 down to a tenth.
    ({"decay": "exponential", "warmup_updates": 4, "decay_updates": 12, "final_fraction": 0.1},
     {2: 0.05, 4: 0.1, 8: 0.1 / 10**0.5, 12: 0.01}),
], ids=["constant", "warmup", "warmup and cosine", "cosine", "exponential", "warmup, exponential"])
def test_learning_rates_at_literal_updates(kwargs, want):
    """The step of plain SGD along a gradient of 1.

    Planted: the cosine counted from the end of the warm-up; the final fraction ignored; the
    exponential in steps (a staircase).
    """
    optimizer = learner.make_optimizer(learning_rate=0.1, weight_decay=0.0, momentum=0.0, **kwargs)
    gradient = np.float32(1.0)
    start, update = jax.jit(optimizer.init)(gradient), jax.jit(optimizer.update)

    def at(count):  # The optimiser's state after so many updates.
        return jax.tree.map(lambda x: np.int32(count) if x.dtype == np.int32 else x, start)

    for count, rate in want.items():
        step, _ = update(gradient, at(count), gradient)
        np.testing.assert_allclose(-step, rate, rtol=1e-5, atol=1e-8, err_msg=str(count))


@pytest.mark.parametrize("decay", [
    {"decay": "linear"}, {"warmup_updates": 9, "decay_updates": 9}, {"final_fraction": -0.5},
    {"decay": "exponential", "decay_updates": 9}])
def test_a_schedule_that_cannot_be_is_refused(decay):
    """An exponential to a fraction of 0 would not decay at all. Planted: none of them checked."""
    with pytest.raises(ValueError, match="^(decay|final_fraction)"):
        learner.make_optimizer(learning_rate=1.0, **decay)


def test_without_a_largest_norm_nothing_is_clipped():
    """Planted: None taken for the default."""
    optimizer = learner.make_optimizer(
        learning_rate=1.0, weight_decay=0.0, momentum=0.0, max_grad_norm=None)
    gradient = jnp.float32(1000.0)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert updates == -1000.0


def test_gradients_are_clipped_by_their_global_norm():
    """(6, 8) has norm 10 and becomes (3, 4); (3, 0) stays.

    Planted: clipped element by element.
    """
    optimizer = learner.make_optimizer(learning_rate=1.0, weight_decay=0.0, momentum=0.0)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    for gradient, want in ((6.0, 8.0), (3.0, 4.0)), ((3.0, 0.0), (3.0, 0.0)):
        updates, _ = optimizer.update(dict(zip("ab", map(jnp.float32, gradient))),
                                      optimizer.init(params), params)
        np.testing.assert_allclose([-updates["a"], -updates["b"]], want, rtol=1e-6)


def test_updates_due_literally():
    """floor((rows - min_rows) / r), nothing before, no burst after.

    Planted: rows / r counted from row 0, which bursts 25 updates at once.
    """
    due = functools.partial(learner.updates_due, min_rows=100, rows_per_update=4)
    assert [due(rows) for rows in (0, 99, 100, 103, 104, 108, 2**40)] == [
        0, 0, 0, 0, 1, 2, (2**40 - 100) // 4]
    counts = [due(rows) for rows in range(0, 240, 12)]
    steps = np.diff(counts)
    assert max(steps) == 3 and counts[9] == 2  # Row 108 is the first beyond 100.
    assert (steps[9:] == 3).all()


def test_check_ratio_literally():
    """Either number of the two may divide the other.

    Planted: only one direction accepted; zero accepted.
    """
    check = functools.partial(learner.check_ratio, min_rows=10)
    check(8, rows_per_update=4)
    check(4, rows_per_update=8)
    check(1, rows_per_update=1)
    with pytest.raises(ValueError, match="divided by, the 4 rows of one step .got 6"):
        check(4, rows_per_update=6)
    with pytest.raises(ValueError, match="must be >= 1"):
        check(4, rows_per_update=0)
    with pytest.raises(ValueError, match="min_rows >= 0"):
        learner.check_ratio(4, min_rows=-1, rows_per_update=4)


def test_keys_differ_by_purpose_and_by_count_beyond_2_to_the_32():
    """2^32 + 5 is neither 5 nor (5, 1); the same use gives the same key.

    Planted: only the low half folded in; the halves added; the purpose ignored.
    """
    np.testing.assert_array_equal(learner.split_count(2**32 + 5), [1, 5])
    np.testing.assert_array_equal(learner.split_count(2**32 - 1), [0, 2**32 - 1])
    assert learner.split_count(3).dtype == np.uint32
    counts = [0, 1, 5, 6, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 5 * 2**32 + 1, 2**40]
    fold = jax.jit(learner.fold_count)
    keys = [tuple(np.asarray(jax.random.key_data(
        fold(KEY, purpose, learner.split_count(count)))).tolist())
        for purpose in range(3) for count in counts]
    assert len(set(keys)) == 3 * len(counts)
    again = learner.fold_count(KEY, 1, learner.split_count(5))
    assert tuple(np.asarray(jax.random.key_data(again)).tolist()) == keys[len(counts) + 2]


@pytest.mark.parametrize("count", [0, 5, 2**32 - 3])
def test_every_update_of_a_program_has_the_key_of_its_number(count):
    """Seven updates at once are seven one by one, whatever their numbers, and no two are alike.

    Planted: one key for all updates of a program; the high half of the number kept as it began.
    """

    def learn(train, replay_state, key):
        number = train.step
        keys = train.params.at[number].set(jax.random.uniform(key))
        return train.replace(params=keys, step=number + 1), replay_state, {}

    updates = jax.jit(fakes.on_one_device(learner.make_updates(learn, KEY)))
    start = types.TrainState(params=jnp.zeros(7), target_params=None, opt_state=None,
                             step=jnp.int32(0), skipped_in_a_row=jnp.int32(0))
    at_once, *_ = updates(start, 0, learner.split_count(count), np.int32(7))
    one_by_one = start
    for number in range(count, count + 7):
        one_by_one, *_ = updates(one_by_one, 0, learner.split_count(number), np.int32(1))
    assert_same(at_once.params, one_by_one.params)
    assert len(np.unique(at_once.params)) == 7


# A chain of states 0 to 4. Move 1 goes right, and from 4 to the end, state 5, with reward 1; move
# 0 goes left, and at state 0 stays there, with reward -0.1.
STATES, END, GAMMA = 5, 5, 0.9
HISTORY, UNROLL, BOOTSTRAP = 1, 2, 3
WINDOW = types.Window(HISTORY, UNROLL, BOOTSTRAP)
CHAIN_CODECS = types.Codecs(*(codecs_lib.make_two_hot_codec(
    num_bins=21, low=-1.0, high=1.0, transform="identity") for _ in range(2)))
CHAIN_ENVS, CHAIN_ROWS = 8, 2000


def chain_step(state, move):
    """(next state, reward)."""
    if move == 0:
        return max(state - 1, 0), -0.1 if state == 0 else 0.0
    return state + 1, 1.0 if state == STATES - 1 else 0.0


def true_values(right):
    """Solves v = r + γ P v where move 1 is made with probability `right`."""
    matrix, reward = np.eye(STATES), np.zeros(STATES)
    for state in range(STATES):
        for move, probability in ((0, 1.0 - right), (1, right)):
            after, gain = chain_step(state, move)
            reward[state] += probability * gain
            if after != END:
                matrix[state, after] -= GAMMA * probability
    return np.linalg.solve(matrix, reward)


def chain_rows(right, seed):
    """`Transition` `[E, T]` of episodes from random states; 1 step in 20 is cut off (truncated).

    Stored values are wrong on purpose: bootstraps come from the network.
    """
    rng = np.random.default_rng(seed)
    shape = (CHAIN_ENVS, CHAIN_ROWS)
    columns = {name: np.zeros(shape, dtype) for name, dtype in {
        "state": int, "reward": np.float32, "discount": np.float32, "first": bool, "last": bool,
        "action": np.int32}.items()}
    for env in range(CHAIN_ENVS):
        state, ended = None, True
        for t in range(CHAIN_ROWS):
            first = ended
            reward = discount = 0.0
            if first:
                state = rng.integers(STATES)
            else:
                state, reward = chain_step(state, columns["action"][env, t - 1])
                discount = float(state != END)
            ended = not first and (state == END or rng.random() < 0.05)
            action = int(rng.random() < right)
            for name, value in {"state": state, "reward": reward, "discount": discount,
                                "first": first, "last": ended, "action": action}.items():
                columns[name][env, t] = value
    state = columns.pop("state")
    return types.Transition(
        observation=state[..., None].astype(np.float32), invalid_actions=None,
        policy=np.full((*shape, 2), 0.5, np.float32), value=np.full(shape, 0.7, np.float32),
        explored=np.zeros(shape, bool), made_at_updates=np.zeros(shape, np.int32), **columns)


def table_network():
    """Embeddings are one-hot states, moves are known; rewards, values and policies are tables."""
    moves = np.zeros((2, STATES + 1, STATES + 1), np.float32)
    moves[:, END, END] = 1.0
    for move in range(2):
        for state in range(STATES):
            moves[move, state, chain_step(state, move)[0]] = 1.0

    def init(key):
        del key
        return {"value": jnp.zeros((STATES + 1, 21)), "reward": jnp.zeros((2, STATES + 1, 21)),
                "policy": jnp.zeros((STATES + 1, 2))}

    def predict(params, embedding, reward_logits):
        return types.Prediction(
            embedding=embedding, reward_logits=reward_logits,
            value_logits=embedding @ params["value"], policy_logits=embedding @ params["policy"])

    def initial_inference(params, history):
        state = history.observation[:, -1, 0].astype(jnp.int32)
        embedding = jax.nn.one_hot(state, STATES + 1)
        return predict(params, embedding, jnp.zeros((len(embedding), 21)))

    def recurrent_inference(params, embedding, action):
        reward_logits = jnp.einsum("bs,bsr->br", embedding, params["reward"][action])
        after = jnp.einsum("bs,bst->bt", embedding, jnp.asarray(moves)[action])
        return predict(params, after, reward_logits)

    return types.Network(init, initial_inference, recurrent_inference)


@functools.cache
def chain_learner():
    """(`init`, `train_for`) of the library's own parts around the table."""
    network = table_network()
    rule = {"bootstrap_steps": BOOTSTRAP, "discount": GAMMA}
    example = jax.tree.map(lambda x: x[0, 0], chain_rows(1.0, 0))
    replay = replay_lib.make_replay(
        example, targets_lib.make_initial_priority(**rule), num_envs=CHAIN_ENVS,
        rows_per_env=CHAIN_ROWS + 48, window=WINDOW,
        observed_steps=HISTORY + UNROLL + BOOTSTRAP,
        priority_exponent=1.0, priority_floor=0.05)
    targets = targets_lib.make_targets(window=WINDOW, discount=GAMMA,
        bootstrap_value=targets_lib.make_network_bootstrap(network, CHAIN_CODECS.value))
    loss = losses.make_loss(network, CHAIN_CODECS, window=WINDOW)
    optimizer = learner.make_optimizer(learning_rate=0.05, decay_updates=3000, weight_decay=0.0)
    update = learner.make_update(targets, loss, optimizer, target_interval_updates=20,
                                 importance_exponent=1.0)
    learn = learner.make_learn(replay, update, batch_size=128)

    @jax.jit
    def init(rows):
        return (learner.init_train_state(network, optimizer, KEY),
                replay.add(replay.init(), 0, rows))

    # Thousands of updates: worth a better program than those of other tests.
    @functools.partial(jax.jit, compiler_options=fakes.OPTIMIZED)
    def train_for(num_updates, train, state, key):
        def one(i, carry):
            train, state, _ = carry
            return learn(train, state, jax.random.fold_in(key, i))

        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                               jax.eval_shape(learn, train, state, key)[2])
        return jax.lax.fori_loop(0, num_updates, one, (train, state, metrics))

    return init, train_for


@pytest.mark.slow
@pytest.mark.parametrize("right", [
    pytest.param(1.0, id="the best policy"), pytest.param(0.8, id="a random policy")])
def test_a_chain_is_solved_to_its_true_values(right):
    """Replay, targets, loss, priorities and update together: max |V - V*| <= 0.02.

    For the best policy the solution is V*; for the random one returns are noisy, and only right
    importance weights make their mean come out (0.002; without them 0.045). Every known reward is
    learned too, and past the end value and reward are 0.

    Planted: the importance weights left out (random policy); truncation taken for termination;
    the ends of episodes not seen; the target network never refreshed; γ left out.
    """
    init, train_for = chain_learner()
    train, state = init(chain_rows(right, seed=1))
    train, state, metrics = train_for(3000, train, state, jax.random.key(1))
    assert train.step == 3000 and np.isfinite(metrics["loss"])
    value = CHAIN_CODECS.value.decode(train.params["value"])
    error = np.abs(np.asarray(value) - np.append(true_values(right), 0.0))
    assert error.max() <= 0.02, error
    reward = CHAIN_CODECS.reward.decode(train.params["reward"])
    for move in (1,) if right == 1.0 else (0, 1):
        want = [chain_step(s, move)[1] for s in range(STATES)] + [0.0]
        np.testing.assert_allclose(reward[move], want, atol=0.05)


def test_the_same_key_gives_the_same_bits_and_another_does_not():
    """Planted: a key of its own in `learn`, whatever it is given."""
    init, train_for = chain_learner()
    start = init(chain_rows(0.5, seed=1))
    one = train_for(40, *start, jax.random.key(3))
    assert_same(one, train_for(40, *start, jax.random.key(3)))
    other = train_for(40, *start, jax.random.key(4))
    assert not np.array_equal(one[0].params["value"], other[0].params["value"])
    assert not np.array_equal(one[1].weights, start[1].weights)


def test_a_nan_in_replay_is_never_trained_and_leaves_the_priorities():
    """A reward that became NaN in the ring: updates are skipped, ten of them, and then all.

    Planted: priorities written although the update was skipped.
    """
    init, train_for = chain_learner()
    train, state = init(chain_rows(0.5, seed=1))
    train, state, _ = train_for(3, train, state, jax.random.key(0))
    poisoned = state.replace(rows=state.rows.replace(
        reward=jnp.full_like(state.rows.reward, jnp.nan)))
    after, left, metrics = train_for(12, train, poisoned, jax.random.key(1))
    assert_same(after, train.replace(skipped_in_a_row=jnp.int32(12)))
    assert_same(left, poisoned)
    assert np.isnan(metrics["loss"]) and metrics["skipped_in_a_row"] == 12.0


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_a_draw_of_nothing_weighs_nothing(exponent):
    """And it is not the batch's largest weight, by which the others are divided. A batch of such
    draws alone changes nothing but the counter. Planted bugs seen: their probability taken for
    1e-30 (as it was), so that all others were crushed; a batch of them applied."""
    x, probability = np.array([5.0, 1.0, -2.0]), np.array([0.0, 0.5, 0.25])
    weights = {0.0: [0, 1, 1], 0.4: [0, 0.5**0.4, 1], 1.0: [0, 0.5, 1]}[exponent]
    update, train = make_toy(plain_sgd(), exponent=exponent)
    after, output = update(train, KEY, sample_of(x, probability))
    np.testing.assert_allclose(after.params["w"], 2.0 - np.mean(weights * x), rtol=1e-6)
    assert output.applied and output.metrics["empty_draws"] == pytest.approx(1 / 3)
    after, output = update(train, KEY, sample_of(x, np.zeros(3)))
    assert not output.applied and output.metrics["empty_draws"] == 1.0
    assert_same(after, train.replace(skipped_in_a_row=jnp.int32(1)))
