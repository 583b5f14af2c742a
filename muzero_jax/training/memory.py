"""What a run will need in memory, checked before anything is compiled or allocated."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend import core

from muzero_jax import acting, errors, mesh
from muzero_jax.training.experiment import Agent, Experiment

GIB = 2**30


class Budget(NamedTuple):
    """Bytes on one device.

    Attributes:
      replay: the ring.
      train: parameters, target parameters, optimizer.
      acting: histories, environment states.
      tree: of one search; part of `act`.
      act: all that acting holds for a moment beside the above, its search tree included.
      learn: the same for one update: batch, activations, gradients.
      evaluate: the same for the search of an evaluation, with its histories.
      save: on a CPU, the copy that is written out while the run goes on; elsewhere the copy is in
        the host's memory, and this is 0.
    """

    replay: int
    train: int
    acting: int
    tree: int
    act: int
    learn: int
    evaluate: int
    save: int

    @property
    def peak(self) -> int:
        """The most that is held at one time."""
        resident = self.replay + self.train + self.acting + self.save
        return resident + max(self.act, self.learn, self.evaluate)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_size(x)}" for name, x in self._asdict().items())
        return f"memory: {parts}; at most {_size(self.peak)} at a time"


def estimate(experiment: Experiment) -> Budget:
    """The budget of an experiment; its programs are traced, never compiled."""
    agent = experiment.agent
    run = jax.eval_shape(experiment.init)
    shards = experiment.mesh.size
    act, tree = _act(agent, run.train.params, experiment.acting_batch)
    carry = functools.partial(acting.init_carry, agent.spec, 1, agent.window.history)
    held = num_bytes(jax.eval_shape(carry))  # An evaluation has histories of its own.
    evaluate = experiment.scoring_batch * (act // experiment.acting_batch + held)
    if experiment.data is not None:  # It acts in evaluations alone.
        act = tree = 0
    else:  # A rollout is stored as a whole.
        rows_per_env = run.replay.weights.shape[1]
        act += num_bytes(run.replay) // shards * experiment.rows_at_once // rows_per_env
    replay, train = num_bytes(run.replay) // shards, num_bytes(run.train)
    rest = num_bytes((run.acting, run.env, run.timestep)) // shards
    learn = mesh.shard_learn(experiment.learn, experiment.mesh)
    return Budget(
        replay=replay,
        train=train,
        acting=rest,
        tree=tree,
        act=act,
        learn=peak_bytes(jax.make_jaxpr(learn)(run.train, run.replay, _key()).jaxpr),
        evaluate=evaluate,
        save=replay + train + rest if jax.default_backend() == "cpu" else 0,
    )


def check(budget: Budget, available: int | None = None) -> None:
    """Refuses what does not fit into `available` bytes (None: into the first device).

    Raises:
      BadInputError: naming the largest part and the field that lowers it.
    """
    available = free_bytes() if available is None else available
    if available is None or budget.peak <= available:
        return
    lower = {
        "replay": "rows_per_env",
        "train": "the size of the network",
        "acting": "num_envs",
        "act": "num_envs",
        "learn": "batch_size",
        "evaluate": "the games played at a time in evaluations",
    }
    largest = max(lower, key=lambda name: getattr(budget, name))
    raise errors.BadInputError(
        f"the run needs {_size(budget.peak)} of {_size(available)} free, {largest}"
        f" {_size(getattr(budget, largest))} of it; lower {lower[largest]}"
    )


def free_bytes() -> int | None:
    """What the first device has left; for a CPU, what this process may still take."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if jax.default_backend() != "cpu":
        return None
    free = _free_host_bytes()
    return free and free // jax.local_device_count()  # Those of a CPU share its memory.


