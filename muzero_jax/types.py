"""Every type that crosses a module boundary: frozen data, and bundles of pure functions.

Letters: B batch, E environments, T time, K unroll, S history length, A discrete actions, n
bootstrap steps, F frames; in a search E edges of a node, K actions drawn for it. Rows: row j holds
what *arrived with* its observation (reward, discount) and what was *done after* it (action, policy,
value).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import chex

from muzero_jax.errors import ArgumentError as ArgumentError

Array = chex.Array
Params = Any
Observation = Any  # One array, or a dict of them, as `EnvSpec.observation` says.
Embedding = Any
Policy = Any  # Opaque: only the search that made it and its policy loss look inside.


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array; static, hashable.

    Attributes:
      shape: without leading axes; images are `(H, W, C)`.
      dtype: its NumPy dtype name, e.g. `"uint8"`.
    """

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{self.shape}"


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """What an action is; static, hashable. `discrete`, `several` and `real` make the three kinds.

    Attributes:
      sizes: how many choices each component has; None: components are real numbers.
      shape: of one action; `()` is one number.
      low, high: of real numbers, the bounds of each component in order; else `()`.
    """

    sizes: tuple[int, ...] | None
    shape: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def discrete(cls, num_actions: int) -> "ActionSpec":
        """One of A actions: int32 `[]` in [0, A)."""
        if num_actions < 1:
            raise ArgumentError(f"num_actions must be >= 1 (got {num_actions})")
        return cls(sizes=(int(num_actions),))

    @classmethod
    def several(cls, sizes: Sequence[int]) -> "ActionSpec":
        """D choices at once: int32 `[D]`, component i in [0, sizes[i])."""
        if not sizes or min(sizes) < 1:
            raise ArgumentError(f"sizes of an action must be >= 1 (got {tuple(sizes)})")
        return cls(sizes=tuple(map(int, sizes)), shape=(len(sizes),))

    @classmethod
    def real(
        cls, low: Sequence[float], high: Sequence[float], shape: tuple[int, ...] | None = None
    ) -> "ActionSpec":
        """D real numbers at once: float32 of `shape`, `[D]` by default, each within its bounds."""
        low, high = tuple(map(float, low)), tuple(map(float, high))
        shape = (len(low),) if shape is None else tuple(map(int, shape))
        bounds = [*zip(low, high, strict=False)]
        finite = all(math.isfinite(x) for x in (*low, *high))
        if not low or len(low) != len(high) or not finite or any(x >= y for x, y in bounds):
            raise ArgumentError(
                f"bounds of an action must be finite, low < high, as many of each (got {low} and"
                f" {high})"
            )
        if math.prod(shape) != len(low):
            raise ArgumentError(f"an action of shape {shape} has no {len(low)} components")
        return cls(sizes=None, shape=shape, low=low, high=high)

    @property
    def dtype(self) -> str:
        """`"int32"` of choices, `"float32"` of real numbers."""
        return "float32" if self.sizes is None else "int32"

    @property
    def is_discrete(self) -> bool:
        """Whether it is one discrete choice, which has A, masks and a flat policy."""
        return self.sizes is not None and not self.shape

    @property
    def num_actions(self) -> int:
        """A of one discrete action.

        Raises:
          ArgumentError: for other kinds, which have no such number.
        """
        if not self.is_discrete:
            raise ArgumentError(f"an action must be one discrete choice here (it is {self})")
        return self.sizes[0]

    def __str__(self) -> str:
        if self.sizes is None:
            return f"real numbers from {self.low} to {self.high}"
        return f"choices of {self.sizes}" if self.shape else f"one of {self.sizes[0]}"


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an environment promises; static, hashable, never a pytree.

    Attributes:
      observation: an `ArraySpec`; or of a dict of arrays its `(name, ArraySpec)` in the order of
        their names, for which a dict may be given.
      action: of one player's move.
      turn_sign: +1 for one player, -1 for two players who alternate.
      truncates: whether an episode can end without terminating.
      max_steps: most agent steps in one episode.
      masked: whether every time step comes with `invalid_actions`; of one discrete action alone.
    """

    observation: ArraySpec | tuple[tuple[str, ArraySpec], ...] | Mapping[str, ArraySpec]
    action: ActionSpec
    turn_sign: int
    truncates: bool
    max_steps: int
    masked: bool = False

    def __post_init__(self):
        if isinstance(self.observation, Mapping):
            object.__setattr__(self, "observation", tuple(sorted(self.observation.items())))
        if not isinstance(self.observation, ArraySpec):
            if not self.observation or not all(name for name, _ in self.observation):
                raise ArgumentError(
                    "observation: a dict must have an array at least, and a name for each"
                    f" (got {[name for name, _ in self.observation]})"
                )
        if self.masked and not self.action.is_discrete:
            raise ArgumentError(f"masked needs one discrete action (it is {self.action})")

    def named_arrays(self) -> dict[str, ArraySpec]:
        """The `ArraySpec` of each array by name; one that is no dict is called `""`."""
        one = isinstance(self.observation, ArraySpec)
        return {"": self.observation} if one else dict(self.observation)

    def observation_tree(self) -> "ArraySpec | dict[str, ArraySpec]":
        """The `ArraySpec` of each array, in the structure that observations have."""
        one = isinstance(self.observation, ArraySpec)
        return self.observation if one else dict(self.observation)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of observations that are one array.

        Raises:
          ArgumentError: where they are a dict.
        """
        return self._array().shape

    @property
    def observation_dtype(self) -> str:
        """Of observations that are one array, see `observation_shape`."""
        return self._array().dtype

    @property
    def num_actions(self) -> int:
        """A of one discrete action, see `ActionSpec.num_actions`."""
        return self.action.num_actions

    def _array(self) -> ArraySpec:
        if not isinstance(self.observation, ArraySpec):
            names = ", ".join(name for name, _ in self.observation)
            raise ArgumentError(f"observations must be one array here (they are a dict of {names})")
        return self.observation


