"""Scores a run's newest parameters in whole games, without noise; prints one JSON line.

  python experiments/evaluate.py --workdir=runs/pong --episodes=20 --seed=7

With --policy=random the random policy plays under the same protocol.
"""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

from absl import flags
import jax
import numpy as np

import assemble
import launch
from muzero_jax import checkpoint, evaluate
from muzero_jax.envs import host
from muzero_jax.envs.checked import EnvError
from muzero_jax.types import HostEnv, Params
import results
import validate
import workdirs


class StoppedError(Exception):
    """Games were broken off."""


def make_scorer(
    experiment: assemble.Experiment,
    config,
    *,
    episodes: int,
    num_envs: int,
    stop: Callable[[], bool] = lambda: False,
) -> Callable[..., dict[str, Any]]:
    """`(params or None for random play, seeds) -> ` scores of `episodes` whole games.

    It raises `StoppedError` before the next step of a game once `stop()` is true.
    """
    player = evaluate.make_search_player(
        experiment.parts.search,
        experiment.parts.spec,
        num_envs=num_envs,
        history_steps=config.network.history_steps,
    )

    def score(params: Params | None, seeds: list[int]) -> dict[str, Any]:
        env = _stoppable(experiment.eval_env(seeds), stop)
        if params is None:
            chosen = evaluate.make_random_player(env.spec, seed=seeds[0])
        else:
            chosen = player(params, jax.random.key(seeds[0]))
        rows = evaluate.play_episodes(env, chosen, episodes_per_env=episodes // num_envs)
        returns = [row.score for row in rows]
        return {
            "return_mean": float(np.mean(returns)),
            "returns": returns,
            "steps_mean": float(np.mean([row.steps for row in rows])),
            "episodes_cut": sum(row.cut for row in rows),
        }

    return score


def _stoppable(env: HostEnv, stop: Callable[[], bool]) -> HostEnv:
    def step(action):
        if stop():
            raise StoppedError
        return env.step(action)

    return env._replace(step=step)


def newest_params(
    workdir: Path, abstract: Params, *, flag: str = "--workdir"
) -> tuple[int, Params, dict]:
    """(iteration, params, meta) of the newest params save or resume point.

    Raises:
      BadInputError: where there is none, or none that fits; it begins with `flag`.
    """
    newest = _newest_saved(workdir, flag)
    faults: list[str] = []
    for folder in sorted(newest, key=newest.get, reverse=True):
        try:
            found = checkpoint.restore_newest(folder, {"params": abstract}, partial=True)
        except checkpoint.CheckpointError as error:
            faults.append(str(error))
            continue
        if found is not None:
            return found[0], found[1]["params"], found[2]
    raise launch.BadInputError(f"{flag}: no checkpoint in {workdir} can be used: {faults}")


def _newest_saved(workdir: Path, flag: str = "--workdir") -> dict[Path, int]:
    """Folder -> its newest step; tells of missing checkpoints before anything is built."""
    newest = {}
    for folder in (workdir / "params", workdir / "checkpoints"):
        try:
            newest[folder] = max(checkpoint.committed_steps(folder), default=-1)
        except checkpoint.CheckpointError as error:  # Of another format.
            raise launch.BadInputError(f"{flag}: {error}") from None
    if max(newest.values()) < 0:
        raise launch.BadInputError(f"{flag}: no checkpoint in {workdir}; has the run saved one?")
    return newest


def _config_of(workdir: Path, args) -> tuple[Any, int]:
    """The run's config with the evaluation asked for, and the games at a time."""
    config = workdirs.read_config(workdir)
    if args.max_steps is not None:
        if "max_steps" not in config.evaluation:
            raise launch.BadInputError("--max_steps: the limit of these games is their own")
        config.evaluation.max_steps = args.max_steps
    num_envs = args.num_envs or max(
        n for n in range(1, config.evaluation.num_envs + 1) if args.episodes % n == 0
    )
    config.evaluation.update(episodes=args.episodes, num_envs=num_envs)
    validate.check(config)
    return config, num_envs


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise launch.BadInputError("--workdir is required, e.g. --workdir=runs/pong")
    workdir = Path(args.workdir)
    try:
        config, num_envs = _config_of(workdir, args)
    except (AttributeError, LookupError, TypeError) as error:
        raise launch.BadInputError(
            f"--workdir: config.json of {workdir} is not of a run of this version: {error}"
        ) from None
    if args.policy == "search":
        _newest_saved(workdir)
    step, params, meta = None, None, {"counters": {}}
    experiment = assemble.build(config)
    if args.policy == "search":
        abstract = jax.eval_shape(experiment.parts.network.init, jax.random.key(0))
        step, params, meta = newest_params(workdir, abstract)
    purpose = host.RANDOM if args.policy == "random" else host.EVAL
    # Evaluations inside a run have 0 in the place of the 1: these seeds are used nowhere else.
    seeds = host.env_seeds(args.seed, purpose, 1, 0, num_envs)
    score = make_scorer(experiment, config, episodes=args.episodes, num_envs=num_envs)
    try:
        result = score(params, seeds)
    except EnvError as error:
        raise launch.BadInputError(f"env: {error}") from None
    print(
        json.dumps(
            {
                **result,
                "policy": args.policy,
                "seed": args.seed,
                "step": step,
                "env_steps": meta["counters"].get("env_steps"),
                "updates": meta["counters"].get("updates"),
                "protocol": results.protocol(config.to_dict()),
            }
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("episodes", 20, "Whole games to play.", lower_bound=1)
    flags.DEFINE_integer("num_envs", None, "Games at a time; it divides --episodes.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the games and of the player.", lower_bound=0)
    flags.DEFINE_integer("max_steps", None, "Cap of a game; default: the config's.", lower_bound=1)
    flags.DEFINE_enum("policy", "search", ["search", "random"], "Who plays.")
    launch.run(main)
