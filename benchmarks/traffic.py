"""What the usual rules for traffic lights reach, over 200 unseen episodes.

  python benchmarks/traffic.py            prints the result, one line of JSON
  python benchmarks/traffic.py --write    also writes results/traffic_rules.json

Fixed time has the best of ten periods, longest queue first and max-pressure the best of five least
times of green; which one is best is seen on 200 other episodes. An agent's score by the same number
of episodes: `python experiments/evaluate.py --workdir=RUN --episodes=200`.
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
from provenance import provenance  # noqa: E402

from muzero_jax.envs import traffic  # noqa: E402

_EPISODES = 200
_CHOICE, _UNSEEN = 1, 12345
_PERIODS = range(2, 12)
_GREENS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="Keep it in results/.")
    args = parser.parse_args()
    env = traffic.make_traffic()
    result = {
        "episodes": _EPISODES,
        "seeds": {"choice": _CHOICE, "unseen": _UNSEEN},
        "random": score(env, traffic.random_lights()),
        "fixed_time": best(env, traffic.fixed_time, "period", _PERIODS),
        "longest_queue_first": best(env, traffic.longest_queue_first, "min_green", _GREENS),
        "max_pressure": best(env, traffic.max_pressure, "min_green", _GREENS),
    }
    if args.write:
        made = {"command": "python benchmarks/traffic.py --write", **result, **provenance()}
        path = _ROOT / "benchmarks" / "results" / "traffic_rules.json"
        path.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(result))


def best(env, make, name: str, numbers) -> dict:
    """The score of a rule with the number that is best on the episodes of the choice."""
    of_each = jax.vmap(lambda number: returns(env, make(number), _CHOICE))(jnp.array(numbers))
    number = numbers[int(np.argmax(of_each.mean(axis=1)))]
    return {name: number, **score(env, make(number))}


def score(env, rule: traffic.Controller) -> dict:
    """Mean return and its interval."""
    return mean_and_interval(np.asarray(returns(env, rule, _UNSEEN), np.float64))


def returns(env, rule: traffic.Controller, seed: int) -> jax.Array:
    """The returns `[_EPISODES]` of whole episodes."""
    return traffic.controlled_returns(env, rule, jax.random.key(seed), _EPISODES)


if __name__ == "__main__":
    main()
