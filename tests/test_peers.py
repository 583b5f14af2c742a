"""Several processes of one run: two of them with two devices each, on one machine.

They train, save, are asked to leave, killed, stopped and stuck; none may wait for another for ever.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import command_line
from muzero_jax import checkpoint, errors, make_mesh
from muzero_jax.config import build
from muzero_jax.training import multihost
from presets import config_of
import processes
from processes import ROOT, TINY_CONTROL

PATIENCE_SECONDS = 400
_OPTIONS = TINY_CONTROL | {
    "env.num_envs": 8,
    "replay.min_rows": 96,
    "replay.rows_per_update": 32,
    "evaluation.interval_env_steps": 100_000,
    "checkpoint.resume_interval_env_steps": 500,
    "logging.interval_env_steps": 250,
}


def _free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def _start(folder, *, total, script=None, words=(), config="cartpole.py:on_device"):
    """Two processes that train together; their words are in `folder/0.log` and `1.log`."""
    port = _free_port()
    started = []
    for rank in range(2):
        command = processes.command(
            "train",
            f"--config=configs/{config}",
            f"--workdir={folder / 'run'}",
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={rank}",
            *words,
            **_OPTIONS | {"total_env_steps": total},
        )
        if script and rank == 1:
            command[1:2] = [str(script), command[1]]
        log = (folder / f"{rank}.log").open("ab")
        environment = processes.environment() | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_PLATFORMS": "cpu",
        }
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        )
    return started


def _wait(folder, started, patience_seconds=PATIENCE_SECONDS):
    """Their exit codes."""
    try:
        return [process.wait(timeout=patience_seconds) for process in started]
    except subprocess.TimeoutExpired:
        for process in started:
            process.send_signal(signal.SIGABRT)
        pytest.fail("".join((folder / f"{i}.log").read_text()[-3000:] for i in range(2)))


def _wait_for_a_save(folder, started):
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not checkpoint.committed_steps(folder / "run" / "checkpoints"):
        assert all(process.poll() is None for process in started), _said(folder)
        assert time.monotonic() < give_up, _said(folder)
        time.sleep(0.1)


def _said(folder):
    return "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(2))


def _counters(folder):
    return checkpoint.read_meta(folder / "run" / "checkpoints")["counters"]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cartpole.py:on_device", "cartpole.py:host"])
def test_two_processes_train_leave_together_die_and_go_on(tmp_path, config):
    """SIGTERM to the second alone: both save the same step and exit with 75. The next pair is
    killed; the last goes on to the end. Planted bug seen: each process looks at its own request
    (the first waits until its peer is declared dead)."""
    started = _start(tmp_path, total=10**8, config=config)
    _wait_for_a_save(tmp_path, started)
    started[1].send_signal(signal.SIGTERM)
    assert _wait(tmp_path, started) == [75, 75], _said(tmp_path)
    left = _counters(tmp_path)
    assert left["env_steps"] >= 500 and left["updates"] > 0

    started = _start(tmp_path, total=10**8, config=config)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while _counters(tmp_path)["iteration"] == left["iteration"]:
        assert time.monotonic() < give_up, _said(tmp_path)
        time.sleep(0.1)
    for process in started:
        process.kill()
    assert _wait(tmp_path, started) == [-signal.SIGKILL] * 2
    killed = _counters(tmp_path)
    assert killed["resumes"] == 1 and killed["env_steps"] > left["env_steps"]

    total = killed["env_steps"] + 600
    started = _start(tmp_path, total=total, config=config)
    assert _wait(tmp_path, started) == [0, 0], _said(tmp_path)
    end = _counters(tmp_path)
    assert end["resumes"] == 2 and end["env_steps"] >= total
    # Rows of all processes, every one of them counted once.
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["resumes"] for x in lines] == sorted(x["resumes"] for x in lines)
    steps = [x["env_steps"] for x in lines if x["resumes"] == 2 and "train/loss" in x]
    assert steps == sorted(set(steps)) and steps[-1] == end["env_steps"]
    assert "resuming" not in (tmp_path / "1.log").read_text()  # The first one prints.


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_a_run_with_one_line(tmp_path, rank):
    """Seen to fail with the library's heartbeat alone: an abort with code 134 and all stacks."""
    started = _start(tmp_path, total=10**8)
    _wait_for_a_save(tmp_path, started)
    started[rank].kill()
    codes = _wait(tmp_path, started)
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 76, codes
    last = (tmp_path / f"{1 - rank}.log").read_text().splitlines()[-1]
    assert last == f"error: process {rank} is gone, see its log; the same command goes on"


