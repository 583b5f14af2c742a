"""Real runs of the scripts: what they write, kill -9 and the same command again, bad input."""

import json
import math
import subprocess
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import bad_commands
import fakes
from muzero_jax import checkpoint, metrics
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.errors import BadInputError
from muzero_jax.training import saving
from muzero_jax.types import Counters
import processes

_LOG_STEPS, _EVAL_STEPS = 50, 150
_CADENCES = {
    "env.num_groups": 2,
    "evaluation.interval_env_steps": _EVAL_STEPS,
    "checkpoint.resume_interval_env_steps": 60,
    "checkpoint.params_interval_env_steps": 40,
    "checkpoint.max_to_keep": 2,
    "logging.interval_env_steps": _LOG_STEPS,
}
_RUNS = {
    "train": ("configs/cartpole.py", 900, processes.TINY_CONTROL),
    "atari": ("configs/atari.py:Pong", 700, processes.TINY_ATARI),
}
_SLOW = [pytest.mark.envpool, pytest.mark.slow]
_KILLS = [  # (script, how often it is killed); each kill is ten seconds of processes that start.
    pytest.param(("train", 1), marks=_SLOW, id="train"),
    pytest.param(("train", 3), marks=_SLOW, id="train-thrice"),
    pytest.param(("atari", 1), marks=_SLOW, id="atari-once"),
    pytest.param(("atari", 3), marks=_SLOW, id="atari-thrice"),
]


class _Killed(NamedTuple):
    """A run that was killed and taken up, and what was seen at each kill."""

    workdir: Any
    script: str
    total: int
    log: str
    points: list  # (step, tree, counters, what `saving.start` made of it) after each kill.
    lines: list  # Bytes of metrics.jsonl after each kill.


@pytest.fixture(scope="module", params=_KILLS)
def killed(request, tmp_path_factory):
    """Kills -9 at random moments, the same command each time, then to the end."""
    script, kills = request.param
    config, total, options = _RUNS[script]
    base = tmp_path_factory.mktemp(script)
    workdir, log = base / "run", base / "log"
    options = options | _CADENCES | {"total_env_steps": total}
    if script == "train":
        options["evaluation.stop_at"] = 1000.0
    arguments = processes.command(script, f"--config={config}", f"--workdir={workdir}", **options)
    points, lines, experiment = [], [], None
    for _ in range(kills):
        processes.kill_after_a_save(arguments, workdir, output=log)
        experiment = experiment or processes.experiment_of(workdir)[1]
        step, tree, meta = processes.resume_point(experiment, workdir)
        with CheckpointStore(workdir / "checkpoints", max_to_keep=2) as store:
            written = metrics.read_jsonl(workdir / "metrics.jsonl")
            started, _ = saving.start(experiment, store, written)
        points.append((step, tree, Counters(**meta["counters"]), started))
        lines.append((workdir / "metrics.jsonl").read_bytes())
    assert processes.finish(arguments, output=log) == 0, log.read_text()
    step, tree, meta = processes.resume_point(experiment, workdir)
    points.append((step, tree, Counters(**meta["counters"]), None))
    lines.append((workdir / "metrics.jsonl").read_bytes())
    return _Killed(workdir, script, total, log.read_text(), points, lines)


def test_a_run_goes_on_from_its_newest_resume_point(killed):
    """What starts is what was saved: replay, priorities, optimiser and counters; and the next
    process says where it begins. Planted bugs seen: a new optimiser; `resumes` always 1."""
    for number, (_, tree, counters, started) in enumerate(killed.points[:-1], start=1):
        fakes.assert_trees_equal(saving.saved_tree(started), tree)
        assert started.counters == counters._replace(resumes=number)
        assert counters.resumes == number - 1
        said = f"resuming at {counters.env_steps} env steps, {counters.updates} updates"
        assert f"{said} (resume {number});" in killed.log
    steps = [point[0] for point in killed.points]
    assert steps == sorted(set(steps))
    end = killed.points[-1][2]
    assert end.resumes == len(killed.points) - 1 and end.env_steps >= killed.total


