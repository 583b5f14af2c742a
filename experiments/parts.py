"""The parts that host and device experiments share: network, search, replay, learner."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import (
    acting,
    codecs,
    history,
    learner,
    losses,
    mesh,
    reanalyse,
    replay,
    targets,
    value_error,
)
from muzero_jax.errors import ArgumentError
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.convolve import convolve_for_cpu
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel
from muzero_jax.search.muzero import make_muzero_search
from muzero_jax.types import (
    Array,
    Codecs,
    EnvSpec,
    Explore,
    LossFn,
    Network,
    Replay,
    Sample,
    SearchFn,
    TargetFn,
    TrainState,
    Transition,
)

# What a config may name; the keys are those of `fields.CHOICES`.
NETWORKS = {"mlp": make_mlp_network, "conv": make_conv_network, "gru": make_gru_network}
SEARCHES = {"gumbel": gumbel.make_gumbel_search, "muzero": make_muzero_search}


class Parts(NamedTuple):
    """What host and device experiments share; `learn` is for one shard, see `muzero_jax.mesh`."""

    spec: EnvSpec
    masked: bool  # Whether time steps come with `invalid_actions`.
    row: Transition  # Shapes of one row as the replay stores it.
    network: Network
    codecs: Codecs
    reward_transform: Callable[[Array], Array] | None  # Of rewards before they are learned.
    stored_returns: Callable[[Transition], Array]  # From `targets.make_stored_returns`.
    search: SearchFn
    replay: Replay
    loss: LossFn
    learn: Callable[..., Any]
    search_again: Callable[..., Any] | None  # What reanalysing adds to `learn`, see below.
    simulations_per_update: int  # Of these searches, on all shards.
    init_train: Callable[[], TrainState]
    explore_at: Callable[[int], Explore]
    env_key: chex.PRNGKey
    run_key: chex.PRNGKey


def make_parts(
    config,
    spec: EnvSpec,
    *,
    masked: bool = False,
    num_shards: int = 1,
    initial_priority: Callable[[Transition], Array] | None = None,
) -> Parts:
    """Network, search, replay and learner for environments like `spec`, over so many shards.

    `masked` says whether their time steps come with `invalid_actions`; None for `initial_priority`
    takes that of the targets.
    """
    codec = Codecs(
        **{
            name: call(codecs.make_two_hot_codec, f"codec.{name}", config.codec[name].to_dict())
            for name in ("value", "reward")
        }
    )
    make_network, options = _chosen(NETWORKS, config, "network")
    more = {}
    if config.network.kind == "conv" and jax.default_backend() == "cpu":
        more = {"convolve": convolve_for_cpu}
    network = call(make_network, "network", options, spec, codec, **more)
    track = None
    if config.search.get("value_error_scale", 0.0) > 0:
        network, track = value_error.with_value_error(network), value_error.track
    make_search = functools.partial(_make_search, config, spec, network, codec)
    search_fn = make_search(config.search.num_simulations)
    init_key, env_key, run_key = jax.random.split(jax.random.key(config.seed), 3)
    optimizer = call(learner.make_optimizer, "optimizer", config.optimizer.to_dict())
    params = jax.eval_shape(network.init, init_key)
    row = acting.example_row(spec, search_fn, params, config.network.history_steps, masked=masked)
    ring = _make_replay(config, row, codec, initial_priority)
    loss = _make_loss(config, spec, network, codec)
    again = make_search(config.reanalyse.num_simulations)
    update = learner.make_update(
        _make_targets(config, network, codec, again),
        loss,
        optimizer,
        target_interval_updates=config.targets.target_interval_updates,
        importance_exponent=config.replay.importance_exponent,
        track=track,
        axis_name=mesh.AXIS,
    )
    batch_size = config.replay.batch_size // num_shards
    search_again = _make_search_again(config, again, ring, batch_size)
    simulations_per_update = 0
    if search_again is not None:
        state = jax.eval_shape(ring.init)
        searched = jax.eval_shape(search_again, params, state, run_key)
        simulations_per_update = searched.size * num_shards * config.reanalyse.num_simulations
    return Parts(
        spec=spec,
        masked=masked,
        row=row,
        network=network,
        codecs=codec,
        reward_transform=_reward_transform(config),
        stored_returns=targets.make_stored_returns(
            bootstrap_steps=config.targets.bootstrap_steps,
            discount=config.targets.discount,
            reward_transform=_reward_transform(config),
        ),
        search=search_fn,
        replay=ring,
        loss=loss,
        learn=learner.make_learn(ring, update, batch_size=batch_size),
        search_again=search_again,
        simulations_per_update=simulations_per_update,
        init_train=lambda: learner.init_train_state(network, optimizer, init_key),
        explore_at=call(make_explore_at, "explore", config.explore.to_dict()),
        env_key=env_key,
        run_key=run_key,
    )


def _make_search(
    config, spec: EnvSpec, network: Network, codec: Codecs, num_simulations: int
) -> SearchFn:
    make, options = _chosen(SEARCHES, config, "search")
    return call(
        make,
        "search",
        options | {"num_simulations": num_simulations},
        network,
        codec,
        num_actions=spec.num_actions,
        turn_sign=spec.turn_sign,
        discount=config.targets.discount,
    )


def _chosen(makers, config, group: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The maker that a group of the config names by its `kind`, and the rest of the group."""
    options = config[group].to_dict()
    return makers[options.pop("kind")], options


