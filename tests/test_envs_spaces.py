"""Spaces of gymnasium's kinds against gymnasium itself, which samples from them."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from muzero_jax import actions
from muzero_jax.envs import spaces
from muzero_jax.errors import ArgumentError, EnvError
from muzero_jax.types import ActionSpec, ArraySpec

gymnasium = pytest.importorskip("gymnasium")
kinds = gymnasium.spaces


def test_numbers_literally():
    """uint8 and bool stay, all else becomes float32. Planted: integers kept."""
    for dtype, served in [
        (np.uint8, "uint8"), (np.float64, "float32"), (np.int32, "float32"), (np.bool_, "bool"),
    ]:
        seen = spaces.observed(kinds.Box(0, 1, (2, 3), dtype))
        assert seen.spec == ArraySpec((2, 3), served)
        came = np.ones((2, 3), dtype)
        got = seen.convert(came)
        assert got.dtype == served and (got == 1).all() and not np.shares_memory(got, came)
        assert seen.convert(np.ones((4, 2, 3), dtype)).shape == (4, 2, 3)  # A batch.


def test_choices_are_one_hot_literally():
    """Planted: `start` not subtracted; the one-hots of several summed."""
    seen = spaces.observed(kinds.Discrete(3, start=5))
    assert seen.spec == ArraySpec((3,), "bool")
    assert seen.convert(np.int64(6)).tolist() == [False, True, False]
    assert seen.convert(np.array([5, 7])).tolist() == [[True, False, False], [False, False, True]]
    seen = spaces.observed(kinds.MultiDiscrete([2, 3]))
    assert seen.convert(np.array([1, 0])).tolist() == [False, True, True, False, False]
    seen = spaces.observed(kinds.MultiDiscrete([[2, 2], [2, 3]]))
    assert seen.spec == ArraySpec((9,), "bool")
    assert seen.convert(np.zeros((7, 2, 2), int)).sum() == 28
    seen = spaces.observed(kinds.MultiBinary(3))
    assert seen.convert(np.array([1, 0, 1], np.int8)).tolist() == [True, False, True]


def test_a_dict_keeps_its_arrays_and_leaves_out_texts():
    """Nested ones are joined by a dot. Planted: texts kept; nested dicts left out."""
    space = kinds.Dict(
        image=kinds.Box(0, 255, (2, 2, 3), np.uint8),
        direction=kinds.Discrete(4),
        mission=kinds.Text(20),
        arm=kinds.Dict(angle=kinds.Box(-1, 1, (), np.float32), parts=kinds.Tuple(
            [kinds.Discrete(2), kinds.MultiBinary(2)])),
    )
    seen = spaces.observed(space)
    assert {name: str(x) for name, x in seen.spec.items()} == {
        "image": "uint8(2, 2, 3)", "direction": "bool(4,)", "arm.angle": "float32()",
        "arm.parts.0": "bool(2,)", "arm.parts.1": "bool(2,)",
    }
    got = seen.convert(space.sample())
    assert {name: x.shape for name, x in got.items()} == {
        name: x.shape for name, x in seen.spec.items()}
    assert spaces.observed(space, leave_out=["image", "arm.angle"]).spec.keys() == {
        "arm.parts.0", "arm.parts.1", "direction"}


@pytest.mark.parametrize(
    "space",
    [
        kinds.Discrete(5, start=-2),
        kinds.MultiDiscrete([3, 2, 5]),
        kinds.MultiDiscrete([3, 2], start=[1, -1]),
        kinds.MultiDiscrete([[3, 2], [4, 2]]),
        kinds.MultiBinary(4),
        kinds.MultiBinary([2, 3]),
        kinds.Box(np.array([-1.0, 0.1]), np.array([1.0, 0.3]), dtype=np.float64),
        kinds.Box(-2, 2, (2, 3), np.float32),
        kinds.Box(0.1, 0.7, (1,), np.float16),
    ],
    ids=str,
)
def test_every_action_is_one_of_the_space(space):
    """Random ones, and the bounds. Planted: `start` left out; no dtype; bounds not clipped."""
    served = spaces.acted(space)
    spec = served.spec
    drawn = np.asarray(actions.draw(spec, jax.random.key(0), 200))
    ends = [spec.low, spec.high] if spec.sizes is None else [[0] * len(spec.sizes)]
    edges = np.array(ends, spec.dtype).reshape(-1, *spec.shape)
    if spec.sizes is not None and not spec.shape:
        edges = np.array([0, spec.num_actions - 1], np.int32)
    for action in served.convert(np.concatenate([drawn, edges])):
        assert space.contains(action if np.ndim(action) else space.dtype.type(action)), action


def test_kinds_literally():
    assert spaces.acted(kinds.Discrete(4)).spec == ActionSpec.discrete(4)
    assert spaces.acted(kinds.MultiBinary(3)).spec == ActionSpec.several([2, 2, 2])
    box = spaces.acted(kinds.Box(-2.0, 2.0, (1,), np.float32)).spec
    assert box == ActionSpec.real([-2.0], [2.0])


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: spaces.acted(kinds.Box(-np.inf, np.inf, (2,))), "a Box with finite bounds"),
        (lambda: spaces.acted(kinds.Dict(a=kinds.Discrete(2))), "needed: Discrete, MultiDiscrete"),
        (lambda: spaces.acted(SimpleNamespace()), "needed: Discrete, MultiDiscrete"),
        (lambda: spaces.observed(kinds.Text(5)), "needed: Box, Discrete"),
        (lambda: spaces.observed(kinds.Sequence(kinds.Discrete(2))), "needed: Box, Discrete"),
        (lambda: spaces.observed(kinds.Dict(a=kinds.Text(5))), "nothing in them is an array"),
        (
            lambda: spaces.observed(kinds.Dict(a=kinds.Discrete(2)), leave_out=["a"]),
            "nothing in them is an array",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(call, line):
    with pytest.raises(ArgumentError, match=line) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space, came, line",
    [
        (kinds.Discrete(3), 3, "a choice that there is not"),
        (kinds.Discrete(3), 0.5, "of integers"),
        (kinds.MultiDiscrete([2, 2]), np.array([0, 1, 1]), "declared \\(2,\\) of integers"),
        (kinds.Box(0, 1, (2,)), np.zeros(3), "declared \\(2,\\) float32"),
        (kinds.Box(0, 255, (2,), np.uint8), np.zeros(2, np.int64), "declared \\(2,\\) uint8"),
        (kinds.MultiBinary(2), np.array([0.5, 1.0]), "declared \\(2,\\) bool"),
        (kinds.Dict(a=kinds.Discrete(2)), {"b": 1}, "has no entry 'a'"),
        (kinds.Dict(a=kinds.Discrete(2)), 1, "has no entry 'a'"),
    ],
)
def test_what_a_space_does_not_contain_is_one_line(space, came, line):
    """Planted: no check of choices (an all-zero one-hot); of missing entries (a KeyError)."""
    with pytest.raises(EnvError, match=line):
        spaces.observed(space).convert(came)
