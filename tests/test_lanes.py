"""A dataset assigned to lanes: every row as often, in bounded memory, from any block on."""

import collections
import dataclasses
import itertools
import pathlib
import tracemalloc

import jax
import numpy as np
import pytest

import fakes
from muzero_jax.data import dataset, lanes
from muzero_jax.data.trajectories import rows_of_episode
from muzero_jax.errors import DatasetError

E, T, FUTURE, MOST = 4, 8, 5, 60
ROW = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
    rows_of_episode(fakes.SPEC, np.zeros((1, 2)), np.zeros(0, int), [], terminated=False),
).replace(
    policy=jax.ShapeDtypeStruct((3,), np.float32),
    value=jax.ShapeDtypeStruct((), np.float32),
    made_at_updates=jax.ShapeDtypeStruct((), np.int32),
)


def write(path, lengths, **options):
    """Episodes of so many steps; row i of episode e shows `(e, i)`."""
    episodes = (
        rows_of_episode(
            fakes.SPEC,
            [(e, i) for i in range(length + 1)],
            np.full(length, e % 3),
            np.full(length, 0.5),
            terminated=e % 2 == 0,
        )
        for e, length in enumerate(lengths)
    )
    dataset.write_dataset(path, fakes.SPEC, episodes, **options)
    return dataset.open_dataset(path)


def assign(opened, **changes):
    options = dict(num_lanes=E, block_rows=T, future_steps=FUTURE, most=MOST) | changes
    return lanes.assign(opened, **options)


def read(assigned, begin=0, own=range(E)):
    return lanes.read_blocks(assigned, ROW, begin, own=own, searched=False)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """Episodes of all lengths in files of 200 rows, one of them longer than a segment may be."""
    lengths = np.random.default_rng(0).integers(1, 40, size=150).tolist()
    lengths[70] = 150
    opened = write(tmp_path_factory.mktemp("data"), lengths, rows_per_chunk=200)
    return lengths, assign(opened)


def seen(blocks):
    """How often each (episode, step) was a row that can be drawn."""
    counts = collections.Counter()
    for block in blocks:
        rows = block.observation[~block.last]
        counts.update((int(e), int(i)) for e, i in rows)
    return counts


def test_every_row_comes_once_a_round_and_all_lanes_are_about_as_long(streamed):
    """Also those of an episode that is cut. Planted bugs seen: a round as long as the shortest
    lane; the rest of a segment beyond a block's end dropped."""
    lengths, assigned = streamed
    states = {(e, i) for e, length in enumerate(lengths) for i in range(length)}
    for rounds in (1, 2, 3):
        counts = seen(itertools.islice(read(assigned), rounds * assigned.num_blocks))
        assert set(counts) == states and set(counts.values()) == {rounds}
    rows = sum(lengths) + len(lengths)
    assert rows / E <= assigned.num_blocks * T <= rows / E + MOST + FUTURE + T
    newest = collections.deque(itertools.islice(read(assigned), assigned.num_blocks), 1)[0]
    assert newest.last[:, -FUTURE:].all(), "nothing matures at the end of a round"


def test_a_lane_is_whole_episodes_one_after_the_other(streamed):
    """Rows of a lane from an earlier `first` to the next `last` are consecutive and of one episode.
    Planted bug seen: two segments at one place."""
    _, assigned = streamed
    blocks = [*itertools.islice(read(assigned), assigned.num_blocks)]
    rows = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *blocks)
    for lane in range(E):
        first, last, frame = (x[lane] for x in (rows.first, rows.last, rows.observation))
        real = ~(first & last)
        assert (first[1:] == last[:-1]).all() and first[0]
        inside = real[1:] & ~first[1:]
        steps = frame[1:][inside] - frame[:-1][inside]
        assert (steps == [0, 1]).all() and inside.sum() > 200


@pytest.mark.parametrize("begin", [1, 7, 1000])
def test_any_block_can_be_the_first(streamed, begin):
    """A resume reads on where the other process ended. Planted bug seen: segments that begin before
    the first block left out."""
    _, assigned = streamed
    begin = begin if begin < 1000 else 2 * assigned.num_blocks - 3
    wanted = itertools.islice(read(assigned), begin, begin + 6)
    for got, want in zip(read(assigned, begin), wanted, strict=False):
        fakes.assert_trees_equal(got, want)


def test_each_process_reads_its_own_lanes(streamed):
    """Planted bug seen: lanes counted from 0 in each."""
    _, assigned = streamed
    parts = [read(assigned, 3, range(0, 2)), read(assigned, 3, range(2, 4))]
    for whole, *halves in itertools.islice(zip(read(assigned, 3), *parts, strict=False), 20):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *halves)
        fakes.assert_trees_equal(joined, whole)


class Noting(type(pathlib.Path())):
    """A folder that notes which of its files were asked for."""

    files: list[str] = []

    def __truediv__(self, name):
        self.files.append(name)
        return super().__truediv__(name)


def bytes_of_arrays():
    """What NumPy has allocated since `tracemalloc.start`."""
    domain = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    return sum(x.size for x in tracemalloc.take_snapshot().filter_traces([domain]).traces)