class Window(NamedTuple):
    """The rows that learning sees around a root: S - 1 before it, K + n after it.

    Attributes:
      history: S, frames that the representation sees.
      unroll: K, steps of the model that are learned.
      bootstrap: n, steps of a return before it bootstraps.
    """

    history: int
    unroll: int
    bootstrap: int

    @property
    def future(self) -> int:
        """K + n."""
        return self.unroll + self.bootstrap


@chex.dataclass(frozen=True)
class TimeStep:
    """What an environment returns; any leading axes.

    Attributes:
      observation: arrays `[..., *shape]`, one or a dict of them.
      reward: raw reward `[...]` float32, from the view of the player who moved into this row.
      discount: `[...]` float32 in {-1, 0, +1}: 0 if the step into this row terminated the
        episode (or lost a life that counts as an end) or if the row is a next-step reset,
        else the spec's `turn_sign`; or the mark of `finite.clean`.
      first: `[...]` bool, this row begins an episode.
      last: `[...]` bool, this row holds a final observation; the next row is a reset.
      invalid_actions: `[..., A]` bool, or None where the spec is not `masked`: then every action
        is always legal.
    """

    observation: Observation
    reward: Array
    discount: Array
    first: Array
    last: Array
    invalid_actions: Array | None


@chex.dataclass(frozen=True)
class History:
    """What the representation sees: the newest frame is at index S-1.

    Attributes:
      observation: arrays `[B, S, *shape]`, one or a dict of them.
      action: `[B, S, *action.shape]`, the action that led to each frame (0 on a `first` row).
      reward: `[B, S]` float32, the raw reward that came with each frame (0 on a `first` row).
      valid: `[B, S]` bool, False before the episode began: those entries repeat the first frame.
    """

    observation: Observation
    action: Array
    reward: Array
    valid: Array


@chex.dataclass(frozen=True)
class Transition:
    """One row per environment step, as replay stores it; any leading axes `[...]`.

    Attributes:
      observation: arrays `[..., *shape]`, or None in windows that hold frames apart.
      reward: raw reward that came with the observation, `[...]` float32.
      discount: as in `TimeStep`.
      first: as in `TimeStep`.
      last: as in `TimeStep`.
      invalid_actions: as in `TimeStep`.
      action: done after the observation, `[..., *action.shape]`; on a `last` row it means nothing.
      policy: of the search at this row.
      value: of the search at this row, `[...]` float32.
      explored: as in `SearchOutput`, False on a `last` row; no return runs through such a row.
      made_at_updates: attempted updates when `policy` and `value` were made, `[...]` int32.
    """

    observation: Observation | None
    reward: Array
    discount: Array
    first: Array
    last: Array
    invalid_actions: Array | None
    action: Array
    policy: Policy
    value: Array
    explored: Array
    made_at_updates: Array


