"""The task of memory against every episode of it, written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.envs.check_env import check_env
from muzero_jax.envs.memory import make_memory
from worlds import chi_square

SHOWN = {"cue 0": (True, False, False), "cue 1": (False, True, False),
         "nothing": (False, False, False), "asked": (False, False, True)}  # fmt: skip


@pytest.mark.parametrize("length", [0, 3])
def test_every_episode(length):
    """All actions after both cues: what is shown, and who is paid.

    Planted bugs seen: the cue shown on every row; asked one row early; an episode one step longer;
    the reward of the first action; the reward lost at the reset.
    """
    env = make_memory(length=length)
    games = jnp.array(list(itertools.product(range(2), repeat=length + 2)))

    def play(key, actions):
        state, first = env.reset(key)
        keys = jax.random.split(key, length + 2)
        _, rest = jax.lax.scan(lambda s, x: env.step(s, *x), state, (actions, keys))
        return first, rest

    play = jax.jit(jax.vmap(jax.vmap(play, (None, 0)), (0, None)))
    firsts, rests = jax.device_get(play(jax.random.split(jax.random.key(0), 8), games))
    cues = set()
    for i, j in np.ndindex(8, len(games)):
        first, rest = jax.tree.map(lambda x: x[i, j], (firsts, rests))  # noqa: B023
        cue = [SHOWN["cue 0"], SHOWN["cue 1"]].index(tuple(first.observation))
        cues.add(cue)
        assert (first.reward, first.discount, first.first, first.last) == (0, 0, True, False)
        *blank, asked, after = [tuple(x) for x in rest.observation]
        assert blank == [SHOWN["nothing"]] * length and asked == SHOWN["asked"]
        assert after in (SHOWN["cue 0"], SHOWN["cue 1"])
        paid = 1 if games[j, -1] == cue else -1
        assert rest.reward.tolist() == [0] * (length + 1) + [paid]
        assert rest.discount.tolist() == [1] * (length + 1) + [0]
        assert rest.first.tolist() == [False] * (length + 1) + [True] and not rest.last.any()
    assert cues == {0, 1}


def test_cues_are_drawn_anew():
    """Both alike, and each without regard to the one before. Planted bugs seen: three cues in
    four are 1; the cue of the episode before kept."""
    env = make_memory(length=0)

    def play(key):
        state, _ = env.reset(key)
        step = lambda s, k: env.step(s, jnp.int32(0), k)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(key, 40))[1].observation

    seen = jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 40)))
    cues = seen[:, 1::2, 1].astype(int)  # The row after each second decision is a new episode's.
    pairs = np.bincount((2 * cues[:, :-1:2] + cues[:, 1::2]).ravel(), minlength=4)
    assert chi_square(pairs, np.full(4, pairs.sum() / 4)) < 1


def test_contract_and_bad_length():
    """Planted bugs seen: `max_steps` of the spec one less; the check of `length` left out."""
    assert make_memory(length=4).spec.max_steps == 6
    assert check_env(make_memory(length=2), num_steps=12, key=jax.random.key(0)) == 3 * 8
    with pytest.raises(ValueError, match="^length -1 must be >= 0$"):
        make_memory(length=-1)
