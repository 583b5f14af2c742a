"""Trains by a config: python experiments/train.py --config=configs/cartpole.py:on_device

With --data=FOLDER it learns from stored rows alone, and environments serve evaluation only:

  python experiments/train.py --config=configs/cartpole.py:on_device --data=data/cartpole

Data are folders as experiments/record.py writes them (docs/datasets.md). Policies, and values where
returns bootstrap from a search, are then searched for whole batches: `reanalyse.fraction` is 1.
"Env steps" of the config, of its cadences and of the metrics are the rows that a run which acts
would have made for as many updates: `replay.rows_per_update` for each.
"""

import shlex
import time

from absl import flags

import command_line
from muzero_jax.config import schema
from muzero_jax.training import run_folder


def main() -> None:
    """A run from its flags to its end."""
    args = flags.FLAGS
    config, allow = command_line.checked_config(args)
    run_folder.check_name(args.workdir)
    with command_line.devices_of(args) as devices:
        from muzero_jax.config import build  # Here: it imports JAX.
        from muzero_jax.training import multihost

        now = multihost.of_primary(float(time.strftime("%Y%m%d%H%M%S")))
        workdir = run_folder.choose(args.workdir, schema.task(config).lower(), now)
        score = f"python experiments/evaluate.py --workdir={shlex.quote(str(workdir))}"
        build.train(
            config,
            workdir,
            devices=devices,
            data=args.data,
            allow=allow,
            resume=args.resume,
            init_from=args.init_from,
            watchdog_s=60 * args.watchdog_minutes,
            epilogue=f"; score it: {score}",
        )


def start(example: str) -> None:
    """Runs `main` as a script; `example` is what help shows of its command line."""
    command_line.define_path("data", None, "Folder of a dataset to learn from.")
    command_line.run(main, example=example)


if __name__ == "__main__":
    start("--config=configs/cartpole.py:on_device")
