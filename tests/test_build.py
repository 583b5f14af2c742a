"""What a config's fields become: numbers that no other test reads."""

import itertools

import jax
import numpy as np
import pytest

from muzero_jax.config import build, schema
from muzero_jax.errors import BadInputError
from muzero_jax.training.saving import new_run
from presets import config_of
import processes


def test_a_schedule_has_every_cadence_of_the_config():
    """Each a number of its own. Planted bugs seen: params saved, or kept, as resume points are."""
    fields = {
        "total_env_steps": 101,
        "evaluation.interval_env_steps": 102,
        "evaluation.stop_at": 103.0,
        "checkpoint.resume_interval_env_steps": 104,
        "checkpoint.params_interval_env_steps": 105,
        "checkpoint.max_to_keep": 106,
        "checkpoint.params_to_keep": 107,
        "logging.interval_env_steps": 108,
    }
    schedule = build.schedule(config_of("cartpole", "on_device", **fields))
    assert schedule == build.Schedule(
        total_env_steps=101,
        max_wall_minutes=None,
        evaluate_every=102,
        stop_at=103.0,
        save_every=104,
        save_params_every=105,
        resume_points_to_keep=106,
        params_to_keep=107,
        log_every=108,
        tensorboard=False,
    )


def test_what_is_trained_is_said_in_words():
    """Of one's own kinds the function's name."""
    assert build.title_of(config_of("atari", "pong")) == "Pong (atari), gumbel search, conv network"
    config = config_of("cartpole", "on_device")
    config.network.kind = "my_nets:make_tower"
    assert build.title_of(config) == "cartpole (jax), gumbel search, make_tower network"


def test_the_temperature_halves_with_the_update_that_is_named():
    """Planted bug seen: an update late."""
    explore_at = build.make_explore_at(
        temperature=1.0,
        halve_temperature_at_updates=(10, 30),
        noise_scale=0.5,
        random_move=0.25,
        spread=2.0,
    )
    counts = (0, 9, 10, 29, 30, 10**12)
    temperatures = [float(explore_at(count).temperature) for count in counts]
    assert temperatures == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    explore = explore_at(0)
    assert (explore.noise_scale, explore.random_move, explore.spread) == (0.5, 0.25, 2.0)
    assert all(isinstance(x, np.float32) for x in explore.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arm", "traffic"])
def test_actions_of_every_kind_are_searched_by_drawing_them(name):
    """Stored policies are the drawn actions with their weights, and updates learn from them.

    Planted: the loss of one discrete choice; the tree's memory by another number of edges.
    """
    tiny = processes.TINY | {"network.width": 16, "env.num_groups": 1, "search.num_samples": 5}
    made = build.experiment(config_of(name, **tiny))
    assert made.agent.num_edges == 5
    run = new_run(made)
    before = jax.device_get(run.train.params)
    for run, news in itertools.islice(made.run(run), 6):
        loss = news["train/loss"]
    assert np.isfinite(loss) and run.counters.updates > 0
    shape = made.agent.spec.action.shape
    policy = jax.device_get(run.replay.rows.policy)
    filled = int(run.replay.filled[0])
    assert policy["actions"].size == 4 * 512 * 5 * shape[0]
    np.testing.assert_allclose(policy["weights"][:, :filled].sum(-1), 1.0, atol=1e-5)
    head = jax.tree.leaves(jax.tree.map(
        lambda a, b: np.abs(a - b).max(), before, jax.device_get(run.train.params)))
    assert min(head) > 0, "every leaf has learned"


@pytest.mark.parametrize("preset, group, fields, said", [
    ("arm", "codec", {"policy": "factored"}, "codec.policy 'factored': a factored policy needs"),
    ("cartpole", "codec", {"policy": "beta"}, "codec.policy 'beta': this policy needs an"),
    ("arm", "search", {"num_samples": None}, "search.num_samples is missing: a search cannot try"),
    ("arm", "codec", {"policy": "normal"}, "codec.policy must be one of"),
])  # fmt: skip
def test_policies_that_do_not_fit_the_action_are_refused(preset, group, fields, said):
    """Planted: each check left out."""
    config = config_of(preset, *(["on_device"] if preset == "cartpole" else []))
    with config.unlocked():
        for name, value in fields.items():
            config[group][name] = value
            if value is None:
                del config[group][name]
    with pytest.raises(BadInputError, match=said):
        build.experiment(schema.check(config))
