"""Saves that may fail: each failure is told within one interval, and tried again at the next."""

from pathlib import Path
import re
import time
from typing import Any

import jax

import lifetime
from muzero_jax import errors
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.errors import SaveError
import peers

MAX_FAILED_IN_A_ROW = 3

# What jax's coordination service tells of processes that it has lost.
_WAITING = re.compile("barrier|heartbeat|coordination", re.IGNORECASE)


class Saver:
    """One store of a run, seen by a driver for which a failed save is news and no exception.

    A `vital` one gives up after three failures in a row. The folder of the run, in which that of
    the store lies, holds `config.json`.

    Attributes:
      failed: saves of this process that failed.
      failed_in_a_row: of these, how many since the last one that was committed.
    """

    def __init__(self, store: CheckpointStore, folder: Path, *, vital: bool):
        self._store, self._folder, self._vital = store, folder, vital
        self._begun: tuple[int, float] | None = None  # (step, time) of the save under way.
        self._safe_since = time.monotonic()
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
            if peers.is_first():
                (self._folder / "probe").mkdir(exist_ok=True)
                (self._folder / "probe").rmdir()
            begin = time.monotonic()
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
        return time.monotonic() - self._safe_since

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
        told = error if isinstance(error, SaveError) else f"saving step {step} failed: {error}"
        if _is_of_peers(error) or jax.process_count() > 1:  # The others may wait for this one.
            raise as_ending(error, told=told) from None
        lifetime.say(f"warning: {told}; the run goes on and saves again at the next interval")


def as_ending(error: OSError, *, told: str | None = None) -> Exception:
    """What a failed save ends the run as, where it does: by another process, or by the disk."""
    told = told or str(error)
    if _is_of_peers(error):
        return errors.PeerError(
            f"{told}; another process is gone or stuck, see its log; the same command goes on"
        )
    several = "; with several processes that ends the run" if jax.process_count() > 1 else ""
    return errors.StorageError(f"{told}{several}")


def _is_of_peers(error: BaseException | None) -> bool:
    """Whether it began where processes wait for each other, and not at the disk."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and _WAITING.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
