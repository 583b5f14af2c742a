"""The house rules of the design: who imports whom, what a loop may read, what loads code."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT / "muzero_jax"
_FILES = sorted(_PACKAGE.rglob("*.py"))

# A module imports only modules of a strictly lower level.
_LEVELS = {
    "errors": 0,
    "types": 1,
    "codecs": 2,
    "returns": 2,
    "actions": 2,
    "distributions": 3,
    "history": 3,
    "finite": 2,
    "value_error": 2,
    "replay": 3,
    "checkpoint": 2,
    "metrics": 2,
    "evaluation.statistics": 2,
    "data.trajectories": 3,
    "data.dataset": 4,
    "data.lanes": 5,
    "mesh": 2,
    "networks.blocks": 3,
    "networks.convolve": 2,
    "networks.moves": 2,
    "networks.mlp": 4,
    "networks.conv": 4,
    "networks.gru": 5,
    "networks.ring": 4,
    "envs.atari_games": 2,
    "envs.spaces": 2,
    "envs.checked": 3,
    "envs.wrappers": 4,
    "envs.gymnasium": 4,
    "envs.host": 4,
    "envs.cartpole": 5,
    "envs.arm": 5,
    "envs.catch": 5,
    "envs.memory": 5,
    "envs.pgx": 5,
    "envs.traffic": 5,
    "envs.check_env": 5,
    "search.common": 4,
    "search.gumbel": 5,
    "search.uct": 5,
    "search.muzero": 5,
    "search.true_model": 6,
    "search.sampled": 5,
    "targets": 4,
    "losses": 4,
    "acting": 4,
    "learner": 4,
    "evaluation.actors": 5,
    "reanalyse": 5,
    "evaluation.episodes": 6,
    "evaluation.matches": 6,
    "evaluation.film": 3,
    "evaluation.recording": 6,
    "loops.anakin": 5,
    "loops.sebulba": 5,
    "loops.unplugged": 5,
    "training.process": 1,
    "training.heartbeat": 1,
    "training.run_folder": 2,
    "training.experiment": 2,
    "training.multihost": 3,
    "training.timing": 3,
    "training.collapse": 4,
    "training.writers": 4,
    "training.memory": 5,
    "training.saving": 5,
    "training.supports": 5,
    "training.driver": 6,
    "evaluation.results": 3,
    "evaluation.perfect": 6,
    "evaluation.scoring": 7,
    "diagnosis.beliefs": 5,
    "diagnosis.learning": 5,
    "diagnosis.verdict": 2,
    "diagnosis.pictures": 2,
    "diagnosis.page": 3,
    "diagnosis.report": 6,
    "player": 8,
    "assembly": 8,
    "muzero_agent": 9,
    "config.fields": 1,
    "config.base": 1,
    "config.schema": 3,
    "config.runs": 4,
    "config.own_code": 4,
    "config.offline": 9,
    "config.build": 10,
    "config.opponents": 11,
    "config.loading": 11,
}

# Ways to read the device that are no `fetch`, and to wait for it.
_READS = {"item", "tolist", "tobytes", "block_until_ready", "copy_to_host_async", "device_get"}
_READS |= {"effects_barrier", "addressable_data", "process_allgather"}
_CONVERSIONS = {"float", "int", "bool", "complex", "print", "str", "repr", "list", "sum"}
_NUMPY_READS = {"asarray", "array", "copy", "ascontiguousarray"}


def _name(path):
    return ".".join(path.relative_to(_PACKAGE).with_suffix("").parts)


def _imports(tree):
    """Names inside `muzero_jax` that a module imports, wherever in the module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("muzero_jax.") for name in found if name.startswith("muzero_jax.")}
    return inside & set(_LEVELS)


def _reads(source):
    """(line, what) of each device read in a loop's source that does not go through `fetch`."""
    tree = ast.parse(source)
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _READS:
            faults.append((node.lineno, node.attr))
        if not isinstance(node, ast.Call):
            continue
        # What `fetch` returned lies on the host already, alone or in arithmetic.
        fetched = all(_is_host(argument) for argument in node.args)
        function = node.func
        if isinstance(function, ast.Name) and function.id in _CONVERSIONS and not fetched:
            faults.append((node.lineno, function.id))
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) in ("np", "numpy"):
            if function.attr in _NUMPY_READS and not fetched:
                faults.append((node.lineno, function.attr))
    return faults


# Host values of the loops by name: time steps of NumPy, sums of Python numbers, Python lists.
_HOST_NAMES = {"finished", "newly_told", "enumerate(envs)", "run.acting"}
_HOST_NAMES |= {"np.count_nonzero(resets)"}


