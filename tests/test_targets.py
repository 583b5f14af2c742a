"""Targets against brute force over lists of episodes, and against literal rows."""

import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from muzero_jax import acting, types
from muzero_jax import targets as targets_lib
from muzero_jax.envs import wrappers
from muzero_jax.errors import ArgumentError
from muzero_jax.search import answer, make_search
from oracles import episodes as oracle


def make_sample(rows, roots, *, window, num_frames=None):
    """Windows around `roots`; what lies before the first row is poison."""
    poison = oracle.Row((oracle.POISON,) * 2, oracle.POISON, 1.0, False, False, 1,
                        np.full_like(rows[0].policy, oracle.POISON), oracle.POISON, True, (-1, -1))
    rows = [poison] * window.history + list(rows)
    index = np.asarray(roots)[:, None] + np.arange(window.history + 1 + window.future)

    def column(name, dtype):
        return np.array([getattr(row, name) for row in rows], dtype)[index]

    batch = len(index)
    frames = window.history if num_frames is None else num_frames
    return types.Sample(
        rows=types.Transition(
            observation=None,
            reward=column("reward", np.float32),
            discount=column("discount", np.float32),
            first=column("first", bool),
            last=column("last", bool),
            invalid_actions=None,
            action=column("action", np.int32),
            policy=column("policy", np.float32),
            value=column("value", np.float32),
            explored=column("explored", bool),
            made_at_updates=np.zeros(index.shape, np.int32),
        ),
        observations=column("observation", np.float32)[:, 1 : frames + 1],
        index=np.zeros((batch, 2), np.int32),
        probability=np.ones(batch, np.float32),
        num_drawable=np.float32(batch),
        total_weight=np.float32(batch),
        newest_updates=np.int32(0),
    )


def assert_targets(got, want, atol=1e-3):
    """`want` is a list (roots) of lists (unroll steps) of oracle targets; None is masked."""
    got = jax.tree.map(np.asarray, got)
    for name in ("reward", "value", "policy"):
        expected = [[getattr(target, name) for target in steps] for steps in want]
        mask = np.array([[target is not None for target in steps] for steps in expected])
        values, values_mask = getattr(got, name), getattr(got, name + "_mask")
        if name == "reward":  # The reward into the root is no target, be it 0.
            np.testing.assert_array_equal(values_mask[:, 0], 0.0)
            mask, values, values_mask = mask[:, 1:], values[:, 1:], values_mask[:, 1:]
            expected = [steps[1:] for steps in expected]
        np.testing.assert_array_equal(values_mask, mask.astype(np.float32), err_msg=name)
        assert np.isfinite(values).all(), name  # A mask times NaN is NaN.
        flat = [target for steps in expected for target in steps if target is not None]
        if flat:
            np.testing.assert_allclose(values[mask], np.array(flat), atol=atol, rtol=1e-4,
                                       err_msg=name)


def drawable(rows, unroll_steps, bootstrap_steps):
    newest = len(rows) - unroll_steps - bootstrap_steps
    return [i for i in range(newest) if not rows[i].last]


# (players, same_step, truncates, life_loss, blunders, S, K, n, gamma)
WORLDS = {
    "one player, next step": (1, False, 0.0, 0.0, 0.0, 1, 5, 3, 0.9),
    "truncated": (1, False, 0.5, 0.0, 0.0, 4, 5, 5, 0.97),
    "abandoned often": (1, False, 1.0, 0.0, 0.0, 2, 3, 10, 0.9),
    "life loss": (1, False, 0.3, 0.2, 0.0, 4, 5, 4, 0.997),
    "life loss, same step": (1, True, 0.0, 0.2, 0.0, 2, 4, 2, 0.9),
    "one player, same step": (1, True, 0.1, 0.0, 0.0, 1, 5, 5, 1.0),
    "two players, same step": (2, True, 0.0, 0.0, 0.0, 1, 5, 9, 1.0),
    "two players, same step, abandoned": (2, True, 0.3, 0.0, 0.0, 1, 4, 2, 0.9),
    "two players, next step": (2, False, 0.4, 0.0, 0.0, 3, 5, 3, 0.95),
    "two players, life loss": (2, False, 0.4, 0.2, 0.0, 1, 5, 1, 0.95),
    "random moves": (1, False, 0.3, 0.0, 0.2, 2, 5, 4, 0.9),
    "random moves, life loss, same step": (1, True, 0.2, 0.2, 0.3, 1, 4, 5, 0.97),
    "two players, random moves, next step": (2, False, 0.3, 0.1, 0.2, 3, 5, 3, 0.95),
    "two players, random moves, same step": (2, True, 0.0, 0.0, 0.2, 1, 5, 12, 1.0),
}


