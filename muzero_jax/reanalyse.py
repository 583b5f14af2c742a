"""Reanalyse: stored rows are searched again with newer parameters, inside the update."""

from collections.abc import Callable
import math

import chex
import jax
import jax.numpy as jnp

from muzero_jax.acting import NO_EXPLORATION
from muzero_jax.errors import ArgumentError
from muzero_jax.history import check_window
from muzero_jax.targets import histories_at, make_bootstrap_positions
from muzero_jax.types import (
    Array,
    Explore,
    Sample,
    SearchFn,
    SearchOutput,
    TargetFn,
    Targets,
    Window,
)


def with_reanalyse(
    targets: TargetFn,
    search: SearchFn,
    *,
    window: Window,
    fraction: float,
    fresh_values: bool,
    shorten_every_updates: int | None = None,
    target_params: bool = False,
    explore: Explore = NO_EXPLORATION,
) -> TargetFn:
    """The same targets from fresh searches, for a part of each batch (MuZero, appendix H).

    The first fraction · B examples of a batch B, whose draws are independent, take the policies of
    searches made now in place of those stored; with `fresh_values` their returns bootstrap from the
    values of such searches too. Where that is no whole number, one more example is searched and
    takes them with the probability of the rest: the fraction is exact on average, however many
    devices share a batch. All positions are searched as one batch, and nothing is searched for the
    other examples.

    Args:
      targets: what learns from the rows; with `fresh_values` it must read stored values.
      search: of these rows; it may have fewer simulations than the one that acts.
      window: S, K and n; samples need S + K frames, with `fresh_values` S + K + n.
      fraction: of each batch, in [0, 1]; 0 returns `targets` itself.
      fresh_values: whether to search the rows as well that returns bootstrap from.
      shorten_every_updates: that of `targets`.
      target_params: search with the target parameters, not with the newest.
      explore: the root noise of these searches; their actions are not used.

    Returns:
      `TargetFn`; `policy_age` is 0 where policies are fresh.

    Raises:
      ArgumentError: where the fraction is no fraction; while tracing, for a sample with fewer
        frames than the searches read.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ArgumentError(f"fraction must be in [0, 1] (got {fraction})")
    if fraction == 0.0:
        return targets
    positions_of = make_positions(
        window, fresh_values=fresh_values, shorten_every_updates=shorten_every_updates
    )
    steps = slice(window.history, window.history + window.unroll + 1)
    frames = window.history + (window.future if fresh_values else window.unroll)

    def reanalysed(params, old_params, key, sample: Sample) -> Targets:
        check_window(sample, window, frames=frames, reader="reanalyse")
        search_key, target_key, chance_key = jax.random.split(key, 3)
        number, chance = num_searched(fraction, sample.index.shape[0])
        part = slice(0, number)
        is_last = jnp.arange(number) == number - 1
        taken = ~is_last | (jax.random.uniform(chance_key) < chance)
        searched = part_of(sample, part)
        positions = positions_of(searched)
        output = search_at(
            search,
            old_params if target_params else params,
            search_key,
            searched,
            positions,
            window.history,
            explore,
        )
        rows = sample.rows

        def take(old, new):
            return jnp.where(taken.reshape(-1, *[1] * (old.ndim - 1)), new.astype(old.dtype), old)

        policy = jax.tree.map(
            lambda old, new: old.at[part, steps].set(
                take(old[part, steps], new[:, : window.unroll + 1])
            ),
            rows.policy,
            output.policy,
        )
        rows = rows.replace(policy=policy)
        if fresh_values:
            value = _at_rows(searched.rows.value, positions, output.value)
            rows = rows.replace(value=rows.value.at[part].set(take(searched.rows.value, value)))
        made = targets(params, old_params, target_key, sample.replace(rows=rows))
        age = made.policy_age
        return made.replace(policy_age=age.at[part].set(take(age[part], jnp.zeros_like(age[part]))))

    return reanalysed


def num_searched(fraction: float, batch_size: int) -> tuple[int, float]:
    """(how many examples of a batch are searched, with which probability the last one counts)."""
    share = fraction * batch_size
    whole = round(share)
    # 0.7 of 10 is 7, to the last bit or not; but what is above 0 is searched.
    if share == 0 or (whole and abs(share - whole) < 1e-6):
        return whole, 1.0
    return math.floor(share) + 1, share - math.floor(share)


def make_positions(
    window: Window, *, fresh_values: bool, shorten_every_updates: int | None = None
) -> Callable[[Sample], Array]:
    """`(sample) -> ` the rows `[B, P]` that `with_reanalyse` searches, those of policies first.

    P is K+1 without fresh values; with them 2(K+1), or K+1+n where that is no more.
    """
    bootstraps_of = make_bootstrap_positions(window, shorten_every_updates=shorten_every_updates)

    def positions(sample: Sample) -> Array:
        whole = fresh_values and window.bootstrap <= window.unroll + 1
        last = window.future if whole else window.unroll
        unroll = window.history + jnp.arange(last + 1)
        unroll = jnp.broadcast_to(unroll, (sample.index.shape[0], last + 1))
        if whole or not fresh_values:
            return unroll
        return jnp.concatenate([unroll, bootstraps_of(sample)], axis=1)

    return positions


def part_of(sample: Sample, part: slice) -> Sample:
    """Some examples of a sample."""
    return sample.replace(
        rows=jax.tree.map(lambda x: x[part], sample.rows),
        observations=jax.tree.map(lambda x: x[part], sample.observations),
        index=sample.index[part],
        probability=sample.probability[part],
    )


def search_at(
    search: SearchFn,
    params,
    key: chex.PRNGKey,
    sample: Sample,
    positions: Array,
    history_steps: int,
    explore: Explore,
) -> SearchOutput:
    """Searches rows `positions` `[B, P]` of every window as one batch; the output is `[B, P]`."""
    masks = sample.rows.invalid_actions
    if masks is not None:
        masks = jnp.take_along_axis(masks, positions[..., None], axis=1)
        masks = masks.reshape(-1, masks.shape[-1])
    histories = histories_at(sample, positions, history_steps)
    output = search(params, key, histories, masks, explore)
    return jax.tree.map(lambda x: x.reshape(*positions.shape, *x.shape[1:]), output)


def _at_rows(stored: Array, positions: Array, fresh: Array) -> Array:
    """`stored` `[B, L]` with `fresh` `[B, P]` at rows `positions`.

    Two positions may be one row, which was then searched twice: the first counts, whatever the
    order in which a device would scatter.
    """
    same = positions[:, None, :] == jnp.arange(stored.shape[1])[:, None]
    which = jnp.argmax(same, axis=-1)
    return jnp.where(jnp.any(same, axis=-1), jnp.take_along_axis(fresh, which, axis=1), stored)
