"""What the files of `configs/` share: the fields of a config with their usual values.

A preset begins with `get_config()` and says what differs from it. Fields are described, with units
and ranges, in docs/config.md.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Gumbel MuZero with a small MLP on two CPU cores; `env` needs a suite and a task or game."""
    config = ConfigDict()
    config.seed = 0
    config.total_env_steps = 1_000_000
    config.max_wall_minutes = config_dict.placeholder(float)
    config.env = dict(num_envs=32, num_groups=1)
    config.network = dict(kind="mlp", history_steps=1, width=128, num_layers=1, dtype="float32")
    config.codec = dict(
        value=dict(num_bins=21, low=-1.0, high=1.0, transform="identity"),
        reward=dict(num_bins=3, low=-1.0, high=1.0, transform="identity"),
    )
    config.search = dict(
        kind="gumbel",
        num_simulations=16,
        max_num_considered_actions=16,
        max_depth=config_dict.placeholder(int),
        value_scale=0.1,
        maxvisit_init=50.0,
        min_value_range=0.01,
    )
    config.explore = dict(
        temperature=0.0, halve_temperature_at_updates=(), noise_scale=1.0, random_move=0.0
    )
    config.replay = dict(
        rows_per_env=4_000,
        min_rows=1_024,
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
        num_simulations=16,
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
    config.loop = dict(steps_per_iteration=8, probe_interval_iterations=50)
    config.evaluation = dict(
        interval_env_steps=50_000,
        episodes=64,
        num_envs=64,
        stop_at=config_dict.placeholder(float),
    )
    config.checkpoint = dict(
        resume_interval_env_steps=25_000,
        params_interval_env_steps=25_000,
        max_to_keep=2,
        params_to_keep=2,
    )
    config.logging = dict(interval_env_steps=5_000, tensorboard=False, tracker="none")
    return config


def simulate(config: ConfigDict, num_simulations: int) -> None:
    """As many simulations while acting as in searches of stored rows."""
    config.search.num_simulations = num_simulations
    config.reanalyse.num_simulations = num_simulations


def try_drawn_actions(config: ConfigDict, number: int) -> None:
    """As many drawn actions in each node as simulations: at the root each of them is tried once."""
    config.search.update(num_samples=number, max_num_considered_actions=number)
    simulate(config, number)


def against_collapse(config: ConfigDict) -> None:
    """What keeps a policy alive before rewards have taught it anything (docs/atari.md), for a task
    whose values may have any size."""
    config.search.value_error_scale = 1.0
    config.explore.random_move = 0.03
    config.loss.priority_unroll = 0.5


def without_priorities(config: ConfigDict) -> None:
    """All stored rows are drawn alike."""
    config.replay.update(priority_exponent=0.0, importance_exponent=0.0)


def published_search(config: ConfigDict, num_simulations: int) -> None:
    """The search of MuZero with its constants (appendix B) in place of Gumbel search.

    Actions are sampled from the visits, under Dirichlet noise.
    """
    config.search = dict(
        kind="muzero",
        num_simulations=num_simulations,
        max_depth=config_dict.placeholder(int),
        pb_c_init=1.25,
        pb_c_base=19_652.0,
        dirichlet_alpha=0.25,
        min_value_range=1e-8,
    )
    config.explore.update(temperature=1.0, noise_scale=0.25)
    config.reanalyse.update(num_simulations=num_simulations, noise_scale=0.0)


def conv_network(**fields: Any) -> dict[str, Any]:
    """The group `network` of a convolutional network: one residual block in the representation and
    one in the dynamics, none in the prediction."""
    return dict(
        kind="conv",
        history_steps=1,
        stages=(),
        channels=config_dict.placeholder(int),
        representation_blocks=1,
        dynamics_blocks=1,
        prediction_blocks=0,
        head_planes=8,
        head_width=64,
        action_planes=False,
        dtype="float32",
    ) | fields


def atari_env(game: str, **fields: Any) -> dict[str, Any]:
    """The group `env` of an Atari game: two groups, an act per four frames, no sticky actions, the
    game's own set of actions, a lost life as an end while training."""
    return dict(
        suite="atari",
        game=game,
        num_envs=32,
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
    ) | fields
