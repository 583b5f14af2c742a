"""The contract of environments, checked at every step; nothing that breaks it is stored.

Rewards and observations that are not finite are no such breach: a run learns nothing of their rows,
counts them, and ends where there are many (`muzero_jax/finite.py`). `check_env` refuses them.
"""

from typing import Any

import numpy as np

from muzero_jax import actions, types
from muzero_jax.errors import EnvError
from muzero_jax.finite import LIMIT


def check_host_env(env: types.HostEnv) -> types.HostEnv:
    """Wraps `env` so that every time step and every action is checked against `env.spec`.

    The checks are a few NumPy calls on `[E]` and stay on in training. Step n is the n-th call of
    `step`; the rows of `reset` are step 0.

    Returns:
      The same environment; its `step` takes any dtype of the kind and hands the spec's on.

    Raises:
      EnvError: at once for a spec that cannot be, later from `reset` and `step`.
    """
    _check_spec(env.spec, env.num_envs)
    memory: dict[str, Any] = {}  # Newest rows, `[E]` steps of each episode, number of steps.

    def reset():
        timestep = env.reset()
        declared = _declared(env.spec, env.num_envs)
        _check_arrays(timestep, declared, env.spec, 0)
        was_last = np.ones(env.num_envs, bool)  # As if an episode had ended before.
        _check_values(timestep, env.spec, 0)
        _check_ends(timestep, was_last, env.spec, 0)
        steps = np.zeros(env.num_envs, np.int64)
        memory.update(rows=timestep, steps=steps, count=0, declared=declared)
        return timestep

    def step(action):
        if not memory:
            raise EnvError("step called before reset")
        rows, count = memory["rows"], memory["count"] + 1
        action = _check_action(action, rows, env.spec, count)
        timestep = env.step(action)
        _check_arrays(timestep, memory["declared"], env.spec, count)
        _check_fresh(timestep, rows, count)
        _check_values(timestep, env.spec, count)
        _check_ends(timestep, rows.last, env.spec, count)
        steps = _count_steps(timestep, rows.last, memory["steps"], env.spec, count)
        memory.update(rows=timestep, steps=steps, count=count)
        return timestep

    return env._replace(reset=reset, step=step)


def _check_spec(spec: types.EnvSpec, num_envs: int) -> None:
    """Refuses numbers that no environment can have."""
    for name, value in (("num_envs", num_envs), ("spec.max_steps", spec.max_steps)):
        if value < 1:
            raise EnvError(f"{name} {value} must be >= 1")
    if spec.turn_sign not in (1, -1):
        raise EnvError(f"spec.turn_sign {spec.turn_sign} must be 1 (one player) or -1 (two)")


def _declared(spec: types.EnvSpec, num_envs: int) -> dict[str, tuple | None]:
    """Shape and dtype of each array of a `TimeStep`; None for masks where there are none."""
    each = (num_envs,)
    return {
        **{
            name: (each + like.shape, np.dtype(like.dtype))
            for name, like in _named(spec.observation_tree()).items()
        },
        "reward": (each, np.dtype(np.float32)),
        "discount": (each, np.dtype(np.float32)),
        "first": (each, np.dtype(bool)),
        "last": (each, np.dtype(bool)),
        "invalid_actions": (each + (spec.num_actions,), np.dtype(bool)) if spec.masked else None,
    }


def _named(observation: Any) -> dict[str, Any]:
    """The arrays of an observation, or what stands for them, by the names that errors give them."""
    if not isinstance(observation, dict):
        return {"observation": observation}
    return {f"observation[{name!r}]": x for name, x in observation.items()}


def _arrays(timestep: types.TimeStep) -> dict[str, Any]:
    """All arrays of a time step by such names."""
    fields = {name: x for name, x in timestep.items() if name != "observation"}
    return _named(timestep.observation) | fields


def _check_arrays(timestep: types.TimeStep, declared, spec: types.EnvSpec, count: int) -> None:
    """Refuses an array of `timestep` with another shape or dtype than `declared`."""
    arrays = _arrays(timestep)
    if strange := sorted(arrays.keys() ^ declared.keys()):
        raise EnvError(
            f"step {count}: the observation has {sorted(_named(timestep.observation))}, declared"
            f" {sorted(_named(spec.observation_tree()))}: {strange[0]}"
        )
    for name, form in declared.items():
        came = arrays[name]
        if (came is None) != (form is None):
            found = "None" if came is None else "given"
            raise EnvError(f"step {count}: {name} {found}, but spec.masked is {spec.masked}")
        if form is None or isinstance(came, np.ndarray) and (came.shape, came.dtype) == form:
            continue
        is_array = isinstance(came, np.ndarray)
        found = f"{came.shape} {came.dtype}" if is_array else type(came).__name__
        raise EnvError(f"step {count}: {name} {found}, declared {form[0]} {form[1]}")


