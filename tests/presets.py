"""Configs of `configs/` as objects, with fields changed.

`python tests/presets.py` writes what every preset resolves to into tests/data/presets.json.
"""

import ast
import importlib.util
import json

from muzero_jax.config import schema
from processes import ROOT

PRESETS = {
    "cartpole": ("cartpole", "host"),
    "cartpole_on_device": ("cartpole", "on_device"),
    "cartpole_published": ("cartpole", "published"),
    "cartpole_reanalyse": ("cartpole", "reanalyse"),
    "acrobot": ("acrobot", None),
    "lunarlander": ("lunarlander", None),
    "atari": ("atari", "RoadRunner"),
    "atari_100k": ("atari_100k", "Pong"),
    "atari_paper": ("atari_paper", "Pong"),
    "atari_paper_reanalyze": ("atari_paper", "Pong,reanalyze"),
    "atari_paper_one_gpu": ("atari_paper", "Pong,one_gpu"),
    "procgen": ("procgen", "coinrun"),
    "catch": ("catch", None),
    "memory": ("memory", "4"),
    "arm": ("arm", None),
    "arm_bins": ("arm", "bins"),
    "traffic": ("traffic", None),
    "continuous": ("continuous", "Pendulum-v1"),
    "continuous_of_gymnasium": ("continuous", "gymnasium:Pendulum-v1"),
    "tic_tac_toe": ("board_games", "tic_tac_toe"),
    "connect_four": ("board_games", "connect_four"),
    "go_9x9": ("board_games", "go_9x9"),
    "chess": ("board_games", "chess"),
    "chess_sampled": ("board_games", "chess,sampled"),
    "minatar": ("minatar", "breakout"),
    "gymnasium": ("gymnasium", "MountainCar-v0"),
    "minigrid": ("minigrid", "Empty-5x5"),
}


def config_of(name, arg=None, **fields):
    """The validated config of `configs/<name>.py:arg`; `fields` are dotted names."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*([] if arg is None else [arg]))
    parsed = {
        field: ast.literal_eval(x) if isinstance(x, str) and x.startswith("(") else x
        for field, x in fields.items()
    }
    config.update_from_flattened_dict(parsed)
    schema.check(config)
    return config


if __name__ == "__main__":
    resolved = {name: json.loads(config_of(*preset).to_json()) for name, preset in PRESETS.items()}
    (ROOT / "tests" / "data" / "presets.json").write_text(json.dumps(resolved, indent=1) + "\n")
