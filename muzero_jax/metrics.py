"""Writers of metrics behind one `write(record)`, and the reader of the JSON Lines file.

A record is a flat dictionary with `env_steps`, `updates`, `wall_s` and `resumes`, and names such as
`train/value_loss`, `eval/return_mean`, `eval/returns` (a list) and `speed/env_steps_per_s`.
"""

from collections.abc import Callable
import contextlib
import functools
import inspect
import json
import logging
import math
import os
from pathlib import Path
import queue
import sys
import threading
import time
from typing import Any, NamedTuple, TextIO

import numpy as np
import tqdm

_PROGRESS_LINE_SECONDS = 10.0

_LOG = logging.getLogger(__name__)


class Writer(NamedTuple):
    """Where records go.

    Attributes:
      write: `(record) -> None`.
      close: `() -> None`, called once, after the last `write`.
    """

    write: Callable[[dict], None]
    close: Callable[[], None]


def combine(*writers: Writer) -> Writer:
    """Makes one writer of several; one that fails is warned of once, and stops nothing else.

    It is still given every record, so that a disk that is full for a while costs few of them.
    """
    warned: set[int] = set()

    def to_all(calls):
        for place, call in enumerate(calls):
            try:
                call()
            except Exception as error:  # A full disk, a folder that went away, a closed terminal.
                if place not in warned:
                    warned.add(place)
                    kind = type(error).__name__
                    _LOG.warning("metrics are being lost, training goes on: %s: %s", kind, error)

    def write(record):
        to_all([functools.partial(writer.write, record) for writer in writers])

    def close():
        to_all([writer.close for writer in writers])

    return Writer(write, close)


def make_jsonl_writer(path) -> Writer:
    """Makes a writer which appends one line of JSON per record; what is not finite becomes null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered: each line is one `write` to the system, and survives a kill of the process.
    file = path.open("ab", buffering=0)
    # A killed writer left half a line, or a full disk did. It stays, on a line of its own, for
    # people to see.
    state = {"torn": _ends_torn(path)}

    def write(record):
        line = json.dumps(_plain(record), allow_nan=False) + "\n"
        data = b"\n" + line.encode() if state["torn"] else line.encode()
        state["torn"] = True
        _write_all(file, data)
        state["torn"] = False

    return Writer(write, file.close)


def make_tensorboard_writer(path) -> Writer:
    """Makes a writer of TensorBoard scalars over `env_steps`; a list becomes a histogram.

    What an earlier stretch wrote from this one's first record on is hidden, as by `read_jsonl`.
    """
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog
    except ImportError as error:
        message = "TensorBoard needs tensorboardX: pip install 'muzero_jax[tensorboard]'"
        raise ImportError(message) from error
    # Not `SummaryWriter`: its thread dies of a full disk, and then `add_scalar` waits for ever.
    board: list[event_file_writer.EventsWriter] = []

    def add(step, **content):
        board[0].write_event(Event(step=step, wall_time=time.time(), **content))

    def write(record):
        step = int(record["env_steps"])
        if not board:
            Path(path).mkdir(parents=True, exist_ok=True)
            # Two stretches that begin within a second must not share a file.
            suffix = f".{time.time_ns()}"
            board.append(event_file_writer.EventsWriter(str(Path(path) / "events"), suffix))
            add(step, session_log=SessionLog(status=SessionLog.START))
        for name, value in record.items():
            if isinstance(value, str) or value is None or name == "env_steps":
                continue
            values = np.asarray(value, np.float64)
            if values.ndim == 0:
                add(step, summary=summary.scalar(name, values))
            elif np.isfinite(values).all() and values.size:
                add(step, summary=summary.histogram(name, values, "auto"))
        board[0].flush()

    def close():
        for events in board:
            events.close()

    return Writer(write, close)


def make_tracker_writer(
    tracker: Any,
    *,
    name: str,
    folder: Path,
    config: dict[str, Any],
    patience_s: float = 30.0,
) -> Writer:
    """Makes a writer for an experiment tracker: a module shaped like `wandb`.

    It has `init(...)`, whose result has `log(numbers, step=...)` and `finish()`. Of the arguments
    of `init` that we know each gets those that it takes: `project`, `name`, `dir`, `config`, and
    `mode`, which is "offline" unless the variable WANDB_MODE says otherwise.

    The tracker works in a thread of its own, which a run never waits for: what one that hangs has
    not taken when `patience_s` are over at the end, or beyond 10,000 records, is lost. So are the
    records after its first error. Either is raised once, by `write` or `close`, for `combine` to
    warn of.
    """
    known = dict(
        project="muzero_jax",
        name=name,
        dir=str(folder),
        config=config,
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    waiting: queue.Queue = queue.Queue(maxsize=10_000)
    faults: list[BaseException] = []

    def work():
        try:
            parameters = inspect.signature(tracker.init).parameters
            takes_all = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
            run = tracker.init(**{k: x for k, x in known.items() if takes_all or k in parameters})
            while (record := waiting.get()) is not None:
                run.log(
                    {k: x for k, x in _plain(record).items() if isinstance(x, int | float)},
                    step=int(record["env_steps"]),
                )
            run.finish()
        except BaseException as error:  # Whatever a library raises, sys.exit too.
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True, name="tracker")
    thread.start()
    state = {"raised": False}

    def raise_once(error: Exception):
        if not state["raised"]:
            state["raised"] = True
            raise error

    def check():
        if faults:
            kind, text = type(faults[0]).__name__, " ".join(str(faults[0]).split())
            raise_once(RuntimeError(f"the tracker has failed: {kind}: {text}"))

    def write(record):
        check()
        if not faults:
            try:
                waiting.put_nowait(dict(record))
            except queue.Full:
                raise_once(RuntimeError("the tracker hangs: records are being lost"))

    def close():
        if not faults:
            with contextlib.suppress(queue.Full):
                waiting.put_nowait(None)
            thread.join(patience_s)
        check()
        if thread.is_alive():
            raise_once(RuntimeError(f"the tracker has not finished within {patience_s:.0f} s"))

    return Writer(write, close)


def make_progress_writer(total_env_steps: int, stream: TextIO | None = None) -> Writer:
    """Makes a writer for people: a bar on a terminal, else a line every ten seconds at most.

    The time left is reckoned from the speed since this process's first record.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    bar = tqdm.tqdm(
        total=total_env_steps, file=stream, unit="step", unit_scale=True, disable=not on_terminal
    )
    state: dict[str, Any] = {"first": None, "last_line": -math.inf, "return": None}

    def write(record):
        now, steps = time.monotonic(), int(record["env_steps"])
        if state["first"] is None:
            state["first"] = (now, steps)
            bar.initial = steps  # So that the bar's own time left knows of a resume.
        evaluated = record.get("eval/return_mean") is not None
        if evaluated:
            state["return"] = float(record["eval/return_mean"])
        if on_terminal:
            bar.n = steps
            bar.set_postfix_str(", ".join(_facts(record, state["return"])))
        elif evaluated or steps >= total_env_steps or _is_due(state, now):
            state["last_line"] = now
            left = _time_left(state["first"], (now, steps), total_env_steps)
            line = f"{steps}/{total_env_steps} steps, {left} left"
            print(line, *_facts(record, state["return"]), sep=", ", file=stream, flush=True)

    return Writer(write, bar.close)


