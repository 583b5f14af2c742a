"""Trajectories: rows `[rows]` of NumPy, from a `first` one to one that is `last`.

How trajectories are cut and joined without losing what happened at the seams, how they are checked,
and how plain episodes become rows. The convention of rows is in docs/conventions.md; the device is
never touched.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from muzero_jax.actions import is_one
from muzero_jax.errors import DatasetError
from muzero_jax.finite import LIMIT
from muzero_jax.types import ActionSpec, Array, EnvSpec, Observation, Transition


def cut(first, last, *, most: int, wanted: int | None = None) -> list[tuple[int, int]]:
    """Where to cut a trajectory into segments, as (begin, end) for `take_rows`.

    Pieces begin at `first` rows wherever they can. Each is as many episodes as fit into `wanted`
    rows (None: `most`), or a longer one; only episodes of more than `most` rows are cut themselves.

    Args:
      first, last: of all rows of the trajectory, `[rows]` bool.
      most: rows of a segment with its closing row, >= 2.
      wanted: at most `most`.
    """
    wanted = most if wanted is None else wanted
    begins = [*np.flatnonzero(first), len(first)]
    segments, begin, following = [], 0, 1  # `following`: the first of `begins` after `begin`.
    while begin < len(first):
        end = None
        while following < len(begins):
            size = segment_size(last, begin, begins[following])
            if size > (wanted if end is not None else most):
                break
            end, following = int(begins[following]), following + 1
        end = begin + most - 1 if end is None else end
        segments.append((begin, end))
        begin = end
    return segments


def segment_size(last, begin: int, end: int) -> int:
    """How many rows `take_rows` returns."""
    return int(end - begin + (end < len(last) and not last[end - 1]))


def take_rows(rows: Transition, begin: int, end: int) -> Transition:
    """Copies rows `begin` to `end` - 1 of a trajectory `[rows]` of NumPy as one of its own.

    Where the newest of them is not `last`, what its action led to stands in row `end`: that row is
    repeated as a closing one, marked `last` with its reward and discount. So no reward is lost,
    neither of an environment that resets in the same step nor of an episode that is cut. What
    ends with the trajectory itself is closed without it: abandoned is truncated.
    """
    closed = end == len(rows.last) or rows.last[end - 1]
    segment = jax.tree.map(lambda x: np.array(x[begin : end + (not closed)]), rows)
    # What came with the first row belongs to the episode before.
    segment.reward[0] = segment.discount[0] = 0.0
    segment.first[0] = True
    if not closed:
        segment.first[-1] = False
    segment.last[-1] = True
    segment.explored[-1] = False
    return segment


def gather(segments: Iterable[Transition], most: int) -> Iterator[Transition]:
    """Consecutive segments as one, as long as they have no more than `most` rows together."""
    held: list[Transition] = []
    num_rows = 0
    for segment in segments:
        if held and num_rows + len(segment.first) > most:
            yield jax.tree.map(lambda *x: np.concatenate(x), *held)
            held, num_rows = [], 0
        held.append(segment)
        num_rows += len(segment.first)
    if held:
        yield jax.tree.map(lambda *x: np.concatenate(x), *held)


def episode_returns(rows: Transition) -> np.ndarray:
    """Sums of raw rewards, float64 `[episodes]`, of a trajectory's episodes that have ended."""
    begins = np.flatnonzero(rows.first)
    # The reward of a `first` row belongs to the episode before, or is 0.
    ends = np.append(begins[1:], len(rows.first) - 1 if rows.last[-1] else [])
    total = np.cumsum(rows.reward, dtype=np.float64)
    return total[ends.astype(int)] - total[begins[: len(ends)]]


def check_rows(
    where: str, rows: Transition, *, action: ActionSpec, turn_sign: int
) -> None:
    """Raises `DatasetError` where rows `[rows]` break the convention that targets rely on."""
    after_last = np.append(False, rows.last[:-1])
    legal = is_one(action, rows.action)
    if rows.invalid_actions is not None and legal.all():
        legal &= ~rows.invalid_actions[np.arange(len(legal)), rows.action]
    numbers = [x for x in jax.tree.leaves(rows) if x.dtype.kind == "f"]
    faults = {
        "the first row is not `first`": not rows.first[0],
        "a row after a `last` one is not `first`": (after_last & ~rows.first).any(),
        "a discount is neither 0 nor the turn sign": (
            (rows.discount != 0) & (rows.discount != turn_sign)
        ).any(),
        "the discount of a `first` row is not 0": (rows.first & (rows.discount != 0)).any(),
        "an action is not allowed, or none of the environment": (~legal & ~rows.last).any(),
        f"a number is not finite, or beyond {LIMIT:g}": not all(
            (np.abs(x.astype(np.float32)) <= LIMIT).all() for x in numbers
        ),
    }
    for fault, found in faults.items():
        if found:
            raise DatasetError(f"{where}: {fault}")


