"""Where a process begins: a new run, or the newest resume point of an old one."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import assemble
from muzero_jax import errors, mesh
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.types import Counters, Params, RunState
import peers
from saved_params import counters_of, newest_params


def saved_tree(run: RunState) -> dict[str, Any]:
    """What a resume point holds; counters stand in its JSON. Params alone are easy to read."""
    rest = run.replace(train=run.train.replace(params=None), counters=None)
    return {"params": run.train.params, "rest": rest}


def start(
    experiment: assemble.Experiment,
    store: CheckpointStore,
    written: list[dict],
    warm: Params | None = None,
) -> tuple[RunState, dict[str, Any]]:
    """The newest resume point, or a new run (from `warm` parameters); and the meta of it.

    `written` are the lines of metrics that are there already.
    """
    found = store.restore(saved_tree(_placed_shapes(experiment)))
    resumes = max((record["resumes"] for record in written), default=-1) + 1
    if found is None:
        run = new_run(experiment, warm)
        return run.replace(counters=Counters(resumes=resumes)), {"wall_s": 0.0}
    _, tree, meta = found
    counters = counters_of(meta, "the newest resume point")
    if not isinstance(meta.get("wall_s"), int | float):
        raise errors.BadInputError(f"the newest resume point has wall_s {meta.get('wall_s')!r}")
    counters = counters._replace(resumes=max(resumes, counters.resumes + 1))
    run = tree["rest"]
    on_host = run.env is None and run.acting is not None
    peers.tell(
        f"resuming at {counters.env_steps} env steps, {counters.updates} updates"
        f" (resume {counters.resumes})" + ("; new episodes begin" if on_host else "")
    )
    run = run.replace(train=run.train.replace(params=tree["params"]), counters=counters)
    return run, meta


def _placed_shapes(experiment: assemble.Experiment) -> RunState:
    return mesh.place(jax.eval_shape(experiment.fresh), experiment.mesh)


def new_run(experiment: assemble.Experiment, warm: Params | None = None) -> RunState:
    """The state of a run that begins now, on its devices; with the parameters `warm`, or fresh."""
    shapes = _placed_shapes(experiment).replace(counters=None)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    fresh = lambda: experiment.fresh().replace(counters=None)  # noqa: E731
    run = jax.jit(fresh, out_shardings=shardings)().replace(counters=Counters())
    if warm is None:
        return run
    params = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), jax.device_get(warm), run.train.params
    )
    # Each its own buffers: both are donated.
    target_params = jax.tree.map(jnp.copy, params)
    return run.replace(train=run.train.replace(params=params, target_params=target_params))


def warm_params(experiment: assemble.Experiment, init_from: str) -> tuple[Params, dict[str, Any]]:
    """The newest parameters in `init_from`, and what `config.json` tells of where they are from."""
    abstract = jax.eval_shape(experiment.fresh).train.params
    step, params, meta = newest_params(Path(init_from), abstract, flag="--init_from")
    env_steps = meta["counters"]["env_steps"]
    return params, {"workdir": init_from, "iteration": step, "env_steps": env_steps}


def has_stopped(run: RunState, written: list[dict], stop_at: float | None) -> bool:
    """Whether an evaluation up to this point has already ended the run."""
    return stop_at is not None and any(
        record["eval/return_mean"] >= stop_at
        for record in written
        if record.get("eval/return_mean") is not None  # null: it was not finite.
        and record["env_steps"] <= run.counters.env_steps
    )


def is_owed(meta: dict, written: list[dict]) -> bool:
    """Whether an evaluation was due at this resume point, and the process ended before it was."""
    return meta.get("evaluation_due", False) and not any(
        "eval/return_mean" in record and record["env_steps"] == meta["counters"]["env_steps"]
        for record in written
    )
