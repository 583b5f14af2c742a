"""Traffic lights on a ring of crossings, and the rules that usually control them.

At each crossing cars wait in four queues, by where they go: north, south, east, west. The light is
green for the first two or for the last two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from muzero_jax import errors, types
from muzero_jax.envs import wrappers

PASSES = 3  # Cars of a queue that pass a green light in one step.
GOES_ON = 0.5  # Probability that one that goes east or west comes to the next crossing.
LONGEST = 50  # Cars of a queue; more find it full and go another way.
RATES = (0.1, 0.4)  # Probability of a new car in a step, drawn for each queue and episode.
SCALE = 10.0  # Cars, in an observation of 1.
NORTH, SOUTH, EAST, WEST = range(4)


@chex.dataclass(frozen=True)
class TrafficState:
    """What an episode is at.

    Attributes:
      queues: `[L, 4]` int32, cars that wait.
      lights: `[L]` int32, 0 where north and south are green, 1 where east and west are.
      rates: `[L, 4]` float32, probability of a new car in a step.
      steps: `[]` int32, how many are over.
    """

    queues: types.Array
    lights: types.Array
    rates: types.Array
    steps: types.Array


def make_traffic(*, crossings: int = 10, max_steps: int = 60) -> types.Env:
    """Makes a ring of L crossings, whose lights are switched all at once.

    The action `[L]` is the light that each crossing is to have. Where it differs from the present
    one the step is amber: nobody passes. Else up to `PASSES` cars of each green queue do; of those
    that go east (west) a half comes to the queue for east (west) of the next crossing (the one
    before), the others leave. The reward is minus the mean number of cars in a queue. An episode
    begins with up to 5 cars in each and is truncated after `max_steps` steps. The observation is a
    dict of the queues `[L, 4]`, in tens of cars, and the lights `[L]`, True for east and west.
    """
    for name, size in (("crossings", crossings), ("max_steps", max_steps)):
        if size < 1:
            raise errors.ArgumentError(f"{name} {size} must be >= 1")
    spec = types.EnvSpec(
        observation={
            "queues": types.ArraySpec((crossings, 4), "float32"),
            "lights": types.ArraySpec((crossings,), "bool"),
        },
        action=types.ActionSpec.several((2,) * crossings),
        turn_sign=1,
        truncates=True,
        max_steps=max_steps,
    )

    def timestep(state, *, reward, first):
        return types.TimeStep(
            observation={"queues": state.queues / SCALE, "lights": state.lights == 1},
            reward=reward,
            discount=jnp.where(first, 0.0, 1.0),
            first=first,
            last=state.steps == max_steps,
            invalid_actions=None,
        )

    def reset(key):
        queue_key, light_key, rate_key = jax.random.split(key, 3)
        low, high = RATES
        state = TrafficState(
            queues=jax.random.randint(queue_key, (crossings, 4), 0, 6),
            lights=jax.random.randint(light_key, (crossings,), 0, 2),
            rates=jax.random.uniform(rate_key, (crossings, 4), minval=low, maxval=high),
            steps=jnp.zeros((), jnp.int32),
        )
        return state, timestep(state, reward=jnp.zeros(()), first=jnp.ones((), bool))

    def step(state, action, key):
        go_key, new_key = jax.random.split(key)
        green = jnp.stack([action == 0, action == 0, action == 1, action == 1], axis=1)
        green &= (action == state.lights)[:, None]
        passed = jnp.where(green, jnp.minimum(state.queues, PASSES), 0)
        each = jax.random.bernoulli(go_key, GOES_ON, (crossings, 2, PASSES))
        each &= jnp.arange(PASSES) < passed[:, EAST:, None]
        going = each.sum(axis=2)
        came = jax.random.bernoulli(new_key, state.rates).astype(jnp.int32)
        came = came.at[:, EAST].add(jnp.roll(going[:, 0], 1))
        came = came.at[:, WEST].add(jnp.roll(going[:, 1], -1))
        state = state.replace(
            queues=jnp.minimum(state.queues - passed + came, LONGEST),
            lights=action.astype(jnp.int32),
            steps=state.steps + 1,
        )
        reward = -jnp.mean(state.queues.astype(jnp.float32))
        return state, timestep(state, reward=reward, first=jnp.zeros((), bool))

    return wrappers.auto_reset(types.Env(spec=spec, reset=reset, step=step), same_step=False)


class Controller(NamedTuple):
    """A rule for the lights of one ring.

    Attributes:
      init: `(L) -> memory` at the start of an episode.
      act: `(memory, observation, key) -> (memory, action [L])`.
    """

    init: Callable[[int], Any]
    act: Callable[[Any, dict[str, types.Array], chex.PRNGKey], tuple[Any, types.Array]]


def random_lights() -> Controller:
    """Every light at random in every step."""

    def act(memory, observation, key):
        return memory, jax.random.randint(key, observation["lights"].shape, 0, 2)

    return Controller(lambda crossings: (), act)


def fixed_time(period: int) -> Controller:
    """All lights together, each way for `period` steps, of which the first is amber."""

    def act(steps, observation, key):
        del key
        lights = observation["lights"]
        return steps + 1, jnp.full(lights.shape, (steps // period) % 2)

    return Controller(lambda crossings: jnp.zeros((), jnp.int32), act)


def longest_queue_first(min_green: int) -> Controller:
    """Green where more cars wait, once a light has been the same for `min_green` steps."""
    return _greatest_first(min_green, lambda queues: queues)


def max_pressure(min_green: int) -> Controller:
    """Green where the pressure is greater (Varaiya 2013), after `min_green` steps of one light.

    The pressure of a queue is its cars, less those that wait where its cars go on to, times the
    share that goes on.
    """

    def pressure(queues):
        queues = queues.at[:, EAST].add(-GOES_ON * jnp.roll(queues[:, EAST], -1))
        return queues.at[:, WEST].add(-GOES_ON * jnp.roll(queues[:, WEST], 1))

    return _greatest_first(min_green, pressure)


def _greatest_first(min_green: int, weigh: Callable[[types.Array], types.Array]) -> Controller:
    """Green for the pair of queues of greater weight; the light stays where both are equal."""

    def act(ages, observation, key):
        del key
        weight = weigh(observation["queues"])
        now = observation["lights"].astype(jnp.int32)
        north_south, east_west = weight[:, :EAST].sum(axis=1), weight[:, EAST:].sum(axis=1)
        wanted = jnp.where(north_south == east_west, now, north_south < east_west)
        change = (wanted != now) & (ages >= min_green)
        return jnp.where(change, 0, ages + 1), jnp.where(change, wanted, now)

    return Controller(lambda crossings: jnp.full((crossings,), min_green), act)


def controlled_returns(
    env: types.Env, controller: Controller, key: chex.PRNGKey, episodes: int
) -> types.Array:
    """The returns `[episodes]` of whole episodes, each with a key of its own."""
    crossings = env.spec.action.shape[0]

    def play(key):
        reset_key, key = jax.random.split(key)
        state, timestep = env.reset(reset_key)

        def step(carry, key):
            state, observation, memory = carry
            act_key, step_key = jax.random.split(key)
            memory, action = controller.act(memory, observation, act_key)
            state, timestep = env.step(state, action.astype(jnp.int32), step_key)
            return (state, timestep.observation, memory), timestep.reward

        start = (state, timestep.observation, controller.init(crossings))
        return jax.lax.scan(step, start, jax.random.split(key, env.spec.max_steps))[1].sum()

    return jax.jit(jax.vmap(play))(jax.random.split(key, episodes))
