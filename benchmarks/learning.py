"""Learning proofs: trains by the scripts a user would run, scores the last checkpoint, keeps data.

  python benchmarks/learning.py --suite=walk
  python benchmarks/learning.py --only=cartpole_host-0

Suites: walk (CartPole), atari (seven games, 20 minutes each), atari_steps (the same games, 630,000
env steps each, which do not depend on the machine), control (LunarLander, Acrobot), by_id
(MiniGrid, MountainCar and CliffWalking, by their ids), actions (Pendulum, LunarLander and Reacher
with real actions, the arm, the traffic lights), searches (Gumbel against published search on
CartPole), device (what runs in one compiled program: CartPole, tic-tac-toe, Connect Four, MinAtar),
reanalyse (fraction 0 against 1: CartPole with three seeds, one pair of MinAtar), full (all of
these, longer Atari studies with three seeds, all of MinAtar).
Every result is a JSON file in benchmarks/results/: command, score with a 95 % interval, seeds,
protocol, times, hardware, commit, date. Scores come from the last checkpoint, on seeds never used
in training. `experiments/plot.py` draws the curves, `experiments/aggregate.py` makes the tables.
"""

import argparse
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import numpy as np
from provenance import provenance

from muzero_jax.evaluation import statistics

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EVAL_SEED = 12345


SEEDS = range(3)


def control(config: str, seed: int, *options: str) -> list[str]:
    """A control task until it is solved or out of steps."""
    return ["experiments/train.py", f"--config=configs/{config}", f"--config.seed={seed}", *options]


def atari(game: str, *, seed: int, **limit: int) -> list[str]:
    """One game up to a limit: `max_wall_minutes` or `total_env_steps`."""
    ((field, number),) = limit.items()
    return [
        "experiments/atari.py",
        f"--config=configs/atari.py:{game}",
        f"--config.seed={seed}",
        f"--config.{field}={number}",
    ]


def game(file: str, name: str, *, seed: int = 0, minutes: int | None = None) -> list[str]:
    """A board game, or one of MinAtar: the config's own steps, or at most some minutes."""
    limit = [] if minutes is None else [f"--config.max_wall_minutes={minutes}"]
    return control(f"{file}.py:{name}", seed, *limit)


