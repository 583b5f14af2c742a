"""Turns a config into objects: with `parts.py` and `validate.py`, the only reader of it."""

from collections.abc import Callable, Iterator, Sequence
import difflib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from fields import MATCHES, ON_DEVICE, PGX, TASK_FIELDS
import launch
from muzero_jax import acting, errors
from muzero_jax.data.dataset import Dataset
from muzero_jax.envs import host, wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.envs.catch import make_catch
from muzero_jax.envs.memory import make_memory
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.errors import ArgumentError, DatasetError
from muzero_jax.loops.anakin import anakin, init_anakin_carry
from muzero_jax.loops.sebulba import sebulba
from muzero_jax.mesh import SPLIT, make_mesh, shard
from muzero_jax.types import Counters, Env, HostEnv, RunState
from parts import Parts, call, make_parts
import results
import stored

# What `env.task` may name in the suite "jax".
JAX_ENVS: dict[str, Callable[..., Env]] = {
    "cartpole": make_cartpole,
    "catch": make_catch,
    "memory": make_memory,
}
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
      mesh: what the run is split over.
      fresh: `() -> RunState` of a new run; pure, so that its shapes can be told without memory.
      iterate: `(RunState) -> ` the loop's generator; a `RunState` with `resumes` > 0 goes on.
      match_env: the JAX environment that matches are played in, or None for host environments.
      eval_env: `(seeds) -> HostEnv` with one environment for each seed.
      data: what it learns from in place of acting, or None.
    """

    parts: Parts
    mesh: Mesh
    fresh: Callable[[], RunState]
    iterate: Callable[[RunState], Iterator[tuple[RunState, dict[str, Any]]]]
    match_env: Env | None
    eval_env: Callable[[list[int]], HostEnv]
    data: Dataset | None = None


def build(
    config, devices: Sequence[jax.Device] | None = None, data: Dataset | None = None
) -> Experiment:
    """The experiment of a config, whether its environments live on the host or on the device.

    `devices` are those to train on; None is the first one alone. With `data` it learns from these
    rows, and its environments serve evaluation only.

    Raises:
      BadInputError: where a part refuses its numbers, or the data do not fit the environment. What
        else a part raises is no refusal, and keeps its traceback.
    """
    launch.backend()  # Refuses, in one line, where there is none.
    mesh = make_mesh(devices)
    try:
        _check_divides(config, mesh.size)
        for name in results.evaluation_games(config):
            if name not in config.env:
                raise ArgumentError(f"evaluation.{name}: there is no such field for this env")
        make = _on_device if config.env.suite in ON_DEVICE else _on_host
        experiment = make(config, mesh)
        return experiment if data is None else stored.unplug(experiment, config, data)
    except DatasetError as error:
        raise errors.BadInputError(f"--data: {error}") from None
    except ArgumentError as error:
        raise errors.BadInputError(str(error)) from None


def _check_divides(config, num_devices: int) -> None:
    """Refuses what cannot be split evenly, and a ring whose rows a device cannot number."""
    for name, count in (
        ("env.num_envs / env.num_groups", config.env.num_envs // config.env.num_groups),
        ("replay.batch_size", config.replay.batch_size),
    ):
        if count % num_devices:
            raise ArgumentError(
                f"{name} must be a multiple of the {num_devices} devices (got {count});"
                " or train on fewer, by --devices"
            )
    rows = config.env.num_envs * config.replay.rows_per_env // num_devices
    if rows >= 2**31:
        raise ArgumentError(
            f"replay.rows_per_env x env.num_envs must be < 2^31 on each device (got {rows});"
            " lower replay.rows_per_env"
        )


def _loop_options(config, parts: Parts, mesh: Mesh) -> dict[str, Any]:
    return dict(
        mesh=mesh,
        learn=parts.learn,
        explore_at=parts.explore_at,
        key=parts.run_key,
        min_rows=config.replay.min_rows,
        rows_per_update=config.replay.rows_per_update,
        steps_per_iteration=config.loop.steps_per_iteration,
    )


def _on_host(config, mesh: Mesh) -> Experiment:
    """envpool environments in groups, the Sebulba loop."""
    group_size = config.env.num_envs // config.env.num_groups
    process, own_size = jax.process_index(), group_size // jax.process_count()

    def make_env(seeds: list[int], **changes) -> HostEnv:
        options = config.env.to_dict() | changes
        for name in ("suite", "num_envs", "num_groups"):
            del options[name]
        name = options.pop(TASK_FIELDS[config.env.suite])
        return call(HOST_ENVS[config.env.suite], "env", options, name, seeds=seeds)

    def make_groups(resumes: int) -> list[HostEnv]:
        # All processes draw the seeds of all; each takes its own.
        return [
            make_env(
                host.env_seeds(config.seed, host.TRAIN, resumes, group, group_size)[
                    process * own_size : (process + 1) * own_size
                ]
            )
            for group in range(config.env.num_groups)
        ]

    parts = make_parts(config, make_env([0]).spec, num_shards=mesh.size)

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
            abandon = shard(parts.replay.abandon, mesh, SPLIT, SPLIT)
            abandon = jax.jit(abandon, donate_argnums=0)
            run = run.replace(replay=abandon(run.replay))
        return sebulba(
            run,
            envs=make_groups(run.counters.resumes),
            act_and_add=acting.make_act_and_add(parts.search, parts.replay),
            probe_interval_iterations=config.loop.probe_interval_iterations,
            **_loop_options(config, parts, mesh),
        )

    return Experiment(
        parts=parts,
        mesh=mesh,
        fresh=fresh,
        iterate=iterate,
        match_env=None,
        eval_env=lambda seeds: make_env(seeds, **results.evaluation_games(config)),
    )


def _on_device(config, mesh: Mesh) -> Experiment:
    """JAX environments, the Anakin loop."""

    def make_env(**changes) -> Env:
        options = config.env.to_dict() | changes
        for name in ("suite", "num_envs", "num_groups", "num_threads"):
            options.pop(name, None)
        field = TASK_FIELDS[config.env.suite]
        return call(_device_maker(config.env.suite, options.pop(field)), "env", options)

    env, games = make_env(), make_env(**results.evaluation_games(config))
    if (env.spec.turn_sign == -1) != (config.env.suite in MATCHES):
        raise ArgumentError(f"env.suite {config.env.suite!r} is not for this number of players")
    timestep = jax.eval_shape(env.reset, jax.random.key(0))[1]
    masked = timestep.invalid_actions is not None
    parts = make_parts(config, env.spec, masked=masked, num_shards=mesh.size)
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

    serve = wrappers.make_host_env(games)  # Here: every evaluation plays by the same programs.

    def eval_env(seeds: list[int]) -> HostEnv:
        seed = np.random.SeedSequence(seeds).generate_state(1)[0]
        return serve(len(seeds), jax.random.key(seed))

    def iterate(run: RunState):
        return anakin(
            run,
            rollout=acting.make_rollout(env, parts.search, num_steps=steps),
            replay=parts.replay,
            **_loop_options(config, parts, mesh),
        )

    return Experiment(
        parts=parts, mesh=mesh, fresh=fresh, iterate=iterate, match_env=games, eval_env=eval_env
    )


def _device_maker(suite: str, name: str) -> Callable[..., Env]:
    """What makes the environments of a task or game, by the other fields of `env`."""
    if suite == "jax":
        if name not in JAX_ENVS:
            raise ArgumentError(f"env.task: unknown task {name!r}; there are {[*JAX_ENVS]}")
        return JAX_ENVS[name]
    import pgx  # Here, because it is an optional dependency.

    prefix, others = PGX[suite], [x for x in PGX.values() if x and x != PGX[suite]]
    games = [
        x.removeprefix(prefix)
        for x in pgx.available_envs()
        if x.startswith(prefix) and not x.startswith(tuple(others))
    ]
    if name not in games:
        near = difflib.get_close_matches(name, games, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(games)}"
        raise ArgumentError(f"env.game: unknown game {name!r}; {hint}")
    return functools.partial(make_pgx, prefix + name)
