"""Trains on games for two: python experiments/board_games.py --config=configs/board_games.py:hex"""

import functools

import launch

if __name__ == "__main__":
    main = functools.partial(launch.train, "board_games")
    launch.run(main, example="--config=configs/board_games.py:tic_tac_toe")
