"""The ring against a Python list per environment, and its draws against their probabilities."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import replay as replay_lib
from muzero_jax.learner import importance_weights
from muzero_jax.targets import make_initial_priority
from muzero_jax.types import Transition, Window

GAMMA, EXPONENT, FLOOR = 0.9, 0.6, 0.01
NUM_ENVS, NUM_ACTIONS = 4, 3
SCALARS = {"reward": np.float32, "discount": np.float32, "first": bool, "last": bool,
           "value": np.float32, "explored": bool}


@dataclasses.dataclass
class Row:
    """One row of the model; `number` is unique in its environment and counts from 0."""

    env: int
    number: int
    reward: float
    discount: float
    first: bool
    last: bool
    value: float
    explored: bool = False
    weight: float = 0.0
    poison: tuple[str, float] | None = None  # A field, and what it holds that is not finite.

    @property
    def tag(self):
        return 1000 * (self.env + 1) + self.number


@dataclasses.dataclass(frozen=True)
class Sizes:
    """S, K, n, T and how many rows one `add` brings."""

    history: int
    unroll: int
    bootstrap: int
    ring: int
    chunks: tuple[int, ...]
    poisoned: float = 0.0  # Share of rows with something that is not finite.

    @property
    def future(self):
        return self.unroll + self.bootstrap


class Model:
    """What the ring should do, written with lists; slot of a row = its number modulo T."""

    def __init__(self, sizes, rng):
        self.sizes, self.rng = sizes, rng
        self.envs = [[] for _ in range(NUM_ENVS)]

    def new_row(self, env):
        """Both reset styles, life losses, truncations; a `first` row after whatever ended."""
        rows, rng = self.envs[env], self.rng
        after_last = not rows or rows[-1].last
        first = after_last or rng.random() < 0.1
        last = not first and rng.random() < 0.15
        dead = first or rng.random() < (0.5 if last else 0.1)
        poison = None
        if rng.random() < self.sizes.poisoned:
            name = str(rng.choice(["reward", "value", "policy", "observation", "discount"]))
            poison = name, float(rng.choice([np.nan, np.inf, -np.inf, 2e18]))
        return Row(env, len(rows), float(np.float32(rng.normal())), 0.0 if dead else 1.0, first,
                   last, float(np.float32(rng.normal())), not last and rng.random() < 0.2,
                   poison=poison)

    def add(self, envs, count):
        """Returns the new rows `[e][t]`; rows which get their last newer row get their weight."""
        new = []
        for env in envs:
            for _ in range(count):
                self.envs[env].append(self.new_row(env))
                matured = len(self.envs[env]) - 1 - self.sizes.future
                if matured >= 0:
                    self.set_priority(env, matured, self.initial_priority(env, matured))
            new.append(self.envs[env][-count:])
        return new

    def initial_priority(self, env, number):
        """|v - z| by walking forward until an end or a random move, but one step at least."""
        rows, total, factor = self.envs[env], 0.0, 1.0
        row = rows[number]
        for step in range(1, self.sizes.bootstrap + 1):
            if step > 1 and (rows[number].explored or row.explored or row.last):
                break
            row = rows[number + step]
            total += factor * np.clip(row.reward, -1.0, 1.0)
            factor *= GAMMA * row.discount
        return abs(rows[number].value - (total + factor * row.value))

    def set_priority(self, env, number, priority):
        usable = 0 <= priority <= 1e18
        self.envs[env][number].weight = (priority + FLOOR) ** EXPONENT if usable else 0.0

    def is_poisoned(self, row):
        """Whether a row is not finite anywhere in the window of this root."""
        begin, end = row.number - self.sizes.history, row.number + self.sizes.future
        return any(x.poison for x in self.envs[row.env][max(begin, 0) : end + 1])

    def drawable(self):
        """All rows that may be roots. Before its first row an environment has T virtual ones."""
        sizes = self.sizes
        return [
            row
            for rows in self.envs
            for row in rows[max(0, len(rows) - sizes.ring) :]
            if not row.last
            and row.number + sizes.future < len(rows)
            and row.number - sizes.history >= len(rows) - sizes.ring
            and not self.is_poisoned(row)
            and row.weight > 0
        ]

    def weights(self):
        out = np.zeros((NUM_ENVS, self.sizes.ring))
        for row in self.drawable():
            out[row.env, row.number % self.sizes.ring] = row.weight
        return out


def transition_of(rows):
    """`Transition` `[e, t]` of model rows; every field that can holds the row's tag."""
    tags = np.array([[row.tag for row in env] for env in rows], np.int32)
    columns = {name: np.array([[getattr(row, name) for row in env] for env in rows], dtype)
               for name, dtype in SCALARS.items()}
    made = Transition(
        observation=(tags[..., None, None] * 10 + np.arange(6).reshape(2, 3)).astype(np.float32),
        invalid_actions=(tags[..., None] + np.arange(NUM_ACTIONS)) % 2 == 0,
        action=tags % NUM_ACTIONS,
        policy={"weights": np.repeat(tags[..., None].astype(np.float32), NUM_ACTIONS, -1)},
        made_at_updates=tags,
        **columns,
    )
    for place, row in np.ndenumerate(np.array(rows, object)):
        if row.poison:
            name, number = row.poison
            leaf, = jax.tree.leaves(getattr(made, name))
            leaf[place if leaf.ndim == 2 else (*place, 1)] = number
    return made


