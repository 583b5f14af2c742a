"""Search and learning speed of the papers' Atari networks, in float32 and bfloat16.

  python benchmarks/networks.py          writes results/networks.json

For each network and dtype: simulations per second of one compiled Gumbel search from whole
histories (the representation included), and updates per second of one compiled update on a batch
of windows that lies on the device (sampling is not included). A rate is that of the fastest of
`--repeats` runs after one that compiles. The seed is that of weights and images. By default the
large network unrolls one step, not five: on a CPU it would compile for minutes.

  python benchmarks/networks.py --networks=atari_100k --atari_100k=256,50,256,5 --repeats=5
"""

import argparse
import json
from pathlib import Path
import sys
import time

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax import acting, codecs, learner, losses, targets  # noqa: E402
from muzero_jax.networks.conv import make_conv_network  # noqa: E402
from muzero_jax.search import gumbel  # noqa: E402
from muzero_jax.types import (  # noqa: E402
    ActionSpec,
    ArraySpec,
    Codecs,
    EnvSpec,
    History,
    Sample,
    Transition,
    Window,
)
import published_networks  # noqa: E402

_NETWORKS = {
    "atari_100k": published_networks.ATARI_100K,
    "muzero_atari": published_networks.MUZERO_ATARI,
}
_SPEC = EnvSpec(
    observation=ArraySpec((96, 96, 3), "uint8"),
    action=ActionSpec.discrete(18),
    turn_sign=1,
    truncates=True,
    max_steps=27_000,
)
_BOOTSTRAP, _DISCOUNT = 5, 0.997


def main() -> None:
    flags = _flags()
    begin = provenance()
    networks = [
        measure(name, dtype, *getattr(flags, name), repeats=flags.repeats, seed=flags.seed)
        for name in flags.networks
        for dtype in flags.dtypes
    ]
    command = ["python benchmarks/networks.py", *sys.argv[1:]]
    result = {**begin, "command": " ".join(command), "seed": flags.seed, "networks": networks}
    text = json.dumps(result, indent=1)
    flags.out.parent.mkdir(exist_ok=True)
    flags.out.write_text(text + "\n")
    print(text)


def _flags() -> argparse.Namespace:
    def words(text):
        return text.split(",")

    def sizes(text):
        batch, simulations, update_batch, unroll_steps = map(int, words(text))
        return batch, simulations, update_batch, unroll_steps

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=words, default=list(_NETWORKS))
    parser.add_argument("--dtypes", type=words, default=["float32", "bfloat16"])
    four = "search batch, simulations, update batch, unroll steps"
    parser.add_argument("--atari_100k", type=sizes, default=(16, 8, 16, 5), help=four)
    parser.add_argument("--muzero_atari", type=sizes, default=(2, 4, 2, 1), help=four)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    out = _ROOT / "benchmarks" / "results" / "networks.json"
    parser.add_argument("--out", type=Path, default=out)
    flags = parser.parse_args()
    for name in flags.networks:
        if name not in _NETWORKS:
            parser.error(f"--networks must be among {','.join(_NETWORKS)} (got {name!r})")
    return flags


def measure(
    name: str,
    dtype: str,
    batch: int,
    simulations: int,
    update_batch: int,
    unroll_steps: int,
    *,
    repeats: int,
    seed: int,
) -> dict:
    """Rates and sizes of one network."""
    scalar = codecs.make_two_hot_codec(num_bins=601, low=-300.0, high=300.0)
    codec = Codecs(value=scalar, reward=scalar)
    options = _NETWORKS[name]
    network = make_conv_network(_SPEC, codec, **options, dtype=dtype)
    search_fn = gumbel.make_gumbel_search(
        network,
        codec,
        num_actions=_SPEC.num_actions,
        turn_sign=_SPEC.turn_sign,
        discount=_DISCOUNT,
        num_simulations=simulations,
    )
    optimizer = learner.make_optimizer(learning_rate=1e-3, momentum=0.9)
    window = Window(options["history_steps"], unroll_steps, _BOOTSTRAP)
    update_fn = learner.make_update(
        targets.make_targets(window=window, discount=_DISCOUNT),
        losses.make_loss(network, codec, window=window),
        optimizer,
        target_interval_updates=200,
        importance_exponent=0.4,
    )
    init_key, run_key, image_key = jax.random.split(jax.random.key(seed), 3)
    train = jax.jit(lambda key: learner.init_train_state(network, optimizer, key))(init_key)
    num_parameters = sum(x.size for x in jax.tree.leaves(train.params))
    history = losses.root_history(_sample(image_key, batch, window), window.history)
    search_s = _fastest_search(search_fn, train.params, run_key, history, repeats)
    sample = _sample(image_key, update_batch, window)
    update_s = _fastest_update(update_fn, train, run_key, sample, repeats)
    return {
        "network": name,
        "dtype": dtype,
        "parameters": num_parameters,
        "search_batch": batch,
        "simulations": simulations,
        "simulations_per_s": round(batch * simulations / search_s, 2),
        "update_batch": update_batch,
        "unroll_steps": unroll_steps,
        "updates_per_s": round(1 / update_s, 4),
    }


def _sample(key, batch: int, window: Window) -> Sample:
    """Windows `[batch]` of random images from the middle of long episodes."""
    length = window.history + 1 + window.future
    shape = (batch, length)
    rows = Transition(
        observation=None,
        reward=jnp.ones(shape),
        discount=jnp.ones(shape),
        first=jnp.zeros(shape, bool),
        last=jnp.zeros(shape, bool),
        invalid_actions=None,
        action=jax.random.randint(key, shape, 0, _SPEC.num_actions),
        policy=jnp.full((*shape, _SPEC.num_actions), 1 / _SPEC.num_actions),
        value=jnp.ones(shape),
        explored=jnp.zeros(shape, bool),
        made_at_updates=jnp.zeros(shape, jnp.int32),
    )
    images = jax.random.bits(key, (batch, window.history, *_SPEC.observation_shape), jnp.uint8)
    return Sample(
        rows=rows,
        observations=images,
        index=jnp.zeros((batch, 2), jnp.int32),
        probability=jnp.full((batch,), 1e-3),
        num_drawable=jnp.float32(1_000),
        total_weight=jnp.float32(1_000),
        newest_updates=jnp.int32(0),
    )


def _fastest_search(search_fn, params, key, history: History, repeats: int) -> float:
    run = jax.jit(lambda *args: search_fn(*args).replace(tree=None))

    def seconds(count):
        begin = time.perf_counter()
        run_key = jax.random.fold_in(key, count)
        jax.block_until_ready(run(params, run_key, history, None, acting.NO_EXPLORATION))
        return time.perf_counter() - begin

    return min([seconds(count) for count in range(repeats + 1)][1:])


def _fastest_update(update_fn, train, key, sample: Sample, repeats: int) -> float:
    run = jax.jit(update_fn, donate_argnums=0)
    times = []
    for count in range(repeats + 1):
        begin = time.perf_counter()
        train, output = run(train, jax.random.fold_in(key, count), sample)
        jax.block_until_ready((train, output))
        times.append(time.perf_counter() - begin)
        if not output.applied:
            raise RuntimeError("the update was not finite: its speed means nothing")
    return min(times[1:])


if __name__ == "__main__":
    main()
