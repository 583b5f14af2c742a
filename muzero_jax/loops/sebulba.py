"""Environments on the host, search and learning on the device, overlapped at an exact ratio.

One group step is: fetch the actions of the next group and let its environments step; take what the
environments of group g brought; dispatch the search of g and the updates that its rows have made
due. So one group's environments step while the device works for the others. They step in a thread
of their own: a dispatch that blocks (on a CPU, one with Python callbacks does) then holds up no
environment. The parameters that each search sees are a function of the counters alone (Podracer,
Hessel et al. 2021, with the race taken out).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import functools
import time
from typing import Any

import chex
import jax
from jax.sharding import Mesh
import numpy as np

from muzero_jax import finite
from muzero_jax.errors import ArgumentError
from muzero_jax.learner import LEARN, check_ratio, fold_count, split_count, updates_due
from muzero_jax.mesh import (
    REPLICATED,
    SHARDED,
    fetch,
    local_shards,
    make_mesh,
    put_rows,
    shard,
    shard_key,
    shard_learn,
    shard_run,
    sum_over_processes,
)
from muzero_jax.types import Counters, Explore, HostEnv, RunState, TimeStep

ACT = 0  # The purpose of a key, beside `learner.LEARN`.


def sebulba(
    run: RunState,
    *,
    envs: Sequence[HostEnv],
    act_and_add: Callable[..., Any],
    learn: Callable[..., Any],
    explore_at: Callable[[int], Explore],
    key: chex.PRNGKey,
    min_rows: int,
    rows_per_update: int,
    steps_per_iteration: int,
    probe_interval_iterations: int = 0,
    mesh: Mesh | None = None,
) -> Iterator[tuple[RunState, dict[str, Any]]]:
    """Yields `(run, metrics)` after every iteration, for ever.

    Args:
      run: where to start; `run.acting` is a tuple with an `ActingCarry` for each group. Its
        buffers are donated, and so are those of a yielded run once the next is asked for.
      envs: groups of equal size e, not yet reset, of this process; each device takes an equal
        share of every group, and stores it in the same part of its share of the replay.
      act_and_add: from `make_act_and_add`.
      learn: from `make_learn`; over several devices, see `anakin`.
      explore_at: `(attempted updates) -> Explore`.
      key: of the run.
      min_rows: rows stored before the first update.
      rows_per_update: r; updates attempted = floor((rows - min_rows) / r), exactly.
      steps_per_iteration: group steps of each group in an iteration.
      probe_interval_iterations: every so many iterations run one in which each call is waited
        for, which gives the shares of time; 0 is never.
      mesh: from `make_mesh`; None is the first device.

    `train/non_finite_rows` and those beside it are as in `anakin`; a group's newest rows are
    counted with the iteration in which their actions are played.

    Raises:
      ArgumentError: where the ratio does not divide, or groups differ in size.
    """
    group_size = envs[0].num_envs
    if any(env.num_envs != group_size for env in envs):
        raise ArgumentError("env: all groups must have the same number of environments")
    # A group is as large in every process.
    rows_per_step = group_size * jax.process_count()
    check_ratio(rows_per_step, min_rows=min_rows, rows_per_update=rows_per_update)
    mesh = make_mesh() if mesh is None else mesh
    run = shard_run(run, mesh)
    act_step = bind_act(act_and_add, explore_at, key, mesh)
    learn_step = bind_learn(learn, key, mesh)
    train, replay, carries = run.train, run.replay, list(run.acting)
    faults: list[Any] = [None] * len(envs)  # Of each group's newest rows.
    bad = BadRows()
    counters = run.counters
    stats = EpisodeReturns(len(envs), group_size)
    metrics: dict[str, Any] = {}
    resets = [env.reset() for env in envs]
    due = functools.partial(updates_due, min_rows=min_rows, rows_per_update=rows_per_update)
    for g, timestep in enumerate(resets):
        counters, replay, carries[g], faults[g] = act_step(
            train, replay, carries[g], timestep, g, counters
        )
        while counters.updates < due(counters.rows):
            counters, train, replay, metrics = learn_step(train, replay, counters)
    stepping: dict[int, futures.Future[TimeStep]] = {}  # Groups whose environments are at work.
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        while True:
            # A probe: one iteration in which every call is waited for gives the shares of time.
            probe = probe_interval_iterations and (
                counters.iteration % probe_interval_iterations == probe_interval_iterations - 1
            )
            watch = Stopwatch(wait=fetch if probe else None)
            for g in [*range(len(envs))] * steps_per_iteration:
                for ahead in (g,) if probe else (g, (g + 1) % len(envs)):
                    if ahead not in stepping:
                        news = local_shards(carries[ahead].action), local_shards(faults[ahead])
                        actions, found = watch.time("fetch", fetch, news)
                        stepping[ahead] = pool.submit(envs[ahead].step, np.concatenate(actions))
                        bad.add(found)
                timestep = watch.time("env", stepping.pop(g).result)
                stats.add(g, timestep)
                counters, replay, carries[g], faults[g] = watch.time(
                    "search", act_step, train, replay, carries[g], timestep, g, counters
                )
                while counters.updates < due(counters.rows):
                    counters, train, replay, metrics = watch.time(
                        "update", learn_step, train, replay, counters
                    )
            before = run.counters.env_steps
            own = bad.take()
            sums = sum_over_processes([counters.env_steps - before, *stats.take(), *own.values()])
            counters = counters._replace(
                iteration=counters.iteration + 1, env_steps=before + round(sums[0])
            )
            run = run.replace(
                train=train, replay=replay, acting=tuple(carries), counters=counters
            )
            returns = {"return_sum": sums[1], "episodes": sums[2]}
            rows = {f"non_finite_{name}": x for name, x in zip(own, sums[3:], strict=True)}
            news_of_train = metrics | returns | rows
            metrics_of_train = {f"train/{name}": x for name, x in news_of_train.items()}
            yield run, {**metrics_of_train, **watch.seconds()}


def shard_act(act_and_add, key, mesh: Mesh):
    """One group's search on all devices, each with its share of the group and of the replay.

    Returns:
      `(params, replay, carry, timestep, group, count, explore, made_at_updates) ->
      (replay, carry, faults)`, to be compiled; `count` is from `split_count`.
    """

    def dispatched(params, replay, carry, timestep, group, count, explore, made_at_updates):
        act_key = shard_key(fold_count(key, ACT, count))
        start = group * timestep.reward.shape[0]
        return act_and_add(
            params, replay, carry, timestep, start, act_key, explore, made_at_updates
        )

    specs = (REPLICATED, SHARDED, SHARDED, SHARDED, *4 * [REPLICATED])
    return shard(dispatched, mesh, specs, 3 * (SHARDED,))


def bind_act(act_and_add, explore_at, key, mesh: Mesh):
    """A host function that dispatches one group's search and counts the rows that all processes
    store, and the env steps of this one; it returns the faults of the rows last."""
    jitted = jax.jit(shard_act(act_and_add, key, mesh), donate_argnums=(1, 2))
    was_last: dict[int, np.ndarray] = {}  # Of each group's newest rows.

    def act_step(train, replay, carry, timestep: TimeStep, group: int, counters: Counters):
        size = timestep.reward.shape[0]
        # The row after a `last` one is a reset and no step; so is the very first.
        resets = timestep.first & was_last.get(group, True)
        was_last[group] = timestep.last
        replay, carry, faults = jitted(
            train.params,
            replay,
            carry,
            put_rows(mesh, timestep),
            np.int32(group),
            split_count(counters.rows),
            explore_at(counters.updates),
            np.int32(counters.updates & 0x7FFFFFFF),
        )
        counters = counters._replace(
            rows=counters.rows + size * jax.process_count(),
            env_steps=counters.env_steps + size - int(np.count_nonzero(resets)),
        )
        return counters, replay, carry, faults

    return act_step


def bind_learn(learn, key, mesh: Mesh):
    """A host function that dispatches one update and counts it as attempted."""

    def dispatched(train, replay, count):
        return learn(train, replay, shard_key(fold_count(key, LEARN, count)))

    jitted = jax.jit(shard_learn(dispatched, mesh), donate_argnums=(0, 1))

    def learn_step(train, replay, counters: Counters):
        train, replay, metrics = jitted(train, replay, split_count(counters.updates))
        return counters._replace(updates=counters.updates + 1), train, replay, metrics

    return learn_step


class Stopwatch:
    """Seconds per named kind of call in one iteration; with `wait`, each call is waited for."""

    def __init__(self, wait: Callable[[Any], Any] | None):
        self._wait = wait
        self._seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def time(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        """`call(*args)`, with its time booked under `name`."""
        begin = time.perf_counter()
        output = call(*args)
        if self._wait is not None:
            # One leaf is enough, a program's outputs are ready together; host counters come first.
            leaf = jax.tree.leaves(output)[-1]
            if isinstance(leaf, jax.Array):  # Parts may be in other processes.
                leaf = [x.data for x in leaf.addressable_shards]
            self._wait(leaf)
        elapsed = time.perf_counter() - begin
        self._seconds[name] = self._seconds.get(name, 0.0) + elapsed
        return output

    def seconds(self) -> dict[str, float]:
        """Shares of the time since the start, as `speed/share_<name>`.

        Without `wait`, these are only what the host waited for: environments, and the device in
        `fetch`. Iterations that wait for each call measure the device's work.
        """
        total = time.perf_counter() - self._begin
        measured = self._seconds if self._wait is not None else {
            name: self._seconds.get(name, 0.0) for name in ("env", "fetch")
        }
        prefix = "speed/share_" if self._wait is not None else "speed/host_share_"
        return {f"{prefix}{name}": x / total for name, x in measured.items()}


class BadRows:
    """How many rows held what is not finite, from the faults `[e]` that come with actions."""

    def __init__(self):
        self._counts = finite.count(np.zeros(0, np.uint8))

    def add(self, shards: Sequence[np.ndarray]) -> None:
        """Books the faults of one group's rows, as `local_shards` splits them."""
        for found in shards:
            if found.any():
                for name, number in finite.count(found).items():
                    self._counts[name] += number

    def take(self) -> dict[str, int]:
        """The counts of `finite.count` since the last call; then forgets them."""
        counts, self._counts = self._counts, finite.count(np.zeros(0, np.uint8))
        return counts


class EpisodeReturns:
    """Raw returns of finished training episodes, from host time steps `[e]` of each group.

    The reward of a `first` row still belongs to the episode before (same-step resets), or is 0
    (next-step resets). An episode with a reward that is not finite is left out.
    """

    def __init__(self, num_groups: int, group_size: int):
        self._running = np.zeros((num_groups, group_size), np.float64)
        self._finished: list[float] = []

    def add(self, group: int, timestep: TimeStep) -> None:
        """Books one time step of one group."""
        running = self._running[group]
        running += np.where(np.abs(timestep.reward) <= finite.LIMIT, timestep.reward, np.nan)
        self._finished.extend(running[timestep.first & ~np.isnan(running)])
        running[timestep.first] = 0.0

    def take(self) -> tuple[float, int]:
        """Sum and number of the returns finished since the last call; then forgets them."""
        finished, self._finished = self._finished, []
        return sum(finished), len(finished)
