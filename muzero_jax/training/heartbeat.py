"""Heartbeats between the processes of one run: a lost peer is noticed at once, or within a minute.

Process 0 holds a connection to each of the others. A process that is killed closes its connections,
and the others know at once; one that is suspended, or whose network is gone, falls silent. Who
leaves or fails by itself says so first. JAX has heartbeats of its own, which end the process inside
the library, without a line and with the code of an abort (134): these are meant to come first.
"""

from collections.abc import Callable
import contextlib
import secrets
import selectors
import socket
import threading
import time

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 60.0

# How long a process has for its own last words, before it ends because another one has failed.
_GRACE_SECONDS = 1.0

_BEAT, _GOODBYE, _FAILED = b".", b"!", b"x"


def connect(
    host: str,
    rank: int,
    num_processes: int,
    *,
    publish: Callable[[str], None],
    look_up: Callable[[], str],
) -> dict[int, socket.socket]:
    """Connects process 0, at `host`, with each of the others; it waits until all have come.

    Args:
      host: name or address of process 0.
      rank: of this process.
      num_processes: of the run.
      publish: sends the others a word; called by process 0.
      look_up: waits for that word.

    Returns:
      The connections of this process by the rank of the other one.

    Raises:
      OSError: process 0 cannot be reached.
    """
    if rank:
        port, token = look_up().split()
        connection = socket.create_connection((host, int(port)))
        connection.sendall(f"{token} {rank}\n".encode())
        return {0: connection}
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(
        ("", 0), family=family, dualstack_ipv6=both, backlog=num_processes
    ) as server:
        token = secrets.token_hex(16)
        publish(f"{server.getsockname()[1]} {token}")
        connections: dict[int, socket.socket] = {}
        while len(connections) < num_processes - 1:
            connection, _ = server.accept()
            said = _read_line(connection).split()
            if len(said) == 2 and said[0] == token:
                connections[int(said[1])] = connection
            else:  # A stranger who looks for open ports.
                connection.close()
    return connections


def _read_line(connection: socket.socket) -> str:
    connection.settimeout(10.0)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 100:
            came = connection.recv(1)
            if not came:
                break
            line += came
    except OSError:
        return ""
    return line.decode(errors="replace")


class Heart:
    """Beats for the other processes, and listens to theirs, in a thread of its own."""

    def __init__(
        self,
        connections: dict[int, socket.socket],
        lost: Callable[[str], None],
        *,
        beat_s: float = BEAT_SECONDS,
        silence_s: float = SILENCE_SECONDS,
    ):
        """Starts at once.

        Args:
          connections: by the rank of the other process.
          lost: called once, with words for what became of which process.
          beat_s: seconds between two beats.
          silence_s: seconds without a beat after which a process is lost.
        """
        self._connections, self._lost = connections, lost
        self._beat_s, self._silence_s = beat_s, silence_s
        self._failing = False
        for connection in connections.values():
            connection.setblocking(False)
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    def leave(self) -> None:
        """Says goodbye: all processes are about to end, and this one is not lost when it has."""
        self._say(_GOODBYE)

    def fail(self) -> None:
        """Says that this process is about to end by an error of its own.

        The others end soon after, unless they are failing themselves: an error may be that of all.
        Process 0 waits for that, because JAX aborts the processes that are there when it has ended.
        """
        self._failing = True
        self._say(_FAILED)
        if 0 not in self._connections:
            time.sleep(3 * _GRACE_SECONDS)

    def _say(self, word: bytes) -> None:
        for connection in self._connections.values():
            # One that does not read is known by its silence, one that is gone by `_receive`.
            with contextlib.suppress(OSError):
                connection.send(word)

    def _watch(self) -> None:
        selector, begin = selectors.DefaultSelector(), time.monotonic()
        for rank, connection in self._connections.items():
            selector.register(connection, selectors.EVENT_READ, rank)
        heard, failed = dict.fromkeys(self._connections, begin), {}
        next_beat = begin
        while (heard or failed) and not self._failing:
            ready = selector.select(self._beat_s)
            now, lost = time.monotonic(), None
            for key, _ in ready:
                came = _receive(key.fileobj)
                heard[key.data] = now
                if _GOODBYE in came or _FAILED in came:
                    selector.unregister(key.fileobj)
                    del heard[key.data]
                    if _FAILED in came:
                        failed[key.data] = now
                elif not came:
                    lost = f"process {key.data} is gone"
            # After all has been read: it may be this process that was suspended.
            for rank, last in heard.items():
                if now - last > self._silence_s:
                    lost = f"nothing was heard of process {rank} for {self._silence_s:.0f} s"
            for rank, last in failed.items():
                if now - last > _GRACE_SECONDS:
                    lost = f"process {rank} has failed"
            if lost and not self._failing:
                return self._lost(lost)
            if now >= next_beat:
                next_beat = now + self._beat_s
                self._say(_BEAT)


def _receive(connection: socket.socket) -> bytes:
    """What has come; nothing where the connection is closed."""
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return _BEAT
    except OSError:
        return b""
