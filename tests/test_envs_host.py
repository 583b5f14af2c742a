"""The rows that the envpool adapter makes, from running emulators."""

import dataclasses
import importlib
import re

import jax
import numpy as np
import pytest

from muzero_jax.envs import host
from muzero_jax.errors import EnvError


def _play(env, actions):
    """Rows `[T+1, E]`, the reset row included, for `actions` `[T, E]`."""
    rows = [env.reset()] + [env.step(action) for action in actions]
    names = ("observation", "reward", "discount", "first", "last")
    return {name: np.stack([getattr(row, name) for row in rows]) for name in names}


def _random_actions(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, env.spec.num_actions, (steps, env.num_envs)).astype(np.int32)


def test_seeds_of_purposes_groups_and_resumes_are_disjoint():
    """Planted bug seen: the purpose left out of the SeedSequence."""
    seeds = [
        each
        for seed in range(10)
        for purpose in (host.TRAIN, host.EVAL, host.RANDOM)
        for resume in range(2)
        for group in range(2)
        for each in host.env_seeds(seed, purpose, resume, group, 32)
    ]
    assert len(set(seeds)) == len(seeds) == 10 * 3 * 2 * 2 * 32
    assert 0 <= min(seeds) and max(seeds) < 2**31
    assert all(type(seed) is int for seed in seeds)
    assert host.env_seeds(3, host.EVAL, 0, 0, 4) == host.env_seeds(3, host.EVAL, 0, 0, 8)[:4]


@pytest.mark.envpool
def test_cartpole_truncates_at_its_limit():
    """Limit 12, alternating actions. Planted bugs seen: d = 0 on truncation; first one row late."""
    env = host.make_envpool("CartPole-v1", seeds=[1, 2, 3], max_steps=12)
    assert env.num_envs == 3 and env.spec.max_steps == 12 and env.spec.truncates
    assert env.spec.observation_shape == (4,) and env.spec.num_actions == 2
    rows = _play(env, np.tile(np.arange(40)[:, None] % 2, (1, 3)))
    index = np.arange(41) % 13  # 12 steps and a reset row.
    for e in range(3):
        np.testing.assert_array_equal(rows["first"][:, e], index == 0)
        np.testing.assert_array_equal(rows["last"][:, e], index == 12)
        np.testing.assert_array_equal(rows["discount"][:, e], index != 0)
        np.testing.assert_array_equal(rows["reward"][:, e], index != 0)
    assert np.abs(rows["observation"][rows["first"]]).max() <= 0.05


@pytest.mark.envpool
def test_cartpole_terminates_and_the_reset_row_ignores_its_action():
    """Planted bugs seen: d = 1 on a terminated row; d = 1 on a reset row."""
    env = host.make_envpool("CartPole-v1", seeds=[1, 2, 3])
    rows = _play(env, np.ones((40, 3), np.int64))
    assert rows["last"].sum() >= 9
    np.testing.assert_array_equal(rows["first"][1:], rows["last"][:-1])
    np.testing.assert_array_equal(rows["discount"], ~(rows["first"] | rows["last"]))
    np.testing.assert_array_equal(rows["reward"], ~rows["first"])
    assert (np.abs(rows["observation"][rows["last"]][:, 2]) > 12 * np.pi / 180).all()
    other = _play(
        host.make_envpool("CartPole-v1", seeds=[1, 2, 3]),
        np.where(rows["last"][:-1], 0, 1),
    )
    np.testing.assert_array_equal(other["observation"], rows["observation"])


