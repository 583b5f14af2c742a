"""One mesh axis, `data`: environments, replay and batch are split over it, parameters are not.

What is split has a leading axis of all environments (E) and lies on the devices in blocks of equal
size, in the order of the mesh. A program is written for one shard; `shard` makes one of all.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any

import chex
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from muzero_jax.errors import BadInputError
from muzero_jax.types import Array, RunState

AXIS = "data"
SHARDED, REPLICATED = PartitionSpec(AXIS), PartitionSpec()


def backend() -> str:
    """The kind of device that JAX finds: "cpu", "gpu", "tpu".

    Raises:
      BadInputError: where `JAX_PLATFORMS` names one that is not there.
    """
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        named = f"JAX_PLATFORMS={asked}: " if asked else ""
        raise BadInputError(
            f"--platform: {named}JAX finds no such device{str(error) and f' ({error})'};"
            " is the extra 'cuda' or 'tpu' installed?"
        ) from None


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these devices, one where there is one; None: the first device alone."""
    return Mesh(np.array(jax.local_devices()[:1] if devices is None else devices), (AXIS,))


def shard(program: Callable[..., Any], mesh: Mesh, in_specs, out_specs) -> Callable[..., Any]:
    """`program`, written for one shard, over all devices of a mesh.

    Nothing checks that outputs of the spec `REPLICATED` are alike on all devices: mctx's loops do
    not pass that check, and under it a gradient would be summed before it can be averaged.
    """
    return jax.shard_map(
        program, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def shard_learn(learn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A `make_learn` function of one shard, or one like it, over all devices of a mesh."""
    return shard(learn, mesh, (REPLICATED, SHARDED, REPLICATED), (REPLICATED, SHARDED, REPLICATED))


def shard_key(key: chex.PRNGKey) -> chex.PRNGKey:
    """A key of this shard's own, inside a program of `shard`."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def shard_run(run: RunState, mesh: Mesh) -> RunState:
    """A run's arrays where they lie on the mesh, each with a buffer of its own, because loops
    donate them; shapes (`jax.ShapeDtypeStruct`) get shardings."""
    taken: set[int] = set()  # Buffers that have an owner.

    def own(leaf):
        if _buffers(leaf) & taken:
            leaf = jnp.copy(leaf)
        taken.update(_buffers(leaf))
        return leaf

    def put(spec, tree):
        sharding = NamedSharding(mesh, spec)
        leaves, treedef = jax.tree.flatten(tree)
        if leaves and isinstance(leaves[0], jax.ShapeDtypeStruct):
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in leaves]
            return jax.tree.unflatten(treedef, shapes)
        return jax.tree.map(own, jax.device_put(tree, sharding))

    split = put(SHARDED, run.replace(train=None, counters=None))
    return split.replace(train=put(REPLICATED, run.train), counters=run.counters)


def _buffers(array: Array) -> set[int]:
    """Where this process's parts of an array lie."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}


def put_rows(mesh: Mesh, tree: Any) -> Any:
    """NumPy rows `[e, ...]` of this process's environments as arrays split over the mesh."""
    sharding = NamedSharding(mesh, SHARDED)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def fetch(tree: Any) -> Any:
    """The arrays of a tree as NumPy: the only way in which loops read the device."""
    return jax.device_get(tree)


def local_shards(array: Array) -> list[Array]:
    """The blocks of a split array on this process's devices, in order; nothing is read."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return [shard.data for shard in shards]


def own_copy(tree: Any) -> Any:
    """This process's copy of arrays that are whole on every device, on its first device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def sum_over_processes(numbers: Sequence[float]) -> np.ndarray:
    """The sums of some host numbers; every process has to call it. One alone does not wait."""
    numbers = np.asarray(numbers, np.float64)
    if jax.process_count() == 1:
        return numbers
    # As bits, because JAX would round float64 to float32.
    gathered = multihost_utils.process_allgather(numbers.view(np.uint32))
    return np.sum(np.asarray(gathered).view(np.float64), axis=0)
