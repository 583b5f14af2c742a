"""The arm against rotation matrices, and its rules against arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.envs import arm, wrappers
from muzero_jax.envs.check_env import check_env


def _rotation(axis, angle):
    c, s = np.cos(angle), np.sin(angle)
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


def _places(angles):
    """By products of matrices in float64."""
    turn, found = np.eye(3), [np.zeros(3)]
    for axis, length, angle in zip(arm.AXES, arm.LINKS, angles):
        turn = turn @ _rotation(axis, angle)
        found.append(found[-1] + turn @ [length, 0, 0])
    return np.array(found)


def test_links_are_where_rotations_bring_them():
    """And each joint moves the end. Planted: the sign of a sine; two axes exchanged."""
    angles = np.random.default_rng(0).uniform(-2, 2, (50, 6)).astype(np.float32)
    found = jax.jit(jax.vmap(arm.places))(angles)
    np.testing.assert_allclose(found, [_places(x) for x in angles], atol=1e-6)
    lengths = np.linalg.norm(np.diff(found, axis=1), axis=-1)
    np.testing.assert_allclose(lengths, np.tile(arm.LINKS, (50, 1)), atol=1e-6)
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda x: arm.places(x)[-1])))(angles)
    assert (np.linalg.norm(jacobian, axis=1) > 1e-4).mean(axis=0).min() > 0.9
    np.testing.assert_allclose(arm.places(jnp.zeros(6))[-1], [arm.REACH, 0, 0], atol=1e-6)


@pytest.fixture(scope="module")
def played():
    """Rows of 300 episodes of 8 steps under random actions, and the row after each."""
    env = arm.make_arm(max_steps=8)

    def play(key):
        reset_key, action_key, key = jax.random.split(key, 3)
        actions = jax.random.uniform(action_key, (9, 6), minval=-1.0, maxval=1.0)
        state, first = env.reset(reset_key)
        _, rest = jax.lax.scan(
            lambda s, x: env.step(s, *x), state, (actions, jax.random.split(key, 9)))
        return first, rest, actions

    return jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 300)))


def test_a_step_turns_the_joints_and_costs_the_distance_left(played):
    """Planted: the distance before the turn; the limit left out; a step shorter."""
    first, rest, actions = played
    angles, target = first.observation[:, :6], first.observation[:, 6:]
    assert np.abs(angles).max() <= arm.LIMIT / 2 < np.abs(target).max() + arm.LIMIT
    for t in range(8):
        angles = np.clip(angles + arm.SPEED * actions[:, t], -arm.LIMIT, arm.LIMIT)
        np.testing.assert_allclose(rest.observation[:, t, :6], angles, atol=1e-6)
        np.testing.assert_array_equal(rest.observation[:, t, 6:], target)
        ends = np.array([_places(x)[-1] for x in angles])
        np.testing.assert_allclose(
            rest.reward[:, t], -np.linalg.norm(ends - target, axis=1), atol=1e-5)
        assert (rest.last[:, t] == (t == 7)).all() and (rest.discount[:, t] == 1).all()


def test_each_episode_has_another_target_that_can_be_reached(played):
    """Planted: one target for all."""
    first, rest, _ = played
    targets = np.concatenate([first.observation[:, 6:], rest.observation[:, 8, 6:]])
    assert rest.first[:, 8].all() and len(np.unique(targets, axis=0)) == 600
    assert np.linalg.norm(targets, axis=1).max() <= arm.REACH + 1e-6
    assert np.linalg.norm(targets, axis=1).min() < 0.4 and targets.std(axis=0).min() > 0.2


def test_joints_stop_at_their_limits():
    """The distance is that of the joints as they stand. Planted: of joints turned on."""
    env = arm.make_arm(max_steps=40)
    step = jax.jit(env.step)
    state, _ = env.reset(jax.random.key(1))
    for _ in range(20):
        state, row = step(state, jnp.array([1.0, -1.0] * 3), jax.random.key(2))
    angles = np.float32([arm.LIMIT, -arm.LIMIT] * 3)
    np.testing.assert_array_equal(row.observation[:6], angles)
    distance = np.linalg.norm(_places(angles)[-1] - row.observation[6:])
    np.testing.assert_allclose(row.reward, -distance, atol=1e-5)


def test_the_picture_shows_the_arm_and_its_target():
    """Straight along x with the target at its end: both views have a bar to the right of the
    middle. Planted: rows not turned round; the views exchanged."""
    picture = arm.draw(np.zeros(6), np.array([0.0, 0.0, 0.9]), size=100)
    assert picture.shape == (100, 200, 3) and picture.dtype == np.uint8
    drawn = (picture != 255).any(axis=-1)
    assert drawn[50, 55:90].all() and drawn[50, 155:190].all()
    assert not drawn[50, 5:40].any() and not drawn[60:].any(axis=0)[:100].any()
    orange = (picture == (220, 120, 0)).all(axis=-1)
    above, beside = np.nonzero(orange[:, :100])[0], np.nonzero(orange[:, 100:])
    assert above.max() < 20, "z points up in the view from the side"
    assert abs(beside[0].mean() - 50) < 1 and abs(beside[1].mean() - 50) < 1


def test_contract():
    assert check_env(arm.make_arm(max_steps=5), num_steps=20, key=jax.random.key(0)) >= 16
    with pytest.raises(ValueError, match="^max_steps 0 must be >= 1$"):
        arm.make_arm(max_steps=0)


def test_bins_are_values_between_the_bounds():
    """Five of them: -1, -0.5, 0, 0.5, 1 of each joint, in its own place.

    Planted: a bound left out; the bin of the first joint for all.
    """
    real, binned = arm.make_arm(), arm.make_arm(bins=5)
    assert binned.spec.action.sizes == (5,) * 6
    key = jax.random.key(0)
    state, _ = real.reset(key)
    chosen = np.array([0, 1, 2, 3, 4, 2], np.int32)
    want = real.step(state, jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.0]), key)[1]
    got = binned.step(binned.reset(key)[0], jnp.asarray(chosen), key)[1]
    np.testing.assert_array_equal(got.observation, want.observation)
    check_env(binned, num_steps=45, key=key, num_envs=2)
    with pytest.raises(ValueError, match="^bins 1 must be >= 2$"):
        arm.make_arm(bins=1)
    with pytest.raises(ValueError, match="^bins are for real numbers"):
        wrappers.discretised(binned, 3)
