"""Returns with literal values worked out by hand, and rlax's published constants."""

import jax
import numpy as np
import pytest

from muzero_jax import returns


def rows_of(*values):
    return np.array(values, np.float32)


def ends(length, *where):
    return np.isin(np.arange(length), where)


def n_step(rewards, discounts, last, values, *, n, gamma, explored=None):
    """Returns of all rows that have n newer ones, bootstrapped from `values` `[L]`."""
    explored = np.zeros_like(last) if explored is None else explored
    rewards, discounts, values = (np.asarray(x, np.float32) for x in (rewards, discounts, values))
    offsets = jax.jit(returns.bootstrap_offsets, static_argnums=2)(last, explored, n)
    bootstraps = values[np.arange(len(offsets)) + np.asarray(offsets)]
    compute = jax.jit(lambda *args: returns.n_step_returns(*args, n=n, gamma=gamma))
    return np.asarray(compute(rewards, discounts, offsets, bootstraps))


def test_bootstrap_offsets():
    """m_j = n, or the way to the first newer `last` row, which row j itself is not.

    Row 2 is last: from row 0 it is 2 away, from row 1 one; row 2 looks on to row 6. n = 3.
    """
    last, never = ends(10, 2, 6), ends(10)
    offsets = returns.bootstrap_offsets
    np.testing.assert_array_equal(offsets(last, never, 3), [2, 1, 3, 3, 2, 1, 3])
    np.testing.assert_array_equal(offsets(last, never, 1), [1] * 9)
    np.testing.assert_array_equal(offsets(last, never, 5), [2, 1, 4, 3, 2])
    np.testing.assert_array_equal(offsets(ends(6), ends(6), 4), [4, 4])
    assert offsets(last, never, 3).dtype == np.int32


