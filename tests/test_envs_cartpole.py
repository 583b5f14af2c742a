"""CartPole in JAX against a NumPy re-implementation in float64 and against envpool's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.envs import cartpole, wrappers


def _reference_step(x, action):
    """One step of the published equations in float64, written for scalars."""
    position, speed, angle, angular_speed = (float(value) for value in x)
    force = 10.0 if action == 1 else -10.0
    sin, cos = math.sin(angle), math.cos(angle)
    temp = (force + 0.05 * angular_speed**2 * sin) / 1.1
    angular_acc = (9.8 * sin - cos * temp) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    acc = temp - 0.05 * angular_acc * cos / 1.1
    position, speed = position + 0.02 * speed, speed + 0.02 * acc
    angle, angular_speed = angle + 0.02 * angular_speed, angular_speed + 0.02 * angular_acc
    failed = abs(position) > 2.4 or abs(angle) > 12 * 2 * math.pi / 360
    return np.array([position, speed, angle, angular_speed]), failed


def _state(physics):
    """An auto-reset state in mid-episode with the given `physics` `[4]`."""
    inner = cartpole.CartPoleState(
        physics=jnp.asarray(physics, jnp.float32), steps=jnp.zeros((), jnp.int32)
    )
    return wrappers.AutoResetState(env=inner, last=jnp.zeros((), bool))


def _rollout(env, actions, seed=0):
    """Rows `[T+1]` of one environment, the reset row included."""
    reset_key, step_key = jax.random.split(jax.random.key(seed))

    def body(state, xs):
        return env.step(state, *xs)

    state, first = env.reset(reset_key)
    keys = jax.random.split(step_key, len(actions))
    _, rows = jax.jit(lambda s: jax.lax.scan(body, s, (jnp.asarray(actions), keys)))(state)
    return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[None], b]), first, rows)


def test_one_step_equals_the_reference_over_the_whole_state_space():
    """Planted bug seen: semi-implicit Euler (positions moved by the new speeds)."""
    rng = np.random.default_rng(0)
    physics = rng.uniform(-1, 1, (2000, 4)) * [2.6, 3.0, 0.25, 3.0]
    actions = rng.integers(0, 2, 2000)
    step = jax.jit(jax.vmap(cartpole.make_cartpole().step))
    states = jax.vmap(_state)(jnp.asarray(physics, jnp.float32))
    _, row = step(states, jnp.asarray(actions), jax.random.split(jax.random.key(0), 2000))
    expected, failed = zip(
        *(_reference_step(np.float32(x), a) for x, a in zip(physics, actions, strict=True)),
        strict=True,
    )
    np.testing.assert_allclose(row.observation, np.stack(expected), atol=1e-6)
    assert 200 < sum(failed) < 1800
    np.testing.assert_array_equal(row.last, failed)
    np.testing.assert_array_equal(row.discount, 1.0 - np.array(failed))
    np.testing.assert_array_equal(row.reward, np.ones(2000))


def test_a_fall_terminates_and_the_next_row_is_a_reset():
    """Planted bug seen: the reset row keeps the reward of 1."""
    rows = _rollout(cartpole.make_cartpole(), np.ones(40, np.int32))
    ends = np.flatnonzero(rows.last)
    assert len(ends) >= 3  # Pushing one way falls within 8 to 11 steps.
    assert rows.first[0] and rows.reward[0] == 0 and rows.discount[0] == 0
    for end in ends:
        assert rows.discount[end] == 0 and rows.reward[end] == 1 and not rows.first[end]
        assert abs(rows.observation[end][2]) > 12 * math.pi / 180
        if end + 1 < len(rows.last):
            assert rows.first[end + 1] and not rows.last[end + 1]
            assert rows.reward[end + 1] == 0 and rows.discount[end + 1] == 0
            assert np.abs(rows.observation[end + 1]).max() <= 0.05
    assert rows.first.sum() == 1 + (ends < 40).sum()
    starts = rows.observation[rows.first]
    assert len(np.unique(starts, axis=0)) == len(starts)


def test_the_limit_truncates_and_keeps_the_discount():
    """Literal rows for a limit of 3. Planted bugs seen: d = 0 at the limit; `>` for `>=`."""
    env = cartpole.make_cartpole(max_steps=3)
    assert env.spec.max_steps == 3 and env.spec.truncates and env.spec.turn_sign == 1
    rows = _rollout(env, np.array([0, 1, 0, 1, 0, 1, 0, 1], np.int32))
    np.testing.assert_array_equal(rows.first, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(rows.last, [0, 0, 0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(rows.discount, [0, 1, 1, 1, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(rows.reward, [0, 1, 1, 1, 0, 1, 1, 1, 0])


def test_default_limit_is_500_steps():
    """A balancing controller lasts to row 500. Planted bug seen: force of the wrong sign."""
    env = cartpole.make_cartpole()

    def body(carry, key):
        state, row = carry
        angle, angular_speed = row.observation[2], row.observation[3]
        drift = 0.05 * row.observation[0] + 0.1 * row.observation[1]
        action = (angle + 0.3 * angular_speed + drift > 0).astype(jnp.int32)
        state, row = env.step(state, action, key)
        return (state, row), row

    start = env.reset(jax.random.key(3))
    keys = jax.random.split(jax.random.key(4), 502)
    _, rows = jax.jit(lambda s: jax.lax.scan(body, s, keys))(start)
    np.testing.assert_array_equal(np.flatnonzero(rows.last), [499])
    np.testing.assert_array_equal(np.flatnonzero(rows.first), [500])
    assert rows.discount[499] == 1


def test_dtypes_and_shapes_match_the_spec():
    """Planted bug seen: a spec of shape (5,)."""
    env = cartpole.make_cartpole()
    for _, row in (
        env.reset(jax.random.key(0)),
        env.step(_state([0, 0, 0, 0]), 1, jax.random.key(1)),
    ):
        assert row.observation.shape == env.spec.observation_shape
        assert row.observation.dtype == env.spec.observation_dtype
        assert row.reward.dtype == row.discount.dtype == jnp.float32
        assert row.first.dtype == row.last.dtype == bool and row.invalid_actions is None


def test_limit_must_be_positive():
    """Planted bug seen: the check left out."""
    with pytest.raises(ValueError, match="max_steps 0 must be >= 1"):
        cartpole.make_cartpole(max_steps=0)


@pytest.mark.envpool
def test_one_step_equals_envpool():
    """The same observation and action, one step. Planted bug seen: pole mass 0.11."""
    from muzero_jax.envs import host

    pool = host.make_envpool("CartPole-v1", seeds=[3, 4, 5, 6])
    rng = np.random.default_rng(1)
    step = jax.jit(jax.vmap(cartpole.make_cartpole().step))
    row, compared = pool.reset(), 0
    for t in range(150):
        action = rng.integers(0, 2, 4).astype(np.int32)
        keys = jax.random.split(jax.random.key(t), 4)
        _, ours = step(jax.vmap(_state)(row.observation), action, keys)
        row, real = pool.step(action), ~row.last
        for name in ("observation", "reward", "discount", "last"):
            theirs, mine = getattr(row, name)[real], np.asarray(getattr(ours, name))[real]
            np.testing.assert_allclose(mine, theirs, atol=2e-6, err_msg=name)
        compared += real.sum()
    assert compared > 500
