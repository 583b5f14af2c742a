"""The list of runs, from the files that they leave."""

import fcntl
import json
import os
import subprocess

import pytest

from muzero_jax.errors import BadInputError
from muzero_jax.training.run_folder import is_running
from presets import config_of
import processes
import runs

NOW = 2_000_000_000.0


def _run(path, *, lines=(), age=90.0, **fields):
    """A run folder with these lines of metrics, the newest written `age` seconds ago."""
    config = config_of("cartpole", "on_device", **{"total_env_steps": 1_000} | fields)
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.to_json())
    (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for file in path.iterdir():
        os.utime(file, (NOW - age, NOW - age))
    return path


def _line(env_steps, score=None, returns=None):
    line = {"env_steps": env_steps, "wall_s": env_steps / 10, "resumes": 0}
    if score is not None:
        line |= {"eval/return_mean": score, "eval/returns": returns}
    return line


LINES = [_line(100, 20.0, [10.0, 30.0]), _line(200, 40.0, [40.0] * 4), _line(300, 30.0, [30.0]),
         _line(400)]


def test_how_far_a_run_is_and_what_it_has_reached(tmp_path):
    """Planted: the best score in the place of the newest; steps of the newest score; the interval
    of the returns' spread; age of the config."""
    path = _run(tmp_path / "a b", lines=LINES)
    os.utime(path / "config.json", (NOW - 5_000, NOW - 5_000))
    found = runs.describe(path, NOW)
    assert (found.task, found.state, found.env_steps, found.total) == (
        "cartpole", "stopped", 400, 1_000)
    assert found.newest == (30.0, None, 300) and found.best == (40.0, 0.0, 200)
    assert found.age_s == 90.0 and found.checkpoints == []
    # As the command line takes it: a folder with a blank.
    assert found.go_on == f"python experiments/train.py --resume=must '--workdir={path}'"
    first = runs.describe(_run(tmp_path / "c", lines=LINES[:1]), NOW)
    # t of one degree of freedom, times the deviation of 10 and 30 over the root of 2.
    assert first.newest[1] == pytest.approx(12.706 * 14.142 / 2**0.5, rel=1e-3)


@pytest.mark.parametrize("fields, lines, state", [
    ({}, [], "stopped"),
    ({}, [_line(999)], "stopped"),
    ({}, [_line(1_001)], "done"),
    ({"max_wall_minutes": 1.0}, [_line(599)], "stopped"),
    ({"max_wall_minutes": 1.0}, [_line(600)], "done"),
    ({"evaluation.stop_at": 41.0}, LINES, "stopped"),
    ({"evaluation.stop_at": 40.0}, LINES, "done"),
])
def test_what_ends_a_run_is_seen(tmp_path, fields, lines, state):
    """Planted: minutes for seconds; the newest score in the place of any."""
    found = runs.describe(_run(tmp_path / "run", lines=lines, **fields), NOW)
    assert found.state == state and (found.go_on is None) == (state == "done")


def test_a_run_is_running_while_its_lock_is_held(tmp_path):
    path = _run(tmp_path / "run", lines=LINES)
    assert not is_running(path)
    with (path / "lock").open("a+") as lock:
        assert not is_running(path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = runs.describe(path, NOW)
    assert found.state == "running" and found.go_on is None
    assert not is_running(path)


def test_the_table_has_a_line_for_each_and_what_goes_with_it(tmp_path):
    """One of a broken config is listed beside the others; one made by code has no command; runs of
    one's own name their modules.

    Planted: the line below another run's; one broken run ends the list.
    """
    _run(tmp_path / "done", lines=[_line(2_000)])
    _run(tmp_path / "deep" / "own", lines=LINES, **{"env.task": "corridor:make_corridor"})
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text(json.dumps({"made_by": "code"}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"env": 3}')
    found = [runs.describe(path, NOW) for path in runs.find(tmp_path)]
    lines = runs.table(found, checkpoints=True).splitlines()
    names = [line.split()[0].rpartition("/")[2] for line in lines if not line.startswith(" ")]
    assert names == ["run", "code", "own", "done", "torn"]
    at = {name: i for i, name in enumerate(
        line.split()[0].rpartition("/")[2] for line in lines)}
    own = lines[at["own"]]
    assert " ".join(own.split()).endswith(
        "make_corridor stopped 400 (40%) 30 40 ± 0 at 200 2 min")
    assert lines[at["own"] + 1] == "    checkpoints: none"
    kept = runs.table([found[1]._replace(checkpoints=[3, 9], kept=3)], checkpoints=True)
    assert "    checkpoints: 3, 9; best: 3\n" in kept
    assert lines[at["own"] + 2].endswith("--allow=corridor")
    assert "go on" not in lines[at["code"] + 2] and "made by code" in lines[at["code"]]
    assert "unreadable" in lines[at["torn"]] and "config.json" in lines[at["torn"] + 1]


@pytest.mark.parametrize("folder, said", [("nowhere", "there is no folder"), (".", "holds no run")])
def test_where_there_is_no_run_it_is_one_line(tmp_path, folder, said):
    with pytest.raises(BadInputError, match=said):
        runs.find(tmp_path / folder)


@pytest.mark.slow
def test_the_script_lists_a_real_run(tmp_path):
    """With its checkpoints, and a command that goes on."""
    folder = tmp_path / "runs" / "one"
    small = processes.TINY_CONTROL | {"env.num_groups": 1, "total_env_steps": 200}
    config = config_of("cartpole", "on_device", **small)
    processes.train(config, folder)
    listed = subprocess.run(
        processes.command("runs", str(tmp_path / "runs"), "--checkpoints"),
        env=processes.environment(), capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    head, line, below = listed.stdout.splitlines()
    assert head.startswith("run ") and "cartpole" in line and "done" in line
    assert below.startswith("    checkpoints: ") and below != "    checkpoints: none"
