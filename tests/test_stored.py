"""Recording what runs have stored, and learning from it: the scripts, killed and refused too."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import metrics
from muzero_jax.acting import NO_EXPLORATION, init_carry
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.config import build, offline, runs
from muzero_jax.data import dataset, trajectories
from muzero_jax.envs.wrappers import as_host_env
from muzero_jax.errors import BadInputError
from muzero_jax.evaluation import recording
from muzero_jax.evaluation.actors import make_search_player
from muzero_jax.evaluation.episodes import play_episodes
from muzero_jax.training.saving import new_run, saved_tree
from muzero_jax.types import ActionSpec, ArraySpec, Counters, EnvSpec, Transition
from oracles import episodes as oracle
from presets import config_of
import processes
import record
from test_dataset import DAMAGE

_S = processes.TINY_CONTROL["network.history_steps"]
_SPEC = EnvSpec(ArraySpec((4,), "float32"), ActionSpec.discrete(2), 1, True, 500)
_LEARN = processes.TINY_CONTROL | {
    "env.num_groups": 1,
    "replay.rows_per_env": 64,
    "reanalyse.num_simulations": 2,
    "targets.value_source": "search",
    "evaluation.stop_at": 1000.0,
    "total_env_steps": 288,
    "evaluation.interval_env_steps": 144,
    "checkpoint.resume_interval_env_steps": 48,
    "checkpoint.params_interval_env_steps": 100,
    "checkpoint.max_to_keep": 30,
    "logging.interval_env_steps": 50,
}


def _config(fraction=1.0, **fields):
    config = config_of("cartpole", "on_device", **_LEARN | fields)
    config.reanalyse.update(fraction=fraction, fresh_values=fraction == 1.0)
    return config


def _rows(rng, length, *, same_step):
    """So many rows of random episodes as CartPole's replay would hold them."""
    episodes = oracle.random_episodes(
        rng, length, num_actions=2, max_length=12, truncates=0.0 if same_step else 0.3,
        life_loss=0.0, blunders=0.1,
    )
    rows = oracle.lay_out(episodes, players=1, same_step=same_step)[:length]

    def column(name, dtype):
        return np.array([getattr(row, name) for row in rows], dtype)

    return Transition(
        observation=np.repeat(column("observation", np.float32), 2, axis=1),
        policy=column("policy", np.float32),
        invalid_actions=None,
        made_at_updates=np.arange(length, dtype=np.int32),
        **{name: column(name, np.float32) for name in ("reward", "discount", "value")},
        **{name: column(name, bool) for name in ("first", "last", "explored")},
        action=column("action", np.int32),
    )


