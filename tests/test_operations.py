"""Leaving, failing and beginning again: signals, full disks, locks, warm starts."""

import contextlib
import functools
import itertools
import json
import os
from pathlib import Path
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from configs import cartpole
import fakes
import muzero_jax
from muzero_jax import checkpoint, metrics
from muzero_jax.config import build, opponents, runs, schema
from muzero_jax.errors import (
    BAD_INPUT,
    DONE,
    NOT_FINITE,
    PREEMPTED,
    STORAGE,
    BadInputError,
    PreemptedError,
    SaveError,
    StorageError,
)
from muzero_jax.evaluation import results
from muzero_jax.training import multihost, process, run_folder, saving, writers
import processes
from test_days import evaluations_before_each_program

_OPTIONS = processes.TINY_CONTROL | {
    "env.num_groups": 1,
    "total_env_steps": 400,
    "evaluation.interval_env_steps": 200,
    "evaluation.stop_at": 1000.0,
    "checkpoint.resume_interval_env_steps": 150,
    "checkpoint.params_interval_env_steps": 100,
    "logging.interval_env_steps": 50,
}


def _config(**options):
    config = cartpole.get_config("on_device")
    config.update_from_flattened_dict(_OPTIONS | options)
    return config


_MADE = {}


def _experiment(config):
    """The experiment of a config; those that differ in cadences alone share what is compiled."""
    groups = ("seed", "env", "network", "codec", "search", "explore", "replay", "targets")
    groups += ("reanalyse", "loss", "optimizer", "loop")
    shapes = {name: getattr(config[name], "to_dict", lambda x=config[name]: x)() for name in groups}
    games = config.evaluation.episodes, config.evaluation.num_envs
    key = str((shapes, games))
    if key not in _MADE:
        _MADE[key] = build.experiment(config)
    return _MADE[key]


