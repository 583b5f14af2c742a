"""Refuses numbers that cannot work, one line each, before anything is built or compiled."""

import importlib.util
import math
from typing import Any

from fields import (
    CHOICES,
    FIELDS,
    MATCHES,
    ON_DEVICE,
    OPEN,
    OPTIONAL,
    PGX,
    RANGES,
    SWITCHES,
    TASK_FIELDS,
)
from muzero_jax.envs import atari_games
from muzero_jax.errors import ArgumentError, BadInputError


def check(config) -> None:
    """Checks every number of a config by itself, then what several have to agree on.

    Writes the game's proper name into the config ("pong" becomes "Pong").

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
        if name in CHOICES and value not in CHOICES[name]:
            raise BadInputError(f"{name} must be one of {CHOICES[name]} (got {value!r})")
    _check_together(config)


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every field of a config as a dictionary."""
    found = []
    for name, value in tree.items():
        inner = f"{prefix}{name}"
        found += leaves(value, inner + ".") if isinstance(value, dict) else [(inner, value)]
    return found


def _check_fields(config) -> None:
    for group, known in FIELDS.items():
        prefix, found = (f"{group}.", config[group]) if group else ("", config)
        for name in known.split():
            if name not in found:
                raise BadInputError(f"{prefix}{name} is missing")
        for name in found:
            if group not in OPEN and name not in known.split():
                raise BadInputError(f"{prefix}{name}: there is no such field")
    field = TASK_FIELDS.get(config.env.suite)  # An unknown suite is told with the choices.
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
    _divides("env.num_groups", env.num_groups, "env.num_envs", env.num_envs)
    _divides(
        "evaluation.num_envs", evaluation.num_envs, "evaluation.episodes", evaluation.episodes
    )
    _check_codecs(config)
    _check_ring(config)
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
    decay = config.optimizer.decay_updates
    if decay is not None and decay <= config.optimizer.warmup_updates:
        raise BadInputError(
            "optimizer.decay_updates must be > optimizer.warmup_updates"
            f" (got {decay} and {config.optimizer.warmup_updates})"
        )
    if config.logging.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise BadInputError("logging.tensorboard needs: pip install 'muzero_jax[tensorboard]'")


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


def _check_ring(config) -> None:
    env, ring, target = config.env, config.replay, config.targets
    on_device = env.suite in ON_DEVICE
    if on_device and env.num_groups != 1:
        raise BadInputError(f"env.num_groups must be 1 on the device (got {env.num_groups})")
    history, steps = config.network.history_steps, target.unroll_steps + target.bootstrap_steps
    writes = config.loop.steps_per_iteration if on_device else 1
    window = history + 1 + steps + writes
    if ring.rows_per_env < window:
        raise BadInputError(
            f"replay.rows_per_env must be >= {window}, for {history} history +"
            f" {target.unroll_steps} unroll + {target.bootstrap_steps} bootstrap steps, the root"
            f" and the {writes} written at once (got {ring.rows_per_env})"
        )
    # Only rows that have their whole future can be drawn.
    fewest, most = env.num_envs * (steps + writes), env.num_envs * ring.rows_per_env
    if not fewest <= ring.min_rows <= most:
        raise BadInputError(
            f"replay.min_rows must be >= {fewest} (envs x (unroll + bootstrap + written at once))"
            f" and <= {most}, the size of the ring (got {ring.min_rows})"
        )
    step = env.num_envs * writes if on_device else env.num_envs // env.num_groups
    if ring.rows_per_update % step and step % ring.rows_per_update:
        raise BadInputError(
            f"replay.rows_per_update must divide, or be divided by, the {step} rows of one step"
            f" (got {ring.rows_per_update})"
        )


def _divides(part: str, a: int, whole: str, b: int) -> None:
    if b % a:
        raise BadInputError(f"{part} must divide {whole} (got {a} and {b})")