@chex.dataclass(frozen=True)
class Sample:
    """A batch of windows drawn from replay.

    Attributes:
      rows: `Transition` with leading `[B, S+1+K+n]` and `observation=None`; the root is at index
        S, so that the action that led to the oldest frame of its history is there.
      observations: arrays `[B, F, ...]`, frames of the rows from index 1 on (the root's is at S-1).
      index: `[B, 2]` int32, (environment, slot) of the root.
      probability: `[B]` float32, the true probability of each draw among this shard's rows; 0
        where there was nothing to draw: such an example is no row of the data, and weighs nothing.
      num_drawable: `[]` float32, how many rows of this shard could have been drawn.
      total_weight: `[]` float32, the sum of their weights, by which shards compare.
      newest_updates: `[]` int32, `made_at_updates` of the newest row, from which ages are counted.
    """

    rows: Transition
    observations: Observation
    index: Array
    probability: Array
    num_drawable: Array
    total_weight: Array
    newest_updates: Array


@chex.dataclass(frozen=True)
class Prediction:
    """A network's output.

    Attributes:
      embedding: of the position, a pytree `[B, ...]`.
      reward_logits: of the reward that led here, `[B, num_logits]` float32.
      value_logits: of the value, `[B, num_logits]` float32.
      policy_logits: of the prior, `[B, A]` float32; `[B, P]` of another `Codecs.policy`.
    """

    embedding: Embedding
    reward_logits: Array
    value_logits: Array
    policy_logits: Array


@chex.dataclass(frozen=True)
class Explore:
    """Traced float32 scalars; all zero when evaluating. Applied inside the search.

    Attributes:
      temperature: of the action drawn from the search's policy; 0 takes the search's own choice.
      noise_scale: scale of the search's root noise (Gumbel noise, or Dirichlet fraction).
      spread: p >= 0; environment i = 1..B of the B that are searched together explores with the
        share (i/B)^p of `noise_scale` and `random_move`: none differ at 0, and the greater p, the
        more of them play nearly as they are evaluated, while the last ones explore.
      random_move: probability of a uniform legal move; it changes `action` and `explored` only.
    """

    temperature: Array
    noise_scale: Array
    random_move: Array
    spread: Array | float = 0.0


@chex.dataclass(frozen=True)
class Tree:
    """What a search has looked at: N nodes, the root first, and the E edges of the root.

    A node has been there where it has visits. Values are those of the player to move.

    Attributes:
      parent: of each node, `[B, N]` int32; -1 of the root, and of what is no node.
      action: that led to each node, `[B, N, *action.shape]`; of the root it means nothing.
      prior: probability of that step among those from the parent, `[B, N]` float32; 1 of the root.
      reward: of that step, `[B, N]` float32; 0 of the root.
      discount: of that step, `[B, N]` float32, negative where the turn changes; 1 of the root.
      visits: `[B, N]` int32; 0 of what is no node.
      value: mean of all that was found from the node on, `[B, N]` float32.
      root_action: of each edge of the root, `[B, E, *action.shape]`.
      root_prior: probability of each edge, with the noise of the root if any, `[B, E]` float32.
      root_visits: `[B, E]` int32.
      root_q: reward + discount * value of each edge, `[B, E]` float32; 0 without a visit.
      root_policy: what the search has made of the prior, `[B, E]` float32.
    """

    parent: Array
    action: Array
    prior: Array
    reward: Array
    discount: Array
    visits: Array
    value: Array
    root_action: Array
    root_prior: Array
    root_visits: Array
    root_q: Array
    root_policy: Array


@chex.dataclass(frozen=True)
class SearchOutput:
    """What a search says.

    Attributes:
      action: for the environment, `[B, *action.shape]` of the spec's dtype.
      policy: what the policy head learns, an opaque pytree `[B, ...]`.
      value: of the root, `[B]` float32.
      explored: `[B]` bool, a random move took the place of another that was to be played.
      tree: for people to look at; None where the search shows none. A compiled program that does
        not return it does not make it.
    """

    action: Array
    policy: Policy
    value: Array
    explored: Array
    tree: Tree | None = None


@chex.dataclass(frozen=True)
class Targets:
    """Training targets of the root and the K steps after it.

    Attributes:
      policy: `[B, K+1, ...]`, as the search made it.
      value: `[B, K+1]` float32.
      reward: `[B, K+1]` float32; at the root it is 0.
      policy_mask: `[B, K+1]` float32, 0 where nothing is learned.
      value_mask: the same for values.
      reward_mask: the same for rewards.
      policy_age: updates since the root's policy was made, `[B]` int32.
    """

    policy: Policy
    value: Array
    reward: Array
    policy_mask: Array
    value_mask: Array
    reward_mask: Array
    policy_age: Array


