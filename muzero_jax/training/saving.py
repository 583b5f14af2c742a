"""What a run saves, and how it is restored: resume points, and parameters alone.

A save may fail: each failure is reported within one interval, and tried again at the next.
"""

from collections.abc import Callable
import math
from pathlib import Path
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from muzero_jax import checkpoint, errors, mesh
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.errors import BadInputError, CheckpointError, SaveError
from muzero_jax.training import multihost, process
from muzero_jax.training.experiment import Experiment
from muzero_jax.types import Counters, Params, RunState

MAX_FAILED_IN_A_ROW = 3

# What jax's coordination service says of processes that it has lost.
_WAITING = re.compile("barrier|heartbeat|coordination", re.IGNORECASE)


class Saver:
    """One store of a run, seen by a driver for which a failed save is news and no exception.

    A `vital` one gives up after three failures in a row. The folder of the run, in which that of
    the store lies, holds `config.json`. `clock` gives seconds.

    Attributes:
      failed: saves of this process that failed.
      failed_in_a_row: of these, how many since the last one that was committed.
    """

    def __init__(
        self,
        store: CheckpointStore,
        folder: Path,
        *,
        vital: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._store, self._folder, self._vital, self._clock = store, folder, vital, clock
        self._begun: tuple[int, float] | None = None  # (step, time) of the save under way.
        self._safe_since = clock()
        self.failed = self.failed_in_a_row = 0

    def save(self, step: int, tree: Any, meta: dict) -> None:
        """Starts to save, unless this step or a newer one is committed.

        A resumed run begins behind params saves that were made after its resume point.

        Raises:
          StorageError: of a vital store, three saves in a row have failed; of several processes,
            one has.
          PeerError: another process is gone or stuck.
        """
        self.wait()
        self._check(allowed=MAX_FAILED_IN_A_ROW - 1)
        try:
            if step <= max(self._store.steps(), default=-1):
                return
            self._check_run_folder()
            # Orbax waits for a minute for a folder that cannot be made.
            if multihost.is_primary():
                (self._folder / "probe").mkdir(exist_ok=True)
                (self._folder / "probe").rmdir()
            begin = self._clock()
            self._store.save(step, tree, meta)
            self._begun = (step, begin)
        except OSError as error:
            self._book_failure(step, error)

    def wait(self) -> None:
        """Waits for the save under way, and books how it ended; raises as `save` does."""
        begun, self._begun = self._begun, None
        try:
            self._store.wait()
        except OSError as error:
            self._book_failure(begun and begun[0], error)
        else:
            if begun is not None:
                self._safe_since, self.failed_in_a_row = begun[1], 0

    def age_s(self) -> float:
        """Seconds of work that a kill would lose: since the state of the newest committed save."""
        if self._begun is not None and self._begun[0] in self._store.steps():
            self.wait()
        return self._clock() - self._safe_since

    def finish(self, step: int) -> None:
        """Waits for the last save; raises `StorageError` if a vital store has not committed it."""
        self.wait()
        self._check(allowed=0)
        try:
            self._check_run_folder()
            if step not in self._store.steps():
                raise FileNotFoundError(f"no whole step {step} in {self._folder}")
        except OSError as error:
            if self._vital:
                raise errors.StorageError(
                    f"the last resume point has been removed or damaged: {error}"
                ) from None

    def _check_run_folder(self) -> None:
        # Orbax would make it again, without the rest of the run.
        if not (self._folder.parent / "config.json").exists():
            raise FileNotFoundError(f"the run folder {self._folder.parent} has been removed")

    def _check(self, *, allowed: int) -> None:
        if self._vital and self.failed_in_a_row > allowed:
            raise errors.StorageError(
                f"the last saves of a resume point failed ({self.failed_in_a_row} in a row), see"
                " above; older ones are untouched. Make room or mend the folder; the same command"
                " goes on"
            )

    def _book_failure(self, step: int | None, error: OSError) -> None:
        self.failed += 1
        self.failed_in_a_row += 1
        message = error if isinstance(error, SaveError) else f"saving step {step} failed: {error}"
        if _is_of_peers(error) or jax.process_count() > 1:  # The others may wait for this one.
            raise as_ending(error, message=message) from None
        process.log_stderr(
            f"warning: {message}; the run goes on and saves again at the next interval"
        )


class Best:
    """Keeps the parameters that an evaluation in the run has scored best, beside the newest ones.

    Published scores come from the last parameters all the same: the best of many scores is better
    than what it scores. `store` is that of `saver`; a run that goes on knows the score kept.
    """

    def __init__(self, saver: Saver, store: CheckpointStore, folder: Path):
        kept = checkpoint.read_meta(folder) or {}
        self._saver = saver
        self._score = kept.get("score", -math.inf)
        self._number = max(store.steps(), default=-1)

    def is_better(self, score: float) -> bool:
        """Whether a score is above all that have been kept; what is not finite is not."""
        return math.isfinite(score) and score > self._score

    def keep(self, score: float, params: Params, meta: dict[str, Any]) -> None:
        """Saves parameters with a better score; every process has to call it."""
        self._score, self._number = score, self._number + 1
        self._saver.save(self._number, {"params": params}, meta | {"score": score})


def as_ending(error: OSError, *, message: str | None = None) -> Exception:
    """What a failed save ends the run as, where it does: by another process, or by the disk."""
    message = message or str(error)
    if _is_of_peers(error):
        return errors.PeerError(
            f"{message}; another process is gone or stuck, see its log; the same command goes on"
        )
    several = "; with several processes that ends the run" if jax.process_count() > 1 else ""
    return errors.StorageError(f"{message}{several}")


def _is_of_peers(error: BaseException | None) -> bool:
    """Whether it began where processes wait for each other, and not at the disk."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and _WAITING.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def saved_tree(run: RunState) -> dict[str, Any]:
    """What a resume point holds; counters stand in its JSON. Params alone are easy to read."""
    rest = run.replace(train=run.train.replace(params=None), counters=None)
    return {"params": run.train.params, "rest": rest}


def start(
    experiment: Experiment,
    store: CheckpointStore,
    written: list[dict],
    warm: Params | None = None,
) -> tuple[RunState, dict[str, Any]]:
    """The newest resume point, or a new run (from `warm` parameters); and the meta of it.

    `written` are the lines of metrics that are there already.
    """
    found = store.restore(saved_tree(_placed_shapes(experiment)))
    resumes = max((record["resumes"] for record in written), default=-1) + 1
    if found is None:
        run = new_run(experiment, warm)
        return run.replace(counters=Counters(resumes=resumes)), {"wall_s": 0.0}
    _, tree, meta = found
    counters = counters_of(meta, "the newest resume point")
    if not isinstance(meta.get("wall_s"), int | float):
        raise errors.BadInputError(f"the newest resume point has wall_s {meta.get('wall_s')!r}")
    counters = counters._replace(resumes=max(resumes, counters.resumes + 1))
    run = tree["rest"]
    on_host = run.env is None and run.acting is not None
    multihost.print_once(
        f"resuming at {counters.env_steps} env steps, {counters.updates} updates"
        f" (resume {counters.resumes})" + ("; new episodes begin" if on_host else "")
    )
    run = run.replace(train=run.train.replace(params=tree["params"]), counters=counters)
    return run, meta


def _placed_shapes(experiment: Experiment) -> RunState:
    return mesh.shard_run(jax.eval_shape(experiment.init), experiment.mesh)


def new_run(experiment: Experiment, warm: Params | None = None) -> RunState:
    """The state of a run that begins now, on its devices; with the parameters `warm`, or fresh."""
    shapes = _placed_shapes(experiment).replace(counters=None)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    fresh = lambda: experiment.init().replace(counters=None)  # noqa: E731
    run = jax.jit(fresh, out_shardings=shardings)().replace(counters=Counters())
    if warm is None:
        return run
    params = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), jax.device_get(warm), run.train.params
    )
    # Each its own buffers: both are donated.
    train = run.train.replace(params=params, target_params=jax.tree.map(jnp.copy, params))
    if (tracker := experiment.agent.tracker) is not None:
        init = jax.jit(tracker.init, out_shardings=shardings.train.tracked)
        train = train.replace(tracked=init(params))
    return run.replace(train=train)


def warm_params(experiment: Experiment, init_from: str) -> tuple[Params, dict[str, Any]]:
    """The newest parameters in `init_from`, and what `config.json` says about their origin."""
    abstract = jax.eval_shape(experiment.init).train.params
    step, params, meta = newest_params(Path(init_from), abstract, flag="--init_from")
    env_steps = meta["counters"]["env_steps"]
    return params, {"workdir": init_from, "iteration": step, "env_steps": env_steps}


def has_stopped(run: RunState, written: list[dict], stop_at: float | None) -> bool:
    """Whether an evaluation up to this point has already ended the run."""
    return stop_at is not None and any(
        record["eval/return_mean"] >= stop_at
        for record in written
        if record.get("eval/return_mean") is not None  # null: it was not finite.
        and record["env_steps"] <= run.counters.env_steps
    )


def is_owed(meta: dict, written: list[dict]) -> bool:
    """Whether an evaluation was due at this resume point, and the process ended before it was."""
    return meta.get("evaluation_due", False) and not any(
        "eval/return_mean" in record and record["env_steps"] == meta["counters"]["env_steps"]
        for record in written
    )


_FOLDERS = ("params", "checkpoints")


BEST = "best"  # The folder of the parameters with the best score, and the step that means them.


def newest_params(
    workdir: Path,
    abstract: Params,
    *,
    flag: str = "--workdir",
    step: int | str | None = None,
) -> tuple[int, Params, dict[str, Any]]:
    """(iteration, params, meta) of the newest params save or resume point, or of that of `step`.

    Args:
      workdir: folder of the run.
      abstract: the shapes of the params.
      flag: what gave the folder.
      step: the number of a save, or "best": the parameters whose evaluation in the run was best.

    Raises:
      BadInputError: where there is none, or none that fits; it begins with `flag`.
    """
    check_saved(workdir, flag=flag, step=step)
    if step == BEST:
        folders, wanted = [workdir / BEST], None
    else:
        newest = {folder: max(x, default=-1) for folder, x in _steps(workdir, flag).items()}
        folders, wanted = sorted(newest, key=newest.get, reverse=True), step
    faults: list[str] = []
    for folder in folders:
        try:
            target = {"params": abstract}
            found = checkpoint.restore_newest(folder, target, partial=True, step=wanted)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if found is not None:
            counters = counters_of(found[2], f"{flag}: step {found[0]} of {workdir}")
            number = counters.iteration if step == BEST else found[0]
            return number, found[1]["params"], found[2]
    which = "no checkpoint" if step is None else f"no save of {step}"
    raise BadInputError(f"{flag}: {which} in {workdir} can be used: {faults}")


def counters_of(meta: dict[str, Any], where: str) -> Counters:
    """The counters that stand in a save.

    Raises:
      BadInputError: where there are others, or none; it begins with `where`.
    """
    stored = meta.get("counters")
    right = isinstance(stored, dict) and stored.keys() == set(Counters._fields)
    if not right or not all(type(x) is int and x >= 0 for x in stored.values()):
        raise BadInputError(f"{where} has the counters {stored}, wanted {list(Counters._fields)}")
    return Counters(**stored)


def check_saved(
    workdir: Path, *, flag: str = "--workdir", step: int | str | None = None
) -> list[int]:
    """The steps that can be evaluated, oldest first; found before anything is built.

    Raises:
      BadInputError: where there is none, or not `step`; it begins with `flag`.
    """
    steps = saved_steps(workdir, flag=flag)
    if step == BEST:
        if best_of(workdir, flag=flag) is None:
            raise BadInputError(f"{flag}: no best parameters in {workdir}; has it been evaluated?")
        return steps
    if not steps:
        raise BadInputError(f"{flag}: no checkpoint in {workdir}; has the run saved one?")
    if step is not None and step not in steps:
        raise BadInputError(f"{flag}: no checkpoint {step} in {workdir}; there are {steps}")
    return steps


def saved_steps(workdir: Path, *, flag: str = "--workdir") -> list[int]:
    """The steps that can be loaded, oldest first; none of a run that has saved nothing yet.

    Raises:
      BadInputError: for saves of another format; it begins with `flag`.
    """
    return sorted(set().union(*_steps(workdir, flag).values()))


def best_of(workdir: Path, *, flag: str = "--workdir") -> dict[str, Any] | None:
    """The meta of the parameters with the best score: with `score` and `counters`; None if none.

    Raises:
      BadInputError: for saves of another format; it begins with `flag`.
    """
    try:
        return checkpoint.read_meta(workdir / BEST)
    except CheckpointError as error:
        raise BadInputError(f"{flag}: {error}") from None


def _steps(workdir: Path, flag: str) -> dict[Path, list[int]]:
    """Folder -> the steps in it."""
    try:
        return {workdir / name: checkpoint.committed_steps(workdir / name) for name in _FOLDERS}
    except CheckpointError as error:  # Of another format.
        raise BadInputError(f"{flag}: {error}") from None
