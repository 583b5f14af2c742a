"""Rows with numbers that are not finite: found, cleaned and marked where data enter.

A number counts as not finite where it is NaN, infinite, or so large that its square overflows. In
its place a 0 is stored, so that neither histories nor saved states hold it, and the row is marked.
The replay draws no window with a marked row in it (`replay.py`): what stands there is never
learned. The mark lies in the row's `discount`, which has no meaning there; it says which fields
were not finite, survives a save, and costs no field of its own.
"""

from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax.types import Array, TimeStep, Transition

LIMIT = 1e18  # What is beyond counts as not finite: its square overflows in float32.

# What can be not finite; field i is bit i of a fault.
FIELDS = ("reward", "observation", "discount", "policy", "value", "action")

_MARK = 1024.0  # Marked rows have this discount plus their faults; true ones are -1, 0 or 1.

Rows = TypeVar("Rows", TimeStep, Transition)


def faults(rows: TimeStep | Transition) -> Array:
    """Which `FIELDS` of rows `[...]` are not finite, or were before `clean`: uint8 `[...]`, 0 where
    all is well. Fields of whole numbers cost nothing."""
    chex.assert_tree_shape_prefix(rows, rows.reward.shape)
    marked = is_marked(rows.discount)
    found = jnp.where(marked, rows.discount - _MARK, 0.0).astype(jnp.uint8)
    for bit, name in enumerate(FIELDS):
        for x in jax.tree.leaves(getattr(rows, name, None)):
            if jnp.issubdtype(x.dtype, jnp.floating):
                inner = tuple(range(rows.reward.ndim, x.ndim))
                found |= (~jnp.all(_is_finite(x), axis=inner)).astype(jnp.uint8) << bit
    return found


def clean(rows: Rows) -> Rows:
    """The same rows `[...]` with 0 for what is not finite, and those that held it marked."""
    found = faults(rows)

    def zeroed(x):
        return jnp.where(_is_finite(x), x, 0) if jnp.issubdtype(x.dtype, jnp.floating) else x

    fields = {name: jax.tree.map(zeroed, getattr(rows, name, None)) for name in FIELDS}
    fields["discount"] = jnp.where(found > 0, _MARK + found, fields["discount"])
    return rows.replace(**{name: x for name, x in fields.items() if x is not None})


def is_marked(discount: Array) -> Array:
    """Whether rows with these discounts `[...]` held what is not finite, bool `[...]`."""
    return (discount >= _MARK) & (discount < 2 * _MARK)  # An infinite one is no mark yet.


def count(found: Array) -> dict[str, Array]:
    """How many rows of `faults` `[...]` have one, as `rows`, and how many in each of `FIELDS`.

    Each is int32 `[]`, of NumPy arrays one of NumPy.
    """
    bits = {name: (found >> np.uint8(bit)) & np.uint8(1) for bit, name in enumerate(FIELDS)}
    flags = {"rows": found > 0} | {name: x > 0 for name, x in bits.items()}
    return {name: x.sum(dtype=np.int32) for name, x in flags.items()}


def _is_finite(x: Array) -> Array:
    # In float32: the limit is infinite in float16.
    return jnp.abs(x.astype(jnp.float32)) <= LIMIT
