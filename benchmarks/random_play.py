"""Random play on Atari under several protocols, against the published random scores.

  python benchmarks/random_play.py          writes results/random_play.json

Each score is the mean return of whole games, 4 from each of 32 environments, with its standard
error; `z` is its distance from the published mean in standard errors, the published one taken as
exact, though it comes from few games itself. Protocols differ from this library's default in what
their name says.
"""

import json
from pathlib import Path
import sys

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax.envs import host  # noqa: E402
from muzero_jax.envs.atari_games import RANDOM_AND_HUMAN_SCORES  # noqa: E402
from muzero_jax.evaluation.actors import make_random_player  # noqa: E402
from muzero_jax.evaluation.episodes import play_episodes  # noqa: E402

GAMES = ("Pong", "Breakout", "SpaceInvaders")
PROTOCOLS = {
    "default": {},
    "full_action_space": {"full_action_space": True},
    "no_fire_reset": {"fire_reset": False},
    "full_action_space, no_fire_reset": {"full_action_space": True, "fire_reset": False},
    "full_action_space, no_fire_reset, 6 frames a step": {
        "full_action_space": True,
        "fire_reset": False,
        "frame_skip": 6,
        "max_steps": 18_000,
    },
}
_ENVS, _EPISODES_PER_ENV, _SEED = 32, 4, 0


def main() -> None:
    result = {
        **provenance(),
        "command": "python benchmarks/random_play.py",
        "seed": _SEED,
        "episodes": _ENVS * _EPISODES_PER_ENV,
        "protocols": PROTOCOLS,
        "published": {game: RANDOM_AND_HUMAN_SCORES[game][0] for game in GAMES},
        "scores": {
            game: {name: play(game, **options) for name, options in PROTOCOLS.items()}
            for game in GAMES
        },
    }
    path = _ROOT / "benchmarks" / "results" / "random_play.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def play(game: str, *, episodes_per_env: int = _EPISODES_PER_ENV, **options) -> dict[str, float]:
    """Mean return, its standard error and distance from the published one, and mean length."""
    seeds = host.env_seeds(_SEED, host.RANDOM, 0, 0, _ENVS)
    env = host.make_atari(game, seeds=seeds, **options)
    player, key = make_random_player(env.spec), jax.random.key(_SEED)
    episodes = play_episodes(env, player, None, key, episodes_per_env=episodes_per_env)
    returns = np.array([episode.score for episode in episodes])
    error = float(returns.std(ddof=1) / np.sqrt(len(returns)))
    mean, published = float(returns.mean()), RANDOM_AND_HUMAN_SCORES[game][0]
    score = {
        "mean": mean,
        "standard_error": error,
        "z": (mean - published) / error,
        "steps_mean": float(np.mean([episode.steps for episode in episodes])),
        "episodes_cut": sum(episode.cut for episode in episodes),
    }
    print(game, options, {name: round(x, 3) for name, x in score.items()}, flush=True)
    return score


if __name__ == "__main__":
    main()
