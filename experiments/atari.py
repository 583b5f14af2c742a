"""Trains on an Atari game: python experiments/atari.py --config=configs/atari.py:Pong"""

from absl import flags

import launch


def main() -> None:
    # Not at the top: bad input is told before JAX is imported.
    import validate
    import workdirs

    config = flags.FLAGS.config
    if "game" not in config.env:
        raise launch.BadInputError("--config: it has no env.game; try experiments/control.py")
    validate.check(config)
    import train

    train.train(config, workdirs.choose(flags.FLAGS.workdir, config.env.game.lower()))


if __name__ == "__main__":
    launch.run(main, example="--config=configs/atari.py:Pong")
