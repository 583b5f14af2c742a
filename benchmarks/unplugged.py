"""Learning from stored data alone: a short run, its replay as a dataset, a policy from that.

  python benchmarks/unplugged.py cartpole
  python benchmarks/unplugged.py minatar

An agent that has just begun to learn is trained for some steps; what its replay holds by then is
recorded: games of every quality it had on the way, and no other step is made. `unplugged.py` learns
from them with the same network; its last checkpoint and that of the behaviour are scored on the
same unseen games. Writes results/unplugged_<task>.json.
"""

import argparse
import json
from pathlib import Path
import tempfile

from learning import EVAL_SEED, RESULTS, output, summary, timed
from provenance import provenance

# The learner of CartPole on the host: on the device a run of so few steps is no longer a bad one.
_HOST = [
    "--config.replay.rows_per_update=16",
    "--config.targets.target_interval_updates=200",
    "--config.evaluation.interval_env_steps=4000",
    "--config.evaluation.stop_at=490.0",
]

# (config, options of the behaviour, options of what learns from it, games)
TASKS = {
    "cartpole": (
        "cartpole.py:on_device",
        [*_HOST, "--config.total_env_steps=12000"],
        [*_HOST, "--config.total_env_steps=40000"],
        20,
    ),
    "minatar": (
        "minatar.py:breakout",
        ["--config.total_env_steps=200000", "--config.replay.rows_per_env=4096"],
        [
            "--config.total_env_steps=200000",
            "--config.replay.rows_per_env=4096",
            "--config.targets.value_source=target_network",
            "--config.reanalyse.fresh_values=False",
            # A step of policy iteration every 1,000 updates, not with each: docs/reanalyse.md.
            "--config.reanalyse.target_params=True",
            "--config.targets.target_interval_updates=1000",
        ],
        100,
    ),
}


def measure(name: str, seed: int, folder: Path) -> dict:
    """Trains the behaviour, records it, learns from it; scores both."""
    config, behaviour, learner, games = TASKS[name]
    train = [f"--config=configs/{config}", f"--config.seed={seed}"]
    made = provenance()
    first = ["experiments/train.py", *train, *behaviour]
    timed([*first, f"--workdir={folder / 'behaviour'}"])
    data_word = f"--workdir={folder / 'behaviour'}"
    record = ["experiments/record.py", data_word, f"--out={folder / 'data'}"]
    recorded = [record[0], "--workdir=BEHAVIOUR", "--out=DATA"]
    data = json.loads(output(record))
    data.pop("path", None)
    second = ["experiments/train.py", *train, *learner]
    seconds = timed([*second, f"--data={folder / 'data'}", f"--workdir={folder / 'unplugged'}"])
    scores = {}
    for run in ("behaviour", "unplugged"):
        evaluate = ["experiments/evaluate.py", f"--workdir={folder / run}", f"--episodes={games}"]
        scores[run] = json.loads(output([*evaluate, f"--seed={EVAL_SEED}"]))
    lines = (folder / "unplugged" / "metrics.jsonl").read_text().splitlines()
    curve = [x for x in map(json.loads, lines) if "eval/return_mean" in x]
    return {
        "commands": ["python " + " ".join(x) for x in (first, recorded, second)],
        "dataset": data,
        "behaviour_last_checkpoint": summary(scores["behaviour"]["returns"]),
        "score": summary(scores["unplugged"]["returns"]),
        "updates": scores["unplugged"]["updates"],
        "unplugged_seconds_from_process_start": round(seconds, 1),
        "evaluation_seed": EVAL_SEED,
        "protocol": scores["unplugged"]["protocol"],
        "curve": [{k: x[k] for k in ("updates", "wall_s", "eval/return_mean")} for x in curve],
        "config": json.loads((folder / "unplugged" / "config.json").read_text()),
        **made,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.task, args.seed, Path(folder))
    path = RESULTS / f"unplugged_{args.task}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    names = ("dataset", "behaviour_last_checkpoint", "score")
    print(args.task, {name: result[name] for name in names}, flush=True)


if __name__ == "__main__":
    main()
