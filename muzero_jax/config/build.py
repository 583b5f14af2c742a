"""Turns a config into objects: agent, experiment, schedule, scorer."""

from collections.abc import Callable, Collection, Sequence
import difflib
import functools
import inspect
from pathlib import Path
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from muzero_jax import (
    acting,
    assembly,
    codecs,
    distributions,
    history,
    learner,
    losses,
    mesh,
    reanalyse,
    search,
    targets,
    value_error,
)
from muzero_jax.config import offline, own_code, runs
from muzero_jax.config.schema import (
    MATCHES,
    ON_DEVICE,
    PGX,
    TASK_FIELDS,
    leaves,
    names_code,
    task,
)
from muzero_jax.data.dataset import Dataset, open_dataset
from muzero_jax.envs import host
from muzero_jax.envs.arm import make_arm
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.envs.catch import make_catch
from muzero_jax.envs.gymnasium import make_by_id, make_gymnasium
from muzero_jax.envs.memory import make_memory
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.envs.traffic import make_traffic
from muzero_jax.errors import ArgumentError, BadInputError, DatasetError, EnvError
from muzero_jax.evaluation import actors, results, scoring
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.convolve import convolve_for_cpu
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.networks.ring import make_ring_network
from muzero_jax.search.gumbel import gumbel_plan
from muzero_jax.search.muzero import muzero_plan
from muzero_jax.training import driver
from muzero_jax.training.experiment import Agent, Experiment, Schedule, SearchAgain
from muzero_jax.types import (
    ActionSpec,
    Codecs,
    Counters,
    Distribution,
    Env,
    EnvSpec,
    Explore,
    HostEnv,
    LossFn,
    Network,
    SearchFn,
    TargetFn,
    Window,
)

# What a config may name; the keys are those of `fields.FIELDS`.
NETWORKS = {
    "mlp": make_mlp_network,
    "conv": make_conv_network,
    "gru": make_gru_network,
    "ring": make_ring_network,
}
PLANS = {"gumbel": gumbel_plan, "muzero": muzero_plan}
POLICIES: dict[str, Callable[[ActionSpec], Distribution]] = {
    "categorical": distributions.categorical,
    "factored": distributions.factored,
    "gaussian": distributions.gaussian,
    "beta": distributions.beta,
}
# What `env.task` may name in the suite "jax".
JAX_ENVS: dict[str, Callable[..., Env]] = {
    "arm": make_arm,
    "cartpole": make_cartpole,
    "catch": make_catch,
    "memory": make_memory,
    "traffic": make_traffic,
}
# Of each other suite: what makes its environments.
HOST_ENVS: dict[str, Callable[..., HostEnv]] = {
    "atari": host.make_atari,
    "procgen": host.make_procgen,
    "classic": host.make_envpool,
    "envpool": host.make_envpool,
    "gymnasium": make_by_id,
}


def train(
    config,
    workdir: Path,
    *,
    devices: Sequence[jax.Device] | None = None,
    data: str | None = None,
    allow: Collection[str] = (),
    resume: str = "auto",
    init_from: str | None = None,
    watchdog_s: float = 1800.0,
    epilogue: str = "",
) -> Counters:
    """Trains by a checked config, in the order in which things happen.

    Args:
      config: checked by `schema.check`.
      workdir: folder of the run.
      devices: to train on; None is the first one.
      data: folder of a dataset to learn from in place of environments. Then policies, and values
        where returns bootstrap from a search, are searched for whole batches.
      allow: the modules of the user's own that the config may name.
      resume, init_from, watchdog_s, epilogue: as in `training.train`.

    Raises:
      Ending: as `training.train`; also where data or an environment are at fault.
    """
    if data is not None:  # The stored policies and values are not those of this agent.
        config.reanalyse.fraction = 1.0
        config.reanalyse.fresh_values = config.targets.value_source == "search"
    try:
        rows = None if data is None else open_dataset(data)
        identity = rows and rows.identity
        folder = runs.open_folder(
            workdir, config, resume=resume, init_from=init_from, data=identity
        )
        return driver.train(
            experiment(config, devices, rows, allow=allow),
            folder,
            schedule(config),
            watchdog_s=watchdog_s,
            title=title_of(config),
            epilogue=epilogue,
        )
    except DatasetError as error:
        raise BadInputError(f"--data: {error}") from None
    except EnvError as error:
        raise BadInputError(f"env: {error}") from None
    except BadInputError as error:
        raise BadInputError(_in_fields(str(error), _fields_of(config))) from None


