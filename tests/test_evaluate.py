"""Whole episodes of tiny host environments, with scores written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

import fakes
from muzero_jax.evaluation.actors import make_random_player, make_search_player, without_memory
from muzero_jax.evaluation.episodes import Episode, play_episodes
from muzero_jax.types import HostEnv, SearchOutput, TimeStep

KEY = jax.random.key(0)
IDLE = without_memory(lambda carry, key, env_state, row: jnp.zeros(row.first.shape, jnp.int32))


def _literal_env(columns):
    """Plays `columns`: for each environment a list of (reward, discount, first, last)."""
    rows = list(zip(*columns, strict=True))
    place = iter(range(len(rows)))

    def timestep(action=None):
        del action
        reward, discount, first, last = zip(*rows[next(place)], strict=True)
        return TimeStep(
            observation=np.zeros((len(columns), 2), np.float32),
            reward=np.array(reward, np.float32),
            discount=np.array(discount, np.float32),
            first=np.array(first, bool),
            last=np.array(last, bool),
            invalid_actions=None,
        )

    return HostEnv(spec=fakes.SPEC, num_envs=len(columns), reset=timestep, step=timestep)


def test_next_step_resets_one_step_episodes_and_cuts():
    """Environment 0: scores 1 + 2 = 3 (dead), then 4 in one step (cut). Environment 1: 10 in one
    step (dead), 20 in one step (dead), and the third, 30, is played but not wanted. Planted bugs
    seen: a reset counted as a step; `cut` without its discount; the third episode kept."""
    start, reset = (0, 0, 1, 0), (0, 0, 1, 0)
    env = _literal_env(
        [
            [start, (1, 1, 0, 0), (2, 0, 0, 1), reset, (4, 1, 0, 1), reset, (9, 1, 0, 0)],
            [start, (10, 0, 0, 1), reset, (20, 0, 0, 1), reset, (30, 0, 0, 1), reset],
        ]
    )
    assert play_episodes(env, IDLE, None, KEY, episodes_per_env=2) == [
        Episode(environment=0, score=3.0, steps=2, cut=False),
        Episode(environment=0, score=4.0, steps=1, cut=True),
        Episode(environment=1, score=10.0, steps=1, cut=False),
        Episode(environment=1, score=20.0, steps=1, cut=False),
    ]


def test_same_step_resets_and_one_step_episodes():
    """The last reward arrives on the `first` row. Environment 0: 1 + 2, then 5 in one step; 1: 7
    in one step, then 8 + 9. Planted bugs seen: scores zeroed before the last reward is added; the
    `first` row not counted as a step."""
    start = (0, 0, 1, 0)
    env = _literal_env(
        [
            [start, (1, 1, 0, 0), (2, 0, 1, 0), (5, 0, 1, 0), (6, 1, 0, 0)],
            [start, (7, 0, 1, 0), (8, 1, 0, 0), (9, 0, 1, 0), (3, 1, 0, 0)],
        ]
    )
    assert play_episodes(env, IDLE, None, KEY, episodes_per_env=2) == [
        Episode(environment=0, score=3.0, steps=2, cut=False),
        Episode(environment=0, score=5.0, steps=1, cut=False),
        Episode(environment=1, score=7.0, steps=1, cut=False),
        Episode(environment=1, score=17.0, steps=2, cut=False),
    ]


def test_each_environment_plays_the_same_number():
    """Lengths 1 and 4: short episodes are no more of the score. Rewards are row numbers: the
    environment of one step earns 1, 3, 5 (its resets are rows 2, 4); the other 1+2+3+4, 6+7+8+9.
    Planted bug seen: stopped at a total of four episodes."""
    env = fakes.make_host_env([0, 1], [1, 4], truncated=[1])
    episodes = play_episodes(env, IDLE, None, KEY, episodes_per_env=2)
    assert [(x.environment, x.score, x.steps, x.cut) for x in episodes] == [
        (0, 1.0, 1, False),
        (0, 3.0, 1, False),
        (1, 10.0, 4, True),
        (1, 30.0, 4, True),
    ]


def test_random_player_is_uniform_over_legal_actions():
    """6000 draws: each of the two or three legal ones within 5 standard deviations. Planted bugs
    seen: the mask inverted; the first legal action taken."""
    choose = jax.jit(make_random_player(fakes.SPEC).choose)
    invalid = np.array([[False, False, False], [False, True, False]])
    timestep = _literal_env([[(0, 0, 1, 0)]] * 2).reset()
    timestep = timestep.replace(invalid_actions=invalid)
    timestep = jax.tree.map(lambda x: np.repeat(x, 6000, axis=0), timestep)
    action = np.asarray(choose((), jax.random.key(3), None, timestep))
    assert action.dtype == np.int32
    counts = [np.bincount(x, minlength=3) for x in np.split(action, 2)]
    np.testing.assert_allclose(counts[0], 2000, atol=5 * np.sqrt(6000 * 2 / 9))
    assert counts[1][1] == 0
    np.testing.assert_allclose(counts[1][[0, 2]], 3000, atol=5 * np.sqrt(6000 / 4))


def test_search_player_uses_no_noise_and_one_program():
    """The fake search plays 2 if anything explores. Planted bugs seen: a noise scale of 1; one
    program for each player; history not carried (the second action counts the rows seen)."""
    traces = []

    def search(params, key, history, invalid_actions, explore):
        traces.append(1)
        noisy = (explore.temperature + explore.noise_scale + explore.random_move) > 0
        seen = jnp.sum(history.valid, axis=1) - 1  # 0 on a `first` row, then 1.
        action = jnp.where(noisy, 2, seen + params["w"].astype(jnp.int32))
        batch = history.action.shape[0]
        return SearchOutput(
            action=action,
            policy=jnp.zeros((batch, 3)),
            value=jnp.zeros((batch,)),
            explored=jnp.zeros((batch,), bool),
        )

    player = make_search_player(search, fakes.SPEC, history_steps=2)
    for w in (0.0, 1.0):
        actions = []
        env = fakes.make_host_env([0, 1], [2, 2], on_step=lambda a, to=actions: to.append(a))
        episodes = play_episodes(env, player, fakes.make_params(w), KEY, episodes_per_env=1)
        assert [x.score for x in episodes] == [3.0, 3.0]
        np.testing.assert_array_equal(actions, [[w, w], [w + 1, w + 1]])
    assert len(traces) == 1


def test_the_search_player_makes_the_random_moves_of_a_protocol_and_no_others():
    """The fake search plays what it is given. Planted bugs seen: the probability left out; taken
    as a scale of the noise."""

    def search(params, key, history, invalid_actions, explore):
        given = 8 * explore.random_move + 100 * (explore.noise_scale + explore.temperature)
        drawn = jnp.full(history.action.shape[:1], given).astype(jnp.int32)
        return SearchOutput(action=drawn, policy=None, value=None, explored=None)

    timestep = fakes.make_host_env([0, 1], [2, 2]).reset()
    for options, action in ({"random_move": 0.25}, 2), ({}, 0):
        player = make_search_player(search, fakes.SPEC, history_steps=2, **options)
        carry = player.init(fakes.make_params(), 2)
        np.testing.assert_array_equal(player.choose(carry, KEY, None, timestep), [action] * 2)


def test_every_step_of_the_search_player_has_its_own_key():
    """The fake search plays its draw. Planted bugs seen: one key for all steps; the key of the
    player left out, so that all players draw alike."""

    def search(params, key, history, invalid_actions, explore):
        drawn = jax.random.randint(key, history.action.shape[:1], 0, 2**30)
        return SearchOutput(action=drawn, policy=None, value=None, explored=None)

    player = make_search_player(search, fakes.SPEC, history_steps=2)

    def drawn(seed):
        actions = []
        env = fakes.make_host_env([0, 1, 2], [5, 5, 5], on_step=actions.append)
        key = jax.random.key(seed)
        play_episodes(env, player, fakes.make_params(), key, episodes_per_env=1)
        return np.array(actions)

    assert len(np.unique(drawn(0))) == 15
    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert not np.isin(drawn(1), drawn(0)).any()
