"""Exact labels of Connect Four: the value of each legal move at 1,200 positions.

  python benchmarks/connect_four_labels.py     writes data/connect_four_labels.json

It needs numba (`pip install numba`), which nothing else of the project does; the labels are stored,
so that it is run only to make them again.

Positions: 80 at each ply 14..28, each from a game of its own. In a game all moves are drawn at
random among those that do not end it; with probability 0.9 only among those that also leave the
opponent no win at once, where there are such. A position is kept if two of its legal moves have
different values, and if neither it nor its mirror image is there already.

Value: +1, 0 or -1, what the game ends with for the one who moves if both play perfectly from there
on, however long it takes. A move is optimal if its value is the greatest of its position.

The file holds for each position the columns played to reach it, as digits 0-6 from left to right
(`moves`), and the value of each column for the one to move (`values`: `+`, `0`, `-`; `x`: full).

Solver: negamax with alpha-beta on bitboards (a column is seven bits, the seventh always empty, so
that shifts by 1, 6, 7 and 8 follow the lines), a transposition table, forced replies, no moves
under a winning cell of the opponent, and moves that threaten most first, then central ones.
Without the table it finds the same values at 1,197 of the positions (the other three take long).
"""

import argparse
import collections
import json
from pathlib import Path
import sys
import time

import numba
from numba import int8, int64, uint64
import numpy as np
from provenance import ROOT, provenance

