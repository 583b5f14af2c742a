"""The player against what evaluations play, and what it refuses."""

import jax
import numpy as np
import pytest

import fakes
from muzero_jax.config import build
from muzero_jax.envs import wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation.actors import make_search_player
from muzero_jax.player import Player
from presets import config_of
import processes

B = 3


@pytest.fixture(scope="module")
def agent():
    config = config_of(
        "cartpole",
        "reanalyse",
        **processes.TINY_CONTROL
        | {"env.num_groups": 1, "network.history_steps": 3, "network.history_rewards": True},
    )
    return build.experiment(config).agent


@pytest.fixture(scope="module")
def params(agent):
    """Drawn so that values and policies differ from position to position."""
    params = agent.network.init(jax.random.key(1))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + random.normal(size=x.shape).astype(x.dtype), params)


def _player(agent, params):
    return Player(agent.search, agent.spec, params, history_steps=3)


def _rows(steps=40):
    env = wrappers.make_host_env(make_cartpole(max_steps=20))(B, jax.random.key(4))
    timestep, rows, random = env.reset(), [], np.random.default_rng(2)
    for _ in range(steps):
        rows.append(timestep)
        timestep = env.step(random.integers(0, 2, B).astype(np.int32))
    return [x for x in rows if not x.last.any()]


def test_it_plays_what_an_evaluation_plays(agent, params):
    """A batch of environments, whose episodes end at different times, with rewards in the history;
    and each of them alone.

    Planted: rewards not handed on; `reset` of all for some; the history kept over a reset; a
    history that forgets its actions.
    """
    rows = _rows()
    assert sum(x.first.sum() for x in rows) > B + 1, "episodes end in between"
    evaluated = make_search_player(agent.search, agent.spec, history_steps=3)
    observe, choose = jax.jit(evaluated.observe), jax.jit(evaluated.choose)
    carry, wanted = evaluated.init(params, B), np.zeros(B, np.int32)
    player = _player(agent, params)
    alone = [_player(agent, params) for _ in range(B)]
    seen = []
    for count, row in enumerate(rows):
        carry = observe(carry, row, wanted)
        wanted = choose(carry, jax.random.fold_in(jax.random.key(0), count), None, row)
        if count:
            player.reset(np.flatnonzero(row.first))
        action = player.act(row.observation, reward=row.reward)
        np.testing.assert_array_equal(action, wanted)
        for i, one in enumerate(alone):
            if row.first[i]:
                one.reset()
            assert one.act(row.observation[i], reward=float(row.reward[i])) == wanted[i]
        seen.append(action)
    assert len(np.unique(seen)) == 2


