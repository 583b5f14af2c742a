"""What happens between iterations: an experiment whose loop counts, and computes nothing.

Its agent, replay and saves are real; a loop's iteration is ten env steps, and scores are given.
"""

import contextlib
import json
import shutil
import time

import jax
import numpy as np
import pytest

from muzero_jax import checkpoint, codecs, errors, make_agent, metrics, on_device, training
from muzero_jax.envs.catch import make_catch
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import make_gumbel_search
from muzero_jax.training import saving
from muzero_jax.types import Codecs, Window

NEVER = 10**9
SCHEDULE = training.Schedule(
    total_env_steps=100, evaluate_every=NEVER, save_every=NEVER, save_params_every=NEVER,
    log_every=10,
)
_NEWS = {
    "train/skipped_in_a_row": 0.0, "train/policy_entropy": 1.0, "train/return_sum": 0.0,
    "train/episodes": 20.0,
}


class _Killed(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def real():
    env = make_catch()
    scalar = codecs.make_two_hot_codec(num_bins=5, low=-1.0, high=1.0, transform="identity")
    codec = Codecs(value=scalar, reward=scalar)
    network = make_mlp_network(env.spec, codec, history_steps=1, width=8)
    search = make_gumbel_search(
        network, codec, num_actions=3, turn_sign=1, discount=0.99, num_simulations=2
    )
    window = Window(history=1, unroll=1, bootstrap=1)
    agent = make_agent(env.spec, network, codec, search, window=window, discount=0.99)
    return on_device(
        env, agent, num_envs=2, rows_per_update=2, rows_per_env=8, batch_size=2,
        steps_per_iteration=1, eval_episodes=0,
    )


def _counting(real, *, scores=None, killed_at=None, news=lambda env_steps: {}):
    """The experiment, and the numbers of the evaluations that were asked for.

    `scores` are handed out in order; one that is an exception is raised. Without them there are no
    evaluations.
    """
    numbers, left = [], iter(scores or ())

    def run(state):
        while True:
            old = state.counters
            if old.env_steps == killed_at:
                raise _Killed
            counters = old._replace(
                iteration=old.iteration + 1, env_steps=old.env_steps + 10, rows=old.rows + 10,
                updates=old.updates + 1,
            )
            # Buffers of their own, as those of a loop are.
            state = jax.tree.map(lambda x: x.copy(), state.replace(counters=None))
            state = state.replace(counters=counters)
            yield state, _NEWS | news(counters.env_steps)

    def score(params, number, stop):
        del params, stop
        numbers.append(number)
        given = next(left)
        if isinstance(given, type):
            raise given
        return {"return_mean": given}

    return real._replace(run=run, score=None if scores is None else score), numbers


def _train(experiment, folder, **changes):
    return training.train(experiment, folder, SCHEDULE._replace(**changes))


def _records(folder):
    return metrics.read_jsonl(folder / "metrics.jsonl")


def test_a_run_ends_with_the_iteration_that_reaches_its_total(real, tmp_path, capfd):
    """And that one is saved, whatever the cadences; the first lines say what is trained, and where.

    Planted bugs seen: one iteration more; no evaluation where nothing else is due; the evaluation
    in the middle taken for the end.
    """
    experiment, numbers = _counting(real, scores=[0.0, 0.5])
    counters = _train(experiment, tmp_path / "run", evaluate_every=50)
    assert (counters.env_steps, counters.iteration, counters.resumes) == (100, 10, 0)
    first, second, *_ = capfd.readouterr().out.splitlines()
    count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(real.init).train.params))
    assert first == f"an agent made by code: {count:,} parameters, 0 simulations for each action"
    assert second == f"run in {tmp_path / 'run'} on cpu x1"
    assert checkpoint.committed_steps(tmp_path / "run" / "checkpoints") == [10]
    assert numbers == [5, 10], "each evaluation plays games of its own number"
    lines = _records(tmp_path / "run")
    assert [x["eval/return_mean"] for x in lines if "eval/return_mean" in x] == [0.0, 0.5]
    assert {x["resumes"] for x in lines} == {0}
    # At its end a run stays as it is.
    assert _train(experiment, tmp_path / "run", evaluate_every=50).env_steps == 100
    assert numbers == [5, 10]


def test_a_score_that_is_reached_ends_the_run_and_is_saved(real, tmp_path):
    """Planted bugs seen: a score that has to be passed; a stop that is not saved."""
    experiment, numbers = _counting(real, scores=[0.5, 1.0, 9.0])
    for _ in range(2):
        counters = _train(experiment, tmp_path / "run", evaluate_every=20, stop_at=1.0)
        assert counters.env_steps == 40 and numbers == [2, 4]
    assert checkpoint.committed_steps(tmp_path / "run" / "checkpoints") == [4]