@pytest.mark.envpool
@pytest.mark.parametrize(
    "task,shape,actions,limit",
    [
        ("Acrobot-v1", (6,), 3, 500),
        ("MountainCar-v0", (2,), 3, 200),
        ("LunarLander-v3", (8,), 4, 1000),
    ],
)
def test_other_classic_tasks(task, shape, actions, limit):
    """Planted bug seen: the limit of the spec fixed at 500."""
    env = host.make_envpool(task, seeds=[1, 2])
    assert env.spec.observation_shape == shape and env.spec.num_actions == actions
    assert env.spec.max_steps == limit and env.spec.observation_dtype == "float32"
    row = env.reset()
    assert row.observation.shape == (2, *shape) and row.observation.dtype == np.float32
    rows = _play(env, _random_actions(env, 205))
    if task == "MountainCar-v0":  # Random play never arrives: -1 per step and a truncation.
        np.testing.assert_array_equal(np.flatnonzero(rows["last"][:, 0]), [200])
        assert rows["discount"][200, 0] == 1 and rows["reward"][:201, 0].sum() == -200


@pytest.mark.envpool
def test_crashes_limits_and_an_end_at_the_limit():
    """A crash of LunarLander pays -100 and is dead; Acrobot at rest pays -1 until its limit. What
    envpool hides is pinned: a crash at the very limit counts as truncated, its reward as it is.
    Planted bug seen: `dead = terminated | truncated`.
    """

    def idle(task, action, steps, **options):
        env = host.make_envpool(task, seeds=[1], **options)
        rows = _play(env, np.full((steps, 1), action))
        return rows, int(np.flatnonzero(rows["last"][:, 0])[0])

    rows, crash = idle("LunarLander-v3", 0, 200)
    assert rows["reward"][crash, 0] == -100 and rows["discount"][crash, 0] == 0
    rows, end = idle("LunarLander-v3", 0, 200, max_steps=crash)
    assert end == crash
    assert rows["reward"][crash, 0] == -100 and rows["discount"][crash, 0] == 1
    rows, end = idle("Acrobot-v1", 1, 501)  # 1 is no torque.
    assert end == 500 and rows["discount"][500, 0] == 1 and rows["first"][501, 0]
    np.testing.assert_array_equal(rows["reward"][1:501, 0], -np.ones(500))


@pytest.mark.envpool
@pytest.mark.parametrize("image,shape", [("gray84", (84, 84, 1)), ("rgb96", (96, 96, 3))])
def test_atari_frames(image, shape):
    """Breakout's picture is upright and in colour. Planted bug seen: reshape for transpose."""
    env = host.make_atari("breakout", seeds=[1, 2], image=image)
    assert env.spec.observation_shape == shape and env.spec.observation_dtype == "uint8"
    assert env.spec.num_actions == 4 and env.spec.max_steps == 27000
    row = env.reset()
    for _ in range(4):
        kept, copy = row, row.observation.copy()
        row = env.step(np.array([3, 3], np.int32))
        np.testing.assert_array_equal(kept.observation, copy)  # No buffer is written again.
    frame = row.observation
    assert frame.shape == (2, *shape) and frame.dtype == np.uint8 and frame.flags.c_contiguous
    height, width, _ = shape
    bricks = frame[0, int(height * 0.28) : int(height * 0.42), 10:-10]
    below = frame[0, int(height * 0.5) : int(height * 0.8), 10:-10]
    assert bricks.min(axis=(0, 1)).max() > 60 and (below == 0).mean() > 0.95
    # Rows of bricks have one colour each: columns agree, rows do not.
    assert np.ptp(bricks.astype(int), axis=1).max() <= 2
    assert np.ptp(bricks.astype(int), axis=0).max() > 20
    if image == "rgb96":  # The uppermost bricks are red.
        red, green, blue = bricks[0, 0].astype(int)
        assert red > green + 50 and red > blue + 50
    assert row.reward.dtype == row.discount.dtype == np.float32
    assert row.first.dtype == row.last.dtype == bool and row.invalid_actions is None
    assert row.reward.shape == row.discount.shape == row.first.shape == row.last.shape == (2,)


@pytest.fixture
def procgen():
    """`make_procgen`, where the libraries of Qt 5 are."""
    try:
        importlib.import_module("envpool.procgen.procgen_envpool")
    except ImportError:
        pytest.skip("no Qt 5")
    return host.make_procgen


