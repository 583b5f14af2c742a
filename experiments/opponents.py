"""Games of two players: who can be played against, by name, and the scores of matches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import assemble
from fields import RANGES, TASK_FIELDS
from launch import local_path
from muzero_jax import errors
from muzero_jax.errors import ArgumentError, BadInputError
from muzero_jax.evaluation import matches
from muzero_jax.evaluation.matches import MatchPlayer, Outcomes
from muzero_jax.types import Env, Params
import saved_params
import workdirs

KINDS = "random, perfect, mcts:SIMULATIONS, every_reply, or the folder of a run (WORKDIR[@STEP])"


class Side(NamedTuple):
    """One of the two: a player, its params, and what it is called."""

    player: MatchPlayer
    params: Params
    name: str


def agent(experiment: assemble.Experiment, config, policy: str) -> MatchPlayer:
    """The player of a run's parameters: its "search", its "prior" alone, or "random" moves."""
    parts, history_steps = experiment.parts, config.network.history_steps
    if policy == "search":
        return matches.make_search_match_player(
            parts.search, parts.spec, history_steps=history_steps
        )
    if policy == "prior":
        return matches.make_prior_match_player(
            parts.network, parts.spec, history_steps=history_steps
        )
    return matches.make_random_match_player(parts.spec)


def make(name: str, config, env: Env, *, flag: str = "--opponent") -> Side:
    """The opponent that `name` means, in the games of `config`.

    Raises:
      BadInputError: where there is no such opponent for this game; it begins with `flag`.
    """
    if name == "random":
        return Side(matches.make_random_match_player(env.spec), (), name)
    if name == "perfect":
        import perfect

        try:
            return Side(perfect.make_player(config.env.game), (), name)
        except ArgumentError as error:
            raise BadInputError(f"{flag}: {error}") from None
    kind, _, number = name.partition(":")
    if kind == "mcts":
        allowed = RANGES["search.num_simulations"]
        # Python reads no number of thousands of digits.
        if not number.isdecimal() or len(number) > 9 or allowed.wanted(int(number)):
            raise BadInputError(
                f"{flag}: mcts needs its simulations, 1 to {allowed.high}, e.g. mcts:400"
                f" (got {name[:40]!r})"
            )
        return Side(_true_model_search(env, int(number)), (), name)
    return _other_run(name, config, flag)


def _true_model_search(env: Env, num_simulations: int) -> MatchPlayer:
    from muzero_jax.search.uct import make_uct_search

    search = make_uct_search(env, num_simulations=num_simulations)

    def choose(carry, key, env_state, timestep):
        del carry
        return search(key, env_state, timestep).action

    return matches.without_memory(choose)


def _other_run(name: str, config, flag: str) -> Side:
    """The search of another run, with its own config and the parameters of one of its saves."""
    name = local_path(name, flag)
    folder, _, number = name.rpartition("@")
    step = int(number) if folder and number.isdecimal() and not Path(name).exists() else None
    workdir = Path(name if step is None else folder)
    if not (workdir / "config.json").exists():
        raise BadInputError(f"{flag}: {name!r} is none of {KINDS}")
    with saved_params.told_by_flag(workdir, flag=flag):
        other = workdirs.read_config(workdir)
        games = [(x.env.suite, x.env[TASK_FIELDS[x.env.suite]]) for x in (config, other)]
        if games[0] != games[1]:
            raise BadInputError(f"{flag}: {workdir} plays {games[1][1]}, this run {games[0][1]}")
    experiment = assemble.build(other)
    player = agent(experiment, other, "search")
    abstract = jax.eval_shape(experiment.parts.network.init, jax.random.key(0))
    step, params, _ = saved_params.newest_params(workdir, abstract, flag=flag, step=step)
    return Side(player, params, f"{workdir}@{step}")


def make_scorer(
    env: Env,
    player: MatchPlayer,
    opponent: Side,
    *,
    episodes: int,
    num_envs: int,
    opening_plies: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Callable[[Params, list[int]], dict[str, Any]]:
    """`(params, seeds) -> ` scores of `episodes` games, half of them with each color.

    At most `num_envs` are played at a time. Games with either color have equal openings. It raises
    `StoppedError` before the next ply once `stop()` is true.

    Raises:
      BadInputError: for an odd number of games.
    """
    if episodes % 2:
        raise BadInputError(f"episodes must be even, half with each color (got {episodes})")
    half = episodes // 2
    at_a_time = max(n for n in range(1, min(num_envs, half) + 1) if half % n == 0)
    plays = [
        matches.make_match(
            env,
            *pair,
            num_games=at_a_time,
            max_plies=env.spec.max_steps,
            opening_plies=opening_plies,
        )
        for pair in ((player, opponent.player), (opponent.player, player))
    ]

    def score(params: Params, seeds: list[int]) -> dict[str, Any]:
        key = key_of(seeds)
        told: tuple[list, list] = ([], [])
        for number in range(half // at_a_time):
            round_key = jax.random.fold_in(key, number)
            for color, play in enumerate(plays):
                pair = (params, opponent.params)[:: -1 if color else 1]
                scores = play(round_key, *pair, stop)
                if scores is None:
                    raise errors.StoppedError
                told[color].append(0 - scores if color else scores)
        first, second = (np.concatenate(scores).astype(float) for scores in told)
        returns = np.concatenate([first, second])
        return {"return_mean": float(np.mean(returns)), "returns": returns.tolist()} | both_colors(
            matches.count_outcomes(first), matches.count_outcomes(second)
        )

    return score


def key_of(seeds: list[int]) -> jax.Array:
    """The key of the games that have these seeds."""
    return jax.random.key(np.random.SeedSequence(seeds).generate_state(1)[0])


def both_colors(first: Outcomes, second: Outcomes) -> dict[str, int]:
    """Wins, draws and losses, and how many of each where the player moves first, or second."""
    told = {name: getattr(first, name) + getattr(second, name) for name in Outcomes._fields}
    for color, outcomes in (("first", first), ("second", second)):
        told |= {f"{name}_{color}": x for name, x in outcomes._asdict().items()}
    return told
