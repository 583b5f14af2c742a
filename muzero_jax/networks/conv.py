"""A residual convolutional network for images and boards."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from muzero_jax.networks.blocks import Head, make_network, scale_embedding
from muzero_jax.types import Array, Codecs, EnvSpec, History, Network


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with LayerNorm and a skip: `[B, H, W, C]` -> same shape."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        y = nn.Conv(channels, (3, 3), dtype=self.dtype, use_bias=False)(x)
        y = nn.relu(nn.LayerNorm(dtype=self.dtype)(y))
        y = nn.Conv(channels, (3, 3), dtype=self.dtype, use_bias=False)(y)
        return nn.relu(nn.LayerNorm(dtype=self.dtype)(y) + x)


class _Representation(nn.Module):
    """`History` `[B, S]` of images -> embedding `[B, h, w, channels]`.

    The input is frames and, one each, action planes a/A (MuZero appendix E). `stages` are
    (channels, kernel, stride, residual blocks).
    """

    num_actions: int
    stages: tuple[tuple[int, int, int, int], ...]
    channels: int
    num_blocks: int
    action_planes: bool
    dtype: Any

    @nn.compact
    def __call__(self, history: History) -> Array:
        frames = history.observation
        if frames.dtype == jnp.uint8:
            frames = frames.astype(self.dtype) / 255
        batch, length, height, width, depth = frames.shape
        x = jnp.moveaxis(frames, 1, 3).reshape(batch, height, width, length * depth)
        if self.action_planes:
            levels = jnp.where(history.valid, history.action / self.num_actions, 0.0)
            planes = jnp.broadcast_to(levels[:, None, None, :], (batch, height, width, length))
            x = jnp.concatenate([x, planes.astype(self.dtype)], axis=-1)
        x = x.astype(self.dtype)
        for channels, kernel, stride, blocks in (*self.stages, (self.channels, 3, 1, 0)):
            x = nn.Conv(
                channels, (kernel, kernel), (stride, stride), dtype=self.dtype, use_bias=False
            )(x)
            x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
            for _ in range(blocks):
                x = ResidualBlock(self.dtype)(x)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype)(x)
        return scale_embedding(x)


class _FlatHead(nn.Module):
    """A 1x1 convolution to `planes` channels, then a `Head`."""

    num_logits: int
    planes: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(self.planes, (1, 1), dtype=self.dtype, use_bias=False)(x)
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        return Head(self.num_logits, self.width, self.dtype)(x.reshape(x.shape[0], -1))


class _Dynamics(nn.Module):
    """(embedding `[B, h, w, C]`, action `[B]`) -> (embedding, reward logits)."""

    num_actions: int
    num_logits: int
    num_blocks: int
    head_planes: int
    head_width: int
    dtype: Any

    @nn.compact
    def __call__(self, embedding: Array, action: Array) -> tuple[Array, Array]:
        channels = embedding.shape[-1]
        one_hot = jax.nn.one_hot(action, self.num_actions, dtype=self.dtype)
        # A one-hot action is A constant planes; a 1x1 convolution over them is one vector each.
        planes = nn.Dense(channels, dtype=self.dtype, use_bias=False)(one_hot)[:, None, None, :]
        x = nn.Conv(channels, (3, 3), dtype=self.dtype, use_bias=False)(embedding) + planes
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x) + embedding)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype)(x)
        reward_logits = _FlatHead(
            self.num_logits, self.head_planes, self.head_width, self.dtype
        )(x)
        return scale_embedding(x), reward_logits


class _Prediction(nn.Module):
    """embedding `[B, h, w, C]` -> (policy logits, value logits)."""

    num_actions: int
    num_logits: int
    num_blocks: int
    head_planes: int
    head_width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype)(x)
        sizes = (self.head_planes, self.head_width, self.dtype)
        policy_logits = _FlatHead(self.num_actions, *sizes)(x)
        return policy_logits, _FlatHead(self.num_logits, *sizes)(x)


def make_conv_network(
    spec: EnvSpec,
    codecs: Codecs,
    *,
    history_steps: int,
    stages: Sequence[Sequence[int]] = ((16, 3, 2, 0), (32, 3, 2, 0), (32, 3, 2, 0)),
    channels: int = 32,
    representation_blocks: int = 1,
    dynamics_blocks: int = 1,
    prediction_blocks: int = 0,
    head_planes: int = 8,
    head_width: int = 64,
    action_planes: bool = True,
    dtype: str = "float32",
) -> Network:
    """A residual network: downsampling `stages`, then a tower of `channels` planes.

    Args:
      spec: observations are `(H, W, C)`, uint8 (scaled by 1/255) or float.
      codecs: give the head sizes.
      history_steps: S.
      stages: (channels, kernel, stride, residual blocks) of each downsampling stage.
      channels: planes of the embedding.
      representation_blocks: residual blocks after the stages.
      dynamics_blocks: residual blocks of a dynamics step.
      prediction_blocks: residual blocks before the heads.
      head_planes: planes that a head reads.
      head_width: hidden units of a head.
      action_planes: whether the representation sees the history's actions.
      dtype: of the body and the embedding; parameters, heads and logits stay float32.
    """
    if len(spec.observation_shape) != 3:
        raise ValueError(f"network: images have shape (H, W, C), got {spec.observation_shape}")
    actions, value, reward = spec.num_actions, codecs.value.num_logits, codecs.reward.num_logits
    dtype = jnp.dtype(dtype)
    sizes = (head_planes, head_width, dtype)
    stages = tuple(tuple(stage) for stage in stages)
    return make_network(
        spec,
        history_steps=history_steps,
        num_reward_logits=reward,
        representation=_Representation(
            actions, stages, channels, representation_blocks, action_planes, dtype
        ),
        dynamics=_Dynamics(actions, reward, dynamics_blocks, *sizes),
        prediction=_Prediction(actions, value, prediction_blocks, *sizes),
    )