def _free_host_bytes() -> int | None:
    """The least that Linux promises: of the machine, and of the container's memory limit."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")]
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(kinds["active_file"]) + int(kinds["inactive_file"])  # Given back when needed.
        used = int((group / "memory.current").read_text()) - files
        found.append(int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):
        pass  # No limit ("max"), or not such a system.
    return min(found, default=None)


def _act(agent: Agent, params, num_envs: int) -> tuple[int, int]:
    """(bytes while a batch is searched, bytes of its tree)."""
    spec, history_steps = agent.spec, agent.window.history
    carry = jax.eval_shape(lambda: acting.init_carry(spec, num_envs, history_steps))
    timestep = jax.eval_shape(lambda: acting.blank_timestep(spec, num_envs))
    explore = acting.NO_EXPLORATION
    program = functools.partial(acting.act, agent.search)
    jaxpr = jax.make_jaxpr(program)(params, _key(), carry, timestep, explore).jaxpr
    history = carry.history
    embedding = jax.eval_shape(agent.network.initial_inference, params, history).embedding
    nodes = agent.num_simulations + 1
    # Five numbers of each node and six of each of its edges (mctx.Tree).
    numbers = 4 * num_envs * (5 + 6 * agent.num_edges)
    tree = nodes * (num_bytes(embedding) + numbers)
    return peak_bytes(jaxpr) + num_bytes(timestep), tree


def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays, or their shapes, in a pytree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


# Their outputs are views, or are made where they are read.
_FREE = {"broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims", "transpose"}
# Their outputs cannot take the place of an input.
_APART = {"dot_general", "conv_general_dilated", "gather", "sort", "rev"}
_WRITES = ("scatter", "dynamic_update_slice")


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """The most bytes that are live at one time beside the program's inputs.

    A value lives from the equation that makes it to the last that reads it; one that is read for
    the last time gives its place to an output of its size. Inputs count as donated, but one that
    was read before it is written in part is copied. What a compiler fuses away is counted.
    """
    last_read = {}
    for i, equation in enumerate(jaxpr.eqns):
        last_read |= dict.fromkeys(_variables(equation.invars), i)
    last_read |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    sizes = dict.fromkeys((*jaxpr.invars, *jaxpr.constvars), 0)  # What each live value adds.
    inputs = set(jaxpr.invars)
    read_inputs: set[core.Var] = set()
    live = most = copied = 0
    for i, equation in enumerate(jaxpr.eqns):
        dying = {v for v in _variables(equation.invars) if last_read[v] == i and v in sizes}
        name = equation.primitive.name
        places = [] if name in _APART else [(_bytes(v), v) for v in dying]
        if name.startswith(_WRITES):
            copied += sum(_bytes(v) for v in dying & read_inputs)
        read_inputs |= {v for v in _variables(equation.invars) if v in inputs}
        inner = max((peak_bytes(x) for x in _inner(equation)), default=0)
        made = 0
        for v in equation.outvars:
            size = _bytes(v)
            place = next((p for p in places if p[0] == size), None)
            if place:  # Written over an input: what that one added, this one adds from now on.
                places.remove(place)
                sizes[v] = sizes[place[1]]
                sizes[place[1]] = 0
            else:
                sizes[v] = 0 if name in _FREE else size
                made += sizes[v]
        most = max(most, live + max(inner, made))
        live += made - sum(sizes.pop(v) for v in dying)
        live -= sum(sizes.pop(v) for v in equation.outvars if v not in last_read)
    return most + copied


def _variables(atoms) -> list[core.Var]:
    return [x for x in atoms if not isinstance(x, core.Literal)]


def _bytes(variable) -> int:
    aval = variable.aval
    itemsize = getattr(aval.dtype, "itemsize", 8)  # A key is two words.
    return math.prod(aval.shape) * itemsize


def _inner(equation) -> list[core.Jaxpr]:
    """The programs inside an equation: bodies of loops, branches, calls."""
    found = []
    for parameter in equation.params.values():
        for x in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if isinstance(x, core.ClosedJaxpr):
                found.append(x.jaxpr)
            elif isinstance(x, core.Jaxpr):
                found.append(x)
    return found


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