_TOGETHER = """
import sys
from muzero_jax.training import multihost as peers
peers.join("localhost:" + sys.argv[1], 3, int(sys.argv[2]), 120)
peers.barrier()
print("ready", flush=True)
while True:
    peers.barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_all_others_within_two_minutes(tmp_path, rank, number):
    """Killed or suspended, the coordinator or another one: code 76, one line each. The one that was
    suspended ends, too, once it is continued. Seen to fail with the library's heartbeat alone (an
    abort), and with one through its key-value store where the coordinator was killed."""
    arguments = [sys.executable, "-c", _TOGETHER]
    environment = processes.environment() | {"JAX_PLATFORMS": "cpu"}
    port, logs = _free_port(), [tmp_path / f"{i}.log" for i in range(3)]
    started = [
        subprocess.Popen(
            [*arguments, str(port), str(i)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True,
        )
        for i, log in enumerate(logs)
    ]
    try:
        for process in started:
            assert any(line == "ready\n" for line in process.stdout)
        started[rank].send_signal(number)
        begin, others = time.monotonic(), [i for i in range(3) if i != rank]
        codes = [started[i].wait(PATIENCE_SECONDS) for i in others]
        assert codes == [76, 76] and time.monotonic() - begin < 120
        started[rank].send_signal(signal.SIGCONT)
        code = started[rank].wait(PATIENCE_SECONDS)
        assert code == (76 if number == signal.SIGSTOP else -signal.SIGKILL)
    finally:
        for process in started:
            process.kill()
    reason = "is gone" if number == signal.SIGKILL else "for 60 s"
    lines = [[x for x in logs[i].read_text().splitlines() if "error: " in x] for i in others]
    assert all(len(x) == 1 and "see its log; the same command goes on" in x[0] for x in lines)
    assert any(f"process {rank} {reason}" in x[0] for x in lines), lines


_FAULTY = """
import runpy, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, {folder!r})
from muzero_jax import errors
from muzero_jax.training.multihost import Agreement
real, calls = Agreement.any_process, []
def faulty(self, *flags):
    calls.append(1)
    if len(calls) > 20:
        {fault}
    return real(self, *flags)
Agreement.any_process = faulty
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _start_faulty(folder, fault, **options):
    """Two processes, of which the second does `fault` (a statement) in place of its 21st vote."""
    script = folder / "faulty.py"
    script.write_text(_FAULTY.format(folder=str(ROOT / "experiments"), fault=fault))
    return _start(folder, total=10**8, script=script, **options)


@pytest.mark.slow
@pytest.mark.parametrize("error, code", [("ValueError", 1), ("errors.BadInputError", 78)])
def test_a_process_that_fails_alone_ends_the_others(tmp_path, error, code):
    """With its own code and words; the others name it. Seen to fail before: each waited for the
    other, until the library lost its patience."""
    started = _start_faulty(tmp_path, f'raise {error}("planned")')
    assert _wait(tmp_path, started) == [76, code], _said(tmp_path)
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert logs[0].splitlines()[-1].startswith("error: process 1 has failed, see its log")
    assert "planned" in logs[1] and ("Traceback" in logs[1]) == (code == 1)


@pytest.mark.slow
def test_a_stuck_process_ends_both(tmp_path):
    """Its heart beats, its main thread sleeps for ever; the first watchdog ends both. Planted bug
    seen: no watchdog."""
    started = _start_faulty(tmp_path, "time.sleep(10**6)", words=["--watchdog_minutes=0.2"])
    codes = _wait(tmp_path, started)
    assert codes == [76, 76], _said(tmp_path)
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert any("no progress" in log and "most recent call first" in log for log in logs)


