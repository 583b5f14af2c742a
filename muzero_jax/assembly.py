"""Puts parts together: an agent from a network, a search and a loss; an experiment from an agent.

A researcher's own network, loss, search or environment goes in here as a function; configs use the
same makers. `muzero_jax.training.train` runs what comes out.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from muzero_jax import acting, learner, losses
from muzero_jax import targets as target_makers
from muzero_jax.envs import host, wrappers
from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation import actors, scoring
from muzero_jax.loops.anakin import init_anakin_carry, make_anakin
from muzero_jax.loops.sebulba import sebulba
from muzero_jax.mesh import AXIS, SHARDED, make_mesh, shard
from muzero_jax.replay import check_length, make_replay
from muzero_jax.training.experiment import Agent, Experiment, SearchAgain
from muzero_jax.types import (
    Array,
    Codecs,
    Counters,
    Env,
    EnvSpec,
    Explore,
    HostEnv,
    LossFn,
    Network,
    Params,
    Replay,
    RunState,
    SearchFn,
    TargetFn,
    Tracker,
    Transition,
    Window,
)

FULL_NOISE = acting.NO_EXPLORATION.replace(noise_scale=np.float32(1.0))


def make_agent(
    spec: EnvSpec,
    network: Network,
    codecs: Codecs,
    search: SearchFn,
    *,
    window: Window,
    discount: float,
    loss: LossFn | None = None,
    targets: TargetFn | None = None,
    optimizer: optax.GradientTransformation | None = None,
    reward_transform: Callable[[Array], Array] | None = None,
    explore_at: Callable[[int], Explore] | None = None,
    initial_priority: Callable[[Transition], Array] | None = None,
    observed_steps: int | None = None,
    target_interval_updates: int = 200,
    importance_exponent: float = 0.4,
    track: Callable[[Params, Array], Params] | None = None,
    tracker: Tracker | None = None,
    num_simulations: int = 0,
    num_edges: int | None = None,
    search_again: SearchAgain | None = None,
) -> Agent:
    """An agent of these parts; whatever is None is MuZero's own.

    Args:
      spec: of the environments.
      network: parameters, embeddings, predictions.
      codecs: of value and reward.
      search: what acts.
      window: S, K and n.
      discount: γ per step.
      loss: `losses.make_loss` by default.
      targets: `targets.make_targets` from stored policies and values by default.
      optimizer: AdamW with a learning rate of 1e-3 by default.
      reward_transform: of rewards before they are learned; None keeps raw rewards. The `targets`
        that are passed in have to use the same.
      explore_at: `(attempted updates) -> Explore` while acting; a noise of 1 by default.
      initial_priority: of new rows; |value - return| by default.
      observed_steps: frames of a sample; S by default, more where `targets` read observations.
      target_interval_updates: between copies into the target parameters.
      importance_exponent: β of prioritised replay.
      track, tracker: as in `learner.make_update`.
      num_simulations: of one search, for metrics and memory.
      num_edges: actions of a node of its tree, for memory; None is A of one discrete action, and 0
        of other kinds.
      search_again: the searches that `targets` make, for metrics.
    """
    loss = loss or losses.make_loss(network, codecs, window=window)
    targets = targets or target_makers.make_targets(
        window=window, discount=discount, reward_transform=reward_transform
    )
    optimizer = optimizer or learner.make_optimizer(learning_rate=1e-3)
    of_returns = dict(
        bootstrap_steps=window.bootstrap, discount=discount, reward_transform=reward_transform
    )
    params = jax.eval_shape(network.init, jax.random.key(0))
    return Agent(
        spec=spec,
        window=window,
        observed_steps=observed_steps or window.history,
        network=network,
        codecs=codecs,
        search=search,
        num_simulations=num_simulations,
        num_edges=num_edges or (spec.num_actions if spec.action.is_discrete else 0),
        row=acting.example_row(spec, search, params, window.history),
        targets=targets,
        loss=loss,
        update=learner.make_update(
            targets,
            loss,
            optimizer,
            target_interval_updates=target_interval_updates,
            importance_exponent=importance_exponent,
            track=track,
            tracker=tracker,
            axis_name=AXIS,
        ),
        reward_transform=reward_transform,
        stored_returns=target_makers.make_stored_returns(**of_returns),
        initial_priority=initial_priority
        or target_makers.make_initial_priority(**of_returns, value=codecs.value),
        init_train=lambda key: learner.init_train_state(network, optimizer, key, tracker),
        tracker=tracker,
        explore_at=explore_at or (lambda updates: FULL_NOISE),
        search_again=search_again,
    )


def split_seed(seed: int) -> tuple[chex.PRNGKey, chex.PRNGKey, chex.PRNGKey]:
    """The keys of an experiment: of its parameters, of its environments, of its run."""
    init_key, env_key, run_key = jax.random.split(jax.random.key(seed), 3)
    return init_key, env_key, run_key


def make_ring(
    agent: Agent,
    *,
    num_envs: int,
    rows_per_env: int,
    priority_exponent: float = 0.6,
    priority_floor: float = 0.01,
) -> Replay:
    """The replay that an agent learns from; the numbers are those of `replay.make_replay`."""
    return make_replay(
        agent.row,
        agent.initial_priority,
        num_envs=num_envs,
        rows_per_env=rows_per_env,
        window=agent.window,
        observed_steps=agent.observed_steps,
        priority_exponent=priority_exponent,
        priority_floor=priority_floor,
    )


def on_device(
    env: Env,
    agent: Agent,
    *,
    num_envs: int,
    rows_per_update: int,
    rows_per_env: int = 1_000,
    min_rows: int | None = None,
    batch_size: int = 64,
    steps_per_iteration: int = 16,
    priority_exponent: float = 0.6,
    priority_floor: float = 0.01,
    seed: int = 0,
    mesh: Mesh | None = None,
    bind_search: Callable[[Any], SearchFn] | None = None,
    games: Env | None = None,
    eval_episodes: int = 16,
    scoring_batch: int = 16,
    score: Callable[..., dict[str, Any]] | None = None,
) -> Experiment:
    """Environments in JAX, acting and learning as one program on the device (the Anakin loop).

    Args:
      env: one environment.
      agent: acts and learns.
      num_envs: E.
      rows_per_update: new rows for each update.
      rows_per_env: of the replay.
      min_rows: rows stored before the first update; None: as soon as there is something to draw.
      batch_size: of an update, over all devices.
      steps_per_iteration: T, of each environment between two looks at signals and cadences.
      priority_exponent, priority_floor: as in `replay.make_replay`.
      seed: of parameters, environments and everything drawn.
      mesh: of devices; None is the first one.
      bind_search: `(env_state [E]) -> SearchFn` that acts in place of `agent.search`, for searches
        whose model is the environment, see `acting.make_rollout`; evaluations play the latter.
      games: the environment of evaluations; None is `env`.
      eval_episodes: games of an evaluation, 0 for none: of one player whole episodes, of two a
        match against random play.
      scoring_batch: of them at a time.
      score: scores in place of that, see `Experiment`.

    Raises:
      ArgumentError: as `check_sizes`.
    """
    games = env if games is None else games
    mesh, ring, learn, min_rows = _learning(
        agent,
        mesh,
        num_envs=num_envs,
        num_groups=1,
        rows_at_once=steps_per_iteration,
        rows_per_env=rows_per_env,
        min_rows=min_rows,
        rows_per_update=rows_per_update,
        batch_size=batch_size,
        priority_exponent=priority_exponent,
        priority_floor=priority_floor,
    )
    window, size = agent.window, mesh.size
    init_key, env_key, run_key = split_seed(seed)

    def init() -> RunState:
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(env_key, num_envs))
        return RunState(
            train=agent.init_train(init_key),
            replay=ring.init(),
            env=env_state,
            timestep=timestep,
            acting=init_anakin_carry(agent.spec, num_envs, window.history),
            counters=Counters(),
        )

    loop = make_anakin(
        rollout=acting.make_rollout(
            env,
            bind_search or agent.search,
            num_steps=steps_per_iteration,
            bind_env_state=bind_search is not None,
        ),
        replay=ring,
        learn=learn,
        explore_at=agent.explore_at,
        key=run_key,
        min_rows=min_rows,
        rows_per_update=rows_per_update,
        steps_per_iteration=steps_per_iteration,
        mesh=mesh,
    )
    serve = wrappers.make_host_env(games)  # Here: every evaluation plays by the same programs.

    def eval_env(seeds: list[int]) -> HostEnv:
        seed = np.random.SeedSequence(seeds).generate_state(1)[0]
        return serve(len(seeds), jax.random.key(seed))

    experiment = Experiment(
        agent=agent,
        mesh=mesh,
        replay=ring,
        learn=learn,
        batch_size=batch_size // size,
        init=init,
        run=loop,
        key=run_key,
        num_envs=num_envs,
        acting_batch=num_envs // size,
        rows_at_once=steps_per_iteration,
        scoring_batch=scoring_batch,
        score=score,
        match_env=games,
        eval_env=eval_env,
    )
    return _scored(experiment, eval_episodes, seed)


def on_host(
    make_env: Callable[[list[int]], HostEnv],
    agent: Agent,
    *,
    num_envs: int,
    rows_per_update: int,
    num_groups: int = 2,
    rows_per_env: int = 1_000,
    min_rows: int | None = None,
    batch_size: int = 64,
    steps_per_iteration: int = 16,
    probe_interval_iterations: int = 0,
    priority_exponent: float = 0.6,
    priority_floor: float = 0.01,
    seed: int = 0,
    mesh: Mesh | None = None,
    eval_env: Callable[[list[int]], HostEnv] | None = None,
    eval_episodes: int = 16,
    scoring_batch: int = 16,
    score: Callable[..., dict[str, Any]] | None = None,
) -> Experiment:
    """Environments on the host in groups, search and learning on the device (the Sebulba loop).

    Args:
      make_env: `(seeds) -> HostEnv` with one environment for each seed.
      agent: acts and learns.
      num_envs: E, in all groups together.
      num_groups: one group steps while the device works for the others.
      probe_interval_iterations: as in `sebulba`.
      eval_env: as `make_env`, for evaluations; None is `make_env`.
      rows_per_update, rows_per_env, min_rows, batch_size, steps_per_iteration, priority_exponent,
        priority_floor, seed, mesh, eval_episodes, scoring_batch, score: as in `on_device`.

    Raises:
      ArgumentError: as `check_sizes`.
    """
    mesh, ring, learn, min_rows = _learning(
        agent,
        mesh,
        num_envs=num_envs,
        num_groups=num_groups,
        rows_at_once=1,
        rows_per_env=rows_per_env,
        min_rows=min_rows,
        rows_per_update=rows_per_update,
        batch_size=batch_size,
        priority_exponent=priority_exponent,
        priority_floor=priority_floor,
    )
    window, size = agent.window, mesh.size
    group_size = num_envs // num_groups
    process, own_size = jax.process_index(), group_size // jax.process_count()
    init_key, _, run_key = split_seed(seed)

    def make_groups(resumes: int) -> list[HostEnv]:
        # All processes draw the seeds of all; each takes its own.
        return [
            make_env(
                host.env_seeds(seed, host.TRAIN, resumes, group, group_size)[
                    process * own_size : (process + 1) * own_size
                ]
            )
            for group in range(num_groups)
        ]

    def init() -> RunState:
        carry = acting.init_carry(agent.spec, group_size, window.history)
        return RunState(
            train=agent.init_train(init_key),
            replay=ring.init(),
            env=None,
            timestep=None,
            acting=tuple(jax.tree.map(jnp.copy, carry) for _ in range(num_groups)),
            counters=Counters(),
        )

    def run(state: RunState):
        if state.counters.resumes:
            # Emulators cannot be saved: their episodes end here, as truncations.
            truncate = shard(ring.truncate_episodes, mesh, SHARDED, SHARDED)
            truncate = jax.jit(truncate, donate_argnums=0)
            state = state.replace(replay=truncate(state.replay))
        return sebulba(
            state,
            envs=make_groups(state.counters.resumes),
            act_and_add=acting.make_act_and_add(agent.search, ring),
            learn=learn,
            explore_at=agent.explore_at,
            key=run_key,
            min_rows=min_rows,
            rows_per_update=rows_per_update,
            steps_per_iteration=steps_per_iteration,
            probe_interval_iterations=probe_interval_iterations,
            mesh=mesh,
        )

    experiment = Experiment(
        agent=agent,
        mesh=mesh,
        replay=ring,
        learn=learn,
        batch_size=batch_size // size,
        init=init,
        run=run,
        key=run_key,
        num_envs=num_envs,
        acting_batch=group_size // size,
        rows_at_once=0,
        scoring_batch=scoring_batch,
        score=score,
        eval_env=eval_env or make_env,
    )
    return _scored(experiment, eval_episodes, seed)


def _learning(
    agent: Agent,
    mesh: Mesh | None,
    *,
    num_envs: int,
    num_groups: int,
    rows_at_once: int,
    rows_per_env: int,
    min_rows: int | None,
    rows_per_update: int,
    batch_size: int,
    priority_exponent: float,
    priority_floor: float,
) -> tuple[Mesh, Replay, Callable[..., Any], int]:
    """What both loops learn with, of sizes that fit together: mesh, ring, `learn`, `min_rows`."""
    mesh = make_mesh() if mesh is None else mesh
    if min_rows is None:
        min_rows = num_envs * (agent.window.future + rows_at_once)
    check_sizes(
        agent.window,
        num_envs=num_envs,
        num_groups=num_groups,
        rows_per_env=rows_per_env,
        min_rows=min_rows,
        rows_per_update=rows_per_update,
        batch_size=batch_size,
        rows_at_once=rows_at_once,
        num_devices=mesh.size,
    )
    ring = make_ring(
        agent,
        num_envs=num_envs,
        rows_per_env=rows_per_env,
        priority_exponent=priority_exponent,
        priority_floor=priority_floor,
    )
    # Traced once for the programs that contain it, and for the estimate of memory.
    learn = jax.jit(
        learner.make_learn(ring, agent.update, batch_size=batch_size // mesh.size), inline=True
    )
    return mesh, ring, learn, min_rows


def _scored(experiment: Experiment, eval_episodes: int, seed: int) -> Experiment:
    """The experiment with a score of whole games without noise, where it has none of its own."""
    if experiment.score is not None or not eval_episodes:
        return experiment
    num_envs = scoring.at_a_time(eval_episodes, experiment.scoring_batch)
    scorer = make_scorer(experiment, episodes=eval_episodes, num_envs=num_envs)
    return experiment._replace(score=numbered(scorer, seed, num_envs))


def make_scorer(
    experiment: Experiment,
    *,
    episodes: int,
    num_envs: int,
    opponent: scoring.Side | None = None,
    random_move: float = 0.0,
) -> scoring.Score:
    """The scorer of an experiment's parameters: whole games of one player, or a match of two.

    Args:
      experiment: whose agent plays in its evaluation games.
      episodes: how many games.
      num_envs: at a time, of a match; of one player as many as there are seeds.
      opponent: of two players; None is random play.
      random_move: as in `make_search_player`.
    """
    agent = experiment.agent
    player = actors.make_search_player(
        agent.search, agent.spec, history_steps=agent.window.history, random_move=random_move
    )
    if agent.spec.turn_sign == -1:
        return scoring.make_match_scorer(
            experiment.match_env,
            player,
            opponent or scoring.simple_side("random", "", agent.spec),
            episodes=episodes,
            num_envs=num_envs,
        )
    return scoring.make_scorer(experiment.eval_env, player, episodes=episodes)


def numbered(scorer: scoring.Score, seed: int, num_envs: int) -> Callable[..., dict[str, Any]]:
    """A scorer of seeds as the `score` of an `Experiment`: the number stands for the seeds."""

    def score(params: Params, number: int, stop=scoring.never) -> dict[str, Any]:
        return scorer(params, host.env_seeds(seed, host.EVAL, 0, number, num_envs), stop)

    return score


def check_sizes(
    window: Window,
    *,
    num_envs: int,
    num_groups: int,
    rows_per_env: int,
    min_rows: int,
    rows_per_update: int,
    batch_size: int,
    rows_at_once: int,
    num_devices: int,
) -> None:
    """Refuses sizes that do not fit together; nothing is traced for it.

    Args:
      window: S, K and n.
      num_envs, num_groups, rows_per_env, min_rows, rows_per_update, batch_size: as in `on_host`.
      rows_at_once: rows of each environment that are stored before the next update is made.
      num_devices: of the mesh.

    Raises:
      ArgumentError: naming the number and what it may be.
    """
    if num_envs % num_groups:
        raise ArgumentError(f"num_groups must divide num_envs (got {num_groups} and {num_envs})")
    group_size = num_envs // num_groups
    for name, count in (("num_envs / num_groups", group_size), ("batch_size", batch_size)):
        if count < 1:
            raise ArgumentError(f"{name} must be >= 1 (got {count})")
        if count % num_devices:
            raise ArgumentError(
                f"{name} must be a multiple of the {num_devices} devices (got {count});"
                " or train on fewer of them"
            )
    check_length(rows_per_env, window, rows_at_once=rows_at_once)
    rows = num_envs * rows_per_env
    if rows // num_devices >= 2**31:
        raise ArgumentError(
            f"rows_per_env x num_envs must be < 2^31 on each device (got {rows // num_devices})"
        )
    # Only rows that have their whole future can be drawn.
    fewest = num_envs * (window.future + rows_at_once)
    if not fewest <= min_rows <= rows:
        raise ArgumentError(
            f"min_rows must be >= {fewest} (envs x (unroll + bootstrap + written at once))"
            f" and <= {rows}, the size of the ring (got {min_rows})"
        )
    step = group_size * rows_at_once
    learner.check_ratio(step, min_rows=min_rows, rows_per_update=rows_per_update)
