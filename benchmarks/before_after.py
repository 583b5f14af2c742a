"""Whole training runs of two checkouts in turns: is a change slower, are its results the same?

  git worktree add ../before COMMIT
  python benchmarks/before_after.py --before=../before            prints the result
  python benchmarks/before_after.py --before=../before --write    keeps it as well, in
                                                                  results/before_after/COMMIT.json

Each round trains every workload for a fixed number of env steps, first with one checkout, then
with the other (the order changes from round to round), as processes of their own. Each checkout
has a compile cache of its own, empty at first: round 0 is a cold start, the others are warm.
Measured are the seconds from process start to the first line of metrics with an update, and env
steps and updates per second, the medians over the lines of the second half of a run. Ratios are
after over before, of the two runs of one round: rates below 1, or seconds above 1, are slower.
Each checkout takes its own configs, with the same few fields set on both. `same_parameters` says
whether the two runs of every round ended with the same parameters, to the last bit; two more
workloads run once, for this answer alone.
"""

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

from provenance import ROOT, provenance

_CARTPOLE = {
    "evaluation.stop_at": 1e9,
    "evaluation.interval_env_steps": 10**9,
    "evaluation.episodes": 1,
    "evaluation.num_envs": 1,
    "evaluation.max_steps": 10,
    "logging.interval_env_steps": 1_000,
}
# Name -> script, config, fields: as long as it takes for a dozen lines after the warm-up.
WORKLOADS = {
    "cartpole_on_device": (
        "control", "configs/cartpole.py:on_device", _CARTPOLE | {"total_env_steps": 12_000},
    ),
    "cartpole_host": ("control", "configs/cartpole.py", _CARTPOLE | {"total_env_steps": 20_000}),
    "atari": (
        "atari",
        "configs/atari.py:RoadRunner",
        {name: x for name, x in _CARTPOLE.items() if name != "evaluation.stop_at"}
        | {"total_env_steps": 20_000, "replay.rows_per_env": 1_000},
    ),
}
# Run once, for their parameters: MuZero's own search, and two players.
ONCE = {
    "cartpole_published": (
        "control", "configs/cartpole.py:published", _CARTPOLE | {"total_env_steps": 4_000},
    ),
    "tic_tac_toe": (
        "board_games",
        "configs/board_games.py:tic_tac_toe",
        {"evaluation.interval_env_steps": 10**9, "logging.interval_env_steps": 1_000}
        | {"total_env_steps": 12_000},
    ),
}
_MEASURES = ("first_update_s", "env_steps_per_s", "updates_per_s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="The other checkout's folder.")
    parser.add_argument("--rounds", type=int, default=5, help="Round 0 is cold; at least 3.")
    parser.add_argument("--only", choices=[*WORKLOADS, *ONCE], help="One workload.")
    parser.add_argument("--write", action="store_true", help="Keep it in results/.")
    args = parser.parse_args()
    if args.rounds < 3:
        parser.error("--rounds: at least 3, for one cold and two warm ones")
    if not (args.before / "experiments").is_dir():
        parser.error(f"--before: {args.before} is no checkout of this project")
    trees = {"before": args.before.resolve(), "after": ROOT}
    result = {
        **provenance(),
        "command": f"python benchmarks/before_after.py --before=../before --rounds={args.rounds}",
        "commit_before": _commit(trees["before"]),
        "rounds": args.rounds,
        "seed": 0,
        "workloads": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in [args.only] if args.only else [*WORKLOADS, *ONCE]:
            rounds, same = [], []
            for number in range(1 if name in ONCE else args.rounds):
                order = [*trees] if number % 2 == 0 else [*trees][::-1]
                workdirs = {side: Path(scratch, side, f"{name}-{number}") for side in order}
                rounds.append({side: run(trees[side], name, workdirs[side]) for side in order})
                same.append(same_parameters(*workdirs.values()))
                print(name, number, same[-1], json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            result["workloads"][name] = {"same_parameters": all(same)}
            if name not in ONCE:
                result["workloads"][name] |= summary(rounds) | {"rounds": rounds}
    result["load_average_at_end"] = round(os.getloadavg()[0], 2)
    text = json.dumps(result, indent=1)
    if args.write:
        path = ROOT / "benchmarks" / "results" / "before_after"
        path.mkdir(exist_ok=True)
        (path / f"{result['commit_before'][:7]}.json").write_text(text + "\n")
    print(text)


def run(tree: Path, workload: str, workdir: Path) -> dict[str, float]:
    """Trains one workload with the code of one checkout, in `workdir`/run."""
    script, config, fields = (WORKLOADS | ONCE)[workload]
    workdir.mkdir(parents=True)
    if not (tree / "experiments" / f"{script}.py").exists():
        script = "train"  # Of all suites; before it each had a script of its own.
    command = [sys.executable, f"experiments/{script}.py", f"--config={config}"]
    command += [f"--workdir={workdir / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    begin = time.monotonic()
    with open(workdir / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
        path, first_update_s = workdir / "run" / "metrics.jsonl", None
        while process.poll() is None:
            if first_update_s is None and any(x["updates"] for x in _records(path)):
                first_update_s = time.monotonic() - begin
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(command)} in {tree} ended with {process.returncode}:\n"
                 + (workdir / "log").read_text()[-2000:])
    lines = [x for x in _records(path) if x.get("speed/env_steps_per_s") and x["updates"]]
    lines = lines[len(lines) // 2 :]
    return {"first_update_s": first_update_s} | {
        name: statistics.median(x[f"speed/{name}"] for x in lines) for name in _MEASURES[1:]
    }


def same_parameters(*workdirs: Path) -> bool:
    """Whether runs ended with the same parameters, to the last bit, as this checkout reads them."""
    import jax
    import numpy as np

    import muzero_jax

    leaves = [jax.tree.leaves(muzero_jax.load_agent(x / "run").params) for x in workdirs]
    return all(np.array_equal(*pair) for pair in zip(*leaves, strict=True))


def _records(path: Path) -> list[dict]:
    """The whole lines of a file that may be growing."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def summary(rounds: list[dict]) -> dict:
    """Medians of each side and of the ratios of the rounds; starts are cold in round 0 alone."""
    def ratios(measure, chosen):
        found = sorted(x["after"][measure] / x["before"][measure] for x in chosen)
        return {
            "before": statistics.median(x["before"][measure] for x in chosen),
            "after": statistics.median(x["after"][measure] for x in chosen),
            "ratio": statistics.median(found),
            "least": found[0],
            "most": found[-1],
        }

    return {
        "first_update_cold_s": ratios("first_update_s", rounds[:1]),
        "first_update_warm_s": ratios("first_update_s", rounds[1:]),
        **{name: ratios(name, rounds) for name in _MEASURES[1:]},
    }


def _commit(tree: Path) -> str:
    git = ["git", "rev-parse", "HEAD"]
    return subprocess.run(git, cwd=tree, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
