"""The agent of a five-line loop, against the library's own loop."""

import functools
import types

import jax
import numpy as np
import pytest

from fakes import assert_trees_equal
from muzero_jax import MuZeroAgent, assembly, codecs, learner, losses, targets
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.envs import wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.errors import ArgumentError, BadInputError
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel_plan, learned_model, make_search
from muzero_jax.types import ActionSpec, ArraySpec, Codecs, EnvSpec, Window

SIZES = dict(min_rows=40, rows_per_update=8, batch_size=8, seed=3)
LENGTH, WINDOW = 20, Window(2, 2, 3)


@functools.cache
def _parts(spec):
    """A small agent of one's own, which looks at two frames and at rewards."""
    scalar = codecs.make_two_hot_codec(num_bins=11, low=-5.0, high=20.0)
    codec = Codecs(value=scalar, reward=scalar)
    network = make_mlp_network(
        spec, codec, history_steps=WINDOW.history, width=16, history_rewards=True
    )
    model = learned_model(network, codec, action=spec.action, discount=0.9, turn_sign=1)
    search = make_search(model, gumbel_plan(num_simulations=4))
    return assembly.make_agent(
        spec, network, codec, search, window=WINDOW, discount=0.9, num_simulations=4,
        loss=losses.make_loss(network, codec, window=WINDOW),
        targets=targets.make_targets(window=WINDOW, discount=0.9),
        optimizer=learner.make_optimizer(learning_rate=1e-2))


def _games(seeds):
    """CartPole, cut after 20 steps, one environment for each seed."""
    return wrappers.make_host_env(make_cartpole(max_steps=LENGTH))(
        len(seeds), jax.random.key(seeds[0] % 1000))


def _spec():
    return make_cartpole(max_steps=LENGTH).spec


def _spec_of(**fields):
    """Of an environment of one player with three numbers to be seen."""
    seen = ArraySpec((3,), "float32")
    return EnvSpec(observation=seen, turn_sign=1, truncates=True, max_steps=100, **fields)


def _agent(**more):
    return MuZeroAgent(
        **dict(observation_shape=(4,), action_space=2, agent=_parts(_spec()), replay_rows=128)
        | SIZES | more)


def _play(agent, env, timestep, steps, choose=None):
    """`steps` of the five-line loop in a `HostEnv` of one environment that resets itself."""
    for _ in range(steps):
        observation = timestep.observation[0]
        action = agent.act(observation)
        if choose is not None:
            action = choose(action)
        timestep = env.step(np.int32([action]))
        terminated = bool(timestep.discount[0] == 0)
        agent.update(
            timestep.observation[0], action, timestep.reward[0], terminated,
            bool(timestep.last[0]) and not terminated)
        if timestep.last[0]:
            timestep = env.step(np.int32([0]))  # Begins the next episode, whatever the action.
    return timestep


def test_it_is_the_loop_of_the_library():
    """The same rows, in the same order, as one environment of `on_host`, with the same keys; and
    parameters that differ by rounding alone.

    Planted: the next row's action; no row of an end; a truncation for an end; a reward one row
    late; updates one row late; keys of other counts.
    """
    agent, env = _agent(), _games([0])
    _play(agent, env, env.reset(), 70)
    experiment = assembly.on_host(
        lambda seeds: _games([0]), _parts(_spec()), num_envs=1, num_groups=1, rows_per_env=128,
        eval_episodes=0, steps_per_iteration=1, **SIZES)
    for run, _ in experiment.run(experiment.init()):
        if run.counters.rows == agent.rows:
            break
    assert run.counters.updates == agent.updates > 3
    mine, theirs = (jax.device_get(x) for x in (agent.replay, run.replay))
    assert mine.rows.last.sum() > 3 and mine.rows.last[0, 0] == 0
    for name in ("observation", "reward", "discount", "first", "last", "explored", "action",
                 "made_at_updates"):
        np.testing.assert_array_equal(
            getattr(mine.rows, name), getattr(theirs.rows, name), err_msg=name)
    for name in ("policy", "value"):
        np.testing.assert_allclose(
            getattr(mine.rows, name), getattr(theirs.rows, name), atol=1e-4, err_msg=name)
    for ours, its in zip(*(jax.tree.leaves(x) for x in (agent.params, run.train.params))):
        np.testing.assert_allclose(ours, its, atol=1e-4)


