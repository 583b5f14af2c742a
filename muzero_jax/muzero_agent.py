"""An agent that acts and learns one step at a time, in a loop of the caller's own."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from muzero_jax import (
    acting,
    actions,
    assembly,
    codecs,
    distributions,
    learner,
    losses,
    targets,
    value_error,
)
from muzero_jax.checkpoint import CheckpointStore, read_meta, restore_newest
from muzero_jax.envs import spaces
from muzero_jax.errors import ArgumentError, BadInputError
from muzero_jax.loops.sebulba import ACT
from muzero_jax.mesh import REPLICATED, SHARDED, make_mesh, shard
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.player import Player, check_like, make_timestep
from muzero_jax.search.common import learned_model, make_search
from muzero_jax.search.gumbel import gumbel_plan
from muzero_jax.search.sampled import sampled_model
from muzero_jax.training.experiment import Agent
from muzero_jax.types import (
    ActionSpec,
    Array,
    ArraySpec,
    Codecs,
    EnvSpec,
    Observation,
    SearchOutput,
    TimeStep,
    Window,
)

_MAX_STEPS = 100_000  # Of an episode that is evaluated in an environment without a limit.
_SMALLEST_SIDE = 12  # Images are halved while they are larger than this.


class MuZeroAgent(Player):
    """MuZero in one environment, without a config, a run folder or a loop of the library.

      agent = MuZeroAgent(observation_shape=(4,), action_space=2)
      observation, _ = env.reset()
      while True:
          action = agent.act(observation)
          observation, reward, terminated, truncated, _ = env.step(action)
          agent.update(observation, action, reward, terminated, truncated)
          if terminated or truncated:
              observation, _ = env.reset()

    It is a `Player` that explores and learns: `evaluate` plays without noise, and beside it. The
    loops of `on_device` and `on_host` step many environments at a time, and learn in less time.

    Attributes:
      agent: its functions, as `make_agent` puts them together.
      rows: stored so far, one for each `update`, and one more for each end of an episode.
      updates: of the parameters, so far.
      train: the `TrainState`.
      replay: the state of the ring of one environment.
    """

    def __init__(
        self,
        *,
        observation_shape: tuple[int, ...] | Mapping[str, ArraySpec],
        action_space: int | ActionSpec | Any,
        num_simulations: int = 16,
        discount: float = 0.997,
        observation_dtype: str = "float32",
        masked: bool = False,
        agent: Agent | None = None,
        replay_rows: int = 50_000,
        min_rows: int = 1_000,
        rows_per_update: int = 4,
        batch_size: int = 64,
        seed: int = 0,
    ):
        """Args:
        observation_shape: of one observation; of a dict of arrays each name's `ArraySpec`.
        action_space: how many actions there are, an `ActionSpec`, or a space of gymnasium's.
        num_simulations: of one search; of actions that are not one choice, as many are drawn.
        discount: γ per step.
        observation_dtype: of an observation that is one array; images are `(H, W, C)`, of "uint8".
        masked: whether `act` is given `invalid_actions`.
        agent: of one's own, from `make_agent`, in place of the usual one; its network, search and
          discount are its own.
        replay_rows: newest rows that it learns from.
        min_rows: rows stored before the first update.
        rows_per_update: new rows for each update.
        batch_size: of an update.
        seed: of the parameters and of everything drawn.

        Raises:
          ArgumentError: for sizes that do not fit together, an action space that cannot be served,
            or an agent of other environments.
        """
        self._arguments = dict(
            num_simulations=num_simulations,
            discount=discount,
            observation_dtype=observation_dtype,
            masked=masked,
            replay_rows=replay_rows,
            min_rows=min_rows,
            rows_per_update=rows_per_update,
            batch_size=batch_size,
            seed=seed,
        )
        observation = (
            dict(observation_shape)
            if isinstance(observation_shape, Mapping)
            else ArraySpec(tuple(map(int, observation_shape)), str(np.dtype(observation_dtype)))
        )
        self._moves, self._own = _Moves.of(action_space), agent is not None
        spec = EnvSpec(
            observation=observation,
            action=self._moves.spec,
            turn_sign=1,
            truncates=True,
            max_steps=_MAX_STEPS,
            masked=masked,
        )
        if agent is None:
            agent = make_usual_agent(spec, num_simulations=num_simulations, discount=discount)
        check_like("agent", agent.spec, spec, "environment")
        assembly.check_sizes(
            agent.window,
            num_envs=1,
            num_groups=1,
            rows_per_env=replay_rows,
            min_rows=min_rows,
            rows_per_update=rows_per_update,
            batch_size=batch_size,
            rows_at_once=1,
            num_devices=1,
        )
        self.agent = agent
        self.rows, self.updates = 0, 0
        self._ratio = dict(min_rows=min_rows, rows_per_update=rows_per_update)
        init_key, _, self._run_key = assembly.split_seed(seed)
        self._programs = _make_programs(_Functions(agent), replay_rows, batch_size)
        self._put(*self._programs.init(init_key))
        super().__init__(
            agent.search, spec, self.params, history_steps=agent.window.history, seed=seed
        )
        self._reward = 0.0
        self._row: Any = None  # Of the newest `act`, until `update` says what came of it.
        self._metrics: dict[str, Array] = {}

    def act(self, observation: Observation, *, invalid_actions: Array | None = None) -> Array | int:
        """The action at a new observation, with the noise that learning needs.

        Args:
          observation: what `env.reset` or `env.step` has returned.
          invalid_actions: `[A]` bool, True where an action is not allowed; needed where `masked`.

        Returns:
          What `env.step` takes.

        Raises:
          ArgumentError: for another shape, or where `update` has not said what came of the last
            action.
        """
        if self._row is not None:
            raise ArgumentError(
                "act: call update(...) with what came of the last action first, or reset()"
            )
        timestep = self._one_timestep(observation, invalid_actions)
        self._carry, self._row = self._searched(timestep)
        self._first = np.zeros(1, bool)
        return self._moves.outwards(np.asarray(self._row.action))

    def search(
        self, observation: Observation, *, invalid_actions: Array | None = None
    ) -> SearchOutput:
        """As `Player.search`, without noise; the reward is the one that `update` was given."""
        return super().search(observation, reward=self._reward, invalid_actions=invalid_actions)

    def update(
        self,
        observation: Observation,
        action: Any,
        reward: float,
        terminated: bool,
        truncated: bool = False,
    ) -> None:
        """Stores what came of an action, and learns.

        Args:
          observation: the one that `env.step(action)` has returned.
          action: that was played at the observation of `act`, its own or another.
          reward: raw.
          terminated: whether the episode has ended.
          truncated: whether it was cut, so that it is worth more than was seen.

        Raises:
          ArgumentError: before `act`, for another shape, or for what is no action.
        """
        if self._row is None:
            raise ArgumentError("update: call act(...) first, with the observation before")
        arrays, _, single = self._arrays(observation)
        if not single:
            raise ArgumentError("observation must be that of one environment")
        row, chosen = self._row, np.asarray(self._row.action)
        played = self._moves.inwards(action, chosen)
        if (played != chosen).any():  # No return that began before runs through it.
            row = row.replace(action=played, explored=np.ones(1, bool))
            self._carry = self._carry.replace(action=played)
        self._learn(row)
        self._row, self._reward = None, float(reward)
        if terminated or truncated:
            last = TimeStep(
                observation=arrays.get("", arrays),
                reward=np.float32([reward]),
                discount=np.float32([0.0 if terminated else 1.0]),
                first=np.zeros(1, bool),
                last=np.ones(1, bool),
                invalid_actions=np.zeros((1, self.spec.num_actions), bool)
                if self.spec.masked
                else None,
            )
            self._carry, row = self._searched(last)
            self._learn(row)
            self._begin()

    def reset(self, rows: Any = None) -> None:
        """The next observation begins an episode; one that has not ended is cut here."""
        del rows  # There is one environment.
        if self.rows:
            self.replay = self._programs.truncate(self.replay)
        self._row = None
        self._begin()

    def metrics(self) -> dict[str, float]:
        """What the newest update has measured, by the names of a run's metrics; empty before it."""
        return {name: float(x) for name, x in jax.device_get(self._metrics).items()}

    def save(self, folder: Path | str) -> None:
        """Writes all that it is, replay included, to a folder, beside what is there already.

        Raises:
          BadInputError: where the folder holds another agent, or a later state of this one.
        """
        with CheckpointStore(folder, max_to_keep=2) as store:
            number, meta = max(store.steps(), default=-1) + 1, self._meta()
            if number:
                self._check_mine(folder, meta["muzero_agent"])
            meta["muzero_agent"]["number"] = number
            store.save(number, self._state(), meta)

    def _check_mine(self, folder: Path | str, mine: dict[str, Any]) -> None:
        """Refuses a folder whose newest save a save of this agent must not stand beside."""
        made = (read_meta(folder) or {}).get("muzero_agent", {})
        other = [
            name
            for name in ("arguments", "own", "observation", "moves")
            if made.get(name) != json.loads(json.dumps(mine[name]))
        ]
        if other:
            raise BadInputError(
                f"save: {folder} holds something else, its {' and '.join(other)} are not those of"
                " this agent; take another folder"
            )
        if made["rows"] > self.rows:
            raise BadInputError(
                f"save: {folder} holds a state after {made['rows']} rows, this one has"
                f" {self.rows}; take another folder"
            )

    @classmethod
    def load(cls, folder: Path | str, *, agent: Agent | None = None) -> "MuZeroAgent":
        """The agent that was saved in a folder: it goes on as if nothing had been between.

        Args:
          folder: of `save`.
          agent: that it was made with; the usual one needs none.

        Raises:
          BadInputError: where there is none, or where it was made with an agent and none is given,
            or the other way round.
          CheckpointError: where it is damaged, or made with another agent.
        """
        meta = read_meta(folder)
        if meta is None or "muzero_agent" not in meta:
            raise BadInputError(f"load: {folder} holds no saved MuZeroAgent")
        made = meta["muzero_agent"]
        if made["own"] != (agent is not None):
            fault = "give the agent that it was made with" if made["own"] else "leave agent out"
            raise BadInputError(f"load: {fault}")
        arrays = {name: ArraySpec(tuple(x[0]), x[1]) for name, x in made["observation"].items()}
        loaded = cls(
            observation_shape=arrays[""].shape if "" in arrays else arrays,
            action_space=_Moves.read(made["moves"]),
            agent=agent,
            **made["arguments"],
        )
        loaded._restore(folder, made)
        return loaded

    def _one_timestep(self, observation: Observation, invalid_actions: Array | None) -> TimeStep:
        """That of a new observation, of one environment alone."""
        seen = self._seen(observation, self._reward, invalid_actions)
        if not self._single:
            self._carry = None
            raise ArgumentError("observation must be that of one environment")
        return make_timestep(self.spec, *seen)

    def _searched(self, timestep: TimeStep) -> tuple[Any, Any]:
        """The carry after a search, and the row that is stored of it."""
        return self._programs.search(
            self.train.params,
            self._run_key,
            learner.split_count(self.rows),
            self._carry,
            timestep,
            self.agent.explore_at(self.updates),
            np.int32(self.updates & 0x7FFFFFFF),
        )

    def _learn(self, row: Any) -> None:
        """Stores a row, and makes the updates that are due."""
        self.rows += 1
        due = learner.updates_due(self.rows, **self._ratio) - self.updates
        self.train, self.replay, metrics = self._programs.store(
            self.train,
            self.replay,
            row,
            self._run_key,
            learner.split_count(self.updates),
            np.int32(due),
        )
        self.updates += due
        self.params = self.train.params
        if due:
            self._metrics = metrics

    def _begin(self) -> None:
        """The next observation begins an episode."""
        self._first, self._reward = np.ones(1, bool), 0.0

    def _state(self) -> dict[str, Any]:
        """All arrays that it is made of."""
        state = {"train": self.train, "replay": self.replay, "reward": np.float32(self._reward)}
        if self._carry is not None:
            state["carry"] = self._carry
        if self._row is not None:
            state["row"] = self._row
        return jax.tree.map(jnp.asarray, state)

    def _meta(self) -> dict[str, Any]:
        """All else, and what it takes to make it."""
        arrays = self.spec.named_arrays()
        return {
            "muzero_agent": dict(
                arguments=self._arguments,
                own=self._own,
                observation={name: (x.shape, x.dtype) for name, x in arrays.items()},
                moves=self._moves.written(),
                rows=self.rows,
                updates=self.updates,
                first=bool(self._carry is None or self._first.all()),
                acted=self._row is not None,
                remembers=self._carry is not None,
                looks=self._count,
            )
        }

    def _restore(self, folder: Path | str, made: dict[str, Any]) -> None:
        """Takes the arrays of a save, and the counts of its description."""
        carry = acting.init_carry(self.spec, 1, self.agent.window.history)
        like = {"train": self.train, "replay": self.replay, "reward": jnp.float32(0)}
        if made["remembers"]:
            like["carry"] = carry
        if made["acted"]:
            like["row"] = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), self.agent.row
            )
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        _, state, _ = restore_newest(folder, shapes, step=made["number"])
        self.rows, self.updates, self._count = made["rows"], made["updates"], made["looks"]
        self._put(state["train"], state["replay"])
        self._reward = float(state["reward"])
        if made["remembers"]:
            self._carry = acting.beside(self.params, state["carry"])
            self._first, self._single = np.full(1, made["first"]), True
        if made["acted"]:
            self._row = acting.beside(self.params, state["row"])

    def _put(self, train: Any, replay: Any) -> None:
        """Takes parameters and replay, each where its programs leave it."""
        over = self._programs.mesh
        self.train = jax.device_put(train, NamedSharding(over, REPLICATED))
        self.replay = jax.device_put(replay, NamedSharding(over, SHARDED))
        self.params = self.train.params


