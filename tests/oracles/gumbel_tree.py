"""A plain NumPy Gumbel MuZero search of one root, as a tree of Python objects.

Written from "Policy improvement by planning with Gumbel" (Danihelka et al., 2022): sequential
halving at the root, `argmax(pi' - N / (1 + sum N))` inside, Q-values completed with the mixed value
of its appendix D. Without root noise. Q-values are squeezed into [0, 1] at every node before they
are scaled, as the documentation of mctx says of its `rescale_values`.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np


class Model(NamedTuple):
    """`step(state, action) -> (reward, value, logits [A], next state)`."""

    step: Callable[[Any, int], tuple[float, float, np.ndarray, Any]]


@dataclasses.dataclass
class Node:
    """A position, seen by the player to move."""

    state: Any
    reward: float  # What came with the move into this node, for the one who moved.
    raw_value: float
    logits: np.ndarray
    children: dict[int, "Node"] = dataclasses.field(default_factory=dict)
    returns: list[float] = dataclasses.field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))


class TreeResult(NamedTuple):
    """What one search found; `margin` is the smallest lead of any choice it made."""

    action: int
    policy: np.ndarray
    value: float
    visits: np.ndarray
    q: np.ndarray  # NaN where never visited.
    margin: float


def softmax(logits):
    shifted = np.exp(logits - np.max(logits))
    return shifted / shifted.sum()


class GumbelTree:
    """One search; `discount` is negative for two players who alternate."""

    def __init__(self, model, *, discount, num_simulations, max_considered, value_scale=0.1,
                 maxvisit_init=50.0):
        self.model = model
        self.discount = discount
        self.num_simulations = num_simulations
        self.max_considered = max_considered
        self.value_scale = value_scale
        self.maxvisit_init = maxvisit_init
        self.margin = math.inf

    # Values of one node.

    def visit_counts(self, node):
        counts = np.zeros(len(node.logits))
        for action, child in node.children.items():
            counts[action] = len(child.returns)
        return counts

    def q_of(self, child):
        return child.reward + self.discount * child.mean

    def mixed_value(self, node):
        """Appendix D: raw value and prior-weighted mean of the known Q, weighted 1 : sum N."""
        if not node.children:
            return node.raw_value
        prior = softmax(node.logits)
        mass = sum(prior[a] for a in node.children)
        known = sum(prior[a] * self.q_of(child) for a, child in node.children.items()) / mass
        total = self.visit_counts(node).sum()
        return (node.raw_value + total * known) / (1.0 + total)

    def sigma(self, node):
        """The scaled, completed Q-values `[A]`."""
        completed = np.full(len(node.logits), self.mixed_value(node))
        for action, child in node.children.items():
            completed[action] = self.q_of(child)
        spread = max(completed.max() - completed.min(), 1e-8)
        squeezed = (completed - completed.min()) / spread
        return (self.maxvisit_init + self.visit_counts(node).max()) * self.value_scale * squeezed

    def improved_policy(self, node):
        return softmax(node.logits + self.sigma(node))

    def pick(self, scores, among):
        """The best of `among`, and a note of how clear the choice was."""
        ranked = sorted(among, key=lambda a: -scores[a])
        if len(ranked) > 1:
            self.margin = min(self.margin, scores[ranked[0]] - scores[ranked[1]])
        return ranked[0]

    # One simulation.

    def expand(self, state, action):
        reward, value, logits, next_state = self.model.step(state, action)
        return Node(next_state, float(reward), float(value), np.asarray(logits, np.float64))

    def simulate(self, node, action):
        """Takes `action` at `node`, follows the inner rule to a leaf, returns the value of it."""
        child = node.children.get(action)
        if child is None:
            child = node.children[action] = self.expand(node.state, action)
            gained = child.raw_value
        else:
            counts = self.visit_counts(child)
            scores = self.improved_policy(child) - counts / (1.0 + counts.sum())
            gained = self.simulate(child, self.pick(scores, range(len(scores))))
        child.returns.append(gained)
        return child.reward + self.discount * gained

    # The root.

    def rounds(self, num_legal):
        """Sizes of the rounds of sequential halving: each round visits so many actions once."""
        considered = min(self.max_considered, num_legal)
        phases = math.ceil(math.log2(considered)) if considered > 1 else 1
        spent = 0
        while spent < self.num_simulations:
            for _ in range(max(1, self.num_simulations // (phases * considered))):
                yield considered
                spent += considered
            if considered > 1:
                considered = max(2, considered // 2)

    def run(self, state, value, logits, invalid=None):
        """Searches from a root; `invalid` `[A]` marks what may not be played."""
        logits = np.asarray(logits, np.float64)
        legal = [a for a in range(len(logits)) if invalid is None or not invalid[a]]
        masked = np.full(len(logits), -1e30)
        masked[legal] = logits[legal]
        root = Node(state, 0.0, float(value), masked)

        def score():
            return root.logits + self.sigma(root)

        simulations = 0
        for finished, size in enumerate(self.rounds(len(legal))):
            for _ in range(size):
                if simulations < self.num_simulations:
                    # In a round each survivor gets its visit number `finished + 1`.
                    counts = self.visit_counts(root)
                    waiting = [a for a in legal if counts[a] == finished]
                    self.simulate(root, self.pick(score(), waiting))
                    simulations += 1

        counts = self.visit_counts(root)
        best = self.pick(score(), [a for a in legal if counts[a] == counts.max()])
        policy = self.improved_policy(root)
        q = np.full(len(logits), np.nan)
        for action, child in root.children.items():
            q[action] = self.q_of(child)
        seen = list(root.children)
        value = sum(policy[a] * q[a] for a in seen) / sum(policy[a] for a in seen)
        return TreeResult(best, policy, float(value), counts, q, self.margin)