def test_it_goes_on_from_a_save_as_if_nothing_had_been_between(tmp_path):
    """In the middle of an episode, between an action and what came of it; and again into the same
    folder.

    Planted: the memory of frames, the row of the last action, the reward or the counts left out;
    a save that is left out because there is one after as many rows.
    """
    agent, env = _agent(), _games([0])
    timestep = _play(agent, env, env.reset(), 50)
    agent.act(timestep.observation[0])
    agent.save(tmp_path / "save")
    assert agent.updates > 0
    other = MuZeroAgent.load(tmp_path / "save", agent=_parts(_spec()))
    came = np.float32([0.1, 0.2, 0.3, 0.4])
    for one in (agent, other):
        one.update(came, 1, 0.5, False)
        for count in range(20):
            action = one.act(came * count)
            one.update(came * (count + 1), action, 1.0, count == 10)
            if count == 10:
                one.act(came * 0)
                one.update(came * 0, 0, 1.0, False, True)
    assert (agent.rows, agent.updates) == (other.rows, other.updates)
    assert_trees_equal(agent.train, other.train)
    assert_trees_equal(agent.replay, other.replay)
    agent.save(tmp_path / "save")
    newest = MuZeroAgent.load(tmp_path / "save", agent=_parts(_spec()))
    assert newest.rows == agent.rows
    newest.save(tmp_path / "save")
    for one in (agent, newest):
        one.update(came, one.act(came), 0.0, False)
    assert_trees_equal(agent.replay, newest.replay)
    assert agent.replay.rows.reward[0, agent.rows - 1] == 1.0
    agent.act(came)  # Stores no row, and is saved all the same.
    agent.save(tmp_path / "save")
    acted = MuZeroAgent.load(tmp_path / "save", agent=_parts(_spec()))
    assert acted.rows == agent.rows
    acted.update(came, 0, 0.0, False)
    with pytest.raises(BadInputError, match="holds a state after .* rows, this one has 0"):
        _agent().save(tmp_path / "save")
    with pytest.raises(BadInputError, match="its arguments are not those of this agent"):
        _agent(seed=4).save(tmp_path / "save")
    with CheckpointStore(tmp_path / "run", max_to_keep=1) as store:
        store.save(0, {"x": jax.numpy.zeros(3)}, {})
    with pytest.raises(BadInputError, match="run holds something else"):
        agent.save(tmp_path / "run")


def test_another_action_is_stored_as_one_that_explored():
    """Planted: the agent's own action in its place; not marked; not seen by the next search."""
    agent, env = _agent(), _games([0])
    chosen = []

    def choose(action):
        chosen.append((action, 1 - action if len(chosen) % 3 == 0 else action))
        return chosen[-1][1]

    _play(agent, env, env.reset(), 12, choose)
    rows = jax.device_get(agent.replay.rows)
    acted = np.flatnonzero(~rows.last[0, : agent.rows])
    own, played = np.array(chosen).T
    np.testing.assert_array_equal(rows.action[0, acted], played)
    np.testing.assert_array_equal(rows.explored[0, acted], own != played)
    assert 3 <= (own != played).sum() < 12


