"""The fields of a config: what each may hold, and what several have to agree on.

`check` refuses numbers that cannot work, one line each, before anything is built or compiled.
"""

import importlib.util
import math
import re
from typing import Any, NamedTuple

from muzero_jax.envs import atari_games
from muzero_jax.errors import ArgumentError, BadInputError


class Range(NamedTuple):
    """Allowed numbers; `above` and `below` are exclusive, the others inclusive.

    `whole` numbers are `int`, below 2^53, where JSON and logs are exact; those that are sizes or
    indices on the device fit into `int32`. Without any bound, whatever is a number is allowed.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    int32: bool = False

    def wanted(self, x: Any) -> str | None:
        """What `x` must be and is not."""
        if isinstance(x, bool) or not isinstance(x, int | float):
            return "a number"
        if self.whole and not isinstance(x, int):
            return "a whole number"
        if self.int32 and self.high is None and x >= 2**31:
            return "< 2^31"
        if self.whole and self.high is None and x >= 2**53:
            return "< 2^53"
        return None if self == Range() or self._holds(x) else str(self)

    def _holds(self, x: float) -> bool:
        return (
            (isinstance(x, int) or math.isfinite(x))
            and (self.low is None or x >= self.low)
            and (self.high is None or x <= self.high)
            and (self.above is None or x > self.above)
            and (self.below is None or x < self.below)
        )

    def __str__(self) -> str:
        low = f"> {self.above}" if self.above is not None else f">= {self.low}"
        if self.below is not None:
            return f"{low} and < {self.below}"
        return low if self.high is None else f"{low} and <= {self.high}"


def _at_most(high: int, *, low: int = 1) -> Range:
    """A whole number; above its end tracing alone would take minutes, or a library hangs."""
    return Range(low=low, high=high, whole=True)


_NUMBER, _POSITIVE, _NOT_NEGATIVE, _UNIT = Range(), Range(above=0), Range(low=0), Range(0, 1)
_COUNT, _NATURAL = Range(low=1, whole=True), Range(low=0, whole=True)
_SIZE = Range(low=1, whole=True, int32=True)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1, whole=True),
    "total_env_steps": _COUNT,
    "max_wall_minutes": _POSITIVE,
    "env.num_envs": _SIZE,
    "env.num_groups": _SIZE,
    "env.num_threads": _at_most(1_024, low=0),
    "env.max_steps": _SIZE,
    "env.opening_plies": _at_most(1_000, low=0),
    "env.rows": _at_most(2**10),
    "env.columns": _at_most(2**10),
    "env.length": _at_most(2**20, low=0),
    "env.frame_skip": _at_most(1_000),
    "env.sticky": _UNIT,
    "env.noop_max": _at_most(10_000),
    "env.num_levels": _NATURAL,
    "env.start_level": _NATURAL,
    "network.history_steps": _at_most(1_000),
    "network.width": _at_most(2**16),
    "network.num_layers": _at_most(100),
    "network.channels": _at_most(2**16),
    "network.representation_blocks": _at_most(100, low=0),
    "network.dynamics_blocks": _at_most(100, low=0),
    "network.prediction_blocks": _at_most(100, low=0),
    "network.head_planes": _at_most(2**16),
    "network.head_width": _at_most(2**16),
    "codec.value.low": _NUMBER,
    "codec.value.high": _NUMBER,
    "codec.reward.low": _NUMBER,
    "codec.reward.high": _NUMBER,
    "codec.value.num_bins": _at_most(2**16, low=2),
    "codec.reward.num_bins": _at_most(2**16, low=2),
    "search.num_simulations": _at_most(10_000),
    "search.max_num_considered_actions": _at_most(256),
    "search.max_depth": _SIZE,
    "search.value_scale": _POSITIVE,
    "search.maxvisit_init": _NOT_NEGATIVE,
    "search.min_value_range": _POSITIVE,
    "search.value_error_scale": _NOT_NEGATIVE,
    "search.pb_c_init": _NOT_NEGATIVE,
    "search.pb_c_base": _POSITIVE,
    "search.dirichlet_alpha": _POSITIVE,
    "explore.temperature": _NOT_NEGATIVE,
    "explore.noise_scale": _NOT_NEGATIVE,
    "explore.spread": _NOT_NEGATIVE,
    "explore.random_move": _UNIT,
    "replay.rows_per_env": _SIZE,
    "replay.min_rows": _SIZE,
    "replay.rows_per_update": _SIZE,
    "replay.batch_size": _SIZE,
    "replay.priority_exponent": _NOT_NEGATIVE,
    "replay.priority_floor": _POSITIVE,
    "replay.importance_exponent": _UNIT,
    "targets.unroll_steps": _at_most(1_000),
    "targets.bootstrap_steps": _at_most(5_000),
    "targets.discount": Range(above=0, high=1),
    "targets.target_interval_updates": _SIZE,
    "targets.shorten_every_updates": _SIZE,
    "reanalyse.fraction": _UNIT,
    "reanalyse.num_simulations": _at_most(10_000),
    "reanalyse.noise_scale": _NOT_NEGATIVE,
    "loss.value_weight": _NOT_NEGATIVE,
    "loss.reward_weight": _NOT_NEGATIVE,
    "loss.policy_weight": _NOT_NEGATIVE,
    "loss.priority_unroll": _UNIT,
    "loss.random_shift_pixels": _NATURAL,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_updates": _NATURAL,
    "optimizer.decay_updates": _COUNT,
    "optimizer.final_fraction": _UNIT,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.max_grad_norm": _POSITIVE,
    "optimizer.momentum": Range(low=0, below=1),
    "loop.steps_per_iteration": _SIZE,
    "loop.probe_interval_iterations": _NATURAL,
    "evaluation.interval_env_steps": _COUNT,
    "evaluation.episodes": _SIZE,
    "evaluation.num_envs": _SIZE,
    "evaluation.max_steps": _SIZE,
    "evaluation.num_levels": _NATURAL,
    "evaluation.random_move": _UNIT,
    "evaluation.stop_at": _NUMBER,
    "checkpoint.resume_interval_env_steps": _COUNT,
    "checkpoint.params_interval_env_steps": _COUNT,
    "checkpoint.max_to_keep": _COUNT,
    "checkpoint.params_to_keep": _COUNT,
    "logging.interval_env_steps": _COUNT,
}

# Suite of environments -> the field of `env` that names its task.
TASK_FIELDS = {
    "atari": "game",
    "procgen": "game",
    "classic": "task",
    "jax": "task",
    "board_games": "game",
    "minatar": "game",
}
# Suites of JAX environments: acting and learning are one program on the device.
ON_DEVICE = ("jax", "board_games", "minatar")
# Suites of pgx -> how its ids begin. The rules end a game, so that `env.max_steps` may be None.
PGX = {"board_games": "", "minatar": "minatar-"}
# Suites of two players: their evaluation is a match against `evaluation.opponent`.
MATCHES = ("board_games",)

CHOICES: dict[str, tuple[str, ...]] = {
    "env.suite": tuple(TASK_FIELDS),
    "env.image": ("gray84", "rgb96"),
    "network.kind": ("mlp", "conv", "gru"),
    "network.dtype": ("float32", "bfloat16"),
    "search.kind": ("gumbel", "muzero"),
    "codec.value.transform": ("muzero", "identity"),
    "codec.reward.transform": ("muzero", "identity"),
    "optimizer.decay": ("cosine", "exponential"),
    "network.action_encoding": ("constant", "spatial", "column", "chess", "shogi"),
    "targets.value_source": ("search", "target_network"),
    "evaluation.opponent": ("random", "perfect"),
}

SWITCHES = (
    "env.full_action_space",
    "env.fire_reset",
    "env.life_loss_is_end",
    "network.action_planes",
    "network.history_rewards",
    "targets.clip_rewards",
    "reanalyse.fresh_values",
    "reanalyse.target_params",
    "logging.tensorboard",
)

# The fields that may be None.
OPTIONAL = (
    "max_wall_minutes",
    "env.max_steps",
    "network.channels",
    "search.max_depth",
    "targets.shorten_every_updates",
    "optimizer.decay_updates",
    "optimizer.max_grad_norm",
    "optimizer.momentum",
    "evaluation.stop_at",
)

# The fields of the groups that are read one by one. Of the other groups each part takes its own,
# and `build.call` names what is missing or too many.
FIELDS: dict[str, str] = {
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
    "logging": "interval_env_steps tensorboard",
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
_MAY_NAME_CODE = ("network.kind", "search.kind", "env.task")


def own_kinds(config) -> dict[str, str]:
    """Field -> "module:function", of the fields that name code of the user's own."""
    found = {}
    for name in _MAY_NAME_CODE:
        group, _, field = name.partition(".")
        value = config[group].get(field)
        if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value):
            found[name] = value
    return found


def own_modules(config) -> set[str]:
    """The modules that these fields name."""
    return {value.partition(":")[0] for value in own_kinds(config).values()}


def describe(name: str) -> str:
    """What a field may hold, as docs/fields.md has it."""
    if name in RANGES:
        field = RANGES[name]
        text = "whole number" if field.whole else "number"
        if field != Range():
            text += f" {field}"
        if field.int32 and field.high is None:
            text += " and < 2^31"
    else:
        text = " or ".join(CHOICES[name]) if name in CHOICES else "True or False"
    return text + (", or None" if name in OPTIONAL else "")


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
    for group, known in FIELDS.items():
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

