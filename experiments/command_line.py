"""Command lines: flags, and every way to end as one line and an exit code.

Nothing here imports JAX before it is needed: signals are noted and flags refused without it.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import importlib.machinery
import importlib.metadata
import importlib.util
import logging as standard_logging
import os
from pathlib import Path
import re
import sys
import time
import traceback
from typing import Any
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_dict, config_flags

import muzero_jax
from muzero_jax import errors
from muzero_jax.config import fields, own_code, runs, schema
from muzero_jax.training import process, run_folder


def define_path(name: str, default: str | None, text: str) -> None:
    """Defines a flag that names a file or folder (or an opponent); see `local_path`."""
    parser = _PathParser(f"--{name}")
    flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_step() -> None:
    """Defines --step, for scripts that load parameters of a run."""
    text = "Which checkpoint, by its number or best; default: the newest."
    flags.DEFINE(_StepParser(), "step", None, text, serializer=flags.ArgumentSerializer())


class _StepParser(flags.ArgumentParser):
    """Of the value of --step."""

    syntactic_help = "a whole number >= 0, or best"

    def parse(self, argument: str | int) -> int | str:
        text = str(argument)
        if text != "best" and not text.isdecimal():
            raise ValueError(f"a whole number >= 0, or best (got {text!r})")
        return text if text == "best" else int(text)


class _PathParser(flags.ArgumentParser):
    """Of the value of a flag that is a path."""

    syntactic_help = "a path"

    def __init__(self, flag: str):
        self._flag = flag

    def parse(self, argument: str) -> str:
        return run_folder.local_path(argument, self._flag)


def run(main: Callable[..., Any], *, example: str | None = None, takes_words: bool = False) -> None:
    """Parses the command line, runs `main()` and exits, with a code of `errors` and one line.

    With an `example` of it, `--config` is required; it and the other flags of training are defined.
    A script that takes words besides flags is run as `main(words)`.
    """
    _open_standard_streams()
    process.install_handlers()
    _quieten()
    _promote_as_libraries_expect()
    # Tracing makes millions of objects that stay: a sixth of a start went into looking for garbage.
    gc.set_threshold(100_000, 10, 10)
    app.define_help_flags()
    if example:
        _define_flags(example)
    try:
        _check_versions()
        words = _parse(example, takes_words)
        try:
            main(words) if takes_words else main()
        except SystemExit as error:  # Of an environment, say: it would pass for the end of a run.
            raise RuntimeError(f"the program was left by sys.exit({error.code!r})") from error
    except errors.Ending as error:
        kind = "" if isinstance(error, errors.PreemptedError) else "error: "
        hint = _other_version() if isinstance(error, errors.BadInputError) else ""
        process.log_stderr(f"{kind}{error}{hint}")
        if isinstance(error, (errors.StorageError, errors.PeerError)):
            os._exit(error.code)  # The remains of failed saves complain when collected.
        process.end(error.code)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        process.log_stderr(f"error: {_flag_of(error.filename)}{error.strerror}: {error.filename}")
        process.end(errors.BAD_INPUT)
    process.end(errors.DONE)


def _check_versions() -> None:
    """Refuses packages that are older than those with which the library can be installed."""
    try:
        needs = importlib.metadata.requires("muzero_jax") or []
    except importlib.metadata.PackageNotFoundError:  # A checkout that is not installed.
        return
    for need in needs:
        bound = re.fullmatch(r"([\w.-]+)>=([\d.]+)", need)  # Extras have more behind it.
        if not bound:
            continue
        name, least = bound.groups()
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Its import says so.
        if _numbers(found) < _numbers(least):
            raise errors.BadInputError(
                f"{name} {found} is installed; {need} is needed: pip install -e ."
            )


def _numbers(version: str) -> list[int]:
    """Of a version like 0.10.2rc1: its release, [0, 10, 2]."""
    return [int(x) for x in re.match(r"\d+(\.\d+)*", version)[0].split(".")]


def _other_version() -> str:
    """What a refusal adds where another version has made the run: it may be the reason."""
    given = flags.FLAGS
    workdir = given.is_parsed() and "workdir" in given and given.workdir
    if not workdir or not os.path.isfile(Path(workdir) / "config.json"):
        return ""
    try:
        version = run_folder.version_of(Path(workdir))
    except errors.BadInputError:
        return ""
    if version == muzero_jax.__version__:
        return ""
    made_by = f"version {version}" if version else "a version that did not write its number yet"
    return (
        f" (the run in {workdir} was begun by {made_by}, this is {muzero_jax.__version__}: go on"
        " with that version, or begin a new run from its parameters by --init_from)"
    )


def _open_standard_streams() -> None:
    """Opens what the shell has closed (`2>&-`): else the next file takes the number of that stream,
    and what a library writes to the stream goes into the file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: this one.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def _flag_of(path) -> str:
    """How a line begins that is about a path which a flag has given."""
    values = flags.FLAGS.flag_values_dict() if flags.FLAGS.is_parsed() else {}
    names = [name for name, x in values.items() if x and isinstance(x, str) and x in str(path)]
    return f"--{names[0]}: " if names else ""


