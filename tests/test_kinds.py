"""Observations and actions of every kind on their whole way: environment, search, replay, learning,
evaluation, datasets, player."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import actions, codecs, losses, make_agent, on_device, on_host
from muzero_jax.data import dataset
from muzero_jax.envs import wrappers
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.envs.check_env import check_env
from muzero_jax.evaluation.actors import make_random_player, make_search_player
from muzero_jax.evaluation.episodes import play_episodes
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.player import Player
from muzero_jax.search import make_gumbel_search
from muzero_jax.training.saving import new_run
from muzero_jax.types import (
    ActionSpec,
    ArraySpec,
    Codecs,
    Env,
    EnvSpec,
    History,
    Network,
    Prediction,
    SearchOutput,
    TimeStep,
    Window,
)

SCALAR = codecs.make_two_hot_codec(num_bins=11, low=-5.0, high=5.0, transform="identity")
CODECS = Codecs(value=SCALAR, reward=SCALAR)
SIZES = dict(num_envs=8, rows_per_update=16, rows_per_env=100, batch_size=8, seed=3)
KINDS = {
    "a real number": ActionSpec.real([-2.0], [3.0]),
    "as many as environments": ActionSpec.real([-1.0] * 8, [1.0] * 8),
    "choices": ActionSpec.several((3, 2, 5)),
    "a grid": ActionSpec.real([-1.0] * 6, [1.0] * 6, shape=(2, 3)),
}


def split(env):
    """The same environment, which shows its vector in two parts."""
    spec = env.spec
    parts = {"a": ArraySpec((2,), "float32"), "b": ArraySpec((2,), "float32")}
    spec = EnvSpec(parts, spec.action, spec.turn_sign, spec.truncates, spec.max_steps)

    def seen(came):
        state, timestep = came
        x = timestep.observation
        return state, timestep.replace(observation={"a": x[:2], "b": x[2:]})

    return Env(spec, lambda key: seen(env.reset(key)), lambda *args: seen(env.step(*args)))


def cartpole_agent(env):
    network = make_mlp_network(env.spec, CODECS, history_steps=1, width=16)
    options = dict(num_actions=2, turn_sign=1, discount=0.99, num_simulations=4)
    return make_agent(env.spec, network, CODECS, make_gumbel_search(network, CODECS, **options),
                      window=Window(1, 2, 3), discount=0.99, num_simulations=4)


def host_envs(env):
    serve = wrappers.make_host_env(env)
    return lambda seeds: serve(len(seeds), jax.random.key(sum(seeds) % 2**31))


def run(experiment, iterations):
    """The state after so many iterations."""
    loop = experiment.run(new_run(experiment))
    for _ in range(iterations):
        state, _ = next(loop)
    return jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["device", "host"])
def test_a_dict_is_learned_from_as_the_vector_that_it_splits(where):
    """CartPole's four numbers as a dict of two and two, which the network joins again: the same
    parameters to the last bit after 20 updates and more, and the same rows in replay.

    Planted: the entries in another order; the first one alone.
    """
    whole = make_cartpole(max_steps=20)

    def trained(env):
        agent = cartpole_agent(env)
        if where == "device":
            return run(on_device(env, agent, steps_per_iteration=8, **SIZES), 9)
        return run(on_host(host_envs(env), agent, steps_per_iteration=8, **SIZES), 9)

    one, other = trained(whole), trained(split(whole))
    assert one.train.step >= 20 and one.counters == other.counters
    jax.tree.map(np.testing.assert_array_equal, one.train, other.train)
    joined = np.concatenate([other.replay.rows.observation[name] for name in "ab"], axis=-1)
    np.testing.assert_array_equal(joined, one.replay.rows.observation)
    np.testing.assert_array_equal(other.replay.rows.action, one.replay.rows.action)


def make_echo(action, max_steps=7):
    """Shows the action that was done, and how many steps ago the episode began; the reward is the
    sum of the action's numbers. What a row of replay holds is then known from the next one."""
    spec = EnvSpec(
        {"done": ArraySpec(action.shape, action.dtype), "steps": ArraySpec((), "int32")},
        action, turn_sign=1, truncates=True, max_steps=max_steps)

    def row(done, steps, first):
        return TimeStep(
            observation={"done": done, "steps": steps},
            reward=jnp.where(first, 0.0, jnp.sum(done).astype(jnp.float32)),
            discount=jnp.where(first, 0.0, 1.0), first=first, last=steps == max_steps,
            invalid_actions=None)

    def reset(key):
        del key
        nothing = actions.zeros(action)
        return jnp.int32(0), row(nothing, jnp.int32(0), jnp.bool_(True))

    def step(steps, done, key):
        del key
        return steps + 1, row(done, steps + 1, jnp.bool_(False))

    return wrappers.auto_reset(Env(spec, reset, step), same_step=False)


