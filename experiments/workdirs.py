"""The folder of a run: its config file, and which changes to it a resume allows."""

import json
from pathlib import Path
import time
from typing import Any

from ml_collections import ConfigDict

import launch

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


def choose(workdir: str | None, name: str) -> Path:
    """The folder asked for, or a new one under `runs/`."""
    if workdir is not None:
        return Path(workdir)
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check(workdir: Path, config) -> None:
    """Checks that a run in this folder, if there is one, has the same config.

    Raises:
      BadInputError: naming the fields that differ.
    """
    given = json.loads(config.to_json())
    path = workdir / "config.json"
    if path.exists():
        stored = _load(path)
        differing = [
            name
            for name, old, new in differences(stored, given)
            if not any(name == x or (x[-1] == "." and name.startswith(x)) for x in MAY_CHANGE)
        ]
        if differing:
            shown = ", ".join(
                f"{n} (was {old}, now {new})"
                for n, old, new in differences(stored, given)
                if n in differing
            )
            raise launch.BadInputError(
                f"--workdir: {workdir} holds a run with another config: {shown};"
                " use another folder, or the former values"
            )


def claim(workdir: Path, config) -> None:
    """Writes `config.json`, once all of the config has been found to work.

    Raises:
      BadInputError: where the folder cannot be written.
    """
    unfinished = workdir / "config.json.tmp"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(json.loads(config.to_json()), indent=2) + "\n")
        unfinished.replace(workdir / "config.json")
    except OSError as error:
        raise launch.BadInputError(f"--workdir: {workdir} cannot be written: {error}") from None


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run; read as data, never executed.

    Raises:
      BadInputError: where there is none.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise launch.BadInputError(f"--workdir: no run in {workdir} (config.json is missing)")
    return ConfigDict(_load(path))


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise launch.BadInputError(f"{path} cannot be read: {error}") from None


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
