"""The planes of moves in the chess games and shogi, against boards before and after each move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.networks.moves import move_planes

pgx = pytest.importorskip("pgx")

# Of each game: the encoding, the planes of one's own pieces, how far behind them the other player's
# are, whether the square is where the move goes to, and how many kinds are moves on the board (the
# others are drops). Chess is seen from the other side with its files where they were, shogi turned
# round.
GAMES = {
    "gardner_chess": ("chess", 6, 6, False, 49),
    "animal_shogi": ("shogi", 5, 5, False, 8),
    "chess": ("chess", 6, 6, False, 73),
    "shogi": ("shogi", 14, 31, True, 20),
}
SLOW = ("animal_shogi", "chess", "shogi")


def _random_games(game, plies):
    """Boards before `[N, H, W, C]`, after, and the moves `[N]`; a game that ends begins again."""
    env, random = pgx.make(game), np.random.default_rng(0)
    begin, step = jax.jit(env.init), jax.jit(env.step)
    state, plays = begin(jax.random.key(0)), []
    for ply in range(plies):
        move = int(random.choice(np.flatnonzero(state.legal_action_mask)))
        before = np.asarray(state.observation)
        state = step(state, move)
        if state.terminated:  # The last board may be seen by anybody.
            state = begin(jax.random.key(ply))
        else:
            plays.append((before, np.asarray(state.observation), move))
    return [np.stack(x) for x in zip(*plays)]


@pytest.mark.parametrize(
    "game", [pytest.param(g, marks=pytest.mark.slow if g in SLOW else ()) for g in GAMES]
)
def test_a_move_is_at_its_square_and_each_kind_has_its_direction(game):
    """A piece of one's own stands at the square that a move begins at, or one of the other player's
    there afterwards, seen from the other side. All moves of a kind go in one direction. Planted
    bugs seen: squares row by row; files from the other side; kind and square exchanged."""
    encoding, pieces, others, at_the_end, on_board = GAMES[game]
    before, after, moves = _random_games(game, 150)
    num_actions = int(pgx.make(game).num_actions)
    board = before.shape[1:3]
    planes = move_planes(encoding, jnp.asarray(moves), num_actions, board, "float32")
    planes = np.asarray(planes)
    assert planes.shape == (len(moves), *board, num_actions // np.prod(board))
    assert (planes.sum(axis=(1, 2, 3)) == 1).all() and planes.max() == 1
    directions = {}
    for i, plane in enumerate(planes):
        (row, column, kind), = np.argwhere(plane)
        own = before[i, :, :, :pieces].any(axis=-1)
        files = slice(None, None, 1 if encoding == "chess" else -1)
        moved = after[i, ::-1, files, others : others + pieces].any(axis=-1)
        if kind >= on_board:
            assert not own[row, column] and moved[row, column]
            continue
        assert moved[row, column] if at_the_end else own[row, column]
        assert own[row, column] != moved[row, column]
        left, reached = np.argwhere(own & ~moved), np.argwhere(moved & ~own)
        if len(left) == len(reached) == 1:  # No castling.
            directions.setdefault(kind, set()).add(tuple(np.sign(reached[0] - left[0])))
    assert len(directions) > 5 and all(len(seen) == 1 for seen in directions.values())


def test_all_moves_differ():
    """Planted bug seen: the kind left out."""
    for encoding in ("chess", "shogi"):
        planes = move_planes(encoding, jnp.arange(2 * 3 * 4), 24, (2, 3), "float32")
        assert len(np.unique(np.asarray(planes).reshape(24, -1), axis=0)) == 24
