"""Command lines: flags, one-line errors, exit codes."""

from collections.abc import Callable
import os
import re
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

BAD_INPUT = 78  # Bad flags, config or checkpoint.
NOT_FINITE = 70  # Ten updates in a row were not finite.


class BadInputError(Exception):
    """Input that the user has to change: field, value and fix in one line."""


class NotFiniteError(Exception):
    """Training cannot go on: losses or gradients are not finite."""


def run(main: Callable[..., Any], *, example: str | None = None, takes_words: bool = False) -> None:
    """Parses the command line, runs `main()` and exits; bad input is one line and code 78.

    With an `example` of it, `--config` is defined and required, and `--workdir` is defined. A
    script that takes words besides flags is run as `main(words)`.
    """
    # XLA and orbax tell of their own affairs at length; warnings are still shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.WARNING)
    app.define_help_flags()
    if example:
        config_flags.DEFINE_config_file("config", None, f"For example {example}.", lock_config=True)
        flags.DEFINE_string("workdir", None, "Folder of the run; by default a new one in runs/.")
    try:
        words = _parse(example, takes_words)
        main(words) if takes_words else main()
    except BadInputError as error:
        _fail(error, BAD_INPUT)
    except NotFiniteError as error:
        _fail(error, NOT_FINITE)


def train(field: str, *, other: str) -> None:
    """Trains by the flags; configs whose `env` lacks `field` belong to the script `other`."""
    # Not at the top: bad input is told before JAX is imported.
    import validate
    import workdirs

    config = flags.FLAGS.config
    if field not in config.env:
        raise BadInputError(f"--config: it has no env.{field}; try {other}")
    validate.check(config)
    import train as driver

    driver.train(config, workdirs.choose(flags.FLAGS.workdir, config.env[field].lower()))


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


def _fail(error: Exception, code: int) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(code)
