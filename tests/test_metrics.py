"""Tests of the writers and the reader of metrics."""

import io
import json
import os
from pathlib import Path
import resource
import struct
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import metrics


def _record(env_steps, resumes=0, **more):
    return {"env_steps": env_steps, "updates": 1, "wall_s": 0.5, "resumes": resumes, **more}


def test_jsonl_writes_plain_valid_json(tmp_path):
    """Fails if NaN is written as such (not JSON), or if an array scalar stays a string."""
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = metrics.make_jsonl_writer(path)
    record = _record(
        np.int64(2**40),
        a=jnp.float32(0.5),
        b=jnp.bfloat16(1.5),
        c=np.float32("nan"),
        d=float("inf"),
        e=[np.float64(1), float("nan"), 2],
        f=jnp.arange(3),
        g=np.bool_(True),
        h=None,
        i="text\nwith a line",
    )
    writer.write(record)
    # Read before `close`: a line must not wait in a buffer for a kill to lose it.
    (line,) = path.read_text().splitlines()
    writer.close()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(line, parse_constant=refuse) == _record(
        2**40, a=0.5, b=1.5, c=None, d=None, e=[1.0, None, 2], f=[0, 1, 2], g=True, h=None,
        i="text\nwith a line",
    )


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_jsonl_refuses_what_json_cannot_hold(tmp_path, value):
    """Fails if an unknown object is written as its `repr`."""
    writer = metrics.make_jsonl_writer(tmp_path / "m.jsonl")
    with pytest.raises(TypeError):
        writer.write(_record(1, bad=value))
    writer.close()
    assert (tmp_path / "m.jsonl").read_bytes() == b""


@pytest.mark.parametrize("cut", range(1, 12))
def test_jsonl_goes_on_after_a_kill(tmp_path, cut):
    """Fails if the writer appends to a torn line: the next record would be lost with it."""
    path = tmp_path / "m.jsonl"
    for step in (10, 20):
        writer = metrics.make_jsonl_writer(path)
        writer.write(_record(step))
        writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    writer = metrics.make_jsonl_writer(path)
    writer.write(_record(20, resumes=1))
    writer.write(_record(30, resumes=1))
    writer.close()
    assert path.read_bytes().startswith(whole[:-cut]), "what was there must stay"
    kept = metrics.read_jsonl(path)
    assert kept == [_record(10), _record(20, resumes=1), _record(30, resumes=1)]


def test_reader_drops_abandoned_stretches(tmp_path):
    """Fails if records are only compared at equal `env_steps`: 45 was abandoned, too."""
    path = tmp_path / "m.jsonl"
    writer = metrics.make_jsonl_writer(path)
    stretches = {0: [10, 20, 30, 40], 1: [30, 40, 45, 50, 60], 2: [40], 3: [20, 21, 35]}
    kept_of = {0: [10], 1: [], 2: [], 3: [20, 21, 35]}
    for resumes, steps in stretches.items():
        for step in steps:
            writer.write(_record(step, resumes))
    writer.close()
    expected = [_record(step, resumes) for resumes, steps in kept_of.items() for step in steps]
    assert metrics.read_jsonl(path) == expected


def test_reader_keeps_all_records_of_one_step(tmp_path):
    """Fails if a training and an evaluation record of the same step replace one another."""
    path = tmp_path / "m.jsonl"
    writer = metrics.make_jsonl_writer(path)
    records = [_record(10, a=1), _record(10, b=2), _record(20, 1, a=1), _record(20, 1, b=2)]
    for record in records:
        writer.write(record)
    writer.close()
    with path.open("a") as file:
        file.write('{"env_steps": 3')
    assert metrics.read_jsonl(path) == records


