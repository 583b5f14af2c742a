"""Sampled MuZero on ten crossings whose lights are switched all at once; two CPU cores.

  python experiments/train.py --config=configs/traffic.py

The environment is a JAX program (muzero_jax/envs/traffic.py) with 1,024 joint actions; the run is
one compiled program. The network has the same weights for every crossing and looks at the two
beside it. The policy has two logits for each light; in each node of a search 32 joint actions are
drawn from it, and at the root all of them are tried. Seed 0 after the 400,000 steps (21 minutes,
with tests beside): -55.0 [-55.6, -54.4]; the best rule of its controllers, longest queue first,
reaches -56.8 [-57.5, -56.0].
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config() -> ConfigDict:
    """The config."""
    config = base.get_config()
    config.total_env_steps = 400_000
    config.env.update(suite="jax", task="traffic", crossings=10, max_steps=60)
    config.network.update(kind="ring", width=32)
    config.codec.value.update(num_bins=61, low=-60.0, high=0.0)
    config.codec.reward.update(num_bins=41, low=-10.0, high=0.0)
    config.codec.policy = "factored"
    base.try_drawn_actions(config, 32)
    config.replay.update(rows_per_env=1_000, rows_per_update=16)
    config.targets.update(unroll_steps=3, bootstrap_steps=5, discount=0.9)
    config.loss.value_weight = 1.0
    config.optimizer.decay_updates = 25_000
    config.evaluation.update(interval_env_steps=20_000, episodes=64, num_envs=64, max_steps=60)
    return config
