"""Why an agent may not learn: checks of a report, each with its number and the field to change.

The thresholds were set on CartPole and catch, see docs/troubleshooting.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 3  # Reasons of a verdict.
_LEARNED = 0.2  # Of the spread of returns: values that differ by less are not learned yet.


class Check(NamedTuple):
    """One thing that can be wrong.

    Attributes:
      name: of the fault.
      number: `(report) -> ` what is compared; None where it cannot be told.
      threshold: beyond it the fault is named.
      below: whether "beyond" is below it.
      text: what it means, with `{number}` and `{threshold}`.
      field: what to change.
    """

    name: str
    number: Callable[[dict[str, Any]], float | None]
    threshold: float
    below: bool
    text: str
    field: str


class Reason(NamedTuple):
    """One reason of a verdict.

    Attributes:
      name: of the check.
      number: what was found.
      threshold: that it is beyond.
      text: in words.
      field: what to change.
    """

    name: str
    number: float
    threshold: float
    text: str
    field: str


def _get(report: dict[str, Any], *names: str) -> Any:
    for name in names:
        report = None if report is None else report.get(name)
    return report


def _reward_gradient(report) -> float | None:
    norms = _get(report, "learning", "grad_norm")
    if norms is None or not _get(report, "model", "reward_size"):
        return None
    return norms["reward"] / max(norms["value"] + norms["policy"], 1e-12)


def _lag(report) -> float | None:
    target = _get(report, "learning", "target_network")
    return target["lag"] if target and target["is_read"] else None


def _agreement(report) -> float | None:
    """Only where the turn changes can a sign be wrong; and only values that differ as returns do
    have one: those of a network that has hardly learned are alike in positions that are."""
    if not report.get("two_players"):
        return None
    learned = report["value"]["spread"] > _LEARNED * report["model"]["return_spread"]
    return report["value"]["correlation_with_next"] if learned else None


# In the order in which they are to be mended: what comes first is the cause of what follows.
CHECKS = (
    Check(
        "observations",
        lambda report: _get(report, "units", "embedding_spread"),
        0.02,
        True,
        "the network hardly tells positions apart: embeddings differ by {number} of their size"
        " (at least {threshold} is healthy), so observations reach it as good as constant",
        "what scales or hides the observation: env, or the network's input",
    ),
    Check(
        "value_support",
        lambda report: _get(report, "support", "value_outside"),
        0.02,
        False,
        "{number} of the real returns lie outside of the value's support (at most {threshold} is"
        " healthy), and are learned as its edge",
        "codec.value.low and codec.value.high",
    ),
    Check(
        "reward_support",
        lambda report: _get(report, "support", "reward_outside"),
        0.02,
        False,
        "{number} of the real rewards lie outside of the reward's support (at most {threshold} is"
        " healthy), and are learned as its edge",
        "codec.reward.low and codec.reward.high",
    ),
    Check(
        "reward_head",
        _reward_gradient,
        1e-3,
        True,
        "the reward head gets next to no gradient: {number} of the other heads' (at least"
        " {threshold} is healthy), so the model is not taught what actions earn",
        "loss.reward_weight, or a loss of one's own",
    ),
    Check(
        "sign",
        _agreement,
        -0.1,
        True,
        "values contradict those of the next position, seen by the other player: their correlation"
        " is {number} (above {threshold} is healthy), as where a value has the sign of the wrong"
        " player",
        "turn_sign of the environment, or targets of one's own",
    ),
    Check(
        "learning_rate",
        lambda report: _get(report, "learning", "update_size"),
        0.02,
        False,
        "one update moves the parameters by {number} of their first size (at most {threshold} is"
        " healthy): they jump about",
        "optimizer.learning_rate",
    ),
    Check(
        "target_network",
        _lag,
        0.9,
        False,
        "returns bootstrap from a target network that has hardly moved: it is {number} of the way"
        " back to the first parameters (at most {threshold} is healthy)",
        "targets.target_interval_updates",
    ),
    Check(
        "simulations",
        lambda report: _get(report, "policy", "tried", "mean"),
        1.5,
        True,
        "a search tries {number} actions at its root (at least {threshold} is healthy): it cannot"
        " compare them, so the policy has nothing to learn from it",
        "search.num_simulations",
    ),
    Check(
        "stale_replay",
        lambda report: _get(report, "learning", "replay", "age_share"),
        0.75,
        False,
        "what is drawn from replay is old: its policies were made {number} of all updates ago on"
        " average (at most {threshold} is healthy)",
        "replay.min_rows, replay.rows_per_env, or reanalyse.fraction",
    ),
)


def find(report: dict[str, Any]) -> list[Reason]:
    """The most likely reasons why an agent does not learn, the first cause first.

    Args:
      report: of `report.make`.

    Returns:
      At most `MOST`; none where no check is beyond its threshold.
    """
    found = []
    for check in CHECKS:
        number = check.number(report)
        if number is None:
            continue
        if number < check.threshold if check.below else number > check.threshold:
            text = check.text.format(number=f"{number:.3g}", threshold=f"{check.threshold:g}")
            found.append(Reason(check.name, number, check.threshold, text, check.field))
    return found[:MOST]


def unknown(report: dict[str, Any]) -> list[str]:
    """The names of checks for which the report has no number."""
    return [check.name for check in CHECKS if check.number(report) is None]