def title_of(config) -> str:
    """What a config trains, in words: "Breakout (atari), gumbel search, conv network"."""
    env, kinds = config.env, (config.search.kind, config.network.kind)
    search, network = (kind.rpartition(":")[2] for kind in kinds)
    return f"{task(config)} ({env.suite}), {search} search, {network} network"


def schedule(config) -> Schedule:
    """How long a run of this config goes on, and what it does how often."""
    return Schedule(
        total_env_steps=config.total_env_steps,
        max_wall_minutes=config.max_wall_minutes,
        evaluate_every=config.evaluation.interval_env_steps,
        stop_at=config.evaluation.stop_at,
        save_every=config.checkpoint.resume_interval_env_steps,
        save_params_every=config.checkpoint.params_interval_env_steps,
        resume_points_to_keep=config.checkpoint.max_to_keep,
        params_to_keep=config.checkpoint.params_to_keep,
        log_every=config.logging.interval_env_steps,
        tensorboard=config.logging.tensorboard,
        tracker=None if config.logging.tracker == "none" else config.logging.tracker,
    )


def experiment(
    config,
    devices: Sequence[jax.Device] | None = None,
    data: Dataset | None = None,
    *,
    allow: Collection[str] = (),
) -> Experiment:
    """The experiment of a config, whether its environments live on the host or on the device.

    Args:
      config: checked by `schema.check`.
      devices: those to train on; None is the first one alone.
      data: to learn from; environments then serve evaluation only.
      allow: the modules of the user's own that the config may name: a config that was read from a
        folder imports nothing else.

    Raises:
      BadInputError: where code is named that is not allowed, a part refuses its numbers, or the
        data do not fit the environment. What else a part raises is no refusal, and keeps its
        traceback.
    """
    own_code.check(config, allow)
    mesh.backend()  # Refuses, in one line, where there is none.
    over = mesh.make_mesh(devices)
    env = config.env
    try:
        sizes = {name: x for name, x in _sizes(config).items() if name in _CHECKED}
        written = config.loop.steps_per_iteration if env.suite in ON_DEVICE else 1
        # Before an environment is made, and anything is traced.
        assembly.check_sizes(
            window(config),
            **sizes,
            num_groups=env.num_groups,
            rows_at_once=written,
            num_devices=over.size,
        )
        for name in results.evaluation_games(config):
            if name not in env:
                raise ArgumentError(f"evaluation.{name}: there is no such field for this env")
        made = _on_device(config, over) if env.suite in ON_DEVICE else _on_host(config, over)
        made = made._replace(
            score=assembly.numbered(
                scorer(
                    made,
                    config,
                    episodes=config.evaluation.episodes,
                    num_envs=config.evaluation.num_envs,
                ),
                config.seed,
                config.evaluation.num_envs,
            )
        )
        return made if data is None else offline.unplug(made, config, data)
    except DatasetError as error:
        raise BadInputError(f"--data: {error}") from None
    except ArgumentError as error:
        raise BadInputError(_in_fields(str(error), _fields_of(config))) from None


