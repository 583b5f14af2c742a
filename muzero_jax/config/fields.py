"""Every field of a config, once: what it means, what it may hold, its unit, and who takes it.

docs/config.md is made from this table, and so is `--config.help`.
"""

import math
from typing import Any, NamedTuple


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


class Field(NamedTuple):
    """One field of a config.

    Attributes:
      meaning: what it says.
      allowed: a `Range`, the names to choose from, `bool`, or in words what else it has to be.
      unit: of a number.
      part: the function or type that takes it.
      optional: whether it may be None.
      own: whether it may name code of the user's own, as "module:function".
    """

    meaning: str
    allowed: "Range | tuple[str, ...] | type[bool] | str"
    unit: str = ""
    part: str = ""
    optional: bool = False
    own: bool = False

    def values(self) -> str:
        """What it may hold, in words."""
        if isinstance(self.allowed, Range):
            text = "whole number" if self.allowed.whole else "number"
            if self.allowed != Range():
                text += f" {self.allowed}"
            if self.allowed.int32 and self.allowed.high is None:
                text += " and < 2^31"
        elif isinstance(self.allowed, tuple):
            text = " or ".join(self.allowed)
        else:
            text = "True or False" if self.allowed is bool else self.allowed
        return text + (', or "module:function"' if self.own else "") + (
            ", or None" if self.optional else ""
        )


_NUMBER, _POSITIVE, _NOT_NEGATIVE, _UNIT = Range(), Range(above=0), Range(low=0), Range(0, 1)
_COUNT, _NATURAL = Range(low=1, whole=True), Range(low=0, whole=True)
_SIZE = Range(low=1, whole=True, int32=True)

