"""Plain UCT of one root, as a recursion over Python dictionaries.

Written from "Bandit based Monte-Carlo planning" (Kocsis and Szepesvari, 2006): UCB1 at every node,
each action tried once first, a uniformly random game from every new node.
"""

import math
from typing import NamedTuple


class Game(NamedTuple):
    """`moves[state]` maps each legal action to `(reward of the mover, next state or None)`."""

    moves: list[dict[int, tuple[float, int | None]]]
    sign: int  # -1: the players alternate.


def play_out(game, state, random):
    """What uniformly random play from `state` is worth to the player to move."""
    if state is None:
        return 0.0
    reward, after = random.choice(list(game.moves[state].values()))
    return reward + game.sign * play_out(game, after, random)


class Uct:
    """One search; statistics are `{path of actions: [visits, total]}`, for the one who moved."""

    def __init__(self, game, *, exploration, random):
        self.game, self.exploration, self.random = game, exploration, random
        self.visits, self.total = {}, {}

    def choose(self, state, path):
        among = list(self.game.moves[state])
        fresh = [action for action in among if (*path, action) not in self.visits]
        if fresh:
            return self.random.choice(fresh)
        tried = {action: self.visits[(*path, action)] for action in among}
        log_n = math.log(sum(tried.values()))

        def score(action):
            mean = self.total[(*path, action)] / tried[action]
            return mean + self.exploration * math.sqrt(log_n / tried[action])

        scores = {action: score(action) for action in among}
        best = max(scores.values())
        return self.random.choice([action for action in among if scores[action] == best])

    def simulate(self, state, path=()):
        """One walk from `state`; returns what it was worth to the player to move there."""
        if state is None:
            return 0.0
        action = self.choose(state, path)
        path = (*path, action)
        reward, after = self.game.moves[state][action]
        if path in self.visits:
            gained = reward + self.game.sign * self.simulate(after, path)
        else:
            self.visits[path] = self.total[path] = 0
            gained = reward + self.game.sign * play_out(self.game, after, self.random)
        self.visits[path] += 1
        self.total[path] += gained
        return gained

    def run(self, state, num_simulations):
        """Visits of the root's actions, and their mean gains."""
        for _ in range(num_simulations):
            self.simulate(state)
        root = {path[0]: n for path, n in self.visits.items() if len(path) == 1}
        return root, {action: self.total[(action,)] / n for action, n in root.items()}