EXAMPLE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype),
                       transition_of([[Row(0, 0, 0.0, 0.0, True, False, 0.0)]]))


def make_ring(sizes, example=EXAMPLE, num_envs=NUM_ENVS, exponent=EXPONENT, priority=None):
    priority = priority or make_initial_priority(
        bootstrap_steps=sizes.bootstrap, discount=GAMMA,
        reward_transform=lambda x: jnp.clip(x, -1.0, 1.0))
    return replay_lib.make_replay(
        example, priority, num_envs=num_envs, rows_per_env=sizes.ring,
        window=Window(sizes.history, sizes.future - sizes.bootstrap, sizes.bootstrap),
        observed_steps=sizes.history + sizes.future,
        priority_exponent=exponent, priority_floor=FLOOR)


def assert_sample(sample, model):
    """Windows hold exactly the right rows, at their true probability."""
    sizes, total = model.sizes, model.weights().sum()
    drawable = {(row.env, row.number % sizes.ring): row for row in model.drawable()}
    assert sample.num_drawable == len(drawable)
    np.testing.assert_allclose(sample.total_weight, total, rtol=1e-5)
    if not drawable:
        np.testing.assert_array_equal(sample.probability, 0.0)
        return
    for b, index in enumerate(map(tuple, sample.index)):
        root = drawable[index]
        np.testing.assert_allclose(sample.probability[b], root.weight / total, rtol=1e-5)
        assert_window(sample, b, root, model)


def assert_window(sample, b, root, model):
    """What lies before row 0 of an environment is never read."""
    begin = max(root.number - model.sizes.history, 0)
    rows = model.envs[root.env][begin : root.number + model.sizes.future + 1]
    want = jax.tree.map(lambda x: x[0], transition_of([rows]))
    got = jax.tree.map(lambda x: x[b, -len(rows) :], sample.rows)
    equal = jax.tree.map(np.array_equal, got, want.replace(observation=None))
    assert all(jax.tree.leaves(equal)), equal
    frames = min(len(rows), model.sizes.history + model.sizes.future)
    assert np.array_equal(sample.observations[b, -frames:], want.observation[-frames:])


RINGS = {
    "one frame": Sizes(history=1, unroll=2, bootstrap=3, ring=17, chunks=(1, 3)),
    "four frames": Sizes(history=4, unroll=1, bootstrap=2, ring=16, chunks=(1, 3)),
    "shortest": Sizes(history=2, unroll=1, bootstrap=1, ring=6, chunks=(1,)),
    "one frame, not finite": Sizes(history=1, unroll=2, bootstrap=3, ring=17, chunks=(1, 3),
                                   poisoned=0.04),
    "four frames, not finite": Sizes(history=4, unroll=1, bootstrap=2, ring=24, chunks=(1, 7),
                                     poisoned=0.04),
}


