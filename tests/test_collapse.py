"""Signs of a collapse in lines of metrics: what is warned of, once, and what is not."""

import json
import math
from pathlib import Path

import pytest

from muzero_jax.training.collapse import CERTAIN, FIRST_EPISODES, LINES, SILENCE, Collapse

_ROOT = Path(__file__).resolve().parents[1]
_COLLAPSED = _ROOT / "benchmarks" / "results" / "breakout_collapse.json"

NUM_ENVS = 4
UNIFORM = math.log(6)
ADVICE = (
    "raise min_value_range, below which the search takes differences of Q for noise,"
    " value_error_scale or random_move"
)
LENGTH = 50  # Env steps of each of the first episodes.


@pytest.fixture(name="said")
def _said(capsys):
    """What has been printed so far, line by line."""
    lines = []

    def read():
        lines.extend(capsys.readouterr().out.splitlines())
        return lines

    return read


def _make(before=()):
    return Collapse(num_actions=6, num_envs=NUM_ENVS, before=before)


def _line(env_steps, returns, entropy=UNIFORM):
    record = {"env_steps": env_steps, "train/episodes": float(len(returns))}
    record["train/policy_entropy"] = entropy
    if returns:
        record["train/return_mean"] = sum(returns) / len(returns)
    return record


# Two lines, of returns of 1.0 on average.
_FIRST = [
    _line(LENGTH * (FIRST_EPISODES - 1), [0.9] * (FIRST_EPISODES - 1)),
    _line(LENGTH * FIRST_EPISODES, [2.9]),
]
_BEGIN = _FIRST[-1]["env_steps"]
_LOW = 0.9 * CERTAIN * UNIFORM


def _look(collapse, lines):
    for line in lines:
        collapse.look(line)


def test_a_certain_policy_without_returns_is_warned_of_once(said):
    """After so many lines in a row, whose return is no better than that of the first episodes; a
    line without an episode, and an evaluation, neither count nor break the row."""
    collapse = _make()
    _look(collapse, _FIRST)
    lines = [_line(_BEGIN + 100 * i, [1.0], _LOW) for i in range(1, LINES)]
    _look(collapse, lines)
    _look(collapse, [_line(_BEGIN + 301, [], _LOW), {"env_steps": 302, "eval/return_mean": 9.0}])
    assert not said()
    _look(collapse, [_line(_BEGIN + 400 + i, [0.5], _LOW) for i in range(3)])
    assert said() == [
        f"warning: the policy is certain (entropy {_LOW:.2g} of at most 1.79) and its return of"
        f" 0.5 no better than the 1 of the first episodes; {ADVICE}"
    ]


@pytest.mark.parametrize(
    "returns, entropy", [([1.01], _LOW), ([0.5], 1.1 * CERTAIN * UNIFORM)], ids=["good", "unsure"]
)
def test_a_good_policy_may_be_certain_and_a_bad_one_unsure(returns, entropy, said):
    """Either of them in each third line breaks the row."""
    collapse = _make()
    _look(collapse, _FIRST)
    for i in range(10):
        steps = _BEGIN + 300 * i
        _look(collapse, [_line(steps + 100 * j, [0.5], _LOW) for j in range(1, LINES)])
        _look(collapse, [_line(steps + 100 * LINES, returns, entropy)])
    assert not said()


def test_the_first_episodes_are_never_a_collapse(said):
    """However bad, and however certain the policy begins."""
    lines = [_line(100 * i, [0.0], 0.0) for i in range(1, FIRST_EPISODES + 1)]
    _look(_make(), lines)
    assert not said()


def test_episodes_that_no_longer_end_are_warned_of_once(said):
    """So many times as long as the first ones, in all environments; one that ends in time resets
    the clock."""
    limit = SILENCE * NUM_ENVS * LENGTH
    collapse = _make()
    _look(collapse, [*_FIRST, _line(_BEGIN + limit, [1.0])])
    _look(collapse, [_line(_BEGIN + 2 * limit, [])])
    assert not said()
    _look(collapse, [_line(_BEGIN + 2 * limit + 1, []), _line(_BEGIN + 3 * limit, [])])
    assert said() == [
        f"warning: no episode has ended for {limit + 1} env steps, the first ones took {LENGTH}"
        f" each: if the agent does not play that well, it idles; {ADVICE}"
    ]


def _evaluation(score, cut, games=4):
    return {"eval/return_mean": score, "eval/returns": [score] * games, "eval/episodes_cut": cut}


def test_the_collapse_of_a_real_run_is_warned_of_once(said):
    """Breakout with an early Atari preset, whose agent idles after 400,000 steps."""
    run = json.loads(_COLLAPSED.read_text())
    late = [x["env_steps"] > 400_000 for x in run["lines"]].index(True)
    collapse = Collapse(num_actions=run["num_actions"], num_envs=run["num_envs"])
    _look(collapse, run["lines"][:late])
    assert not said()
    _look(collapse, run["lines"][late:])
    assert said() == [
        "warning: 16 of 16 evaluation games were cut off at their limit of steps, and the return of"
        f" 0.625 is less than half of the 3.125 before: the agent idles; {ADVICE}"
    ]


@pytest.mark.parametrize(
    "evaluations",
    [
        [_evaluation(9.0, 0), _evaluation(500.0, 4), _evaluation(300.0, 4)],  # Plays that well.
        [_evaluation(9.0, 4), _evaluation(1.0, 4)],  # Games that always last as long.
        [_evaluation(9.0, 0), _evaluation(1.0, 2)],  # Half of them end.
        [_evaluation(9.0, 0), _evaluation(5.0, 4)],  # More than half of what there was.
        [_evaluation(-90.0, 0), _evaluation(-95.0, 4)],
        [_evaluation(9.0, 0), _evaluation(math.nan, 4)],
        [{"eval/return_mean": 9.0}, {"eval/return_mean": 1.0}],  # A score of one's own.
    ],
)
def test_other_evaluations_are_no_collapse(evaluations, said):
    """Whatever their scores."""
    _look(_make(), [*_FIRST, *evaluations])
    assert not said()


def test_a_run_that_goes_on_knows_its_first_episodes(said):
    """What the earlier stretches wrote counts, and by itself says nothing."""
    low = [_line(_BEGIN + 100 * i, [0.0], _LOW) for i in range(1, LINES + 2)]
    collapse = _make(before=[*_FIRST, *low])
    assert not said()
    _look(collapse, [_line(_BEGIN + 1000, [0.0], _LOW)])
    assert len(said()) == 1
    _look(_make(before=[_evaluation(9.0, 0)]), [_evaluation(1.0, 4)])
    assert len(said()) == 2
    fresh = _make()
    _look(fresh, low)  # Of these alone nothing is known to compare with.
    assert len(said()) == 2
