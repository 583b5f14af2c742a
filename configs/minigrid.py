"""Gumbel MuZero on MiniGrid, from its image and its compass; two CPU cores.

  python experiments/train.py --config=configs/minigrid.py:DoorKey-5x5

The agent sees the 7x7 cells in front of it, three numbers each, and which way it looks. The mission
is left out: in these tasks it never changes. Reaching the goal after t of T steps pays 1 - 0.9 t/T.
"""

from ml_collections import ConfigDict

from muzero_jax.config import base


def get_config(name: str = "Empty-5x5") -> ConfigDict:
    """The config for one task, e.g. `configs/minigrid.py:DoorKey-5x5`."""
    config = base.get_config()
    config.env.update(
        suite="envpool",
        task=f"MiniGrid-{name}-v0",
        num_groups=2,
        num_threads=1,
        max_steps=100,
        leave_out=("mission",),
    )
    config.network = base.conv_network(
        history_steps=2, stages=((16, 3, 2, 0),), channels=16, action_planes=True
    )
    base.against_collapse(config)
    config.search.max_num_considered_actions = 7
    config.replay.update(rows_per_update=32, batch_size=64)
    config.targets.discount = 0.97
    config.optimizer.decay_updates = 30_000
    config.evaluation.update(interval_env_steps=10_000, episodes=32, num_envs=32, max_steps=100)
    return config
