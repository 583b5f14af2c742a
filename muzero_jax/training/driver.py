"""The driver of every training run: folder, resume, cadences, metrics, and the ways to end."""

import contextlib
import ctypes
import functools
import math
from pathlib import Path
import time
from typing import Any

import jax

from muzero_jax import checkpoint, errors, mesh, metrics
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.learner import MAX_SKIPPED_IN_A_ROW
from muzero_jax.training import (
    collapse,
    memory,
    multihost,
    process,
    run_folder,
    saving,
    supports,
    writers,
)
from muzero_jax.training.experiment import Experiment, Schedule
from muzero_jax.training.run_folder import RunFolder
from muzero_jax.training.saving import Saver, saved_tree
from muzero_jax.training.timing import Interval, ReanalyseCost, crossed
from muzero_jax.types import Counters, RunState

# How long the first iterations and evaluations may take, in which everything is compiled.
COMPILING_S = 3600.0


def train(
    experiment: Experiment,
    folder: RunFolder | Path | str,
    schedule: Schedule,
    *,
    resume: str = "auto",
    init_from: str | None = None,
    watchdog_s: float = 1800.0,
    title: str = "an agent made by code",
    epilogue: str = "",
) -> Counters:
    """Trains to the end of the schedule; the same call goes on with an interrupted run.

    The folder holds `config.json`, `metrics.jsonl`, `checkpoints/` (resume points), `params/`, and
    in `best/` the parameters with the best score of an evaluation.
    Signals end the run with a resume point where `process.install_handlers` was called.

    Args:
      experiment: what is trained.
      folder: of the run: a path, or what `run_folder.open_folder` has checked.
      schedule: how long, and what how often.
      resume: "auto"; "must" refuses a folder without a resume point, "never" one with a run. Like
        `init_from` it is for a path: an opened folder has been checked already.
      init_from: folder of another run, whose newest parameters a new run begins with.
      watchdog_s: the process ends when an iteration takes longer than so many seconds.
      title: what is trained, for the first line of output.
      epilogue: ends the last line of a run that ends well, such as the command that scores it.

    Returns:
      How far the run has come.

    Raises:
      Ending: one of `errors`, in one line: input that has to change, a disk that is full, updates
        that are not finite, a lost process, or a request to leave, for which all was saved.
      EnvError: an environment broke its contract.
      DatasetError: a dataset that is read has been damaged.
    """
    if not isinstance(folder, RunFolder):
        folder = run_folder.open_folder(
            Path(folder),
            describe(experiment, schedule),
            resume=resume,
            init_from=init_from,
            data=experiment.data,
            may_change=("schedule.",),
        )
    try:
        with contextlib.ExitStack() as stack:
            counters = _train(stack, experiment, folder, schedule, watchdog_s, title)
    except errors.CheckpointError as error:
        raise errors.BadInputError(str(error)) from None
    except errors.SaveError as error:
        raise saving.as_ending(error) from None
    _log_done(folder.path, counters, epilogue)
    return counters


def describe(experiment: Experiment, schedule: Schedule) -> dict[str, Any]:
    """What `config.json` holds of a run that was made by code: the schedule, the numbers of the
    experiment, and every array's shape and dtype."""
    shapes = jax.tree_util.tree_flatten_with_path(jax.eval_shape(experiment.init))[0]
    names = ("batch_size", "num_envs", "acting_batch", "rows_at_once")
    return {
        "made_by": "code",
        "schedule": schedule._asdict(),
        "numbers": {name: getattr(experiment, name) for name in names}
        | experiment.agent.window._asdict(),
        "arrays": {
            jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
            for path, x in shapes
            if hasattr(x, "dtype")
        },
    }


