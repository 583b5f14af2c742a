"""What a network and its model believe of unseen episodes, against what really came."""

from collections.abc import Iterable
import functools
from typing import Any, NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import codecs, losses
from muzero_jax.acting import NO_EXPLORATION
from muzero_jax.distributions import categorical
from muzero_jax.errors import ArgumentError
from muzero_jax.targets import histories_at
from muzero_jax.training.experiment import Agent
from muzero_jax.types import Array, Params, Sample, SearchOutput, Transition

_AT_ONCE = 256  # Positions that one program looks at, those of unrolls counted.
_RESAMPLES = 1_000
_DORMANT = 0.025  # Of the mean activation of a layer (Sokar et al. 2023, section 3).


class Windows(NamedTuple):
    """Positions of episodes, with what lies before and after each.

    Attributes:
      rows: `Transition` `[N, S + 1 + D]` without observations, the position at index S; beyond the
        ends of its episode the first or the last row repeats.
      observations: arrays `[N, S + D, ...]`, of the rows from index 1 on.
      returns: `[N, D + 1]` float64, discounted, from each row to the end of its episode.
      inside: `[N, D + 1]` bool, the row is one of the episode's.
      acted: `[N, D + 1]` bool, and not its last: there a search chose an action.
      episode: `[N]`, which one.
      step: `[N]`, which row of it.
    """

    rows: Transition
    observations: Any
    returns: np.ndarray
    inside: np.ndarray
    acted: np.ndarray
    episode: np.ndarray
    step: np.ndarray


def real_returns(rows: Transition, agent: Agent, discount: float) -> np.ndarray:
    """The discounted return from each row of an episode `[T]` to its end, float64 `[T]`.

    Rewards are those that are learned. An episode that was cut is worth what the search said of its
    last row; so the returns of its newest rows are no facts.

    Args:
      rows: of one episode, the last of them `last`.
      agent: that learns.
      discount: γ per step.
    """
    reward = _learned(agent, rows.reward)
    returns = np.zeros(len(reward))
    returns[-1] = 0.0 if rows.discount[-1] == 0 else rows.value[-1]
    for t in reversed(range(len(reward) - 1)):
        returns[t] = reward[t + 1] + discount * rows.discount[t + 1] * returns[t + 1]
    return returns


def _learned(agent: Agent, reward: np.ndarray) -> np.ndarray:
    """Raw rewards as they are learned, float64."""
    if agent.reward_transform is not None:
        reward = agent.reward_transform(jnp.asarray(reward))
    return np.asarray(reward, np.float64)


def take_windows(
    episodes: list[Transition],
    agent: Agent,
    *,
    discount: float,
    depth: int,
    number: int,
    seed: int = 0,
) -> Windows:
    """Positions drawn at random from episodes, none of them twice.

    Args:
      episodes: of rows of NumPy, as `evaluation.recording` makes them.
      agent: that played.
      discount: γ per step.
      depth: D, rows after each position.
      number: at most so many positions.
      seed: of the draw.

    Raises:
      ArgumentError: where there is none.
    """
    places = [(e, t) for e, rows in enumerate(episodes) for t in range(len(rows.first) - 1)]
    if not places:
        raise ArgumentError("episodes must have steps (there is none)")
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(places), size=min(number, len(places)), replace=False))
    steps, rows, observations, returns, inside, acted = agent.window.history, [], [], [], [], []
    real = [real_returns(x, agent, discount) for x in episodes]
    for e, t in (places[i] for i in chosen):
        last = len(episodes[e].first) - 1
        index = np.arange(t - steps, t + depth + 1)
        clipped = np.clip(index, 0, last)
        taken = _at(episodes[e], clipped)
        rows.append(taken.replace(observation=None))
        observations.append(jax.tree.map(lambda x: x[1:], taken.observation))
        returns.append(real[e][clipped[steps:]])
        inside.append(index[steps:] <= last)
        acted.append(index[steps:] < last)
    return Windows(
        rows=jax.tree.map(lambda *x: np.stack(x), *rows),
        observations=jax.tree.map(lambda *x: np.stack(x), *observations),
        returns=np.stack(returns),
        inside=np.stack(inside),
        acted=np.stack(acted),
        episode=np.array([places[i][0] for i in chosen]),
        step=np.array([places[i][1] for i in chosen]),
    )