def read_jsonl(path) -> list[dict]:
    """Returns the records of the run as it finally went, in the order they were written.

    A run that was taken up again does part of its work twice. What an earlier stretch recorded
    beyond the point where a later one (higher `resumes`) begins is left out; a stretch begins at
    its smallest `env_steps`. Torn lines are left out too.
    """
    records = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if not line:  # What a write that failed at its first byte makes of the next one.
            continue
        try:
            record = json.loads(line)
        except ValueError:
            _LOG.warning("%s: line %d is torn (a kill does that) and left out", path, number)
            continue
        if isinstance(record, dict) and "env_steps" in record:
            records.append(record)
    kept = []
    begin = math.inf
    for resumes in sorted({r.get("resumes", 0) for r in records}, reverse=True):
        stretch = [r for r in records if r.get("resumes", 0) == resumes]
        kept = [r for r in stretch if r["env_steps"] < begin] + kept
        begin = min(begin, *(r["env_steps"] for r in stretch))
    return kept


def _plain(value):
    """NumPy and JAX scalars as Python numbers, arrays as lists, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if not isinstance(value, float):
        value = np.asarray(value)
        if value.dtype.kind in "OSUMm":
            raise TypeError(f"cannot be written as JSON: {value!r}")
        # Through float64, because a list of bfloat16 would not be Python numbers.
        return _plain((value if value.dtype.kind in "biu" else value.astype(np.float64)).tolist())
    return value if math.isfinite(value) else None


def _ends_torn(path):
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"


def _write_all(file, data):
    # One call in all but a full disk or a signal, where the system may take a part.
    while data:
        data = data[file.write(data) :]


def _is_due(state, now):
    return now - state["last_line"] >= _PROGRESS_LINE_SECONDS


def _facts(record, last_return):
    facts = [] if last_return is None else [f"return {last_return:.4g}"]
    for name, value in record.items():
        if name.startswith("speed/") and value is not None:
            unit = name.removeprefix("speed/").replace("_per_s", "/s")
            facts.append(f"{float(value):.4g} {unit}")
    return facts


def _time_left(first, now, total_env_steps):
    seconds, steps = now[0] - first[0], now[1] - first[1]
    if steps <= 0 or seconds <= 0:
        return "?"
    left = max(total_env_steps - now[1], 0) * seconds / steps
    return tqdm.tqdm.format_interval(left)
