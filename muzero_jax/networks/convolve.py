"""A convolution whose gradient is fast on a CPU."""

import jax
import jax.numpy as jnp

from muzero_jax.types import Array


def convolve_for_cpu(x: Array, kernel: Array, strides, padding, **options) -> Array:
    """`jax.lax.conv_general_dilated` with another gradient, as `conv_general_dilated` of flax.

    For the gradient of a kernel XLA transposes both of its factors, fused with the elementwise work
    before them, which a CPU is slow at; and inside a loop or a branch it compiles both convolutions
    of a gradient so that they take many times as long. Here they are a convolution like the forward
    one, and a product of matrices for each point of the kernel, without a transposition. Kernels of
    even size, strides and other paddings than "SAME" get the plain gradient.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, C, D]`.
    """
    dilations = (options.get(name) or (1,) for name in ("lhs_dilation", "rhs_dilation"))
    dilated = any(set(dilation) != {1} for dilation in dilations)
    if set(strides) != {1} or padding != "SAME" or kernel.shape[0] % 2 == 0 or dilated:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _same(x, kernel)


def _plain(x: Array, kernel: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


@jax.custom_vjp
def _same(x: Array, kernel: Array) -> Array:
    return _plain(x, kernel)


def _forward(x, kernel):
    return _plain(x, kernel), (x, kernel)


def _backward(saved, y_bar):
    x, kernel = saved
    height, width = x.shape[1:3]
    rows, columns, inputs, outputs = kernel.shape
    # Each output went to inputs by the kernel turned round: the same convolution, transposed.
    x_bar = _plain(y_bar, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    pads = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded, y_bar = jnp.pad(x, pads), y_bar.reshape(-1, outputs)

    def product(i, j):
        return padded[:, i : i + height, j : j + width].reshape(-1, inputs).T @ y_bar

    kernel_bar = jnp.stack([product(i, j) for i in range(rows) for j in range(columns)])
    return x_bar.astype(x.dtype), kernel_bar.reshape(kernel.shape).astype(kernel.dtype)


_same.defvjp(_forward, _backward)
