"""Gumbel MuZero (Danihelka et al. 2022) on mctx."""

import functools

import jax
import jax.numpy as jnp
import mctx

from muzero_jax.search.common import (
    answer,
    check_root,
    learned_model,
    make_search,
    noise_scales,
    search_value,
)
from muzero_jax.types import (
    ActionSpec,
    Codecs,
    Explore,
    Model,
    Network,
    Plan,
    Root,
    SearchFn,
    SearchOutput,
)
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
    """`gumbel_plan` through the learned model of one discrete choice.

    Args:
      network, codecs, turn_sign, discount: as in `learned_model`.
      num_actions: A.
      num_simulations, max_num_considered_actions, max_depth, value_scale, maxvisit_init,
        min_value_range, value_error_scale: as in `gumbel_plan`.

    Returns:
      `SearchFn`; its `policy` is `[B, A]` float32, the improved policy.
    """
    model = learned_model(
        network,
        codecs,
        action=ActionSpec.discrete(num_actions),
        discount=discount,
        turn_sign=turn_sign,
    )
    plan = gumbel_plan(
        num_simulations=num_simulations,
        max_num_considered_actions=max_num_considered_actions,
        max_depth=max_depth,
        value_scale=value_scale,
        maxvisit_init=maxvisit_init,
        min_value_range=min_value_range,
        value_error_scale=value_error_scale,
    )
    return make_search(model, plan)


def gumbel_plan(
    *,
    num_simulations: int,
    max_num_considered_actions: int = 16,
    max_depth: int | None = None,
    value_scale: float = 0.1,
    maxvisit_init: float = 50.0,
    min_value_range: float = 1e-8,
    value_error_scale: float = 0.0,
) -> Plan:
    """Gumbel MuZero (Danihelka et al. 2022): sequential halving at the root, completed Q-values.

    Its weights are the improved policy.

    Args:
      num_simulations: N.
      max_num_considered_actions: how many root edges enter sequential halving.
      max_depth: of the tree; None is N.
      value_scale: c_scale of the paper's σ.
      maxvisit_init: c_visit of the paper's σ.
      min_value_range: Q-values are rescaled by their range, but by no less than this; it keeps
        differences that are mere noise from ruling the policy before any reward has been seen.
      value_error_scale: > 0: nor by less than so many times the error of the network's values,
        which `value_error.with_value_error` keeps beside its parameters. Before the first update
        the policy is then the prior. Muesli, too, divides advantages by such an error (Hessel et
        al. 2021, arXiv 2104.06159).
    """

    def least_range(params):
        if value_error_scale == 0:
            return min_value_range
        return jnp.maximum(min_value_range, value_error_scale * value_error(params))

    def plan(params, key, model: Model, root: Root, explore: Explore) -> SearchOutput:
        check_root(model, root)
        qtransform = functools.partial(
            mctx.qtransform_completed_by_mix_value,
            value_scale=value_scale,
            maxvisit_init=maxvisit_init,
            epsilon=least_range(params),
        )
        search_key, action_key = jax.random.split(key)
        output = mctx.gumbel_muzero_policy(
            params,
            search_key,
            root.node,
            model.step,
            num_simulations=num_simulations,
            invalid_actions=root.invalid_edges,
            max_depth=max_depth,
            qtransform=qtransform,
            max_num_considered_actions=min(max_num_considered_actions, model.num_edges),
            gumbel_scale=noise_scales(explore, root.node.value.shape[0]),
        )
        weights = output.action_weights
        return answer(
            action_key,
            model,
            root,
            greedy=output.action,
            weights=weights,
            value=search_value(output.search_tree, weights),
            explore=explore,
        )

    return plan
