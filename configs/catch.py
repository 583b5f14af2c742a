"""Gumbel MuZero on Catch, everything on the device; two CPU cores.

  python experiments/train.py --config=configs/catch.py
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The config."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 100_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(suite="jax", task="catch", num_envs=32, num_groups=1, rows=10, columns=5)
    config.network = dict(
        kind="mlp", history_steps=1, width=64, num_layers=1, dtype="float32"
    )
    config.codec = dict(
        value=dict(num_bins=21, low=-1.0, high=1.0, transform="identity"),
        reward=dict(num_bins=3, low=-1.0, high=1.0, transform="identity"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=8,
        max_num_considered_actions=3,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=0.01,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=1.0, random_move=0.0
    )
    config.update(_learning())
    config.loop = dict(steps_per_iteration=8, probe_interval_iterations=50)
    config.evaluation = dict(interval_env_steps=10_000, episodes=64, num_envs=64, stop_at=1.0)
    config.checkpoint = dict(
        resume_interval_env_steps=25_000,
        params_interval_env_steps=25_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=2_000, tensorboard=False)
    return config


def _learning() -> ConfigDict:
    """Everything between stored rows and new parameters."""
    config = ConfigDict()
    config.replay = dict(
        rows_per_env=1_000,
        min_rows=1_024,
        rows_per_update=32,
        batch_size=128,
        priority_exponent=0.0,
        priority_floor=0.01,
        importance_exponent=0.0,
    )
    config.targets = dict(
        unroll_steps=5,
        bootstrap_steps=9,  # A whole episode: nothing but the result is worth anything.
        discount=1.0,
        clip_rewards=False,
        value_source="search",
        target_interval_updates=200,
        shorten_every_updates=config_dict.placeholder(int),
    )
    config.reanalyse = dict(
        fraction=0.0,
        fresh_values=True,
        num_simulations=8,
        noise_scale=1.0,
        target_params=False,
    )
    config.loss = dict(value_weight=0.25, reward_weight=1.0, policy_weight=1.0)
    config.optimizer = dict(
        learning_rate=1e-3,
        warmup_updates=50,
        decay="cosine",
        decay_updates=config_dict.placeholder(int),
        final_fraction=0.1,
        weight_decay=1e-4,
        max_grad_norm=5.0,
        momentum=config_dict.placeholder(float),
    )
    return config
