"""Runs made by code, without a config: trained, interrupted, resumed, refused, played."""

import json
import shutil

import jax
import numpy as np
import pytest

from muzero_jax import (
    checkpoint,
    codecs,
    learner,
    load_agent,
    losses,
    make_agent,
    make_mesh,
    metrics,
    on_device,
    on_host,
    training,
)
from muzero_jax.assembly import check_sizes
from muzero_jax.config import runs
from muzero_jax.envs import wrappers
from muzero_jax.envs.catch import make_catch
from muzero_jax.errors import ArgumentError, BadInputError, StorageError
from muzero_jax.evaluation import results
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import make_gumbel_search
from muzero_jax.training import saving
from muzero_jax.training.saving import new_run, saved_tree
from muzero_jax.types import Codecs, Transition, Window

WINDOW = Window(history=1, unroll=2, bootstrap=3)
ENV = make_catch()
SCHEDULE = training.Schedule(
    total_env_steps=600, evaluate_every=400, save_every=200, save_params_every=200, log_every=100
)


def _loss(network, codec):
    """MuZero's, times two: a loss of one's own."""
    base = losses.make_loss(network, codec, window=WINDOW)

    def loss(params, key, sample, targets):
        value, aux = base(params, key, sample, targets)
        return 2.0 * value, aux

    return loss


def _agent(width=16, window=WINDOW):
    scalar = codecs.make_two_hot_codec(num_bins=11, low=-1.0, high=1.0, transform="identity")
    codec = Codecs(value=scalar, reward=scalar)
    network = make_mlp_network(ENV.spec, codec, history_steps=1, width=width)
    search = make_gumbel_search(
        network, codec, num_actions=3, turn_sign=1, discount=0.99, num_simulations=3
    )
    return make_agent(
        ENV.spec,
        network,
        codec,
        search,
        window=window,
        discount=0.99,
        loss=_loss(network, codec),
        tracker=learner.averaged_params(0.9),
        num_simulations=3,
    )


def _experiment(width=16, agent=None, **changes):
    sizes = dict(num_envs=4, rows_per_update=16, rows_per_env=100, batch_size=8)
    agent = agent or _agent(width)
    return on_device(ENV, agent, **sizes | dict(steps_per_iteration=8) | changes)


@pytest.fixture(scope="module")
def experiment():
    return _experiment()


@pytest.fixture(scope="module")
def done(experiment, tmp_path_factory):
    """The folder of a run to its end."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    counters = training.train(experiment, folder, SCHEDULE)
    assert counters.env_steps >= 600
    return folder


def test_a_run_by_code_has_all_that_a_run_by_a_config_has(done):
    """Evaluations, resume points, parameters and metrics, at the schedule's cadences."""
    records = metrics.read_jsonl(done / "metrics.jsonl")
    scores = [r["eval/returns"] for r in records if "eval/returns" in r]
    assert len(scores) == 2 and all(len(x) == 16 for x in scores)
    assert set(np.abs(scores[0])) == {1.0}, "whole games of Catch"
    lines = [r for r in records if "train/loss" in r]
    assert len(lines) >= 5 and lines[-1]["speed/simulations_per_s"] > 0
    for name in ("checkpoints", "params"):
        assert len(checkpoint.committed_steps(done / name)) == 2
    described = json.loads((done / "config.json").read_text())
    assert described["made_by"] == "code" and described["schedule"]["total_env_steps"] == 600
    assert described["numbers"]["num_envs"] == 4 and described["numbers"]["bootstrap"] == 3
    assert "bool[4, 1, 10, 5, 1]" in str(described["arrays"]), described["arrays"]


def test_an_interrupted_run_goes_on_to_the_same_end(experiment, done, tmp_path):
    """Its state is, bit by bit, that of the undisturbed run. Planted bug seen: `resumes` not handed
    to the loop's start, a run begun again."""

    def broken(state):
        for state, news in experiment.run(state):
            yield state, news
            if state.counters.env_steps >= 300:
                raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"):
        training.train(experiment._replace(run=broken), tmp_path / "run", SCHEDULE)
    assert training.train(experiment, str(tmp_path / "run"), SCHEDULE).resumes == 1
    states = [
        checkpoint.restore_newest(
            folder / "checkpoints",
            jax.eval_shape(lambda: saved_tree(experiment.init())),
        )[1]
        for folder in (done, tmp_path / "run")
    ]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    train = states[0]["rest"].train
    means, newest, old = train.tracked, states[0]["params"], train.target_params
    for other in (newest, old):
        assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.not_equal, means, other))))


