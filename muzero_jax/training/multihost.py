"""Several processes of one run: how they join, agree, and end together.

Every process runs the same program on its own devices. The first one (process 0) writes the files
that are no arrays, evaluates, and prints. What a process alone may notice (a signal, the time, the
outcome of an evaluation) all have to agree on before anyone acts on it, or they would wait for each
other for ever. One process agrees with itself at once.
"""

import os
from pathlib import Path
import re
import threading
import time

import jax
from jax._src import distributed
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from muzero_jax import errors
from muzero_jax.mesh import REPLICATED, put_rows, sum_over_processes
from muzero_jax.training import heartbeat, process

# The library's own patience with a lost process, whose end is an abort in C++ (code 134): longer
# than that of `heartbeat`, and within the two minutes that docs/scaling.md gives.
JAX_HEARTBEAT_SECONDS = 100

_hearts: list[heartbeat.Heart] = []  # That of this process, once it has joined others.


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout_s: int,
) -> None:
    """Joins the other processes of the run, before any device is touched; None: there are none.

    With the coordinator "auto" all three are taken from the cluster (SLURM, Cloud TPU, ...).

    Raises:
      BadInputError: for flags that do not fit together, a coordinator that cannot be reached, or
        processes that have not come in `timeout_s`.
    """
    given = [x is not None for x in (num_processes, process_id)]
    if coordinator is None and not any(given):
        return
    if coordinator == "auto":
        if any(given):
            raise errors.BadInputError(
                "--coordinator=auto takes --num_processes and --process_id from the cluster"
            )
    else:
        _check_flags(coordinator, num_processes, process_id)
    # It would take SIGTERM from `process`.
    jax.config.update("jax_enable_preemption_service", False)
    # The library ends the process by itself when its own patience is over, and not in one line.
    patience = threading.Timer(timeout_s, _give_up, (coordinator, num_processes, timeout_s))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            coordinator_address=None if coordinator == "auto" else coordinator,
            num_processes=num_processes,
            process_id=process_id,
            initialization_timeout=timeout_s + 60,
            heartbeat_timeout_seconds=JAX_HEARTBEAT_SECONDS,
        )
        _hearts.append(heartbeat.Heart(_connect(timeout_s), _end))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        refusal = f"--coordinator: {coordinator} cannot be used: {reason}"
        raise errors.BadInputError(refusal) from None
    finally:
        patience.cancel()


def _connect(timeout_s: int):
    """The connections of this process's heartbeats; where process 0 listens, its store says."""
    # The public module has neither the address, which may be the cluster's, nor the store.
    state, name = distributed.global_state, "muzero_jax/heartbeat"
    return heartbeat.connect(
        state.coordinator_address.rpartition(":")[0].strip("[]"),
        state.process_id,
        state.num_processes,
        publish=lambda word: state.client.key_value_set(name, word),
        look_up=lambda: state.client.blocking_key_value_get(name, 1000 * timeout_s),
    )


def _end(reason: str) -> None:
    process.log_stderr(f"error: {reason}, see its log; the same command goes on")
    process.give_up()


def leave() -> None:
    """Says that this process is about to end, as all of them are: it will not be lost."""
    for heart in _hearts:
        heart.leave()


def fail() -> None:
    """Says that this process ends by an error of its own; the others end, too."""
    for heart in _hearts:
        heart.fail()


def _give_up(coordinator: str, num_processes: int | None, timeout_s: int) -> None:
    process.log_stderr(
        f"error: --coordinator: {coordinator} cannot be reached, or not all {num_processes or ''}"
        f" processes have come within {timeout_s} s; see that all were started, with the same"
        " --num_processes"
    )
    os._exit(errors.BAD_INPUT)


def _check_flags(coordinator: str | None, num_processes: int | None, process_id: int | None):
    if None in (coordinator, num_processes, process_id):
        raise errors.BadInputError(
            "--coordinator, --num_processes and --process_id go together"
            f" (got {coordinator}, {num_processes}, {process_id})"
        )
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise errors.BadInputError(
            f"--coordinator must be HOST:PORT of process 0, or auto (got {coordinator!r})"
        )
    if process_id >= num_processes:
        raise errors.BadInputError(
            f"--process_id must be < --num_processes (got {process_id} and {num_processes})"
        )


def is_primary() -> bool:
    """Whether this process writes and prints."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_primary():
        print(text, flush=True)


def barrier() -> None:
    """Waits until every process has come here."""
    sum_over_processes([0.0])


def of_primary(number: float) -> float:
    """The number that the first process has; every process has to call it."""
    return float(sum_over_processes([number if is_primary() else 0.0])[0])


def check_shared(workdir: Path, patience_s: float = 30.0) -> None:
    """Of several processes, called by all once the first one has claimed the run folder.

    A file of one process may be seen by another so many seconds later, over a network.

    Raises:
      BadInputError: in every process, where one does not see the folder that the first one has.
    """
    end = f":{of_primary(os.getpid()):.0f}"
    give_up = time.monotonic() + patience_s
    while not (seen := _claimed_by(workdir).endswith(end)) and time.monotonic() < give_up:
        time.sleep(0.1)
    if any_process(not seen)[0]:
        raise errors.BadInputError(
            f"--workdir: {workdir} is not the run folder of process 0 for every process; give all"
            " of them the same folder, on a file system that they share"
        )


def _claimed_by(workdir: Path) -> str:
    """`host:pid` of the lock file, or nothing."""
    try:
        return (workdir / "lock").read_text().strip()
    except (OSError, ValueError):
        return ""


def any_process(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set in any process; every process has to call it."""
    return [bool(count) for count in sum_over_processes(np.asarray(flags, np.float64))]


class Agreement:
    """`any_process` for a loop: what is said in one turn is known to all in the next.

    So the sum is made while the device works, and no process waits for it.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._add = jax.jit(lambda x: jnp.sum(x, 0), out_shardings=NamedSharding(mesh, REPLICATED))
        self._newest = None

    def any_process(self, *flags: bool) -> list[bool]:
        """The flags of one process at once, of several those of the turn before."""
        if jax.process_count() == 1:
            return list(flags)
        own = len(self._mesh.local_devices)
        rows = put_rows(self._mesh, np.tile(np.asarray(flags, np.float32), (own, 1)))
        newest, self._newest = self._newest, self._add(rows)
        return [False] * len(flags) if newest is None else [bool(x) for x in jax.device_get(newest)]