def _train(config, workdir, **options):
    """A run of the shared experiment of a config."""
    experiment = options.pop("experiment", None) or _experiment(config)
    return processes.train(config, workdir, experiment=experiment, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    _train(_config(), workdir)
    return workdir


def _asking(experiment, *, iteration=None, step=None):
    """The experiment, during which the process is asked to leave: before an iteration, or at a step
    of the games of an evaluation."""

    def run(state):
        for number, item in enumerate(experiment.run(state), start=1):
            if number == iteration:
                process.request_preemption()
            yield item

    def score(params, number, stop):
        steps = itertools.count(1)

        def asked_at_a_step():
            if next(steps) == step:
                process.request_preemption()
            return stop()

        return experiment.score(params, number, asked_at_a_step)

    return experiment._replace(run=run, score=score)


def _scores(workdir):
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    return [
        (r["env_steps"], r["updates"], r["eval/returns"]) for r in records if "eval/returns" in r
    ]


def test_asked_anywhere_a_run_saves_leaves_and_ends_like_one_that_was_not(whole, tmp_path):
    """Asked between two iterations, in the games of an evaluation, and in those of the last: each
    time the work done so far is saved, and in the end state and evaluations are those of the
    undisturbed run. Planted bugs seen: an evaluation broken off and never made; nothing saved for
    an evaluation that was broken off."""
    workdir = tmp_path / "run"
    for when in (dict(iteration=8), dict(step=3), dict(iteration=3), dict(step=3)):
        with pytest.raises(PreemptedError):
            _train(_config(), workdir, experiment=_asking(_experiment(_config()), **when))
        last = metrics.read_jsonl(workdir / "metrics.jsonl")[-1]
        counters = checkpoint.read_meta(workdir / "checkpoints")["counters"]
        assert last["env_steps"] == counters["env_steps"], "nothing is lost"
        assert last["checkpoint/failed_saves"] == 0
    assert counters["env_steps"] >= 400 and len(_scores(workdir)) == 1
    _train(_config(), workdir, resume="must")
    assert _scores(workdir) == _scores(whole) and len(_scores(whole)) == 2
    experiment = _experiment(_config())
    _, tree, _ = processes.resume_point(experiment, workdir)
    fakes.assert_trees_equal(tree, processes.resume_point(experiment, whole)[1])
    before = (workdir / "metrics.jsonl").read_bytes()
    _train(_config(), workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before, "a run that is done stays as it is"


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_evaluation(tmp_path):
    """Else a run of days slows down and fills the memory. Planted bug seen: an environment wrapped
    by itself for each evaluation, two programs each time."""
    cadences = ("evaluation.interval", "checkpoint.resume_interval", "checkpoint.params_interval")
    config = _config(**{f"{cadence}_env_steps": 50 for cadence in cadences})
    evaluations = evaluations_before_each_program(config, tmp_path / "run")
    assert set(evaluations) == {0}, evaluations


def _said_last(capfd):
    return capfd.readouterr().err.splitlines()[-1]


def test_saved_is_said_of_a_resume_point_that_is_there(tmp_path):
    """Asked to leave before it has passed a newest step that is damaged, a run saves all the same,
    and so it does beside a stray copy of a step under a large number. Bugs seen, of either: nothing
    written, and called saved, from then on for ever."""
    workdir = tmp_path / "run"

    def leave(iteration):
        with pytest.raises(PreemptedError) as error:
            asking = _asking(_experiment(_config()), iteration=iteration)
            _train(_config(), workdir, experiment=asking)
        step, _, meta = processes.resume_point(_experiment(_config()), workdir)
        env_steps = meta["counters"]["env_steps"]
        assert str(error.value) == f"saved at {env_steps} env steps; the same command goes on"
        return workdir / "checkpoints" / str(step)

    leave(6)
    newest = leave(3)
    path = max((newest / "tree" / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = leave(1)
    assert int(again.name) < int(newest.name) and len(list(again.parent.glob("*.damaged.*"))) == 1
    shutil.copytree(again, again.parent / "999999999")
    shutil.copytree(workdir / "params" / again.name, workdir / "params" / "999999999")
    last = leave(2)
    assert int(again.name) < int(last.name)
    for folder in ("checkpoints", "params"):
        assert max(checkpoint.committed_steps(workdir / folder)) == int(last.name)
        assert len(list((workdir / folder).glob("999999999.damaged.*"))) == 1


@pytest.mark.parametrize("end", ["all steps", "stopped", "out of time"])
def test_a_run_that_ends_well_says_what_it_reached_and_how_it_is_scored(
    end, whole, tmp_path, capfd
):
    """Whichever the way to end, and again when it is started again."""
    workdir = Path(shutil.copytree(whole, tmp_path / "a copy"))
    if end == "all steps":
        _train(_config(total_env_steps=500), workdir)
    elif end == "stopped":
        _train(_config(**{"evaluation.stop_at": 0.0, "total_env_steps": 500}), workdir)
    else:
        _train(_config(max_wall_minutes=1e-9, total_env_steps=500), workdir)
    env_steps, _, returns = _scores(workdir)[-1]
    reached = checkpoint.read_meta(workdir / "checkpoints")["counters"]["env_steps"]
    assert (reached >= 500) == (end == "all steps")
    assert _said_last(capfd) == (
        f"done at {reached} env steps, score {sum(returns) / 4:.4g} at {env_steps}, in {workdir}"
    )


_EXITS = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "experiments")
import command_line
def main():
    if sys.argv[1] == "direct":
        sys.exit(0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sys.exit, 0).result()
command_line.run(lambda words: main(), takes_words=True)
"""


@pytest.mark.parametrize("way", ["direct", "thread"])
def test_a_run_is_not_done_because_an_environment_calls_exit(way):
    """As it is called in the loop, or in the thread that steps environments. Bug seen: code 0."""
    ran = subprocess.run(
        [sys.executable, "-c", _EXITS, way],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1] == "RuntimeError: the program was left by sys.exit(0)"


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_ends_only_when_it_could_be_saved(asked, tmp_path):
    """Its last iterations' updates are not finite (skipped), those after them are. Planted bug
    seen: the end of a run that was not saved, with code 0."""
    config = _config(total_env_steps=64)
    experiment = build.experiment(config)

    def iterate(run):
        for iteration, skipped in enumerate((1, 2, 0, 0), start=1):
            if asked:
                process.request_preemption()
            run = run.replace(
                train=run.train.replace(skipped_in_a_row=jax.numpy.int32(skipped)),
                counters=run.counters._replace(iteration=iteration, env_steps=63 + iteration),
            )
            yield run, {"train/return_sum": 0.0, "train/episodes": 0}

    with pytest.raises(PreemptedError) if asked else contextlib.nullcontext():
        _train(config, tmp_path, experiment=experiment._replace(run=iterate))
    assert checkpoint.committed_steps(tmp_path / "checkpoints") == [3]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_leaving_by_an_error_keeps_the_last_save(error, tmp_path):
    """Right behind an iteration after which both stores began to save. Planted bug seen: stores
    that the driver does not close."""
    config = _config(**{f"checkpoint.{x}_interval_env_steps": 100 for x in ("resume", "params")})
    experiment = _experiment(config)

    def run(state):
        for state, news in experiment.run(state):
            yield state, news
            if state.counters.env_steps >= 100:
                raise error("planned")

    with pytest.raises(error, match="planned"):
        _train(config, tmp_path / "run", experiment=experiment._replace(run=run))
    for folder in ("checkpoints", "params"):
        assert len(checkpoint.committed_steps(tmp_path / "run" / folder)) == 1


# Signals, without JAX: a process that cannot answer sits in a call of C.
_STUCK = """
import atexit, hashlib, signal, sys, time
from muzero_jax.training import process as lifetime
signal.signal(signal.SIGWINCH, lambda *_: None)
lifetime.install_handlers()
if "hold" in sys.argv:
    lifetime.hold()
if "saved" in sys.argv:
    lifetime.settle(75)
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9) if "stuck" in sys.argv else None
while not lifetime.preemption_requested():
    pass
if "end" in sys.argv:
    atexit.register(time.sleep, 2.5)
    lifetime.end(75)
sys.exit(75 if "hold" in sys.argv else 1)
"""


def _signalled(words, signals, wrapper=()):
    """(exit code, what it said, seconds) of a process that gets (seconds to wait, signal)s."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # These tests may be under `nohup`.
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-c", _STUCK, *words],
        stdin=subprocess.DEVNULL,
        cwd=processes.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGHUP, inherited)
    try:
        assert process.stdout.readline() == "ready\n"
        for pause, number in signals:
            time.sleep(pause)
            assert process.poll() is None, "ended too early"
            process.send_signal(number)
        begin = time.monotonic()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors, time.monotonic() - begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_even_while_python_waits(number):
    """With nothing to save a process in a call of C ends at once; one that has work to save is
    asked, and only a second signal, later than a wrapper's echo, ends it. Planted bugs seen: an
    ordinary handler, which waited for the call to return; the echo taken for a second signal; a
    signal of somebody else's taken for one of ours."""
    name = signal.Signals(number).name
    code, said, seconds = _signalled(["stuck"], [(0, signal.SIGWINCH), (0.5, number)])
    assert (code, said) == (75, f"{name}: nothing to save yet, leaving\n") and seconds < 30
    code, said, _ = _signalled(["hold"], [(0, number)])
    assert code == 75 and said.startswith(f"{name}: saving, then leaving")
    wait = process.SAME_REQUEST_SECONDS + 0.5
    signals = [(0, number), (0.1, number), (wait, number)]
    code, said, seconds = _signalled(["hold", "stuck"], signals)
    assert code == 128 + number and said.count("\n") == 2 and seconds < 30


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_dropped_terminal_and_a_schedulers_warning_ask_to_leave(number):
    """Unless hangups were ignored at the start, as by `nohup`. Bug seen: killed without a save."""
    name = signal.Signals(number).name
    code, said, _ = _signalled(["hold"], [(0, number)])
    assert code == 75 and said.startswith(f"{name}: saving, then leaving")
    if number == signal.SIGHUP:
        signals = [(0, number), (0.5, signal.SIGTERM)]
        code, said, _ = _signalled(["hold"], signals, wrapper=["nohup"])
        assert code == 75 and said.startswith("SIGTERM: saving") and said.count("\n") == 1


def test_a_signal_after_the_save_changes_no_exit_code():
    """Neither while the process cleans up, be it stuck there, nor in Python's own last steps. Bug
    seen: 143 of a run that was saved, in the first case and in the second."""
    wait = process.SAME_REQUEST_SECONDS + 0.5
    signals = [(0, signal.SIGTERM), (wait, signal.SIGTERM)]
    code, said, seconds = _signalled(["hold", "saved", "stuck"], signals[:1])
    assert (code, said) == (75, "SIGTERM: all is saved, leaving\n") and seconds < 30
    code, said, _ = _signalled(["hold", "end"], signals)
    assert code == 75 and said.count("\n") == 1


_STORY = processes.TINY_CONTROL | {
    "env.num_groups": 2,
    "total_env_steps": 10**8,
    "evaluation.interval_env_steps": 10**8,
    "checkpoint.resume_interval_env_steps": 200,
    "checkpoint.params_interval_env_steps": 10**8,
    "logging.interval_env_steps": 200,
}


def _until(happened, process, log):
    give_up = time.monotonic() + processes.PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.02)


