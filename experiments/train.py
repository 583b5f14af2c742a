"""The driver of every training script: folder, resume, cadences, metrics."""

from collections.abc import Sequence
import contextlib
import ctypes
import functools
import math
from pathlib import Path
import shlex
import time
from typing import Any

import jax

import assemble
import budget
import collapse
import evaluate
from intervals import Interval, crossed
import lifetime
from muzero_jax import checkpoint, errors, mesh, metrics
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.data import dataset
from muzero_jax.envs import host
from muzero_jax.errors import CheckpointError, DatasetError, EnvError, SaveError
from muzero_jax.learner import MAX_SKIPPED_IN_A_ROW
from muzero_jax.types import Counters, RunState
import peers
import reanalysing
import saves
from saves import Saver
import start
from start import saved_tree
import supports
import workdirs
import writers

# How long the first iterations and evaluations may take, in which everything is compiled.
COMPILING_S = 3600.0


def train(
    config,
    workdir: Path,
    *,
    resume: str = "auto",
    init_from: str | None = None,
    devices: Sequence[jax.Device] | None = None,
    watchdog_s: float = 1800.0,
    data: str | None = None,
) -> None:
    """Trains by a validated config; the same call goes on with an interrupted run.

    Args:
      config: validated.
      workdir: folder of the run.
      resume: "auto"; "must" refuses a folder without a resume point, "never" one with a run.
      init_from: folder of another run, whose newest parameters a new run begins with.
      devices: to train on; None is the first one.
      watchdog_s: the process ends when an iteration takes longer than so many seconds.
      data: folder of a dataset to learn from, in place of environments.
    """
    try:
        with contextlib.ExitStack() as stack:
            _train(stack, config, workdir, resume, init_from, devices, watchdog_s, data)
    except DatasetError as error:
        raise errors.BadInputError(f"--data: {error}") from None
    except CheckpointError as error:
        raise errors.BadInputError(str(error)) from None
    except SaveError as error:
        raise saves.as_ending(error) from None
    except EnvError as error:
        raise errors.BadInputError(f"env: {error}") from None


def _train(
    stack, config, workdir: Path, resume: str, init_from: str | None, devices, watchdog_s, data
) -> None:
    rows = None if data is None else dataset.open_dataset(data)
    identity = None if data is None else rows.identity
    origin = workdirs.check(workdir, config, resume=resume, init_from=init_from, data=identity)
    experiment = assemble.build(config, devices, rows)
    told = budget.estimate(config, experiment)
    budget.check(told)
    warm = None
    if origin and not checkpoint.committed_steps(workdir / "checkpoints"):
        warm, origin = start.warm_params(experiment, origin["workdir"])
    path = workdir / "metrics.jsonl"
    written = metrics.read_jsonl(path) if path.exists() else []
    peers.meet()  # Before the first one writes anything, all have seen what was there.
    if peers.is_first():
        stack.enter_context(workdirs.claim(workdir, config, init_from=origin, data=identity))
    if jax.process_count() > 1:
        peers.check_shared(workdir)
    peers.tell(f"run in {workdir} on {jax.default_backend()} x{experiment.mesh.size}\n{told}")
    keep = config.checkpoint
    points, params = (
        stack.enter_context(CheckpointStore(workdir / name, max_to_keep=number))
        for name, number in (("checkpoints", keep.max_to_keep), ("params", keep.params_to_keep))
    )
    run, meta = start.start(experiment, points, written, warm)
    params.set_aside_damaged({"params": _shapes_of(run.train.params)})
    if start.has_stopped(run, written, config.evaluation.stop_at):
        _tell_done(workdir, run.counters)
        return
    writer = stack.enter_context(contextlib.closing(writers.make(config, workdir)))
    savers = (
        Saver(points, workdir / "checkpoints", vital=True),
        Saver(params, workdir / "params", vital=False),
    )
    for saver in savers:  # Booked before the stores close: it must not hide how the run ended.
        stack.callback(saver.wait)
    # Of a process that was killed there may be lines from after its last resume point.
    so_far = [record for record in written if record["env_steps"] <= run.counters.env_steps]
    driver = _Driver(config, experiment, *savers, writer, meta["wall_s"], watchdog_s, so_far)
    counters, preempted = driver.drive(run, start.is_owed(meta, written))
    if preempted:
        raise errors.PreemptedError(
            f"saved at {counters.env_steps} env steps; the same command goes on"
        )
    _tell_done(workdir, counters)