# Suite of environments -> the field of `env` that names its task.
TASK_FIELDS = {
    "atari": "game",
    "procgen": "game",
    "classic": "task",
    "envpool": "task",
    "gymnasium": "task",
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

NAME = "a name"

_SCHEDULE, _LOOPS, _SCORING = "training.Schedule", "loops", "evaluation.scoring"
_HOST, _ATARI, _PROCGEN = "envs.host", "envs.host.make_atari", "envs.host.make_procgen"
_CATCH = "envs.catch.make_catch"
_SMALL, _CONV = "networks.mlp, networks.gru, networks.ring", "networks.conv.make_conv_network"
_SEARCHES, _GUMBEL = "search", "search.gumbel.gumbel_plan"
_MUZERO, _EXPLORE = "search.muzero.muzero_plan", "config.build.make_explore_at"
_REPLAY, _UPDATE = "replay.make_replay", "learner.make_update"
_TARGETS, _REANALYSE = "targets.make_targets", "reanalyse.with_reanalyse"
_LOSS, _OPTIMIZER = "losses.make_loss", "learner.make_optimizer"


def _codec_fields(head: str, what: str) -> dict[str, Field]:
    """The fields of one scalar head's two-hot codec."""
    maker = "codecs.make_two_hot_codec"
    return {
        f"codec.{head}.num_bins": Field(
            f"bins of the support of {what}", _at_most(2**16, low=2), "bins", maker
        ),
        f"codec.{head}.low": Field(
            "lowest bin, in units of the transform", _NUMBER, f"transformed {head}", maker
        ),
        f"codec.{head}.high": Field(
            "highest bin, in units of the transform", _NUMBER, f"transformed {head}", maker
        ),
        f"codec.{head}.transform": Field(
            "of what is written: MuZero's square root (appendix F), or none",
            ("muzero", "identity"), part=maker,
        ),
    }


FIELDS: dict[str, Field] = {
    "seed": Field(
        "parameters, environments and everything drawn follow from it",
        Range(0, 2**32 - 1, whole=True), "number", "assembly.split_seed",
    ),
    "total_env_steps": Field("where the run ends", _COUNT, "env steps", _SCHEDULE),
    "max_wall_minutes": Field(
        "ends the run earlier, by the wall clock of all its processes",
        _POSITIVE, "minutes", _SCHEDULE, optional=True,
    ),
    # Environments.
    "env.suite": Field("where the environments come from", tuple(TASK_FIELDS), part="config.build"),
    "env.game": Field("which game of the suite", NAME, part="the maker of the suite"),
    "env.task": Field(
        "which environment of the suite; in jax and gymnasium also \"module:function\" of one's"
        " own",
        NAME, part="the maker of the suite",
    ),
    "env.num_envs": Field("E, environments that play at the same time", _SIZE, "envs", _LOOPS),
    "env.num_groups": Field(
        "groups of them on the host: one steps while the device works for the others",
        _SIZE, "groups", "loops.sebulba",
    ),
    "env.num_threads": Field(
        "threads of envpool; 0 lets it choose", _at_most(1_024, low=0), "threads", _HOST
    ),
    "env.max_steps": Field(
        "steps until an episode is truncated; None: the rules alone end a game of pgx",
        _SIZE, "env steps", "the maker of the suite", optional=True,
    ),
    "env.leave_out": Field(
        "entries of a dict of observations that the agent does not see",
        "names", part="envs.spaces.observed",
    ),
    "env.action_repeat": Field(
        "steps of the task for each action, in tasks that end at their limit alone",
        _at_most(1_000), "steps", "envs.host.repeat_actions",
    ),
    "env.opening_plies": Field(
        "each game begins after 0 to so many uniform legal moves",
        _at_most(1_000, low=0), "moves", "envs.pgx.make_pgx",
    ),
    "env.rows": Field("height of the board of Catch", _at_most(2**10), "cells", _CATCH),
    "env.columns": Field("width of the board of Catch", _at_most(2**10), "cells", _CATCH),
    "env.crossings": Field(
        "L, crossings of the ring of traffic lights", _at_most(1_000), "crossings",
        "envs.traffic.make_traffic",
    ),
    "env.bins": Field(
        "values that each joint of the arm can take; without this field real numbers",
        _at_most(1_000, low=2), "values", "envs.wrappers.discretised",
    ),
    "env.length": Field(
        "blank rows between cue and question of the memory task",
        _at_most(2**20, low=0), "rows", "envs.memory.make_memory",
    ),
    "env.image": Field(
        "frames: 84x84 gray or 96x96 RGB", ("gray84", "rgb96"), part=_ATARI
    ),
    "env.frame_skip": Field(
        "emulator frames for each act; the last two are merged by their maximum",
        _at_most(1_000), "frames", _ATARI,
    ),
    "env.sticky": Field(
        "probability that the emulator repeats the former action", _UNIT, "probability", _ATARI
    ),
    "env.noop_max": Field(
        "most no-ops at the start of a game", _at_most(10_000), "actions", _ATARI
    ),
    "env.full_action_space": Field(
        "all 18 actions instead of the game's own", bool, part=_ATARI
    ),
    "env.fire_reset": Field(
        "press FIRE once at the start of a game, where there is such a button", bool, part=_ATARI
    ),
    "env.life_loss_is_end": Field(
        "a lost life ends the return (not the game) while training", bool, part=_ATARI
    ),
    "env.distribution": Field("difficulty of the levels", NAME, part=_PROCGEN),
    "env.num_levels": Field("levels to train on; 0 is all of them", _NATURAL, "levels", _PROCGEN),
    "env.start_level": Field("number of the first level", _NATURAL, "level", _PROCGEN),
    # Network.
    "network.kind": Field(
        "which network, or \"module:function\" of one's own",
        ("mlp", "conv", "gru", "ring"), part="config.build", own=True,
    ),
    "network.history_steps": Field(
        "S, frames that the representation sees", _at_most(1_000), "frames", "the network's maker"
    ),
    "network.width": Field("units of each layer", _at_most(2**16), "units", _SMALL),
    "network.num_layers": Field(
        "hidden layers of representation, dynamics and each head", _at_most(100), "layers", _SMALL
    ),
    "network.dtype": Field(
        "of activations; parameters stay float32",
        ("float32", "bfloat16"), part="the network's maker",
    ),
    "network.stages": Field(
        "downsampling before the tower: (channels, kernel, stride, residual blocks) each",
        "stages, also (\"residual\", ...) and (\"pool\", ...)", part=_CONV,
    ),
    "network.channels": Field(
        "of the tower behind the stages; None: as many as the stages end with",
        _at_most(2**16), "channels", _CONV, optional=True,
    ),
    "network.representation_blocks": Field(
        "residual blocks behind the stages", _at_most(100, low=0), "blocks", _CONV
    ),
    "network.dynamics_blocks": Field(
        "residual blocks of one step of the model", _at_most(100, low=0), "blocks", _CONV
    ),
    "network.prediction_blocks": Field(
        "residual blocks before the heads", _at_most(100, low=0), "blocks", _CONV
    ),
    "network.head_planes": Field(
        "channels that a head reads of each point", _at_most(2**16), "channels", _CONV
    ),
    "network.head_width": Field("units of a head's hidden layer", _at_most(2**16), "units", _CONV),
    "network.action_planes": Field(
        "past actions enter as planes beside the frames", bool, part=_CONV
    ),
    "network.history_rewards": Field("past rewards enter beside the frames", bool, part=_CONV),
    "network.action_encoding": Field(
        "how the model sees an action on the board",
        ("constant", "spatial", "column", "chess", "shogi"), part=_CONV,
    ),
    # Codecs.
    **_codec_fields("value", "values and returns"),
    **_codec_fields("reward", "rewards, after `targets.clip_rewards`"),
    "codec.policy": Field(
        "what the policy head's numbers mean, or \"module:function\" of one's own; without this"
        " field: categorical for one choice, factored for several, gaussian for real numbers",
        ("categorical", "factored", "gaussian", "beta"), part="distributions", own=True,
    ),
    # Search.
    "search.kind": Field(
        "which search, or \"module:function\" of one's own",
        ("gumbel", "muzero"), part="config.build", own=True,
    ),
    "search.num_simulations": Field(
        "N, simulations for each action", _at_most(10_000), "simulations", _SEARCHES
    ),
    "search.num_samples": Field(
        "K, actions that are drawn from the policy in each node, and searched; without this field"
        " all of one choice are",
        _at_most(2**16), "actions", "search.sampled_model",
    ),
    "search.max_num_considered_actions": Field(
        "root actions that enter sequential halving", _at_most(256), "actions", _GUMBEL
    ),
    "search.max_depth": Field(
        "of the tree; None is N", _SIZE, "steps", _SEARCHES, optional=True
    ),
    "search.value_scale": Field(
        "c_scale: how much Q counts beside the prior", _POSITIVE, "factor", _GUMBEL
    ),
    "search.maxvisit_init": Field(
        "c_visit: the same, before there are visits", _NOT_NEGATIVE, "visits", _GUMBEL
    ),
    "search.min_value_range": Field(
        "Q-values are rescaled by their range, but by no less than this",
        _POSITIVE, "value", _SEARCHES,
    ),
    "search.value_error_scale": Field(
        "nor by less than so many times the error of the network's values; 0 switches it off",
        _NOT_NEGATIVE, "factor", _GUMBEL,
    ),
    "search.pb_c_init": Field("c_1 of pUCT", _NOT_NEGATIVE, "factor", _MUZERO),
    "search.pb_c_base": Field("c_2 of pUCT", _POSITIVE, "visits", _MUZERO),
    "search.dirichlet_alpha": Field(
        "of the Dirichlet noise at the root", _POSITIVE, "concentration", _MUZERO
    ),
    # Acting.
    "explore.temperature": Field(
        "of the action drawn from the search's policy; 0 takes the search's own choice",
        _NOT_NEGATIVE, "temperature", _EXPLORE,
    ),
    "explore.halve_temperature_at_updates": Field(
        "rising numbers of updates, at each of which the temperature halves",
        "rising whole numbers >= 1", "updates", _EXPLORE,
    ),
    "explore.noise_scale": Field(
        "of the root noise: the scale of Gumbel noise, or the share of Dirichlet noise",
        _NOT_NEGATIVE, "factor", _EXPLORE,
    ),
    "explore.random_move": Field(
        "probability of a uniform legal action", _UNIT, "probability", _EXPLORE
    ),
    "explore.spread": Field(
        "p: environment i of B explores with the share (i/B)^p of noise and random moves; 0: all"
        " alike",
        _NOT_NEGATIVE, "exponent", _EXPLORE,
    ),
    # Replay.
    "replay.rows_per_env": Field("rows of the ring, of each environment", _SIZE, "rows", _REPLAY),
    "replay.min_rows": Field(
        "rows stored, of all environments, before the first update", _SIZE, "rows", _LOOPS
    ),
    "replay.rows_per_update": Field("new rows for each update", _SIZE, "rows", _LOOPS),
    "replay.batch_size": Field(
        "examples of an update, over all devices", _SIZE, "examples", "learner.make_learn"
    ),
    "replay.priority_exponent": Field(
        "α: how much priorities count in the draw; 0 draws all rows alike",
        _NOT_NEGATIVE, "exponent", _REPLAY,
    ),
    "replay.priority_floor": Field("added to every priority", _POSITIVE, "priority", _REPLAY),
    "replay.importance_exponent": Field(
        "β: how much an update makes up for the draw", _UNIT, "exponent", _UPDATE
    ),
    # Targets.
    "targets.unroll_steps": Field(
        "K, steps of the model that are learned", _at_most(1_000), "env steps", _TARGETS
    ),
    "targets.bootstrap_steps": Field(
        "n, steps of a return before it bootstraps", _at_most(5_000), "env steps", _TARGETS
    ),
    "targets.discount": Field("γ of each env step", Range(above=0, high=1), "factor", _TARGETS),
    "targets.clip_rewards": Field("rewards are learned by their sign", bool, part=_TARGETS),
    "targets.value_source": Field(
        "where a return's last value comes from: the search that acted, or a target network now",
        ("search", "target_network"), part=_TARGETS,
    ),
    "targets.target_interval_updates": Field(
        "between copies into the target network", _SIZE, "updates", _UPDATE
    ),
    "targets.shorten_every_updates": Field(
        "returns are a step shorter for every so many updates of age; None: never",
        _SIZE, "updates", _TARGETS, optional=True,
    ),
    # Reanalyse.
    "reanalyse.fraction": Field(
        "share of each batch whose rows are searched again", _UNIT, "share", _REANALYSE
    ),
    "reanalyse.fresh_values": Field(
        "those searches also give the values that returns bootstrap from", bool, part=_REANALYSE
    ),
    "reanalyse.num_simulations": Field(
        "of such a search", _at_most(10_000), "simulations", _REANALYSE
    ),
    "reanalyse.noise_scale": Field(
        "root noise of such a search", _NOT_NEGATIVE, "factor", _REANALYSE
    ),
    "reanalyse.target_params": Field(
        "search with the target network, not with the newest parameters", bool, part=_REANALYSE
    ),
    # Loss and optimizer.
    "loss.value_weight": Field("of the value head", _NOT_NEGATIVE, "factor", _LOSS),
    "loss.reward_weight": Field("of the reward head", _NOT_NEGATIVE, "factor", _LOSS),
    "loss.policy_weight": Field("of the policy head", _NOT_NEGATIVE, "factor", _LOSS),
    "loss.priority_unroll": Field(
        "η: share of the unroll's largest value error in a row's priority; 0: the root's alone",
        _UNIT, "share", _LOSS,
    ),
    "loss.random_shift_pixels": Field(
        "images are shifted by up to so many pixels in the loss",
        _NATURAL, "pixels", "losses.with_augmentation",
    ),
    "optimizer.learning_rate": Field("at its peak", _POSITIVE, "rate", _OPTIMIZER),
    "optimizer.warmup_updates": Field(
        "over which the rate rises from 0", _NATURAL, "updates", _OPTIMIZER
    ),
    "optimizer.decay": Field(
        "how the rate falls after that", ("cosine", "exponential"), part=_OPTIMIZER
    ),
    "optimizer.decay_updates": Field(
        "where a cosine ends, or an exponential has fallen by `final_fraction`; None: it stays",
        _COUNT, "updates", _OPTIMIZER, optional=True,
    ),
    "optimizer.final_fraction": Field(
        "of the peak, that the rate falls to", _UNIT, "share", _OPTIMIZER
    ),
    "optimizer.weight_decay": Field("of matrices", _NOT_NEGATIVE, "rate", _OPTIMIZER),
    "optimizer.max_grad_norm": Field(
        "largest norm of a gradient; None: not clipped",
        _POSITIVE, "norm", _OPTIMIZER, optional=True,
    ),
    "optimizer.momentum": Field(
        "SGD with this momentum; None: AdamW",
        Range(low=0, below=1), "factor", _OPTIMIZER, optional=True,
    ),
    # Loop, evaluation, saves, metrics.
    "loop.steps_per_iteration": Field(
        "T, steps of each environment between two looks at signals and cadences",
        _SIZE, "env steps", _LOOPS,
    ),
    "loop.probe_interval_iterations": Field(
        "iterations between two that measure where time goes; 0: none",
        _NATURAL, "iterations", "loops.sebulba",
    ),
    "evaluation.interval_env_steps": Field("between evaluations", _COUNT, "env steps", _SCHEDULE),
    "evaluation.episodes": Field("whole games of an evaluation", _SIZE, "games", _SCORING),
    "evaluation.num_envs": Field("of them at a time", _SIZE, "games", _SCORING),
    "evaluation.max_steps": Field(
        "steps until a game of an evaluation is cut", _SIZE, "env steps", _SCORING
    ),
    "evaluation.num_levels": Field(
        "levels to be scored on; 0 is all of them", _NATURAL, "levels", _PROCGEN
    ),
    "evaluation.random_move": Field(
        "probability of a uniform legal action in evaluations", _UNIT, "probability", _SCORING
    ),
    "evaluation.opponent": Field(
        "who plays the other side", ("random", "perfect"), part=_SCORING
    ),
    "evaluation.stop_at": Field(
        "a mean return that ends the run; None: none does",
        _NUMBER, "return", _SCHEDULE, optional=True,
    ),
    "checkpoint.resume_interval_env_steps": Field(
        "between resume points, from which a killed run goes on", _COUNT, "env steps", _SCHEDULE
    ),
    "checkpoint.params_interval_env_steps": Field(
        "between saves of parameters alone", _COUNT, "env steps", _SCHEDULE
    ),
    "checkpoint.max_to_keep": Field("newest resume points kept", _COUNT, "saves", _SCHEDULE),
    "checkpoint.params_to_keep": Field("newest parameters kept", _COUNT, "saves", _SCHEDULE),
    "logging.interval_env_steps": Field(
        "between lines of metrics", _COUNT, "env steps", _SCHEDULE
    ),
    "logging.tensorboard": Field("write metrics for TensorBoard too", bool, part=_SCHEDULE),
    "logging.tracker": Field(
        "write metrics for this experiment tracker too, offline unless WANDB_MODE says otherwise",
        ("none", "wandb", "trackio"),
        part=_SCHEDULE,
    ),
}


def help_lines(values: list[tuple[str, Any]]) -> list[str]:
    """A line for each of these (dotted name, value), in the order of `FIELDS`: value, unit,
    meaning, what it may hold."""
    places = {name: place for place, name in enumerate(FIELDS)}
    lines = []
    for name, value in sorted(values, key=lambda x: places.get(x[0], len(places))):
        field = FIELDS.get(name, Field("a field of one's own", "anything"))
        unit = f" {field.unit}" if field.unit else ""
        lines.append(f"{name} = {value!r}{unit}: {field.meaning} ({field.values()})")
    return lines
