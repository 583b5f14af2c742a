"""Learning proofs: trains by the scripts a user would run, scores the last checkpoint, keeps data.

  python benchmarks/learning.py --suite=walk
  python benchmarks/learning.py --only=cartpole_host-0

Suites: walk (CartPole, two Atari games), control (LunarLander, Acrobot), searches (Gumbel against
published search on CartPole), full (all of these and longer Atari studies with three seeds).
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


SEEDS = range(3)


def control(config: str, seed: int, *options: str) -> list[str]:
    """A control task until it is solved or out of steps."""
    script = "experiments/control.py"
    return [script, f"--config=configs/{config}", f"--config.seed={seed}", *options]


def atari(game: str, *, seed: int = 0, minutes: int = 15) -> list[str]:
    """Some minutes of one game."""
    return [
        "experiments/atari.py",
        f"--config=configs/atari.py:{game}",
        f"--config.seed={seed}",
        f"--config.max_wall_minutes={minutes}",
    ]


WALK = {
    **{f"cartpole_host-{seed}": control("cartpole.py", seed) for seed in SEEDS},
    **{f"cartpole_on_device-{seed}": control("cartpole.py:on_device", seed) for seed in SEEDS},
    "atari_road_runner": atari("RoadRunner"),
    "atari_pong": atari("Pong"),
}
CONTROL = {
    f"{name}-{seed}": control(f"{name}.py", seed)
    for seed in SEEDS
    for name in ("lunarlander", "acrobot")
}
SEARCHES = {
    f"searches/{name}_{simulations}-{seed}": control(
        f"cartpole.py:{variant}", seed, f"--config.search.num_simulations={simulations}"
    )
    for simulations in (8, 16, 50)
    for seed in SEEDS
    for name, variant in (("gumbel", "on_device"), ("published", "published"))
}
LONGER = {
    f"longer/{game}-{seed}": atari(game, seed=seed, minutes=120)
    for game in ("RoadRunner", "Pong", "MsPacman", "Qbert")
    for seed in SEEDS
}
SUITES = {
    "walk": WALK,
    "control": CONTROL,
    "searches": SEARCHES,
    "full": WALK | CONTROL | SEARCHES | LONGER,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="walk", choices=sorted(SUITES))
    parser.add_argument("--only", help="Name of one entry of any suite.")
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()
    suite = SUITES[args.suite]
    if args.only:
        suite = {name: x for name, x in SUITES["full"].items() if name == args.only}
        if not suite:
            parser.error(f"--only: unknown {args.only!r}; there are {', '.join(SUITES['full'])}")
    for name in suite:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(suite[name], Path(folder) / "run", args.episodes)
        path = RESULTS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
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
