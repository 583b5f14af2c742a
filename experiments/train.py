"""The driver of every training script: folder, resume, cadences, metrics."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
import time
from typing import Any

import jax
import numpy as np

import assemble
import evaluate
import launch
from muzero_jax import metrics
from muzero_jax.checkpoint import CheckpointError, CheckpointStore
from muzero_jax.envs import host
from muzero_jax.learner import MAX_SKIPPED_IN_A_ROW
from muzero_jax.types import Counters, RunState
import workdirs


def train(config, workdir: Path) -> None:
    """Trains by a validated config; the same call goes on with an interrupted run."""
    workdirs.check(workdir, config)
    experiment = assemble.build(config)
    workdirs.claim(workdir, config)
    print(f"run in {workdir}", flush=True)
    with contextlib.ExitStack() as stack:
        keep = config.checkpoint.max_to_keep
        resume_points = stack.enter_context(
            CheckpointStore(workdir / "checkpoints", max_to_keep=keep)
        )
        params_saves = stack.enter_context(CheckpointStore(workdir / "params", max_to_keep=keep))
        path = workdir / "metrics.jsonl"
        written = metrics.read_jsonl(path) if path.exists() else []
        run, wall_s = _start(experiment, resume_points, written)
        if _has_stopped(run, written, config.evaluation.stop_at):
            return
        writer = stack.enter_context(contextlib.closing(_make_writer(config, workdir)))
        _Driver(config, experiment, resume_points, params_saves, writer, wall_s).drive(run)


def _has_stopped(run: RunState, written: list[dict], stop_at: float | None) -> bool:
    """Whether an evaluation up to this point has already ended the run."""
    return stop_at is not None and any(
        record.get("eval/return_mean", -np.inf) >= stop_at
        for record in written
        if record["env_steps"] <= run.counters.env_steps
    )


def saved_tree(run: RunState) -> dict[str, Any]:
    """What a resume point holds; counters stand in its JSON. Params alone are easy to read."""
    rest = run.replace(train=run.train.replace(params=None), counters=None)
    return {"params": run.train.params, "rest": rest}


def _start(
    experiment: assemble.Experiment, store: CheckpointStore, written: list[dict]
) -> tuple[RunState, float]:
    """The newest resume point, or a new run; and the seconds spent before."""
    target = jax.eval_shape(lambda: saved_tree(experiment.fresh()))
    try:
        found = store.restore(target)
    except CheckpointError as error:
        raise launch.BadInputError(str(error)) from None
    resumes = max((record["resumes"] for record in written), default=-1) + 1
    if found is None:
        run = jax.jit(lambda: experiment.fresh().replace(counters=None))()
        return run.replace(counters=Counters(resumes=resumes)), 0.0
    _, tree, meta = found
    counters = Counters(**meta["counters"])
    counters = counters._replace(resumes=max(resumes, counters.resumes + 1))
    print(
        f"resuming at {counters.env_steps} env steps, {counters.updates} updates"
        f" (resume {counters.resumes}); host environments begin new episodes",
        flush=True,
    )
    run = tree["rest"]
    run = run.replace(train=run.train.replace(params=tree["params"]), counters=counters)
    return run, meta["wall_s"]


def _make_writer(config, workdir: Path) -> metrics.Writer:
    writers = [
        metrics.make_jsonl_writer(workdir / "metrics.jsonl"),
        metrics.make_progress_writer(config.total_env_steps),
    ]
    if config.logging.tensorboard:
        writers.append(metrics.make_tensorboard_writer(workdir / "tensorboard"))
    return metrics.combine(*writers)


class _Driver:
    """One process's part of a run: everything that happens between iterations."""

    def __init__(self, config, experiment, resume_points, params_saves, writer, wall_s):
        self._config = config
        self._experiment = experiment
        self._resume_points = resume_points
        self._params_saves = params_saves
        self._writer = writer
        self._begin = time.perf_counter() - wall_s
        self._score = evaluate.make_scorer(
            experiment,
            config,
            episodes=config.evaluation.episodes,
            num_envs=config.evaluation.num_envs,
        )

    def drive(self, run: RunState) -> None:
        """Runs the loop to its end; every cadence counts env steps."""
        config = self._config
        interval = _Interval(run.counters)
        before = run.counters.env_steps
        late = None  # Metrics are read one iteration late: the device never waits for a log.
        done = before >= config.total_env_steps or self._out_of_time()
        loop: Iterator = iter(()) if done else self._experiment.iterate(run)
        for run, news in loop:
            after = run.counters.env_steps
            if late is not None:
                self._read(interval, *late)
            late = (run.counters, news)
            done = after >= config.total_env_steps or self._out_of_time()
            if done or self._is_due(before, after):
                jax.block_until_ready(run.train)  # What is still being computed is training time.
                with interval.paused():
                    done = self._save_and_evaluate(run, before, done)
            if done:
                break
            before = after
        if late is not None:
            self._read(interval, *late, end=True)

    def _is_due(self, before: int, after: int) -> bool:
        config = self._config
        return any(
            _crossed(before, after, cadence)
            for cadence in (
                config.evaluation.interval_env_steps,
                config.checkpoint.resume_interval_env_steps,
                config.checkpoint.params_interval_env_steps,
            )
        )

    def _save_and_evaluate(self, run: RunState, before: int, done: bool) -> bool:
        """Does what is due; saves first, so that no evaluation can lose a run. Whether to stop."""
        after, config = run.counters.env_steps, self._config
        self._save(run, before, done)
        if done or _crossed(before, after, config.evaluation.interval_env_steps):
            result = self._evaluate(run)
            self._write(run.counters, result)
            stop_at = config.evaluation.stop_at
            if stop_at is not None and result["eval/return_mean"] >= stop_at:
                self._save(run, before, True)
                return True
        return done

    def _out_of_time(self) -> bool:
        limit = self._config.max_wall_minutes
        return limit is not None and time.perf_counter() - self._begin > 60 * limit

    def _read(
        self, interval: "_Interval", counters: Counters, news: dict[str, Any], end: bool = False
    ) -> None:
        """Books an iteration's metrics, and writes a line where one is due."""
        news = jax.device_get(news)
        interval.add(news)
        skipped_in_a_row = news.get("train/skipped_in_a_row", 0)
        hopeless = skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW
        if end or hopeless or interval.is_over(counters, self._config.logging.interval_env_steps):
            self._write(counters, interval.take(counters, self._config))
        _check_finite(skipped_in_a_row, counters)

    def _write(self, counters: Counters, values: dict[str, Any]) -> None:
        self._writer.write(
            {
                "env_steps": counters.env_steps,
                "updates": counters.updates,
                "wall_s": time.perf_counter() - self._begin,
                "resumes": counters.resumes,
                **values,
            }
        )

    def _evaluate(self, run: RunState) -> dict[str, Any]:
        counters, config = run.counters, self._config
        # Every evaluation plays other games: the iteration stands for the group of the seeds.
        seeds = host.env_seeds(
            config.seed, host.EVAL, 0, counters.iteration, config.evaluation.num_envs
        )
        begin = time.perf_counter()
        result = self._score(run.train.params, seeds)
        result["seconds"] = time.perf_counter() - begin
        return {f"eval/{name}": x for name, x in result.items()}

    def _save(self, run: RunState, before: int, done: bool) -> None:
        """Saves what is due; a run whose newest update was not finite is not saved."""
        after, cadence = run.counters.env_steps, self._config.checkpoint
        skipped_in_a_row = jax.device_get(run.train.skipped_in_a_row)
        _check_finite(skipped_in_a_row, run.counters)
        if skipped_in_a_row:
            return
        meta = {
            "counters": run.counters._asdict(),
            "wall_s": time.perf_counter() - self._begin,
        }
        # Before a kill the run may have been further on than its newest resume point, and a run
        # that is stopped by its evaluation may have been saved just before.
        step = run.counters.iteration
        params_due = done or _crossed(before, after, cadence.params_interval_env_steps)
        if params_due and step > max(self._params_saves.steps(), default=-1):
            self._params_saves.save(step, {"params": run.train.params}, meta)
        resume_due = done or _crossed(before, after, cadence.resume_interval_env_steps)
        if resume_due and step > max(self._resume_points.steps(), default=-1):
            self._resume_points.save(step, saved_tree(run), meta)


