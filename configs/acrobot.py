"""Gumbel MuZero on Acrobot-v1; two CPU cores.

  python experiments/train.py --config=configs/acrobot.py

Solved means a mean return of -100 over 20 unseen episodes. Every step costs 1 until the tip is high
enough; random play hardly ever gets there in the 500 steps. What made it learn is long returns
(50 steps: a rare success teaches its whole swing) that bootstrap from a network and not from stored
search values, which stay near 0 in old rows while the true values fall to -100. With 10 steps four
runs of 75k to 400k steps stayed at -500. Seeds 0, 1, 2 on two CPU cores: -84, -80 and -86 after 5,
5 and 8 minutes (600k, 600k and 1M steps); see benchmarks/results/.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The config."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 1_000_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(
        suite="classic",
        task="Acrobot-v1",
        num_envs=32,
        num_groups=2,
        num_threads=1,
        max_steps=500,
    )
    config.network = dict(
        kind="mlp", history_steps=1, width=128, num_layers=1, dtype="float32"
    )
    config.codec = dict(
        value=dict(num_bins=41, low=-10.0, high=1.0, transform="muzero"),
        reward=dict(num_bins=2, low=-1.0, high=0.0, transform="identity"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=16,
        max_num_considered_actions=3,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=1e-8,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=1.0, random_move=0.0
    )
    config.update(_learning())
    config.loop = dict(steps_per_iteration=8, probe_interval_iterations=50)
    config.evaluation = dict(
        interval_env_steps=50_000, episodes=20, num_envs=20, max_steps=500, stop_at=-85.0
    )
    config.checkpoint = dict(
        resume_interval_env_steps=50_000,
        params_interval_env_steps=50_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=5_000, tensorboard=False)
    return config


def _learning() -> ConfigDict:
    """Everything between stored rows and new parameters."""
    config = ConfigDict()
    config.replay = dict(
        rows_per_env=5_000,
        min_rows=4_096,
        rows_per_update=32,
        batch_size=128,
        priority_exponent=0.6,
        priority_floor=0.01,
        importance_exponent=0.4,
    )
    config.targets = dict(
        unroll_steps=5,
        bootstrap_steps=50,
        discount=0.99,
        clip_rewards=False,
        value_source="target_network",
        target_interval_updates=200,
        shorten_every_updates=config_dict.placeholder(int),
    )
    config.reanalyse = dict(
        fraction=0.0,
        fresh_values=False,
        num_simulations=16,
        noise_scale=1.0,
        target_params=False,
    )
    config.loss = dict(value_weight=0.25, reward_weight=1.0, policy_weight=1.0)
    config.optimizer = dict(
        learning_rate=1e-3,
        warmup_updates=50,
        decay="cosine",
        decay_updates=30_000,
        final_fraction=0.1,
        weight_decay=1e-4,
        max_grad_norm=5.0,
        momentum=config_dict.placeholder(float),
    )
    return config