@pytest.mark.envpool
def test_procgen_without_qt_is_one_line(monkeypatch):
    """Planted bug seen: the ImportError not caught."""
    envpool = importlib.import_module("envpool")

    def fail(*args, **options):
        raise ImportError("EnvPool Procgen requires Qt 5")

    monkeypatch.setattr(envpool, "make_gymnasium", fail)
    with pytest.raises(ValueError, match="^env 'CoinrunEasy-v0': EnvPool Procgen requires Qt 5$"):
        host.make_procgen("coinrun", seeds=[1])


@pytest.mark.envpool
def test_procgen_games_are_those_of_envpool():
    """Planted bug seen: "extreme" left out of leaper."""
    known = importlib.import_module("envpool").list_all_envs()
    ours = {
        f"{game.capitalize()}{distribution.capitalize()}-v0"
        for game, distributions in host.PROCGEN_GAMES.items()
        for distribution in distributions
    }
    games = "|".join(game.capitalize() for game in host.PROCGEN_GAMES)
    pattern = re.compile(f"({games})(Easy|Hard|Extreme|Memory|Exploration)-v0")
    assert ours == set(filter(pattern.fullmatch, known)) and len(ours) == 50


@pytest.mark.envpool
def test_procgen_frames_and_ends(procgen):
    """Maze with random moves: goals pay 10 and end, the limit is 500. Planted bugs seen: frames
    reshaped instead of transposed; `max_episode_steps=50` handed on (all later ends truncated).
    """
    env = procgen("Maze", seeds=[1, 2, 3, 4], num_levels=50)
    assert env.spec.observation_shape == (64, 64, 3) and env.spec.num_actions == 15
    assert env.spec.max_steps == 500 and env.spec.observation_dtype == "uint8"
    rows = _play(env, _random_actions(env, 1200))
    dead = rows["last"] & (rows["discount"] == 0)
    assert dead.sum() >= 3 and (rows["reward"][dead] == 10).all()
    assert (rows["reward"][~dead] == 0).all()
    for e in range(4):
        begins = np.flatnonzero(rows["first"][:, e])
        for begin, end in zip(begins, np.flatnonzero(rows["last"][:, e]), strict=False):
            assert dead[end, e] or end - begin == 500
    # The final frame belongs to the level that ends: a move changes it less than a new level.
    frames = rows["observation"].astype(int)
    step, e = np.argwhere(rows["last"][:-1])[0]
    final = np.abs(frames[step, e] - frames[step - 1, e]).mean()
    assert final < 2 < np.abs(frames[step + 1, e] - frames[step, e]).mean()
    pool = importlib.import_module("envpool").make_gymnasium(
        "MazeEasy-v0", num_envs=4, seed=[1, 2, 3, 4], num_levels=50
    )
    raw, _ = pool.reset()
    assert raw.shape == (4, 3, 64, 64)
    for y, x, channel in np.random.default_rng(0).integers(0, [64, 64, 3], (200, 3)):
        np.testing.assert_array_equal(frames[0, :, y, x, channel], raw[:, channel, y, x])


@pytest.mark.envpool
def test_procgen_levels(procgen):
    """Planted bugs seen: start_level not handed on; seeds not handed on."""

    def starts(seeds, **options):
        return procgen("coinrun", seeds=seeds, **options).reset().observation

    one = starts([1, 2, 3], num_levels=1, start_level=5)
    assert (one == one[0]).all()  # One level has one start.
    assert (starts([1], num_levels=1, start_level=6)[0] != one[0]).any()
    free = starts([1, 2, 3])
    assert len(np.unique(free.reshape(3, -1), axis=0)) == 3
    np.testing.assert_array_equal(starts([3]), free[[2]])
    assert (starts([1], distribution="hard")[0] != free[0]).any()


