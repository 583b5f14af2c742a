"""What all searches share. Every maker of a search returns a `SearchFn` of `types.py`."""

import chex
import jax
import jax.numpy as jnp
import mctx

from muzero_jax.types import Array, Codecs, Env, Explore, Network, Params, TimeStep

MIN_LOGIT = -1e30  # Finite: a row without legal actions must not turn into NaN.


def root_of(network: Network, codecs: Codecs, params: Params, history) -> mctx.RootFnOutput:
    """The root that mctx wants, from `History` `[B, S]`."""
    prediction = network.initial_inference(params, history)
    return mctx.RootFnOutput(
        prior_logits=prediction.policy_logits.astype(jnp.float32),
        value=codecs.value.decode(prediction.value_logits),
        embedding=prediction.embedding,
    )


def make_recurrent_fn(network: Network, codecs: Codecs, *, signed_discount: float):
    """The model that mctx steps: `signed_discount` is γ times `turn_sign`.

    Nothing terminates inside the tree: past an end the model has learned reward and value 0
    (MuZero appendix A).
    """

    def recurrent_fn(params, key, action, embedding):
        del key
        prediction = network.recurrent_inference(params, embedding, action)
        reward = codecs.reward.decode(prediction.reward_logits)
        return mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, signed_discount),
            prior_logits=prediction.policy_logits.astype(jnp.float32),
            value=codecs.value.decode(prediction.value_logits),
        ), prediction.embedding

    return recurrent_fn


def exploring_shares(explore: Explore, batch_size: int) -> Array:
    """The share of all exploration that each environment has, `[B]`, by `Explore.spread`.

    Actors that explore to different degrees learn more from one replay than equal ones (Horgan et
    al. 2018, Ape-X, section 4): the quiet ones show what the policy is worth, the noisy ones what
    it has not tried.
    """
    position = jnp.arange(1, batch_size + 1, dtype=jnp.float32) / batch_size
    return position**explore.spread


def noise_scales(explore: Explore, batch_size: int) -> Array:
    """The scale of the root noise of each environment, `[B, 1]`."""
    return explore.noise_scale * exploring_shares(explore, batch_size)[:, None]


def search_value(tree: mctx.Tree, policy: Array) -> Array:
    """Σ π'(a) q(a) / Σ π'(a) over the visited root actions, `[B]`; `policy` is π' `[B, A]`.

    Not the root node's value: under sequential halving that averages over forced visits, and does
    not converge with more simulations.
    """
    summary = tree.summary()
    chex.assert_equal_shape([policy, summary.visit_counts])
    visited = summary.visit_counts > 0
    weight = jnp.where(visited, policy, 0.0)
    # A policy that underflows to 0 on all that was visited leaves nothing to weigh by.
    weight = jnp.where(jnp.any(weight > 0, axis=-1, keepdims=True), weight, visited)
    weight /= jnp.sum(weight, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(visited, weight * summary.qvalues, 0.0), axis=-1)


def legal_actions(invalid_actions: Array | None, shape: tuple[int, ...]) -> Array:
    """The legal actions `[B, A]` bool, all of `shape` where there is no mask."""
    if invalid_actions is None:
        return jnp.ones(shape, bool)
    chex.assert_type(invalid_actions, bool)
    chex.assert_shape(invalid_actions, shape)
    return ~invalid_actions


def choose_action(
    key: chex.PRNGKey,
    greedy: Array,
    policy: Array,
    invalid_actions: Array | None,
    explore: Explore,
) -> tuple[Array, Array]:
    """The action to execute `[B]` and whether it explored `[B]`: the search's choice, or a draw.

    With a temperature τ > 0 it is drawn from `policy` `[B, A]` to the power 1/τ (MuZero appendix
    D); with probability `random_move`, by `spread`, a uniform legal action takes its place, which
    explored where it is another one.
    """
    chex.assert_rank(policy, 2)
    chex.assert_shape(greedy, policy.shape[:1])
    draw_key, random_key, coin_key = jax.random.split(key, 3)
    legal = legal_actions(invalid_actions, policy.shape)
    safe_temperature = jnp.maximum(explore.temperature, 1e-3)
    logits = jnp.log(jnp.maximum(policy, 1e-30)) / safe_temperature
    drawn = jax.random.categorical(draw_key, jnp.where(legal, logits, -jnp.inf))
    action = jnp.where(explore.temperature > 0, drawn, greedy)
    uniform = jax.random.categorical(random_key, jnp.where(legal, 0.0, -jnp.inf))
    random_move = explore.random_move * exploring_shares(explore, action.shape[0])
    coin = jax.random.uniform(coin_key, action.shape) < random_move
    return jnp.where(coin, uniform, action).astype(jnp.int32), coin & (uniform != action)


def legal_at(timestep: TimeStep, num_actions: int) -> Array:
    """The legal actions `[B, A]` bool of a time step `[B]`."""
    return legal_actions(timestep.invalid_actions, (*timestep.reward.shape, num_actions))


def step_envs(env: Env, key: chex.PRNGKey, env_state, action: Array):
    """One step of a batch of environments: `(state [B], TimeStep [B])`."""
    return jax.vmap(env.step)(env_state, action, jax.random.split(key, action.shape[0]))