def _train(
    stack,
    experiment: Experiment,
    folder: RunFolder,
    schedule: Schedule,
    watchdog_s: float,
    title: str,
) -> Counters:
    workdir, origin = folder.path, folder.init_from
    stack.callback(process.clear_request)
    needed = memory.estimate(experiment)
    memory.check(needed)
    warm = None
    if origin and not checkpoint.committed_steps(workdir / "checkpoints"):
        warm, origin = saving.warm_params(experiment, origin["workdir"])
    path = workdir / "metrics.jsonl"
    written = metrics.read_jsonl(path) if path.exists() else []
    multihost.barrier()  # Before the first one writes anything, all have seen what was there.
    if multihost.is_primary():
        stack.enter_context(run_folder.claim(folder._replace(init_from=origin)))
    if jax.process_count() > 1:
        multihost.check_shared(workdir)
    shapes = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))  # Traced before.
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    multihost.print_once(
        f"{title}: {size:,} parameters, {experiment.agent.num_simulations} simulations for each"
        f" action\nrun in {workdir} on {jax.default_backend()} x{experiment.mesh.size}\n{needed}"
    )
    points, params, best = (
        stack.enter_context(CheckpointStore(workdir / name, max_to_keep=number))
        for name, number in (
            ("checkpoints", schedule.resume_points_to_keep),
            ("params", schedule.params_to_keep),
            (saving.BEST, 1),
        )
    )
    run, meta = saving.start(experiment, points, written, warm)
    for store in (params, best):
        store.set_aside_damaged({"params": _shapes_of(run.train.params)})
    if saving.has_stopped(run, written, schedule.stop_at):
        return run.counters
    writer = stack.enter_context(
        contextlib.closing(
            writers.make(
                workdir,
                schedule.total_env_steps,
                tensorboard=schedule.tensorboard,
                tracker=schedule.tracker,
            )
        )
    )
    savers = (
        Saver(points, workdir / "checkpoints", vital=True),
        Saver(params, workdir / "params", vital=False),
        Saver(best, workdir / saving.BEST, vital=False),
    )
    for saver in savers:  # Booked before the stores close: it must not hide how the run ended.
        stack.callback(saver.wait)
    # Of a process that was killed there may be lines from after its last resume point.
    so_far = [record for record in written if record["env_steps"] <= run.counters.env_steps]
    kept = saving.Best(savers[-1], best, workdir / saving.BEST)
    driver = _Driver(
        experiment, schedule, *savers, kept, writer, meta["wall_s"], watchdog_s, so_far
    )
    counters, preempted = driver.drive(run, saving.is_owed(meta, written))
    if preempted:
        raise errors.PreemptedError(
            f"saved at {counters.env_steps} env steps; the same command goes on"
        )
    return counters


def _shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _log_done(workdir: Path, counters: Counters, epilogue: str) -> None:
    """Prints the last line of a run that ends well: what it reached, and where it is."""
    if multihost.is_primary():
        score = ""
        with contextlib.suppress(OSError):
            for record in metrics.read_jsonl(workdir / "metrics.jsonl"):
                if record.get("eval/return_mean") is not None:
                    score = f", score {record['eval/return_mean']:.4g} at {record['env_steps']}"
        process.log_stderr(f"done at {counters.env_steps} env steps{score}, in {workdir}{epilogue}")


