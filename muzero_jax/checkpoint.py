"""Checkpoints that are whole or refused: a pytree of arrays and a JSON dictionary per step.

A step is a directory with the arrays (`tree/`, written by orbax) and a manifest (`manifest/`, JSON
under a SHA-256), which alone makes it valid. The manifest holds shape, dtype and a fingerprint of
every leaf, because orbax notices neither a flipped bit nor a changed dtype.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
from pathlib import Path
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from muzero_jax.errors import CheckpointError, SaveError

FORMAT = 1

# For its logs orbax asks TensorStore how many bytes a save has written, by a function that leaks:
# a dozen lists and 8 kB a call, two calls a save, 20 MB a day of a run that saves every minute.
with contextlib.suppress(ImportError):
    from orbax.checkpoint._src.serialization import tensorstore_utils

    tensorstore_utils.get_tensorstore_raw_bytes = lambda *_, **__: 0

_LOG = logging.getLogger(__name__)


class _Damaged(Exception):
    """One step cannot be trusted; an older one may be."""


class CheckpointStore:
    """The one writer of a directory of steps; leaving the context finishes the running save."""

    def __init__(self, directory, *, max_to_keep: int):
        self._directory = Path(directory).absolute()
        self._max_to_keep = max_to_keep
        self._in_flight: int | None = None
        self._newest = math.inf  # No step above it is to be trusted.
        self._has_failed = False  # Then the manager is closed, and the next save makes another.
        self._may_be_littered = False  # By a failed save: its threads go on for a while.
        self._manager = self._make_manager()

    def _make_manager(self):
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._max_to_keep,
                cleanup_tmp_directories=True,
                # Two stores that save at one time: of several processes, each waits by its name.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    barrier_sync_key_prefix=self._directory.name
                ),
            ),
            item_handlers={
                # Compression costs seconds per GB and holds up the caller.
                "tree": ocp.PyTreeCheckpointHandler(use_compression=False),
                "manifest": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:  # A failed last save is raised even on top of another error; Python shows both.
            self._close()
            self._remove_litter()

    def steps(self) -> list[int]:
        """Returns the committed steps that can be used as far as is known, oldest first.

        Their manifests are intact, and none is newer than what was saved or restored here last.
        """
        return [step for step in committed_steps(self._directory) if step <= self._newest]

    def save(self, step: int, tree: Any, meta: dict):
        """Starts to write a step; the arrays of `tree` may be donated as soon as this returns.

        `step` must be newer than every valid one, `meta` must be JSON with finite numbers.

        Raises:
          SaveError: this save or the previous one failed; the same call may be made again.
        """
        self.wait()
        if self._has_failed:
            self._remove_litter()  # Orbax would raise if a thread still writes there.
            try:
                self._manager, self._has_failed = self._make_manager(), False
            except Exception as error:
                raise self._failure(step, error) from error
        self._set_aside_unusable()
        newest = max(self.steps(), default=-1)
        if step <= newest:
            raise ValueError(f"step {step} is not newer than the newest saved step {newest}")
        leaves = _named_leaves(tree)
        for name, leaf in leaves.items():
            if not isinstance(leaf, jax.Array):
                raise TypeError(f"{name} is a {type(leaf).__name__}, not a jax.Array")
        args = ocp.args.Composite(
            # Orbax cannot store an array without elements; the manifest says all about it.
            tree=ocp.args.PyTreeSave({name: _raw(x) for name, x in leaves.items() if x.size}),
            manifest=ocp.args.JsonSave(_make_manifest(step, leaves, meta)),
        )
        try:
            if not self._manager.save(step, args=args):
                raise OSError("orbax refused it")
        except Exception as error:
            raise self._failure(step, error) from error
        self._in_flight = self._newest = step

    def wait(self):
        """Waits until the running save is committed; raises `SaveError` if it was not."""
        step, self._in_flight = self._in_flight, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if step not in self.steps():
                raise OSError("no intact manifest was written")
        except Exception as error:
            raise self._failure(step, error) from error
        self._remove_litter()

    def _failure(self, step, error):
        self._has_failed = self._may_be_littered = True
        if jax.process_count() == 1:  # Of several, the others may be waited for inside.
            self._close()
        return SaveError(f"saving step {step} failed: {_one_line(error)}")

    def _close(self):
        # One failed save leaves threads at work, and several errors that are raised one by one.
        for _ in range(3 if jax.process_count() == 1 else 1):
            try:
                return self._manager.close()
            except Exception:
                if not self._has_failed:
                    raise

    def _remove_litter(self):
        # The threads of a failed save cannot be waited for, and put back what is removed too early:
        # hence at once, after each later save, and at the end.
        if self._may_be_littered and jax.process_count() == 1:
            for _ in range(40):
                found = list(self._directory.glob("*.orbax-checkpoint-tmp*"))
                if not found:
                    break
                for path in found:
                    shutil.rmtree(path, ignore_errors=True)
                time.sleep(0.05)

    def restore(self, target: Any, *, partial: bool = False) -> tuple[int, Any, dict] | None:
        """Like `restore_newest`; the steps that it passed over are set aside."""
        self.wait()
        found = restore_newest(self._directory, target, partial=partial)
        self._newest = found[0] if found else -1
        self._set_aside_unusable()
        return found

    def set_aside_damaged(self, target: Any):
        """Sets aside what `restore` would pass over, be it all there is."""
        try:
            self.restore(target)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            self._newest = -1
            self._set_aside_unusable()

    def _set_aside_unusable(self):
        # Orbax trusts names: an unusable step newer than ours would make it drop our saves, and
        # would count against `max_to_keep`. Renamed rather than deleted: it may be evidence. One
        # older than a usable step was about to be deleted, and perhaps a kill has interrupted that.
        usable = self.steps()
        newest = max(usable, default=-1)
        for step, path in _paths(self._directory).items():
            if step in usable or jax.process_index() != 0:  # Once, of several processes.
                continue
            if step < newest:
                shutil.rmtree(path)
            else:
                aside = path.rename(path.with_name(f"{step}.damaged.{time.time_ns()}"))
                _LOG.warning("checkpoint step %d is not usable, set aside as %s", step, aside)
        self._manager.reload()  # What the directory holds now, whichever process has changed it.


def restore_newest(directory, target, *, partial=False, step=None) -> tuple[int, Any, dict] | None:
    """Returns `(step, tree, meta)` of the newest undamaged step, or None if there is no step.

    Writes nothing: it may be called while a `CheckpointStore` writes. A leaf of `target` (a pytree
    of `jax.ShapeDtypeStruct`) without a sharding goes to the first device. With `partial`, leaves
    that `target` lacks are not read; with a `step`, no other one is.

    Raises:
      CheckpointError: every step is damaged, or the newest other one does not fit `target`.
    """

    def read(path, manifest):
        _check_target(path, manifest["leaves"], target, partial)
        tree = _read_tree(path.absolute() / "tree", manifest["leaves"], target, partial)
        return int(path.name), tree, manifest["meta"]

    return _newest(directory, read, "*" if step is None else str(step))


def read_meta(directory) -> dict | None:
    """Returns the `meta` of the newest step with an intact manifest (its arrays may be damaged)."""
    return _newest(directory, lambda path, manifest: manifest["meta"])


def committed_steps(directory) -> list[int]:
    """Returns the committed steps whose manifest is intact, oldest first."""
    steps = []
    for step, path in _paths(directory).items():
        with contextlib.suppress(_Damaged):
            _read_manifest(path)
            steps.append(step)
    return sorted(steps)


def fingerprints(leaves: list[jax.Array]) -> list[int]:
    """Returns Σᵢ wordᵢ·oddᵢ mod 2³² of each array, i being an element's index, however sharded."""
    # The small ones on the host: a program for each of their shapes takes longer to compile.
    small = {i: x for i, x in enumerate(leaves) if x.size <= _SMALL and _is_whole_here(x)}
    index = np.arange(max((x.size for x in small.values()), default=0), dtype=np.uint32)
    prints = {
        i: _words_sum(np, x.ravel(), index[: x.size]) for i, x in jax.device_get(small).items()
    }
    # One by one: many small programs at once that talk to other processes can block each other.
    return [
        int(prints[i] if i in prints else jax.device_get(_fingerprint(leaf)))
        for i, leaf in enumerate(leaves)
    ]


