"""A plain NumPy MuZero search of one root, as a tree of Python objects.

Written from "Mastering Atari, Go, chess and shogi by planning with a learned model" (Schrittwieser
et al., 2020), appendix B: pUCT, Q-values squeezed into [0, 1] by the least and greatest seen in the
tree up to then, an unvisited action worth 0. N(s) counts the visit that expanded s.
"""

import math
from typing import NamedTuple

import numpy as np

from oracles.gumbel_tree import Node, softmax


class Result(NamedTuple):
    """What one search found; `margin` is the smallest lead of any choice it made."""

    action: int
    visits: np.ndarray
    value: float
    margin: float
    depth: int


class MuZeroTree:
    """One search; `discount` is negative for two players who alternate."""

    def __init__(self, model, *, discount, num_simulations, max_depth=None, pb_c_init=1.25,
                 pb_c_base=19652.0, min_value_range=1e-8):
        self.model = model
        self.discount = discount
        self.num_simulations = num_simulations
        self.max_depth = math.inf if max_depth is None else max_depth
        self.pb_c_init = pb_c_init
        self.pb_c_base = pb_c_base
        self.min_value_range = min_value_range
        self.seen = []  # Every value that any Q ever took.
        self.margin = math.inf
        self.deepest = 0

    def q_of(self, child):
        return child.reward + self.discount * child.mean

    def score(self, node, prior, action):
        """Q of the action, squeezed, plus what its prior and its few visits add."""
        visits_here = 1 + sum(len(child.returns) for child in node.children.values())
        child = node.children.get(action)
        exploit, visits = 0.0, 0
        if child is not None:
            visits = len(child.returns)
            spread = max(max(self.seen) - min(self.seen), self.min_value_range)
            exploit = (self.q_of(child) - min(self.seen)) / spread
        growth = math.log((visits_here + self.pb_c_base + 1) / self.pb_c_base)
        bonus = prior[action] * math.sqrt(visits_here) / (1 + visits)
        return exploit + bonus * (self.pb_c_init + growth)

    def pick(self, scores):
        """The action with the best of `{action: score}`, and a note of how clear it was."""
        ranked = sorted(scores, key=lambda action: -scores[action])
        if len(ranked) > 1:
            self.margin = min(self.margin, scores[ranked[0]] - scores[ranked[1]])
        return ranked[0]

    def visit(self, node, prior, among, depth):
        """One walk from `node`, `depth` moves below the root; returns what it found there."""
        action = self.pick({action: self.score(node, prior, action) for action in among})
        self.deepest = max(self.deepest, depth + 1)
        child = node.children.get(action)
        if child is None:
            reward, value, logits, state = self.model.step(node.state, action)
            child = Node(state, float(reward), float(value), np.asarray(logits, np.float64))
            node.children[action] = child
            gained = child.raw_value
        elif depth + 1 == self.max_depth:
            gained = child.raw_value  # As far as the search may look: the same leaf once more.
        else:
            gained = self.visit(child, softmax(child.logits), range(len(child.logits)), depth + 1)
        child.returns.append(gained)
        self.seen.append(self.q_of(child))
        return child.reward + self.discount * gained

    def run(self, state, value, logits, invalid=None, noise=None, fraction=0.0):
        """Searches from a root; `noise` `[A]` is mixed into the prior of its legal actions."""
        logits = np.asarray(logits, np.float64)
        legal = [a for a in range(len(logits)) if invalid is None or not invalid[a]]
        prior = np.zeros(len(logits))
        prior[legal] = softmax(logits[legal])
        if noise is not None:
            prior = (1 - fraction) * prior + fraction * np.asarray(noise, np.float64)
        root = Node(state, 0.0, float(value), logits)
        for _ in range(self.num_simulations):
            self.visit(root, prior, legal, 0)

        visits = np.zeros(len(logits))
        for action, child in root.children.items():
            visits[action] = len(child.returns)
        best = {a: self.q_of(root.children[a]) for a in legal if visits[a] == visits.max()}
        total = sum(visits[a] * self.q_of(child) for a, child in root.children.items())
        return Result(self.pick(best), visits, total / visits.sum(), self.margin, self.deepest)
