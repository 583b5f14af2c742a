"""The trial of JAX environments: ours pass, and each that errs in one way is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import types
from muzero_jax.envs import cartpole, wrappers
from muzero_jax.envs.check_env import check_env
from muzero_jax.errors import EnvError

SPEC = dataclasses.replace(fakes.SPEC, truncates=False, max_steps=4, masked=True)


def _plain(spec=SPEC):
    """State `(length, age)`; ends after 2 to 4 steps; action 2 is illegal at odd ages."""

    def row(state, last):
        return types.TimeStep(
            observation=state.astype(jnp.float32),
            reward=jnp.float32(1),
            discount=jnp.where(last, 0.0, 1.0),
            first=jnp.bool_(False),
            last=last,
            invalid_actions=jnp.array([False, False, True]) & (state[1] % 2 == 1),
        )

    def reset(key):
        state = jnp.stack([jax.random.randint(key, (), 2, 5), jnp.int32(0)])
        return state, row(state, jnp.bool_(False))

    def step(state, action, key):
        del action, key
        state = state.at[1].add(1)
        return state, row(state, state[1] >= state[0])

    return types.Env(spec=spec, reset=reset, step=step)


def _changed(plain, **fields):
    """The rows of `plain.step` with other fields: `name=(timestep) -> value`."""

    def step(state, action, key):
        state, row = plain.step(state, action, key)
        return state, row.replace(**{name: change(row) for name, change in fields.items()})

    return plain._replace(step=step)


def _check(env, num_steps=12):
    return check_env(env, num_steps=num_steps, key=jax.random.key(0), num_envs=4)


@pytest.mark.parametrize("same_step", [False, True])
def test_environments_that_keep_the_contract_pass(same_step):
    """And their episodes, of 2 to 4 steps and one of reset, are counted. Planted bugs seen: random
    actions drawn without the mask; the newest step's ends returned."""
    ended = _check(wrappers.auto_reset(_plain(), same_step=same_step))
    assert (12 <= ended <= 24) if same_step else (8 <= ended <= 16)
    if not same_step:
        assert 4 <= _check(cartpole.make_cartpole(max_steps=9))


def test_a_trial_without_an_end_proves_nothing():
    """Planted bug seen: the check left out."""
    with pytest.raises(EnvError, match="^no episode ended in 1 steps"):
        _check(wrappers.auto_reset(_plain(), same_step=False), num_steps=1)


@pytest.mark.parametrize(
    "fields,line",
    [
        ({"observation": lambda row: row.observation[:1]}, "time step.observation: (2,) float32"
         " after reset, (1,) float32 after step"),
        ({"observation": lambda row: row.observation.astype(jnp.int32)}, "time step.observation:"
         " (2,) float32 after reset, (2,) int32 after step"),
        ({"invalid_actions": lambda row: None}, "time step.invalid_actions: (3,) bool after reset,"
         " nothing after step"),
        ({"observation": lambda row: row.observation / 0}, "env 0, step 1: observation is not"
         " finite"),
        ({"discount": lambda row: row.discount * 0.9}, "env 0, step 1: discount 0.8999999761581421,"
         " declared 0 or 1"),
        ({"invalid_actions": lambda row: jnp.ones(3, bool)}, "env 0, step 1: no legal action:"
         " invalid_actions is True for all"),
    ],
)  # fmt: skip
def test_faults_of_stepped_rows(fields, line):
    """Planted bugs seen: `_check_form` not called; rows not checked (`as_host_env` bare)."""
    env = _changed(_plain(), **fields)
    if "time step" in line:  # auto_reset itself would refuse these, at greater length.
        env = env._replace(reset=lambda key: _first(_plain().reset(key)))
    else:
        env = wrappers.auto_reset(env, same_step=False)
    with pytest.raises(EnvError) as caught:
        _check(env)
    assert str(caught.value) == line


def _first(output):
    state, row = output
    return state, row.replace(reward=jnp.float32(0), discount=jnp.float32(0), first=jnp.bool_(True))


def test_an_environment_that_does_not_reset_itself():
    """Planted bug seen: the row after `last` not looked at."""
    plain = _plain()
    with pytest.raises(EnvError, match="the row after `last` is not `first`: nothing was reset"):
        _check(plain._replace(reset=lambda key: _first(plain.reset(key))))


def test_a_state_that_changes_its_dtype():
    """Planted bug seen: `_check_form` of the state left out."""
    plain = _plain()

    def step(state, action, key):
        state, row = plain.step(state["age"], action, key)
        return {"age": state.astype(jnp.float32)}, row

    def reset(key):
        state, row = _first(plain.reset(key))
        return {"age": state}, row

    line = r"^state\['age'\]: \(2,\) int32 after reset, \(2,\) float32 after step$"
    with pytest.raises(EnvError, match=line):
        _check(types.Env(spec=SPEC, reset=reset, step=step))


def test_a_state_of_another_container_is_refused():
    """A tuple after reset and a list after step: `lax.scan` would refuse it. Planted bug seen:
    paths of leaves compared alone."""
    plain = _plain()

    def reset(key):
        state, row = plain.reset(key)
        return (state,), row

    def step(state, action, key):
        state, row = plain.step(state[0], action, key)
        return [state], row

    with pytest.raises(EnvError, match="another kind of container after step than after reset"):
        _check(types.Env(spec=SPEC, reset=reset, step=step))


@pytest.mark.parametrize("name", ["reset", "step"])
def test_numbers_from_outside_are_found(name):
    """NumPy's random numbers stay fixed in a compiled program. Planted bug seen: one trace."""
    random, plain = np.random.default_rng(0), _plain()

    def impure(*args):
        state, row = getattr(plain, name)(*args)
        return state, row.replace(observation=row.observation + np.float32(random.random()))

    env = wrappers.auto_reset(plain._replace(**{name: impure}), same_step=False)
    with pytest.raises(EnvError, match=f"^{name}: two calls with the same arguments differ in"):
        _check(env)


def test_a_state_may_hold_a_key():
    """Planted bug seen: keys read as numbers (TypeError)."""
    plain = _plain()
    with_key = plain._replace(
        reset=lambda key: ((plain.reset(key)[0], key), plain.reset(key)[1]),
        step=lambda state, action, key: (
            (plain.step(state[0], action, key)[0], key),
            plain.step(state[0], action, key)[1],
        ),
    )
    assert 12 <= _check(wrappers.auto_reset(with_key, same_step=True)) <= 24
