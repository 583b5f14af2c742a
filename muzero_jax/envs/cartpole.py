"""CartPole-v1 in JAX: the equations of Barto, Sutton and Anderson (1983) as gym states them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import errors, types
from muzero_jax.envs import wrappers

_GRAVITY = 9.8
_POLE_MASS = 0.1
_TOTAL_MASS = 1.1
_HALF_LENGTH = 0.5
_FORCE = 10.0
_SECONDS_PER_STEP = 0.02
_MAX_POSITION = 2.4
_MAX_ANGLE = 12 * np.pi / 180
_START_RANGE = 0.05


@chex.dataclass(frozen=True)
class CartPoleState:
    """`physics` `[4]` float32 (position, speed, angle, angular speed) and `steps` `[]` int32."""

    physics: types.Array
    steps: types.Array


def make_cartpole(*, max_steps: int = 500) -> types.Env:
    """Makes CartPole-v1, reward 1 per step, truncated (bootstrapped) at `max_steps`."""
    if max_steps < 1:
        raise errors.ArgumentError(f"max_steps {max_steps} must be >= 1")
    spec = types.EnvSpec(
        observation=types.ArraySpec((4,), "float32"),
        action=types.ActionSpec.discrete(2),
        turn_sign=1,
        truncates=True,
        max_steps=max_steps,
    )

    def reset(key):
        physics = jax.random.uniform(
            key, (4,), jnp.float32, minval=-_START_RANGE, maxval=_START_RANGE
        )
        state = CartPoleState(physics=physics, steps=jnp.zeros((), jnp.int32))
        false = jnp.zeros((), bool)
        return state, _timestep(physics, reward=0.0, discount=0.0, first=~false, last=false)

    def step(state, action, key):
        del key  # The dynamics are deterministic.
        physics = _dynamics(state.physics, action)
        steps = state.steps + 1
        failed = (jnp.abs(physics[0]) > _MAX_POSITION) | (jnp.abs(physics[2]) > _MAX_ANGLE)
        timestep = _timestep(
            physics,
            reward=1.0,
            discount=1.0 - failed,
            first=jnp.zeros((), bool),
            last=failed | (steps >= max_steps),
        )
        return CartPoleState(physics=physics, steps=steps), timestep

    return wrappers.auto_reset(types.Env(spec=spec, reset=reset, step=step), same_step=False)


def _dynamics(physics: types.Array, action: types.Array) -> types.Array:
    """Returns `physics` `[4]` one Euler step later; `action` `[]` is 0 (left) or 1 (right)."""
    position, speed, angle, angular_speed = physics
    force = jnp.where(action == 1, _FORCE, -_FORCE).astype(jnp.float32)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (force + _POLE_MASS * _HALF_LENGTH * angular_speed**2 * sin) / _TOTAL_MASS
    inertia = _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * cos**2 / _TOTAL_MASS)
    angular_acceleration = (_GRAVITY * sin - cos * push) / inertia
    acceleration = push - _POLE_MASS * _HALF_LENGTH * angular_acceleration * cos / _TOTAL_MASS
    # Explicit Euler: positions move by the old speeds.
    rates = jnp.stack([speed, acceleration, angular_speed, angular_acceleration])
    return physics + _SECONDS_PER_STEP * rates


def _timestep(observation, *, reward, discount, first, last) -> types.TimeStep:
    """Builds one row `[]` with pinned dtypes."""
    return types.TimeStep(
        observation=observation,
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.asarray(discount, jnp.float32),
        first=first,
        last=last,
        invalid_actions=None,
    )