def plain_network(spec):
    """One number from all that it sees, and from an action; it refuses other shapes than these."""

    def predict(embedding, reward):
        nothing = jnp.zeros((len(embedding), 1))
        return Prediction(embedding=embedding, reward_logits=reward,
                          value_logits=embedding * jnp.ones((1, 11)), policy_logits=nothing)

    def initial_inference(params, history):
        seen = history.observation["steps"][:, -1:].astype(jnp.float32)
        done = actions.features(spec.action, history.action).sum((1, 2))[:, None]
        return predict(params["w"] * (seen + done), jnp.zeros((len(seen), 11)))

    def recurrent_inference(params, embedding, action):
        done = actions.features(spec.action, action).sum(-1, keepdims=True)
        embedding = embedding + params["u"] * done
        return predict(embedding, params["u"] * done * jnp.ones((1, 11)))

    init = lambda key: {"w": jnp.float32(0.1), "u": jnp.float32(0.2)}  # noqa: E731
    return Network(init, initial_inference, recurrent_inference)


def random_search(spec):
    """Plays at random; its policy is the action itself."""

    def search(params, key, history, invalid_actions, explore):
        batch = history.valid.shape[0]
        action = actions.draw(spec.action, key, batch)
        return SearchOutput(action=action, policy={"action": action}, value=jnp.zeros(batch),
                            explored=jnp.zeros(batch, bool))

    return search


def echo_agent(env):
    window = Window(2, 2, 3)
    network = plain_network(env.spec)
    loss = losses.make_loss(
        network, CODECS, window=window,
        policy_loss=lambda logits, policy: jnp.zeros(logits.shape[:-1]))
    return make_agent(env.spec, network, CODECS, random_search(env.spec), window=window,
                      discount=0.9, loss=loss)


def rows_in_order(replay):
    """Rows `[E, T]` as they were stored; the ring is not yet full."""
    assert (replay.filled == replay.filled[0]).all()
    return jax.tree.map(lambda x: x[:, : replay.filled[0]], replay.rows)


@pytest.mark.parametrize("kind, where", [
    ("choices", "host"), ("a grid", "device"),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ("a real number", "device"), ("as many as environments", "device"),
        ("as many as environments", "host"))),
])
def test_every_kind_of_action_arrives_and_is_stored(kind, where):
    """What the next row shows is what the row before says was done, and both loops learn.

    Planted: actions rolled along the batch; stored as they were one step before; one component for
    all.
    """
    env = make_echo(KINDS[kind])
    assert check_env(env, num_steps=20, key=jax.random.key(0)) > 0
    agent = echo_agent(env)
    if where == "device":
        state = run(on_device(env, agent, steps_per_iteration=8, **SIZES), 4)
    else:
        state = run(on_host(host_envs(env), agent, steps_per_iteration=8, num_groups=2, **SIZES), 4)
    rows = rows_in_order(state.replay)
    first = rows.first[:, 1:]
    shown = rows.observation["done"][:, 1:].reshape(*first.shape, -1)
    done = rows.action[:, :-1].reshape(*first.shape, -1)
    np.testing.assert_array_equal(shown[~first], done[~first])
    assert (shown[first] == 0).all() and len(np.unique(done)) > 1
    assert actions.is_one(env.spec.action, rows.action.reshape(*rows.first.shape,
                                                               *env.spec.action.shape)).all()
    np.testing.assert_allclose(rows.reward[:, 1:][~first], done.sum(-1)[~first], rtol=1e-5)
    # Updates took these shapes, and moved both parameters.
    assert state.train.step > 4
    assert state.train.params["w"] != np.float32(0.1) and state.train.params["u"] != np.float32(0.2)


@pytest.mark.parametrize("kind", [
    "choices", "a grid", *(pytest.param(kind, marks=pytest.mark.slow)
                           for kind in ("a real number", "as many as environments"))])
