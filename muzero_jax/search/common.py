"""What all searches share: the learned model, and how a plan and a model make a `SearchFn`."""

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax import actions
from muzero_jax.actions import legal_actions
from muzero_jax.errors import ArgumentError
from muzero_jax.types import (
    ActionSpec,
    Array,
    Codecs,
    Env,
    Explore,
    Model,
    Network,
    Plan,
    Root,
    SearchFn,
    SearchOutput,
    TimeStep,
    Tree,
)

_ROOT = 2**16  # Of the root's key, beyond those that plans split off theirs.


def make_search(model: Model, plan: Plan) -> SearchFn:
    """The search of a plan through a model.

    Args:
      model: such as `learned_model`.
      plan: such as `gumbel_plan` or `muzero_plan`.
    """

    def search(params, key, history, invalid_actions, explore: Explore) -> SearchOutput:
        root = model.root(params, jax.random.fold_in(key, _ROOT), history, invalid_actions)
        return plan(params, key, model, root, explore)

    return search


def learned_model(
    network: Network, codecs: Codecs, *, action: ActionSpec, discount: float, turn_sign: int
) -> Model:
    """The model that a network has learned; its prior is the policy head's logits.

    Nothing terminates in it: past an end it has learned reward and value 0 (MuZero appendix A). Of
    one discrete choice each action is an edge. Of other kinds of action there are no edges: steps
    are given actions themselves, and `sampled_model` makes edges of them.

    Args:
      network: its logits are decoded by `codecs`.
      codecs: of value and reward.
      action: of the environment.
      discount: γ per step.
      turn_sign: +1 one player, -1 two players who alternate.
    """
    signed_discount = discount * turn_sign

    def root(params, key, history, invalid_actions) -> Root:
        del key
        prediction = network.initial_inference(params, history)
        node = mctx.RootFnOutput(
            prior_logits=prediction.policy_logits.astype(jnp.float32),
            value=codecs.value.decode(prediction.value_logits),
            embedding=prediction.embedding,
        )
        return Root(node, invalid_edges=invalid_actions, invalid_actions=invalid_actions)

    def step(params, key, action, embedding):
        del key
        prediction = network.recurrent_inference(params, embedding, action)
        reward = codecs.reward.decode(prediction.reward_logits)
        return mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, signed_discount),
            prior_logits=prediction.policy_logits.astype(jnp.float32),
            value=codecs.value.decode(prediction.value_logits),
        ), prediction.embedding

    return Model(action, action.num_actions if action.is_discrete else 0, root, step)


def check_root(model: Model, root: Root) -> None:
    """Refuses, while tracing, a root of other sizes than the model's, or with a mask of others.

    Raises:
      ArgumentError: for a model without edges.
    """
    if model.num_edges < 1:
        raise ArgumentError(f"model: it has no edges of {model.action}; see search.sampled_model")
    batch = root.node.value.shape
    chex.assert_rank(root.node.value, 1)
    chex.assert_shape(root.node.prior_logits, (*batch, model.num_edges))
    legal_actions(root.invalid_edges, (*batch, model.num_edges))


def exploring_shares(explore: Explore, batch_size: int) -> Array:
    """The share of all exploration that each environment has, `[B]`, by `Explore.spread`.

    Actors that explore to different degrees learn more from one replay than equal ones (Horgan et
    al. 2018, Ape-X, section 4): the quiet ones show what the policy is worth, the noisy ones what
    it has not tried.
    """
    position = jnp.arange(1, batch_size + 1, dtype=jnp.float32) / batch_size
    return position**explore.spread


def noise_scales(explore: Explore, batch_size: int) -> Array:
    """The scale of the root noise of each environment, `[B, 1]`."""
    return explore.noise_scale * exploring_shares(explore, batch_size)[:, None]


def search_value(tree: mctx.Tree, policy: Array) -> Array:
    """Σ π'(a) q(a) / Σ π'(a) over the visited root actions, `[B]`; `policy` is π' `[B, A]`.

    Not the root node's value: under sequential halving that averages over forced visits, and does
    not converge with more simulations.
    """
    summary = tree.summary()
    chex.assert_equal_shape([policy, summary.visit_counts])
    visited = summary.visit_counts > 0
    weight = jnp.where(visited, policy, 0.0)
    # A policy that underflows to 0 on all that was visited leaves nothing to weigh by.
    weight = jnp.where(jnp.any(weight > 0, axis=-1, keepdims=True), weight, visited)
    weight /= jnp.sum(weight, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(visited, weight * summary.qvalues, 0.0), axis=-1)


