"""MuZero on Atari with the published constants (Schrittwieser et al. 2020).

  python experiments/atari.py --config=configs/atari_paper.py:Pong            (no single device)
  python experiments/atari.py --config=configs/atari_paper.py:Pong,reanalyze  (no single device)
  python experiments/atari.py --config=configs/atari_paper.py:Pong,one_gpu    (one GPU of 80 GB)

Search, network, targets, replay's exponents and the optimizer are the paper's. Differences:
- LayerNorm where the paper has BatchNorm, so that the network is a pure function.
- One process in lock step: 512 environments act and then learning takes its updates, at a fixed
  5,120 rows per update (the paper's 20 billion frames in a million updates are about 5,000); there
  350 actors ran freely, each with its own game.
- Experience of 8M rows, 212 GiB as raw frames; the paper's window is 125,000 sequences of 200 (25M
  rows). With 80 GiB for the activations of a batch of 1,024 that is 290 GiB: several devices are
  needed (docs/scaling.md); on one the budget refuses it. `one_gpu` is derived from it.
- Priorities have a floor of 0.01; the convolution that an action enters by has a skip.
- Weight decay leaves biases and norms alone.
The variant `reanalyze` (appendix H): 200M frames; the policies of 80 % of each batch are searched
again, without noise; returns of 5 steps bootstrap from the target network; each row is drawn twice.
The variant `one_gpu`: batches of 128 and 300,000 rows, one update per 128 rows (each row is drawn
about once), bfloat16, 64 environments, 50M rows (200M frames). None was trained in full by us
yet: what is tested is one update, the budget, and a short run.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config for `GAME`, `GAME,reanalyze` or `GAME,one_gpu`."""
    game, _, variant = (arg or "Pong").partition(",")
    if variant not in ("", "reanalyze", "one_gpu"):
        raise ValueError(
            "configs/atari_paper.py takes ':GAME', ':GAME,reanalyze' or ':GAME,one_gpu',"
            f" got {arg!r}"
        )
    config = _published(game)
    if variant == "reanalyze":
        config.total_env_steps = 50_000_000
        config.replay.rows_per_update = 512
        config.targets.update(bootstrap_steps=5, value_source="target_network")
        config.reanalyse.update(fraction=0.8, fresh_values=False)
        # The same schedules over the 97,000 updates of the run.
        config.explore.halve_temperature_at_updates = (48_500, 72_750)
        config.optimizer.decay_updates = 34_000
    if variant == "one_gpu":
        config.total_env_steps = 50_000_000
        config.env.update(num_envs=64, num_groups=2)
        config.network.dtype = "bfloat16"
        config.replay.update(
            rows_per_env=4_700, min_rows=20_032, rows_per_update=128, batch_size=128
        )
        # The same schedules over the 390,000 updates of the run.
        config.explore.halve_temperature_at_updates = (195_000, 292_500)
        config.optimizer.decay_updates = 136_500
        config.evaluation.num_envs = 16
    return config


def _published(game: str) -> ConfigDict:
    config = base.get_config()
    config.total_env_steps = 5_000_000_000
    config.env = base.atari_env(
        game, num_envs=512, full_action_space=True, fire_reset=False, life_loss_is_end=False
    )
    config.network = base.conv_network(
        history_steps=32,
        # They end with as many channels as the tower has.
        stages=((128, 3, 2, 2), (256, 3, 2, 3), ("pool", 3, 2, 3), ("pool", 3, 2, 0)),
        representation_blocks=16,
        dynamics_blocks=16,
        head_planes=2,
        head_width=256,
        action_planes=True,
        history_rewards=False,
        action_encoding="constant",
    )
    for codec in config.codec.values():
        codec.update(num_bins=601, low=-300.0, high=300.0, transform="muzero")
    base.published_search(config, num_simulations=50)
    config.explore.halve_temperature_at_updates = (500_000, 750_000)
    config.replay.update(
        rows_per_env=16_000,
        min_rows=102_400,
        rows_per_update=5_120,
        batch_size=1_024,
        priority_exponent=1.0,
        importance_exponent=1.0,
    )
    config.targets.update(discount=0.997, target_interval_updates=1_000)
    config.loss.random_shift_pixels = 0
    config.optimizer.update(
        learning_rate=0.05,
        warmup_updates=0,
        decay="exponential",
        decay_updates=350_000,
        max_grad_norm=None,
        momentum=0.9,
    )
    config.loop.steps_per_iteration = 20
    config.evaluation.update(
        interval_env_steps=1_000_000, episodes=32, num_envs=32, max_steps=27_000
    )
    config.checkpoint.update(
        resume_interval_env_steps=1_000_000, params_interval_env_steps=250_000
    )
    config.logging.interval_env_steps = 50_000
    return config
