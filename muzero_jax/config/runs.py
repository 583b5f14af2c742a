"""Configs of files and of runs: read, and put beside a run."""

from collections.abc import Iterator
import contextlib
import importlib.machinery
import importlib.util
import json
from pathlib import Path
import traceback
from typing import Any

from ml_collections import ConfigDict

from muzero_jax.config import schema
from muzero_jax.errors import BadInputError
from muzero_jax.training import run_folder
from muzero_jax.training.run_folder import RunFolder, local_path


def open_folder(
    workdir: Path,
    config: ConfigDict,
    *,
    resume: str = "auto",
    init_from: str | None = None,
    data: str | None = None,
) -> RunFolder:
    """`run_folder.open_folder` for the run of a config."""
    return run_folder.open_folder(
        workdir,
        json.loads(config.to_json()),
        resume=resume,
        init_from=init_from,
        data=data,
        complete=schema.complete,
    )


def read_config(workdir: Path, *, flag: str = "--workdir") -> ConfigDict:
    """The config of a run; read as data, never executed.

    Raises:
      BadInputError: where there is none; it begins with `flag`.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise BadInputError(f"{flag}: no run in {workdir} (config.json is missing)")
    stored = run_folder.described(run_folder.load(path))
    if stored.get("made_by") == "code":
        raise BadInputError(
            f"{flag}: the run in {workdir} was made by code; give the agent that it was trained"
            " with, as muzero_jax.load_agent(folder, agent=...)"
        )
    return ConfigDict(_tuples(schema.complete(stored)))


def _tuples(tree: Any) -> Any:
    """JSON knows no tuples, and a config no lists."""
    if isinstance(tree, dict):
        return {name: _tuples(x) for name, x in tree.items()}
    return tuple(_tuples(x) for x in tree) if isinstance(tree, list) else tree


@contextlib.contextmanager
def refused_by(workdir: Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Refuses, in one line, a run whose config lacks what is read inside, or has it otherwise."""
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        raise BadInputError(f"{flag}: config.json of {workdir} cannot be used: {error}") from None


def load_config(given: str) -> ConfigDict:
    """The config that `get_config` of a file makes; `given` is `PATH` or `PATH:VARIANT`.

    Raises:
      BadInputError: naming the file, where there is none or whatever it raises.
    """
    path, colon, variant = local_path(given, "--config").partition(":")
    try:
        loader = importlib.machinery.SourceFileLoader("config_file", path)
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(loader.name, loader)
        )
        loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise BadInputError(f"--config: {path} defines no get_config()")
        config = module.get_config(variant) if colon else module.get_config()
    except FileNotFoundError as error:
        if error.filename != path:
            raise BadInputError(_raised(given, path, error)) from None
        raise BadInputError(f"--config: config file not found: {path}") from None
    except BadInputError:
        raise
    except (Exception, SystemExit) as error:  # A config file is a program: it may raise anything.
        raise BadInputError(_raised(given, path, error)) from None
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise BadInputError(
            f"--config: get_config() of {path} returns {kind} and no ConfigDict"
        )
    return ConfigDict(config)


def _raised(given: str, path: str, error: BaseException) -> str:
    """One line for what a config file has raised, with the line where."""
    lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == path]
    where = f" (line {lines[-1]})" if lines else ""
    return f"--config: {given}: {type(error).__name__}: {error}{where}"
