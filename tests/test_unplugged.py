"""The loop that learns from stored rows: exact counts, what is in the ring, N + M = N, then M."""

import functools
import itertools

import jax
import numpy as np
import pytest

import fakes
from muzero_jax import learner, mesh
from muzero_jax.data import lanes
from muzero_jax.loops.unplugged import unplugged
from muzero_jax.types import Counters, RunState
from test_lanes import ROW, E, T, assign, write

R, U = 8, 4  # U updates take the E * T = 32 rows of a block.
RING = 40


@pytest.fixture(scope="module")
def assigned(tmp_path_factory):
    """Some 400 rows: more than a ring of 160."""
    lengths = np.random.default_rng(1).integers(1, 14, size=50).tolist()
    return assign(write(tmp_path_factory.mktemp("data"), lengths))


def _run(num_devices=1, rows_per_env=RING):
    run = RunState(
        train=fakes.make_train(),
        replay=fakes.make_replay(E, rows_per_env).init(),
        env=None,
        timestep=None,
        acting=None,
        counters=Counters(),
    )
    return mesh.shard_run(run, _mesh(num_devices))


def _mesh(num_devices):
    return mesh.make_mesh(jax.devices("cpu")[:num_devices])


def _loop(
    assigned, run=None, *, streams=True, seed=0, num_devices=1, at_first=RING // T, **changes
):
    size = RING if streams else assigned.num_blocks * T + 2
    options = dict(rows_per_update=R, updates_per_iteration=U, learn=fakes.learn) | changes
    return unplugged(
        _run(num_devices, size) if run is None else run,
        blocks=lambda i: lanes.read_blocks(assigned, ROW, i, own=range(E), searched=False),
        blocks_at_first=at_first if streams else assigned.num_blocks,
        num_blocks=assigned.num_blocks,
        streams=streams,
        replay=fakes.make_replay(E, size),
        key=jax.random.key(seed),
        mesh=_mesh(num_devices),
        **options,
    )


@pytest.mark.parametrize("streams", [False, True])
def test_the_ratio_is_exact_at_every_yield(streams, assigned):
    """Planted bugs seen: the rows of the first blocks counted; one update fewer."""
    for i, (run, metrics) in enumerate(itertools.islice(_loop(assigned, streams=streams), 6), 1):
        counters = run.counters
        assert all(type(count) is int for count in counters)
        assert counters == Counters(i, i * U * R, i * U * R, i * U)
        assert int(run.train.step) == counters.updates
        assert float(metrics["train/loss"]) == counters.updates
        added = RING // T + i if streams else assigned.num_blocks
        assert metrics["data/passes"] == added / assigned.num_blocks


