"""Every error with a line for its user, and the exit codes of a program that ends by one.

The library raises; a script prints the line of an `Ending`, without a traceback, and exits with its
code. What is none of these types is a bug, and keeps its traceback.
"""

DONE = 0  # The run reached its end.
NOT_FINITE = 70  # Ten updates in a row were not finite, or too many of an environment's rows.
STORAGE = 74  # Resume points cannot be written.
PREEMPTED = 75  # Asked to leave, and saved: the same command goes on.
NO_PROGRESS = 76  # Nothing got done for too long, or a peer is lost; the same command goes on.
BAD_INPUT = 78  # Bad flags, config or checkpoint.


class ArgumentError(ValueError):
    """An argument that cannot be used, refused in one line that names it and what it may be.

    A type of its own, so that a program may show its user this line alone, and whatever else is
    raised with its traceback.
    """


class DatasetError(ValueError):
    """A dataset cannot be used or made; one line with its path and what is wrong."""


class EnvError(ValueError):
    """An environment, or whatever plays it, broke the contract: one line says where and how."""


class CheckpointError(Exception):
    """No step can be used, or it belongs to another program or config."""


class SaveError(OSError):
    """A step could not be written; the steps before it are untouched."""


class StoppedError(Exception):
    """Games were broken off before they had a score."""


class Ending(Exception):
    """A program ends by it: its text is the last line, `code` the exit code."""

    code: int


class BadInputError(Ending):
    """Input that the user has to change: field, value and fix in one line."""

    code = BAD_INPUT


class NotFiniteError(Ending):
    """Training cannot go on: losses, gradients or rows are not finite."""

    code = NOT_FINITE


class StorageError(Ending):
    """Resume points cannot be written."""

    code = STORAGE


class PeerError(Ending):
    """Another process of the run is gone or stuck."""

    code = NO_PROGRESS


class PreemptedError(Ending):
    """The process was asked to leave, and all is saved."""

    code = PREEMPTED
