"""Gumbel MuZero on Catch, everything on the device; two CPU cores.

  python experiments/train.py --config=configs/catch.py
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config() -> ConfigDict:
    """The config."""
    config = base.get_config()
    config.total_env_steps = 100_000
    config.env.update(suite="jax", task="catch", rows=10, columns=5)
    config.network.width = 64
    base.simulate(config, 8)
    config.search.max_num_considered_actions = 3
    config.replay.rows_per_env = 1_000
    base.without_priorities(config)
    # A whole episode: nothing but the result is worth anything.
    config.targets.update(bootstrap_steps=9, discount=1.0)
    config.evaluation.update(interval_env_steps=10_000, stop_at=1.0)
    config.logging.interval_env_steps = 2_000
    return config
