"""The device loop on tiny environments: exact counts, returns, one trace, N + M = N, then M."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting
from muzero_jax.learner import split_count
from muzero_jax.loops import anakin as module
from muzero_jax.types import Counters, Env, RunState, TimeStep, Transition

_E, _T = 4, 3


def _ring():
    return fakes.make_replay(_E, 64)


def _fresh(env):
    state, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(9), _E))
    return RunState(
        train=fakes.make_train(),
        replay=_ring().init(),
        env=state,
        timestep=timestep,
        acting=module.init_anakin_carry(env.spec, _E, 2),
        counters=Counters(),
    )


def _loop(env, run=None, *, learn=fakes.learn, search=fakes.search, seed=0, **options):
    options = dict(
        min_rows=30,
        rows_per_update=4,
        steps_per_iteration=_T,
        explore_at=lambda updates: fakes.EXPLORE,
    ) | options
    return module.anakin(
        _fresh(env) if run is None else run,
        rollout=acting.make_rollout(env, search, num_steps=_T),
        replay=_ring(),
        learn=learn,
        key=jax.random.key(seed),
        **options,
    )


@pytest.mark.parametrize("rows_per_update,min_rows", [(1, 12), (4, 30), (12, 20), (24, 0)])
def test_the_ratio_is_exact_at_every_yield_and_there_is_no_burst(rows_per_update, min_rows):
    """Planted bugs seen: one update more after warm-up; `rows // r` without `min_rows`."""
    env = fakes.make_jax_env(same_step=False)
    loop = _loop(env, rows_per_update=rows_per_update, min_rows=min_rows)
    before = 0
    for i, (run, metrics) in enumerate(itertools.islice(loop, 8), start=1):
        updates = max(0, _E * _T * i - min_rows) // rows_per_update
        assert all(type(count) is int for count in run.counters)
        assert run.counters.updates == updates == int(run.train.step)
        assert (run.counters.iteration, run.counters.rows) == (i, _E * _T * i)
        assert np.isnan(metrics["train/loss"]) == (updates == before)
        assert updates - before <= max(1, _E * _T // rows_per_update)
        before = updates


@pytest.mark.parametrize("same_step", [False, True])
def test_env_steps_are_exact_one_iteration_late(same_step):
    """A next-step reset is no step; a same-step reset is the step that ended its episode. Planted
    bugs seen: every `first` row taken for a reset; the resets of an iteration counted twice."""
    taken, run = fakes.take(_loop(fakes.make_jax_env(same_step=same_step)), 8)
    last, first = run.replay.rows.last, run.replay.rows.first
    for i, (counters, _) in enumerate(taken, start=1):
        # Steps of the i iterations, without the resets of the first i - 1: those follow a `last`.
        resets = np.sum(last[:, : _T * (i - 1)])
        assert counters.env_steps == _E * _T * i - resets
    assert (counters.env_steps == _E * _T * 8) == same_step and first.sum() > 2 * _E


def _rows(reward, first):
    """`Transition` `[E, T]` with only what `episode_returns` reads."""
    names = ("observation", "last", "invalid_actions", "action")
    names += ("policy", "value", "explored", "made_at_updates")
    return Transition(
        reward=jnp.array(reward, jnp.float32),
        discount=jnp.ones_like(jnp.array(reward, jnp.float32)),
        first=jnp.array(first, bool),
        **dict.fromkeys(names),
    )


def test_episode_returns_of_both_reset_styles():
    """Environment 0, next-step resets, 10 running: 10+1+2 ends, counted on the `first` row (reward
    0); 4 runs on. Environment 1, same-step: 20+1 = 21 ends with the `first` row, then 2+4 = 6.
    Environment 2 begins: its `first` row ends nothing, 5+6 runs on. Planted bugs seen: the begin
    of a run counted as an episode of return 0; the reward of a `first` row in the new episode."""
    running, metrics = module.episode_returns(
        jnp.array([10.0, 20.0, module.UNKNOWN]),
        _rows(
            [[1, 2, 0, 4], [1, 2, 4, 8], [0, 5, 6, 0]],
            [[0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]],
        ),
    )
    assert running.tolist() == [4.0, 8.0, 11.0]
    assert float(metrics["return_sum"]) == 13 + 21 + 6 and float(metrics["episodes"]) == 3


@pytest.mark.parametrize("same_step", [False, True])
def test_told_returns_are_those_of_the_stored_rows(same_step):
    """Summed by a Python loop over the ring. Planted bug seen: the running return not carried."""
    taken, run = fakes.take(_loop(fakes.make_jax_env(same_step=same_step)), 8)
    reward = np.asarray(run.replay.rows.reward)[:, : 8 * _T]
    first = np.asarray(run.replay.rows.first)[:, : 8 * _T]
    finished = []
    for e in range(_E):
        running = 0.0
        for t in range(1, 8 * _T):
            running += reward[e, t]
            if first[e, t]:
                finished.append(running)
                running = 0.0
    assert sum(m["train/episodes"] for _, m in taken) == len(finished) > _E
    assert sum(m["train/return_sum"] for _, m in taken) == sum(finished) > 0


def test_exploration_is_that_of_the_attempted_updates():
    """A schedule that moves: each row was searched with the `Explore` of the updates attempted when
    its iteration began. Planted bugs seen: read from the rows; from the updates that are due after
    the iteration; from the iterations."""
    loop = _loop(
        fakes.make_jax_env(same_step=False),
        search=fakes.search_that_shows_its_noise,
        explore_at=fakes.noise_of,
    )
    _, run = fakes.take(loop, 6)
    attempted = np.repeat([max(0, _E * _T * i - 30) // 4 for i in range(6)], _T)
    assert attempted.max() > 5
    np.testing.assert_array_equal(
        run.replay.rows.value[:, : 6 * _T], np.tile(attempted, (_E, 1))
    )


def test_one_trace_of_each_function():
    """Before and after warm-up. Planted bug seen: the number of updates static."""
    traces = {"search": 0, "learn": 0}

    def search(*args):
        traces["search"] += 1
        return fakes.search(*args)

    def learn(*args):
        traces["learn"] += 1
        return fakes.learn(*args)

    loop = _loop(fakes.make_jax_env(same_step=False), search=search, learn=learn)
    next(loop)
    once = dict(traces)
    fakes.take(loop, 5)
    assert once == traces and once["search"] == 1


def test_the_generator_is_the_iteration_called_by_hand():
    """Planted bug seen: the key folded with the count of rows."""
    env = fakes.make_jax_env(same_step=False)
    taken, run = fakes.take(_loop(env), 6)
    rollout = acting.make_rollout(env, fakes.search, num_steps=_T)
    iteration = module.make_iteration(rollout, _ring(), fakes.learn, jax.random.key(0))
    iterate = jax.jit(fakes.on_one_device(iteration))
    hand, updates = _fresh(env), 0
    parts = (hand.train, hand.replay, hand.env, hand.timestep, hand.acting)
    for i in range(6):
        due = max(0, _E * _T * (i + 1) - 30) // 4
        *parts, metrics = iterate(
            *parts, fakes.EXPLORE, split_count(i), split_count(updates), np.int32(due - updates)
        )
        updates = due
        for name, value in taken[i][1].items():
            np.testing.assert_array_equal(value, metrics[name.removeprefix("train/")])
    fakes.assert_trees_equal(
        (run.train, run.replay, run.env, run.timestep, run.acting), tuple(parts)
    )
    made = np.asarray(run.replay.rows.made_at_updates)[:, : 6 * _T]
    seen = np.repeat([max(0, _E * _T * i - 30) // 4 for i in range(6)], _T)
    np.testing.assert_array_equal(made, np.tile(seen, (_E, 1)))
    np.testing.assert_array_equal(run.replay.rows.policy[:, : 6 * _T, 0], made)


def test_n_and_m_iterations_are_n_then_m():
    """Same process; across processes: `test_resume.py`. Planted bug seen: a resumed loop forgot
    the resets of the iteration before, so that `env_steps` differed."""
    env = fakes.make_jax_env(same_step=False)
    taken, whole = fakes.take(_loop(env), 7)
    for n in (1, 3, 5):
        _, part = fakes.take(_loop(env), n)
        again, joined = fakes.take(_loop(env, part), 7 - n)
        fakes.assert_trees_equal(joined.replace(counters=None), whole.replace(counters=None))
        assert [counters for counters, _ in again] == [counters for counters, _ in taken[n:]]
    _, other = fakes.take(_loop(env, seed=1), 7)
    assert not np.array_equal(other.replay.rows.value, whole.replay.rows.value)


def test_what_does_not_divide_is_refused():
    """Planted bug seen: `check_ratio` not called."""
    with pytest.raises(ValueError, match="rows_per_update"):
        next(_loop(fakes.make_jax_env(same_step=False), rows_per_update=5))


def test_arrays_that_share_a_buffer_are_donated_once():
    """An environment that shows its state itself: an eager `vmap(reset)` returns one buffer in two
    places, as games of pgx do. Seen before: `Attempt to donate the same buffer twice`."""

    def timestep(state, reward, first):
        return TimeStep(observation=state, reward=reward, discount=1.0 - first, first=first > 0,
                        last=jnp.zeros((), bool), invalid_actions=None)

    def reset(key):
        state = jax.random.uniform(key, (2,))
        return state, timestep(state, jnp.float32(0), jnp.float32(1))

    def step(state, action, key):
        return state + 1, timestep(state + 1, jnp.float32(1), jnp.float32(0))

    env = Env(fakes.SPEC, reset, step)
    run = _fresh(env)
    assert run.env.unsafe_buffer_pointer() == run.timestep.observation.unsafe_buffer_pointer()
    begun = np.asarray(run.timestep.observation)
    taken, run = fakes.take(_loop(env, run), 2)
    assert [counters.iteration for counters, _ in taken] == [1, 2]
    np.testing.assert_allclose(run.env, begun + 2 * _T, rtol=1e-6)
    np.testing.assert_array_equal(run.timestep.observation, run.env)
