"""Shares of optimal moves in Connect Four: against players whose share is known."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import types
import processes

sys.path.append(str(processes.ROOT / "benchmarks"))
import connect_four  # noqa: E402

ALL = connect_four.load_positions()
# A hundred of them, of all plies.
SOME = connect_four.Positions(ALL.moves[::12], ALL.values[::12])


@pytest.mark.slow
def test_known_players_get_their_shares():
    """Best moves get 1, worst 0, and uniform moves on average their known share.

    Planted bugs seen: labels of the next position; every chunk plays the moves of the first; full
    columns count as legal.
    """
    boards = connect_four.make_replay_moves(history_steps=1)(ALL.moves)
    known = boards.timestep.observation.reshape(len(ALL.moves), -1)
    some = connect_four.Positions(ALL.moves[5:1155], ALL.values[5:1155])  # No multiple of a chunk.

    def player(pick):
        def choose(values, key, board):
            planes = board.timestep.observation.reshape(connect_four.BATCH, 1, -1)
            number = jnp.argmax((known == planes).all(-1), axis=1)
            return pick(values[number], key)

        return connect_four.is_optimal(choose, some, args=jnp.asarray(ALL.values))

    def uniform(values, key):
        return jax.random.categorical(key, jnp.where(values > -2, 0.0, -jnp.inf))

    best = player(lambda values, key: jnp.argmax(values, axis=1))
    worst = player(lambda values, key: jnp.argmin(jnp.where(values == -2, 2, values), axis=1))
    assert best.shape == worst.shape == (1150,) and best.all() and not worst.any()
    expected = connect_four.uniform_shares(some)
    full = [i for i, values in enumerate(some.values.tolist()) if -2 in values]
    for i in full:
        legal = [value for value in some.values[i].tolist() if value != -2]
        assert expected[i] == legal.count(max(legal)) / len(legal)
    assert len(full) > 100
    error = np.sqrt((expected * (1 - expected)).mean() / len(expected))
    assert abs(player(uniform).mean() - expected.mean()) < 4 * error
    with pytest.raises(RuntimeError, match="of the moves chosen are illegal"):
        player(lambda values, key: jnp.argmin(values, axis=1))


def test_a_board_is_what_acting_would_see():
    """The history of three steps holds the last three positions, with the moves between them.

    Planted bugs seen: the history of shorter games goes on being pushed; the last move left out.
    """
    moves = np.array([[3, 3, 2, 5], [6, -1, -1, -1]], np.int32)
    board = connect_four.make_replay_moves(history_steps=3)(moves)
    history = board.history
    assert history.action.tolist() == [[3, 2, 5], [0, 0, 6]]
    assert history.valid.tolist() == [[True] * 3, [False, True, True]]
    np.testing.assert_array_equal(history.observation[:, -1], board.timestep.observation)
    assert history.observation.sum(axis=(2, 3, 4)).tolist() == [[2, 3, 4], [0, 0, 1]]
    # The bottom row and the one above it; the mover's stones are 1, the other's 2.
    planes = np.asarray(board.timestep.observation, int) @ [1, 2]
    assert planes[0, 5].tolist() == [0, 0, 1, 1, 0, 2, 0] and planes[0, 4].tolist()[3] == 2
    assert planes[1].sum() == planes[1, 5, 6] == 2


def test_a_network_is_judged_by_search_and_by_policy():
    """A policy that always likes the same columns, and a search that takes the legal one farthest
    right: NumPy knows what both get.

    Planted bugs seen: the policy's share by the search; illegal columns not masked; noise on.
    """
    liking = np.array([2.0, 6.0, 1.0, 7.0, 3.0, 5.0, 4.0], np.float32)

    def look(params, history):
        logits = jnp.broadcast_to(params, (history.valid.shape[0], 7))
        return types.Prediction(embedding=None, reward_logits=None, value_logits=None,
                                policy_logits=logits)

    def search(params, key, history, invalid_actions, explore):
        del params, key, history
        right = jnp.max(jnp.where(invalid_actions, -1, jnp.arange(7)), axis=1)
        wrong = jnp.max(jnp.where(invalid_actions, -1, 6 - jnp.arange(7)), axis=1)
        quiet = sum(jax.tree.leaves(explore)) == 0
        return SimpleNamespace(action=jnp.where(quiet, right, 6 - wrong))

    network = types.Network(lambda key: None, look, None)
    shares = connect_four.judge_network(network, search, liking, SOME, history_steps=1)
    best = SOME.values.max(1)
    for name, order in (("search", np.arange(7)), ("policy", liking)):
        chosen = np.argmax(np.where(SOME.values > -2, order, -1), axis=1)
        expected = SOME.values[np.arange(len(best)), chosen] == best
        np.testing.assert_array_equal(shares[name], expected)
    assert shares["search"].mean() != shares["policy"].mean()


@pytest.mark.slow
def test_plain_search_beats_uniform_moves():
    """And its mean and interval. Planted bug seen: the first move of the batch for all."""
    found = connect_four.summary(connect_four.judge_mcts(48, SOME))
    uniform = connect_four.summary(connect_four.uniform_shares(SOME))
    assert found["interval_95"][0] > uniform["interval_95"][1]
    assert uniform["interval_95"][0] < uniform["optimal_share"] < uniform["interval_95"][1]
