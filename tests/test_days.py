"""What must not grow while a run goes on for days: its programs; and how a soak tells growth."""

import pytest

import fakes
from muzero_jax import metrics
from presets import config_of
from processes import TINY, TINY_CONTROL
import train

_BOARD = {name: x for name, x in TINY.items() if name != "evaluation.max_steps"}
_RUNS = {
    "host": (("cartpole", "host"), TINY_CONTROL | {"env.num_groups": 2}),
    "matches": (("board_games", "tic_tac_toe"), _BOARD | {"network.width": 16}),
    "reanalyse": (("cartpole", "reanalyse"), TINY_CONTROL),
}


def evaluations_before_each_program(config, workdir):
    """Trains; of each program that is compiled, how many evaluations had been written by then."""
    written = workdir / "metrics.jsonl"

    def evaluations():
        records = metrics.read_jsonl(written) if written.exists() else []
        return sum("eval/return_mean" in record for record in records)

    with fakes.compiled(evaluations) as told:
        train.train(config, workdir)
    assert evaluations() > 4
    return told


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.envpool if x == "host" else ()) for x in _RUNS]
)
def test_nothing_is_compiled_after_the_second_evaluation(name, tmp_path):
    """As in `tests/test_operations.py`, for the other kinds of runs."""
    preset, options = _RUNS[name]
    options |= {
        "total_env_steps": 400,
        "evaluation.interval_env_steps": 50,
        "evaluation.stop_at": 1000.0,
        "checkpoint.resume_interval_env_steps": 50,
        "checkpoint.params_interval_env_steps": 50,
        "logging.interval_env_steps": 50,
    }
    told = evaluations_before_each_program(config_of(*preset, **options), tmp_path / "run")
    assert 0 in told and max(told) < 2, told
