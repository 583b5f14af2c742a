"""Gumbel MuZero on Atari, sized for two CPU cores.

  python experiments/atari.py --config=configs/atari.py:RoadRunner --workdir=runs/road_runner

Frames are 84x84 gray, one act per four emulator frames, four frames of history, 140k parameters.
Differences from MuZero's published Atari setting: Gumbel search with 8 simulations instead of 50,
of values that know their error (`search.value_error_scale`); 91 and 11 bins of support; n = 5 steps
instead of 10; a replay of 48,000 rows, whose priorities are those of a whole unroll; batches of 64,
AdamW, a small network; 3 % random moves while acting. Evaluations make 5 % random moves (Mnih et
al. 2015): after a lost life some games wait for a button that a player without chance may never
press. Chosen on Breakout and RoadRunner with the seeds 100 and 101; docs/atari.md says why and what
it reaches.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(game: str | None = None) -> ConfigDict:
    """The config for one game, e.g. `configs/atari.py:Pong`."""
    config = base.get_config()
    config.total_env_steps = 2_000_000
    config.env = base.atari_env(game or "RoadRunner", image="gray84")
    config.network = base.conv_network(
        history_steps=4, stages=((16, 8, 4, 0), (32, 4, 2, 0), (32, 3, 2, 0)), channels=32
    )
    # Up to 346: a clipped reward in every step is worth 1 / (1 - 0.997) = 333. A bin is 0.4.
    config.codec.value.update(num_bins=91, low=-18.0, high=18.0, transform="muzero")
    config.codec.reward.num_bins = 11
    base.simulate(config, 8)
    config.search.update(max_num_considered_actions=4, value_error_scale=1.2)
    config.explore.random_move = 0.03
    config.replay.update(rows_per_env=1_500, min_rows=6_400, rows_per_update=64, batch_size=64)
    config.targets.update(bootstrap_steps=5, discount=0.997, clip_rewards=True)
    config.loss.update(value_weight=1.0, priority_unroll=0.9)
    config.optimizer.update(warmup_updates=200, decay_updates=12_000)
    config.loop.steps_per_iteration = 20
    config.evaluation.update(
        interval_env_steps=200_000, episodes=16, num_envs=16, max_steps=3_000, random_move=0.05
    )
    config.checkpoint.update(resume_interval_env_steps=100_000, params_interval_env_steps=50_000)
    config.logging.interval_env_steps = 10_000
    return config
