"""The metrics writers of a run. A disk that is full costs their records, never the run."""

from collections.abc import Callable
import contextlib
import importlib
import json
from pathlib import Path

from muzero_jax import metrics
from muzero_jax.training import multihost, process


def make(
    workdir: Path, total_env_steps: int, *, tensorboard: bool, tracker: str | None = None
) -> metrics.Writer:
    """The writers of a run behind one `write`; for all processes but one, nothing."""
    if not multihost.is_primary():
        return metrics.combine()
    lines, board = workdir / "metrics.jsonl", workdir / "tensorboard"

    def make_lines():
        (workdir / "config.json").stat()  # A run folder that was removed is not made again.
        return metrics.make_jsonl_writer(lines)

    made = [
        _forgiving("metrics.jsonl", make_lines, lines),
        _forgiving("the progress line", lambda: metrics.make_progress_writer(total_env_steps)),
    ]
    if tensorboard:
        made.append(_forgiving("tensorboard", lambda: metrics.make_tensorboard_writer(board)))
    if tracker is not None:
        made.append(_make_tracker(tracker, workdir))
    return metrics.combine(*made)


def _make_tracker(name: str, workdir: Path) -> metrics.Writer:
    """The writer of a tracker; one that cannot be imported loses its records, with a warning."""
    state: dict[str, metrics.Writer] = {}

    def write(record):
        if not state:
            state["writer"] = metrics.combine()  # Without it, if what follows raises.
            state["writer"] = metrics.make_tracker_writer(
                importlib.import_module(name),
                name=workdir.name,
                folder=workdir,
                config=json.loads((workdir / "config.json").read_text()),
            )
        state["writer"].write(record)

    def close():
        if state:
            state["writer"].close()

    return metrics.Writer(write, close)


def _forgiving(
    name: str, make_writer: Callable[[], metrics.Writer], path: Path | None = None
) -> metrics.Writer:
    """A writer that loses records while it cannot write; a fault is reported when it begins.

    One whose `path` has been removed is a fault, though the system lets it write on.
    """
    state = {"writer": None, "works": True}

    def write(record):
        try:
            if state["writer"] and path and not path.exists():
                close()
            # Opened again after a fault, which may have left half a line.
            state["writer"] = state["writer"] or make_writer()
            state["writer"].write(record)
            state["works"] = True
        except OSError as error:
            close()
            if state["works"]:
                process.log_stderr(f"warning: {name} cannot be written: {error}; the run goes on")
            state["works"] = False

    def close():
        writer, state["writer"] = state["writer"], None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    return metrics.Writer(write, close)