@functools.lru_cache(maxsize=16)
def make_usual_agent(
    spec: EnvSpec, *, num_simulations: int = 16, discount: float = 0.997
) -> Agent:
    """Gumbel MuZero for rewards and values of any size, with what keeps a policy alive before
    rewards have taught it anything (docs/atari.md).

    An image is seen by a convolutional network with its last four frames, all else by an MLP of
    width 128. Of actions that are not one choice, `num_simulations` are drawn in each node.

    Args:
      spec: of the environments.
      num_simulations: of one search.
      discount: γ per step.
    """
    scalar = codecs.make_two_hot_codec(num_bins=601, low=-300.0, high=300.0, transform="muzero")
    policy, more = None, {}
    if not spec.action.is_discrete:
        make = distributions.gaussian if spec.action.sizes is None else distributions.factored
        policy = make(spec.action)
        more = {"policy_loss": distributions.sampled_cross_entropy(policy)}
    codec = Codecs(value=scalar, reward=scalar, policy=policy)
    images = [x.shape for x in spec.named_arrays().values() if len(x.shape) == 3]
    window = Window(history=4 if images else 1, unroll=5, bootstrap=10)
    if images:
        halvings = max(0, math.ceil(math.log2(max(images[0][:2]) / _SMALLEST_SIDE)))
        stages = [(min(32, 16 * 2**i), 3, 2, 0) for i in range(halvings)]
        make_network = functools.partial(make_conv_network, stages=stages)
    else:
        make_network = make_mlp_network
    network = make_network(spec, codec, history_steps=window.history)
    network = value_error.with_value_error(network)
    model = learned_model(
        network, codec, action=spec.action, discount=discount, turn_sign=spec.turn_sign
    )
    if policy is not None:
        model = sampled_model(model, policy, num_samples=num_simulations)
    plan = gumbel_plan(
        num_simulations=num_simulations, min_value_range=0.01, value_error_scale=1.0
    )
    explore = assembly.FULL_NOISE.replace(random_move=np.float32(0.03))
    return assembly.make_agent(
        spec,
        network,
        codec,
        make_search(model, plan),
        window=window,
        discount=discount,
        loss=losses.make_loss(
            network, codec, window=window, value_weight=1.0, priority_unroll=0.5, **more
        ),
        targets=targets.make_targets(
            window=window,
            discount=discount,
            bootstrap_value=targets.make_network_bootstrap(network, scalar),
        ),
        optimizer=learner.make_optimizer(learning_rate=1e-3, warmup_updates=50),
        explore_at=lambda updates: explore,
        observed_steps=window.history + window.future,
        target_interval_updates=100,
        track=value_error.track,
        num_simulations=num_simulations,
        num_edges=None if policy is None else num_simulations,
    )


