"""MuZero's own search on mctx."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.actions import legal_actions
from muzero_jax.distributions import MIN_LOGIT
from muzero_jax.errors import ArgumentError
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
    Embedding,
    Explore,
    Model,
    Network,
    Plan,
    Root,
    SearchFn,
    SearchOutput,
)


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
    """`muzero_plan` through the learned model of one discrete choice.

    Args:
      network, codecs, turn_sign, discount: as in `learned_model`.
      num_actions: A.
      num_simulations, max_depth, pb_c_init, pb_c_base, dirichlet_alpha, min_value_range: as in
        `muzero_plan`.

    Returns:
      `SearchFn`; its `policy` is `[B, A]` float32, the share of visits.
    """
    model = learned_model(
        network,
        codecs,
        action=ActionSpec.discrete(num_actions),
        discount=discount,
        turn_sign=turn_sign,
    )
    plan = muzero_plan(
        num_simulations=num_simulations,
        max_depth=max_depth,
        pb_c_init=pb_c_init,
        pb_c_base=pb_c_base,
        dirichlet_alpha=dirichlet_alpha,
        min_value_range=min_value_range,
    )
    return make_search(model, plan)


def muzero_plan(
    *,
    num_simulations: int,
    max_depth: int | None = None,
    pb_c_init: float = 1.25,
    pb_c_base: float = 19652.0,
    dirichlet_alpha: float = 0.3,
    min_value_range: float = 1e-8,
) -> Plan:
    """MuZero's own search (Schrittwieser et al. 2020, appendix B): pUCT, Dirichlet noise, visits.

    Where text and pseudocode differ: Q is that of the move, reward included, and is rescaled by
    the least and greatest Q of any edge in the tree so far; N(s) counts the visit that expanded
    the node, at the root too, so that the prior rules the first choice; an action never visited
    has a rescaled Q of 0, and so has every action until two values differ. Equal scores go to the
    lower action, or under noise to an order of the actions drawn once per search and row.

    Its weights are the share of visits. `Explore.noise_scale` is the fraction of Dirichlet noise in
    the root's prior; at temperature 0 the edge is the most visited, among equals the one with the
    greatest Q.

    Args:
      num_simulations: N.
      max_depth: of the tree; None is N.
      pb_c_init: c_1 of the paper's pUCT.
      pb_c_base: c_2 of it.
      dirichlet_alpha: of the root noise, drawn over the legal edges.
      min_value_range: Q-values are rescaled by their range, but by no less than this.

    Raises:
      ArgumentError: for noise that cannot be drawn.
    """
    if not dirichlet_alpha > 0:
        raise ArgumentError(f"dirichlet_alpha must be > 0 (got {dirichlet_alpha})")
    select = functools.partial(
        _select_by_puct, pb_c_init=pb_c_init, pb_c_base=pb_c_base, min_value_range=min_value_range
    )

    def plan(params, key, model: Model, root: Root, explore: Explore) -> SearchOutput:
        check_root(model, root)
        noise_key, tie_key, search_key, action_key = jax.random.split(key, 4)

        def expand(params, key, edge, embedding):
            # The tree keeps the prior's probabilities in the place of its logits: `select` alone
            # reads them, at every step of every walk. Each node keeps what its edge was worth.
            output, embedding = model.step(params, key, edge, embedding.inner)
            prior = jax.nn.softmax(output.prior_logits)
            embedding = _Embedding(embedding, output.reward, output.discount)
            return output.replace(prior_logits=prior), embedding

        node = root.node
        legal = legal_actions(root.invalid_edges, node.prior_logits.shape)
        prior = jax.nn.softmax(jnp.where(legal, node.prior_logits, MIN_LOGIT))
        noise = draw_dirichlet(noise_key, legal, dirichlet_alpha)
        tie_break = 1e-5 * jax.random.uniform(tie_key, prior.shape) * (explore.noise_scale > 0)
        zeros = jnp.zeros_like(node.value)
        tree = mctx.search(
            params,
            search_key,
            root=node.replace(
                prior_logits=prior + noise_scales(explore, prior.shape[0]) * (noise - prior),
                embedding=_Embedding(node.embedding, zeros, zeros),
            ),
            recurrent_fn=expand,
            root_action_selection_fn=select,
            interior_action_selection_fn=select,
            num_simulations=num_simulations,
            max_depth=max_depth,
            invalid_actions=~legal,
            extra_data=_ExtraData(
                tie_break,
                q=jnp.zeros((zeros.shape[0], num_simulations + 1)),
                low=jnp.full_like(node.value, jnp.inf),
                high=jnp.full_like(node.value, -jnp.inf),
            ),
            loop_fn=_simulate,
        )
        inner = tree.replace(
            children_prior_logits=jnp.log(tree.children_prior_logits),
            embeddings=tree.embeddings.inner,
        )
        summary = tree.summary()
        weights = summary.visit_probs
        most_visited = weights == jnp.max(weights, axis=-1, keepdims=True)
        return answer(
            action_key,
            model,
            root,
            greedy=jnp.argmax(jnp.where(most_visited, summary.qvalues, -jnp.inf), axis=-1),
            weights=weights,
            value=search_value(tree, weights),
            explore=explore,
            tree=tree_of(model, root, inner, weights),
        )

    return plan


class _Embedding(NamedTuple):
    """What a node of the tree holds: the model's embedding; reward and discount that led here."""

    inner: Embedding
    reward: Array
    discount: Array


class _ExtraData(NamedTuple):
    """Per row: what is added to the scores `[B, A]`; Q of the edge to each node `[B, N]`; least and
    greatest Q so far `[B]`."""

    tie_break: Array
    q: Array
    low: Array
    high: Array


def _simulate(lower, upper, simulate_once, state):
    """The loop over simulations for mctx, which keeps Q and its range before each of them.

    Q is computed in one place: computed again where it is read, it may be rounded in another way,
    and then a single value would not equal the least one so far.
    """

    def body(simulation, state):
        key, tree = state
        # Each node but the root is the end of one edge: its Q needs no gather.
        q = tree.embeddings.reward + tree.embeddings.discount * tree.node_values
        is_edge = (tree.node_visits > 0).at[:, mctx.Tree.ROOT_INDEX].set(False)
        low = jnp.min(jnp.where(is_edge, q, jnp.inf), axis=-1)
        high = jnp.max(jnp.where(is_edge, q, -jnp.inf), axis=-1)
        seen = tree.extra_data
        seen = seen._replace(
            q=q, low=jnp.minimum(seen.low, low), high=jnp.maximum(seen.high, high)
        )
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
    q = seen.q[tree.children_index[node_index]]  # Of an unvisited edge anything.
    scaled_q = (q - seen.low) / value_range
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
