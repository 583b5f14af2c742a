"""Gumbel MuZero on Atari, sized for two CPU cores.

  python experiments/atari.py --config=configs/atari.py:RoadRunner --workdir=runs/road_runner

Frames are 84x84 gray, one act per four emulator frames, four frames of history, 140k parameters.
Differences from MuZero's published Atari setting: Gumbel search with 8 simulations instead of 50,
of values that know their error (`search.value_error_scale`); 91 and 11 bins of support; n = 20
steps instead of 10 and K = 3 instead of 5; a replay of 48,000 rows, whose priorities are those of a
whole unroll; batches of 64, AdamW, a small network; little noise and 3 % random moves while acting.
Evaluations make 5 % random moves (Mnih et al. 2015): after a lost life some games wait for a button
that a player without chance may never press. Chosen on Breakout, RoadRunner, SpaceInvaders,
MsPacman and Pong with the seed 100; docs/atari.md says why and what it reaches.
"""

from ml_collections import ConfigDict, config_dict


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/atari.py:Pong`."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 2_000_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(
        suite="atari",
        game=game or "RoadRunner",
        num_envs=32,
        num_groups=2,
        num_threads=0,
        image="gray84",
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
        stages=((16, 8, 4, 0), (32, 4, 2, 0), (32, 3, 2, 0)),
        channels=32,
        representation_blocks=1,
        dynamics_blocks=1,
        prediction_blocks=0,
        head_planes=8,
        head_width=64,
        action_planes=False,
        dtype="float32",
    )
    config.codec = dict(
        # Up to 346: a clipped reward in every step is worth 1 / (1 - 0.997) = 333. A bin is 0.4.
        value=dict(num_bins=91, low=-18.0, high=18.0, transform="muzero"),
        reward=dict(num_bins=11, low=-1.0, high=1.0, transform="identity"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=8,
        max_num_considered_actions=4,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=0.01,
        value_error_scale=1.2,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=0.3, random_move=0.03
    )
    config.update(_learning())
    config.update(_cadences())
    return config


def _learning() -> ConfigDict:
    """Everything between stored rows and new parameters."""
    config = ConfigDict()
    config.replay = dict(
        rows_per_env=1_500,
        min_rows=6_400,
        rows_per_update=64,
        batch_size=64,
        priority_exponent=0.6,
        priority_floor=0.01,
        importance_exponent=0.4,
    )
    config.targets = dict(
        unroll_steps=3,
        bootstrap_steps=20,
        discount=0.997,
        clip_rewards=True,
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
    config.loss = dict(
        value_weight=1.0, reward_weight=1.0, policy_weight=1.0, priority_unroll=0.9
    )
    config.optimizer = dict(
        learning_rate=1e-3,
        warmup_updates=200,
        decay="cosine",
        decay_updates=12_000,
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
        interval_env_steps=200_000,
        episodes=16,
        num_envs=16,
        max_steps=3_000,
        random_move=0.05,
        stop_at=config_dict.placeholder(float),
    )
    config.checkpoint = dict(
        resume_interval_env_steps=100_000,
        params_interval_env_steps=50_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=10_000, tensorboard=False)
    return config
