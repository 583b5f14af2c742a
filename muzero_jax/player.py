"""A trained agent that plays: the one object with a state, on top of the pure functions."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import numpy as np

from muzero_jax import acting
from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, EnvSpec, Observation, Params, SearchFn, TimeStep


class Player:
    """Plays the search's own choice, without noise, in one environment or in a batch of them.

      player = muzero_jax.load_agent("runs/pong")
      action = player.act(observation)
      action = player.act(observation, reward=1.0)  # What came of it.
      player.reset()  # Before the first observation of the next episode.

    It remembers the frames, actions and rewards that the network looks back at. The number of
    environments is that of the first call.

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
        self._step = jax.jit(functools.partial(_step, search))

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
        # The reward of a `first` row belongs to the episode before.
        rewards = np.broadcast_to(np.asarray(reward, np.float32), (size,))
        timestep = TimeStep(
            observation=arrays.get("", arrays),
            reward=np.where(self._first, np.float32(0.0), rewards),
            discount=np.where(self._first, 0.0, self.spec.turn_sign).astype(np.float32),
            first=self._first,
            last=np.zeros(size, bool),
            invalid_actions=invalid_actions,
        )
        self._carry = self._step(
            self.params, self._key, np.int32(self._count), self._carry, timestep
        )
        self._count = (self._count + 1) % 2**31
        self._first = np.zeros(size, bool)
        action = np.asarray(self._carry.action)
        if not single:
            return action
        return action[0] if self.spec.action.shape else int(action[0])

    def _arrays(self, observation: Observation) -> tuple[dict[str, np.ndarray], int, bool]:
        """(name -> array `[B, ...]` of the spec's dtype, B, whether it was one without `[B]`)."""
        wanted = self.spec.named_arrays()
        given = observation if isinstance(observation, Mapping) else {"": observation}
        if missing := wanted.keys() - given.keys():
            raise ArgumentError(
                f"observation must have {', '.join(sorted(wanted)) or 'no names'}"
                f" ({min(missing) or 'one array'} is missing)"
            )
        arrays, sizes = {}, set()
        for name, like in wanted.items():
            x, label = np.asarray(given[name]), f"observation {name}".strip()
            if x.shape != like.shape and x.shape[1:] != like.shape:
                raise ArgumentError(
                    f"{label} must be {like.shape}, or a batch of them (got {x.shape})"
                )
            if not np.can_cast(x.dtype, like.dtype, "same_kind"):
                raise ArgumentError(f"{label} must be {like.dtype} (got {x.dtype})")
            sizes.add(None if x.shape == like.shape else len(x))
            arrays[name] = x.reshape(-1, *like.shape).astype(like.dtype)
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


def _step(search, params, key, count, carry, timestep):
    key = jax.random.fold_in(key, count)
    return acting.act(search, params, key, carry, timestep, acting.NO_EXPLORATION)[0]
