"""The one adapter from envpool to checked `HostEnv`s; it resets in the next step, as we do."""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
from typing import Any
import warnings

import numpy as np

from muzero_jax import errors, types
from muzero_jax.envs import atari_games, spaces
from muzero_jax.envs.checked import check_host_env

TRAIN = 0
EVAL = 1
RANDOM = 2
RECORD = 3

# Image style -> options of envpool; `stack_num` is 1 because acting and replay stack frames.
_IMAGES = {
    "gray84": {"img_height": 84, "img_width": 84, "gray_scale": True},
    "rgb96": {"img_height": 96, "img_width": 96, "gray_scale": False},
}

# Game of procgen -> distributions of levels that envpool has of it.
PROCGEN_GAMES = {
    "bigfish": ("easy", "hard"),
    "bossfight": ("easy", "hard"),
    "caveflyer": ("easy", "hard", "memory", "exploration"),
    "chaser": ("easy", "hard", "extreme"),
    "climber": ("easy", "hard", "exploration"),
    "coinrun": ("easy", "hard", "exploration"),
    "dodgeball": ("easy", "hard", "extreme", "memory"),
    "fruitbot": ("easy", "hard"),
    "heist": ("easy", "hard", "memory", "exploration"),
    "jumper": ("easy", "hard", "memory", "exploration"),
    "leaper": ("easy", "hard", "extreme", "exploration"),
    "maze": ("easy", "hard", "memory", "exploration"),
    "miner": ("easy", "hard", "memory"),
    "ninja": ("easy", "hard", "exploration"),
    "plunder": ("easy", "hard"),
    "starpilot": ("easy", "hard", "extreme"),
}


def env_seeds(seed: int, purpose: int, resume: int, group: int, num_envs: int) -> list[int]:
    """Returns `num_envs` seeds for envpool, each in `[0, 2^31)`.

    envpool turns one number into `seed + i`, so that near seeds would share emulators.

    Args:
      seed: the run's seed, >= 0.
      purpose: `TRAIN`, `EVAL`, `RANDOM` or `RECORD`.
      resume: how often the run was taken up again.
      group: index of the group of environments.
      num_envs: E.
    """
    words = np.random.SeedSequence([seed, purpose, resume, group]).generate_state(num_envs)
    return [int(word) & 0x7FFFFFFF for word in words]


def make_atari(
    game: str,
    *,
    seeds: Sequence[int],
    num_threads: int = 0,
    image: str = "gray84",
    frame_skip: int = 4,
    sticky: float = 0.0,
    noop_max: int = 30,
    full_action_space: bool = False,
    fire_reset: bool = True,
    life_loss_is_end: bool = False,
    max_steps: int = 27000,
) -> types.HostEnv:
    """Makes `len(seeds)` Atari emulators with frames `[E, H, W, C]` uint8 and raw rewards.

    Args:
      game: `"Pong"`, `"pong"` or `"Pong-v5"`.
      seeds: one per environment, see `env_seeds`.
      num_threads: of envpool; 0 lets it choose.
      image: `"gray84"` (C = 1) or `"rgb96"` (C = 3).
      frame_skip: emulator frames per step; the last two are merged by their maximum.
      sticky: probability that the emulator repeats the former action.
      noop_max: most no-ops at a reset, >= 1 (0 crashes envpool).
      full_action_space: 18 actions instead of the game's own.
      fire_reset: press FIRE once at a reset (never after a lost life) where the game has it.
      life_loss_is_end: a lost life makes the discount of its row 0, and nothing else.
      max_steps: agent steps until an episode is truncated.
    """
    name = atari_games.canonical_name(game)
    if image not in _IMAGES:
        raise errors.ArgumentError(f"unknown image {image!r}; known: {', '.join(_IMAGES)}")
    _check_range("frame_skip", frame_skip, 1, None)
    _check_range("sticky", sticky, 0, 1)
    _check_range("noop_max", noop_max, 1, None)
    pool = _make_pool(
        f"{name}-v5",
        seeds,
        num_threads=num_threads,
        max_episode_steps=max_steps,
        stack_num=1,
        frame_skip=frame_skip,
        repeat_action_probability=sticky,
        noop_max=noop_max,
        full_action_space=full_action_space,
        use_fire_reset=fire_reset,
        episodic_life=False,
        zero_discount_on_life_loss=False,
        reward_clip=False,
        render_mode="rgb_array",
        **_IMAGES[image],
    )
    return wrap_pool(pool, image_spec(pool), len(seeds), life_loss_is_end=life_loss_is_end)


