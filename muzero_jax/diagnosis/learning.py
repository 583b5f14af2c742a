"""What a resume point shows of learning: gradients, one more update, the target network, replay."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import losses, mesh
from muzero_jax.acting import NO_EXPLORATION
from muzero_jax.training.experiment import Experiment
from muzero_jax.types import Array, Params, RunState, Sample

_EXAMPLES = 128
_HEADS = ("reward", "value", "policy")


def measure(
    experiment: Experiment, run: RunState, key: chex.PRNGKey
) -> dict[str, Any] | None:
    """The numbers of a report that come from a resume point, as JSON; None where replay is empty.

    Args:
      experiment: on one device.
      run: its `train` and `replay` are read; nothing of it is changed.
      key: of the examples and of whatever an update draws.
    """
    agent, weights = experiment.agent, np.asarray(jax.device_get(run.replay.weights))
    if not (weights > 0).any():
        return None
    sample_key, target_key, search_key, update_key = jax.random.split(key, 4)
    draw = jax.jit(lambda state, key: experiment.replay.sample(state, key, _EXAMPLES))
    sample = draw(run.replay, sample_key)
    # The parameters that the run began with, unless it was given others.
    fresh = jax.jit(lambda: experiment.init().train.params)()
    return {
        "updates": int(run.train.step),
        "grad_norm": _grad_norms(experiment, run, sample, target_key),
        "update_size": _update_size(experiment, run, fresh, update_key),
        "target_network": _target_network(experiment, run, fresh, sample, target_key),
        "replay": _replay(experiment, run, weights)
        | _staleness(agent, run.train.params, sample, search_key),
    }


def _grad_norms(
    experiment: Experiment, run: RunState, sample: Sample, key: chex.PRNGKey
) -> dict[str, float]:
    """The norm of the loss's gradient on the parameters that one head alone depends on, by head,
    and on all others ("shared")."""
    agent, params = experiment.agent, run.train.params

    @jax.jit
    def gradients(params, target_params, tracked):
        old = target_params
        if agent.tracker is not None:
            old = agent.tracker.old_params(tracked, old)
        target_key, loss_key = jax.random.split(key)
        targets = agent.targets(params, old, target_key, sample)

        def mean(name):
            def of(params):
                value, aux = agent.loss(params, loss_key, sample, targets)
                return jnp.mean(value if name is None else aux[f"{name}_loss"])

            return jax.grad(of)(params)

        names = [None, *_HEADS]
        return {str(name): jax.tree.map(_norm, mean(name)) for name in names}

    found = jax.device_get(gradients(params, run.train.target_params, run.train.tracked))
    leaves = {name: np.array(jax.tree.leaves(tree)) for name, tree in found.items()}
    whole = leaves.pop("None")
    touched = {name: x > 0 for name, x in leaves.items()}
    number = sum(x.astype(int) for x in touched.values())
    own = {name: x & (number == 1) for name, x in touched.items()}
    shared = ~np.any(list(own.values()), axis=0)
    return {
        name: float(np.sqrt(np.square(whole[where]).sum()))
        for name, where in (own | {"shared": shared}).items()
    }


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def _distance(x: Params, y: Params) -> float:
    squares = jax.tree.map(lambda a, b: np.square(np.asarray(a, np.float64) - b).sum(), x, y)
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def _update_size(
    experiment: Experiment, run: RunState, fresh: Params, key: chex.PRNGKey
) -> float:
    """How far one more update moves the parameters, as a share of the norm of fresh ones."""
    learn = jax.jit(mesh.shard_learn(experiment.learn, experiment.mesh))
    after, _, _ = learn(run.train, run.replay, key)
    before, after, fresh = jax.device_get((run.train.params, after.params, fresh))
    nothing = jax.tree.map(np.zeros_like, fresh)
    return _distance(before, after) / max(_distance(fresh, nothing), 1e-12)


def _target_network(
    experiment: Experiment, run: RunState, fresh: Params, sample: Sample, key: chex.PRNGKey
) -> dict[str, Any]:
    """Whether targets depend on the target network, and how far behind it is: its distance from
    the parameters as a share of their distance from the fresh ones."""
    agent, train = experiment.agent, run.train
    if agent.tracker is not None:
        return {"is_read": None, "lag": None}
    make = jax.jit(agent.targets)
    now, others = (
        jax.device_get(make(train.params, old, key, sample).value)
        for old in (train.params, fresh)
    )
    way = _distance(*jax.device_get((train.params, fresh)))
    lag = _distance(*jax.device_get((train.params, train.target_params))) / max(way, 1e-12)
    return {"is_read": bool(np.abs(now - others).max() > 1e-6), "lag": lag}


def _replay(experiment: Experiment, run: RunState, weights: np.ndarray) -> dict[str, Any]:
    """Ages and priorities of the rows that can be drawn, and entropies of their policies."""
    rows, drawable = run.replay.rows, weights > 0
    made, policy, invalid = jax.device_get(
        (rows.made_at_updates, rows.policy, rows.invalid_actions)
    )
    updates = max(int(run.counters.updates), 1)
    age = updates - made[drawable]
    drawn = weights[drawable]
    entropy = most = None
    if experiment.agent.spec.action.is_discrete and not isinstance(policy, dict):
        policy = policy.reshape(*weights.shape, -1)[drawable].astype(np.float64)
        entropy = float(-np.sum(policy * np.log(np.maximum(policy, 1e-30)), axis=-1).mean())
        legal = policy.shape[-1]
        if invalid is not None:
            legal = (~invalid.reshape(*weights.shape, -1)[drawable]).sum(-1)
        most = float(np.mean(np.log(legal)))
    return {
        "rows": int(drawable.sum()),
        "age_mean": float(age.mean()),
        "age_share": float(age.mean() / updates),
        "effective_share": float(drawn.sum() ** 2 / (np.square(drawn).sum() * len(drawn))),
        "target_entropy": entropy,
        "most_entropy": most,
    }


def _staleness(agent, params: Params, sample: Sample, key: chex.PRNGKey) -> dict[str, Any]:
    """How many nats stored policies are from what a search of the same rows finds today, of the
    older and of the newer half; None where a policy is not one over all actions."""
    steps = agent.window.history
    stored = jax.device_get(jax.tree.map(lambda x: x[:, steps], sample.rows.policy))
    if isinstance(stored, dict) or not agent.spec.action.is_discrete:
        return {"stale_nats_old": None, "stale_nats_new": None}

    @jax.jit
    def again(params, sample):
        invalid = sample.rows.invalid_actions
        invalid = None if invalid is None else invalid[:, steps]
        history = losses.root_history(sample, steps)
        return agent.search(params, key, history, invalid, NO_EXPLORATION).policy

    fresh = np.asarray(jax.device_get(again(params, sample)), np.float64)
    stored = np.asarray(stored, np.float64).reshape(fresh.shape)
    nats = np.sum(stored * (np.log(np.maximum(stored, 1e-9)) - np.log(np.maximum(fresh, 1e-9))), -1)
    order = np.argsort(jax.device_get(sample.rows.made_at_updates[:, steps]), kind="stable")
    old, new = np.array_split(nats[order], 2)
    return {"stale_nats_old": float(old.mean()), "stale_nats_new": float(new.mean())}