def test_the_parameters_with_the_best_score_stay(real, tmp_path):
    """Beside the newest ones, also over a resume; a score that is not finite is none.

    Planted: the newest in their place; a resume that forgets the score; an equal score taken for a
    better one.
    """
    folder = tmp_path / "run"
    experiment, _ = _counting(real, scores=[1.0, 3.0, float("nan"), 3.0, 2.0])
    _train(experiment, folder, evaluate_every=20)
    abstract = jax.eval_shape(real.init).train.params
    assert saving.newest_params(folder, abstract)[0] == 10
    step, params, meta = saving.newest_params(folder, abstract, step="best")
    assert (step, meta["score"], meta["counters"]["env_steps"]) == (4, 3.0, 40)
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    for score, best in ((2.5, 4), (4.0, 12)):
        experiment, _ = _counting(real, scores=[score])
        total = 110 if score == 2.5 else 120
        _train(experiment, folder, evaluate_every=NEVER, total_env_steps=total)
        assert saving.newest_params(folder, abstract, step="best")[0] == best
    assert saving.best_of(folder)["score"] == 4.0
    assert len(checkpoint.committed_steps(folder / "best")) == 1
    other, _ = _counting(real)
    _train(other, tmp_path / "other")
    assert saving.best_of(tmp_path / "other") is None
    with pytest.raises(errors.BadInputError, match="no best parameters in .*has it been evaluated"):
        saving.newest_params(tmp_path / "other", abstract, step="best")


def test_a_time_limit_is_that_of_all_processes(real, tmp_path):
    """Planted bug seen: a limit for each of them."""
    experiment, _ = _counting(real, news=lambda env_steps: time.sleep(0.2) or {})
    _train(experiment, tmp_path / "run", total_env_steps=50)
    counters = _train(experiment, tmp_path / "run", max_wall_minutes=0.8 / 60)
    assert counters.env_steps == 50


def test_an_evaluation_that_a_kill_has_taken_is_made_first(real, tmp_path):
    """Of the parameters saved before it, with the number of that iteration; and it may end the run.
    Planted bug seen: made although it was written."""
    experiment, _ = _counting(real, scores=[_Killed])
    options = dict(evaluate_every=50, save_every=50, stop_at=1.0)
    with pytest.raises(_Killed):
        _train(experiment, tmp_path / "run", **options)
    experiment, numbers = _counting(real, scores=[0.0], killed_at=70)
    with pytest.raises(_Killed):
        _train(experiment, tmp_path / "run", **options)
    assert numbers == [5]
    experiment, numbers = _counting(real, scores=[2.0])
    counters = _train(experiment, tmp_path / "run", **options)
    assert numbers == [10] and (counters.env_steps, counters.resumes) == (100, 2)


def test_an_owed_evaluation_may_end_the_run(real, tmp_path):
    """Planted bug seen: iterations after it."""
    options = dict(evaluate_every=50, save_every=50, stop_at=1.0)
    with pytest.raises(_Killed):
        _train(_counting(real, scores=[_Killed])[0], tmp_path / "run", **options)
    experiment, numbers = _counting(real, scores=[2.0])
    assert _train(experiment, tmp_path / "run", **options).env_steps == 50
    assert numbers == [5]


def test_every_resume_counts(real, tmp_path):
    """Also one whose own resume points were never reached. Planted bug seen: the number of the
    resume point plus one."""
    with pytest.raises(_Killed):
        _train(_counting(real, killed_at=40)[0], tmp_path / "run", save_every=20)
    for _ in range(2):
        with pytest.raises(_Killed):
            _train(_counting(real, killed_at=60)[0], tmp_path / "run")
    assert _train(_counting(real)[0], tmp_path / "run").resumes == 3


def test_a_score_from_after_the_resume_point_stops_nothing(real, tmp_path):
    """Its process was killed before it could save: what it scored is no longer there. Planted bug
    seen: stopped by it."""
    folder = tmp_path / "run"
    _train(_counting(real)[0], folder, total_env_steps=40)
    line = {"env_steps": 50, "updates": 5, "wall_s": 1.0, "resumes": 0, "eval/return_mean": 9.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    experiment, _ = _counting(real, scores=[0.0])
    assert _train(experiment, folder, evaluate_every=100, stop_at=5.0).env_steps == 100


@pytest.mark.parametrize("certain", [(30,), (30, 40, 50)])
def test_signs_of_a_collapse_are_those_of_lines_that_count(certain, real, tmp_path, capfd):
    """A kill has undone two lines of a certain policy; with one more of them there is no third in a
    row. Planted bug seen: all lines that are written counted."""

    def news(env_steps, of=(30, 40)):
        return {"train/policy_entropy": 0.0} if env_steps in of else {}

    with contextlib.suppress(_Killed):
        experiment, _ = _counting(real, killed_at=50, news=news)
        _train(experiment, tmp_path / "run", save_every=20, total_env_steps=60)
    assert len(_records(tmp_path / "run")) >= 3 and "certain" not in capfd.readouterr().out
    # As if the newest resume point had never been reached.
    assert checkpoint.committed_steps(tmp_path / "run" / "checkpoints") == [2, 4]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    experiment, _ = _counting(real, news=lambda env_steps: news(env_steps, of=certain))
    _train(experiment, tmp_path / "run", total_env_steps=70)
    assert ("certain" in capfd.readouterr().out) == (len(certain) > 2)


def test_loops_are_given_the_counters_of_the_resume(real, tmp_path):
    """Those of the resume point, with one more resume."""
    seen = []

    def run(state):
        seen.append(state.counters)
        return _counting(real)[0].run(state)

    with pytest.raises(_Killed):
        _train(_counting(real, killed_at=40)[0], tmp_path / "run", save_every=20)
    _train(real._replace(run=run, score=None), tmp_path / "run")
    assert [(x.env_steps, x.resumes) for x in seen] == [(40, 1)]
    assert np.isfinite([x["wall_s"] for x in _records(tmp_path / "run")]).all()
