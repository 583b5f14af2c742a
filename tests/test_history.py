"""The history of a stored window is what acting saw, at every row of every kind of stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax.history import history_from_window, history_init, history_push, random_shift
from muzero_jax.types import ActionSpec, TimeStep, Transition

POISON = 777.0
NUM_ENVS, NUM_ROWS = 3, 160


# Kinds of action; one of the vectors is as long as there are environments, and as S is in a case.
ACTIONS = {
    "one choice": ActionSpec.discrete(5),
    "a real number": ActionSpec.real([-1.0], [1.0]),
    "three real numbers": ActionSpec.real([-1.0] * 3, [1.0] * 3),
    "four choices": ActionSpec.several([5, 5, 5, 5]),
}


def random_stream(style, seed=0, action=ACTIONS["one choice"], observes_dict=False):
    """Rows `[E, T]` as NumPy; episodes of 1 to 7 rows, so that resets are everywhere.

    "next step": a `last` row (its action means nothing), then a `first` row with reward 0.
    "same step": no `last` row; the `first` row carries the reward of the episode before.
    """
    rng = np.random.default_rng(seed)
    shape = (NUM_ENVS, NUM_ROWS)

    def numbers(*inner):
        return rng.normal(size=(*shape, *inner)).astype(np.float32)

    observation = {"a": numbers(2, 3), "b": numbers(), "c": numbers(NUM_ENVS)}
    rows = Transition(
        observation=observation if observes_dict else observation["a"],
        reward=rng.normal(size=shape).astype(np.float32),
        discount=rng.choice([0.0, 1.0, -1.0], shape).astype(np.float32),  # Life losses are no end.
        first=rng.random(shape) < 0.3,
        last=np.zeros(shape, bool),
        invalid_actions=None,
        action=rng.integers(1, 5, (*shape, *action.shape)).astype(action.dtype),
        policy=None,
        value=None,
        explored=None,
        made_at_updates=None,
    )
    rows.first[:, 0] = True
    if style == "next step":
        rows.last[:, :-1] = rows.first[:, 1:]
        rows.action[rows.last] = int(POISON)
        rows.reward[rows.first] = 0.0
    return rows


def histories_of_acting(rows, length, action=ACTIONS["one choice"]):
    """`History` `[T, E, S]` by pushing one time step after another."""

    def step(carry, inputs):
        history, done = carry
        timestep, next_action = inputs
        history = history_push(history, timestep, done)
        return (history, next_action), history

    timesteps = TimeStep(
        observation=rows.observation, reward=rows.reward, discount=rows.discount,
        first=rows.first, last=rows.last, invalid_actions=None)
    by_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (timesteps, rows.action))
    observation = jax.tree.map(
        lambda x: jnp.full((NUM_ENVS, *x.shape[2:]), POISON), rows.observation)
    empty = history_init(observation, action, length)
    stray = jnp.full((NUM_ENVS, *action.shape), int(POISON), action.dtype)
    return jax.lax.scan(step, (empty, stray), by_time)[1]


@pytest.mark.parametrize("style", ["next step", "same step"])
@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize("kind", ACTIONS)
def test_a_window_shows_at_every_row_what_acting_saw(style, length, kind):
    """All rows that a window of F = S + 5 frames can ask for, at all 160 places, bit for bit.

    What lies before the first row of the ring is poison. Other actions than one choice come with
    observations that are a dict.

    Planted: the action of the row itself instead of the one before; the reward of a `first` row
    kept; frames before an episode zero instead of repeated; `last` in place of `first`; a push
    that keeps the actions of the old episode; valid False at the `first` row; a mask of rows laid
    along the components of an action (S = 1, S and E as many as these), in either function.
    """
    action = ACTIONS[kind]
    rows = random_stream(style, action=action, observes_dict=kind != "one choice")
    acting = jax.jit(histories_of_acting, static_argnums=(1, 2))
    seen = jax.tree.map(np.asarray, acting(rows, length, action))
    num_frames = length + 5

    def pad(x):
        before = np.full((NUM_ENVS, length + num_frames, *x.shape[2:]), POISON).astype(x.dtype)
        if x.dtype == bool:
            before[:] = False
        return np.concatenate([before, x], axis=1)

    padded = jax.tree.map(pad, rows)
    wanted_rows = np.arange(length, num_frames + 1)

    @jax.jit
    def windows(start):
        """Histories `[E, len(wanted_rows), S]` of the window whose row 0 is `start`."""
        cut = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, num_frames + 1, axis=1), padded)
        make = jax.vmap(history_from_window, in_axes=(None, None, 0, None))
        return jax.vmap(lambda rows: make(
            jax.tree.map(lambda x: x[1:], rows.observation), rows.replace(observation=None),
            wanted_rows, length))(cut)

    starts = np.arange(NUM_ROWS - 1 + length)
    got = jax.tree.map(np.asarray, jax.lax.map(windows, starts))
    places = starts[:, None] - (length + num_frames) + wanted_rows  # The row each one asks for.
    valid_place = (places >= 0) & (places < NUM_ROWS)
    assert set(places[valid_place]) >= set(range(NUM_ROWS - num_frames))
    start, which = np.nonzero(valid_place)
    for name in ("observation", "action", "reward", "valid"):
        mine, theirs = (jax.tree.leaves(getattr(x, name)) for x in (got, seen))
        for a, b in zip(mine, theirs, strict=True):
            a = a[start, :, which]
            np.testing.assert_array_equal(a, b[places[start, which]], err_msg=name)
            assert not (a == POISON).any()


def test_a_literal_history():
    """S = 3: the first frame is repeated; it came with no action and no reward, and it is valid.

    Planted: the newest frame at index 0; the reward of a `first` row kept.
    """
    observations = jnp.array([10.0, 20.0, 30.0, 40.0])  # Rows 1 to 4.
    rows = Transition(
        observation=None, discount=None, last=None, invalid_actions=None, policy=None, value=None,
        explored=None, made_at_updates=None,
        reward=jnp.array([0.5, 1.5, 2.5, 3.5, 4.5]),
        first=jnp.array([False, False, False, True, False]),
        action=jnp.array([5, 6, 7, 8, 9]),
    )

    def at(row):
        return history_from_window(observations, rows, jnp.int32(row), 3)

    # Row 3 is `first`: the episode before it is out of sight.
    np.testing.assert_array_equal(at(3).observation, [30.0, 30.0, 30.0])
    np.testing.assert_array_equal(at(3).action, [0, 0, 0])
    np.testing.assert_array_equal(at(3).reward, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(at(3).valid, [False, False, True])
    # Action 8, done at row 3, led to row 4, whose reward is 4.5.
    np.testing.assert_array_equal(at(4).observation, [30.0, 30.0, 40.0])
    np.testing.assert_array_equal(at(4).action, [0, 0, 8])
    np.testing.assert_array_equal(at(4).reward, [0.0, 0.0, 4.5])
    np.testing.assert_array_equal(at(4).valid, [False, True, True])

    # The same two rows while acting.
    def timestep(observation, reward, first):
        return TimeStep(observation=jnp.array([observation]), reward=jnp.array([reward]),
                        discount=jnp.ones(1), first=jnp.array([first]), last=jnp.array([False]),
                        invalid_actions=None)

    history = history_init(jnp.zeros((1,)), ACTIONS["one choice"], 3)
    history = history_push(history, timestep(30.0, 3.5, True), jnp.array([7]))
    for name, value in at(3).items():
        np.testing.assert_array_equal(getattr(history, name)[0], value)
    history = history_push(history, timestep(40.0, 4.5, False), jnp.array([8]))
    for name, value in at(4).items():
        np.testing.assert_array_equal(getattr(history, name)[0], value)


def test_an_empty_history_holds_nothing_valid():
    """Frames keep their dtype, so that the carry of acting has one type for ever.

    Planted: the frames made float32.
    """
    history = history_init(jnp.ones((2, 4, 4, 1), jnp.uint8), ACTIONS["one choice"], 3)
    assert history.observation.shape == (2, 3, 4, 4, 1)
    assert history.observation.dtype == jnp.uint8
    assert not history.valid.any()


def image_batch(dtype, shape=(40, 3, 5, 6, 2), seed=0):
    """`[B, F, H, W, C]`; no two pixels of an example are equal."""
    rng = np.random.default_rng(seed)
    per_example = int(np.prod(shape[1:]))
    return np.stack([rng.permutation(per_example) for _ in range(shape[0])]).reshape(
        shape).astype(dtype)


def crops_of(frames, max_shift):
    """Every crop of one example's `[F, H, W, C]`, with its corner, by `np.pad` and slices."""
    pad = (max_shift, max_shift)
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), pad, pad, (0, 0)), mode="edge")
    return {(top, left): padded[:, top:top + height, left:left + width]
            for top in range(2 * max_shift + 1) for left in range(2 * max_shift + 1)}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_random_shift_is_one_of_the_crops(dtype):
    """Each example is one crop of its padded self, the same for all its frames; all are drawn.

    Planted: one shift for the whole batch; padding by zeros, by reflection;
    offsets up to 2·max_shift - 1; one number for both axes; the result made float32.
    """
    images, max_shift = image_batch(dtype), 2
    shift = jax.jit(lambda key, images: random_shift(key, images, max_shift))
    drawn = np.zeros((5, 5), int)
    for seed in range(8):
        got = shift(jax.random.key(seed), images)
        assert got.shape == images.shape and got.dtype == dtype
        for mine, example in zip(np.asarray(got), images, strict=True):
            corners = [corner for corner, crop in crops_of(example, max_shift).items()
                       if np.array_equal(mine, crop)]
            assert len(corners) == 1
            drawn[corners[0]] += 1
    # 320 draws from 25 corners, 12.8 each: chi-squared with 24 degrees passes 52 once in 1,000.
    assert drawn.min() > 0
    assert np.sum((drawn - 12.8) ** 2 / 12.8) < 52, drawn


