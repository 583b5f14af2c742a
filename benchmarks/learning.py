"""Learning proofs: trains by the scripts a user would run, scores the last checkpoint, keeps data.

  python benchmarks/learning.py --suite=walk            (about an hour on 2 CPU cores)
  python benchmarks/learning.py --only=cartpole_host-0

Every result is a JSON file in benchmarks/results/: command, score with a 95 % interval, seeds,
protocol, times, hardware, commit, date. Scores come from the last checkpoint, on seeds never used
in training. `experiments/plot.py` draws the curves, `experiments/aggregate.py` makes the tables.
"""

import argparse
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import numpy as np
from provenance import provenance

from muzero_jax import statistics

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EVAL_SEED = 12345


def atari(game: str) -> list[str]:
    """A quarter of an hour of one game."""
    return [
        "experiments/atari.py",
        f"--config=configs/atari.py:{game}",
        "--config.max_wall_minutes=15",
    ]


SUITES = {
    "walk": {
        **{
            f"cartpole_host-{seed}": [
                "experiments/control.py",
                "--config=configs/cartpole.py",
                f"--config.seed={seed}",
            ]
            for seed in range(3)
        },
        **{
            f"cartpole_on_device-{seed}": [
                "experiments/control.py",
                "--config=configs/cartpole.py:on_device",
                f"--config.seed={seed}",
            ]
            for seed in range(3)
        },
        "atari_road_runner": atari("RoadRunner"),
        "atari_pong": atari("Pong"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="walk", choices=sorted(SUITES))
    parser.add_argument("--only", help="Name of one entry of the suite.")
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()
    suite = SUITES[args.suite]
    if args.only and args.only not in suite:
        parser.error(f"--only: unknown {args.only!r}; the suite has {', '.join(suite)}")
    RESULTS.mkdir(exist_ok=True)
    for name in [args.only] if args.only else suite:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(suite[name], Path(folder) / "run", args.episodes)
        path = RESULTS / f"{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(name, result["score"]["mean"], result["score"]["interval_95"], flush=True)


def measure(command: list[str], workdir: Path, episodes: int) -> dict:
    """Trains with `command`, then scores it and, under the same protocol, random play."""
    made = provenance()
    train_s = timed(command + [f"--workdir={workdir}"])
    evaluate = ["experiments/evaluate.py", f"--workdir={workdir}", f"--episodes={episodes}"]
    if "atari" in command[0]:
        evaluate.append("--max_steps=27000")  # The usual 108,000 frames.
    score = json.loads(output([*evaluate, f"--seed={EVAL_SEED}"]))
    random = json.loads(output([*evaluate, f"--seed={EVAL_SEED}", "--policy=random"]))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    curve = [record for record in map(json.loads, lines) if "eval/return_mean" in record]
    speeds = [record for record in map(json.loads, lines) if "speed/env_steps_per_s" in record]
    return {
        "command": "python " + " ".join(command),
        "train_seconds_from_process_start": round(train_s, 1),
        "env_steps": score["env_steps"],
        "updates": score["updates"],
        "score": summary(score["returns"]) | {"episodes_cut": score["episodes_cut"]},
        "random": summary(random["returns"]) | {"episodes_cut": random["episodes_cut"]},
        "evaluation_seed": EVAL_SEED,
        "protocol": score["protocol"],
        "curve": [
            {k: r[k] for k in ("env_steps", "wall_s", "eval/return_mean", "eval/returns")}
            for r in curve
        ],
        "speed": {
            name: float(np.median([r[name] for r in speeds if name in r]))
            for name in sorted(speeds[-1])
            if name.startswith("speed/")
        },
        "config": json.loads((workdir / "config.json").read_text()),
        **made,
    }


def summary(returns: list[float]) -> dict:
    """Mean and 95 % percentile bootstrap interval (10,000 resamples, seed 0) of scores."""
    x = np.asarray(returns)
    return {
        "mean": float(x.mean()),
        "interval_95": list(statistics.bootstrap_interval(statistics.mean, x[:, None])),
        "returns": x.tolist(),
    }


def timed(command: list[str]) -> float:
    """Seconds from starting the process to its end; it must end well."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    return time.perf_counter() - begin


def output(command: list[str]) -> str:
    """The last line that a script prints."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