def test_replay_and_optimiser_run_on_through_the_kills(killed):
    """Seen from outside: the ring of the last resume point still holds every row of the earlier
    ones (a kill only marks the newest row `last`), and the optimiser has counted every update.
    Planted bugs seen: the abandoned row not marked; a new optimiser."""
    final = killed.points[-1][1]["rest"]
    size = killed.points[0][1]["rest"].replay.filled.shape[0]
    for _, tree, counters, _ in killed.points[:-1]:
        old = tree["rest"].replay
        assert old.filled.tolist() == [counters.rows // size] * size
        filled = int(old.filled[0])
        names = ("observation", "reward", "discount", "first", "action", "policy", "value")
        for name in names:
            before, after = getattr(old.rows, name), getattr(final.replay.rows, name)
            np.testing.assert_array_equal(before[:, :filled], after[:, :filled], err_msg=name)
        assert final.replay.rows.last[:, filled - 1].all(), "abandoned episodes are truncated"
        assert final.replay.rows.first[:, filled].all(), "and then new ones begin"
    end = killed.points[-1][2]
    assert final.replay.filled.tolist() == [end.rows // size] * size
    assert int(final.train.step) == end.updates > 0
    counts = [x for x in jax.tree.leaves(final.train.opt_state) if x.dtype == np.int32]
    assert counts and all(int(count) == end.updates for count in counts)
    assert end.updates == (end.rows - 48) // 8


def test_no_record_is_lost(killed):
    """What was written before a kill stays, and no line that was due is missing in the run as it
    finally went. Planted bug seen: the file opened for writing again."""
    for before, after in zip(killed.lines, killed.lines[1:], strict=False):
        assert after.startswith(before) and len(after) > len(before)
    records = metrics.read_jsonl(killed.workdir / "metrics.jsonl")
    assert max(r["resumes"] for r in records) == len(killed.points) - 1
    logged = [r["env_steps"] for r in records if "speed/env_steps_per_s" in r]
    evaluated = [r["env_steps"] for r in records if "eval/return_mean" in r]
    assert logged == sorted(logged) and evaluated == sorted(evaluated)
    # An iteration is 16 rows, and a record may be that late.
    assert max(np.diff([0, *logged])) <= _LOG_STEPS + 2 * 16
    marks = range(_EVAL_STEPS, killed.total + 1, _EVAL_STEPS)
    assert [x // _EVAL_STEPS for x in evaluated][: len(marks)] == [x // _EVAL_STEPS for x in marks]


def test_files_and_fields_of_a_run(killed):
    """The names that the README gives. Planted bug seen: `speed/share_search` on no line."""
    files = {path.name for path in killed.workdir.iterdir()}
    assert files == {"config.json", "lock", "metrics.jsonl", "checkpoints", "params", "best"}
    stored = json.loads((killed.workdir / "config.json").read_text())
    assert stored["total_env_steps"] == killed.total
    end = killed.points[-1][2]
    for folder in ("checkpoints", "params"):
        steps = checkpoint.committed_steps(killed.workdir / folder)
        assert steps[-1] == end.iteration and len(steps) == 2
        meta = checkpoint.read_meta(killed.workdir / folder)
        assert Counters(**meta["counters"]) == end
    records = metrics.read_jsonl(killed.workdir / "metrics.jsonl")
    for record in records:
        assert {"env_steps", "updates", "wall_s", "resumes"} <= set(record)
    speeds = {f"speed/{name}_per_s" for name in ("env_steps", "simulations", "updates")}
    wanted = speeds | {"speed/share_search", "speed/share_env", "train/value_loss"}
    assert wanted <= set().union(*records)
    last = [r for r in records if "speed/env_steps_per_s" in r][-1]
    assert wanted <= set(last) and all(last[name] > 0 for name in speeds)
    assert last["env_steps"] == end.env_steps and last["updates"] == end.updates
    scored = [r for r in records if "eval/return_mean" in r][-1]
    assert scored["env_steps"] == end.env_steps and len(scored["eval/returns"]) == 4
    assert scored["eval/return_mean"] == pytest.approx(np.mean(scored["eval/returns"]))
    assert [r["wall_s"] for r in records] == sorted(r["wall_s"] for r in records)


def test_a_score_is_one_line_and_leaves_the_run_alone(killed):
    """Of the newest parameters, or of random play. Planted bug seen: updates for env steps."""
    before = killed.lines[-1]
    words = ["--episodes=4", "--num_envs=2", "--seed=5", f"--workdir={killed.workdir}"]
    results = []
    for policy in ("search", "random"):
        output = killed.workdir.parent / f"score_{policy}"
        errors = killed.workdir.parent / "errors"
        arguments = processes.command("evaluate", *words, f"--policy={policy}")
        assert processes.start(arguments, output=output, errors=errors).wait(240) == 0
        (line,) = output.read_text().splitlines()
        results.append(json.loads(line))
    assert (killed.workdir / "metrics.jsonl").read_bytes() == before
    end = killed.points[-1][2]
    search, random = results
    for result in results:
        assert len(result["returns"]) == 4
        assert result["return_mean"] == pytest.approx(np.mean(result["returns"]))
        assert result["protocol"]["max_steps"] == 30 and result["seed"] == 5
        assert 0 < result["steps_mean"] <= 30
    assert (search["step"], search["env_steps"], search["updates"]) == (
        end.iteration,
        end.env_steps,
        end.updates,
    )
    assert (random["policy"], random["step"], random["env_steps"]) == ("random", None, None)
    if killed.script == "train":
        assert search["returns"] == [min(x, 30) for x in search["returns"]]
        assert search["steps_mean"] == search["return_mean"]  # Reward 1 a step.


@pytest.mark.slow
def test_ten_updates_that_are_not_finite_end_the_run(tmp_path):
    """A learning rate of 1e38: exit 70, one line, and nothing saved afterwards. Planted bug seen:
    the count of skipped updates not looked at."""
    arguments = processes.command(
        "train",
        "--config=configs/cartpole.py:on_device",
        f"--workdir={tmp_path / 'run'}",
        **processes.TINY_CONTROL
        | {
            "env.num_groups": 1,
            "total_env_steps": 2000,
            "optimizer.learning_rate": 1e38,
            "optimizer.warmup_updates": 0,
            "evaluation.interval_env_steps": 10**6,
            "checkpoint.resume_interval_env_steps": 16,
            "checkpoint.params_interval_env_steps": 16,
        },
    )
    process = processes.start(arguments, output=tmp_path / "out", errors=tmp_path / "err")
    assert process.wait(240) == 70
    last = (tmp_path / "err").read_text().splitlines()[-1]
    assert last.startswith("error: 10 updates in a row were not finite")
    assert "Lower the learning rate" in last
    experiment = processes.experiment_of(tmp_path / "run")[1]
    _, tree, meta = processes.resume_point(experiment, tmp_path / "run")
    assert int(tree["rest"].train.skipped_in_a_row) < 10 and meta["counters"]["updates"] < 20
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree["params"]))


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Name -> (exit code, standard error) of every bad input, run with JAX telling of compiles."""
    base = tmp_path_factory.mktemp("bad")
    bad_commands.make_folder(base)
    cases = [bad_commands.command(name) for name in bad_commands.COMMANDS]
    found = processes.refusals(cases, cwd=base)
    return dict(zip(bad_commands.COMMANDS, found, strict=True)), base


@pytest.mark.parametrize("name", bad_commands.COMMANDS)
def test_bad_input_is_one_line_and_exit_code_78(name, refusals):
    """JAX reports every program it compiles on standard error: one line means that none was.
    Planted bugs seen: ranges without their lower end; words left over ignored."""
    outcomes, _ = refusals
    code, errors = outcomes[name]
    assert code == 78, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n")
    for part in bad_commands.COMMANDS[name][2]:
        assert part in errors


@pytest.mark.slow
def test_bad_input_of_real_processes(refusals):
    """Each as a process of its own, from its start to its end; benchmarks/bad_input.py times them.
    Planted bug seen: a config file's error let through, code 1."""
    _, base = refusals
    for name in bad_commands.COMMANDS:
        ran = bad_commands.run(name, base)
        assert ran.returncode == 78 and ran.stderr.count("\n") == 1, (name, ran.stderr)


def test_bad_input_leaves_nothing_behind(refusals):
    """Planted bug seen: ranges without their lower end, so that the run starts."""
    _, base = refusals
    assert not (base / "fresh").exists()
    assert json.loads((base / "used" / "config.json").read_text())["targets"]["discount"] == 0.5


def test_an_unknown_game_is_refused_without_envpool(tmp_path):
    """Planted bug seen: the names taken from `envpool.list_all_envs()`."""
    arguments = processes.command("atari", "--config=configs/atari.py:Pongg")
    arguments[1:1] = ["-X", "importtime"]
    ran = subprocess.run(
        arguments,
        cwd=processes.ROOT,
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    modules = {line.split("|")[-1].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "ml_collections" in modules and ran.returncode == 78
    assert "error: env.game: unknown game 'Pongg'; did you mean 'Pong'?" in ran.stderr
    assert not {name for name in modules if name.startswith(("envpool", "gymnasium"))}


def test_the_schema_knows_what_can_be_built():
    """Planted bugs seen: a suite added to `HOST_ENVS` alone; a network to `NETWORKS`."""
    from muzero_jax.config import build, schema

    made = {*schema.ON_DEVICE, *build.HOST_ENVS}
    assert made == set(schema.CHOICES["env.suite"])
    assert set(build.NETWORKS) == set(schema.CHOICES["network.kind"])
    assert set(build.PLANS) == set(schema.CHOICES["search.kind"])
    assert set(build.POLICIES) == set(schema.CHOICES["codec.policy"])


@pytest.mark.parametrize(
    "preset, field, value, said",
    [
        ("atari", "search.num_simulations", -5, ["must be >= 1 and <= 10000 (got -5)"]),
        ("cartpole", "optimizer.learning_rate", math.nan, ["must be > 0 (got nan)"]),
        ("cartpole", "targets.discount", 1.5, ["must be > 0 and <= 1 (got 1.5)"]),
        ("atari", "env.sticky", 2.0, ["<= 1 (got 2.0)"]),
        ("cartpole", "explore.temperature", -1.0, ["must be >= 0 (got -1.0)"]),
        ("cartpole", "replay.batch_size", 0, ["must be >= 1 (got 0)"]),
        ("cartpole", "replay.rows_per_env", 16, ["5 unroll + 10 bootstrap", "(got 16)"]),
        ("cartpole", "replay.min_rows", 200_000, ["<= 128000", "(got 200000)"]),
        ("cartpole", "replay.rows_per_update", 3, ["16 rows", "(got 3)"]),
        ("cartpole", "env.num_groups", 3, ["must divide env.num_envs (got 3 and 32)"]),
        ("atari", "env.image", "rgb", ["must be one of", "gray84", "'rgb'"]),
    ],
)
def test_a_value_out_of_its_range_is_refused_before_anything_is_built(preset, field, value, said):
    """Planted bugs seen: ranges without their lower end, without their upper end."""
    from muzero_jax.config import build, schema
    from presets import config_of

    config = config_of(preset, {"atari": "Pong", "cartpole": "host"}[preset])
    config.update_from_flattened_dict({field: value})
    with pytest.raises(BadInputError) as error:
        schema.check(config)
        build.experiment(config)
    assert str(error.value).startswith(field)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "field, value, wanted",
    [
        ("env.num_envs", 32.0, "a whole number"),
        ("env.num_envs", True, "a number"),
        ("replay.rows_per_env", 2**31, "< 2^31"),
        ("evaluation.stop_at", "499", "a number"),
        ("codec.value.low", "-1", "a number"),
        ("targets.discount", 0.0, "> 0 and <= 1"),
        ("optimizer.momentum", 1.0, ">= 0 and < 1"),
        ("explore.halve_temperature_at_updates", (5, 3), "rising numbers"),
        ("replay.batch_size", None, "must be set"),
        ("total_env_steps", None, "must be set"),
        ("logging.tensorboard", "no", "True or False"),
        ("env.task", 5, "a name"),
    ],
)
def test_a_number_of_the_wrong_kind_is_named(field, value, wanted):
    """What a config file of one's own may hold; flags know their type.

    Planted bugs seen: `bool` taken for an `int`; sizes above 2^31 let through; 32.0 for 32; None
    let through everywhere.
    """
    from muzero_jax.config import schema
    from presets import config_of

    config = config_of("cartpole", "on_device")
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(BadInputError) as error:
        schema.check(config)
    assert field in str(error.value) and wanted in str(error.value)


@pytest.mark.parametrize(
    "group, name, said",
    [
        ("env", "stickiness", "env.stickiness: there is no such field"),
        ("search", "dirichlet_alpha", "search.dirichlet_alpha: there is no such field"),
        ("loss", "entropy", "loss.entropy: there is no such field"),
        ("codec.value", "bins", "codec.value.bins: there is no such field"),
    ],
)
def test_a_field_that_no_part_takes_is_named(group, name, said):
    """Planted bug seen: the fields handed on as they are (a TypeError with traceback)."""
    from muzero_jax.config import build
    from presets import config_of

    config = config_of("cartpole", "host")
    with config.unlocked():
        config.update_from_flattened_dict({f"{group}.{name}": 1.0})
    with pytest.raises(BadInputError, match=said):
        build.experiment(config)


@pytest.mark.parametrize(
    "group, name",
    [
        ("optimizer", "learning_rate"),
        ("replay", "priority_floor"),
        ("evaluation", "stop_at"),
        ("network", "kind"),
        ("env", "task"),
        ("logging", "interval_env_steps"),
    ],
)
def test_a_field_that_is_needed_is_named(group, name):
    """Planted bugs seen: left to Python (a traceback), by `build.call`, by `schema`."""
    from muzero_jax.config import build, schema
    from presets import config_of

    config = config_of("cartpole", "on_device")
    with config.unlocked():
        del config[group][name]
    with pytest.raises(BadInputError, match=f"^{group}.{name} is missing"):
        schema.check(config)
        build.experiment(config)


@pytest.mark.parametrize(
    "preset, field, value, said",
    [
        ("cartpole", "checkpoint.foo", 1, "checkpoint.foo: there is no such field"),
        ("cartpole", "replay.priority_exponnt", 0.5, "replay.priority_exponnt: there is no such"),
        ("cartpole", "evaluation.num_levels", 5, "evaluation.num_levels: there is no such field"),
        ("cartpole", "loss.random_shift_pixels", 4, "loss.random_shift_pixels needs images"),
        ("atari", "loss.random_shift_pixels", 84, "loss.random_shift_pixels needs images"),
        ("atari", "network.stages", (1, 2), "network.stages must be"),
    ],
)
def test_what_fits_no_part_of_a_run_is_named(preset, field, value, said):
    """Planted bugs seen: each check left out; the evaluation's games first made hours later."""
    from muzero_jax.config import build, schema
    from presets import config_of

    config = config_of(preset, {"atari": "Pong", "cartpole": "on_device"}[preset])
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(BadInputError, match=said):
        schema.check(config)
        build.experiment(config)