def random_world(name, num_roots, seed=0, num_actions=3):
    players, same_step, truncates, life_loss, blunders, steps, unroll, n, gamma = WORLDS[name]
    rng = np.random.default_rng([seed, sorted(WORLDS).index(name)])
    episodes = oracle.random_episodes(rng, 600, num_actions=num_actions, max_length=12,
                                      truncates=truncates, life_loss=life_loss, blunders=blunders)
    rows = oracle.lay_out(episodes, players=players, same_step=same_step)
    roots = rng.choice(drawable(rows, unroll, n), num_roots)
    window = types.Window(history=steps, unroll=unroll, bootstrap=n)
    rule = {"unroll_steps": unroll, "td_steps": n, "gamma": gamma, "players": players}
    return episodes, rows, roots, window, rule


def expected_targets(episodes, rows, roots, **rule):
    known = functools.lru_cache(maxsize=None)(
        lambda number, state: oracle.targets_of(episodes[number], state, **rule))
    return [known(*rows[root].where) for root in roots]


@pytest.mark.parametrize("name", WORLDS)
def test_equals_brute_force_over_episodes(name):
    """2,500 random roots of each kind of world (25,000 in all).

    Planted: return through a truncated `last` (plain recursion); `last` of the next episode's rows
    cutting an unroll that had terminated before; turn sign left out of the product; off by one in
    the bootstrap; value of a truncated `last` not masked; the reward of dying masked. Of random
    moves: ignored; a stop one row early or late; looked for from row j+1 on, or at row j only.
    """
    episodes, rows, roots, window, rule = random_world(name, 2500)
    make = targets_lib.make_targets(discount=rule["gamma"], window=window)
    got = jax.jit(make)(None, None, jax.random.key(0), make_sample(rows, roots, window=window))
    assert_targets(got, expected_targets(episodes, rows, roots, **rule))


def test_brute_force_sees_a_wrong_sign_and_a_wrong_discount():
    """Negative controls: the comparison above can fail."""
    episodes, rows, roots, window, rule = random_world("two players, next step", 200)
    sample = make_sample(rows, roots, window=window)
    want = expected_targets(episodes, rows, roots, **rule)
    make = jax.jit(targets_lib.make_targets(discount=rule["gamma"], window=window))
    wrong = sample.replace(rows=sample.rows.replace(discount=np.abs(sample.rows.discount)))
    with pytest.raises(AssertionError):
        assert_targets(make(None, None, jax.random.key(0), wrong), want)
    wrong = sample.replace(rows=sample.rows.replace(last=np.zeros_like(sample.rows.last)))
    with pytest.raises(AssertionError):
        assert_targets(make(None, None, jax.random.key(0), wrong), want)
    wrong = sample.replace(rows=sample.rows.replace(value=sample.rows.value + 0.01))
    with pytest.raises(AssertionError):
        assert_targets(make(None, None, jax.random.key(0), wrong), want)
    wrong = sample.replace(rows=sample.rows.replace(explored=~sample.rows.explored))
    with pytest.raises(AssertionError):
        assert_targets(make(None, None, jax.random.key(0), wrong), want)