def _limit_files(process, size):
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run on the host: its disk fills, has room again, fills for good; it is started again and
    interrupted. Returns (folder, exit codes, log, records, what a second process printed)."""
    base = tmp_path_factory.mktemp("story")
    workdir, log = base / "run", base / "log"
    arguments = processes.command(
        "train", "--config=configs/cartpole.py", f"--workdir={workdir}", **_STORY
    )
    steps = functools.partial(checkpoint.committed_steps, workdir / "checkpoints")
    process = processes.start(arguments, output=log)
    _until(steps, process, log)
    intruder = processes.finish(arguments, output=base / "intruder")
    # Files may not grow beyond this: too small for arrays, enough for the log.
    _limit_files(process, 20_000)
    _until(lambda: "failed:" in log.read_text(), process, log)
    _limit_files(process, resource.RLIM_INFINITY)
    newest = max(steps())
    _until(lambda: max(steps(), default=0) > newest, process, log)
    size = (workdir / "metrics.jsonl").stat().st_size
    _until(lambda: (workdir / "metrics.jsonl").stat().st_size > size, process, log)
    _limit_files(process, 20_000)
    codes = [intruder, process.wait(timeout=processes.PATIENCE_SECONDS)]
    full, written = log.read_text(), metrics.read_jsonl(workdir / "metrics.jsonl")
    newest = max(steps())
    process = processes.start([*arguments, "--resume=must"], output=log)
    size = (workdir / "metrics.jsonl").stat().st_size
    _until(lambda: (workdir / "metrics.jsonl").stat().st_size > size, process, log)
    process.send_signal(signal.SIGINT)
    codes.append(process.wait(timeout=processes.PATIENCE_SECONDS))
    return workdir, codes, full, log.read_text(), written, (base / "intruder").read_text(), newest


@pytest.mark.slow
@pytest.mark.envpool
def test_a_full_disk_is_reported_and_survived_until_it_stays_full(story):
    """A failed save is one line naming step and error, a later one is committed; three in a row
    end the run with code 74, the older ones untouched. Bugs seen: the tracebacks of orbax and
    tensorstore let through; a fourth save begun before the third failure ended the run."""
    _, codes, log, _, records, _, newest = story
    assert codes[1] == 74, log
    faults = [line for line in log.splitlines() if line.startswith("warning: saving step")]
    assert all("failed: " in line for line in faults) and len(faults) >= 4
    assert len(faults) == log.count("warning") - log.count("warning: metrics.jsonl")
    assert log.splitlines()[-1].startswith("error: the last saves of a resume point failed (3 in")
    assert "Traceback" not in log
    ages = [record["checkpoint/age_s"] for record in records]
    failed = [record["checkpoint/failed_saves"] for record in records]
    assert failed == sorted(failed) and failed[0] == 0 < failed[-1]
    assert min(ages) >= 0
    assert newest > 0 and "Exception ignored" not in log


@pytest.mark.slow
@pytest.mark.envpool
def test_two_runs_do_not_share_a_folder(story):
    """Planted bug seen: the lock let go of once `config.json` is written."""
    _, codes, _, _, _, said, _ = story
    assert codes[0] == 78
    assert said.startswith("error: --workdir: run dir is in use by ") and said.count("\n") == 1
    assert said.split()[-1].rpartition(":")[2].isdecimal()


@pytest.mark.slow
@pytest.mark.envpool
def test_ctrl_c_on_the_host_saves_the_last_iteration(story):
    """The environments' thread does not hold the process up. Fails if the last save is left out."""
    workdir, codes, _, log, _, _, newest = story
    assert codes[2] == 75, log
    end = checkpoint.read_meta(workdir / "checkpoints")["counters"]
    assert end["iteration"] > newest and "resuming at" in log
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    assert records[-1]["env_steps"] == end["env_steps"] and records[-1]["resumes"] == 1
    said = f"saved at {end['env_steps']} env steps; the same command goes on"
    assert log.splitlines()[-1] == said


