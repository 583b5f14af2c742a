"""The parameters that runs have saved, alone or in resume points."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
from typing import Any

from muzero_jax import checkpoint, errors
from muzero_jax.errors import BadInputError
from muzero_jax.types import Counters, Params

_FOLDERS = ("params", "checkpoints")


def newest_params(
    workdir: Path, abstract: Params, *, flag: str = "--workdir", step: int | None = None
) -> tuple[int, Params, dict[str, Any]]:
    """(iteration, params, meta) of the newest params save or resume point, or of that of `step`.

    Raises:
      BadInputError: where there is none, or none that fits; it begins with `flag`.
    """
    check_saved(workdir, flag=flag, step=step)
    newest = {folder: max(found, default=-1) for folder, found in _steps(workdir, flag).items()}
    faults: list[str] = []
    for folder in sorted(newest, key=newest.get, reverse=True):
        try:
            target = {"params": abstract}
            found = checkpoint.restore_newest(folder, target, partial=True, step=step)
        except errors.CheckpointError as error:
            faults.append(str(error))
            continue
        if found is not None:
            counters_of(found[2], f"{flag}: step {found[0]} of {workdir}")
            return found[0], found[1]["params"], found[2]
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


def check_saved(workdir: Path, *, flag: str = "--workdir", step: int | None = None) -> list[int]:
    """The steps that can be evaluated, oldest first; told before anything is built.

    Raises:
      BadInputError: where there is none, or not `step`; it begins with `flag`.
    """
    steps = sorted(set().union(*_steps(workdir, flag).values()))
    if not steps:
        raise BadInputError(f"{flag}: no checkpoint in {workdir}; has the run saved one?")
    if step is not None and step not in steps:
        raise BadInputError(f"{flag}: no checkpoint {step} in {workdir}; there are {steps}")
    return steps


def _steps(workdir: Path, flag: str) -> dict[Path, list[int]]:
    """Folder -> the steps in it."""
    try:
        return {workdir / name: checkpoint.committed_steps(workdir / name) for name in _FOLDERS}
    except errors.CheckpointError as error:  # Of another format.
        raise BadInputError(f"{flag}: {error}") from None


@contextlib.contextmanager
def told_by_flag(workdir: Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Tells in one line where a run's config lacks what is read inside, or has it otherwise."""
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        raise BadInputError(f"{flag}: config.json of {workdir} cannot be used: {error}") from None