class _Programs(NamedTuple):
    """What an agent compiles, and the mesh of one device that it runs on."""

    mesh: Mesh
    init: Callable[..., Any]
    search: Callable[..., Any]
    store: Callable[..., Any]
    truncate: Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Functions:
    """An agent by its functions: its shapes may be a dict, which has no hash."""

    agent: Agent

    def _key(self):
        return self.agent.search, self.agent.update, self.agent.init_train

    def __eq__(self, other):
        return isinstance(other, _Functions) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())


@functools.lru_cache(maxsize=16)
def _make_programs(functions: _Functions, replay_rows: int, batch_size: int) -> _Programs:
    """Those of all agents that have the same functions and sizes, compiled once for all."""
    agent, over = functions.agent, make_mesh()
    ring = assembly.make_ring(agent, num_envs=1, rows_per_env=replay_rows)
    learn = learner.make_learn(ring, agent.update, batch_size=batch_size)

    def init(key):
        return agent.init_train(key), ring.init()

    def search(params, key, count, carry, timestep, explore, made_at_updates):
        # The key that the only device has in the library's loops.
        act_key = jax.random.fold_in(learner.fold_count(key, ACT, count), 0)
        carry, output = acting.act(agent.search, params, act_key, carry, timestep, explore)
        return carry, acting.transition(timestep, output, made_at_updates)

    def store(train, replay, row, key, count, num):
        replay = ring.add(replay, 0, jax.tree.map(lambda x: x[:, None], row))
        return learner.make_updates(learn, key)(train, replay, count, num)

    specs = (REPLICATED, SHARDED, SHARDED, REPLICATED, REPLICATED, REPLICATED)
    store = shard(store, over, specs, (REPLICATED, SHARDED, REPLICATED))
    truncate = shard(ring.truncate_episodes, over, SHARDED, SHARDED)
    return _Programs(
        over,
        init=jax.jit(init),
        search=jax.jit(search),
        store=jax.jit(store, donate_argnums=(0, 1)),
        truncate=jax.jit(truncate, donate_argnums=0),
    )


