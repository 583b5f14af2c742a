"""Atari in 100,000 agent steps (400,000 frames), Gumbel MuZero; for one GPU.

  python experiments/atari.py --config=configs/atari_100k.py:Pong

The network of the 100k-steps literature: 64 channels at 6x6, one residual block each in
representation, dynamics and prediction (Ye et al. 2021, appendix A). Four 96x96 RGB frames, one
update of 256 positions per agent step, random shifts of four pixels, life loss as an end in
training, clipped rewards, a discount of 0.997 per frame. Gumbel search with 16 simulations over
four actions (Wang et al. 2024) instead of 50, AdamW instead of SGD. Policies and values of 99 % of
each batch are searched again, and returns of rows that are older than 30,000 updates are a step
shorter, after 60,000 two. Other than in EfficientZero there is no consistency loss and no value
prefix. Not trained in full by us yet; what is tested is one update, the budget of memory, and a
short run.
"""

from ml_collections import ConfigDict, config_dict


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/atari_100k.py:Pong`."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 100_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(
        suite="atari",
        game=game or "Pong",
        num_envs=4,
        num_groups=2,
        num_threads=0,
        image="rgb96",
        frame_skip=4,
        sticky=0.0,
        noop_max=30,
        full_action_space=False,
        fire_reset=True,
        life_loss_is_end=True,
        max_steps=27_000,
    )
    config.network = dict(
        kind="conv",
        history_steps=4,
        stages=(
            (32, 3, 2, 1),
            ("residual", 64, 2, 1),
            ("pool", 3, 2, 1),
            ("pool", 3, 2, 0),
        ),
        channels=config_dict.placeholder(int),
        representation_blocks=1,
        dynamics_blocks=1,
        prediction_blocks=1,
        head_planes=16,
        head_width=32,
        action_planes=False,
        history_rewards=False,
        action_encoding="constant",
        dtype="bfloat16",
    )
    config.codec = dict(
        value=dict(num_bins=601, low=-300.0, high=300.0, transform="muzero"),
        reward=dict(num_bins=601, low=-300.0, high=300.0, transform="muzero"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=16,
        max_num_considered_actions=4,
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
        rows_per_env=26_000,
        min_rows=2_000,
        rows_per_update=1,
        batch_size=256,
        priority_exponent=0.6,
        priority_floor=0.01,
        importance_exponent=0.4,
    )
    config.targets = dict(
        unroll_steps=5,
        bootstrap_steps=5,
        discount=0.988053892081,
        clip_rewards=True,
        value_source="search",
        target_interval_updates=200,
        shorten_every_updates=30_000,
    )
    config.reanalyse = dict(
        fraction=0.99,
        fresh_values=True,
        num_simulations=16,
        noise_scale=1.0,
        target_params=False,
    )
    config.loss = dict(
        value_weight=0.25, reward_weight=1.0, policy_weight=1.0, random_shift_pixels=4
    )
    config.optimizer = dict(
        learning_rate=7e-4,
        warmup_updates=1_000,
        decay="cosine",
        decay_updates=100_000,
        final_fraction=0.1,
        weight_decay=1e-4,
        max_grad_norm=5.0,
        momentum=config_dict.placeholder(float),
    )
    return config


def _cadences() -> ConfigDict:
    """How much at a time, and when to evaluate, save and log."""
    config = ConfigDict()
    config.loop = dict(steps_per_iteration=50, probe_interval_iterations=50)
    config.evaluation = dict(
        interval_env_steps=25_000,
        episodes=32,
        num_envs=32,
        max_steps=27_000,
        stop_at=config_dict.placeholder(float),
    )
    config.checkpoint = dict(
        resume_interval_env_steps=10_000,
        params_interval_env_steps=10_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=1_000, tensorboard=False)
    return config
