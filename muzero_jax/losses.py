"""The unrolled loss. Every maker returns a `LossFn` of `types.py`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from muzero_jax.codecs import clip, outside
from muzero_jax.distributions import categorical_entropy
from muzero_jax.errors import ArgumentError
from muzero_jax.history import check_window, history_from_window
from muzero_jax.types import (
    Array,
    Codec,
    Codecs,
    History,
    LossFn,
    Network,
    Params,
    Policy,
    Prediction,
    Sample,
    Targets,
    Window,
)

PolicyLoss = Callable[[Array, Policy], Array]
Augment = Callable[[chex.PRNGKey, Array], Array]


class Term(NamedTuple):
    """One more part of a loss, such as a consistency of embeddings.

    Attributes:
      loss: `(params, key, Sample, Targets, Prediction [B, K+1]) -> ([B], aux)`: what is added to
        each example's loss, as it is, and `[B]` arrays for metrics. The prediction is that of
        `unroll`, embeddings included.
      observed_steps: frames that it needs after the root's; `Sample.observations` then has as many
        more than S. Those of another episode are among them: `rows.first` says where one begins.
    """

    loss: Callable[
        [Params, chex.PRNGKey, Sample, Targets, Prediction], tuple[Array, dict[str, Array]]
    ]
    observed_steps: int = 0


def policy_cross_entropy(logits: Array, policy: Array) -> Array:
    """Cross-entropy `[...]` of policy logits `[..., A]` against search weights `[..., A]`."""
    chex.assert_equal_shape([logits, policy])
    return optax.softmax_cross_entropy(logits, policy)


def unroll(network: Network, params: Params, history: History, actions: Array) -> Prediction:
    """A root and K recurrent steps along `actions`, with MuZero's gradients (appendix G).

    The gradient into the embedding is halved at the start of each recurrent step; integers and
    flags in an embedding pass as they are.

    Args:
      network: what is unrolled.
      params: of the network.
      history: `[B, S]`, of the roots.
      actions: `[B, K, ...]`, K >= 1.

    Returns:
      `Prediction` `[B, K+1, ...]`, the root first; its embeddings are those that the network made.
    """
    chex.assert_tree_shape_prefix((history, actions), history.valid.shape[:1])
    prediction = network.initial_inference(params, history)

    def step(embedding, action):
        embedding = jax.tree.map(lambda x: scale_gradient(x, 0.5), embedding)
        prediction = network.recurrent_inference(params, embedding, action)
        return prediction.embedding, prediction

    _, unrolled = jax.lax.scan(step, prediction.embedding, jnp.moveaxis(actions, 1, 0), unroll=True)
    return jax.tree.map(
        lambda root, rest: jnp.concatenate([root[:, None], jnp.moveaxis(rest, 0, 1)], axis=1),
        prediction,
        unrolled,
    )


def make_loss(
    network: Network,
    codecs: Codecs,
    *,
    window: Window,
    value_weight: float = 0.25,
    reward_weight: float = 1.0,
    policy_weight: float = 1.0,
    priority_unroll: float = 0.0,
    policy_loss: PolicyLoss = policy_cross_entropy,
    terms: Sequence[Term] = (),
) -> LossFn:
    """MuZero's loss (equation 1, appendix G): K recurrent steps from each root, three heads.

    Heads of the root weigh 1, those of step k >= 1 weigh 1/K; the gradient into the embedding is
    halved at the start of each recurrent step; masked terms add 0 and nothing is renormalised.

    Args:
      network: what learns.
      codecs: of value and reward; their `loss` is used, and the `entropy` of `codecs.policy`.
      window: S and K.
      value_weight: 0.25 in MuZero Reanalyze.
      reward_weight: of the reward head.
      policy_weight: of the policy head.
      priority_unroll: η in [0, 1]. The priority is (1 - η) times the value error of the root and η
        times the largest of the K + 1 (Kapturowski et al. 2019, section 2.3, have a mean and a
        maximum over a sequence). 0 is MuZero's: then rows with which the model is wrong, and not
        the root, are not drawn more often, such as those of a rare action that changes much.
      policy_loss: `(policy logits [..., P], search policy [...]) -> [...]`; of drawn actions
        `distributions.sampled_cross_entropy`.
      terms: what is added to the loss of each example. They need as many frames as
        `observed_steps(window, terms)` says.

    Returns:
      `LossFn`: per-example loss `[B]` without importance weights, and aux of `[B]` arrays with
      `priority`; `root_error` = |root value prediction - root value target|, the target as the
      codec can write it; `value_outside` and `reward_outside` are the shares of each example's
      unmasked targets that it cannot.

    Raises:
      ArgumentError: for an η out of range; while tracing, for two metrics of one name, or for a
        sample with fewer frames than terms read.
    """
    if not 0.0 <= priority_unroll <= 1.0:
        raise ArgumentError(f"priority_unroll must be in [0, 1] (got {priority_unroll})")
    entropy = categorical_entropy if codecs.policy is None else codecs.policy.entropy

    def loss(params, key, sample: Sample, targets: Targets) -> tuple[Array, dict[str, Array]]:
        check_window(sample, window, frames=observed_steps(window, terms), reader="terms")
        heads = (sample.probability.shape[0], window.unroll + 1)
        chex.assert_tree_shape_prefix(targets.replace(policy_age=None), heads)
        scalars = (targets.value, targets.reward)
        masks = (targets.policy_mask, targets.value_mask, targets.reward_mask)
        chex.assert_shape([*scalars, *masks], heads)
        chex.assert_shape(targets.policy_age, heads[:1])
        actions = sample.rows.action[:, window.history : window.history + window.unroll]
        logits = unroll(network, params, root_history(sample, window.history), actions)
        step_weight = jnp.where(jnp.arange(window.unroll + 1) == 0, 1.0, 1.0 / window.unroll)

        def total(head_loss, logits, target, mask):
            # Masked steps are cut off before the loss as well as after it: `where` around the
            # loss alone keeps the sum clean, but sends 0 · inf back through the loss.
            known = mask > 0
            per_step = head_loss(jnp.where(known[..., None], logits, 0.0), target)
            return jnp.sum(jnp.where(known, step_weight * mask * per_step, 0.0), axis=1)

        value = total(codecs.value.loss, logits.value_logits, targets.value, targets.value_mask)
        reward = total(
            codecs.reward.loss, logits.reward_logits, targets.reward, targets.reward_mask
        )
        policy = total(policy_loss, logits.policy_logits, targets.policy, targets.policy_mask)
        # What a head cannot say is no error that learning could make smaller.
        values = codecs.value.decode(logits.value_logits)
        errors = jnp.abs(values - clip(codecs.value, targets.value))
        largest = jnp.max(jnp.where(targets.value_mask > 0, errors, 0.0), axis=1)
        aux = {
            "value_loss": value,
            "reward_loss": reward,
            "policy_loss": policy,
            "root_value": values[:, 0],
            "value_target": targets.value[:, 0],
            "policy_age": targets.policy_age.astype(jnp.float32),
            "policy_entropy": entropy(logits.policy_logits[:, 0]),
            "value_outside": _share_outside(codecs.value, targets.value, targets.value_mask),
            "reward_outside": _share_outside(codecs.reward, targets.reward, targets.reward_mask),
            "root_error": errors[:, 0],
            "priority": (1.0 - priority_unroll) * errors[:, 0] + priority_unroll * largest,
        }
        per_example = value_weight * value + reward_weight * reward + policy_weight * policy
        for i, term in enumerate(terms):
            term_key = jax.random.fold_in(key, i)
            more, more_aux = term.loss(params, term_key, sample, targets, logits)
            chex.assert_equal_shape([per_example, more])
            if taken := aux.keys() & more_aux.keys():
                raise ArgumentError(f"terms: there is a metric {min(taken)!r} already")
            per_example, aux = per_example + more, aux | more_aux
        return per_example, aux

    return loss


def observed_steps(window: Window, terms: Sequence[Term]) -> int:
    """Frames of a sample that a loss with these terms reads: S, and those after the root's."""
    return window.history + max([0, *(term.observed_steps for term in terms)])


