"""A trial of a pure JAX environment, which cannot be checked inside a compiled program."""

from collections.abc import Callable
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import actions, types
from muzero_jax.envs import wrappers
from muzero_jax.envs.checked import check_finite
from muzero_jax.errors import EnvError


def check_env(env: types.Env, *, num_steps: int, key: chex.PRNGKey, num_envs: int = 8) -> int:
    """Plays random legal actions and checks every row by the rules of `check_host_env`.

    It also refuses rewards and observations that are not finite or beyond 1e18, which a run would
    survive. Before that: state and rows keep structure, shapes and dtypes, and the same state,
    action and key give the same output.

    Args:
      env: resets itself, see `auto_reset`.
      num_steps: steps of each environment; enough for at least one of them to end an episode.
      key: of the trial.
      num_envs: how many play.

    Returns:
      How many episodes ended, at least one.

    Raises:
      EnvError: one line with environment, step, and what is wrong.
    """
    reset_key, step_key, host_key, action_key = jax.random.split(key, 4)
    state, timestep = _twice("reset", env.reset, reset_key)
    draw = jax.jit(functools.partial(actions.draw, env.spec.action), static_argnums=1)
    invalid = timestep.invalid_actions
    action = draw(action_key, 1, None if invalid is None else invalid[None])[0]
    next_state, next_timestep = _twice("step", env.step, state, action, step_key)
    _check_form("state", state, next_state)
    _check_form("time step", timestep, next_timestep)
    host_env = wrappers.as_host_env(env, num_envs, host_key)
    rows, ends = host_env.reset(), 0
    check_finite(rows, 0)
    for count in range(1, num_steps + 1):
        drawn = draw(jax.random.fold_in(action_key, count), num_envs, rows.invalid_actions)
        rows = host_env.step(np.asarray(drawn))
        check_finite(rows, count)
        ends += np.count_nonzero(rows.first)
    if not ends:
        raise EnvError(f"no episode ended in {num_steps} steps: nothing is known of ends; raise it")
    return int(ends)


def _twice(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Returns `function(*args)`; refuses one that gives something else the second time."""
    # Each call is traced: a compiled function repeats what it once took from outside.
    once, again = (jax.jit(lambda *args: function(*args))(*args) for _ in range(2))
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(once), jax.tree.leaves(again), strict=True
    ):
        if _bytes(x) != _bytes(y):
            where = jax.tree_util.keystr(path)
            raise EnvError(f"{name}: two calls with the same arguments differ in output{where}")
    return once


def _bytes(x: types.Array) -> bytes:
    """The bits of a leaf, which may be an array of keys."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x).tobytes()


def _check_form(name: str, after_reset: Any, after_step: Any) -> None:
    """Refuses leaves that differ in place, shape or dtype."""
    forms = [
        {
            jax.tree_util.keystr(path): f"{leaf.shape} {leaf.dtype}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (after_reset, after_step)
    ]
    for path in sorted(forms[0].keys() | forms[1].keys()):
        reset, step = (form.get(path, "nothing") for form in forms)
        if reset != step:
            raise EnvError(f"{name}{path}: {reset} after reset, {step} after step")
    if jax.tree.structure(after_reset) != jax.tree.structure(after_step):
        raise EnvError(f"{name}: another kind of container after step than after reset")
