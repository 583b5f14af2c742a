"""Spaces of gymnasium's kind as our specs, and what comes from or goes to such an environment.

Nothing is imported from gymnasium: a space is known by its attributes (`n`, `nvec`, `low`, `shape`,
`spaces`), so that those of gymnasium, gym and one's own serve alike.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from muzero_jax.errors import ArgumentError, EnvError
from muzero_jax.types import ActionSpec, ArraySpec, Observation


class Observed(NamedTuple):
    """How observations of a space are served.

    Attributes:
      spec: for `EnvSpec.observation`.
      convert: what the environment returned, with any number of leading axes, as arrays of their
        own. It raises `EnvError` for what the space does not contain.
    """

    spec: ArraySpec | dict[str, ArraySpec]
    convert: Callable[[Any], Observation]


class Acted(NamedTuple):
    """How actions of a space are served.

    Attributes:
      spec: for `EnvSpec.action`.
      convert: our actions `[..., *shape]` of NumPy as the environment wants them.
    """

    spec: ActionSpec
    convert: Callable[[np.ndarray], np.ndarray]


def observed(space: Any, *, leave_out: Sequence[str] = ()) -> Observed:
    """Our observations for those of a space.

    uint8 and bool stay as they are (images `(H, W, C)`), other numbers become float32; a choice
    becomes one-hot, several their one-hots in order, both bool. A dict or tuple becomes a dict, one
    inside another joined with a dot; texts and what else is no array are left out of it.

    Args:
      space: Box, Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple with some of them.
      leave_out: names of a dict's entries that the agent is not to see.

    Raises:
      ArgumentError: where nothing is left, or a name to leave out is none of its entries.
    """
    if _kind(space) != "Dict":
        if leave_out:
            raise ArgumentError(f"leave_out: observations {space} have no entries")
        one = _array(space)
        if one is None:
            raise ArgumentError(
                f"env has observations {space}; needed: Box, Discrete, MultiBinary, MultiDiscrete,"
                " or a Dict or Tuple with some of them"
            )
        return one
    entries = _entries(space)
    if unknown := sorted(set(leave_out) - entries.keys()):
        raise ArgumentError(
            f"leave_out: no entry {unknown[0]!r} in the observations; there are"
            f" {', '.join(sorted(entries))}"
        )
    parts = {name: _array(x) for name, x in entries.items() if name not in leave_out}
    kept = {name: x for name, x in parts.items() if x is not None}
    if not kept:
        raise ArgumentError(f"env has observations {space}: nothing in them is an array")

    def convert(came):
        return {name: part.convert(_entry(came, name)) for name, part in kept.items()}

    return Observed({name: part.spec for name, part in kept.items()}, convert)


def acted(space: Any) -> Acted:
    """Our actions for those of a space.

    Args:
      space: Discrete (with its `start`), MultiDiscrete, MultiBinary, or a Box with finite bounds.

    Raises:
      ArgumentError: for other spaces.
    """
    kind = _kind(space)
    if kind == "Discrete":
        start, dtype = int(getattr(space, "start", 0)), _dtype(space)
        return Acted(ActionSpec.discrete(int(space.n)), lambda x: (x + start).astype(dtype))
    if kind in ("MultiDiscrete", "MultiBinary"):
        sizes, start = _sizes(space)
        shape, dtype = tuple(space.shape), _dtype(space)

        def choices(x):
            return (x.reshape(*x.shape[:-1], *shape) + start).astype(dtype)

        return Acted(ActionSpec.several(sizes), choices)
    if kind == "Box" and hasattr(space, "low"):
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        if np.isfinite(low).all() and np.isfinite(high).all() and low.size:
            dtype = _dtype(space)

            def numbers(x):
                # float32 may round a bound outwards.
                return np.clip(x.astype(np.float64), low, high).astype(dtype)

            spec = ActionSpec.real(low.ravel(), high.ravel(), tuple(low.shape))
            return Acted(spec, numbers)
    raise ArgumentError(
        f"env has actions {space}; needed: Discrete, MultiDiscrete, MultiBinary, or a Box with"
        " finite bounds"
    )


def _kind(space: Any) -> str:
    """By what a space holds, gymnasium's name for its kind; "" where it is none of ours."""
    if hasattr(space, "spaces"):
        return "Dict"
    if hasattr(space, "nvec"):
        return "MultiDiscrete"
    shape = getattr(space, "shape", ())
    if hasattr(space, "n"):
        return "MultiBinary" if shape else "Discrete"
    try:
        numbers = np.dtype(getattr(space, "dtype", object)).kind in "fiub"
    except TypeError:
        numbers = False
    return "Box" if numbers and shape is not None else ""


