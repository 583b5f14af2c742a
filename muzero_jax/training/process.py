"""How a process ends: its exit codes, and the signals that ask it to leave.

SIGTERM, SIGINT (Ctrl-C), SIGHUP (no terminal), SIGUSR1 and SIGUSR2 (warnings of schedulers)
are taken note of by a thread, because Python itself looks at signals only between two of its own
steps, and one compilation can last longer than a scheduler's patience.
While there is nothing to save the thread ends the process at once. After `hold` the run is asked:
it looks at `preemption_requested`, saves and leaves by itself. A second signal ends it without a
save; after `settle`, when all is saved, any signal ends it at once with the exit code that it would
have had.

A process that gets nowhere, because a peer or a device is stuck, ends by itself too: see
`expect_progress`.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from muzero_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# Wrappers pass on a Ctrl-C that the terminal has sent to the whole group already.
SAME_REQUEST_SECONDS = 1.0

_lock = threading.Lock()
_held = threading.Event()
_asked = threading.Event()
_settled: list[int] = []  # The exit code, once nothing is left to save.
_deadline: list[float] = []  # When the watchdog loses its patience; empty: never.


def install_handlers() -> None:
    """Begins to take note of signals; called once, by the main thread."""
    faulthandler.enable()  # Stacks, too, where a library ends the process by a fatal signal.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # Written to by the C handler, whatever Python is doing.
    for number in _SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # `nohup`: the terminal may go.
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)  # No write of a checkpoint is cut short.
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def hold() -> None:
    """From now on there is work to save: the caller looks at `preemption_requested`."""
    with _lock:
        _settled.clear()  # Of a run before, in the same process.
        _held.set()


def settle(code: int) -> None:
    """From now on all is saved: a signal ends the process at once, with this exit code."""
    with _lock:
        _settled[:] = [code]


def end(code: int) -> NoReturn:
    """Ends the process, called by the main thread: no signal changes the code any more."""
    for number in _SIGNALS:  # While it ends, Python would give them back to the system.
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def request_preemption() -> None:
    """Asks the run in this process to save and leave, as a signal does; from any thread."""
    _asked.set()


def preemption_requested() -> bool:
    """Whether the process has been asked to save and leave."""
    return _asked.is_set()


def clear_request() -> None:
    """The run that was asked has ended: the next one in this process has not been asked."""
    _asked.clear()


def expect_progress(within_s: float | None) -> None:
    """Unless called again within so many seconds, all stacks are printed and the process ends.

    With None nothing is expected any more.
    """
    with _lock:
        begun = bool(_deadline)
        _deadline[:] = [float("inf") if within_s is None else time.monotonic() + within_s]
    if not begun:
        threading.Thread(target=_watch_progress, name="watchdog", daemon=True).start()


def _watch_progress() -> None:
    while True:
        time.sleep(0.5)
        with _lock:
            late = time.monotonic() - _deadline[0]
        if late > 0:
            log_stderr(
                "error: no progress, a device or another process is stuck; all stacks follow"
            )
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(all_threads=True)
            give_up()


def give_up() -> NoReturn:
    """Ends the process at once where it gets nowhere; it is no failure once all is saved."""
    os._exit(_settled[0] if _settled else errors.NO_PROGRESS)


def log_stderr(text: str) -> None:
    """Prints one line on standard error, if there is one."""
    # Not `print`: the main thread may be held up inside it, or the disk of a log be full.
    with contextlib.suppress(OSError):
        os.write(2, f"{' '.join(text.split())}\n".encode(errors="backslashreplace"))


def _watch(reading: int) -> None:
    first = None
    while True:
        number = os.read(reading, 1)[0]
        if number not in _SIGNALS:  # Another one that somebody listens to.
            continue
        name, now = signal.Signals(number).name, time.monotonic()
        with _lock:
            if not _held.is_set():
                log_stderr(f"{name}: nothing to save yet, leaving")
                os._exit(errors.PREEMPTED)
            if _settled:
                log_stderr(f"{name}: all is saved, leaving")
                os._exit(_settled[0])
            _asked.set()
        if first is None:
            first = now
            log_stderr(f"{name}: saving, then leaving; once more leaves without a save")
        elif now - first >= SAME_REQUEST_SECONDS:
            log_stderr(f"{name} again: leaving without a save")
            os._exit(128 + number)