PATH = ROOT / "benchmarks" / "data" / "connect_four_labels.json"
PLIES = range(14, 29)
_CAREFUL = 0.9
_WIDTH, _HEIGHT, _BITS = 7, 6, 7
_BOTTOM = sum(1 << (_BITS * column) for column in range(_WIDTH))
_BOARD = _BOTTOM * ((1 << _HEIGHT) - 1)
_TABLE_BITS = 23
_SIGNS = {1: "+", 0: "0", -1: "-"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per_ply", type=int, default=80, help="Positions at each ply.")
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    begin = time.perf_counter()
    positions = make_positions(args.seed, args.per_ply)
    made = {
        **provenance(),
        "command": " ".join(["python benchmarks/connect_four_labels.py", *sys.argv[1:]]),
        "seed": args.seed,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "seconds": round(time.perf_counter() - begin, 1),
        "optimal_share_of_uniform_moves": float(np.mean([base_rate(p) for p in positions])),
        "won_at_once_share": float(np.mean([_wins_at_once(p) for p in positions])),
        "root_values": collections.Counter(_root_value(p) for p in positions),
    }
    lines = ",\n".join(json.dumps(position) for position in positions)
    text = json.dumps(made, indent=1)[:-2] + ',\n "positions": [\n' + lines + "\n ]\n}\n"
    args.out.write_text(text)
    print(json.dumps(made, indent=1))


def make_positions(seed: int, per_ply: int) -> list[dict[str, str]]:
    """The positions `{"moves", "values"}`, in order of ply."""
    random = np.random.default_rng(seed)
    table = make_table()
    seen: set[int] = set()
    positions = []
    for ply in PLIES:
        count = 0
        while count < per_ply:
            moves = draw_game(random, ply)
            mine, filled = replay(moves)
            code = min(_code(mine, filled), _code(_mirror(mine), _mirror(filled)))
            if code in seen:
                continue
            values = [
                int(value_of_move(uint64(mine), uint64(filled), ply, column, *table))
                if _is_open(filled, column)
                else None
                for column in range(_WIDTH)
            ]
            if len(set(values) - {None}) < 2:
                continue
            seen.add(code)
            count += 1
            signs = "".join("x" if value is None else _SIGNS[value] for value in values)
            positions.append({"moves": "".join(map(str, moves)), "values": signs})
    return positions


def base_rate(position: dict[str, str]) -> float:
    """The share of the legal moves that are optimal."""
    legal = position["values"].replace("x", "")
    return legal.count(_root_value(position)) / len(legal)


def _root_value(position: dict[str, str]) -> str:
    return next(sign for sign in "+0-" if sign in position["values"])


def _wins_at_once(position: dict[str, str]) -> bool:
    mine, filled = replay(position["moves"])
    after = [_play(mine, filled, c) for c in range(_WIDTH) if _is_open(filled, c)]
    return any(_has_line(filled_after ^ other) for other, filled_after in after)


def draw_game(random: np.random.Generator, plies: int) -> list[int]:
    """Columns of a random game that is not over after `plies` moves."""
    while True:
        moves: list[int] = []
        mine, filled = 0, 0
        while len(moves) < plies:
            quiet, safe = [], []
            for column in filter(lambda c: _is_open(filled, c), range(_WIDTH)):
                stone = filled + (1 << (_BITS * column)) & ~filled
                if _has_line(mine | stone):
                    continue
                quiet.append(column)
                other, after = filled ^ mine, filled | stone
                answers = [after + (1 << (_BITS * c)) & ~after
                           for c in range(_WIDTH) if _is_open(after, c)]
                if not any(_has_line(other | answer) for answer in answers):
                    safe.append(column)
            careful = random.random() < _CAREFUL
            among = safe if careful and safe else quiet
            if not among:
                break
            moves.append(int(random.choice(among)))
            mine, filled = _play(mine, filled, moves[-1])
        else:
            return moves


def replay(moves) -> tuple[int, int]:
    """`(stones of the one to move, all stones)`."""
    mine, filled = 0, 0
    for column in moves:
        mine, filled = _play(mine, filled, int(column))
    return mine, filled


def _play(mine: int, filled: int, column: int) -> tuple[int, int]:
    return filled ^ mine, filled | (filled + (1 << (_BITS * column)))


def _is_open(filled: int, column: int) -> bool:
    return not filled >> (_BITS * column + _HEIGHT - 1) & 1


def _has_line(stones: int) -> bool:
    for shift in (1, _BITS - 1, _BITS, _BITS + 1):
        pairs = stones & stones >> shift
        if pairs & pairs >> 2 * shift:
            return True
    return False


def _mirror(stones: int) -> int:
    columns = [stones >> (_BITS * c) & (1 << _BITS) - 1 for c in range(_WIDTH)]
    return sum(column << (_BITS * c) for c, column in enumerate(reversed(columns)))


def _code(mine: int, filled: int) -> int:
    """One number for a position: a one above each column's stones marks its height."""
    return mine + filled + _BOTTOM


def make_table() -> tuple[np.ndarray, np.ndarray]:
    """An empty transposition table: codes, and what is known (see `_solve`)."""
    return np.zeros(1 << _TABLE_BITS, np.uint64), np.zeros(1 << _TABLE_BITS, np.int8)


_U = np.uint64
_BOTTOM_U, _BOARD_U = _U(_BOTTOM), _U(_BOARD)
_COLUMNS = np.array([((1 << _HEIGHT) - 1) << (_BITS * c) for c in range(_WIDTH)], np.uint64)
_ORDER = np.array([3, 2, 4, 1, 5, 0, 6])


@numba.njit(uint64(uint64, uint64))
def _winning_cells(stones, filled):
    """The empty cells that would complete a line of `stones`."""
    # Up a column there is one way; along other lines the gap can be any of the four cells.
    cells = (stones << _U(1)) & (stones << _U(2)) & (stones << _U(3))
    for shift in (_U(6), _U(7), _U(8)):
        two, three = shift + shift, shift + shift + shift
        pair = (stones << shift) & (stones << two)
        cells |= pair & (stones << three)
        cells |= pair & (stones >> shift)
        pair = (stones >> shift) & (stones >> two)
        cells |= pair & (stones >> three)
        cells |= pair & (stones << shift)
    return cells & (_BOARD_U ^ filled)


@numba.njit(int64(uint64))
def _count(cells):
    count = 0
    while cells:
        cells &= cells - _U(1)
        count += 1
    return count


@numba.njit(int64(uint64, uint64, int64, int64, int64, uint64[:], int8[:]))
def _solve(mine, filled, ply, alpha, beta, codes, known):
    """Value of a position for the one to move, exact within (alpha, beta), else a bound.

    `known` packs a lower and an upper bound of the value: (low + 1) * 4 + (high + 1) + 1; 0: free.
    """
    playable = (filled + _BOTTOM_U) & _BOARD_U
    if _winning_cells(mine, filled) & playable:
        return 1
    if ply == 42:
        return 0
    other = filled ^ mine
    threats = _winning_cells(other, filled)
    forced = threats & playable
    if forced:
        if forced & (forced - _U(1)):
            return -1
        playable = forced
    playable &= ~(threats >> _U(1))  # A stone under a threat lets it be carried out.
    if not playable:
        return -1
    if ply >= 40:
        return 0  # Two moves are left, and neither wins.
    code = mine + filled + _BOTTOM_U
    slot = (code * _U(0x9E3779B97F4A7C15)) >> _U(64 - _TABLE_BITS)
    low, high = -1, 1
    if known[slot] != 0 and codes[slot] == code:
        low, high = (known[slot] - 1) // 4 - 1, (known[slot] - 1) % 4 - 1
        if low >= beta or low == high:
            return low
        if high <= alpha:
            return high
        alpha, beta = max(alpha, low), min(beta, high)
    # Moves that make most winning cells first, and of these the nearest to the centre.
    moves, weights, size = np.empty(7, np.uint64), np.empty(7, np.int64), 0
    for column in _ORDER:
        move = playable & _COLUMNS[column]
        if move:
            weight = _count(_winning_cells(mine | move, filled | move))
            place = size
            while place > 0 and weights[place - 1] < weight:
                weights[place], moves[place] = weights[place - 1], moves[place - 1]
                place -= 1
            weights[place], moves[place] = weight, move
            size += 1
    best, begin = -1, alpha
    for i in range(size):
        value = -_solve(other, filled | moves[i], ply + 1, -beta, -alpha, codes, known)
        best = max(best, value)
        alpha = max(alpha, value)
        if alpha >= beta:
            break
    if best > begin:
        low = max(low, best)
    if best < beta:
        high = min(high, best)
    codes[slot], known[slot] = code, (low + 1) * 4 + (high + 1) + 1
    return best


@numba.njit(int64(uint64, uint64, int64, int64, uint64[:], int8[:]))
def value_of_move(mine, filled, ply, column, codes, known):
    """Value of playing an open column, for the one who plays it; `ply` stones are on the board."""
    move = (filled + _BOTTOM_U) & _COLUMNS[column]
    if move & _winning_cells(mine, filled):
        return 1
    return -_solve(filled ^ mine, filled | move, ply + 1, -1, 1, codes, known)


if __name__ == "__main__":
    main()