def _shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _tell_done(workdir: Path, counters: Counters) -> None:
    """The last line of a run that ends well: what it reached, where it is, how it is scored."""
    if not peers.is_first():
        return
    score = ""
    with contextlib.suppress(OSError):
        for record in metrics.read_jsonl(workdir / "metrics.jsonl"):
            if record.get("eval/return_mean") is not None:
                score = f", score {record['eval/return_mean']:.4g} at {record['env_steps']}"
    lifetime.say(
        f"done at {counters.env_steps} env steps{score}, in {workdir}; score it: python"
        f" experiments/evaluate.py --workdir={shlex.quote(str(workdir))}"
    )


class _Driver:
    """One process's part of a run: everything that happens between iterations."""

    def __init__(
        self,
        config,
        experiment,
        points: Saver,
        params: Saver,
        writer,
        wall_s: float,
        watchdog_s: float,
        written: list[dict[str, Any]],
    ):
        self._config = config
        self._experiment = experiment
        self._points = points
        self._params = params
        self._writer = writer
        self._begin = time.perf_counter() - wall_s
        self._watchdog_s = watchdog_s
        # What was asked of this process, or of any other.
        self._asked = False
        self._reanalyse = reanalysing.Stopwatch(experiment.parts, experiment.mesh)
        self._supports = supports.Supports(experiment.parts)
        self._collapse = _make_collapse(config, experiment, written)
        self._score = evaluate.make_scorer(
            experiment,
            config,
            episodes=config.evaluation.episodes,
            num_envs=config.evaluation.num_envs,
            stop=self._breaks_off,
        )

    def _breaks_off(self) -> bool:
        """Called at every step of an evaluation's games: whether to leave them."""
        lifetime.expect_progress(max(self._watchdog_s, COMPILING_S))
        return lifetime.asked()

    def drive(self, run: RunState, evaluation_owed: bool) -> tuple[Counters, bool]:
        """Runs the loop to its end; every cadence counts env steps.

        Returns:
          How far it came, all of which is saved; whether it was asked to leave.
        """
        total, before = self._config.total_env_steps, run.counters.env_steps
        done = evaluation_owed and self._evaluate(run)
        if done or before >= total or peers.any_of(self._out_of_time())[0]:
            return run.counters, False
        agreement, patience_s = peers.Agreement(self._experiment.mesh), COMPILING_S
        lifetime.expect_progress(patience_s)
        interval = Interval(run.counters)
        late = None  # Metrics are read one iteration late: the device never waits for a log.
        with contextlib.closing(self._experiment.iterate(run)) as loop:
            for run, news in loop:
                lifetime.hold()
                self._asked, late_enough = agreement.any_of(lifetime.asked(), self._out_of_time())
                after = run.counters.env_steps
                if late is not None:
                    self._read(interval, *late)
                    patience_s = self._watchdog_s  # An iteration is over, and all is compiled.
                self._supports.look(run, interval)  # Before a save: what it refuses is no run.
                late = (run.counters, news)
                done = after >= total or late_enough
                if done or self._asked or self._is_due(before, after):
                    jax.block_until_ready(run.train)  # What is being computed is training time.
                    with interval.paused():
                        done, preempted = self._save_and_evaluate(run, before, done)
                        _return_freed_memory()
                    if done or preempted:
                        break
                self._reanalyse.look(run, interval)
                lifetime.expect_progress(patience_s)
                before = after
            lifetime.expect_progress(None)
            self._params.wait()
            self._points.wait()
            self._read(interval, *late, end=True)
            self._supports.look(run, interval)
            self._points.finish(run.counters.iteration)  # No run ends well without its last point.
            lifetime.settle(errors.PREEMPTED if preempted else errors.DONE)
            # The loop waits for its environments when it is closed, and they may be stuck.
            lifetime.expect_progress(self._watchdog_s)
        lifetime.expect_progress(None)
        return run.counters, preempted

    def _is_due(self, before: int, after: int) -> bool:
        saves, evaluation = self._config.checkpoint, self._config.evaluation
        cadences = (saves.resume_interval_env_steps, saves.params_interval_env_steps)
        cadences += (evaluation.interval_env_steps,)
        return any(crossed(before, after, cadence) for cadence in cadences)

    def _save_and_evaluate(self, run: RunState, before: int, done: bool) -> tuple[bool, bool]:
        """Does what is due, saves first, so that no evaluation can lose a run.

        Returns:
          Whether to stop; whether the process was asked to leave and has saved for it.
        """
        after, config = run.counters.env_steps, self._config
        due = done or crossed(before, after, config.evaluation.interval_env_steps)
        save = functools.partial(self._save, run, before, evaluation_due=due)
        # A run whose newest update was not finite cannot be saved: it goes on until it can.
        if self._asked:
            saved = save(last=True)
            return done and saved, saved
        if not save(last=done) and done:
            return False, False
        if not due:
            return done, False
        try:
            done = self._evaluate(run) or done
        except errors.StoppedError:
            saved = save(last=True)
            return done and saved, saved
        return done and save(last=True), False

    def _out_of_time(self) -> bool:
        limit = self._config.max_wall_minutes
        return limit is not None and time.perf_counter() - self._begin > 60 * limit

    def _read(
        self, interval: Interval, counters: Counters, news: dict[str, Any], end: bool = False
    ) -> None:
        """Books an iteration's metrics, and writes a line where one is due."""
        news = jax.device_get(news)
        interval.add(news)
        self._supports.note(news)
        skipped_in_a_row = news.get("train/skipped_in_a_row", 0)
        hopeless = skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW
        if end or hopeless or interval.is_over(counters, self._config.logging.interval_env_steps):
            fault = interval.fault(counters)
            values = interval.take(counters, self._config)
            if self._experiment.data is not None:  # Nobody acts.
                values["speed/simulations_per_s"] = 0.0
                del values["train/episodes"]
            again = self._experiment.parts.simulations_per_update
            values["speed/simulations_per_s"] += again * values["speed/updates_per_s"]
            values |= self._reanalyse.share(values["speed/updates_per_s"])
            values["checkpoint/age_s"] = self._points.age_s()
            values["checkpoint/failed_saves"] = self._points.failed + self._params.failed
            self._write(counters, values)
            if fault is not None:
                raise errors.NotFiniteError(fault)
        _check_finite(skipped_in_a_row, counters)

    def _write(self, counters: Counters, values: dict[str, Any]) -> None:
        record = {
            "env_steps": counters.env_steps,
            "updates": counters.updates,
            "wall_s": time.perf_counter() - self._begin,
            "resumes": counters.resumes,
            **values,
        }
        self._writer.write(record)
        if self._collapse is not None:
            self._collapse.look(record)

    def _evaluate(self, run: RunState) -> bool:
        """Scores the parameters and writes the score; whether it ends the run."""
        counters, config = run.counters, self._config.evaluation
        # Every evaluation plays other games: the iteration stands for the group of the seeds.
        seeds = host.env_seeds(
            self._config.seed, host.EVAL, 0, counters.iteration, config.num_envs
        )
        stopped = solved = False
        if peers.is_first():
            begin = time.perf_counter()
            try:
                result = self._score(mesh.own_copy(run.train.params), seeds)
                result["seconds"] = time.perf_counter() - begin
                if not math.isfinite(result["return_mean"]):
                    lifetime.say("warning: an evaluation met rewards that are not finite: no score")
                self._write(counters, {f"eval/{name}": x for name, x in result.items()})
                solved = config.stop_at is not None and result["return_mean"] >= config.stop_at
            except errors.StoppedError:
                stopped = True
        else:
            lifetime.expect_progress(None)  # The first one is watched, and this one watches it.
        stopped, solved = peers.any_of(stopped, solved)
        if stopped:
            raise errors.StoppedError
        return solved

    def _save(self, run: RunState, before: int, *, last: bool, evaluation_due: bool) -> bool:
        """Saves what is due, or all; not a run whose newest update was not finite."""
        after, cadence = run.counters.env_steps, self._config.checkpoint
        skipped_in_a_row = jax.device_get(run.train.skipped_in_a_row)
        _check_finite(skipped_in_a_row, run.counters)
        if skipped_in_a_row:
            return False
        meta = {
            "counters": run.counters._asdict(),
            "wall_s": time.perf_counter() - self._begin,
            "evaluation_due": evaluation_due,
        }
        step = run.counters.iteration
        if last or crossed(before, after, cadence.params_interval_env_steps):
            self._params.save(step, {"params": run.train.params}, meta)
        if last or crossed(before, after, cadence.resume_interval_env_steps):
            self._points.save(step, saved_tree(run), meta)
        return True


def _make_collapse(config, experiment, written) -> collapse.Collapse | None:
    """What looks for a collapse; not where the agent plays itself, or data that others made."""
    spec = experiment.parts.spec
    if spec.turn_sign == -1 or experiment.data is not None:
        return None
    fields = "raise explore.random_move"
    if "min_value_range" in config.search:
        fields = "raise search.min_value_range, below which differences of Q count as noise, or"
        fields += " explore.random_move"
    return collapse.Collapse(
        num_actions=spec.num_actions, num_envs=config.env.num_envs, advice=fields, before=written
    )


def _check_finite(skipped_in_a_row, counters: Counters) -> None:
    if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise errors.NotFiniteError(
            f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, the last of them before"
            f" update {counters.updates}; nothing was saved since. Lower optimizer.learning_rate"
        )


def _return_freed_memory() -> None:
    """Returns freed heap pages to the system, which glibc does not do by itself.

    Compiling leaves several hundred MiB of them, scattered, and later allocations touch ever more
    of what was never used before. C libraries without `malloc_trim` are left as they are.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
