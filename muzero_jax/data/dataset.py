"""Stored rows as files: chunks of plain NumPy arrays, described by one JSON file.

A chunk is a *trajectory*: rows in the convention of docs/conventions.md, the first of which is
`first` and the newest `last`. The device is never touched. docs/datasets.md has a table of fields.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import hashlib
import io
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple
import zipfile
import zlib

import jax
import numpy as np

from muzero_jax.data.trajectories import check_rows, cut, episode_returns, gather, take_rows
from muzero_jax.errors import DatasetError
from muzero_jax.types import ActionSpec, ArraySpec, EnvSpec, Transition

FORMAT, VERSION = "muzero_jax rows", 2  # Version 1 had one array and one discrete action.
ROWS_PER_CHUNK, BYTES_PER_CHUNK = 65_536, 2**29  # A file is held in memory as a whole.

# Name -> (shape of one row, dtype) of the arrays that every file has, and of a search's.
_COLUMNS = {
    "reward": ((), "float32"),
    "discount": ((), "float32"),
    "first": ((), "bool"),
    "last": ((), "bool"),
    "explored": ((), "bool"),
}
_COLUMNS_OF_SEARCH = {"value": ((), "float32"), "made_at_updates": ((), "int32")}


@dataclasses.dataclass(frozen=True)
class ChunkInfo:
    """One file of rows: its name, how many rows and bytes it holds, and their SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` holds, beside `format` and `version`.

    Attributes:
      observation, action, turn_sign, truncates, masked: as in `EnvSpec`.
      policy: (shape, dtype name) of each leaf of a row's policy, or None where rows have neither
        policies nor values.
      rows, episodes: how many there are; of episodes only those that were seen to their end.
      return_mean: mean sum of raw rewards of these episodes, or None where there is none.
      chunks: a `ChunkInfo` for each file.
    """

    observation: ArraySpec | tuple[tuple[str, ArraySpec], ...]
    action: ActionSpec
    turn_sign: int
    truncates: bool
    masked: bool
    policy: tuple[tuple[tuple[int, ...], str], ...] | None
    rows: int
    episodes: int
    return_mean: float | None
    chunks: tuple[ChunkInfo, ...]


class Dataset(NamedTuple):
    """An opened dataset; `identity` is the SHA-256 of `dataset.json`, which has those of all else.
    """

    path: Path
    info: DatasetInfo
    identity: str


def write_dataset(
    path,
    spec: EnvSpec,
    trajectories: Iterable[Transition],
    *,
    rows_per_chunk: int | None = None,
    bytes_per_chunk: int = BYTES_PER_CHUNK,
) -> DatasetInfo:
    """Writes trajectories of rows `[rows]` of NumPy into a new folder; `dataset.json` comes last.

    Args:
      path: of the folder; it is made, or there and empty.
      spec: of the environment.
      trajectories: each begins with a `first` row; all have `invalid_actions` or none, and all have
        policies and values or none (None). They are taken one by one.
      rows_per_chunk: most rows of a file, >= 2; None: 65,536, or as many as have frames of
        `bytes_per_chunk`.
      bytes_per_chunk: of the frames of a file, where `rows_per_chunk` is None; 512 MiB.

    Raises:
      DatasetError: for a folder that is not empty, rows that break the convention, or no rows.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path} is there and not empty; give a new folder")
    if rows_per_chunk is None:
        frame = sum(
            math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in spec.named_arrays().values()
        )
        rows_per_chunk = min(ROWS_PER_CHUNK, max(bytes_per_chunk // frame, 2))
    seen: list[tuple[DatasetInfo, np.ndarray]] = []  # Of each trajectory, with its returns.
    segments = _segments(path, spec, trajectories, rows_per_chunk, seen)
    chunks = [
        _write_chunk(path / f"chunk-{number:06}.npz", rows)
        for number, rows in enumerate(gather(segments, rows_per_chunk))
    ]
    if not chunks:
        raise DatasetError(f"{path}: there are no rows to write")
    finished = np.concatenate([returns for _, returns in seen])
    info = dataclasses.replace(
        seen[0][0],
        rows=sum(chunk.rows for chunk in chunks),
        episodes=len(finished),
        return_mean=float(np.mean(finished)) if len(finished) else None,
        chunks=tuple(chunks),
    )
    record = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(info)}
    record["observation"] = [
        [name, list(x.shape), x.dtype] for name, x in spec.named_arrays().items()
    ]
    _write_whole(path / "dataset.json", (json.dumps(record, indent=2) + "\n").encode())
    return info


def open_dataset(path) -> Dataset:
    """Opens a folder that `write_dataset` made; looks at `dataset.json` and the sizes of files.

    Raises:
      DatasetError: where that is enough to see that it cannot be used.
    """
    path = Path(path)
    if not path.is_dir():
        raise DatasetError(f"there is no folder {path}")
    try:
        content = (path / "dataset.json").read_bytes()
    except OSError:
        why = "is empty" if not any(path.iterdir()) else "has no dataset.json that can be read"
        raise DatasetError(f"{path} {why}; a dataset's folder ends with one") from None
    try:
        info = _parse(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{path}/dataset.json: {_one_line(error)}") from None
    for chunk in info.chunks:
        try:
            size = (path / chunk.file).stat().st_size
        except OSError:
            raise DatasetError(f"{path}: {chunk.file} is missing") from None
        if size != chunk.bytes:
            raise DatasetError(
                f"{path}: {chunk.file} is damaged, it has {size} bytes and not {chunk.bytes}"
            )
    return Dataset(path, info, hashlib.sha256(content).hexdigest())


def read_chunk(dataset: Dataset, number: int) -> Transition:
    """One file's rows `[rows]` of NumPy; `policy` is a tuple of its leaves, or None.

    Raises:
      DatasetError: where the file is damaged, or its rows break the convention.
    """
    chunk, info = dataset.info.chunks[number], dataset.info
    where = f"{dataset.path}: {chunk.file}"
    try:
        content = (dataset.path / chunk.file).read_bytes()
        if hashlib.sha256(content).hexdigest() != chunk.sha256:
            raise DatasetError(f"{where} is damaged: its SHA-256 is another")
        with np.load(io.BytesIO(content)) as file:
            arrays = {name: file[name] for name in file.files}
    except DatasetError:
        raise
    except (
        OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
    ) as error:
        raise DatasetError(f"{where} cannot be read: {_one_line(error)}") from None
    _check_columns(where, info, arrays, chunk.rows)
    leaves = tuple(arrays.pop(f"policy_{i}") for i in range(len(info.policy or ())))
    if not isinstance(info.observation, ArraySpec):
        arrays["observation"] = {
            name: arrays.pop(f"observation.{name}") for name, _ in info.observation
        }
    missing = dict.fromkeys(["invalid_actions", *_COLUMNS_OF_SEARCH])
    rows = Transition(**missing | arrays, policy=leaves if info.policy is not None else None)
    check_rows(where, rows, action=info.action, turn_sign=info.turn_sign)
    return rows


def verify(dataset: Dataset) -> None:
    """Reads every file once; raises the `DatasetError` of the first that cannot be used."""
    for number in range(len(dataset.info.chunks)):
        read_chunk(dataset, number)


def check_spec(dataset: Dataset, spec: EnvSpec) -> None:
    """Raises `DatasetError` where a dataset's rows are not those of an environment like `spec`."""
    for name in ("observation", "action", "turn_sign", "masked"):
        held, wanted = getattr(dataset.info, name), getattr(spec, name)
        if held != wanted:
            held, wanted = (
                ", ".join(f"{k} {x}" for k, x in value) if isinstance(value, tuple) else value
                for value in (held, wanted)
            )
            raise DatasetError(
                f"{dataset.path}: {name} is {held}, that of the environment {wanted}"
            )


def _segments(path, spec, trajectories, most, seen) -> Iterator[Transition]:
    """The segments of all trajectories; appends to `seen` what each is like, and its returns."""
    for number, rows in enumerate(trajectories):
        where = f"{path}: trajectory {number}"
        if not len(rows.first):
            continue
        if rows.policy is not None:
            rows = rows.replace(policy=tuple(jax.tree.leaves(rows.policy)))
        info = _info_of(spec, rows)
        _check_columns(where, info, _arrays(rows), len(rows.first))
        if seen and info != seen[0][0]:
            raise DatasetError(f"{where} has other fields than trajectory 0")
        check_rows(where, rows, action=info.action, turn_sign=info.turn_sign)
        seen.append((info, episode_returns(rows)))
        for begin, end in cut(rows.first, rows.last, most=most):
            yield take_rows(rows, begin, end)


def _info_of(spec: EnvSpec, rows: Transition) -> DatasetInfo:
    names = "observation action turn_sign truncates masked".split()
    return DatasetInfo(
        **{name: getattr(spec, name) for name in names},
        policy=rows.policy and tuple((x.shape[1:], x.dtype.name) for x in rows.policy),
        rows=0,
        episodes=0,
        return_mean=None,
        chunks=(),
    )


def _arrays(rows: Transition) -> dict[str, np.ndarray]:
    """Name -> array, as they stand in a file."""
    arrays = {name: x for name, x in rows.items() if x is not None and name != "policy"}
    if isinstance(rows.observation, dict):
        arrays |= {f"observation.{k}": x for k, x in arrays.pop("observation").items()}
    return arrays | {f"policy_{i}": x for i, x in enumerate(rows.policy or ())}


def _check_columns(
    where: str, info: DatasetInfo, arrays: dict[str, np.ndarray], num_rows: int
) -> None:
    """Raises `DatasetError` where there are other arrays than `info` names."""
    columns = _COLUMNS | {"action": (info.action.shape, info.action.dtype)}
    if isinstance(info.observation, ArraySpec):
        columns["observation"] = (info.observation.shape, info.observation.dtype)
    else:
        columns |= {f"observation.{k}": (x.shape, x.dtype) for k, x in info.observation}
    if info.masked:
        columns["invalid_actions"] = ((info.action.num_actions,), "bool")
    if info.policy is not None:
        columns |= _COLUMNS_OF_SEARCH
        columns |= {f"policy_{i}": leaf for i, leaf in enumerate(info.policy)}
    if arrays.keys() != columns.keys():
        raise DatasetError(f"{where} holds {sorted(arrays)} and not {sorted(columns)}")
    for name, (shape, dtype) in columns.items():
        held, wanted = arrays[name], f"{dtype}{(num_rows, *shape)}"
        if f"{held.dtype}{held.shape}" != wanted:
            raise DatasetError(f"{where}: {name} is {held.dtype}{held.shape} and not {wanted}")


def _write_chunk(path: Path, rows: Transition) -> ChunkInfo:
    file = io.BytesIO()
    np.savez_compressed(file, **_arrays(rows))
    content = file.getvalue()
    _write_whole(path, content)
    digest = hashlib.sha256(content).hexdigest()
    return ChunkInfo(path.name, len(rows.first), len(content), digest)


def _write_whole(path: Path, content: bytes) -> None:
    """The name is there only once all of the content is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _parse(record: dict[str, Any]) -> DatasetInfo:
    """The content of `dataset.json`; whatever is wrong with it raises."""
    if record.get("format") != FORMAT:
        raise ValueError(f"its format is {record.get('format')!r} and not {FORMAT!r}")
    if record["version"] not in (1, VERSION):
        raise ValueError(f"its version is {record['version']!r}, this program reads 1 to {VERSION}")
    fields = {name: x for name, x in record.items() if name not in ("format", "version")}
    if record["version"] == 1:
        _check_types(fields, _TYPES_OF_1 | _TYPES)
        one = ["", fields.pop("observation_shape"), fields.pop("observation_dtype")]
        action = {"sizes": [fields.pop("num_actions")], "shape": [], "low": [], "high": []}
        fields |= {"observation": [one], "action": action}
    else:
        _check_types(fields, _TYPES_OF_2 | _TYPES)
        _check_types(fields["action"], _ACTION_TYPES, "action.")
    for number, chunk in enumerate(fields["chunks"]):
        _check_types(chunk, _CHUNK_TYPES, f"chunks[{number}].")
    policy = fields["policy"]
    arrays = {name: ArraySpec(tuple(shape), x) for name, shape, x in fields["observation"]}
    fields |= {
        "observation": arrays.pop("") if [*arrays] == [""] else tuple(sorted(arrays.items())),
        "action": _parse_action(**fields["action"]),
        "policy": policy and tuple((tuple(shape), dtype) for shape, dtype in policy),
        "chunks": tuple(ChunkInfo(**chunk) for chunk in fields["chunks"]),
    }
    info = DatasetInfo(**fields)
    if min((chunk.rows for chunk in info.chunks), default=0) < 1:
        raise ValueError("there are no rows in it, or in one of its chunks")
    if sum(chunk.rows for chunk in info.chunks) != info.rows:
        raise ValueError(f"its chunks do not have {info.rows} rows")
    return info


def _parse_action(sizes, shape, low, high) -> ActionSpec:
    if sizes is None:
        return ActionSpec.real(low, high, tuple(shape))
    return ActionSpec.several(sizes) if shape else ActionSpec.discrete(*sizes)


def _is_size(x: Any) -> bool:
    return type(x) is int and 0 <= x < 2**63


def _is_shape(x: Any) -> bool:
    return isinstance(x, list) and all(_is_size(size) and size > 0 for size in x)


def _is_dtype(x: Any) -> bool:
    return isinstance(x, str) and x in {*np.sctypeDict, "bfloat16"}


def _is_observation(x: Any) -> bool:
    return isinstance(x, list) and x != [] and all(
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and _is_shape(entry[1])
        and _is_dtype(entry[2])
        for entry in x
    )


def _is_numbers(x: Any) -> bool:
    return isinstance(x, list) and all(type(n) in (int, float) for n in x)


def _is_policy(x: Any) -> bool:
    return x is None or (
        isinstance(x, list)
        and all(isinstance(leaf, list) and len(leaf) == 2 for leaf in x)
        and all(_is_shape(shape) and _is_dtype(dtype) for shape, dtype in x)
    )


def _is_name(x: Any) -> bool:
    """A file in the same folder, whose name every system takes."""
    plain = isinstance(x, str) and x.isprintable() and len(x.encode(errors="replace")) < 256
    return plain and Path(x).name == x


_Types = dict[str, tuple[Callable[[Any], bool], str]]
_TYPES_OF_1: _Types = {
    "observation_shape": (_is_shape, "a list of whole numbers >= 1"),
    "observation_dtype": (_is_dtype, "the name of a NumPy dtype"),
    "num_actions": (lambda x: _is_size(x) and x > 0, "a whole number >= 1"),
}
_TYPES_OF_2: _Types = {
    "observation": (_is_observation, "a list of [name, shape, dtype]"),
    "action": (lambda x: isinstance(x, dict), "a JSON object"),
}
_ACTION_TYPES: _Types = {
    "sizes": (lambda x: x is None or (_is_shape(x) and x != []), "null, or a list of numbers >= 1"),
    "shape": (_is_shape, "a list of whole numbers >= 1"),
    "low": (_is_numbers, "a list of numbers"),
    "high": (_is_numbers, "a list of numbers"),
}
_TYPES: _Types = {
    "turn_sign": (lambda x: type(x) is int and x in (1, -1), "1 or -1"),
    "truncates": (lambda x: isinstance(x, bool), "true or false"),
    "masked": (lambda x: isinstance(x, bool), "true or false"),
    "policy": (_is_policy, "null, or a list of [shape, dtype]"),
    "rows": (_is_size, "a whole number >= 0"),
    "episodes": (_is_size, "a whole number >= 0"),
    "return_mean": (lambda x: x is None or type(x) in (int, float), "a number or null"),
    "chunks": (lambda x: isinstance(x, list), "a list"),
}
_CHUNK_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "file": (_is_name, "the name of a file in this folder"),
    "rows": (_is_size, "a whole number >= 0"),
    "bytes": (_is_size, "a whole number >= 0"),
    "sha256": (lambda x: isinstance(x, str), "a text"),
}


def _check_types(record: Any, types: dict[str, Any], prefix: str = "") -> None:
    """Raises `ValueError` for the first entry that is missing, unknown or of another type."""
    if not isinstance(record, dict):
        raise ValueError(f"{prefix.rstrip('.')} is no JSON object")
    for name in [*types, *record]:
        if name not in record:
            raise ValueError(f"{prefix}{name} is missing")
        if name not in types:
            raise ValueError(f"{prefix}{name}: there is no such entry")
        holds, wanted = types[name]
        if not holds(record[name]):
            raise ValueError(f"{prefix}{name} must be {wanted} (got {str(record[name])[:80]!r})")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"