@chex.dataclass(frozen=True)
class TrainState:
    """What an update changes.

    Attributes:
      params: the newest parameters.
      target_params: a copy of them, `target_interval_updates` old at most.
      opt_state: of the optimizer.
      step: applied updates, `[]` int32.
      skipped_in_a_row: updates that were not finite since the last applied one, `[]` int32.
      tracked: state of a `Tracker`, None without one.
    """

    params: Params
    target_params: Params
    opt_state: Any
    step: Array
    skipped_in_a_row: Array
    tracked: Any = None


class Tracker(NamedTuple):
    """What is kept beside the parameters while they learn: running statistics, averages of them.

    Its state is saved and resumed with the run. An update that is not applied does not change it.

    Attributes:
      init: `(params) -> state`, a pytree of arrays.
      update: `(state, params, measured) -> state`, after an update has made these params.
      measure: `(Sample, Targets, aux of the loss) -> ` a pytree of float arrays, of which each
        device has its share of the batch: `update` is given the mean of all devices.
      old_params: `(state, target_params) -> ` what a `TargetFn` is given as its second params, so
        that targets can read the state; the target parameters by default.
    """

    init: Callable[[Params], Any]
    update: Callable[[Any, Params, Any], Any]
    measure: Callable[[Sample, Targets, dict[str, Array]], Any] = lambda sample, targets, aux: ()
    old_params: Callable[[Any, Params], Any] = lambda state, target_params: target_params


@chex.dataclass(frozen=True)
class RunState:
    """All that a resume needs; `counters` holds host integers of any size.

    Attributes:
      train: what an update changes.
      replay: the replay's state.
      env: states of JAX environments `[E, ...]`, or None for host environments.
      timestep: newest `TimeStep` `[E, ...]` of JAX environments, or None.
      acting: the carry of acting, of the loop's own type.
      counters: host integers.
    """

    train: TrainState
    replay: Any
    env: Any
    timestep: TimeStep | None
    acting: Any
    counters: "Counters"


class Counters(NamedTuple):
    """Host-side counters (Python integers: they may pass 2^31).

    Attributes:
      iteration: finished iterations of the loop; the step of a checkpoint.
      env_steps: real environment steps (a next-step reset is none).
      rows: rows written to replay by all environments.
      updates: attempted updates.
      resumes: how often the run was taken up again.
    """

    iteration: int = 0
    env_steps: int = 0
    rows: int = 0
    updates: int = 0
    resumes: int = 0


class Network(NamedTuple):
    """Three pure functions; `params` and embeddings are opaque pytrees.

    Attributes:
      init: `(key) -> params`.
      initial_inference: `(params, History [B, S]) -> Prediction [B]`, whose reward logits mean
        nothing: no reward leads to a root.
      recurrent_inference: `(params, embedding [B], action [B, *action.shape]) -> Prediction [B]`.
    """

    init: Callable[[chex.PRNGKey], Params]
    initial_inference: Callable[[Params, History], Prediction]
    recurrent_inference: Callable[[Params, Embedding, Array], Prediction]


class Codec(NamedTuple):
    """How a scalar is written as logits.

    Attributes:
      num_logits: size of the head.
      encode: scalar `[...]` -> distribution or scalar `[..., num_logits]`.
      decode: logits `[..., num_logits]` -> scalar `[...]`.
      loss: `(logits [..., num_logits], target scalar [...]) -> [...]`.
      low, high: the least and the greatest scalar that can be written: the support. What is beyond
        is learned as its edge; see `codecs.outside`.
    """

    num_logits: int
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    loss: Callable[[Array, Array], Array]
    low: float = -math.inf
    high: float = math.inf


class Distribution(NamedTuple):
    """How a policy over actions is written as logits; `muzero_jax.distributions` makes them.

    Attributes:
      num_logits: P, size of the policy head.
      draw: `(key, logits [B, P], K, invalid_actions [B, A] or None) -> (actions [B, K, *shape],
        log prior [B, K])`: what a search tries in a node, and its prior up to a constant. Drawn
        with replacement, duplicates stay and the prior is 0; without, it is the log probability.
        Where fewer than K are legal, the slots left over have the prior -1e30.
      log_prob: `(logits [..., P], actions [..., K, *shape]) -> [..., K]`, of real numbers the
        logarithm of the density.
      entropy: `(logits [..., P]) -> [...]`, of real numbers differential: it may be negative.
      mode: `(logits [B, P], invalid_actions [B, A] or None) -> action [B, *shape]`, what the policy
        likes best.
    """

    num_logits: int
    draw: Callable[[chex.PRNGKey, Array, int, Array | None], tuple[Array, Array]]
    log_prob: Callable[[Array, Array], Array]
    entropy: Callable[[Array], Array]
    mode: Callable[[Array, Array | None], Array]


