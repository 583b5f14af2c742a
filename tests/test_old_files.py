"""Files of an older version, kept as they were written: a run folder and a dataset of e598802.

They came from these commands of that commit, with the tiny sizes of `processes.TINY_CONTROL`, a
ring of 48 rows, one resume point to keep and an evaluation every 200 steps (paths in them are
shortened):

  python experiments/control.py --config=configs/cartpole.py:on_device --workdir=run \\
      --config.total_env_steps=400
  python experiments/record.py --workdir=run --out=data --episodes=4
"""

import json
from pathlib import Path
import zipfile

import numpy as np
import pytest

import muzero_jax
from muzero_jax import checkpoint, metrics
from muzero_jax.config import build, runs, schema
from muzero_jax.data import dataset

_STEPS = 408  # Env steps of its only resume point.


@pytest.fixture
def old(tmp_path):
    with zipfile.ZipFile(Path(__file__).parent / "data" / "e598802.zip") as files:
        files.extractall(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_its_run_goes_on(old):
    """Its parameters, replay, optimizer and counters are read, and learning goes on from them; the
    lines of metrics go on behind the old ones."""
    folder = old / "run"
    before = checkpoint.read_meta(folder / "checkpoints")["counters"]
    assert before["env_steps"] == _STEPS
    config = runs.read_config(folder)
    config.total_env_steps = 600
    counters = build.train(schema.check(config), folder)
    assert counters.env_steps >= 600 and counters.resumes == 1
    assert counters.updates > before["updates"] == 48
    lines = metrics.read_jsonl(folder / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == sorted(line["env_steps"] for line in lines)
    assert json.loads((folder / "config.json").read_text())["network"]["width"] == 16


def test_its_agent_plays(old):
    """By its own config, which lacks the fields that came later."""
    player = muzero_jax.load_agent(old / "run")
    actions = player.act(np.zeros((3, 4), np.float32))
    assert actions.shape == (3,) and set(actions.tolist()) <= {0, 1}


def test_its_dataset_is_read(old):
    """Every hash is compared."""
    data = dataset.open_dataset(old / "data")
    dataset.verify(data)
    assert (data.info.rows, data.info.episodes, data.info.return_mean) == (111, 4, 26.75)
    rows = dataset.read_chunk(data, 0)
    assert rows.observation.shape == (111, 4) and rows.value.dtype == np.float32
    assert rows.first.sum() == 4 and not data.info.masked