def _stored_run(folder, length, *, rows_per_env, same_step=False, spoilt=()):
    """(experiment, rows of each environment) of a run whose ring has been given these rows, those
    with the numbers `spoilt` with a reward that is NaN."""
    config = _config(**{"replay.rows_per_env": rows_per_env})
    experiment = build.experiment(config)
    rng = np.random.default_rng([length, same_step])
    envs = [_rows(rng, length, same_step=same_step) for _ in range(4)]
    run = new_run(experiment).replace(counters=None)
    for rows in envs:
        rows.reward[list(spoilt)] = np.nan
    add, ring = jax.jit(lambda state, rows: experiment.replay.add(state, 0, rows)), run.replay
    for begin in range(0, length, 20):
        ring = add(ring, jax.tree.map(lambda *x, b=begin: np.stack(x)[:, b : b + 20], *envs))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    with CheckpointStore(folder / "checkpoints", max_to_keep=1) as store:
        counters = Counters(9, 8 * length, 9 * length, 7)
        meta = {"counters": counters._asdict(), "wall_s": 0.0}
        store.save(9, saved_tree(run.replace(replay=ring)), meta)
    return experiment, envs


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(folder, rows of each environment) of a run of 4 x 120 rows in a ring of 512 each."""
    folder = tmp_path_factory.mktemp("played") / "run"
    return folder, _stored_run(folder, 120, rows_per_env=512)[1]


def test_a_replay_is_recorded_from_the_oldest_whole_episode_on(tmp_path):
    """Of 100 rows a lane the ring holds 64. Planted bugs seen: slots from 0 on; the episode whose
    beginning is lost recorded."""
    experiment, envs = _stored_run(tmp_path / "run", 100, rows_per_env=64)
    facts, dropped = {}, 0
    found = [*record.replay_trajectories(experiment, tmp_path / "run", facts)]
    for rows, all_rows in zip(found, envs, strict=True):
        begin = next(i for i in range(36, 100) if all_rows.first[i])
        fakes.assert_trees_equal(rows, jax.tree.map(lambda x, b=begin: x[b:], all_rows))
        dropped += begin - 36
    assert facts["dropped_rows"] == dropped > 0
    assert (facts["env_steps"], facts["updates"]) == (800, 7)


@pytest.mark.parametrize("same_step", [False, True])
def test_rows_that_are_not_finite_are_not_recorded(same_step, tmp_path):
    """A trajectory ends before such a row, and the next one begins with the next episode."""
    spoilt = (3, 40, 41, 77, 99)
    experiment, envs = _stored_run(
        tmp_path / "run", 100, rows_per_env=512, same_step=same_step, spoilt=spoilt
    )
    facts, want = {}, []
    for rows in envs:
        running = None
        for t in range(100):
            if t in spoilt:
                running = None
            elif running is not None:
                running.append(t)
            elif rows.first[t]:
                running = [t]
                want.append((rows, running))
    found = [*record.replay_trajectories(experiment, tmp_path / "run", facts)]
    assert len(found) == len(want) > 8
    for one, (rows, numbers) in zip(found, want, strict=True):
        fakes.assert_trees_equal(one, jax.tree.map(lambda x, n=numbers: x[n], rows))
    assert facts["dropped_rows"] == 400 - sum(len(numbers) for _, numbers in want) > 20


def test_games_are_those_of_training_though_evaluation_has_a_limit(tmp_path):
    """MinAtar's games of training end by their rules. Planted bug seen: the limit of None refused,
    as it is for an evaluation."""
    config = config_of("minatar")
    assert config.env.max_steps is None and config.evaluation.max_steps
    (tmp_path / "config.json").write_text(config.to_json())
    read = record.read_config(tmp_path)
    assert read.evaluation.max_steps is None
    assert build.experiment(read).eval_env([1, 2]).num_envs == 2


def test_no_reward_of_a_reset_in_the_same_step_is_lost(tmp_path):
    """In files of about two episodes all of them are there, but those that came before a
    trajectory's first row. Planted bug seen: seams closed without the row after."""
    experiment, envs = _stored_run(tmp_path / "run", 100, rows_per_env=512, same_step=True)
    found = record.replay_trajectories(experiment, tmp_path / "run", {})
    info = dataset.write_dataset(tmp_path / "data", _SPEC, found, rows_per_chunk=20)
    opened = dataset.open_dataset(tmp_path / "data")
    chunks = [dataset.read_chunk(opened, i) for i in range(len(info.chunks))]
    assert len(chunks) > 20 and max(len(chunk.first) for chunk in chunks) <= 20
    rewards = sum(rows.reward.sum(dtype=float) for rows in envs)
    assert sum(chunk.reward.sum(dtype=float) for chunk in chunks) == pytest.approx(rewards)
    ended = sum((rows.first[1:] | rows.last[1:]).sum() for rows in envs)
    assert info.episodes == ended > 40
    terminal = sum(
        (chunk.last & ~chunk.first & (chunk.discount == 0)).sum() for chunk in chunks
    )
    inside = sum((chunk.first[1:] & ~chunk.last[:-1]).sum() for chunk in chunks)
    assert terminal + inside == ended and terminal > 10


@pytest.mark.parametrize("same_step", [False, True])
def test_fresh_episodes_are_whole_and_those_that_a_player_plays(same_step, tmp_path):
    """The games of an evaluation with the same key. Planted bugs seen: the row after a reset in the
    same step left out; a list asked whether it is empty after it had grown."""
    env, params = fakes.make_jax_env(same_step=same_step), fakes.make_params()
    key = jax.random.key(3)
    play = recording.search_play(fakes.search, params, key, NO_EXPLORATION, 7)

    def host_env():
        return as_host_env(env, 2, jax.random.key(1))

    carry = init_carry(env.spec, 2, _S)
    found = [*recording.episode_trajectories(host_env(), play, carry, episodes_per_env=3)]
    player = make_search_player(fakes.search, env.spec, history_steps=_S)
    games = play_episodes(host_env(), player, params, key, episodes_per_env=3)
    scores = sorted((trajectories.episode_returns(rows)[0], len(rows.first) - 1) for rows in found)
    assert scores == sorted((game.score, game.steps) for game in games)
    assert all(rows.first.sum() == 1 and rows.last.sum() == 1 for rows in found)
    assert all((rows.made_at_updates == 7).all() for rows in found)
    assert dataset.write_dataset(tmp_path, env.spec, found).episodes == 6


