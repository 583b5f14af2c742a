"""One program on several devices: equal to one device, with as little traffic as promised."""

import functools
import itertools
import math
import re

import jax
import numpy as np
import optax
import pytest

import fakes
from muzero_jax import acting, checkpoint, codecs, learner, losses, mesh, targets, types
from muzero_jax import replay as replay_lib
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.loops import anakin, sebulba
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel

NUM_ENVS, HISTORY, UNROLL, BOOTSTRAP, GAMMA, BATCH, STEPS = 8, 2, 3, 2, 0.99, 16, 4
WINDOW = types.Window(HISTORY, UNROLL, BOOTSTRAP)
RULE = {"bootstrap_steps": BOOTSTRAP, "discount": GAMMA}
CODECS = types.Codecs(
    value=codecs.make_two_hot_codec(num_bins=11, low=-1.0, high=6.0),
    reward=codecs.make_two_hot_codec(num_bins=3, low=0.0, high=2.0),
)
ENV = make_cartpole(max_steps=30)
NETWORK = make_mlp_network(ENV.spec, CODECS, history_steps=HISTORY, width=16)
SEARCH = gumbel.make_gumbel_search(
    NETWORK, CODECS, num_actions=2, turn_sign=1, discount=GAMMA, num_simulations=4
)
# At rate 1 and without momentum the step of the parameters is the gradient.
DESCENT = optax.sgd(1.0)


def make_ring():
    params = jax.eval_shape(NETWORK.init, jax.random.key(0))
    return replay_lib.make_replay(
        acting.example_row(ENV.spec, SEARCH, params, HISTORY),
        targets.make_initial_priority(**RULE),
        num_envs=NUM_ENVS,
        rows_per_env=32,
        window=WINDOW,
        observed_steps=HISTORY,
        priority_exponent=0.5,
        priority_floor=0.01,
    )


def make_update(exponent):
    return learner.make_update(
        targets.make_targets(window=WINDOW, discount=GAMMA),
        losses.make_loss(NETWORK, CODECS, window=WINDOW),
        DESCENT,
        target_interval_updates=10,
        importance_exponent=exponent,
        axis_name=mesh.AXIS,
    )


def devices(count):
    return mesh.make_mesh(jax.devices("cpu")[:count])


def fresh():
    """A run before its first iteration."""
    state, timestep = jax.vmap(ENV.reset)(jax.random.split(jax.random.key(9), NUM_ENVS))
    return types.RunState(
        train=learner.init_train_state(NETWORK, DESCENT, jax.random.key(0)),
        replay=make_ring().init(),
        env=state,
        timestep=timestep,
        acting=anakin.init_anakin_carry(ENV.spec, NUM_ENVS, HISTORY),
        counters=types.Counters(),
    )


def started():
    """The same, each array with a buffer of its own: all of them are donated."""
    run = jax.jit(lambda: fresh().replace(counters=None))()
    return run.replace(counters=types.Counters())


