"""A trained agent back from the folder of its run."""

from collections.abc import Collection
from pathlib import Path

import jax

from muzero_jax.config import build, runs, schema
from muzero_jax.player import Player
from muzero_jax.training import saving
from muzero_jax.training.experiment import Agent


def load_agent(
    folder: Path | str,
    agent: Agent | None = None,
    *,
    step: int | str | None = None,
    allow: Collection[str] = (),
    seed: int = 0,
) -> Player:
    """The agent of a run, with the newest parameters that it has saved, or those of `step`.

    Args:
      folder: of the run.
      agent: that it was trained with; a run made by a config needs none.
      step: the number of a save, see the folders `params` and `checkpoints`; or "best", the
        parameters whose evaluation in the run was best.
      allow: the modules of the user's own that the run's config may name, such as
        ("my_networks",): nothing else that it names is imported.
      seed: of what the search draws even without noise.

    Raises:
      BadInputError: where there is no run or no save, or where a run was made by code and the
        agent is missing or another one.
    """
    folder = Path(folder)
    if agent is None:
        with runs.refused_by(folder, flag="load_agent"):
            config = schema.check(runs.read_config(folder, flag="load_agent"))
        agent = build.experiment(config, allow=allow).agent
    abstract = jax.eval_shape(agent.network.init, jax.random.key(0))
    _, params, _ = saving.newest_params(folder, abstract, flag="load_agent", step=step)
    return Player(
        agent.search,
        agent.spec,
        params,
        history_steps=agent.window.history,
        seed=seed,
    )
