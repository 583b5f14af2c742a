"""Policies over actions of every kind: how each is written as logits, drawn from and scored."""

from collections.abc import Callable
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import actions
from muzero_jax.errors import ArgumentError
from muzero_jax.types import ActionSpec, Array, Distribution

MIN_LOGIT = -1e30  # Finite: a row without legal actions must not turn into NaN.

_SMALLEST_BLOCK = 4  # Smaller ones spare no time.
# Logarithms of the smallest rate of an action that has a prior, over the largest, and of one that
# has none. However long the first and short the second wait, the second arrives later, and before
# the largest float32.
_RAREST, _FORBIDDEN = -60.0, -85.0

# Of a Gaussian before its tanh, so that no policy can vanish into the bounds, or cease to explore.
_MAX_MEAN, _MIN_SCALE, _MAX_SCALE = 4.0, 0.02, 1.98
_INSIDE = 1.0 - 1e-6  # How near to its bounds a real action is scored: on them densities are none.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # Of means over a standard Gaussian.


def categorical(action: ActionSpec) -> Distribution:
    """One of A actions: a logit for each.

    It draws without replacement, as the K greatest of logits with Gumbel noise are (Kool et al.
    2019), in the order of the actions, so that K = A draws nothing and has every action in its own
    place.

    Args:
      action: one discrete choice.
    """
    num_actions = action.num_actions

    def draw(key, logits, num_samples, invalid_actions=None):
        _check_logits(logits, num_actions)
        legal = actions.legal_actions(invalid_actions, logits.shape)
        prior = jnp.where(legal, logits, MIN_LOGIT)
        if num_samples >= num_actions:  # The slots beyond A repeat the last action, and are none.
            beyond = [(0, 0), (0, num_samples - num_actions)]
            every = jnp.broadcast_to(jnp.arange(num_actions, dtype=jnp.int32), logits.shape)
            drawn = jnp.pad(every, beyond, mode="edge")
            return drawn, jnp.pad(prior, beyond, constant_values=MIN_LOGIT)
        drawn = _in_order(_earliest(key, prior, num_samples)).astype(jnp.int32)
        return drawn, jnp.take_along_axis(prior, drawn, axis=-1)

    def log_prob(logits, chosen):
        _check_logits(logits, num_actions)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)

    def mode(logits, invalid_actions=None):
        _check_logits(logits, num_actions)
        legal = actions.legal_actions(invalid_actions, logits.shape)
        return jnp.argmax(jnp.where(legal, logits, -jnp.inf), axis=-1).astype(jnp.int32)

    return Distribution(num_actions, draw, log_prob, categorical_entropy, mode)