def scorer(made: Experiment, config, *, episodes: int, num_envs: int) -> scoring.Score:
    """The scorer of an experiment's parameters; games of two players are played against
    `evaluation.opponent`."""
    opponent = None
    if made.agent.spec.turn_sign == -1:
        name = config.evaluation.opponent
        opponent = scoring.simple_side(name, config.env.game, made.agent.spec)
    return assembly.make_scorer(
        made,
        episodes=episodes,
        num_envs=num_envs,
        opponent=opponent,
        random_move=config.evaluation.get("random_move", 0.0),
    )


def player(own: Agent, policy: str) -> actors.Actor:
    """How an agent plays: by its "search", its "prior" alone, or at "random"."""
    if policy == "search":
        return actors.make_search_player(own.search, own.spec, history_steps=own.window.history)
    if policy == "prior":
        return actors.make_prior_player(
            own.network,
            own.spec,
            history_steps=own.window.history,
            policy=own.codecs.policy,
        )
    return actors.make_random_player(own.spec)


# Of these, what `assembly.check_sizes` looks at.
_CHECKED = ("num_envs", "rows_per_update", "rows_per_env", "min_rows", "batch_size")


def _sizes(config) -> dict[str, Any]:
    """What `assembly.on_device` and `assembly.on_host` both take."""
    ring = config.replay
    return dict(
        num_envs=config.env.num_envs,
        rows_per_update=ring.rows_per_update,
        rows_per_env=ring.rows_per_env,
        min_rows=ring.min_rows,
        batch_size=ring.batch_size,
        steps_per_iteration=config.loop.steps_per_iteration,
        priority_exponent=ring.priority_exponent,
        priority_floor=ring.priority_floor,
        seed=config.seed,
        eval_episodes=0,
        scoring_batch=config.evaluation.num_envs,
    )


def _on_host(config, over: Mesh) -> Experiment:
    """envpool environments in groups, the Sebulba loop."""

    def make_env(seeds: list[int], **changes) -> HostEnv:
        options = config.env.to_dict() | changes
        for name in ("suite", "num_envs", "num_groups"):
            del options[name]
        make = _host_maker(config.env.suite, options.pop(TASK_FIELDS[config.env.suite]))
        return call(make, "env", options, seeds=seeds)

    return assembly.on_host(
        make_env,
        agent(config, make_env([0]).spec),
        num_groups=config.env.num_groups,
        probe_interval_iterations=config.loop.probe_interval_iterations,
        mesh=over,
        eval_env=lambda seeds: make_env(seeds, **results.evaluation_games(config)),
        **_sizes(config),
    )


def _host_maker(suite: str, name: str) -> Callable[..., HostEnv]:
    """What makes the environments of a task or game, by seeds and the other fields of `env`."""
    if suite == "gymnasium" and names_code(name):
        return functools.partial(make_gymnasium, own_code.find("env.task", name))
    return functools.partial(HOST_ENVS[suite], name)


def _on_device(config, over: Mesh) -> Experiment:
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
    own = agent(config, env.spec)
    return assembly.on_device(env, own, mesh=over, games=games, **_sizes(config))


def _device_maker(suite: str, name: str) -> Callable[..., Env]:
    """What makes the environments of a task or game, by the other fields of `env`."""
    if suite == "jax":
        if ":" in name:
            return own_code.find("env.task", name)
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


