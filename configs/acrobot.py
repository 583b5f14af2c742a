"""Gumbel MuZero on Acrobot-v1; two CPU cores.

  python experiments/train.py --config=configs/acrobot.py

Solved means a mean return of -100 over 20 unseen episodes. Every step costs 1 until the tip is high
enough; random play hardly ever gets there in the 500 steps. What made it learn is long returns
(50 steps: a rare success teaches its whole swing) that bootstrap from a network and not from stored
search values, which stay near 0 in old rows while the true values fall to -100. With 10 steps four
runs of 75k to 400k steps stayed at -500. Seeds 0, 1, 2 on two CPU cores: -84, -80 and -86 after 5,
5 and 8 minutes (600k, 600k and 1M steps); see benchmarks/results/.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config() -> ConfigDict:
    """The config."""
    config = base.get_config()
    config.env.update(
        suite="classic", task="Acrobot-v1", num_groups=2, num_threads=1, max_steps=500
    )
    config.codec.value.update(num_bins=41, low=-10.0, transform="muzero")
    config.codec.reward.update(num_bins=2, high=0.0)
    config.search.update(max_num_considered_actions=3, min_value_range=1e-8)
    config.replay.update(rows_per_env=5_000, min_rows=4_096)
    config.targets.update(bootstrap_steps=50, value_source="target_network")
    config.reanalyse.fresh_values = False
    config.optimizer.decay_updates = 30_000
    config.evaluation.update(episodes=20, num_envs=20, max_steps=500, stop_at=-85.0)
    config.checkpoint.update(resume_interval_env_steps=50_000, params_interval_env_steps=50_000)
    return config
