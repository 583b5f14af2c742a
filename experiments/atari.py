"""Trains on Atari games: python experiments/atari.py --config=configs/atari.py:Pong"""

import train

if __name__ == "__main__":
    train.start("--config=configs/atari.py:Pong")
