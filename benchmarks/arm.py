"""How near an arm comes to 200 targets that it has not seen, in shares of its reach.

  python benchmarks/arm.py --workdir=RUN

Prints the mean distance at the end of an episode, with its 95 % interval, of the run's newest
parameters, searched, and of random play: one line of JSON.
"""

import argparse
import json
from pathlib import Path
import sys

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from learning import mean_and_interval  # noqa: E402
import numpy as np  # noqa: E402

from muzero_jax import actions, load_agent, types  # noqa: E402
from muzero_jax.config import runs  # noqa: E402
from muzero_jax.envs import arm  # noqa: E402

_TARGETS = 200
_SEED = 12345


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="Folder of a run of arm.py.")
    args = parser.parse_args()
    print(json.dumps(judge(args.workdir)))


def judge(workdir: Path) -> dict:
    """Mean and interval of the final distances, by who plays."""
    config = runs.read_config(workdir)
    options = {name: config.env[name] for name in ("max_steps", "bins") if name in config.env}
    env = arm.make_arm(**options)
    agent = load_agent(workdir)
    return {
        "targets": _TARGETS,
        "seed": _SEED,
        "search": mean_and_interval(final_distances(env, agent.act)),
        "random": mean_and_interval(final_distances(env, _random_play(env.spec))),
    }


def final_distances(env: types.Env, act) -> np.ndarray:
    """The distance `[_TARGETS]` in shares of the reach after one whole episode each."""
    keys = jax.random.split(jax.random.key(_SEED), _TARGETS)
    step = jax.jit(jax.vmap(env.step))
    state, timestep = jax.jit(jax.vmap(env.reset))(keys)
    for t in range(env.spec.max_steps):
        action = act(np.asarray(timestep.observation), reward=np.asarray(timestep.reward))
        state, timestep = step(
            state, jnp.asarray(action), jax.random.split(jax.random.key(t), _TARGETS)
        )
    assert bool(timestep.last.all())
    return -np.asarray(timestep.reward) / arm.REACH


def _random_play(spec: types.EnvSpec):
    keys = iter(jax.random.split(jax.random.key(_SEED), spec.max_steps))

    def act(observation, reward):
        return actions.draw(spec.action, next(keys), len(observation))

    return act


if __name__ == "__main__":
    main()