def test_every_kind_is_played_stored_and_read_again(kind, tmp_path):
    """Episodes of random play and of an agent, a dataset there and back, a player of one and of
    many.

    Planted: the dtype of actions fixed at int32; a dict flattened on its way to the file.
    """
    env = make_echo(KINDS[kind])
    serve, agent = host_envs(env), echo_agent(env)
    for player in (make_random_player(env.spec),
                   make_search_player(agent.search, env.spec, history_steps=2)):
        params = agent.network.init(jax.random.key(0))
        played = play_episodes(serve([1, 2]), player, params, jax.random.key(1),
                               episodes_per_env=2)
        assert [x.steps for x in played] == [7] * 4 and all(x.cut for x in played)
    state = run(on_device(env, agent, steps_per_iteration=8, **SIZES), 4)
    rows = rows_in_order(state.replay)
    example = agent.row
    rows = jax.tree.map(lambda x, like: x.reshape(*x.shape[:2], *like.shape), rows, example)
    ends = int(np.flatnonzero(rows.last[0])[-1]) + 1
    rows = jax.tree.map(lambda x: np.asarray(x[0, :ends]), rows)
    dataset.write_dataset(tmp_path / "data", env.spec, [rows])
    opened = dataset.open_dataset(tmp_path / "data")
    dataset.check_spec(opened, env.spec)
    read = dataset.read_chunk(opened, 0)
    jax.tree.map(np.testing.assert_array_equal, read, rows.replace(policy=read.policy))
    np.testing.assert_array_equal(read.policy[0], rows.policy["action"])
    player = Player(agent.search, env.spec, state.train.params, history_steps=2)
    one = {"done": np.zeros(env.spec.action.shape, env.spec.action.dtype), "steps": np.int32(0)}
    action = player.act(one)
    assert action.shape == env.spec.action.shape and action.dtype == env.spec.action.dtype
    player.reset()
    many = {name: np.stack([x] * 3) for name, x in one.items()}
    assert player.act(many).shape == (3, *env.spec.action.shape)


@pytest.mark.parametrize(
    "observation, line",
    [
        ({"done": np.zeros(1, np.float32)}, "observation must have done, steps .steps is missing"),
        (np.zeros(1), "observation must have done, steps"),
        ({"done": np.zeros(2, np.float32), "steps": 0}, r"observation done must be \(1,\)"),
        ({"done": np.zeros(1, complex), "steps": 0}, "observation done must be float32"),
        ({"done": np.zeros((3, 1)), "steps": np.zeros(2, int)}, "different numbers of env"),
        ({"done": np.zeros((3, 1)), "steps": 0}, "different numbers of environments"),
    ],
)
def test_a_player_refuses_other_observations(observation, line):
    """Planted: names not compared; sizes not compared."""
    env = make_echo(KINDS["a real number"])
    player = Player(random_search(env.spec), env.spec, (), history_steps=1)
    with pytest.raises(ValueError, match=line):
        player.act(observation)


IMAGES = {
    "far": ArraySpec((8, 6, 3), "uint8"),
    "near": ArraySpec((8, 6, 1), "bool"),
    "compass": ArraySpec((4,), "bool"),
    "speed": ArraySpec((), "float32"),
}
MAKERS = {
    "mlp": functools.partial(make_mlp_network, width=8),
    "gru": functools.partial(make_gru_network, width=8),
    "conv": functools.partial(make_conv_network, stages=((4, 3, 2, 0),), channels=4, head_planes=1,
                              head_width=4),
}


def history_of(spec, batch, steps):
    random = np.random.default_rng(0)

    def array(like):
        x = random.integers(0, 255, (batch, steps, *like.shape))
        return jnp.asarray(x % 2 if like.dtype == "bool" else x, like.dtype)

    return History(
        observation=jax.tree.map(array, spec.observation_tree()),
        action=actions.draw(spec.action, jax.random.key(0), batch * steps).reshape(
            batch, steps, *spec.action.shape),
        reward=jnp.zeros((batch, steps)), valid=jnp.ones((batch, steps), bool))


@pytest.mark.parametrize("kind", MAKERS)
def test_networks_take_images_and_numbers_together(kind):
    """Each entry of the dict, and each frame of it, moves the embedding; examples stay apart.

    Planted: the numbers beside images left out; a second image left out.
    """
    spec = EnvSpec(IMAGES, ActionSpec.discrete(3), 1, True, 9)
    network = MAKERS[kind](spec, CODECS, history_steps=2)
    history = history_of(spec, 3, 2)
    params = jax.jit(network.init)(jax.random.key(0))
    embed = jax.jit(lambda history: network.initial_inference(params, history).embedding)
    before = embed(history)
    for name in IMAGES:
        for frame in range(2):
            x = history.observation[name]
            changed = x.at[1, frame].set(~x[1, frame] if x.dtype == bool else x[1, frame] + 40)
            seen = history.observation | {name: changed}
            after = embed(history.replace(observation=seen))
            assert not np.allclose(after[1], before[1], atol=1e-6), (name, frame)
            np.testing.assert_array_equal(after[jnp.array([0, 2])], before[jnp.array([0, 2])])


def test_a_network_of_images_needs_one():
    spec = EnvSpec({"a": ArraySpec((4,), "float32")}, ActionSpec.discrete(3), 1, True, 9)
    with pytest.raises(ValueError, match=r"images have shape \(H, W, C\), got \(4,\)"):
        make_conv_network(spec, CODECS, history_steps=1)
    two = {"a": ArraySpec((4, 4, 1), "uint8"), "b": ArraySpec((8, 4, 1), "uint8")}
    with pytest.raises(ValueError, match="several have one H and W"):
        make_conv_network(EnvSpec(two, ActionSpec.discrete(3), 1, True, 9), CODECS, history_steps=1)