@pytest.mark.parametrize("name", ["life loss", "two players, same step, abandoned"])
def test_rewards_are_transformed_once(name):
    """Clipping acts on every reward of the return and on the reward target, not on values."""
    episodes, rows, roots, window, rule = random_world(name, 500, seed=1)
    make = targets_lib.make_targets(
        discount=rule["gamma"], reward_transform=lambda r: jnp.clip(r, -1, 1) / 2, window=window)
    got = jax.jit(make)(None, None, jax.random.key(0), make_sample(rows, roots, window=window))
    want = expected_targets(episodes, rows, roots, **rule,
                            transform=lambda reward: min(max(reward, -1), 1) / 2)
    assert_targets(got, want)


@pytest.mark.parametrize("name", WORLDS)
def test_root_row_itself_is_not_read(name):
    """The root's own reward, discount and `first` belong to the past (planted: z includes r_t).

    Nor are the rows before it, and no observation without a value function.
    """
    _, rows, roots, window, rule = random_world(name, 64, seed=2)
    sample = make_sample(rows, roots, window=window)
    root = window.history
    wrong = {name: getattr(sample.rows, name).copy()
             for name in ("reward", "discount", "first", "last", "value", "explored")}
    wrong["reward"][:, : root + 1] = 321.0
    wrong["discount"][:, : root + 1] = 0.5
    wrong["first"][:, : root + 1] = True
    wrong["last"][:, :root] = True
    wrong["value"][:, :root] = oracle.POISON
    wrong["explored"][:, :root] ^= True
    other = sample.replace(rows=sample.rows.replace(**wrong),
                           observations=np.full_like(sample.observations, np.nan))
    make = jax.jit(targets_lib.make_targets(discount=rule["gamma"], window=window))
    got, again = (make(None, None, jax.random.key(0), s) for s in (sample, other))
    jax.tree.map(np.testing.assert_array_equal, got, again)


# Values from a function of the history.

AGE = np.array([1.0, 0.7, -0.4, 0.9])  # Weight of the newest frame, the one before, ...


def value_of_history(target_params, history):
    """Reads all of a history `[N, S]`; the tag of the episode is in every frame."""
    assert history.valid.dtype == bool and history.action.dtype == jnp.int32
    steps = history.action.shape[1]
    assert history.observation.shape[1:] == (steps, 2)
    seen = (history.observation[..., 0] + 0.1 * history.observation[..., 1]
            + 0.5 * history.action + 0.9 * history.reward + 1.3 * history.valid)
    return target_params["scale"] * (seen @ AGE[:steps][::-1].astype(np.float32))


def value_at_state(episode, state, steps):
    """The same number from the episode: before its beginning the first frame is repeated."""
    total = 0.0
    for age in range(steps):
        then = state - age
        seen = episode.tag + 0.1 * max(then, 0) + 1.3 * (then >= 0)
        if then >= 1:
            seen += 0.5 * episode.actions[then - 1] + 0.9 * episode.rewards[then - 1]
        total += AGE[age] * seen
    return 2.0 * total


@pytest.mark.parametrize("name", WORLDS)
def test_bootstrap_function_sees_the_right_history(name):
    """Values come from `target_params`, at row t+k+m_k, from frames of one episode only.

    The return has clipped rewards, the history has raw ones.

    Planted: `params` instead of `target_params`; bootstrap at t+k+n; action of the frame's own row
    instead of the one that led to it; repeated frames from the episode before; a first row that
    keeps the final reward of the game before (same step); clipped rewards in the history; history
    ended at a life loss; bootstrap of a random move's own row at the row after it.
    """
    episodes, rows, roots, window, rule = random_world(name, 500, seed=3)
    make = targets_lib.make_targets(
        discount=rule["gamma"], bootstrap_value=value_of_history,
        reward_transform=lambda r: jnp.clip(r, -1, 1), window=window)
    sample = make_sample(rows, roots, num_frames=sum(window), window=window)
    make = jax.jit(make)
    got = make({"scale": 99.0}, {"scale": 2.0}, jax.random.key(0), sample)
    steps = window.history
    want = expected_targets(
        episodes, rows, roots, **rule, transform=lambda reward: min(max(reward, -1), 1),
        value_at=lambda episode, state: value_at_state(episode, state, steps))
    assert_targets(got, want)

    # The stored values are not read at all.
    blank = sample.replace(rows=sample.rows.replace(value=0 * sample.rows.value + 50.0))
    again = make({"scale": 99.0}, {"scale": 2.0}, jax.random.key(0), blank)
    jax.tree.map(np.testing.assert_array_equal, got, again)