def test_random_shift_by_nothing_is_nothing():
    """And the same key shifts alike."""
    images = image_batch("uint8", (4, 1, 3, 3, 1))
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, 0), images)
    once, again = (random_shift(jax.random.key(1), images, 4) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("shape, max_shift", [((4, 2, 9), 4), ((4, 2, 9, 9, 3), -1)])
def test_random_shift_refuses_what_it_cannot_shift(shape, max_shift):
    """Planted: the check left out (vectors then fail to unpack, in the middle of a trace)."""
    with pytest.raises(ValueError, match=r"images \(H, W, C\) and max_shift >= 0"):
        random_shift(jax.random.key(0), jnp.zeros(shape), max_shift)


@pytest.mark.parametrize("action", [jnp.zeros((3, 3), jnp.int32), jnp.zeros((3, 1), jnp.int32),
                                    jnp.zeros(3)], ids=["S = E", "one long", "continuous"])
def test_an_action_of_another_shape_or_kind_is_refused(action):
    """A vector as long as the history or the batch, or a history of one row: broadcasting took it
    for the actions of other rows without a word. Planted bugs seen: no check (as it was); the rank
    alone looked at; the dtype alone."""
    line = r"^an action must be int32\(3,\) \(got (int|float)32\(.*\)\)"
    flags, numbers = jnp.zeros(3, bool), jnp.zeros(3)
    timestep = TimeStep(observation=numbers, reward=numbers, discount=numbers, first=flags,
                        last=flags, invalid_actions=None)
    for steps in (1, 3):
        with pytest.raises(ValueError, match=line):
            history_push(history_init(numbers, ACTIONS["one choice"], steps), timestep, action)
    real = ACTIONS["a real number"]
    with pytest.raises(ValueError, match=r"^an action must be float32\(3, 1\) \(got int32\(3, 1\)"):
        history_push(history_init(numbers, real, 2), timestep, jnp.zeros((3, 1), jnp.int32))
