"""Sampled MuZero on tasks whose actions are real numbers; two CPU cores.

  python experiments/train.py --config=configs/continuous.py:Pendulum-v1
  python experiments/train.py --config=configs/continuous.py:ReacherEasy-v1
  python experiments/train.py --config=configs/continuous.py:Ant-v5
  python experiments/train.py --config=configs/continuous.py:gymnasium:Pendulum-v1
  python experiments/train.py --config=configs/continuous.py:gymnasium:my_module:MyEnv

A task is any of envpool whose actions are bounded numbers: of Gym's own, MuJoCo, the DeepMind
Control Suite, MetaWorld, MuJoCo Playground; or one of gymnasium, or a class of your own. In each
node of a search 16 actions are drawn from a Gaussian policy. At the root all of them are tried,
once each, by one call of the model. Three tasks have supports and discounts of their own; the
others get supports for rewards and values of any size. Pendulum-v1, seeds 0, 1, 2: -149, -147 and
-147 after 50,000 steps; ReacherEasy-v1, seed 0: 838 after 100,000 steps of the simulator. The
others have not been trained.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from muzero_jax.config import base


class _Task(NamedTuple):
    """What differs between tasks.

    Attributes:
      max_steps: of an episode, after `action_repeat`.
      reward, value: lowest and highest bin of the supports, on the scale of h.
      bins: of each support.
      discount: of each step.
      action_repeat: steps of the simulator for each action.
      total: env steps of a run.
    """

    max_steps: int | None = None
    reward: tuple[float, float] = (-300.0, 300.0)
    value: tuple[float, float] = (-300.0, 300.0)
    bins: int = 601
    discount: float = 0.99
    action_repeat: int = 1
    total: int = 1_000_000


_TASKS = {
    "Pendulum-v1": _Task(
        200, reward=(-4.0, 0.0), value=(-25.0, 0.0), bins=51, discount=0.97, total=50_000
    ),
    "LunarLanderContinuous-v3": _Task(
        1_000, reward=(-10.0, 10.0), value=(-20.0, 20.0), bins=51, discount=0.997, total=300_000
    ),
    "ReacherEasy-v1": _Task(
        250, reward=(0.0, 2.0), value=(0.0, 20.0), bins=51, action_repeat=4, total=25_000
    ),
}


def get_config(task: str = "Pendulum-v1") -> ConfigDict:
    """The config for `TASK` of envpool, or for `gymnasium:TASK`."""
    of_gymnasium = task.startswith("gymnasium:")
    task = task.removeprefix("gymnasium:")
    own = _TASKS.get(task, _Task())
    config = base.get_config()
    config.total_env_steps = own.total
    config.env.update(task=task, num_envs=8, num_groups=2, max_steps=own.max_steps, leave_out=())
    if of_gymnasium:
        config.env.suite = "gymnasium"
    else:
        config.env.update(suite="envpool", num_threads=1, action_repeat=own.action_repeat)
    for head, (low, high) in (("reward", own.reward), ("value", own.value)):
        config.codec[head].update(num_bins=own.bins, low=low, high=high, transform="muzero")
    config.codec.policy = "gaussian"
    base.try_drawn_actions(config, 16)
    config.search.min_value_range = 0.1
    config.replay.update(rows_per_env=own.total // 8, rows_per_update=2)
    config.targets.update(
        unroll_steps=3, bootstrap_steps=5, discount=own.discount, value_source="target_network"
    )
    config.reanalyse.fresh_values = False
    config.loss.value_weight = 1.0
    config.optimizer.decay_updates = own.total // 2
    config.evaluation.update(
        interval_env_steps=own.total // 10,
        episodes=20,
        num_envs=20,
        max_steps=own.max_steps or 1_000,
    )
    config.checkpoint.update(
        resume_interval_env_steps=own.total // 5, params_interval_env_steps=own.total // 5
    )
    config.logging.interval_env_steps = own.total // 50
    return config