# Those whose rows are all finite are slow: the same operations are tested on the others, which hold
# rows that are not as well.
_LONG = ("one frame", "four frames", "four frames, not finite")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in _LONG else name
    for name in RINGS])
def test_equals_lists_of_rows_under_random_operations(name):
    """600 adds (of two groups at different times, or all), draws, new priorities and truncations.

    After each of them every weight, and so the set of drawable rows, is the model's. Where rows
    hold what is not finite, no window with one is drawn, nothing of the kind is in the ring, and a
    priority of the kind takes its row out.

    Planted: the S rows after the write head left drawable; their number off by one, both ways; a
    row drawable one row too early; `last` rows drawable; new priorities for rows that are not
    drawable; the last duplicate's priority kept instead of the largest; one cursor for all
    environments; truncating the row at the write head; the window shifted by one; the initial
    priority without the reward transform, or through random moves. Of what is not finite: windows
    that begin one row too late, or end one too early; a priority that is NaN written.
    """
    sizes = RINGS[name]
    rng = np.random.default_rng(7)
    model = Model(sizes, rng)
    ring = make_ring(sizes)
    add, update, truncate = map(
        jax.jit, (ring.add, ring.update_priorities, ring.truncate_episodes))
    sample = jax.jit(ring.sample, static_argnums=2)
    state = jax.jit(ring.init)()
    for step in range(600):
        choice = rng.choice(["add", "sample", "truncate"], p=[0.6, 0.36, 0.04])
        if choice == "add":
            envs = [[0, 1], [2, 3], [2, 3], [0, 1, 2, 3]][rng.integers(4)]
            rows = model.add(envs, int(rng.choice(sizes.chunks)))
            state = add(state, np.int32(envs[0]), transition_of(rows))
        elif choice == "truncate":
            if all(model.envs):
                state = truncate(state)
                for rows in model.envs:
                    rows[-1].last = True
        else:
            drawn = jax.tree.map(np.asarray, sample(state, jax.random.key(step), 24))
            assert_sample(drawn, model)
            priority = rng.exponential(size=24).astype(np.float32)
            spoilt = rng.random(24) < sizes.poisoned
            priority[spoilt] = rng.choice([np.nan, np.inf, -1.0, 2e18], spoilt.sum())
            # Some of these places are not drawable, and some are drawn twice.
            index = np.where(rng.random((24, 1)) < 0.7, drawn.index, rng.integers(
                0, [NUM_ENVS, sizes.ring], (24, 2))).astype(np.int32)
            state = update(state, index, priority)
            largest = {}
            for place, new in zip(map(tuple, index), priority):
                # Where none of a row's can be used it becomes -1: it is not drawn any more.
                new = new if 0 <= new <= 1e18 else -1.0
                largest[place] = max(new, largest.get(place, -1.0))
            for row in model.drawable():
                place = (row.env, row.number % sizes.ring)
                if place in largest:
                    model.set_priority(row.env, row.number, largest[place])
        np.testing.assert_allclose(state.weights, model.weights(), rtol=2e-5, atol=1e-7,
                                   err_msg=f"{step} {choice}")
        lengths = np.array([len(rows) for rows in model.envs])
        np.testing.assert_array_equal(state.cursor, lengths % sizes.ring)
        np.testing.assert_array_equal(state.filled, np.minimum(lengths, sizes.ring))
        for x in (state.rows.reward, state.rows.value, state.rows.discount, state.weights,
                  state.rows.observation, state.rows.policy["weights"]):
            assert np.isfinite(x).all()
    assert min(lengths) > 10 * sizes.ring  # Far past wrap-around.