def test_averages_begin_with_the_parameters_that_a_run_begins_with(experiment):
    """Planted: those of a fresh network."""
    shapes = jax.eval_shape(experiment.init).train.params
    params = jax.tree.map(lambda x: np.full(x.shape, 3.0, x.dtype), shapes)
    run = saving.new_run(experiment, params)
    jax.tree.map(np.testing.assert_array_equal, run.train.tracked, params)
    jax.jit(lambda x: x, donate_argnums=0)(run.train.params)  # Buffers of their own.
    jax.tree.map(np.testing.assert_array_equal, run.train.tracked, params)


def test_a_resume_that_differs_is_refused_by_name(done, tmp_path):
    """Of the numbers, and of every array's shape; the schedule may change."""
    folder = shutil.copytree(done, tmp_path / "run")
    with pytest.raises(BadInputError, match=r"numbers\.batch_size \(was 8, now 4\)"):
        training.train(_experiment(batch_size=4), folder, SCHEDULE)
    longer = WINDOW._replace(bootstrap=4)
    with pytest.raises(BadInputError, match=r"numbers\.bootstrap \(was 3, now 4\)"):
        training.train(_experiment(agent=_agent(window=longer)), folder, SCHEDULE)
    with pytest.raises(BadInputError, match=r"float32\[16, .*float32\[24, "):
        training.train(_experiment(width=24), folder, SCHEDULE)
    longer = SCHEDULE._replace(total_env_steps=650)
    assert training.train(_experiment(), folder, longer, resume="must").env_steps >= 650
    with pytest.raises(BadInputError, match="--resume=never"):
        training.train(_experiment(), folder, longer, resume="never")


def test_a_run_by_code_is_loaded_with_its_agent(experiment, done):
    """Without it, or with another one, there is one line."""
    player = load_agent(done, agent=experiment.agent)
    assert player.spec == ENV.spec
    observation = np.zeros(ENV.spec.observation_shape, bool)
    assert player.act(observation) in (0, 1, 2)
    with pytest.raises(BadInputError, match="made by code; give the agent"):
        load_agent(done)
    with pytest.raises(BadInputError, match=r"^load_agent: "):
        load_agent(done, agent=_agent(width=24))
    with pytest.raises(BadInputError, match="no run in"):
        load_agent(done / "nowhere")
    for read in (runs.read_config, results.read):
        with pytest.raises(BadInputError, match="was made by code"):
            read(done)


def test_an_experiment_on_the_host_trains_and_goes_on(tmp_path):
    """The same agent and environment behind the interface of a host environment. After a resume
    other episodes begin, and each evaluation plays games of its own. Planted bugs seen: the same
    seeds after a resume; the same for every evaluation."""
    make = wrappers.make_host_env(ENV)
    trained, scored = [], []

    def make_env(seeds, to=trained):
        to.append(tuple(seeds))
        return make(len(seeds), jax.random.key(seeds[0]))

    host = on_host(
        make_env,
        _agent(),
        eval_env=lambda seeds: make_env(seeds, scored),
        num_envs=4,
        num_groups=2,
        rows_per_update=16,
        rows_per_env=100,
        batch_size=8,
    )
    schedule = SCHEDULE._replace(total_env_steps=200, evaluate_every=200)
    assert training.train(host, tmp_path / "run", schedule).env_steps >= 200
    records = metrics.read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert any("eval/return_mean" in r for r in records)
    assert any(r.get("train/loss") is not None for r in records)
    longer = schedule._replace(total_env_steps=400)
    assert training.train(host, tmp_path / "run", longer).resumes == 1
    for seen, groups, size in ((trained, 4, 2), (scored, 2, 16)):
        assert [len(seeds) for seeds in seen] == groups * [size]
        assert len(set(sum(seen, ()))) == groups * size, "every environment has its own seed"


