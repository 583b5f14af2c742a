"""What the driver takes: an agent, an experiment with it, and a schedule; all made elsewhere.

`assembly.py` puts agents and experiments together from parts, `muzero_jax.config` from a config.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
from jax.sharding import Mesh

from muzero_jax.types import (
    Array,
    Codecs,
    Env,
    EnvSpec,
    Explore,
    HostEnv,
    LossFn,
    Network,
    Params,
    Replay,
    RunState,
    Sample,
    SearchFn,
    TargetFn,
    Tracker,
    TrainState,
    Transition,
    Window,
)


class Agent(NamedTuple):
    """The pure functions that act and learn, for environments like `spec`.

    Attributes:
      spec: of the environments.
      window: S, K and n.
      observed_steps: frames of a sample, from the oldest of the root's history on: S, or more where
        targets look at observations.
      network: parameters, embeddings, predictions.
      codecs: of value and reward.
      search: what acts.
      num_simulations: of one such search; for the metrics and the estimate of memory.
      num_edges: actions of a node of its tree; for the estimate of memory.
      row: one stored row, unbatched, as shapes.
      targets: of a batch: `(params, target params, key, Sample) -> Targets`.
      loss: of a batch.
      update: from `learner.make_update`, for one shard of the batch.
      reward_transform: of rewards before they are learned, or None.
      stored_returns: `(Transition [t + n]) -> [t]`, n-step returns from stored values.
      initial_priority: `(Transition [t + n]) -> [t]`, of new rows.
      init_train: `(key) -> TrainState`.
      tracker: a `Tracker`, or None.
      explore_at: `(attempted updates) -> Explore` while acting.
      search_again: `(params, sample, key) -> ` the values of an update's own searches for these
        examples, and nothing else of it, so that their time can be measured; None where an update
        makes none.
    """

    spec: EnvSpec
    window: Window
    observed_steps: int
    network: Network
    codecs: Codecs
    search: SearchFn
    num_simulations: int
    num_edges: int
    row: Transition
    targets: TargetFn
    loss: LossFn
    update: Callable[..., Any]
    reward_transform: Callable[[Array], Array] | None
    stored_returns: Callable[[Transition], Array]
    initial_priority: Callable[[Transition], Array]
    init_train: Callable[[chex.PRNGKey], TrainState]
    tracker: Tracker | None
    explore_at: Callable[[int], Explore]
    search_again: "SearchAgain | None"


class SearchAgain(NamedTuple):
    """The searches that an update makes itself (`reanalyse.with_reanalyse`).

    Attributes:
      values: `(params, Sample [b], key) -> [b, P]`.
      num_examples: `(batch size) -> b`, how many examples of a batch are searched.
      num_simulations: of each search.
    """

    values: Callable[[Params, Sample, chex.PRNGKey], Array]
    num_examples: Callable[[int], int]
    num_simulations: int


class Experiment(NamedTuple):
    """An agent, where it acts or what it reads, and how much at a time.

    Attributes:
      agent: the functions.
      mesh: the devices.
      replay: the ring of one shard.
      learn: from `learner.make_learn`, for one shard.
      batch_size: examples of an update on one shard.
      init: `() -> RunState` of a new run; pure, so that its shapes can be had without memory.
      run: `(RunState) -> ` the loop: a generator without end of `(RunState, metrics)` after each
        iteration; a `RunState` with `resumes` > 0 goes on.
      key: of the run.
      num_envs: E.
      acting_batch: environments that one device searches at a time; 0 where nothing acts.
      rows_at_once: rows of each environment that one program stores.
      scoring_batch: games that an evaluation plays at a time.
      score: `(params, number, stop) -> ` metrics of whole games, with `return_mean`, or None for
        no evaluations. Games of another number are other games; it raises `StoppedError` before
        the next step of a game once `stop()` is true.
      match_env: the JAX environment that matches are played in, or None for host environments.
      eval_env: `(seeds) -> HostEnv` with one environment for each seed, or None.
      data: identity of the dataset that it learns from in place of acting, or None.
    """

    agent: Agent
    mesh: Mesh
    replay: Replay
    learn: Callable[..., Any]
    batch_size: int
    init: Callable[[], RunState]
    run: Callable[[RunState], Iterator[tuple[RunState, dict[str, Any]]]]
    key: chex.PRNGKey
    num_envs: int
    acting_batch: int
    rows_at_once: int
    scoring_batch: int = 0
    score: Callable[[Params, int, Callable[[], bool]], dict[str, Any]] | None = None
    match_env: Env | None = None
    eval_env: Callable[[list[int]], HostEnv] | None = None
    data: str | None = None


class Schedule(NamedTuple):
    """How long a run goes on, and what it does how often; cadences count env steps.

    Attributes:
      total_env_steps: where the run ends.
      max_wall_minutes: ends it earlier, by the wall clock of all its processes; None never.
      evaluate_every: between evaluations; there is one at the end, too.
      stop_at: a mean return of an evaluation that ends the run; None never.
      save_every: between resume points, from which a killed run goes on.
      save_params_every: between saves of parameters alone.
      resume_points_to_keep: the newest of them.
      params_to_keep: the newest of them.
      log_every: between lines of metrics.
      tensorboard: whether metrics are written for TensorBoard as well.
      tracker: the name of a module shaped like `wandb`, which they are written to as well; None
        for none.
    """

    total_env_steps: int
    max_wall_minutes: float | None = None
    evaluate_every: int = 100_000
    stop_at: float | None = None
    save_every: int = 100_000
    save_params_every: int = 100_000
    resume_points_to_keep: int = 2
    params_to_keep: int = 2
    log_every: int = 10_000
    tensorboard: bool = False
    tracker: str | None = None
