"""The share of exactly optimal moves at 1,200 positions of Connect Four; prints one JSON line.

  python benchmarks/connect_four.py --workdir=runs/connect_four [--simulations=64]
  python benchmarks/connect_four.py --mcts=100,400,1000

With --workdir: a run's newest parameters, by `search` (without noise; --simulations replaces the
config's number) and by `policy` (the policy head's best legal move, no search). With --mcts: plain
Monte Carlo tree search with random rollouts, of so many simulations. `uniform` is what a uniform
legal move gets, exactly. Each comes with its 95 % bootstrap interval over positions.

The positions and what optimal means: connect_four_labels.py. Each is reached by playing its moves.
"""

import argparse
from collections.abc import Callable
import functools
import json
from pathlib import Path
import sys
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax import errors  # noqa: E402
from muzero_jax.acting import NO_EXPLORATION  # noqa: E402
from muzero_jax.config import build, runs  # noqa: E402
from muzero_jax.envs.pgx import make_pgx  # noqa: E402
from muzero_jax.evaluation import statistics  # noqa: E402
from muzero_jax.history import history_init, history_push  # noqa: E402
from muzero_jax.search.uct import make_uct_search  # noqa: E402
from muzero_jax.training import saving  # noqa: E402
from muzero_jax.types import Array, History, Network, SearchFn, TimeStep  # noqa: E402

LABELS = ROOT / "benchmarks" / "data" / "connect_four_labels.json"
_VALUES = {"+": 1, "0": 0, "-": -1, "x": -2}
BATCH = 100  # A divisor of the number of positions: one program serves all.


class Positions(NamedTuple):
    """Positions with exact labels.

    Attributes:
      moves: columns played `[P, T]` int32; -1 beyond a position's own.
      values: of each move for the one who makes it `[P, 7]`, in {-1, 0, 1}; -2: illegal.
    """

    moves: np.ndarray
    values: np.ndarray


class Board(NamedTuple):
    """Where a move is to be chosen: states and time steps `[B]`, and the `History` `[B, S]`."""

    env_state: Any
    timestep: TimeStep
    history: History


def load_positions(path: Path = LABELS) -> Positions:
    """Reads the stored positions."""
    stored = json.loads(path.read_text())["positions"]
    moves = np.full((len(stored), max(len(p["moves"]) for p in stored)), -1, np.int32)
    for row, position in zip(moves, stored):
        row[: len(position["moves"])] = [int(column) for column in position["moves"]]
    return Positions(moves, np.array([[_VALUES[value] for value in p["values"]] for p in stored]))


@functools.cache
def make_replay_moves(*, history_steps: int) -> Callable[[Array], Board]:
    """`(moves [B, T]) -> Board [B]`, compiled, by playing them from the start."""
    env = make_pgx("connect_four")

    @jax.jit
    def replay_moves(moves):
        batch = moves.shape[0]
        keys = jnp.broadcast_to(jax.random.key(0), (batch,))  # Who begins is all that it draws.
        env_state, timestep = jax.vmap(env.reset)(keys)
        history = history_init(timestep.observation, env.spec.action, history_steps)
        history = history_push(history, timestep, jnp.zeros(batch, jnp.int32))

        def step(board, move):
            action = jnp.maximum(move, 0)
            env_state, timestep = jax.vmap(env.step)(board.env_state, action, keys)
            new = Board(env_state, timestep, history_push(board.history, timestep, action))
            played = move >= 0

            def choose(a, b):
                return jnp.where(played.reshape(-1, *[1] * (a.ndim - 1)), a, b)

            return jax.tree.map(choose, new, board), None

        return jax.lax.scan(step, Board(env_state, timestep, history), moves.T)[0]

    return replay_moves


def is_optimal(
    choose: Callable[..., Array], positions: Positions, *, history_steps: int = 1, args: Any = ()
) -> np.ndarray:
    """Whether `choose(args, key, Board [B]) -> action [B]` keeps each position's value, `[P]`.

    Raises:
      RuntimeError: where it chooses an illegal move.
    """
    replay_moves = make_replay_moves(history_steps=history_steps)
    choose = jax.jit(choose)
    gains = []
    for begin in range(0, len(positions.moves), BATCH):
        moves = np.resize(positions.moves[begin:], (BATCH, positions.moves.shape[1]))
        values = positions.values[begin : begin + BATCH]
        action = jax.device_get(choose(args, jax.random.key(begin), replay_moves(moves)))
        gains.append(values[np.arange(len(values)), action[: len(values)]])
    gained = np.concatenate(gains)
    if (gained == -2).any():
        raise RuntimeError(f"{(gained == -2).sum()} of the moves chosen are illegal")
    return gained == positions.values.max(1)


