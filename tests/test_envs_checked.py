"""Literal rows, broken in one place each, and the line that says so."""

import dataclasses

import numpy as np
import pytest

from muzero_jax.envs.checked import check_finite, check_host_env
from muzero_jax.errors import EnvError
from muzero_jax.types import ActionSpec, ArraySpec, EnvSpec, HostEnv, TimeStep

SPEC = EnvSpec(
    observation=ArraySpec((2,), "float32"),
    action=ActionSpec.discrete(3),
    turn_sign=1,
    truncates=True,
    max_steps=3,
    masked=True,
)
# Environment 0 terminates at step 2, environment 1 is truncated at step 3; action 2 is illegal.
NEXT_STEP = {
    "reward": [[0, 0], [1, 1], [2, 2], [0, 3], [4, 0]],
    "discount": [[0, 0], [1, 1], [0, 1], [0, 1], [1, 0]],
    "first": [[1, 1], [0, 0], [0, 0], [1, 0], [0, 1]],
    "last": [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]],
}
# Two players: environment 0 ends at steps 2 and 3, environment 1 at step 3.
SAME_STEP = {
    "reward": [[0, 0], [1, 0], [2, 0], [3, 9], [4, 0]],
    "discount": [[0, 0], [-1, -1], [0, -1], [0, 0], [-1, -1]],
    "first": [[1, 1], [0, 0], [1, 0], [1, 1], [0, 0]],
    "last": [[0, 0]] * 5,
}
TWO_PLAYERS = dataclasses.replace(SPEC, turn_sign=-1, truncates=False)


def _rows(columns):
    """A list of `TimeStep` `[2]`, each with arrays of its own."""
    dtypes = {"reward": np.float32, "discount": np.float32, "first": bool, "last": bool}
    return [
        TimeStep(
            observation=np.full((2, 2), n, np.float32),
            invalid_actions=np.tile([False, False, True], (2, 1)),
            **{name: np.array(columns[name][n], dtypes[name]) for name in dtypes},
        )
        for n in range(len(columns["first"]))
    ]


def _env(rows, spec=SPEC, arrived=None):
    """Plays `rows`; keeps the actions that arrive in `arrived`."""
    place = iter(rows)

    def step(action):
        if arrived is not None:
            arrived.append(action)
        return next(place)

    return check_host_env(HostEnv(spec, 2, reset=lambda: next(place), step=step))


def _play(env, num_steps, action=(0, 1)):
    return [env.reset()] + [env.step(np.array(action)) for _ in range(num_steps)]


@pytest.mark.parametrize("columns,spec", [(NEXT_STEP, SPEC), (SAME_STEP, TWO_PLAYERS)])
def test_rows_that_keep_the_contract_pass_unchanged(columns, spec):
    """Planted bug seen: `reset & (reward != 0)` asked of every `first` row."""
    rows, arrived = _rows(columns), []
    came = _play(_env(rows, spec, arrived), 4)
    assert all(a is b for a, b in zip(rows, came, strict=True))
    assert all(action.dtype == np.int32 and action.tolist() == [0, 1] for action in arrived)


def test_a_lost_life_and_rows_without_masks_pass():
    """Planted bug seen: discount 0 refused on rows that are not `last`."""
    rows = [row.replace(invalid_actions=None) for row in _rows(NEXT_STEP)]
    rows[1].discount[1] = 0
    unmasked = dataclasses.replace(SPEC, masked=False)
    assert len(_play(_env(rows, unmasked), 4, action=(2, 2))) == 5
    with pytest.raises(EnvError, match="^step 0: invalid_actions given, but spec.masked is False$"):
        _play(_env(_rows(NEXT_STEP), unmasked), 1)


def test_last_rows_need_no_legal_action_and_take_any():
    """Planted bugs seen: `& ~rows.last` and `& ~timestep.last` left out."""
    rows = _rows(NEXT_STEP)
    rows[2].invalid_actions[0] = True
    env = _env(rows)
    _play(env, 2)
    assert env.step(np.array([2, 0])).first[0]


