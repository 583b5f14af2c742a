"""Real processes of the experiments: started, killed, looked into."""

import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import jax
from ml_collections import ConfigDict

from muzero_jax import checkpoint, training
from muzero_jax.config import build, runs
from muzero_jax.errors import PREEMPTED
from muzero_jax.training.saving import saved_tree

ROOT = Path(__file__).resolve().parents[1]
CACHE = str(ROOT / ".jax_cache")  # Of compiled programs, for the tests and what they start.
PATIENCE_SECONDS = 240

TINY = {
    "env.num_envs": 4,
    "search.num_simulations": 2,
    "codec.value.num_bins": 11,
    "replay.rows_per_env": 512,
    "replay.min_rows": 48,
    "replay.rows_per_update": 8,
    "replay.batch_size": 8,
    "targets.unroll_steps": 2,
    "targets.bootstrap_steps": 3,
    "loop.steps_per_iteration": 4,
    "loop.probe_interval_iterations": 2,
    "evaluation.episodes": 4,
    "evaluation.num_envs": 2,
    "evaluation.max_steps": 30,
}
TINY_CONTROL = TINY | {"network.width": 16, "network.history_steps": 2}
TINY_ATARI = TINY | {
    "network.stages": "((4, 8, 8, 0), (4, 4, 4, 0))",
    "network.channels": 4,
    "network.representation_blocks": 0,
    "network.head_planes": 1,
    "network.head_width": 8,
}


def command(script, *words, **options):
    """The command line of `experiments/<script>.py`; `options` are fields of the config."""
    fields = [f"--config.{name}={value}" for name, value in options.items()]
    return [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *words, *fields]


def environment():
    """Environment variables; compiled programs are kept between tests."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": CACHE,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


def start(arguments, *, output, errors=None):
    """Starts a process that appends what it says to files."""
    with open(output, "ab") as out, open(errors or output, "ab") as err:
        return subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=out, stderr=err)


def finish(arguments, *, output, patience_seconds=PATIENCE_SECONDS):
    """Runs to the end; returns the exit code."""
    return start(arguments, output=output).wait(timeout=patience_seconds)


# Imports are most of a start: they are made once, and each command is a fork of that process.
_FORKS = """
import json, os, runpy, signal, sys, traceback
cases, scripts = json.loads(sys.stdin.read()), sys.argv[1]
sys.path.insert(0, scripts)
import jax
import evaluate, record, train
from muzero_jax import training
from muzero_jax.config import build
for script, words, variables, errors in cases:
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(200)
    os.environ.update(variables)
    for name, value in variables.items():  # JAX has read its own before.
        jax.config.update(name.lower(), value)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv, code = [script, *words], 1
    try:
        runpy.run_path(f"{scripts}/{script}.py", run_name="__main__")
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)
"""


def refusals(cases, *, cwd):
    """[(exit code, standard error)] of commands that are expected to end before they train.

    Each of `cases` is (script, words, environment variables). JAX reports every compilation on
    standard error.
    """
    errors = [cwd / f"errors_{number}" for number in range(len(cases))]
    commands = [(*case, str(path)) for case, path in zip(cases, errors, strict=True)]
    ran = subprocess.run(
        [sys.executable, "-c", _FORKS, str(ROOT / "experiments")],
        cwd=cwd,
        env=environment() | {"JAX_LOG_COMPILES": "1"},
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    codes = [int(line) for line in ran.stdout.splitlines()]
    return [(code, path.read_text()) for code, path in zip(codes, errors, strict=True)]


def kill_after_a_save(arguments, workdir, *, output):
    """Starts, waits for a new resume point, then kills -9 at a random moment soon after.

    Returns the newest committed resume point.
    """
    before = set(checkpoint.committed_steps(workdir / "checkpoints"))
    process = start(arguments, output=output)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not set(checkpoint.committed_steps(workdir / "checkpoints")) - before:
        assert process.poll() is None, Path(output).read_text()
        assert time.monotonic() < give_up, "no resume point"
        time.sleep(0.02)
    delay = random.uniform(0, 0.5)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"ended before a kill after {delay} s"
    return checkpoint.committed_steps(workdir / "checkpoints")[-1]


def ask_to_leave(arguments, workdir, *, output):
    """Starts, waits for a new line of metrics, then sends SIGTERM; nothing may be lost."""
    path = workdir / "metrics.jsonl"
    seen = path.read_bytes() if path.exists() else b""  # A kill may come before the first line.
    process = start(arguments, output=output)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not path.exists() or path.read_bytes() == seen:
        assert process.poll() is None, Path(output).read_text()
        assert time.monotonic() < give_up, "no line of metrics"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == PREEMPTED, Path(output).read_text()
    last = json.loads(path.read_text().splitlines()[-1])
    counters = checkpoint.read_meta(workdir / "checkpoints")["counters"]
    assert (last["env_steps"], last["updates"]) == (counters["env_steps"], counters["updates"])


def train(config, workdir, *, experiment=None, **options):
    """Trains by a config; `experiment` in place of the config's own."""
    if experiment is None:
        return build.train(config, Path(workdir), **options)
    folder = runs.open_folder(Path(workdir), config, **options)
    return training.train(experiment, folder, build.schedule(config))


def experiment_of(workdir):
    """(config, experiment) of the run in a folder."""
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    return config, build.experiment(config)


def resume_point(experiment, workdir):
    """(step, tree, meta) of the newest resume point."""
    target = jax.eval_shape(lambda: saved_tree(experiment.init()))
    return checkpoint.restore_newest(workdir / "checkpoints", target)
