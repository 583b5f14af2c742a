"""Trains on a control task: python experiments/control.py --config=configs/cartpole.py"""

from absl import flags

import launch


def main() -> None:
    # Not at the top: bad input is told before JAX is imported.
    import validate
    import workdirs

    config = flags.FLAGS.config
    if "task" not in config.env:
        raise launch.BadInputError("--config: it has no env.task; try experiments/atari.py")
    validate.check(config)
    import train

    train.train(config, workdirs.choose(flags.FLAGS.workdir, config.env.task.lower()))


if __name__ == "__main__":
    launch.run(main, example="--config=configs/cartpole.py")