def filled_ring(sizes, seed=0, **kwargs):
    """A ring of `sizes.ring` + 5 rows each, its state and its model."""
    model = Model(sizes, np.random.default_rng(seed))
    ring = make_ring(sizes, **kwargs)
    add = jax.jit(ring.add)
    state = ring.init()
    for _ in range(sizes.ring + 5):
        state = add(state, 0, transition_of(model.add(range(NUM_ENVS), 1)))
    return ring, state, model


def test_an_add_changes_its_own_slots_and_nothing_else():
    """Rows of other slots and of other environments keep every bit, also when donated.

    Planted: the slots of the group counted from environment 0.
    """
    ring, state, model = filled_ring(RINGS["one frame"])
    before = jax.tree.map(np.array, state)
    new = transition_of(model.add([2, 3], 3))
    kept = jax.jit(ring.add)(state, 2, new)
    jax.tree.map(np.testing.assert_array_equal, before, state)
    donated = jax.jit(ring.add, donate_argnums=0)(state, 2, new)
    jax.tree.map(np.testing.assert_array_equal, kept, donated)
    written = np.zeros((NUM_ENVS, 17), bool)
    written[2:, 5:8] = True  # 22 rows lie in 17 slots.
    for old, now in zip(jax.tree.leaves(before.rows), jax.tree.leaves(kept.rows)):
        np.testing.assert_array_equal(old[~written], np.asarray(now)[~written])
    tags = np.asarray(kept.rows.made_at_updates)
    np.testing.assert_array_equal(tags[2:, 5:8], new.made_at_updates)
    # Weights change there, in the S = 1 slot after, and in the 3 slots of rows that matured.
    touched = written.copy()
    touched[2:, [8, 0, 1, 2]] = True
    np.testing.assert_array_equal(before.weights[~touched], np.asarray(kept.weights)[~touched])
    np.testing.assert_array_equal(before.cursor[:2], kept.cursor[:2])


def test_a_row_drawn_twice_gets_its_largest_priority():
    """Whatever the order of the duplicates; and a place out of range writes nothing.

    Planted: a plain scatter, which keeps the last.
    """
    ring, state, model = filled_ring(RINGS["four frames"])
    env, slot = np.argwhere(model.weights() > 0)[0]
    nobody = np.iinfo(np.int32).max
    index = np.array([[env, slot]] * 3 + [[nobody, nobody]], np.int32)
    for priority in ([3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]):
        after = ring.update_priorities(state, index, jnp.array(priority + [9.0]))
        want = np.array(state.weights)
        want[env, slot] = (3.0 + FLOOR) ** EXPONENT
        np.testing.assert_allclose(after.weights, want, rtol=1e-6)
    lower = ring.update_priorities(state, index[:1], jnp.array([0.0]))
    np.testing.assert_allclose(lower.weights[env, slot], FLOOR**EXPONENT, rtol=1e-6)


