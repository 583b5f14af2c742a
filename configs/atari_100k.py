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

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/atari_100k.py:Pong`."""
    config = base.get_config()
    config.total_env_steps = 100_000
    config.env = base.atari_env(game or "Pong", num_envs=4)
    config.network = base.conv_network(
        history_steps=4,
        stages=(
            (32, 3, 2, 1),
            ("residual", 64, 2, 1),
            ("pool", 3, 2, 1),
            ("pool", 3, 2, 0),
        ),
        prediction_blocks=1,
        head_planes=16,
        head_width=32,
        history_rewards=False,
        action_encoding="constant",
        dtype="bfloat16",
    )
    for codec in config.codec.values():
        codec.update(num_bins=601, low=-300.0, high=300.0, transform="muzero")
    config.search.max_num_considered_actions = 4
    config.replay.update(
        rows_per_env=26_000, min_rows=2_000, rows_per_update=1, batch_size=256
    )
    config.targets.update(
        bootstrap_steps=5,
        discount=0.988053892081,  # 0.997 per frame.
        clip_rewards=True,
        shorten_every_updates=30_000,
    )
    config.reanalyse.fraction = 0.99
    config.loss.random_shift_pixels = 4
    config.optimizer.update(learning_rate=7e-4, warmup_updates=1_000, decay_updates=100_000)
    config.loop.steps_per_iteration = 50
    config.evaluation.update(
        interval_env_steps=25_000, episodes=32, num_envs=32, max_steps=27_000
    )
    config.checkpoint.update(resume_interval_env_steps=10_000, params_interval_env_steps=10_000)
    config.logging.interval_env_steps = 1_000
    return config
