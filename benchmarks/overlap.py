"""How much of the environments' time the host loop hides behind the device's.

  python benchmarks/overlap.py          writes results/overlap.json

Three measurements, each a ratio taken in one run:
- `work`: a host step that sleeps 20 ms and a search of about 20 ms of real work; `ratio` is the
  loop's seconds over those of the same group steps one after the other (0.5 is all that can be had
  with two groups);
- `callback`: the same, with a search that sleeps 20 ms in a `jax.pure_callback`;
- `atari`: configs/atari.py, acting only; `loop_over_serial` is the loop's steps per second over
  1/(1/env + 1/search), each of which is measured alone with all cores.
"""

import itertools
import json
from pathlib import Path
import sys
import time

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from configs import atari  # noqa: E402
import fakes  # noqa: E402
from muzero_jax import acting  # noqa: E402
from muzero_jax.loops.sebulba import sebulba  # noqa: E402
from muzero_jax.types import Counters, RunState  # noqa: E402

_SLEEP_S = 0.02
_NEVER = 2**40  # Rows before the first update: acting alone is measured.
_STEPS = 10
_GROUP_STEPS = 200


def main() -> None:
    result = {
        **provenance(),
        "command": "python benchmarks/overlap.py",
        "work": sleeping(_GROUP_STEPS, callback=False),
        "callback": sleeping(_GROUP_STEPS, callback=True),
        "atari": atari_acting(_GROUP_STEPS),
    }
    text = json.dumps(result, indent=1)
    results = _ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "overlap.json").write_text(text + "\n")
    print(text)


def sleeping(group_steps: int, callback: bool) -> dict[str, float]:
    """Seconds of the same group steps, one after the other and in the loop."""

    def nap(value):
        time.sleep(_SLEEP_S)
        return value

    def search(params, key, history, invalid_actions, explore):
        output = fakes.search(params, key, history, invalid_actions, explore)
        if not callback:
            return output.replace(action=output.action + _work(output.value, repeats))
        shape = jax.ShapeDtypeStruct(output.action.shape, output.action.dtype)
        return output.replace(action=jax.pure_callback(nap, shape, output.action))

    repeats = _calibrate()

    def make_envs():
        return [
            fakes.make_host_env([2 * g, 2 * g + 1], [50, 50], on_step=lambda action: nap(None))
            for g in range(2)
        ]

    ring = fakes.make_replay(4, 1024)
    act_and_add = acting.make_act_and_add(search, ring)
    carries = [acting.init_carry(fakes.SPEC, 2, 2) for _ in range(2)]
    serial_s = _serial(make_envs(), act_and_add, fakes.make_params(), ring.init(), group_steps)
    run = RunState(
        train=fakes.make_train(),
        replay=ring.init(),
        env=None,
        timestep=None,
        acting=tuple(jax.tree.map(jnp.copy, carry) for carry in carries),
        counters=Counters(),
    )
    loop = sebulba(
        run,
        envs=make_envs(),
        act_and_add=act_and_add,
        learn=fakes.learn,
        explore_at=lambda updates: acting.NO_EXPLORATION,
        key=jax.random.key(0),
        min_rows=_NEVER,
        rows_per_update=2,
        steps_per_iteration=_STEPS,
    )
    loop_s = _time_loop(loop, group_steps // (2 * _STEPS))
    return {"serial_s": serial_s, "loop_s": loop_s, "ratio": loop_s / serial_s}


def _work(value, repeats):
    """Zero, after a chain of matrix products."""
    matrix = jnp.full((128, 128), value[0])
    last = jax.lax.fori_loop(0, repeats, lambda i, x: jnp.tanh(x @ matrix), matrix)
    return jnp.where(jnp.isnan(jnp.sum(last)), 1, 0)


def _calibrate():
    """How many matrix products take as long as the host sleeps."""
    work, repeats = jax.jit(_work), 1
    while True:
        value = jnp.ones((1,))
        jax.block_until_ready(work(value, repeats))
        begin = time.perf_counter()
        jax.block_until_ready(work(value, repeats))
        if time.perf_counter() - begin >= _SLEEP_S:
            return repeats
        repeats = int(repeats * 1.2) + 1


def _serial(envs, act_and_add, params, replay, group_steps):
    act = jax.jit(act_and_add, donate_argnums=(1, 2))
    carry, timestep = acting.init_carry(envs[0].spec, envs[0].num_envs, 2), envs[0].reset()
    for step in range(group_steps + 1):
        if step == 1:  # The first one compiled.
            begin = time.perf_counter()
        key = jax.random.key(step)
        replay, carry, _ = act(
            params, replay, carry, timestep, np.int32(0), key, acting.NO_EXPLORATION, np.int32(0)
        )
        timestep = envs[0].step(jax.device_get(carry.action))
    return time.perf_counter() - begin


def _time_loop(loop, iterations):
    run, _ = next(loop)  # Compiles.
    jax.block_until_ready(run.acting)
    begin = time.perf_counter()
    for run, _ in itertools.islice(loop, iterations):
        pass
    jax.block_until_ready(run.acting)
    return time.perf_counter() - begin


def atari_acting(group_steps: int) -> dict[str, float]:
    """Environment steps per second of emulators, of search, and of the loop that joins them."""
    from muzero_jax.config import build
    from muzero_jax.training import saving

    config = atari.get_config("Pong")
    config.replay.update(min_rows=_NEVER)
    config.loop.steps_per_iteration = 1
    config.loop.probe_interval_iterations = 0
    experiment = build.experiment(config)
    size = config.env.num_envs // config.env.num_groups
    env = experiment.eval_env(list(range(size)))
    env_per_s = size / _env_step_s(env, group_steps)
    search_per_s = size / _search_step_s(experiment, env, config, group_steps)
    loop = experiment.run(saving.new_run(experiment))
    iterations = max(1, group_steps // config.env.num_groups)
    loop_per_s = iterations * config.env.num_envs / _time_loop(loop, iterations)
    serial_per_s = 1 / (1 / env_per_s + 1 / search_per_s)
    return {
        "env_per_s": env_per_s,
        "search_per_s": search_per_s,
        "serial_per_s": serial_per_s,
        "loop_per_s": loop_per_s,
        "loop_over_serial": loop_per_s / serial_per_s,
    }


def _env_step_s(env, steps):
    random = np.random.default_rng(0)
    env.reset()
    begin = time.perf_counter()
    for _ in range(steps):
        env.step(random.integers(0, env.spec.num_actions, env.num_envs).astype(np.int32))
    return (time.perf_counter() - begin) / steps


def _search_step_s(experiment, env, config, steps):
    agent, ring = experiment.agent, experiment.replay
    act = jax.jit(acting.make_act_and_add(agent.search, ring), donate_argnums=(1, 2))
    params, replay = agent.init_train(jax.random.key(0)).params, ring.init()
    carry = acting.init_carry(agent.spec, env.num_envs, config.network.history_steps)
    timestep = env.step(np.zeros(env.num_envs, np.int32))
    for step in range(steps + 1):
        if step == 1:
            jax.block_until_ready(carry)
            begin = time.perf_counter()
        key = jax.random.key(step)
        explore = agent.explore_at(0)
        replay, carry, _ = act(
            params, replay, carry, timestep, np.int32(0), key, explore, np.int32(0)
        )
        jax.device_get(carry.action)
    return (time.perf_counter() - begin) / steps


if __name__ == "__main__":
    main()
