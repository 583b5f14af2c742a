"""Board games and MinAtar from the command line: tiny runs, masks in the ring, refusals."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import acting, checkpoint, errors, metrics
from muzero_jax.config import build, schema
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.evaluation import results
from muzero_jax.training import memory
from muzero_jax.training.saving import new_run
from presets import config_of
import processes
from processes import TINY
import record

_TINY_BOARD = {name: x for name, x in TINY.items() if name != "evaluation.max_steps"}
_RUNS = {
    "board_games": ("tic_tac_toe", _TINY_BOARD | {"network.width": 16}),
    "minatar": (
        "breakout",
        TINY
        | {"network.width": 16, "reanalyse.fraction": 0.5, "targets.shorten_every_updates": 5},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", _RUNS)
def test_a_tiny_run_trains_evaluates_and_saves(suite, tmp_path):
    """A real process. It keeps as many params saves as `checkpoint.params_to_keep` says, not as
    many as resume points. What reanalysing costs is written where a part of the batch is searched
    again."""
    game, options = _RUNS[suite]
    words = processes.command(
        "train",
        f"--config=configs/{suite}.py:{game}",
        f"--workdir={tmp_path / 'run'}",
        **options,
        **{
            "total_env_steps": 160,
            "evaluation.interval_env_steps": 160,
            "checkpoint.resume_interval_env_steps": 32,
            "checkpoint.params_interval_env_steps": 32,
            "checkpoint.max_to_keep": 1,
            "checkpoint.params_to_keep": 3,
            "logging.interval_env_steps": 32,
        },
    )
    log = tmp_path / "log"
    assert processes.finish(words, output=log) == 0, log.read_text()
    records = metrics.read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert any("train/loss" in record for record in records)
    assert any("eval/return_mean" in record for record in records)
    shares = [r["speed/share_reanalyse"] for r in records if "speed/share_reanalyse" in r]
    assert bool(shares) == ("reanalyse.fraction" in options) and all(x > 0 for x in shares)
    # Half a batch is searched again at K + 1 + n rows, or at 2(K + 1).
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    target, again, per_update = config["targets"], config["reanalyse"], 0
    if shares:
        searched = target["unroll_steps"] + 1
        searched += min(searched, target["bootstrap_steps"]) if again["fresh_values"] else 0
        per_update = config["replay"]["batch_size"] // 2 * searched * again["num_simulations"]
    for line in (r for r in records if "speed/simulations_per_s" in r):
        acted = line["speed/env_steps_per_s"] * config["search"]["num_simulations"]
        simulations = acted + per_update * line["speed/updates_per_s"]
        assert line["speed/simulations_per_s"] == pytest.approx(simulations, rel=1e-6)
    for name, kept in ("checkpoints", 1), ("params", 3):
        steps = checkpoint.committed_steps(tmp_path / "run" / name)
        assert len(steps) == kept, (name, steps)


@pytest.mark.slow
def test_the_ring_of_a_board_game_holds_its_masks():
    """A marked point is never legal again, and the stored action is always legal; a game of
    MinAtar has no masks to store."""
    config = config_of("board_games", "tic_tac_toe", **_TINY_BOARD, **{"network.width": 16})
    experiment = build.experiment(config)
    run, agent = new_run(experiment), experiment.agent
    rollout = acting.make_rollout(make_pgx("tic_tac_toe"), agent.search, num_steps=8)

    @jax.jit
    def played():
        acting_state = (run.env, run.timestep, run.acting.carry)
        params, key = run.train.params, jax.random.key(0)
        *_, rows = rollout(params, key, *acting_state, agent.explore_at(0), 0)
        return experiment.replay.add(run.replay, 0, rows)

    ring = played()
    rows = jax.tree.map(lambda x: np.asarray(x[:, :8]), ring.rows)
    marked = rows.observation.reshape(4, 8, 9, 2).any(axis=-1)
    np.testing.assert_array_equal(rows.invalid_actions, marked)
    assert marked.any()
    assert not np.take_along_axis(marked, rows.action[..., None].astype(int), axis=-1).any()
    config = config_of("minatar", "breakout", **TINY)
    assert jax.eval_shape(build.experiment(config).replay.init).rows.invalid_actions is None


@pytest.mark.slow
def test_openings_are_of_training_and_not_of_matches(tmp_path):
    """Games that are recorded are those of training. Planted bugs seen: the environment of training
    for matches; openings left out of the games recorded, or named in the protocol; the refusal left
    out."""
    config = config_of("board_games", "tic_tac_toe", **_TINY_BOARD, **{"env.opening_plies": 4})
    (tmp_path / "config.json").write_text(config.to_json())
    keys = jax.random.split(jax.random.key(0), 50)

    def marks(config):
        begun = build.experiment(config).match_env.reset
        observation = jax.device_get(jax.jit(jax.vmap(begun))(keys)[1].observation)
        return set(observation.sum(axis=(1, 2, 3)).tolist())

    begun = np.asarray(new_run(build.experiment(config)).timestep.observation)
    assert 0 < begun.any(axis=-1).sum() <= 4 * config.env.num_envs
    assert marks(config) == {0} and "opening_plies" not in results.protocol(config.to_dict())
    assert marks(record.read_config(tmp_path)) == {0, 1, 2, 3, 4}
    with config.unlocked():
        config.evaluation.opening_plies = 2
    with pytest.raises(errors.BadInputError, match="^evaluation.opening_plies: there is no such"):
        schema.check(config)


@pytest.mark.slow
def test_the_budget_of_a_large_game_counts_its_masks():
    """4,672 actions a row in chess: policy in float32 and mask in bool outweigh the 8x8x119
    numbers of the board, counted here by hand."""
    config = config_of("board_games", "chess", **{"env.num_envs": 2, "replay.min_rows": 64})
    experiment = build.experiment(config)
    spec = experiment.agent.spec
    numbers = int(np.prod(spec.observation_shape)) * jnp.dtype(spec.observation_dtype).itemsize
    estimate = memory.estimate(experiment)
    row = numbers + 5 * spec.num_actions
    assert estimate.replay == pytest.approx(2 * config.replay.rows_per_env * row, rel=0.05)


_REFUSED = {
    "unknown game": ("board_games", "tictactoe", {}, "'tictactoe'; did you mean 'tic_tac_toe'"),
    "one of MinAtar": ("board_games", "minatar-breakout", {}, "unknown game 'minatar-breakout'"),
    "unknown MinAtar": ("minatar", "breakot", {}, "'breakot'; did you mean 'breakout'?"),
    "for one": ("board_games", "2048", {}, "env.suite 'board_games' is not for this number"),
    "turns": ("board_games", "backgammon", {}, "turns do not alternate"),
    "opponent": (
        "board_games",
        "tic_tac_toe",
        {"evaluation.opponent": "me"},
        "evaluation.opponent must be one of",
    ),
    "no limit": ("cartpole", "on_device", {"env.max_steps": None}, "env.max_steps must be set"),
    "groups": ("minatar", "breakout", {"env.num_groups": 2}, "env.num_groups must be 1"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_cannot_be_played_is_refused_in_one_line(name):
    """Planted bugs seen: the suggestion taken from all of pgx; "on the device" as one suite."""
    file, game, fields, said = _REFUSED[name]
    with pytest.raises(errors.BadInputError) as refused:
        build.experiment(config_of(file, game, **fields))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_opponent_is_for_two_players_only():
    """Planted bug seen: the check left out."""
    config = config_of("board_games", "tic_tac_toe")
    del config.evaluation.opponent
    with pytest.raises(errors.BadInputError, match="evaluation.opponent is missing"):
        schema.check(config)


def test_without_pgx_the_line_names_the_extra(monkeypatch):
    """Planted bug seen: the check left out."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pgx" else find(name)
    )
    with pytest.raises(errors.BadInputError, match=r"pip install 'muzero_jax\[pgx\]'"):
        config_of("minatar", "breakout")