def _check_fresh(timestep: types.TimeStep, before: types.TimeStep, count: int) -> None:
    """Refuses an array that is written again while the device may still read it."""
    former = _arrays(before)
    for name, came in _arrays(timestep).items():
        # Where the bounds are apart the memory is; only else the exact question is asked.
        old = former[name]
        if came is None or not came.flags.writeable or not np.may_share_memory(came, old):
            continue
        if np.shares_memory(came, old):
            raise EnvError(f"step {count}: {name} is the array of the step before; copy it")


def _check_action(action, rows: types.TimeStep, spec: types.EnvSpec, count: int) -> np.ndarray:
    """Returns `action` `[E, ...]`, to be done after `rows` `[E]`, in the spec's dtype."""
    action, needed = np.asarray(action), (*rows.reward.shape, *spec.action.shape)
    kinds, words = ("f", "float") if spec.action.sizes is None else ("iu", "integer")
    if action.shape != needed or action.dtype.kind not in kinds:
        found = f"{action.shape} {action.dtype}"
        raise EnvError(f"step {count}: action {found}, needed {needed} {words}")
    flat = spec.action.is_discrete
    allowed = f"[0, {spec.action.num_actions})" if flat else str(spec.action)
    outside = ~actions.is_one(spec.action, action)
    _refuse(outside, count, f"action {{}} outside {allowed}", action)
    if rows.invalid_actions is not None:
        illegal = rows.invalid_actions[np.arange(len(action)), action] & ~rows.last
        _refuse(illegal, count, "action {} is not legal: invalid_actions is True for it", action)
    return action.astype(spec.action.dtype, copy=False)


def check_finite(timestep: types.TimeStep, count: int) -> None:
    """Raises `EnvError` where a reward or an observation of step `count` is not finite."""
    reward = timestep.reward
    _refuse(~(np.abs(reward) <= LIMIT), count, "reward {} is not finite", reward)
    for name, x in _named(timestep.observation).items():
        if x.dtype.kind == "f":
            finite = (np.abs(x) <= LIMIT).reshape(len(x), -1).all(axis=1)
            _refuse(~finite, count, f"{name} is not finite")


def _check_values(timestep: types.TimeStep, spec: types.EnvSpec, count: int) -> None:
    """Refuses discounts that are not declared, and rows without a move."""
    discount = timestep.discount
    undeclared = (discount != 0) & (discount != spec.turn_sign)
    _refuse(undeclared, count, f"discount {{}}, declared 0 or {spec.turn_sign}", discount)
    if timestep.invalid_actions is not None:
        stuck = timestep.invalid_actions.all(axis=1) & ~timestep.last
        _refuse(stuck, count, "no legal action: invalid_actions is True for all")


def _check_ends(timestep: types.TimeStep, was_last, spec: types.EnvSpec, count: int) -> None:
    """Refuses rows that do not follow from whether the rows before were `last` (`[E]`)."""
    first, last, discount = timestep.first, timestep.last, timestep.discount
    where = "of reset()" if count == 0 else "after `last`"
    _refuse(was_last & ~first, count, f"the row {where} is not `first`: nothing was reset")
    _refuse(first & last, count, "`first` and `last` on one row")
    _refuse(first & (discount != 0), count, "discount {} on a `first` row, needed 0", discount)
    reset, reward = first & was_last, timestep.reward
    paid = reset & (reward != 0) & np.isfinite(reward)
    _refuse(paid, count, "reward {} on a reset row, needed 0", reward)
    if spec.truncates:
        _refuse(
            first & ~was_last,
            count,
            "`first` without `last` before it; only where spec.truncates is False may it be so",
        )
    else:
        truncated = last & (discount != 0)
        _refuse(truncated, count, "`last` with discount {} but spec.truncates is False", discount)


def _count_steps(timestep, was_last, steps, spec: types.EnvSpec, count: int) -> np.ndarray:
    """Returns the `[E]` steps of each running episode, from those before (`steps`)."""
    # A `first` row without `last` before it is also the last step of the episode before.
    steps = np.where(timestep.first & was_last, 0, steps + 1)
    late = steps > spec.max_steps
    _refuse(late, count, f"episode of {{}} steps, declared at most {spec.max_steps}", steps)
    return np.where(timestep.first, 0, steps)


def _refuse(bad: np.ndarray, count: int, fault: str, *values: np.ndarray) -> None:
    """Raises for the first environment that is `bad` `[E]`; `fault` shows its `values`."""
    if bad.any():
        index = int(np.argmax(bad))
        line = fault.format(*(value[index] for value in values))
        raise EnvError(f"env {index}, step {count}: {line}")
