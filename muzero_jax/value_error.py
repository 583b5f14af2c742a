"""How far off a network's values are: measured while it learns, kept beside its parameters.

A search that knows it does not take differences of Q that are mere noise for a better policy.
"""

import jax.numpy as jnp

from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, Network, Params

DECAY = 0.99  # Of the running mean, an update: about the newest hundred of them count.

_NETWORK, _ERROR = "network", "value_error"


def with_value_error(network: Network) -> Network:
    """The same network, with a running mean of its squared value errors beside its parameters.

    Its parameters are a dict with the network's own and a float32 `[2]`: decayed sums of the mean
    squares and of their weights. Nothing is learned there: gradients are 0.
    """

    def init(key):
        return {_NETWORK: network.init(key), _ERROR: jnp.zeros((2,), jnp.float32)}

    def initial_inference(params, history):
        return network.initial_inference(params[_NETWORK], history)

    def recurrent_inference(params, embedding, action):
        return network.recurrent_inference(params[_NETWORK], embedding, action)

    return network._replace(
        init=init, initial_inference=initial_inference, recurrent_inference=recurrent_inference
    )


def track(params: Params, mean_square: Array) -> Params:
    """The parameters after one more update, whose root values were off by `mean_square` `[]`."""
    newest = jnp.stack([mean_square, jnp.ones_like(mean_square)])
    return params | {_ERROR: DECAY * params[_ERROR] + (1.0 - DECAY) * newest}


def value_error(params: Params) -> Array:
    """The root mean square `[]` of newest value errors; infinite before the first update.

    Raises:
      ArgumentError: for parameters of a network without `with_value_error`.
    """
    if not (isinstance(params, dict) and _ERROR in params):
        raise ArgumentError(
            "value_error_scale must be 0 for a network without value errors"
            " (see value_error.with_value_error)"
        )
    total, weight = params[_ERROR]
    return jnp.sqrt(jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), jnp.inf))