def agent(config, spec: EnvSpec) -> Agent:
    """Network, search, targets and loss of a config, for environments like `spec`."""
    codec = Codecs(
        **{
            name: call(codecs.make_two_hot_codec, f"codec.{name}", config.codec[name].to_dict())
            for name in ("value", "reward")
        },
        policy=_make_policy(config, spec.action),
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
    again = make_search(config.reanalyse.num_simulations)
    return assembly.make_agent(
        spec,
        network,
        codec,
        make_search(config.search.num_simulations),
        window=window(config),
        discount=config.targets.discount,
        loss=_make_loss(config, spec, network, codec),
        targets=_make_targets(config, network, codec, again),
        optimizer=call(learner.make_optimizer, "optimizer", config.optimizer.to_dict()),
        reward_transform=_reward_transform(config),
        explore_at=call(make_explore_at, "explore", config.explore.to_dict()),
        observed_steps=_observed_steps(config),
        target_interval_updates=config.targets.target_interval_updates,
        importance_exponent=config.replay.importance_exponent,
        track=track,
        num_simulations=config.search.num_simulations,
        num_edges=config.search.get("num_samples"),
        search_again=_make_search_again(config, again),
    )


def window(config) -> Window:
    """S, K and n."""
    return Window(
        history=config.network.history_steps,
        unroll=config.targets.unroll_steps,
        bootstrap=config.targets.bootstrap_steps,
    )


def _make_search(
    config, spec: EnvSpec, network: Network, codec: Codecs, num_simulations: int
) -> SearchFn:
    make, options = _chosen(PLANS, config, "search")
    options |= {"num_simulations": num_simulations}
    game = dict(turn_sign=spec.turn_sign, discount=config.targets.discount)
    if names_code(config.search.kind):
        return call(
            make, "search", options, network, codec, num_actions=spec.num_actions, **game
        )
    num_samples = options.pop("num_samples", None)
    model = search.learned_model(network, codec, action=spec.action, **game)
    if num_samples is not None:
        policy = _drawn_from(codec, spec.action)
        model = search.sampled_model(model, policy, num_samples=num_samples)
    return search.make_search(model, call(make, "search", options))


def _chosen(makers, config, group: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The maker that a group of the config names by its `kind`, and the rest of the group."""
    options = config[group].to_dict()
    kind = options.pop("kind")
    return makers.get(kind) or own_code.find(f"{group}.kind", kind), options


def call(make: Callable[..., Any], group: str, options: dict[str, Any], *args, **more) -> Any:
    """`make(*args, **options, **more)`, `options` being the fields of a group of the config.

    Raises:
      ArgumentError: naming a field that `make` does not take, or one that is missing.
    """
    found = inspect.signature(make).parameters
    open_ended = any(x.kind is x.VAR_KEYWORD for x in found.values())  # Takes whatever it gets.
    parameters = {name: x for name, x in found.items() if x.kind is not x.VAR_KEYWORD}
    for name in options:
        if name not in parameters and not open_ended:
            raise ArgumentError(f"{group}.{name}: there is no such field for this {group}")
    for name in list(parameters)[len(args) :]:
        if parameters[name].default is inspect.Parameter.empty and name not in options | more:
            raise ArgumentError(f"{group}.{name} is missing")
    try:
        return make(*args, **options, **more)
    except ArgumentError as error:
        fields = {name: f"{group}.{name}" for name in options}
        raise type(error)(_in_fields(str(error), fields)) from None


def _in_fields(line: str, fields: dict[str, str]) -> str:
    """A refusal of the library in the words of the config, which has its arguments as fields.

    Its first word is taken for a name, and each later word that has an underscore.
    """

    def name(word: re.Match) -> str:
        known = word[0] in fields and (word.start() == 0 or "_" in word[0])
        return fields[word[0]] if known else word[0]

    return re.sub(r"(?<![\w./=-])\w+(?![\w./=-])", name, line)


def _fields_of(config) -> dict[str, str]:
    """Dotted name by last part, of the fields whose last part is that of no other, and of `env`."""
    names = [name for name, _ in leaves(config.to_dict())]
    parts = [name.rpartition(".")[2] for name in names]
    own = {part: name for part, name in zip(parts, names) if parts.count(part) == 1}
    return own | {part: f"env.{part}" for part in ("num_envs", "num_groups", "max_steps")}


def make_explore_at(
    *,
    temperature: float,
    halve_temperature_at_updates: tuple[int, ...],
    noise_scale: float,
    random_move: float,
    spread: float = 0.0,
) -> Callable[[int], Explore]:
    """`(attempted updates) -> Explore`: the temperature halves at each of the given counts."""

    def explore_at(updates: int) -> Explore:
        halvings = sum(updates >= count for count in halve_temperature_at_updates)
        return Explore(
            temperature=np.float32(temperature / 2**halvings),
            noise_scale=np.float32(noise_scale),
            random_move=np.float32(random_move),
            spread=np.float32(spread),
        )

    return explore_at


def _observed_steps(config) -> int:
    """As many frames as targets read: of the rows searched again, or valued by the network."""
    target, again = config.targets, config.reanalyse.fraction > 0
    fresh_values = again and config.reanalyse.fresh_values
    steps = config.network.history_steps
    if fresh_values or target.value_source == "target_network":
        return steps + target.unroll_steps + target.bootstrap_steps
    return steps + target.unroll_steps if again else steps


def _make_policy(config, action: ActionSpec) -> Distribution | None:
    """What the policy head's logits mean, by `codec.policy`; without it by the kind of action."""
    usual = "factored" if action.sizes is not None else "gaussian"
    kind = config.codec.get("policy", "categorical" if action.is_discrete else usual)
    if kind == "categorical" and action.is_discrete:
        return None
    if not action.is_discrete and "num_samples" not in config.search:
        raise ArgumentError(
            "search.num_samples is missing: a search cannot try each of these actions"
            f" ({action}), it draws so many in each node"
        )
    make = POLICIES.get(kind) or own_code.find("codec.policy", kind)
    try:
        return make(action)
    except ArgumentError as error:
        raise ArgumentError(f"codec.policy {kind!r}: {error}") from None


def _drawn_from(codec: Codecs, action: ActionSpec) -> Distribution:
    """What a search draws actions from, and its loss scores them by."""
    return codec.policy or distributions.categorical(action)


def _make_loss(config, spec: EnvSpec, network: Network, codec: Codecs) -> LossFn:
    options = config.loss.to_dict()
    max_shift = options.pop("random_shift_pixels", 0)
    shape = spec.observation_shape if max_shift else ()
    if max_shift and (len(shape) != 3 or max_shift >= min(shape[:2])):
        raise ArgumentError(
            "loss.random_shift_pixels needs images, and less than their size"
            f" (got {max_shift} for observations {shape})"
        )
    more = {}
    if "num_samples" in config.search:
        policy = _drawn_from(codec, spec.action)
        more = {"policy_loss": distributions.sampled_cross_entropy(policy)}
    loss = call(
        losses.make_loss,
        "loss",
        options,
        network,
        codec,
        window=window(config),
        **more,
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
        **_windows(config),
    )
    return reanalyse.with_reanalyse(
        make,
        again,
        fraction=config.reanalyse.fraction,
        fresh_values=config.reanalyse.fresh_values,
        target_params=config.reanalyse.target_params,
        explore=_explore_again(config),
        **_windows(config),
    )


def _windows(config) -> dict[str, Any]:
    """What targets and reanalysing have to agree on."""
    return dict(window=window(config), shorten_every_updates=config.targets.shorten_every_updates)


def _explore_again(config) -> Explore:
    return acting.NO_EXPLORATION.replace(noise_scale=np.float32(config.reanalyse.noise_scale))


def _make_search_again(config, again: SearchFn) -> SearchAgain | None:
    """The searches of updates, where there are any."""
    fraction = config.reanalyse.fraction
    if not fraction:
        return None
    positions_of = reanalyse.make_positions(
        fresh_values=config.reanalyse.fresh_values, **_windows(config)
    )

    def values(params, sample, key):
        return reanalyse.search_at(
            again,
            params,
            key,
            sample,
            positions_of(sample),
            config.network.history_steps,
            _explore_again(config),
        ).value

    return SearchAgain(
        values=values,
        num_examples=lambda batch_size: reanalyse.num_searched(fraction, batch_size)[0],
        num_simulations=config.reanalyse.num_simulations,
    )


def _reward_transform(config):
    return jnp.sign if config.targets.clip_rewards else None
