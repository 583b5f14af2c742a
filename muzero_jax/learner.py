"""From targets and a loss to an update; one learning step on the replay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import optax

from muzero_jax.errors import ArgumentError
from muzero_jax.mesh import shard_key
from muzero_jax.types import (
    Array,
    LossFn,
    Network,
    Params,
    Replay,
    Sample,
    TargetFn,
    Tracker,
    TrainState,
)


class UpdateOutput(NamedTuple):
    """`priority` `[B]`, `applied` `[]` bool, `metrics` a dict of scalars."""

    priority: Array
    applied: Array
    metrics: dict[str, Array]


def averaged_params(decay: float) -> Tracker:
    """Targets from an exponential moving average of the parameters, in place of old copies.

    Args:
      decay: share of the average that stays at each update, in [0, 1): 0.99 averages over about a
        hundred (Lillicrap et al. 2016, section 3, where 1 - decay is τ).
    """
    if not 0.0 <= decay < 1.0:
        raise ArgumentError(f"decay must be in [0, 1) (got {decay})")

    def update(state, params, measured):
        del measured
        return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state, params)

    return Tracker(
        init=lambda params: jax.tree.map(jnp.copy, params),  # Donated buffers must not be shared.
        update=update,
        old_params=lambda state, target_params: state,
    )


# After so many updates in a row that were not finite, none is applied any more: the run has to
# stop, so that a later reading of `skipped_in_a_row` still shows it.
MAX_SKIPPED_IN_A_ROW = 10

LEARN = 1  # The purpose of an update's key; a loop's other purposes have other numbers.

UpdateFn = Callable[[TrainState, chex.PRNGKey, Sample], tuple[TrainState, UpdateOutput]]


def make_optimizer(
    *,
    learning_rate: float,
    warmup_updates: int = 0,
    decay: str = "cosine",
    decay_updates: int | None = None,
    final_fraction: float = 0.0,
    weight_decay: float = 1e-4,
    max_grad_norm: float | None = 5.0,
    momentum: float | None = None,
) -> optax.GradientTransformation:
    """AdamW, or SGD with `momentum`, behind gradient clipping by global norm (None: no clipping).

    The rate rises linearly over `warmup_updates`, then falls to `final_fraction` of itself at
    `decay_updates` (None: it stays): by a "cosine", after which it stays, or "exponential", by the
    same factor again and again (MuZero, appendix G). Biases and norms are not decayed.
    """
    schedule = _learning_rate(learning_rate, warmup_updates, decay, decay_updates, final_fraction)
    clip = optax.identity() if max_grad_norm is None else optax.clip_by_global_norm(max_grad_norm)
    if momentum is None:
        return optax.chain(
            clip, optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix)
        )
    return optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, mask=_is_matrix),
        optax.sgd(schedule, momentum=momentum),
    )


def _learning_rate(
    peak: float, warmup_updates: int, decay: str, decay_updates: int | None, final_fraction: float
) -> optax.Schedule:
    if decay not in ("cosine", "exponential"):
        raise ArgumentError(f"decay must be 'cosine' or 'exponential' (got {decay!r})")
    if not 0 <= final_fraction <= 1 or (decay == "exponential" and final_fraction == 0):
        raise ArgumentError(
            "final_fraction must be in [0, 1], and > 0 for an exponential decay"
            f" (got {final_fraction})"
        )
    if decay_updates is None:
        after = optax.constant_schedule(peak)
    elif decay_updates <= warmup_updates:
        raise ArgumentError(
            "decay_updates must be > warmup_updates"
            f" (got {decay_updates} and {warmup_updates})"
        )
    elif decay == "cosine":
        after = optax.cosine_decay_schedule(peak, decay_updates - warmup_updates, final_fraction)
    else:
        after = optax.exponential_decay(peak, decay_updates - warmup_updates, final_fraction)
    if not warmup_updates:
        return after
    warmup = optax.linear_schedule(0.0, peak, warmup_updates)
    return optax.join_schedules([warmup, after], [warmup_updates])


def _is_matrix(params: Params) -> Params:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def init_train_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    key: chex.PRNGKey,
    tracker: Tracker | None = None,
) -> TrainState:
    """Fresh parameters, the target equal to them."""
    params = network.init(key)
    return TrainState(
        params=params,
        target_params=jax.tree.map(jnp.copy, params),  # Donated buffers must not be shared.
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        tracked=None if tracker is None else tracker.init(params),
    )


def importance_weights(sample: Sample, exponent: float, axis_name: str | None = None) -> Array:
    """w = (N·P)^-β `[B]`; for β < 1 divided by the batch's largest (Schaul et al. 2016, 3.4).

    At β = 1 the weighted loss is an unbiased estimate under uniform sampling, so that nothing is
    divided; for β < 1 the division takes N out again. A draw of probability 0 found no row: its
    weight is 0.

    `axis_name` is a mesh axis over which the batch is split, or None. Each of its D shards draws
    as many rows, whatever its share s of the weights of all rows is. P is then the probability
    among all rows, s times that in the shard, and every weight is multiplied by D·s, outside of
    the exponent: so the expected loss is that of one device with all rows. Eight bytes of each
    shard cross the mesh, or for β = 1, where s cancels, four.
    """
    chex.assert_rank(sample.probability, 1)
    chex.assert_rank([sample.num_drawable, sample.total_weight], 0)
    drawn = sample.probability > 0
    probability = jnp.where(drawn, sample.probability, 1.0)
    if exponent >= 1.0:
        shards, num_drawable = 1, sample.num_drawable
        if axis_name is not None:
            shards = jax.lax.axis_size(axis_name)
            num_drawable = jax.lax.psum(num_drawable, axis_name)
        weights = (jnp.maximum(num_drawable, 1.0) * probability / shards) ** -exponent
        return jnp.where(drawn, weights, 0.0)
    least = jnp.min(jnp.where(drawn, probability, jnp.inf))
    if axis_name is None:
        return jnp.where(drawn, (probability / least) ** -exponent, 0.0)
    gathered = jax.lax.all_gather(jnp.stack([sample.total_weight, least]), axis_name)
    shares = gathered[:, 0] / jnp.maximum(jnp.sum(gathered[:, 0]), jnp.finfo(jnp.float32).tiny)
    least = jnp.min(jnp.where(shares > 0, shares * gathered[:, 1], jnp.inf))
    share = shares[jax.lax.axis_index(axis_name)]
    weights = (probability * share / least) ** -exponent
    return jnp.where(drawn, len(gathered) * share * weights, 0.0)


def make_update(
    targets: TargetFn,
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    target_interval_updates: int,
    importance_exponent: float,
    track: Callable[[Params, Array], Params] | None = None,
    tracker: Tracker | None = None,
    axis_name: str | None = None,
) -> UpdateFn:
    """One gradient step; an update that is not finite, or for which no row could be drawn, changes
    nothing but its counter.

    Args:
      targets: makes targets from a sample.
      loss: per-example loss; importance weights are applied here and nowhere else.
      optimizer: an optax chain.
      target_interval_updates: applied updates between copies into `target_params`.
      importance_exponent: β.
      track: `(params, mean square []) -> params` after the gradient step, for what is measured and
        not learned, such as `value_error.track`. The mean square is that of the root values'
        errors (`root_error` of the loss, of one without it `priority`), as if rows had been drawn
        uniformly. None: nothing is.
      tracker: keeps what a search does not need to see beside the parameters, see `Tracker`.
      axis_name: mesh axis over which the batch is split, or None. Losses, gradients and metrics
        are averaged over it, all of them in one all-reduce.

    Returns:
      `UpdateFn`: `(TrainState, key, Sample) -> (TrainState, UpdateOutput)`.
    """

    def mean(tree):
        if axis_name is None:
            return tree
        # As one vector, so that it is one message: latency counts, the copy does not.
        vector, unravel = ravel_pytree(tree)
        return unravel(jax.lax.pmean(vector, axis_name))

    def update(train: TrainState, key, sample: Sample) -> tuple[TrainState, UpdateOutput]:
        target_key, loss_key = jax.random.split(key)
        old_params = train.target_params
        if tracker is not None:
            old_params = tracker.old_params(train.tracked, old_params)
        target = targets(train.params, old_params, target_key, sample)
        weights = importance_weights(sample, importance_exponent, axis_name)

        def objective(params):
            per_example, aux = loss(params, loss_key, sample, target)
            chex.assert_equal_shape([per_example, weights])
            return jnp.mean(weights * per_example), aux

        (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(train.params)
        metrics = {name: jnp.mean(x) for name, x in aux.items()}
        metrics |= {
            "loss": value,
            "importance_weight_min": jnp.min(weights),
            "empty_draws": jnp.mean(sample.probability <= 0),
        }
        # 1/P of each draw: with them a batch, of all shards, stands for rows drawn uniformly.
        drawn = sample.probability > 0
        inverse = jnp.where(drawn, 1.0 / jnp.where(drawn, sample.probability, 1.0), 0.0)
        root_error = aux.get("root_error", aux["priority"])
        squares = jnp.mean(inverse * jnp.square(root_error)), jnp.mean(inverse)
        measured = () if tracker is None else tracker.measure(sample, target, aux)
        metrics, squares, measured, grads = mean((metrics, squares, measured, grads))
        mean_square = squares[0] / jnp.maximum(squares[1], jnp.finfo(jnp.float32).tiny)
        norm = optax.tree.norm(grads)
        # Judged on averages, so that every device decides alike.
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        # A support clips an infinite target, so that the loss hides it; its priority does not.
        finite &= jnp.isfinite(metrics["priority"])
        finite &= metrics["empty_draws"] < 1.0  # A batch without a row teaches nothing.
        # Of what is kept, one number that is not finite would stay for ever.
        for kept in jax.tree.leaves(measured) + ([] if track is None else [mean_square]):
            finite &= jnp.all(jnp.isfinite(kept))
        finite &= train.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW
        updates, opt_state = optimizer.update(grads, train.opt_state, train.params)
        params = optax.apply_updates(train.params, updates)
        if track is not None:
            params = track(params, mean_square)
        step = train.step + 1
        refresh = step % target_interval_updates == 0
        target_params = jax.tree.map(
            lambda new, old: jnp.where(refresh, new, old), params, train.target_params
        )
        after = TrainState(
            params=params,
            target_params=target_params,
            opt_state=opt_state,
            step=step,
            skipped_in_a_row=jnp.zeros_like(train.skipped_in_a_row),
            tracked=None if tracker is None else tracker.update(train.tracked, params, measured),
        )
        before = train.replace(skipped_in_a_row=train.skipped_in_a_row + 1)
        train = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        metrics |= {
            "value_error": jnp.sqrt(mean_square),
            "grad_norm": norm,
            "applied_updates": train.step.astype(jnp.float32),
            "skipped_in_a_row": train.skipped_in_a_row.astype(jnp.float32),
        }
        return train, UpdateOutput(aux["priority"], finite, metrics)

    return update


def make_learn(replay: Replay, update: UpdateFn, *, batch_size: int):
    """Sample, update, refresh priorities: `(TrainState, replay state, key) -> (..., metrics)`.

    Over a mesh axis all three are those of one shard, `batch_size` too, and so must be the key. A
    skipped update leaves priorities as they were.
    """

    def learn(train: TrainState, replay_state, key):
        sample_key, update_key = jax.random.split(key)
        sample = replay.sample(replay_state, sample_key, batch_size)
        train, output = update(train, update_key, sample)
        # JAX drops out-of-range indices, so nothing is written.
        out_of_range = jnp.iinfo(jnp.int32).max
        index = jnp.where(output.applied, sample.index, out_of_range)
        replay_state = replay.update_priorities(replay_state, index, output.priority)
        return train, replay_state, output.metrics

    return learn


def make_updates(learn: Callable[..., Any], key: chex.PRNGKey) -> Callable[..., Any]:
    """Several updates of one shard as a pure function, `learn` being from `make_learn`.

    Returns:
      `updates(TrainState, replay state, count, num) -> (TrainState, replay state, metrics)`: `num`
      updates, a traced number, after `count` (uint32 `[2]`, see `split_count`); the metrics are
      those of the newest, NaN where there is none.
    """

    def updates(train: TrainState, replay_state, count, num):
        def one(i, state):
            train, replay_state, _ = state
            low = count[1] + i.astype(jnp.uint32)
            high = count[0] + (low < count[1]).astype(jnp.uint32)
            learn_key = fold_count(key, LEARN, jnp.stack([high, low]))
            return learn(train, replay_state, shard_key(learn_key))

        shapes = jax.eval_shape(learn, train, replay_state, key)[2]
        nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
        return jax.lax.fori_loop(0, num, one, (train, replay_state, nothing))

    return updates


def updates_due(rows: int, *, min_rows: int, rows_per_update: int) -> int:
    """Updates that should have been attempted once `rows` rows are stored; host integers."""
    return max(0, rows - min_rows) // rows_per_update


def check_ratio(rows_per_step: int, *, min_rows: int, rows_per_update: int) -> None:
    """Refuses a ratio that steps of `rows_per_step` rows cannot keep exactly.

    Raises:
      ArgumentError: where neither of the two numbers divides the other, or one is out of range.
    """
    if rows_per_update < 1 or min_rows < 0:
        raise ArgumentError(
            "rows_per_update must be >= 1 and min_rows >= 0"
            f" (got {rows_per_update} and {min_rows})"
        )
    if rows_per_update % rows_per_step and rows_per_step % rows_per_update:
        raise ArgumentError(
            f"rows_per_update must divide, or be divided by, the {rows_per_step} rows of one step"
            f" (got {rows_per_update})"
        )


def fold_count(key: chex.PRNGKey, purpose: int, count: Array) -> chex.PRNGKey:
    """The key of the `count`-th use for a purpose; `count` is uint32 `[2]`, see `split_count`."""
    key = jax.random.fold_in(key, purpose)
    return jax.random.fold_in(jax.random.fold_in(key, count[0]), count[1])


def split_count(count: int) -> np.ndarray:
    """A host counter as uint32 `[2]` (high, low), so that it may pass 2^32 inside a program."""
    return np.array([count >> 32, count & 0xFFFFFFFF], np.uint32)
