"""Warnings of a policy that has collapsed, from a run's lines of metrics.

A policy that became certain before it was good makes its own data, sees no more rewards, and
confirms itself: a run can go on like this to its end. The returns of the first episodes stand for
those of random play.
"""

from collections.abc import Iterable
import math
from typing import Any

from muzero_jax.training import multihost

FIRST_EPISODES = 20  # Their mean return stands for random play.
LINES = 3  # So many lines in a row make a collapse.
CERTAIN = 0.05  # An entropy below this share of that of the uniform policy is near 0.
# Episodes that take so many times as long as the first ones have stopped ending. CartPole's best
# ones take 25 times as long, and those of all environments may end at the same time.
SILENCE = 30

_ADVICE = (
    "raise min_value_range, below which the search takes differences of Q for noise,"
    " value_error_scale or random_move"
)


class Collapse:
    """Warns once of each sign of a collapse.

    Args:
      num_actions: A; None where there is no such number: then entropies are not looked at.
      num_envs: E, environments that play at the same time.
      before: the lines of metrics of the run so far.
    """

    def __init__(
        self, *, num_actions: int | None, num_envs: int, before: Iterable[dict[str, Any]] = ()
    ):
        self._uniform = None if num_actions is None else math.log(num_actions)
        self._num_envs = num_envs
        self._first = {"episodes": 0.0, "returns": 0.0, "env_steps": 0}
        self._best = 0.0  # Of the evaluations whose games mostly came to an end.
        self._certain = 0  # Lines in a row.
        self._ended_at = 0  # Env steps of the newest line in which an episode has ended.
        self._warned: set[str] = set()
        for record in before:
            self._signs(record)

    def look(self, record: dict[str, Any]) -> None:
        """Takes a line of metrics, and warns of what it shows for the first time."""
        for sign, text in self._signs(record).items():
            if sign not in self._warned:
                self._warned.add(sign)
                multihost.print_once(f"warning: {text}; {_ADVICE}")

    def _signs(self, record: dict[str, Any]) -> dict[str, str]:
        """The signs of a collapse after one more line."""
        episodes, entropy = record.get("train/episodes"), record.get("train/policy_entropy")
        if episodes is None:
            return self._signs_of_evaluation(record)
        env_steps, first = record["env_steps"], self._first
        if episodes:
            self._ended_at = env_steps
        if first["episodes"] < FIRST_EPISODES:
            if episodes:
                first["episodes"] += episodes
                first["returns"] += episodes * record["train/return_mean"]
            first["env_steps"] = env_steps
            return {}
        level, length = first["returns"] / first["episodes"], first["env_steps"] / first["episodes"]
        signs = {}
        # Without an episode there is no return to compare.
        if episodes and None not in (entropy, self._uniform):
            worthless = record["train/return_mean"] <= level
            certain = entropy < CERTAIN * self._uniform
            self._certain = self._certain + 1 if worthless and certain else 0
            if self._certain >= LINES:
                signs["certain"] = (
                    f"the policy is certain (entropy {entropy:.2g} of at most {self._uniform:.3g})"
                    f" and its return of {record['train/return_mean']:.4g} no better than the"
                    f" {level:.4g} of the first episodes"
                )
        silent = env_steps - self._ended_at
        if silent > SILENCE * self._num_envs * length:
            signs["silent"] = (
                f"no episode has ended for {silent} env steps, the first ones took {length:.0f}"
                " each: if the agent does not play that well, it idles"
            )
        return signs

    def _signs_of_evaluation(self, record: dict[str, Any]) -> dict[str, str]:
        """The sign of an evaluation: its games no longer end, and bring less than they did.

        A task whose games always last to a limit has no such sign, nor one whose returns are below
        0; an agent that plays long because it plays well gets more than before.
        """
        score, games = record.get("eval/return_mean"), record.get("eval/returns")
        if not games or not math.isfinite(score):
            return {}
        cut = record.get("eval/episodes_cut", 0)
        if cut <= len(games) / 2:
            self._best = max(score, self._best)
            return {}
        if self._best <= 0 or score >= self._best / 2:
            return {}
        return {
            "idle": (
                f"{cut} of {len(games)} evaluation games were cut off at their limit of steps, and"
                f" the return of {score:.4g} is less than half of the {self._best:.4g} before:"
                " the agent idles"
            )
        }
