"""The folder of a run: its `config.json`, its lock, and which changes a resume allows.

`config.json` describes the run: it holds its config, or for a run made by code the numbers and
shapes of its experiment, and beside them where its parameters and its data come from.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import json
import os
from pathlib import Path
import re
import socket
from typing import IO, Any, NamedTuple

from muzero_jax import errors
from muzero_jax.training import process

# Fields of a config that may differ when a run is resumed; a trailing dot means a whole group.
MAY_CHANGE = (
    "total_env_steps",
    "max_wall_minutes",
    "env.num_threads",
    "loop.probe_interval_iterations",
    "evaluation.",
    "checkpoint.",
    "logging.",
)


def local_path(path: str, flag: str) -> str:
    """The path with `~` expanded.

    Raises:
      BadInputError: for a URL (`gs://...`), which would be made a folder of that name here.
    """
    if re.match(r"[A-Za-z][\w+.-]*://", path):
        raise errors.BadInputError(
            f"{flag}: {path} is a URL; give a path of this machine, e.g. of a mounted bucket"
        )
    return os.path.expanduser(path)


def check_name(workdir: str | None) -> None:
    """Refuses what is no name of a folder; None is that of `choose`."""
    try:
        (workdir or "").encode()
    except UnicodeEncodeError:
        raise errors.BadInputError(f"--workdir: {workdir!r} is not UTF-8") from None
    if workdir == "":
        raise errors.BadInputError("--workdir is empty; give a folder, e.g. --workdir=runs/pong")


def choose(workdir: str | None, name: str, now: float) -> Path:
    """The folder asked for, or a new one under `runs/`; `now` is the time as one number, by digits
    YYYYMMDDhhmmss, so that processes can agree on it."""
    if workdir is not None:
        return Path(workdir)
    digits = f"{now:.0f}"
    return Path("runs") / f"{name}-{digits[:8]}-{digits[8:]}"


class RunFolder(NamedTuple):
    """A folder in which a run may begin or go on.

    Attributes:
      path: of the folder.
      description: of the run, as JSON.
      init_from: where its first parameters come from, or None: `workdir`, and once it has begun
        `iteration` and `env_steps` too.
      data: identity of the dataset that it learns from, or None.
    """

    path: Path
    description: dict[str, Any]
    init_from: dict[str, Any] | None
    data: str | None


def open_folder(
    path: Path,
    description: dict[str, Any],
    *,
    resume: str = "auto",
    init_from: str | None = None,
    data: str | None = None,
    may_change: Sequence[str] = MAY_CHANGE,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda stored: stored,
) -> RunFolder:
    """Checks that a run of this description may begin or go on in a folder; changes nothing there.

    Args:
      path: of the folder.
      description: of the run, as JSON.
      resume: "auto"; "must" refuses a folder without a resume point, "never" one with a run.
      init_from: folder of another run, whose newest parameters a new run begins with.
      data: identity of the dataset that the run learns from, or None.
      may_change: names in the description that may differ from those of the run that is there.
      complete: of a stored description, with the fields that an older version did not write.

    Raises:
      BadInputError: naming what is wrong, or the fields that differ.
    """
    used = _is_used(path)
    if resume == "never" and used:
        raise errors.BadInputError(f"--resume=never: {path} holds a run; use another folder")
    if resume == "must" and not _entries(path / "checkpoints"):
        raise errors.BadInputError(f"--resume=must: no resume point in {path}")
    stored = load(path / "config.json") if used else {}
    origin, former = stored.get("init_from"), stored.get("data")
    if used:
        if former != data:
            learned = "other data" if former and data else "data" if former else "environments"
            raise errors.BadInputError(
                f"--data: the run in {path} learns from {learned}; use another folder"
            )
        _check_same(path, complete(described(stored)), description, may_change)
        # An early refusal; the lock that lasts is taken by `claim`. Processes look side by side.
        _lock(path, fcntl.LOCK_SH).close()
    before = origin["workdir"] if origin else None
    if init_from is None:
        return RunFolder(path, description, origin, data)
    begun = bool(_entries(path / "checkpoints"))  # Then it is not read again.
    if not (begun or Path(init_from).is_dir()):
        raise errors.BadInputError(f"--init_from: no folder {init_from}")
    init_from = str(Path(init_from).resolve())
    if used and init_from != before:
        raise errors.BadInputError(
            f"--init_from: the run in {path} began with {before or 'fresh parameters'};"
            " use another folder, or leave the flag out"
        )
    return RunFolder(path, description, origin or {"workdir": init_from}, data)


def _is_used(workdir: Path) -> bool:
    if workdir.exists() and not workdir.is_dir():
        raise errors.BadInputError(f"--workdir: {workdir} is no folder")
    absolute = workdir.absolute()
    nearest = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise errors.BadInputError(f"--workdir: {workdir} cannot be written ({nearest})")
    if (workdir / "config.json").exists():
        return True
    if any(_entries(workdir / name) for name in ("checkpoints", "params")):
        raise errors.BadInputError(
            f"--workdir: {workdir} holds checkpoints without their config.json; use another folder"
        )
    return False


def _entries(folder: Path) -> list[Path]:
    """Names of numbers: what a checkpoint store takes for steps, damaged or not."""
    return [path for path in folder.glob("*") if path.name.isdecimal()]


def _check_same(
    workdir: Path, stored: dict, given: dict, may_change: Sequence[str]
) -> None:
    differing = [
        f"{name} (was {old}, now {new})"
        for name, old, new in differences(stored, given)
        if not any(name == x or (x[-1] == "." and name.startswith(x)) for x in may_change)
    ]
    if differing:
        raise errors.BadInputError(
            f"--workdir: {workdir} holds a run with another config: {', '.join(differing)};"
            " use another folder, or the former values"
        )


@contextlib.contextmanager
def claim(folder: RunFolder) -> Iterator[None]:
    """Locks the folder and writes `config.json`, once the whole run has been found to work.

    Raises:
      BadInputError: where the folder cannot be written, or another process has it.
    """
    import muzero_jax  # Not at the top: it imports this module by its names.

    workdir = folder.path
    unfinished, version = workdir / "config.json.tmp", muzero_jax.__version__
    if (workdir / "config.json").exists():  # What began the run has made it.
        version = version_of(workdir)
    more = {"init_from": folder.init_from, "data": folder.data, "version": version}
    content = folder.description | {name: x for name, x in more.items() if x}
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(workdir, error) from None
    with _lock(workdir) as lock:
        try:
            lock.truncate(0)
            lock.write(f"{socket.gethostname()}:{os.getpid()}\n")
            lock.flush()
            with unfinished.open("w") as file:
                file.write(json.dumps(content, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())  # A power cut must not leave the name without content.
            unfinished.replace(workdir / "config.json")
        except OSError as error:
            raise _unwritable(workdir, error) from None
        yield


def _lock(workdir: Path, kind: int = fcntl.LOCK_EX) -> IO[str]:
    """The locked file; the system lets go of it when the process ends, however it ends."""
    try:
        file = (workdir / "lock").open("a+")
    except OSError as error:
        raise _unwritable(workdir, error) from None
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise errors.BadInputError(f"--workdir: run dir is in use by {holder}") from None
    except OSError as error:  # Some network file systems know no locks.
        process.log_stderr(
            f"warning: {workdir} cannot be locked: {error}; see that no other run uses it"
        )
    return file


def is_running(workdir: Path) -> bool:
    """Whether a process holds the run; where files cannot be locked it is not known, and False."""
    try:
        with (workdir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _unwritable(workdir: Path, error: OSError) -> errors.BadInputError:
    return errors.BadInputError(f"--workdir: {workdir} cannot be written: {error}")


# What stands in `config.json` beside the description.
_BESIDE = ("init_from", "data", "version")


def described(stored: dict[str, Any]) -> dict[str, Any]:
    """The description of a run in the content of its `config.json`."""
    return {name: x for name, x in stored.items() if name not in _BESIDE}


def version_of(workdir: Path) -> str | None:
    """The version of the library that began the run; None where it did not yet write its number."""
    return load(workdir / "config.json").get("version")


def learns_from_data(workdir: Path) -> bool:
    """Whether the run in a folder learns from a dataset."""
    return load(workdir / "config.json").get("data") is not None


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `BadInputError` where there is none."""
    try:
        stored = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise errors.BadInputError(f"{path} cannot be read: {error}") from None
    if not isinstance(stored, dict):
        raise errors.BadInputError(f"{path} cannot be read: it holds no JSON object")
    return stored


def differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every leaf that differs."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append((prefix + name, a, b))
    return found
