"""Training targets from stored rows. Every maker returns a `TargetFn` of `types.py`."""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp

from muzero_jax.codecs import clip
from muzero_jax.history import check_window, history_from_window
from muzero_jax.returns import bootstrap_offsets, n_step_returns, unroll_masks
from muzero_jax.types import (
    Array,
    Codec,
    History,
    Network,
    Params,
    Sample,
    TargetFn,
    Targets,
    Transition,
    Window,
)

RewardTransform = Callable[[Array], Array]


def make_targets(
    *,
    window: Window,
    discount: float,
    reward_transform: RewardTransform | None = None,
    bootstrap_value: Callable[[Params, History], Array] | None = None,
    shorten_every_updates: int | None = None,
) -> TargetFn:
    """MuZero's targets (section 3 and appendix G): policy, n-step value and reward.

    Args:
      window: S, which is the root's index in a sample's rows, K and n.
      discount: γ per step.
      reward_transform: elementwise, for example `jnp.sign`; None keeps raw rewards.
      bootstrap_value: `(target_params, History [B*(K+1), S]) -> [B*(K+1)]`, evaluated at exactly
        the rows that returns bootstrap from; None takes the stored search values. It needs
        samples with S + K + n frames.
      shorten_every_updates: returns are a step shorter, but never under one, for every so many
        updates between the search that made the root's row and that of the newest row: what was
        done long ago is not what the policy is worth (Ye et al. 2021, section 4.3). None: all n.

    Returns:
      `TargetFn`.

    Raises:
      ArgumentError: while tracing, for a sample with fewer frames than `bootstrap_value` reads.
    """
    positions_of = make_bootstrap_positions(window, shorten_every_updates=shorten_every_updates)

    def targets(params, target_params, key, sample: Sample) -> Targets:
        del params, key  # The stored search made policies and, by default, values.
        rows = sample.rows
        frames = None if bootstrap_value is None else window.history + window.future
        check_window(sample, window, frames=frames, reader="bootstrap_value")
        if reward_transform is not None:
            rows = rows.replace(reward=reward_transform(rows.reward))
        positions = positions_of(sample)
        if bootstrap_value is None:
            bootstraps = jnp.take_along_axis(rows.value, positions, axis=1)
        else:
            values = bootstrap_value(target_params, histories_at(sample, positions, window.history))
            bootstraps = values.reshape(positions.shape)
        future = jax.tree.map(lambda x: x[:, window.history :], rows)
        offsets = positions - window.history - jnp.arange(window.unroll + 1)
        age = sample.newest_updates - rows.made_at_updates[:, window.history]
        make = jax.vmap(lambda r, o, b, a: _unroll_targets(r, o, b, a, window.unroll, discount))
        return jax.lax.stop_gradient(make(future, offsets, bootstraps, age))

    return targets


