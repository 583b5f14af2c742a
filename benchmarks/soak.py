"""A run that goes on: what of it grows.

  python benchmarks/soak.py --write
  python benchmarks/soak.py --loop=host --write

CartPole with the driver of the training scripts, in this process, for 40 minutes, with an
evaluation every 8,000 env steps and a resume point every 16,000. It is looked at from inside: once
a second, by a thread, its resident memory, its open files, the arrays and the compiled programs
that JAX holds; twice a minute, between two iterations and after a collection of garbage, its Python
objects by type. What counts is the time after the first third, when all is compiled and the replay
is full. In 15 minutes the interval of the slope of resident memory, which goes up and down with
saves, is wider than its limit.

Arrays, files and the objects of a type are said to grow where the least of the last third of that
time is more than the most of its first third: they go up and down with saves and evaluations, and
what leaks only goes up. Programs grow where any is compiled at all. For resident memory the slope
is that of least squares, its 95 % interval that of a bootstrap over its residuals in blocks of a
minute (2,000 resamples), because samples of one minute are not independent.

Prints JSON without its series; --write keeps all in results/soak.json (or soak_host.json). The exit
code is 1 where anything grows, or the upper bound of the slope is 20 MiB an hour or more.
"""

import argparse
import array
import collections
import contextlib
import gc
import json
import os
from pathlib import Path
import sys
import tempfile
import threading
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

LIMIT_MIB_PER_HOUR = 20.0
SERIES = ("seconds", "rss_mib", "open_files", "live_arrays", "live_array_mib", "live_programs")
CHANGES = {
    "replay.rows_per_env": 1_000,  # Full within the first third, whose pages are then all touched.
    "evaluation.interval_env_steps": 8_000,
    "evaluation.stop_at": 1e9,
    "checkpoint.resume_interval_env_steps": 16_000,
    "checkpoint.params_interval_env_steps": 16_000,
    "total_env_steps": 10**9,
}