def test_its_step_is_compiled_once(agent, params):
    """With parameters of a checkpoint, which lie on a device of their own. Bug seen: twice, since
    the first carry lay elsewhere than that of later steps."""
    player = _player(agent, jax.device_put(params, jax.devices()[0]))
    rows, acts = _rows(6), []
    with fakes.compiled(lambda: len(acts)) as programs:
        for row in rows[:4]:
            acts.append(player.act(row.observation, reward=row.reward))
    assert set(programs) == {0}


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda player: player.act(np.zeros(5)), r"observation must be \(4,\), or a batch"),
        (lambda player: player.act(np.zeros((2, 4))), "of 3 environments, as before .got 2"),
        (lambda player: player.act(np.zeros(4)), "of 3 environments, as before .got 1"),
        (lambda player: player.act(np.full((B, 4), "x")), "observation must be float32"),
        (
            lambda player: player.act(np.zeros((B, 4)), invalid_actions=np.zeros((B, 2), bool)),
            "invalid_actions given, but this game has no masks",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(agent, params, act, said):
    player = _player(agent, params)
    player.act(np.zeros((B, 4)))
    with pytest.raises(ArgumentError, match=said):
        act(player)


def test_a_masked_game_needs_its_mask():
    """And plays none of what it forbids."""
    pytest.importorskip("pgx")
    board = {k: x for k, x in processes.TINY.items() if k != "evaluation.max_steps"}
    config = config_of("board_games", "tic_tac_toe", **board | {"network.width": 16})
    agent = build.experiment(config).agent
    player = Player(
        agent.search,
        agent.spec,
        agent.network.init(jax.random.key(0)),
        history_steps=1,
    )
    board = np.zeros(agent.spec.observation_shape, bool)
    with pytest.raises(ArgumentError, match="invalid_actions needed: this game has masks"):
        player.act(board)
    for action in range(9):
        assert player.act(board, invalid_actions=np.arange(9) != action) == action


def test_a_look_is_what_would_be_played_and_changes_nothing(agent, params):
    """Beside a player that never looks, over ends of episodes: a look first, or twice, or in a
    batch; and the arrays have no axis for the one environment.

    Planted: a look that remembers; one that forgets the reward.
    """
    rows, player, blind = _rows(), _player(agent, params), _player(agent, params)
    for count, row in enumerate(rows):
        if count:
            for one in (player, blind):
                one.reset(np.flatnonzero(row.first))
        seen = [player.search(row.observation, reward=row.reward) for _ in range(1 + count % 2)]
        action = player.act(row.observation, reward=row.reward)
        np.testing.assert_array_equal(action, blind.act(row.observation, reward=row.reward))
        for found in seen:
            np.testing.assert_array_equal(found.action, action)
    assert found.value.shape == (B,) and found.tree.root_policy.shape == (B, 2)
    alone = _player(agent, params)
    found = alone.search(rows[0].observation[0])
    assert isinstance(found.action, int) and isinstance(found.value, float)
    assert found.action == alone.act(rows[0].observation[0])
    assert found.tree.visits.ndim == 1 and found.tree.visits[0] > 1
    np.testing.assert_array_equal(found.tree.root_policy, found.policy)
    np.testing.assert_allclose(found.policy.sum(), 1, rtol=1e-5)


def test_it_is_evaluated_over_whole_episodes(agent, params):
    """In an environment of gymnasium, and in a batch of ours, as `play_episodes` does; what it
    plays elsewhere goes on untouched.

    Planted: the memory of the player used; another seed; an interval of the sum.
    """
    player, other = _player(agent, params), _player(agent, params)
    first, second = _rows()[:2]
    for one in (player, other):
        one.act(first.observation)
    result = player.evaluate(fakes.Gym(30), 3, seed=5)
    returns = []
    game, alone = fakes.Gym(30), _player(agent, params)
    observation, _ = game.reset(seed=5)
    for _ in range(3):
        total, steps, ended, reward = 0.0, 0, False, 0.0
        while not ended and steps < 30:
            action = alone.act(observation, reward=reward)
            observation, reward, ended, _, _ = game.step(action)
            total, steps = total + reward, steps + 1
        returns.append(total)
        observation, _ = game.reset()
        alone.reset()
    assert result["returns"] == pytest.approx(returns, rel=1e-6) and len(set(returns)) == 3
    assert result["return_mean"] == np.mean(result["returns"])
    low, high = result["interval"]
    assert low <= result["return_mean"] <= high
    serve = wrappers.make_host_env(make_cartpole(max_steps=20))
    batch = player.evaluate(serve(B, jax.random.key(4)), 2 * B)
    assert len(batch["returns"]) == 2 * B and max(batch["returns"]) <= 20
    seen = [one.search(second.observation, reward=second.reward).value for one in (player, other)]
    np.testing.assert_array_equal(*seen)
    with pytest.raises(ArgumentError, match="episodes must be a multiple of the 3 environments"):
        player.evaluate(serve(B, jax.random.key(4)), 4)


def test_another_environment_is_not_played(agent, params):
    game = fakes.Gym(30)
    game.action_space.n = 3
    with pytest.raises(ArgumentError, match="env: its action is .*3.*, that of the agent is"):
        _player(agent, params).evaluate(game, 1)