def make_bootstrap_positions(
    window: Window, *, shorten_every_updates: int | None = None
) -> Callable[[Sample], Array]:
    """`(sample) -> ` the rows t+k+m_k `[B, K+1]` int32 that returns bootstrap from.

    The arguments are those of `make_targets`.
    """

    def bootstrap_positions(sample: Sample) -> Array:
        rows = jax.tree.map(lambda x: x[:, window.history :], sample.rows)
        offsets_of = functools.partial(bootstrap_offsets, n=window.bootstrap)
        offsets = jax.vmap(offsets_of)(rows.last, rows.explored)
        if shorten_every_updates is not None:
            age = sample.newest_updates - rows.made_at_updates[:, 0]
            most = jnp.maximum(window.bootstrap - age // shorten_every_updates, 1)
            offsets = jnp.minimum(offsets, most[:, None])
        return window.history + jnp.arange(window.unroll + 1) + offsets

    return bootstrap_positions


def _unroll_targets(
    future: Transition, offsets: Array, bootstraps: Array, age: Array, unroll_steps: int,
    discount: float,
) -> Targets:
    """Targets `[K+1]` of one root from its rows t..t+K+n, unbatched."""
    steps = unroll_steps + 1
    returns = n_step_returns(
        future.reward,
        future.discount,
        offsets,
        bootstraps,
        n=future.reward.shape[0] - steps,
        gamma=discount,
    )
    alive, cut, last, truncated = unroll_masks(future.discount[:steps], future.last[:steps])
    alive_before = jnp.concatenate([jnp.ones((1,), bool), alive[:-1]])
    is_step = jnp.arange(steps) > 0
    return Targets(
        policy=jax.tree.map(lambda x: x[:steps], future.policy),
        value=jnp.where(alive, returns, 0.0),
        reward=jnp.where(alive_before & is_step, future.reward[:steps], 0.0),
        policy_mask=(alive & ~cut & ~last).astype(jnp.float32),
        value_mask=(~cut & ~(alive & truncated)).astype(jnp.float32),
        reward_mask=(~cut & is_step).astype(jnp.float32),
        policy_age=age,
    )


def histories_at(sample: Sample, positions: Array, history_steps: int) -> History:
    """`History` `[B*P, S]` of rows `positions` `[B, P]` of every window, flattened."""

    def of_window(observations, rows, positions):
        return jax.vmap(
            lambda row: history_from_window(observations, rows, row, history_steps)
        )(positions)

    histories = jax.vmap(of_window)(sample.observations, sample.rows, positions)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), histories)


def make_network_bootstrap(network: Network, value: Codec) -> Callable[[Params, History], Array]:
    """Bootstrap values from a (target) network's value head, for `make_targets`."""

    def bootstrap_value(target_params: Params, history: History) -> Array:
        return value.decode(network.initial_inference(target_params, history).value_logits)

    return bootstrap_value


def make_initial_priority(
    *,
    bootstrap_steps: int,
    discount: float,
    reward_transform: RewardTransform | None = None,
    value: Codec | None = None,
) -> Callable[[Transition], Array]:
    """|stored search value - n-step return| of rows, for `make_replay` (MuZero appendix G).

    The function takes `Transition` `[t + n]` and returns `[t]`: the same return and the same
    reward transform as the targets that are learned, but one step of a row that explored, which as
    a target would be its own value: the surprise of a random move is what it was made for. With the
    codec of the value the return is what that can write, as in the priorities of `make_loss`.
    """
    returns_of = make_stored_returns(
        bootstrap_steps=bootstrap_steps,
        discount=discount,
        reward_transform=reward_transform,
        least_steps=1,
    )

    def initial_priority(rows: Transition) -> Array:
        returns = returns_of(rows)
        if value is not None:
            returns = clip(value, returns)
        return jnp.abs(rows.value[: returns.shape[0]] - returns)

    return initial_priority


def make_stored_returns(
    *,
    bootstrap_steps: int,
    discount: float,
    reward_transform: RewardTransform | None = None,
    least_steps: int = 0,
) -> Callable[[Transition], Array]:
    """`(Transition [t + n] of scalars) -> [t]`: n-step returns from rewards and values stored.

    `least_steps` is 0, as in the targets, or 1: at least one step, of rows that explored too.
    """

    def returns_of(rows: Transition) -> Array:
        chex.assert_rank([rows.reward, rows.value], 1)
        chex.assert_equal_shape([rows.reward, rows.value])
        rewards = rows.reward if reward_transform is None else reward_transform(rows.reward)
        offsets = bootstrap_offsets(rows.last, rows.explored, bootstrap_steps)
        offsets = jnp.maximum(offsets, least_steps)
        num_rows = offsets.shape[0]
        bootstraps = rows.value[jnp.arange(num_rows) + offsets]
        return n_step_returns(
            rewards, rows.discount, offsets, bootstraps, n=bootstrap_steps, gamma=discount
        )

    return returns_of
