"""Plain Monte Carlo tree search with the true rules, to measure others against."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.search.common import legal_at, search_value, step_envs
from muzero_jax.types import Array, Env, SearchOutput, TimeStep


def make_uct_search(
    env: Env, *, num_simulations: int, exploration: float = math.sqrt(2)
) -> Callable[[chex.PRNGKey, Any, TimeStep], SearchOutput]:
    """Plain Monte Carlo tree search: UCT (Kocsis and Szepesvári 2006) with random rollouts.

    At a node every legal action is tried once; then the greatest Q + c·sqrt(ln n / n_a) is, n_a
    being the visits of the action and n their sum. Each new node is valued by one game of uniform
    legal moves to its end. Equal scores are drawn among.

    Args:
      env: whose episodes end, with returns in [-1, 1].
      num_simulations: N.
      exploration: c.

    Returns:
      `search(key, env_state [B], timestep [B]) -> SearchOutput`: the most visited action, among
      equals the one with the greatest Q; `policy` `[B, A]` is the share of visits.
    """
    num_actions = env.spec.num_actions
    select = functools.partial(_select_by_ucb, exploration=exploration)

    def expand(params, key, action, node):
        del params
        step_key, rollout_key = jax.random.split(key)
        env_state, row = step_envs(env, step_key, node.env_state, action)
        # Nothing counts below an end: there the environment has begun the next game.
        going = jnp.where(node.over, 0.0, row.discount)
        value = _rollout(env, rollout_key, env_state, row, going != 0)
        return mctx.RecurrentFnOutput(
            reward=jnp.where(node.over, 0.0, row.reward),
            discount=going,
            prior_logits=legal_at(row, num_actions).astype(jnp.float32),
            value=value,
        ), _Node(env_state, going == 0)

    def search(key, env_state, timestep: TimeStep) -> SearchOutput:
        search_key, tie_key = jax.random.split(key)
        # The tree keeps what is legal in the place of a prior, 1 or 0: only `select` reads it.
        legal = legal_at(timestep, num_actions)
        zeros = jnp.zeros(timestep.reward.shape, jnp.float32)
        tree = mctx.search(
            None,
            search_key,
            root=mctx.RootFnOutput(
                prior_logits=legal.astype(jnp.float32),
                value=zeros,
                embedding=_Node(env_state, jnp.zeros(zeros.shape, bool)),
            ),
            recurrent_fn=expand,
            root_action_selection_fn=select,
            interior_action_selection_fn=select,
            num_simulations=num_simulations,
        )
        summary = tree.summary()
        policy = summary.visit_probs
        most_visited = policy == jnp.max(policy, axis=-1, keepdims=True)
        return SearchOutput(
            action=_argmax(tie_key, jnp.where(most_visited, summary.qvalues, -jnp.inf)),
            policy=policy,
            value=search_value(tree, policy),
            explored=jnp.zeros(policy.shape[:1], bool),
        )

    return search


class _Node(NamedTuple):
    """What a node of the tree holds: the environment's state, and whether the game is over."""

    env_state: Any
    over: Array


def _select_by_ucb(key, tree, node_index, depth=None, *, exploration) -> Array:
    """The action of the highest UCB1 score at a node of an unbatched tree."""
    del depth
    visits = tree.children_visits[node_index]
    bonus = jnp.sqrt(jnp.log(jnp.maximum(jnp.sum(visits), 1)) / jnp.maximum(visits, 1))
    score = jnp.where(visits > 0, tree.qvalues(node_index) + exploration * bonus, jnp.inf)
    return _argmax(key, jnp.where(tree.children_prior_logits[node_index] > 0, score, -jnp.inf))


def _argmax(key: chex.PRNGKey, score: Array) -> Array:
    """The action of the greatest score `[..., A]`, drawn among equals."""
    best = score == jnp.max(score, axis=-1, keepdims=True)
    order = jax.random.uniform(key, score.shape)
    return jnp.argmax(jnp.where(best, order, -1.0), axis=-1).astype(jnp.int32)


def _rollout(env: Env, key: chex.PRNGKey, env_state, timestep: TimeStep, plays: Array) -> Array:
    """The return `[B]` of uniform legal moves to the end, for the player to move; 0 if not `plays`.

    The loop ends with the longest game of the batch: those that are over play on without effect.
    """

    def goes_on(state):
        return jnp.any(state.factor != 0)

    def step(state):
        key, action_key, env_key = jax.random.split(state.key, 3)
        action = _argmax(action_key, jnp.where(state.legal, 0.0, -jnp.inf))
        env_state, row = step_envs(env, env_key, state.env_state, action)
        return _Rollout(
            key=key,
            env_state=env_state,
            legal=legal_at(row, env.spec.num_actions),
            gained=state.gained + state.factor * row.reward,
            factor=state.factor * row.discount,
        )

    start = _Rollout(
        key=key,
        env_state=env_state,
        legal=legal_at(timestep, env.spec.num_actions),
        gained=jnp.zeros(plays.shape, jnp.float32),
        factor=plays.astype(jnp.float32),
    )
    return jax.lax.while_loop(goes_on, step, start).gained


class _Rollout(NamedTuple):
    """Games on their way `[B]`; `factor` is what a reward now is worth to the first mover."""

    key: chex.PRNGKey
    env_state: Any
    legal: Array
    gained: Array
    factor: Array
