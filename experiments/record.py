"""Writes what a run has stored, or fresh episodes of it, as a dataset; prints one JSON line.

  python experiments/record.py --workdir=runs/cartpole --out=data/cartpole
  python experiments/record.py --workdir=runs/cartpole --out=data/fresh --episodes=100

The first takes the replay of the newest resume point, policies and values included. The second
plays whole episodes in the environment of training with the newest parameters, exploring as
training does by then, or not (--noise=none), or at random (--policy=random, which has neither
policies nor values). docs/datasets.md describes what is written.
"""

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

from absl import flags
import jax
import numpy as np

import command_line
from muzero_jax import acting, checkpoint, errors, finite
from muzero_jax.config import build, runs, schema
from muzero_jax.data.dataset import write_dataset
from muzero_jax.envs import host
from muzero_jax.errors import DatasetError, EnvError
from muzero_jax.evaluation import results, scoring
from muzero_jax.evaluation.recording import episode_trajectories, random_play, search_play
from muzero_jax.training import process, run_folder
from muzero_jax.training.experiment import Experiment
from muzero_jax.training.saving import check_saved, newest_params, saved_tree
from muzero_jax.types import Transition


def replay_trajectories(
    experiment: Experiment, workdir: Path, facts: dict[str, Any]
) -> Iterator[Transition]:
    """The rows of each environment in the newest resume point as trajectories, oldest first.

    A ring that has wrapped begins within an episode: that one's rows are left out, and counted in
    `facts["dropped_rows"]`. So is a row that held what is not finite, with the rest of its episode;
    what came before it in the episode is a trajectory that is cut off there.

    Raises:
      BadInputError: where there is no resume point, or none that fits.
    """
    rest = saved_tree(jax.eval_shape(experiment.init))["rest"]
    target = {"rest": rest.replace(train=None, env=None, timestep=None, acting=None)}
    try:
        found = checkpoint.restore_newest(workdir / "checkpoints", target, partial=True)
    except errors.CheckpointError as error:
        raise errors.BadInputError(f"--workdir: {error}") from None
    if found is None:
        raise errors.BadInputError(f"--workdir: no resume point in {workdir}; try --episodes")
    ring, row = found[1]["rest"].replay, experiment.agent.row
    facts.update(found[2]["counters"], dropped_rows=0)
    for lane, (cursor, filled) in enumerate(zip(*jax.device_get((ring.cursor, ring.filled)))):
        slots = (cursor - filled + np.arange(filled)) % ring.weights.shape[1]
        rows = jax.device_get(_at(ring.rows, lane))
        marked = np.asarray(finite.is_marked(rows.discount[slots]))
        begins = np.flatnonzero(rows.first[slots] & ~marked)
        facts["dropped_rows"] += len(slots)
        end = 0
        while len(begins := begins[begins >= end]):
            ends = np.flatnonzero(marked[begins[0] :])[:1]
            end = begins[0] + ends[0] if len(ends) else len(slots)
            kept = slots[begins[0] : end]
            facts["dropped_rows"] -= len(kept)
            yield jax.tree.map(lambda x, like: x.reshape(-1, *like.shape), _at(rows, kept), row)


def _at(rows: Transition, index) -> Transition:
    return jax.tree.map(lambda x: x[index], rows)


def _fresh_trajectories(experiment: Experiment, config, args, facts: dict[str, Any]):
    """The episodes that the flags ask for."""
    agent, history_steps = experiment.agent, config.network.history_steps
    num_envs = scoring.at_a_time(args.episodes, config.evaluation.num_envs)
    seeds = host.env_seeds(args.seed, host.RECORD, 0, 0, num_envs)
    if args.policy == "random":
        carry, play = None, random_play(agent.spec, seed=seeds[0])
    else:
        abstract = jax.eval_shape(agent.network.init, jax.random.key(0))
        _, params, meta = newest_params(Path(args.workdir), abstract)
        facts |= meta["counters"]
        updates = facts["updates"]
        explore = acting.NO_EXPLORATION if args.noise == "none" else agent.explore_at(updates)
        key = jax.random.key(seeds[0])
        play = search_play(agent.search, params, key, explore, min(updates, 2**31 - 1))
        carry = acting.init_carry(agent.spec, num_envs, history_steps)
    env = experiment.eval_env(seeds)
    yield from episode_trajectories(env, play, carry, episodes_per_env=args.episodes // num_envs)


def read_config(workdir: Path):
    """The config of a run, with evaluation games that are those of training.

    Raises:
      BadInputError: where there is none, or fields that are missing or wrong.
    """
    with runs.refused_by(workdir):
        config = runs.read_config(workdir)
        schema.check(config)
    # A limit of None, refused for an evaluation, is right here: the games end by their rules.
    games = {name: config.env[name] for name in results.evaluation_games(config)}
    config.evaluation.update(games)
    return config


def check_flags(args, workdir: Path) -> None:
    """Refuses flags that are missing, or not for each other."""
    if not args.out:
        raise errors.BadInputError("--out is required, e.g. --out=data/cartpole")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):  # Before hours are spent on it.
        raise errors.BadInputError(f"--out: {out} is there and not empty; give a new folder")
    if args.episodes is None:
        if (args.policy, args.noise) != ("search", "training"):
            raise errors.BadInputError("--policy and --noise are of fresh episodes: --episodes=N")
        if run_folder.learns_from_data(workdir):
            raise errors.BadInputError(
                f"--workdir: the run in {workdir} learns from data, it stores nothing; --episodes=N"
            )
    if args.episodes is None or args.policy != "random":
        check_saved(workdir)


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/cartpole")
    workdir = Path(args.workdir)
    config = read_config(workdir)
    check_flags(args, workdir)
    experiment = build.experiment(config, allow=args.allow)
    facts: dict[str, Any] = {}
    if args.episodes is None:
        trajectories = replay_trajectories(experiment, workdir, facts)
    else:
        trajectories = _fresh_trajectories(experiment, config, args, facts)
    try:
        info = write_dataset(args.out, experiment.agent.spec, trajectories)
    except (DatasetError, OSError) as error:
        raise errors.BadInputError(f"--out: {error}") from None
    except EnvError as error:
        raise errors.BadInputError(f"env: {error}") from None
    if facts.get("dropped_rows"):
        process.log_stderr(
            f"{facts['dropped_rows']} rows left out: of episodes whose beginning is no longer"
            " stored, or from a row on that held numbers which are not finite"
        )
    names = ("rows", "episodes", "return_mean")
    more = ("dropped_rows", "env_steps", "updates")
    print(
        json.dumps(
            {name: getattr(info, name) for name in names}
            | {"path": str(args.out)}
            | {name: facts[name] for name in more if name in facts}
        )
    )


if __name__ == "__main__":
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    command_line.define_path("out", None, "Folder of the dataset; a new or an empty one.")
    flags.DEFINE_integer("episodes", None, "Fresh episodes, in place of the replay.", lower_bound=1)
    flags.DEFINE_enum("policy", "search", ["search", "random"], "Who plays fresh episodes.")
    flags.DEFINE_enum("noise", "training", ["training", "none"], "How the search explores there.")
    flags.DEFINE_integer("seed", 0, "Of fresh episodes.", lower_bound=0)
    command_line.run(main)