def _is_host(node):
    return ast.unparse(node) in _HOST_NAMES or ast.unparse(node).startswith("fetch(")


def test_each_module_imports_only_lower_levels():
    """Planted bug seen: `history` importing `acting`."""
    assert {_name(path) for path in _FILES if path.stem != "__init__"} == set(_LEVELS)
    wrong = [
        f"{_name(path)} imports {other}"
        for path in _FILES
        if path.stem != "__init__"
        for other in _imports(ast.parse(path.read_text()))
        if _LEVELS[other] >= _LEVELS[_name(path)]
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted((_PACKAGE / "loops").glob("*.py")), ids=lambda p: p.stem)
def test_loops_read_the_device_only_through_fetch(path):
    """Planted bugs seen: `np.asarray(carries[g].action)`; `float(metrics["loss"])`."""
    assert not _reads(path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "np.asarray(carry.action)",
        "float(metrics['loss'])",
        "int(carry.resets)",
        "bool(train.step > 1)",
        "metrics['loss'].item()",
        "carry.action.tolist()",
        "jax.block_until_ready(train)",
        "train.step.block_until_ready()",
        "jax.device_get(train)",
        "read = jax.device_get",
    ],
)
def test_the_check_of_device_reads_sees_each_kind(line):
    """What the check above would let through is written here as a planted bug."""
    assert _reads(line)
    assert not _reads("actions = fetch(carry.action)\nn = int(fetch(x))")


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_modules_load_no_code(path):
    """Planted bug seen: `import pickle`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "__import__", "compile"}, called
            assert called not in {"yaml.load", "yaml.unsafe_load", "torch.load"}, called
            assert not any(word.arg == "allow_pickle" for word in node.keywords), called


# Their `ValueError`s are about data, and no program turns them into a line for its user.
_MAY_RAISE_VALUE_ERROR = {"checkpoint", "data.dataset", "metrics", "evaluation.statistics"}


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_refusals_have_a_type_of_their_own(path):
    """An `ArgumentError` is one line for the user; another `ValueError` is a bug with a traceback.
    Planted bug seen: `raise ValueError` in `replay`."""
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    assert "ValueError" not in raised or _name(path) in _MAY_RAISE_VALUE_ERROR


def test_flags_are_read_by_scripts_and_configs_in_their_own_folder():
    """Planted bugs seen: `from absl import flags` in `metrics`; `ml_collections` in `training`."""
    for path in _FILES:
        allowed = {"ml_collections"} if path.parent.name == "config" else set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                roots = {name.split(".")[0] for name in names}
                assert not roots & ({"absl", "ml_collections", "flags", "argparse"} - allowed), path


# A folder -> those that nothing in it may import.
_FORBIDDEN = {
    "training": ("evaluation", "assembly", "config"),
    "loops": ("training", "evaluation", "assembly", "config"),
    "evaluation": ("assembly", "config"),
    "data": ("training", "evaluation", "assembly", "config"),
    "envs": ("training", "evaluation", "assembly", "config"),
    "networks": ("training", "evaluation", "assembly", "config"),
    "search": ("training", "evaluation", "assembly", "config"),
}


def test_folders_are_floors():
    """Scoring comes into `training` as a function, a config never. Planted bug seen: `build` in
    the driver."""
    for path in _FILES:
        folder = path.parent.name
        for other in _imports(ast.parse(path.read_text())):
            assert other.split(".")[0] not in _FORBIDDEN.get(folder, ()), (path, other)


def test_the_package_imports_no_script_and_no_script_another():
    """But for what they share, and Atari's name for `train`. Planted bug seen: `import evaluate` in
    `record`."""
    scripts = {path.stem for path in (_ROOT / "experiments").glob("*.py")}
    shared = {"command_line"}
    for path in [*_FILES, *(_ROOT / "experiments").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module}
            else:
                continue
            allowed = shared | {"train"} if path.name == "atari.py" else shared
            if path in _FILES:
                allowed = set()
            assert not names & (scripts - allowed), (path, names & scripts)


def test_importing_touches_neither_device_nor_envpool():
    """In a new process. Planted bugs seen: `jnp.zeros(())` at the top of `acting`;
    `import envpool` at the top of `envs.host`."""
    modules = ["muzero_jax"] + [f"muzero_jax.{name}" for name in _LEVELS]
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    from jax._src import xla_bridge
    assert not xla_bridge._backends, name + " has initialised a device"
    assert "envpool" not in sys.modules, name + " has imported envpool"
print("clean")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "clean\n", ran.stderr
