"""An experiment that learns from stored rows in place of its environments."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero_jax import learner
from muzero_jax.assembly import make_ring, split_seed
from muzero_jax.data import lanes
from muzero_jax.data.dataset import Dataset, check_spec
from muzero_jax.errors import ArgumentError, DatasetError
from muzero_jax.loops.unplugged import unplugged
from muzero_jax.training.experiment import Agent, Experiment
from muzero_jax.types import Counters, RunState


def unplug(experiment: Experiment, config, data: Dataset) -> Experiment:
    """The experiment of the same config whose `init` and `run` act nowhere.

    A dataset of no more rows than the config's ring has lies in the ring as a whole, which is then
    as long as that takes; a larger one streams through the ring of the config.

    Raises:
      DatasetError: where the data do not fit the environment, or are damaged.
      ArgumentError: where a block of rows does not fit into the ring, or the ages of rows are asked
        for.
    """
    if config.targets.shorten_every_updates is not None:
        raise ArgumentError(
            "targets.shorten_every_updates must be None for learning from stored data: when their"
            f" rows were made is not known (got {config.targets.shorten_every_updates})"
        )
    spec = experiment.agent.spec
    check_spec(data, spec)
    searched = _reads_search(config)
    if searched:
        _check_search(data, experiment.agent, config)
    updates, block_rows = iteration_size(config)
    plan = _plan(config, data, block_rows, experiment.mesh.size)
    # Stored values come from another network, so every row starts with the same priority.
    bootstrap_steps = config.targets.bootstrap_steps
    agent = experiment.agent._replace(
        initial_priority=lambda rows: jnp.ones(rows.reward.shape[0] - bootstrap_steps)
    )
    ring = make_ring(
        agent,
        num_envs=config.env.num_envs,
        rows_per_env=plan.rows_per_env,
        priority_exponent=config.replay.priority_exponent,
        priority_floor=config.replay.priority_floor,
    )
    learn = learner.make_learn(ring, agent.update, batch_size=experiment.batch_size)
    init_key, _, _ = split_seed(config.seed)

    def init() -> RunState:
        return RunState(
            train=agent.init_train(init_key),
            replay=ring.init(),
            env=None,
            timestep=None,
            acting=None,
            counters=Counters(),
        )

    own_size = config.env.num_envs // jax.process_count()
    blocks = functools.partial(
        lanes.read_blocks,
        plan.lanes,
        agent.row,
        own=range(jax.process_index() * own_size, (jax.process_index() + 1) * own_size),
        searched=searched,
    )
    run = functools.partial(
        unplugged,
        blocks=blocks,
        blocks_at_first=plan.blocks_at_first,
        num_blocks=plan.lanes.num_blocks,
        streams=plan.streams,
        replay=ring,
        learn=learn,
        key=experiment.key,
        rows_per_update=config.replay.rows_per_update,
        updates_per_iteration=updates,
        mesh=experiment.mesh,
    )
    return experiment._replace(
        agent=agent, replay=ring, learn=learn, init=init, run=run, data=data.identity
    )


class _Plan(NamedTuple):
    """How data come into the ring: see `unplugged` for the names, `lanes.assign` for `lanes`."""

    lanes: lanes.Lanes
    streams: bool
    rows_per_env: int
    blocks_at_first: int


def _plan(config, data: Dataset, block_rows: int, num_shards: int) -> _Plan:
    """As a whole where they are no more rows than the ring of the config has, else as a stream."""
    num_envs, ring, target = config.env.num_envs, config.replay, config.targets
    history_steps = config.network.history_steps
    future_steps = target.unroll_steps + target.bootstrap_steps
    assigned = lanes.assign(
        data,
        num_lanes=num_envs,
        block_rows=block_rows,
        future_steps=future_steps,
        most=max(ring.rows_per_env // 2, 2),
    )
    window = block_rows + history_steps + 1 + future_steps
    lanes.check_shards(assigned, num_shards)
    streams = data.info.rows > num_envs * ring.rows_per_env
    if streams:
        rows_per_env, at_first = ring.rows_per_env, ring.rows_per_env // block_rows
    else:
        # The slots after the newest row are the history that the oldest ones have lost.
        at_first = assigned.num_blocks
        rows_per_env = max(at_first * block_rows + history_steps, window)
    if rows_per_env < window:
        raise ArgumentError(
            f"replay.rows_per_env must be >= {window}, for the {block_rows} rows of one step of"
            f" stored data and a window (got {rows_per_env})"
        )
    return _Plan(assigned, streams, rows_per_env, at_first)


def iteration_size(config) -> tuple[int, int]:
    """(updates of an iteration, rows of each lane that it takes): about as long as one that acts,
    and in the ratio of the config."""
    num_envs, ratio = config.env.num_envs, config.replay.rows_per_update
    step = num_envs // math.gcd(num_envs, ratio)  # So many updates take whole rows of each lane.
    wanted = -(-num_envs * config.loop.steps_per_iteration // ratio)
    updates = -(-wanted // step) * step
    return updates, updates * ratio // num_envs


def _reads_search(config) -> bool:
    """Whether learning reads stored policies, or stored values."""
    again = config.reanalyse
    old_values = config.targets.value_source == "search" and not again.fresh_values
    return again.fraction < 1.0 or old_values


def _check_search(data: Dataset, agent: Agent, config) -> None:
    wanted = tuple((x.shape, x.dtype.name) for x in jax.tree.leaves(agent.row.policy))
    if data.info.policy != wanted:
        raise DatasetError(
            f"{data.path}: its policies are {data.info.policy}, those of search.kind"
            f" {config.search.kind!r} {wanted}; with reanalyse.fraction=1 none are needed"
        )
