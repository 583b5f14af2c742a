"""Turns a config into objects of the library: with `validate.py`, the only reader of the config."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import launch
from muzero_jax import acting, codecs, learner, losses, replay, search, targets
from muzero_jax.envs import host, wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.loops.anakin import anakin, init_anakin_carry
from muzero_jax.loops.sebulba import sebulba
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.types import (
    Codecs,
    Counters,
    Env,
    EnvSpec,
    Explore,
    HostEnv,
    Network,
    Replay,
    RunState,
    SearchFn,
    TrainState,
)

# The keys are `validate.JAX_TASKS`.
JAX_ENVS: dict[str, Callable[..., Env]] = {"cartpole": make_cartpole}


class Parts(NamedTuple):
    """What host and device experiments share."""

    spec: EnvSpec
    network: Network
    search: SearchFn
    replay: Replay
    learn: Callable[..., Any]
    init_train: Callable[[], TrainState]
    explore_at: Callable[[int], Explore]
    env_key: chex.PRNGKey
    run_key: chex.PRNGKey


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
        return _on_device(config) if is_jax_env(config) else _on_host(config)
    except ValueError as error:
        raise launch.BadInputError(str(error)) from None


def is_jax_env(config) -> bool:
    """Whether the environments are JAX programs."""
    return config.env.get("task") in JAX_ENVS


def make_parts(config, spec: EnvSpec) -> Parts:
    """Network, search, replay and learner for environments like `spec`."""
    codec = Codecs(**{name: codecs.make_two_hot_codec(**c) for name, c in config.codec.items()})
    make_network = make_conv_network if len(spec.observation_shape) == 3 else make_mlp_network
    network = make_network(spec, codec, **config.network)
    search_fn = search.make_gumbel_search(
        network,
        codec,
        num_actions=spec.num_actions,
        turn_sign=spec.turn_sign,
        discount=config.targets.discount,
        **config.search,
    )
    init_key, env_key, run_key = jax.random.split(jax.random.key(config.seed), 3)
    optimizer = learner.make_optimizer(**config.optimizer)
    ring = _make_replay(config, spec, network, search_fn)
    explore = Explore(**{name: np.float32(x) for name, x in config.explore.items()})
    return Parts(
        spec=spec,
        network=network,
        search=search_fn,
        replay=ring,
        learn=_make_learn(config, network, codec, optimizer, ring),
        init_train=lambda: learner.init_train_state(network, optimizer, init_key),
        explore_at=lambda updates: explore,
        env_key=env_key,
        run_key=run_key,
    )


def _make_replay(config, spec: EnvSpec, network: Network, search_fn: SearchFn) -> Replay:
    target, history_steps = config.targets, config.network.history_steps
    params = jax.eval_shape(network.init, jax.random.key(0))
    future_steps = target.unroll_steps + target.bootstrap_steps
    from_network = target.value_source == "target_network"
    return replay.make_replay(
        acting.example_row(spec, search_fn, params, history_steps),
        targets.make_initial_priority(
            bootstrap_steps=target.bootstrap_steps,
            discount=target.discount,
            reward_transform=_reward_transform(config),
        ),
        num_envs=config.env.num_envs,
        rows_per_env=config.replay.rows_per_env,
        history_steps=history_steps,
        future_steps=future_steps,
        observed_steps=history_steps + (future_steps if from_network else 0),
        lookahead_steps=target.bootstrap_steps,
        priority_exponent=config.replay.priority_exponent,
        priority_floor=config.replay.priority_floor,
    )


def _make_learn(
    config,
    network: Network,
    codec: Codecs,
    optimizer: optax.GradientTransformation,
    ring: Replay,
):
    target = config.targets
    steps = dict(history_steps=config.network.history_steps, unroll_steps=target.unroll_steps)
    from_network = target.value_source == "target_network"
    target_fn = targets.make_targets(
        **steps,
        bootstrap_steps=target.bootstrap_steps,
        discount=target.discount,
        reward_transform=_reward_transform(config),
        bootstrap_value=(
            targets.make_network_bootstrap(network, codec.value) if from_network else None
        ),
    )
    update = learner.make_update(
        target_fn,
        losses.make_loss(network, codec, **steps, **config.loss),
        optimizer,
        target_interval_updates=target.target_interval_updates,
        importance_exponent=config.replay.importance_exponent,
    )
    return learner.make_learn(ring, update, batch_size=config.replay.batch_size)


def _reward_transform(config):
    return jnp.sign if config.targets.clip_rewards else None


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

    def make_env(seeds: list[int], max_steps: int | None) -> HostEnv:
        options = config.env.to_dict() | {"seeds": seeds, "max_steps": max_steps}
        del options["num_envs"], options["num_groups"]
        if "game" in options:
            return host.make_atari(options.pop("game"), **options)
        return host.make_classic(options.pop("task"), **options)

    def make_groups(resumes: int) -> list[HostEnv]:
        return [
            make_env(
                host.env_seeds(config.seed, host.TRAIN, resumes, group, group_size),
                config.env.max_steps,
            )
            for group in range(config.env.num_groups)
        ]

    parts = make_parts(config, make_env([0], config.env.max_steps).spec)

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
        eval_env=lambda seeds: make_env(seeds, config.evaluation.max_steps),
    )


def _on_device(config) -> Experiment:
    """JAX environments, the Anakin loop."""
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