def answer(
    key: chex.PRNGKey,
    model: Model,
    root: Root,
    *,
    greedy: Array,
    weights: Array,
    value: Array,
    explore: Explore,
    tree: Tree | None = None,
) -> SearchOutput:
    """What a plan says in the end: the action to execute, and what is learned from the search.

    With a temperature τ > 0 the edge is drawn from `weights` to the power 1/τ (MuZero appendix D);
    with probability `random_move`, by `spread`, a uniform legal action takes its place, which
    explored where it is another one.

    Args:
      key: of the draws.
      model: that was searched.
      root: of the search.
      greedy: the edge that the plan would take, `[B]` int32.
      weights: the policy over edges that the search has found, `[B, E]`.
      value: of the root, `[B]`.
      explore: temperature and random moves.
      tree: of `tree_of`.
    """
    chex.assert_rank(weights, 2)
    chex.assert_shape([greedy, value], weights.shape[:1])
    draw_key, random_key, coin_key = jax.random.split(key, 3)
    legal = legal_actions(root.invalid_edges, weights.shape)
    safe_temperature = jnp.maximum(explore.temperature, 1e-3)
    logits = jnp.log(jnp.maximum(weights, 1e-30)) / safe_temperature
    drawn = jax.random.categorical(draw_key, jnp.where(legal, logits, -jnp.inf))
    edge = jnp.where(explore.temperature > 0, drawn, greedy).astype(jnp.int32)
    action = model.action_of(root.node.embedding, edge)
    batch = weights.shape[0]
    uniform = actions.draw(model.action, random_key, batch, root.invalid_actions)
    random_move = explore.random_move * exploring_shares(explore, batch)
    coin = jax.random.uniform(coin_key, (batch,)) < random_move
    others = jnp.any((uniform != action).reshape(batch, -1), axis=-1)
    taken = coin.reshape(batch, *[1] * (action.ndim - 1))
    return SearchOutput(
        action=jnp.where(taken, uniform, action),
        policy=model.policy_of(root.node.embedding, weights),
        value=value,
        explored=coin & others,
        tree=tree,
    )


def tree_of(model: Model, root: Root, tree: mctx.Tree, weights: Array) -> Tree:
    """A searched tree with actions in place of edges; `weights` is the policy `[B, E]` found."""
    batch, num_edges = weights.shape
    is_node = tree.node_visits > 0
    below = is_node & (tree.parents != mctx.Tree.NO_PARENT)  # All nodes but the root.
    parent = jnp.where(below, tree.parents, mctx.Tree.ROOT_INDEX)
    edge = jnp.where(below, tree.action_from_parent, 0)

    def led_here(x, elsewhere):
        """At each node `[B, N]` what `x` `[B, N, E]` is of the edge that led there."""
        of_row = jax.vmap(lambda x, parent, edge: x[parent, edge])
        return jnp.where(below, of_row(x, parent, edge), elsewhere)

    def actions_of(embeddings, parent, edge):
        at_parent = jax.tree.map(lambda x: x[parent], embeddings)
        return model.action_of(at_parent, edge)

    edges = jnp.broadcast_to(jnp.arange(num_edges, dtype=jnp.int32), (batch, num_edges))
    prior = jax.nn.softmax(tree.children_prior_logits)
    visits = tree.children_visits[:, mctx.Tree.ROOT_INDEX]
    return Tree(
        parent=jnp.where(below, tree.parents, -1),
        action=jax.vmap(actions_of)(tree.embeddings, parent, edge),
        prior=led_here(prior, is_node.astype(prior.dtype)),
        reward=led_here(tree.children_rewards, 0.0),
        discount=led_here(tree.children_discounts, is_node.astype(prior.dtype)),
        visits=tree.node_visits,
        value=jnp.where(is_node, tree.node_values, 0.0),
        root_action=jax.vmap(model.action_of, (None, 1), 1)(root.node.embedding, edges),
        root_prior=prior[:, mctx.Tree.ROOT_INDEX],
        root_visits=visits,
        root_q=jnp.where(visits > 0, tree.summary().qvalues, 0.0),
        root_policy=weights,
    )


def legal_at(timestep: TimeStep, num_actions: int) -> Array:
    """The legal actions `[B, A]` bool of a time step `[B]`."""
    return legal_actions(timestep.invalid_actions, (*timestep.reward.shape, num_actions))


def step_envs(env: Env, key: chex.PRNGKey, env_state, action: Array):
    """One step of a batch of environments: `(state [B], TimeStep [B])`."""
    return jax.vmap(env.step)(env_state, action, jax.random.split(key, action.shape[0]))
