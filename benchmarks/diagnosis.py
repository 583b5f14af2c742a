"""Planted faults, and whether a diagnosis names them; and how often it names one where none is.

  python benchmarks/diagnosis.py                                all that are not there yet; hours
  python benchmarks/diagnosis.py --tasks=connect_four --faults=none,sign --seeds=0
  python benchmarks/diagnosis.py --rates                        of the cases that are there

Each case is a short run of a preset with one fault planted in it, or none, and the verdict of
`diagnosis.report.make` on it, with the numbers of all checks, in a file of results/diagnosis/. The
thresholds were set on CartPole and catch, which are not among the tasks.
"""

import argparse
import contextlib
import json
from pathlib import Path
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from provenance import provenance  # noqa: E402

import diagnose  # noqa: E402
from muzero_jax import targets  # noqa: E402
from muzero_jax.config import build, runs, schema  # noqa: E402
from muzero_jax.diagnosis import report, verdict  # noqa: E402
from muzero_jax.training.saving import newest_params  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "diagnosis"
# Preset, and env steps: enough for some hundred updates to a few thousand.
TASKS = {
    "lunarlander": ("lunarlander.py", 64_000),
    "breakout": ("minatar.py:breakout", 96_000),
    "connect_four": ("board_games.py:connect_four", 49_152),
}
# The thresholds were set on these; they are run where --tasks names them.
SET_ON = {"cartpole": ("cartpole.py:on_device", 12_288), "catch": ("catch.py", 20_480)}
SUPPORTS = {
    "lunarlander": 2.0, "breakout": 0.3, "connect_four": 0.3, "cartpole": 2.0, "catch": 0.3
}


def _reward_head(config, task):
    config.loss.reward_weight = 0.0


def _target_network(config, task):
    config.targets.update(value_source="target_network", target_interval_updates=2**31 - 1)
    config.reanalyse.fresh_values = False


def _value_support(config, task):
    config.codec.value.update(low=-SUPPORTS[task], high=SUPPORTS[task])


def _learning_rate(config, task):
    config.optimizer.learning_rate *= 100


def _stale_replay(config, task):
    config.replay.min_rows = round(0.8 * config.total_env_steps)
    config.replay.rows_per_update //= 4  # As many updates all the same.


def _simulations(config, task):
    config.search.num_simulations = 1


def _nothing(config, task):
    pass


# Name of the check that has to name it -> how it is planted; what is planted in code is below.
FAULTS = {
    "none": _nothing,
    "reward_head": _reward_head,
    "sign": _nothing,
    "target_network": _target_network,
    "value_support": _value_support,
    "learning_rate": _learning_rate,
    "stale_replay": _stale_replay,
    "simulations": _simulations,
    "observations": _nothing,
}


@contextlib.contextmanager
def planted(fault: str, kind: str):
    """The faults that are no number: values of the second player with the wrong sign, observations
    a millionth as large."""
    make_targets, make_network = targets.make_targets, build.NETWORKS[kind]

    def flipped(**options):
        plain = make_targets(**options)

        def make(params, target_params, key, sample):
            found = plain(params, target_params, key, sample)
            newest = sample.observations[:, options["window"].history - 1]
            stones = jnp.sum(newest[..., :2], axis=(1, 2, 3)).astype(jnp.int32)
            second = (stones[:, None] + jnp.arange(found.value.shape[1])) % 2
            return found.replace(value=jnp.where(second == 1, -found.value, found.value))

        return make

    def dimmed(*args, **options):
        network = make_network(*args, **options)

        def look(params, history):
            dim = jax.tree.map(lambda x: x.astype(jnp.float32) * 1e-6, history.observation)
            return network.initial_inference(params, history.replace(observation=dim))

        return network._replace(initial_inference=look)

    try:
        if fault == "sign":
            targets.make_targets = flipped
        if fault == "observations":
            build.NETWORKS[kind] = dimmed
        yield
    finally:
        targets.make_targets, build.NETWORKS[kind] = make_targets, make_network


def run_case(task: str, fault: str, seed: int, folder: Path) -> dict:
    """Trains one case and diagnoses it."""
    preset, steps = (TASKS | SET_ON)[task]
    config = runs.load_config(str(ROOT / "configs" / preset))
    config.update(seed=seed, total_env_steps=steps)
    config.evaluation.update(episodes=2, num_envs=2, interval_env_steps=10**9, stop_at=None)
    if task == "connect_four":  # As many updates as matter, in a run as short as this one.
        config.replay.rows_per_update = 16
    FAULTS[fault](config, task)
    begin = time.perf_counter()
    with planted(fault, config.network.kind):
        build.train(schema.check(config), folder)
        config = diagnose.read_config(folder)
        experiment = build.experiment(config)
        abstract = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))
        _, params, meta = newest_params(folder, abstract)
        updates = meta["counters"]["updates"]
        episodes = diagnose.play(
            experiment, params, updates=updates, episodes=16, most=16, seed=seed
        )
        found = report.make(
            experiment,
            params,
            episodes,
            task=task,
            origin="a benchmark",
            discount=config.targets.discount,
            key=jax.random.key(seed),
            run=diagnose.resume_point(experiment, folder),
            number=256,
            depth=config.targets.unroll_steps,
        ).report
    named = [reason["name"] for reason in found["verdict"]]
    return {
        "task": task,
        "fault": fault,
        "seed": seed,
        "env_steps": meta["counters"]["env_steps"],
        "updates": updates,
        "named": named,
        "found": fault in named if fault != "none" else None,
        "others": [name for name in named if name != fault],
        "numbers": {check.name: check.number(found) for check in verdict.CHECKS},
        "seconds": round(time.perf_counter() - begin, 1),
    }


def summary(cases: list[dict]) -> dict:
    """Both rates: planted faults that were named, and healthy runs in which one was."""
    faulty = [x for x in cases if x["fault"] != "none"]
    healthy = [x for x in cases if x["fault"] == "none"]
    return {
        "planted": len(faulty),
        "named": sum(x["found"] for x in faulty),
        "named_first": sum(x["named"][:1] == [x["fault"]] for x in faulty),
        "healthy": len(healthy),
        "false_alarms": sum(bool(x["named"]) for x in healthy),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rates", action="store_true", help="Run nothing.")
    args = parser.parse_args()
    wanted = [
        (task, fault, int(seed))
        for seed in args.seeds.split(",")
        for task in args.tasks.split(",")
        for fault in args.faults.split(",")
        if fault != "sign" or task == "connect_four"
    ]
    RESULTS.mkdir(exist_ok=True)
    for case in [] if args.rates else wanted:
        path = RESULTS / f"{'-'.join(map(str, case))}.json"
        if path.exists():
            continue
        made = provenance()
        with tempfile.TemporaryDirectory() as folder:
            found = run_case(*case, Path(folder) / "run")
        command = " ".join(["python benchmarks/diagnosis.py", *sys.argv[1:]])
        path.write_text(json.dumps({**made, "command": command, **found}, indent=1) + "\n")
    cases = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    print(json.dumps(summary([x for x in cases if x["task"] in TASKS])))


if __name__ == "__main__":
    main()
