"""Command lines that a user gets wrong, and the folder that they are given in."""

import json
from pathlib import Path
import subprocess
import sys

import processes

_CARTPOLE, _PONG = "--config=configs/cartpole.py", "--config=configs/atari.py:Pong"
_LONG = "x" * 300
_OPTIONAL = ("max_wall_minutes", "search.max_depth", "targets.shorten_every_updates")
_OPTIONAL += ("optimizer.decay_updates", "optimizer.max_grad_norm", "optimizer.momentum")
_OPTIONAL += ("evaluation.stop_at",)
# Name: (script, words, what the line has to say). A word JAX_X=Y is a variable of the environment.
COMMANDS = {
    "unknown field": (
        "train",
        [_CARTPOLE, "--config.optimizer.learning_rat=1"],
        ["'learning_rat'", "did you mean 'learning_rate'"],
    ),
    "new field": ("train", [_CARTPOLE, "--config.zzz=1"], ["unknown field 'zzz'"]),
    "not a float": (
        "train",
        [_CARTPOLE, "--config.optimizer.learning_rate=abc"],
        ["optimizer.learning_rate", "float", "'abc'"],
    ),
    "not an int": (
        "train",
        [_CARTPOLE, "--config.search.num_simulations=5.5"],
        ["search.num_simulations", "int", "'5.5'"],
    ),
    "zero simulations": (
        "train",
        [_CARTPOLE, "--config.search.num_simulations=0"],
        ["search.num_simulations must be >= 1 and <= 10000 (got 0)"],
    ),
    "no config": ("train", [], ["--config is required", "--config=configs/cartpole.py"]),
    "no file": (
        "train",
        ["--config=configs/nowhere.py"],
        ["config file not found", "configs/nowhere.py"],
    ),
    "a config that raises": (
        "train",
        ["--config=setup_raises.py"],
        ["--config: setup_raises.py: ZeroDivisionError: ", "(line 6)"],
    ),
    "a config that leaves": ("train", ["--config=setup_leaves.py"], ["setup_leaves.py: SystemE"]),
    "no python": ("train", ["--config=setup_syntax.py"], ["setup_syntax.py: SyntaxError: "]),
    "no config returned": ("train", ["--config=setup_none.py"], ["returns NoneType and no Conf"]),
    "a folder for a config": ("train", ["--config=used"], ["--config: used: IsADirectoryError"]),
    "wrong variant": (
        "train",
        [_CARTPOLE + ":nope"],
        ["--config: configs/cartpole.py:nope: ValueError: configs/cartpole.py takes ':host'", "26"],
    ),
    "None of every optional field": (
        "train",
        [_CARTPOLE]
        + [f"--config.{name}=None" for name in _OPTIONAL]
        + ["--config.replay.batch_size=0"],
        ["error: replay.batch_size must be >= 1 (got 0)"],
    ),
    "the last word of a field": (
        "train",
        [_CARTPOLE, "--config.max_wall_minutes=None", "--config.max_wall_minutes=-1"],
        ["max_wall_minutes must be > 0 (got -1.0)"],
    ),
    "None as the last word": (
        "train",
        [_CARTPOLE, "--config.max_wall_minutes=-1", "--config.max_wall_minutes=None"]
        + ["--config.replay.batch_size=0"],
        ["error: replay.batch_size must be >= 1 (got 0)"],
    ),
    "a run's own config": (
        "train",
        ["--resume=must", "--workdir=older", "--config.max_wall_minutes=-1"],
        ["max_wall_minutes must be > 0 (got -1.0) (the run in older was begun by version 0.0.1"],
    ),
    "no run's own config": ("train", ["--resume=must", "--workdir=nowhere"], ["no run in nowh"]),
    "None of no optional field": (
        "train",
        [_CARTPOLE, "--config.search.num_simulations=None"],
        ["search.num_simulations: expected int, got 'None'"],
    ),
    "None of no field": ("train", [_CARTPOLE, "--config.search.max_dept=None"], ["'max_depth'?"]),
    "platform that is not there": (
        "train",
        [_CARTPOLE, "JAX_PLATFORMS=cuda"],
        ["--platform: JAX_PLATFORMS=cuda: JAX finds no such device"],
    ),
    "platform that is none": (
        "evaluate",
        ["--workdir=used", "--policy=random", "JAX_PLATFORMS=nope"],
        ["--platform: JAX_PLATFORMS=nope: JAX finds no such device"],
    ),
    "watchdog of nan": ("train", [_CARTPOLE, "--watchdog_minutes=nan"], ["must be > 0 and <= "]),
    "watchdog of 0": ("train", [_CARTPOLE, "--watchdog_minutes=0"], ["must be > 0 and <= "]),
    "long workdir": (
        "train",
        [_CARTPOLE, f"--workdir={_LONG}"],
        [f"--workdir: File name too long: {_LONG}"],
    ),
    "long source": (
        "train",
        [_CARTPOLE, f"--init_from={_LONG}"],
        ["--init_from: ", _LONG],
    ),
    "long data": (
        "train",
        [_CARTPOLE, f"--data={_LONG}"],
        ["--data: ", _LONG],
    ),
    "long config": ("train", [f"--config={_LONG}"], ["--config: ", "File name too long", _LONG]),
    "long run": ("evaluate", [f"--workdir={_LONG}"], ["--workdir: ", _LONG]),
    "long out": (
        "record",
        ["--workdir=used", "--policy=random", "--episodes=2", f"--out={_LONG}"],
        ["--out: ", "File name too long", _LONG],
    ),
    "simulations without end": (
        "train",
        [_CARTPOLE, "--config.search.num_simulations=1000000000"],
        ["search.num_simulations must be >= 1 and <= 10000 (got 1000000000)"],
    ),
    "layers without end": (
        "train",
        [_CARTPOLE, "--config.network.num_layers=100000"],
        ["network.num_layers must be >= 1 and <= 100 (got 100000)"],
    ),
    "more rows than a device can number": (
        "train",
        [
            _CARTPOLE + ":on_device",
            "--config.env.num_envs=65536",
            "--config.replay.rows_per_env=40000",
            "--config.replay.min_rows=20000000",
            "--config.replay.rows_per_update=65536",
        ],
        ["replay.rows_per_env x env.num_envs must be < 2^31 on each device (got 2621440000)"],
    ),
    "older version": (
        "evaluate",
        ["--workdir=older"],
        ["no checkpoint in older", "was begun by version 0.0.1, this is ", "--init_from"],
    ),
    "no get_config": ("train", ["--config=setup_nothing.py"], ["defines no get_config()"]),
    "words left over": (
        "train",
        [_CARTPOLE, "search.num_simulations=4"],
        ["unexpected argument 'search.num_simulations=4'", "--config.a.b=c"],
    ),
    "used folder": (
        "train",
        [_CARTPOLE, "--workdir=used", "--config.targets.discount=0.9"],
        ["targets.discount (was 0.5, now 0.9)", "another folder"],
    ),
    "no resume point": (
        "train",
        [_CARTPOLE, "--resume=must"],
        ["--resume=must: no resume point in fresh"],
    ),
    "used": (
        "train",
        [_CARTPOLE, "--workdir=used", "--resume=never"],
        ["--resume=never: used holds a run"],
    ),
    "kind of resume": ("train", [_CARTPOLE, "--resume=maybe"], ["resume", "auto|must|never"]),
    "file": ("train", [_CARTPOLE, "--workdir=setup_nothing.py"], ["setup_nothing.py is no fol"]),
    "below a file": (
        "train",
        [_CARTPOLE, "--workdir=setup_nothing.py/run"],
        ["setup_nothing.py/run cannot be written"],
    ),
    "no device": ("train", [_CARTPOLE, "--platform=tpu"], ["--platform: tpu is wanted", "cpu"]),
    "wrong types": ("train", ["--config=setup_types.py"], ["env.num_envs", "(got '32')"]),
    "missing field": ("train", ["--config=setup_fields.py"], ["optimizer is missing"]),
    "huge": (
        "train",
        [_CARTPOLE, "--config.search.num_simulations=1" + "0" * 400],
        ["search.num_simulations must be >= 1 and <= 10000 (got 1000"],
    ),
    "no checkpoint": ("evaluate", ["--workdir=used"], ["no checkpoint in", "used"]),
    "no run": ("evaluate", ["--workdir=nowhere"], ["no run in", "nowhere", "config.json"]),
    "no folder": ("evaluate", [], ["--workdir is required"]),
    "step": ("evaluate", ["--workdir=used", "--step=newest"], ["--step", "or best", "'newest'"]),
    "diagnose no run": ("diagnose", ["--workdir=nowhere"], ["no run in nowhere"]),
    "diagnose no checkpoint": ("diagnose", ["--workdir=used"], ["no checkpoint in used"]),
    "watch no run": ("watch", ["--workdir=nowhere"], ["no run in nowhere"]),
    "watch no checkpoint": ("watch", ["--workdir=used"], ["no checkpoint in used"]),
    "watch ending": ("watch", ["--workdir=used", "--out=a.avi"], ["--out must end in .gif or .mp"]),
    "play no run": ("play", ["--workdir=nowhere"], ["no run in nowhere"]),
    "play no checkpoint": ("play", ["--workdir=used"], ["no checkpoint in used"]),
    "tracker": (
        "train",
        [_CARTPOLE, "--config.logging.tracker=wandb"],
        ["logging.tracker 'wandb' needs: pip install wandb"],
    ),
    "another tracker": (
        "train",
        [_CARTPOLE, "--config.logging.tracker=os"],
        ["logging.tracker must be one of ('none', 'wandb', 'trackio') (got 'os')"],
    ),
    "no episodes": ("evaluate", ["--workdir=used", "--episodes=0"], ["episodes", "0"]),
}