def test_a_failed_save_is_booked_and_the_next_one_is_made(tmp_path, capfd):
    """Where the folder has become a file; only a vital store gives up, after three in a row. What
    is said is one line for each. Planted bugs seen: a save that failed at once booked as made by
    the next `wait`; params saves that end a run."""
    tree, clock = {"x": jax.numpy.arange(3)}, [0]
    (tmp_path / "config.json").write_text("{}")
    for vital in (True, False):
        folder = tmp_path / f"steps_{vital}"
        with checkpoint.CheckpointStore(folder, max_to_keep=2) as store:
            saver = saving.Saver(store, folder, vital=vital, clock=lambda: clock[0])
            saver.save(1, tree, {})
            clock[0] += 10
            saver.wait()
            assert saver.age_s() == 10
            good = folder.rename(tmp_path / f"aside_{vital}")
            folder.write_text("no folder")
            for step in (2, 3):
                saver.save(step, tree, {})
                saver.wait()
            assert (saver.failed, saver.failed_in_a_row) == (2, 2)
            folder.unlink()
            good.rename(folder)
            assert saver.age_s() == 10
            saver.save(4, tree, {})
            clock[0] += 1
            saver.finish(4)
            assert (saver.failed, saver.failed_in_a_row, saver.age_s()) == (2, 0, 1)
            folder.rename(good)
            folder.write_text("no folder")
            for step in (5, 6, 7):
                saver.save(step, tree, {})
            given_up = pytest.raises(StorageError, match="3 in a row")
            with given_up if vital else contextlib.nullcontext():
                saver.save(8, tree, {})
            with given_up if vital else contextlib.nullcontext():
                saver.finish(4)
            folder.unlink()
            good.rename(folder)
        assert checkpoint.committed_steps(folder) == [1, 4]
    said = [line for line in capfd.readouterr().err.splitlines() if "saving step" in line]
    assert [line.split()[3] for line in said] == ["2", "3", "5", "6", "7"] + [*"235678"]


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_full_disk_fails_each_save_once_and_leaves_nothing(size, tmp_path, capfd):
    """Files may not grow beyond a size, which stops the manifest, or the arrays alone: one line and
    one count for each save, three until the run is given up; the next save is whole, and nothing of
    the failed ones is left, though a thread of theirs goes on to write. Bugs seen: the errors of
    one save counted again, as `step None` and as the step after it; the folders of failed saves
    kept until the next process; the next save failed where one was written to while removed."""
    tree = {"x": jax.random.bits(jax.random.key(0), (100_000,), "uint8"), "y": jax.numpy.arange(9)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "config.json").write_text("{}")
    folder = tmp_path / "steps"
    with checkpoint.CheckpointStore(folder, max_to_keep=2) as store:
        saver = saving.Saver(store, folder, vital=True)
        saver.save(1, tree, {})
        saver.wait()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            for step in (2, 3, 4):
                saver.save(step, tree, {})
            saver.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (saver.failed, saver.failed_in_a_row) == (3, 3)
        with pytest.raises(StorageError, match="3 in a row"):
            saver.save(5, tree, {})
        saver.failed_in_a_row = 2
        failed = folder / "4.orbax-checkpoint-tmp"
        late = threading.Thread(target=_write_for_a_while, args=(failed,))
        late.start()
        saver.save(6, tree, {})
        late.join()
        saver.finish(6)
        assert (saver.failed, saver.failed_in_a_row) == (3, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "6"]
    said = [line for line in capfd.readouterr().err.splitlines() if "saving step" in line]
    assert all(line.startswith("warning: saving step ") for line in said) and len(said) <= 3


