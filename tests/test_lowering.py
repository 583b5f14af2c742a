"""Every program that a run compiles also lowers for TPU, on a machine that has none."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import acting, codecs, learner, losses, targets, types
from muzero_jax import replay as replay_lib
from muzero_jax.envs.cartpole import make_cartpole
from muzero_jax.envs.catch import make_catch
from muzero_jax.envs.memory import make_memory
from muzero_jax.envs.pgx import make_pgx
from muzero_jax.history import random_shift
from muzero_jax.loops import anakin
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel

NUM_ENVS, HISTORY, UNROLL, BOOTSTRAP, GAMMA = 4, 2, 2, 2, 0.99
WINDOW = types.Window(HISTORY, UNROLL, BOOTSTRAP)
CODECS = types.Codecs(
    value=codecs.make_two_hot_codec(num_bins=11, low=-5.0, high=5.0),
    reward=codecs.make_two_hot_codec(num_bins=11, low=-5.0, high=5.0),
)
IMAGES = types.EnvSpec(observation=types.ArraySpec((16, 16, 1), "uint8"),
                       action=types.ActionSpec.discrete(3),
                       turn_sign=1, truncates=True, max_steps=100)
CARTPOLE = make_cartpole(max_steps=50)


def make_parts(kind, source):
    """A tiny agent; every state is only a shape."""
    spec = IMAGES if kind == "conv" else CARTPOLE.spec
    if kind == "conv":
        network = make_conv_network(
            spec, CODECS, history_steps=HISTORY, channels=4, head_planes=2, head_width=8,
            stages=((4, 3, 2, 0), ("residual", 4, 1, 0), ("pool", 3, 2, 0)),
            history_rewards=True, dtype="bfloat16")
    elif kind == "gru":
        network = make_gru_network(spec, CODECS, history_steps=HISTORY, width=8)
    else:
        network = make_mlp_network(spec, CODECS, history_steps=HISTORY, width=8)
    searcher = gumbel.make_gumbel_search(network, CODECS, num_actions=spec.num_actions,
                                         turn_sign=1, discount=GAMMA, num_simulations=4)
    rule = {"bootstrap_steps": BOOTSTRAP, "discount": GAMMA}
    optimizer = learner.make_optimizer(learning_rate=1e-3, warmup_updates=5, decay_updates=50)
    train = jax.eval_shape(
        lambda key: learner.init_train_state(network, optimizer, key), jax.random.key(0))
    bootstrap = targets.make_network_bootstrap(network, CODECS.value)
    ring = replay_lib.make_replay(
        acting.example_row(spec, searcher, train.params, HISTORY),
        targets.make_initial_priority(**rule, reward_transform=jnp.sign),
        num_envs=NUM_ENVS, rows_per_env=32, window=WINDOW,
        observed_steps=HISTORY + (UNROLL + BOOTSTRAP if source == "network" else 0),
        priority_exponent=0.5, priority_floor=0.01)
    loss = losses.make_loss(network, CODECS, window=WINDOW)
    if kind == "conv":
        shift = functools.partial(random_shift, max_shift=2)
        loss = losses.with_augmentation(loss, shift)
    update = learner.make_update(
        targets.make_targets(window=WINDOW, discount=GAMMA,
                             bootstrap_value=bootstrap if source == "network" else None),
        loss, optimizer, target_interval_updates=10, importance_exponent=0.5)
    learn = learner.make_learn(ring, update, batch_size=8)
    return spec, searcher, ring, learn, train


def lower_for_tpu(function, *args, **kwargs):
    """The text of the program; it must hold nothing that only a CPU or a GPU can run."""
    traced = jax.jit(function, **kwargs).trace(*args)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo." in text
    assert "f64" not in text
    calls = set(re.findall(r"custom_call @(\w+)", text))
    assert calls <= {"Sharding", "TopK"}, calls
    return text


def timesteps(spec, num_envs):
    """`TimeStep` `[e]` of shapes."""
    def like(shape, dtype):
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    return types.TimeStep(
        observation=like(spec.observation_shape, spec.observation_dtype),
        reward=like((), jnp.float32), discount=like((), jnp.float32), first=like((), bool),
        last=like((), bool), invalid_actions=None)


@pytest.mark.parametrize("kind, source", [
    ("mlp", "stored"),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ("conv", "network"), ("conv", "stored"), ("mlp", "network"), ("gru", "network"),
        ("gru", "stored")))])
def test_learn_lowers(kind, source):
    """Sampling, targets, loss, update, priorities.

    Planted: a matrix inverse in the update, which on a CPU is a call into LAPACK.
    """
    *_, ring, learn, train = make_parts(kind, source)
    text = lower_for_tpu(learn, train, jax.eval_shape(ring.init), jax.random.key(0),
                         donate_argnums=(0, 1))
    # On TPU alone JAX writes a cumulative sum as a window: this text is no CPU program.
    assert "stablehlo.reduce_window" in text
    if kind == "conv":
        assert "stablehlo.convolution" in text and "bf16" in text


def test_act_and_add_lowers_for_images():
    """Search and storing of one group of host environments; frames stay uint8 up to the ring.

    Planted: `jax.pure_callback` in the search.
    """
    spec, searcher, ring, _, train = make_parts("conv", "stored")
    act_and_add = acting.make_act_and_add(searcher, ring)
    carry = jax.eval_shape(lambda: acting.init_carry(spec, 2, HISTORY))
    text = lower_for_tpu(
        act_and_add, train.params, jax.eval_shape(ring.init), carry, timesteps(spec, 2),
        np.int32(2), jax.random.key(0), acting.NO_EXPLORATION, np.int32(0), donate_argnums=(1, 2))
    assert "tensor<4x32x256xui8>" in text  # [E, T, H·W·C].
    assert "tensor<4x32x256xf32>" not in text


@pytest.mark.slow
def test_a_whole_iteration_lowers():
    """Environments, search, replay and learning as one program.

    Planted: `jax.pure_callback` in the search.
    """
    spec, searcher, ring, learn, train = make_parts("mlp", "network")
    rollout = acting.make_rollout(CARTPOLE, searcher, num_steps=3)
    iteration = anakin.make_iteration(rollout, ring, learn, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), NUM_ENVS)
    env, timestep = jax.eval_shape(jax.vmap(CARTPOLE.reset), keys)
    carry = jax.eval_shape(lambda: anakin.init_anakin_carry(spec, NUM_ENVS, HISTORY))
    count = learner.split_count(0)
    text = lower_for_tpu(
        fakes.on_one_device(iteration), train, jax.eval_shape(ring.init), env, timestep, carry,
        acting.NO_EXPLORATION, count, count, np.int32(3), donate_argnums=(0, 1, 2, 3, 4))
    assert text.count("stablehlo.while") >= 3  # Steps, simulations, updates.
    assert "stablehlo.reduce_window" in text


@pytest.mark.parametrize("make", [
    pytest.param(make_catch, id="catch"),
    pytest.param(lambda: make_memory(length=3), id="memory"),
    pytest.param(lambda: make_pgx("tic_tac_toe"), id="tic_tac_toe"),
    pytest.param(lambda: make_pgx("minatar-breakout"), id="minatar-breakout"),
])
def test_environments_lower(make):
    """The step of each, with its reset inside.

    Planted: `jax.pure_callback` in the reset of `auto_reset`.
    """
    env = make()
    keys = jax.random.split(jax.random.key(0), NUM_ENVS)
    state, _ = jax.eval_shape(jax.vmap(env.reset), keys)
    text = lower_for_tpu(jax.vmap(env.step), state, np.zeros(NUM_ENVS, np.int32), keys)
    assert "threefry" in text  # The reset's draws.
