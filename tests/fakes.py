"""Tiny environments, a search and a learner whose every number can be worked out by hand."""

import contextlib
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np

from muzero_jax import checkpoint, mesh, replay
from muzero_jax.acting import example_row
from muzero_jax.envs.wrappers import auto_reset
from muzero_jax.types import (
    ActionSpec,
    ArraySpec,
    Env,
    EnvSpec,
    Explore,
    HostEnv,
    SearchOutput,
    TimeStep,
    TrainState,
    Window,
)

SPEC = EnvSpec(
    observation=ArraySpec((2,), "float32"),
    action=ActionSpec.discrete(3),
    turn_sign=1,
    truncates=True,
    max_steps=5,
)
EXPLORE = Explore(
    temperature=np.float32(0), noise_scale=np.float32(0.25), random_move=np.float32(0)
)


# Of a program that runs for long, where `conftest` asks for plain ones.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def edited(x: np.ndarray, index, value) -> np.ndarray:
    """A copy of an array of NumPy with one place changed; JAX's would compile a program for it."""
    x = x.copy()
    x[index] = value
    return x


def make_host_env(ids, lengths, *, truncated=(), on_step=lambda action: None):
    """NumPy environments: row n of environment `ids[i]` shows `(id, n)` and brings reward n.

    Next-step resets; its episodes have `lengths[i]` steps, and those in `truncated` end by limit.
    """
    ids, lengths = np.asarray(ids), np.asarray(lengths)
    state = {"row": 0, "age": np.zeros(len(ids), int)}
    limit = np.isin(ids, truncated)

    def timestep(first):
        last = ~first & (state["age"] == lengths)
        return TimeStep(
            observation=np.stack([ids, np.full(len(ids), state["row"])], 1).astype(np.float32),
            reward=np.where(first, 0, state["row"]).astype(np.float32),
            discount=np.where(first | (last & ~limit), 0, 1).astype(np.float32),
            first=first,
            last=last,
            invalid_actions=None,
        )

    def reset():
        return timestep(np.ones(len(ids), bool))

    def step(action):
        on_step(action)
        state["row"] += 1
        first = state["age"] == lengths
        state["age"] = np.where(first, 0, state["age"] + 1)
        return timestep(first)

    return HostEnv(spec=SPEC, num_envs=len(ids), reset=reset, step=step)


def make_jax_env(*, same_step):
    """Shows `(start, age)`, brings the action plus 1, ends (terminated) after 2 to 4 steps."""
    spec = EnvSpec(**{**vars(SPEC), "truncates": False})

    def timestep(state, reward, first, last):
        return TimeStep(
            observation=state.astype(jnp.float32),
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(first | last, 0.0, 1.0),
            first=first,
            last=last,
            invalid_actions=None,
        )

    def reset(key):
        state = jnp.stack([jax.random.randint(key, (), 2, 5), jnp.int32(0)])
        return state, timestep(state, 0.0, jnp.bool_(True), jnp.bool_(False))

    def step(state, action, key):
        del key
        state = state.at[1].add(1)
        return state, timestep(state, action + 1, jnp.bool_(False), state[1] >= state[0])

    return auto_reset(Env(spec=spec, reset=reset, step=step), same_step=same_step)


def search(params, key, history, invalid_actions, explore):
    """Actions by chance and by parameters; the policy repeats the parameter that was seen.

    Whatever has noise over one half claims to have explored.
    """
    del invalid_actions
    batch = history.action.shape[0]
    noise = jax.random.uniform(key, (batch,))
    newest = history.observation[:, -1, 1]
    action = (newest + jnp.floor(3 * noise) + params["w"]).astype(jnp.int32) % SPEC.num_actions
    return SearchOutput(
        action=action,
        policy=jnp.full((batch, SPEC.num_actions), params["w"]),
        value=noise + explore.noise_scale,
        explored=noise > 0.5,
    )


def noise_of(updates):
    """A schedule that moves: the noise scale is the number of attempted updates."""
    return EXPLORE.replace(noise_scale=np.float32(updates))


def search_that_shows_its_noise(params, key, history, invalid_actions, explore):
    """`search`, whose value is the noise scale that it was given."""
    output = search(params, key, history, invalid_actions, explore)
    return output.replace(value=jnp.full_like(output.value, explore.noise_scale))


def make_params(w=0.0):
    """The parameters of `search`."""
    return {"w": jnp.float32(w)}


def make_train():
    """A `TrainState` whose parameter counts the updates."""
    return TrainState(
        params=make_params(),
        target_params=make_params(),
        opt_state=jnp.float32(0),
        step=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
    )


def learn(train, replay_state, key):
    """Adds 1 to the parameter, and remembers something of key and replay."""
    seen = jax.random.uniform(key) + jnp.sum(replay_state.weights)
    train = train.replace(
        params={"w": train.params["w"] + 1}, step=train.step + 1, opt_state=train.opt_state + seen
    )
    metrics = {"loss": train.params["w"], "skipped_in_a_row": jnp.float32(0)}
    return train, replay_state, metrics


def make_replay(num_envs, rows_per_env, spec=SPEC, history_steps=2):
    """The real ring for rows of `search`."""
    return replay.make_replay(
        example_row(spec, search, make_params(), history_steps),
        lambda rows: rows.reward[: rows.reward.shape[0] - 1],
        num_envs=num_envs,
        rows_per_env=rows_per_env,
        window=Window(history=history_steps, unroll=1, bootstrap=1),
        observed_steps=history_steps,
        priority_exponent=1.0,
        priority_floor=0.1,
    )


def on_one_device(iteration):
    """An iteration of a shard without its mesh: a batch of one along the mesh's axis."""
    one = jax.vmap(iteration, in_axes=None, axis_name=mesh.AXIS, axis_size=1)
    return lambda *args: jax.tree.map(lambda x: x[0], one(*args))


def assert_trees_equal(a, b):
    """Bit for bit, leaf by leaf."""
    named_a, named_b = jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(named_a, named_b, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape, jax.tree_util.keystr(path)
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)


def make_newer(step):
    """Marks the step of a checkpoint store, a folder, as one of the format after this one."""
    path = step / "manifest" / "metadata"
    stored = json.loads(path.read_text())
    stored["record"]["format"] += 1
    stored["sha256"] = checkpoint.digest(stored["record"])
    path.write_text(json.dumps(stored))


def take(loop, iterations):
    """Each yield as (counters, metrics), and the last run, read before it is donated."""
    taken = []
    for run, metrics in itertools.islice(loop, iterations):
        taken.append((run.counters, jax.device_get(metrics)))
    return taken, run


@contextlib.contextmanager
def compiled(note):
    """A list of what `note()` was at each program that JAX compiled, or read from its cache."""
    notes = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            notes.append(note())

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield notes
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Gym:
    """A cart that is pushed too far, with the interface of gymnasium and the spaces of CartPole."""

    def __init__(self, limit):
        self.observation_space = types.SimpleNamespace(shape=(4,), dtype=np.float32, low=0)
        self.action_space = types.SimpleNamespace(n=2, shape=(), dtype=np.int64)
        self.spec = types.SimpleNamespace(max_episode_steps=limit)

    def reset(self, *, seed=None):
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._state = self._random.uniform(-0.05, 0.05, 4).astype(np.float32)
        return self._state, {}

    def step(self, action):
        self._state = self._state + np.float32(0.02 if action else -0.01)
        return self._state, float(self._state[1]), bool(self._state[0] > 0.2), False, {}