def _earliest(key, logits, num_samples):
    """K actions `[B, K]` of logits `[B, A]`, drawn without replacement, the first drawn first.

    Every action arrives after an exponential time whose rate is its probability; drawn are the K
    that arrive first (Efraimidis and Spirakis 2006). A large set is split into blocks. The first of
    a block arrives at the sum of its rates, so that times are drawn for the blocks at first: the K
    actions lie in the K earliest of these. Only there each action gets a time of its own. From the
    first of its block on the others have to wait as they would from the start, for exponential
    times have no memory: the times of a block are shifted, until its first is when it was drawn.
    """
    batch, num_actions = logits.shape
    rates = logits - jnp.max(logits, axis=1, keepdims=True)
    rates = jnp.exp(jnp.where(logits > MIN_LOGIT, jnp.maximum(rates, _RAREST), _FORBIDDEN))
    # About as large as makes the times to be drawn the fewest, and divides many sets of actions.
    block_size = 1 << (math.isqrt(num_actions // num_samples).bit_length() - 1)
    if block_size < _SMALLEST_BLOCK:
        return jax.lax.top_k(-_waiting(key, rates.shape) / rates, num_samples)[1]
    # Of n blocks block j holds the actions j, j + n, j + 2n ..., so that none is without actions.
    num_blocks = -(-num_actions // block_size)
    beyond = block_size * num_blocks - num_actions  # At rates of 0 these never arrive.
    rates = jnp.pad(rates, [(0, 0), (0, beyond)]).reshape(batch, block_size, num_blocks)
    waiting = _waiting(key, (batch, num_blocks + block_size * num_samples))
    of_blocks, of_actions = waiting[:, :num_blocks], waiting[:, num_blocks:]
    first, chosen = jax.lax.top_k(-of_blocks / jnp.sum(rates, axis=1), num_samples)
    rates = jnp.take_along_axis(rates, chosen[:, None], axis=2)
    times = of_actions.reshape(rates.shape) / rates
    times = (times - jnp.min(times, axis=1, keepdims=True)) - first[:, None]
    index = jax.lax.top_k(-times.reshape(batch, -1), num_samples)[1]
    row, slot = jnp.divmod(index, num_samples)
    return row * num_blocks + jnp.take_along_axis(chosen, slot, axis=1)


def _waiting(key, shape):
    """Exponential times of rate 1, from XLA's own Threefry: the same bits on every device.

    On CPUs it takes a third of the time of `jax.random.exponential`, whose rounds are a loop there.
    """
    state = jax.random.bits(key, (4,))
    threefry = jax.lax.RandomAlgorithm.RNG_THREE_FRY
    _, bits = jax.lax.rng_bit_generator(state, shape, algorithm=threefry)
    # The middles of 2^23 equal parts of (0, 1): no time is 0, none above 17.
    return -jnp.log((bits >> 9).astype(jnp.float32) * 2.0**-23 + 2.0**-24)


def _in_order(drawn):
    """Each row of `[B, K]` different numbers in ascending order: for few numbers all comparisons
    at once take less time than a sort."""
    rank = jnp.sum(drawn[:, None, :] < drawn[:, :, None], axis=-1)
    placed = rank[:, :, None] == jnp.arange(drawn.shape[-1])
    return jnp.sum(jnp.where(placed, drawn[:, :, None], 0), axis=1)


def categorical_entropy(logits: Array) -> Array:
    """The entropy `[...]` of a categorical distribution with logits `[..., A]`."""
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)


def factored(action: ActionSpec) -> Distribution:
    """Several choices at once, each independent of the others: the logits of all, in order.

    It draws with replacement: of n choices there are too many joint actions to keep them apart.

    Args:
      action: several discrete choices, or one.
    """
    if action.sizes is None:
        raise ArgumentError(f"a factored policy needs discrete choices (the action is {action})")
    ends = np.cumsum(action.sizes)
    num_logits, starts = actions.num_features(action), ends - action.sizes

    def parts(logits):
        _check_logits(logits, num_logits)
        return [logits[..., a:b] for a, b in zip(starts, ends)]

    def draw(key, logits, num_samples, invalid_actions=None):
        _no_masks(invalid_actions)
        keys = jax.random.split(key, len(ends))
        shape = (num_samples, logits.shape[0])
        each = [jax.random.categorical(k, x, shape=shape).T for k, x in zip(keys, parts(logits))]
        chosen = jnp.stack(each, axis=-1).astype(jnp.int32)
        return chosen.reshape(*chosen.shape[:2], *action.shape), jnp.zeros(chosen.shape[:2])

    def log_prob(logits, chosen):
        flat = actions.flat(action, chosen)
        each = [
            jnp.take_along_axis(jax.nn.log_softmax(x), flat[..., i], axis=-1)
            for i, x in enumerate(parts(logits))
        ]
        return sum(each)

    def entropy(logits):
        return sum(categorical_entropy(x) for x in parts(logits))

    def mode(logits, invalid_actions=None):
        _no_masks(invalid_actions)
        each = [jnp.argmax(x, axis=-1) for x in parts(logits)]
        best = jnp.stack(each, axis=-1).astype(jnp.int32)
        return best.reshape(*best.shape[:-1], *action.shape)

    return Distribution(num_logits, draw, log_prob, entropy, mode)


def gaussian(action: ActionSpec) -> Distribution:
    """Real numbers: independent Gaussians, squashed into their bounds by tanh.

    The logits are D for the means, which stay within 4 of 0, and D for the scales, from 0.02 to
    1.98 (Haarnoja et al. 2018, appendix C, squash and score them so); logits of 0 have mean 0 and
    scale 1 before the tanh. Entropies are quadratures with 32 nodes. The mode is the image of the
    mean: of wide policies the density is greatest near the bounds.

    Args:
      action: of real numbers.
    """
    low, high, half = _bounds(action)

    def parameters(logits):
        _check_logits(logits, 2 * len(low))
        mean, spread = jnp.split(logits, 2, axis=-1)
        scale = _MIN_SCALE + (_MAX_SCALE - _MIN_SCALE) * jax.nn.sigmoid(spread)
        return _MAX_MEAN * jnp.tanh(mean / _MAX_MEAN), scale

    def log_slope(x):
        """log(d action / d x), written without the cancellation of 1 - tanh²."""
        return jnp.log(half) + 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))

    def draw(key, logits, num_samples, invalid_actions=None):
        _no_masks(invalid_actions)
        mean, scale = (x[:, None] for x in parameters(logits))
        noise = jax.random.normal(key, (logits.shape[0], num_samples, len(low)))
        return _scaled(action, jnp.tanh(mean + scale * noise)), jnp.zeros(noise.shape[:2])

    def log_prob(logits, numbers):
        mean, scale = (x[..., None, :] for x in parameters(logits))
        x = jnp.arctanh(jnp.clip(actions.features(action, numbers), -_INSIDE, _INSIDE))
        density = jax.scipy.stats.norm.logpdf(x, mean, scale) - log_slope(x)
        return jnp.sum(density, axis=-1)

    def entropy(logits):
        mean, scale = parameters(logits)
        x = mean[..., None] + scale[..., None] * jnp.asarray(_NODES, jnp.float32)
        slopes = log_slope(jnp.moveaxis(x, -1, 0))
        weights = jnp.asarray(_WEIGHTS / _WEIGHTS.sum(), jnp.float32)
        of_gaussian = 0.5 * math.log(2.0 * math.pi * math.e) + jnp.log(scale)
        return jnp.sum(of_gaussian + jnp.tensordot(weights, slopes, 1), axis=-1)

    def mode(logits, invalid_actions=None):
        _no_masks(invalid_actions)
        return _scaled(action, jnp.tanh(parameters(logits)[0]))

    return Distribution(2 * len(low), draw, log_prob, entropy, mode)


