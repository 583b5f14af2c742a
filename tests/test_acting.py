"""Acting against a list of rows that a Python loop writes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting
from muzero_jax.types import Explore

_E, _T = 3, 9
MASKED = dataclasses.replace(fakes.SPEC, masked=True)


def _list_of_rows(env, key, params, explore):
    """`(timestep, history, output)` of each step, by `jit`ted single steps in a Python loop."""
    state, timestep = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(5), _E))
    carry = acting.init_carry(env.spec, _E, 2)
    step = jax.jit(jax.vmap(env.step))
    act = jax.jit(lambda *args: acting.act(fakes.search, *args))
    rows = []
    for step_key in jax.random.split(key, _T):
        search_key, env_key = jax.random.split(step_key)
        carry, output = act(params, search_key, carry, timestep, explore)
        rows.append(jax.device_get((timestep, carry.history, output)))
        state, timestep = step(state, output.action, jax.random.split(env_key, _E))
    return rows, (state, timestep, carry)


@pytest.mark.parametrize("same_step", [False, True])
def test_rollout_equals_a_python_loop_bit_for_bit(same_step):
    """A `last` row's action means nothing: it has not explored; a `first` row can.

    Planted bugs seen: the row holds the time step after the action; axes `[T, E]`; `explored` kept
    on `last` rows, or dropped on `first` rows.
    """
    env = fakes.make_jax_env(same_step=same_step)
    key, params = jax.random.key(1), fakes.make_params(1.0)
    rows, end = _list_of_rows(env, key, params, fakes.EXPLORE)
    state, timestep = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(5), _E))
    rollout = jax.jit(acting.make_rollout(env, fakes.search, num_steps=_T))
    carry = acting.init_carry(env.spec, _E, 2)
    rolled_end, rolled = rollout(params, key, state, timestep, carry, fakes.EXPLORE, np.int32(7))
    fakes.assert_trees_equal(rolled_end, end)
    rolled = jax.device_get(rolled)
    assert rolled.reward.shape == (_E, _T) and rolled.policy.shape == (_E, _T, 3)
    for t, (timestep, _, output) in enumerate(rows):
        for name in ("observation", "reward", "discount", "first", "last"):
            np.testing.assert_array_equal(getattr(rolled, name)[:, t], getattr(timestep, name))
        for name in ("action", "policy", "value"):
            np.testing.assert_array_equal(getattr(rolled, name)[:, t], getattr(output, name))
        explored = [bool(x) and not bool(end) for x, end in zip(output.explored, timestep.last)]
        assert rolled.explored[:, t].tolist() == explored
    assert (rolled.explored & rolled.first).any() and not (rolled.explored & rolled.last).any()
    assert np.all(rolled.made_at_updates == 7) and rolled.made_at_updates.dtype == jnp.int32
    assert rolled.first[:, 1:].sum() >= 3 and rolled.last.any() != same_step


def test_a_search_is_bound_to_the_state_of_each_step():
    """What is bound sees the very state that its step begins from, and is otherwise a search.

    Planted bugs seen: bound once, to the state at the beginning; to the state after the step.
    """
    env = fakes.make_jax_env(same_step=True)
    key, params = jax.random.key(1), fakes.make_params(1.0)
    state, timestep = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(5), _E))

    def bind(env_state):
        def search(*args):
            seen = env_state.env @ jnp.array([10.0, 1.0])  # Start and age.
            return fakes.search(*args).replace(value=seen)

        return search

    carry = acting.init_carry(env.spec, _E, 2)
    args = (params, key, state, timestep, carry, fakes.EXPLORE, jnp.int32(7))
    plain = acting.make_rollout(env, fakes.search, num_steps=_T)
    bound = acting.make_rollout(env, bind, num_steps=_T, bind_env_state=True)
    end, rows = jax.jit(plain)(*args)
    bound_end, bound_rows = jax.jit(bound)(*args)
    fakes.assert_trees_equal(bound_end, end)
    fakes.assert_trees_equal(bound_rows.replace(value=rows.value), rows)
    step = jax.jit(jax.vmap(env.step))
    rows, bound_rows = jax.device_get((rows, bound_rows))
    for t, step_key in enumerate(jax.random.split(key, _T)):
        np.testing.assert_array_equal(bound_rows.value[:, t], np.asarray(state.env) @ [10.0, 1.0])
        keys = jax.random.split(jax.random.split(step_key)[1], _E)
        state, _ = step(state, rows.action[:, t], keys)


def test_history_begins_anew_on_first_rows_and_last_rows_are_searched():
    """Planted bugs seen: `history_push` skipped; values of `last` rows set to 0."""
    env = fakes.make_jax_env(same_step=False)
    rows, _ = _list_of_rows(env, jax.random.key(1), fakes.make_params(), fakes.EXPLORE)
    for t, (timestep, history, output) in enumerate(rows):
        assert (output.value >= 0.25).all()  # The noise scale is in each value: nothing skipped.
        for e in range(_E):
            np.testing.assert_array_equal(history.observation[e, 1], timestep.observation[e])
            if timestep.first[e]:
                np.testing.assert_array_equal(history.valid[e], [False, True])
                np.testing.assert_array_equal(history.observation[e, 0], timestep.observation[e])
                assert history.action[e].tolist() == [0, 0]
                assert history.reward[e].tolist() == [0.0, 0.0]
            else:
                before, _, chosen = rows[t - 1]
                assert history.valid[e].tolist() == [True, True]
                np.testing.assert_array_equal(history.observation[e, 0], before.observation[e])
                assert history.action[e, 1] == chosen.action[e]
                assert history.reward[e, 1] == timestep.reward[e] == chosen.action[e] + 1
    assert any(timestep.last.any() for timestep, *_ in rows)


def test_act_and_add_stores_the_rows_of_its_group():
    """Planted bugs seen: `env_start` ignored; the action of the step before stored."""
    ring = fakes.make_replay(num_envs=4, rows_per_env=16)
    state, params = ring.init(), fakes.make_params(2.0)
    carry = acting.init_carry(fakes.SPEC, 2, 2)
    act_and_add = jax.jit(acting.make_act_and_add(fakes.search, ring))
    env = fakes.make_host_env([2, 3], [2, 3])
    timestep, rows = env.reset(), []
    for t in range(6):
        state, carry, _ = act_and_add(
            params, state, carry, timestep, 2, jax.random.key(t), fakes.EXPLORE, t
        )
        rows.append((timestep, carry.action))
        timestep = env.step(np.asarray(carry.action))
    np.testing.assert_array_equal(state.filled, [0, 0, 6, 6])
    for t, (timestep, action) in enumerate(rows):
        for name in ("reward", "discount", "first", "last"):
            np.testing.assert_array_equal(
                getattr(state.rows, name)[2:, t], getattr(timestep, name)
            )
        np.testing.assert_array_equal(state.rows.observation[2:, t], timestep.observation)
        np.testing.assert_array_equal(state.rows.action[2:, t], action)
        np.testing.assert_array_equal(state.rows.policy[2:, t], np.full((2, 3), 2.0))
        np.testing.assert_array_equal(state.rows.made_at_updates[2:, t], [t, t])


def test_masks_of_invalid_actions_are_stored_and_drawn():
    """Row t of environment e forbids action (t + e) % 3; a window draws what its rows had.

    Planted bug seen: an example row without the mask (its rows cannot be added).
    """
    ring = fakes.make_replay(num_envs=2, rows_per_env=16, spec=MASKED)
    state, carry = ring.init(), acting.init_carry(fakes.SPEC, 2, 2)
    act_and_add = jax.jit(acting.make_act_and_add(fakes.search, ring))
    env = fakes.make_host_env([20, 20], [20, 20])
    timestep = env.reset()
    for t in range(12):
        forbidden = np.eye(3, dtype=bool)[[t % 3, (t + 1) % 3]]
        timestep = timestep.replace(invalid_actions=forbidden)
        state, carry, _ = act_and_add(
            fakes.make_params(), state, carry, timestep, 0, jax.random.key(t), fakes.EXPLORE, t
        )
        timestep = env.step(np.asarray(carry.action))
    sample = jax.device_get(jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(0), 32))
    for (e, slot), masks in zip(sample.index, sample.rows.invalid_actions, strict=True):
        for k, mask in enumerate(masks):
            t = int(slot) - 2 + k  # The window begins S = 2 rows before the root.
            if t >= 0:
                assert np.flatnonzero(mask).tolist() == [(t + int(e)) % 3]


@pytest.mark.parametrize("masked", [False, True])
def test_a_mask_that_only_one_of_rows_and_ring_has_is_refused(masked):
    """Planted bug seen: left to JAX (a structure error of five lines)."""
    ring = fakes.make_replay(num_envs=2, rows_per_env=16, spec=fakes.SPEC if masked else MASKED)
    act_and_add = acting.make_act_and_add(fakes.search, ring)
    timestep = fakes.make_host_env([20, 20], [20, 20]).reset()
    if masked:
        timestep = timestep.replace(invalid_actions=np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="masked of the environment"):
        act_and_add(
            fakes.make_params(), ring.init(), acting.init_carry(fakes.SPEC, 2, 2), timestep, 0,
            jax.random.key(0), fakes.EXPLORE, 0,
        )


def test_example_row_has_shapes_and_computes_nothing():
    """Planted bugs seen: a batch axis left on; `eval_shape` left out."""
    ran = []

    def search(params, key, history, invalid_actions, explore):
        jax.debug.callback(lambda: ran.append(1))
        return fakes.search(params, key, history, invalid_actions, explore)

    row = acting.example_row(fakes.SPEC, search, fakes.make_params(), 4)
    jax.effects_barrier()
    assert not ran
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(row))
    kinds = {
        name: (getattr(row, name).shape, str(getattr(row, name).dtype))
        for name in row.keys()
        if getattr(row, name) is not None
    }
    assert kinds == {
        "observation": ((2,), "float32"),
        "reward": ((), "float32"),
        "discount": ((), "float32"),
        "first": ((), "bool"),
        "last": ((), "bool"),
        "action": ((), "int32"),
        "policy": ((3,), "float32"),
        "value": ((), "float32"),
        "explored": ((), "bool"),
        "made_at_updates": ((), "int32"),
    }
    assert row.invalid_actions is None


def test_no_exploration_is_zeros():
    """Planted bug seen: a noise scale of 1."""
    assert isinstance(acting.NO_EXPLORATION, Explore)
    assert [float(x) for x in jax.tree.leaves(acting.NO_EXPLORATION)] == [0.0] * 4
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(acting.NO_EXPLORATION))