class Seen(NamedTuple):
    """What the network says of windows, and the search of their positions; arrays of NumPy.

    Attributes:
      reward: of each step of the model, `[N, D]`.
      value: along the model, from the position itself on, `[N, D + 1]`.
      real_value: of the same rows, from the frames that came, `[N, D + 1]`.
      policy_error: nats by which the policy along the model is worse at what the search of each row
        chose: the Kullback-Leibler divergence where a policy is one over all actions, elsewhere the
        cross-entropy beyond that of the policy from the frames that came; `[N, D + 1]`, NaN where
        the form of a policy is not known.
      entropy: of the network's policy at the position, `[N]`.
      search_entropy: of what the search made of it, `[N]`; NaN where it is not over all actions.
      greedy: whether the search plays what the policy likes best, `[N]` bool.
      distance: of the embedding along the model from that of the frames that came, `[N, D + 1]`.
      embedding: of the position, flat, `[N, size]`.
      found: the `SearchOutput` `[N]` of a search without noise.
    """

    reward: np.ndarray
    value: np.ndarray
    real_value: np.ndarray
    policy_error: np.ndarray
    entropy: np.ndarray
    search_entropy: np.ndarray
    greedy: np.ndarray
    distance: np.ndarray
    embedding: np.ndarray
    found: SearchOutput