def count_draws(weights, num_draws, chunk, seed=0):
    """How often each place of `weights` `[E, T]` is drawn, and the largest error of P."""
    num_envs, ring = weights.shape
    exact = weights.astype(np.float64) / weights.sum(dtype=np.float64)

    def one(counts, key):
        env, slot, probability = replay_lib.draw(jnp.asarray(weights), key, chunk)
        outside = jnp.sum((env < 0) | (env >= num_envs) | (slot < 0) | (slot >= ring))
        error = jnp.max(jnp.abs(probability / jnp.asarray(exact, jnp.float32)[env, slot] - 1.0))
        return counts.at[env, slot].add(1), (outside, error)

    keys = jax.random.split(jax.random.key(seed), num_draws // chunk)
    scan = jax.jit(functools.partial(jax.lax.scan, one), compiler_options=fakes.OPTIMIZED)
    counts, (outside, error) = scan(jnp.zeros(weights.shape, jnp.int32), keys)
    assert outside.sum() == 0
    assert error.max() < 1e-4
    return np.asarray(counts, np.float64), exact


def check_draws(shape, num_draws, chunk, low, high):
    rng = np.random.default_rng(3)
    weights = (rng.random(shape) ** 4 + 0.001).astype(np.float32)
    never = rng.random(shape) < 0.1
    never[0, :50] = never[-1, -50:] = True
    weights[never] = 0.0
    counts, exact = count_draws(weights, num_draws, chunk)
    assert counts[never].sum() == 0
    assert counts.sum() == num_draws
    expected = exact[~never] * num_draws
    chi2 = np.sum((counts[~never] - expected) ** 2 / expected)
    assert low <= chi2 / (expected.size - 1) <= high


def test_draws_have_their_probabilities_at_1e5_rows():
    """χ²/df of 1e6 draws (its own spread is 0.008); weight 0 and places out of range: 0 draws.

    Planted: a single cumulative sum; one uniform number for block and row; blocks chosen
    uniformly; the probability of the row within its block.
    """
    check_draws((100, 1000), 1_000_000, 20_000, 0.97, 1.03)


@pytest.mark.slow
def test_draws_have_their_probabilities_at_1e6_rows():
    """4M draws; the spread of χ²/df is 0.0035. A flat float32 cumulative sum gives 1.165.

    Planted: one uniform number for block and row.
    """
    check_draws((64, 15_625), 4_000_000, 8_000, 0.99, 1.01)


@pytest.mark.parametrize("shape", [
    (1, 7), (1, 1), *(pytest.param(x, marks=pytest.mark.slow) for x in ((3, 5), (2, 128)))])
def test_small_and_odd_rings_are_drawn_right(shape):
    """Where the blocks do not divide the rows, and where a single row has a weight.

    Planted: blocks rounded down, which loses the last rows.
    """
    weights = np.arange(1.0, 1.0 + np.prod(shape), dtype=np.float32).reshape(shape)
    counts, exact = count_draws(weights, 200_000, 50_000)
    spread = np.sqrt(exact * (1 - exact) * 200_000)
    assert (np.abs(counts - exact * 200_000) <= 5 * spread).all()
    alone = np.zeros(shape, np.float32)
    alone[-1, -1] = 1e-20
    draw = jax.jit(replay_lib.draw, static_argnums=2)
    env, slot, probability = draw(alone, jax.random.key(0), 64)
    assert (np.asarray(env) == shape[0] - 1).all() and (np.asarray(slot) == shape[1] - 1).all()
    np.testing.assert_allclose(probability, 1.0, rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, -1.0])
def test_weights_that_are_not_finite_are_never_drawn(poison):
    """In whichever block they lie, the others keep their shares; where there are no others,
    nothing is drawable. Planted bugs seen: as it was; the sums of blocks cleaned and the rows in
    them not."""
    weights = np.arange(1.0, 13.0, dtype=np.float32).reshape(3, 4)
    never = np.zeros((3, 4), bool)
    never[0, 1] = never[2, 0] = never[2, 3] = True
    weights[never] = poison
    draw = jax.jit(replay_lib.draw, static_argnums=2)
    env, slot, probability = draw(jnp.asarray(weights), jax.random.key(1), 20_000)
    counts = np.zeros((3, 4))
    np.add.at(counts, (env, slot), 1)
    exact = np.where(never, 0, weights) / weights[~never].sum()
    assert counts[never].sum() == 0
    assert (np.abs(counts - 20_000 * exact) <= 5 * np.sqrt(20_000 * exact)).all()
    np.testing.assert_allclose(probability, exact[env, slot], rtol=1e-6)
    *_, probability = draw(jnp.full((3, 4), poison), jax.random.key(1), 20_000)
    assert not probability.any()


def test_no_uniform_number_draws_a_weight_of_zero():
    """Not 0, not the largest below 1, and not where the weights' edges lie.

    Planted: `side="left"`; the last edge not guarded.
    """
    weights = jnp.array([0.0, 0.0, 1.0, 0.0, 3.0, 0.0])
    below_one = np.float32(1.0 - 2.0**-24)
    drawn = replay_lib.inverse_cdf(weights, jnp.array([0.0, 0.2499999, 0.25, 0.5, below_one, 1.0]))
    np.testing.assert_array_equal(drawn, [2, 2, 4, 4, 4, 4])


