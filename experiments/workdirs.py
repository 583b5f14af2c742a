"""The folder of a run: its config file, its lock, and which changes a resume allows."""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
from pathlib import Path
import socket
from typing import IO, Any

from ml_collections import ConfigDict

import fields
import lifetime
from muzero_jax import errors

# Fields that may differ when a run is taken up again; a trailing dot means a whole group.
MAY_CHANGE = (
    "total_env_steps",
    "max_wall_minutes",
    "env.num_threads",
    "loop.probe_interval_iterations",
    "evaluation.",
    "checkpoint.",
    "logging.",
)


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


def check(
    workdir: Path,
    config,
    *,
    resume: str = "auto",
    init_from: str | None = None,
    data: str | None = None,
) -> dict[str, Any] | None:
    """Checks that a run with this config may begin or go on in the folder, before any building.

    `data` is the identity of the dataset that it learns from, or None.

    Returns:
      Where the run's first parameters come from: as given (`workdir` alone), or as `config.json`
      tells of a run that has begun; None where they are fresh.

    Raises:
      BadInputError: naming what is wrong, or the fields that differ.
    """
    used = _is_used(workdir)
    if resume == "never" and used:
        raise errors.BadInputError(f"--resume=never: {workdir} holds a run; use another folder")
    if resume == "must" and not _entries(workdir / "checkpoints"):
        raise errors.BadInputError(f"--resume=must: no resume point in {workdir}")
    stored = load(workdir / "config.json") if used else {}
    origin, former = stored.get("init_from"), stored.get("data")
    if used:
        if former != data:
            learned = "other data" if former and data else "data" if former else "environments"
            raise errors.BadInputError(
                f"--data: the run in {workdir} learns from {learned}; use another folder"
            )
        _check_same(workdir, _config_in(stored), json.loads(config.to_json()))
        # Told early; the lock that lasts is taken by `claim`. Peers look at the same time.
        _lock(workdir, fcntl.LOCK_SH).close()
    before = origin["workdir"] if origin else None
    if init_from is None:
        return origin
    begun = bool(_entries(workdir / "checkpoints"))  # Then it is not read again.
    if not (begun or Path(init_from).is_dir()):
        raise errors.BadInputError(f"--init_from: no folder {init_from}")
    init_from = str(Path(init_from).resolve())
    if used and init_from != before:
        raise errors.BadInputError(
            f"--init_from: the run in {workdir} began with {before or 'fresh parameters'};"
            " use another folder, or leave the flag out"
        )
    return origin or {"workdir": init_from}


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


def _check_same(workdir: Path, stored: dict, given: dict) -> None:
    differing = [
        f"{name} (was {old}, now {new})"
        for name, old, new in differences(stored, given)
        if not any(name == x or (x[-1] == "." and name.startswith(x)) for x in MAY_CHANGE)
    ]
    if differing:
        raise errors.BadInputError(
            f"--workdir: {workdir} holds a run with another config: {', '.join(differing)};"
            " use another folder, or the former values"
        )


@contextlib.contextmanager
def claim(
    workdir: Path, config, *, init_from: dict | None = None, data: str | None = None
) -> Iterator[None]:
    """Locks the folder and writes `config.json`, once all of the config has been found to work.

    Raises:
      BadInputError: where the folder cannot be written, or another process has it.
    """
    import muzero_jax  # Not at the top: it imports JAX, which reads its environment then.

    unfinished, version = workdir / "config.json.tmp", muzero_jax.__version__
    if (workdir / "config.json").exists():  # What began the run has made it.
        version = version_of(workdir)
    more = {"init_from": init_from, "data": data, "version": version}
    content = json.loads(config.to_json()) | {name: x for name, x in more.items() if x}
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
        lifetime.say(f"warning: {workdir} cannot be locked: {error}; see that no other run uses it")
    return file


def _unwritable(workdir: Path, error: OSError) -> errors.BadInputError:
    return errors.BadInputError(f"--workdir: {workdir} cannot be written: {error}")


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run; read as data, never executed.

    Raises:
      BadInputError: where there is none.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise errors.BadInputError(f"--workdir: no run in {workdir} (config.json is missing)")
    return ConfigDict(_tuples(_config_in(load(path))))


# What stands in `config.json` beside the config.
_NO_FIELDS = ("init_from", "data", "version")


def _config_in(stored: dict[str, Any]) -> dict[str, Any]:
    kept = {name: x for name, x in stored.items() if name not in _NO_FIELDS}
    return fields.complete(kept)


def version_of(workdir: Path) -> str | None:
    """The version of the library that began the run; None where it did not yet write its number."""
    return load(workdir / "config.json").get("version")


def _tuples(tree: Any) -> Any:
    """JSON knows no tuples, and a config no lists."""
    if isinstance(tree, dict):
        return {name: _tuples(x) for name, x in tree.items()}
    return tuple(_tuples(x) for x in tree) if isinstance(tree, list) else tree


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
