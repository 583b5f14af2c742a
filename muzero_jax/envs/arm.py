"""A robot arm of six joints in three dimensions, which has to reach a target."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import errors, types
from muzero_jax.envs import wrappers

# Of each joint: the axis of the link before it that it turns about, and the length of its link,
# which lies along its own x axis.
AXES = "zyyxyz"
LINKS = (0.2, 0.3, 0.25, 0.1, 0.1, 0.05)
REACH = math.fsum(LINKS)
# Radians: how far a joint turns to either side, and in one step.
LIMIT, SPEED = 2.0, 0.2


@chex.dataclass(frozen=True)
class ArmState:
    """Angles of the joints `[6]` in radians, the target `[3]`, and the steps that are over `[]`."""

    angles: types.Array
    target: types.Array
    steps: types.Array


def make_arm(*, max_steps: int = 40, bins: int | None = None) -> types.Env:
    """Makes an arm that is fixed at the origin and has to bring its end to a target.

    The action `[6]`, in -1 to 1, turns each joint by so many times `SPEED`; none turns beyond
    `LIMIT`. The reward is minus the distance between end and target after the turn. Every episode
    has another target, the end of an arm with uniform angles, and begins with angles within half
    the limit; it is truncated after `max_steps` steps. The observation `[9]` is the angles and the
    target. With `bins` each number of the action is one of so many evenly spaced values, see
    `wrappers.discretised`.
    """
    if max_steps < 1:
        raise errors.ArgumentError(f"max_steps {max_steps} must be >= 1")
    joints = len(LINKS)
    spec = types.EnvSpec(
        observation=types.ArraySpec((joints + 3,), "float32"),
        action=types.ActionSpec.real([-1.0] * joints, [1.0] * joints),
        turn_sign=1,
        truncates=True,
        max_steps=max_steps,
    )

    def timestep(state, *, reward, first):
        return types.TimeStep(
            observation=jnp.concatenate([state.angles, state.target]),
            reward=reward,
            discount=jnp.where(first, 0.0, 1.0),
            first=first,
            last=state.steps == max_steps,
            invalid_actions=None,
        )

    def reset(key):
        target_key, key = jax.random.split(key)
        angles = jax.random.uniform(target_key, (joints,), minval=-LIMIT, maxval=LIMIT)
        state = ArmState(
            angles=jax.random.uniform(key, (joints,), minval=-LIMIT / 2, maxval=LIMIT / 2),
            target=places(angles)[-1],
            steps=jnp.zeros((), jnp.int32),
        )
        return state, timestep(state, reward=jnp.zeros(()), first=jnp.ones((), bool))

    def step(state, action, key):
        del key  # Only the start is random.
        turned = state.angles + SPEED * jnp.clip(action, -1.0, 1.0)
        state = state.replace(angles=jnp.clip(turned, -LIMIT, LIMIT), steps=state.steps + 1)
        distance = jnp.linalg.norm(places(state.angles)[-1] - state.target)
        return state, timestep(state, reward=-distance, first=jnp.zeros((), bool))

    env = types.Env(spec=spec, reset=reset, step=step)
    if bins is not None:
        env = wrappers.discretised(env, bins)
    return wrappers.auto_reset(env, same_step=False)


def places(angles: types.Array) -> types.Array:
    """Where the base and the end of each link are, `[7, 3]`, by the angles `[6]` in radians."""
    chex.assert_shape(angles, (len(LINKS),))
    x, y, z = jnp.eye(3)  # The axes of the newest link. No matrix product: all devices agree.
    found = [jnp.zeros(3)]
    for axis, length, angle in zip(AXES, LINKS, angles, strict=True):
        c, s = jnp.cos(angle), jnp.sin(angle)
        if axis == "x":
            y, z = c * y + s * z, c * z - s * y
        elif axis == "y":
            z, x = c * z + s * x, c * x - s * z
        else:
            x, y = c * x + s * y, c * y - s * x
        found.append(found[-1] + length * x)
    return jnp.stack(found)


def draw(angles: types.Array, target: types.Array, *, size: int = 200) -> np.ndarray:
    """A picture uint8 `[size, 2 * size, 3]` of one arm: from the side (x, z), from above (x, y)."""
    corners = np.asarray(places(jnp.asarray(angles)), np.float64)
    along = np.linspace(0.0, 1.0, size)[:, None]
    links = np.concatenate([a + along * (b - a) for a, b in zip(corners, corners[1:])])
    picture = np.full((size, 2 * size, 3), 255, np.uint8)
    picture[:, size] = 200
    dots = ((links, 1, (70, 70, 70)), (corners[1:], 2, (0, 90, 180)), (target, 4, (220, 120, 0)))
    for view, axes in enumerate(((0, 2), (0, 1))):
        for points, radius, color in dots:
            at = np.atleast_2d(points)[:, axes] / (2.2 * REACH) + 0.5
            columns, rows = (at * [size, -size] + [0, size]).round().astype(int).T
            for i, j in np.ndindex(2 * radius + 1, 2 * radius + 1):
                if math.hypot(i - radius, j - radius) <= radius:
                    row = np.clip(rows + i - radius, 0, size - 1)
                    column = np.clip(columns + j - radius, 0, size - 1) + view * size
                    picture[row, column] = color
    return picture