def _write_for_a_while(folder):
    for i in range(200):
        with contextlib.suppress(OSError):  # Removed between the two.
            folder.mkdir(exist_ok=True)
            (folder / f"{i}").write_text("late")
        time.sleep(0.002)


def test_a_run_folder_that_was_removed_is_never_saved_into(tmp_path, capfd):
    """Each save fails, and the last one ends the run with 74; so it does where the save has been
    made before the folder went. Bug seen: orbax made the folder again, without its config, and the
    run was called saved."""
    run, tree = tmp_path / "run", {"x": jax.numpy.arange(3)}
    for when in ("before the save", "after the save"):
        run.mkdir()
        (run / "config.json").write_text("{}")
        with checkpoint.CheckpointStore(run / "checkpoints", max_to_keep=2) as store:
            saver = saving.Saver(store, run / "checkpoints", vital=True)
            saver.save(1, tree, {})
            saver.finish(1)
            if when == "before the save":
                shutil.rmtree(run)
            saver.save(2, tree, {})
            saver.wait()
            if when == "after the save":
                assert store.steps() == [1, 2]
                shutil.rmtree(run)
                (run / "checkpoints").mkdir(parents=True)
            with pytest.raises(StorageError, match="removed|failed"):
                saver.finish(2)
        assert not list(run.rglob("metadata"))
        shutil.rmtree(run, ignore_errors=True)
    said = f"warning: saving step 2 failed: the run folder {run} has been removed;"
    assert capfd.readouterr().err.count(said) == 1


@pytest.mark.parametrize(
    "cause, code",
    [
        (jax.errors.JaxRuntimeError("ABORTED: Barrier failed: task 1 is gone"), 76),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 74),
        (OSError("no space left; the folder is called barrier"), 74),
    ],
)
def test_of_several_processes_one_failed_save_ends_the_run(tmp_path, monkeypatch, cause, code):
    """By 76 where a peer was lost, else by 74. Planted bugs seen: all of them 74; every error of
    the runtime a lost peer; the text alone looked at."""

    def wait():
        raise SaveError(f"saving step 1 failed: {cause}") from cause

    saver = saving.Saver(types.SimpleNamespace(wait=wait), tmp_path / "steps", vital=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Exception, match="^saving step 1 failed") as ended:
        saver.wait()
    assert ended.value.code == code


