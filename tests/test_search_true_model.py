"""Searches by the true rules: against a plain UCT, against minimax, and as a swap in acting."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import acting, types
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.envs.wrappers import auto_reset
from muzero_jax.history import history_init
from muzero_jax.search.true_model import make_true_model_search
from muzero_jax.search.uct import make_uct_search
from oracles import uct_tree
from test_search_play import after_move, minimax, positions
from worlds import CODECS, explore, history_of

# Games written out as tables: state = a number, 0 the start; illegal moves pay a fortune.
FORTUNE = 100.0


def make_table_env(game, num_actions):
    """The game as an `Env` that begins again in the same step."""
    size = len(game.moves)
    next_state = np.full((size + 1, num_actions), size)  # The last state: over.
    reward = np.full((size + 1, num_actions), FORTUNE, np.float32)
    legal = np.zeros((size + 1, num_actions), bool)
    for state, moves in enumerate(game.moves):
        for action, (gained, after) in moves.items():
            next_state[state, action] = size if after is None else after
            reward[state, action], legal[state, action] = gained, True
    next_state, reward, legal = map(jnp.asarray, (next_state, reward, legal))
    spec = types.EnvSpec(observation=types.ArraySpec((), "int32"),
                         action=types.ActionSpec.discrete(num_actions),
                         turn_sign=game.sign, truncates=False, max_steps=100,
                         masked=True)

    def timestep(state, gained, first):
        over = state == size
        return types.TimeStep(observation=state, reward=gained, first=jnp.asarray(first), last=over,
                              discount=jnp.where(over | first, 0.0, float(game.sign)),
                              invalid_actions=~legal[state])

    def reset(key):
        del key
        return jnp.int32(0), timestep(jnp.int32(0), jnp.float32(0), True)

    def step(state, action, key):
        del key
        after = next_state[state, action].astype(jnp.int32)
        return after, timestep(after, reward[state, action], False)

    return auto_reset(types.Env(spec, reset, step), same_step=True)


def run_uct(game, num_actions, batch, **options):
    env = make_table_env(game, num_actions)
    state, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), batch))
    return jax.jit(make_uct_search(env, **options))(jax.random.key(1), state, timestep)


def make_arms(sign):
    """Four arms and an illegal move; a chain of 0-3 forced moves follows each, then the end."""
    gains, moves, root = (0.62, -0.4, 0.35, 0.17), [{}], {}
    for arm, gain in enumerate(gains):
        state = len(moves)
        moves += [{0: (0.1 * k - gain * (k == arm), state + k + 1)} for k in range(arm)]
        moves.append({0: (0.0, None), 3: (0.0, None)})
        root[arm] = (gain, state) if arm % 2 else (-gain, state)
    return uct_tree.Game([root, *moves[1:]], sign)


@pytest.mark.parametrize("sign", [pytest.param(1, marks=pytest.mark.slow), -1])
def test_forced_play_has_the_visits_of_a_plain_uct(sign):
    """Nothing random is left but the order of equals, so that all rows and the recursion agree.

    Planted bugs seen: discount 1 in backup; base 2 for the natural logarithm; the reward on the
    way to a node left out; rollouts that go on past the end; nodes below an end count; illegal
    moves in rollouts, or inside the tree; a rollout seen by the one who moved; no rollout.
    """
    game = make_arms(sign)
    for simulations in (3, 150):
        visits, means = uct_tree.Uct(game, exploration=0.9, random=random.Random(0)).run(
            0, simulations)
        output = run_uct(game, 5, 3, num_simulations=simulations, exploration=0.9)
        counts = np.rint(np.asarray(output.policy) * simulations).astype(int)
        assert (counts.sum(1) == simulations).all() and (counts[:, 4] == 0).all()
        if simulations == 3:  # Three arms, whichever.
            assert (np.sort(counts, axis=1) == [0, 0, 1, 1, 1]).all()
            continue
        expected = [visits[arm] for arm in range(4)] + [0]
        np.testing.assert_array_equal(counts, [expected] * 3)
        assert (output.action == max(visits, key=visits.get)).all()
        value = sum(means[arm] * visits[arm] for arm in visits) / simulations
        np.testing.assert_allclose(output.value, value, atol=1e-5)


def make_random_game(seed, depth=4, num_actions=4):
    """A tree of mixed ends and 1-3 legal moves at a node, rewards also on the way."""
    rng = random.Random(seed)
    moves = []

    def grow(level):
        number = len(moves)
        moves.append({})
        for action in rng.sample(range(num_actions), 3 if level == 0 else rng.randint(1, 3)):
            ends = level == depth or (level > 0 and rng.random() < 0.3)
            gained = rng.uniform(-1, 1) if ends else rng.uniform(-0.3, 0.3)
            moves[number][action] = (gained, None if ends else grow(level + 1))
        return number

    grow(0)
    return uct_tree.Game(moves, sign=-1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_play_outs_agree_with_a_plain_uct_on_average(seed):
    """Mean visits and values of the root's actions over many searches of a game for two.

    Planted bug seen: the lowest of equal actions is taken.
    """
    game, simulations, batch, runs = make_random_game(seed), 40, 4096, 1500
    output = run_uct(game, 4, batch, num_simulations=simulations, exploration=0.7)
    ours = np.asarray(output.policy) * simulations
    plain, values = np.zeros((runs, 4)), np.zeros(runs)
    for run in range(runs):
        search = uct_tree.Uct(game, exploration=0.7, random=random.Random(run))
        visits, means = search.run(0, simulations)
        for action, count in visits.items():
            plain[run, action] = count
            values[run] += count * means[action] / simulations
    legal = sorted(game.moves[0])
    assert (np.delete(ours, legal, axis=1) == 0).all()

    def distance(a, b):
        return abs(a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b) + 1e-12)

    assert distance(ours[:, legal], plain[:, legal]).max() < 4.5
    assert distance(np.asarray(output.value), values) < 4.5


# Tic-tac-toe of pgx, from every position.


@functools.lru_cache
def roots():
    """`(env_state, timestep)` at all of `positions()`, reached by their moves, in that order."""
    moves = {(0,) * 9: ()}
    for board in sorted(positions(), key=lambda board: board.count(0), reverse=True):
        for cell in range(9):
            if board[cell] == 0:
                moves.setdefault(after_move(board, cell), (*moves[board], cell))
    line = np.full((8, len(positions())), -1)
    for i, board in enumerate(positions()):
        line[: len(moves[board]), i] = moves[board]
    env = make_pgx("tic_tac_toe")

    def play(key, line):
        def step(position, move):
            stepped = env.step(position[0], jnp.maximum(move, 0), key)
            return jax.tree.map(lambda a, b: jnp.where(move >= 0, a, b), stepped, position), None

        return jax.lax.scan(step, env.reset(key), line)[0]

    keys = jax.random.split(jax.random.key(0), line.shape[1])
    return jax.jit(jax.vmap(play, in_axes=(0, 1)))(keys, line)


def at(index):
    return jax.tree.map(lambda x: x[index], roots())


def gains_of(chosen, actions):
    """What each move is worth to the one who makes it; an illegal one fails at once."""
    boards = [positions()[i] for i in chosen]
    assert all(board[action] == 0 for board, action in zip(boards, actions))
    return np.array([-minimax(after_move(b, int(a))) for b, a in zip(boards, actions)])


@pytest.mark.slow
def test_uct_misses_no_won_tic_tac_toe():
    """48 of the 2,380 positions that are won by some moves only, at 1,000 simulations.

    In other samples 1 of 480 was missed: a trap that many random games do not see.
    Planted bugs seen: the sign of backup; the least visited move is played.
    """
    sharp = [
        i
        for i, board in enumerate(positions())
        if minimax(board) == 1
        and min(-minimax(after_move(board, c)) for c in range(9) if board[c] == 0) < 1
    ]
    chosen = np.random.default_rng(1).choice(sharp, 48, replace=False)
    search = jax.jit(make_uct_search(make_pgx("tic_tac_toe"), num_simulations=1000))
    output = search(jax.random.key(5), *at(chosen))
    np.testing.assert_array_equal(output.policy > 0, ~at(chosen)[1].invalid_actions)
    assert (gains_of(chosen, output.action) == 1).all()


POWERS = 3 ** np.arange(9)


def make_exact_network():
    """`params[code]` is the value of a position, read from pgx's observation; no prior."""

    def look(params, history):
        planes = history.observation[:, -1].reshape(-1, 9, 2).astype(jnp.int32)
        value = jnp.asarray(params)[(planes[..., 0] + 2 * planes[..., 1]) @ POWERS]
        return types.Prediction(embedding=value, reward_logits=value[:, None],
                                value_logits=value[:, None],
                                policy_logits=jnp.zeros((value.shape[0], 9)))

    return types.Network(lambda key: None, look, None)