_CHANGED_CONFIG = """
from configs import cartpole
def get_config():
    config = cartpole.get_config()
    with config.ignore_type():
        {change}
    return config
"""
_STORED_CONFIG = """
from configs import cartpole
config = cartpole.get_config()
config.targets.discount = 0.5
print(config.to_json())
"""


def make_folder(base: Path) -> None:
    """Fills a folder with what the commands name: configs, a run that was begun, an older one."""
    (base / "configs").symlink_to(processes.ROOT / "configs")
    (base / "setup_nothing.py").write_text("x = 1\n")
    for name, change in (
        ("types", 'config.env.num_envs = "32"'),
        ("fields", "del config.optimizer"),
        ("raises", "1 / 0"),
        ("leaves", "raise SystemExit(0)"),
        ("syntax", "x = ("),
        ("none", "return"),
    ):
        (base / f"setup_{name}.py").write_text(_CHANGED_CONFIG.format(change=change))
    (base / "used").mkdir()
    arguments = [sys.executable, "-c", _STORED_CONFIG]
    stored = subprocess.run(arguments, cwd=processes.ROOT, capture_output=True, check=True)
    (base / "used" / "config.json").write_bytes(stored.stdout)
    (base / "older").mkdir()
    older = json.loads(stored.stdout) | {"version": "0.0.1"}
    (base / "older" / "config.json").write_text(json.dumps(older))


def command(name: str) -> tuple[str, list[str], dict[str, str]]:
    """Script, words and variables of one of `COMMANDS`; a run that began would be in `fresh`."""
    script, words, _ = COMMANDS[name]
    variables = dict(word.split("=") for word in words if word.startswith("JAX_"))
    words = [word for word in words if not word.startswith("JAX_")]
    if script != "evaluate" and not any(word.startswith("--workdir") for word in words):
        words = [*words, "--workdir=fresh"]
    return script, words, variables


def run(name: str, folder: Path) -> subprocess.CompletedProcess:
    """Gives one of `COMMANDS` in `folder` as a process of its own."""
    script, words, variables = command(name)
    return subprocess.run(
        processes.command(script, *words),
        cwd=folder,
        env=processes.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