@pytest.mark.envpool
def test_procgen_tells_of_a_goal_at_the_limit(procgen):
    """envpool calls every end after its own limit truncated. Planted bug seen: `over` not read."""
    del procgen
    pool = host._make_pool("MazeEasy-v0", range(8), num_threads=0, max_episode_steps=1)
    spec = dataclasses.replace(host.image_spec(pool), max_steps=500)
    env = host.wrap_pool(pool, spec, 8, over="prev_level_complete")
    rows = _play(env, _random_actions(env, 600))
    ended = rows["last"]
    assert (rows["reward"][ended] == 10).any() and (rows["reward"][ended] == 0).any()
    np.testing.assert_array_equal(rows["discount"][ended], rows["reward"][ended] != 10)


@pytest.mark.envpool
def test_full_action_space():
    """Planted bug seen: the option not handed on."""
    env = host.make_atari("Pong", seeds=[1], full_action_space=True)
    assert env.spec.num_actions == 18
    assert host.make_atari("Pong", seeds=[1]).spec.num_actions == 6


@pytest.fixture(scope="module")
def breakout():
    """FIRE always, in three versions: life loss no end, life loss an end, limit at the game over.

    The paddle never moves, so that five balls are soon lost.
    """

    def play(steps, **options):
        env = host.make_atari("Breakout", seeds=[1, 7], **options)
        return _play(env, np.ones((steps, 2), np.int32))

    plain = play(400)
    over = int(np.flatnonzero(plain["last"][:, 0])[0])
    lives = play(400, life_loss_is_end=True)
    limited = play(over + 3, max_steps=over)
    return plain, lives, limited, over


