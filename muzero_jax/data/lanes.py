"""A dataset assigned to the lanes of a ring: every row once a round, in blocks `[E, t]`, for ever.

The segments of a dataset, whole episodes wherever they can be, go one after the other to the lane
with the fewest rows, among equals so that all devices get about as many, whatever their number:
what a lane holds does not depend on it. All lanes are then filled up to one length, so that a round
takes as many blocks for each, and what a lane holds at a time is a function of the block's number
alone.
"""

from collections.abc import Iterator
import heapq
from typing import NamedTuple

import jax
import numpy as np

from muzero_jax.data.dataset import Dataset, read_chunk
from muzero_jax.data.trajectories import cut, segment_size, take_rows
from muzero_jax.errors import DatasetError
from muzero_jax.types import Transition


class Lanes(NamedTuple):
    """Where the rows of a dataset go.

    Attributes:
      dataset: read once a round, one file at a time.
      num_lanes: E.
      block_rows: t, rows of one lane in a block.
      num_blocks: of a round.
      segments: of each file int64 `[segments, 4]`: begin, end, lane, and the place in the lane
        where it begins.
      actions: `[E]` int64, how many rows of each lane can be drawn in a round.
    """

    dataset: Dataset
    num_lanes: int
    block_rows: int
    num_blocks: int
    segments: tuple[np.ndarray, ...]
    actions: np.ndarray


def assign(
    dataset: Dataset, *, num_lanes: int, block_rows: int, future_steps: int, most: int
) -> Lanes:
    """Reads all of a dataset once, which also verifies it, and assigns its segments to lanes.

    A lane ends with at least `future_steps` rows of padding, `first` and `last`, which are never
    drawn: what is before them matures, also where nothing else follows.

    Args:
      dataset: opened.
      num_lanes: E.
      block_rows: t.
      future_steps: K + n.
      most: rows of a segment; longer episodes are cut, see `trajectories.take_rows`.

    Raises:
      DatasetError: where a file of it cannot be used, or there is nothing to learn from.
    """
    # Small against a lane, so that lanes are about equal, and not many for short episodes.
    wanted = min(most, -(-dataset.info.rows // (8 * num_lanes)))
    order = _spread(num_lanes)
    shortest = [(0, place) for place in range(num_lanes)]
    segments, actions = [], np.zeros(num_lanes, np.int64)
    for number in range(len(dataset.info.chunks)):
        rows = read_chunk(dataset, number)
        assigned = []
        for begin, end in cut(rows.first, rows.last, most=most, wanted=wanted):
            length, place = shortest[0]
            assigned.append((begin, end, order[place], length))
            heapq.heapreplace(shortest, (length + segment_size(rows.last, begin, end), place))
            # The newest row of a file only closes it.
            actions[order[place]] += np.count_nonzero(~rows.last[:-1][begin:end])
        segments.append(np.array(assigned, np.int64))
    if not actions.any():
        raise DatasetError(f"{dataset.path}: there is no action in it to learn from")
    longest = max(length for length, _ in shortest) + future_steps
    num_blocks = -(-longest // block_rows)
    return Lanes(dataset, num_lanes, block_rows, num_blocks, tuple(segments), actions)


def check_shards(lanes: Lanes, num_shards: int) -> None:
    """Refuses data of which a device would get nothing to learn from.

    Raises:
      DatasetError: where one of `num_shards` equal blocks of lanes has no row that can be drawn.
    """
    found = lanes.actions.reshape(num_shards, -1).any(axis=1)
    if not found.all():
        raise DatasetError(
            f"{lanes.dataset.path}: {num_shards - np.count_nonzero(found)} of {num_shards} devices"
            f" would get no row of its {sum(map(len, lanes.segments))} segments (episodes, or parts"
            " of long ones); train on fewer, by --devices"
        )


def _spread(num_lanes: int) -> list[int]:
    """The lanes in an order in which the first of them lie far apart: in as many equal blocks of
    lanes as there can be, exactly where the number of blocks is a power of two."""
    if num_lanes == 1:
        return [0]
    factor = next(x for x in range(2, num_lanes + 1) if num_lanes % x == 0)
    part = num_lanes // factor
    return [lane + block * part for lane in _spread(part) for block in range(factor)]


def read_blocks(
    lanes: Lanes, row: Transition, begin: int, *, own: range, searched: bool
) -> Iterator[Transition]:
    """Blocks `begin`, `begin` + 1, ... of rows `[len(own), t]` of NumPy, for ever.

    Held in memory are, beside one file, the segments of which a part is still to come.

    Args:
      lanes: from `assign`.
      row: one example row of the ring, unbatched.
      begin: number of the first block, counted from the first round on.
      own: the lanes that are wanted, as consecutive numbers.
      searched: whether policies and values are passed on; otherwise they are 0. Either way a row
        counts as made before the first update.

    Raises:
      DatasetError: where a file has been damaged since.
    """
    first = begin % lanes.num_blocks
    while True:
        yield from _read_round(lanes, row, first, own, searched)
        first = 0


def _read_round(lanes: Lanes, row: Transition, first: int, own: range, searched: bool):
    size = lanes.block_rows
    held: list[tuple[int, int, Transition]] = []  # (lane, where it begins, rows).
    numbers = iter(range(len(lanes.segments)))
    number = next(numbers, None)
    for start in range(first * size, lanes.num_blocks * size, size):
        # The shortest lane never shrinks: no later segment begins before this file's first one.
        while number is not None and lanes.segments[number][0, 3] < start + size:
            held += _pieces_from(lanes, number, start, own)
            number = next(numbers, None)
        block = _padding(row, len(own), size)
        for lane, offset, segment in held:
            _copy(block, lane - own.start, start, segment, offset, searched)
        held = [x for x in held if x[1] + len(x[2].first) > start + size]
        yield block


def _pieces_from(lanes: Lanes, number: int, start: int, own: range):
    """The segments of a file that go to `own` lanes and do not end before `start`."""
    rows = read_chunk(lanes.dataset, number)
    for begin, end, lane, offset in lanes.segments[number]:
        size = segment_size(rows.last, begin, end)
        if lane in own and offset + size > start:
            yield int(lane), int(offset), take_rows(rows, begin, end)


def _padding(row: Transition, num_lanes: int, size: int) -> Transition:
    """Rows `[num_lanes, size]` that are never drawn, and into which no window reaches."""
    block = jax.tree.map(lambda x: np.zeros((num_lanes, size, *x.shape), x.dtype), row)
    return block.replace(first=np.ones_like(block.first), last=np.ones_like(block.last))


def _copy(
    block: Transition, lane: int, start: int, segment: Transition, offset: int, searched: bool
) -> None:
    """Copies what of a segment, which begins at `offset` of the lane, lies in the block."""
    begin = max(start, offset)
    end = min(start + block.first.shape[1], offset + len(segment.first))
    if begin >= end:
        return
    names = {"observation", "reward", "discount", "first", "last", "action", "explored"}
    names |= {"invalid_actions"} if block.invalid_actions is not None else set()
    names |= {"policy", "value"} if searched else set()
    for name in names:
        filled, source = (jax.tree.leaves(getattr(rows, name)) for rows in (block, segment))
        for to, leaf in zip(filled, source, strict=True):
            to[lane, begin - start : end - start] = leaf[begin - offset : end - offset]
