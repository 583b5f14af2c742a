"""Gumbel MuZero on MinAtar (Young and Tian 2019) as pgx has it; two CPU cores.

  python experiments/train.py --config=configs/minatar.py:breakout

Games: asterix, breakout, freeway, seaquest, space_invaders; 10x10 boards, sticky actions 0.1.
Training games end by their rules; those of an evaluation are cut at `evaluation.max_steps`.
Breakout, seed 0: 10.1 (100 games, 95 % interval 9.5 to 10.8) after 2,000,000 steps in 13 minutes
with other runs beside, 7.7 after 1,000,000. The other games have not been trained.
"""

from ml_collections import ConfigDict, config_dict

from muzero_jax.config import base


def get_config(game: str = "breakout") -> ConfigDict:
    """The config for one game, e.g. `configs/minatar.py:asterix`."""
    config = base.get_config()
    config.total_env_steps = 2_000_000
    config.env.update(
        suite="minatar", game=game, num_envs=64, max_steps=config_dict.placeholder(int)
    )
    config.codec.value.update(num_bins=41, low=-2.0, high=8.0, transform="muzero")
    if game == "seaquest":  # Up to 10 for divers that are brought up.
        config.codec.reward.update(num_bins=12, high=10.0)
    base.simulate(config, 8)
    config.search.max_num_considered_actions = 6
    config.replay.update(rows_per_env=2_000, min_rows=2_048)
    config.evaluation.update(
        interval_env_steps=100_000, episodes=100, num_envs=100, max_steps=2_000
    )
    config.checkpoint.update(resume_interval_env_steps=100_000, params_interval_env_steps=100_000)
    config.logging.interval_env_steps = 10_000
    return config