def test_an_episode_that_is_left_is_cut():
    """By `reset`, with or without an action on its way; after an end it changes nothing.

    Planted: not marked.
    """
    agent = _agent()
    for _ in range(3):
        agent.update(np.ones(4), agent.act(np.ones(4)), 1.0, False)
    agent.act(np.ones(4))
    agent.reset()
    agent.update(np.ones(4), agent.act(np.ones(4)), 1.0, True)
    agent.reset()
    agent.update(np.ones(4), agent.act(np.ones(4)), 1.0, False)
    rows = jax.device_get(agent.replay.rows)
    assert agent.rows == 6
    np.testing.assert_array_equal(rows.last[0, :6], [0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(rows.first[0, :6], [1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(rows.reward[0, :6], [0, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(rows.discount[0, :6], [0, 1, 1, 0, 0, 0])


def _space(**fields):
    return types.SimpleNamespace(**fields)


# The space; shape and dtype of its actions; one of them, and how it is stored.
SPACES = {
    "int": (4, (), int, 3, 3),
    "discrete": (_space(n=4, shape=(), dtype=np.int64, start=5), (), int, 8, 3),
    "several": (ActionSpec.several([2, 3]), (2,), np.int32, [1, 2], [1, 2]),
    "multi_discrete": (
        _space(nvec=np.array([[2, 3]]), shape=(1, 2), dtype=np.int64, start=np.array([[1, 0]])),
        (1, 2), np.int64, [[2, 2]], [1, 2]),
    "box": (
        _space(low=np.array([-0.1, 0.7]), high=np.array([0.1, 0.8]), shape=(2,), dtype=np.float64),
        (2,), np.float64, [0.05, 0.75], [0.05, 0.75]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_actions_of_every_kind_go_out_and_come_back(name, tmp_path):
    """As the space has them, in its bounds; stored as they were chosen, and after a load too.

    Planted: the start left out, on the way out or back; another dtype or shape.
    """
    space, shape, dtype, other, as_stored = SPACES[name]
    own = _parts(_spec_of(action=ActionSpec.discrete(4))) if dtype is int else None
    agent = MuZeroAgent(
        observation_shape=(3,), action_space=space, num_simulations=2, replay_rows=64,
        min_rows=20, batch_size=2, agent=own)
    agent.act(np.zeros(3))
    agent.save(tmp_path)
    for one in (agent, MuZeroAgent.load(tmp_path, agent=own)):
        one.reset()
        actions = []
        for _ in range(4):
            action = one.act(np.zeros(3))
            assert np.shape(action) == shape
            assert isinstance(action, int) if dtype is int else action.dtype == dtype
            if name == "box":
                assert (action >= space.low).all() and (action <= space.high).all()
            one.update(np.zeros(3), action, 1.0, False)
            actions.append(action)
        rows = jax.device_get(one.replay.rows)
        start = getattr(space, "start", 0)
        stored = rows.action[0, :4].reshape(np.shape(actions))
        np.testing.assert_allclose(stored + start, actions, atol=1e-6)
        one.act(np.zeros(3))
        one.update(np.zeros(3), other, 1.0, False)
        rows = jax.device_get(one.replay.rows)
        np.testing.assert_allclose(rows.action[0, 4], as_stored, atol=1e-6)


@pytest.mark.slow
def test_images_are_seen_by_a_convolutional_network():
    agent = MuZeroAgent(
        observation_shape=(40, 40, 1), observation_dtype="uint8", action_space=3,
        num_simulations=2, replay_rows=64, min_rows=20, batch_size=2)
    assert agent.agent.window.history == 4
    action = agent.act(np.zeros((40, 40, 1), np.uint8))
    assert action in range(3)


def test_masks_are_kept_to():
    """Planted: the mask not handed on."""
    agent = MuZeroAgent(
        observation_shape=(3,), action_space=5, masked=True, replay_rows=64, min_rows=20,
        batch_size=2, agent=_parts(_spec_of(action=ActionSpec.discrete(5), masked=True)))
    for count in range(8):
        invalid = np.arange(5) != count % 5
        assert agent.act(np.zeros(3), invalid_actions=invalid) == count % 5
        agent.update(np.zeros(3), count % 5, 0.0, count == 4)
    with pytest.raises(ArgumentError, match="invalid_actions needed"):
        agent.act(np.zeros(3))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda a: a.update(np.zeros(4), 0, 0.0, False), "update: call act"),
        (lambda a: (a.act(np.zeros(4)), a.act(np.zeros(4))), "act: call update"),
        (lambda a: a.act(np.zeros((2, 4))), "observation must be that of one environment"),
        (lambda a: a.act(np.zeros(3)), r"observation must be \(4,\)"),
        (lambda a: (a.act(np.zeros(4)), a.update(np.zeros(4), 2, 0.0, False)), "action 2 is none"),
        (lambda a: (a.act(np.zeros(4)), a.update(np.zeros(4), [1], 0.0, False)), "of shape"),
        (lambda a: (a.act(np.zeros(4)), a.update(np.zeros(4), 0.5, 0.0, False)), "action 0.5 is"),
        (lambda a: _agent(batch_size=0), "batch_size must be >= 1 .got 0"),
        (lambda a: _agent(min_rows=2), "min_rows must be >= 6"),
        (lambda a: _agent(action_space=3), "agent: its action is"),
        (lambda a: MuZeroAgent(observation_shape=(4,), action_space="left"), "env has actions"),
    ],
)
def test_what_does_not_fit_is_one_line(call, said):
    with pytest.raises(ArgumentError, match=said):
        call(_agent())


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(BadInputError, match="holds no saved MuZeroAgent"):
        MuZeroAgent.load(tmp_path)
    agent = _agent()
    agent.act(np.zeros(4))
    agent.save(tmp_path)
    with pytest.raises(BadInputError, match="load: give the agent that it was made with"):
        MuZeroAgent.load(tmp_path)