def _quieten() -> None:
    """Silences library logs: each error is already printed once, in one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    # A save that failed leaves behind the writes of every other array.
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _tell_unraisable


def _promote_as_libraries_expect() -> None:
    """Undoes stricter rules of the environment, under which mctx and optax cannot be traced."""
    rules = {"jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard"}
    os.environ.update({name.upper(): rule for name, rule in rules.items()})
    if jax := sys.modules.get("jax"):  # It has read the environment already.
        for name, rule in rules.items():
            jax.config.update(name, rule)


def _tell_unraisable(unraisable) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _define_flags(example: str) -> None:
    define_path("config", None, f"PATH[:VARIANT] of a config file, e.g. {example}.")
    define_path("workdir", None, "Folder of the run; by default a new one in runs/.")
    flags.DEFINE_enum(
        "resume",
        "auto",
        ["auto", "must", "never"],
        "must: only from a resume point; never: only in a folder without a run.",
    )
    define_path("init_from", None, "Folder of a run; begin with its newest parameters.")
    define_allow()
    flags.DEFINE_enum(
        "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Refuse to run on any other."
    )
    flags.DEFINE_integer("devices", None, "How many to train on; default: all.", lower_bound=1)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several, or auto.")
    flags.DEFINE_integer("num_processes", None, "How many train together.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
    flags.DEFINE_integer("join_timeout_s", 120, "How long to wait for the others.", lower_bound=1)
    flags.DEFINE_float(
        "watchdog_minutes", 30.0, "End, with stacks, if an iteration takes longer."
    )
    flags.register_validator(
        "watchdog_minutes", lambda x: 0 < x <= 10**6, "it must be > 0 and <= 1000000"
    )


def define_allow() -> None:
    """Defines --allow, for scripts that read the config of a run."""
    flags.DEFINE_list("allow", [], "Modules of your own that the config of a run may name.")


_config_file: list[Path] = []  # That of --config, once it has been read.


def checked_config(args) -> tuple[ConfigDict, set[str]]:
    """The config of the flags, every number of it checked, and the modules that it may name: those
    of --allow, and all of a config file that the user names.

    Raises:
      BadInputError: naming the field.
    """
    try:
        config, allow = schema.check(args.config), set(args.allow)
        for path in _config_file:
            modules = schema.own_modules(config)
            allow |= modules
            own_code.add_beside(path, modules)
        return config, allow
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        # Of a config file that is not one of ours, or a number out of all proportion.
        raise errors.BadInputError(
            f"--config: a field is missing or cannot be used: {error}"
        ) from None


@contextlib.contextmanager
def devices_of(args) -> Iterator[list]:
    """The devices that the flags ask for, once the other processes of the run have joined.

    On leaving, one of several processes ends so that the others know: in good order, or by its own
    error. At its usual end a process waits for the others, for minutes, and they might wait for it.
    """
    import jax

    from muzero_jax.training import multihost

    if args.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        multihost.join(args.coordinator, args.num_processes, args.process_id, args.join_timeout_s)
        _check_platform(args.platform)
        yield choose_devices(args.devices)
    except (errors.NotFiniteError, errors.PreemptedError):  # All of them end so.
        multihost.leave()
        raise
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if not isinstance(error, errors.BadInputError):
            # Where a lost peer is the cause, the heartbeat knows it, and ends this process.
            time.sleep(1.0)
        if isinstance(error, errors.Ending):
            process.log_stderr(f"error: {error}")
        else:
            traceback.print_exc()
        multihost.fail()
        os._exit(error.code if isinstance(error, errors.Ending) else 1)
    multihost.leave()


def _check_platform(wanted: str) -> None:
    from muzero_jax import mesh

    found = mesh.backend()
    if wanted not in ("auto", found):
        raise errors.BadInputError(
            f"--platform: {wanted} is wanted, JAX finds {found} only;"
            " is the extra 'cuda' or 'tpu' installed, and JAX_PLATFORMS not set?"
        )


def choose_devices(wanted: int | None) -> list:
    """As many devices of each process, in order of the processes."""
    import jax

    devices = sorted(jax.devices(), key=lambda x: (x.process_index, x.id))
    if wanted is None:
        return devices
    per_process, rest = divmod(wanted, jax.process_count())
    if rest or per_process > len(devices) // jax.process_count():
        raise errors.BadInputError(
            f"--devices: {wanted} of {len(devices)} devices in {jax.process_count()} processes"
            " cannot be had, the same number from each"
        )
    return [
        device
        for process in range(jax.process_count())
        for device in [x for x in devices if x.process_index == process][:per_process]
    ]


def _parse(example: str | None, takes_words: bool) -> list[str]:
    """Reads the flags; returns the words that are none.

    With an `example` the flag `config` holds a `ConfigDict` afterwards.
    """
    given = flags.FLAGS
    try:
        # Fields of the config are no flags yet.
        rest = given(sys.argv, known_only=bool(example))
        if example:
            config = _config(given, example)
            delattr(given, "config")
            rest = _unset(config, rest)
            words = [word for word in rest if not re.fullmatch(r"--?config\.help", word)]
            wants_help = len(words) < len(rest)
            config_flags.DEFINE_config_dict("config", config, sys_argv=words)
            rest = given(words)
            if wants_help:
                values = schema.leaves(given.config.to_dict())
                print("\n".join(fields.help_lines(values)), flush=True)
                process.end(errors.DONE)
    except errors.BadInputError:
        raise
    except Exception as error:  # Whatever a library finds wrong with a word.
        raise errors.BadInputError(_explain(error)) from None
    if len(rest) > 1 and not takes_words:
        raise errors.BadInputError(
            f"unexpected argument {rest[1]!r}; options look like --config.a.b=c"
        )
    return rest[1:]


def _unset(config: ConfigDict, words: list[str]) -> list[str]:
    """Obeys `--config.NAME=None` of optional fields, whose types refuse it; returns the rest."""
    optional = _optional(config)
    named = [re.fullmatch(r"--?config\.([\w.]+)=(.*)", word, re.DOTALL) for word in words]
    last = {x[1]: x[2] for x in named if x and x[1] in optional}  # The last word of each counts.
    unset = [name for name, value in last.items() if value == "None"]
    for name in unset:
        holder, field = optional[name]
        holder[field] = None
    return [
        word
        for word, x in zip(words, named, strict=True)
        if not (x and x[1] in optional and (x[2] == "None" or x[1] in unset))
    ]


def _optional(config: ConfigDict) -> dict[str, tuple[ConfigDict, str]]:
    """Name -> (group, field) of the fields of this config that may be None."""
    found = {}
    for name in schema.OPTIONAL:
        group, _, field = name.rpartition(".")
        holder = config.get(group) if group else config
        if isinstance(holder, ConfigDict) and field in holder:
            found[name] = (holder, field)
    return found


def _config(given, example: str) -> ConfigDict:
    """The config of the file that the flags name, or of the run that has to be gone on with."""
    if given.config:
        config = runs.load_config(given.config)
        _config_file.append(Path(given.config.partition(":")[0]))
    elif given.resume == "must" and given.workdir:
        config = runs.read_config(Path(given.workdir))
    else:
        raise errors.BadInputError(
            f"--config is required, e.g. {example}; or --resume=must with the --workdir of a run,"
            " which goes on by its own"
        )
    for name, (holder, field) in _optional(config).items():
        if holder[field] is None:  # Which has no type by which a value could be parsed.
            kind = int if schema.RANGES[name].whole else float
            holder[field] = config_dict.placeholder(kind)
    return config.lock()


def _explain(error: Exception) -> str:
    """One line for what went wrong while flags were parsed."""
    text = " ".join(str(error).replace("\\n", " ").split())
    if unknown := re.search(r"Did you mean \"(\S+)\" instead of \"(\S+)\"", text):
        return f"unknown field {unknown[2]!r}; did you mean {unknown[1]!r}?"
    if wrong := re.search(r"flag --config\.(\S+?)=(.*?): (?:invalid literal|could not)", text):
        kind = "int" if "for int()" in text else "float"
        return f"{wrong[1]}: expected {kind}, got {wrong[2]!r}"
    name = re.fullmatch(r"\W*(\w+)\W*", text)
    if name and isinstance(error, (KeyError, AttributeError)):
        return f"unknown field {name[1]!r}; the config file lists those there are"
    return text or type(error).__name__
