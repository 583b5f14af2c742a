"""A fully connected network for observations that are vectors."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.codecs import squash
from muzero_jax.errors import ArgumentError
from muzero_jax.networks.blocks import (
    Head,
    flatten,
    make_network,
    num_policy_logits,
    scale_embedding,
)
from muzero_jax.types import ActionSpec, Array, Codecs, EnvSpec, History, Network

_TRUNK = "_Trunk_0"  # As stored checkpoints name it.
_MANY = 64  # From so many actions on, looking up a row of weights spares time.


class Trunk(nn.Module):
    """`num_layers` >= 1 of Dense, LayerNorm and ReLU: `[B, D]` -> `[B, width]`.

    Called with `choice` `[B]` too, one of `num_choices`, it is the trunk of features with the
    choice one-hot behind them, but looks up a row of weights where that multiplies with zeros.
    """

    width: int
    num_layers: int
    dtype: Any
    num_choices: int = 0

    @nn.compact
    def __call__(self, x: Array, choice: Array | None = None) -> Array:
        for i in range(self.num_layers):
            name = f"Dense_{i}"
            if choice is not None and i == 0:
                dense = _DenseOfChoice(self.num_choices, self.width, self.dtype, name=name)
                x = dense(x, choice)
            else:
                x = nn.Dense(self.width, dtype=self.dtype, use_bias=False, name=name)(x)
            x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        return x


class _DenseOfChoice(nn.Module):
    """Dense without bias of features `[B, D]` with a choice `[B]` one-hot behind them."""

    num_choices: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, choice: Array) -> Array:
        num_features = x.shape[-1]
        shape = (num_features + self.num_choices, self.width)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape).astype(self.dtype)
        return x.astype(self.dtype) @ kernel[:num_features] + kernel[num_features + choice]


class _Representation(nn.Module):
    """`History` `[B, S]` -> embedding `[B, width]`."""

    action: ActionSpec
    width: int
    num_layers: int
    history_rewards: bool
    dtype: Any

    @nn.compact
    def __call__(self, history: History) -> Array:
        batch, length = history.valid.shape
        x = flatten(history.observation, 1, self.dtype)
        # Of one frame this is a constant: without it, LayerNorm would hide how large x is.
        seen = history.valid.astype(self.dtype)
        x = jnp.concatenate([x, seen], axis=-1)
        if length > 1:  # With one frame nothing lies between frames.
            acted = actions.features(self.action, history.action, self.dtype)
            x = jnp.concatenate([x, (acted * seen[..., None]).reshape(batch, -1)], axis=-1)
        if self.history_rewards:
            rewards = jnp.where(history.valid, squash(history.reward), 0.0)
            x = jnp.concatenate([x, rewards.astype(self.dtype)], axis=-1)
        x = Trunk(self.width, self.num_layers, self.dtype, name=_TRUNK)(x)
        return scale_embedding(nn.Dense(self.width, dtype=self.dtype)(x))


class Dynamics(nn.Module):
    """(embedding `[B, width]`, action `[B, ...]`) -> (embedding, reward logits)."""

    action: ActionSpec
    num_logits: int
    width: int
    num_layers: int
    dtype: Any

    @nn.compact
    def __call__(self, embedding: Array, action: Array) -> tuple[Array, Array]:
        num_choices = self.action.num_actions if self.action.is_discrete else 0
        trunk = Trunk(self.width, self.num_layers, self.dtype, num_choices, name=_TRUNK)
        if num_choices >= _MANY:
            x = trunk(embedding, actions.flat(self.action, action)[..., 0])
        else:
            acted = actions.features(self.action, action, self.dtype)
            x = trunk(jnp.concatenate([embedding, acted], axis=-1))
        reward_logits = Head(self.num_logits, self.width, self.dtype)(x)
        moved = nn.Dense(self.width, dtype=self.dtype)(x)
        return scale_embedding(embedding + moved), reward_logits


class Prediction(nn.Module):
    """embedding `[B, width]` -> (policy logits, value logits)."""

    num_policy_logits: int
    num_logits: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, embedding: Array) -> tuple[Array, Array]:
        policy_logits = Head(self.num_policy_logits, self.width, self.dtype)(embedding)
        return policy_logits, Head(self.num_logits, self.width, self.dtype)(embedding)


def make_mlp_network(
    spec: EnvSpec,
    codecs: Codecs,
    *,
    history_steps: int,
    width: int = 128,
    num_layers: int = 1,
    history_rewards: bool = False,
    dtype: str = "float32",
) -> Network:
    """An MLP network: every layer has `width` units, the body computes in `dtype`.

    Observations are flattened, a dict in the order of its names, and enter as they are. Parameters,
    the last layer of each head and logits stay float32; the embedding has the body's dtype. With
    `history_rewards` the representation also sees the history's rewards (`codecs.squash`).

    Raises:
      ArgumentError: without a layer.
    """
    if num_layers < 1:
        raise ArgumentError(f"num_layers must be >= 1 (got {num_layers})")
    value, reward = codecs.value.num_logits, codecs.reward.num_logits
    dtype = jnp.dtype(dtype)
    return make_network(
        spec,
        history_steps=history_steps,
        num_reward_logits=reward,
        representation=_Representation(spec.action, width, num_layers, history_rewards, dtype),
        dynamics=Dynamics(spec.action, reward, width, num_layers, dtype),
        prediction=Prediction(num_policy_logits(spec, codecs), value, width, dtype),
    )
