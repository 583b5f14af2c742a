"""Trains on an Atari game: python experiments/atari.py --config=configs/atari.py:Pong"""

import functools

import launch

if __name__ == "__main__":
    launch.run(
        functools.partial(launch.train, "game", other="experiments/control.py"),
        example="--config=configs/atari.py:Pong",
    )