def _events(folder):
    """All events of a folder, in the order in which TensorBoard reads its files."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):  # Each record: length, its checksum, bytes, their checksum.
            (size,) = struct.unpack_from("<Q", data, place)
            yield Event.FromString(data[place + 12 : place + 12 + size])
            place += 16 + size


def _shown(folder):
    """Tag -> (step, value) of each scalar or histogram that TensorBoard shows.

    A START hides what was written at its step and later; seen to be what the `EventAccumulator` of
    tensorboard 2.21.0 does with these files.
    """
    from tensorboardX.proto.event_pb2 import SessionLog

    shown = {}
    for event in _events(folder):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            for points in shown.values():
                points[:] = [(step, value) for step, value in points if step < event.step]
        for value in event.summary.value:
            whole = value.histo.num if value.HasField("histo") else value.simple_value
            shown.setdefault(value.tag, []).append((event.step, whole))
    return shown


def test_tensorboard_is_read_back_as_written(tmp_path, monkeypatch):
    """Planted bugs seen: `updates` as the step; a list of NaN given to the histogram."""
    pytest.importorskip("tensorboardX")
    writer = metrics.make_tensorboard_writer(tmp_path / "deep" / "tensorboard")
    values = {"train/loss": jnp.float32(0.25), "eval/returns": [1.0, 2.0, 2.5], "none": None}
    writer.write(_record(10, **values))
    writer.write(_record(2**33, **{"train/loss": 0.5, "eval/returns": [float("nan"), 1.0]}))
    writer.write(_record(2**33 + 1, **{"train/loss": float("nan"), "eval/returns": []}))
    # Read before `close`: a kill must not lose it.
    shown = _shown(tmp_path / "deep" / "tensorboard")
    writer.close()
    loss = shown.pop("train/loss")
    assert loss[:2] == [(10, 0.25), (2**33, 0.5)] and np.isnan(loss[2][1])
    steps = (10, 2**33, 2**33 + 1)
    assert shown == {
        "eval/returns": [(10, 3.0)],
        "updates": [(step, 1.0) for step in steps],
        "wall_s": [(step, 0.5) for step in steps],
        "resumes": [(step, 0.0) for step in steps],
    }
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"muzero_jax\[tensorboard\]"):
        metrics.make_tensorboard_writer(tmp_path)


def test_tensorboard_shows_no_step_twice_after_a_resume(tmp_path):
    """The same stretches as `read_jsonl` keeps, though all begin within a second.
    Planted bugs seen: no START; file names by whole seconds, where the next file replaces one."""
    pytest.importorskip("tensorboardX")
    for resumes, steps in {0: [10, 20, 30, 40], 1: [30, 40, 45], 2: [40, 50]}.items():
        both = metrics.combine(
            metrics.make_tensorboard_writer(tmp_path / "tensorboard"),
            metrics.make_jsonl_writer(tmp_path / "m.jsonl"),
        )
        for step in steps:
            both.write(_record(step, resumes, loss=step + resumes))
        both.close()
    kept = [(10, 10.0), (20, 20.0), (30, 31.0), (40, 42.0), (50, 52.0)]
    assert _shown(tmp_path / "tensorboard")["loss"] == kept
    assert [(r["env_steps"], r["loss"]) for r in metrics.read_jsonl(tmp_path / "m.jsonl")] == kept


def test_progress_prints_plain_lines_when_not_on_a_terminal():
    """Fails if a bar's carriage returns get into a log file, or if every record makes a line."""
    stream = io.StringIO()
    writer = metrics.make_progress_writer(1000, stream)
    speed = {"speed/env_steps_per_s": np.float32(250)}
    writer.write(_record(100, **speed))
    writer.write(_record(200, **speed))
    writer.write(_record(300, **speed, **{"eval/return_mean": 7.5, "eval/returns": [7.0, 8.0]}))
    writer.write(_record(1000, **speed))
    writer.close()
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert [line.split(" ")[0] for line in lines] == ["100/1000", "300/1000", "1000/1000"]
    assert lines[0].endswith("? left, 250 env_steps/s")
    assert lines[2].endswith("00:00 left, return 7.5, 250 env_steps/s")


