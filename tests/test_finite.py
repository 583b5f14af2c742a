"""Numbers that are not finite: from the environment to the loops, the resume point and the exit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting, checkpoint, errors, finite, metrics
from muzero_jax.config import build
from muzero_jax.loops import anakin, sebulba, unplugged
from muzero_jax.search.gumbel import make_gumbel_search
from muzero_jax.search.muzero import make_muzero_search
from muzero_jax.training import saving
from muzero_jax.training.timing import Interval
from muzero_jax.types import Counters, Network, Prediction, RunState, Transition
from presets import config_of
import processes
from worlds import CODECS, explore, history_of

POISONS = [np.nan, np.inf, -np.inf, 2e18, -1e38]


def _rows(shape=(3, 4)):
    """Rows `[3, 4]` with floats wherever there can be some, all finite, up to 1e18."""
    rng = np.random.default_rng(0)
    flags = rng.random((4, *shape)) < 0.5
    return Transition(
        observation={"image": np.ones((*shape, 2, 2), np.uint8),
                     "speed": rng.normal(size=(*shape, 3)).astype(np.float32)},
        reward=np.full(shape, 1e18, np.float32),
        discount=np.array([0, 1, -1], np.float32)[rng.integers(3, size=shape)],
        first=flags[0],
        last=flags[1],
        invalid_actions=flags[2][..., None],
        action=rng.normal(size=(*shape, 2)).astype(np.float32),
        policy=(rng.random((*shape, 2, 2)).astype(np.float16), rng.random(shape, np.float32)),
        value=rng.normal(size=shape).astype(np.float32),
        explored=flags[3],
        made_at_updates=rng.integers(9, size=shape),
    )


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", finite.FIELDS)
def test_what_is_not_finite_becomes_0_and_its_row_is_marked(name, poison):
    """In whatever leaf of whatever field, with everything else as it was; cleaned again the rows
    stay as they are, and the fault can still be read. Planted bugs seen: the limit compared in
    float16, where it is infinite; an infinite discount taken for a mark."""
    rows = _rows()
    places = [(0, 1), (2, 3)]
    for place in places:
        leaf = jax.tree.leaves(getattr(rows, name))[-1 if name == "observation" else 0]
        # One number of it, or one row.
        with np.errstate(over="ignore"):
            leaf[(*place, *[0] * (leaf.ndim - 3), 1) if leaf.ndim > 2 else place] = poison
    want = np.zeros((3, 4), np.uint8)
    for place in places:
        want[place] = 1 << finite.FIELDS.index(name)
    np.testing.assert_array_equal(finite.faults(rows), want)
    cleaned = jax.tree.map(np.array, finite.clean(rows))
    np.testing.assert_array_equal(finite.faults(cleaned), want)
    fakes.assert_trees_equal(jax.device_get(finite.clean(cleaned)), cleaned)
    np.testing.assert_array_equal(finite.is_marked(cleaned.discount), want > 0)
    rows.discount[want > 0] = cleaned.discount[want > 0] = 0
    for before, after in zip(jax.tree.leaves(rows), jax.tree.leaves(cleaned), strict=True):
        assert before.dtype == after.dtype
        known = np.abs(before.astype(np.float32)) <= 1e18
        np.testing.assert_array_equal(after, np.where(known, before, 0))
    found = finite.count(want)
    assert found.pop("rows") == found.pop(name) == 2 and not any(found.values())


def test_rows_that_are_finite_stay_as_they_are():
    """Also at the limit."""
    fakes.assert_trees_equal(jax.device_get(finite.clean(_rows())), jax.device_get(_rows()))
    assert not np.any(finite.faults(_rows()))


def _poisoned(env, field):
    """`fakes.make_jax_env` whose `field` is not finite at age 1 of the episodes of 3 steps."""

    def step(state, action, key):
        state, row = env.step(state, action, key)
        bad = (row.observation[0] == 3) & (row.observation[1] == 1)
        value = getattr(row, field)
        return state, row.replace(**{field: jnp.where(bad, jnp.nan, value)})

    return env._replace(step=step)


_E, _T = 4, 3


def _anakin(env, iterations, replay):
    state, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(9), _E))
    run = RunState(
        train=fakes.make_train(),
        replay=replay.init(),
        env=state,
        timestep=timestep,
        acting=anakin.init_anakin_carry(env.spec, _E, 2),
        counters=Counters(),
    )
    loop = anakin.anakin(
        run,
        rollout=acting.make_rollout(env, fakes.search, num_steps=_T),
        replay=replay,
        learn=fakes.learn,
        explore_at=lambda updates: fakes.EXPLORE,
        key=jax.random.key(0),
        min_rows=30,
        rows_per_update=4,
        steps_per_iteration=_T,
    )
    return fakes.take(loop, iterations)


def _assert_finite(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(x.dtype, jnp.floating):
            assert np.isfinite(x).all(), jax.tree_util.keystr(path)


def _drawable(bad, last, history_steps, future_steps):
    """Which rows `[E, L]` of a ring that is not full may be roots, by a loop over windows."""
    drawable = np.zeros(bad.shape, bool)
    for e, t in np.ndindex(bad.shape):
        window = bad[e, max(t - history_steps, 0) : t + future_steps + 1]
        whole = t + future_steps < bad.shape[1]
        drawable[e, t] = whole and not last[e, t] and not window.any()
    return drawable


@pytest.mark.parametrize("field, same_step", [
    ("reward", False), ("observation", True),
    *(pytest.param(*x, marks=pytest.mark.slow)
      for x in (("reward", True), ("observation", False)))])
def test_the_device_loop_counts_them_and_learns_from_none(field, same_step):
    """Nothing that is not finite is in the state after any iteration; every window that holds such
    a row is out, all others are in; each is counted once; and of returns those of their episodes
    are not counted."""
    replay = fakes.make_replay(_E, 64)
    env = fakes.make_jax_env(same_step=same_step)
    taken, run = _anakin(_poisoned(env, field), 12, replay)
    clean_taken, clean_run = _anakin(env, 12, replay)
    rows = 12 * _T
    _assert_finite(run.replace(counters=None, train=None))
    stored = jax.tree.map(lambda x: np.asarray(x)[:, :rows], run.replay.rows)
    # Neither resets nor lengths of episodes depend on rewards, observations or actions.
    seen = np.asarray(clean_run.replay.rows.observation)[:, :rows]
    bad = (seen[..., 0] == 3) & (seen[..., 1] == 1)
    assert bad.sum() > 4
    assert sum(m["train/non_finite_rows"] for _, m in taken) == bad.sum()
    assert sum(m[f"train/non_finite_{field}"] for _, m in taken) == bad.sum()
    assert sum(m["train/non_finite_value"] for _, m in taken) == 0
    np.testing.assert_array_equal(getattr(stored, field)[bad], 0)
    np.testing.assert_array_equal(stored.last, np.asarray(clean_run.replay.rows.last)[:, :rows])
    drawable = _drawable(bad, stored.last, 2, 2)
    np.testing.assert_array_equal(np.asarray(run.replay.weights)[:, :rows] > 0, drawable)
    assert drawable.any() and not np.asarray(run.replay.weights)[:, rows:].any()
    episodes, all_episodes = (sum(m["train/episodes"] for _, m in x) for x in (taken, clean_taken))
    # Each of these episodes ends by itself unless the run ends first.
    spoilt = bad.sum() if field == "reward" else 0
    assert all_episodes - spoilt <= episodes <= all_episodes - spoilt + _E
    assert np.isfinite([m["train/return_sum"] for _, m in taken]).all()


def test_the_host_loop_counts_them_and_learns_from_none():
    """As on the device; rows of host environments reach the loop as they are. Planted bug seen:
    a NaN in the sum of returns."""
    base = fakes.make_host_env([0, 1], [3, 4])
    sent = []

    def step(action):
        timestep = base.step(action)
        # Row numbers are rewards: 5 is in environment 0 its first episode's reset + 1.
        bad = timestep.observation[:, 1] % 7 == 5
        reward = np.where(bad, np.float32(np.nan), timestep.reward)
        timestep = timestep.replace(reward=np.where(timestep.first, timestep.reward, reward))
        sent.append(timestep)
        return timestep

    replay = fakes.make_replay(2, 64)
    run = RunState(
        train=fakes.make_train(), replay=replay.init(), env=None, timestep=None,
        acting=(acting.init_carry(fakes.SPEC, 2, 2),), counters=Counters(),
    )
    loop = sebulba.sebulba(
        run,
        envs=[base._replace(step=step)],
        act_and_add=acting.make_act_and_add(fakes.search, replay),
        learn=fakes.learn,
        explore_at=lambda updates: fakes.EXPLORE,
        key=jax.random.key(0),
        min_rows=20,
        rows_per_update=2,
        steps_per_iteration=4,
    )
    taken, run = fakes.take(loop, 8)
    _assert_finite(run.replace(counters=None, train=None))
    bad = np.isnan([timestep.reward for timestep in sent]).T
    last = np.array([timestep.last for timestep in sent]).T
    assert bad.sum() > 5 and not bad[:, -1].any()  # The newest row would be counted one step later.
    assert sum(m["train/non_finite_rows"] for _, m in taken) == bad.sum()
    assert sum(m["train/non_finite_reward"] for _, m in taken) == bad.sum()
    drawable = _drawable(np.pad(bad, ((0, 0), (1, 0))), np.pad(last, ((0, 0), (1, 0))), 2, 2)
    rows = drawable.shape[1]
    np.testing.assert_array_equal(np.asarray(run.replay.weights)[:, :rows] > 0, drawable)
    returns = [m["train/return_sum"] for _, m in taken]
    assert np.isfinite(returns).all() and sum(returns) > 0


def test_stored_rows_are_counted_with_the_iteration_that_adds_them():
    """The blocks of the first fill with the first iteration, then one block each. Planted bug
    seen: counts that are never forgotten."""
    replay = fakes.make_replay(2, 32)
    row = acting.example_row(fakes.SPEC, fakes.search, fakes.make_params(), 2)
    bad_per_block = [1, 0, 2, 0, 1, 3]

    def blocks(begin):
        for i in itertools.count(begin):
            rows = jax.tree.map(lambda x: np.zeros((2, 4, *x.shape), x.dtype), row)
            rows.value.reshape(-1)[: bad_per_block[i % 6]] = np.inf
            yield rows

    run = RunState(train=fakes.make_train(), replay=replay.init(), env=None, timestep=None,
                   acting=None, counters=Counters())
    loop = unplugged.unplugged(
        run, blocks=blocks, blocks_at_first=3, num_blocks=6, streams=True, replay=replay,
        learn=fakes.learn, key=jax.random.key(0), rows_per_update=4, updates_per_iteration=2,
    )
    taken, run = fakes.take(loop, 3)
    assert [m["train/non_finite_rows"] for _, m in taken] == [1 + 0 + 2 + 0, 1, 3]
    assert [m["train/non_finite_value"] for _, m in taken] == [3, 1, 3]
    _assert_finite(run.replay)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("make", [make_gumbel_search, make_muzero_search])
def test_an_action_is_legal_whatever_the_network_says(make, temperature):
    """Logits and values that are all NaN: the row is lost, the game goes on."""

    def predict(batch):
        numbers = jnp.full((batch, 1), jnp.nan)
        return Prediction(embedding=numbers, reward_logits=numbers, value_logits=numbers,
                          policy_logits=jnp.full((batch, 5), jnp.nan))

    network = Network(
        lambda key: None,
        lambda params, history: predict(history.action.shape[0]),
        lambda params, embedding, action: predict(action.shape[0]),
    )
    search = jax.jit(
        make(network, CODECS, num_actions=5, turn_sign=1, discount=0.9, num_simulations=4))
    invalid = np.array([[True, True, False, True, False], [False] * 5, [True] * 4 + [False]])
    for seed in range(3):
        output = search(None, jax.random.key(seed), history_of(np.zeros((3, 2), np.float32)),
                        invalid, explore(temperature, 0.25, 0.1))
        assert not invalid[np.arange(3), output.action].any()
        assert np.isnan(output.value).all()


def _fault(num_rows, **bad):
    interval = Interval(Counters())
    names = ("rows", *finite.FIELDS)
    interval.add({f"train/non_finite_{name}": bad.get(name, 0) for name in names})
    return interval.fault(Counters(rows=num_rows))


def test_more_than_1_percent_of_an_intervals_rows_is_a_fault():
    """It names the fields."""
    assert _fault(1000) is None
    assert _fault(1000, rows=10, reward=10) is None
    line = _fault(1000, rows=11, reward=8, observation=4)
    assert line.startswith("env: 11 of 1000 rows") and "reward in 8, observation in 4" in line
    assert "value" not in line
    assert _fault(20, rows=1, reward=1) is None
    assert _fault(20, rows=2, reward=2) is not None
    assert _fault(100, rows=50, value=50).startswith("search: 50 of 100 rows")


@pytest.fixture
def spoilt_cartpole(monkeypatch):
    """CartPole whose rewards are NaN in every 128th step of an environment."""
    make = build.JAX_ENVS["cartpole"]

    @functools.wraps(make)
    def made(**options):
        env = make(**options)

        def reset(key):
            state, row = env.reset(key)
            return (state, jnp.int32(0)), row

        def step(state, action, key):
            inner, row = env.step(state[0], action, key)
            count = state[1] + 1
            bad = count % 128 == 0
            return (inner, count), row.replace(reward=jnp.where(bad, jnp.nan, row.reward))

        return env._replace(reset=reset, step=step)

    monkeypatch.setitem(build.JAX_ENVS, "cartpole", made)


_RUN = processes.TINY_CONTROL | {
    "env.num_groups": 1,
    "total_env_steps": 1400,
    "evaluation.interval_env_steps": 10**6,
    "evaluation.stop_at": 1000.0,
    "checkpoint.resume_interval_env_steps": 300,
    "checkpoint.params_interval_env_steps": 10**6,
    "checkpoint.max_to_keep": 9,
    "logging.interval_env_steps": 600,
}


@pytest.mark.slow
@pytest.mark.usefixtures("spoilt_cartpole")
def test_a_run_with_some_such_rewards_trains_and_saves_nothing_of_them(tmp_path):
    """In 1 of 128 steps, less than 1 %: the run is done, every number of every resume point is
    finite, and the metrics tell of each such row."""
    config = config_of("cartpole", "on_device", **_RUN)
    processes.train(config, tmp_path / "run")
    steps = checkpoint.committed_steps(tmp_path / "run" / "checkpoints")
    experiment = build.experiment(config)
    for step in steps:
        target = jax.eval_shape(lambda: saving.saved_tree(experiment.init()))
        found = checkpoint.restore_newest(tmp_path / "run" / "checkpoints", target, step=step)
        _assert_finite(found[1])
    records = metrics.read_jsonl(tmp_path / "run" / "metrics.jsonl")
    rows_in = [r["train/non_finite_rows"] for r in records if "train/non_finite_rows" in r]
    assert len(steps) > 3 and len(rows_in) >= 3
    # 350 steps of each of the 4 environments: 2 such rewards each.
    assert sum(rows_in) == 8 == sum(r.get("train/non_finite_reward", 0) for r in records)
    scores = [r for r in records if "eval/returns" in r]
    assert scores and all(x is not None for x in scores[-1]["eval/returns"])


def test_a_run_with_many_such_rows_ends_and_names_the_field(tmp_path):
    """At the line of metrics of the interval, which is written first; nothing is said of intervals
    with 1 % of them."""
    config = config_of("cartpole", "on_device", **_RUN)
    experiment = build.experiment(config)
    names = [f"train/non_finite_{name}" for name in ("rows", *finite.FIELDS)]

    def iterate(run):
        for i in itertools.count(1):
            rows = 6 if i <= 3 else 7  # Of each 600.
            counters = run.counters._replace(iteration=i, env_steps=600 * i, rows=600 * i)
            run = run.replace(counters=counters)
            yield run, dict.fromkeys(names, 0) | {names[0]: rows, names[2]: rows}

    config.total_env_steps = 10**6
    line = r"^env: 7 of 600 rows .* not finite, or beyond 1e\+18: observation in 7\. "
    with pytest.raises(errors.NotFiniteError, match=line):
        processes.train(config, tmp_path, experiment=experiment._replace(run=iterate))
    records = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert [r["train/non_finite_rows"] for r in records] == [6, 6, 6, 7]
    assert [r["train/non_finite_observation"] for r in records] == [6, 6, 6, 7]
    assert all("train/non_finite_reward" not in r for r in records)
