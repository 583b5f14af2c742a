"""The folder of a run: its config file, and which changes to it a resume allows."""

import json
from pathlib import Path
import time
from typing import Any

from ml_collections import ConfigDict

import launch

# Fields that may differ when a run is taken up again; a trailing dot means a whole group.
MAY_CHANGE = ("total_env_steps", "max_wall_minutes", "evaluation.", "checkpoint.", "logging.")


def choose(workdir: str | None, name: str) -> Path:
    """The folder asked for, or a new one under `runs/`."""
    if workdir is not None:
        return Path(workdir)
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def claim(workdir: Path, config) -> None:
    """Writes `config.json`, or checks that the run in this folder has the same config.

    Raises:
      BadInputError: naming the fields that differ.
    """
    given = json.loads(config.to_json())
    path = workdir / "config.json"
    if path.exists():
        stored = _load(path)
        differing = [
            name
            for name, old, new in _differences(stored, given)
            if not any(name == x or (x[-1] == "." and name.startswith(x)) for x in MAY_CHANGE)
        ]
        if differing:
            shown = ", ".join(
                f"{n} (was {old}, now {new})"
                for n, old, new in _differences(stored, given)
                if n in differing
            )
            raise launch.BadInputError(
                f"--workdir: {workdir} holds a run with another config: {shown};"
                " use another folder, or the former values"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(given, indent=2) + "\n")
    unfinished.replace(path)


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


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every leaf that differs."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append((prefix + name, a, b))
    return found
