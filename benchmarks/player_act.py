"""What `Player.act` costs beside the search in it: one environment, interleaved.

  python benchmarks/player_act.py           prints the result
  python benchmarks/player_act.py --write   also writes results/player_act.json

Each round calls `player.act` and the bare compiled search, whose history is on the device already;
the ratio is that of the medians of all rounds. Parameters are fresh.
"""

import argparse
import json
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax.acting import NO_EXPLORATION, init_carry  # noqa: E402
from muzero_jax.config import build, runs, schema  # noqa: E402
from muzero_jax.player import Player  # noqa: E402

PRESETS = {"cartpole": "cartpole.py:on_device", "breakout": "atari.py:Breakout"}


def compare(preset: str, rounds: int) -> dict:
    """Median milliseconds of both, and their ratio."""
    agent = build.experiment(schema.check(runs.load_config(str(ROOT / "configs" / preset)))).agent
    params = jax.jit(agent.network.init)(jax.random.key(0))
    player = Player(agent.search, agent.spec, params, history_steps=agent.window.history)
    bare = jax.jit(
        lambda params, key, history: agent.search(
            params, key, history, None, NO_EXPLORATION
        ).action
    )
    history = jax.device_put(init_carry(agent.spec, 1, agent.window.history).history)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    shape, dtype = agent.spec.observation_shape, agent.spec.observation_dtype
    seen = [(100 * rng.random(shape)).astype(dtype) for _ in range(16)]
    times: dict[str, list[float]] = {"act": [], "search": []}
    for i in range(rounds + 20):
        begin = time.perf_counter()
        player.act(seen[i % len(seen)])
        middle = time.perf_counter()
        np.asarray(bare(params, key, history))
        end = time.perf_counter()
        if i >= 20:  # What is compiled, and the first calls, are left out.
            times["act"].append(middle - begin)
            times["search"].append(end - middle)
    act, search = (1000 * float(np.median(times[name])) for name in ("act", "search"))
    return {"act_ms": act, "search_ms": search, "ratio": act / search}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--write", action="store_true", help="Keep it in results/player_act.json.")
    args = parser.parse_args()
    result = {
        **provenance(),
        "command": " ".join(["python benchmarks/player_act.py", *sys.argv[1:]]),
        "rounds": args.rounds,
        **{name: compare(preset, args.rounds) for name, preset in PRESETS.items()},
    }
    text = json.dumps(result, indent=1)
    if args.write:
        (ROOT / "benchmarks" / "results" / "player_act.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