class _Moves(NamedTuple):
    """Actions as the environment has them, and as they are stored.

    Attributes:
      spec: as they are stored.
      shape: of one action to the environment.
      dtype: of it there; "int" is Python's.
      start: the number of the first choice, or of each component's.
    """

    spec: ActionSpec
    shape: tuple[int, ...]
    dtype: str
    start: Any = 0

    @classmethod
    def of(cls, space: Any) -> "_Moves":
        """Of what the constructor is given."""
        if isinstance(space, cls):
            return space
        if isinstance(space, (int, np.integer)):
            space = ActionSpec.discrete(int(space))
        if isinstance(space, ActionSpec):
            dtype = "int" if space.is_discrete else space.dtype
            return cls(space, space.shape, dtype)
        spec, start = spaces.acted(space).spec, getattr(space, "start", None)
        start = 0 if start is None or spec.sizes is None else np.asarray(start).tolist()
        dtype = "int" if spec.is_discrete else np.dtype(space.dtype).name
        return cls(spec, tuple(space.shape), dtype, start)

    def outwards(self, action: np.ndarray) -> Any:
        """A stored action `[1, *spec.shape]` as `env.step` takes it."""
        if self.spec.sizes is None:
            action = np.clip(action.astype(np.float64).ravel(), self.spec.low, self.spec.high)
        if self.dtype == "int":
            return int(action[0]) + self.start
        return (action.reshape(self.shape) + np.asarray(self.start)).astype(self.dtype)

    def inwards(self, action: Any, chosen: np.ndarray) -> np.ndarray:
        """A played action `[1, *spec.shape]` as it is stored; `chosen` where it is that one.

        Raises:
          ArgumentError: for what is no action.
        """
        given, shape = np.asarray(action), self.shape
        if given.shape == shape and (given == self.outwards(chosen)).all():
            return chosen
        if given.shape != shape:
            raise ArgumentError(f"action must be of shape {shape} (got {given.shape})")
        stored = (given - np.asarray(self.start)).reshape(1, *self.spec.shape)
        whole = self.spec.sizes is None or given.dtype.kind in "iub"
        if not whole or not actions.is_one(self.spec, stored).all():
            raise ArgumentError(f"action {action} is none of {self.spec}")
        return stored.astype(self.spec.dtype)

    def written(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict() | {"spec": dataclasses.asdict(self.spec)}

    @classmethod
    def read(cls, made: dict[str, Any]) -> "_Moves":
        """From JSON."""
        spec = {k: tuple(x) if isinstance(x, list) else x for k, x in made["spec"].items()}
        return cls(ActionSpec(**spec), tuple(made["shape"]), made["dtype"], made["start"])
