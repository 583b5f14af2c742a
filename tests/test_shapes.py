"""Arrays of a wrong shape are refused while they are traced, at the door of each function.

Each case is a function with arguments that fit. Then every axis of every array is made one longer,
one at a time: the function has to raise. Axes that may have any length are named.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import mctx
import pytest

from muzero_jax import (
    acting,
    codecs,
    finite,
    history,
    losses,
    reanalyse,
    replay,
    returns,
    targets,
    types,
)
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import common, gumbel, muzero

B, A, S, K, N, D, T = 2, 3, 2, 2, 3, 5, 4
WINDOW = types.Window(S, K, N)
LENGTH = S + 1 + K + N
SPEC = types.EnvSpec(
    types.ArraySpec((D,), "float32"), types.ActionSpec.discrete(A), 1, True, 99, masked=True
)
SCALAR = codecs.make_two_hot_codec(num_bins=7, low=-3.0, high=3.0)
CODECS = types.Codecs(value=SCALAR, reward=SCALAR)
NETWORK = make_mlp_network(SPEC, CODECS, history_steps=S, width=8)
PARAMS = NETWORK.init(jax.random.key(0))
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)


def f(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def b(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def _rows(*lead, observation=True, others=True):
    return types.Transition(
        observation=f(*lead, D) if observation else None,
        reward=f(*lead),
        discount=f(*lead),
        first=b(*lead),
        last=b(*lead),
        invalid_actions=b(*lead, A) if others else None,
        action=i(*lead) if others else None,
        policy=f(*lead, A) if others else None,
        value=f(*lead),
        explored=b(*lead),
        made_at_updates=i(*lead) if others else None,
    )


def _timestep(batch):
    return types.TimeStep(
        observation=f(batch, D), reward=f(batch), discount=f(batch), first=b(batch), last=b(batch),
        invalid_actions=b(batch, A),
    )


def _history(batch):
    return types.History(
        observation=f(batch, S, D), action=i(batch, S), reward=f(batch, S), valid=b(batch, S)
    )


SAMPLE = types.Sample(
    rows=_rows(B, LENGTH, observation=False), observations=f(B, S + K + N, D), index=i(B, 2),
    probability=f(B), num_drawable=f(), total_weight=f(), newest_updates=i(),
)
TARGETS = types.Targets(
    policy=f(B, K + 1, A), value=f(B, K + 1), reward=f(B, K + 1), policy_mask=f(B, K + 1),
    value_mask=f(B, K + 1), reward_mask=f(B, K + 1), policy_age=i(B),
)
EXPLORE = acting.NO_EXPLORATION


def _node(weights, value):
    return mctx.RootFnOutput(prior_logits=weights, value=value, embedding=None)


_SIZES = dict(num_actions=A, turn_sign=1, discount=0.9, num_simulations=2)
MODEL = common.learned_model(
    NETWORK, CODECS, action=SPEC.action, discount=0.9, turn_sign=1)
GUMBEL = gumbel.make_gumbel_search(NETWORK, CODECS, **_SIZES)
PUCT = muzero.make_muzero_search(NETWORK, CODECS, **_SIZES)
EMBEDDING = jax.eval_shape(NETWORK.initial_inference, PARAMS, _history(B)).embedding
RING = replay.make_replay(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), _rows(1)),
    lambda rows: rows.value[:-N],
    num_envs=B, rows_per_env=LENGTH + T, window=WINDOW, observed_steps=S,
    priority_exponent=1.0, priority_floor=0.1,
)
STATE = jax.eval_shape(RING.init)
_LOSS = losses.make_loss(NETWORK, CODECS, window=WINDOW)
_TARGETS = targets.make_targets(window=WINDOW, discount=0.9)
_AGAIN = reanalyse.with_reanalyse(
    _TARGETS, GUMBEL, window=WINDOW, fraction=1.0, fresh_values=True
)
_RETURNS = dict(bootstrap_steps=N, discount=0.9)
_FRAMES = "observations, axis 1"  # More frames than are read do no harm.

# Name -> (function, arguments, axes that may be longer).
CASES = {
    "bootstrap_offsets": (functools.partial(returns.bootstrap_offsets, n=N), (b(9), b(9)), ()),
    "n_step_returns": (
        functools.partial(returns.n_step_returns, n=N, gamma=0.9), (f(9), f(9), i(6), f(6)), ()
    ),
    "unroll_masks": (returns.unroll_masks, (f(4), b(4)), ()),
    "two-hot loss": (SCALAR.loss, (f(B, 7), f(B)), ()),
    "identity loss": (codecs.identity_codec().loss, (f(B, 1), f(B)), ()),
    "policy_cross_entropy": (losses.policy_cross_entropy, (f(B, A), f(B, A)), ()),
    "history_push": (history.history_push, (_history(B), _timestep(B), i(B)), (
        "discount, axis 0", "last, axis 0", "invalid_actions")),
    "loss": (lambda s, t: _LOSS(PARAMS, None, s, t), (SAMPLE, TARGETS), (
        _FRAMES, "invalid_actions, axis 2", "rows.policy, axis 2")),
    "unroll": (
        lambda h, a: losses.unroll(NETWORK, PARAMS, h, a), (_history(B), i(B, K)), (
            "[1], axis 1",)),
    "targets": (lambda s: _TARGETS(None, None, None, s), (SAMPLE,), (
        _FRAMES, "invalid_actions, axis 2", "policy, axis 2", "observations, axis 2")),
    "reanalysed targets": (
        lambda key, s: _AGAIN(PARAMS, PARAMS, key, s), (KEY, SAMPLE), (_FRAMES,)
    ),
    "initial priority": (
        targets.make_initial_priority(**_RETURNS), (_rows(9, observation=False, others=False),),
        ("first, axis 0",)),
    "replay.add": (lambda s, r: RING.add(s, 0, r), (STATE, _rows(B, T)), ("[0]",)),
    "replay.update_priorities": (RING.update_priorities, (STATE, i(4, 2), f(4)), ("[0]",)),
    "answer": (
        lambda key, g, w, v, m: common.answer(
            key, MODEL, types.Root(_node(w, v), m, m),
            greedy=g, weights=w, value=v, explore=EXPLORE),
        (KEY, i(B), f(B, A), f(B), b(B, A)), ()),
    "gumbel search": (
        lambda key, h, m: GUMBEL(PARAMS, key, h, m, EXPLORE), (KEY, _history(B), b(B, A)), ()),
    "muzero search": (
        lambda key, h, m: PUCT(PARAMS, key, h, m, EXPLORE), (KEY, _history(B), b(B, A)), ()),
    "initial_inference": (lambda h: NETWORK.initial_inference(PARAMS, h), (_history(B),), ()),
    "recurrent_inference": (
        lambda e, a: NETWORK.recurrent_inference(PARAMS, e, a), (EMBEDDING, i(B)), ()),
    "finite.clean": (finite.clean, (_rows(B, T),), (
        "observation, axis 2", "invalid_actions, axis 2", "policy, axis 2")),
}


def _longer(x, axis):
    shape = list(x.shape)
    shape[axis] += 1
    return jax.ShapeDtypeStruct(shape, x.dtype)


@pytest.mark.parametrize("name", CASES)
def test_every_axis_counts(name):
    """One longer is refused; the arguments themselves are not."""
    function, arguments, free = CASES[name]
    jax.eval_shape(function, *arguments)
    leaves, structure = jax.tree_util.tree_flatten_with_path(arguments)
    tried = 0
    for place, (path, leaf) in enumerate(leaves):
        for axis in range(len(leaf.shape)):
            label = f"{jax.tree_util.keystr(path)}, axis {axis}"
            if any(part in label for part in free):
                continue
            changed = [x for _, x in leaves]
            changed[place] = _longer(leaf, axis)
            tried += 1
            with pytest.raises((AssertionError, ValueError, TypeError, flax.errors.FlaxError)):
                jax.eval_shape(function, *jax.tree.unflatten(structure, changed))
                pytest.fail(f"{name}: {label} may have any length")
    assert tried
