"""Whether the supports of the codecs hold what a run learns.

What a support does not hold is learned as its edge, which without a word would be a wrong value.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import codecs, errors, finite
from muzero_jax.replay import ReplayState
from muzero_jax.training import multihost
from muzero_jax.training.experiment import Agent
from muzero_jax.training.timing import Interval
from muzero_jax.types import Array, Codec, RunState, Transition

_ADVICE = "set codec.{0}.low and codec.{0}.high, which are numbers after codec.{0}.transform"


class Supports:
    """Refuses a run whose rewards are all outside, and warns once of each head's targets."""

    def __init__(self, agent: Agent):
        self._codecs = agent.codecs
        self._ranges = {
            "reward": jax.jit(lambda ring: _reward_range(ring, agent)),
            "value": jax.jit(lambda ring: _return_range(ring, agent)),
        }
        self._warmed_up = False
        self._warned: dict[str, bool] = {}  # Of each head to be warned of: whether it was.

    def note(self, news: dict[str, Any]) -> None:
        """Takes note of an iteration's metrics: of targets that lay outside."""
        for head in self._ranges:
            if news.get(f"train/{head}_outside", 0) > 0:  # NaN where there was no update.
                self._warned.setdefault(head, False)

    def look(self, run: RunState, interval: Interval) -> None:
        """Looks at the rewards once, after the warm-up, and warns of what was noted since.

        Raises:
          BadInputError: all rewards of the warm-up lie outside of their support.
        """
        if run.counters.updates and not self._warmed_up:
            self._warmed_up = True
            with interval.paused():
                self._check_rewards(run.replay)
        for head in [head for head, warned in self._warned.items() if not warned]:
            self._warned[head] = True
            with interval.paused():
                support = getattr(self._codecs, head)
                low, high, *_ = map(float, jax.device_get(self._ranges[head](run.replay)))
                multihost.print_once(
                    f"warning: {_sides(head, support, low, high)}: some {head} targets lie outside"
                    f" the support, which holds {support.low:.4g} to {support.high:.4g}, and are"
                    f" learned as its edge; those of the replay range from {low:.4g} to {high:.4g};"
                    f" {_ADVICE.format(head)}"
                )

    def _check_rewards(self, ring: ReplayState) -> None:
        low, high, number, outside = map(float, jax.device_get(self._ranges["reward"](ring)))
        support = self._codecs.reward
        if 0 < number == outside:
            raise errors.BadInputError(
                f"{_sides('reward', support, low, high)}: all {number:.0f} rewards of the warm-up"
                f" lie outside the support, which holds {support.low:.4g} to {support.high:.4g};"
                f" they range from {low:.4g} to {high:.4g}; {_ADVICE.format('reward')}, and the"
                " same of codec.value, which has to hold the returns"
            )


def _sides(head: str, support: Codec, low: float, high: float) -> str:
    """The fields that a range calls for."""
    wrong = {"low": low < support.low, "high": high > support.high}
    return " and ".join(f"codec.{head}.{side}" for side, x in wrong.items() if x) or f"codec.{head}"


def _reward_range(ring: ReplayState, agent: Agent) -> tuple[Array, Array, Array, Array]:
    """Least and greatest reward as it is learned, how many there are, how many lie outside."""
    rows = ring.rows
    written = jnp.arange(rows.reward.shape[1]) < ring.filled[:, None]
    # The rows of next-step resets bring no reward, nor do an environment's first row and padding.
    before = jnp.roll(rows.last | ~written, 1, axis=1)
    real = written & ~(rows.first & before) & ~finite.is_marked(rows.discount)
    reward = rows.reward if agent.reward_transform is None else agent.reward_transform(rows.reward)
    outside = codecs.outside(agent.codecs.reward, reward) & real
    return *_range(reward, real), jnp.sum(real), jnp.sum(outside)


def _return_range(ring: ReplayState, agent: Agent) -> tuple[Array, Array]:
    """Least and greatest n-step return of the rows that can be drawn, from stored values."""
    steps = ring.weights.shape[1]
    order = (ring.cursor[:, None] + jnp.arange(steps)) % steps  # The oldest row first.
    names = ("reward", "discount", "first", "last", "value", "explored")
    scalars = {name: jnp.take_along_axis(getattr(ring.rows, name), order, 1) for name in names}
    others = dict.fromkeys(Transition.__dataclass_fields__.keys() - scalars.keys())
    returns = jax.vmap(agent.stored_returns)(Transition(**scalars, **others))
    drawable = jnp.take_along_axis(ring.weights, order, 1)[:, : returns.shape[1]] > 0
    return _range(returns, drawable)


def _range(x: Array, where: Array) -> tuple[Array, Array]:
    return jnp.min(x, initial=np.inf, where=where), jnp.max(x, initial=-np.inf, where=where)