# Settings were chosen on seeds 0 to 9.
CARTPOLE_ON_DEVICE = {
    f"cartpole_on_device-{seed}": control("cartpole.py:on_device", seed)
    for seed in (*range(5), *range(10, 15))
}
WALK = {
    **{f"cartpole_host-{seed}": control("cartpole.py", seed) for seed in SEEDS},
    **CARTPOLE_ON_DEVICE,
}
ATARI_GAMES = {
    "Breakout": SEEDS,
    "RoadRunner": (0,),
    "SpaceInvaders": (0,),
    "Assault": (0,),
    "MsPacman": (0,),
    "KungFuMaster": (0,),
    "Pong": (0,),
}
ATARI = {
    f"atari/{game}-{seed}": atari(game, seed=seed, max_wall_minutes=20)
    for game, seeds in ATARI_GAMES.items()
    for seed in seeds
}
# As many steps as two cores of their own make in 20 minutes, whatever the machine.
ATARI_STEPS = {
    f"atari_steps/{game}-{seed}": atari(game, seed=seed, total_env_steps=630_000)
    for game, seeds in ATARI_GAMES.items()
    for seed in seeds
}
CONTROL = {
    f"{name}-{seed}": control(f"{name}.py", seed)
    for seed in SEEDS
    for name in ("lunarlander", "acrobot")
}
# What a config names by an id of gymnasium or envpool.
BY_ID = {
    f"by_id/{name}-{seed}": control(f"{config}:{name}", seed, f"--config.total_env_steps={steps}")
    for config, name, seeds, steps in (
        ("minigrid.py", "Empty-5x5", SEEDS, 40_000),
        ("minigrid.py", "DoorKey-5x5", (0,), 150_000),
        ("gymnasium.py", "MountainCar-v0", (0,), 100_000),
        ("gymnasium.py", "CliffWalking-v1", (0,), 100_000),
    )
    for seed in seeds
}
# Actions of other kinds than one choice.
ACTIONS = {
    **{
        f"actions/pendulum-{seed}": control("continuous.py:Pendulum-v1", seed) for seed in SEEDS
    },
    "actions/lunarlander-0": control("continuous.py:LunarLanderContinuous-v3", 0),
    "actions/reacher_easy-0": control("continuous.py:ReacherEasy-v1", 0),
    **{f"actions/arm-{seed}": control("arm.py", seed) for seed in SEEDS},
    "actions/arm_bins-0": control("arm.py:bins", 0),
    "actions/traffic-0": control("traffic.py", 0),
    **{
        f"actions/{name}-0": game("board_games", f"{name},sampled")
        for name in ("tic_tac_toe", "connect_four")
    },
}
SEARCHES = {
    f"searches/{name}_{simulations}-{seed}": control(
        f"cartpole.py:{variant}", seed, f"--config.search.num_simulations={simulations}"
    )
    for simulations in (8, 16, 50)
    for seed in SEEDS
    for name, variant in (("gumbel", "on_device"), ("published", "published"))
}
REANALYSE = {
    f"reanalyse/cartpole_{fraction}-{seed}": control(
        "cartpole.py:reanalyse", seed, f"--config.reanalyse.fraction={fraction}"
    )
    for seed in SEEDS
    for fraction in (0, 1)
} | {
    f"reanalyse/minatar_breakout_{fraction}-0": game("minatar", "breakout", minutes=15)
    + [
        f"--config.reanalyse.fraction={fraction}",
        "--config.evaluation.interval_env_steps=50000",
    ]
    for fraction in (0, 1)
}
LONGER = {
    f"longer/{game}-{seed}": atari(game, seed=seed, max_wall_minutes=120)
    for game in ("RoadRunner", "Pong", "MsPacman", "Qbert")
    for seed in SEEDS
}
DEVICE = {
    **{
        f"tic_tac_toe-{seed}": game("board_games", "tic_tac_toe", seed=seed)
        for seed in SEEDS
    },
    **CARTPOLE_ON_DEVICE,
    "minatar_breakout-0": game("minatar", "breakout"),
    "connect_four-0": game("board_games", "connect_four"),
}
MINATAR = {
    f"longer/minatar_{name}-{seed}": game("minatar", name, seed=seed, minutes=60)
    for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
    for seed in SEEDS
}
# What a player of a board game is measured by: (opponent, games, more flags of evaluate.py).
MATCHES = {
    "tic_tac_toe": [
        ("exhaustive", 2),
        ("exhaustive", 2, "--policy=prior"),
        ("random", 1_000),
        ("perfect", 1_000),
    ],
    "connect_four": [
        ("random", 200),
        ("mcts:100", 200),
        ("mcts:400", 200),
        ("mcts:1000", 200),
        ("mcts:400", 200, "--simulations=64"),
    ],
}
SUITES = {
    "walk": WALK,
    "atari": ATARI,
    "atari_steps": ATARI_STEPS,
    "control": CONTROL,
    "by_id": BY_ID,
    "actions": ACTIONS,
    "searches": SEARCHES,
    "device": DEVICE,
    "reanalyse": REANALYSE,
    "full": WALK
    | ATARI
    | ATARI_STEPS
    | CONTROL
    | BY_ID
    | ACTIONS
    | SEARCHES
    | DEVICE
    | REANALYSE
    | LONGER
    | MINATAR,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="walk", choices=sorted(SUITES))
    parser.add_argument("--only", help="Name of one entry of any suite.")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        help="Runs stay in FOLDER/NAME, and one that was interrupted goes on there.",
    )
    args = parser.parse_args()
    suite = SUITES[args.suite]
    if args.only:
        suite = {name: x for name, x in SUITES["full"].items() if name == args.only}
        if not suite:
            parser.error(f"--only: unknown {args.only!r}; there are {', '.join(SUITES['full'])}")
    for name in suite:
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(args.keep).absolute() / name if args.keep else Path(folder) / "run"
            result = measure(suite[name], workdir, Path(folder), args.episodes)
        path = RESULTS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(name, result["score"]["mean"], result["score"]["interval_95"], flush=True)


