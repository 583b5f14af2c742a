"""What reanalysing costs: updates with fraction 1 against 0, and the machinery around the search.

  python benchmarks/reanalyse.py --write
  python benchmarks/reanalyse.py --steps      (after benchmarks/learning.py --suite=reanalyse)

The learner of CartPole (configs/cartpole.py:on_device) and of MinAtar Breakout, on a replay filled
by acting. Three compiled programs in turn, best of `--rounds`: an update with fraction 0, one with
fraction 1 (fresh policies and values), and the bare search of the same batch of histories.
`machinery_share` is what an update with fraction 1 takes beyond an update with fraction 0 and the
bare search, as a share of the bare search. Prints JSON; --write keeps it in results/reanalyse.json.

With --steps it reads the runs of CartPole in results/reanalyse/ and writes
results/reanalyse_steps.json: after how many env steps an evaluation of 20 games first reached 475,
with interquartile mean and 95 % bootstrap interval over seeds (10,000 resamples, seed 0). A run
that never did counts with the steps it had, and is null.
"""

import argparse
import json
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from configs import cartpole, minatar  # noqa: E402
from muzero_jax import mesh, reanalyse  # noqa: E402
from muzero_jax.acting import NO_EXPLORATION  # noqa: E402
from muzero_jax.config import build, schema  # noqa: E402
from muzero_jax.evaluation import statistics  # noqa: E402
from muzero_jax.targets import histories_at  # noqa: E402
from muzero_jax.training import saving  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TASKS = {
    "cartpole": lambda: cartpole.get_config("on_device"),
    "minatar_breakout": lambda: minatar.get_config("breakout"),
}


def measure(config: ConfigDict, rounds: int) -> dict:
    """Seconds of each program, and what follows from them."""
    config.targets.value_source = "search"
    config.reanalyse.fresh_values = True
    programs = {}
    for fraction in (0.0, 1.0):
        config.reanalyse.fraction = fraction
        schema.check(config)
        experiment = build.experiment(config)
        run = _filled(experiment)
        learn = jax.jit(mesh.shard_learn(experiment.learn, experiment.mesh))
        programs[f"update_fraction_{fraction:.0f}"] = lambda key, run=run, learn=learn: learn(
            run.train, run.replay, key
        )[0]
    # Replay, config and experiment are now those of fraction 1.
    programs["bare_search"], searches = _bare_search(experiment, config, run)
    seconds = {name: [] for name in programs}
    for i in range(rounds + 1):
        for name, program in programs.items():
            key = jax.random.key(i)
            begin = time.perf_counter()
            jax.block_until_ready(program(key))
            if i:  # The first compiles.
                seconds[name].append(time.perf_counter() - begin)
    best = {name: min(times) for name, times in seconds.items()}
    plain, full, bare = best.values()
    return {
        "batch_size": config.replay.batch_size,
        "searches": searches,
        "num_simulations": config.reanalyse.num_simulations,
        "best_seconds": best,
        "updates_per_s": {"fraction_0": 1 / plain, "fraction_1": 1 / full},
        "fraction_1_over_0": plain / full,
        "machinery_share": (full - plain - bare) / bare,
        "rounds": rounds,
    }


def _filled(experiment):
    """A run whose replay has been filled up to its first update."""
    for run, _ in experiment.run(saving.new_run(experiment)):
        if run.counters.updates:
            return run


def _bare_search(experiment, config, run):
    """The search alone, of histories that are there already; and how many it searches."""
    agent = experiment.agent
    positions_of = reanalyse.make_positions(agent.window, fresh_values=True)
    sample = jax.jit(experiment.replay.sample, static_argnums=2)(
        run.replay, jax.random.key(0), config.replay.batch_size
    )
    histories = jax.jit(
        lambda sample: histories_at(sample, positions_of(sample), agent.window.history)
    )(sample)
    noise = np.float32(config.reanalyse.noise_scale)
    explore = NO_EXPLORATION.replace(noise_scale=noise)
    search = jax.jit(
        lambda params, key: agent.search(params, key, histories, None, explore).replace(tree=None)
    )
    return lambda key: search(run.train.params, key), histories.action.shape[0]


def steps_to_solve() -> dict:
    """Of fraction 0 and 1, from the files of results/reanalyse/."""
    result = {}
    for fraction in (0, 1):
        paths = sorted((RESULTS / "reanalyse").glob(f"cartpole_{fraction}-*.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        solved = [[x for x in run["curve"] if x["eval/return_mean"] >= 475] for run in runs]
        first = [x[0]["env_steps"] if x else None for x in solved]
        steps = np.array([run["env_steps"] if x is None else x for x, run in zip(first, runs)])
        interval = statistics.bootstrap_interval(
            statistics.interquartile_mean, steps[:, None].astype(float)
        )
        result[f"fraction_{fraction}"] = {
            "seeds": [run["config"]["seed"] for run in runs],
            "env_steps_to_475": first,
            "interquartile_mean": float(statistics.interquartile_mean(steps[:, None])),
            "interval_95": list(interval),
            "train_seconds": [run["train_seconds_from_process_start"] for run in runs],
            "commits": sorted({run["commit"] for run in runs}),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--steps", action="store_true")
    args = parser.parse_args()
    command = " ".join(["python benchmarks/reanalyse.py", *sys.argv[1:]])
    result = {**provenance(), "command": command}
    if args.steps:
        result |= steps_to_solve()
    else:
        result |= {name: measure(make(), args.rounds) for name, make in TASKS.items()}
    text = json.dumps(result, indent=1)
    if args.write or args.steps:
        name = "reanalyse_steps.json" if args.steps else "reanalyse.json"
        (RESULTS / name).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