def test_frames_that_a_bootstrap_would_not_find_are_refused():
    """A slice would give others, silently. Bug seen: so it did."""
    _, rows, roots, window, rule = random_world("truncated", 50, seed=3)
    make = targets_lib.make_targets(
        discount=rule["gamma"], bootstrap_value=value_of_history, window=window)
    frames = sum(window)
    sample = make_sample(rows, roots, num_frames=frames - 1, window=window)
    said = f"^{frames} frames are needed for bootstrap_value, and a sample has {frames - 1}: pass"
    with pytest.raises(ArgumentError, match=said):
        jax.eval_shape(make, None, {"scale": 2.0}, jax.random.key(0), sample)
    stored = targets_lib.make_targets(discount=rule["gamma"], window=window)
    jax.eval_shape(stored, None, None, jax.random.key(0), sample)


# Literal rows: (reward, discount, first, last, value), worked out by hand.


@functools.cache
def jitted_targets(window, discount):
    return jax.jit(targets_lib.make_targets(discount=discount, window=window))


def literal(rows, root, *, unroll_steps, bootstrap_steps, discount, explored=()):
    """Reward, value and policy targets as lists, None where masked; history of 1.

    `explored` holds the numbers of the rows that made a random move.
    """
    window = types.Window(history=1, unroll=unroll_steps, bootstrap=bootstrap_steps)
    rows = [oracle.Row((0.0, i), *row[:4], 0, np.full(2, i), row[4], i in explored, (0, i))
            for i, row in enumerate(rows)]
    sample = make_sample(rows, [root], window=window)
    make = jitted_targets(window, discount)
    got = jax.tree.map(np.asarray, make(None, None, jax.random.key(0), sample))

    def read(values, mask):
        return [None if m == 0 else round(float(v), 4) for v, m in zip(values[0], mask[0])]

    return (read(got.reward, got.reward_mask)[1:], read(got.value, got.value_mask),
            read(got.policy[..., 0], got.policy_mask))


FIRST = (0.0, 0.0, True, False)
BEYOND = [(*FIRST, 500.0)] + 7 * [(77.0, 1.0, False, False, 500.0)]  # Another episode: keep out.


def test_terminated():
    """Published example (RELIABILITY 4): rewards 1 2 3, values 10 20 30, gamma 1/2, two steps.

    z0 = 1 + 2/2 + 30/4 = 9.5; z1 = 2 + 3/2 = 3.5; z2 = 3; then absorbing, and no policy.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, False, 30.0),
            (3.0, 0.0, False, True, 999.0)] + BEYOND
    reward, value, policy = literal(rows, 0, unroll_steps=4, bootstrap_steps=2, discount=0.5)
    assert reward == [1, 2, 3, 0]
    assert value == [9.5, 3.5, 3, 0, 0]
    assert policy == [0, 1, 2, None, None]


def test_terminated_same_step():
    """The same game where the next one begins in the row of the final reward."""
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, False, 30.0),
            (3.0, 0.0, True, False, 999.0)] + BEYOND[1:]
    reward, value, policy = literal(rows, 0, unroll_steps=4, bootstrap_steps=2, discount=0.5)
    assert reward == [1, 2, 3, 0]
    assert value == [9.5, 3.5, 3, 0, 0]
    assert policy == [0, 1, 2, None, None]


def test_truncated():
    """The same, cut off in row 3, which is worth 40: z1 = 2 + 3/2 + 40/4 = 13.5; z2 = 3 + 40/2.

    In row 3 the reward is known, its value would need what came after; beyond it nothing is known.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, False, 30.0),
            (3.0, 1.0, False, True, 40.0)] + BEYOND
    reward, value, policy = literal(rows, 0, unroll_steps=5, bootstrap_steps=2, discount=0.5)
    assert reward == [1, 2, 3, None, None]
    assert value == [9.5, 13.5, 23, None, None, None]
    assert policy == [0, 1, 2, None, None, None]