# (step, field, index or None for the whole array, new value, line that has to come)
FAULTS = [
    (2, "observation", None, np.zeros((2, 3), np.float32), "step 2: observation (2, 3) float32,"
     " declared (2, 2) float32"),
    (0, "observation", None, np.zeros((2, 2)), "step 0: observation (2, 2) float64,"
     " declared (2, 2) float32"),
    (1, "reward", None, np.zeros(2), "step 1: reward (2,) float64, declared (2,) float32"),
    (1, "reward", None, [0.0, 1.0], "step 1: reward list, declared (2,) float32"),
    (1, "discount", None, np.ones(2, bool), "step 1: discount (2,) bool, declared (2,) float32"),
    (1, "first", None, np.zeros(2, int), "step 1: first (2,) int64, declared (2,) bool"),
    (1, "last", None, np.zeros((2, 1), bool), "step 1: last (2, 1) bool, declared (2,) bool"),
    (0, "invalid_actions", None, np.zeros((2, 3), int), "step 0: invalid_actions (2, 3) int64,"
     " declared (2, 3) bool"),
    (1, "invalid_actions", None, np.zeros((2, 4), bool), "step 1: invalid_actions (2, 4) bool,"
     " declared (2, 3) bool"),
    (3, "invalid_actions", None, None, "step 3: invalid_actions None, but spec.masked is True"),
    (1, "discount", 1, 0.99, "env 1, step 1: discount 0.9900000095367432, declared 0 or 1"),
    (1, "discount", 0, np.nan, "env 0, step 1: discount nan, declared 0 or 1"),
    (1, "discount", 0, -1, "env 0, step 1: discount -1.0, declared 0 or 1"),
    (1, "invalid_actions", 1, True, "env 1, step 1: no legal action: invalid_actions is True for"
     " all"),
    (0, "invalid_actions", 0, True, "env 0, step 0: no legal action: invalid_actions is True for"
     " all"),
    (0, "first", 1, False, "env 1, step 0: the row of reset() is not `first`: nothing was reset"),
    (3, "first", 0, False, "env 0, step 3: the row after `last` is not `first`: nothing was reset"),
    (4, "last", 1, True, "env 1, step 4: `first` and `last` on one row"),
    (3, "discount", 0, 1, "env 0, step 3: discount 1.0 on a `first` row, needed 0"),
    (0, "discount", 1, 1, "env 1, step 0: discount 1.0 on a `first` row, needed 0"),
    (3, "reward", 0, 5, "env 0, step 3: reward 5.0 on a reset row, needed 0"),
    (0, "reward", 1, 5, "env 1, step 0: reward 5.0 on a reset row, needed 0"),
    (3, "last", 1, False, "env 1, step 4: `first` without `last` before it; only where"
     " spec.truncates is False may it be so"),
]  # fmt: skip


@pytest.mark.parametrize("step,field,index,value,line", FAULTS, ids=[f[-1] for f in FAULTS])
def test_each_fault_of_a_row_is_one_line(step, field, index, value, line):
    """Each line of the adapter was taken out once, and the case that names it failed."""
    rows = _rows(NEXT_STEP)
    if index is None:
        rows[step] = rows[step].replace(**{field: value})
    else:
        getattr(rows[step], field)[index] = value
    if step == 4 and field == "last":
        rows[4].discount[1] = 0
    with pytest.raises(EnvError) as caught:
        _play(_env(rows), 4)
    assert str(caught.value) == line