@functools.lru_cache
def exact_values():
    values = np.zeros(3**9, np.float32)
    for board in positions():
        values[np.array(board) @ POWERS] = minimax(board)
    return values


def make_search(env, **options):
    return make_true_model_search(env, make_exact_network(), CODECS, num_actions=9, turn_sign=-1,
                                  discount=1.0, num_simulations=32, **options)


def judge(chosen, env, params):
    """`(share of optimal moves, won positions missed)` of the positions chosen."""
    bind = make_search(env)

    @jax.jit
    def play(key, state, timestep):
        history = history_of(timestep.observation)
        return bind(state)(params, key, history, timestep.invalid_actions, explore()).action

    worth = np.array([minimax(positions()[i]) for i in chosen])
    gains = gains_of(chosen, np.asarray(play(jax.random.key(0), *at(np.asarray(chosen)))))
    return np.mean(gains == worth), int(np.sum((worth == 1) & (gains < 1)))


@pytest.mark.slow
def test_all_positions_are_played_well_by_the_true_rules():
    """The gate of tests/test_search_play.py: all 4,520, exact values, 32 simulations."""
    share, missed = judge(range(len(positions())), make_pgx("tic_tac_toe"), exact_values())
    assert share >= 0.998 and missed == 0, (share, missed)


def _changed(change):
    env = make_pgx("tic_tac_toe")

    def step(state, action, key):
        state, row = env.step(state, action, key)
        return state, change(row)

    return env._replace(step=step)


