"""Searches that play by the true rules: the environment itself is the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx

from muzero_jax.distributions import MIN_LOGIT
from muzero_jax.errors import ArgumentError
from muzero_jax.history import history_init, history_push
from muzero_jax.search.common import learned_model, legal_at, make_search, step_envs
from muzero_jax.search.gumbel import gumbel_plan
from muzero_jax.types import Array, Codecs, Env, Model, Network, Root, SearchFn


def make_true_model_search(
    env: Env,
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
) -> Callable[[Any], SearchFn]:
    """AlphaZero's setting (Silver et al. 2018): Gumbel search over the rules, not a learned model.

    Each new position is one `env.step` and one `network.initial_inference`; rewards, ends and
    legal actions inside the tree are the environment's, rewards unclipped. A truncated row keeps
    the network's value: whatever is done there, the tree stays at it, for nothing.

    Args:
      env: the environment that is played.
      network: its `recurrent_inference` is not used, nor are its reward logits.
      codecs: the value's decodes.
      num_actions, turn_sign: those of `env`.
      discount: γ per step.
      num_simulations, max_num_considered_actions, max_depth, value_scale, maxvisit_init,
        min_value_range: as in `make_gumbel_search`.

    Returns:
      `bind(env_state [B]) -> SearchFn` for the histories `[B, 1]` of those states: what
      `acting.make_rollout` takes with `bind_env_state=True`. The `SearchFn` raises `ArgumentError`
      for longer histories, which the tree does not keep.
    """
    if (num_actions, turn_sign) != (env.spec.num_actions, env.spec.turn_sign):
        raise ArgumentError(
            f"num_actions {num_actions} and turn_sign {turn_sign} must be those of the environment:"
            f" {env.spec.num_actions} and {env.spec.turn_sign}"
        )
    plan = gumbel_plan(
        num_simulations=num_simulations,
        max_num_considered_actions=max_num_considered_actions,
        max_depth=max_depth,
        value_scale=value_scale,
        maxvisit_init=maxvisit_init,
        min_value_range=min_value_range,
    )
    model_of = true_model(env, network, codecs, discount=discount)
    return lambda env_state: make_search(model_of(env_state), plan)


def true_model(
    env: Env, network: Network, codecs: Codecs, *, discount: float
) -> Callable[[Any], Model]:
    """The environment itself as the model, see `make_true_model_search`.

    Returns:
      `(env_state [B]) -> Model` for the histories `[B, 1]` of those states.
    """
    seen = learned_model(
        network, codecs, action=env.spec.action, discount=discount, turn_sign=env.spec.turn_sign
    )

    def step(params, key, action, node):
        env_state, row = step_envs(env, key, node.env_state, action)
        history = history_push(history_init(row.observation, env.spec.action, 1), row, action)
        leaf = seen.root(params, key, history, None).node
        prior = leaf.prior_logits
        if env.spec.action.is_discrete:
            prior = jnp.where(legal_at(row, env.spec.num_actions), prior, MIN_LOGIT)
        # Episodes that can be truncated reset in the next step (see docs/conventions.md), so that
        # a step into a `first` row was none: it left a `last` row. If that one was truncated, it
        # is worth what the network says, to the same mover; if it has terminated, the discount 0
        # before it keeps it out of every value, and so it does with what follows other ends.
        stays = row.first & env.spec.truncates
        value = jnp.where(stays, node.value, leaf.value)
        return mctx.RecurrentFnOutput(
            reward=jnp.where(stays, 0.0, row.reward),
            discount=jnp.where(stays, 1.0, discount * row.discount),
            prior_logits=prior,
            value=value,
        ), _Position(_select(stays, node.env_state, env_state), value)

    def at(env_state) -> Model:
        def root(params, key, history, invalid_actions) -> Root:
            if history.valid.shape[1] != 1:
                raise ArgumentError(
                    "history_steps must be 1 where the true rules are searched"
                    f" (got {history.valid.shape[1]})"
                )
            root = seen.root(params, key, history, invalid_actions)
            position = _Position(env_state, root.node.value)
            return root._replace(node=root.node.replace(embedding=position))

        return seen._replace(root=root, step=step)

    return at


class _Position(NamedTuple):
    """What a node of the network's tree holds: the environment's state, and its value `[B]`."""

    env_state: Any
    value: Array


def _select(condition: Array, chosen, other):
    """For each row the one tree `[B, ...]` where `condition` `[B]`, else the other."""

    def of_row(condition, chosen, other):
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)

    return jax.vmap(of_row)(condition, chosen, other)