_SMALL = 2**20


def _is_whole_here(leaf: jax.Array) -> bool:
    return leaf.is_fully_addressable or leaf.is_fully_replicated


@jax.jit
def _fingerprint(leaf):
    # Slice by slice: XLA on a CPU would materialise the whole product, four times the bytes of
    # uint8. Slices of axis 1, because the replay's axis 0 may be sharded.
    leaf = leaf.reshape(leaf.shape + (1,) * (2 - leaf.ndim))
    length = leaf.shape[1]
    size = length if leaf.size < 2**24 else -(-length // 64)

    def add_slice(i, total):
        start = jnp.minimum(i * size, length - size)  # The last slice begins inside the one before.
        words = jax.lax.dynamic_slice_in_dim(leaf, start, size, axis=1)
        place = [jax.lax.broadcasted_iota(jnp.uint32, words.shape, a) for a in range(words.ndim)]
        place[1] += start.astype(jnp.uint32)
        shape = (words.shape[0], length, *words.shape[2:])
        index = sum(p * jnp.uint32(math.prod(shape[a + 1 :]) % 2**32) for a, p in enumerate(place))
        return total + _words_sum(jnp, words, index, place[1] >= i * size)

    return jax.lax.fori_loop(0, -(-length // max(size, 1)), add_slice, jnp.uint32(0))


def _words_sum(xp, words, index, where=True):
    """Their share of a fingerprint, with the operations of `xp`: numpy or jax.numpy."""
    if words.dtype != bool:
        words = words.view({1: xp.uint8, 2: xp.uint16}.get(words.dtype.itemsize, xp.uint32))
    words = xp.where(where, words.astype(xp.uint32), xp.uint32(0))
    # An odd weight shows every change of one word. Both are stirred because floats differ in
    # high bits, weights 2i+1 in low ones: their product may vanish when elements are swapped.
    words ^= words >> 16
    weights = index * xp.uint32(0x9E3779B1)
    weights = (weights ^ (weights >> 15)) | 1
    return xp.sum(words * weights, dtype=xp.uint32)


def _newest(folder, use, name="*"):
    """Returns `use(path, manifest)` of the newest step that neither it nor we find damaged."""
    # A directory without a file is a stray; with any file it was a step, and if that cannot be read
    # it is damaged. A run must never begin again on top of damage.
    paths = {s: p for s, p in _paths(folder, name).items() if any(f for *_, f in os.walk(p))}
    for step, path in paths.items():
        try:
            return use(path, _read_manifest(path))
        except _Damaged as error:
            _LOG.warning("checkpoint step %d is damaged, trying an older one: %s", step, error)
    if paths:
        raise CheckpointError(f"no step in {folder} is readable: {sorted(paths)} are damaged")
    return None


def _read_tree(path, stored, target, partial):
    wanted = _named_leaves(target)
    abstract = {name: _raw_target(leaf) for name, leaf in wanted.items()}
    present = {name: leaf for name, leaf in abstract.items() if leaf.size}
    shardings = ocp.checkpoint_utils.construct_restore_args(present)
    args = ocp.args.PyTreeRestore(present, shardings, partial_restore=partial)
    try:
        leaves = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(path, args=args)
    except Exception as error:  # A damaged file raises whatever its reader happened to expect.
        raise _Damaged(f"arrays unreadable: {_one_line(error.__cause__ or error)}") from None
    found = zip(present, fingerprints([leaves[name] for name in present]), strict=True)
    wrong = [name for name, value in found if value != stored[name][2]]
    if wrong:
        raise _Damaged(f"fingerprint differs in {', '.join(wrong)}")
    leaves |= {n: jnp.zeros(x.shape, x.dtype) for n, x in abstract.items() if not x.size}
    restored = [(leaves[name], leaf.dtype) for name, leaf in wanted.items()]
    # After the fingerprints and `_check_target`, only a PRNG key can still have another dtype.
    typed = [x if x.dtype == d else jax.random.wrap_key_data(x, dtype=d) for x, d in restored]
    return jax.tree.unflatten(jax.tree.structure(target), typed)


def _check_target(path, stored, target, partial):
    held = {name: f"{dtype}{shape}" for name, (dtype, shape, _) in stored.items()}
    wanted = {n: f"{x.dtype}{list(x.shape)}" for n, x in _named_leaves(target).items()}
    faults = [
        f"{name} holds {held.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
        for name in (wanted if partial else wanted | held)
        if held.get(name) != wanted.get(name)
    ]
    if faults:
        raise CheckpointError(f"{path}: {len(faults)} leaves differ: {'; '.join(faults[:8])}")


def _make_manifest(step, leaves, meta):
    prints = fingerprints([_raw(leaf) for leaf in leaves.values()])
    kinds = [(str(leaf.dtype), leaf.shape) for leaf in leaves.values()]
    stored = {n: (*kind, f) for n, kind, f in zip(leaves, kinds, prints, strict=True)}
    # Through text once, so that what is hashed is what will be read (lists, string keys).
    record = {"format": FORMAT, "step": step, "leaves": stored, "meta": meta}
    record = json.loads(json.dumps(record, allow_nan=False))
    return {"record": record, "sha256": digest(record)}


def _read_manifest(step_path):
    try:
        stored = json.loads((step_path / "manifest" / "metadata").read_bytes())
        record = stored["record"]
        intact = stored["sha256"] == digest(record)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _Damaged(f"manifest unreadable: {_one_line(error)}") from None
    if not intact:
        raise _Damaged("manifest does not match its SHA-256")
    if not isinstance(record, dict) or "format" not in record:
        raise _Damaged("manifest has no format")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{step_path} has format {record['format']}, not {FORMAT}")
    try:
        leaves, meta = record["leaves"], record["meta"]
        right = isinstance(meta, dict) and all(
            isinstance(dtype, str) and isinstance(shape, list) and isinstance(fingerprint, int)
            for dtype, shape, fingerprint in leaves.values()
        )
        # Manifests of earlier versions name no step; the counters of a run do.
        step = record.get("step", meta.get("counters", {}).get("iteration", int(step_path.name)))
    except (LookupError, TypeError, ValueError, AttributeError):
        right = False
    if not right:
        raise _Damaged("manifest of another structure")
    if step != int(step_path.name):
        raise _Damaged(f"it is step {step}, under another name")
    return record


def digest(record) -> str:
    """The SHA-256 of a manifest's record, as hex digits."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _paths(directory, name="*"):
    """Every directory that orbax would take for a step, newest first."""
    found = [p for p in Path(directory).glob(name) if p.name.isdecimal() and p.is_dir()]
    return {int(p.name): p for p in sorted(found, key=lambda p: int(p.name), reverse=True)}


def _named_leaves(tree):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def _raw(leaf):
    # PRNG keys as their data: plain arrays are what every reader understands.
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _raw_target(leaf):
    raw = jax.eval_shape(_raw, leaf)
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=leaf.sharding or first)


def _one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