WRONG_RULES = {
    "turns": lambda row: row.replace(discount=-row.discount),
    "leak": lambda row: row.replace(discount=-jnp.ones_like(row.discount)),
}


def values_that_tell():
    """The start of a game is worth 2, so that its leak can be seen."""
    values = exact_values().copy()
    values[0] = 2.0
    return values


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG_RULES)
def test_the_gate_sees_wrong_rules(wrong):
    """The sign of the turn, and the next game leaking into this one."""
    chosen = np.random.default_rng(0).choice(len(positions()), 256, replace=False)
    share, missed = judge(chosen, _changed(WRONG_RULES[wrong]), values_that_tell())
    assert share < 0.97 and missed > 0, (share, missed)


def test_nothing_illegal_and_no_next_game_is_in_the_tree():
    """A move that the mask forbids pays a fortune here, at the root and below it.

    Planted bugs seen: priors inside the tree unmasked; discount -1 at an end; 1 at all moves; the
    reward's sign.
    """
    chosen = np.random.default_rng(0).choice(len(positions()), 256, replace=False)
    env = make_pgx("tic_tac_toe")

    def step(state, action, key):
        after, row = env.step(state, action, key)
        illegal = state.env._x.board[action] >= 0
        return after, row.replace(reward=jnp.where(illegal, FORTUNE, row.reward))

    share, missed = judge(chosen, env._replace(step=step), values_that_tell())
    assert share >= 0.98 and missed == 0, (share, missed)


def test_what_the_tree_cannot_keep_is_refused():
    """Planted bugs seen: neither is looked at."""
    env = make_pgx("tic_tac_toe")
    state, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2))
    longer = history_init(timestep.observation, env.spec.action, 2)
    with pytest.raises(ValueError, match=r"^history_steps must be 1 .* \(got 2\)$"):
        make_search(env)(state)(exact_values(), jax.random.key(0), longer, None, explore())
    with pytest.raises(ValueError, match="^num_actions 9 and turn_sign 1 must be those of the env"):
        make_true_model_search(env, make_exact_network(), CODECS, num_actions=9, turn_sign=1,
                               discount=1.0, num_simulations=2)


# Episodes that are cut. The chain has one action: 0 -> 1 -> 2, rewards 1 and 2, row 2 is `last`.


def make_chain(sign, terminates=False):
    """Shows its state; truncated at 2, or over there."""
    spec = types.EnvSpec(observation=types.ArraySpec((), "int32"),
                         action=types.ActionSpec.discrete(1),
                         turn_sign=sign, truncates=True, max_steps=2)

    def timestep(state, first):
        last = state == 2
        over = first | (last & terminates)
        return types.TimeStep(observation=state, reward=state.astype(jnp.float32), first=first,
                              discount=jnp.where(over, 0.0, float(sign)), last=last,
                              invalid_actions=None)

    def reset(key):
        del key
        return jnp.int32(0), timestep(jnp.int32(0), jnp.bool_(True))

    def step(state, action, key):
        del action, key
        return state + 1, timestep(state + 1, jnp.bool_(False))

    return auto_reset(types.Env(spec, reset, step), same_step=False)


