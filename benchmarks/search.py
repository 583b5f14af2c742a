"""Seconds of the searches side by side: ours, published and Gumbel, and mctx's `muzero_policy`.

  python benchmarks/search.py            prints the result
  python benchmarks/search.py --write    also writes results/search.json

Every search runs on the same MLP network (width 128, 18 actions) with root noise. For each batch
and number of simulations they take turns, round by round, and the best round of each counts;
`mctx_over_ours` and `gumbel_over_ours` are ratios of those, and `per_s` are simulations per second.
The network is random: a trained one searches deeper or shallower trees.
"""

import argparse
import json
from pathlib import Path
import sys
import time

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mctx  # noqa: E402
from provenance import provenance  # noqa: E402

import muzero_jax as mj  # noqa: E402
from muzero_jax.search import learned_model, search_value  # noqa: E402
from muzero_jax.types import (  # noqa: E402
    ActionSpec,
    ArraySpec,
    Codecs,
    EnvSpec,
    Explore,
    History,
    SearchOutput,
)

_BATCHES = (1, 32, 128)
_SIMULATIONS = (16, 50)
_DISCOUNT = 0.997
_SPEC = EnvSpec(
    observation=ArraySpec((8,), "float32"),
    action=ActionSpec.discrete(18),
    turn_sign=1,
    truncates=True,
    max_steps=1000,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="Timed rounds of each.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="Keep it in results/search.json.")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error("--rounds: at least 5, or the best of them says little")
    result = {
        **provenance(),
        "command": " ".join(["python benchmarks/search.py", *sys.argv[1:]]),
        "seed": args.seed,
        "rounds": args.rounds,
        "num_actions": _SPEC.num_actions,
        "runs": [
            compare(batch, simulations, args.rounds, args.seed)
            for batch in _BATCHES
            for simulations in _SIMULATIONS
        ],
    }
    text = json.dumps(result, indent=1)
    if args.write:
        results = _ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / "search.json").write_text(text + "\n")
    print(text)


def compare(batch: int, num_simulations: int, rounds: int, seed: int) -> dict:
    """Best seconds of each search at one batch size, taken in turns."""
    scalar = mj.make_two_hot_codec(num_bins=41, low=-10.0, high=10.0)
    codecs = Codecs(value=scalar, reward=scalar)
    network = mj.make_mlp_network(_SPEC, codecs, history_steps=1, width=128)
    init_key, frame_key, run_key = jax.random.split(jax.random.key(seed), 3)
    params = _spread(jax.jit(network.init)(init_key), init_key)
    size = dict(num_actions=18, turn_sign=1, discount=_DISCOUNT, num_simulations=num_simulations)
    searches = {
        "ours": mj.make_muzero_search(network, codecs, **size),
        "gumbel": mj.make_gumbel_search(network, codecs, **size),
        "mctx": _mctx_search(network, codecs, num_simulations),
    }
    searches = {name: jax.jit(_as_acting(search)) for name, search in searches.items()}
    history = History(
        observation=jax.random.normal(frame_key, (batch, 1, 8)),
        action=jnp.zeros((batch, 1), jnp.int32),
        reward=jnp.zeros((batch, 1)),
        valid=jnp.ones((batch, 1), bool),
    )
    explore = Explore(
        temperature=jnp.float32(1), noise_scale=jnp.float32(0.25), random_move=jnp.float32(0)
    )
    best = dict.fromkeys(searches, float("inf"))
    for turn in range(-1, rounds):  # Turn -1 compiles.
        key = jax.random.fold_in(run_key, turn + 1)
        for name, search in searches.items():
            begin = time.perf_counter()
            jax.block_until_ready(search(params, key, history, None, explore))
            if turn >= 0:
                best[name] = min(best[name], time.perf_counter() - begin)
    return {
        "batch": batch,
        "num_simulations": num_simulations,
        "seconds": best,
        "per_s": {name: batch * num_simulations / took for name, took in best.items()},
        "mctx_over_ours": best["mctx"] / best["ours"],
        "gumbel_over_ours": best["gumbel"] / best["ours"],
    }


def _as_acting(search):
    """The search as a program that acts has it: nothing is made for people to look at."""
    return lambda *args: search(*args).replace(tree=None)


def _spread(params, key):
    """Parameters with noise: a fresh network's last layers are zero, and all its priors tie."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(structure, leaves)


def _mctx_search(network, codecs, num_simulations):
    """`mctx.muzero_policy` as it comes, with the signature `SearchFn`."""
    model = learned_model(network, codecs, action=_SPEC.action, discount=_DISCOUNT, turn_sign=1)

    def search(params, key, history, invalid_actions, explore):
        output = mctx.muzero_policy(
            params,
            key,
            model.root(params, key, history, invalid_actions).node,
            model.step,
            num_simulations,
            invalid_actions,
            dirichlet_fraction=explore.noise_scale,
            temperature=explore.temperature,
        )
        policy = output.action_weights
        value = search_value(output.search_tree, policy)
        explored = jnp.zeros(value.shape, bool)
        return SearchOutput(action=output.action, policy=policy, value=value, explored=explored)

    return search


if __name__ == "__main__":
    main()
