"""A linear-quadratic regulator: an environment of real actions whose optimum is known.

The state x moves to A x + B u, and costs x'Qx + u'Ru. Without an end the best action is -K x, and
the discounted cost of it x'Px (Bertsekas 2017, Dynamic Programming and Optimal Control, section
3.1). Nothing is imported from the tests, so that a config can name `lqr:make_env`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import types
from muzero_jax.envs import wrappers

DISCOUNT = 0.9
A = np.array([[0.95, 0.2, 0.0], [0.0, 0.9, 0.2], [0.1, 0.0, 0.9]])
B = np.array([[0.3, 0.0], [0.0, 0.3], [0.2, -0.2]])
Q = np.diag([1.0, 0.5, 0.25])
R = np.diag([0.4, 0.4])
ACTION = types.ActionSpec.real([-2.0, -2.0], [2.0, 2.0])


def solve(discount: float = DISCOUNT) -> tuple[np.ndarray, np.ndarray]:
    """(K, P) by iterating Riccati's equation."""
    p = Q
    for _ in range(1_000):
        k = np.linalg.solve(R + discount * B.T @ p @ B, discount * B.T @ p @ A)
        p = Q + discount * A.T @ p @ (A - B @ k)
    return k, p


def make_env(*, max_steps: int = 20) -> types.Env:
    """The regulator from random states within 1 of 0, truncated after `max_steps` steps."""
    spec = types.EnvSpec(
        observation=types.ArraySpec((3,), "float32"),
        action=ACTION,
        turn_sign=1,
        truncates=True,
        max_steps=max_steps,
    )

    def timestep(x, steps, reward, first):
        return types.TimeStep(
            observation=x,
            reward=reward,
            discount=jnp.where(first, 0.0, 1.0),
            first=jnp.asarray(first),
            last=steps == max_steps,
            invalid_actions=None,
        )

    def reset(key):
        x = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
        return (x, jnp.int32(0)), timestep(x, jnp.int32(0), jnp.zeros(()), True)

    def step(state, action, key):
        del key
        x, steps = state
        after = move(x, action)
        return (after, steps + 1), timestep(after, steps + 1, -cost(x, action), False)

    return wrappers.auto_reset(types.Env(spec, reset, step), same_step=False)


def move(x, u):
    """A x + B u, of `[..., 3]` and `[..., 2]`."""
    return _times(x, A) + _times(u, B)


def cost(x, u):
    """x'Qx + u'Ru of `[..., 3]` and `[..., 2]`, `[...]`."""
    return jnp.sum(_times(x, Q) * x, axis=-1) + jnp.sum(_times(u, R) * u, axis=-1)


def _times(x, matrix):
    return jnp.matmul(x, jnp.asarray(matrix.T, jnp.float32), precision="highest")