def _refused(*words, **options):
    ran = subprocess.run(
        processes.command("train", "--config=configs/cartpole.py:on_device", *words, **options),
        cwd=ROOT,
        env=processes.environment() | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 78, ran.stderr
    lines = ran.stderr.strip().splitlines()
    return lines[-1]


@pytest.mark.parametrize(
    "coordinator, num_processes, process_id, reason",
    [
        ("localhost:1", None, None, "go together"),
        (None, 2, None, "go together"),
        (None, None, 0, "go together"),
        ("here", 2, 0, "HOST:PORT"),
        ("localhost:1", 2, 2, "--process_id must be <"),
        ("auto", 2, None, "--coordinator=auto"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(coordinator, num_processes, process_id, reason):
    """Planted bug seen: `--num_processes` alone ignored."""
    with pytest.raises(errors.BadInputError, match=reason):
        multihost.join(coordinator, num_processes, process_id, 5)
    multihost.join(None, None, None, 5)  # A run of one process.


def test_devices_that_are_not_there():
    """Planted bug seen: eight devices for `--devices=9`."""
    assert command_line.choose_devices(None) == jax.devices()
    assert command_line.choose_devices(1) == jax.devices()[:1]
    count = len(jax.devices())
    with pytest.raises(errors.BadInputError, match=f"--devices: {count + 1} of {count} devices"):
        command_line.choose_devices(count + 1)


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_and_peers_that_do_not_come(tmp_path):
    """One line in bounded time, for those who wait. Seen to fail where the library lost its
    patience first: it aborts the process."""
    for rank in (1, 0):
        begin = time.monotonic()
        words = [f"--coordinator=localhost:{_free_port()}", "--num_processes=2"]
        words += [f"--process_id={rank}", "--join_timeout_s=5", f"--workdir={tmp_path / 'run'}"]
        assert "within 5 s" in _refused(*words)
        assert time.monotonic() - begin < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", [("cartpole", "on_device"), ("cartpole", "host")])
def test_what_cannot_be_split_names_field_and_devices(config):
    """Planted bug seen: an IndivisibleError of the library."""
    devices = jax.devices("cpu")[:4]
    for fields in (
        {"env.num_envs": 6, "replay.rows_per_update": 24},
        {"replay.batch_size": 9},
    ):
        changed = config_of(*config, **_OPTIONS | fields)
        field = re.escape(next(iter(fields)))
        with pytest.raises(errors.BadInputError, match=rf"{field}.* 4 devices \(got \d+\)"):
            build.experiment(changed, devices)


def test_one_process_agrees_with_itself_at_once():
    """Planted bug seen: an answer of the turn before."""
    agreement = multihost.Agreement(make_mesh())
    assert agreement.any_process(True, False) == [True, False] == multihost.any_process(True, False)
    assert multihost.is_primary() and multihost.barrier() is None
    assert np.array_equal(multihost.sum_over_processes([1.5, 2]), [1.5, 2.0])


def test_a_save_that_waited_for_a_lost_process_is_not_the_disks(tmp_path):
    """Wherever it fails: in the loop, or while the stores close. Planted bug seen: the latter
    reported as a full disk (74)."""
    config = config_of("cartpole", "on_device")
    experiment = build.experiment(config)
    waited = jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out. 1/2 tasks came")
    for cause, kind in ((waited, errors.PeerError), (OSError("no room"), errors.StorageError)):
        error = errors.SaveError("saving step 3 failed")
        error.__cause__ = cause

        def run(state, error=error):
            raise error
            yield

        with pytest.raises(kind, match="saving step 3 failed"):
            processes.train(config, tmp_path / "run", experiment=experiment._replace(run=run))


def test_the_watchdog_ends_a_process_that_gets_nowhere(tmp_path):
    """With the stacks of all threads, unless it is called off. Planted bug seen: a deadline that
    is never moved."""
    code = """
import sys, time
from muzero_jax.training import process as lifetime
lifetime.expect_progress(0.5)
for _ in range(6):
    time.sleep(0.3)
    lifetime.expect_progress(2.0)
lifetime.expect_progress(None)
time.sleep(3)
print("alive", flush=True)
lifetime.expect_progress(0.2)
def asleep():
    time.sleep(60)
asleep()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env=dict(os.environ),
    )
    assert ran.returncode == 76 and ran.stdout == "alive\n", ran.stderr
    assert "no progress" in ran.stderr and "in asleep" in ran.stderr
