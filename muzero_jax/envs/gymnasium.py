"""Environments with the interface of gymnasium, stepped one after the other."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from muzero_jax import errors, types
from muzero_jax.envs.checked import check_host_env
from muzero_jax.errors import EnvError


def make_gymnasium(
    make_env: Callable[[], Any], *, seeds: Sequence[int], max_steps: int | None = None
) -> types.HostEnv:
    """Makes `len(seeds)` environments with `make_env` and steps them in a plain Python loop.

    Needed of each: `reset(seed=...) -> (observation, info)`; `step(action) -> (observation,
    reward, terminated, truncated, info)`; `observation_space` with `shape` and `dtype`;
    `action_space` with `n`. Nothing is imported from gymnasium. uint8 observations stay as they
    are (images `(H, W, C)`), others become float32. An `info["action_mask"]` `[A]`, truthy where
    an action is legal, has to come with every step or with none. Where an episode is `terminated`
    and `truncated` in one step, it is terminated.

    Args:
      make_env: returns one environment that does not reset itself; called once for each seed.
      seeds: of the first reset; later resets go on with the environment's own random numbers.
      max_steps: steps until an episode is truncated; None takes `env.spec.max_episode_steps`.

    Raises:
      ArgumentError: for spaces that cannot be served.
      EnvError: here, from `reset` and from `step`, where an environment breaks its contract.
    """
    if len(seeds) < 1:
        raise errors.ArgumentError("number of seeds 0 must be >= 1")
    envs = [make_env() for _ in seeds]
    spec = _spec(envs[0], max_steps)
    # Whether it has masks is seen at a reset alone: the first one is made here, and kept.
    begun = [_reset_row(envs[0], 0, 0, spec, seed=int(seeds[0]))]
    spec = dataclasses.replace(spec, masked=begun[0].invalid_actions is not None)
    start = int(getattr(envs[0].action_space, "start", 0))
    memory: dict[str, Any] = {}  # `last` [E] of the newest rows, `steps` [E] of each episode.

    def reset():
        memory.update(last=np.zeros(len(envs), bool), steps=np.zeros(len(envs), int), count=0)
        rows = [
            begun.pop() if begun else _reset_row(env, i, 0, spec, seed=int(seeds[i]))
            for i, env in enumerate(envs)
        ]
        return _stack(rows, 0)

    def step(action):
        memory["count"] += 1
        last, steps, count = memory["last"], memory["steps"], memory["count"]
        rows = []
        for i, env in enumerate(envs):
            if last[i]:
                steps[i] = 0
                rows.append(_reset_row(env, i, count, spec))
            else:
                steps[i] += 1
                at_limit = bool(steps[i] >= spec.max_steps)
                rows.append(_step_row(env, i, count, spec, int(action[i]) + start, at_limit))
        timestep = _stack(rows, count)
        memory["last"] = timestep.last
        return timestep

    return check_host_env(types.HostEnv(spec=spec, num_envs=len(envs), reset=reset, step=step))


def _spec(env: Any, max_steps: int | None) -> types.EnvSpec:
    """Describes `env`; refuses spaces that the library cannot serve."""
    actions, observations = env.action_space, env.observation_space
    shape, dtype = getattr(observations, "shape", None), getattr(observations, "dtype", None)
    if not hasattr(actions, "n") or getattr(actions, "shape", ()) != () or not shape:
        raise errors.ArgumentError(
            f"env has actions {actions} and observations {observations}; "
            "needed: one discrete action and observations of at least one axis"
        )
    if max_steps is None:
        max_steps = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if max_steps is None or max_steps < 1:
        raise errors.ArgumentError(
            f"max_steps {max_steps} must be >= 1: the environment has no limit itself"
        )
    return types.EnvSpec(
        observation_shape=tuple(int(size) for size in shape),
        observation_dtype="uint8" if np.dtype(dtype) == np.uint8 else "float32",
        num_actions=int(actions.n),
        turn_sign=1,
        truncates=True,
        max_steps=int(max_steps),
    )


def _reset_row(env, index: int, count: int, spec: types.EnvSpec, **seed: int) -> types.TimeStep:
    """Begins an episode; returns its first row `[]`."""
    came = _unpack(env.reset(**seed), "reset", ("observation", "info"), index, count)
    return types.TimeStep(
        observation=_observation(came[0], index, count, spec),
        reward=np.float32(0),
        discount=np.float32(0),
        first=True,
        last=False,
        invalid_actions=_invalid(came[1], index, count, spec),
    )


def _step_row(env, index: int, count: int, spec: types.EnvSpec, action: int, at_limit: bool):
    """Steps one environment; returns its row `[]`, truncated where it is `at_limit`."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    came = _unpack(env.step(action), "step", names, index, count)
    observation, reward, terminated, truncated, info = came
    if np.ndim(reward) != 0:
        raise EnvError(f"env {index}, step {count}: reward {reward} is not one number")
    return types.TimeStep(
        observation=_observation(observation, index, count, spec),
        reward=np.float32(reward),
        discount=np.float32(0 if terminated else 1),
        first=False,
        last=bool(terminated or truncated or at_limit),
        invalid_actions=_invalid(info, index, count, spec),
    )


def _unpack(came: Any, call: str, names: tuple[str, ...], index: int, count: int) -> tuple:
    """Refuses what `reset` or `step` of older interfaces return."""
    if not isinstance(came, tuple) or len(came) != len(names):
        found = f"{len(came)} values" if isinstance(came, tuple) else type(came).__name__
        raise EnvError(
            f"env {index}, step {count}: {call} returned {found}, needed ({', '.join(names)})"
        )
    return came


def _observation(came: Any, index: int, count: int, spec: types.EnvSpec) -> np.ndarray:
    """Returns a copy in the spec's dtype; refuses another shape, or numbers that would be cut."""
    came, dtype = np.asarray(came), np.dtype(spec.observation_dtype)
    rule = "safe" if dtype == np.uint8 else "same_kind"  # Floats lose digits only.
    if came.shape != spec.observation_shape or not np.can_cast(came.dtype, dtype, rule):
        raise EnvError(
            f"env {index}, step {count}: observation {came.shape} {came.dtype}, "
            f"declared {spec.observation_shape} {dtype}"
        )
    return came.astype(dtype)


def _invalid(info: Any, index: int, count: int, spec: types.EnvSpec) -> np.ndarray | None:
    """Turns gymnasium's mask of legal actions into ours of invalid ones."""
    if not info or "action_mask" not in info:
        return None
    legal = np.asarray(info["action_mask"])
    if legal.shape != (spec.num_actions,):
        fault = f'info["action_mask"] {legal.shape}, needed ({spec.num_actions},)'
        raise EnvError(f"env {index}, step {count}: {fault}")
    return ~legal.astype(bool)


def _stack(rows: list[types.TimeStep], count: int) -> types.TimeStep:
    """Returns time steps `[E]` from one row of each environment."""
    with_mask = [row.invalid_actions is not None for row in rows]
    if any(with_mask) and not all(with_mask):
        index = with_mask.index(False)
        raise EnvError(f'env {index}, step {count}: info["action_mask"] is missing, others have it')
    columns = {
        name: np.stack([getattr(row, name) for row in rows])
        for name in ("observation", "reward", "discount", "first", "last")
    }
    masks = np.stack([row.invalid_actions for row in rows]) if all(with_mask) else None
    return types.TimeStep(**columns, invalid_actions=masks)
