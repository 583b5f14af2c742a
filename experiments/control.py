"""Trains on a control task: python experiments/control.py --config=configs/cartpole.py"""

import functools

import launch

if __name__ == "__main__":
    launch.run(functools.partial(launch.train, "control"), example="--config=configs/cartpole.py")