def test_progress_draws_a_bar_on_a_terminal():
    """Fails if the bar counts from zero on a resume."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    writer = metrics.make_progress_writer(1000, stream)
    writer.write(_record(500, **{"eval/return_mean": 3.0}))
    writer.close()
    assert "50%" in stream.getvalue() and "return 3" in stream.getvalue()


def test_combine_writes_to_all_and_closes_all():
    """Fails if one of the writers is left out."""
    seen = []
    writers = [
        metrics.Writer(lambda record, n=n: seen.append((n, record)), lambda n=n: seen.append(n))
        for n in range(2)
    ]
    both = metrics.combine(*writers)
    both.write({"env_steps": 1})
    both.close()
    assert seen == [(0, {"env_steps": 1}), (1, {"env_steps": 1}), 0, 1]


def test_a_failing_writer_stops_no_other_and_is_reported_once(tmp_path, caplog):
    """Planted bugs seen: the exception let through; a warning per record; a writer given up, so
    that what comes after the fault is lost."""
    seen = []

    def fail(record):
        if record["env_steps"] < 30:
            raise OSError(28, "No space left on device")
        seen.append(("first", record["env_steps"]))

    def close():
        raise RuntimeError("offline")

    good = metrics.Writer(lambda record: seen.append(("second", record["env_steps"])), seen.clear)
    both = metrics.combine(metrics.Writer(fail, close), good)
    for step in (10, 20, 30):
        both.write(_record(step))
    assert seen == [("second", 10), ("second", 20), ("first", 30), ("second", 30)]
    both.close()
    assert seen == []
    (message,) = [record.getMessage() for record in caplog.records]
    assert "training goes on" in message and "OSError" in message and "No space left" in message


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_tensorboard_on_a_full_disk_neither_stops_nor_waits(tmp_path, monkeypatch, caplog):
    """More records than a queue would hold. `SummaryWriter(flush_secs=0)` was seen to wait for ever
    here: its thread dies of the fault and its queue of ten fills.
    Planted bug seen: `combine` without its `except`."""
    record_writer = pytest.importorskip("tensorboardX.record_writer")
    full = {"on": True}

    def open_file(path):
        return open("/dev/full" if full["on"] else path, "wb")

    monkeypatch.setattr(record_writer, "open_file", open_file)
    writer = metrics.combine(
        metrics.make_tensorboard_writer(tmp_path / "tensorboard"),
        metrics.make_jsonl_writer(tmp_path / "m.jsonl"),
    )
    for step in range(50):
        writer.write(_record(step))
    writer.close()
    assert len(metrics.read_jsonl(tmp_path / "m.jsonl")) == 50
    assert sum("training goes on" in record.getMessage() for record in caplog.records) == 1


def test_jsonl_goes_on_when_a_full_disk_has_room_again(tmp_path, caplog):
    """Half a line is written, then nothing for a while.
    Planted bug seen: the next record appended to the half line, and lost with it."""
    path = tmp_path / "m.jsonl"
    writer = metrics.combine(metrics.make_jsonl_writer(path))
    writer.write(_record(10))

    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        writer.write(_record(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert len(path.read_bytes().splitlines()[1]) == 20
    writer.write(_record(30))
    writer.write(_record(40))
    writer.close()
    assert [record["env_steps"] for record in metrics.read_jsonl(path)] == [10, 30, 40]
    assert sum("training goes on" in record.getMessage() for record in caplog.records) == 1


class _Tracker:
    """A module shaped like wandb, which keeps what it is given."""

    def __init__(self, fails=None, hangs=None):
        self.calls, self.fails, self.hangs = [], fails, hangs

    def _call(self, name, *args):
        self.calls.append((name, *args))
        if name == self.fails:
            raise SystemExit(f"no {name}\nfor you")
        if name == self.hangs:
            threading.Event().wait(60)

    def init(self, project, name, config, mode):
        self._call("init", project, name, config, mode)
        return self

    def log(self, numbers, step):
        self._call("log", numbers, step)

    def finish(self):
        self._call("finish")


def _tracked(tracker, patience_s=5.0):
    return metrics.make_tracker_writer(
        tracker, name="run", folder=Path("somewhere"), config={"seed": 3}, patience_s=patience_s)


def test_a_tracker_is_given_all_numbers_in_order(monkeypatch):
    """Offline, and only what it takes. Planted: texts and lists among the numbers."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = _Tracker()
    writer = _tracked(tracker)
    for step in (10, 20):
        writer.write(_record(step, a=np.float32(0.5), b=[1, 2], c="text", d=float("nan")))
    writer.close()
    same = {"updates": 1, "wall_s": 0.5, "resumes": 0, "a": 0.5}
    assert tracker.calls == [
        ("init", "muzero_jax", "run", {"seed": 3}, "offline"),
        *(("log", {"env_steps": step, **same}, step) for step in (10, 20)),
        ("finish",),
    ]


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_warned_of_once(fails, caplog):
    """And the other writers go on."""
    lines = []
    others = metrics.Writer(lines.append, lambda: None)
    writer = metrics.combine(_tracked(_Tracker(fails=fails)), others)
    for step in range(3):
        writer.write(_record(step))
        time.sleep(0.05)
    writer.close()
    assert len(lines) == 3
    (warned,) = [x.getMessage() for x in caplog.records]
    assert warned.endswith(f"the tracker has failed: SystemExit: no {fails} for you")


@pytest.mark.parametrize("hangs", ["init", "log", "finish"])
def test_a_tracker_that_hangs_is_not_waited_for(hangs, caplog):
    writer = metrics.combine(_tracked(_Tracker(hangs=hangs), patience_s=0.2))
    begin = time.monotonic()
    for step in range(20_000 if hangs == "init" else 3):
        writer.write({"env_steps": step})
    writer.close()
    assert time.monotonic() - begin < 30
    (warned,) = [x.getMessage() for x in caplog.records]
    assert ("hangs: records are being lost" if hangs == "init" else "has not finished") in warned