def test_truncated_return_stops_at_the_end():
    """A long horizon ends at the cut: 1 + 0.9 * 2 + 0.81 * 40 = 35.2, not 1 + 1.8 + 0 = 2.8."""
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, True, 40.0)] + BEYOND
    _, value, _ = literal(rows, 0, unroll_steps=2, bootstrap_steps=6, discount=0.9)
    assert value == [35.2, 38.0, None]


def test_abandoned():
    """A resume marks the newest row `last`; the game that begins next adds nothing to it.

    The root is the row before it: z = 2 + 1/2 * 30 = 17.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, True, 30.0)] + BEYOND
    reward, value, policy = literal(rows, 1, unroll_steps=3, bootstrap_steps=3, discount=0.5)
    assert reward == [2, None, None]
    assert value == [17, None, None, None]
    assert policy == [1, None, None, None]


def test_abandoned_on_the_first_row_of_a_same_step_game():
    """Row 2 ends one game (reward 3) and begins another that is abandoned at once: still dead."""
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (3.0, 0.0, True, True, 30.0)] + BEYOND
    reward, value, policy = literal(rows, 0, unroll_steps=4, bootstrap_steps=2, discount=0.5)
    assert reward == [1, 3, 0, 0]
    assert value == [2.5, 3, 0, 0, 0]
    assert policy == [0, 1, None, None, None]


@pytest.mark.parametrize("unroll_steps", [3, 4])
def test_two_players(unroll_steps):
    """Published example: gamma -1, rewards 0 0 1 to the mover -> 1 -1 1 0; odd and even unroll."""
    rows = [(*FIRST, 0.3), (0.0, -1.0, False, False, 0.1), (0.0, -1.0, False, False, -0.2),
            (1.0, 0.0, True, False, 0.9)] + [(0.0, -1.0, False, False, 0.5)] * 12
    reward, value, policy = literal(rows, 0, unroll_steps=unroll_steps, bootstrap_steps=9,
                                    discount=1.0)
    assert reward == [0, 0, 1, 0][:unroll_steps]
    assert value == [1, -1, 1, 0, 0][: unroll_steps + 1]
    assert policy == [0, 1, 2, None, None][: unroll_steps + 1]


def test_two_players_bootstrap():
    """Two moves on the same player is to move: z0 = 0.5 - 0.25 + 0.4; one move on: z = 0.5 - 0.7.

    Row 1 has reward 0.5 (mine), row 2 has 0.25 (the other's), values 0.7 and 0.4, gamma 1.
    """
    rows = [(*FIRST, 0.1), (0.5, -1.0, False, False, 0.7), (0.25, -1.0, False, False, 0.4)]
    rows += 4 * [(0.0, -1.0, False, False, 0.0)]
    assert literal(rows, 0, unroll_steps=0, bootstrap_steps=2, discount=1.0)[1] == [0.65]
    assert literal(rows, 0, unroll_steps=0, bootstrap_steps=1, discount=1.0)[1] == [-0.2]


def test_one_step_in_the_middle():
    """Published example: rewards 1..5, values 10..50, one step, start 2, gamma 1/2 -> 23 29 5."""
    rows = [(*FIRST, 10.0)] + [(float(i), 1.0, False, False, 10.0 * i + 10) for i in range(1, 5)]
    rows += [(5.0, 0.0, False, True, 999.0)] + BEYOND
    reward, value, _ = literal(rows, 2, unroll_steps=3, bootstrap_steps=1, discount=0.5)
    assert reward == [3, 4, 5]
    assert value == [23, 29, 5, 0]


def test_life_loss():
    """Row 2 costs a life: absorbing for what came before, an ordinary root for what comes after.

    z0 = 1 + 2/2 = 2 though the return could reach on to row 3; from row 2: z = 3 + 40/2 = 23.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 0.0, False, False, 30.0),
            (3.0, 1.0, False, False, 40.0), (4.0, 1.0, False, False, 50.0)]
    rows += 4 * [(0.0, 1.0, False, False, 0.0)]
    reward, value, policy = literal(rows, 0, unroll_steps=3, bootstrap_steps=3, discount=0.5)
    assert reward == [1, 2, 0]
    assert value == [2, 2, 0, 0]
    assert policy == [0, 1, None, None]
    reward, value, policy = literal(rows, 2, unroll_steps=1, bootstrap_steps=1, discount=0.5)
    assert reward == [3]
    assert value == [23, 29]
    assert policy == [2, 3]


