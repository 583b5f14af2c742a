"""Says why a run may not learn: one HTML page, and the same numbers as JSON.

  python experiments/diagnose.py --workdir=runs/pong
  python experiments/diagnose.py --workdir=runs/pong --simulations=0,4,16 --episodes=8

It plays unseen episodes without noise, unrolls the learned model along what really happened, looks
at the newest resume point, and writes `diagnosis/index.html` and `diagnosis/report.json` into the
run's folder (or --out). The verdict, with the fields to change, is printed too; what its numbers
mean is in docs/troubleshooting.md.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags
import jax
import numpy as np

import command_line
from muzero_jax import acting, checkpoint, errors
from muzero_jax.config import build, runs, schema
from muzero_jax.diagnosis import report
from muzero_jax.envs import host
from muzero_jax.errors import EnvError
from muzero_jax.evaluation import results, scoring, statistics
from muzero_jax.evaluation.recording import episode_trajectories, search_play
from muzero_jax.training import process, run_folder
from muzero_jax.training.experiment import Experiment
from muzero_jax.training.saving import check_saved, counters_of, newest_params, saved_tree
from muzero_jax.types import Params, RunState, Transition


def read_config(workdir: Path):
    """The config of a run, with evaluation games whose episodes end as those of training do.

    Games of two players keep the openings of training: without them the search would play one game
    again and again.

    Raises:
      BadInputError: where there is none, or fields that are missing or wrong.
    """
    with runs.refused_by(workdir):
        config = schema.check(runs.read_config(workdir))
        for name in results.evaluation_games(config.to_dict()):
            if name not in ("max_steps", "num_levels"):
                config.evaluation[name] = config.env[name]
    return config


def play(
    experiment: Experiment, params: Params, *, updates: int, episodes: int, most: int, seed: int
) -> list[Transition]:
    """Whole episodes of the search without noise."""
    agent, num_envs = experiment.agent, scoring.at_a_time(episodes, most)
    seeds = host.env_seeds(seed, host.RECORD, 1, 0, num_envs)
    chosen = search_play(
        agent.search, params, jax.random.key(seeds[0]), acting.NO_EXPLORATION, updates
    )
    carry = acting.init_carry(agent.spec, num_envs, agent.window.history)
    return [
        *episode_trajectories(
            experiment.eval_env(seeds), chosen, carry, episodes_per_env=episodes // num_envs
        )
    ]


def score(
    config, args, params: Params, simulations: list[int]
) -> tuple[list[dict[str, Any]], str]:
    """The score with each number of simulations, and its unit: of one player the return, of two
    the mean result against the agent's own policy without search."""
    found, unit = [], "return"
    for number in simulations:
        config.search.num_simulations = max(number, 1)
        made = build.experiment(schema.check(config), allow=args.allow)
        agent = made.agent
        player = build.player(agent, "search" if number else "prior")
        num_envs = scoring.at_a_time(args.episodes, config.evaluation.num_envs)
        if agent.spec.turn_sign == -1:
            prior = scoring.Side(build.player(agent, "prior"), params, "prior")
            games = args.episodes + args.episodes % 2
            play_all = scoring.make_match_scorer(
                made.match_env, player, prior, episodes=games, num_envs=num_envs, opening_plies=4
            )
            unit = "mean result against the policy alone"
        else:
            play_all = scoring.make_scorer(made.eval_env, player, episodes=args.episodes)
        seeds = host.env_seeds(args.seed, host.RECORD, 2, 0, num_envs)
        returns = np.asarray(play_all(params, seeds)["returns"], float)
        low = high = None
        if len(returns) > 1:
            low, high = map(float, statistics.t_interval(returns))
        found.append(
            {"simulations": number, "mean": float(returns.mean()), "low": low, "high": high}
        )
    return found, unit


def resume_point(experiment: Experiment, workdir: Path) -> RunState | None:
    """The newest resume point's parameters, target network and replay; None where there is none
    that can be read."""
    if run_folder.learns_from_data(workdir):
        return None
    shapes = saved_tree(jax.eval_shape(experiment.init))
    rest = shapes["rest"].replace(env=None, timestep=None, acting=None)
    target = {"params": shapes["params"], "rest": rest}
    try:
        found = checkpoint.restore_newest(workdir / "checkpoints", target, partial=True)
    except errors.CheckpointError as error:
        process.log_stderr(f"warning: the resume point cannot be read: {error}")
        return None
    if found is None:
        return None
    _, tree, meta = found
    run = tree["rest"]
    return run.replace(
        train=run.train.replace(params=tree["params"]),
        counters=counters_of(meta, "the newest resume point"),
    )


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/pong")
    workdir = Path(args.workdir)
    config = read_config(workdir)
    check_saved(workdir)
    check_saved(workdir, flag="--step", step=args.step)
    try:
        simulations = sorted({int(x) for x in args.simulations})
    except ValueError:
        raise errors.BadInputError("--simulations must be whole numbers, e.g. 0,4,16") from None
    if any(x < 0 for x in simulations):
        raise errors.BadInputError("--simulations must be >= 0")
    out = Path(args.out or workdir / "diagnosis")
    experiment = build.experiment(config, allow=args.allow)
    abstract = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))
    step, params, meta = newest_params(workdir, abstract, step=args.step)
    updates = min(meta["counters"]["updates"], 2**31 - 1)
    try:
        episodes = play(
            experiment,
            params,
            updates=updates,
            episodes=args.episodes,
            most=config.evaluation.num_envs,
            seed=args.seed,
        )
        scores, unit = score(runs.read_config(workdir), args, params, simulations)
    except EnvError as error:
        raise errors.BadInputError(f"env: {error}") from None
    found = report.make(
        experiment,
        params,
        episodes,
        task=schema.task(config),
        origin=(
            f"{workdir}, iteration {step}, {meta['counters']['env_steps']:,} env steps,"
            f" {updates:,} updates; {args.episodes} episodes, seed {args.seed}; run of version"
            f" {run_folder.version_of(workdir) or 'unknown'}"
        ),
        discount=config.targets.discount,
        key=jax.random.key(args.seed),
        run=resume_point(experiment, workdir),
        scores=scores or None,
        unit=unit,
        number=args.positions,
        depth=args.depth,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(found.report, indent=1) + "\n")
        (out / "index.html").write_text(found.page)
    except OSError as error:
        raise errors.BadInputError(f"--out: {error}") from None
    for reason in found.report["verdict"]:
        print(f"{reason['name']}: {reason['text']}. Change: {reason['field']}")
    if not found.report["verdict"]:
        print("no check is beyond its threshold")
    print(out / "index.html")


if __name__ == "__main__":
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    command_line.define_step()
    command_line.define_path("out", None, "Folder of the page; default: diagnosis/ in the run's.")
    flags.DEFINE_integer("episodes", 16, "Unseen episodes to play.", lower_bound=1)
    flags.DEFINE_integer("positions", 512, "Of them to be looked at.", lower_bound=10)
    flags.DEFINE_integer("depth", None, "Steps of an unroll; default: twice what is learned.", 1)
    flags.DEFINE_list("simulations", "0,1,4,16,64", "Score with so many each; '' for none.")
    flags.DEFINE_integer("seed", 0, "Of the episodes.", lower_bound=0)
    command_line.run(main)
