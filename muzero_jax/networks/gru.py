"""A recurrent network for vectors: what was seen long ago can matter now."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.codecs import squash
from muzero_jax.networks.blocks import (
    flatten,
    make_network,
    num_policy_logits,
    scale_embedding,
)
from muzero_jax.networks.mlp import Dynamics, Prediction, Trunk
from muzero_jax.types import ActionSpec, Array, Codecs, EnvSpec, History, Network


class _Step(nn.Module):
    """One step of the GRU from `state` `[B, width]`; an entry that is not valid changes nothing."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, state: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        features, valid = entry
        after, _ = nn.GRUCell(self.width, dtype=self.dtype)(state, features)
        return jnp.where(valid[:, None], after, state), None


class _Representation(nn.Module):
    """`History` `[B, S]` -> embedding `[B, width]`; the parameters do not depend on S."""

    action: ActionSpec
    width: int
    num_layers: int
    dtype: Any

    @nn.compact
    def __call__(self, history: History) -> Array:
        batch = history.valid.shape[0]
        entries = jnp.concatenate(
            [
                flatten(history.observation, 2, self.dtype),
                actions.features(self.action, history.action, self.dtype),
                squash(history.reward)[..., None].astype(self.dtype),
            ],
            axis=-1,
        )
        features = Trunk(self.width, self.num_layers, self.dtype)(entries)
        # The oldest entry first.
        scan = nn.scan(
            _Step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1
        )
        state = jnp.zeros((batch, self.width), self.dtype)
        state, _ = scan(self.width, self.dtype)(state, (features, history.valid))
        return scale_embedding(nn.Dense(self.width, dtype=self.dtype)(state))


def make_gru_network(
    spec: EnvSpec,
    codecs: Codecs,
    *,
    history_steps: int,
    width: int = 128,
    num_layers: int = 1,
    dtype: str = "float32",
) -> Network:
    """A network whose representation runs a GRU (Cho et al. 2014) over the history.

    Each entry is a frame, the action that led to it and its squashed reward. Dynamics and
    prediction are those of `make_mlp_network`. Where an episode is longer than the history, the
    GRU starts at the oldest entry: nothing is carried from one search to the next.

    Args:
      spec: observations are flattened to vectors, a dict in the order of its names, and enter as
        they are.
      codecs: give the head sizes.
      history_steps: S, how far back the network remembers.
      width: units of every layer and of the GRU.
      num_layers: layers that encode an entry, and layers of a dynamics step.
      dtype: of the body and the embedding; parameters, the last layer of
        each head and logits stay float32.
    """
    value, reward = codecs.value.num_logits, codecs.reward.num_logits
    dtype = jnp.dtype(dtype)
    return make_network(
        spec,
        history_steps=history_steps,
        num_reward_logits=reward,
        representation=_Representation(spec.action, width, num_layers, dtype),
        dynamics=Dynamics(spec.action, reward, width, num_layers, dtype),
        prediction=Prediction(num_policy_logits(spec, codecs), value, width, dtype),
    )
