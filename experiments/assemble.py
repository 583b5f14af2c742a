"""Turns a config into objects: with `parts.py` and `validate.py`, the only reader of it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fields import TASK_FIELDS
import launch
from muzero_jax import acting
from muzero_jax.envs import host, wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.loops.anakin import anakin, init_anakin_carry
from muzero_jax.loops.sebulba import sebulba
from muzero_jax.types import Counters, Env, HostEnv, RunState
from parts import Parts, call, make_parts
import results

# What `env.task` may name in the suite "jax".
JAX_ENVS: dict[str, Callable[..., Env]] = {"cartpole": make_cartpole}
# Of each other suite: what makes its environments.
HOST_ENVS: dict[str, Callable[..., HostEnv]] = {
    "atari": host.make_atari,
    "procgen": host.make_procgen,
    "classic": host.make_classic,
}


class Experiment(NamedTuple):
    """All that a driver needs.

    Attributes:
      parts: `Parts`.
      fresh: `() -> RunState` of a new run; pure, so that its shapes can be told without memory.
      iterate: `(RunState) -> ` the loop's generator; a `RunState` with `resumes` > 0 goes on.
      eval_env: `(seeds) -> HostEnv` with one environment for each seed.
    """

    parts: Parts
    fresh: Callable[[], RunState]
    iterate: Callable[[RunState], Iterator[tuple[RunState, dict[str, Any]]]]
    eval_env: Callable[[list[int]], HostEnv]


def build(config) -> Experiment:
    """The experiment of a config, whether its environments live on the host or on the device.

    Raises:
      BadInputError: where a part refuses its numbers.
    """
    try:
        for name in results.evaluation_games(config):
            if name not in config.env:
                raise ValueError(f"evaluation.{name}: there is no such field for this env")
        return _on_device(config) if config.env.suite == "jax" else _on_host(config)
    except ValueError as error:
        raise launch.BadInputError(str(error)) from None


def _loop_options(config, parts: Parts) -> dict[str, Any]:
    return dict(
        learn=parts.learn,
        explore_at=parts.explore_at,
        key=parts.run_key,
        min_rows=config.replay.min_rows,
        rows_per_update=config.replay.rows_per_update,
        steps_per_iteration=config.loop.steps_per_iteration,
    )


def _on_host(config) -> Experiment:
    """envpool environments in groups, the Sebulba loop."""
    group_size = config.env.num_envs // config.env.num_groups

    def make_env(seeds: list[int], **changes) -> HostEnv:
        options = config.env.to_dict() | changes
        for name in ("suite", "num_envs", "num_groups"):
            del options[name]
        name = options.pop(TASK_FIELDS[config.env.suite])
        return call(HOST_ENVS[config.env.suite], "env", options, name, seeds=seeds)

    def make_groups(resumes: int) -> list[HostEnv]:
        return [
            make_env(host.env_seeds(config.seed, host.TRAIN, resumes, group, group_size))
            for group in range(config.env.num_groups)
        ]

    parts = make_parts(config, make_env([0]).spec)

    def fresh() -> RunState:
        carry = acting.init_carry(parts.spec, group_size, config.network.history_steps)
        return RunState(
            train=parts.init_train(),
            replay=parts.replay.init(),
            env=None,
            timestep=None,
            acting=tuple(jax.tree.map(jnp.copy, carry) for _ in range(config.env.num_groups)),
            counters=Counters(),
        )

    def iterate(run: RunState):
        if run.counters.resumes:
            # Emulators cannot be saved: their episodes end here, as truncations.
            abandon = jax.jit(parts.replay.abandon, donate_argnums=0)
            run = run.replace(replay=abandon(run.replay))
        return sebulba(
            run,
            envs=make_groups(run.counters.resumes),
            act_and_add=acting.make_act_and_add(parts.search, parts.replay),
            probe_interval_iterations=config.loop.probe_interval_iterations,
            **_loop_options(config, parts),
        )

    return Experiment(
        parts=parts,
        fresh=fresh,
        iterate=iterate,
        eval_env=lambda seeds: make_env(seeds, **results.evaluation_games(config)),
    )


def _on_device(config) -> Experiment:
    """JAX environments, the Anakin loop."""
    if config.env.task not in JAX_ENVS:
        raise ValueError(f"env.task: unknown JAX task {config.env.task!r}; known: {[*JAX_ENVS]}")
    make_env = JAX_ENVS[config.env.task]
    env = make_env(max_steps=config.env.max_steps)
    parts = make_parts(config, env.spec)
    num_envs, steps = config.env.num_envs, config.loop.steps_per_iteration

    def fresh() -> RunState:
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(parts.env_key, num_envs))
        return RunState(
            train=parts.init_train(),
            replay=parts.replay.init(),
            env=env_state,
            timestep=timestep,
            acting=init_anakin_carry(parts.spec, num_envs, config.network.history_steps),
            counters=Counters(),
        )

    def eval_env(seeds: list[int]) -> HostEnv:
        seed = np.random.SeedSequence(seeds).generate_state(1)[0]
        limited = make_env(max_steps=config.evaluation.max_steps)
        return wrappers.as_host_env(limited, len(seeds), jax.random.key(seed))

    def iterate(run: RunState):
        return anakin(
            run,
            rollout=acting.make_rollout(env, parts.search, num_steps=steps),
            replay=parts.replay,
            **_loop_options(config, parts),
        )

    return Experiment(parts=parts, fresh=fresh, iterate=iterate, eval_env=eval_env)