def test_a_ring_that_streams_holds_the_newest_blocks(assigned):
    """One more for each iteration. Planted bug seen: the block after next."""
    for i, (run, _) in enumerate(itertools.islice(_loop(assigned), 2 * assigned.num_blocks), 1):
        blocks = lanes.read_blocks(assigned, ROW, i, own=range(E), searched=False)
        newest = jax.tree.map(
            lambda *x: np.concatenate(x, axis=1), *itertools.islice(blocks, RING // T)
        )
        order = (i * T + np.arange(RING)) % RING
        take = functools.partial(np.take, indices=order, axis=1)
        held = jax.tree.map(take, jax.device_get(run.replay.rows))
        fakes.assert_trees_equal(held, newest)


def test_a_ring_that_holds_all_is_filled_once(assigned):
    """Every row in which something was done can be drawn, from the first iteration to the last; the
    blocks are asked for once. Planted bugs seen: the slots after the newest row missing; filled
    again after a resume."""
    loop = _loop(assigned, streams=False)
    rows = np.sum([(~b.last).sum() for b in itertools.islice(
        lanes.read_blocks(assigned, ROW, 0, own=range(E), searched=False), assigned.num_blocks)])
    for run, _ in itertools.islice(loop, 3):
        weights = np.asarray(run.replay.weights)
        np.testing.assert_array_equal(weights > 0, _padded(~run.replay.rows.last))
        assert (weights > 0).sum() == rows
    before = jax.device_get(run.replay)
    again = unplugged(
        run, blocks=None, blocks_at_first=1, num_blocks=1, streams=False, learn=fakes.learn,
        replay=fakes.make_replay(E, assigned.num_blocks * T + 2), key=jax.random.key(0),
        rows_per_update=R, updates_per_iteration=U,
    )
    fakes.assert_trees_equal(next(again)[0].replay, before)


def _padded(drawable):
    """Slots that were never written hold zeros, which are not `last`."""
    drawable = np.array(drawable)
    drawable[:, -2:] = False
    return drawable


def test_the_generator_is_its_parts_called_by_hand(assigned):
    """Keys are of the count of updates. Planted bug seen: of the iteration."""
    taken, run = fakes.take(_loop(assigned, seed=3), 3)
    ring, key = fakes.make_replay(E, RING), jax.random.key(3)
    blocks = lanes.read_blocks(assigned, ROW, 0, own=range(E), searched=False)
    add = jax.jit(lambda state, rows: ring.add(state, 0, rows))
    by_hand = jax.jit(fakes.on_one_device(
        lambda train, state, count: fakes.learn(
            train, state, mesh.shard_key(learner.fold_count(key, learner.LEARN, count))
        )
    ))
    train, state, count = fakes.make_train(), ring.init(), 0
    for rows in itertools.islice(blocks, RING // T):
        state = add(state, rows)
    for i in range(3):
        state = add(state, next(blocks))
        for _ in range(U):
            train, state, metrics = by_hand(train, state, learner.split_count(count))
            count += 1
        assert metrics["loss"] == taken[i][1]["train/loss"]
    fakes.assert_trees_equal((run.train, run.replay), (train, state))


@pytest.mark.parametrize("streams", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_n_and_m_iterations_are_n_then_m(streams, assigned):
    """And with any item of the state otherwise they are not (negative controls: the same comparison
    sees another seed, priorities and place in the data). Planted bug seen: a resumed loop read from
    the first block on."""
    taken, whole = fakes.take(_loop(assigned, streams=streams), 9)
    for n in (1, 4):
        _, part = fakes.take(_loop(assigned, streams=streams), n)
        again, joined = fakes.take(_loop(assigned, part, streams=streams), 9 - n)
        fakes.assert_trees_equal(joined.replace(counters=None), whole.replace(counters=None))
        assert [counters for counters, _ in again] == [counters for counters, _ in taken[n:]]
    others = {
        "weights": lambda run: run.replace(
            replay=run.replay.replace(weights=run.replay.weights * 2)
        ),
        "counters": lambda run: run.replace(
            counters=run.counters._replace(rows=run.counters.rows + U * R, updates=0)
        ),
    }
    for change in others.values():
        _, part = fakes.take(_loop(assigned, streams=streams), 4)
        _, other = fakes.take(_loop(assigned, change(part), streams=streams), 5)
        with pytest.raises(AssertionError):
            fakes.assert_trees_equal((other.train, other.replay), (whole.train, whole.replay))


def test_two_devices_hold_what_one_does(assigned):
    """Each its half of the lanes. Planted bug seen: a block whole on every device."""
    rings = []
    for num_devices in (1, 2):
        _, run = fakes.take(_loop(assigned, num_devices=num_devices), 5)
        assert len(run.replay.weights.sharding.device_set) == num_devices
        assert run.replay.weights.addressable_shards[0].data.shape == (E // num_devices, RING)
        rings.append(jax.device_get(run.replay))
    fakes.assert_trees_equal(*rings)


def test_one_trace_of_a_program(assigned):
    """Planted bug seen: the program jitted in each iteration."""
    traces = []

    def learn(*args):
        traces.append(1)
        return fakes.learn(*args)

    fakes.take(_loop(assigned, learn=learn), 5)
    assert len(traces) == 2  # One of them for the shapes of the metrics.
