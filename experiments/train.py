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
import validate
import workdirs


def train(config, workdir: Path) -> None:
    """Trains to `total_env_steps`; the same call goes on with an interrupted run."""
    validate.check(config)
    workdirs.claim(workdir, config)
    experiment = assemble.build(config)
    with contextlib.ExitStack() as stack:
        keep = config.checkpoint.max_to_keep
        resume_points = stack.enter_context(
            CheckpointStore(workdir / "checkpoints", max_to_keep=keep)
        )
        params_saves = stack.enter_context(CheckpointStore(workdir / "params", max_to_keep=keep))
        run, wall_s = _start(experiment, resume_points, workdir)
        writer = stack.enter_context(contextlib.closing(_make_writer(config, workdir)))
        _Driver(config, experiment, resume_points, params_saves, writer, wall_s).drive(run)


def saved_tree(run: RunState) -> dict[str, Any]:
    """What a resume point holds; counters stand in its JSON. Params alone are easy to read."""
    rest = run.replace(train=run.train.replace(params=None), counters=None)
    return {"params": run.train.params, "rest": rest}


def _start(
    experiment: assemble.Experiment, store: CheckpointStore, workdir: Path
) -> tuple[RunState, float]:
    """The newest resume point, or a new run; and the seconds spent before."""
    path = workdir / "metrics.jsonl"
    written = metrics.read_jsonl(path) if path.exists() else []
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
        config, done = self._config, run.counters.env_steps >= self._config.total_env_steps
        interval = _Interval(run.counters)
        before = run.counters.env_steps
        late = None  # Metrics are read one iteration late: the device never waits for a log.
        loop: Iterator = iter(()) if done else self._experiment.iterate(run)
        for run, news in loop:
            after = run.counters.env_steps
            if late is not None:
                self._read(interval, *late)
                if interval.is_over(late[0], config.logging.interval_env_steps):
                    self._write(late[0], interval.take(late[0], config))
            late = (run.counters, news)
            done = after >= config.total_env_steps or self._out_of_time()
            extra = {}
            if done or _crossed(before, after, config.evaluation.interval_env_steps):
                with interval.paused():
                    extra = self._evaluate(run)
                self._write(run.counters, extra)
                stop_at = config.evaluation.stop_at
                done |= stop_at is not None and extra["eval/return_mean"] >= stop_at
            with interval.paused():
                self._save(run, before, done)
            if done:
                break
            before = after
        if late is not None:
            self._read(interval, *late)
            self._write(late[0], interval.take(late[0], config))

    def _out_of_time(self) -> bool:
        limit = self._config.max_wall_minutes
        return limit is not None and time.perf_counter() - self._begin > 60 * limit

    def _read(self, interval: "_Interval", counters: Counters, news: dict[str, Any]) -> None:
        news = jax.device_get(news)
        _check_finite(news.get("train/skipped_in_a_row", 0), counters)
        interval.add(news)

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
        # Every evaluation plays other games: its index is the group of the seeds.
        index = counters.iteration
        seeds = host.env_seeds(
            config.seed, host.EVAL, 0, index, config.evaluation.num_envs
        )
        begin = time.perf_counter()
        result = self._score(run.train.params, seeds)
        result["seconds"] = time.perf_counter() - begin
        return {f"eval/{name}": x for name, x in result.items()}

    def _save(self, run: RunState, before: int, done: bool) -> None:
        """Saves what is due; a run that is not finite is never saved."""
        after, cadence = run.counters.env_steps, self._config.checkpoint
        resume_due = done or _crossed(before, after, cadence.resume_interval_env_steps)
        params_due = done or _crossed(before, after, cadence.params_interval_env_steps)
        if not (resume_due or params_due):
            return
        _check_finite(jax.device_get(run.train.skipped_in_a_row), run.counters)
        meta = {
            "counters": run.counters._asdict(),
            "wall_s": time.perf_counter() - self._begin,
        }
        step = run.counters.iteration
        # Before a kill the run may have been further on than its newest resume point.
        if params_due and step > max(self._params_saves.steps(), default=-1):
            self._params_saves.save(step, {"params": run.train.params}, meta)
        if resume_due:
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
        self._return_sum += float(news.pop("train/return_sum"))
        self._episodes += float(news.pop("train/episodes"))
        for name, value in news.items():
            if name.startswith("speed/share_"):
                self._shares[name] = value  # Told only by the iterations that were probes.
            elif np.isfinite(value):
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