class Observer:
    """Looks at this process, and keeps what it saw without objects that the collector knows.

    Attributes:
      series: of each name of `SERIES` what was seen, one number a second.
      snapshots: JSON of `[seconds, {type: objects}]`.
      compiled: when each program was compiled, in seconds.
    """

    def __init__(self, objects_every_s: float = 30.0):
        import jax

        self.series = {name: array.array("d") for name in SERIES}
        self.snapshots: list[str] = []
        self.compiled = array.array("d")
        self._client = jax.devices()[0].client
        self._objects_every_s = self._next_objects = objects_every_s
        self._begin = time.monotonic()
        self._over = threading.Event()
        jax.monitoring.register_event_duration_secs_listener(self._note_compiled)
        self._thread = threading.Thread(target=self._look, name="observer", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _note_compiled(self, event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compiled.append(time.monotonic() - self._begin)

    def _look(self) -> None:
        while not self._over.wait(1.0):
            seconds = time.monotonic() - self._begin
            for name, value in zip(SERIES, (seconds, *self._numbers()), strict=True):
                self.series[name].append(value)

    def between(self, loop):
        """The iterations of a loop, with a look at the objects between two of them."""
        with contextlib.closing(loop):
            for iteration in loop:
                yield iteration
                seconds = time.monotonic() - self._begin
                if seconds >= self._next_objects:
                    self._next_objects = seconds + self._objects_every_s
                    self.snapshots.append(json.dumps([seconds, count_objects()]))

    def _numbers(self):
        import jax

        pages = int(Path("/proc/self/statm").read_text().split()[1])
        arrays = [x.nbytes for x in jax.live_arrays()]
        yield pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        yield len(os.listdir("/proc/self/fd"))
        yield len(arrays)
        yield sum(arrays) / 2**20
        yield len(self._client.live_executables())


def count_objects() -> dict[str, int]:
    """The objects that Python's garbage collector knows, by type; called by the main thread."""
    gc.collect()
    interval = sys.getswitchinterval()
    # No thread goes on while all objects are held: a tuple that it is making must be its own.
    sys.setswitchinterval(60.0)
    kinds = list(map(type, gc.get_objects()))
    sys.setswitchinterval(interval)
    counts = collections.Counter(kinds)
    return {f"{x.__module__}.{x.__qualname__}": n for x, n in counts.items()}


def grows(values) -> bool:
    """Whether the least of the last third is more than the most of the first third."""
    third = len(values) // 3
    return bool(third and min(values[-third:]) > max(values[:third]))


def slope_interval(
    seconds: np.ndarray, values: np.ndarray, *, block_s: float = 60.0, resamples: int = 2_000
) -> tuple[float, float, float]:
    """The slope of least squares an hour, and its 95 % interval by a bootstrap of residuals in
    blocks."""
    hours = (seconds - seconds.mean()) / 3600
    fit = lambda y: y @ hours / (hours @ hours)  # noqa: E731
    slope = fit(values - values.mean())
    residuals = values - values.mean() - slope * hours
    length = max(1, round(block_s / np.median(np.diff(seconds))))
    random = np.random.default_rng(0)
    blocks = -(-len(values) // length)
    starts = random.integers(0, len(values) - length + 1, (resamples, blocks))
    drawn = residuals[starts[..., None] + np.arange(length)].reshape(resamples, -1)
    slopes = slope + fit(drawn[:, : len(values)])
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(slope), float(low), float(high)


def judge(observed: Observer, begin_s: float, end_s: float) -> dict:
    """What has grown between the two times."""
    seconds = np.asarray(observed.series["seconds"])
    inside = (seconds >= begin_s) & (seconds <= end_s)
    series = {name: np.asarray(x)[inside] for name, x in observed.series.items()}
    slope, low, high = slope_interval(series["seconds"], series["rss_mib"])
    snapshots = [json.loads(text) for text in observed.snapshots]
    within = [counts for second, counts in snapshots if begin_s <= second <= end_s]
    if len(within) < 3:
        raise SystemExit(f"no more than {len(within)} looks at the objects; take more --minutes")
    objects = {name: [x.get(name, 0) for x in within] for name in set().union(*within)}
    names = ("open_files", "live_arrays", "live_array_mib", "live_programs")
    compiled = sum(begin_s <= second <= end_s for second in observed.compiled)
    verdict = {
        "from_s": begin_s,
        "to_s": end_s,
        "rss_slope_mib_per_hour": slope,
        "rss_slope_interval_95": [low, high],
        "programs_compiled": compiled,
        "programs_compiled_before": sum(second < begin_s for second in observed.compiled),
        "first_and_last": {name: [series[name][0], series[name][-1]] for name in SERIES},
        "grows": sorted(name for name in names if grows(series[name])),
        "objects_grow": {name: x for name, x in sorted(objects.items()) if grows(x)},
        "objects_first_and_last": [sum(x.values()) for x in (within[0], within[-1])],
    }
    bad = compiled or verdict["grows"] or verdict["objects_grow"] or high >= LIMIT_MIB_PER_HOUR
    return verdict | {"passes": not bad}


def main(words: list[str] | None = None) -> bool:
    """Whether nothing grew."""
    from provenance import provenance

    from configs import cartpole
    from muzero_jax import training
    from muzero_jax.config import build, runs, schema

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loop", choices=["device", "host"], default="device")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(words)
    gc.set_threshold(100_000, 10, 10)  # As the scripts do.
    config = cartpole.get_config({"device": "on_device", "host": "host"}[args.loop])
    config.update_from_flattened_dict(CHANGES | {"max_wall_minutes": args.minutes})
    schema.check(config)
    result = provenance() | {
        "command": f"python benchmarks/soak.py --loop={args.loop} --minutes={args.minutes:g}",
        "changed": CHANGES,
    }
    with tempfile.TemporaryDirectory() as folder:
        with Observer(objects_every_s=min(30.0, 2 * args.minutes)) as observed:
            experiment = build.experiment(config)
            training.train(
                experiment._replace(run=lambda run: observed.between(experiment.run(run))),
                runs.open_folder(Path(folder) / "run", config),
                build.schedule(config),
            )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    result |= {
        "evaluations": sum("eval/return_mean" in record for record in records),
        "env_steps": records[-1]["env_steps"],
        "failed_saves": records[-1].get("checkpoint/failed_saves"),
    }
    result |= judge(observed, 20 * args.minutes, 60 * args.minutes)
    print(json.dumps(result, indent=1))
    if args.write:
        snapshots = [json.loads(text) for text in observed.snapshots]
        common = [set(counts.items()) for _, counts in snapshots]
        constant = set.intersection(*common) if common else set()
        moving = [
            [second, dict(sorted(set(counts.items()) - constant))] for second, counts in snapshots
        ]
        result["series"] = {name: [round(v, 3) for v in x] for name, x in observed.series.items()}
        result["objects_that_change"] = moving
        name = "soak.json" if args.loop == "device" else "soak_host.json"
        (ROOT / "benchmarks" / "results" / name).write_text(json.dumps(result) + "\n")
    return result["passes"]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
