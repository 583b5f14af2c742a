"""The host loop on tiny environments: exact counts, the order of events, rows in replay."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting
from muzero_jax.envs.wrappers import as_host_env
from muzero_jax.loops import sebulba as module
from muzero_jax.types import Counters, RunState

_GROUPS, _SIZE, _STEPS = 2, 2, 3
_E = _GROUPS * _SIZE
_LENGTHS = ([2, 3], [4, 1])


def _groups(log=None):
    def recorder(group):
        return lambda action: log.append(("env", group)) if log is not None else None

    return [
        fakes.make_host_env([2 * g, 2 * g + 1], _LENGTHS[g], on_step=recorder(g))
        for g in range(_GROUPS)
    ]


def _fresh(ring):
    carry = acting.init_carry(fakes.SPEC, _SIZE, 2)
    return RunState(
        train=fakes.make_train(),
        replay=ring.init(),
        env=None,
        timestep=None,
        acting=tuple(jax.tree.map(jnp.copy, carry) for _ in range(_GROUPS)),
        counters=Counters(),
    )


def _loop(*, envs=None, search=fakes.search, learn=fakes.learn, seed=0, **options):
    ring = fakes.make_replay(_E, 64)
    options = dict(
        min_rows=20,
        rows_per_update=4,
        steps_per_iteration=_STEPS,
        explore_at=lambda updates: fakes.EXPLORE,
    ) | options
    return module.sebulba(
        _fresh(ring),
        envs=_groups() if envs is None else envs,
        act_and_add=acting.make_act_and_add(search, ring),
        learn=learn,
        key=jax.random.key(seed),
        **options,
    )


def _emitted(env, count):
    """The first `count` time steps of a fake environment, whatever its actions."""
    steps = [env.reset()] + [env.step(np.zeros(_SIZE, int)) for _ in range(count - 1)]
    return {
        name: np.stack([getattr(step, name) for step in steps], 1)
        for name in ("observation", "reward", "discount", "first", "last")
    }


@pytest.mark.parametrize("rows_per_update,min_rows", [(1, 20), (2, 20), (4, 22), (8, 0), (4, 3)])
def test_the_ratio_is_exact_at_every_yield_and_there_is_no_burst(rows_per_update, min_rows):
    """Planted bugs seen: updates one group step late; `rows // r` without `min_rows`."""
    attempted = []  # Updates before each search.
    loop = _loop(
        rows_per_update=rows_per_update,
        min_rows=min_rows,
        explore_at=lambda updates: attempted.append(updates) or fakes.EXPLORE,
    )
    for i, (run, metrics) in enumerate(itertools.islice(loop, 8), start=1):
        rows = _E * (1 + _STEPS * i)
        assert run.counters == Counters(
            iteration=i,
            env_steps=run.counters.env_steps,
            rows=rows,
            updates=max(0, rows - min_rows) // rows_per_update,
            resumes=0,
        )
        assert all(type(count) is int for count in run.counters)  # They may pass 2^63.
        assert int(run.train.step) == run.counters.updates
        assert ("train/loss" in metrics) == (run.counters.updates > 0)
    assert 0 < np.diff(attempted).max() <= max(1, _SIZE // rows_per_update)


def test_a_reset_in_the_same_step_is_a_step():
    """Only the rows of the very first reset are none. Planted bug seen: every `first` row."""
    env = fakes.make_jax_env(same_step=True)
    envs = [as_host_env(env, _SIZE, jax.random.key(g)) for g in range(_GROUPS)]
    for run, _ in itertools.islice(_loop(envs=envs), 8):
        assert run.counters.env_steps == run.counters.rows - _E


def test_counters_rows_and_parameters_that_each_search_saw():
    """A row shows (environment, its number): replay environment e holds exactly what environment e
    sent. Act number k comes after 2k rows, so that its parameters are floor((2k - 20)/4) updates
    old. Planted bugs seen: groups exchanged in replay; `made_at_updates` read after the update;
    resets counted as steps."""
    taken, run = fakes.take(_loop(), 8)
    rows = 1 + 8 * _STEPS
    firsts = 0
    for g in range(_GROUPS):
        sent = _emitted(_groups()[g], rows)
        mine = slice(g * _SIZE, (g + 1) * _SIZE)
        np.testing.assert_array_equal(sent["observation"][0, :, 0], 2 * g)
        for name, values in sent.items():
            stored = np.asarray(getattr(run.replay.rows, name))[mine, :rows]
            np.testing.assert_array_equal(stored.reshape(values.shape), values, err_msg=name)
        acts = np.arange(rows) * _GROUPS + g
        made_at = np.maximum(0, 2 * acts - 20) // 4
        for e in range(_SIZE):
            np.testing.assert_array_equal(
                run.replay.rows.made_at_updates[g * _SIZE + e, :rows], made_at
            )
            np.testing.assert_array_equal(
                run.replay.rows.policy[g * _SIZE + e, :rows, 0], made_at.astype(np.float32)
            )
        firsts += sent["first"].sum()
    np.testing.assert_array_equal(run.replay.filled, [rows] * _E)
    assert run.counters.rows == _E * rows and run.counters.env_steps == _E * rows - firsts
    # 4 rows at once: 4 resets at first; then row 3 of environment 0 (2 steps), 2 of environment 3.
    assert taken[0][0].env_steps == 16 - 4 - 2


def test_exploration_is_that_of_the_attempted_updates():
    """A schedule that moves: act number k is searched with the `Explore` of the updates attempted
    until then, floor((2k - 20)/4). Planted bugs seen: read from the rows; from the next update;
    from the iterations."""
    loop = _loop(search=fakes.search_that_shows_its_noise, explore_at=fakes.noise_of)
    _, run = fakes.take(loop, 8)
    rows = 1 + 8 * _STEPS
    for g in range(_GROUPS):
        attempted = np.maximum(0, 2 * (np.arange(rows) * _GROUPS + g) - 20) // 4
        assert attempted.max() > 10
        for e in range(_SIZE):
            np.testing.assert_array_equal(
                run.replay.rows.value[g * _SIZE + e, :rows], attempted
            )


def test_returns_of_training_episodes():
    """Rewards are row numbers: episodes of 2, 3, 4 and 1 steps end in rows 2, 3, 4 and 1, and are
    counted one row later. Iteration 1 sees rows 1-3: 1+2 and 1 (rows 0-1; again 3 in row 3, put in
    row 4). Iteration 2, rows 4-6: 1+2+3 in row 4; 4+5 in row 6 (put in row 6); 1+2+3+4 in row 5;
    3 in row 4, 5 in row 6. Planted bugs seen: counted twice; the running sum not reset."""
    taken, _ = fakes.take(_loop(), 2)
    assert [m["train/episodes"] for _, m in taken] == [2, 5]
    assert [m["train/return_sum"] for _, m in taken] == [3 + 1, 6 + 9 + 10 + 3 + 5]


def test_returns_where_the_last_reward_comes_with_the_first_row():
    """Same-step resets: 1 + 2 + 4 (the `first` row's) = 7, then 8. Planted bug seen: the reward of
    the `first` row booked for the new episode."""
    stats = module.EpisodeReturns(num_groups=2, group_size=1)
    env = fakes.make_host_env([0], [9])
    for reward, first in [(1, 0), (2, 0), (4, 1), (8, 1), (16, 0)]:
        timestep = env.reset().replace(
            reward=np.array([reward], np.float32), first=np.array([first], bool)
        )
        stats.add(1, timestep)
    assert stats.take() == (15.0, 2)
    assert stats.take() == (0, 0)


def _record(monkeypatch, **options):
    """A loop, and its events as the host makes them: ("act", updates until then), ("env", group),
    and ("fetch", arrays) of the device."""
    events, read = [], jax.device_get

    def device_get(x):
        if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
            events.append(("fetch", x))
        return read(x)

    def explore_at(updates):
        events.append(("act", updates))
        return fakes.EXPLORE

    monkeypatch.setattr(jax, "device_get", device_get)
    return _loop(envs=_groups(events), explore_at=explore_at, **options), events


def test_one_fetch_per_group_step_and_the_order_of_events(monkeypatch):
    """When a group's search is dispatched, the next group's environments are already at work.
    Planted bugs seen: another fetch in each iteration; the next group started only after the
    search, which makes the loop serial wherever a dispatch blocks."""
    loop, events = _record(monkeypatch, rows_per_update=2, min_rows=4)
    assert len(list(itertools.islice(loop, 4))) == 4
    fetched = [event[1] for event in events if event[0] == "fetch"]
    assert len(fetched) == 4 * _STEPS * _GROUPS + 1  # One group is always ahead.
    # Actions and faults, each a list of the blocks of this process's devices, here one.
    blocks = [block for news in fetched for (block,) in news]
    assert len(blocks) == 2 * len(fetched)
    assert all(isinstance(x, jax.Array) and x.shape == (_SIZE,) for x in blocks)
    # With 2 rows per update, each group step makes one due; the 4 rows at the start make none.
    steps = [[("fetch",), ("act", updates)] for updates in range(4 * _STEPS * _GROUPS)]
    mine = [event[:1] if event[0] == "fetch" else event for event in events if event[0] != "env"]
    assert mine == [("act", 0), ("act", 0), ("fetch",)] + sum(steps, [])
    for g in range(_GROUPS):
        # The environments' thread reports when it likes, but always before what it brings is used.
        acts = itertools.count(-g)
        ours = [
            event[0] for event in events
            if event == ("env", g) or (event[0] == "act" and next(acts) % _GROUPS == 0)
        ]
        assert ours[: 2 * 4 * _STEPS + 1] == ["act"] + ["env", "act"] * (4 * _STEPS)


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="on a CPU the guard catches nothing")
def test_nothing_reads_the_device_but_fetch():
    """`fetch` reads explicitly; anything else would be an implicit transfer."""
    with jax.transfer_guard_device_to_host("disallow"):
        taken, _ = fakes.take(_loop(rows_per_update=2, min_rows=4), 2)
    assert len(taken) == 2


def test_one_trace_of_each_function():
    """Before and after warm-up, at every group. Planted bug seen: the group index not traced."""
    traces = {"search": 0, "learn": 0}

    def search(*args):
        traces["search"] += 1
        return fakes.search(*args)

    def learn(*args):
        traces["learn"] += 1
        return fakes.learn(*args)

    fakes.take(_loop(search=search, learn=learn), 6)
    # `make_replay` has its rows from the plain search: not counted here.
    assert traces == {"search": 1, "learn": 1}


def test_same_seed_same_run_and_a_probe_changes_nothing():
    """Planted bugs seen: the key of acting not folded with the counter of rows; the probe running
    an update more."""
    taken, run = fakes.take(_loop(), 6)
    probed, again = fakes.take(_loop(probe_interval_iterations=2), 6)
    fakes.assert_trees_equal(run, again)
    _, other = fakes.take(_loop(seed=1), 6)
    assert not np.array_equal(run.replay.rows.value, other.replay.rows.value)
    values = np.asarray(run.replay.rows.value)[:, : 1 + 6 * _STEPS]
    assert len(np.unique(values)) == values.size  # No key was used twice.
    shares = {f"speed/share_{name}" for name in ("fetch", "env", "search", "update")}
    hosts = {"speed/host_share_fetch", "speed/host_share_env"}
    for i, (_, metrics) in enumerate(probed):
        speeds = {name for name in metrics if name.startswith("speed/")}
        if i % 2 == 0:
            assert speeds == hosts
        else:
            assert speeds == shares
            assert 0 < sum(metrics[name] for name in speeds) <= 1
    assert all("speed/share_search" not in metrics for _, metrics in taken)


def test_every_update_has_its_own_key():
    """One update in each iteration, whose metrics show a draw. Planted bug seen: one key for all
    updates (the run is the same again, and its acting draws again: nothing else shows it)."""

    def learn(train, replay_state, key):
        train, replay_state, metrics = fakes.learn(train, replay_state, key)
        return train, replay_state, metrics | {"drawn": jax.random.uniform(key)}

    taken, run = fakes.take(_loop(learn=learn, min_rows=4, rows_per_update=12), 6)
    assert run.counters.updates == 6
    assert len({float(metrics["train/drawn"]) for _, metrics in taken}) == 6


def test_a_probe_waits_for_what_it_times(monkeypatch):
    """Every search and every update is followed by a fetch of arrays that it made.
    Planted bug seen: the wait looks at a host counter, so that updates seem to cost nothing."""
    loop, events = _record(
        monkeypatch, probe_interval_iterations=1, min_rows=4, rows_per_update=1
    )
    next(loop)
    kinds = "".join(event[0][0] for event in events if event[0] != "env")
    # The last of the first acts, then in each group step: actions, act, and two updates, each with
    # a fetch of its own behind it.
    assert kinds == "aa" + "fafff" * (_STEPS * _GROUPS)
    updates = [event[1] for event in events if event[0] == "act"]
    assert updates == [0, 0, *range(0, 2 * _STEPS * _GROUPS, 2)]


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(rows_per_update=3), "rows_per_update"),
        (dict(rows_per_update=0), "rows_per_update"),
        (dict(envs=[fakes.make_host_env([0, 1], [2, 2]), fakes.make_host_env([2], [2])]), "same"),
    ],
)
def test_what_does_not_divide_is_refused(options, message):
    """Planted bug seen: `check_ratio` not called."""
    with pytest.raises(ValueError, match=message):
        next(_loop(**options))
