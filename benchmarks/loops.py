"""Speed of the loops: Anakin against Sebulba on the same task, and large board games on one device.

  python benchmarks/loops.py --write

CartPole with the settings of configs/cartpole.py, environments on the host (Sebulba) and in the
compiled program (Anakin): stretches of both in turn, with learning, best of each; what counts is
their ratio. Then 9x9 Go and chess with the networks of configs/board_games.py, with so few games
and so small a batch that two CPU cores can do it: memory budget, seconds to compile, moves,
simulations and updates per second. Prints JSON; --write keeps it in results/loops.json.
"""

import argparse
import json
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
from provenance import provenance  # noqa: E402

from configs import board_games, cartpole  # noqa: E402
from muzero_jax.config import build, schema  # noqa: E402
from muzero_jax.training import memory, saving  # noqa: E402

# Of the config, no more than what makes the program small enough for a CPU.
SMALL = {
    "env.num_envs": 8,
    "search.num_simulations": 8,
    "replay.rows_per_env": 64,
    "replay.min_rows": 8 * 32,
    "replay.batch_size": 8,
    "replay.rows_per_update": 8,
    "loop.steps_per_iteration": 4,
    "loop.probe_interval_iterations": 0,
    "evaluation.num_envs": 2,
    "evaluation.episodes": 2,
}


class Stretch:
    """A loop that runs on, one measured stretch after the other."""

    def __init__(self, config):
        schema.check(config)
        self.experiment = build.experiment(config)
        begin = time.perf_counter()
        self._loop = self.experiment.run(saving.new_run(self.experiment))
        while self._next().counters.updates < 1:
            pass
        self.seconds_to_first_update = time.perf_counter() - begin

    def _next(self):
        run, _ = next(self._loop)
        jax.block_until_ready(run.train)
        self._counters = run.counters
        return run

    def measure(self, seconds: float) -> dict[str, float]:
        """Rates over at least so many seconds."""
        before, begin = self._counters, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            self._next()
        took, after = time.perf_counter() - begin, self._counters
        return {
            "env_steps_per_s": (after.env_steps - before.env_steps) / took,
            "updates_per_s": (after.updates - before.updates) / took,
        }


def two_loops(rounds: int, seconds: float) -> dict:
    """Anakin and Sebulba in turn, on CartPole."""
    loops = {"anakin": "on_device", "sebulba": "host"}
    host, stretches = cartpole.get_config("host"), {}
    for name, variant in loops.items():
        config = cartpole.get_config(variant)
        config.update(replay=host.replay.to_dict(), targets=host.targets.to_dict())
        config.loop.probe_interval_iterations = 0
        stretches[name] = Stretch(config)
    rates_of = {name: [] for name in loops}
    for _ in range(rounds):
        for name, stretch in stretches.items():
            rates_of[name].append(stretch.measure(seconds)["env_steps_per_s"])
    best = {name: max(rates) for name, rates in rates_of.items()}
    replay = config.replay  # Both configs are alike in what follows.
    return {
        "task": f"CartPole-v1, {config.env.num_envs} environments,"
        f" {config.search.num_simulations} simulations,"
        f" one update of {replay.batch_size} for {replay.rows_per_update} rows",
        "env_steps_per_s": rates_of,
        "anakin_over_sebulba": best["anakin"] / best["sebulba"],
    }


def board_game(name: str, seconds: float) -> dict:
    """One large board game, small enough for this machine."""
    config = board_games.get_config(name)
    config.update_from_flattened_dict(SMALL)
    stretch = Stretch(config)
    network = stretch.experiment.agent.network
    params = jax.eval_shape(network.init, jax.random.key(0))
    rates = stretch.measure(seconds)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "changed": SMALL,
        "budget": str(memory.estimate(stretch.experiment)),
        "seconds_to_first_update": stretch.seconds_to_first_update,
        "simulations_per_s": rates["env_steps_per_s"] * config.search.num_simulations,
        **rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    result = {**provenance(), "command": "python benchmarks/loops.py"}
    parts = {
        "loops": lambda: two_loops(args.rounds, args.seconds),
        "go_9x9": lambda: board_game("go_9x9", 4 * args.seconds),
        "chess": lambda: board_game("chess", 4 * args.seconds),
    }
    for name, part in parts.items():
        result[name] = part()
        text = json.dumps(result, indent=1)
        if args.write:  # After each part: the next one compiles for minutes.
            (ROOT / "benchmarks" / "results" / "loops.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
