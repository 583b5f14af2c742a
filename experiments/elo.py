"""How strong the checkpoints of a run are, by Elo ratings of a league; prints one JSON line.

  python experiments/elo.py --workdir=runs/connect_four --games=40

Every two checkpoints play `--games` games, half with each color, from openings drawn at random. How
many checkpoints there are is `checkpoint.params_to_keep` of the run's config.
"""

import itertools
import json
from pathlib import Path

from absl import flags
import jax
import numpy as np

import command_line
from muzero_jax import errors
from muzero_jax.config import build, runs, schema
from muzero_jax.envs import host
from muzero_jax.evaluation import matches, scoring, statistics
from muzero_jax.training.saving import check_saved, newest_params
from muzero_jax.types import Params

_PRIOR_DRAWS = 1.0  # Added to each pair, so that perfect scores have finite ratings.


def play_league(play, params: list[Params], key) -> np.ndarray:
    """What every game brought to the one with the lower number: 1, 0.5 or 0.

    Args:
      play: a match of `make_match`.
      params: of the P players.
      key: of the games; each pair has openings of its own, the same with both colors.

    Returns:
      `[num_games, P·(P-1)]`: a column for each pair, in order of `itertools.combinations`, in which
      the lower number moves first, and then as many in which it moves second.
    """
    pairs = list(itertools.combinations(params, 2))
    keys = [jax.random.fold_in(key, number) for number in range(len(pairs))]
    first = [play(key, low, high) for key, (low, high) in zip(keys, pairs)]
    second = [0 - play(key, high, low) for key, (low, high) in zip(keys, pairs)]
    return (np.sign(np.stack(first + second, axis=1)) + 1) / 2


def ratings(scores: np.ndarray, num_players: int) -> np.ndarray:
    """Elo `[..., P]` of what `play_league` returned, with any leading axes."""
    total = scores.sum(axis=-2).reshape(*scores.shape[:-2], 2, -1).sum(axis=-2)
    low, high = np.triu_indices(num_players, k=1)  # The pairs, in the same order.
    points = np.zeros((*total.shape[:-1], num_players, num_players))
    points[..., low, high] = total
    points[..., high, low] = 2 * scores.shape[-2] - total
    return statistics.elo_ratings(points, prior_draws=_PRIOR_DRAWS)


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/connect_four")
    if args.games % 2:
        raise errors.BadInputError(
            f"--games must be even, half with each color (got {args.games})"
        )
    workdir = Path(args.workdir)
    with runs.refused_by(workdir):
        config = runs.read_config(workdir)
        if args.simulations is not None:
            config.search.num_simulations = args.simulations
        schema.check(config)
    steps = check_saved(workdir)
    if len(steps) < 2:
        raise errors.BadInputError(
            f"--workdir: {workdir} has one checkpoint; train with a higher"
            " checkpoint.params_to_keep, or a lower checkpoint.params_interval_env_steps"
        )
    experiment = build.experiment(config, allow=args.allow)
    if experiment.agent.spec.turn_sign != -1:
        raise errors.BadInputError("--workdir: ratings are for games of two players")
    abstract = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))
    saved = [newest_params(workdir, abstract, step=step) for step in steps]
    player = build.player(experiment.agent, "search")
    play = matches.make_match(
        experiment.match_env,
        player,
        player,
        num_games=args.games // 2,
        max_plies=experiment.match_env.spec.max_steps,
        opening_plies=args.opening_plies,
    )
    key = scoring.key_of(host.env_seeds(args.seed, host.EVAL, 2, 0, 1))
    scores = play_league(play, [params for _, params, _ in saved], key)
    elo = ratings(scores, len(saved))
    low, high = statistics.bootstrap_interval(
        lambda x: ratings(x, len(saved)), scores, resamples=1000
    )
    players = [
        {
            "step": step,
            "env_steps": meta["counters"]["env_steps"],
            "elo": round(float(elo[i]), 1),
            "interval_95": [round(float(low[i]), 1), round(float(high[i]), 1)],
        }
        for i, (step, _, meta) in enumerate(saved)
    ]
    print(
        json.dumps(
            {
                "players": players,
                "games_per_pair": args.games,
                "opening_plies": args.opening_plies,
                "num_simulations": config.search.num_simulations,
                "prior_draws": _PRIOR_DRAWS,
                "seed": args.seed,
            }
        )
    )


if __name__ == "__main__":
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    flags.DEFINE_integer("games", 20, "Of each two checkpoints; even.", lower_bound=2)
    flags.DEFINE_integer("simulations", None, "Of a search; default: the run's.", lower_bound=1)
    flags.DEFINE_integer("opening_plies", 2, "First moves drawn at random.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of the games.", lower_bound=0)
    command_line.run(main)
