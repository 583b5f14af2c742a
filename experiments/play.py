"""You against an agent of a board game, in the terminal.

  python experiments/play.py --workdir=runs/connect_four
  python experiments/play.py --workdir=runs/go_9x9 --second

X are your stones, O the agent's. A move is the number of a column (Connect Four) or of a cell
(tic-tac-toe, from 1 on, row by row), on a larger board a letter and a number as in "d4", or "pass".
An empty line shows what is allowed; "quit" ends the game. The agent plays without noise.
"""

from collections.abc import Callable
from pathlib import Path
import re
from typing import Any

from absl import flags
import jax
import numpy as np

import command_line
from muzero_jax import errors
from muzero_jax.config import build, runs, schema
from muzero_jax.evaluation import film
from muzero_jax.evaluation.actors import Actor
from muzero_jax.training.saving import check_saved, newest_params
from muzero_jax.types import Env, Params

_LETTERS = "abcdefghjklmnopqrst"  # Boards leave out the i.


def move_of(words: str, board: tuple[int, int], num_actions: int) -> int | None:
    """The action that a typed move means, or None; the board has (rows, columns)."""
    rows, columns = board
    words = words.strip().lower()
    if words == "pass" and num_actions == rows * columns + 1:
        return num_actions - 1
    if point := re.fullmatch(r"([a-z])(\d{1,2})", words):
        column, row = _LETTERS.find(point[1]), rows - int(point[2])
        inside = 0 <= column < columns and 0 <= row < rows
        return row * columns + column if inside and num_actions >= rows * columns else None
    if words.isdecimal() and 1 <= int(words) <= num_actions:
        return int(words) - 1
    return None


def name_of(action: int, board: tuple[int, int], num_actions: int) -> str:
    """A move as it is typed."""
    rows, columns = board
    if num_actions != rows * columns + 1:
        return str(action + 1)
    if action == num_actions - 1:
        return "pass"
    return f"{_LETTERS[action % columns]}{rows - action // columns}"


def show(planes: np.ndarray, num_actions: int, *, yours_to_move: bool) -> str:
    """The board `[H, W, C]`, whose first two planes are the stones of the player to move and of the
    other, with its coordinates."""
    rows, columns = planes.shape[:2]
    order = [0, 1] if yours_to_move else [1, 0]
    lines = film.grid(planes[..., order]).splitlines()
    if num_actions == rows * columns + 1:
        lines = [f"{rows - i:2d} {line}" for i, line in enumerate(lines)]
        lines.append("   " + " ".join(_LETTERS[:columns]))
    elif num_actions == columns:
        lines.append(" ".join(str(i + 1) for i in range(columns)))
    return "\n".join(lines)


def game(
    env: Env,
    actor: Actor,
    params: Params,
    key: Any,
    *,
    you_begin: bool,
    ask: Callable[[str], str] = input,
    tell: Callable[[str], None] = print,
) -> float | None:
    """Plays one game; your result, or None where you have left it.

    Args:
      env: a game of two players who see planes `[H, W, C]`.
      actor: that you play against.
      params: that it plays with.
      key: of whatever is drawn.
      you_begin: whether the first move is yours.
      ask: `(prompt) -> ` what you type; EOFError leaves the game.
      tell: where lines go.
    """
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    observe, choose = jax.jit(actor.observe), jax.jit(actor.choose)
    state, timestep = reset(jax.random.split(key, 1))
    carry, action = actor.init(params, 1), np.zeros(1, np.int32)
    choose_key, step_key = jax.random.split(key)
    yours, count, num_actions = you_begin, 0, env.spec.num_actions
    while True:
        carry = observe(carry, timestep, action)
        planes = np.asarray(timestep.observation[0])
        board = planes.shape[:2]
        tell(show(planes, num_actions, yours_to_move=yours))
        legal = np.flatnonzero(~np.asarray(timestep.invalid_actions[0]))
        if yours:
            chosen = _asked(ask, tell, board, num_actions, legal)
            if chosen is None:
                return None
        else:
            one = choose(carry, jax.random.fold_in(choose_key, count), state, timestep)
            chosen = int(np.asarray(one)[0])
            tell(f"the agent plays {name_of(chosen, board, num_actions)}")
        action, count = np.int32([chosen]), count + 1
        keys = jax.random.split(jax.random.fold_in(step_key, count), 1)
        state, timestep = step(state, action, keys)
        if bool(timestep.last[0]) or bool(timestep.first[0]):
            result = float(timestep.reward[0]) * (1 if yours else -1)
            tell("you win" if result > 0 else "you lose" if result < 0 else "a draw")
            return result
        yours = not yours


def _asked(ask, tell, board: tuple[int, int], num_actions: int, legal: np.ndarray) -> int | None:
    while True:
        try:
            words = ask("your move: ").strip()
        except EOFError:
            return None
        if words in ("quit", "exit"):
            return None
        move = move_of(words, board, num_actions)
        if move is not None and move in legal:
            return move
        allowed = " ".join(name_of(x, board, num_actions) for x in legal)
        tell(f"allowed: {allowed}" if move is None else f"not allowed here; allowed: {allowed}")


def main() -> None:
    args = flags.FLAGS
    if not args.workdir:
        raise errors.BadInputError("--workdir is required, e.g. --workdir=runs/connect_four")
    workdir = Path(args.workdir)
    with runs.refused_by(workdir):
        config = schema.check(runs.read_config(workdir))
    check_saved(workdir)
    check_saved(workdir, flag="--step", step=args.step)
    if args.simulations is not None:
        config.search.num_simulations = args.simulations
        schema.check(config)
    experiment = build.experiment(config, allow=args.allow)
    spec = experiment.agent.spec
    if spec.turn_sign != -1 or len(spec.observation_shape) != 3:
        raise errors.BadInputError(
            "--workdir: only board games of two players can be played against; see watch.py"
        )
    abstract = jax.eval_shape(experiment.agent.network.init, jax.random.key(0))
    _, params, _ = newest_params(workdir, abstract, step=args.step)
    game(
        experiment.match_env,
        build.player(experiment.agent, "search"),
        params,
        jax.random.key(args.seed),
        you_begin=not args.second,
    )


if __name__ == "__main__":
    command_line.define_path("workdir", None, "Folder of the run.")
    command_line.define_allow()
    command_line.define_step()
    flags.DEFINE_boolean("second", False, "The agent makes the first move.")
    flags.DEFINE_integer("simulations", None, "Of its search; default: the run's.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of whatever is drawn.", lower_bound=0)
    command_line.run(main)
