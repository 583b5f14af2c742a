"""Gumbel MuZero on Procgen (Cobbe et al. 2020), 25M steps on 200 easy levels; for one GPU.

  python experiments/train.py --config=configs/procgen.py:coinrun

Trained on 200 levels, scored on all levels: `env.num_levels` belongs to training alone. Frames are
64x64 RGB, one frame of history, rewards raw. envpool needs the libraries of Qt 5 for these games
(Debian: libqt5gui5). Not trained in full by us yet: what is tested is one
update, the budget, and a short run.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/procgen.py:coinrun`."""
    config = base.get_config()
    config.total_env_steps = 25_000_000
    config.env.update(
        suite="procgen",
        game=game or "coinrun",
        num_envs=64,
        num_groups=2,
        num_threads=0,
        distribution="easy",
        num_levels=200,
        start_level=0,
    )
    config.network = base.conv_network(
        stages=((32, 3, 2, 1), ("residual", 64, 2, 1), ("pool", 3, 2, 0)),
        prediction_blocks=1,
        head_planes=16,
        history_rewards=False,
        action_encoding="constant",
        dtype="bfloat16",
    )
    config.codec.value.update(num_bins=101, low=-10.0, high=10.0, transform="muzero")
    config.codec.reward.update(num_bins=41, low=-4.0, high=4.0, transform="muzero")
    config.search.max_num_considered_actions = 8
    config.replay.update(
        rows_per_env=16_000, min_rows=6_400, rows_per_update=64, batch_size=256
    )
    config.targets.update(bootstrap_steps=5, discount=0.997)
    config.loss.random_shift_pixels = 0
    config.optimizer.update(learning_rate=7e-4, warmup_updates=1_000, decay_updates=390_000)
    config.loop.steps_per_iteration = 20
    config.evaluation.update(interval_env_steps=500_000, num_levels=0)
    config.checkpoint.update(resume_interval_env_steps=500_000, params_interval_env_steps=100_000)
    config.logging.interval_env_steps = 20_000
    return config
