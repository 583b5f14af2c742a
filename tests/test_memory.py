"""A recurrent representation learns what a memoryless network cannot: to recall a cue."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero_jax import acting, codecs, learner, losses, replay, targets
from muzero_jax.envs.wrappers import as_host_env, auto_reset
from muzero_jax.evaluation.actors import make_search_player
from muzero_jax.evaluation.episodes import play_episodes
from muzero_jax.loops.anakin import anakin, init_anakin_carry
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.search import gumbel
from muzero_jax.types import (
    ActionSpec,
    ArraySpec,
    Codecs,
    Counters,
    Env,
    EnvSpec,
    Explore,
    RunState,
    TimeStep,
    Window,
)

BLANKS = 3
LENGTH = BLANKS + 2  # Observations of an episode: the cue, blanks, the query.
ENVS, UNROLL, GAMMA = 32, 2, 0.97
SCALAR = codecs.make_two_hot_codec(num_bins=11, low=-1.0, high=1.0, transform="identity")
CODECS = Codecs(value=SCALAR, reward=SCALAR)
EXPLORE = Explore(
    temperature=np.float32(0), noise_scale=np.float32(1), random_move=np.float32(0.1)
)


def make_recall():
    """Shows a cue of 0 or 1, then `BLANKS` times nothing, then asks for it: reward +1 or -1."""
    spec = EnvSpec(
        observation=ArraySpec((3,), "float32"),
        action=ActionSpec.discrete(2),
        turn_sign=1,
        truncates=False,
        max_steps=LENGTH,
    )

    def timestep(cue, age, reward):
        shown = jnp.where(age == 0, jax.nn.one_hot(cue, 2), 0.0)
        asked = age == LENGTH - 1
        last = age == LENGTH
        return TimeStep(
            observation=jnp.append(shown, asked),
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(last, 0.0, 1.0),
            first=age == 0,
            last=last,
            invalid_actions=None,
        )

    def reset(key):
        cue, age = jax.random.randint(key, (), 0, 2), jnp.int32(0)
        return (cue, age), timestep(cue, age, 0.0)

    def step(state, action, key):
        del key
        cue, age = state[0], state[1] + 1
        answer = jnp.where(action == cue, 1.0, -1.0)
        return (cue, age), timestep(cue, age, jnp.where(age == LENGTH, answer, 0.0))

    return auto_reset(Env(spec=spec, reset=reset, step=step), same_step=True)


def test_the_task_shows_its_cue_once():
    """Planted: the cue shown at the query too."""
    env = make_recall()
    rows = []
    state, timestep = env.reset(jax.random.key(0))
    cue = int(state.env[0])
    for _ in range(LENGTH):
        rows.append(timestep)
        state, timestep = env.step(state, jnp.int32(cue), jax.random.key(1))
    seen = np.stack([row.observation for row in rows])
    want = np.zeros((LENGTH, 3))
    want[0, cue], want[-1, 2] = 1, 1
    np.testing.assert_array_equal(seen, want)
    assert [float(row.reward) for row in rows] == [0.0] * LENGTH
    assert timestep.first and timestep.reward == 1.0 and timestep.discount == 0.0


def score_after_training(make_network, history_steps, iterations):
    """Mean score of 256 games without noise."""
    env = make_recall()
    network = make_network(env.spec, CODECS, history_steps=history_steps, width=32)
    search_fn = gumbel.make_gumbel_search(
        network, CODECS, num_actions=2, turn_sign=1, discount=GAMMA, num_simulations=4
    )
    init_key, env_key, run_key, test_key = jax.random.split(jax.random.key(0), 4)
    window = Window(history=history_steps, unroll=UNROLL, bootstrap=LENGTH)
    bootstrap = dict(bootstrap_steps=LENGTH, discount=GAMMA)
    ring = replay.make_replay(
        acting.example_row(
            env.spec, search_fn, jax.eval_shape(network.init, init_key), history_steps
        ),
        targets.make_initial_priority(**bootstrap),
        num_envs=ENVS,
        rows_per_env=256,
        window=window,
        observed_steps=history_steps,
        priority_exponent=0.6,
        priority_floor=0.01,
    )
    optimizer = learner.make_optimizer(learning_rate=3e-3)
    update = learner.make_update(
        targets.make_targets(window=window, discount=GAMMA),
        losses.make_loss(network, CODECS, window=window),
        optimizer,
        target_interval_updates=100,
        importance_exponent=0.4,
    )
    env_state, timestep = jax.vmap(env.reset)(jax.random.split(env_key, ENVS))
    run = RunState(
        train=learner.init_train_state(network, optimizer, init_key),
        replay=ring.init(),
        env=env_state,
        timestep=timestep,
        acting=init_anakin_carry(env.spec, ENVS, history_steps),
        counters=Counters(),
    )
    loop = anakin(
        run,
        rollout=acting.make_rollout(env, search_fn, num_steps=8),
        replay=ring,
        learn=learner.make_learn(ring, update, batch_size=64),
        explore_at=lambda updates: EXPLORE,
        key=run_key,
        min_rows=1024,
        rows_per_update=16,
        steps_per_iteration=8,
    )
    for run, _ in itertools.islice(loop, iterations):
        pass
    player = make_search_player(search_fn, env.spec, history_steps=history_steps)
    games = play_episodes(
        as_host_env(env, 64, test_key), player, run.train.params, run_key, episodes_per_env=4
    )
    assert {game.steps for game in games} == {LENGTH}
    return np.mean([game.score for game in games])


@pytest.mark.slow
def test_a_gru_recalls_what_a_memoryless_network_cannot():
    """Same steps, same updates: right or wrong by chance is a mean score near 0.

    The memoryless network is the MLP with one frame: it does not see its last action either, in
    which it could carry the cue along.

    Its score shows that the task cannot be solved without memory.
    """
    scores = {
        "gru": score_after_training(make_gru_network, LENGTH, 30),
        "memoryless": score_after_training(make_mlp_network, 1, 30),
    }
    print(scores)
    assert scores["gru"] >= 0.95, scores
    assert abs(scores["memoryless"]) <= 0.3, scores
