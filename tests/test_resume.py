"""CartPole on the device over processes: a killed run goes on bit for bit, and nothing is spare."""

import shutil

import fakes
import jax
import jax.numpy as jnp
import processes
import pytest

from muzero_jax import checkpoint, metrics
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.types import Counters
import train

_OPTIONS = processes.TINY_CONTROL | {
    "env.num_groups": 1,
    "total_env_steps": 1500,
    "evaluation.interval_env_steps": 400,
    "evaluation.stop_at": 1000.0,
    "checkpoint.resume_interval_env_steps": 150,
    "checkpoint.params_interval_env_steps": 60,
    "checkpoint.max_to_keep": 4,
    "logging.interval_env_steps": 100,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(uninterrupted, killed once and taken up again) runs of the same config."""
    base = tmp_path_factory.mktemp("resume")
    arguments = {
        name: processes.command(
            "control",
            "--config=configs/cartpole.py:on_device",
            f"--workdir={base / name}",
            **_OPTIONS,
        )
        for name in ("whole", "killed")
    }
    log = base / "log"
    assert processes.finish(arguments["whole"], output=log) == 0, log.read_text()
    processes.kill_after_a_save(arguments["killed"], base / "killed", output=log)
    assert processes.finish(arguments["killed"], output=log) == 0, log.read_text()
    assert "resuming at" in log.read_text()
    return base / "whole", base / "killed"


@pytest.fixture(scope="module")
def experiment(folders):
    """The experiment of both runs, in this process."""
    return processes.build(folders[0])[1]


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(folders, experiment):
    """Two processes against one, which is also: same seed, same bits in any process. Planted bugs
    seen: `env_steps` that forgot the resets of the last iteration before a resume; the acting
    carry made anew; `params/` saved twice for one step (exit 1)."""
    step, whole, meta = processes.resume_point(experiment, folders[0])
    again_step, killed, again_meta = processes.resume_point(experiment, folders[1])
    assert again_step == step
    fakes.assert_trees_equal(killed, whole)
    counters, again = Counters(**meta["counters"]), Counters(**again_meta["counters"])
    assert (counters.resumes, again.resumes) == (0, 1)
    assert again._replace(resumes=0) == counters and counters.env_steps >= 1500
    assert checkpoint.committed_steps(folders[0] / "params")[-1] == step


def test_what_a_killed_run_recorded_is_what_the_other_recorded(folders):
    """But for clocks. Planted bug seen: evaluation games drawn by the count of resumes."""

    def facts(folder):
        # A line of `train/` sums what happened since the line before, or since a resume.
        sums = ("train/episodes", "train/return_mean")
        return {
            record["env_steps"]: {
                name: value
                for name, value in record.items()
                if not name.startswith("speed/") and name not in sums and "s" != name[-1:]
            }
            for record in metrics.read_jsonl(folder / "metrics.jsonl")
            if "eval/return_mean" in record
        }

    whole, killed = (facts(folder) for folder in folders)
    assert whole == killed and len(whole) == 4


def _go_on(experiment, tree, counters, iterations):
    rest = tree["rest"]
    run = rest.replace(train=rest.train.replace(params=tree["params"]), counters=counters)
    # Kept alive here: the loop gives its buffers away.
    loop = experiment.iterate(jax.tree.map(jnp.copy, run.replace(counters=None)).replace(
        counters=counters
    ))
    for _ in range(iterations):
        run, _ = next(loop)
    return run


def _digest(run):
    return checkpoint.fingerprints(
        [x for x in jax.tree.leaves(run.replace(counters=None)) if x.size]
    ), run.counters


def _without(tree, path):
    """The tree with the item at `path` zeroed."""
    rest = tree["rest"]
    zero = lambda item: jax.tree.map(jnp.zeros_like, item)  # noqa: E731
    if path == "params":
        return tree | {"params": zero(tree["params"])}
    group, _, name = path.partition(".")
    item = getattr(rest, group)
    item = item.replace(**{name: zero(getattr(item, name))}) if name else zero(item)
    return tree | {"rest": rest.replace(**{group: item})}


def test_every_item_of_a_resume_point_is_needed(folders, experiment, tmp_path):
    """Negative controls: the same continuation from an older resume point ends in the same state,
    and with any one item zeroed in another. (A test of the test above: what could be dropped
    unseen would not have been compared.)"""
    final, whole, meta = processes.resume_point(experiment, folders[0])
    older = checkpoint.committed_steps(folders[0] / "checkpoints")[-2]
    shutil.copytree(folders[0] / "checkpoints" / str(older), tmp_path / "checkpoints" / str(older))
    step, tree, older_meta = processes.resume_point(experiment, tmp_path)
    counters, iterations = Counters(**older_meta["counters"]), final - step
    assert step == older and iterations > 1

    digest, counted = _digest(_go_on(experiment, tree, counters, iterations))
    rest = whole["rest"]
    end = rest.replace(train=rest.train.replace(params=whole["params"]))
    assert (digest, counted) == (
        _digest(end)[0],
        Counters(**meta["counters"]),
    )
    items = ["params", "train.opt_state", "train.target_params", "train.step", "env", "timestep"]
    items += ["replay.weights", "replay.rows", "replay.cursor", "replay.filled"]
    items += ["acting.carry", "acting.running_return", "acting.resets"]
    for item in items:
        other = _go_on(experiment, _without(tree, item), counters, iterations)
        assert _digest(other) != (digest, counted), f"{item} is not needed"
    for name in ("iteration", "env_steps", "rows", "updates"):
        fewer = counters._replace(**{name: 0})
        other = _go_on(experiment, tree, fewer, min(iterations, 2))
        same = _go_on(experiment, tree, counters, min(iterations, 2))
        assert _digest(other) != _digest(same), f"counters.{name} is not needed"


def test_a_store_gives_back_what_the_driver_saved(folders, experiment):
    """Planted bug seen: the newest resume point but one restored."""
    step, tree, meta = processes.resume_point(experiment, folders[1])
    with CheckpointStore(folders[1] / "checkpoints", max_to_keep=4) as store:
        run, wall_s = train._start(experiment, store, folders[1])
    fakes.assert_trees_equal(train.saved_tree(run), tree)
    counters = Counters(**meta["counters"])
    assert run.counters == counters._replace(resumes=counters.resumes + 1)
    assert run.counters.iteration == step and wall_s == meta["wall_s"] > 0
