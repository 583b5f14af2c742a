"""Catch against every game of a small board, played by counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.envs.catch import make_catch
from muzero_jax.envs.check_env import check_env
from worlds import chi_square


def _picture(rows, columns, *places):
    lines = [["."] * columns for _ in range(rows)]
    for row, column in places:
        lines[row][column] = "#"
    return ["".join(line) for line in lines]


def _seen(observation):
    return ["".join("#" if cell else "." for cell in line) for line in observation[..., 0]]


@pytest.mark.parametrize("rows,columns", [(4, 3), (2, 4)])
def test_every_game_of_a_small_board(rows, columns):
    """All moves from all starts, written as pictures; then the first row of the next game.

    Planted bugs seen: left and right exchanged; a paddle that leaves the board (`jnp.clip` left
    out); the reward's sign; an episode one step longer; the reward lost at the reset.
    """
    env = make_catch(rows=rows, columns=columns)
    games = jnp.array(list(itertools.product(range(3), repeat=rows - 1)))

    def play(key, actions):
        state, first = env.reset(key)
        keys = jax.random.split(key, rows - 1)
        _, rest = jax.lax.scan(lambda s, x: env.step(s, *x), state, (actions, keys))
        return first, rest

    play = jax.jit(jax.vmap(jax.vmap(play, (None, 0)), (0, None)))
    starts = set()
    firsts, rests = jax.device_get(play(jax.random.split(jax.random.key(0), 30), games))
    for i, j in np.ndindex(30, len(games)):
        first, rest = jax.tree.map(lambda x: x[i, j], (firsts, rests))  # noqa: B023
        ball, paddle = _seen(first.observation)[0].index("#"), columns // 2
        assert _seen(first.observation) == _picture(rows, columns, (0, ball), (rows - 1, paddle))
        assert (first.reward, first.discount, first.first, first.last) == (0, 0, True, False)
        starts.add(ball)
        for t, action in enumerate(games[j].tolist()):
            paddle = [max(paddle - 1, 0), paddle, min(paddle + 1, columns - 1)][action]
            came = (rest.reward[t], rest.discount[t], rest.first[t], rest.last[t])
            if t < rows - 2:
                assert came == (0, 1, False, False)
                places = (t + 1, ball), (rows - 1, paddle)
                assert _seen(rest.observation[t]) == _picture(rows, columns, *places)
            else:
                assert came == (1 if paddle == ball else -1, 0, True, False)
                bottom = _picture(1, columns, (0, columns // 2))
                assert _seen(rest.observation[t])[1:] == ["." * columns] * (rows - 2) + bottom
                assert _seen(rest.observation[t])[0].count("#") == 1
    assert starts == set(range(columns))


def test_balls_begin_everywhere_alike_and_can_be_caught():
    """The player that goes to the ball scores 1 in each of the 400 games, none of which repeats
    the one before. Planted bugs seen: `columns - 1` starts; the state's key used for every reset.
    """
    env = make_catch()
    assert (env.spec.max_steps, env.spec.observation_shape) == (9, (10, 5, 1))
    count, games = 40, 10

    def step(carry, key):
        state, row = carry
        column = jnp.argmax(row.observation[:-1, :, 0].any(axis=0))
        paddle = jnp.argmax(row.observation[-1, :, 0])
        carry = env.step(state, jnp.sign(column - paddle) + 1, key)
        return carry, (carry[1].reward, carry[1].first, jnp.argmax(carry[1].observation[0, :, 0]))

    def play(key):
        return jax.lax.scan(step, env.reset(key), jax.random.split(key, games * 9))[1]

    rewards, firsts, balls = jax.device_get(
        jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), count))
    )
    assert (firsts.reshape(count, games, 9) == ([False] * 8 + [True])).all()
    assert (rewards == firsts).all()
    starts = np.bincount(balls[firsts], minlength=5)
    assert chi_square(starts, np.full(5, count * games / 5)) < 1


@pytest.mark.parametrize("sizes,line", [
    ({"rows": 1}, "rows 1 must be >= 2"),
    ({"columns": 0}, "columns 0 must be >= 1"),
])  # fmt: skip
def test_bad_sizes(sizes, line):
    """Planted bug seen: the checks left out."""
    with pytest.raises(ValueError, match=f"^{line}$"):
        make_catch(**sizes)


def test_contract():
    """Planted bug seen: discount 0.9."""
    assert check_env(make_catch(), num_steps=20, key=jax.random.key(0)) == 2 * 8
