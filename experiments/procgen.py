"""Trains on procgen games: python experiments/procgen.py --config=configs/procgen.py:coinrun"""

import functools

import launch

if __name__ == "__main__":
    launch.run(
        functools.partial(launch.train, "procgen"), example="--config=configs/procgen.py:coinrun"
    )
