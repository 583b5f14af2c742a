"""Parts that every network shares: how three modules become a `Network`, scaling, heads."""

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.types import Array, Codecs, EnvSpec, History, Network, Prediction


def make_network(
    spec: EnvSpec,
    *,
    history_steps: int,
    num_reward_logits: int,
    representation: nn.Module,
    dynamics: nn.Module,
    prediction: nn.Module,
) -> Network:
    """Joins the three functions of MuZero (section 3) into one `Network`.

    Args:
      spec: gives the shapes that `init` needs.
      history_steps: S.
      num_reward_logits: size of the reward head.
      representation: `(History [B, S]) -> embedding`.
      dynamics: `(embedding, action [B, ...]) -> (embedding, reward logits)`.
      prediction: `(embedding) -> (policy logits, value logits)`.

    Returns:
      `Network` whose params are a dict with a tree for each of the three.
    """

    def init(key):
        representation_key, dynamics_key, prediction_key = jax.random.split(key, 3)
        history = History(
            observation=jax.tree.map(
                lambda x: jnp.zeros((1, history_steps, *x.shape), x.dtype), spec.observation_tree()
            ),
            action=actions.zeros(spec.action, 1, history_steps),
            reward=jnp.zeros((1, history_steps), jnp.float32),
            valid=jnp.ones((1, history_steps), bool),
        )
        embedding, first = representation.init_with_output(representation_key, history)
        return {
            "representation": first,
            "dynamics": dynamics.init(dynamics_key, embedding, history.action[:, -1]),
            "prediction": prediction.init(prediction_key, embedding),
        }

    def predict(params, embedding, reward_logits) -> Prediction:
        policy_logits, value_logits = prediction.apply(params["prediction"], embedding)
        return Prediction(
            embedding=embedding,
            reward_logits=reward_logits,
            value_logits=value_logits,
            policy_logits=policy_logits,
        )

    def initial_inference(params, history: History) -> Prediction:
        seen = history.valid.shape  # [B, S]; some networks take any S.
        jax.tree.map(
            lambda like, x: chex.assert_shape(x, (*seen, *like.shape)),
            spec.observation_tree(),
            history.observation,
        )
        chex.assert_shape(history.action, (*seen, *spec.action.shape))
        chex.assert_shape([history.reward, history.valid], seen)
        embedding = representation.apply(params["representation"], history)
        no_reward = jnp.zeros((seen[0], num_reward_logits), jnp.float32)
        return predict(params, embedding, no_reward)

    def recurrent_inference(params, embedding, action) -> Prediction:
        chex.assert_shape(action, (None, *spec.action.shape))
        chex.assert_tree_shape_prefix(embedding, action.shape[:1])
        return predict(params, *dynamics.apply(params["dynamics"], embedding, action))

    return Network(init, initial_inference, recurrent_inference)


def num_policy_logits(spec: EnvSpec, codecs: Codecs) -> int:
    """Size of the policy head: that of `codecs.policy`, by default A of one discrete choice."""
    return spec.num_actions if codecs.policy is None else codecs.policy.num_logits


def flatten(tree: Any, num_axes: int, dtype: Any) -> Array:
    """Arrays `[*lead, ...]`, whose `num_axes` leading axes are the same, as one `[*lead, D]`."""
    leaves = jax.tree.leaves(tree)
    flat = [x.reshape(*x.shape[:num_axes], -1).astype(dtype) for x in leaves]
    return jnp.concatenate(flat, axis=-1)


def scale_embedding(x: Array, eps: float = 1e-5) -> Array:
    """Scales every example of `[B, ...]` to [0, 1] by its own minimum and maximum (appendix G)."""
    axes = tuple(range(1, x.ndim))
    wide = x.astype(jnp.float32)
    low = jnp.min(wide, axes, keepdims=True)
    high = jnp.max(wide, axes, keepdims=True)
    return ((wide - low) / (high - low + eps)).astype(x.dtype)


class Head(nn.Module):
    """Logits `[B, num_logits]` in float32 from features `[B, D]`; the last layer starts at zero."""

    num_logits: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.width, dtype=self.dtype, use_bias=False)(x)
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x)).astype(jnp.float32)
        return nn.Dense(self.num_logits, kernel_init=nn.initializers.zeros)(x)
