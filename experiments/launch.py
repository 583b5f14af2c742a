"""Command lines: flags, and every way to end as one line and an exit code."""

from collections.abc import Callable
import gc
import logging as standard_logging
import os
import re
import sys
from typing import Any
import warnings

from absl import app, flags, logging
from ml_collections import config_flags

import lifetime


class BadInputError(Exception):
    """Input that the user has to change: field, value and fix in one line."""


class NotFiniteError(Exception):
    """Training cannot go on: losses or gradients are not finite."""


class StorageError(Exception):
    """Resume points cannot be written."""


class PeerError(Exception):
    """Another process of the run is gone or stuck."""


class PreemptedError(Exception):
    """The process was asked to leave, and all is saved."""


_CODES = {
    BadInputError: lifetime.BAD_INPUT,
    NotFiniteError: lifetime.NOT_FINITE,
    StorageError: lifetime.STORAGE,
    PeerError: lifetime.NO_PROGRESS,
    PreemptedError: lifetime.PREEMPTED,
}


def run(main: Callable[..., Any], *, example: str | None = None, takes_words: bool = False) -> None:
    """Parses the command line, runs `main()` and exits, with a code of `lifetime` and one line.

    With an `example` of it, `--config` is required; it and the other flags of training are defined.
    A script that takes words besides flags is run as `main(words)`.
    """
    lifetime.listen()
    _quieten()
    # Tracing makes millions of objects that stay: a sixth of a start went into looking for garbage.
    gc.set_threshold(100_000, 10, 10)
    app.define_help_flags()
    if example:
        _define_flags(example)
    try:
        words = _parse(example, takes_words)
        try:
            main(words) if takes_words else main()
        except SystemExit as error:  # Of an environment, say: it would pass for the end of a run.
            raise RuntimeError(f"the program was left by sys.exit({error.code!r})") from error
    except tuple(_CODES) as error:
        kind = "" if isinstance(error, PreemptedError) else "error: "
        lifetime.say(f"{kind}{error}")
        if isinstance(error, (StorageError, PeerError)):
            os._exit(_CODES[type(error)])  # The remains of failed saves complain when collected.
        lifetime.end(_CODES[type(error)])
    lifetime.end(lifetime.DONE)


def _quieten() -> None:
    """Keeps libraries from telling at length what is raised as well, and told in one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    # A save that failed leaves behind the writes of every other array.
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _tell_unraisable


def _tell_unraisable(unraisable) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _define_flags(example: str) -> None:
    config_flags.DEFINE_config_file("config", None, f"For example {example}.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the run; by default a new one in runs/.")
    flags.DEFINE_enum(
        "resume",
        "auto",
        ["auto", "must", "never"],
        "must: only from a resume point; never: only in a folder without a run.",
    )
    flags.DEFINE_string("init_from", None, "Folder of a run; begin with its newest parameters.")
    flags.DEFINE_enum(
        "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Refuse to run on any other."
    )
    flags.DEFINE_integer("devices", None, "How many to train on; default: all.", lower_bound=1)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several, or auto.")
    flags.DEFINE_integer("num_processes", None, "How many train together.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
    flags.DEFINE_integer("join_timeout_s", 120, "How long to wait for the others.", lower_bound=1)
    flags.DEFINE_float(
        "watchdog_minutes", 30.0, "End, with stacks, if an iteration takes longer.", lower_bound=0.0
    )


# The script that trains each suite of environments.
SCRIPTS = {
    "atari": "atari",
    "procgen": "procgen",
    "classic": "control",
    "jax": "control",
    "board_games": "board_games",
    "minatar": "minatar",
}


def train(script: str | None, *, data: str | None = None) -> None:
    """Trains by the flags; refuses the configs that belong to another script (None: no config).

    `data` is the folder of a dataset to learn from, in place of environments.
    """
    args = flags.FLAGS
    if args.platform == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    # Not at the top: JAX reads its environment when it is imported.
    import fields
    import validate
    import workdirs

    config = args.config
    try:
        validate.check(config)
        if data is not None:  # Neither policies nor values of whoever made the data are learned.
            config.reanalyse.fraction = 1.0
            config.reanalyse.fresh_values = config.targets.value_source == "search"
        right = SCRIPTS[config.env.suite]
        if script is not None and right != script:
            raise BadInputError(
                f"--config: env.suite {config.env.suite!r} is trained by experiments/{right}.py"
            )
        name = config.env[fields.TASK_FIELDS[config.env.suite]].lower()
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        # Of a config file that is not one of ours, or a number out of all proportion.
        raise BadInputError(f"--config: a field is missing or cannot be used: {error}") from None
    import peers

    peers.join(args.coordinator, args.num_processes, args.process_id, args.join_timeout_s)
    workdir = workdirs.choose(args.workdir, name)
    _check_platform(args.platform)
    import train as driver

    driver.train(
        config,
        workdir,
        resume=args.resume,
        init_from=args.init_from,
        devices=_choose_devices(args.devices),
        watchdog_s=60 * args.watchdog_minutes,
        data=data,
    )


def _check_platform(wanted: str) -> None:
    import jax

    try:
        found = jax.default_backend()
    except RuntimeError as error:  # `JAX_PLATFORMS` names one that is not there.
        raise BadInputError(f"--platform: JAX finds no device: {error}") from None
    if wanted not in ("auto", found):
        raise BadInputError(
            f"--platform: {wanted} is wanted, JAX finds {found} only;"
            " is the extra 'cuda' or 'tpu' installed, and JAX_PLATFORMS not set?"
        )


def _choose_devices(wanted: int | None) -> list:
    """As many devices of each process, in order of the processes."""
    import jax

    devices = sorted(jax.devices(), key=lambda x: (x.process_index, x.id))
    if wanted is None:
        return devices
    per_process, rest = divmod(wanted, jax.process_count())
    if rest or per_process > len(devices) // jax.process_count():
        raise BadInputError(
            f"--devices: {wanted} of {len(devices)} devices in {jax.process_count()} processes"
            " cannot be had, the same number from each"
        )
    return [
        device
        for process in range(jax.process_count())
        for device in [x for x in devices if x.process_index == process][:per_process]
    ]


def _parse(example: str | None, takes_words: bool) -> list[str]:
    """Reads the flags; returns the words that are none."""
    wants_help = any(re.match(r"--?help", word) for word in sys.argv[1:])
    given = any(re.match(r"--?config(=|$)", word) for word in sys.argv[1:])
    if example and not given and not wants_help:
        raise BadInputError(f"--config is required, e.g. {example}")
    try:
        rest = flags.FLAGS(sys.argv)
        if example:
            flags.FLAGS.config.to_dict()  # A missing file is told only when it is looked into.
    except Exception as error:  # A config file is a program: it may raise anything.
        raise BadInputError(_explain(error)) from None
    if len(rest) > 1 and not takes_words:
        raise BadInputError(f"unexpected argument {rest[1]!r}; options look like --config.a.b=c")
    return rest[1:]


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
    if missing := re.search(r"No such file or directory: (\S+)$", text):
        return f"--config: config file not found: {missing[1]}"
    if "no attribute 'get_config'" in text:
        return "--config: the file defines no get_config()"
    return text or type(error).__name__
