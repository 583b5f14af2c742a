"""Both reset styles as literal rows on an environment that counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import types
from muzero_jax.envs import wrappers
from worlds import chi_square

ROWS = ("observation", "reward", "discount", "first", "last")


def _counting_env(length, truncates, turn_sign=1):
    """Observes the step count plus 100·action; pays 10·count; ends at count = `length`."""
    spec = types.EnvSpec(
        observation=types.ArraySpec((), "float32"),
        action=types.ActionSpec.discrete(2),
        turn_sign=turn_sign,
        truncates=truncates,
        max_steps=length,
        masked=True,
    )

    def row(count, action, last):
        return types.TimeStep(
            observation=count + 100.0 * action,
            reward=10.0 * count,
            discount=jnp.where(last & (not truncates), 0.0, turn_sign),
            first=jnp.zeros((), bool),
            last=last,
            invalid_actions=jnp.stack([count == 0, count == length]),
        )

    def reset(key):
        del key
        # Wrong on purpose where auto_reset must pin: reward 0 but discount not, first not set.
        return jnp.float32(0), row(jnp.float32(0), 0.0, jnp.zeros((), bool))

    def step(count, action, key):
        del key
        count = count + 1
        return count, row(count, jnp.float32(action), count >= length)

    return types.Env(spec=spec, reset=reset, step=step)


def _rollout(env, actions):
    """Rows `[T+1]` under jit and scan."""
    keys = jax.random.split(jax.random.key(0), len(actions))
    state, first = jax.jit(env.reset)(jax.random.key(1))
    body = lambda state, xs: env.step(state, *xs)  # noqa: E731
    _, rows = jax.jit(lambda s: jax.lax.scan(body, s, (jnp.asarray(actions), keys)))(state)
    return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[None], b]), first, rows)


def _assert_rows(rows, **expected):
    for name in ROWS:
        np.testing.assert_array_equal(getattr(rows, name), expected[name], err_msg=name)
    assert rows.reward.dtype == rows.discount.dtype == np.float32
    assert rows.first.dtype == rows.last.dtype == bool


@pytest.mark.parametrize("truncates", [False, True])
def test_next_step_rows(truncates):
    """Length 2, action 1 always. Planted bugs seen: resets one row late; steps on a `last` row."""
    env = wrappers.auto_reset(_counting_env(2, truncates), same_step=False)
    rows = _rollout(env, np.ones(6, np.int32))
    end = 1 if truncates else 0
    _assert_rows(
        rows,  # The reset row ignores the action: it shows 0 and not 100 or 103.
        observation=[0, 101, 102, 0, 101, 102, 0],
        reward=[0, 10, 20, 0, 10, 20, 0],
        discount=[0, 1, end, 0, 1, end, 0],
        first=[1, 0, 0, 1, 0, 0, 1],
        last=[0, 0, 1, 0, 0, 1, 0],
    )
    np.testing.assert_array_equal(rows.invalid_actions[:, 0], [1, 0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(rows.invalid_actions[:, 1], [0, 0, 1, 0, 0, 1, 0])


def test_same_step_rows():
    """Two players, length 2. Planted bugs seen: reward of the final row lost; d kept at -1."""
    env = wrappers.auto_reset(_counting_env(2, False, turn_sign=-1), same_step=True)
    rows = _rollout(env, np.ones(5, np.int32))
    _assert_rows(
        rows,
        observation=[0, 101, 0, 101, 0, 101],
        reward=[0, 10, 20, 10, 20, 10],
        discount=[0, -1, 0, -1, 0, -1],
        first=[1, 0, 1, 0, 1, 0],
        last=[0] * 6,
    )
    np.testing.assert_array_equal(rows.invalid_actions[:, 0], [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(rows.invalid_actions[:, 1], [0] * 6)


def test_same_step_is_refused_where_episodes_are_truncated():
    """Planted bug seen: the check left out."""
    with pytest.raises(ValueError, match="never truncates"):
        wrappers.auto_reset(_counting_env(2, True), same_step=True)


@pytest.mark.parametrize("same_step", [False, True])
def test_environments_of_a_batch_reset_on_their_own(same_step):
    """vmap over lengths 1, 2, 3 equals each alone. Planted bug seen: a new state is `last`."""
    actions = np.arange(12) % 2

    def rows_of(length):
        env = wrappers.auto_reset(_counting_env(length, False), same_step=same_step)
        state, _ = env.reset(jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), 12)
        body = lambda state, xs: env.step(state, *xs)  # noqa: E731
        return jax.lax.scan(body, state, (jnp.asarray(actions), keys))[1]

    batch = jax.jit(jax.vmap(rows_of))(jnp.array([1, 2, 3]))
    for i, length in enumerate((1, 2, 3)):
        period = length if same_step else length + 1
        ends = np.arange(12) % period == length - 1
        np.testing.assert_array_equal(batch.first[i] if same_step else batch.last[i], ends)
        alone = rows_of(length)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), batch, alone)


def test_every_reset_draws_anew():
    """Starts come from the step's key. Planted bug seen: a constant reset key."""
    plain = _counting_env(1, False)

    def reset(key):
        state, row = plain.reset(key)
        return state, row.replace(observation=jax.random.uniform(key))

    env = wrappers.auto_reset(plain._replace(reset=reset), same_step=False)
    rows = _rollout(env, np.zeros(20, np.int32))
    starts = rows.observation[rows.first]
    assert len(starts) == 11 and len(np.unique(starts)) == 11


