"""Gumbel MuZero on the task of memory alone, everything on the device; two CPU cores.

  python experiments/train.py --config=configs/memory.py

A cue, `env.length` blank rows, then the question. `network.history_steps` is as many rows as an
episode has, so that the representation sees the cue when it is asked; with fewer the mean score
stays at 0.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(length: str = "4") -> ConfigDict:
    """The config for so many blank rows, e.g. `configs/memory.py:8`."""
    if not length.isdecimal():
        raise ValueError(f"configs/memory.py takes a number of blank rows, got {length!r}")
    steps = int(length) + 2  # Of an episode.
    config = base.get_config()
    config.total_env_steps = 200_000
    config.env.update(suite="jax", task="memory", length=int(length))
    config.network.update(kind="gru", history_steps=steps, width=64)
    base.simulate(config, 4)
    config.search.max_num_considered_actions = 2
    config.replay.rows_per_env = 1_000
    base.without_priorities(config)
    config.targets.update(unroll_steps=2, bootstrap_steps=steps, discount=1.0)
    config.evaluation.update(interval_env_steps=10_000, stop_at=1.0)
    config.logging.interval_env_steps = 2_000
    return config
