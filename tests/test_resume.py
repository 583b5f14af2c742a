"""CartPole on the device over processes: a run that was killed, then asked to leave, goes on bit
for bit, and nothing is spare."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import pytest

import fakes
from muzero_jax import checkpoint, metrics
from muzero_jax.types import Counters
import processes

_OPTIONS = processes.TINY_CONTROL | {
    "env.num_groups": 1,
    "total_env_steps": 1200,
    "evaluation.interval_env_steps": 250,
    "evaluation.stop_at": 1000.0,
    "checkpoint.resume_interval_env_steps": 150,
    "checkpoint.params_interval_env_steps": 100,
    "checkpoint.max_to_keep": 4,
    "logging.interval_env_steps": 100,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of one config: undisturbed; and killed -9, taken up, asked to leave by SIGTERM, and
    taken up again."""
    base = tmp_path_factory.mktemp("resume")
    arguments = {
        name: processes.command(
            "train",
            "--config=configs/cartpole.py:on_device",
            f"--workdir={base / name}",
            **_OPTIONS,
        )
        for name in ("whole", "killed")
    }
    log = base / "log"
    assert processes.finish(arguments["whole"], output=log) == 0, log.read_text()
    processes.kill_after_a_save(arguments["killed"], base / "killed", output=log)
    processes.ask_to_leave(arguments["killed"], base / "killed", output=log)
    assert processes.finish(arguments["killed"], output=log) == 0, log.read_text()
    assert "resuming at" in log.read_text()
    return base / "whole", base / "killed"


@pytest.fixture(scope="module")
def experiment(folders):
    """The experiment of both runs, in this process."""
    return processes.experiment_of(folders[0])[1]


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(folders, experiment):
    """Two processes against one, which is also: same seed, same bits in any process. Planted bug
    seen: a step of `params/` saved again, which ended the second process."""
    step, whole, meta = processes.resume_point(experiment, folders[0])
    again_step, killed, again_meta = processes.resume_point(experiment, folders[1])
    assert again_step == step
    fakes.assert_trees_equal(killed, whole)
    counters, again = Counters(**meta["counters"]), Counters(**again_meta["counters"])
    assert (counters.resumes, again.resumes) == (0, 2)
    assert again._replace(resumes=0) == counters and counters.env_steps >= 1200
    assert checkpoint.committed_steps(folders[0] / "params")[-1] == step


@pytest.mark.slow
def test_a_killed_run_records_the_evaluations_of_the_other(folders):
    """But for clocks. Planted bug seen: evaluation games drawn by the count of resumes."""

    def facts(folder):
        # Lines of `train/` are left out: they are of the time since a line, or since a resume.
        clocks = ("wall_s", "eval/seconds", "resumes")
        return [
            {name: value for name, value in record.items() if name not in clocks}
            for record in metrics.read_jsonl(folder / "metrics.jsonl")
            if "eval/return_mean" in record
        ]

    whole, killed = (facts(folder) for folder in folders)
    assert whole == killed and len(whole) == 5


def _go_on(experiment, tree, counters, iterations):
    """(fingerprint of each leaf, counters, metrics) some iterations after a resume point."""
    rest = jax.tree.map(jnp.copy, tree["rest"])  # The loop gives its buffers away.
    params = jax.tree.map(jnp.copy, tree["params"])
    run = rest.replace(train=rest.train.replace(params=params), counters=counters)
    returns = []
    for run, news in itertools.islice(experiment.run(run), iterations):
        returns.append(float(news["train/return_sum"]))
    return *_digest(run), returns


def _digest(run):
    leaves = jax.tree.leaves(run.replace(counters=None))
    return checkpoint.fingerprints([x for x in leaves if x.size]), run.counters


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


@pytest.mark.slow
def test_every_item_of_a_resume_point_is_needed(folders, experiment, tmp_path):
    """Negative controls: from an older resume point the run ends in the same state; with any one
    item zeroed, three iterations later state, counters or returns differ. (A test of the test
    above: what could be dropped unseen would not have been compared.) Planted bug seen: a resumed
    loop forgot the resets of the iteration before, so that `env_steps` differed."""
    final, whole, meta = processes.resume_point(experiment, folders[0])
    older = checkpoint.committed_steps(folders[0] / "checkpoints")[-2]
    shutil.copytree(folders[0] / "checkpoints" / str(older), tmp_path / "checkpoints" / str(older))
    step, tree, older_meta = processes.resume_point(experiment, tmp_path)
    counters = Counters(**older_meta["counters"])
    assert step == older and final - step >= 3
    rest = whole["rest"]
    end = rest.replace(train=rest.train.replace(params=whole["params"]))
    end = end.replace(counters=Counters(**meta["counters"]))
    assert _go_on(experiment, tree, counters, final - step)[:2] == _digest(end)

    right = _go_on(experiment, tree, counters, 3)
    assert _go_on(experiment, tree, counters, 3) == right
    items = ["params", "train.opt_state", "train.target_params", "train.step", "env", "timestep"]
    items += ["replay.weights", "replay.rows", "replay.cursor", "replay.filled"]
    items += ["acting.carry", "acting.running_return", "acting.resets"]
    for item in items:
        assert _go_on(experiment, _without(tree, item), counters, 3) != right, item
    for name in ("iteration", "env_steps", "rows", "updates"):
        fewer = counters._replace(**{name: getattr(counters, name) - 8})
        assert _go_on(experiment, tree, fewer, 3) != right, name