def call(make: Callable[..., Any], group: str, options: dict[str, Any], *args, **more) -> Any:
    """`make(*args, **options, **more)`, `options` being the fields of a group of the config.

    Raises:
      ArgumentError: naming a field that `make` does not take, or one that is missing.
    """
    parameters = inspect.signature(make).parameters
    for name in options:
        if name not in parameters:
            raise ArgumentError(f"{group}.{name}: there is no such field for this {group}")
    for name in list(parameters)[len(args) :]:
        if parameters[name].default is inspect.Parameter.empty and name not in options | more:
            raise ArgumentError(f"{group}.{name} is missing")
    return make(*args, **options, **more)


def make_explore_at(
    *,
    temperature: float,
    halve_temperature_at_updates: tuple[int, ...],
    noise_scale: float,
    random_move: float,
    noise_spread: float = 0.0,
) -> Callable[[int], Explore]:
    """`(attempted updates) -> Explore`: the temperature halves at each of the given counts."""

    def explore_at(updates: int) -> Explore:
        halvings = sum(updates >= count for count in halve_temperature_at_updates)
        return Explore(
            temperature=np.float32(temperature / 2**halvings),
            noise_scale=np.float32(noise_scale),
            random_move=np.float32(random_move),
            noise_spread=np.float32(noise_spread),
        )

    return explore_at


def _make_replay(config, row: Transition, codec: Codecs, initial_priority) -> Replay:
    target, history_steps = config.targets, config.network.history_steps
    future_steps = target.unroll_steps + target.bootstrap_steps
    # As many frames as targets read: those of the rows searched again, or valued by the network.
    again = config.reanalyse.fraction > 0
    fresh_values = again and config.reanalyse.fresh_values
    observed_steps = history_steps
    if fresh_values or target.value_source == "target_network":
        observed_steps += future_steps
    elif again:
        observed_steps += target.unroll_steps
    return replay.make_replay(
        row,
        initial_priority
        or targets.make_initial_priority(
            bootstrap_steps=target.bootstrap_steps,
            discount=target.discount,
            reward_transform=_reward_transform(config),
            value=codec.value,
        ),
        num_envs=config.env.num_envs,
        rows_per_env=config.replay.rows_per_env,
        history_steps=history_steps,
        future_steps=future_steps,
        observed_steps=observed_steps,
        lookahead_steps=target.bootstrap_steps,
        priority_exponent=config.replay.priority_exponent,
        priority_floor=config.replay.priority_floor,
    )


def _make_loss(config, spec: EnvSpec, network: Network, codec: Codecs) -> LossFn:
    options = config.loss.to_dict()
    max_shift = options.pop("random_shift_pixels", 0)
    shape = spec.observation_shape
    if max_shift and (len(shape) != 3 or max_shift >= min(shape[:2])):
        raise ArgumentError(
            "loss.random_shift_pixels needs images, and less than their size"
            f" (got {max_shift} for observations {shape})"
        )
    loss = call(
        losses.make_loss,
        "loss",
        options,
        network,
        codec,
        history_steps=config.network.history_steps,
        unroll_steps=config.targets.unroll_steps,
    )
    if not max_shift:
        return loss
    return losses.with_augmentation(
        loss, functools.partial(history.random_shift, max_shift=max_shift)
    )


def _make_targets(config, network: Network, codec: Codecs, again: SearchFn) -> TargetFn:
    target = config.targets
    from_network = target.value_source == "target_network"
    make = targets.make_targets(
        discount=target.discount,
        reward_transform=_reward_transform(config),
        bootstrap_value=(
            targets.make_network_bootstrap(network, codec.value) if from_network else None
        ),
        **windows(config),
    )
    return reanalyse.with_reanalyse(
        make,
        again,
        fraction=config.reanalyse.fraction,
        fresh_values=config.reanalyse.fresh_values,
        target_params=config.reanalyse.target_params,
        explore=explore_again(config),
        **windows(config),
    )


def windows(config) -> dict[str, Any]:
    """What targets and reanalysing have to agree on."""
    names = ("unroll_steps", "bootstrap_steps", "shorten_every_updates")
    return {name: config.targets[name] for name in names} | {
        "history_steps": config.network.history_steps
    }


def explore_again(config) -> Explore:
    return acting.NO_EXPLORATION.replace(noise_scale=np.float32(config.reanalyse.noise_scale))


def _make_search_again(config, again: SearchFn, ring: Replay, batch_size: int):
    """`(params, replay state, key) -> ` the fresh values `[B, P]` of one batch of one shard, and
    nothing else of an update, so that their cost can be told; None where nothing is searched again.
    """
    num_fresh, _ = reanalyse.num_searched(config.reanalyse.fraction, batch_size)
    if not num_fresh:
        return None
    options = windows(config)
    positions_of = reanalyse.make_positions(fresh_values=config.reanalyse.fresh_values, **options)

    def search_again(params, replay_state, key):
        sample: Sample = ring.sample(replay_state, key, num_fresh)
        return reanalyse.search_at(
            again,
            params,
            key,
            sample,
            positions_of(sample),
            config.network.history_steps,
            explore_again(config),
        ).value

    return search_again


def _reward_transform(config):
    return jnp.sign if config.targets.clip_rewards else None
