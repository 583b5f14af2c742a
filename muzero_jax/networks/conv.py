"""A residual convolutional network for images and boards."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from muzero_jax import actions
from muzero_jax.codecs import squash
from muzero_jax.errors import ArgumentError
from muzero_jax.networks.blocks import (
    Head,
    make_network,
    num_policy_logits,
    scale_embedding,
)
from muzero_jax.networks.moves import check_encoding, move_planes
from muzero_jax.types import ActionSpec, Array, Codecs, EnvSpec, History, Network

Stage = tuple[int | str, int, int, int]


def _conv(
    module: nn.Module, channels: int, size: int, strides=(1, 1), levels: Array | None = None
) -> nn.Conv:
    """A square convolution inside one of the modules below; `levels` as in `_planes_apart`."""
    convolve = module.convolve
    return nn.Conv(
        channels,
        (size, size),
        strides,
        dtype=module.dtype,
        use_bias=False,
        conv_general_dilated=convolve if levels is None else _planes_apart(convolve, levels),
    )


def _planes_apart(convolve: Callable[..., Array] | None, levels: Array) -> Callable[..., Array]:
    """A convolution of images whose last P channels are constant planes of `levels` `[B, P]`.

    The response to a plane is its level times the response to a plane of ones, which is the same
    for every example: so the planes cost one image a batch, and no example is convolved with them.
    """
    convolve = jax.lax.conv_general_dilated if convolve is None else convolve
    num = levels.shape[-1]

    def apart(x: Array, kernel: Array, strides, padding, **options) -> Array:
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        rows, columns, _, channels = kernel.shape
        each = kernel[:, :, -num:].reshape(rows, columns, 1, num * channels)
        response = jax.lax.conv_general_dilated(ones, each, strides, padding, **options)
        response = response.reshape(*response.shape[1:3], num, channels)
        images = convolve(x[..., :-num], kernel[:, :, :-num], strides, padding, **options)
        return images + jnp.einsum("bp,hwpc->bhwc", levels, response)

    return apart


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with LayerNorm and a skip: `[B, H, W, C]` -> same shape.

    With `channels`, the first one has the `stride` and the skip is a 1x1 convolution with the same
    stride: `[B, ceil(H / stride), ceil(W / stride), channels]` (He et al. 2016).
    """

    dtype: Any
    channels: int | None = None
    stride: int = 1
    convolve: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1] if self.channels is None else self.channels
        strides = (self.stride, self.stride)
        y = _conv(self, channels, 3, strides)(x)
        y = nn.relu(nn.LayerNorm(dtype=self.dtype)(y))
        y = _conv(self, channels, 3)(y)
        y = nn.LayerNorm(dtype=self.dtype)(y)
        if self.channels is not None:
            x = _conv(self, channels, 1, strides)(x)
            x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.relu(y + x)


class _Representation(nn.Module):
    """`History` `[B, S]` with images -> embedding `[B, h, w, C]`.

    The input is frames and, for each frame, constant planes: of the action, of the squashed reward,
    of what else is observed. `stages` are those of `make_conv_network`.
    """

    action: ActionSpec
    stages: tuple[Stage, ...]
    num_blocks: int
    action_planes: bool
    history_rewards: bool
    dtype: Any
    convolve: Callable[..., Array] | None

    @nn.compact
    def __call__(self, history: History) -> Array:
        batch = history.valid.shape[0]
        observed = jax.tree.leaves(history.observation)
        images = [jnp.moveaxis(x, 1, 3) for x in observed if x.ndim == 5]
        height, width = images[0].shape[1:3]
        images = [self._scaled(x.reshape(batch, height, width, -1)) for x in images]
        x = jnp.concatenate(images, axis=-1)
        levels = self._levels(history, [x for x in observed if x.ndim != 5])
        if levels is not None:
            shape = (batch, height, width, levels.shape[-1])
            x = jnp.concatenate([x, jnp.broadcast_to(levels[:, None, None], shape)], axis=-1)
        for stage in self.stages:
            x, levels = self._downsample(x, levels, *stage[:3]), None
            for _ in range(stage[3]):
                x = ResidualBlock(self.dtype, convolve=self.convolve)(x)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype, convolve=self.convolve)(x)
        return scale_embedding(x)

    def _scaled(self, x: Array) -> Array:
        return x.astype(self.dtype) / 255 if x.dtype == jnp.uint8 else x.astype(self.dtype)

    def _levels(self, history: History, numbers: list[Array]) -> Array | None:
        """The levels of the constant planes, `[B, P]`; None where there are none."""
        batch = history.valid.shape[0]
        entries = []  # `[B, S, ...]` each.
        if self.action_planes:
            if self.action.is_discrete:
                acted = history.action[..., None] / self.action.num_actions
            else:
                acted = actions.features(self.action, history.action)
            entries.append(acted)
        if self.history_rewards:
            entries.append(squash(history.reward)[..., None])
        entries = [jnp.where(history.valid[..., None], x, 0.0) for x in entries]
        flat = [x.reshape(batch, -1).astype(self.dtype) for x in entries]
        flat += [self._scaled(x.reshape(batch, -1)) for x in numbers]
        return jnp.concatenate(flat, axis=-1) if flat else None

    def _downsample(
        self, x: Array, levels: Array | None, kind: int | str, size: int, stride: int
    ) -> Array:
        strides = (stride, stride)
        if kind == "pool":
            x = nn.avg_pool(x, (size, size), strides, "SAME", count_include_pad=False)
            return x.astype(self.dtype)  # The division is by float32 counts.
        if kind == "residual":
            return ResidualBlock(self.dtype, size, stride, self.convolve)(x)
        x = _conv(self, kind, size, strides, levels)(x)
        return nn.relu(nn.LayerNorm(dtype=self.dtype)(x))


