"""Shows an agent at play: a video with what it thinks beside the picture, or text in the terminal.

  python experiments/watch.py --workdir=runs/pong                     runs/pong/watch.gif
  python experiments/watch.py --workdir=runs/pong --out=pong.mp4
  python experiments/watch.py --workdir=runs/catch --terminal

Beside each picture stand the value, and the likeliest actions with their visits. Atari is shown in
its own colours, a game of pgx by its own drawing, what has no drawing by what the agent sees. It
plays without noise; an agent of a board game plays itself, from two random moves on.
"""

from collections.abc import Iterator
from pathlib import Path
import time
from typing import Any

from absl import flags
import numpy as np

import command_line
from muzero_jax import errors, load_agent
from muzero_jax.config import build, runs, schema
from muzero_jax.envs import host
from muzero_jax.errors import EnvError
from muzero_jax.evaluation import film
from muzero_jax.player import Player
from muzero_jax.training.saving import check_saved
from muzero_jax.types import HostEnv, SearchOutput, TimeStep


def episode(
    player: Player, env: HostEnv, timestep: TimeStep, most: int
) -> Iterator[tuple[TimeStep, SearchOutput, int, float]]:
    """(time step, what the agent thinks of it, its number, score so far) of each step of an
    episode of one environment, at most so many."""
    player.reset()
    score, turn = 0.0, 1
    for step in range(most):
        # Scores of two players are those of the one who moves first.
        score += 0.0 if step == 0 else turn * float(timestep.reward[0])
        mask = timestep.invalid_actions
        seen = _one(timestep.observation)
        options = dict(
            reward=float(timestep.reward[0]), invalid_actions=None if mask is None else mask[0]
        )
        yield timestep, player.search(seen, **options), step, score
        if timestep.last[0]:
            return
        action = player.act(seen, **options)
        turn *= player.spec.turn_sign if step else 1
        timestep = env.step(np.asarray([action], player.spec.action.dtype))
        if timestep.first[0]:  # A reset in the same step: the last picture is the next episode's.
            return


def _one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: x[0] for name, x in observation.items()}
    return observation[0]


def _frames(player: Player, env: HostEnv, args) -> Iterator[np.ndarray]:
    for timestep, found, step, score in episode(player, env, env.reset(), args.max_steps):
        drawing = None if env.draw is None else env.draw()[0]
        drawn = film.picture(drawing, _one(timestep.observation))
        yield film.frame(drawn, found, step=step, score=score)


def _print(player: Player, env: HostEnv, args) -> None:
    """Shows an episode in the terminal."""
    for timestep, found, step, score in episode(player, env, env.reset(), args.max_steps):
        print(f"\nstep {step}, score {score:.4g}, value {float(found.value):.3g}")
        print(film.text(_one(timestep.observation)))
        for name, visits, share in film.best_actions(found):
            print(f"  {name}: {visits} visits, {share:.0%}")
        time.sleep(1 / args.fps)


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/pong")
    workdir = Path(args.workdir)
    out = Path(args.out or workdir / "watch.gif")
    if out.suffix not in (".gif", ".mp4"):
        raise errors.BadInputError(f"--out must end in .gif or .mp4 (got {out.name})")
    with runs.refused_by(workdir):
        config = schema.check(runs.read_config(workdir))
    check_saved(workdir)
    check_saved(workdir, flag="--step", step=args.step)
    player = load_agent(workdir, step=args.step, allow=args.allow, seed=args.seed)
    if player.spec.turn_sign == -1:  # Else the search plays one game again and again.
        config.evaluation.opening_plies = 2
    env = build.experiment(config, allow=args.allow).eval_env(
        host.env_seeds(args.seed, host.RECORD, 3, 0, 1)
    )
    try:
        if args.terminal:
            _print(player, env, args)
            return
        number = film.write(out, _frames(player, env, args), frames_per_s=args.fps)
    except EnvError as error:
        raise errors.BadInputError(f"env: {error}") from None
    print(f"{out} ({number} frames)")


if __name__ == "__main__":
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    command_line.define_step()
    command_line.define_path("out", None, "Video, .gif or .mp4; default: watch.gif in the run.")
    flags.DEFINE_boolean("terminal", False, "Show it as text instead.")
    flags.DEFINE_integer("max_steps", 600, "Of the episode to be shown.", lower_bound=1)
    flags.DEFINE_float("fps", 12.0, "Steps per second.", 0.1, 100.0)
    flags.DEFINE_integer("seed", 0, "Of the episode.", lower_bound=0)
    command_line.run(main)