def rows_of_episode(
    spec: EnvSpec,
    observations: Observation,
    actions: Array,
    rewards: Array,
    *,
    terminated: bool,
    invalid_actions: Array | None = None,
) -> Transition:
    """An episode of plain NumPy arrays as T+1 rows, without policies and values.

    Args:
      spec: of the environment; numbers are cast to its dtypes where that is no change of kind.
      observations: arrays `[T+1, *shape]`, the final one included.
      actions: `[T, *action.shape]`; action i was done at observation i.
      rewards: `[T]` raw; reward i came of action i, from the view of the player who did it.
      terminated: whether the last action ended the game; otherwise the episode was cut off.
      invalid_actions: `[T+1, A]` bool, where the environment has them.

    Raises:
      DatasetError: for arrays that do not fit together, or the spec.
    """
    actions, rewards = np.asarray(actions), np.asarray(rewards)
    steps = len(actions)
    given = observations if isinstance(observations, Mapping) else {"": observations}
    wanted = spec.named_arrays()
    if given.keys() != wanted.keys():
        raise DatasetError(
            f"observations of an episode are {sorted(given)}, not {sorted(wanted)}"
        )
    seen = {name: np.asarray(given[name]) for name in wanted}
    forms = {"actions": (actions, (steps, *spec.action.shape)), "rewards": (rewards, (steps,))}
    for name, like in wanted.items():
        forms[f"observations {name}".strip()] = seen[name], (steps + 1, *like.shape)
    for name, (array, shape) in forms.items():
        if array.shape != shape:
            raise DatasetError(f"{name} of an episode have the shape {array.shape}, not {shape}")
    kinds, words = ("f", "real numbers") if spec.action.sizes is None else ("iu", "whole numbers")
    if actions.dtype.kind not in kinds:
        raise DatasetError(f"actions of an episode are {actions.dtype}, not {words}")
    for name, like in wanted.items():
        if not np.can_cast(seen[name].dtype, like.dtype, "same_kind"):
            which = f"observations {name}".strip()
            raise DatasetError(f"{which} of an episode are {seen[name].dtype}, not {like.dtype}")
        seen[name] = seen[name].astype(like.dtype)
    index = np.arange(steps + 1)
    discount = np.where(index == 0, 0, spec.turn_sign)
    discount[-1] *= not terminated
    nothing = np.zeros((1, *spec.action.shape), spec.action.dtype)
    return Transition(
        observation=seen.get("", seen),
        reward=np.append(0, rewards).astype(np.float32),
        discount=discount.astype(np.float32),
        first=index == 0,
        last=index == steps,
        invalid_actions=None if invalid_actions is None else np.asarray(invalid_actions, bool),
        action=np.concatenate([actions.astype(spec.action.dtype), nothing]),
        policy=None,
        value=None,
        explored=np.zeros(steps + 1, bool),
        made_at_updates=None,
    )


def rows_of_minari(dataset: Any, spec: EnvSpec) -> Iterator[Transition]:
    """The episodes of a Minari dataset (Farama Foundation) as trajectories, one by one.

    Args:
      dataset: has `iterate_episodes()`, whose episodes have `observations` (arrays `[T+1, ...]`),
        `actions`, `rewards` and `terminations` `[T]`, as those of `minari.load_dataset` do.
      spec: of the environment; Minari knows neither discounts nor `turn_sign`.

    Raises:
      DatasetError: naming the episode that cannot be converted.
    """
    for number, episode in enumerate(dataset.iterate_episodes()):
        try:
            yield rows_of_episode(
                spec,
                episode.observations,
                episode.actions,
                episode.rewards,
                terminated=bool(np.any(episode.terminations[-1:])),
            )
        except DatasetError as error:
            raise DatasetError(f"Minari episode {number}: {error}") from None