@pytest.mark.envpool
def test_a_lost_life_is_only_a_zero_discount(breakout):
    """Planted bugs seen: a lost life marks `last`; lives compared with the start of the game."""
    plain, lives, _, over = breakout
    for name in ("observation", "reward", "first", "last"):
        np.testing.assert_array_equal(plain[name], lives[name])
    np.testing.assert_array_equal(plain["discount"], ~(plain["first"] | plain["last"]))
    episode = lives["discount"][1 : over + 1, 0]
    # Five lives: four losses in the game, the fifth is the game over.
    assert (episode == 0).sum() == 5 and episode[-1] == 0
    assert not lives["last"][1:over, 0].any()
    # The second game counts its own lives.
    second = lives["discount"][over + 2 :, 0]
    assert 1 <= (second[: over // 2] == 0).sum() < 5


@pytest.mark.envpool
def test_game_over_at_the_limit_is_a_termination(breakout):
    """envpool itself calls it truncated. Planted bugs seen: `info["terminated"]`
    not read; every truncation taken for a game over.
    """
    plain, _, limited, over = breakout
    assert limited["last"][over, 0] and limited["discount"][over, 0] == 0
    np.testing.assert_array_equal(
        limited["observation"][: over + 1], plain["observation"][: over + 1]
    )
    assert limited["first"][over + 1, 0] and limited["discount"][over + 1, 0] == 0
    # With the limit one step before, the same game is truncated and not dead.
    env = host.make_atari("Breakout", seeds=[1, 7], max_steps=over - 1)
    earlier = _play(env, np.ones((over, 2), np.int32))
    assert earlier["last"][over - 1, 0] and earlier["discount"][over - 1, 0] == 1


@pytest.mark.envpool
def test_rewards_are_raw():
    """SpaceInvaders pays 5 to 30 a hit. Planted bug seen: reward_clip=True."""
    env = host.make_atari("SpaceInvaders", seeds=[1, 2])
    rewards = _play(env, _random_actions(env, 200))["reward"]
    assert rewards.max() >= 5 and set(np.unique(rewards)) <= {0, 5, 10, 15, 20, 25, 30, 200}


@pytest.mark.envpool
def test_seeds_decide_the_stream():
    """Planted bug seen: only `seeds[0]` is handed on (envpool then takes seed + i)."""

    def play(seeds):
        env = host.make_atari("Pong", seeds=seeds, sticky=0.25)
        return _play(env, np.tile(np.arange(60)[:, None] % 6, (1, len(seeds))))["observation"]

    ours = play([11, 500, 11])
    np.testing.assert_array_equal(ours, play([11, 500, 11]))
    np.testing.assert_array_equal(ours[:, 0], ours[:, 2])
    assert (ours[:, 0] != ours[:, 1]).any()
    np.testing.assert_array_equal(play([500])[:, 0], ours[:, 1])


@pytest.mark.envpool
def test_sticky_and_noop_options_act():
    """Same seeds and actions, other options. Planted bug seen: sticky not handed on."""

    def play(**options):
        env = host.make_atari("Pong", seeds=[5, 6], **options)
        return _play(env, _random_actions(env, 40))["observation"]

    assert (play() != play(sticky=0.25)).any()
    # Cars in Freeway never stand still, so that a start shows the number of no-ops.
    starts = host.make_atari("Freeway", seeds=list(range(8)), noop_max=1).reset().observation
    assert (starts == starts[0]).all()  # One no-op leaves no chance.
    starts = host.make_atari("Freeway", seeds=list(range(8)), noop_max=30).reset().observation
    assert len(np.unique(starts.reshape(8, -1), axis=0)) >= 4


@pytest.mark.envpool
@pytest.mark.parametrize("task,low,high,seen", [
    ("Pendulum-v1", -2, 2, (3,)),
    ("LunarLanderContinuous-v3", [-1] * 2, [1] * 2, (8,)),
    ("HalfCheetah-v5", [-1] * 6, [1] * 6, (17,)),
    ("ReacherEasy-v1", [-1] * 2, [1] * 2, {"position": (2,), "to_target": (2,), "velocity": (2,)}),
    ("MetaWorld/Reach-v3", [-1] * 4, [1] * 4, (39,)),
    ("MuJoCoPlayground/PandaPickCube-v1", [-1] * 8, [1] * 8, (66,)),
])
def test_tasks_of_real_actions_by_id(task, low, high, seen):
    """Their bounds, what is seen, as float32, and whole episodes of random actions, by the checks
    of `check_host_env`; another number than of the space is refused.

    Planted: bounds of the first component for all (Pendulum has one alone); the reward of
    MetaWorld's first row kept.
    """
    env = host.make_envpool(task, seeds=[1, 2], max_steps=6)
    low, high = np.atleast_1d(low), np.atleast_1d(high)
    np.testing.assert_array_equal(env.spec.action.low, low)
    np.testing.assert_array_equal(env.spec.action.high, high)
    rng = np.random.default_rng(0)
    rows = [env.reset()]
    for _ in range(14):
        action = rng.uniform(low, high, (2, len(low))).astype(np.float32)
        rows.append(env.step(action.reshape(2, *env.spec.action.shape)))
    shapes = jax.tree.map(lambda x: x.shape[1:], rows[0].observation)
    assert shapes == seen
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(rows[0].observation))
    assert [bool(row.first.all()) for row in rows] == [i % 7 == 0 for i in range(15)]
    assert all((row.reward == 0).all() for row in rows[::7])
    assert np.isfinite([row.reward for row in rows]).all()
    for wrong in (np.nan, 2.1):
        with pytest.raises(EnvError, match="action .* outside"):
            env.step(np.full((2, *env.spec.action.shape), wrong, np.float32))


@pytest.mark.envpool
def test_repeated_actions_are_steps_of_the_task_and_their_rewards_add_up():
    """Against the task itself, over three episodes of 8 steps, four at a time.

    Planted: the reward of the last step alone; the first row repeated too; one step too many.
    """
    once = host.make_envpool("Pendulum-v1", seeds=[1, 2], max_steps=8)
    four = host.make_envpool("Pendulum-v1", seeds=[1, 2], max_steps=2, action_repeat=4)
    assert four.spec.max_steps == 2 and once.spec.max_steps == 8
    np.testing.assert_array_equal(four.reset().observation, once.reset().observation)
    rng = np.random.default_rng(0)
    for i in range(1, 9):
        action = rng.uniform(-2, 2, (2, *once.spec.action.shape)).astype(np.float32)
        got = four.step(action)
        want = [once.step(action) for _ in range(1 if i % 3 == 0 else 4)]
        np.testing.assert_array_equal(got.observation, want[-1].observation)
        np.testing.assert_allclose(got.reward, sum(row.reward for row in want), rtol=1e-6)
        for name in ("first", "last", "discount"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want[-1], name))
        assert bool(got.last.all()) == (i % 3 == 2) and bool(got.first.all()) == (i % 3 == 0)


