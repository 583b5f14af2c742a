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
    tree_of,
)
from muzero_jax.types import (
    ActionSpec,
    Array,
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

    Its weights are the improved policy. Where as many root edges are considered as there are
    simulations, and none is masked, each simulation is the first visit to another edge: then there
    is no tree, and the model is called once for all of them.

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
        num_considered = min(max_num_considered_actions, model.num_edges)
        search = mctx.gumbel_muzero_policy
        if num_simulations <= num_considered and root.invalid_edges is None:
            search = _search_one_step
        output = search(
            params,
            search_key,
            root.node,
            model.step,
            num_simulations=num_simulations,
            invalid_actions=root.invalid_edges,
            max_depth=max_depth,
            qtransform=qtransform,
            max_num_considered_actions=num_considered,
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
            tree=tree_of(model, root, output.search_tree, weights),
        )

    return plan


def _search_one_step(
    params,
    key,
    root: mctx.RootFnOutput,
    step,
    *,
    num_simulations: int,
    qtransform,
    gumbel_scale: Array,
    **unused,
) -> mctx.PolicyOutput:
    """`mctx.gumbel_muzero_policy` where each simulation is the first visit to another root edge.

    Returns:
      The same, with a tree of the root alone.
    """
    del unused  # No edge is masked, none is left out, and no path is longer than a step.
    step_key, gumbel_key = jax.random.split(key)
    logits = root.prior_logits
    gumbel = gumbel_scale * jax.random.gumbel(gumbel_key, logits.shape, logits.dtype)
    # The order of edges before any value is known; unvisited ones all have the same value.
    score = gumbel + (logits - jnp.max(logits, axis=-1, keepdims=True))
    edges = jax.lax.top_k(score, num_simulations)[1]
    batch, num_edges = logits.shape

    def for_each_edge(x):
        return jnp.repeat(x, num_simulations, axis=0)

    output, _ = step(
        params, step_key, edges.reshape(-1), jax.tree.map(for_each_edge, root.embedding)
    )

    def at_edges(x):
        row = jnp.arange(batch)[:, None]
        return jnp.zeros((batch, 1, num_edges), x.dtype).at[row, 0, edges].set(
            x.reshape(batch, num_simulations)
        )

    q = (output.reward + output.discount * output.value).reshape(batch, num_simulations)
    visits = at_edges(jnp.ones_like(edges))
    tree = mctx.Tree(
        node_visits=jnp.full((batch, 1), num_simulations + 1),
        raw_values=root.value[:, None],
        node_values=(root.value + q.sum(axis=1))[:, None] / (num_simulations + 1),
        parents=jnp.full((batch, 1), mctx.Tree.NO_PARENT),
        action_from_parent=jnp.full((batch, 1), mctx.Tree.NO_PARENT),
        children_index=jnp.full((batch, 1, num_edges), mctx.Tree.UNVISITED),
        children_prior_logits=logits[:, None],
        children_visits=visits,
        children_rewards=at_edges(output.reward),
        children_discounts=at_edges(output.discount),
        children_values=at_edges(output.value),
        embeddings=jax.tree.map(lambda x: x[:, None], root.embedding),
        root_invalid_actions=jnp.zeros((batch, num_edges), bool),
        extra_data=None,
    )
    completed = jax.vmap(qtransform, in_axes=(0, None))(tree, mctx.Tree.ROOT_INDEX)
    best = jnp.where(visits[:, 0] > 0, score + completed, -jnp.inf)
    return mctx.PolicyOutput(
        action=jnp.argmax(best, axis=-1).astype(jnp.int32),
        action_weights=jax.nn.softmax(logits + completed),
        search_tree=tree,
    )