def loop(count, run=None, *, seed=0):
    """The device loop on `count` devices."""
    update = make_update(0.5)
    ring = make_ring()
    return anakin.anakin(
        started() if run is None else run,
        rollout=acting.make_rollout(ENV, SEARCH, num_steps=STEPS),
        replay=ring,
        learn=learner.make_learn(ring, update, batch_size=BATCH // count),
        explore_at=lambda updates: fakes.EXPLORE,
        key=jax.random.key(seed),
        min_rows=128,
        rows_per_update=16,
        steps_per_iteration=STEPS,
        mesh=devices(count),
    )


@pytest.fixture(scope="module")
def filled():
    """A run with 16 rows in each environment, on one device, and a batch from its replay."""
    _, run = fakes.take(loop(1), 6)
    sample = jax.jit(make_ring().sample, static_argnums=2)(run.replay, jax.random.key(1), BATCH)
    return run, sample


def update_on(count, train, sample, exponent):
    """One update on the same batch, cut into `count` shards; arrays of the host."""
    # Each shard gives the probability among its own rows, how many it has, and what they weigh.
    sample = sample.replace(
        probability=sample.probability * count,
        num_drawable=sample.num_drawable / count,
        total_weight=sample.total_weight / count,
    )
    specs = sample.replace(
        rows=mesh.SHARDED,
        observations=mesh.SHARDED,
        index=mesh.SHARDED,
        probability=mesh.SHARDED,
        num_drawable=mesh.REPLICATED,
        total_weight=mesh.REPLICATED,
        newest_updates=mesh.REPLICATED,
    )
    update = mesh.shard(
        make_update(exponent),
        devices(count),
        (mesh.REPLICATED, mesh.REPLICATED, specs),
        (mesh.REPLICATED, learner.UpdateOutput(mesh.SHARDED, mesh.REPLICATED, mesh.REPLICATED)),
    )
    train, sample = jax.device_get((train, sample))
    return jax.device_get(jax.jit(update)(train, jax.random.key(2), sample))


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "exponent", [pytest.param(0.0, marks=_SLOW), 0.5, pytest.param(1.0, marks=_SLOW)]
)
def test_one_update_is_the_same_on_1_and_on_4_devices(filled, exponent):
    """Loss to 1e-5, each gradient to 1e-4, priorities and metrics too; each shard has other data,
    so that its own gradient is another. Planted bugs seen: gradients not averaged; summed; the
    largest weight of each shard by itself; at β = 1 each shard's own number of rows."""
    run, sample = filled
    before = jax.device_get(run.train)
    (one, output), (four, output_four) = (
        update_on(count, run.train, sample, exponent) for count in (1, 4)
    )
    np.testing.assert_allclose(output_four.metrics["loss"], output.metrics["loss"], rtol=1e-5)
    for name in output.metrics.keys() - {"importance_weight_min"}:  # A mean of the shards' least.
        np.testing.assert_allclose(
            output_four.metrics[name], output.metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(output_four.priority, output.priority, rtol=1e-4, atol=1e-6)
    gradient, other = (
        jax.tree.map(lambda a, b: a - b, before.params, after.params) for after in (one, four)
    )
    largest = max(np.abs(x).max() for x in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * largest),
        gradient,
        other,
    )
    quarter = jax.tree.map(lambda x: x[:4] if x.ndim else x, sample)
    alone, _ = update_on(1, run.train, quarter, exponent)
    assert np.abs(jax.tree.leaves(alone.params)[0] - jax.tree.leaves(four.params)[0]).max() > 1e-3


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """8 iterations on 4 devices: (metrics, run, folder of the resume points, the 6th run)."""
    lines, folder = [], tmp_path_factory.mktemp("four")
    for run, metrics in itertools.islice(loop(4), 8):
        lines.append(metrics)
        if len(lines) == 6:
            kept = jax.device_get(run.replace(counters=None))
            with checkpoint.CheckpointStore(folder, max_to_keep=1) as store:
                store.save(6, run.replace(counters=None), run.counters._asdict())
    return lines, run, folder, kept


def test_every_device_ends_with_the_same_parameters(eight):
    """Bit by bit, after 8 iterations with updates from the third. Planted bug seen: the key of
    the sample alike on all devices, gradients not averaged."""
    lines, run, *_ = eight
    assert np.isfinite(lines[-1]["train/loss"]) and run.counters.updates > 4
    for leaf in jax.tree.leaves(run.train):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        for copy in copies[1:]:
            assert copy.tobytes() == copies[0].tobytes()
    rows = np.asarray(run.replay.rows.value)
    assert len({rows[i].tobytes() for i in range(NUM_ENVS)}) == NUM_ENVS


def test_counters_and_returns_are_those_of_all_devices(eight):
    """Against the stored rows of all environments. Planted bug seen: sums of the first shard."""
    lines, run, *_ = eight
    first = np.asarray(run.replay.rows.first)[:, : 8 * STEPS]
    last = np.asarray(run.replay.rows.last)[:, : 8 * STEPS]
    resets = (first[:, 1:] & last[:, :-1])[:, : 7 * STEPS].sum()  # Told one iteration late.
    assert run.counters.rows == 8 * STEPS * NUM_ENVS
    assert run.counters.env_steps == run.counters.rows - resets < run.counters.rows
    # Every episode but the running one of each environment has been counted.
    assert sum(metrics["train/episodes"] for metrics in lines) == first.sum() - NUM_ENVS > 0


