"""How much of what the search adds to the policy is signal: measured while a run learns.

  python benchmarks/search_noise.py --config=atari.py:Breakout --write=breakout
  python benchmarks/search_noise.py --config=atari.py:Breakout --write=breakout_floor_0.01 \\
      search.min_value_range=0.01 targets.bootstrap_steps=5

Trains by a config of `configs/` (words of the form field=value change it), and looks at the newest
rows of the replay every 20,000 env steps: at 4,096 of them, drawn uniformly among the newest 600 of
each environment that 20 more have followed. For each, the model's one-step Q of every action,
q(a) = r(s, a) + γ v(g(s, a)), is compared with what happened: the return of n steps from the row,
in rewards as they are learned, which bootstraps from the value of the row where it ends. All values
are of the newest parameters. Where Q is exact, the regression of the realised advantage,
G_n - v(s), on the predicted one, q(a) - Σ π q at the action a that was played, has a slope of 1;
where the differences of Q are noise, of 0. That slope is the share of signal in the variance of Q.
A slope above 1 says that the values see less far than n steps.

Prints a line of JSON for each look; --write=NAME keeps all in results/search_noise/NAME.json, which
is whole after each of them.

  python benchmarks/search_noise.py --draw

draws all files of results/search_noise into results/search_noise.png.
"""

import argparse
import ast
import gc
import importlib
import itertools
import json
from pathlib import Path
import sys
import tempfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax import replay, returns, targets, training  # noqa: E402
from muzero_jax.acting import NO_EXPLORATION  # noqa: E402
from muzero_jax.config import build, runs, schema  # noqa: E402
from muzero_jax.training.timing import crossed  # noqa: E402
from muzero_jax.types import Window  # noqa: E402

STEPS = (1, 5, 10, 20)  # n of the returns.
BATCH, BATCHES = 256, 16
NEWEST = 600  # Rows of each environment.
LOOK_EVERY = 20_000  # Env steps.


def make_look(config, parts):
    """`(params, replay state, key) -> ` arrays `[BATCH, ...]` of as many rows."""
    history_steps, discount = config.network.history_steps, config.targets.discount
    bootstrap_steps = config.targets.bootstrap_steps
    future = max(*STEPS, bootstrap_steps)
    num_actions = parts.spec.num_actions
    ring = replay.make_replay(  # The run's own ring, but windows with frames up to the last return.
        parts.row,
        lambda rows: jnp.ones(rows.reward.shape[0] - bootstrap_steps),
        num_envs=config.env.num_envs,
        rows_per_env=config.replay.rows_per_env,
        window=Window(history_steps, future - bootstrap_steps, bootstrap_steps),
        observed_steps=history_steps + future,
        priority_exponent=0.0,
        priority_floor=1.0,
    )

    def value_of(logits):
        return parts.codecs.value.decode(logits)

    @jax.jit
    def look(params, state, key):
        slots = jnp.arange(state.weights.shape[1])
        age = (state.cursor[:, None] - 1 - slots) % len(slots)
        oldest = jnp.minimum(state.filled[:, None] - history_steps - 1, NEWEST + future)
        drawable = (age >= future) & (age < oldest) & ~state.rows.last
        sample = ring.sample(state.replace(weights=drawable.astype(jnp.float32)), key, BATCH)
        rows = sample.rows
        rewards = rows.reward
        if parts.reward_transform is not None:
            rewards = parts.reward_transform(rewards)
        positions = history_steps + jnp.array((0, *STEPS))
        positions = jnp.broadcast_to(positions, (BATCH, len(STEPS) + 1))
        histories = targets.histories_at(sample, positions, history_steps)
        predictions = parts.network.initial_inference(params, histories)
        values = value_of(predictions.value_logits).reshape(positions.shape)
        root, history = jax.tree.map(
            lambda x: x.reshape(*positions.shape, *x.shape[1:])[:, 0],
            (predictions.replace(reward_logits=None), histories),
        )

        def q_of(action):
            after = parts.network.recurrent_inference(
                params, root.embedding, jnp.full((BATCH,), action, jnp.int32)
            )
            reward = parts.codecs.reward.decode(after.reward_logits)
            return reward + discount * value_of(after.value_logits)

        realised = []
        for i, n in enumerate(STEPS):
            window = slice(history_steps, history_steps + n + 1)
            one = jnp.full((1,), n, jnp.int32)
            realised.append(
                jax.vmap(
                    lambda r, d, v, n=n, one=one: returns.n_step_returns(
                        r, d, one, v[None], n=n, gamma=discount
                    )[0]
                )(rewards[:, window], rows.discount[:, window], values[:, i + 1])
            )
        searched = parts.search(params, key, history, None, NO_EXPLORATION)
        return {
            "value": values[:, 0],
            "prior": jax.nn.softmax(root.policy_logits),
            "improved": searched.policy,
            "q": jnp.stack([q_of(action) for action in range(num_actions)], axis=-1),
            "realised": jnp.stack(realised, axis=-1),
            "action": rows.action[:, history_steps],
            "whole": ~jnp.any(rows.last[:, history_steps:], axis=1)
            & ~rows.explored[:, history_steps],
            "rewarded": rewards[:, history_steps + 1] != 0,
            "ended": rows.discount[:, history_steps + 1] == 0,
        }

    return look


