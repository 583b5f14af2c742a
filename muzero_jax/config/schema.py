"""Checks of a config: what each field may hold, and what several have to agree on.

`check` refuses numbers that cannot work, one line each, before anything is built or compiled.
"""

import importlib.util
import math
import re
from typing import Any

from muzero_jax.config.fields import FIELDS, MATCHES, ON_DEVICE, PGX, TASK_FIELDS, Range
from muzero_jax.envs import atari_games
from muzero_jax.errors import ArgumentError, BadInputError

RANGES = {name: x.allowed for name, x in FIELDS.items() if isinstance(x.allowed, Range)}
CHOICES = {
    name: x.allowed
    for name, x in FIELDS.items()
    if isinstance(x.allowed, tuple) and not isinstance(x.allowed, Range)
}
SWITCHES = tuple(name for name, x in FIELDS.items() if x.allowed is bool)
OPTIONAL = tuple(name for name, x in FIELDS.items() if x.optional)

# The fields of the groups that are read one by one. Of the other groups each part takes its own,
# and `build.call` names what is missing or too many.
_NEEDED: dict[str, str] = {
    "": "seed total_env_steps max_wall_minutes env network codec search explore replay targets"
    " reanalyse loss optimizer loop evaluation checkpoint logging",
    "replay": "rows_per_env min_rows rows_per_update batch_size priority_exponent priority_floor"
    " importance_exponent",
    "targets": "unroll_steps bootstrap_steps discount clip_rewards value_source"
    " target_interval_updates shorten_every_updates",
    "reanalyse": "fraction fresh_values num_simulations noise_scale target_params",
    "loop": "steps_per_iteration probe_interval_iterations",
    "evaluation": "interval_env_steps episodes num_envs stop_at",
    "checkpoint": "resume_interval_env_steps params_interval_env_steps max_to_keep"
    " params_to_keep",
    "logging": "interval_env_steps tensorboard tracker",
    "env": "suite num_envs num_groups",
    "network": "kind history_steps",
    "search": "kind num_simulations",
}
# Groups with fields besides these.
OPEN = ("evaluation", "env", "network", "search")


def task(config) -> str:
    """The game or task of a config; of one of its own the name of its maker."""
    return config.env[TASK_FIELDS[config.env.suite]].rpartition(":")[2]


# The fields that may name code of the user's own, as "module:function".
_MAY_NAME_CODE = (*(name for name, x in FIELDS.items() if x.own), "env.task")


def names_code(value: str) -> bool:
    """Whether a field's value is a "module:function"."""
    return re.fullmatch(r"[\w.]+:\w+", value) is not None


def own_kinds(config) -> dict[str, str]:
    """Field -> "module:function", of the fields that name code of the user's own."""
    found = {}
    for name in _MAY_NAME_CODE:
        group, _, field = name.partition(".")
        value = config[group].get(field)
        if isinstance(value, str) and names_code(value):
            found[name] = value
    return found


def own_modules(config) -> set[str]:
    """The modules that these fields name."""
    return {value.partition(":")[0] for value in own_kinds(config).values()}


# Fields that came after the first runs -> what these did without them, as JSON.
LATER: dict[str, Any] = {
    "max_wall_minutes": None,
    "search.kind": "gumbel",
    "explore.halve_temperature_at_updates": [],
    "targets.shorten_every_updates": None,
    "reanalyse.fraction": 0.0,
    "reanalyse.fresh_values": False,
    "reanalyse.num_simulations": 1,
    "reanalyse.noise_scale": 1.0,
    "reanalyse.target_params": False,
    "optimizer.decay": "cosine",
    "checkpoint.params_to_keep": 2,
    "logging.tracker": "none",
}
# Fields that are gone -> the value with which they did nothing; with another one they stay, and are
# refused by name.
GONE: dict[str, Any] = {"loss.mirror": False}


def complete(stored: dict[str, Any]) -> dict[str, Any]:
    """The config of a run of an older version, as JSON, with the fields that it lacks."""
    stored = {name: dict(x) if isinstance(x, dict) else x for name, x in stored.items()}
    for name, value in (LATER | GONE).items():
        group, _, field = name.rpartition(".")
        holder = stored.setdefault(group, {}) if group else stored
        if not isinstance(holder, dict):
            continue
        if name in LATER:
            holder.setdefault(field, value)
        elif field in holder and holder[field] == value:
            del holder[field]
    return stored


