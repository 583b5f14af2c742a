"""What a codec cannot write: how it is counted, warned of, and refused when nothing else comes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting, codecs, errors, targets
from muzero_jax.config import build
from muzero_jax.training.supports import Supports
from muzero_jax.training.timing import Interval
from muzero_jax.types import Codecs, Counters
from presets import config_of
import processes


@pytest.mark.parametrize("transform", ["identity", "muzero"])
def test_the_support_is_what_the_codec_can_write(transform):
    """Its ends in the units of rewards and returns: they decode to themselves, and what is a little
    further is learned as the end. Planted bug seen: no room for rounding."""
    codec = codecs.make_two_hot_codec(num_bins=11, low=-3.0, high=2.0, transform=transform)
    ends = np.array([codec.low, codec.high], np.float32)
    np.testing.assert_allclose(codec.decode(jnp.log(codec.encode(ends) + 1e-30)), ends, rtol=1e-4)
    np.testing.assert_array_equal(
        codec.encode(ends * 1.01).argmax(-1), codec.encode(ends).argmax(-1)
    )
    assert not codecs.outside(codec, ends * np.float32(1 + 1e-6)).any()
    assert codecs.outside(codec, ends * 1.01).all() and not codecs.outside(codec, ends * 0.99).any()
    inputs = np.array([1e30, -1e30, 0.5, np.nan, np.inf, -np.inf], np.float32)
    want = [codec.high, codec.low, 0.5, np.nan, np.inf, -np.inf]
    np.testing.assert_allclose(codecs.clip(codec, inputs), want)
    free = codecs.identity_codec()
    assert not codecs.outside(free, inputs[:3]).any()
    np.testing.assert_array_equal(codecs.clip(free, inputs), inputs)


def _returns(bootstrap_steps=1):
    return targets.make_stored_returns(
        bootstrap_steps=bootstrap_steps, discount=0.5, reward_transform=lambda x: x / 10
    )


def _supports(low, high, value_low=-100.0, value_high=100.0):
    """Of rewards that are learned as a tenth of what they are."""
    made = [
        codecs.make_two_hot_codec(num_bins=3, low=a, high=b, transform="identity")
        for a, b in ((value_low, value_high), (low, high))
    ]
    parts = types.SimpleNamespace(
        codecs=Codecs(*made), reward_transform=lambda x: x / 10, stored_returns=_returns()
    )
    return Supports(parts)


def _run(rewards, *, updates=1, rows_per_env=64):
    """A run of two environments whose steps brought these rewards (every fifth row is the reset of
    a next step, without any), with values of 0."""
    replay = fakes.make_replay(2, rows_per_env)
    first = np.arange(len(rewards)) % 5 == 0
    example = acting.example_row(fakes.SPEC, fakes.search, fakes.make_params(), 2)
    rows = jax.tree.map(lambda x: np.zeros((2, len(rewards), *x.shape), x.dtype), example)
    rows.reward[:] = np.where(first, 0, rewards)
    rows.discount[:] = ~first
    rows.first[:] = first
    rows.last[:, :-1] = first[1:]
    state, add = replay.init(), jax.jit(replay.add)
    for begin in range(0, len(rewards), 8):
        state = add(state, 0, jax.tree.map(lambda x, b=begin: x[:, b : b + 8], rows))
    return types.SimpleNamespace(replay=state, counters=Counters(updates=updates))


@pytest.mark.parametrize("length", [40, 100])
def test_rewards_that_all_lie_outside_are_refused(length):
    """Also where the ring has wrapped; the zeros of resets are no rewards. One line names the field
    and the range that was seen, in the units in which rewards are learned; with one reward inside,
    or before the first update, the run goes on."""
    rewards = np.full(length, -10.0)
    rewards[-7] = -20.0
    supports = _supports(0.0, 1.0)
    supports.look(_run(rewards, updates=0), Interval(Counters()))
    line = (
        r"^codec\.reward\.low: all (\d+) rewards of the warm-up lie outside the support, which"
        r" holds 0 to 1; they range from -2 to -1; set codec\.reward\.low and codec\.reward\.high"
    )
    with pytest.raises(errors.BadInputError, match=line) as error:
        supports.look(_run(rewards), Interval(Counters()))
    rows = min(length, 64)
    number = 2 * (rows - np.sum(np.arange(length)[-rows:] % 5 == 0))
    assert f"all {number} rewards" in str(error.value)
    rewards[-6] = 5.0
    _supports(0.0, 1.0).look(_run(rewards), Interval(Counters()))
    with pytest.raises(errors.BadInputError, match=r"^codec\.reward\.high: all"):
        _supports(-9.0, -8.0).look(_run(rewards), Interval(Counters()))
    _supports(-9.0, 9.0).look(_run(np.zeros(length)), Interval(Counters()))


def test_each_head_is_warned_of_once_with_the_range_of_the_replay(capsys):
    """Rewards -1 and 3, learned as a tenth; returns of one step are the same, as values are 0."""
    rewards = np.where(np.arange(64) % 2, -10.0, 30.0)
    rewards[-1] = 1000.0  # Not learned yet: its row has no future.
    run, supports, interval = _run(rewards), _supports(-1.0, 1.0, -0.5, 9.0), Interval(Counters())
    supports.note({"train/value_outside": np.nan, "train/reward_outside": 0.0})
    supports.look(run, interval)
    assert not capsys.readouterr().out
    for _ in range(2):
        supports.note({"train/value_outside": 0.25, "train/reward_outside": 0.0})
        supports.look(run, interval)
    (warned,) = capsys.readouterr().out.splitlines()
    assert warned.startswith("warning: codec.value.low: some value targets lie outside")
    assert "which holds -0.5 to 9," in warned and "range from -1 to 3;" in warned
    supports.note({"train/value_outside": 0.25, "train/reward_outside": 0.01})
    supports.look(run, interval)
    (warned,) = capsys.readouterr().out.splitlines()
    assert warned.startswith("warning: codec.reward.high: some reward targets")
    assert "range from -1 to 100;" in warned


def test_a_run_whose_rewards_do_not_fit_is_refused_before_it_is_saved(tmp_path):
    """CartPole's rewards are 1, the support ends at 0.5."""
    config = config_of(
        "cartpole", "on_device",
        **processes.TINY_CONTROL | {"env.num_groups": 1, "codec.reward.high": 0.5},
    )
    experiment = build.experiment(config)
    add = jax.jit(experiment.replay.add)

    def iterate(run):
        rows = jax.tree.map(lambda x: jnp.zeros((4, 16, *x.shape), x.dtype), experiment.agent.row)
        rows = rows.replace(reward=rows.reward + 1, discount=rows.discount + 1)
        for _ in range(3):
            replay = add(run.replay, 0, rows)
            counters = run.counters._replace(
                iteration=run.counters.iteration + 1, env_steps=10**6, rows=10**6, updates=7
            )
            run = run.replace(replay=replay, counters=counters)
            yield run, {"train/skipped_in_a_row": 0.0}

    with pytest.raises(errors.BadInputError, match=r"^codec\.reward\.high: all 64 rewards"):
        processes.train(config, tmp_path / "run", experiment=experiment._replace(run=iterate))
    assert not [*(tmp_path / "run" / "checkpoints").glob("[0-9]*")]


@pytest.mark.parametrize(
    "name, arg, most",
    [
        ("atari", "RoadRunner", 1.0),  # Clipped; a dense game brings 1 in every step.
        ("atari_100k", "Pong", 1.0),
        ("cartpole", "host", 1.0),
        ("cartpole", "on_device", 1.0),
        ("acrobot", None, -1.0),
    ],
)
def test_a_configs_support_holds_the_same_reward_in_every_step(name, arg, most):
    """r / (1 - γ)."""
    config = config_of(name, arg)
    made = {
        head: codecs.make_two_hot_codec(**config.codec[head].to_dict())
        for head in ("value", "reward")
    }
    assert not codecs.outside(made["reward"], np.float32(most))
    assert not codecs.outside(made["value"], np.float32(most / (1 - config.targets.discount)))
    if config.targets.clip_rewards:
        assert not codecs.outside(made["value"], np.float32(-most / (1 - config.targets.discount)))