def _check_finite(skipped_in_a_row, counters: Counters) -> None:
    if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise launch.NotFiniteError(
            f"{MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, the last of them before"
            f" update {counters.updates}; nothing was saved since. Lower optimizer.learning_rate,"
            " or look for rewards and observations that are not finite"
        )


def _crossed(before: int, after: int, interval: int) -> bool:
    return before // interval != after // interval


class _Interval:
    """What happened since the last line of metrics; evaluation and saving do not count as time."""

    def __init__(self, counters: Counters):
        self._restart(counters)
        self._shares: dict[str, float] = {}

    def _restart(self, counters: Counters) -> None:
        self._counters, self._begin, self._paused = counters, time.perf_counter(), 0.0
        self._values: dict[str, float] = {}
        self._return_sum, self._episodes = 0.0, 0.0

    @contextlib.contextmanager
    def paused(self):
        """Time inside is not training time."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def is_over(self, counters: Counters, interval_env_steps: int) -> bool:
        """Whether a line is due."""
        return _crossed(self._counters.env_steps, counters.env_steps, interval_env_steps)

    def add(self, news: dict[str, Any]) -> None:
        """Takes one iteration's metrics: returns add up, of the rest the newest counts."""
        news = dict(news)
        # NaN everywhere says that the iteration made no update.
        updated = np.isfinite(news.get("train/skipped_in_a_row", np.nan))
        self._return_sum += float(news.pop("train/return_sum"))
        self._episodes += float(news.pop("train/episodes"))
        for name, value in news.items():
            if name.startswith("speed/share_"):
                self._shares[name] = value  # Told only by the iterations that were probes.
            elif updated or not name.startswith("train/"):
                self._values[name] = float(value)

    def take(self, counters: Counters, config) -> dict[str, float]:
        """The values of one line of metrics; then starts anew."""
        old, seconds = self._counters, time.perf_counter() - self._begin - self._paused
        rows = (counters.rows - old.rows) / seconds
        values = self._values | self._shares
        values |= {
            "speed/env_steps_per_s": (counters.env_steps - old.env_steps) / seconds,
            "speed/simulations_per_s": rows * config.search.num_simulations,
            "speed/updates_per_s": (counters.updates - old.updates) / seconds,
            "train/episodes": self._episodes,
        }
        if self._episodes:
            values["train/return_mean"] = self._return_sum / self._episodes
        self._restart(counters)
        return values
