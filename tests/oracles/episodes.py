"""Training targets by brute force from a list of episodes, and the rows that replay would hold.

Two halves which know nothing of each other. `targets_of` follows the published `make_target` of
MuZero (Schrittwieser et al., 2020) on one episode: it has never heard of rows, discounts or flags.
`lay_out` writes episodes down as rows, as an environment that resets itself would.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import numpy as np

POISON = 1.0e4  # What no target may ever read.


@dataclasses.dataclass(frozen=True)
class Episode:
    """States 0..T; move i leads from state i to i + 1.

    Attributes:
      tag: a number that no other episode has.
      actions: `T` moves.
      blunders: `T` flags: move i was made at random, in place of the player's own.
      rewards: `T` rewards, rewards[i] for the one who made move i.
      lives_lost: `T` flags: move i cost a life, which counts as an end.
      terminated: whether state T is final; if not, the episode was cut off there.
      values: `T + 1` search values, each for the one to move.
      policies: `[T + 1, A]` search policies.
    """

    tag: float
    actions: list[int]
    blunders: list[bool]
    rewards: list[float]
    lives_lost: list[bool]
    terminated: bool
    values: list[float]
    policies: np.ndarray

    @property
    def length(self):
        return len(self.actions)


class Target(NamedTuple):
    """One unroll step; None is masked."""

    reward: float | None
    value: float | None
    policy: np.ndarray | None


def death_after(episode, start):
    """The first state after `start` in which the game (or the life) is over, or None."""
    for state in range(start + 1, episode.length + 1):
        if episode.lives_lost[state - 1] or (state == episode.length and episode.terminated):
            return state
    return None


def value_of_state(episode, state, *, td_steps, gamma, players, transform, value_at):
    """The n-step return of a state that is alive, for the one to move at it.

    It follows the game while the players make their own moves; from the state of a blunder on, the
    value there stands for what they would have got.
    """
    death = death_after(episode, state)
    end = episode.length if death is None else death
    stop = state
    while stop < min(state + td_steps, end) and not episode.blunders[stop]:
        stop += 1

    def side(other):  # Players alternate.
        return -1.0 if players == 2 and (other - state) % 2 else 1.0

    total = 0.0
    for move in range(state, stop):
        total += gamma ** (move - state) * side(move) * transform(episode.rewards[move])
    if stop != death:
        total += gamma ** (stop - state) * side(stop) * value_at(episode, stop)
    return total


def targets_of(episode, start, *, unroll_steps, td_steps, gamma, players,
               transform: Callable[[float], float] = lambda reward: reward,
               value_at: Callable[[Episode, int], float] | None = None):
    """`Target` of the unroll steps 0..K from state `start` on."""
    if value_at is None:
        def value_at(episode, state):
            return episode.values[state]

    death = death_after(episode, start)
    targets = []
    for state in range(start, start + unroll_steps + 1):
        if death is not None and state >= death:  # Absorbing, but for the reward of dying.
            reward = transform(episode.rewards[state - 1]) if state == death else 0.0
            targets.append(Target(reward, 0.0, None))
        elif state > episode.length:  # What came after is not known.
            targets.append(Target(None, None, None))
        else:
            reward = None if state == start else transform(episode.rewards[state - 1])
            if state == episode.length:  # Cut off: seen, but never played on.
                targets.append(Target(reward, None, None))
                continue
            value = value_of_state(episode, state, td_steps=td_steps, gamma=gamma,
                                   players=players, transform=transform, value_at=value_at)
            targets.append(Target(reward, value, episode.policies[state]))
    return targets


class Row(NamedTuple):
    """What one slot of replay holds; `where` is (episode, state) and is not stored."""

    observation: tuple[float, float]
    reward: float
    discount: float
    first: bool
    last: bool
    action: int
    policy: Any
    value: float
    explored: bool
    where: tuple[int, int]


def lay_out(episodes, *, players, same_step):
    """Rows of `episodes`, one after the other.

    With `same_step` the final reward of a terminated episode comes with the first row of the next
    one; an episode that was cut off always ends in a row of its own that is marked `last`.
    """
    alive = -1.0 if players == 2 else 1.0
    rows = []
    left_over = None  # The final reward that still has no row.
    for number, episode in enumerate(episodes):
        merged = same_step and episode.terminated
        for state in range(episode.length + (0 if merged else 1)):
            if state == 0:
                reward = 0.0 if left_over is None else left_over
                discount = 0.0
            else:
                reward = episode.rewards[state - 1]
                over = episode.lives_lost[state - 1]
                over = over or (episode.terminated and state == episode.length)
                discount = 0.0 if over else alive
            last = state == episode.length
            rows.append(Row(
                observation=(episode.tag, float(state)),
                reward=reward,
                discount=discount,
                first=state == 0,
                last=last,
                action=1 if last else episode.actions[state],
                policy=episode.policies[state],
                value=POISON if last and episode.terminated else episode.values[state],
                explored=last or episode.blunders[state],  # On a last row it must mean nothing.
                where=(number, state),
            ))
        left_over = episode.rewards[-1] if merged else None
    return rows


def random_episodes(rng, count, *, num_actions, max_length, truncates, life_loss, blunders):
    """`truncates`, `life_loss` and `blunders` are probabilities (of an episode, of a move)."""
    episodes = []
    for _ in range(count):
        terminated = rng.random() >= truncates
        # What is cut off at once has a single row; a game that ends has at least one move.
        length = int(rng.integers(1 if terminated else 0, max_length + 1))
        policies = rng.dirichlet(np.ones(num_actions), size=length + 1)
        episodes.append(Episode(
            tag=float(rng.uniform(-5, 5)),
            actions=rng.integers(num_actions, size=length).tolist(),
            blunders=(rng.random(length) < blunders).tolist(),
            rewards=np.round(rng.normal(scale=2, size=length), 3).tolist(),
            lives_lost=(rng.random(length) < life_loss).tolist(),
            terminated=terminated,
            values=np.round(rng.normal(scale=3, size=length + 1), 3).tolist(),
            policies=policies.astype(np.float32),
        ))
    return episodes