def test_importance_weights_undo_the_priorities():
    """Σ w f / B over prioritised draws estimates the plain mean of f over the drawable rows.

    Planted: `num_drawable` counts all rows; the probability of the row within its block.
    """
    sizes = Sizes(history=1, unroll=2, bootstrap=3, ring=200, chunks=(1,))
    ring, state, model = filled_ring(sizes, exponent=1.0)
    sample = jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(5), 200_000)
    weights = np.asarray(importance_weights(sample, 1.0))
    f = np.asarray(sample.rows.value)[:, sizes.history]
    rows = model.drawable()
    for got, want in (weights, 1.0), (weights * f, np.mean([row.value for row in rows])):
        assert abs(got.mean() - want) < 5 * got.std() / np.sqrt(got.size)
    assert abs(f.mean() - np.mean([row.value for row in rows])) > 0.02  # The draws are not plain.


def test_exponent_zero_is_uniform():
    """χ² over the drawable rows with p > 0.001, whatever the priorities were.

    Planted: the exponent ignored.
    """
    sizes = Sizes(history=1, unroll=2, bootstrap=3, ring=50, chunks=(1,))
    ring, state, model = filled_ring(sizes, exponent=0.0)
    places = np.argwhere(model.weights() > 0).astype(np.int32)
    priority = np.random.default_rng(0).exponential(size=len(places)) * 100
    state = ring.update_priorities(state, places, jnp.float32(priority))
    sample = jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(1), 100_000)
    np.testing.assert_allclose(sample.probability, 1.0 / len(places), rtol=1e-5)
    counts = np.zeros((NUM_ENVS, sizes.ring))
    np.add.at(counts, tuple(np.asarray(sample.index).T), 1)
    expected = 100_000 / len(places)
    observed = counts[tuple(places.T)]
    assert observed.sum() == 100_000
    df = len(places) - 1
    chi2 = np.sum((observed - expected) ** 2) / expected
    assert chi2 < df + 3.09 * np.sqrt(2 * df) + 3.0  # 99.9 % by the normal approximation, and more.


def test_one_trace_for_all_adds_and_one_for_all_samples():
    """40 adds of two groups and 10 draws compile once each.

    Planted: a counter that an add returns with another dtype.
    """
    sizes = RINGS["one frame"]
    model = Model(sizes, np.random.default_rng(0))
    ring = make_ring(sizes)
    chex.clear_trace_counter()
    add = jax.jit(chex.assert_max_traces(lambda *args: ring.add(*args), n=1), donate_argnums=0)
    sample = jax.jit(
        chex.assert_max_traces(lambda state, key: ring.sample(state, key, 8), n=1))
    update = jax.jit(
        chex.assert_max_traces(lambda *args: ring.update_priorities(*args), n=1), donate_argnums=0)
    state = ring.init()
    for step in range(40):
        envs = [[0, 1], [2, 3]][step % 2]
        state = add(state, np.int32(envs[0]), transition_of(model.add(envs, 1)))
        if step % 4 == 0:
            drawn = sample(state, jax.random.key(step))
            state = update(state, drawn.index, jnp.ones(8))
    np.testing.assert_array_equal(state.filled, 17)
    chex.clear_trace_counter()