@pytest.mark.slow
def test_memory_is_bounded_however_long_the_data(tmp_path):
    """Files are read once a round and in order; what is kept of them is a segment a lane and one
    file. Planted bug seen: segments kept after their last row."""
    opened = write(tmp_path, [15] * 400, rows_per_chunk=320)
    rows = dataset.read_chunk(opened, 0)
    bytes_of_row = sum(x.nbytes for x in jax.tree.leaves(rows)) / len(rows.first)
    noting = assign(opened)._replace(dataset=opened._replace(path=Noting(opened.path)))
    Noting.files.clear()
    blocks, most = read(noting), 0
    tracemalloc.start()
    try:
        for _ in range(2 * noting.num_blocks):
            next(blocks)
            most = max(most, bytes_of_arrays())
    finally:
        tracemalloc.stop()
    assert Noting.files == [chunk.file for chunk in opened.info.chunks] * 2
    assert len(Noting.files) == 40
    assert 0 < most / bytes_of_row <= 320 + E * MOST


def test_policies_and_values_are_read_only_where_they_are_wanted(tmp_path):
    """And nothing counts as made later than the first update. Planted bug seen: both always."""
    rows = rows_of_episode(
        fakes.SPEC, np.zeros((4, 2)), np.zeros(3, int), np.zeros(3), terminated=True
    ).replace(
        policy={"weights": np.full((4, 3), 0.25, np.float32)},
        value=np.full(4, 2.0, np.float32),
        made_at_updates=np.full(4, 9, np.int32),
    )
    dataset.write_dataset(tmp_path, fakes.SPEC, [rows])
    assigned = assign(dataset.open_dataset(tmp_path), num_lanes=1)
    for searched in (False, True):
        block = next(lanes.read_blocks(assigned, ROW, 0, own=range(1), searched=searched))
        assert block.policy[0, :4].sum() == (3 if searched else 0)
        assert block.value[0, :4].sum() == (8 if searched else 0)
        assert not block.made_at_updates.any()


def test_every_field_of_a_row_arrives(tmp_path):
    """Bit by bit, masks and random moves too, but for the count of updates, which is that of the
    first one. Planted bugs seen: `explored` left out, which makes every random move one that the
    policy is judged by; `discount`; masks."""
    rng = np.random.default_rng(0)
    flags = np.arange(6) == np.array([[0], [5]])
    rows = rows_of_episode(
        fakes.SPEC, rng.normal(size=(6, 2)), [0, 1, 2, 1, 0], rng.normal(size=5), terminated=False
    ).replace(
        explored=np.array([0, 1, 1, 0, 1, 0], bool),
        invalid_actions=np.eye(3, dtype=bool)[[1, 2, 0, 2, 1, 0]],
        policy=rng.random((6, 3)).astype(np.float32),
        value=rng.normal(size=6).astype(np.float32),
        made_at_updates=np.full(6, 9, np.int32),
    )
    assert (rows.first == flags[0]).all() and (rows.last == flags[1]).all()
    masked = dataclasses.replace(fakes.SPEC, masked=True)
    dataset.write_dataset(tmp_path, masked, [rows])
    assigned = assign(dataset.open_dataset(tmp_path), num_lanes=1)
    row = ROW.replace(invalid_actions=jax.ShapeDtypeStruct((3,), bool))
    block = next(lanes.read_blocks(assigned, row, 0, own=range(1), searched=True))
    arrived = jax.tree.map(lambda x: x[0, :6], block)
    expected = rows.replace(made_at_updates=np.zeros(6, np.int32))
    fakes.assert_trees_equal(arrived, jax.tree.map(np.asarray, expected))


def test_assigning_verifies_every_file(streamed):
    """Planted bug seen: only the first file read."""
    _, assigned = streamed
    info = assigned.dataset.info
    damaged = assigned.dataset._replace(
        info=type(info)(**vars(info) | {"chunks": (*info.chunks[:-1], info.chunks[0])})
    )
    path = assigned.dataset.path / info.chunks[-1].file
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + b"x")
        with pytest.raises(DatasetError, match=path.name):
            assign(assigned.dataset)
        assign(damaged)  # A negative control: the file that is damaged is not among these.
    finally:
        path.write_bytes(content)


def test_data_in_which_nothing_was_done_are_refused(tmp_path):
    """Planted bug seen: learned from, as a batch of padding."""
    with pytest.raises(DatasetError, match="no action"):
        assign(write(tmp_path, [0, 0]))


@pytest.mark.parametrize("num_lanes", [8, 12])
def test_few_pieces_are_spread_over_all_devices(tmp_path, num_lanes):
    """By counting: of 1 to E long episodes, which nothing may cut, every device has as many as any
    other, or one less; too few for all are refused. What a lane holds is the same for any number of
    devices. Planted bugs seen: the lanes in their order (as it was: 4 episodes, 8 lanes, 2 devices
    left one without a row); the last row of a file counted as one that can be drawn."""
    for episodes in range(1, num_lanes + 1):
        path = tmp_path / str(episodes)
        assigned = assign(write(path, [30] * episodes), num_lanes=num_lanes)
        filled = assigned.actions > 0
        assert assigned.actions.sum() == 30 * episodes and filled.sum() == episodes
        for devices in (1, 2, 4):
            each = filled.reshape(devices, -1).sum(axis=1)
            assert each.max() - each.min() <= 1
            if episodes >= devices:
                lanes.check_shards(assigned, devices)
                continue
            line = f"{devices - episodes} of {devices} devices would get no row of its {episodes} "
            with pytest.raises(DatasetError, match=line):
                lanes.check_shards(assigned, devices)
