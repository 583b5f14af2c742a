"""Trains from stored data alone, by any config; environments serve evaluation only.

  python experiments/unplugged.py --config=configs/cartpole.py:on_device --data=data/cartpole

Data are folders as experiments/record.py writes them (docs/datasets.md). Policies, and values where
returns bootstrap from a search, are made anew for whole batches: `reanalyse.fraction` is 1. "Env
steps" of the config, of its cadences and of the metrics are the rows that a run which acts would
have made for as many updates: `replay.rows_per_update` for each.
"""

from absl import flags

import launch
from muzero_jax import errors


def main() -> None:
    data = flags.FLAGS.data
    if not data:
        raise errors.BadInputError("--data is required, e.g. --data=data/cartpole")
    launch.train(None, data=data)


if __name__ == "__main__":
    launch.define_path("data", None, "Folder of a dataset.")
    launch.run(main, example="--config=configs/cartpole.py:on_device")