def test_every_step_and_environment_of_a_host_batch_draws_anew():
    """Each row shows a number drawn with its key; the same key plays the same again. Planted bugs
    seen: one key for all steps; one for all environments; one for steps and resets."""
    plain = _counting_env(100, False)

    def shown(key, state, row):
        return state, row.replace(observation=jax.random.uniform(key))

    env = plain._replace(
        reset=lambda key: shown(key, *plain.reset(key)),
        step=lambda state, action, key: shown(key, *plain.step(state, action, key)),
    )
    env = wrappers.auto_reset(env, same_step=True)

    def play(seed):
        host = wrappers.as_host_env(env, 3, jax.random.key(seed))
        rows = [host.reset()] + [host.step(np.ones(3, np.int32)) for _ in range(6)]
        return np.stack([row.observation for row in rows])

    drawn = play(0)
    assert drawn.shape == (7, 3) and len(np.unique(drawn)) == drawn.size
    np.testing.assert_array_equal(drawn, play(0))
    assert not np.isin(play(1), drawn).any()


def _path_env():
    """Observes its moves in base 4 (1 to 3); the same move twice in a row ends it, and 2 pays; move
    3 is illegal at odd plies."""
    spec = types.EnvSpec(
        observation=types.ArraySpec((), "float32"),
        action=types.ActionSpec.discrete(3),
        turn_sign=-1,
        truncates=False,
        max_steps=100,
        masked=True,
    )

    def row(state, last):
        path, ply = state
        return types.TimeStep(
            observation=path.astype(jnp.float32),
            reward=jnp.where(last & (path % 4 == 2), 1.0, 0.0),
            discount=jnp.where(last, 0.0, -1.0),
            first=jnp.zeros((), bool),
            last=last,
            invalid_actions=jnp.array([False, False, True]) & (ply % 2 == 1),
        )

    def reset(key):
        del key
        return (jnp.int32(0), jnp.int32(0)), row((jnp.int32(0), jnp.int32(0)), jnp.zeros((), bool))

    def step(state, action, key):
        del key
        state = (4 * state[0] + action + 1, state[1] + 1)
        return state, row(state, state[0] % 4 == state[0] // 4 % 4)

    return types.Env(spec=spec, reset=reset, step=step)


def _path_chances(max_plies):
    """Each opening's probability, by following all of them."""
    chances, now = {}, {(): 1.0}
    for ply in range(max_plies + 1):
        for path, chance in now.items():
            chances[path] = chances.get(path, 0) + chance / (max_plies + 1)
        after = {}
        for path, chance in now.items():
            moves = (1, 2) if len(path) % 2 else (1, 2, 3)
            for move in moves:
                new = path if path and path[-1] == move else (*path, move)
                after[new] = after.get(new, 0) + chance / len(moves)
        now = after
    return {sum(x * 4**i for i, x in enumerate(path[::-1])): p for path, p in chances.items()}


def test_openings_are_those_of_random_play():
    """Of every number of plies as often; moves that end the game are left out. Planted bugs seen:
    one ply too few; illegal moves drawn; the end let through; one key for all plies."""
    env = wrappers.auto_reset(wrappers.random_openings(_path_env(), 3), same_step=True)
    keys = jax.random.split(jax.random.key(3), 6000)
    (path, ply), first = jax.jit(jax.vmap(lambda key: _plain_state(*env.reset(key))))(keys)
    chances = _path_chances(3)
    codes, counts = np.unique(path, return_counts=True)
    assert set(codes) == set(chances)
    expected = np.array([chances[code] * 6000 for code in codes])
    assert chi_square(counts, expected) < 1
    np.testing.assert_array_equal(first.observation, path)
    np.testing.assert_array_equal(first.invalid_actions[:, 2], ply % 2 == 1)
    assert first.first.all() and not first.last.any()
    assert not first.reward.any() and not first.discount.any()


def _plain_state(state, timestep):
    return state.env, timestep


def test_an_episode_after_the_first_has_an_opening_too():
    """With the reward of the one before. Planted bug seen: resets of the plain environment."""
    env = wrappers.auto_reset(wrappers.random_openings(_path_env(), 3), same_step=True)
    rows = _rollout(env, np.ones(200, np.int32))  # Move 2: two in a row are a win.
    starts = rows.observation[rows.first]
    assert len(np.unique(starts)) > 5 and (rows.reward[1:][rows.first[1:]] == 1).all()
    assert not rows.last.any() and (rows.discount[~rows.first] == -1).all()


def test_bad_openings_are_refused():
    """Planted bug seen: the check left out."""
    with pytest.raises(ValueError, match="^opening_plies -1 must be >= 0$"):
        wrappers.random_openings(_path_env(), -1)