def test_life_lost_on_a_truncated_row_is_dead():
    """Row 2 is `last` with d = 0: no bootstrap, absorbing, nothing cut."""
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 0.0, False, True, 30.0)] + BEYOND
    reward, value, policy = literal(rows, 0, unroll_steps=3, bootstrap_steps=4, discount=0.5)
    assert reward == [1, 2, 0]
    assert value == [2, 2, 0, 0]
    assert policy == [0, 1, None, None]


# Random moves.


@pytest.mark.parametrize("n, explored, want", [
    (2, (), [9.5, 13.5, 23, None, None]),
    (2, (0,), [10, 13.5, 23, None, None]),  # At the root: its own value, and no step.
    (3, (1,), [11, 20, 23, None, None]),  # Inside n: z0 = 1 + 20/2.
    (2, (2,), [9.5, 17, 30, None, None]),  # At n exactly; before a truncation: z1 = 2 + 30/2.
    (2, (3,), [9.5, 13.5, 23, None, None]),  # On the `last` row it means nothing,
    (6, (4, 5), [7.75, 13.5, 23, None, None]),  # nor does it in the next episode.
    (6, (0, 1, 2), [10, 20, 30, None, None]),
])
def test_random_moves_of_a_truncated_episode(n, explored, want):
    """`test_truncated` with random moves; rewards, policies and masks are the same.

    z0 to the end is 1 + 2/2 + 3/4 + 40/8 = 7.75. Planted: as above; z = 0 where m = 0.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, False, 30.0),
            (3.0, 1.0, False, True, 40.0)] + BEYOND
    reward, value, policy = literal(rows, 0, unroll_steps=4, bootstrap_steps=n, discount=0.5,
                                    explored=explored)
    assert reward == [1, 2, 3, None]
    assert value == want
    assert policy == [0, 1, 2, None, None]


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("explored, want", [
    ((), [2.75, 3.5, 3, 0, 0]),
    ((2,), [9.5, 17, 30, 0, 0]),  # The move that ended the game was random.
    ((3,), [2.75, 3.5, 3, 0, 0]),  # After the end: of the next game, or of a `last` row.
    ((4, 5), [2.75, 3.5, 3, 0, 0]),
])
def test_random_moves_of_a_terminated_episode(same_step, explored, want):
    """Rewards 1 2 3, values 10 20 30, gamma 1/2: an end is an end, unless a random move led to it.

    z0 = 1 + 2/2 + 3/4; up to a random move at row 2 it is 1 + 2/2 + 30/4 = 9.5, z1 = 2 + 30/2 = 17.
    """
    rows = [(*FIRST, 10.0), (1.0, 1.0, False, False, 20.0), (2.0, 1.0, False, False, 30.0),
            (3.0, 0.0, same_step, not same_step, 999.0)] + BEYOND[same_step:]
    reward, value, policy = literal(rows, 0, unroll_steps=4, bootstrap_steps=5, discount=0.5,
                                    explored=explored)
    assert reward == [1, 2, 3, 0]
    assert value == want
    assert policy == [0, 1, 2, None, None]


def test_random_moves_of_two_players():
    """The other's blunder is no gain of mine: z0 = 0.5 - 0.7 (what the other's own move was worth).

    Without the rule it is 0.5 + 1, reward 1 being what the blunder cost: r_2 = -1 to its mover.
    """
    rows = [(*FIRST, 0.1), (0.5, -1.0, False, False, 0.7), (-1.0, 0.0, True, False, 0.4)]
    rows += 4 * [(0.0, -1.0, False, False, 0.0)]
    ways = [literal(rows, 0, unroll_steps=1, bootstrap_steps=4, discount=1.0, explored=explored)
            for explored in ((), (1,))]
    assert [value for _, value, _ in ways] == [[1.5, -1.0], [-0.2, 0.7]]
    assert ways[0][0] == ways[1][0] and ways[0][2] == ways[1][2]


def make_ledge():
    """Three moves along a ledge: action 1 brings 1, action 0 falls off, which ends the game."""
    spec = types.EnvSpec(observation=types.ArraySpec((1,), "float32"),
                         action=types.ActionSpec.discrete(2),
                         turn_sign=1, truncates=False, max_steps=3)

    def timestep(position, reward, last, first):
        return types.TimeStep(
            observation=jnp.float32(position)[None], reward=jnp.float32(reward),
            discount=jnp.where(first | last, 0.0, 1.0), first=first, last=last,
            invalid_actions=None)

    def reset(key):
        return jnp.int32(0), timestep(0, 0.0, jnp.bool_(False), jnp.bool_(True))

    def step(position, action, key):
        last = (action == 0) | (position == 2)
        return position + 1, timestep(position + 1, action, last, jnp.bool_(False))

    return wrappers.auto_reset(types.Env(spec, reset, step), same_step=True)


def test_random_moves_bias_no_value():
    """Half of all moves uniform over two: a quarter fall. The target is the greedy player's 3.

    Without the rule it is what the player gets, 3/4 + (3/4)^2 + (3/4)^3 = 1.734 from the start.
    Planted: `explored` not stored (False); every random draw counted as explored.
    """
    explore = types.Explore(temperature=jnp.float32(0), noise_scale=jnp.float32(0),
                            random_move=jnp.float32(0.5))

    def root(params, key, history, invalid_actions):
        value = 3.0 - history.observation[:, -1, 0]
        prior = jnp.zeros((value.shape[0], 2))
        node = mctx.RootFnOutput(prior_logits=prior, value=value, embedding=None)
        return types.Root(node, None, None)

    def plan(params, key, model, root, explore):
        value = root.node.value
        weights = jnp.tile(jnp.array([0.0, 1.0]), (value.shape[0], 1))
        return answer(key, model, root, greedy=jnp.ones(value.shape, jnp.int32), weights=weights,
                      value=value, explore=explore)

    env, num_envs = make_ledge(), 4096
    search = make_search(types.Model(env.spec.action, 2, root, step=None), plan)

    @jax.jit
    def roll_out(reset_key, key):
        state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
        carry = acting.init_carry(env.spec, num_envs, 1)
        rollout = acting.make_rollout(env, search, num_steps=5)
        return rollout(None, key, state, timestep, carry, explore, 0)[1]

    rows = roll_out(jax.random.key(0), jax.random.key(1))
    np.testing.assert_array_equal(rows.explored, rows.action == 0)
    sample = types.Sample(
        rows=rows.replace(observation=None), observations=rows.observation[:, 1:2],
        index=jnp.zeros((num_envs, 2), jnp.int32), probability=jnp.ones(num_envs),
        num_drawable=jnp.float32(num_envs), total_weight=jnp.float32(num_envs),
        newest_updates=jnp.int32(0))
    make = jax.jit(targets_lib.make_targets(
        window=types.Window(history=1, unroll=0, bootstrap=3), discount=1.0))
    naive = sample.replace(rows=sample.rows.replace(explored=jnp.zeros_like(rows.explored)))
    start = np.asarray(rows.observation[:, 1, 0]) == 0
    assert start.sum() > 900
    with_rule, without = (np.asarray(make(None, None, jax.random.key(0), x).value)[start, 0]
                          for x in (sample, naive))
    np.testing.assert_array_equal(with_rule, 3.0)
    assert abs(without.mean() - 1.734) < 0.15  # Four standard errors.
