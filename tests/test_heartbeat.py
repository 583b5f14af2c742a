"""Heartbeats over sockets of this process: who is lost, who has left, who has failed."""

import queue
import socket
import threading

import pytest

from muzero_jax.training import heartbeat

_PATIENCE_S = 30


class _Process:
    """One of several, with what its heart says of the others."""

    def __init__(self, connections, silence_s=_PATIENCE_S):
        self.connections, self._lost = connections, queue.Queue()
        self.heart = heartbeat.Heart(
            connections, self._lost.put, beat_s=0.02, silence_s=silence_s
        )

    def close(self):
        """As the system does for a process that is killed."""
        for connection in self.connections.values():
            connection.shutdown(socket.SHUT_RDWR)

    def lost(self):
        return self._lost.get(timeout=_PATIENCE_S)

    def has_lost_nothing(self, for_s=1.0):
        with pytest.raises(queue.Empty):
            self._lost.get(timeout=for_s)
        return True


def _connected(count):
    """The connections of each of `count` processes, made as a run makes them."""
    word = queue.Queue()

    def say(message):
        for _ in range(count - 1):
            word.put(message)

    def connect(rank):
        made[rank] = heartbeat.connect("localhost", rank, count, publish=say, look_up=word.get)

    made = {}
    threads = [threading.Thread(target=connect, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    return [made[rank] for rank in range(count)]


def test_a_process_that_is_killed_ends_all_others():
    """The first knows of it at once, the third when the first ends for it. Planted bugs seen: the
    end of a connection taken for silence; ranks in the order in which the processes came."""
    first, second, third = map(_Process, _connected(3))
    second.close()
    assert first.lost() == "process 1 is gone"
    first.close()
    assert third.lost() == "process 0 is gone"


def test_a_process_that_is_suspended_is_lost_and_one_that_works_is_not():
    """The second holds its connection and says nothing. Planted bugs seen: silence is never too
    long; no beats from the first."""
    first, second = _connected(2)
    assert _Process(first, 0.1).lost() == "nothing was heard of process 1 for 0 s"
    del second
    first, second = (_Process(connections, 1.5) for connections in _connected(2))
    assert first.has_lost_nothing(3.0) and second.has_lost_nothing()


def test_who_leaves_is_not_lost():
    """A run that ends: one process is done before the other. Planted bug seen: no goodbye."""
    first, second = map(_Process, _connected(2))
    second.heart.leave()
    second.close()
    assert first.has_lost_nothing()


def test_who_fails_says_so_and_an_error_of_all_is_that_of_each():
    """Bad input that all of them see is no lost process. Planted bug seen: a process that is
    failing itself ends because the other one has failed."""
    first, second, third = map(_Process, _connected(3))
    failing = [threading.Thread(target=x.heart.fail, daemon=True) for x in (first, second)]
    for thread in failing:
        thread.start()
    assert third.lost() == "process 0 has failed"
    for thread in failing:
        thread.join(_PATIENCE_S)
    first.close()
    assert first.has_lost_nothing() and second.has_lost_nothing()


def test_strangers_do_not_count():
    """Something connects, says a wrong word and leaves, before the second process comes."""
    word, made = queue.Queue(), []
    options = {"publish": word.put, "look_up": word.get}
    thread = threading.Thread(
        target=lambda: made.append(heartbeat.connect("localhost", 0, 2, **options)), daemon=True
    )
    thread.start()
    message = word.get(timeout=_PATIENCE_S)
    for hello in (b"", b"GET / HTTP/1.1\r\n\n", b"0" * 200):
        with socket.create_connection(("localhost", int(message.split()[0]))) as stranger:
            stranger.sendall(hello)
    assert not made
    word.put(message)
    second = heartbeat.connect("localhost", 1, 2, **options)
    thread.join(_PATIENCE_S)
    assert list(made[0]) == [1] and list(second) == [0]
    second[0].sendall(b".")
    assert made[0][1].recv(1) == b"."