def test_images_are_stored_flat_and_come_back():
    """`[E, T, H·W·C]` uint8 in the ring, `[B, F, H, W, C]` in the sample.

    Planted: frames restored as `(W, H, C)`.
    """
    sizes = Sizes(history=2, unroll=1, bootstrap=1, ring=12, chunks=(1,))
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 4, 3, 2)).astype(np.uint8)
    rows = Transition(
        observation=images, reward=np.zeros((2, 9), np.float32),
        discount=np.ones((2, 9), np.float32), first=np.arange(9)[None] == np.zeros((2, 1)),
        last=np.zeros((2, 9), bool), invalid_actions=None, action=np.zeros((2, 9), np.int32),
        policy=np.ones((2, 9, 3), np.float16), value=np.zeros((2, 9), np.float32),
        explored=np.zeros((2, 9), bool),
        made_at_updates=np.zeros((2, 9), np.int32))
    example = jax.tree.map(lambda x: x[0, 0], rows)
    ring = make_ring(sizes, example, num_envs=2)
    add, state = jax.jit(ring.add), ring.init()
    for row in range(9):
        state = add(state, 0, jax.tree.map(functools.partial(np.take, indices=[row], axis=1), rows))
    assert state.rows.observation.shape == (2, 12, 24)
    assert state.rows.observation.dtype == jnp.uint8
    assert state.rows.policy.dtype == jnp.float16
    sample = jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(0), 16)
    assert sample.rows.observation is None and sample.rows.policy.shape == (16, 5, 3)
    assert sample.observations.shape == (16, 4, 4, 3, 2)
    for (env, slot), seen in zip(np.asarray(sample.index), np.asarray(sample.observations)):
        frames = np.arange(slot - 1, slot + 3)
        there = frames >= 0
        np.testing.assert_array_equal(seen[there], images[env, frames[there]])


@pytest.mark.parametrize("steps", [3, 12, 19], ids=["half full", "full", "wrapped"])
def test_newest_updates_are_those_of_the_newest_row(steps):
    """One row at a time of two environments, the second 100 updates behind; row t was made at 7t.
    Planted bugs seen: of the oldest row; of the row before the newest; of the environment that is
    behind (the least of the two)."""
    sizes = Sizes(history=1, unroll=1, bootstrap=1, ring=12, chunks=(1,))
    ring = make_ring(sizes, num_envs=2)
    add, sample = jax.jit(ring.add), jax.jit(ring.sample, static_argnums=2)
    state = ring.init()
    for step in range(steps):
        made = np.array([[7 * step], [7 * step - 100]], np.int32)
        rows = [[Row(env, step, 0.0, 1.0, step == 0, False, 0.0)] for env in range(2)]
        state = add(state, 0, transition_of(rows).replace(made_at_updates=made))
        newest = sample(state, jax.random.key(0), 2).newest_updates
        assert newest == 7 * step and newest.dtype == jnp.int32


def test_nothing_is_drawable_at_first():
    """An empty ring draws row 0 with probability 0, which callers can see.

    Planted: 0/0 in the probability.
    """
    ring = make_ring(RINGS["one frame"])
    sample = jax.jit(ring.sample, static_argnums=2)(ring.init(), jax.random.key(0), 4)
    np.testing.assert_array_equal(sample.index, 0)
    np.testing.assert_array_equal(sample.probability, 0.0)
    assert sample.num_drawable == 0


def test_bad_sizes_are_refused():
    """A window of 1 + 1 + 5 rows needs a ring of 8, and room for what one add brings.

    Planted: `rows_per_env < window`, which lets a window wrap onto its own root.
    """
    sizes = RINGS["one frame"]
    make_ring(dataclasses.replace(sizes, ring=8))
    with pytest.raises(ValueError, match="^rows_per_env must be >= 8, for 1 history"):
        make_ring(dataclasses.replace(sizes, ring=7))
    ring = make_ring(sizes)
    model = Model(sizes, np.random.default_rng(0))
    jax.eval_shape(ring.add, ring.init(), 0, transition_of(model.add(range(NUM_ENVS), 10)))
    with pytest.raises(ValueError, match="cannot add 11 rows"):
        ring.add(ring.init(), 0, transition_of(model.add(range(NUM_ENVS), 11)))
    with pytest.raises(ValueError, match="priority_floor"):
        replay_lib.make_replay(
            EXAMPLE, lambda rows: rows.value, num_envs=1, rows_per_env=20,
            window=Window(1, 1, 1), observed_steps=1, priority_exponent=1.0, priority_floor=0.0)