def test_bootstrap_offsets_of_explored_rows():
    """An explored row stops the rows before it, and itself at once.

    Rows 1 and 5 are explored, 2 and 6 are last; n = 3, then n = 1 (rows 1 and 5 stop early).
    Planted bugs seen: row j itself not looked at; explored rows looked for one row late.
    """
    last, explored = ends(10, 2, 6), ends(10, 1, 5)
    offsets = returns.bootstrap_offsets
    np.testing.assert_array_equal(offsets(last, explored, 3), [1, 0, 3, 2, 1, 0, 3])
    np.testing.assert_array_equal(offsets(last, explored, 1), [1, 0, 1, 1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(offsets(ends(6), ends(6, 4), 4), [4, 3])
    np.testing.assert_array_equal(offsets(ends(6), ends(6, 5), 4), [4, 4])


def test_explored_rows_bootstrap():
    """Row 2 is explored and worth 40: z0 = 1 + 0.9 * 2 + 0.81 * 40 = 35.2, z1 = 2 + 36 = 38,
    z2 = 40; the return of row 3 is its own: 100 + 0.9 * 100 + 0.81 * 1000 = 1000."""
    rewards, values = [9, 1, 2, 0, 100, 100], [9, 9, 40, 1000, 1000, 1000]
    got = n_step(rewards, [1] * 6, ends(6), values, n=2, gamma=0.9, explored=ends(6, 2))
    np.testing.assert_allclose(got, [35.2, 38.0, 40.0, 1000.0], rtol=1e-6)


def test_without_explored_rows_nothing_changes_bit_for_bit():
    """Where no move was random, m >= 1 and z is the plain sum of float32 numbers, as ever.

    Planted bug seen: a bootstrap added at m after the rewards, in another order.
    """
    rng = np.random.default_rng(1)
    length, n, gamma = 200, 5, np.float32(0.97)
    rewards, values = rng.normal(size=(2, length)).astype(np.float32)
    discounts = rng.choice(np.float32([-1, 0, 1]), p=[0.4, 0.2, 0.4], size=length)
    last = rng.random(length) < 0.1
    offsets = returns.bootstrap_offsets(last, ends(length), n)
    assert set(np.unique(offsets)) == set(range(1, n + 1))
    bootstraps = values[np.arange(length - n) + np.asarray(offsets)]
    got = np.asarray(
        returns.n_step_returns(rewards, discounts, offsets, bootstraps, n=n, gamma=gamma)
    )
    for j in range(length - n):
        stop = next((i for i in range(j + 1, j + n) if last[i]), j + n)
        want = values[stop]
        for i in range(stop, j, -1):
            want = rewards[i] + gamma * discounts[i] * want
        assert np.float32(want).tobytes() == got[j].tobytes()


def test_plain_n_step():
    """gamma 1/2, n = 2, no end: z0 = 1 + 2/2 + 8/4 = 4; z1 = 2 + 3/2 + 16/4 = 7.5."""
    got = n_step([9, 1, 2, 3], [0, 1, 1, 1], ends(4), [9, 9, 8, 16], n=2, gamma=0.5)
    np.testing.assert_allclose(got, [4.0, 7.5])


def test_one_step():
    """n = 1: r + gamma d v = 1 + 0.9 * 10, 2 + 0, 3 - 0.9 * 30."""
    got = n_step([9, 1, 2, 3], [1, 1, 0, -1], ends(4), [9, 10, 20, 30], n=1, gamma=0.9)
    np.testing.assert_allclose(got, [10, 2, -24], rtol=1e-6)


def test_nothing_after_a_termination():
    """d_2 = 0 pays its own reward and hides what follows: z0 = 1 + 0.9 * 2, z1 = 2.

    Row 2 is a new beginning: z2 = 100 + 0.9 * 100 + 0.81 * 100 + 0.729 * 1000 = 1000.
    """
    got = n_step([9, 1, 2, 100, 100, 100], [1, 1, 0, 1, 1, 1], ends(6), [1000] * 6, n=3, gamma=0.9)
    np.testing.assert_allclose(got, [2.8, 2.0, 1000.0], rtol=1e-6)


def test_truncation_bootstraps():
    """Row 2 is last and worth 40: z0 = 1 + 0.9 * 2 + 0.81 * 40 = 35.2, z1 = 2 + 0.9 * 40 = 38."""
    values = [9, 9, 40, 1000, 1000, 1000]
    got = n_step([9, 1, 2, 0, 100, 100], [1, 1, 1, 0, 1, 1], ends(6, 2), values, n=4, gamma=0.9)
    np.testing.assert_allclose(got, [35.2, 38.0], rtol=1e-6)


def test_players_alternate():
    """d = -1: the other's reward and value count against me, gamma 1.

    z0 = 1 - 2 + 3 - 7 = -5 (three moves on the other is to move); z1 = 2 - 3 + 4 - 8 = -5.
    """
    got = n_step([9, 1, 2, 3, 4], [0, -1, -1, -1, -1], ends(5), [9, 9, 9, 7, 8], n=3, gamma=1.0)
    np.testing.assert_allclose(got, [-5.0, -5.0])


# rlax/_src/multistep_test.py: rewards and discounts of five steps, the value after each.
RLAX_R = ([1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1])
RLAX_D = ([0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7])
RLAX_V = ([3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7])
RLAX_LAMBDA_1 = ([1.315, 0.63, 0.7, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99])
RLAX_N = {
    3: ([2.8, -3.15, 0.7, 1.7, 3.4], [1.2155, 0.714, 0.2576, 3.192, 3.99]),
    5: RLAX_LAMBDA_1,
    7: RLAX_LAMBDA_1,
}


@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("row", [0, 1])
def test_rlax_constants(n, row):
    """What arrives with row j + 1 is rlax's step j; row 5 is last, so that its value ends them all.

    n >= 5 is the return with lambda = 1: rewards to the end and one value there.
    """
    beyond = [1e4] * n
    rewards = [1e4] + RLAX_R[row] + beyond
    discounts = [1e4] + RLAX_D[row] + beyond
    values = [1e4] + RLAX_V[row] + beyond
    got = n_step(rewards, discounts, ends(6 + n, 5), values, n=n, gamma=1.0)
    np.testing.assert_allclose(got[:5], RLAX_N[n][row], rtol=1e-5)


def test_long_horizon_is_the_plain_recursion():
    """n >= length equals G_j = r_{j+1} + gamma d_{j+1} G_{j+1} (lambda = 1), run backwards."""
    rng = np.random.default_rng(0)
    length, n, gamma = 30, 40, 0.95
    rewards, values = rng.normal(size=(2, length + n)).astype(np.float32)
    discounts = rng.choice([-1.0, 0.0, 1.0], p=[0.45, 0.1, 0.45], size=length + n)
    last = ends(length + n, length - 1)
    got = n_step(rewards, discounts, last, values, n=n, gamma=gamma)
    running = values[length - 1]
    for j in reversed(range(length - 1)):
        running = rewards[j + 1] + gamma * discounts[j + 1] * running
        np.testing.assert_allclose(got[j], running, rtol=1e-4, atol=1e-5)