def with_augmentation(loss: LossFn, augment: Augment) -> LossFn:
    """The same loss on observations changed at random; targets are made from those stored.

    Args:
      loss: any `LossFn`.
      augment: `(key, observations [B, F, ...]) -> ` the same shapes and dtypes, such as
        `history.random_shift` with its `max_shift`.
    """

    def augmented(params, key, sample: Sample, targets: Targets) -> tuple[Array, dict[str, Array]]:
        augment_key, loss_key = jax.random.split(key)
        observations = augment(augment_key, sample.observations)
        return loss(params, loss_key, sample.replace(observations=observations), targets)

    return augmented


def root_history(sample: Sample, history_steps: int) -> History:
    """The `History` `[B, S]` of every root of a sample."""
    return jax.vmap(
        lambda observations, rows: history_from_window(
            observations, rows, history_steps, history_steps
        )
    )(sample.observations, sample.rows)


def scale_gradient(x: Array, scale: float) -> Array:
    """`x` itself, with its gradient multiplied by `scale`; integers and flags have none."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return x * scale + jax.lax.stop_gradient(x) * (1.0 - scale)


def _share_outside(codec: Codec, target: Array, mask: Array) -> Array:
    """`[B]`: how many of the unmasked targets `[B, K+1]` are beyond the support, as a share."""
    known = mask > 0
    beyond = jnp.sum(outside(codec, target) & known, axis=1)
    return beyond / jnp.maximum(jnp.sum(known, axis=1), 1)
