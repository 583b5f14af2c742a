"""Models and worlds to search, and what every test of a search needs.

Their params are the world itself, so that one compiled search serves many worlds.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import codecs as codecs_lib
from muzero_jax import types
from oracles import gumbel_tree

IDENTITY = codecs_lib.identity_codec()
CODECS = types.Codecs(value=IDENTITY, reward=IDENTITY)


def explore(temperature=0.0, noise_scale=0.0, random_move=0.0, spread=0.0):
    return types.Explore(
        temperature=np.float32(temperature),
        noise_scale=np.float32(noise_scale),
        random_move=np.float32(random_move),
        spread=np.float32(spread),
    )


def history_of(frames):
    """`[B, ...]` single frames as a `History` of length 1, of NumPy where they are not traced."""
    if not isinstance(frames, jax.core.Tracer):
        frames = np.asarray(frames)
        frames = frames.astype(jax.dtypes.canonicalize_dtype(frames.dtype))
    frames = frames[:, None]
    batch = frames.shape[0]
    return types.History(
        observation=frames,
        action=np.zeros((batch, 1), np.int32),
        reward=np.zeros((batch, 1), np.float32),
        valid=np.ones((batch, 1), bool),
    )


def chi_square(counts, expected):
    """Statistic / a bound that a right sampler passes with p about 1e-4 (Wilson-Hilferty)."""
    dof = len(counts) - 1
    bound = dof * (1 - 2 / (9 * dof) + 3.72 * np.sqrt(2 / (9 * dof))) ** 3
    return ((counts - expected) ** 2 / expected).sum() / bound


# A smooth random world: no two Q-values tie, and NumPy computes it as well as JAX.


class World(NamedTuple):
    """`move[a]` turns a state (`[D]`, the embedding) into the next; the rest reads a state."""

    move: np.ndarray  # [A, D, D]
    shift: np.ndarray  # [A, D]
    reward: np.ndarray  # [D]
    value: np.ndarray  # [D]
    prior: np.ndarray  # [D, A]


def make_world(num_actions, seed, width=5, sharp=2.0):
    rng = np.random.default_rng(seed)
    world = World(
        move=sharp * rng.normal(size=(num_actions, width, width)) / np.sqrt(width),
        shift=rng.normal(size=(num_actions, width)),
        reward=rng.normal(size=width) / np.sqrt(width),
        value=2.0 * rng.normal(size=width) / np.sqrt(width),
        prior=rng.normal(size=(width, num_actions)),
    )
    return World(*(x.astype(np.float32) for x in world))


def predict_world(world, state, reward):
    return types.Prediction(
        embedding={"state": state},
        reward_logits=reward[:, None],
        value_logits=jnp.einsum("bd,d->b", state, world.value, precision="highest")[:, None],
        policy_logits=jnp.einsum("bd,da->ba", state, world.prior, precision="highest"),
    )


def look_at_world(world, history):
    state = history.observation[:, -1]
    return predict_world(world, state, jnp.zeros(state.shape[0]))


def move_in_world(world, embedding, action):
    state = jnp.einsum("bij,bj->bi", world.move[action], embedding["state"], precision="highest")
    state = jnp.tanh(state + world.shift[action])
    reward = jnp.einsum("bd,d->b", state, world.reward, precision="highest")
    return predict_world(world, state, reward)


WORLD_NETWORK = types.Network(lambda key: None, look_at_world, move_in_world)


def world_model(world):
    world = World(*(x.astype(np.float64) for x in world))

    def step(state, action):
        state = np.tanh(world.move[action] @ state + world.shift[action])
        return state @ world.reward, state @ world.value, state @ world.prior, state

    return gumbel_tree.Model(step)


def random_masks(rng, batch, num_actions):
    invalid = rng.random((batch, num_actions)) < 0.4
    invalid[np.arange(batch), rng.integers(num_actions, size=batch)] = False
    return invalid


@functools.lru_cache
def rows_setup(num_actions=6, batch=16):
    world = make_world(num_actions, seed=3)
    rng = np.random.default_rng(4)
    roots = np.tanh(rng.normal(size=(batch, 5)).astype(np.float32))
    invalid = random_masks(rng, batch, num_actions)
    return world, roots, invalid


# Trees written out by hand: state = index of a node, the world is a table.


class Table(NamedTuple):
    """`next_node[s, a]`, `reward[s, a]`, and per node `value`, `logits`."""

    next_node: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    logits: np.ndarray


def predict_table(table, node, reward):
    return types.Prediction(
        embedding=node,
        reward_logits=reward[:, None],
        value_logits=table.value[node][:, None],
        policy_logits=table.logits[node],
    )


def look_at_table(table, history):
    node = history.observation[:, -1].astype(jnp.int32)
    return predict_table(table, node, jnp.zeros(node.shape, jnp.float32))


def move_in_table(table, node, action):
    return predict_table(table, table.next_node[node, action], table.reward[node, action])


TABLE_NETWORK = types.Network(lambda key: None, look_at_table, move_in_table)


def make_table(next_node, reward, value, logits):
    return Table(np.asarray(next_node, np.int32),
                 *(np.asarray(x, np.float32) for x in (reward, value, logits)))
