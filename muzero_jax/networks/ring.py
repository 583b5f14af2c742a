"""A network for places on a ring that follow the same rules, each with a choice of its own."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.errors import ArgumentError
from muzero_jax.networks.blocks import (
    Head,
    flatten,
    make_network,
    num_policy_logits,
    scale_embedding,
)
from muzero_jax.types import ActionSpec, Array, Codecs, EnvSpec, History, Network


class _Trunk(nn.Module):
    """`num_layers` >= 1 of Dense, LayerNorm and ReLU at each place: `[B, L, D]` -> `[B, L, width]`.

    Each layer looks at the place and at the two beside it.
    """

    width: int
    num_layers: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.num_layers):
            x = jnp.concatenate([x, jnp.roll(x, 1, axis=1), jnp.roll(x, -1, axis=1)], axis=-1)
            x = nn.Dense(self.width, dtype=self.dtype, use_bias=False)(x)
            x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        return x


class _Representation(nn.Module):
    """`History` `[B, S]` -> embedding `[B, L, width]`."""

    action: ActionSpec
    width: int
    num_layers: int
    dtype: Any

    @nn.compact
    def __call__(self, history: History) -> Array:
        # Time behind places: `[B, L, S, ...]`.
        seen = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 2), history.observation)
        x = flatten(seen, 2, self.dtype)
        batch, places, _ = x.shape
        valid = history.valid.astype(self.dtype)
        more = [jnp.broadcast_to(valid[:, None], (batch, places, valid.shape[1]))]
        if valid.shape[1] > 1:  # With one frame nothing lies between frames.
            acted = _of_each_place(self.action, history.action, self.dtype) * valid[..., None, None]
            more.append(jnp.moveaxis(acted, 1, 2).reshape(batch, places, -1))
        x = _Trunk(self.width, self.num_layers, self.dtype)(jnp.concatenate([x, *more], axis=-1))
        return scale_embedding(nn.Dense(self.width, dtype=self.dtype)(x))


class _Dynamics(nn.Module):
    """(embedding `[B, L, width]`, action `[B, L]`) -> (embedding, reward logits)."""

    action: ActionSpec
    num_logits: int
    width: int
    num_layers: int
    dtype: Any

    @nn.compact
    def __call__(self, embedding: Array, action: Array) -> tuple[Array, Array]:
        acted = _of_each_place(self.action, action, self.dtype)
        x = jnp.concatenate([embedding, acted], axis=-1)
        x = _Trunk(self.width, self.num_layers, self.dtype)(x)
        reward_logits = _scalar_head(x, self.num_logits, self.width, self.dtype)
        moved = nn.Dense(self.width, dtype=self.dtype)(x)
        return scale_embedding(embedding + moved), reward_logits


class _Prediction(nn.Module):
    """embedding `[B, L, width]` -> (policy logits of all places in order, value logits)."""

    num_policy_logits: int
    num_logits: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, embedding: Array) -> tuple[Array, Array]:
        batch, places, _ = embedding.shape
        policy = Head(self.num_policy_logits // places, self.width, self.dtype)(embedding)
        x = _Trunk(self.width, 1, self.dtype)(embedding)
        value = _scalar_head(x, self.num_logits, self.width, self.dtype)
        return policy.reshape(batch, -1), value


def _of_each_place(action: ActionSpec, taken: Array, dtype: Any) -> Array:
    """Actions `[..., L]` as one-hots `[..., L, A]`."""
    features = actions.features(action, taken, dtype)
    return features.reshape(*features.shape[:-1], len(action.sizes), -1)


def _scalar_head(x: Array, num_logits: int, width: int, dtype: Any) -> Array:
    """Logits `[B, num_logits]` of what is a mean over the places of `[B, L, D]`."""
    return Head(num_logits, width, dtype)(jnp.mean(x, axis=1))


def make_ring_network(
    spec: EnvSpec,
    codecs: Codecs,
    *,
    history_steps: int,
    width: int = 32,
    num_layers: int = 1,
    dtype: str = "float32",
) -> Network:
    """A network of L places with shared weights, which see the places on both sides of them.

    Turn the ring and the policy turns with it, while value and reward stay as they were: what is
    learned at one place holds at all. Value and reward are read from the mean over the places.

    Args:
      spec: every array of the observation is `[L, ...]`; the action is L choices of one size.
      codecs: give the head sizes; the policy has as many logits for each place.
      history_steps: S.
      width: units of every layer at each place; the embedding is `[B, L, width]`.
      num_layers: layers of the representation and of a dynamics step. Each looks one place further.
      dtype: of the body and the embedding; parameters, the last layer of each head and logits stay
        float32.

    Raises:
      ArgumentError: where observations or actions are not of L places, or without a layer.
    """
    if num_layers < 1:
        raise ArgumentError(f"num_layers must be >= 1 (got {num_layers})")
    sizes = spec.action.sizes
    places = spec.action.shape[0] if spec.action.shape else 0
    if sizes is None or len({*sizes}) != 1 or len(sizes) != places:
        raise ArgumentError(f"a ring needs choices of one size, one a place (got {spec.action})")
    for leaf in jax.tree.leaves(spec.observation_tree()):
        if leaf.shape[:1] != (places,):
            raise ArgumentError(
                f"a ring of {places} needs observations of [{places}, ...] (got {leaf.shape})"
            )
    policy = num_policy_logits(spec, codecs)
    if policy % places:
        raise ArgumentError(f"a policy of {policy} logits cannot be shared by {places} places")
    value, reward = codecs.value.num_logits, codecs.reward.num_logits
    dtype = jnp.dtype(dtype)
    return make_network(
        spec,
        history_steps=history_steps,
        num_reward_logits=reward,
        representation=_Representation(spec.action, width, num_layers, dtype),
        dynamics=_Dynamics(spec.action, reward, width, num_layers, dtype),
        prediction=_Prediction(policy, value, width, dtype),
    )
