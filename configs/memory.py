"""Gumbel MuZero on the task of memory alone, everything on the device; two CPU cores.

  python experiments/train.py --config=configs/memory.py

A cue, `env.length` blank rows, then the question. `network.history_steps` is as many rows as an
episode has, so that the representation sees the cue when it is asked; with fewer the mean score
stays at 0.
"""

from ml_collections import ConfigDict, config_dict


def get_config(length: str = "4") -> ConfigDict:
    """The config for so many blank rows, e.g. `configs/memory.py:8`."""
    if not length.isdecimal():
        raise ValueError(f"configs/memory.py takes a number of blank rows, got {length!r}")
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 200_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(suite="jax", task="memory", num_envs=32, num_groups=1, length=int(length))
    config.network = dict(
        kind="gru", history_steps=int(length) + 2, width=64, num_layers=1, dtype="float32"
    )
    config.codec = dict(
        value=dict(num_bins=21, low=-1.0, high=1.0, transform="identity"),
        reward=dict(num_bins=3, low=-1.0, high=1.0, transform="identity"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=4,
        max_num_considered_actions=2,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=0.01,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=1.0, random_move=0.0
    )
    config.update(_learning(int(length) + 2))
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


def _learning(steps: int) -> ConfigDict:
    """Everything between stored rows and new parameters, for episodes of so many steps."""
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
        unroll_steps=2,
        bootstrap_steps=steps,
        discount=1.0,
        clip_rewards=False,
        value_source="search",
        target_interval_updates=200,
        shorten_every_updates=config_dict.placeholder(int),
    )
    config.reanalyse = dict(
        fraction=0.0,
        fresh_values=True,
        num_simulations=4,
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