def look(agent: Agent, params: Params, windows: Windows, key: chex.PRNGKey) -> Seen:
    """Unrolls the model along what was really done, and searches each position.

    Args:
      agent: the functions.
      params: that it plays with.
      windows: of real episodes.
      key: of what a search draws even without noise.
    """
    number, heads = windows.returns.shape
    size = max(1, min(number, _AT_ONCE // heads))
    seen = []
    one = jax.jit(functools.partial(_look, agent))
    for begin in range(0, number, size):
        # The last ones again in place of what is missing: one program serves all.
        index = np.minimum(np.arange(begin, begin + size), number - 1)
        part = _at((windows.rows, windows.observations), index)
        seen.append(jax.device_get(one(params, jax.random.fold_in(key, begin), *part)))
    return jax.tree.map(lambda *x: np.concatenate(x)[:number], *seen)


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _sample(rows: Transition, observations: Any) -> Sample:
    """Windows `[B]` as what reads the histories of a sample takes them."""
    nothing = dict.fromkeys(Sample.__dataclass_fields__)
    return Sample(**nothing | {"rows": rows, "observations": observations})


def _look(agent: Agent, params: Params, key, rows: Transition, observations) -> Seen:
    steps, network, codec = agent.window.history, agent.network, agent.codecs
    batch, length = rows.first.shape
    depth = length - steps - 1
    sample = _sample(rows, observations)
    history = losses.root_history(sample, steps)
    unrolled = losses.unroll(network, params, history, rows.action[:, steps : steps + depth])
    positions = jnp.broadcast_to(steps + jnp.arange(depth + 1), (batch, depth + 1))
    real = network.initial_inference(params, histories_at(sample, positions, steps))
    real = jax.tree.map(lambda x: x.reshape(batch, depth + 1, *x.shape[1:]), real)
    policy = jax.tree.map(lambda x: x[:, steps:], rows.policy)
    cross, entropy = _policy_errors(codec, policy, unrolled.policy_logits, real.policy_logits)
    predicted, came = _flat(unrolled.embedding, 2), _flat(real.embedding, 2)
    invalid = None if rows.invalid_actions is None else rows.invalid_actions[:, steps]
    found = agent.search(params, key, history, invalid, NO_EXPLORATION)
    logits, prior = unrolled.policy_logits[:, 0], codec.policy or categorical(agent.spec.action)
    mode = prior.mode(logits, invalid)
    legal = logits if invalid is None else jnp.where(invalid, -1e9, logits)
    same = jnp.isclose(mode, found.action) if agent.spec.action.sizes is None else (
        mode == found.action)
    return Seen(
        reward=codec.reward.decode(unrolled.reward_logits[:, 1:]),
        value=codec.value.decode(unrolled.value_logits),
        real_value=codec.value.decode(real.value_logits),
        policy_error=cross,
        entropy=prior.entropy(legal),
        search_entropy=entropy[:, 0],
        greedy=jnp.all(same.reshape(batch, -1), axis=-1),
        distance=jnp.linalg.norm(predicted - came, axis=-1),
        embedding=came[:, 0],
        found=found,
    )


def _policy_errors(codec, policy, logits: Array, real_logits: Array) -> tuple[Array, Array]:
    """(error `[B, D + 1]` of unrolled logits, entropy `[B, D + 1]` of what the search made)."""
    unknown = jnp.full(logits.shape[:2], jnp.nan)
    if isinstance(policy, dict) and {"actions", "weights"} <= policy.keys():
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731

        def cross(logits):
            chance = codec.policy.log_prob(flat(logits), flat(policy["actions"]))
            terms = jnp.where(flat(policy["weights"]) > 0, flat(policy["weights"]) * chance, 0.0)
            return -jnp.sum(terms, axis=-1).reshape(unknown.shape)

        return cross(logits) - cross(real_logits), unknown
    if isinstance(policy, dict) or policy.shape != logits.shape:
        return unknown, unknown
    chance = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.where(policy > 0, policy * jnp.log(policy), 0.0), axis=-1)
    return -jnp.sum(jnp.where(policy > 0, policy * chance, 0.0), axis=-1) - entropy, entropy


def _flat(tree: Any, axes: int) -> Array:
    """The numbers of a pytree, behind the leading axes, as one vector."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.concatenate(
        [x.reshape(*x.shape[:axes], -1).astype(jnp.float32) for x in leaves], axis=-1
    )


def measure(agent: Agent, windows: Windows, seen: Seen) -> dict[str, Any]:
    """The numbers of a report that come from unseen episodes, as JSON; means have 95 % intervals
    over episodes."""
    steps, heads = agent.window.history, windows.returns.shape[1]
    reward = _learned(agent, windows.rows.reward)[:, steps:]
    came, episode = windows.inside[:, 1:], windows.episode
    spread = _spread(seen.embedding)
    errors = {
        "reward": [
            _mean(np.abs(seen.reward[:, k - 1] - reward[:, k]), episode, came[:, k - 1])
            for k in range(1, heads)
        ],
        **{
            name: [
                _mean(x[:, k], episode, windows.acted[:, k] & np.isfinite(x[:, k]))
                for k in range(heads)
            ]
            for name, x in {
                "value": np.abs(seen.value - windows.returns),
                "value_without_model": np.abs(seen.real_value - windows.returns),
                "policy": seen.policy_error,
                "embedding": seen.distance / max(spread, 1e-12),
            }.items()
        },
    }
    root, real, acted = seen.value[:, 0], windows.returns[:, 0], windows.acted[:, 1]
    after = windows.rows.discount[:, steps + 1]
    backed_up = reward[:, 1] + after * seen.real_value[:, 1]
    visits = None if seen.found.tree is None else (seen.found.tree.root_visits > 0).sum(-1)
    edges = None if seen.found.tree is None else (seen.found.tree.root_prior > 0).sum(-1)
    return {
        "positions": len(episode),
        "model": {
            "learned_depth": agent.window.unroll,
            "error": errors,
            "reward_size": float(np.abs(reward[:, 1:][came]).mean()),
            "return_size": float(np.sqrt(np.square(real).mean())),
            "return_spread": float(real.std()),
        },
        "value": {
            "correlation": _correlation(root, real),
            "correlation_with_next": _correlation(root[acted], backed_up[acted]),
            "spread": float(root.std()),
            "bins": _calibration(root, real, episode),
        },
        "policy": {
            "entropy": _mean(seen.entropy, episode),
            "search_entropy": _mean(
                seen.search_entropy, episode, np.isfinite(seen.search_entropy)
            ),
            "most": _most_entropy(agent, windows),
            "search_changes": _mean(~seen.greedy, episode),
            "tried": None if visits is None else _mean(visits, episode),
            "could_try": None if edges is None else _mean(edges, episode),
        },
        "support": {
            "value_outside": _outside(agent.codecs.value, windows.returns[windows.inside]),
            "value_low": float(windows.returns[windows.inside].min()),
            "value_high": float(windows.returns[windows.inside].max()),
            "reward_outside": _outside(agent.codecs.reward, reward[:, 1:][came]),
        },
        "units": {
            "embedding_size": seen.embedding.shape[1],
            "effective_rank": effective_rank(seen.embedding),
            "embedding_spread": float(
                spread / max(np.linalg.norm(seen.embedding, axis=1).mean(), 1e-12)
            ),
            "observation_spread": _observation_spread(windows, steps),
        },
    }


def dormant_share(agent: Agent, params: Params, windows: Windows) -> float | None:
    """The share of units that do next to nothing (Sokar et al. 2023): their mean activation is at
    most 0.025 of their layer's.

    Units are what enters the dense and convolutional layers of flax, but for each network's first
    one, whose input is data. None of a network without such layers.
    """
    steps, count = agent.window.history, min(64, len(windows.episode))
    rows, observations = _at((windows.rows, windows.observations), slice(count))
    sample = _sample(rows, observations)
    history = losses.root_history(sample, steps)

    def run(params):
        layers: list[Array] = []

        def note(call, args, kwargs, context):
            if isinstance(context.module, nn.Dense | nn.Conv) and context.method_name == "__call__":
                layers.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            root = agent.network.initial_inference(params, history)
            first = len(layers)
            agent.network.recurrent_inference(params, root.embedding, rows.action[:, steps])
        kept = [x for i, x in enumerate(layers) if i not in (0, first)]
        return [jnp.mean(jnp.abs(x.astype(jnp.float32)), axis=range(x.ndim - 1)) for x in kept]

    means = jax.device_get(jax.jit(run)(params))
    if not means:
        return None
    dormant = [x <= _DORMANT * x.mean() for x in means]
    return float(np.concatenate(dormant).mean())


def effective_rank(embeddings: np.ndarray) -> float:
    """exp(entropy of the singular values' shares) of embeddings `[N, D]` about their mean (Roy and
    Vetterli 2007): in how many directions they differ."""
    chex.assert_rank(embeddings, 2)
    values = np.linalg.svd(embeddings - embeddings.mean(0), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    share = share[share > 1e-12]
    return float(np.exp(-np.sum(share * np.log(share)))) if len(share) else 0.0


def in_two_dimensions(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings `[N, D]` along their two directions of greatest variance, `[N, 2]`."""
    centered = embeddings - embeddings.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = np.concatenate([axes, np.zeros((2, axes.shape[1]))])[:2]
    return centered @ axes.T


def _mean(x: np.ndarray, episode: np.ndarray, where: np.ndarray | None = None) -> dict[str, Any]:
    """A mean, its 95 % bootstrap interval over episodes (None of fewer than two), and of how many
    numbers."""
    where = np.ones(len(x), bool) if where is None else where
    x, episode = np.asarray(x, np.float64)[where], episode[where]
    if not len(x):
        return {"mean": None, "low": None, "high": None, "number": 0}
    names, index = np.unique(episode, return_inverse=True)
    sums, counts = np.bincount(index, x), np.bincount(index)
    low = high = None
    if len(names) > 1:
        drawn = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        low, high = map(float, np.percentile(means, [2.5, 97.5]))
    return {"mean": float(x.mean()), "low": low, "high": high, "number": len(x)}


def _calibration(value: np.ndarray, real: np.ndarray, episode: np.ndarray) -> list[dict[str, Any]]:
    """Positions in ten groups of equal size by their value: what was said, and what came."""
    groups = np.array_split(np.argsort(value, kind="stable"), min(10, len(value)))
    return [
        {"predicted": float(value[group].mean()), "real": _mean(real[group], episode[group])}
        for group in groups
    ]


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """None where one of the two does not vary."""
    if len(x) < 3 or min(x.std(), y.std()) < 1e-6 * max(1.0, np.abs(x).max(), np.abs(y).max()):
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _spread(embedding: np.ndarray) -> float:
    """Mean distance between embeddings of different positions."""
    order = np.random.default_rng(0).permutation(len(embedding))
    return float(np.linalg.norm(embedding - embedding[order], axis=1).mean())


def _outside(codec, x: np.ndarray) -> float:
    return float(np.mean(codecs.outside(codec, jnp.asarray(x, jnp.float32))))


def _observation_spread(windows: Windows, steps: int) -> float:
    """By how much the numbers of an observation differ between positions, root mean square."""
    newest = [np.asarray(x[:, steps - 1], np.float64).reshape(len(windows.episode), -1)
              for x in jax.tree.leaves(windows.observations)]
    return float(np.sqrt(np.concatenate([x.var(0) for x in newest]).mean()))


def _most_entropy(agent: Agent, windows: Windows) -> float | None:
    """Mean entropy of the uniform policy over legal actions; None of other than one choice."""
    if not agent.spec.action.is_discrete:
        return None
    steps, invalid = agent.window.history, windows.rows.invalid_actions
    if invalid is None:
        return float(np.log(agent.spec.num_actions))
    return float(np.log((~invalid[:, steps]).sum(-1)).mean())


def lengths(episodes: Iterable[Transition]) -> list[int]:
    """Steps of each episode."""
    return [len(rows.first) - 1 for rows in episodes]