def test_a_full_disk_costs_lines_of_metrics_and_not_the_run(tmp_path, capfd):
    """`/dev/full` refuses each write, as a full disk does; reported once, and the writer comes
    back. Planted bug seen: the fault raised."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    path = workdir / "metrics.jsonl"
    writer = writers.make(workdir, 10, tensorboard=False)
    record = {"updates": 0, "wall_s": 0.0, "resumes": 0}
    writer.write(record | {"env_steps": 1})
    path.rename(workdir / "aside")
    path.symlink_to("/dev/full")
    writer.close()
    writer = writers.make(workdir, 10, tensorboard=False)
    for step in (2, 3):
        writer.write(record | {"env_steps": step})
    path.unlink()
    (workdir / "aside").write_bytes((workdir / "aside").read_bytes() + b'{"env_st')
    (workdir / "aside").rename(path)
    writer.write(record | {"env_steps": 4})
    writer.close()
    assert [r["env_steps"] for r in metrics.read_jsonl(path)] == [1, 4]
    assert capfd.readouterr().err.count("warning: metrics.jsonl cannot be written: ") == 1


def _origin(workdir):
    return json.loads((workdir / "config.json").read_text()).get("init_from")


def test_a_warm_start_is_the_source_and_is_written_down(whole, tmp_path):
    """Parameters, target parameters and score are those of the source; optimiser and counters are
    new; so it stays when a run without a resume point is started again. Planted bugs seen: fresh
    target parameters; the origin forgotten by the second start."""
    config, workdir = _config(total_env_steps=64), tmp_path / "run"
    experiment = build.experiment(config)
    _, tree, meta = processes.resume_point(experiment, whole)
    source = tree["params"]
    fresh = jax.jit(lambda: experiment.init().train)()
    iterated = []

    def iterate(run):
        iterated.append(jax.device_get(run.replace(counters=None).train))
        raise RuntimeError("killed")

    for init_from in (str(whole), None):
        with pytest.raises(RuntimeError, match="killed"):
            killed = experiment._replace(run=iterate)
            _train(config, workdir, experiment=killed, init_from=init_from)
        run = iterated.pop()
        fakes.assert_trees_equal(run.params, source)
        fakes.assert_trees_equal(run.target_params, source)
        fakes.assert_trees_equal(run.opt_state, fresh.opt_state)
        assert int(run.step) == 0
        origin = {"workdir": str(whole), "iteration": meta["counters"]["iteration"]}
        assert _origin(workdir) == origin | {"env_steps": meta["counters"]["env_steps"]}
    score = build.scorer(experiment, config, episodes=4, num_envs=2)
    assert score(run.params, [3, 4])["returns"] == score(source, [3, 4])["returns"]
    _train(config, workdir, init_from=str(whole))
    with pytest.raises(BadInputError, match="--init_from: the run in .* began with .*whole"):
        _train(config, workdir, init_from=str(workdir))
    assert _origin(workdir)["workdir"] == str(whole)


def test_a_warm_start_needs_its_source_once(whole, tmp_path):
    """A run with resume points goes on without it, by the same command, and keeps what was written
    of it. Planted bug seen: the source read at every start. Bug seen: the same command refused."""
    source, workdir = Path(shutil.copytree(whole, tmp_path / "source")), tmp_path / "run"
    _train(_config(total_env_steps=64), workdir, init_from=str(source))
    origin = _origin(workdir)
    shutil.rmtree(source)
    _train(_config(total_env_steps=128), workdir, init_from=str(source))
    with pytest.raises(BadInputError, match="--init_from: the run in .* began with .*sourc"):
        _train(_config(total_env_steps=128), workdir, init_from=str(tmp_path / "other"))
    assert _origin(workdir) == origin and origin["workdir"] == str(source)
    assert checkpoint.read_meta(workdir / "checkpoints")["counters"]["env_steps"] >= 128


def test_a_warm_start_from_another_network_is_refused_by_leaf(whole, tmp_path):
    """Before the folder is made. Planted bug seen: the folder claimed first."""
    said = r"--init_from: .*'bias'.* holds float32\[16\], wanted float32\[24\]"
    with pytest.raises(BadInputError, match=said):
        _train(_config(**{"network.width": 24}), tmp_path / "run", init_from=str(whole))
    assert not (tmp_path / "run").exists()
    empty = tmp_path / "empty"
    for folder, said in ((empty, "no folder"), (tmp_path, "no checkpoint in")):
        with pytest.raises(BadInputError, match=f"--init_from: {said}"):
            _train(_config(), tmp_path / "run", init_from=str(folder))


def _copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def _empty_all(step):
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def _spoil_lock(run):
    (run / "lock").unlink()
    (run / "lock").mkdir()


_FOLDERS = {  # Name: (what is done to a folder of a finished run, options, what the line says).
    "damaged": (lambda run: [*map(_empty_all, _steps(run))], {}, "no step in .* is readable"),
    "newer format": (lambda run: [*map(fakes.make_newer, _steps(run))], {}, "has format 2, not 1"),
    "no config": (lambda run: (run / "config.json").unlink(), {}, "without their config.json"),
    "half a config": (
        lambda run: (run / "config.json").write_text('{"seed": '),
        {},
        "config.json cannot be read",
    ),
    "no object": (lambda run: (run / "config.json").write_text("[]"), {}, "holds no JSON object"),
    "deep": (lambda run: (run / "config.json").write_text("[" * 10**5), {}, "cannot be read"),
    "no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe{}"), {}, "cannot be read"),
    "never": (lambda run: None, {"resume": "never"}, "--resume=never: .* holds a run"),
    "must": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        {"resume": "must"},
        "--resume=must: no resume point",
    ),
    "origin": (lambda run: None, {"init_from": "/"}, "began with fresh parameters"),
    "lock": (_spoil_lock, {}, "cannot be written"),
}


def _steps(run):
    return [path for name in ("checkpoints", "params") for path in (run / name).iterdir()]


@pytest.mark.parametrize("name", _FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(name, whole, tmp_path):
    """And stays as it is: a run never begins again on top of damage. Planted bug seen: the error of
    a checkpoint store let through as it is."""
    spoil, options, said = _FOLDERS[name]
    workdir = _copy(whole, tmp_path)
    spoil(workdir)
    before = sorted(str(path) for path in workdir.rglob("*"))
    with pytest.raises(BadInputError, match=said) as error:
        _train(_config(), workdir, **options)
    assert "\n" not in str(error.value).strip()
    assert sorted(str(path) for path in workdir.rglob("*")) == before
    if name in ("damaged", "newer format"):
        abstract = jax.eval_shape(_experiment(_config()).init).train.params
        with pytest.raises(BadInputError, match="--workdir: "):
            saving.newest_params(workdir, abstract)


def test_a_run_of_an_older_version_goes_on_by_its_own_config(whole, tmp_path):
    """Fields that came later have the value that did nothing before, one that is gone goes where it
    did nothing; and `config.json` goes on saying who began the run. Planted bugs seen: a default
    left out; the version that went on written over it."""
    assert json.loads((whole / "config.json").read_text())["version"] == muzero_jax.__version__
    workdir = _copy(whole, tmp_path)
    older = json.loads((workdir / "config.json").read_text())
    del older["version"]
    for name in schema.LATER:
        group, _, field = name.rpartition(".")
        del (older[group] if group else older)[field]
    older.pop("reanalyse")
    older["loss"]["mirror"] = False
    (workdir / "config.json").write_text(json.dumps(older))
    config = runs.read_config(workdir)
    schema.check(config)
    _train(config, workdir, resume="must")
    assert "version" not in json.loads((workdir / "config.json").read_text())
    assert config.reanalyse.fraction == 0 and "mirror" not in config.loss
    older["loss"]["mirror"] = True
    (workdir / "config.json").write_text(json.dumps(older))
    assert runs.read_config(workdir).loss.mirror, "and is refused by name when it is built"


def test_a_folder_with_a_space_and_letters_of_any_kind_is_a_folder(whole, tmp_path):
    """Fails if a path is printed or stored as ASCII; what is no path of text is refused."""
    workdir = tmp_path / "läufe und 木"
    _train(_config(total_env_steps=64), workdir)
    _train(_config(total_env_steps=64), workdir, resume="must")
    with pytest.raises(BadInputError, match="/proc/run cannot be written"):
        _train(_config(), Path("/proc/run"))
    for bad, said in ((os.fsdecode(b"runs/\xff"), "is not UTF-8"), ("", "is empty")):
        with pytest.raises(BadInputError, match=said):
            run_folder.check_name(bad)


def test_a_url_is_no_folder_and_a_tilde_is_the_home(tmp_path, monkeypatch):
    """For every flag of every script that names a file or folder, and for the words and the field
    that do. Bug seen: a folder `gs:` here, into which no save could be written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder.local_path("~/runs/a b", "--out") == f"{tmp_path}/runs/a b"
    assert run_folder.local_path("runs/a:b//c@5", "--opponent") == "runs/a:b//c@5"
    said = "^--out: s3://bucket/x is a URL"
    with pytest.raises(BadInputError, match=said):
        run_folder.local_path("s3://bucket/x", "--out")
    for refused in (
        lambda: results.find("gs://bucket/runs/*"),
        lambda: opponents.make("gs://bucket/run@5", _config(), None, flag="evaluation.opponent"),
    ):
        with pytest.raises(BadInputError, match="gs://bucket/run.* is a URL"):
            refused()
    texts = "".join(path.read_text() for path in (processes.ROOT / "experiments").glob("*.py"))
    plain = set(re.findall(r'DEFINE_string\(\s*"(\w+)"', texts))
    paths = set(re.findall(r'define_path\(\s*"(\w+)"', texts))
    assert plain <= {"coordinator", "y"}
    assert paths == {"config", "workdir", "init_from", "data", "out", "opponent"}