def summarise(seen: dict[str, np.ndarray]) -> dict:
    """The numbers of one look."""
    prior, improved, q = seen["prior"], seen["improved"], seen["q"]
    entropy = lambda p: -np.sum(p * np.log(p + 1e-12), axis=-1)  # noqa: E731
    change = np.sum(improved * (np.log(improved + 1e-12) - np.log(prior + 1e-12)), axis=-1)
    spread = np.ptp(q, axis=-1)
    played = np.take_along_axis(q, seen["action"][:, None], axis=-1)[:, 0]
    whole = seen["whole"]
    predicted = (played - np.sum(prior * q, axis=-1))[whole]
    predicted = predicted - predicted.mean()
    result = {
        "entropy_prior": entropy(prior).mean(),
        "entropy_improved": entropy(improved).mean(),
        "change_of_policy": change.mean(),  # KL(improved, prior).
        "value_mean": seen["value"].mean(),
        "value_std": seen["value"].std(),
        "q_spread_median": np.median(spread),
        "q_spread_95": np.quantile(spread, 0.95),
        "rows_with_reward": seen["rewarded"].mean(),
        "rows_that_end": seen["ended"].mean(),
        "rows_compared": int(whole.sum()),
    }
    for i, n in enumerate(STEPS):
        error = (seen["realised"][:, i] - seen["value"])[whole]
        result[f"value_error_{n}"] = np.sqrt(np.mean(error**2))
        variance = max(predicted @ predicted, 1e-12)
        slope = predicted @ error / variance
        residual = error - error.mean() - slope * predicted
        result[f"signal_{n}"] = slope
        result[f"signal_{n}_se"] = np.sqrt(np.mean(residual**2) / variance)
    return {name: float(x) for name, x in result.items()}


def draw() -> Path:
    """A panel for each number, a line for each file."""
    from matplotlib.figure import Figure

    sys.path.append(str(ROOT / "experiments"))
    from plot import COLORS  # Color-blind readers can separate them, and all can by the markers.

    panels = {
        "entropy of the policy, share of the uniform one's": lambda look, uniform: (
            look["entropy_prior"] / uniform
        ),
        "change of the policy by a search, nats": lambda look, _: look["change_of_policy"],
        "median spread of Q / error of values, 1 step": lambda look, _: (
            look["q_spread_median"] / look["value_error_1"]
        ),
        "share of signal in Q, 5 steps": lambda look, _: look["signal_5"],
    }
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    styles = itertools.cycle(zip(COLORS, "osD^v*P"))  # However many files there are.
    results = ROOT / "benchmarks" / "results"
    for path, (color, marker) in zip(sorted((results / "search_noise").glob("*.json")), styles):
        looks = json.loads(path.read_text())["looks"]
        steps = [look["env_steps"] / 1_000 for look in looks]
        # Before anything is learned the policy is uniform.
        uniform = max(look["entropy_prior"] for look in looks)
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.2}
        for axis, number in zip(axes, panels.values()):
            numbers = [number(look, uniform) for look in looks]
            axis.plot(steps, numbers, label=path.stem.replace("_", " "), **style)
        error = np.array([look["signal_5_se"] for look in looks])
        low, high = np.array(numbers) - error, np.array(numbers) + error
        axes[-1].fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    for axis, name in zip(axes, panels):
        axis.set_title(name, fontsize=9)
        axis.grid(color="0.9")
        axis.set_ylim(bottom=0)
    axes[-1].set_ylim(-0.5, 2.5)  # Before the first rewards the slope is anything.
    axes[-1].axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes[0].legend(fontsize=8)
    figure.supxlabel("thousand env steps", fontsize=9)
    path = results / "search_noise.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="atari.py:Breakout", help="of configs/")
    parser.add_argument("--steps", type=int, default=220_000, help="env steps")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--write", metavar="NAME", help="keep it in results/search_noise/")
    parser.add_argument("--draw", action="store_true", help="only draw results/search_noise/")
    parser.add_argument("changes", nargs="*", metavar="field=value")
    args = parser.parse_args()
    if args.draw:
        print(draw())
        return
    gc.set_threshold(100_000, 10, 10)  # As the scripts do.
    name, _, game = args.config.partition(":")
    module = importlib.import_module(f"configs.{name.removesuffix('.py')}")
    config = module.get_config(game) if game else module.get_config()
    changes = {"seed": args.seed, "total_env_steps": args.steps}
    for word in args.changes:
        field, _, value = word.partition("=")
        try:
            changes[field] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[field] = value
    config.update_from_flattened_dict(changes)
    schema.check(config)
    command = f"python benchmarks/search_noise.py {' '.join(sys.argv[1:])}"
    result = provenance() | {"command": command}
    looks: list[dict] = []
    experiment = build.experiment(config)
    look = make_look(config, experiment.agent)

    def observed(run):
        before = run.counters.env_steps
        for run, news in experiment.run(run):
            after = run.counters.env_steps
            if run.counters.updates and crossed(before, after, LOOK_EVERY):
                seen = [
                    jax.device_get(look(run.train.params, run.replay, jax.random.key(i)))
                    for i in range(BATCHES)
                ]
                joined = {x: np.concatenate([one[x] for one in seen]) for x in seen[0]}
                looks.append(
                    {"env_steps": after, "updates": run.counters.updates} | summarise(joined)
                )
                print(json.dumps(looks[-1]), flush=True)
                if args.write:
                    keep()
            before = after
            yield run, news

    def keep():
        lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
        kept = ("env_steps", "wall_s", "train/return_mean", "train/episodes")
        kept += ("train/policy_entropy", "eval/return_mean", "eval/returns", "eval/episodes_cut")
        result["looks"] = looks
        result["curve"] = [{name: line[name] for name in kept if name in line} for line in lines]
        result["config"] = config.to_dict()
        path = ROOT / "benchmarks" / "results" / "search_noise" / f"{args.write}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        training.train(
            experiment._replace(run=observed),
            runs.open_folder(workdir, config),
            build.schedule(config),
        )
        if args.write:
            keep()


if __name__ == "__main__":
    main()