class Codecs(NamedTuple):
    """How each head is written.

    Attributes:
      value: of the value head.
      reward: of the reward head.
      policy: of the policy head; None is the categorical distribution over the A actions of one
        discrete choice.
    """

    value: Codec
    reward: Codec
    policy: Distribution | None = None


class Env(NamedTuple):
    """One pure JAX environment which resets itself; `jax.vmap` it.

    Attributes:
      spec: what it promises.
      reset: `(key) -> (state, TimeStep)`.
      step: `(state, action, key) -> (state, TimeStep)`.
      draw: `(state) -> ` a picture of it as SVG text, on the host; None where it has none.
    """

    spec: EnvSpec
    reset: Callable[[chex.PRNGKey], tuple[Any, TimeStep]]
    step: Callable[[Any, Array, chex.PRNGKey], tuple[Any, TimeStep]]
    draw: Callable[[Any], str] | None = None


class HostEnv(NamedTuple):
    """A NumPy batch of environments that reset themselves.

    Attributes:
      spec: what they promise.
      num_envs: E.
      reset: `() -> TimeStep [E]` of NumPy arrays; called once.
      step: `(action [E, *action.shape]) -> TimeStep [E]` of NumPy arrays.
      draw: `() -> ` a picture of each environment as it is now, for people: RGB `[H, W, 3]` uint8
        or SVG text; None where there is none.
    """

    spec: EnvSpec
    num_envs: int
    reset: Callable[[], TimeStep]
    step: Callable[[Array], TimeStep]
    draw: Callable[[], list[Any]] | None = None


class Replay(NamedTuple):
    """A ring of rows on the device.

    Attributes:
      init: `() -> state`.
      add: `(state, env_start, Transition [e, t]) -> state`.
      sample: `(state, key, batch_size) -> Sample`.
      update_priorities: `(state, index [B, 2], priority [B]) -> state`.
      truncate_episodes: `(state) -> state`, marks the newest row of every environment `last`.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Array, Transition], Any]
    sample: Callable[[Any, chex.PRNGKey, int], Sample]
    update_priorities: Callable[[Any, Array, Array], Any]
    truncate_episodes: Callable[[Any], Any]


class Root(NamedTuple):
    """Where a search begins.

    Attributes:
      node: `mctx.RootFnOutput`: `prior_logits` `[B, E]` of the edges, `value` `[B]`, `embedding`.
      invalid_edges: `[B, E]` bool, or None where all edges may be taken.
      invalid_actions: `[B, A]` bool of the environment, or None.
    """

    node: Any
    invalid_edges: Array | None
    invalid_actions: Array | None


class Model(NamedTuple):
    """What a plan searches: from each node E edges lead on, and each stands for an action.

    Attributes:
      action: what an action is to the environment.
      num_edges: E.
      root: `(params, key, History [B, S], invalid_actions [B, A] or None) -> Root [B]`.
      step: `(params, key, edge [B], embedding) -> (mctx.RecurrentFnOutput, embedding)`, what mctx
        calls `recurrent_fn`; the sign of a turn is that of its `discount`.
      action_of: `(embedding of the root, edge [B]) -> action [B, *action.shape]`; by default edge
        i is action i.
      policy_of: `(embedding of the root, weights [B, E]) -> ` what the policy head learns; by
        default the weights.
    """

    action: ActionSpec
    num_edges: int
    root: Callable[[Params, chex.PRNGKey, History, Array | None], Root]
    step: Callable[[Params, chex.PRNGKey, Array, Embedding], tuple[Any, Embedding]]
    action_of: Callable[[Embedding, Array], Array] = lambda embedding, edge: edge
    policy_of: Callable[[Embedding, Array], Policy] = lambda embedding, weights: weights


SearchFn = Callable[[Params, chex.PRNGKey, History, Array | None, Explore], SearchOutput]
Plan = Callable[[Params, chex.PRNGKey, Model, Root, Explore], SearchOutput]
TargetFn = Callable[[Params, Params, chex.PRNGKey, Sample], Targets]
LossFn = Callable[[Params, chex.PRNGKey, Sample, Targets], tuple[Array, dict[str, Array]]]