def make_procgen(
    game: str,
    *,
    seeds: Sequence[int],
    num_threads: int = 0,
    distribution: str = "easy",
    num_levels: int = 0,
    start_level: int = 0,
) -> types.HostEnv:
    """Makes `len(seeds)` procgen games with frames `[E, 64, 64, 3]` uint8 and 15 actions.

    Some of the actions do the same. Unlike the original, envpool delivers the final frame, and the
    frame of the next level one row later. The limit of an episode is the game's own (500 to 6,000
    steps) and no option: envpool's does not end an episode but calls every later end truncated. A
    level completed at the very limit is a termination; a death there counts as truncated.
    Published scores train on `num_levels=200` of "easy" (500 of "hard") and test with 0 (Cobbe et
    al. 2020). envpool loads procgen with the libraries of Qt 5, which the system has to have.

    Args:
      game: `"coinrun"` or `"Coinrun"`.
      seeds: one per environment, see `env_seeds`; they choose the order of the levels.
      num_threads: of envpool; 0 lets it choose.
      distribution: `"easy"`, `"hard"`, or another of the game in `PROCGEN_GAMES`.
      num_levels: how many levels there are; 0 is all of them.
      start_level: number of the first one; it means nothing where `num_levels` is 0.
    """
    name = atari_games.canonical_name(game, PROCGEN_GAMES)
    if distribution not in (known := PROCGEN_GAMES[name]):
        raise errors.ArgumentError(
            f"unknown distribution {distribution!r} of {name}; known: {', '.join(known)}"
        )
    _check_range("num_levels", num_levels, 0, 2**31 - 1)
    _check_range("start_level", start_level, 0, 2**31 - 1)
    pool = _make_pool(
        f"{name.capitalize()}{distribution.capitalize()}-v0",
        seeds,
        num_threads=num_threads,
        num_levels=num_levels,
        start_level=start_level,
    )
    return wrap_pool(pool, image_spec(pool), len(seeds), over="prev_level_complete")


def make_envpool(
    task: str,
    *,
    seeds: Sequence[int],
    num_threads: int = 0,
    max_steps: int | None = None,
    leave_out: Sequence[str] = (),
    action_repeat: int = 1,
) -> types.HostEnv:
    """Makes `len(seeds)` environments of any name that envpool has, but for its images `(C, H, W)`.

    Observations and actions are served as `spaces.observed` and `spaces.acted` say. Where envpool
    has a mask of legal actions, there are `invalid_actions`.

    envpool reports an episode that terminates at the very step of its limit as truncated, and for
    most tasks the two look alike: that one row bootstraps (d = 1) where d = 0 is right.
    It takes a landing in LunarLander at step 1,000 of 1,000, or Acrobot's first success at step
    500 of 500; scores, which are sums of rewards, do not change.

    Args:
      task: a name of envpool, e.g. `"CartPole-v1"`.
      seeds: one per environment, see `env_seeds`.
      num_threads: of envpool; 0 lets it choose.
      max_steps: steps until an episode is truncated; None keeps the task's own limit.
      leave_out: names of entries of the observation that the agent is not to see.
      action_repeat: steps of the task for each of ours, see `repeat_actions`.

    Raises:
      ArgumentError: for spaces that cannot be served.
    """
    _check_range("action_repeat", action_repeat, 1, None)
    options = {} if max_steps is None else {"max_episode_steps": max_steps * action_repeat}
    pool = _make_pool(task, seeds, num_threads=num_threads, **options)
    seen = spaces.observed(pool.observation_space, leave_out=leave_out)
    done = spaces.acted(pool.action_space)
    spec = _spec(pool, seen.spec, done.spec, masked=_MASK in _info_names(pool))
    env = wrap_pool(pool, spec, len(seeds), observe=seen.convert, act=done.convert)
    return repeat_actions(env, action_repeat)