class _Driver:
    """One process's part of a run: everything that happens between iterations."""

    def __init__(
        self,
        experiment: Experiment,
        schedule: Schedule,
        points: Saver,
        params: Saver,
        best: Saver,
        kept: saving.Best,
        writer,
        wall_s: float,
        watchdog_s: float,
        written: list[dict[str, Any]],
    ):
        self._experiment = experiment
        self._schedule = schedule
        self._points = points
        self._params = params
        self._best, self._kept = best, kept
        self._writer = writer
        self._begin = time.perf_counter() - wall_s
        self._watchdog_s = watchdog_s
        # What was asked of this process, or of any other.
        self._asked = False
        self._reanalyse = ReanalyseCost(experiment)
        self._supports = supports.Supports(experiment.agent)
        self._collapse = _make_collapse(experiment, written)

    def _breaks_off(self) -> bool:
        """Called at every step of an evaluation's games: whether to leave them."""
        process.expect_progress(max(self._watchdog_s, COMPILING_S))
        return process.preemption_requested()

    def drive(self, run: RunState, evaluation_owed: bool) -> tuple[Counters, bool]:
        """Runs the loop to its end; every cadence counts env steps.

        Returns:
          How far it came, all of which is saved; whether it was asked to leave.
        """
        total, before = self._schedule.total_env_steps, run.counters.env_steps
        scores = self._experiment.score is not None
        done = evaluation_owed and scores and self._evaluate(run)
        if done or before >= total or multihost.any_process(self._out_of_time())[0]:
            return run.counters, False
        agreement, patience_s = multihost.Agreement(self._experiment.mesh), COMPILING_S
        process.expect_progress(patience_s)
        acts = self._experiment.data is None
        interval = Interval(run.counters, self._experiment.agent.num_simulations if acts else 0)
        late = None  # Metrics are read one iteration late: the device never waits for a log.
        with contextlib.closing(self._experiment.run(run)) as loop:
            for run, news in loop:
                process.hold()
                self._asked, late_enough = agreement.any_process(
                    process.preemption_requested(), self._out_of_time()
                )
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
                process.expect_progress(patience_s)
                before = after
            process.expect_progress(None)
            for saver in (self._best, self._params, self._points):
                saver.wait()
            self._read(interval, *late, end=True)
            self._supports.look(run, interval)
            self._points.finish(run.counters.iteration)  # No run ends well without its last point.
            process.settle(errors.PREEMPTED if preempted else errors.DONE)
            # The loop waits for its environments when it is closed, and they may be stuck.
            process.expect_progress(self._watchdog_s)
        process.expect_progress(None)
        return run.counters, preempted

    def _is_due(self, before: int, after: int) -> bool:
        schedule = self._schedule
        cadences = (schedule.save_every, schedule.save_params_every, schedule.evaluate_every)
        return any(crossed(before, after, cadence) for cadence in cadences)

    def _save_and_evaluate(self, run: RunState, before: int, done: bool) -> tuple[bool, bool]:
        """Does what is due, saves first, so that no evaluation can lose a run.

        Returns:
          Whether to stop; whether the process was asked to leave and has saved for it.
        """
        after = run.counters.env_steps
        due = done or crossed(before, after, self._schedule.evaluate_every)
        due = due and self._experiment.score is not None
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
        limit = self._schedule.max_wall_minutes
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
        if end or hopeless or interval.is_over(counters, self._schedule.log_every):
            fault = interval.fault(counters)
            values = interval.take(counters)
            if self._experiment.data is not None:  # It does not act.
                del values["train/episodes"]
            again = self._reanalyse.simulations_per_update
            values["speed/simulations_per_s"] += again * values["speed/updates_per_s"]
            values |= self._reanalyse.share(values["speed/updates_per_s"])
            values["checkpoint/age_s"] = self._points.age_s()
            savers = (self._points, self._params, self._best)
            values["checkpoint/failed_saves"] = sum(saver.failed for saver in savers)
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
        """Scores the parameters, writes the score and keeps the best ones; whether it ends the
        run."""
        counters, stop_at = run.counters, self._schedule.stop_at
        stopped = solved = better = False
        score = 0.0
        if multihost.is_primary():
            begin = time.perf_counter()
            try:
                # Every evaluation plays other games: the iteration is their number.
                result = self._experiment.score(
                    mesh.own_copy(run.train.params), counters.iteration, self._breaks_off
                )
                result["seconds"] = time.perf_counter() - begin
                if not math.isfinite(result["return_mean"]):
                    process.log_stderr(
                        "warning: an evaluation met rewards that are not finite: no score"
                    )
                self._write(counters, {f"eval/{name}": x for name, x in result.items()})
                score = result["return_mean"]
                solved = stop_at is not None and score >= stop_at
                better = self._kept.is_better(score)
            except errors.StoppedError:
                stopped = True
        else:
            process.expect_progress(None)  # The first one is watched, and this one watches it.
        stopped, solved, better = multihost.any_process(stopped, solved, better)
        if stopped:
            raise errors.StoppedError
        if better:  # The manifest is the primary process's, which knows the score.
            self._kept.keep(score, run.train.params, self._meta(run))
        return solved

    def _save(self, run: RunState, before: int, *, last: bool, evaluation_due: bool) -> bool:
        """Saves what is due, or all; not a run whose newest update was not finite."""
        after = run.counters.env_steps
        skipped_in_a_row = jax.device_get(run.train.skipped_in_a_row)
        _check_finite(skipped_in_a_row, run.counters)
        if skipped_in_a_row:
            return False
        meta = self._meta(run) | {"evaluation_due": evaluation_due}
        step = run.counters.iteration
        if last or crossed(before, after, self._schedule.save_params_every):
            self._params.save(step, {"params": run.train.params}, meta)
        if last or crossed(before, after, self._schedule.save_every):
            self._points.save(step, saved_tree(run), meta)
        return True

    def _meta(self, run: RunState) -> dict[str, Any]:
        """What is saved beside arrays of any kind."""
        return {
            "counters": run.counters._asdict(),
            "wall_s": time.perf_counter() - self._begin,
        }


def _make_collapse(experiment: Experiment, written) -> collapse.Collapse | None:
    """What looks for a collapse; not where the agent plays itself, or learns from stored data."""
    spec = experiment.agent.spec
    if spec.turn_sign == -1 or experiment.data is not None:
        return None
    num_actions = spec.num_actions if spec.action.is_discrete else None
    return collapse.Collapse(
        num_actions=num_actions, num_envs=experiment.num_envs, before=written
    )


def _check_finite(skipped_in_a_row, counters: Counters) -> None:
    if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise errors.NotFiniteError(
            f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, the last of them before"
            f" update {counters.updates}; nothing was saved since. Lower the learning rate"
        )


def _return_freed_memory() -> None:
    """Returns freed heap pages to the system, which glibc does not do by itself.

    Compiling leaves several hundred MiB of them, scattered, and later allocations touch ever more
    of what was never used before. C libraries without `malloc_trim` are left as they are.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