def test_random_play_has_no_policies(tmp_path):
    """Planted bug seen: made_at_updates left at 0, as if there were a search."""
    env = fakes.make_host_env([0, 1, 2], [2, 3, 4])
    play = recording.random_play(env.spec, seed=0)
    found = recording.episode_trajectories(env, play, None, episodes_per_env=5)
    info = dataset.write_dataset(tmp_path, env.spec, found)
    assert info.policy is None and info.episodes == 15 and info.rows == 5 * (3 + 4 + 5)
    rows = dataset.read_chunk(dataset.open_dataset(tmp_path), 0)
    assert {*rows.action[~rows.last]} == {0, 1, 2}


@pytest.fixture(scope="module")
def recorded(played, tmp_path_factory):
    """A dataset that the script has recorded from the run."""
    base = tmp_path_factory.mktemp("recorded")
    words = [f"--workdir={played[0]}", f"--out={base / 'data'}"]
    output, errors = base / "output", base / "errors"
    arguments = processes.command("record", *words)
    assert processes.start(arguments, output=output, errors=errors).wait(240) == 0
    (line,) = output.read_text().splitlines()
    facts, info = json.loads(line), dataset.open_dataset(base / "data").info
    fields = ("rows", "episodes", "return_mean")
    assert [facts[name] for name in fields] == [getattr(info, name) for name in fields]
    assert facts["path"] == str(base / "data")
    assert facts["dropped_rows"] == 0 and facts["rows"] == 480
    return base / "data"


def _build(data, *args, **options):
    return build.experiment(_config(**options), *args, data=dataset.open_dataset(data))


@pytest.fixture(scope="module")
def learned(recorded, tmp_path_factory):
    """A run from the data, by the driver of the scripts."""
    workdir = tmp_path_factory.mktemp("learned") / "run"
    processes.train(_config(), workdir, data=str(recorded))
    return workdir


@pytest.fixture(scope="module")
def killed(recorded, tmp_path_factory):
    """A run from the data: the script, killed -9; then its driver, to the end."""
    base = tmp_path_factory.mktemp("killed")
    words = [f"--data={recorded}", f"--workdir={base / 'run'}"]
    arguments = processes.command(
        "train", "--config=configs/cartpole.py:on_device", *words, **_LEARN
    )
    processes.kill_after_a_save(arguments, base / "run", output=base / "log")
    processes.train(_config(), base / "run", data=str(recorded))
    return base / "run"


@pytest.mark.slow
def test_a_killed_run_that_learns_from_data_ends_like_one_that_was_not(killed, recorded):
    """Bit for bit, the ring and its priorities too; a step before the end it did not (the negative
    control). Planted bug seen: a resumed loop read from the first block on."""
    experiment = _build(recorded)
    _, tree, meta = processes.resume_point(experiment, killed)
    assert Counters(**meta["counters"]) == Counters(18, 288, 288, 36, resumes=1)
    for number, (run, _) in enumerate(experiment.run(new_run(experiment)), start=1):
        if number == 17:
            before = jax.device_get(saved_tree(run))
        elif number == 18:
            break
    fakes.assert_trees_equal(saved_tree(run), tree)
    for name in ("weights", "cursor"):
        held = getattr(before["rest"].replay, name)
        assert not np.array_equal(held, getattr(tree["rest"].replay, name))


def test_what_a_run_writes_that_learns_from_data(learned, recorded):
    """The same files; evaluations and cadences count rows of data; nothing claims to have acted.
    Planted bugs seen: `config.json` without the identity; simulations written for rows."""
    config = json.loads((learned / "config.json").read_text())
    assert config["data"] == dataset.open_dataset(recorded).identity
    assert config["reanalyse"]["fraction"] == 1.0 and config["reanalyse"]["fresh_values"]
    assert "data" not in runs.read_config(learned)
    records = metrics.read_jsonl(learned / "metrics.jsonl")
    assert [x["env_steps"] for x in records if "eval/return_mean" in x] == [144, 288]
    lines = [x for x in records if "train/loss" in x]
    assert len(lines) >= 5 and "train/episodes" not in set().union(*lines)
    # Of B examples the K + 1 rows of the unroll are searched, and those where returns stop.
    target, batch = config["targets"], config["replay"]["batch_size"]
    searched = target["unroll_steps"] + 1
    searched += min(searched, target["bootstrap_steps"])
    simulations = batch * searched * config["reanalyse"]["num_simulations"]
    for line in lines:
        simulated, updates = line["speed/simulations_per_s"], line["speed/updates_per_s"]
        assert simulated == pytest.approx(simulations * updates, rel=1e-6)
    assert all(x["train/policy_age"] == 0 and np.isfinite(x["train/loss"]) for x in lines)