class _FlatHead(nn.Module):
    """A 1x1 convolution to `planes` channels, then a `Head`."""

    num_logits: int
    planes: int
    width: int
    dtype: Any
    convolve: Callable[..., Array] | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _conv(self, self.planes, 1)(x)
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        return Head(self.num_logits, self.width, self.dtype)(x.reshape(x.shape[0], -1))


class _Dynamics(nn.Module):
    """(embedding `[B, h, w, C]`, action `[B, ...]`) -> (embedding, reward logits)."""

    action: ActionSpec
    num_logits: int
    num_blocks: int
    head_planes: int
    head_width: int
    dtype: Any
    convolve: Callable[..., Array] | None
    action_encoding: str

    @nn.compact
    def __call__(self, embedding: Array, action: Array) -> tuple[Array, Array]:
        _, height, width, channels = embedding.shape
        x, planes = embedding, 0.0
        if self.action_encoding == "constant":
            acted = actions.features(self.action, action, self.dtype)
            # Its numbers are constant planes; a 1x1 convolution over them is a vector each.
            planes = nn.Dense(channels, dtype=self.dtype, use_bias=False)(acted)[:, None, None]
        else:
            num_actions, board = self.action.num_actions, (height, width)
            moves = move_planes(self.action_encoding, action, num_actions, board, self.dtype)
            x = jnp.concatenate([x, moves], axis=-1)
        x = _conv(self, channels, 3)(x) + planes
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x) + embedding)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype, convolve=self.convolve)(x)
        reward_logits = _FlatHead(
            self.num_logits, self.head_planes, self.head_width, self.dtype, self.convolve
        )(x)
        return scale_embedding(x), reward_logits


class _Prediction(nn.Module):
    """embedding `[B, h, w, C]` -> (policy logits, value logits)."""

    num_policy_logits: int
    num_logits: int
    num_blocks: int
    head_planes: int
    head_width: int
    dtype: Any
    convolve: Callable[..., Array] | None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dtype, convolve=self.convolve)(x)
        sizes = (self.head_planes, self.head_width, self.dtype, self.convolve)
        policy_logits = _FlatHead(self.num_policy_logits, *sizes)(x)
        return policy_logits, _FlatHead(self.num_logits, *sizes)(x)


