"""A diagnosis: the report as JSON, its verdict in words, its pictures, and a page of all three."""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from muzero_jax.diagnosis import beliefs, learning, page, pictures, verdict
from muzero_jax.training.experiment import Experiment
from muzero_jax.types import Params, RunState, Transition


class Diagnosis(NamedTuple):
    """What was found.

    Attributes:
      report: plain JSON, the verdict included.
      page: the same numbers, with pictures, as HTML that needs nothing but itself.
    """

    report: dict[str, Any]
    page: str


def make(
    experiment: Experiment,
    params: Params,
    episodes: list[Transition],
    *,
    task: str,
    origin: str,
    discount: float,
    key: chex.PRNGKey,
    run: RunState | None = None,
    scores: list[dict[str, Any]] | None = None,
    unit: str = "return",
    number: int = 512,
    depth: int | None = None,
) -> Diagnosis:
    """Diagnoses an agent.

    Args:
      experiment: on one device.
      params: that it plays with.
      episodes: that it has played with them, without noise, as `evaluation.recording` makes them.
      task: what it plays, in words.
      origin: of the numbers, in words: run, checkpoint, versions.
      discount: γ per step.
      key: of whatever is drawn.
      run: a resume point; without it there are no numbers of gradients, targets and replay.
      scores: of the same parameters with other numbers of simulations: `simulations`, `mean`, `low`
        and `high`.
      unit: of the scores.
      number: at most so many positions of the episodes.
      depth: of unrolls; None is twice what is learned.
    """
    agent = experiment.agent
    depth = depth or 2 * agent.window.unroll
    windows = beliefs.take_windows(
        episodes, agent, discount=discount, depth=depth, number=number
    )
    look_key, learn_key = jax.random.split(key)
    seen = beliefs.look(agent, params, windows, look_key)
    report = {
        "task": task,
        "from": origin,
        "two_players": agent.spec.turn_sign == -1,
        "episodes": len(episodes),
        "episode_steps_mean": float(np.mean(beliefs.lengths(episodes))),
        **beliefs.measure(agent, windows, seen),
    }
    report["units"]["dormant_share"] = beliefs.dormant_share(agent, params, windows)
    report["search"] = None if scores is None else {"unit": unit, "scores": scores}
    report["learning"] = None if run is None else learning.measure(experiment, run, learn_key)
    reasons = verdict.find(report)
    report["verdict"] = [x._asdict() for x in reasons]
    report["not_checked"] = verdict.unknown(report)
    shown = _pictures(report, windows, seen)
    return Diagnosis(report, page.render(report, reasons, shown))


def _pictures(
    report: dict[str, Any], windows: beliefs.Windows, seen: beliefs.Seen
) -> dict[str, list[str]]:
    """By the part of the report that they belong to."""
    # The position with the longest way on: of these the one that is worth the most.
    place = int(np.lexsort((windows.returns[:, 0], windows.inside.sum(1)))[-1])
    where = f"episode {windows.episode[place]}, step {windows.step[place]}"
    made = {
        "model": [
            *pictures.model_errors(report),
            pictures.trajectory(
                f"What came after {where}", seen.value[place], seen.real_value[place],
                windows.returns[place], windows.inside[place],
            ),
        ],
        "value": [pictures.calibration(report)],
        "units": [
            pictures.embeddings(beliefs.in_two_dimensions(seen.embedding), seen.value[:, 0])
        ],
        "search": [],
    }
    if report["search"] is not None:
        made["search"].append(pictures.scores(report))
    if seen.found.tree is not None:
        # Where search changes what is played, if it does anywhere.
        changed = np.flatnonzero(~seen.greedy)
        shown = int(changed[0]) if len(changed) else place
        tree = jax.tree.map(lambda x: x[shown], seen.found.tree)
        made["search"].append(pictures.search_tree(tree))
    return made