def test_policies_and_values_of_the_data_are_never_read(recorded, tmp_path):
    """The ring is the same without them, and all that can be drawn is as likely. Planted bugs seen:
    both read always; initial priorities of values."""
    opened = dataset.open_dataset(recorded)
    chunks = [dataset.read_chunk(opened, i) for i in range(len(opened.info.chunks))]
    bare = dict.fromkeys(["policy", "value", "made_at_updates"])
    dataset.write_dataset(tmp_path, _SPEC, [chunk.replace(**bare) for chunk in chunks])
    rings = []
    for path in (recorded, tmp_path):
        experiment = _build(path)
        run = new_run(experiment).replace(train=fakes.make_train())
        _, run = fakes.take(experiment.run(run, learn=fakes.learn), 3)
        rings.append(jax.device_get((run.replay, run.train)))
    fakes.assert_trees_equal(*rings)
    assert len(np.unique(rings[0][0].weights)) == 2  # One of them is 0: not to be drawn.
    with pytest.raises(BadInputError, match="its policies are None"):
        _build(tmp_path, fraction=0.5)


@pytest.mark.slow
def test_two_devices_learn_from_data_that_the_ring_holds(recorded):
    """From what is stored with them here. Planted bug seen: policies left out."""
    options = {"replay.rows_per_env": 512, "fraction": 0.0}
    experiment = _build(recorded, jax.devices("cpu")[:2], **options)
    taken, run = fakes.take(experiment.run(new_run(experiment)), 3)
    assert np.isfinite([x["train/loss"] for _, x in taken]).all()
    assert len(run.replay.weights.sharding.device_set) == 2
    assert taken[-1][0] == Counters(3, 48, 48, 6)
    info = dataset.open_dataset(recorded).info
    rows = jax.device_get(run.replay.rows)
    acted = ~rows.last & (np.arange(rows.last.shape[1]) < rows.last.shape[1] - _S)
    assert (np.asarray(run.replay.weights) > 0).sum() == acted.sum() == info.rows - _ends(recorded)
    assert rows.policy[acted].sum(axis=-1) == pytest.approx(1.0, abs=1e-5)


def test_data_that_leave_a_device_without_a_row_are_refused(tmp_path):
    """One episode, two devices; before anything is compiled. Seen before: trained on one shard of
    padding, whose weight made the loss of the other 5e-11."""
    rows = trajectories.rows_of_episode(
        _SPEC, jnp.zeros((9, 4), jnp.float32), np.zeros(8, int), np.ones(8), terminated=True
    )
    dataset.write_dataset(tmp_path, _SPEC, [rows])
    assert _build(tmp_path).data is not None
    line = r"^--data: .*: 1 of 2 devices would get no row of its 1 segments .* by --devices$"
    with pytest.raises(BadInputError, match=line):
        _build(tmp_path, jax.devices("cpu")[:2])


def test_returns_that_shorten_with_age_are_refused(tmp_path):
    """Stored rows do not tell when they were made. Seen before: every age 0, so that nothing was
    ever shortened."""
    line = r"^targets.shorten_every_updates must be None for learning from stored data: .*got 7\)$"
    with pytest.raises(BadInputError, match=line):
        _build(_write(tmp_path, _SPEC), **{"targets.shorten_every_updates": 7})


def _ends(data):
    opened = dataset.open_dataset(data)
    return sum(dataset.read_chunk(opened, i).last.sum() for i in range(len(opened.info.chunks)))


_SIZES = {  # Config: (updates of an iteration, rows of each lane).
    ("cartpole", "on_device", 32): (8, 8),
    ("cartpole", "on_device", 1024): (1, 32),
    ("cartpole", "on_device", 1): (256, 8),
    ("atari_100k", "Pong", 1): (200, 50),
    ("atari_paper", "Pong", 5120): (2, 20),
}


@pytest.mark.parametrize("preset", _SIZES, ids=str)
def test_an_iteration_is_about_as_long_as_one_that_acts(preset):
    """And takes whole rows of each lane. Planted bug seen: rounded down, to no update at all."""
    name, arg, *ratio = preset
    config = config_of(name, arg, **{"replay.rows_per_update": ratio[0]} if ratio else {})
    updates, rows = offline.iteration_size(config)
    assert (updates, rows) == _SIZES[preset]
    assert updates * config.replay.rows_per_update == rows * config.env.num_envs


def _write(path, spec, seed=0):
    rng = np.random.default_rng(seed)
    frames = jnp.zeros((9, *spec.observation_shape), spec.observation_dtype)
    episodes = (
        trajectories.rows_of_episode(
            spec, frames, rng.integers(2, size=8), rng.random(8), terminated=True
        )
        for _ in range(4)
    )
    dataset.write_dataset(path, spec, episodes, rows_per_chunk=20)
    return path


