"""Who a run can be played against, by name."""

from pathlib import Path

import jax

from muzero_jax.config import build, runs
from muzero_jax.config.schema import RANGES, TASK_FIELDS
from muzero_jax.errors import ArgumentError, BadInputError
from muzero_jax.evaluation import actors
from muzero_jax.evaluation.scoring import Side, simple_side
from muzero_jax.search.uct import make_uct_search
from muzero_jax.training import saving
from muzero_jax.training.run_folder import local_path
from muzero_jax.types import Env

KINDS = "random, perfect, mcts:SIMULATIONS, exhaustive, or the folder of a run (WORKDIR[@STEP])"


def make(name: str, config, env: Env, *, flag: str = "--opponent") -> Side:
    """The opponent that `name` means, in the games of `config`.

    Raises:
      BadInputError: where there is no such opponent for this game; it begins with `flag`.
    """
    if name in ("random", "perfect"):
        try:
            return simple_side(name, config.env.game, env.spec)
        except ArgumentError as error:
            raise BadInputError(f"{flag}: {error}") from None
    kind, _, number = name.partition(":")
    if kind == "mcts":
        allowed = RANGES["search.num_simulations"]
        # Python reads no number of thousands of digits.
        if not number.isdecimal() or len(number) > 9 or allowed.wanted(int(number)):
            raise BadInputError(
                f"{flag}: mcts needs its simulations, 1 to {allowed.high}, e.g. mcts:400"
                f" (got {name[:40]!r})"
            )
        return Side(_true_model_search(env, int(number)), (), name)
    return _other_run(name, config, flag)


def _true_model_search(env: Env, num_simulations: int) -> actors.Actor:
    search = make_uct_search(env, num_simulations=num_simulations)

    def choose(carry, key, env_state, timestep):
        del carry
        return search(key, env_state, timestep).action

    return actors.without_memory(choose)


def _other_run(name: str, config, flag: str) -> Side:
    """The search of another run, with its own config and the parameters of one of its saves."""
    name = local_path(name, flag)
    folder, _, number = name.rpartition("@")
    step = int(number) if folder and number.isdecimal() and not Path(name).exists() else None
    workdir = Path(name if step is None else folder)
    if not (workdir / "config.json").exists():
        raise BadInputError(f"{flag}: {name!r} is none of {KINDS}")
    with runs.refused_by(workdir, flag=flag):
        other = runs.read_config(workdir)
        games = [(x.env.suite, x.env[TASK_FIELDS[x.env.suite]]) for x in (config, other)]
        if games[0] != games[1]:
            raise BadInputError(f"{flag}: {workdir} plays {games[1][1]}, this run {games[0][1]}")
    agent = build.experiment(other).agent
    abstract = jax.eval_shape(agent.network.init, jax.random.key(0))
    step, params, _ = saving.newest_params(workdir, abstract, flag=flag, step=step)
    return Side(build.player(agent, "search"), params, f"{workdir}@{step}")
