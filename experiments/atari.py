"""Trains on Atari games: python experiments/atari.py --config=configs/atari.py:Pong"""

import functools

import launch

if __name__ == "__main__":
    launch.run(functools.partial(launch.train, "atari"), example="--config=configs/atari.py:Pong")
