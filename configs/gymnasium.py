"""Gumbel MuZero on any environment of gymnasium with discrete actions; two CPU cores.

  python experiments/train.py --config=configs/gymnasium.py:MountainCar-v0
  python experiments/train.py --config=configs/gymnasium.py:my_module:MyEnv

The second is a class of your own, whose module lies beside the config or on Python's path. Rewards
and values may have any size: both supports reach from -300 to 300 on the scale of h, that is to
±88,000, and Q-values are rescaled by no less than the network's own error. A preset made for one
task (configs/cartpole.py, configs/lunarlander.py) learns it sooner. More fields of `env`, such as
`config.env.is_slippery`, go to the environment's maker.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(task: str = "CartPole-v1") -> ConfigDict:
    """The config for an id, or "module:class"."""
    config = base.get_config()
    config.env.update(
        suite="gymnasium", task=task, num_envs=16, num_groups=2, max_steps=1000, leave_out=()
    )
    for codec in (config.codec.value, config.codec.reward):
        codec.update(num_bins=601, low=-300.0, high=300.0, transform="muzero")
    base.against_collapse(config)
    config.replay.rows_per_env = 8_000
    config.targets.discount = 0.99
    config.optimizer.decay_updates = 30_000
    config.evaluation.update(interval_env_steps=20_000, episodes=16, num_envs=16, max_steps=1000)
    return config
