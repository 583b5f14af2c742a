"""Perfect play of tic-tac-toe by every search, from a perfect model; and wrong models that fail.

Boards are nine of 0 (empty), 1 (mover), 2 (other).
"""

import functools

import jax
import numpy as np
import pytest

from muzero_jax.search import gumbel, muzero
from worlds import CODECS, TABLE_NETWORK, explore, history_of, make_table

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
CHUNK = 565  # An eighth of all positions: one compiled search serves all that is asked here.
# Each search with its gate for 32 simulations: share of optimal moves, won positions missed.
POLICIES = {
    "gumbel": (gumbel.make_gumbel_search, 0.998, 0),
    "muzero": (muzero.make_muzero_search, 0.985, 25),
}


def after_move(board, cell):
    """The board as the next player sees it."""
    marked = board[:cell] + (1,) + board[cell + 1 :]
    return tuple((0, 2, 1)[mark] for mark in marked)


def is_lost(board):
    """Whether the one who moved last has a line."""
    return any(all(board[cell] == 2 for cell in line) for line in LINES)


@functools.cache
def minimax(board):
    """What the position is worth to the player to move."""
    if is_lost(board):
        return -1
    moves = [cell for cell in range(9) if board[cell] == 0]
    return max((-minimax(after_move(board, cell)) for cell in moves), default=0)


@functools.cache
def endless(board):
    """The same where play goes on over a finished line, and who has one is paid at each move."""
    gained = [
        is_lost(after) - endless(after)
        for after in (after_move(board, cell) for cell in range(9) if board[cell] == 0)
    ]
    return max(gained, default=0)


def reachable(stop_at_lines):
    """Every board that play can reach, in a fixed order."""
    seen, waiting = set(), [(0,) * 9]
    while waiting:
        board = waiting.pop()
        if board in seen:
            continue
        seen.add(board)
        if not (stop_at_lines and is_lost(board)):
            waiting += [after_move(board, cell) for cell in range(9) if board[cell] == 0]
    return sorted(seen)


@functools.lru_cache
def positions():
    """The 4,520 boards that go on, out of 5,478 reachable ones."""
    boards = reachable(stop_at_lines=True)
    goes_on = [board for board in boards if not is_lost(board) and 0 in board]
    assert (len(boards), len(goes_on), minimax((0,) * 9)) == (5478, 4520, 0)
    return goes_on


@functools.lru_cache
def make_model(absorbing=True):
    """The perfect model: node = board, exact values, illegal moves all but impossible.

    A position that is over absorbs: reward 0, value 0, any move stays. If not `absorbing`, it is
    the perfect model of endless play.
    """
    boards = reachable(stop_at_lines=False)
    number = {board: i for i, board in enumerate(boards)}
    end = len(boards)
    next_node = np.repeat(np.arange(end + 1)[:, None], 9, axis=1)
    reward, logits = np.zeros((2, end + 1, 9))
    value = np.zeros(end + 1)
    for i, board in enumerate(boards):
        if absorbing and (is_lost(board) or 0 not in board):
            continue
        value[i] = minimax(board) if absorbing else endless(board)
        for cell in range(9):
            if board[cell]:
                next_node[i, cell], logits[i, cell] = end, -1e9
                continue
            after = after_move(board, cell)
            next_node[i, cell] = number[after]
            reward[i, cell] = is_lost(after)
    return number, make_table(next_node, reward, value, logits)


@functools.cache
def make_player(policy, turn_sign):
    make_search, *_ = POLICIES[policy]
    return jax.jit(make_search(TABLE_NETWORK, CODECS, num_actions=9, turn_sign=turn_sign,
                               discount=1.0, num_simulations=32))


def judge_play(policy, boards, *, turn_sign=-1, reward_sign=1, absorbing=True):
    """`(share of optimal moves, won positions missed)`; an illegal move fails at once."""
    number, table = make_model(absorbing)
    table = table._replace(reward=reward_sign * table.reward)
    play = make_player(policy, turn_sign)
    optimal = missed = 0
    for begin in range(0, len(boards), CHUNK):
        some = boards[begin : begin + CHUNK]
        nodes = np.array([number[board] for board in some])
        occupied = np.array(some) != 0
        output = play(table, jax.random.key(0), history_of(nodes), occupied, explore())
        for board, action in zip(some, np.asarray(output.action)):
            assert board[action] == 0
            gained = -minimax(after_move(board, int(action)))
            optimal += gained == minimax(board)
            missed += minimax(board) == 1 and gained < 1
    return optimal / len(boards), missed


@pytest.mark.parametrize(
    "policy", ["gumbel", pytest.param("muzero", marks=pytest.mark.slow)])
def test_all_positions_are_played_well(policy):
    """All 4,520 of them; the wrong models below are the bugs that this gate is for."""
    share, missed = judge_play(policy, positions())
    _, least_share, most_missed = POLICIES[policy]
    assert share >= least_share and missed <= most_missed, (share, missed)


WRONG_MODELS = [{"turn_sign": 1}, {"reward_sign": -1}, {"absorbing": False}]


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("wrong", WRONG_MODELS, ids=lambda wrong: next(iter(wrong)))
def test_the_gate_sees_wrong_models(policy, wrong):
    """The sign of the turn, that of the reward, and play that goes on past the end.

    Over an eighth of the positions, drawn at random: all of them fail both marks of the gate.
    """
    chosen = np.random.default_rng(0).choice(len(positions()), CHUNK, replace=False)
    share, missed = judge_play(policy, [positions()[i] for i in chosen], **wrong)
    _, least_share, most_missed = POLICIES[policy]
    assert share < least_share and missed > most_missed / 8, (share, missed)