def uniform_shares(positions: Positions) -> np.ndarray:
    """The share of each position's legal moves that are optimal, `[P]`."""
    values = positions.values
    return (values == values.max(1, keepdims=True)).sum(1) / (values > -2).sum(1)


def judge_network(
    network: Network, search: SearchFn, params, positions: Positions, *, history_steps: int
) -> dict[str, np.ndarray]:
    """What `search` and `policy` get at each position."""

    def by_search(params, key, board):
        masks = board.timestep.invalid_actions
        return search(params, key, board.history, masks, NO_EXPLORATION).action

    def by_policy(params, key, board):
        del key
        logits = network.initial_inference(params, board.history).policy_logits
        return jnp.argmax(jnp.where(board.timestep.invalid_actions, -jnp.inf, logits), axis=-1)

    options = dict(history_steps=history_steps, args=params)
    return {
        "search": is_optimal(by_search, positions, **options),
        "policy": is_optimal(by_policy, positions, **options),
    }


def judge_mcts(num_simulations: int, positions: Positions) -> np.ndarray:
    """What plain Monte Carlo tree search gets at each position."""
    search = make_uct_search(make_pgx("connect_four"), num_simulations=num_simulations)
    return is_optimal(
        lambda args, key, board: search(key, board.env_state, board.timestep).action, positions
    )


def summary(shares: np.ndarray) -> dict[str, Any]:
    """Mean of `[P]` and its 95 % interval (10,000 resamples of positions, seed 0)."""
    interval = statistics.bootstrap_interval(statistics.mean, shares[:, None].astype(float))
    return {"optimal_share": float(shares.mean()), "interval_95": list(interval)}


def _judge_run(
    workdir: Path, positions: Positions, num_simulations: int | None
) -> tuple[dict[str, np.ndarray], dict]:
    """The newest parameters' shares, and what is known of them."""
    config = runs.read_config(workdir)
    if num_simulations is not None:
        config.search.num_simulations = num_simulations
    agent = build.experiment(config).agent
    env = make_pgx("connect_four")
    names = ("observation_shape", "num_actions", "turn_sign")
    if any(getattr(agent.spec, name) != getattr(env.spec, name) for name in names):
        raise errors.BadInputError(f"--workdir: the run in {workdir} is not of Connect Four")
    abstract = jax.eval_shape(agent.network.init, jax.random.key(0))
    step, params, meta = saving.newest_params(workdir, abstract)
    shares = judge_network(
        agent.network,
        agent.search,
        params,
        positions,
        history_steps=config.network.history_steps,
    )
    return shares, {
        "step": step,
        "env_steps": meta["counters"].get("env_steps"),
        "updates": meta["counters"].get("updates"),
        "num_simulations": config.search.num_simulations,
    }


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of simulations, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="folder of a run of Connect Four")
    parser.add_argument(
        "--simulations", type=_count, help="of the run's search; default: the config's"
    )
    parser.add_argument(
        "--mcts",
        type=lambda text: [_count(x) for x in text.split(",")],
        default=[],
        help="numbers of simulations of plain Monte Carlo tree search, e.g. 100,400",
    )
    args = parser.parse_args()
    if not args.workdir and not args.mcts:
        parser.error("--workdir or --mcts is required, e.g. --workdir=runs/mine")
    if args.simulations is not None and not args.workdir:
        parser.error("--simulations is for --workdir")
    positions = load_positions()
    found = provenance()
    shares: dict[str, np.ndarray] = {}
    if args.workdir:
        try:
            shares, known = _judge_run(args.workdir, positions, args.simulations)
        except errors.Ending as error:
            parser.error(str(error))
        found |= known
    shares |= {f"mcts_{count}": judge_mcts(count, positions) for count in args.mcts}
    shares["uniform"] = uniform_shares(positions)
    scores = {name: summary(x) for name, x in shares.items()}
    command = " ".join(["python benchmarks/connect_four.py", *sys.argv[1:]])
    print(json.dumps({"positions": len(positions.moves), **scores, "command": command, **found}))


if __name__ == "__main__":
    main()