def measure(command: list[str], workdir: Path, scratch: Path, episodes: int) -> dict:
    """Trains with `command`, then scores it and, under the same protocol, random play."""
    made = provenance()
    # A compilation cache of its own: the first run compiles everything, the second nothing.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(scratch / "cache")
    train_s = timed(command + [f"--workdir={workdir}"])
    warm = {}
    if "cartpole.py:on_device" in command[1]:
        warm_s = timed(command + [f"--workdir={scratch / 'warm'}"])
        warm = {"train_seconds_with_warm_cache": round(warm_s, 1)}
    if "minatar.py" in command[1]:
        episodes = 100
    board_game = command[1].partition("board_games.py:")[2].partition(",")[0]
    real = any(name in command[1] for name in ("continuous.py", "arm.py", "traffic.py"))
    if board_game or real:
        episodes = 200
    evaluate = ["experiments/evaluate.py", f"--workdir={workdir}", f"--episodes={episodes}"]
    if command[0].endswith("/atari.py"):
        evaluate.append("--max_steps=27000")  # The usual 108,000 frames.
    score = json.loads(output([*evaluate, f"--seed={EVAL_SEED}"]))
    random = json.loads(output([*evaluate, f"--seed={EVAL_SEED}", "--policy=random"]))
    own = {}
    if "arm.py" in command[1]:
        own["final_distance"] = json.loads(output(["benchmarks/arm.py", f"--workdir={workdir}"]))
    if "traffic.py" in command[1]:
        own["rules"] = json.loads(output(["benchmarks/traffic.py"]))
    greedy = {}
    if score["protocol"]["noise"] != "none":
        without = json.loads(output([*evaluate, f"--seed={EVAL_SEED}", "--random_move=0"]))
        greedy = {"score_without_random_moves": summary(without["returns"]) | cut(without)}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    curve = [record for record in map(json.loads, lines) if "eval/return_mean" in record]
    speeds = [record for record in map(json.loads, lines) if "speed/env_steps_per_s" in record]
    took = {"train_seconds_from_process_start": round(train_s, 1)}
    if resumes := speeds[-1]["resumes"]:  # The last process has trained the rest alone.
        took = {"train_seconds_of_all_processes": round(speeds[-1]["wall_s"], 1)}
        took["resumes"] = resumes
    return {
        "command": "python " + " ".join(command),
        **took,
        **warm,
        "env_steps": score["env_steps"],
        "updates": score["updates"],
        "score": summary(score["returns"]) | cut(score),
        **greedy,
        "random": summary(random["returns"]) | cut(random),
        **own,
        **(measure_matches(board_game, workdir) if board_game else {}),
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


def cut(score: dict) -> dict:
    """How many games were cut; board games end by their rules."""
    return {name: x for name, x in score.items() if name == "episodes_cut"}


def measure_matches(name: str, workdir: Path) -> dict:
    """What the newest parameters do against each opponent of a board game."""
    played = []
    for opponent, games, *more in MATCHES[name]:
        command = ["experiments/evaluate.py", f"--workdir={workdir}", f"--opponent={opponent}"]
        command += [f"--episodes={games}", f"--seed={EVAL_SEED}", *more]
        match = json.loads(output(command))
        match.pop("returns", None)
        searched = match.pop("protocol")["num_simulations"]
        if match["policy"] == "search":
            match["num_simulations"] = searched
        print(name, {k: x for k, x in match.items() if not k.endswith(("first", "second"))})
        played.append(match)
    if name != "connect_four":
        return {"matches": played}
    judge = ["benchmarks/connect_four.py", f"--workdir={workdir}"]
    labels = [json.loads(output([*judge, *more])) for more in ([], ["--simulations=64"])]
    for label in labels:
        label.pop("command")  # Its folder is gone by then.
    return {"matches": played, "optimal_moves": labels}


def summary(returns: list[float]) -> dict:
    """Mean and interval of scores, and the scores themselves."""
    x = np.asarray(returns)
    return {**mean_and_interval(x), "returns": x.tolist()}


def mean_and_interval(x: np.ndarray) -> dict:
    """The mean of `[N]` and its 95 % percentile bootstrap interval (10,000 resamples, seed 0)."""
    low, high = statistics.bootstrap_interval(statistics.mean, x[:, None])
    return {"mean": float(x.mean()), "interval_95": [float(low), float(high)]}


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
