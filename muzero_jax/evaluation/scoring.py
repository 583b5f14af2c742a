"""Scores of parameters: whole episodes of one player, or matches against an opponent.

Both makers return `(params, seeds, stop) -> dict`, where `params` may be None for random play, and
which raises `StoppedError` before the next step of a game once `stop()` is true.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from muzero_jax.errors import ArgumentError, BadInputError, StoppedError
from muzero_jax.evaluation import perfect
from muzero_jax.evaluation.actors import Actor, make_random_player
from muzero_jax.evaluation.episodes import play_episodes
from muzero_jax.evaluation.matches import Outcomes, count_outcomes, make_match
from muzero_jax.types import Env, EnvSpec, HostEnv, Params

Score = Callable[..., dict[str, Any]]


def never() -> bool:
    """The `stop` of games that are played to their end."""
    return False


def at_a_time(games: int, most: int) -> int:
    """As many games at a time as divide their number, up to `most`."""
    return max(n for n in range(1, min(most, games) + 1) if games % n == 0)


def make_scorer(
    eval_env: Callable[[list[int]], HostEnv], player: Actor, *, episodes: int
) -> Score:
    """Scores `episodes` whole games of one player, as many in each environment.

    Args:
      eval_env: `(seeds) -> HostEnv` with one environment for each seed.
      player: whose params are scored.
      episodes: how many games; a multiple of the number of seeds.

    Returns:
      `(params, seeds, stop) -> ` `return_mean`, `returns`, `steps_mean` and `episodes_cut`.
    """
    def score(params: Params | None, seeds: list[int], stop=never) -> dict[str, Any]:
        env = _stoppable(eval_env(seeds), stop)
        if episodes % env.num_envs:
            raise ArgumentError(
                f"episodes must be a multiple of the {env.num_envs} environments (got {episodes})"
            )
        chosen = make_random_player(env.spec) if params is None else player
        rows = play_episodes(
            env,
            chosen,
            params,
            jax.random.key(seeds[0]),
            episodes_per_env=episodes // env.num_envs,
        )
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


class Side(NamedTuple):
    """One of the two sides of a match.

    Attributes:
      player: how it plays.
      params: that it plays with.
      name: what it is called.
    """

    player: Actor
    params: Params
    name: str


def simple_side(name: str, game: str, spec: EnvSpec) -> Side:
    """An opponent that needs nothing but the game: "random", or "perfect" where there is one.

    Raises:
      ArgumentError: for a game without a perfect player.
    """
    if name == "random":
        return Side(make_random_player(spec), (), name)
    return Side(perfect.make_player(game), (), name)


def make_match_scorer(
    env: Env,
    player: Actor,
    opponent: Side,
    *,
    episodes: int,
    num_envs: int,
    opening_plies: int = 0,
) -> Score:
    """Scores `episodes` games of two players, half of them with each color.

    At most `num_envs` are played at a time. Games with either color have equal openings.

    Returns:
      `(params, seeds, stop) -> ` `return_mean`, `returns`, and the counts of `both_colors`.

    Raises:
      BadInputError: for an odd number of games.
    """
    if episodes % 2:
        raise BadInputError(f"episodes must be even, half with each color (got {episodes})")
    half = episodes // 2
    num_games = at_a_time(half, num_envs)
    plays = [
        make_match(
            env,
            *pair,
            num_games=num_games,
            max_plies=env.spec.max_steps,
            opening_plies=opening_plies,
        )
        for pair in ((player, opponent.player), (opponent.player, player))
    ]

    def score(params: Params, seeds: list[int], stop=never) -> dict[str, Any]:
        key = key_of(seeds)
        found: tuple[list, list] = ([], [])
        for number in range(half // num_games):
            round_key = jax.random.fold_in(key, number)
            for color, play in enumerate(plays):
                pair = (params, opponent.params)[:: -1 if color else 1]
                scores = play(round_key, *pair, stop)
                if scores is None:
                    raise StoppedError
                found[color].append(0 - scores if color else scores)
        first, second = (np.concatenate(scores).astype(float) for scores in found)
        returns = np.concatenate([first, second])
        return {"return_mean": float(np.mean(returns)), "returns": returns.tolist()} | both_colors(
            count_outcomes(first), count_outcomes(second)
        )

    return score


def key_of(seeds: list[int]) -> jax.Array:
    """The key of the games that have these seeds."""
    return jax.random.key(np.random.SeedSequence(seeds).generate_state(1)[0])


def both_colors(first: Outcomes, second: Outcomes) -> dict[str, int]:
    """Wins, draws and losses, and how many of each where the player moves first, or second."""
    counts = {name: getattr(first, name) + getattr(second, name) for name in Outcomes._fields}
    for color, outcomes in (("first", first), ("second", second)):
        counts |= {f"{name}_{color}": x for name, x in outcomes._asdict().items()}
    return counts
