"""The ring of traffic lights against its rules written out in NumPy, and its controllers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.envs import traffic
from muzero_jax.envs.check_env import check_env

L = 4


def _start(env, key, **changes):
    state, _ = env.reset(key)
    return state.replace(env=state.env.replace(**changes))


def _step(env):
    return jax.jit(jax.vmap(env.step, in_axes=(None, None, 0)))


def test_cars_pass_where_it_is_green_and_a_change_costs_a_step():
    """Without new cars: every queue by hand, over 500 draws of who goes on.

    Planted: amber left out; east and west exchanged; all of them go on.
    """
    env = traffic.make_traffic(crossings=L, max_steps=9)
    queues = np.array([[5, 1, 4, 2], [7, 0, 6, 3], [2, 2, 2, 2], [9, 9, 9, 9]], np.int32)
    lights = np.array([0, 1, 1, 0], np.int32)
    state = _start(env, jax.random.key(0), queues=jnp.array(queues), lights=jnp.array(lights),
                   rates=jnp.zeros((L, 4)))
    action = np.array([0, 1, 0, 0], np.int32)  # The third one changes.
    after, row = _step(env)(state, action, jax.random.split(jax.random.key(1), 500))
    left = queues.copy()
    left[0, :2] = [2, 0]
    left[1, 2:] = [3, 0]
    left[3, :2] = [6, 6]
    more = np.asarray(after.env.queues) - left
    where = np.zeros((L, 4), bool)
    where[2, 2] = where[0, 3] = True  # From the second, three to the east and three to the west.
    assert (more[:, ~where] == 0).all()
    for place in ((2, 2), (0, 3)):
        assert set(np.unique(more[:, *place])) == {0, 1, 2, 3}
        assert abs(more[:, *place].mean() - 1.5) < 5 * np.sqrt(0.75 / 500)
    np.testing.assert_array_equal(after.env.lights, np.tile(action, (500, 1)))
    np.testing.assert_array_equal(row.observation["lights"], np.tile(action == 1, (500, 1)))
    np.testing.assert_allclose(row.observation["queues"], after.env.queues / np.float32(10))
    np.testing.assert_allclose(row.reward, -np.asarray(after.env.queues).mean((1, 2)), rtol=1e-6)


def test_new_cars_come_at_the_rates_of_the_episode():
    """A queue takes no more than it holds. Planted: the rates of another queue; no limit."""
    env = traffic.make_traffic(crossings=L, max_steps=9)
    rates = np.linspace(0.0, 1.0, 4 * L).reshape(L, 4)
    full = np.zeros((L, 4), np.int32)
    full[3, 3] = traffic.LONGEST
    state = _start(env, jax.random.key(0), queues=jnp.array(full), lights=jnp.zeros(L, jnp.int32),
                   rates=jnp.array(rates, jnp.float32))
    keys = jax.random.split(jax.random.key(1), 2000)
    after, _ = _step(env)(state, np.ones(L, np.int32), keys)
    share = np.asarray(after.env.queues).mean(axis=0)
    assert share[3, 3] == traffic.LONGEST
    np.testing.assert_allclose(share.ravel()[:-1], rates.ravel()[:-1], atol=0.06)


def test_episodes_begin_alike_and_are_truncated():
    """Rates within their bounds, each episode with its own. Planted: one draw for all queues."""
    env = traffic.make_traffic(max_steps=3)
    state, row = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 400))
    rates = np.asarray(state.env.rates)
    assert rates.shape == (400, 10, 4) and len(np.unique(rates)) > 15_000
    assert 0.1 <= rates.min() < 0.11 and 0.39 < rates.max() <= 0.4
    assert set(np.unique(state.env.queues)) == set(range(6))
    assert row.observation["queues"].shape == (400, 10, 4) and row.first.all()
    assert check_env(env, num_steps=12, key=jax.random.key(0)) >= 16
    for sizes in ({"crossings": 0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=r"must be >= 1$"):
            traffic.make_traffic(**sizes)


def _acts(controller, queues, lights):
    """The actions of a controller over observations `[T, L, 4]` and `[T, L]`."""
    memory, found = controller.init(len(lights[0])), []
    act = jax.jit(controller.act)
    for queue, light in zip(queues, lights):
        observation = {"queues": np.float32(queue), "lights": np.asarray(light)}
        memory, action = act(memory, observation, jax.random.key(len(found)))
        found.append(np.asarray(action).tolist())
    return found


def test_controllers_by_hand():
    """Planted: pressure with the wrong neighbour; the age not set back; equal weights change."""
    dark, lit = [False] * 3, [True] * 3
    none = np.zeros((3, 4))
    assert _acts(traffic.fixed_time(2), [none] * 5, [dark] * 5) == [
        [0] * 3, [0] * 3, [1] * 3, [1] * 3, [0] * 3]
    east = none.copy()
    east[:, traffic.EAST] = [0, 4, 6]
    east[:, traffic.NORTH] = [0, 1, 5]
    assert _acts(traffic.longest_queue_first(0), [east], [dark]) == [[0, 1, 1]]
    assert _acts(traffic.longest_queue_first(0), [east], [lit]) == [[1, 1, 1]]
    # 4 - 6/2 = 1, no more than what goes north; 6 - 0/2 = 6; 0 - 4/2 = -2 is less than nothing.
    assert _acts(traffic.max_pressure(0), [east], [lit]) == [[0, 1, 1]]
    west = none.copy()
    west[:, traffic.WEST] = [0, 4, 6]
    west[:, traffic.NORTH] = [0, 1, 5]
    # The crossing before: 0 - 6/2; 4 - 0/2 = 4; 6 - 4/2 = 4 is less than 5.
    assert _acts(traffic.max_pressure(0), [west], [lit]) == [[0, 1, 0]]
    # After a change a light stays for two steps, however long the other queues are.
    wait = [east, west * 0 + [9, 0, 0, 0], west * 0 + [9, 0, 0, 0], west * 0 + [9, 0, 0, 0]]
    seen = [dark, [False, True, True], [False, True, True], [False, True, True]]
    assert _acts(traffic.longest_queue_first(2), wait, seen)[1:] == [
        [0, 1, 1], [0, 1, 1], [0, 0, 0]]
    random = np.array(_acts(traffic.random_lights(), [none] * 200, [dark] * 200))
    assert 0.4 < random.mean() < 0.6


@pytest.mark.slow
def test_rules_that_look_are_better_than_chance():
    """Returns of whole episodes. Planted: an episode a step shorter; all episodes alike."""
    env = traffic.make_traffic(max_steps=30)
    scores = {
        name: np.asarray(traffic.controlled_returns(env, rule, jax.random.key(0), 64))
        for name, rule in {
            "random": traffic.random_lights(),
            "fixed": traffic.fixed_time(4),
            "longest": traffic.longest_queue_first(2),
            "pressure": traffic.max_pressure(2),
        }.items()
    }
    assert all(len(np.unique(x)) > 48 for x in scores.values())
    assert min(scores["longest"].mean(), scores["pressure"].mean()) > scores["fixed"].mean()
    assert scores["fixed"].mean() > scores["random"].mean() + 30