def make_network(value_of, num_actions):
    """Values `value_of(params, observation [B, ...]) -> [B]`, and no prior."""

    def look(params, history):
        value = value_of(params, history.observation[:, -1])
        return types.Prediction(embedding=None, reward_logits=value[:, None],
                                value_logits=value[:, None],
                                policy_logits=jnp.zeros((*value.shape, num_actions)))

    return types.Network(lambda key: None, look, None)


def values_in_chain(num_simulations, sign, **options):
    """The search's values after 0, 1 and 2 steps of the chain, where the network says 9, 3, 7."""
    env = make_chain(sign, **options)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def walk():
        reached = [jax.vmap(env.reset)(keys)]
        for _ in range(2):
            reached.append(jax.vmap(env.step)(reached[-1][0], jnp.zeros(2, jnp.int32), keys))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *reached)

    state, row = walk()
    network = make_network(lambda values, state: values[state], num_actions=1)
    bind = make_true_model_search(env, network, CODECS, num_actions=1, turn_sign=sign,
                                  discount=0.5, num_simulations=num_simulations)
    values = np.array([9.0, 3.0, 7.0] + [FORTUNE] * 6, np.float32)
    search = jax.jit(lambda values, state, history: bind(state)(
        values, jax.random.key(2), history, None, explore()))
    output = search(values, state, history_of(row.observation))
    first, second = np.asarray(output.value).reshape(3, 2).T
    np.testing.assert_array_equal(first, second)
    return first


# By hand, γ = 0.5. From row 2: its value, 7. From row 1: 2 ± 0.5 · 7, however often it is walked.
# From row 0, three simulations: the first ends at row 1, which says 3; the others go on to row 2
# and stay there, so that row 1 counts 2 ± 3.5; then 1 ± 0.5 · (mean of the three).
@pytest.mark.parametrize("sign, at_two, at_one, at_zero", [
    (1, 7.0, 5.5, 1 + 0.5 * (3 + 5.5 + 5.5) / 3),
    pytest.param(-1, 7.0, -1.5, 1 - 0.5 * (3 - 1.5 - 1.5) / 3, marks=pytest.mark.slow),
])
def test_a_truncated_row_is_worth_what_the_network_says(sign, at_two, at_one, at_zero):
    """In the tree and as its root, for one player and for two, on a tree worked out by hand.

    Planted bugs seen: the reset that follows makes an end of it (as it was); γ, or the sign, at
    each step that stays; no γ at any step; the next episode's value; the next episode is walked on.
    """
    for simulations in (1, 3, 4):
        zero, one, two = values_in_chain(simulations, sign)
        assert (one, two) == pytest.approx((at_one, at_two))
        assert simulations != 3 or zero == pytest.approx(at_zero)


@pytest.mark.parametrize("sign", [-1, pytest.param(1, marks=pytest.mark.slow)])
def test_a_terminated_row_is_worth_nothing_where_others_are_truncated(sign):
    """Only its reward counts, also where the walk goes on below it. Planted bug seen: every
    `last` row is worth what the network says."""
    for simulations in (1, 3, 4):
        assert values_in_chain(simulations, sign, terminates=True)[1] == pytest.approx(2.0)


@pytest.mark.slow
def test_cut_cartpole_is_worth_its_rest():
    """A network that says 50 everywhere: 50 at the `last` row, 1 + 0.99 · 50 before it, and so on
    for the rows before, from which every walk but the first steps meets it. Seen before: 0, and
    returns of 3.9 where 52 is right."""
    env = make_cartpole(max_steps=6)
    network = make_network(lambda value, x: jnp.full(x.shape[:1], value), num_actions=2)
    bind = make_true_model_search(env, network, CODECS, num_actions=2, turn_sign=1,
                                  discount=0.99, num_simulations=32)
    rollout = acting.make_rollout(env, bind, num_steps=14, bind_env_state=True)
    state, row = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3))
    _, rows = jax.jit(rollout)(50.0, jax.random.key(1), state, row,
                               acting.init_carry(env.spec, 3, 1), explore(), 0)
    assert np.flatnonzero(rows.last[0]).tolist() == [6, 13] and (rows.discount[:, 6] == 1).all()
    np.testing.assert_allclose(rows.value[:, [6, 13]], 50.0, rtol=1e-6)
    np.testing.assert_allclose(rows.value[:, [5, 12]], 1 + 0.99 * 50.0, rtol=1e-6)
    # With the value of the `last` row, 50, the return from three rows before.
    z = 1 + 0.99 + 0.99**2 + 0.99**3 * 50.0
    assert z == pytest.approx(51.485, abs=1e-3)
    assert (np.abs(rows.value[:, 3] - z) < 1.0).all()
