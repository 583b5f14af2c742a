"""A trained agent that plays: an object with a state, on top of the pure functions."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import numpy as np

from muzero_jax import acting
from muzero_jax.envs.gymnasium import make_gymnasium
from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation.actors import make_search_player
from muzero_jax.evaluation.scoring import make_scorer
from muzero_jax.evaluation.statistics import t_interval
from muzero_jax.types import (
    Array,
    EnvSpec,
    HostEnv,
    Observation,
    Params,
    SearchFn,
    SearchOutput,
    TimeStep,
)


class Player:
    """Plays the search's own choice, without noise, in one environment or in a batch of them.

      player = muzero_jax.load_agent("runs/pong")
      action = player.act(observation)
      action = player.act(observation, reward=1.0)  # What came of it.
      player.reset()  # Before the first observation of the next episode.
      found = player.search(observation)  # What it thinks: value, policy, tree.

    It remembers the frames, actions and rewards that the network looks back at. The number of
    environments is that of the first call; `reset` without rows lets it be another one.

    Attributes:
      spec: of the environments that it plays.
      params: that it plays with.
    """

    def __init__(
        self,
        search: SearchFn,
        spec: EnvSpec,
        params: Params,
        *,
        history_steps: int,
        seed: int = 0,
    ):
        """Args:
        search: whose choice is played.
        spec: of the environments.
        params: of the network.
        history_steps: S.
        seed: of what a search draws even without noise.
        """
        self.spec = spec
        self.params = params
        self._history_steps = history_steps
        self._key = jax.random.key(seed)
        self._count = 0
        self._carry: Any = None
        self._first = np.ones(0, bool)
        self._single = False
        self._wanted = spec.named_arrays()
        self._actor = make_search_player(search, spec, history_steps=history_steps)
        self._step = jax.jit(functools.partial(_step, search, spec))
        self._look = jax.jit(functools.partial(_look, search, spec))

    def act(
        self,
        observation: Observation,
        *,
        reward: Array | float = 0.0,
        invalid_actions: Array | None = None,
    ) -> Array | int:
        """The action at a new observation.

        Args:
          observation: one array or a dict of them, as `spec.observation` says, or with `[B]` before
            the shape of each.
          reward: raw, that came with it: one number, or `[B]`.
          invalid_actions: `[A]` or `[B, A]` bool, True where an action is not allowed; needed where
            the agent was trained with them.

        Returns:
          An int, of other kinds of action an array of `spec.action.shape`; or `[B, ...]`.

        Raises:
          ArgumentError: for other shapes, another B than before, or a mask too many or too few.
        """
        seen = self._seen(observation, reward, invalid_actions)
        self._carry = self._step(self.params, self._key, np.int32(self._count), self._carry, *seen)
        self._count = (self._count + 1) % 2**31
        if self._first.any():
            self._first = np.zeros_like(self._first)
        return self._one(np.asarray(self._carry.action))

    def search(
        self,
        observation: Observation,
        *,
        reward: Array | float = 0.0,
        invalid_actions: Array | None = None,
    ) -> SearchOutput:
        """What it sees in a new observation: the search that `act` would make, and the action.

        It is a look: it remembers nothing of it, and `act` has to be called as without it.

        Args:
          observation, reward, invalid_actions: as in `act`.

        Returns:
          Arrays of NumPy, without `[B]` of one environment: `action`, `value`, and in `tree` the
          visits, values and improved policy of the root and what was found below it.

        Raises:
          ArgumentError: as `act`.
        """
        seen = self._seen(observation, reward, invalid_actions)
        found = jax.device_get(
            self._look(self.params, self._key, np.int32(self._count), self._carry, *seen)
        )
        return jax.tree.map(self._one, found)

    def evaluate(self, env: Any, episodes: int = 20, *, seed: int = 0) -> dict[str, Any]:
        """Plays whole episodes without noise, beside what it plays elsewhere.

        Args:
          env: of gymnasium, or a `HostEnv` that has not been reset yet.
          episodes: how many; a multiple of the number of environments.
          seed: of the first episode's environment, and of what a search draws.

        Returns:
          `return_mean`, `returns` (raw), `steps_mean`, `episodes_cut` (by a limit of steps), and
          `interval`, a 95 % interval of the mean, None of one episode.

        Raises:
          ArgumentError: for an environment that is not like `spec`, or a number that is none of
            its multiples.
        """
        if not isinstance(env, HostEnv):
            # Its limit of steps is its own.
            limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
            env = make_gymnasium(lambda: env, seeds=[seed], max_steps=limit or self.spec.max_steps)
        check_like("env", env.spec, self.spec, "agent")
        score = make_scorer(lambda seeds: env, self._actor, episodes=episodes)
        result = score(self.params, [seed])
        interval = None
        if episodes > 1:
            low, high = t_interval(np.asarray(result["returns"]))
            interval = (float(low), float(high))
        return result | {"interval": interval}

    def _one(self, x: np.ndarray) -> Any:
        """`x` `[B, ...]` as the caller has it: of one environment without `[B]`."""
        if not self._single:
            return x
        return x[0] if x.ndim > 1 else x[0].item()

    def _seen(
        self, observation: Observation, reward: Array | float, invalid_actions: Array | None
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray | None]:
        """What `make_timestep` takes of a new observation `[B]`, checked; the first one makes the
        memory."""
        arrays, size, single = self._arrays(observation)
        if (invalid_actions is not None) != self.spec.masked:
            masks = "needed: this game has" if self.spec.masked else "given, but this game has no"
            raise ArgumentError(f"invalid_actions {masks} masks")
        if self._carry is None:
            carry = acting.init_carry(self.spec, size, self._history_steps)
            self._carry = acting.beside(self.params, carry)
            self._first, self._single = np.ones(size, bool), single
        if (size, single) != (len(self._first), self._single):
            raise ArgumentError(
                f"observation must be that of {len(self._first)} environments, as before"
                f" (got {size})"
            )
        if invalid_actions is not None:
            invalid_actions = np.asarray(invalid_actions, bool).reshape(size, self.spec.num_actions)
        # A history leaves out the reward of a `first` row, which is of the episode before.
        rewards = np.empty(size, np.float32)
        rewards[:] = reward
        return arrays.get("", arrays), rewards, self._first, invalid_actions

    def _arrays(self, observation: Observation) -> tuple[dict[str, np.ndarray], int, bool]:
        """(name -> array `[B, ...]` of the spec's dtype, B, whether it was one without `[B]`)."""
        wanted = self._wanted
        like = wanted.get("")
        if like is not None and type(observation) is np.ndarray:
            # Most calls: what is compared below takes a tenth of a small search.
            if (observation.shape, observation.dtype) == (like.shape, like.dtype):
                return {"": observation.copy()[None]}, 1, True
        given = observation if isinstance(observation, Mapping) else {"": observation}
        if missing := wanted.keys() - given.keys():
            raise ArgumentError(
                f"observation must have {', '.join(sorted(wanted)) or 'no names'}"
                f" ({min(missing) or 'one array'} is missing)"
            )
        arrays, sizes = {}, set()
        for name, like in wanted.items():
            x, label = np.asarray(given[name]), f"observation {name}".strip()
            single = x.shape == like.shape
            if not single and x.shape[1:] != like.shape:
                raise ArgumentError(
                    f"{label} must be {like.shape}, or a batch of them (got {x.shape})"
                )
            if not np.can_cast(x.dtype, like.dtype, "same_kind"):
                raise ArgumentError(f"{label} must be {like.dtype} (got {x.dtype})")
            sizes.add(None if single else len(x))
            x = x.astype(like.dtype)  # A copy: environments may write into what they gave.
            arrays[name] = x[None] if single else x
        if len(sizes) > 1:
            raise ArgumentError("observation: its arrays are of different numbers of environments")
        (size,) = sizes
        return arrays, 1 if size is None else size, size is None

    def reset(self, rows: Sequence[int] | Array | None = None) -> None:
        """The next observation begins an episode: in all environments, or in `rows` of the batch
        (indices, or `[B]` bool)."""
        if rows is None:
            self._carry = None
            return
        self._first = self._first.copy()
        self._first[np.asarray(rows)] = True


def check_like(name: str, spec: EnvSpec, wanted: EnvSpec, owner: str) -> None:
    """Refuses a spec under which other things are seen or done than under that of `owner`.

    Raises:
      ArgumentError: beginning with `name`.
    """
    for field in ("observation", "action", "masked", "turn_sign"):
        its, other = getattr(spec, field), getattr(wanted, field)
        if its != other:
            raise ArgumentError(f"{name}: its {field} is {its}, that of the {owner} is {other}")


def make_timestep(
    spec: EnvSpec,
    observation: Observation,
    reward: Array,
    first: Array,
    invalid_actions: Array | None,
) -> TimeStep:
    """The time step `[B]` of an observation that ends no episode, in a program or of NumPy."""
    return TimeStep(
        observation=observation,
        reward=reward,
        discount=spec.turn_sign * (1.0 - first.astype(np.float32)),
        first=first,
        last=first & False,
        invalid_actions=invalid_actions,
    )


def _step(search, spec, params, key, count, carry, *seen):
    return _act(search, spec, params, key, count, carry, *seen)[0]


def _look(search, spec, params, key, count, carry, *seen):
    return _act(search, spec, params, key, count, carry, *seen)[1]


def _act(search, spec, params, key, count, carry, *seen):
    # The time step is made in the program: each array that goes in costs as much as a small layer.
    key, timestep = jax.random.fold_in(key, count), make_timestep(spec, *seen)
    return acting.act(search, params, key, carry, timestep, acting.NO_EXPLORATION)