def beta(action: ActionSpec) -> Distribution:
    """Real numbers: independent Beta distributions between their bounds (Chou et al. 2017).

    The logits are D of each of α and β, which are 1 + softplus: both are above 1, so that a policy
    has one peak, inside its bounds; logits of 0 are wide and even.

    Args:
      action: of real numbers.
    """
    low, _, half = _bounds(action)
    log_width = jnp.log(2.0 * half)

    def parameters(logits):
        _check_logits(logits, 2 * len(low))
        return (1.0 + jax.nn.softplus(x) for x in jnp.split(logits, 2, axis=-1))

    def draw(key, logits, num_samples, invalid_actions=None):
        _no_masks(invalid_actions)
        a, b = (x[:, None] for x in parameters(logits))
        unit = jax.random.beta(key, a, b, (logits.shape[0], num_samples, len(low)))
        return _scaled(action, 2.0 * unit - 1.0), jnp.zeros(unit.shape[:2])

    def log_prob(logits, numbers):
        a, b = (x[..., None, :] for x in parameters(logits))
        unit = 0.5 * (1.0 + jnp.clip(actions.features(action, numbers), -_INSIDE, _INSIDE))
        return jnp.sum(jax.scipy.stats.beta.logpdf(unit, a, b) - log_width, axis=-1)

    def entropy(logits):
        a, b = parameters(logits)
        digamma = jax.scipy.special.digamma
        each = jax.scipy.special.betaln(a, b) + (a + b - 2.0) * digamma(a + b)
        each -= (a - 1.0) * digamma(a) + (b - 1.0) * digamma(b)
        return jnp.sum(each + log_width, axis=-1)

    def mode(logits, invalid_actions=None):
        _no_masks(invalid_actions)
        a, b = parameters(logits)
        return _scaled(action, 2.0 * (a - 1.0) / (a + b - 2.0) - 1.0)

    return Distribution(2 * len(low), draw, log_prob, entropy, mode)


def sampled_cross_entropy(distribution: Distribution) -> Callable[[Array, dict], Array]:
    """The policy loss of drawn actions: -Σ w log π(a) (Hubert et al. 2021, section 5).

    Returns:
      `(logits [..., P], {"actions" [..., K, *shape], "weights" [..., K]}) -> [...]`, what
      `losses.make_loss` takes as `policy_loss` for the searches of a `sampled_model`.
    """

    def loss(logits, policy):
        weights = policy["weights"]
        log_prob = distribution.log_prob(logits, policy["actions"])
        chex.assert_equal_shape([log_prob, weights])
        # An empty slot has no weight, and the action in it may have no probability.
        return -jnp.sum(jnp.where(weights > 0, weights * log_prob, 0.0), axis=-1)

    return loss


def _bounds(action: ActionSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low and high of each component `[D]`, and half of their distance."""
    if action.sizes is not None:
        raise ArgumentError(f"this policy needs an action of real numbers (it is {action})")
    low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
    return low, high, (high - low) / 2.0


def _scaled(action: ActionSpec, unit: Array) -> Array:
    """Actions `[..., *shape]` from numbers `[..., D]` in [-1, 1]; rounding stays in the bounds."""
    low, high, half = _bounds(action)
    numbers = jnp.clip(low + half * (unit + 1.0), low, high)
    return numbers.reshape(*unit.shape[:-1], *action.shape)


def _no_masks(invalid_actions: Array | None) -> None:
    if invalid_actions is not None:
        raise ArgumentError("invalid_actions: masks are of one discrete choice alone")


def _check_logits(logits: Array, num_logits: int) -> None:
    chex.assert_axis_dimension(logits, -1, num_logits)
