"""Sampled MuZero (Hubert et al. 2021): a model whose edges are actions drawn from its policy."""

from typing import NamedTuple

import jax

from muzero_jax.distributions import MIN_LOGIT
from muzero_jax.errors import ArgumentError
from muzero_jax.types import Array, Distribution, Embedding, Model, Root


def sampled_model(model: Model, distribution: Distribution, *, num_samples: int) -> Model:
    """A model with K edges at each node: actions drawn from its policy, there and then.

    Drawn from the policy itself, with replacement, each edge has a prior of 1/K; without
    replacement it has the policy's, which a search renormalises over the drawn (section 5, where β
    is π). Masks are known at the root alone, where no illegal action is an edge that may be taken.

    Args:
      model: whose prior logits are `distribution`'s and whose steps are given actions, such as
        `learned_model`.
      distribution: of `Codecs.policy`.
      num_samples: K.

    Returns:
      `Model` whose searches say the policy `{"actions" [B, K, *shape], "weights" [B, K]}`; its loss
      is `distributions.sampled_cross_entropy`.
    """
    if num_samples < 1:
        raise ArgumentError(f"num_samples must be >= 1 (got {num_samples})")
    # One choice is drawn without replacement, so that slots can be left over, as under masks.
    leaves_empty = model.action.is_discrete and num_samples > model.action.num_actions

    def root(params, key, history, invalid_actions) -> Root:
        root_key, draw_key = jax.random.split(key)
        at = model.root(params, root_key, history, invalid_actions)
        logits = at.node.prior_logits
        drawn, prior = distribution.draw(draw_key, logits, num_samples, invalid_actions)
        node = at.node.replace(prior_logits=prior, embedding=_Node(at.node.embedding, drawn))
        empty = prior <= MIN_LOGIT if leaves_empty or invalid_actions is not None else None
        return Root(node, invalid_edges=empty, invalid_actions=invalid_actions)

    def step(params, key, edge, node):
        step_key, draw_key = jax.random.split(key)
        output, embedding = model.step(params, step_key, action_of(node, edge), node.inner)
        drawn, prior = distribution.draw(draw_key, output.prior_logits, num_samples, None)
        return output.replace(prior_logits=prior), _Node(embedding, drawn)

    def action_of(node, edge):
        return jax.vmap(lambda drawn, edge: drawn[edge])(node.actions, edge)

    def policy_of(node, weights):
        return {"actions": node.actions, "weights": weights}

    return Model(model.action, num_samples, root, step, action_of, policy_of)


class _Node(NamedTuple):
    """What a node of the tree holds: the model's embedding, and its edges `[B, K, *shape]`."""

    inner: Embedding
    actions: Array