def test_episodes_of_host_environments_end_with_a_resume():
    """Emulators cannot be saved: the newest row of each is marked `last`. Planted bug seen: not
    marked, so that a return runs on into another episode."""
    make = wrappers.make_host_env(ENV)
    host = on_host(
        lambda seeds: make(len(seeds), jax.random.key(seeds[0])),
        _agent(),
        num_envs=4,
        rows_per_update=16,
        rows_per_env=100,
        batch_size=8,
        steps_per_iteration=3,
    )
    loop = host.run(saving.new_run(host))
    state, _ = next(loop)
    loop.close()
    assert not state.replay.rows.last.any()
    at = int(state.replay.cursor[0]) - 1
    resumed = state.replace(counters=state.counters._replace(resumes=1))
    loop = host.run(resumed)
    state, _ = next(loop)
    loop.close()
    last = np.asarray(state.replay.rows.last)
    assert last[:, at].all() and last.sum() == 4


def test_evaluations_play_in_games_of_their_own():
    """Those of twice the reward. Planted bug seen: the training environment."""

    def step(state, action, key):
        state, timestep = ENV.step(state, action, key)
        return state, timestep.replace(reward=2.0 * timestep.reward)

    experiment = _experiment(games=ENV._replace(step=step), eval_episodes=12, scoring_batch=8)
    params = new_run(experiment).train.params
    returns = experiment.score(params, 0)["returns"]
    assert len(returns) == 12 and set(np.abs(returns)) == {2.0}


def test_first_priorities_are_of_returns_that_the_codec_can_write():
    """A return of 9 counts as 1. Planted bug seen: the return itself."""
    rows = WINDOW.bootstrap + 1
    zeros, no = np.zeros(rows, np.float32), np.zeros(rows, bool)
    scalars = dict(
        reward=zeros + 3.0, discount=zeros + 1.0, first=no, last=no, value=zeros + 0.25, explored=no
    )
    others = dict.fromkeys(Transition.__dataclass_fields__.keys() - scalars.keys())
    priority = _agent().initial_priority(Transition(**scalars, **others))
    np.testing.assert_allclose(priority, [0.75])


_SIZES = dict(
    num_envs=8, num_groups=2, rows_per_env=8, min_rows=48, rows_per_update=4, batch_size=6,
    rows_at_once=1, num_devices=2,
)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_groups": 3}, r"num_groups must divide num_envs \(got 3 and 8\)"),
        ({"num_groups": 8}, "num_envs / num_groups must be a multiple of the 2 devices"),
        ({"rows_per_env": 7}, r"rows_per_env must be >= 8, for 1 history \+ 2 unroll \+ 3 boot"),
        ({"min_rows": 47}, r"min_rows must be >= 48 .* and <= 64, the size of the ring"),
        ({"min_rows": 65}, r"min_rows must be >= 48 .* and <= 64, the size of the ring"),
        ({"rows_per_update": 6}, "divided by, the 4 rows of one step"),
        ({"rows_per_env": 2**29}, r"rows_per_env x num_envs must be < 2\^31 on each device"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes, said):
    """Each one beside what still fits. Planted bugs seen: a row too few for the first window; the
    rows of all groups for those of one step."""
    check_sizes(WINDOW, **_SIZES)
    check_sizes(WINDOW, **_SIZES | {"min_rows": 64, "rows_per_update": 8})
    with pytest.raises(ArgumentError, match=said):
        check_sizes(WINDOW, **_SIZES | changes)


def test_numbers_that_do_not_divide_are_refused():
    with pytest.raises(ArgumentError, match="batch_size must be a multiple of the 2 devices"):
        _experiment(batch_size=7, mesh=make_mesh(jax.devices("cpu")[:2]))


def test_the_newest_save_is_played_whichever_folder_has_it(experiment, done, tmp_path):
    """Planted: the older of the two."""
    newest = checkpoint.committed_steps(done / "params")[-1]
    assert newest == checkpoint.committed_steps(done / "checkpoints")[-1]
    abstract = jax.eval_shape(experiment.init).train.params
    for lost in ("params", "checkpoints"):
        folder = tmp_path / lost
        shutil.copytree(done, folder)
        shutil.rmtree(folder / lost / str(newest))
        assert saving.newest_params(folder, abstract)[0] == newest


def test_a_run_that_loses_its_last_resume_point_does_not_end_well(experiment, tmp_path):
    """Planted: the last save never looked at."""
    points = tmp_path / "run" / "checkpoints"

    def run(state):
        for state, news in experiment.run(state):
            if state.counters.env_steps >= SCHEDULE.total_env_steps:
                points.rename(tmp_path / "aside")
                points.write_text("no folder")
            yield state, news

    with pytest.raises(StorageError, match="resume point|failed"):
        training.train(experiment._replace(run=run), points.parent, SCHEDULE)
