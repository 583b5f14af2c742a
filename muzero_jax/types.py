"""Every type that crosses a module boundary: frozen data, and bundles of pure functions.

Letters: B batch, E environments, T time, K unroll, S history length, A actions, n bootstrap steps,
F frames. Rows: row j holds what *arrived with* its observation (reward, discount) and what was
*done after* it (action, policy, value).
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import chex

from muzero_jax.errors import ArgumentError as ArgumentError

Array = chex.Array
Params = Any
Embedding = Any
Policy = Any  # Opaque: only the search that made it and its policy loss look inside.


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an environment promises; static, hashable, never a pytree.

    Attributes:
      observation_shape: shape of one observation; images are `(H, W, C)`.
      observation_dtype: its NumPy dtype name, e.g. `"uint8"`.
      num_actions: size A of the discrete action set.
      turn_sign: +1 for one player, -1 for two players who alternate.
      truncates: whether an episode can end without terminating.
      max_steps: most agent steps in one episode.
      masked: whether every time step comes with `invalid_actions`.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    turn_sign: int
    truncates: bool
    max_steps: int
    masked: bool = False


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
      observation: `[..., *observation_shape]`.
      reward: raw reward `[...]` float32, from the view of the player who moved into this row.
      discount: `[...]` float32 in {-1, 0, +1}: 0 if the step into this row terminated the
        episode (or lost a life that counts as an end) or if the row is a next-step reset,
        else the spec's `turn_sign`; or the mark of `finite.clean`.
      first: `[...]` bool, this row begins an episode.
      last: `[...]` bool, this row holds a final observation; the next row is a reset.
      invalid_actions: `[..., A]` bool, or None where the spec is not `masked`: then every action
        is always legal.
    """

    observation: Array
    reward: Array
    discount: Array
    first: Array
    last: Array
    invalid_actions: Array | None


@chex.dataclass(frozen=True)
class History:
    """What the representation sees: the newest frame is at index S-1.

    Attributes:
      observation: `[B, S, *observation_shape]`.
      action: `[B, S]` int32, the action that led to each frame (0 on a `first` row).
      reward: `[B, S]` float32, the raw reward that came with each frame (0 on a `first` row).
      valid: `[B, S]` bool, False before the episode began: those entries repeat the first frame.
    """

    observation: Array
    action: Array
    reward: Array
    valid: Array


@chex.dataclass(frozen=True)
class Transition:
    """One row per environment step, as replay stores it; any leading axes `[...]`.

    Attributes:
      observation: `[..., *observation_shape]`, or None in windows that hold frames apart.
      reward: raw reward that came with the observation, `[...]` float32.
      discount: as in `TimeStep`.
      first: as in `TimeStep`.
      last: as in `TimeStep`.
      invalid_actions: as in `TimeStep`.
      action: done after the observation, `[...]` int32; on a `last` row it means nothing.
      policy: of the search at this row.
      value: of the search at this row, `[...]` float32.
      explored: as in `SearchOutput`, False on a `last` row; no return runs through such a row.
      made_at_updates: attempted updates when `policy` and `value` were made, `[...]` int32.
    """

    observation: Array | None
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
      observations: `[B, F, ...]` frames of the rows from index 1 on (the root's is at S-1).
      index: `[B, 2]` int32, (environment, slot) of the root.
      probability: `[B]` float32, the true probability of each draw among this shard's rows; 0
        where there was nothing to draw: such an example is no row of the data, and weighs nothing.
      num_drawable: `[]` float32, how many rows of this shard could have been drawn.
      total_weight: `[]` float32, the sum of their weights, by which shards compare.
      newest_updates: `[]` int32, `made_at_updates` of the newest row, from which ages are counted.
    """

    rows: Transition
    observations: Array
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
      policy_logits: of the prior, `[B, A]` float32.
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
class SearchOutput:
    """What a search says.

    Attributes:
      action: for the environment, `[B]` int32.
      policy: what the policy head learns, an opaque pytree `[B, ...]`.
      value: of the root, `[B]` float32.
      explored: `[B]` bool, a random move took the place of another that was to be played.
    """

    action: Array
    policy: Policy
    value: Array
    explored: Array


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
    """

    params: Params
    target_params: Params
    opt_state: Any
    step: Array
    skipped_in_a_row: Array


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
      recurrent_inference: `(params, embedding [B], action [B]) -> Prediction [B]`.
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


class Codecs(NamedTuple):
    """The codec of each scalar head.

    Attributes:
      value: of the value head.
      reward: of the reward head.
    """

    value: Codec
    reward: Codec


class Env(NamedTuple):
    """One pure JAX environment which resets itself; `jax.vmap` it.

    Attributes:
      spec: what it promises.
      reset: `(key) -> (state, TimeStep)`.
      step: `(state, action, key) -> (state, TimeStep)`.
    """

    spec: EnvSpec
    reset: Callable[[chex.PRNGKey], tuple[Any, TimeStep]]
    step: Callable[[Any, Array, chex.PRNGKey], tuple[Any, TimeStep]]


class HostEnv(NamedTuple):
    """A NumPy batch of environments that reset themselves.

    Attributes:
      spec: what they promise.
      num_envs: E.
      reset: `() -> TimeStep [E]` of NumPy arrays; called once.
      step: `(action [E] int32) -> TimeStep [E]` of NumPy arrays.
    """

    spec: EnvSpec
    num_envs: int
    reset: Callable[[], TimeStep]
    step: Callable[[Array], TimeStep]


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


SearchFn = Callable[[Params, chex.PRNGKey, History, Array | None, Explore], SearchOutput]
TargetFn = Callable[[Params, Params, chex.PRNGKey, Sample], Targets]
LossFn = Callable[[Params, chex.PRNGKey, Sample, Targets], tuple[Array, dict[str, Array]]]
