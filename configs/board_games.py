"""Gumbel MuZero on the board games of pgx, by self-play.

  python experiments/train.py --config=configs/board_games.py:tic_tac_toe
  python experiments/train.py --config=configs/board_games.py:connect_four
  python experiments/train.py --config=configs/board_games.py:chess,sampled

Any two-player game of pgx can be named. With ",sampled" each node of a search has a few actions
that are drawn from the policy, in place of all (Sampled MuZero, see docs/actions.md): a search of
chess then takes a fraction of the time and memory, and a row of the replay holds 256 bytes of
policy in place of 18,688.
The sizes of tic-tac-toe and Connect Four are for two CPU
cores, those of the others for one GPU. With probability `explore.random_move` a move is any legal
one, so that the agent meets positions that neither player would choose; no return runs through it.
For the same purpose games of Connect Four begin after up to 24 random moves (`env.opening_plies`).
Tic-tac-toe, seeds 0, 1, 2: after the 1,000,000 steps (4 to 10 minutes, with other runs beside) no
reply of the opponent beats the search, nor the policy head alone. With 0.2 in place of 0.4, and a
smaller `min_value_range`, a few still did after 750k. Connect Four, seed 0, 30 minutes on two
devices (JAX_NUM_CPU_DEVICES=2): 91 % of the games against plain MCTS with 100 simulations won, 79 %
with 400; 88 % optimal moves (README). The others have not been trained.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from muzero_jax.config import base


class _Size(NamedTuple):
    """What differs between games.

    Attributes:
      network: the group `network`.
      simulations: of one search.
      samples: actions that are drawn in each node of the variant "sampled".
      envs: games at a time.
      unroll: steps of a training unroll.
      bootstrap: steps of a return, unless a random move or the end comes before.
      batch: of one update.
      rows: of one environment in the replay.
      rows_per_update: env steps for each update.
      total: env steps of a run.
      random_move: probability of a uniform legal move.
      opening_plies: the most random moves that a game begins with.
      learning_rate: of the optimizer, at its peak.
    """

    network: dict
    simulations: int = 32
    samples: int = 16
    envs: int = 128
    unroll: int = 5
    bootstrap: int = 10
    batch: int = 256
    rows: int = 512
    rows_per_update: int = 128
    total: int = 20_000_000
    random_move: float = 0.4
    opening_plies: int = 0
    learning_rate: float = 1e-3


def _mlp(width: int, num_layers: int = 1) -> dict:
    return dict(
        kind="mlp", history_steps=1, width=width, num_layers=num_layers, dtype="float32"
    )


def _conv(channels: int, blocks: int, actions: str, **fields) -> dict:
    """A tower on the board; `actions`: how it sees them, `network.action_encoding`."""
    return base.conv_network(
        channels=channels,
        representation_blocks=blocks,
        dynamics_blocks=blocks,
        action_encoding=actions,
        **{"dtype": "bfloat16"} | fields,
    )


_SIZES = {
    "tic_tac_toe": _Size(
        _mlp(128),
        simulations=25,
        samples=4,
        envs=64,
        bootstrap=3,
        rows=1_024,
        rows_per_update=64,
        total=1_000_000,
    ),
    "connect_four": _Size(
        # Many small updates teach its model sooner what wins than few large ones.
        _conv(48, 1, "column", dtype="float32", head_planes=32),
        simulations=16,
        samples=4,
        envs=128,
        unroll=3,
        batch=64,
        rows=1_024,
        rows_per_update=64,
        total=1_000_000,
        random_move=0.1,
        opening_plies=24,
        learning_rate=3e-3,
    ),
    "hex": _Size(_conv(64, 2, "spatial")),
    "othello": _Size(_conv(64, 2, "spatial")),
    "gardner_chess": _Size(_conv(64, 2, "chess")),
    "animal_shogi": _Size(_conv(64, 2, "shogi")),
    "go_9x9": _Size(_conv(64, 3, "spatial")),
    "go_19x19": _Size(_conv(128, 6, "spatial"), samples=32, rows=256),
    "chess": _Size(_conv(128, 6, "chess"), samples=32, rows=256),
    "shogi": _Size(_conv(128, 6, "shogi"), samples=32, rows=256),
}
_OTHER = _Size(_mlp(256, num_layers=2))


def get_config(game: str = "tic_tac_toe") -> ConfigDict:
    """The config for `GAME` or `GAME,sampled`."""
    game, _, variant = game.partition(",")
    if variant not in ("", "sampled"):
        raise ValueError(
            f"configs/board_games.py takes ':GAME' or ':GAME,sampled', got {variant!r}"
        )
    size = _SIZES.get(game, _OTHER)
    config = base.get_config()
    config.total_env_steps = size.total
    config.env.update(
        suite="board_games",
        game=game,
        num_envs=size.envs,
        opening_plies=size.opening_plies,
    )
    config.network = size.network
    base.simulate(config, size.simulations)
    if variant:
        config.search.num_samples = size.samples
    config.search.min_value_range = 0.2  # So that noise does not rank moves of equal worth.
    config.explore.random_move = size.random_move
    config.replay.update(
        rows_per_env=size.rows,
        min_rows=size.envs * max(32, size.bootstrap + 20),
        rows_per_update=size.rows_per_update,
        batch_size=size.batch,
    )
    base.without_priorities(config)
    config.targets.update(
        unroll_steps=size.unroll, bootstrap_steps=size.bootstrap, discount=1.0
    )
    config.loss.value_weight = 1.0
    config.optimizer.update(
        learning_rate=size.learning_rate,
        decay_updates=size.total // size.rows_per_update,
        final_fraction=0.05,
    )
    config.evaluation.update(interval_env_steps=size.total // 10, opponent="random")
    config.checkpoint.update(
        resume_interval_env_steps=size.total // 10,
        params_interval_env_steps=size.total // 20,
        params_to_keep=20,
    )
    config.logging.interval_env_steps = size.total // 200
    return config
