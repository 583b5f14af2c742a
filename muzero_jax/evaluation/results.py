"""What runs have left behind: run folders and the files of benchmarks/results/, read alike."""

from collections.abc import Mapping
import glob
from pathlib import Path
from typing import Any, NamedTuple

from muzero_jax import metrics
from muzero_jax.errors import BadInputError
from muzero_jax.training import run_folder
from muzero_jax.training.run_folder import local_path

MIN_SEEDS = 3  # Fewer get no interval over seeds: two say too little about spread.

# Where two runs may differ and still be seeds of one experiment; a trailing dot means a group.
_NOT_THE_METHOD = ("seed", "version", "env.game", "env.task", *run_folder.MAY_CHANGE)

# Fields of `env` that do not change the games that are scored.
_NOT_THE_GAMES = (
    "suite", "num_envs", "num_groups", "num_threads", "life_loss_is_end", "opening_plies"
)


class Run(NamedTuple):
    """One run.

    Attributes:
      path: its folder, or its file of results.
      config: as in `config.json`.
      records: lines of metrics as the run finally went; of a file of results the evaluations.
      score: mean raw score of the last checkpoint, or None before the first evaluation. Of a
        folder it is the last evaluation in the run.
      env_steps: when that was.
      protocol: what `score` means.
    """

    path: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    score: float | None
    env_steps: int | None
    protocol: dict[str, Any]

    @property
    def task(self) -> str:
        """The game or task."""
        return self.config["env"].get("game") or self.config["env"]["task"]


def evaluation_games(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `env` that an evaluation sets otherwise."""
    fields = ("max_steps", "num_levels", "opening_plies")
    games = {name: x for name, x in config["evaluation"].items() if name in fields}
    # Evaluation games have no random opening; recorded games keep the training setting.
    return ({"opening_plies": 0} if "opening_plies" in config["env"] else {}) | games


def protocol(config: dict[str, Any]) -> dict[str, Any]:
    """What a score means: everything that shapes the games and the player."""
    env = config["env"] | evaluation_games(config)
    random_move = config["evaluation"].get("random_move", 0.0)
    game = {name: x for name, x in env.items() if name not in _NOT_THE_GAMES}
    return game | {
        "num_simulations": config["search"]["num_simulations"],
        "noise": f"random moves {random_move:g}" if random_move else "none",
        "rewards": "raw",
        "lives": "whole game",
    }


def read(path: Path) -> Run:
    """Reads a run folder, or a JSON file that benchmarks/learning.py wrote.

    Raises:
      BadInputError: where there is none, or one without records.
    """
    if not path.exists():
        raise BadInputError(f"{path}: there is no such run folder or file")
    if not path.is_dir():
        result = run_folder.load(path)
        if not {"config", "curve", "score", "env_steps", "protocol"} <= set(result):
            raise BadInputError(f"{path} is no result of benchmarks/learning.py, and no run folder")
        return Run(
            path=path,
            config=result["config"],
            records=result["curve"],
            score=result["score"]["mean"],
            env_steps=result["env_steps"],
            protocol=result["protocol"],
        )
    for name in ("config.json", "metrics.jsonl"):
        if not (path / name).exists():
            raise BadInputError(f"{path} is no run folder: {name} is missing")
    config = run_folder.load(path / "config.json")
    if "env" not in config:
        raise BadInputError(f"{path} has no config: its run was made by code")
    records = metrics.read_jsonl(path / "metrics.jsonl")
    if not records:
        raise BadInputError(f"{path / 'metrics.jsonl'} holds no records yet")
    evaluations = [r for r in records if r.get("eval/return_mean") is not None]
    last = evaluations[-1] if evaluations else {}
    return Run(
        path=path,
        config=config,
        records=records,
        score=last.get("eval/return_mean"),
        env_steps=last.get("env_steps"),
        protocol=protocol(config),
    )


def find(pattern: str) -> list[Path]:
    """The paths that a word of the command line means, which may be a glob pattern, in order.

    Raises:
      BadInputError: where nothing matches.
    """
    pattern = local_path(pattern, "runs")
    if Path(pattern).exists():
        return [Path(pattern)]
    found = [Path(path) for path in sorted(glob.glob(pattern))]
    if not found:
        raise BadInputError(f"{pattern}: there is no such run folder or file")
    return found


def method(run: Run) -> dict[str, Any]:
    """The run's config without what may differ between seeds and games of one experiment."""
    kept = _without(run.config, _NOT_THE_METHOD)
    return kept | {"evaluation": evaluation_games(run.config)}


def budget(run: Run) -> dict[str, Any]:
    """What ends a run, by the names of the config."""
    config = run.config
    return {name: config.get(name) for name in ("total_env_steps", "max_wall_minutes")} | {
        "evaluation.stop_at": config["evaluation"].get("stop_at")
    }


def seeds_of(runs: list[Run]) -> dict[str, dict[int, Run]]:
    """Task -> seed -> run, tasks and seeds in order.

    Raises:
      BadInputError: where a seed of a task is there twice: such runs are not independent.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.task, run.config["seed"])):
        seeds = found.setdefault(run.task, {})
        other = seeds.setdefault(run.config["seed"], run)
        if other is not run:
            raise BadInputError(
                f"{run.task} has seed {run.config['seed']} twice: {other.path} and {run.path};"
                " intervals need independent runs"
            )
    return found


def _without(tree: dict[str, Any], names: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    kept = {}
    for name, value in tree.items():
        path = prefix + name
        if path in names or f"{path}." in names:
            continue
        kept[name] = _without(value, names, f"{path}.") if isinstance(value, dict) else value
    return kept