def check(config):
    """Checks every number of a config by itself, then what several have to agree on.

    Returns:
      The config itself, with the game's proper name ("pong" becomes "Pong").

    Raises:
      BadInputError: with field, value and what is allowed.
    """
    known = {*RANGES, *CHOICES, *SWITCHES}
    groups = {name.rpartition(".")[0] for name in known} | {"codec"}
    for name, value in leaves(config.to_dict()):
        if name in groups:
            raise BadInputError(f"{name} must be a group of fields (got {value!r})")
        if (holder := name.rpartition(".")[0]) in known:
            raise BadInputError(f"{holder} must be one value and no group of fields")
    _check_fields(config)
    for name, value in leaves(config.to_dict()):
        if value is None:
            if name not in OPTIONAL:
                raise BadInputError(f"{name} must be set (got None)")
            continue
        wanted = RANGES[name].wanted(value) if name in RANGES else None
        if name in SWITCHES and not isinstance(value, bool):
            wanted = "True or False"
        if name in ("env.game", "env.task") and not isinstance(value, str):
            wanted = "a name"
        if wanted:
            raise BadInputError(f"{name} must be {wanted} (got {value!r})")
        if name in CHOICES and value not in CHOICES[name] and name not in own_kinds(config):
            raise BadInputError(f"{name} must be one of {CHOICES[name]} (got {value!r})")
    _check_together(config)
    return config


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every field of a config as a dictionary."""
    found = []
    for name, value in tree.items():
        inner = f"{prefix}{name}"
        found += leaves(value, inner + ".") if isinstance(value, dict) else [(inner, value)]
    return found


def _check_fields(config) -> None:
    for group, known in _NEEDED.items():
        prefix, found = (f"{group}.", config[group]) if group else ("", config)
        for name in known.split():
            if name not in found:
                raise BadInputError(f"{prefix}{name} is missing")
        for name in found:
            if group not in OPEN and name not in known.split():
                raise BadInputError(f"{prefix}{name}: there is no such field")
    field = TASK_FIELDS.get(config.env.suite)  # An unknown suite is refused with its choices.
    if field is not None and field not in config.env:
        raise BadInputError(f"env.{field} is missing")


def _check_together(config) -> None:
    env, evaluation = config.env, config.evaluation
    if env.suite == "atari":
        try:
            env.game = atari_games.canonical_name(env.game)
        except ArgumentError as error:
            raise BadInputError(f"env.game: {error}") from None
    _check_games(env, evaluation)
    if evaluation.episodes % evaluation.num_envs:
        raise BadInputError(
            "evaluation.num_envs must divide evaluation.episodes"
            f" (got {evaluation.num_envs} and {evaluation.episodes})"
        )
    if env.suite in ON_DEVICE and env.num_groups != 1:
        raise BadInputError(f"env.num_groups must be 1 on the device (got {env.num_groups})")
    _check_codecs(config)
    fresh = config.reanalyse.fraction > 0 and config.reanalyse.fresh_values
    if fresh and config.targets.value_source != "search":
        raise BadInputError(
            "reanalyse.fresh_values must be False where targets.value_source is not 'search'"
            f" (got {config.targets.value_source!r})"
        )
    counts = config.explore.halve_temperature_at_updates
    if not all(isinstance(n, int) and n > 0 for n in counts) or list(counts) != sorted(counts):
        raise BadInputError(
            "explore.halve_temperature_at_updates must be rising numbers of updates >= 1"
            f" (got {counts})"
        )
    if config.logging.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise BadInputError("logging.tensorboard needs: pip install 'muzero_jax[tensorboard]'")
    tracker = config.logging.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise BadInputError(f"logging.tracker {tracker!r} needs: pip install {tracker}")


def _check_games(env, evaluation) -> None:
    if env.suite in PGX and importlib.util.find_spec("pgx") is None:
        raise BadInputError(f"env.suite {env.suite!r} needs: pip install 'muzero_jax[pgx]'")
    if env.suite not in PGX and "max_steps" in env and env.max_steps is None:
        raise BadInputError("env.max_steps must be set (got None)")
    if env.suite in MATCHES and "opponent" not in evaluation:
        raise BadInputError("evaluation.opponent is missing")
    if env.suite in MATCHES and evaluation.episodes % 2:
        raise BadInputError(
            "evaluation.episodes must be even, half with each color"
            f" (got {evaluation.episodes})"
        )
    if env.suite in MATCHES and evaluation.get("random_move", 0.0) > 0:
        raise BadInputError("evaluation.random_move must be 0: matches have no random moves")
    if "opening_plies" in evaluation:
        raise BadInputError("evaluation.opening_plies: there is no such field; see --opening_plies")
    if env.suite not in MATCHES and "opponent" in evaluation:
        raise BadInputError("evaluation.opponent: there is no such field for one player")


def _check_codecs(config) -> None:
    for head in ("value", "reward"):
        codec = config.codec[head]
        if not -math.inf < codec.low < codec.high < math.inf:
            raise BadInputError(
                f"codec.{head}.low must be < codec.{head}.high, both finite"
                f" (got {codec.low} and {codec.high})"
            )
    reward = config.codec.reward
    if config.targets.clip_rewards and not (reward.low < 0 < reward.high):
        raise BadInputError(
            "codec.reward must hold clipped rewards of both signs"
            f" (got low {reward.low} and high {reward.high})"
        )