def test_a_url_is_refused_at_once(tmp_path):
    """One line, code 78, before JAX is imported, and nothing is made."""
    arguments = processes.command(
        "train", f"--config={processes.ROOT}/configs/cartpole.py", "--workdir=gs://bucket/run"
    )
    arguments[1:1] = ["-X", "importtime"]
    ran = subprocess.run(
        arguments,
        cwd=tmp_path,
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 78 and not list(tmp_path.iterdir())
    (line,) = [line for line in ran.stderr.splitlines() if not line.startswith("import time:")]
    assert line.startswith("error: ") and "--workdir" in line and "gs://bucket/run is a URL" in line
    assert not re.search(r"\| +jax\b", ran.stderr)


def test_processes_of_one_run_share_its_folder(tmp_path):
    """Found by who has claimed it, whatever the name; a name made of the time is that of the first
    process. Planted bug seen: what the lock says not looked at."""
    with run_folder.claim(runs.open_folder(tmp_path, _config())):
        multihost.check_shared(tmp_path)
    (tmp_path / "lock").write_text("elsewhere:1\n")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInputError, match="--workdir: .* is not the run folder of"):
            multihost.check_shared(folder, patience_s=0)
    assert str(run_folder.choose(None, "pong", 20261127080910.0)) == "runs/pong-20261127-080910"