def make_conv_network(
    spec: EnvSpec,
    codecs: Codecs,
    *,
    history_steps: int,
    stages: Sequence[Sequence[int | str]] = ((16, 3, 2, 0), (32, 3, 2, 0), (32, 3, 2, 0)),
    channels: int | None = 32,
    representation_blocks: int = 1,
    dynamics_blocks: int = 1,
    prediction_blocks: int = 0,
    head_planes: int = 8,
    head_width: int = 64,
    action_planes: bool = True,
    history_rewards: bool = False,
    action_encoding: str = "constant",
    dtype: str = "float32",
    convolve: Callable[..., Array] | None = None,
) -> Network:
    """A residual network: downsampling `stages`, then a tower of residual blocks.

    The networks of MuZero (appendix F) are so many arguments of this function, with LayerNorm in
    place of BatchNorm, which would make examples of a batch depend on each other, and with a skip
    around the convolution that an action enters by.

    Args:
      spec: observations are `(H, W, C)`, uint8 (scaled by 1/255), bool or float; or a dict with
        such images, all of one height and width, whose other entries enter as constant planes.
      codecs: give the head sizes.
      history_steps: S.
      stages: in order, each with a number of residual blocks behind it:
        (channels, kernel, stride, blocks), a convolution;
        ("residual", channels, stride, blocks), a residual block with a stride;
        ("pool", window, stride, blocks), average pooling.
      channels: planes of one more 3x3 convolution after the stages; None: there is none, the
        embedding has the planes of the last stage.
      representation_blocks: residual blocks after that.
      dynamics_blocks: residual blocks of a dynamics step.
      prediction_blocks: residual blocks before the heads.
      head_planes: planes that a head reads.
      head_width: hidden units of a head.
      action_planes: whether the representation sees the history's actions: as planes a/A
        (appendix E), of other kinds of action as planes of `actions.features`.
      history_rewards: whether it sees the history's rewards (`codecs.squash`).
      action_encoding: how a dynamics step sees its action. "constant": `actions.features`, of one
        discrete action its one-hot, as constant planes.
        "spatial": one plane with a 1 at the point played, action = row·W + column, and empty for
        a pass, action H·W (appendix E, Go). "column": one plane with ones in the column played.
        "chess", "shogi": A/(H·W) planes, that of the kind of move with a 1 at its square, as
        AlphaZero puts its policy out (Silver et al. 2018); for pgx's numbers, which are
        square·kinds + kind, files from the bottom left (chess, Gardner's), and kind·H·W + square,
        files from the top right (shogi, animal shogi). The square is where a move begins, in shogi
        where it ends, of a drop where the piece lands. All need an embedding as large as the board.
      dtype: of the body and the embedding; parameters, the last layer of
        each head and logits stay float32.
      convolve: in place of `jax.lax.conv_general_dilated`, see `convolve.py`; None is that itself.

    Raises:
      ArgumentError: where observations are no images, a stage is none, or actions are no points.
    """
    shapes = [x.shape for x in jax.tree.leaves(spec.observation_tree())]
    images = [shape for shape in shapes if len(shape) == 3]
    if not images or len({shape[:2] for shape in images}) > 1:
        raise ArgumentError(
            "network: images have shape (H, W, C), got"
            f" {', '.join(map(str, shapes))}; several have one H and W"
        )
    several = stages if isinstance(stages, tuple | list) else (stages,)
    stages = tuple(_checked_stage(stage) for stage in several)
    same_size = all(stage[2] == 1 for stage in stages)
    check_encoding(action_encoding, spec, same_size=same_size)
    if channels is not None:
        stages += ((channels, 3, 1, 0),)
    value, reward = codecs.value.num_logits, codecs.reward.num_logits
    dtype = jnp.dtype(dtype)
    sizes = (head_planes, head_width, dtype, convolve)
    return make_network(
        spec,
        history_steps=history_steps,
        num_reward_logits=reward,
        representation=_Representation(
            spec.action,
            stages,
            representation_blocks,
            action_planes,
            history_rewards,
            dtype,
            convolve,
        ),
        dynamics=_Dynamics(spec.action, reward, dynamics_blocks, *sizes, action_encoding),
        prediction=_Prediction(num_policy_logits(spec, codecs), value, prediction_blocks, *sizes),
    )


def _checked_stage(stage: Sequence[int | str]) -> Stage:
    stage = tuple(stage) if isinstance(stage, tuple | list) else (stage,)
    numbers = stage[1:] if stage[:1] in (("pool",), ("residual",)) else stage
    whole = len(stage) == 4 and all(isinstance(number, int) for number in numbers)
    if not whole or min(numbers[:-1]) < 1 or numbers[-1] < 0:
        raise ArgumentError(
            "stages must be (channels, kernel, stride, residual blocks) each, the first"
            " three >= 1; ('residual', channels, stride, blocks) or ('pool', window, stride,"
            f" blocks) (got {stage})"
        )
    return stage
