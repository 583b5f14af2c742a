"""Refuses numbers that cannot work, one line each, before anything is built or compiled."""

import importlib.util
import math
from typing import Any, NamedTuple

from launch import BadInputError
from muzero_jax.envs import atari_games


class Range(NamedTuple):
    """Allowed numbers; `above` and `below` are exclusive, the others inclusive.

    `whole` numbers are `int`; those that are sizes or indices on the device fit into `int32`.
    Without any bound, whatever is a number is allowed.
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
        if self.int32 and x >= 2**31:
            return "< 2^31"
        return None if self == Range() or self._holds(x) else str(self)

    def _holds(self, x: float) -> bool:
        return (
            math.isfinite(x)
            and (self.low is None or x >= self.low)
            and (self.high is None or x <= self.high)
            and (self.above is None or x > self.above)
            and (self.below is None or x < self.below)
        )

    def __str__(self) -> str:
        low = f"> {self.above:g}" if self.above is not None else f">= {self.low:g}"
        if self.below is not None:
            return f"{low} and < {self.below:g}"
        return low if self.high is None else f"{low} and <= {self.high:g}"


_NUMBER, _POSITIVE, _NOT_NEGATIVE, _UNIT = Range(), Range(above=0), Range(low=0), Range(0, 1)
_COUNT, _NATURAL = Range(low=1, whole=True), Range(low=0, whole=True)
_SIZE = Range(low=1, whole=True, int32=True)
_BINS = Range(low=2, whole=True, int32=True)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1, whole=True),
    "total_env_steps": _COUNT,
    "max_wall_minutes": _POSITIVE,
    "env.num_envs": _SIZE,
    "env.num_groups": _SIZE,
    "env.num_threads": _NATURAL,
    "env.max_steps": _SIZE,
    "env.frame_skip": _SIZE,
    "env.sticky": _UNIT,
    "env.noop_max": _SIZE,
    "env.num_levels": _NATURAL,
    "env.start_level": _NATURAL,
    "network.history_steps": _SIZE,
    "network.width": _SIZE,
    "network.num_layers": _SIZE,
    "network.channels": _SIZE,
    "network.representation_blocks": _NATURAL,
    "network.dynamics_blocks": _NATURAL,
    "network.prediction_blocks": _NATURAL,
    "network.head_planes": _SIZE,
    "network.head_width": _SIZE,
    "codec.value.low": _NUMBER,
    "codec.value.high": _NUMBER,
    "codec.reward.low": _NUMBER,
    "codec.reward.high": _NUMBER,
    "codec.value.num_bins": _BINS,
    "codec.reward.num_bins": _BINS,
    "search.num_simulations": _SIZE,
    "search.max_num_considered_actions": _SIZE,
    "search.max_depth": _SIZE,
    "search.value_scale": _POSITIVE,
    "search.maxvisit_init": _NOT_NEGATIVE,
    "search.min_value_range": _POSITIVE,
    "search.pb_c_init": _NOT_NEGATIVE,
    "search.pb_c_base": _POSITIVE,
    "search.dirichlet_alpha": _POSITIVE,
    "explore.temperature": _NOT_NEGATIVE,
    "explore.noise_scale": _NOT_NEGATIVE,
    "explore.random_move": _UNIT,
    "replay.rows_per_env": _SIZE,
    "replay.min_rows": _SIZE,
    "replay.rows_per_update": _SIZE,
    "replay.batch_size": _SIZE,
    "replay.priority_exponent": _NOT_NEGATIVE,
    "replay.priority_floor": _POSITIVE,
    "replay.importance_exponent": _UNIT,
    "targets.unroll_steps": _SIZE,
    "targets.bootstrap_steps": _SIZE,
    "targets.discount": Range(above=0, high=1),
    "targets.target_interval_updates": _SIZE,
    "loss.value_weight": _NOT_NEGATIVE,
    "loss.reward_weight": _NOT_NEGATIVE,
    "loss.policy_weight": _NOT_NEGATIVE,
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
    "evaluation.stop_at": _NUMBER,
    "checkpoint.resume_interval_env_steps": _COUNT,
    "checkpoint.params_interval_env_steps": _COUNT,
    "checkpoint.max_to_keep": _COUNT,
    "logging.interval_env_steps": _COUNT,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "env.suite": ("atari", "procgen", "classic", "jax"),
    "env.image": ("gray84", "rgb96"),
    "network.kind": ("mlp", "conv", "gru"),
    "network.dtype": ("float32", "bfloat16"),
    "search.kind": ("gumbel", "muzero"),
    "codec.value.transform": ("muzero", "identity"),
    "codec.reward.transform": ("muzero", "identity"),
    "optimizer.decay": ("cosine", "exponential"),
    "network.action_encoding": ("constant", "spatial"),
    "targets.value_source": ("search", "target_network"),
}


def check(config) -> None:
    """Checks every number of a config by itself, then what several have to agree on.

    Writes the game's proper name into the config ("pong" becomes "Pong").

    Raises:
      BadInputError: with field, value and what is allowed.
    """
    for name, value in leaves(config.to_dict()):
        wanted = RANGES[name].wanted(value) if name in RANGES and value is not None else None
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


def _check_together(config) -> None:
    env, evaluation = config.env, config.evaluation
    if env.suite == "atari":
        try:
            env.game = atari_games.canonical_name(env.game)
        except ValueError as error:
            raise BadInputError(f"env.game: {error}") from None
    _divides("env.num_groups", env.num_groups, "env.num_envs", env.num_envs)
    _divides(
        "evaluation.num_envs", evaluation.num_envs, "evaluation.episodes", evaluation.episodes
    )
    _check_codecs(config)
    _check_ring(config)
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
    on_device = env.suite == "jax"
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
