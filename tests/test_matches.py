"""Games between two players against plain Python, and every line of tic-tac-toe against recursion.

The game of most tests: numbers lie in a row, the players take the left or the right one in turn,
and get what they take. Every ply pays, lengths differ, and a player may look at its whole history.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.envs.wrappers import auto_reset
from muzero_jax.evaluation import actors, matches
from muzero_jax.types import ActionSpec, ArraySpec, Env, EnvSpec, Network, Prediction, TimeStep
from test_search_play import after_move, is_lost, minimax, positions

LEFT, RIGHT, NEVER = range(3)
SIZE, HISTORY_STEPS = 8, 3


def make_row_game(*, same_step=True):
    """2 to 8 numbers of 1 to 9; shows those that are left; the last can be taken from the left."""
    spec = EnvSpec(
        observation=ArraySpec((SIZE,), "int32"),
        action=ActionSpec.discrete(3),
        turn_sign=-1,
        truncates=False,
        max_steps=SIZE,
        masked=True,
    )

    def timestep(row, reward, first):
        left = jnp.sum(row > 0)
        return TimeStep(
            observation=row,
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(first | (left == 0), 0.0, -1.0),
            first=first,
            last=left == 0,
            invalid_actions=jnp.stack([jnp.bool_(False), left == 1, jnp.bool_(True)]),
        )

    def reset(key):
        length_key, number_key = jax.random.split(key)
        row = jax.random.randint(number_key, (SIZE,), 1, 10)
        row = jnp.where(jnp.arange(SIZE) < jax.random.randint(length_key, (), 2, SIZE + 1), row, 0)
        return row, timestep(row, 0.0, jnp.bool_(True))

    def step(row, action, key):
        del key
        left, right = jnp.argmax(row > 0), SIZE - 1 - jnp.argmax(row[::-1] > 0)
        place = jnp.where(action == RIGHT, right, left)
        rest = row.at[place].set(0)
        return rest, timestep(rest, row[place], jnp.bool_(False))

    return auto_reset(Env(spec=spec, reset=reset, step=step), same_step=same_step)


ROW_GAME = make_row_game()


def whim(weight, actions, rewards, shown):
    """LEFT or RIGHT by all that the newest rows held; plain numbers, oldest row first."""
    weighed = sum((i + 1) * (a + int(r)) for i, (a, r) in enumerate(zip(actions, rewards)))
    return (weight + weighed + len(actions) + sum(shown)) % 2


def whim_search(params, key, history, invalid_actions, explore):
    """`whim` as a `SearchFn`; it plays what is never legal where anything explores."""
    del key
    order = jnp.cumsum(history.valid, axis=1) * history.valid
    weighed = jnp.sum(order * (history.action + history.reward.astype(jnp.int32)), axis=1)
    weighed += params + jnp.sum(history.valid, axis=1) + jnp.sum(history.observation[:, -1], axis=1)
    action = jnp.where(invalid_actions[:, RIGHT], LEFT, weighed % 2)
    noisy = (explore.temperature + explore.noise_scale + explore.random_move) > 0
    action = jnp.where(noisy, NEVER, action)
    return SimpleNamespace(action=action)  # All that a match looks at.


def make_whim(search=whim_search):
    return actors.make_search_player(
        search, ROW_GAME.spec, history_steps=HISTORY_STEPS
    )


class Game:
    """The same game of plain lists."""

    def __init__(self, row):
        self.row, self.actions, self.rewards = [int(x) for x in row if x], [0], [0]

    def moves(self):
        return [LEFT, RIGHT] if len(self.row) > 1 else [LEFT]

    def play(self, move):
        self.rewards.append(self.row.pop(-1 if move == RIGHT else 0))
        self.actions.append(move)

    def whim(self, weight):
        rows = slice(-HISTORY_STEPS, None)
        move = whim(weight, self.actions[rows], self.rewards[rows], self.row)
        return move if move in self.moves() else LEFT

    def copy(self):
        other = Game(self.row)
        other.actions, other.rewards = self.actions[:], self.rewards[:]
        return other

    def score(self):
        """What the first has gained over the second."""
        return sum(self.rewards[1::2]) - sum(self.rewards[2::2])


def spied(player, starts):
    """The player, who also writes down what every ply shows it."""

    def observe(carry, timestep, action):
        jax.debug.callback(lambda x: starts.append(np.asarray(x)), timestep.observation)
        return player.observe(carry, timestep, action)

    return player._replace(observe=observe)


@pytest.mark.parametrize("same_step", [True, False])
def test_scores_are_those_of_plain_lists(same_step):
    """Whimsical players with other params, both colors, 40 games of 2 to 8 plies.

    Planted bugs seen: the reward without the sign of the ply; the players exchanged; plies after
    the end counted; `observe` for the mover alone; action 0 for the one that led to a row.
    """
    starts = []
    env = make_row_game(same_step=same_step)
    play = matches.make_match(
        env, spied(make_whim(), starts), make_whim(), num_games=40, max_plies=100
    )
    found = set()
    for weights in ((0, 1), (1, 0), (0, 0)):
        starts.clear()
        scores = play(jax.random.key(3), *map(jnp.int32, weights))
        jax.effects_barrier()
        games = [Game(row) for row in starts[0]]
        assert {len(game.row) for game in games} == set(range(2, SIZE + 1))
        for game in games:
            while game.row:
                game.play(game.whim(weights[(len(game.actions) - 1) % 2]))
        np.testing.assert_array_equal(scores, [game.score() for game in games])
        found.add(tuple(scores))
    assert len(found) == 3


def test_each_program_is_traced_once():
    """Other params and colors, two matches. Planted bug seen: a new function for each play."""
    traces = []

    def search(*args):
        traces.append(1)
        return whim_search(*args)

    player = make_whim(search)
    for _ in range(2):
        play = matches.make_match(ROW_GAME, player, player, num_games=4, max_plies=100)
        for weights in ((0, 1), (1, 0)):
            play(jax.random.key(0), *map(jnp.int32, weights))
    assert len(traces) == 1


def test_limits_and_stops():
    """After one ply the first has what it took; a stop leaves no scores. Planted bugs seen:
    `max_plies` one too many; `stop` looked at before the first ply only."""
    player, params = make_whim(), (jnp.int32(0), jnp.int32(1))
    short = matches.make_match(ROW_GAME, player, player, num_games=8, max_plies=1)
    assert (short(jax.random.key(0), *params) >= 1).all()
    play = matches.make_match(ROW_GAME, player, player, num_games=8, max_plies=100)
    asked = iter([False, False, True])
    assert play(jax.random.key(0), *params, stop=lambda: next(asked)) is None
    assert play(jax.random.key(0), *params, stop=lambda: False).shape == (8,)
    with pytest.raises(ValueError, match="two players"):
        matches.make_match(
            fakes.make_jax_env(same_step=True), player, player, num_games=8, max_plies=1
        )


def test_openings_are_those_of_the_key():
    """Equal for both colors, and other games get others. Planted bugs seen: a key that depends on
    who moves first; one opening for all games."""
    moves = []
    player, params = make_whim(), (jnp.int32(0), jnp.int32(1))
    play = matches.make_match(
        ROW_GAME, spied(player, moves), player, num_games=32, max_plies=2, opening_plies=2
    )
    shown = []
    for weights in (params, params[::-1]):
        moves.clear()
        play(jax.random.key(5), *weights)
        jax.effects_barrier()
        shown.append(moves[:2])
    np.testing.assert_array_equal(shown[0], shown[1])
    taken_left = shown[0][1][:, 0] == 0
    assert 8 <= taken_left.sum() <= 24
    play(jax.random.key(6), *params)
    jax.effects_barrier()
    assert (moves[-2] != shown[0][0]).any()


def test_every_ply_has_its_own_keys():
    """Of the players, of random openings, and of each game's environment; another key has others.
    Planted bugs seen: one key for all plies; one for all games."""
    keys = []

    def tell(key):
        jax.debug.callback(lambda x: keys.append(tuple(x.tolist())), jax.random.key_data(key))

    def choose(carry, key, env_state, timestep):
        tell(key)
        return jnp.zeros(4, jnp.int32)

    def step(state, action, key):
        tell(key)
        return ROW_GAME.step(state, action, key)

    player = actors.without_memory(choose)
    play = matches.make_match(
        ROW_GAME._replace(step=step), player, player, num_games=4, max_plies=6, opening_plies=1
    )
    seen = []
    for seed in (0, 1):
        keys.clear()
        play(jax.random.key(seed), (), ())
        jax.effects_barrier()
        # At each ply four games step; at the first one an opening move is drawn in place of chosen.
        assert len(keys) == len(set(keys)) >= 4 + 3 * 5
        seen.append(set(keys))
    assert not seen[0] & seen[1]


def _timestep(observation, invalid_actions):
    flags = jnp.ones(len(observation), bool)
    zeros = jnp.zeros(len(observation))
    return TimeStep(observation=jnp.asarray(observation), reward=zeros, discount=zeros,
                    first=flags, last=~flags, invalid_actions=invalid_actions)


def test_random_player_is_uniform_over_legal_moves():
    """6000 draws within 5 standard deviations. Planted bugs seen: the mask inverted; not used."""
    player = actors.make_random_player(ROW_GAME.spec)
    invalid = jnp.repeat(jnp.array([[False, False, True], [False] * 3]), 6000, axis=0)
    timestep = _timestep(np.zeros((12_000, SIZE), np.int32), invalid)
    carry = player.observe(player.init(None, 12_000), timestep, jnp.zeros(12_000, jnp.int32))
    action = np.asarray(player.choose(carry, jax.random.key(0), None, timestep))
    counts = [np.bincount(x, minlength=3) for x in np.split(action, 2)]
    assert counts[0][NEVER] == 0 and action.dtype == np.int32
    np.testing.assert_allclose(counts[0][:2], 3000, atol=5 * np.sqrt(6000 / 4))
    np.testing.assert_allclose(counts[1], 2000, atol=5 * np.sqrt(6000 * 2 / 9))


def test_prior_player_takes_the_best_legal_logit():
    """Logits are the newest frame plus the params. Planted bugs seen: the mask not used; `observe`
    that remembers nothing."""

    def look(params, history):
        logits = history.observation[:, -1, :3] + params
        return Prediction(embedding=None, reward_logits=None, value_logits=None,
                          policy_logits=logits)

    network = Network(init=None, initial_inference=look, recurrent_inference=None)
    spec = EnvSpec(**{**vars(ROW_GAME.spec), "observation": ArraySpec((SIZE,), "float32")})
    player = actors.make_prior_player(network, spec, history_steps=2)
    rng = np.random.default_rng(0)
    frames, masks = rng.normal(size=(2, 50, SIZE)).astype(np.float32), rng.random((50, 3)) < 0.4
    masks[:, 0] &= ~masks[:, 1:].all(axis=1)
    params = np.array([0.0, 0.5, -0.5], np.float32)
    carry = player.init(params, 50)
    for frame in frames:
        timestep = _timestep(frame, masks).replace(first=np.zeros(50, bool))
        carry = jax.jit(player.observe)(carry, timestep, np.zeros(50, np.int32))
    action = jax.jit(player.choose)(carry, jax.random.key(0), None, timestep)
    expected = [
        max((a for a in range(3) if not masks[i, a]), key=lambda a: frames[1, i, a] + params[a])
        for i in range(50)
    ]
    np.testing.assert_array_equal(action, expected)


# Every line.


def enumerate_lines(game, weight, side):
    """`Outcomes` of the whimsical player at the plies of parity `side`, by recursion."""
    if not game.row:
        score = game.score() * (1 if side == 0 else -1)
        return np.array([score > 0, score == 0, score < 0], int)
    own = (len(game.actions) - 1) % 2 == side
    total = np.zeros(3, int)
    for move in [game.whim(weight)] if own else game.moves():
        after = game.copy()
        after.play(move)
        total += enumerate_lines(after, weight, side)
    return total


@pytest.mark.parametrize("same_step", [True, False])
def test_lines_are_those_of_recursion(same_step):
    """A player who looks at three rows, in games of 2 to 8 numbers; batches of 5 are filled up.

    Planted bugs seen: the reward without the sign of the ply; the sides exchanged; the player's
    moves followed by all replies of its own; scores of the filling counted; `observe` left out.
    """
    starts, totals, lengths = [], np.zeros((2, 3), int), set()
    env = make_row_game(same_step=same_step)
    count = matches.make_count_lines(env, spied(make_whim(), starts), batch_size=5)
    for seed in (1, 3, 6, 8, 12):
        starts.clear()
        found = count(jax.random.key(seed), jnp.int32(seed % 2))
        jax.effects_barrier()
        game = Game(starts[0][0])
        expected = [enumerate_lines(game, seed % 2, side) for side in (0, 1)]
        np.testing.assert_array_equal(found, expected)
        totals += expected
        lengths.add(len(game.row))
    assert (totals > 0).all() and max(lengths) == SIZE


def test_too_many_lines_are_refused():
    """Eight numbers: the one who begins has two moves at plies 0, 2, 4 and 6, so 16 lines after 7
    plies. Planted bugs seen: `>=` for `>`; no limit."""
    player, key = make_whim(), jax.random.key(8)
    enough = matches.make_count_lines(ROW_GAME, player, batch_size=5, max_lines=16)
    assert sum(enough(key, jnp.int32(0))[1]) == 16
    too_few = matches.make_count_lines(ROW_GAME, player, batch_size=5, max_lines=15)
    with pytest.raises(ValueError, match="more than 15 lines after 7 plies"):
        too_few(key, jnp.int32(0))


# Tic-tac-toe of pgx, played from a table: boards are those of `test_search_play`.


def board_number(board):
    return sum(mark * 3**cell for cell, mark in enumerate(board))


def make_table_player(choose_move):
    """(`Actor`, params) of the move that `choose_move(board)` names on each board."""
    table = np.zeros(3**9, np.int32)
    for board in positions():
        table[board_number(board)] = choose_move(board)

    def choose(carry, key, env_state, timestep):
        del key, env_state
        own, other = jnp.moveaxis(timestep.observation.reshape(-1, 9, 2), -1, 0)
        return carry[(own + 2 * other) @ 3 ** jnp.arange(9)]

    return actors.without_memory(choose), jnp.asarray(table)


def free(board):
    return [cell for cell in range(9) if board[cell] == 0]


def best_move(board):
    return max(free(board), key=lambda cell: -minimax(after_move(board, cell)))


def worst_move(board):
    return min(free(board), key=lambda cell: -minimax(after_move(board, cell)))


def enumerate_board(board, choose_move, own):
    """`Outcomes` of the one whose turn it is if `own`, else of the other."""
    if is_lost(board):  # By the one to move.
        return np.array([not own, 0, own], int)
    if not free(board):
        return np.array([0, 1, 0])
    moves = [choose_move(board)] if own else free(board)
    return sum(enumerate_board(after_move(board, cell), choose_move, not own) for cell in moves)


@pytest.fixture(scope="module")
def tic_tac_toe():
    """The game of pgx, and the one counting program of table players."""
    pytest.importorskip("pgx")
    env = make_pgx("tic_tac_toe")
    player, _ = make_table_player(best_move)
    return env, player, matches.make_count_lines(env, player)


@pytest.mark.parametrize("move", [best_move, min, worst_move], ids=["best", "lowest", "worst"])
def test_lines_of_tic_tac_toe(tic_tac_toe, move):
    """All lines of table players, each side, as recursion over boards has them.

    Planted bugs seen: lost and won exchanged; the sides exchanged; the reward's sign.
    """
    choose_move = (lambda board: min(free(board))) if move is min else move
    first, second = tic_tac_toe[2](jax.random.key(0), make_table_player(choose_move)[1])
    start = (0,) * 9
    np.testing.assert_array_equal(first, enumerate_board(start, choose_move, True))
    np.testing.assert_array_equal(second, enumerate_board(start, choose_move, False))
    if move is best_move:
        assert first.losses == second.losses == 0 and first.wins and second.draws
    if move is worst_move:
        assert first.losses and second.losses


def test_perfect_play_against_itself_and_random(tic_tac_toe):
    """Two perfect players draw; against random moves the perfect one never loses, with either
    color. Planted bugs seen: the sign of the score; the players exchanged."""
    env, perfect, _ = tic_tac_toe
    params = make_table_player(best_move)[1]
    play = matches.make_match(env, perfect, perfect, num_games=64, max_plies=9)
    assert (play(jax.random.key(0), params, params) == 0).all()
    random = actors.make_random_player(env.spec)
    play = matches.make_match(env, perfect, random, num_games=64, max_plies=9)
    scores = play(jax.random.key(1), params, None)
    assert set(scores) <= {0.0, 1.0} and scores.mean() > 0.8
    play = matches.make_match(env, random, perfect, num_games=64, max_plies=9)
    scores = play(jax.random.key(2), None, params)
    assert set(scores) <= {0.0, -1.0} and scores.mean() < -0.5


def make_game_of_two_moves():
    """The player who begins moves again, and wins with the second move."""
    spec = EnvSpec(observation=ArraySpec((), "int32"),
                   action=ActionSpec.discrete(1), turn_sign=-1,
                   truncates=False, max_steps=2)

    def timestep(state, first):
        won = state == 2
        return TimeStep(observation=state, reward=won.astype(jnp.float32),
                        discount=jnp.where(won | first, 0.0, 1.0), first=first, last=won,
                        invalid_actions=None)

    def reset(key):
        return jnp.int32(0), timestep(jnp.int32(0), jnp.bool_(True))

    def step(state, action, key):
        return state + 1, timestep(state + 1, jnp.bool_(False))

    return auto_reset(Env(spec=spec, reset=reset, step=step), same_step=True)


def test_two_moves_in_a_row_are_refused():
    """Seen before: the game counts -1 for the player who has won it, in matches and in lines."""
    game = make_game_of_two_moves()
    player = actors.make_random_player(game.spec)
    play = matches.make_match(game, player, player, num_games=2, max_plies=5)
    line = r"^a match needs players who alternate strictly, .* above 0 after ply 0: the same player"
    with pytest.raises(ValueError, match=line):
        play(jax.random.key(0), (), ())
    with pytest.raises(ValueError, match=line):
        matches.make_count_lines(game, player, batch_size=2)(jax.random.key(0), ())


def test_a_player_of_vectors_is_refused():
    """Planted bug seen: no check, so that each game steps by some of the numbers."""
    player = actors.without_memory(lambda carry, key, state, row: jnp.zeros((2, 2), jnp.int32))
    play = matches.make_match(ROW_GAME, player, player, num_games=2, max_plies=5)
    with pytest.raises(ValueError, match=r"^an action must be int32\(2,\) \(got int32\(2, 2\)\)"):
        play(jax.random.key(0), (), ())
