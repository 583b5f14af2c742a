"""Lists runs: how far they are, what they have reached, and how they go on.

  python experiments/runs.py                    all runs below runs/
  python experiments/runs.py FOLDER             all below another folder, or one run
  python experiments/runs.py --checkpoints      with the steps that can be played and gone on from
  python experiments/runs.py --watch            again every few seconds, until Ctrl-C

A run is running while a process holds its lock; it is done where it has reached what ends it
(steps, minutes, a score), and else it has stopped. Scores are those of the evaluations in the run,
with a 95 % interval over their games: the newest one, and the best. Age is since the newest line of
metrics.
"""

from pathlib import Path
import shlex
import time
from typing import Any, NamedTuple

from absl import flags
import numpy as np

import command_line
from muzero_jax import errors, metrics
from muzero_jax.config import runs, schema
from muzero_jax.evaluation.statistics import t_interval
from muzero_jax.training import run_folder, saving


class Listed(NamedTuple):
    """One run.

    Attributes:
      path: its folder.
      task: the game or task.
      state: "running", "done", "stopped", or "unreadable".
      env_steps, total: done so far, and those that end it.
      newest, best: `(score, half of the interval or None, env steps)`, None before an evaluation.
      age_s: seconds since something was written.
      checkpoints: steps that can be loaded, oldest first.
      kept: the iteration of the parameters with the best score, None of a run that has kept none.
      go_on: the command that goes on; None of one that is running or done.
      fault: why it cannot be read, or None.
    """

    path: Path
    task: str
    state: str
    env_steps: int
    total: int | None
    newest: tuple[float, float | None, int] | None
    best: tuple[float, float | None, int] | None
    age_s: float
    checkpoints: list[int]
    go_on: str | None
    fault: str | None = None
    kept: int | None = None


def find(folder: Path) -> list[Path]:
    """The runs in a folder and below it, by their names; one that is a run itself is the only one.

    Raises:
      BadInputError: where there is none.
    """
    if not folder.is_dir():
        raise errors.BadInputError(f"there is no folder {folder}")
    found = [folder] if (folder / "config.json").exists() else []
    found = found or sorted(path.parent for path in folder.rglob("config.json"))
    if not found:
        raise errors.BadInputError(f"{folder} holds no run (no config.json in it or below)")
    return found


def describe(workdir: Path, now: float) -> Listed:
    """What is known of a run, from its files; `now` is the time in seconds."""
    try:
        with runs.refused_by(workdir):
            return _describe(workdir, now)
    except errors.BadInputError as error:
        age = now - (workdir / "config.json").stat().st_mtime
        return Listed(workdir, "-", "unreadable", 0, None, None, None, age, [], None, str(error))


def _describe(workdir: Path, now: float) -> Listed:
    stored = run_folder.load(workdir / "config.json")
    by_code = stored.get("made_by") == "code"
    config = None if by_code else runs.read_config(workdir)
    lines = workdir / "metrics.jsonl"
    records = metrics.read_jsonl(lines) if lines.exists() else []
    scores = [_score(x) for x in records if x.get("eval/return_mean") is not None]
    best = max(scores, key=lambda x: x[0], default=None)
    newest = records[-1] if records else {"env_steps": 0, "wall_s": 0.0}
    total = stored.get("total_env_steps")
    minutes = stored.get("max_wall_minutes")
    stop_at = stored.get("evaluation", {}).get("stop_at")
    ended = (
        (total is not None and newest["env_steps"] >= total)
        or (minutes is not None and newest["wall_s"] >= 60 * minutes)
        or (stop_at is not None and best is not None and best[0] >= stop_at)
    )
    state = "running" if run_folder.is_running(workdir) else "done" if ended else "stopped"
    written = [path.stat().st_mtime for path in (lines, workdir / "config.json") if path.exists()]
    go_on = None
    if state == "stopped" and not by_code:
        modules = sorted(schema.own_modules(config))
        allow = [f"--allow={','.join(modules)}"] if modules else []
        words = ["--resume=must", f"--workdir={workdir}", *allow]
        go_on = shlex.join(["python", "experiments/train.py", *words])
    return Listed(
        path=workdir,
        task="made by code" if by_code else schema.task(config),
        state=state,
        env_steps=newest["env_steps"],
        total=total,
        newest=scores[-1] if scores else None,
        best=best,
        age_s=now - max(written),
        checkpoints=saving.saved_steps(workdir),
        go_on=go_on,
        kept=None if (best_kept := saving.best_of(workdir)) is None
        else best_kept["counters"]["iteration"],
    )


def table(listed: list[Listed], *, checkpoints: bool = False) -> str:
    """The runs as text: a line for each, and below it what goes with it."""
    rows = [("run", "task", "state", "env steps", "newest score", "best score", "age")]
    for run in listed:
        share = f" ({run.env_steps / run.total:.0%})" if run.total else ""
        rows.append(
            (
                str(run.path),
                run.task,
                run.state,
                f"{run.env_steps:,}{share}",
                _shown(run.newest),
                f"{_shown(run.best)} at {run.best[2]:,}" if run.best else "-",
                _ago(run.age_s),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(x.ljust(n) for x, n in zip(row, widths)).rstrip() for row in rows]
    for place, run in reversed([*enumerate(listed, start=1)]):
        below = []
        if run.fault:
            below.append(f"    {run.fault}")
        elif checkpoints:
            also = "" if run.kept is None else f"; best: {run.kept}"
            below.append(
                f"    checkpoints: {', '.join(map(str, run.checkpoints)) or 'none'}{also}"
            )
        if run.go_on:
            below.append(f"    go on: {run.go_on}")
        lines[place + 1 : place + 1] = below
    return "\n".join(lines)


def _score(record: dict[str, Any]) -> tuple[float, float | None, int]:
    """(mean, half of its interval, env steps) of an evaluation."""
    returns, half = np.asarray(record.get("eval/returns", ()), float), None
    if len(returns) > 1 and np.isfinite(returns).all():
        low, high = t_interval(returns)
        half = float(high - low) / 2
    return record["eval/return_mean"], half, record["env_steps"]


def _shown(score: tuple[float, float | None, int] | None) -> str:
    if score is None:
        return "-"
    mean, half, _ = score
    return f"{mean:.4g}" if half is None else f"{mean:.4g} ± {half:.2g}"


def _ago(seconds: float) -> str:
    """An age in its largest unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def main(words: list[str]) -> None:
    args = flags.FLAGS
    if len(words) > 1:
        raise errors.BadInputError(f"one folder at most (got {' '.join(words)})")
    folder = Path(run_folder.local_path(words[0] if words else "runs", "FOLDER"))
    while True:
        listed = [describe(path, time.time()) for path in find(folder)]
        if args.watch:
            print("\033[2J\033[H", end="")  # Clears the screen.
        print(table(listed, checkpoints=args.checkpoints), flush=True)
        if not args.watch:
            return
        try:
            time.sleep(args.interval_s)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    flags.DEFINE_boolean("watch", False, "List again and again, until Ctrl-C.")
    flags.DEFINE_float("interval_s", 5.0, "Seconds between two lists.", lower_bound=0.1)
    flags.DEFINE_boolean("checkpoints", False, "With the steps that can be loaded.")
    command_line.run(main, takes_words=True)
