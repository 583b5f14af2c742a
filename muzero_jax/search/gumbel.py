"""Gumbel MuZero (Danihelka et al. 2022) on mctx."""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.search.common import (
    choose_action,
    legal_actions,
    make_recurrent_fn,
    noise_scales,
    root_of,
    search_value,
)
from muzero_jax.types import Array, Codecs, Explore, Network, Params, SearchFn, SearchOutput
from muzero_jax.value_error import value_error


def make_gumbel_search(
    network: Network,
    codecs: Codecs,
    *,
    num_actions: int,
    turn_sign: int,
    discount: float,
    num_simulations: int,
    max_num_considered_actions: int = 16,
    max_depth: int | None = None,
    value_scale: float = 0.1,
    maxvisit_init: float = 50.0,
    min_value_range: float = 1e-8,
    value_error_scale: float = 0.0,
) -> SearchFn:
    """Gumbel MuZero (Danihelka et al. 2022): sequential halving at the root, completed Q-values.

    Args:
      network: what is searched; its logits are decoded by `codecs`.
      codecs: of value and reward.
      num_actions: A.
      turn_sign: +1 one player, -1 two players who alternate.
      discount: γ per step.
      num_simulations: N.
      max_num_considered_actions: how many root actions enter sequential halving.
      max_depth: of the tree; None is N.
      value_scale: c_scale of the paper's σ.
      maxvisit_init: c_visit of the paper's σ.
      min_value_range: Q-values are rescaled by their range, but by no less than this; it keeps
        differences that are mere noise from ruling the policy before any reward has been seen.
      value_error_scale: > 0: nor by less than so many times the error of the network's values,
        which `value_error.with_value_error` keeps beside its parameters. Before the first update
        the policy is then the prior. Muesli, too, divides advantages by such an error (Hessel et
        al. 2021, arXiv 2104.06159).

    Returns:
      `SearchFn`; its `policy` is `[B, A]` float32, the improved policy.
    """
    recurrent_fn = make_recurrent_fn(network, codecs, signed_discount=discount * turn_sign)

    def least_range(params):
        if value_error_scale == 0:
            return min_value_range
        return jnp.maximum(min_value_range, value_error_scale * value_error(params))

    plan = make_gumbel_plan(
        num_actions=num_actions,
        num_simulations=num_simulations,
        max_num_considered_actions=max_num_considered_actions,
        max_depth=max_depth,
        value_scale=value_scale,
        maxvisit_init=maxvisit_init,
        least_range=least_range,
    )

    def search(params, key, history, invalid_actions, explore: Explore) -> SearchOutput:
        root = root_of(network, codecs, params, history)
        return plan(params, key, root, recurrent_fn, invalid_actions, explore)

    return search


def make_gumbel_plan(
    *,
    num_actions: int,
    num_simulations: int,
    max_num_considered_actions: int,
    max_depth: int | None,
    value_scale: float,
    maxvisit_init: float,
    least_range: Callable[[Params], Array | float],
) -> Callable[..., SearchOutput]:
    """Gumbel search of any model; the numbers are those of `make_gumbel_search`.

    `least_range` says of parameters by what the Q-values of a node are divided at least.

    Returns:
      `plan(params, key, root, recurrent_fn, invalid_actions, explore) -> SearchOutput`, root and
      `recurrent_fn` being what mctx wants.
    """

    def plan(params, key, root, recurrent_fn, invalid_actions, explore: Explore) -> SearchOutput:
        qtransform = functools.partial(
            mctx.qtransform_completed_by_mix_value,
            value_scale=value_scale,
            maxvisit_init=maxvisit_init,
            epsilon=least_range(params),
        )
        search_key, action_key = jax.random.split(key)
        chex.assert_axis_dimension(root.prior_logits, -1, num_actions)
        legal_actions(invalid_actions, root.prior_logits.shape)  # Of another shape it is refused.
        output = mctx.gumbel_muzero_policy(
            params,
            search_key,
            root,
            recurrent_fn,
            num_simulations=num_simulations,
            invalid_actions=invalid_actions,
            max_depth=max_depth,
            qtransform=qtransform,
            max_num_considered_actions=min(max_num_considered_actions, num_actions),
            gumbel_scale=noise_scales(explore, root.value.shape[0]),
        )
        policy = output.action_weights
        action, explored = choose_action(
            action_key, output.action, policy, invalid_actions, explore
        )
        return SearchOutput(
            action=action,
            policy=policy,
            value=search_value(output.search_tree, policy),
            explored=explored,
        )

    return plan