def _refused(config, folder, **options):
    with pytest.raises(BadInputError) as error:
        processes.train(config, folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


_OTHER = {  # Name: (what differs from CartPole, what the line has to say).
    "shape": (dict(observation=ArraySpec((3,), "float32")), "observation is"),
    "dtype": (dict(observation=ArraySpec((4,), "uint8")), "observation is"),
    "actions": (dict(action=ActionSpec.discrete(3)), "action is one of 3, that of the env"),
    "players": (dict(turn_sign=-1), "turn_sign is -1"),
}


@pytest.mark.parametrize("name", [*_OTHER, *DAMAGE])
def test_data_that_cannot_be_used_leave_nothing_behind(name, tmp_path):
    """Planted bug seen: the folder claimed before the data were read."""
    if name in _OTHER:
        change, said = _OTHER[name]
        _write(tmp_path / "data", EnvSpec(**vars(_SPEC) | change))
    else:
        damage, said = DAMAGE[name]
        damage(_write(tmp_path / "data", _SPEC))
    line = _refused(_config(), tmp_path / "run", data=str(tmp_path / "data"))
    assert line.startswith("--data: ") and said in line
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_data_only(learned, recorded, played, tmp_path):
    """Planted bugs seen: any data taken; none taken."""
    other = _write(tmp_path / "data", _SPEC)
    assert "learns from other data" in _refused(_config(), learned, data=str(other))
    assert "learns from data" in _refused(_config(), learned)
    online = runs.read_config(played[0])
    assert "learns from environments" in _refused(online, played[0], data=str(recorded))


def test_data_that_are_damaged_after_they_were_verified_end_the_run(tmp_path):
    """With the same line. Planted bug seen: a `DatasetError` left to Python."""
    data = _write(tmp_path / "data", _SPEC)
    opened = []

    def damage_when_opened_again(event, args):  # Hooks cannot be removed: this one acts once.
        if event == "open" and args[0] == str(data / "chunk-000001.npz"):
            opened.append(args)
            if len(opened) == 2:
                DAMAGE["flipped byte"][0](data)

    sys.addaudithook(damage_when_opened_again)
    line = _refused(_config(), tmp_path / "run", data=str(data))
    assert line.startswith("--data: ") and "chunk-000001.npz is damaged" in line


def test_a_block_that_the_ring_cannot_take_is_refused(recorded):
    """Planted bug seen: left to the ring, while the program is traced."""
    with pytest.raises(BadInputError, match="replay.rows_per_env must be >= 40, for the 32"):
        _build(recorded, **{"replay.rows_per_env": 30, "replay.rows_per_update": 128})


_FLAGS = dict(out="out", episodes=None, policy="search", noise="training")
_BAD_FLAGS = {  # Name: (flags, of which run, what the line has to say).
    "no out": ({"out": None}, "played", "--out is required"),
    "noise of a replay": ({"noise": "none"}, "played", "are of fresh episodes"),
    "random replay": ({"policy": "random"}, "played", "are of fresh episodes"),
    "no replay": ({}, "learned", "learns from data, it stores nothing"),
    "no checkpoint": ({"episodes": 4}, "empty", "no checkpoint in"),
}


@pytest.mark.parametrize("name", _BAD_FLAGS)
def test_flags_of_recording_that_do_not_fit(name, played, learned, tmp_path):
    """Planted bugs seen: each check left out."""
    changes, which, said = _BAD_FLAGS[name]
    folder = {"played": played[0], "learned": learned, "empty": tmp_path}[which]
    with pytest.raises(BadInputError, match=said):
        record.check_flags(types.SimpleNamespace(**_FLAGS | changes), folder)


def test_bad_input_is_one_line_and_exit_code_78(played, recorded, tmp_path):
    """Planted bugs seen: data refused without the name of the flag; a full folder left to Python (a
    traceback)."""
    bad = _write(tmp_path / "bad", _SPEC)
    DAMAGE["flipped byte"][0](bad)
    cases = {
        "chunk-000001.npz is damaged": (
            "train", "--config=configs/cartpole.py:on_device", f"--data={bad}",
            f"--workdir={tmp_path / 'run'}",
        ),
        "is there and not empty": ("record", f"--workdir={played[0]}", f"--out={recorded}"),
    }
    for number, (said, words) in enumerate(cases.items()):
        output = tmp_path / f"{number}"
        assert processes.finish(processes.command(*words), output=output) == 78
        (line,) = output.read_text().splitlines()
        assert line.startswith("error: --") and said in line
    assert not (tmp_path / "run").exists()
