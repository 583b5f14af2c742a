"""Actions of every kind: their features, their uniform draws, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import actions
from muzero_jax.types import ActionSpec, ArraySpec, EnvSpec

CHOICE = ActionSpec.discrete(4)
SEVERAL = ActionSpec.several((3, 2, 5))
REAL = ActionSpec.real([-2.0, 0.0], [2.0, 10.0])
GRID = ActionSpec.real([-1.0] * 6, [1.0] * 6, shape=(2, 3))


def test_features_literally():
    """Planted: the one-hots in reverse order; bounds of the first component for all."""
    one = actions.features(CHOICE, jnp.array([[2, 0]]))
    np.testing.assert_array_equal(one, [[[0, 0, 1, 0], [1, 0, 0, 0]]])
    several = actions.features(SEVERAL, jnp.array([2, 0, 4]))
    np.testing.assert_array_equal(several, [0, 0, 1, 1, 0, 0, 0, 0, 0, 1])
    real = actions.features(REAL, jnp.array([[-2.0, 0.0], [2.0, 10.0], [0.0, 2.5]]))
    np.testing.assert_allclose(real, [[-1, -1], [1, 1], [0, -0.5]])
    assert actions.features(GRID, jnp.zeros((7, 2, 3)), "bfloat16").shape == (7, 6)
    assert actions.features(GRID, jnp.zeros((7, 2, 3)), "bfloat16").dtype == jnp.bfloat16
    assert [actions.num_features(x) for x in (CHOICE, SEVERAL, REAL, GRID)] == [4, 10, 2, 6]


@pytest.mark.parametrize("spec", [CHOICE, SEVERAL, REAL, GRID], ids=str)
def test_draws_are_uniform_actions(spec):
    """Each component by itself: the frequency of each choice, or of each tenth of the range, is its
    share within 5 standard deviations; components do not depend on each other.

    Planted: the upper bound left out of the range; one number for all components.
    """
    num = 20_000
    drawn = np.asarray(jax.jit(actions.draw, static_argnums=(0, 2))(spec, jax.random.key(0), num))
    assert drawn.shape == (num, *spec.shape) and drawn.dtype == spec.dtype
    assert actions.is_one(spec, drawn).all()
    flat = drawn.reshape(num, -1)
    if spec.sizes is None:
        low, high = np.array(spec.low), np.array(spec.high)
        flat = np.floor(10 * (flat - low) / (high - low)).clip(0, 9).astype(int)
    sizes = spec.sizes or [10] * flat.shape[1]
    for column, size in zip(flat.T, sizes, strict=True):
        share = np.bincount(column, minlength=size) / num
        assert (np.abs(share - 1 / size) < 5 * np.sqrt(1 / size / num)).all()
    if flat.shape[1] > 1:
        apart = np.corrcoef(flat.T) - np.eye(flat.shape[1])
        assert np.abs(apart).max() < 5 / np.sqrt(num)


def test_masked_actions_are_not_drawn():
    """Planted: the mask taken for one of legal actions."""
    invalid = jnp.array([[True, False, True, False], [False, True, True, True]])
    drawn = jax.vmap(lambda key: actions.draw(CHOICE, key, 2, invalid))(
        jax.random.split(jax.random.key(0), 200))
    assert set(np.asarray(drawn[:, 0])) == {1, 3} and set(np.asarray(drawn[:, 1])) == {0}


def test_what_is_no_action_is_seen():
    """Planted: the last component alone looked at; the upper bound of choices included."""
    assert actions.is_one(CHOICE, np.array([0, 3, 4, -1])).tolist() == [True, True, False, False]
    several = np.array([[2, 1, 4], [3, 1, 4], [0, 2, 0], [0, 0, -1]])
    assert actions.is_one(SEVERAL, several).tolist() == [True, False, False, False]
    real = np.array([[2, 10], [2.1, 0], [0, -0.1], [np.nan, 1]], np.float32)
    assert actions.is_one(REAL, real).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "action, like",
    [
        (jnp.zeros((3, 1), jnp.int32), actions.zeros(CHOICE, 3)),
        (jnp.zeros(3), actions.zeros(CHOICE, 3)),
        (jnp.zeros((3, 2), jnp.int32), actions.zeros(REAL, 3)),
        (jnp.zeros((3, 2)), actions.zeros(SEVERAL, 3)),
        (jnp.zeros(3, bool), actions.zeros(CHOICE, 3)),
    ],
)
def test_another_shape_or_kind_is_refused(action, like):
    """Planted: the shape alone looked at; the kind alone."""
    actions.check(like, like)
    with pytest.raises(ValueError, match="^an action must be "):
        actions.check(action, like)


def test_features_of_another_kind_are_refused():
    """Planted: no check, so that a vector of 3 was one-hot as three actions."""
    with pytest.raises(ValueError, match="^an action must be "):
        actions.features(CHOICE, jnp.zeros(3))
    with pytest.raises(ValueError, match="^an action must be "):
        actions.features(SEVERAL, jnp.zeros((2, 4), jnp.int32))


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda: ActionSpec.discrete(0), "num_actions must be >= 1"),
        (lambda: ActionSpec.several([]), "sizes of an action must be >= 1"),
        (lambda: ActionSpec.several([2, 0]), "sizes of an action must be >= 1"),
        (lambda: ActionSpec.real([0.0], [np.inf]), "bounds of an action must be finite"),
        (lambda: ActionSpec.real([0.0], [0.0]), "low < high"),
        (lambda: ActionSpec.real([0.0], [1.0, 2.0]), "as many of each"),
        (lambda: ActionSpec.real([], []), "bounds of an action"),
        (lambda: ActionSpec.real([0.0], [1.0], shape=(2,)), "has no 1 components"),
        (lambda: SEVERAL.num_actions, "must be one discrete choice here"),
        (lambda: REAL.num_actions, "must be one discrete choice here"),
        (
            lambda: EnvSpec(ArraySpec((1,), "float32"), REAL, 1, True, 9, masked=True),
            "masked needs one discrete action",
        ),
        (lambda: EnvSpec({}, CHOICE, 1, True, 9), "a dict must have an array"),
        (lambda: EnvSpec({"": ArraySpec((), "bool")}, CHOICE, 1, True, 9), "a name for each"),
        (
            lambda: EnvSpec({"a": ArraySpec((), "bool")}, CHOICE, 1, True, 9).observation_shape,
            "must be one array here",
        ),
    ],
)
def test_specs_that_cannot_be_are_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_a_spec_of_a_dict_is_one_whatever_its_order():
    """It is hashable, equal, and a tree in the order of names. Planted: the order kept."""
    a, b = ArraySpec((3,), "uint8"), ArraySpec((), "float32")
    one, other = (
        EnvSpec(x, CHOICE, 1, True, 9) for x in ({"b": b, "a": a}, {"a": a, "b": b})
    )
    assert one == other and hash(one) == hash(other)
    assert [*one.observation_tree()] == ["a", "b"] and one.named_arrays() == {"a": a, "b": b}
    assert EnvSpec(a, CHOICE, 1, True, 9).named_arrays() == {"": a}
