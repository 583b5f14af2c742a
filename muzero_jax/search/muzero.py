"""MuZero's own search on mctx, with the signature `SearchFn` of `types.py`."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.errors import ArgumentError
from muzero_jax.search.common import (
    MIN_LOGIT,
    choose_action,
    legal_actions,
    make_recurrent_fn,
    noise_scales,
    root_of,
    search_value,
)
from muzero_jax.types import Array, Codecs, Embedding, Explore, Network, SearchFn, SearchOutput


def make_muzero_search(
    network: Network,
    codecs: Codecs,
    *,
    num_actions: int,
    turn_sign: int,
    discount: float,
    num_simulations: int,
    max_depth: int | None = None,
    pb_c_init: float = 1.25,
    pb_c_base: float = 19652.0,
    dirichlet_alpha: float = 0.3,
    min_value_range: float = 1e-8,
) -> SearchFn:
    """MuZero's own search (Schrittwieser et al. 2020, appendix B): pUCT, Dirichlet noise, visits.

    Where text and pseudocode differ: Q is that of the move, reward included, and is rescaled by
    the least and greatest Q of any edge in the tree so far; N(s) counts the visit that expanded
    the node, at the root too, so that the prior rules the first choice; an action never visited
    has a rescaled Q of 0, and so has every action until two values differ. Equal scores go to the
    lower action, or under noise to an order of the actions drawn once per search and row.

    Args:
      network, codecs, num_actions, turn_sign, discount, num_simulations, max_depth: as in
        `make_gumbel_search`.
      pb_c_init: c_1 of the paper's pUCT.
      pb_c_base: c_2 of it.
      dirichlet_alpha: of the root noise, drawn over the legal actions.
      min_value_range: Q-values are rescaled by their range, but by no less than this.

    Returns:
      `SearchFn`; its `policy` is `[B, A]` float32, the share of visits. `noise_scale` is the
      fraction of Dirichlet noise in the root's prior; at temperature 0 the action is the most
      visited, among equals the one with the greatest Q.
    """
    if not dirichlet_alpha > 0:
        raise ArgumentError(f"dirichlet_alpha must be > 0 (got {dirichlet_alpha})")
    recurrent_fn = make_recurrent_fn(network, codecs, signed_discount=discount * turn_sign)
    select = functools.partial(
        _select_by_puct, pb_c_init=pb_c_init, pb_c_base=pb_c_base, min_value_range=min_value_range
    )

    def expand(params, key, action, embedding):
        # The tree keeps the prior's probabilities in the place of its logits: `select` alone reads
        # them, at every step of every walk. Each node also keeps the reward that led to it.
        output, embedding = recurrent_fn(params, key, action, embedding.inner)
        prior = jax.nn.softmax(output.prior_logits)
        return output.replace(prior_logits=prior), _Embedding(embedding, output.reward)

    def search(params, key, history, invalid_actions, explore: Explore) -> SearchOutput:
        noise_key, tie_key, search_key, action_key = jax.random.split(key, 4)
        root = root_of(network, codecs, params, history)
        chex.assert_axis_dimension(root.prior_logits, -1, num_actions)
        legal = legal_actions(invalid_actions, root.prior_logits.shape)
        prior = jax.nn.softmax(jnp.where(legal, root.prior_logits, MIN_LOGIT))
        noise = draw_dirichlet(noise_key, legal, dirichlet_alpha)
        tie_break = 1e-5 * jax.random.uniform(tie_key, prior.shape) * (explore.noise_scale > 0)
        tree = mctx.search(
            params,
            search_key,  # Nothing inside draws from it.
            root=root.replace(
                prior_logits=prior + noise_scales(explore, prior.shape[0]) * (noise - prior),
                embedding=_Embedding(root.embedding, jnp.zeros_like(root.value)),
            ),
            recurrent_fn=expand,
            root_action_selection_fn=select,
            interior_action_selection_fn=select,
            num_simulations=num_simulations,
            max_depth=max_depth,
            invalid_actions=~legal,
            extra_data=_ExtraData(
                tie_break,
                low=jnp.full_like(root.value, jnp.inf),
                high=jnp.full_like(root.value, -jnp.inf),
            ),
            loop_fn=functools.partial(_simulate, signed_discount=discount * turn_sign),
        )
        summary = tree.summary()
        policy = summary.visit_probs
        most_visited = policy == jnp.max(policy, axis=-1, keepdims=True)
        greedy = jnp.argmax(jnp.where(most_visited, summary.qvalues, -jnp.inf), axis=-1)
        action, explored = choose_action(action_key, greedy, policy, invalid_actions, explore)
        return SearchOutput(
            action=action, policy=policy, value=search_value(tree, policy), explored=explored
        )

    return search


class _Embedding(NamedTuple):
    """What a node of the tree holds: the network's embedding, the reward that led here."""

    inner: Embedding
    reward: Array


class _ExtraData(NamedTuple):
    """Per row: what is added to the scores `[B, A]`; least and greatest Q so far `[B]`."""

    tie_break: Array
    low: Array
    high: Array


def _simulate(lower, upper, simulate_once, state, *, signed_discount):
    """The loop over simulations for mctx, which keeps the range of Q before each of them."""

    def body(simulation, state):
        key, tree = state
        # Each node but the root is the end of one edge: its Q needs no gather.
        q = tree.embeddings.reward + signed_discount * tree.node_values
        is_edge = (tree.node_visits > 0).at[:, mctx.Tree.ROOT_INDEX].set(False)
        low = jnp.min(jnp.where(is_edge, q, jnp.inf), axis=-1)
        high = jnp.max(jnp.where(is_edge, q, -jnp.inf), axis=-1)
        seen = tree.extra_data
        seen = seen._replace(low=jnp.minimum(seen.low, low), high=jnp.maximum(seen.high, high))
        return simulate_once(simulation, (key, tree.replace(extra_data=seen)))

    return jax.lax.fori_loop(lower, upper, body, state)


def _select_by_puct(
    key, tree, node_index, depth=None, *, pb_c_init, pb_c_base, min_value_range
) -> Array:
    """The action of the highest pUCT score at a node of an unbatched tree."""
    del key, depth
    visits = tree.children_visits[node_index]
    node_visits = tree.node_visits[node_index]
    seen = tree.extra_data
    value_range = jnp.maximum(seen.high - seen.low, min_value_range)
    scaled_q = (tree.qvalues(node_index) - seen.low) / value_range
    pb_c = pb_c_init + jnp.log((node_visits + pb_c_base + 1.0) / pb_c_base)
    prior = tree.children_prior_logits[node_index]  # Probabilities: see `expand`.
    score = jnp.where(visits > 0, scaled_q, 0.0) + seen.tie_break
    score += pb_c * jnp.sqrt(node_visits) * prior / (1.0 + visits)
    is_root = node_index == mctx.Tree.ROOT_INDEX
    score = jnp.where(is_root & tree.root_invalid_actions, -jnp.inf, score)
    return jnp.argmax(score).astype(jnp.int32)


def draw_dirichlet(key: chex.PRNGKey, legal: Array, alpha: float) -> Array:
    """Dirichlet noise over the legal actions of each row `[B, A]`: 0 elsewhere, sum 1."""
    # In logarithms: at a small alpha every gamma variable of a row can underflow.
    log_gamma = jax.random.loggamma(key, alpha, legal.shape)
    return jax.nn.softmax(jnp.where(legal, log_gamma, MIN_LOGIT))
