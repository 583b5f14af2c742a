"""Searches that play by the true rules: the environment itself is the model."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.errors import ArgumentError
from muzero_jax.frames import history_init, history_push
from muzero_jax.search import MIN_LOGIT, legal_actions, make_gumbel_plan, root_of, search_value
from muzero_jax.types import Array, Codecs, Env, Explore, Network, SearchFn, SearchOutput, TimeStep


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
    plan = make_gumbel_plan(
        num_actions=num_actions,
        num_simulations=num_simulations,
        max_num_considered_actions=max_num_considered_actions,
        max_depth=max_depth,
        value_scale=value_scale,
        maxvisit_init=maxvisit_init,
        least_range=lambda params: min_value_range,
    )

    def expand(params, key, action, node):
        env_state, row = _step(env, key, node.env_state, action)
        history = history_push(history_init(row.observation, 1), row, action)
        leaf = root_of(network, codecs, params, history)
        # Episodes that can be truncated reset in the next step (see docs/conventions.md), so that
        # a step into a `first` row was none: it left a `last` row. If that one was truncated, it
        # is worth what the network says, to the same mover; if it has terminated, the discount 0
        # before it keeps it out of every value, and so it does with what follows other ends.
        stays = row.first & env.spec.truncates
        value = jnp.where(stays, node.value, leaf.value)
        return mctx.RecurrentFnOutput(
            reward=jnp.where(stays, 0.0, row.reward),
            discount=jnp.where(stays, 1.0, discount * row.discount),
            prior_logits=jnp.where(_legal(row, num_actions), leaf.prior_logits, MIN_LOGIT),
            value=value,
        ), _Position(_select(stays, node.env_state, env_state), value)

    def bind(env_state) -> SearchFn:
        def search(params, key, history, invalid_actions, explore: Explore) -> SearchOutput:
            if history.valid.shape[1] != 1:
                raise ArgumentError(
                    "network.history_steps must be 1 where the true rules are searched"
                    f" (got {history.valid.shape[1]})"
                )
            root = root_of(network, codecs, params, history)
            root = root.replace(embedding=_Position(env_state, root.value))
            return plan(params, key, root, expand, invalid_actions, explore)

        return search

    return bind


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
        env_state, row = _step(env, step_key, node.env_state, action)
        # Nothing counts below an end: there the environment has begun the next game.
        going = jnp.where(node.over, 0.0, row.discount)
        value = _rollout(env, rollout_key, env_state, row, going != 0)
        return mctx.RecurrentFnOutput(
            reward=jnp.where(node.over, 0.0, row.reward),
            discount=going,
            prior_logits=_legal(row, num_actions).astype(jnp.float32),
            value=value,
        ), _Node(env_state, going == 0)

    def search(key, env_state, timestep: TimeStep) -> SearchOutput:
        search_key, tie_key = jax.random.split(key)
        # The tree keeps what is legal in the place of a prior, 1 or 0: only `select` reads it.
        legal = _legal(timestep, num_actions)
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


class _Position(NamedTuple):
    """What a node of the network's tree holds: the environment's state, and its value `[B]`."""

    env_state: Any
    value: Array


class _Node(NamedTuple):
    """What a node of the tree holds: the environment's state, and whether the game is over."""

    env_state: Any
    over: Array


def _step(env: Env, key, env_state, action):
    """One step of every environment `[B]`."""
    return jax.vmap(env.step)(env_state, action, jax.random.split(key, action.shape[0]))


def _select(condition: Array, chosen, other):
    """For each row the one tree `[B, ...]` where `condition` `[B]`, else the other."""

    def of_row(condition, chosen, other):
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)

    return jax.vmap(of_row)(condition, chosen, other)


def _legal(timestep: TimeStep, num_actions: int) -> Array:
    """The legal actions `[B, A]` bool."""
    return legal_actions(timestep.invalid_actions, (*timestep.reward.shape, num_actions))


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
    """The return `[B]` of uniform legal moves to the end, for whoever is to move; 0 if not `plays`.

    The loop ends with the longest game of the batch: those that are over play on, unheard.
    """

    def goes_on(state):
        return jnp.any(state.factor != 0)

    def step(state):
        key, action_key, env_key = jax.random.split(state.key, 3)
        action = _argmax(action_key, jnp.where(state.legal, 0.0, -jnp.inf))
        env_state, row = _step(env, env_key, state.env_state, action)
        return _Rollout(
            key=key,
            env_state=env_state,
            legal=_legal(row, env.spec.num_actions),
            gained=state.gained + state.factor * row.reward,
            factor=state.factor * row.discount,
        )

    start = _Rollout(
        key=key,
        env_state=env_state,
        legal=_legal(timestep, env.spec.num_actions),
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
