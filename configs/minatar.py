"""Gumbel MuZero on MinAtar (Young and Tian 2019) as pgx has it; two CPU cores.

  python experiments/train.py --config=configs/minatar.py:breakout

Games: asterix, breakout, freeway, seaquest, space_invaders; 10x10 boards, sticky actions 0.1.
Training games end by their rules; those of an evaluation are cut at `evaluation.max_steps`.
Breakout, seed 0: 10.1 (100 games, 95 % interval 9.5 to 10.8) after 2,000,000 steps in 13 minutes
with other runs beside, 7.7 after 1,000,000. The other games have not been trained.
"""

from ml_collections import ConfigDict, config_dict


def get_config(game: str = "breakout") -> ConfigDict:
    """The config for one game, e.g. `configs/minatar.py:asterix`."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 2_000_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(
        suite="minatar",
        game=game,
        num_envs=64,
        num_groups=1,
        max_steps=config_dict.placeholder(int),
    )
    config.network = dict(
        kind="mlp", history_steps=1, width=128, num_layers=1, dtype="float32"
    )
    config.codec = dict(
        value=dict(num_bins=41, low=-2.0, high=8.0, transform="muzero"),
        reward=dict(num_bins=3, low=-1.0, high=1.0, transform="identity"),
    )
    if game == "seaquest":  # Up to 10 for divers that are brought up.
        config.codec.reward.update(num_bins=12, high=10.0)
    config.search = dict(
        kind="gumbel",
        num_simulations=8,
        max_num_considered_actions=6,
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
    config.evaluation = dict(
        interval_env_steps=100_000,
        episodes=100,
        num_envs=100,
        max_steps=2_000,
        stop_at=config_dict.placeholder(float),
    )
    config.checkpoint = dict(
        resume_interval_env_steps=100_000,
        params_interval_env_steps=100_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=10_000, tensorboard=False)
    return config


def _learning() -> ConfigDict:
    """Everything between stored rows and new parameters."""
    config = ConfigDict()
    config.replay = dict(
        rows_per_env=2_000,
        min_rows=2_048,
        rows_per_update=32,
        batch_size=128,
        priority_exponent=0.6,
        priority_floor=0.01,
        importance_exponent=0.4,
    )
    config.targets = dict(
        unroll_steps=5,
        bootstrap_steps=10,
        discount=0.99,
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