def test_the_page_and_the_code_agree():
    """Exit codes in the table, scripts that a shell can parse. Planted bug seen: 74 and 75
    exchanged in `errors`."""
    page = (processes.ROOT / "docs" / "operations.md").read_text()
    table = page.split("## Exit codes")[1].split("A loop that")[0]
    meanings = dict(re.findall(r"^\| (\d+) \| ([\w ]+)", table, flags=re.MULTILINE))
    expected = {"done": 0, "asked to leave": 75, "ten updates in a row": 70, "bad flag": 78}
    expected["resume points could not be written"] = 74
    codes = {"done": DONE, "asked to leave": PREEMPTED}
    codes |= {"ten updates in a row": NOT_FINITE, "bad flag": BAD_INPUT}
    codes["resume points could not be written"] = STORAGE
    assert codes == expected
    for meaning, code in codes.items():
        assert meanings[str(code)].startswith(meaning)
    for script in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


_CLOCK = """
import itertools, os, time
real, looks, begin = time.time, itertools.count(), float(os.environ["BEGIN"])
time.time = lambda: real() + begin - 86_400 * (next(looks) // 100)
"""


@pytest.mark.slow
@pytest.mark.envpool
def test_a_run_survives_a_clock_that_jumps_and_few_file_handles(tmp_path, monkeypatch):
    """The clock is set back by a day at each hundredth look, and was two years ahead when the run
    is taken up; no more than 64 files may be open. Planted bug seen: `wall_s` by `time.time`.

    (A clock that leaps ahead within a save of orbax lets that one fail: the run says so and goes
    on.)
    """
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(_CLOCK)
    variables = dict(processes.environment())
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "clock"), variables["PYTHONPATH"]])
    monkeypatch.setattr(processes, "environment", lambda: variables)
    workdir, log = tmp_path / "run", tmp_path / "log"
    options = _STORY | {"total_env_steps": 600, "evaluation.interval_env_steps": 200}
    arguments = processes.command(
        "train", "--config=configs/cartpole.py", f"--workdir={workdir}", **options
    )
    arguments = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *arguments]
    variables["BEGIN"] = "0"
    processes.ask_to_leave(arguments, workdir, output=log)
    variables["BEGIN"] = str(2 * 365 * 86_400)
    assert processes.finish(arguments, output=log) == 0, log.read_text()
    records = metrics.read_jsonl(workdir / "metrics.jsonl")
    wall_s = [record["wall_s"] for record in records]
    assert wall_s == sorted(wall_s) and 0 < wall_s[-1] < 600 and records[-1]["env_steps"] >= 600
    assert all(record.get("checkpoint/failed_saves", 0) == 0 for record in records)
    assert "no progress" not in log.read_text() and "failed" not in log.read_text()


@pytest.mark.slow
def test_a_broken_compile_cache_costs_time_only(tmp_path, monkeypatch):
    """Every entry cut in half: the second process compiles again. Planted bug seen: none; this is a
    promise of JAX, looked after here."""
    cache = tmp_path / "cache"
    variables = processes.environment() | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    monkeypatch.setattr(processes, "environment", lambda: variables)
    for name in ("first", "second"):
        options = _OPTIONS | {"total_env_steps": 64}
        arguments = processes.command(
            "train",
            "--config=configs/cartpole.py:on_device",
            f"--workdir={tmp_path / name}",
            **options,
        )
        log = tmp_path / "log"
        assert processes.finish(arguments, output=log) == 0, log.read_text()
        entries = [path for path in cache.rglob("*-cache") if path.is_file()]
        assert entries
        for path in entries:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