@pytest.mark.parametrize("step", [0, 2, 3, 4])
@pytest.mark.parametrize("field", ["reward", "observation"])
def test_what_is_not_finite_passes_and_check_finite_names_it(step, field):
    """Also on the reset rows 0 and 3: a run counts such rows and learns of none."""
    for value in (np.nan, np.inf, 2e18):
        rows = _rows(NEXT_STEP)
        getattr(rows[step], field)[0] = value
        if np.isfinite(value) and field == "reward" and step in (0, 3):
            continue  # A finite reward there is another fault.
        assert len(_play(_env(rows), 4)) == 5
        with pytest.raises(EnvError, match=rf"^env 0, step {step}: {field} .*not finite$"):
            check_finite(rows[step], step)
    check_finite(_rows(NEXT_STEP)[step], step)


def test_truncation_needs_to_be_declared():
    """Planted bug seen: the check left out."""
    spec = dataclasses.replace(SPEC, truncates=False)
    line = r"^env 1, step 3: `last` with discount 1.0 but spec.truncates is False$"
    with pytest.raises(EnvError, match=line):
        _play(_env(_rows(NEXT_STEP), spec), 4)


@pytest.mark.parametrize(
    "columns,spec,line",
    [
        (NEXT_STEP, SPEC, "env 1, step 3: episode of 3 steps, declared at most 2"),
        # The last step of a same-step episode is the `first` row after it.
        (SAME_STEP, TWO_PLAYERS, "env 1, step 3: episode of 3 steps, declared at most 2"),
    ],
)
def test_episodes_keep_to_their_limit(columns, spec, line):
    """Planted bugs seen: `>` for `>=`; same-step final steps not counted."""
    with pytest.raises(EnvError) as caught:
        _play(_env(_rows(columns), dataclasses.replace(spec, max_steps=2)), 4)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "action,line",
    [
        ([0, 99], "env 1, step 1: action 99 outside [0, 3)"),
        ([3, 0], "env 0, step 1: action 3 outside [0, 3)"),
        ([-1, 0], "env 0, step 1: action -1 outside [0, 3)"),
        ([1, 2], "env 1, step 1: action 2 is not legal: invalid_actions is True for it"),
        ([0.0, 1.0], "step 1: action (2,) float64, needed (2,) integer"),
        ([True, False], "step 1: action (2,) bool, needed (2,) integer"),
        ([0], "step 1: action (1,) int64, needed (2,) integer"),
        ([[0], [1]], "step 1: action (2, 1) int64, needed (2,) integer"),
    ],
)
def test_actions_are_checked_before_the_environment_sees_them(action, line):
    """Planted bugs seen: `>` for `>=`; the check made after the step."""
    arrived: list = []
    env = _env(_rows(NEXT_STEP), arrived=arrived)
    env.reset()
    with pytest.raises(EnvError) as error:
        env.step(np.array(action))
    assert str(error.value) == line and not arrived


def test_step_before_reset():
    """Planted bug seen: the check left out (KeyError)."""
    with pytest.raises(EnvError, match="^step called before reset$"):
        _env(_rows(NEXT_STEP)).step(np.array([0, 0]))


@pytest.mark.parametrize("name", ["observation", "reward", "last"])
def test_an_array_that_is_written_again_is_refused(name):
    """The device may still read it. Planted bugs seen: the check left out; observations alone."""
    rows = _rows(NEXT_STEP)
    rows[1] = rows[1].replace(**{name: rows[0][name]})
    with pytest.raises(EnvError, match=f"^step 1: {name} is the array of the step before"):
        _play(_env(rows), 4)
    rows[0][name].flags.writeable = False  # It cannot be written, so it may come again.
    assert len(_play(_env(rows), 4)) == 5


@pytest.mark.parametrize(
    "field,value,line",
    [
        ("max_steps", 0, "spec.max_steps 0 must be >= 1"),
        ("turn_sign", 0, r"spec.turn_sign 0 must be 1 \(one player\) or -1 \(two\)"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_at_once(field, value, line):
    """Planted bug seen: `_check_spec` not called."""
    with pytest.raises(EnvError, match=f"^{line}$"):
        _env([], dataclasses.replace(SPEC, **{field: value}))
