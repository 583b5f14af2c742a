"""Who chooses actions in evaluations and matches: by search, by the prior alone, or at random."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import numpy as np

from muzero_jax import actions, finite
from muzero_jax.acting import NO_EXPLORATION, init_carry
from muzero_jax.distributions import categorical
from muzero_jax.history import history_push
from muzero_jax.types import (
    Array,
    Distribution,
    EnvSpec,
    History,
    Network,
    Params,
    SearchFn,
    TimeStep,
)


class Actor(NamedTuple):
    """Three pure functions over a batch of B games.

    Attributes:
      init: `(params, num_games) -> carry`, an opaque pytree that carries the params, so that other
        params need no other program; all else in it has a row for each game.
      observe: `(carry, timestep [B], action [B] that led to it) -> carry`; called at every step,
        also after the other player's moves, so that histories are whole. Nothing led to a
        `first` row.
      choose: `(carry, key, env_state [B], timestep [B]) -> action [B]`; called after `observe`, for
        the one whose turn it is. On the host there is no `env_state`: it is None.
    """

    init: Callable[[Params, int], Any]
    observe: Callable[[Any, TimeStep, Array], Any]
    choose: Callable[[Any, chex.PRNGKey, Any, TimeStep], Array]


@chex.dataclass(frozen=True)
class _Seen:
    """What an actor with a network remembers: its params, and the `History` `[B, S]`."""

    params: Params
    history: History


def make_search_player(
    search: SearchFn, spec: EnvSpec, *, history_steps: int, random_move: float = 0.0
) -> Actor:
    """Plays the search's own choice, without noise or temperature.

    Args:
      search: a `SearchFn`.
      spec: of the environments.
      history_steps: S.
      random_move: probability of a uniform legal action instead. Mnih et al. 2015 evaluate with
        0.05: where a game does not go on by itself, a player without chance can wait for ever.
    """
    explore = NO_EXPLORATION.replace(random_move=np.float32(random_move))

    def choose(carry, key, env_state, timestep):
        del env_state
        return search(carry.params, key, carry.history, timestep.invalid_actions, explore).action

    return _with_history(choose, spec, history_steps)


def make_prior_player(
    network: Network,
    spec: EnvSpec,
    *,
    history_steps: int,
    policy: Distribution | None = None,
) -> Actor:
    """Plays the legal action that the network's policy likes best, without any search.

    Args:
      network: whose policy plays.
      spec: of the environments.
      history_steps: S.
      policy: `Codecs.policy` of the network.
    """
    policy = policy or categorical(spec.action)

    def choose(carry, key, env_state, timestep):
        del key, env_state
        logits = network.initial_inference(carry.params, carry.history).policy_logits
        return policy.mode(logits, timestep.invalid_actions)

    return _with_history(choose, spec, history_steps)


def make_random_player(spec: EnvSpec) -> Actor:
    """Plays uniform actions, legal ones where there is a mask; its params mean nothing."""

    def choose(carry, key, env_state, timestep):
        del carry, env_state
        size, invalid = timestep.reward.shape[0], timestep.invalid_actions
        return actions.draw(spec.action, key, size, invalid)

    return without_memory(choose)


def without_memory(choose: Callable[..., Array]) -> Actor:
    """An actor whose `choose` looks at nothing but the position; its carry is the params."""
    return Actor(
        init=lambda params, num_games: params,
        observe=lambda carry, timestep, action: carry,
        choose=choose,
    )


def _with_history(choose: Callable[..., Array], spec: EnvSpec, history_steps: int) -> Actor:
    def init(params, num_games):
        return _Seen(params=params, history=init_carry(spec, num_games, history_steps).history)

    def observe(carry, timestep, action):
        history = history_push(carry.history, finite.clean(timestep), action)
        return carry.replace(history=history)

    return Actor(init=init, observe=observe, choose=choose)