def repeat_actions(env: types.HostEnv, times: int) -> types.HostEnv:
    """An environment whose every step is `times` steps of `env`, with the sum of their rewards.

    For tasks whose episodes all end at their limit, such as those of the DeepMind Control Suite:
    environments that step together cannot wait for one that ends before the others.

    Args:
      env: with a limit that `times` divides.
      times: at least 1.

    Raises:
      ArgumentError: for another limit.
      EnvError: from `step`, where an episode ends within a repeated action.
    """
    if times == 1:
        return env
    if env.spec.max_steps % times:
        raise errors.ArgumentError(
            f"action_repeat {times} must divide the {env.spec.max_steps} steps of an episode"
        )

    def step(action):
        timestep = env.step(action)
        reward = timestep.reward
        for _ in range(0 if timestep.first.any() else times - 1):
            if timestep.last.any():
                raise errors.EnvError("an episode has ended within a repeated action")
            timestep = env.step(action)
            reward = reward + timestep.reward
        return timestep.replace(reward=reward)

    spec = dataclasses.replace(env.spec, max_steps=env.spec.max_steps // times)
    return env._replace(spec=spec, step=step)


# The name that it had while it took discrete actions and vectors alone.
make_classic = make_envpool

_MASK = "legal_action_mask"  # In `info`, of games that have one.


def _info_names(pool) -> set[str]:
    """What a pool's `info` has at each step."""
    return {name.removeprefix("info:") for name in pool.spec.state_array_spec}


def _make_pool(task: str, seeds: Sequence[int], **options: Any):
    """Makes the envpool; refuses what would crash it or raise an empty message."""
    import envpool  # Takes seconds: only programs that need it pay.

    if task not in (known := envpool.list_all_envs()):
        if task.removesuffix("-v5") in atari_games.GAMES:
            raise errors.ArgumentError(
                f"env {task!r}: its ROM is missing; pip install --force-reinstall envpool-assets"
            )
        near = difflib.get_close_matches(task, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise errors.ArgumentError(f"unknown env {task!r}{hint}")
    _check_range("number of seeds", len(seeds), 1, None)
    for seed in seeds:
        _check_range("seed", seed, 0, 2**31 - 1)
    if "max_episode_steps" in options:
        _check_range("max_steps", options["max_episode_steps"], 1, None)
    _check_range("num_threads", options["num_threads"], 0, None)
    seeds = [int(seed) for seed in seeds]
    with warnings.catch_warnings():
        # Bounds given in float64 for float32 observations: nothing that a user could mend.
        warnings.filterwarnings("ignore", ".*precision lowered by casting.*", UserWarning)
        try:
            pool = envpool.make_gymnasium(task, num_envs=len(seeds), seed=seeds, **options)
        except ImportError as error:  # A library that the suite needs; the message names it.
            raise errors.ArgumentError(f"env {task!r}: {error}") from None
        pool.observation_space  # noqa: B018 (made at the first look, then kept)
    return pool


def _spec(pool, observation, action: types.ActionSpec, masked: bool = False) -> types.EnvSpec:
    """Describes the `pool`."""
    return types.EnvSpec(
        observation=observation,
        action=action,
        turn_sign=1,
        truncates=True,
        max_steps=int(pool.config["max_episode_steps"]),
        masked=masked,
    )


def image_spec(pool) -> types.EnvSpec:
    """Describes a `pool` of images, which are `[C, H, W]` there."""
    channels, height, width = (int(size) for size in pool.observation_space.shape)
    image = types.ArraySpec((height, width, channels), "uint8")
    return _spec(pool, image, spaces.acted(pool.action_space).spec)


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Images `[E, C, H, W]` as contiguous `[E, H, W, C]`."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1), np.uint8)


def wrap_pool(
    pool,
    spec: types.EnvSpec,
    num_envs: int,
    *,
    observe: Callable[[Any], types.Observation] = _channels_last,
    act: Callable[[np.ndarray], np.ndarray] = lambda action: action,
    over: str = "terminated",
    life_loss_is_end: bool = False,
) -> types.HostEnv:
    """Wraps a `pool`; between calls it remembers each environment's `last` flag and lives.

    `observe` turns the pool's observations into those of the spec, `act` our actions into the
    pool's. `info[over]`, where there is one, is true of a game that is over at the very limit.
    """
    memory: dict[str, np.ndarray] = {}

    def invalid(info):
        return ~np.asarray(info[_MASK], bool) if spec.masked else None

    def reset():
        observation, info = pool.reset()
        memory.update(last=np.zeros(num_envs, bool), lives=info.get("lives"))
        return types.TimeStep(
            observation=observe(observation),
            reward=np.zeros(num_envs, np.float32),
            discount=np.zeros(num_envs, np.float32),
            first=np.ones(num_envs, bool),
            last=np.zeros(num_envs, bool),
            invalid_actions=invalid(info),
        )

    def step(action):
        observation, reward, terminated, truncated, info = pool.step(act(action))
        first, last = memory["last"], terminated | truncated
        # envpool calls a game that is over at the very limit truncated; `info` of some says so.
        dead = terminated | (truncated & info.get(over, terminated).astype(bool))
        if life_loss_is_end:
            dead = dead | (info["lives"] < memory["lives"])
        memory.update(last=last, lives=info.get("lives"))
        return types.TimeStep(
            observation=observe(observation),
            reward=np.where(first, 0, reward).astype(np.float32),
            discount=np.where(first | dead, 0, 1).astype(np.float32),
            first=first,
            last=last,
            invalid_actions=invalid(info),
        )

    draws = getattr(pool, "render_mode", None) == "rgb_array"
    return check_host_env(
        types.HostEnv(
            spec=spec,
            num_envs=num_envs,
            reset=reset,
            step=step,
            draw=(lambda: [*pool.render(env_ids=range(num_envs))]) if draws else None,
        )
    )


def _check_range(name: str, value: float, low: float, high: float | None) -> None:
    """Raises a one-line ArgumentError unless `low <= value <= high`."""
    if value < low or (high is not None and value > high):
        allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise errors.ArgumentError(f"{name} {value} must be {allowed}")
