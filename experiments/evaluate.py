"""Scores a run's newest parameters in whole games, without noise; prints one JSON line.

  python experiments/evaluate.py --workdir=runs/pong --episodes=20 --seed=7

With --policy=random the random policy plays under the same protocol. Games of two players are
matches, half of them with each color:

  python experiments/evaluate.py --workdir=runs/tic_tac_toe --opponent=perfect --episodes=100
"""

import json
from pathlib import Path
from typing import Any

from absl import flags
import jax
import numpy as np

import command_line
from muzero_jax import errors
from muzero_jax.config import build, opponents, runs, schema
from muzero_jax.envs import host
from muzero_jax.errors import ArgumentError, EnvError
from muzero_jax.evaluation import matches, results, scoring, statistics
from muzero_jax.training.experiment import Experiment
from muzero_jax.training.saving import check_saved, newest_params
from muzero_jax.types import Params


def _play_match(
    experiment: Experiment, config, args, params: Params | None, seeds: list[int]
) -> dict[str, Any]:
    """The score of a match; the opponent is found before a game is played."""
    env, player = experiment.match_env, build.player(experiment.agent, args.policy)
    name = args.opponent or "random"
    if name == "exhaustive":
        count = matches.make_count_lines(env, player)
        try:
            lines = count(scoring.key_of(seeds), params)
        except ArgumentError as error:
            raise errors.BadInputError(f"--opponent=exhaustive: {error}") from None
        return scoring.both_colors(*lines) | {"opponent": name}
    opponent = opponents.make(name, config, env)
    # Two searches without noise play one game again and again.
    opening_plies = args.opening_plies
    if opening_plies is None:
        opening_plies = 2 if "@" in opponent.name else 0
    score = scoring.make_match_scorer(
        env,
        player,
        opponent,
        episodes=args.episodes,
        num_envs=config.evaluation.num_envs,
        opening_plies=opening_plies,
    )
    result = score(params, seeds)
    colors = np.reshape(result["returns"], (2, -1)).T
    interval = statistics.bootstrap_interval(statistics.mean, colors)
    more = {"interval_95": list(interval), "opponent": opponent.name}
    return result | more | {"opening_plies": opening_plies}


def check_flags(args, two_players: bool) -> None:
    """Refuses flags that are not for this number of players, or not for each other."""
    if args.simulations is not None and args.policy != "search":
        raise errors.BadInputError("--simulations is for --policy=search")
    if not two_players:
        for name in ("opponent", "opening_plies"):
            if getattr(args, name) is not None:
                raise errors.BadInputError(f"--{name} is for games of two players; this is for one")
        if args.policy == "prior":
            raise errors.BadInputError("--policy=prior is for games of two players")
        return
    if args.opponent == "exhaustive":
        if args.policy == "random":
            raise errors.BadInputError(
                "--opponent=exhaustive needs a player without chance; use --policy=search or prior"
            )
    elif args.episodes % 2:
        raise errors.BadInputError(
            f"--episodes must be even, half with each color (got {args.episodes})"
        )


def _config_of(workdir: Path, args) -> tuple[Any, int]:
    """The run's config with the evaluation asked for, and the games at a time."""
    config = runs.read_config(workdir)
    if args.simulations is not None:
        config.search.num_simulations = args.simulations
    if args.max_steps is not None:
        if "max_steps" not in config.evaluation:
            raise errors.BadInputError("--max_steps: the limit of these games is their own")
        config.evaluation.max_steps = args.max_steps
    if args.random_move is not None:
        config.evaluation.random_move = args.random_move
    most = config.evaluation.num_envs
    num_envs = args.num_envs or scoring.at_a_time(args.episodes, most)
    config.evaluation.update(episodes=args.episodes, num_envs=num_envs)
    schema.check(config)
    return config, num_envs


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/pong")
    workdir = Path(args.workdir)
    with runs.refused_by(workdir):
        config, num_envs = _config_of(workdir, args)
    learned = args.policy != "random"
    if learned:
        check_saved(workdir)
        check_saved(workdir, flag="--step", step=args.step)
    step, params, meta = None, None, {"counters": {}}
    experiment = build.experiment(config, allow=args.allow)
    two_players = experiment.agent.spec.turn_sign == -1
    check_flags(args, two_players)
    if learned:
        abstract = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))
        step, params, meta = newest_params(workdir, abstract, step=args.step)
    purpose = host.EVAL if learned else host.RANDOM
    # Evaluations inside a run have 0 in the place of the 1: these seeds are used nowhere else.
    seeds = host.env_seeds(args.seed, purpose, 1, 0, num_envs)
    try:
        if two_players:
            result = _play_match(experiment, config, args, params, seeds)
        else:
            score = build.scorer(
                experiment, config, episodes=args.episodes, num_envs=num_envs
            )
            result = score(params, seeds)
    except EnvError as error:
        raise errors.BadInputError(f"env: {error}") from None
    if not np.isfinite(result.get("return_mean", 0.0)):  # Lines of play have none.
        raise errors.NotFiniteError("env: these games have no score: rewards are not finite")
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
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    command_line.define_step()
    flags.DEFINE_integer("episodes", 20, "Whole games to play.", lower_bound=1)
    flags.DEFINE_integer("num_envs", None, "Games at a time; it divides --episodes.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the games and of the player.", lower_bound=0)
    flags.DEFINE_integer("max_steps", None, "Cap of a game; default: the config's.", lower_bound=1)
    flags.DEFINE_float(
        "random_move", None, "Probability of random moves; default: the config's.", 0.0, 1.0
    )
    flags.DEFINE_enum(
        "policy", "search", ["search", "prior", "random"], "Who plays; prior: without search."
    )
    flags.DEFINE_integer(
        "simulations", None, "Of the run's search; default: the config's.", lower_bound=1
    )
    command_line.define_path("opponent", None, f"For two players: {opponents.KINDS}.")
    flags.DEFINE_integer(
        "opening_plies", None, "First moves drawn at random; default: 2 against a run, else 0.",
        lower_bound=0,
    )
    command_line.run(main)
