"""Configs that name code of the user's own: run where it is allowed, and not otherwise."""

import json
import sys

import jax
import numpy as np
import pytest

from muzero_jax import load_agent
from muzero_jax.config import build, own_code, runs, schema
from muzero_jax.errors import BadInputError
from presets import config_of
import processes

_CODE = """
from pathlib import Path

from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import make_gumbel_search

Path(__file__).with_suffix(".imported").touch()


def make_network(spec, codecs, *, history_steps, size):
    return make_mlp_network(spec, codecs, history_steps=history_steps, width=2 * size)


def make_search(network, codecs, *, pairs, num_simulations, **options):
    return make_gumbel_search(network, codecs, num_simulations=2 * pairs, **options)


def make_env(*, max_steps):
    return make_cartpole(max_steps=max_steps)


number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module on the path, which says when it is imported."""
    (tmp_path / "own_parts.py").write_text(_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_parts.imported"
    sys.modules.pop("own_parts", None)


def _config(**fields):
    config = config_of("cartpole", "on_device", **processes.TINY_CONTROL | {"env.num_groups": 1})
    config.total_env_steps = 64
    for name, value in fields.items():
        config[name] = value
    return config


def _own():
    return _config(
        network=dict(kind="own_parts:make_network", history_steps=1, size=8),
        search=dict(kind="own_parts:make_search", num_simulations=2, pairs=1),
        env=_config().env.to_dict() | {"task": "own_parts:make_env"},
    )


@pytest.mark.slow
def test_ones_own_network_search_and_environment_train_and_are_loaded(code, tmp_path):
    """Planted bug seen: the field `size` not handed on."""
    config = schema.check(_own())
    assert schema.task(config) == "make_env"
    build.train(config, tmp_path / "run", allow={"own_parts"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["search"]["pairs"] == 1
    player = load_agent(tmp_path / "run", allow=("own_parts",))
    assert player.act(np.zeros(4, np.float32)) in (0, 1)
    width = jax.tree.leaves(jax.tree.map(lambda x: x.shape, player.params))
    assert 16 in width


def test_a_folder_that_names_code_runs_none_of_it(code, tmp_path):
    """Unless the caller allows it; the line says how. Planted bug seen: the check behind the
    build."""
    path = tmp_path / "run" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(schema.check(_own()).to_dict()))
    for load in (
        lambda: load_agent(tmp_path / "run"),
        lambda: build.experiment(runs.read_config(tmp_path / "run"), allow=("os",)),
    ):
        with pytest.raises(BadInputError, match="names code, .* by --allow=own_parts or allow="):
            load()
    allowed = path.read_text()
    path.write_text(allowed.replace("own_parts:make_network", "os:system"))
    with pytest.raises(BadInputError, match="network.kind: 'os:system' names code"):
        load_agent(tmp_path / "run", allow=("own_parts",))
    assert not code.exists()
    path.write_text(allowed)
    with pytest.raises(BadInputError, match="no checkpoint in"):
        load_agent(tmp_path / "run", allow=("own_parts",))
    assert code.exists()


@pytest.mark.parametrize(
    "kind, said",
    [
        ("no_such_module:make", "network.kind: 'no_such_module:make' cannot be imported"),
        ("own_parts:nothing", "network.kind: there is no 'nothing' in the module 'own_parts'"),
        ("own_parts:number", "network.kind: 'own_parts:number' is no function"),
    ],
)
def test_code_that_is_not_there_is_one_line(code, kind, said):
    config = _own()
    config.network.kind = kind
    with pytest.raises(BadInputError, match=said):
        build.experiment(schema.check(config), allow={"no_such_module", "own_parts"})


@pytest.mark.parametrize("kind", ["conf", "a:b:c", "own parts:make", "module:"])
def test_what_is_neither_a_kind_nor_code_is_refused_with_the_choices(kind):
    config = _config()
    config.network.kind = kind
    with pytest.raises(BadInputError, match="network.kind must be one of"):
        schema.check(config)


def test_a_module_beside_the_config_is_found_and_hides_nothing(tmp_path):
    """One of a name that can be imported already is left alone. Planted bug seen: the folder put
    in front of the path."""
    for name in ("json", "beside_a_config"):
        (tmp_path / f"{name}.py").write_text("here = True\n")
    own_code.add_beside(tmp_path / "config.py", {"json", "beside_a_config", "nowhere"})
    try:
        assert sys.modules["beside_a_config"].here and not hasattr(json, "here")
        assert str(tmp_path) not in sys.path
    finally:
        sys.modules.pop("beside_a_config", None)
