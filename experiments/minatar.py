"""Trains on MinAtar: python experiments/minatar.py --config=configs/minatar.py:breakout"""

import functools

import launch

if __name__ == "__main__":
    main = functools.partial(launch.train, "minatar")
    launch.run(main, example="--config=configs/minatar.py:breakout")
