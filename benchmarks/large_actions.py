"""What a search costs where there are thousands of actions: each of them an edge, or 32 drawn ones.

  python benchmarks/large_actions.py            prints the result
  python benchmarks/large_actions.py --write    also writes results/large_actions.json

Both Gumbel searches run on the same MLP network (width 128) with the 4,672 actions of chess and 32
simulations, and take turns of four searches each. `seconds` is the fastest search of each,
`first_seconds` the fastest of those that came first in their turn, and so found the caches full of
the other's tree. `tree_bytes` are those of the tree, `temporary_bytes` what the compiled search
needs beside its inputs and outputs, the tree included, and `policy_bytes` what the replay stores of
the policy of one row. Each ratio is flat over sampled. The network is small, so that the search is
what is measured: the larger it is, the less the actions count.
"""

import argparse
import functools
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
from muzero_jax import distributions, search  # noqa: E402
from muzero_jax.types import ActionSpec, ArraySpec, Codecs, EnvSpec, Explore, History  # noqa: E402

_BATCHES = (16, 256)
_SIMULATIONS = 32
_SAMPLES = 32
_WIDTH = 128
_SEARCHES = 4  # Of each turn.
_ACTION = ActionSpec.discrete(4_672)
_SPEC = EnvSpec(
    observation=ArraySpec((64,), "float32"),
    action=_ACTION,
    turn_sign=-1,
    truncates=False,
    max_steps=1_000,
    masked=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="Turns of each.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="Keep it in results/.")
    args = parser.parse_args()
    result = {
        **provenance(),
        "command": " ".join(["python benchmarks/large_actions.py", *sys.argv[1:]]),
        "seed": args.seed,
        "rounds": args.rounds,
        "num_actions": _ACTION.num_actions,
        "num_simulations": _SIMULATIONS,
        "num_samples": _SAMPLES,
        "network": f"mlp, width {_WIDTH}",
        "runs": [compare(batch, args.rounds, args.seed) for batch in _BATCHES],
    }
    text = json.dumps(result, indent=1)
    if args.write:
        (_ROOT / "benchmarks" / "results" / "large_actions.json").write_text(text + "\n")
    print(text)


def compare(batch: int, rounds: int, seed: int) -> dict:
    """Seconds, bytes of the tree and bytes of a policy, of both searches of one batch."""
    scalar = mj.make_two_hot_codec(num_bins=21, low=-1.0, high=1.0)
    codecs = Codecs(value=scalar, reward=scalar)
    network = mj.make_mlp_network(_SPEC, codecs, history_steps=1, width=_WIDTH)
    init_key, frame_key, mask_key, key = jax.random.split(jax.random.key(seed), 4)
    params = jax.jit(network.init)(init_key)
    flat = search.learned_model(network, codecs, action=_ACTION, discount=1.0, turn_sign=-1)
    models = {
        "flat": flat,
        "sampled": search.sampled_model(
            flat, distributions.categorical(_ACTION), num_samples=_SAMPLES
        ),
    }
    history = History(
        observation=jax.random.normal(frame_key, (batch, 1, 64)),
        action=jnp.zeros((batch, 1), jnp.int32),
        reward=jnp.zeros((batch, 1)),
        valid=jnp.ones((batch, 1), bool),
    )
    # A position of chess has some 35 legal moves.
    invalid = jax.random.uniform(mask_key, (batch, _ACTION.num_actions)) > 35 / 4_672
    invalid = invalid.at[:, 0].set(False)
    explore = Explore(
        temperature=jnp.float32(0), noise_scale=jnp.float32(1), random_move=jnp.float32(0)
    )
    never = float("inf")
    run, found = {}, {name: {"seconds": never, "first_seconds": never} for name in models}
    for name, model in models.items():
        plan = search.gumbel_plan(num_simulations=_SIMULATIONS)
        lowered = jax.jit(_as_acting(search.make_search(model, plan))).lower(
            params, key, history, invalid, explore
        )
        run[name] = lowered.compile()
        found[name]["policy_bytes"] = _bytes(lowered.out_info.policy) // batch
        tree = functools.partial(_tree, model)
        found[name]["tree_bytes"] = _bytes(jax.eval_shape(tree, params, key, history, invalid))
        found[name]["temporary_bytes"] = run[name].memory_analysis().temp_size_in_bytes
    for turn in range(rounds):
        for name in models:
            took = []
            for number in range(_SEARCHES):
                drawn = jax.random.fold_in(key, turn * _SEARCHES + number)
                begin = time.perf_counter()
                jax.block_until_ready(run[name](params, drawn, history, invalid, explore))
                took.append(time.perf_counter() - begin)
            best = found[name]
            best["seconds"] = min(best["seconds"], *took)
            best["first_seconds"] = min(best["first_seconds"], took[0])
    ratios = {
        f"{field}_ratio": found["flat"][field] / found["sampled"][field]
        for field in found["flat"]
    }
    return {"batch": batch, **found, **ratios}


def _as_acting(searched):
    """The search as a program that acts has it: nothing is made for people to look at."""
    return lambda *args: searched(*args).replace(tree=None)


def _tree(model, params, key, history, invalid):
    """The tree that mctx keeps."""
    root = model.root(params, key, history, invalid)
    return mctx.gumbel_muzero_policy(
        params, key, root.node, model.step, _SIMULATIONS, root.invalid_edges
    ).search_tree


def _bytes(arrays) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


if __name__ == "__main__":
    main()