@pytest.mark.envpool
def test_repeated_actions_are_for_episodes_that_end_together():
    """An end within a repeated action would be lost: it is refused, as is another limit."""
    env = host.make_envpool("CartPole-v1", seeds=[1, 2], action_repeat=4)
    env.reset()
    with pytest.raises(EnvError, match="^an episode has ended within a repeated action$"):
        for _ in range(100):
            env.step(np.array([0, 1]))
    with pytest.raises(ValueError, match="action_repeat 7 must divide the 200 steps of an episode"):
        host.make_envpool("Pendulum-v1", seeds=[1], action_repeat=7)
    with pytest.raises(ValueError, match="action_repeat 0 must be >= 1"):
        host.make_envpool("Pendulum-v1", seeds=[1], action_repeat=0)


@pytest.mark.envpool
def test_every_maker_returns_a_checked_environment():
    """envpool accepts all of these. Planted bug seen: `wrap_pool` returns the bare one."""
    env = host.make_atari("Pong", seeds=[1, 2])
    with pytest.raises(EnvError, match="step called before reset"):
        env.step(np.zeros(2, np.int32))
    env.reset()
    with pytest.raises(EnvError, match=r"^env 1, step 1: action 99 outside \[0, 6\)$"):
        env.step(np.array([0, 99]))
    env = host.make_envpool("CartPole-v1", seeds=[1, 2])
    env.reset()
    with pytest.raises(EnvError, match=r"^step 1: action \(2,\) float64, needed \(2,\) integer$"):
        env.step(np.array([0.0, 1.0]))
    env.step(np.array([1, 0]))


@pytest.mark.envpool
@pytest.mark.parametrize(
    "make,name,options,message",
    [
        (host.make_atari, "Pongg", {}, r"^unknown game 'Pongg'; did you mean 'Pong'\?$"),
        (host.make_envpool, "CartPol-v1", {}, r"^unknown env 'CartPol-v1'; did you mean 'CartPole"),
        (host.make_envpool, "FrozenLake-v1", {"leave_out": ["x"]}, "leave_out: observations Discr"),
        (
            host.make_envpool,
            "MiniGrid-Empty-5x5-v0",
            {"leave_out": ["text"]},
            "leave_out: no entry 'text' in the observations; there are direction, image, mission$",
        ),
        (host.make_atari, "Pong", {"image": "gray"}, "unknown image 'gray'; known: gray84, rgb96"),
        (host.make_atari, "Pong", {"noop_max": 0}, "noop_max 0 must be >= 1"),
        (host.make_atari, "Pong", {"max_steps": 0}, "max_steps 0 must be >= 1"),
        (host.make_atari, "Pong", {"sticky": 1.5}, r"sticky 1.5 must be in \[0, 1\]"),
        (host.make_procgen, "coinrum", {}, r"^unknown game 'coinrum'; did you mean 'coinrun'\?$"),
        (host.make_procgen, "maze", {"distribution": "extreme"}, "known: easy, hard, memory, expl"),
        (host.make_procgen, "maze", {"num_levels": -1}, "num_levels -1 must be in"),
        (host.make_procgen, "maze", {"start_level": -1}, "start_level -1 must be in"),
        (host.make_atari, "Pong", {"seeds": []}, "number of seeds 0 must be >= 1"),
        (host.make_atari, "Pong", {"seeds": [2**31]}, "seed 2147483648 must be in"),
    ],
)
def test_bad_options_are_named(make, name, options, message):
    """Each of these crashes envpool, is ignored by it, or has an empty or vague message."""
    with pytest.raises(ValueError, match=message):
        make(name, **{"seeds": [1], **options})
