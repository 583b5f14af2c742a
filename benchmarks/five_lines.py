"""The agent of a five-line loop on gymnasium's CartPole-v1: scores of unseen episodes on the way.

  pip install gymnasium
  python benchmarks/five_lines.py --seed=0            prints the result
  python benchmarks/five_lines.py --seed=0 --write    also writes results/five_lines/SEED.json

The agent has the usual settings of `MuZeroAgent`, those of no task. Every 2,000 steps it plays 20
episodes in an environment of its own, with other seeds; the score is that of 100 more at the end.
`train_s` are the seconds of the loop from its first step on, compilation included, without the
evaluations.
"""

import argparse
import json
from pathlib import Path
import sys
import time

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import gymnasium  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax import MuZeroAgent  # noqa: E402

_TASK = "CartPole-v1"
_EVERY = 2_000
_UNSEEN = 1_000_000  # Seeds of evaluations lie beyond those of training.


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--write", action="store_true", help="Keep it in results/five_lines/.")
    args = parser.parse_args()
    result = {
        **provenance(),
        "command": " ".join(["python benchmarks/five_lines.py", *sys.argv[1:]]),
        "task": _TASK,
        "seed": args.seed,
        **learn(args.seed, args.steps),
    }
    text = json.dumps(result, indent=1)
    if args.write:
        folder = _ROOT / "benchmarks" / "results" / "five_lines"
        folder.mkdir(exist_ok=True)
        (folder / f"{args.seed}.json").write_text(text + "\n")
    print(text)


def learn(seed: int, steps: int) -> dict:
    """Plays and learns for so many steps; the curve, and the score at the end."""
    env = gymnasium.make(_TASK)
    agent = MuZeroAgent(
        observation_shape=env.observation_space.shape, action_space=env.action_space, seed=seed
    )
    curve, train_s, begin = [], 0.0, time.perf_counter()
    observation, _ = env.reset(seed=seed)
    for step in range(1, steps + 1):
        action = agent.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        agent.update(observation, action, reward, terminated, truncated)
        if terminated or truncated:
            observation, _ = env.reset()
        if step % _EVERY == 0 or step == steps:
            train_s += time.perf_counter() - begin
            scored = agent.evaluate(gymnasium.make(_TASK), 20, seed=_UNSEEN + step)
            point = {"env_steps": step, "updates": agent.updates, "train_s": round(train_s, 1)}
            curve.append(point | {"return_mean": scored["return_mean"]})
            print(curve[-1], agent.metrics(), file=sys.stderr, flush=True)
            begin = time.perf_counter()
    final = agent.evaluate(gymnasium.make(_TASK), 100, seed=_UNSEEN - 1)
    return {"score": {name: final[name] for name in ("return_mean", "interval")}, "curve": curve}


if __name__ == "__main__":
    main()
