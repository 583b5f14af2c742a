"""Environments with the interface of gymnasium, stepped one after the other."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from muzero_jax import errors, types
from muzero_jax.envs import spaces
from muzero_jax.envs.checked import check_host_env
from muzero_jax.errors import EnvError


def make_gymnasium(
    make_env: Callable[..., Any],
    *,
    seeds: Sequence[int],
    max_steps: int | None = None,
    leave_out: Sequence[str] = (),
    **options: Any,
) -> types.HostEnv:
    """Makes `len(seeds)` environments with `make_env` and steps them in a plain Python loop.

    Needed of each: `reset(seed=...) -> (observation, info)`; `step(action) -> (observation,
    reward, terminated, truncated, info)`; an `observation_space` and an `action_space` that
    `spaces.observed` and `spaces.acted` can serve. Nothing is imported from gymnasium. An
    `info["action_mask"]` `[A]`, truthy where a discrete action is legal, has to come with every
    step or with none. Where an episode is `terminated` and `truncated` in one step, it is
    terminated.

    Args:
      make_env: returns one environment that does not reset itself; called once for each seed, with
        the `options`.
      seeds: of the first reset; later resets go on with the environment's own random numbers.
      max_steps: steps until an episode is truncated; None takes `env.spec.max_episode_steps`.
      leave_out: names of entries of the observation that the agent is not to see.
      options: arguments of `make_env`.

    Raises:
      ArgumentError: for spaces that cannot be served.
      EnvError: here, from `reset` and from `step`, where an environment breaks its contract.
    """
    if len(seeds) < 1:
        raise errors.ArgumentError("number of seeds 0 must be >= 1")
    envs = [make_env(**options) for _ in seeds]
    seen = spaces.observed(envs[0].observation_space, leave_out=leave_out)
    done = spaces.acted(envs[0].action_space)
    spec = _spec(envs[0], seen, done, max_steps)
    # Whether it has masks is seen at a reset alone: the first one is made here, and kept.
    begun = [_reset_row(envs[0], 0, 0, seen, spec, seed=int(seeds[0]))]
    spec = dataclasses.replace(spec, masked=begun[0].invalid_actions is not None)
    memory: dict[str, Any] = {}  # `last` [E] of the newest rows, `steps` [E] of each episode.

    def reset():
        memory.update(last=np.zeros(len(envs), bool), steps=np.zeros(len(envs), int), count=0)
        rows = [
            begun.pop() if begun else _reset_row(env, i, 0, seen, spec, seed=int(seeds[i]))
            for i, env in enumerate(envs)
        ]
        return _stack(rows, 0)

    def step(action):
        memory["count"] += 1
        last, steps, count = memory["last"], memory["steps"], memory["count"]
        action = done.convert(action)
        rows = []
        for i, env in enumerate(envs):
            if last[i]:
                steps[i] = 0
                rows.append(_reset_row(env, i, count, seen, spec))
            else:
                steps[i] += 1
                at_limit = bool(steps[i] >= spec.max_steps)
                # One number as an int: not every environment takes an array of NumPy for it.
                one = action[i] if spec.action.shape else int(action[i])
                rows.append(_step_row(env, i, count, seen, spec, one, at_limit))
        timestep = _stack(rows, count)
        memory["last"] = timestep.last
        return timestep

    draws = all(getattr(env, "render_mode", None) == "rgb_array" for env in envs)
    return check_host_env(
        types.HostEnv(
            spec=spec,
            num_envs=len(envs),
            reset=reset,
            step=step,
            draw=(lambda: [env.render() for env in envs]) if draws else None,
        )
    )


def make_by_id(task: str, *, seeds: Sequence[int], **options: Any) -> types.HostEnv:
    """`make_gymnasium` of an environment that gymnasium knows.

    Args:
      task: its id, such as `"MountainCar-v0"`. One of the form `"module:id"` is refused: it would
        import that module.
      seeds: as in `make_gymnasium`.
      options: the others of `make_gymnasium`, and those of the environment's own maker.

    Raises:
      ArgumentError: for an id or an option that gymnasium does not know, or a missing dependency.
    """
    import gymnasium  # Takes a while: only programs that need it pay.

    if ":" in task:
        raise errors.ArgumentError(
            f"task: {task!r} names a module; a class of one's own is \"module:function\""
        )

    def make_env(**options):
        try:
            return gymnasium.make(task, **options)
        except (gymnasium.error.Error, TypeError) as error:
            line = " ".join(str(error).split())
            raise errors.ArgumentError(f"task: {task!r} cannot be made: {line}") from None

    return make_gymnasium(make_env, seeds=seeds, **options)


def _spec(
    env: Any, seen: spaces.Observed, done: spaces.Acted, max_steps: int | None
) -> types.EnvSpec:
    """Describes `env`."""
    if max_steps is None:
        max_steps = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if max_steps is None or max_steps < 1:
        raise errors.ArgumentError(
            f"max_steps {max_steps} must be >= 1: the environment has no limit itself"
        )
    return types.EnvSpec(
        observation=seen.spec,
        action=done.spec,
        turn_sign=1,
        truncates=True,
        max_steps=int(max_steps),
    )


def _reset_row(
    env, index: int, count: int, seen: spaces.Observed, spec: types.EnvSpec, **seed: int
) -> types.TimeStep:
    """Begins an episode; returns its first row `[]`."""
    came = _unpack(env.reset(**seed), "reset", ("observation", "info"), index, count)
    return types.TimeStep(
        observation=_observation(came[0], index, count, seen),
        reward=np.float32(0),
        discount=np.float32(0),
        first=True,
        last=False,
        invalid_actions=_invalid(came[1], index, count, spec),
    )


def _step_row(
    env, index: int, count: int, seen: spaces.Observed, spec: types.EnvSpec, action, at_limit: bool
) -> types.TimeStep:
    """Steps one environment; returns its row `[]`, truncated where it is `at_limit`."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    came = _unpack(env.step(action), "step", names, index, count)
    observation, reward, terminated, truncated, info = came
    if np.ndim(reward) != 0:
        raise EnvError(f"env {index}, step {count}: reward {reward} is not one number")
    return types.TimeStep(
        observation=_observation(observation, index, count, seen),
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


def _observation(came: Any, index: int, count: int, seen: spaces.Observed) -> types.Observation:
    """Returns a copy as the spec declares it; refuses another shape, or numbers that were cut."""
    try:
        observation = seen.convert(came)
    except EnvError as error:
        raise EnvError(f"env {index}, step {count}: {error}") from None
    for x, like in zip(jax.tree.leaves(observation), jax.tree.leaves(seen.spec), strict=True):
        if x.shape != like.shape:
            raise EnvError(
                f"env {index}, step {count}: observation {x.shape} {x.dtype}, declared"
                f" {like.shape} {like.dtype}"
            )
    return observation


def _invalid(info: Any, index: int, count: int, spec: types.EnvSpec) -> np.ndarray | None:
    """Turns gymnasium's mask of legal actions into ours of invalid ones."""
    if not info or "action_mask" not in info:
        return None
    if not spec.action.is_discrete:
        fault = f'info["action_mask"] given, but an action is {spec.action}; leave it out'
        raise EnvError(f"env {index}, step {count}: {fault}")
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
        for name in ("reward", "discount", "first", "last")
    }
    columns["observation"] = jax.tree.map(
        lambda *x: np.stack(x), *(row.observation for row in rows)
    )
    masks = np.stack([row.invalid_actions for row in rows]) if all(with_mask) else None
    return types.TimeStep(**columns, invalid_actions=masks)