def _entries(space: Any, prefix: str = "") -> dict[str, Any]:
    """Name -> space of all that a nested space holds."""
    found = space.spaces
    found = found if isinstance(found, Mapping) else {str(i): x for i, x in enumerate(found)}
    entries = {}
    for name, inner in found.items():
        if _kind(inner) == "Dict":
            entries |= _entries(inner, f"{prefix}{name}.")
        else:
            entries[f"{prefix}{name}"] = inner
    return entries


def _entry(came: Any, name: str) -> Any:
    """The entry of a nested observation that `_entries` calls so."""
    for part in name.split("."):
        try:
            came = came[part] if isinstance(came, Mapping) else came[int(part)]
        except (LookupError, TypeError, ValueError):
            raise EnvError(f"observation has no entry {name!r}") from None
    return came


def _array(space: Any) -> Observed | None:
    """How a space that is not nested is served; None where it is of no such kind."""
    kind = _kind(space)
    if kind == "Box":
        shape = tuple(int(n) for n in space.shape)
        given = np.dtype(space.dtype)
        dtype = given if given in (np.uint8, np.bool_) else np.dtype(np.float32)
        return Observed(ArraySpec(shape, dtype.name), lambda x: _numbers(x, shape, dtype))
    if kind == "Discrete":
        sizes, start, shape = [int(space.n)], int(getattr(space, "start", 0)), ()
    elif kind == "MultiDiscrete":
        (sizes, start), shape = _sizes(space), tuple(space.shape)
    elif kind == "MultiBinary":
        shape = tuple(int(n) for n in np.atleast_1d(space.shape))
        dtype = np.dtype(bool)
        return Observed(ArraySpec(shape, "bool"), lambda x: _numbers(x, shape, dtype))
    else:
        return None
    spec = ArraySpec((sum(sizes),), "bool")
    return Observed(spec, lambda x: _one_hots(np.asarray(x), start, sizes, shape))


def _sizes(space: Any) -> tuple[list[int], Any]:
    """(choices of each component, the least of each), of MultiDiscrete or MultiBinary."""
    if _kind(space) == "MultiBinary":
        return [2] * int(np.prod(space.shape)), 0
    start = getattr(space, "start", 0)
    return [int(n) for n in np.ravel(space.nvec)], 0 if start is None else np.asarray(start)


def _dtype(space: Any) -> np.dtype:
    return np.dtype(getattr(space, "dtype", None) or np.int64)


def _numbers(came: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A copy of `came` `[..., *shape]` in a dtype that can hold it."""
    came = np.asarray(came)
    # Floats lose digits only; bits are often sent as whole numbers.
    rule = {"u": "safe", "b": "unsafe"}.get(dtype.kind, "same_kind")
    whole = dtype.kind != "b" or came.dtype.kind in "bui"
    tail = came.shape[max(came.ndim - len(shape), 0) :]
    if tail != shape or not np.can_cast(came.dtype, dtype, rule) or not whole:
        raise EnvError(f"observation {came.shape} {came.dtype}, declared {shape} {dtype}")
    return came.astype(dtype)


def _one_hots(
    came: np.ndarray, start: Any, sizes: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    """The one-hots `[..., sum(sizes)]` of choices `[..., *shape]` counted from `start`, bool."""
    lead = came.shape[: came.ndim - len(shape)]
    if came.shape[len(lead) :] != shape or came.dtype.kind not in "iu":
        raise EnvError(f"observation {came.shape} {came.dtype}, declared {shape} of integers")
    flat = (came - start).reshape(*lead, len(sizes))
    if ((flat < 0) | (flat >= np.asarray(sizes))).any():
        raise EnvError(f"observation {came.tolist()} has a choice that there is not")
    each = [np.arange(n) == flat[..., i, None] for i, n in enumerate(sizes)]
    return np.concatenate(each, axis=-1)