LANES, SLOTS, DRAWS = 4, 16, 2**17
UNEQUAL = {  # The weight of each row, by lane: in one shard or several, or in none.
    "unlike lanes": ((0.1, 0.1), (5.0, 0.2, 0.7, 0.1, 0.4), (30.0,), (1.0, 2.0, 3.0)),
    "an empty shard": ((0.5, 2.0), (1.0, 0.25, 4.0), (), ()),
}


@functools.lru_cache
def weigh(count, exponent):
    """A compiled draw of DRAWS rows on `count` devices: (index in the whole ring, weights)."""
    ring = fakes.make_replay(LANES, SLOTS)

    def program(state, key):
        sample = ring.sample(state, mesh.shard_key(key), DRAWS // count)
        lanes = LANES // count * jax.lax.axis_index(mesh.AXIS)
        index = (sample.index[:, 0] + lanes) * SLOTS + sample.index[:, 1]
        return index, learner.importance_weights(sample, exponent, mesh.AXIS)

    specs = (mesh.SHARDED, mesh.REPLICATED)
    return jax.jit(mesh.shard(program, devices(count), specs, mesh.SHARDED))


@pytest.mark.parametrize("name", UNEQUAL)
@pytest.mark.parametrize(
    "exponent", [0.4, *(pytest.param(x, marks=_SLOW) for x in (0.0, 1.0))])
def test_no_row_weighs_more_because_of_its_shard(name, exponent):
    """What each row adds to the loss on average, P·w, over 1, 2 and 4 devices: that of one device
    by NumPy, within 5 standard errors, where shards have unequal weights, or numbers of rows, or
    no row at all.

    Planted bugs seen: no share of the shard (as it was); the share inside of the exponent alone;
    the least probability compared before the shares; a draw of nothing as the largest weight.
    """
    weights = np.zeros((LANES, SLOTS))
    for lane, row in enumerate(UNEQUAL[name]):
        weights[lane, 3 : 3 + len(row)] = row
    chance = weights.ravel() / weights.sum()
    rows = np.flatnonzero(chance)
    chance = chance[rows]
    wanted = (len(rows) * chance) ** -exponent
    wanted = chance * (wanted if exponent == 1.0 else wanted / wanted.max())
    state = fakes.make_replay(LANES, SLOTS).init().replace(weights=np.float32(weights))
    for count in (1, 2, 4):
        index, drawn = jax.device_get(weigh(count, exponent)(state, jax.random.key(5)))
        assert set(index[drawn > 0]) == set(rows)
        for row, want in zip(rows, wanted):
            added = np.where(index == row, drawn.astype(np.float64), 0.0)
            error = added.std() / np.sqrt(DRAWS)
            assert abs(added.mean() - want) < 5 * error + 1e-9, (count, row, added.mean(), want)


def collectives(program, *args):
    """(kind, shape) of every operation of the compiled program that talks to other devices."""
    text = program.lower(*args).compile().as_text()
    pattern = r"= (\(?[a-z0-9]+\[.*?) (all-reduce|all-gather|all-to-all|collective-permute|"
    pattern += r"reduce-scatter|collective-broadcast)(?:-start)?\("
    return [(found[2], found[1].split("{")[0]) for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("exponent, kind, numbers_of_all", [
    (0.5, "all-gather", 2 * 4), pytest.param(1.0, "all-reduce", 1, marks=_SLOW)])
def test_an_update_is_one_all_reduce_and_eight_bytes(exponent, kind, numbers_of_all):
    """Read from the compiled program. Planted bugs seen: metrics averaged one by one; a replay
    that is sampled outside of `shard` (all-gathers)."""
    run = mesh.shard_run(jax.eval_shape(fresh), devices(4))
    ring = make_ring()
    learn = learner.make_learn(ring, make_update(exponent), batch_size=BATCH // 4)
    program = jax.jit(mesh.shard_learn(learn, devices(4)), donate_argnums=(0, 1))
    found = collectives(program, run.train, run.replay, jax.random.key(0))
    numbers = sum(x.size for x in jax.tree.leaves(run.train.params))
    (few, small), (vector, large) = sorted(
        (math.prod(int(x) for x in re.findall(r"\d+", shape.split("[")[1])), kind)
        for kind, shape in found
    )
    assert (small, large) == (kind, "all-reduce") and few == numbers_of_all
    assert numbers < vector < numbers + 20  # Gradients and metrics.


@pytest.mark.slow
def test_acting_and_sampling_talk_to_nobody():
    """Neither loop's acting, and no sample. Planted bug seen: a `jit` without `shard`."""
    run, four = mesh.shard_run(jax.eval_shape(fresh), devices(4)), devices(4)
    whole, split = mesh.REPLICATED, mesh.SHARDED
    rollout = acting.make_rollout(ENV, SEARCH, num_steps=STEPS)
    program = mesh.shard(
        lambda *x: rollout(*x, fakes.EXPLORE, 0), four, (whole, whole, split, split, split), split
    )
    args = (run.train.params, jax.random.key(0), run.env, run.timestep, run.acting.carry)
    assert collectives(jax.jit(program), *args) == []
    ring = make_ring()
    sample = mesh.shard(
        lambda state, key: ring.sample(state, mesh.shard_key(key), 4).index,
        four,
        (split, whole),
        split,
    )
    assert collectives(jax.jit(sample), run.replay, jax.random.key(0)) == []
    act = sebulba.shard_act(acting.make_act_and_add(SEARCH, ring), jax.random.key(0), four)
    group = mesh.shard_run(
        jax.eval_shape(lambda: fresh().replace(acting=fresh().acting.carry)), four
    )
    count = np.zeros(2, np.uint32)
    args = (group.train.params, group.replay, group.acting, group.timestep, np.int32(0), count)
    assert collectives(jax.jit(act), *args, fakes.EXPLORE, np.int32(0)) == []


def restored(folder, count):
    """The run of a resume point, on `count` devices."""
    target = mesh.shard_run(jax.eval_shape(fresh), devices(count)).replace(counters=None)
    _, run, meta = checkpoint.restore_newest(folder, target)
    return run.replace(counters=types.Counters(**meta))


def test_each_leaf_of_a_placed_run_has_a_buffer_of_its_own():
    """All of them are donated; the target network may be the very arrays of the network.

    Planted: one buffer for two leaves.
    """
    run = started()
    run = run.replace(train=run.train.replace(target_params=run.train.params))
    placed = mesh.shard_run(run, devices(1)).replace(counters=None)
    buffers = [
        x.addressable_shards[0].data.unsafe_buffer_pointer() for x in jax.tree.leaves(placed)
    ]
    assert len(set(buffers)) == len(buffers)
    fakes.assert_trees_equal(placed.train.target_params, run.train.params)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_blocks_come_in_the_order_of_the_rows(order):
    """Whatever the ids of the devices are. Planted: in the order of the shards, backwards."""
    over = mesh.make_mesh(jax.devices("cpu")[:4][::order])
    rows = np.arange(12).reshape(12, 1)
    blocks = mesh.local_shards(mesh.put_rows(over, rows))
    assert len(blocks) == 4
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_resume_point_of_4_devices_is_read_by_any_number(eight, count):
    """Every leaf keeps its bits and lies split over the new mesh. Planted bug seen: shapes without
    shardings (all on the first device)."""
    *_, folder, kept = eight
    run = restored(folder, count)
    fakes.assert_trees_equal(jax.device_get(run.replace(counters=None)), kept)
    shards = run.replay.rows.observation.addressable_shards
    assert [shard.data.shape[0] for shard in shards] == [NUM_ENVS // count] * count


@pytest.mark.parametrize(
    "count", [pytest.param(count, marks=_SLOW) for count in (1, 2, 4, 8)]
)
def test_a_resume_point_of_4_devices_goes_on_with_any_number(eight, count):
    """On as many devices as before to the bit as if it had not been stopped."""
    _, whole, folder, _ = eight
    taken, run = fakes.take(loop(count, restored(folder, count)), 2)
    assert run.counters.rows == whole.counters.rows == 8 * STEPS * NUM_ENVS
    assert all(np.isfinite(metrics["train/loss"]) for _, metrics in taken)
    if count == 4:
        assert run.counters == whole.counters
        fakes.assert_trees_equal(run.replace(counters=None), whole.replace(counters=None))
