"""Gumbel MuZero on Procgen (Cobbe et al. 2020), 25M steps on 200 easy levels; for one GPU.

  python experiments/train.py --config=configs/procgen.py:coinrun

Trained on 200 levels, scored on all levels: `env.num_levels` belongs to training alone. Frames are
64x64 RGB, one frame of history, rewards raw. envpool needs the libraries of Qt 5 for these games
(Debian: libqt5gui5). Not trained in full by us yet: what is tested is one
update, the budget, and a short run.
"""

from ml_collections import ConfigDict, config_dict


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/procgen.py:coinrun`."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 25_000_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(
        suite="procgen",
        game=game or "coinrun",
        num_envs=64,
        num_groups=2,
        num_threads=0,
        distribution="easy",
        num_levels=200,
        start_level=0,
    )
    config.network = dict(
        kind="conv",
        history_steps=1,
        stages=((32, 3, 2, 1), ("residual", 64, 2, 1), ("pool", 3, 2, 0)),
        channels=config_dict.placeholder(int),
        representation_blocks=1,
        dynamics_blocks=1,
        prediction_blocks=1,
        head_planes=16,
        head_width=64,
        action_planes=False,
        history_rewards=False,
        action_encoding="constant",
        dtype="bfloat16",
    )
    config.codec = dict(
        value=dict(num_bins=101, low=-10.0, high=10.0, transform="muzero"),
        reward=dict(num_bins=41, low=-4.0, high=4.0, transform="muzero"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=16,
        max_num_considered_actions=8,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=0.01,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=1.0, random_move=0.0
    )
    config.update(_learning())
    config.update(_cadences())
    return config


def _learning() -> ConfigDict:
    """Everything between stored rows and new parameters."""
    config = ConfigDict()
    config.replay = dict(
        rows_per_env=16_000,
        min_rows=6_400,
        rows_per_update=64,
        batch_size=256,
        priority_exponent=0.6,
        priority_floor=0.01,
        importance_exponent=0.4,
    )
    config.targets = dict(
        unroll_steps=5,
        bootstrap_steps=5,
        discount=0.997,
        clip_rewards=False,
        value_source="search",
        target_interval_updates=200,
        shorten_every_updates=config_dict.placeholder(int),
    )
    config.reanalyse = dict(
        fraction=0.0,
        fresh_values=True,
        num_simulations=16,
        noise_scale=1.0,
        target_params=False,
    )
    config.loss = dict(
        value_weight=0.25, reward_weight=1.0, policy_weight=1.0, random_shift_pixels=0
    )
    config.optimizer = dict(
        learning_rate=7e-4,
        warmup_updates=1_000,
        decay="cosine",
        decay_updates=390_000,
        final_fraction=0.1,
        weight_decay=1e-4,
        max_grad_norm=5.0,
        momentum=config_dict.placeholder(float),
    )
    return config


def _cadences() -> ConfigDict:
    """How much at a time, and when to evaluate, save and log."""
    config = ConfigDict()
    config.loop = dict(steps_per_iteration=20, probe_interval_iterations=50)
    config.evaluation = dict(
        interval_env_steps=500_000,
        episodes=64,
        num_envs=64,
        num_levels=0,
        stop_at=config_dict.placeholder(float),
    )
    config.checkpoint = dict(
        resume_interval_env_steps=500_000,
        params_interval_env_steps=100_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=20_000, tensorboard=False)
    return config
