"""What someone can do who has installed the wheel and nothing else: run by .ci/run in an
environment of its own, from an empty folder.

  python tests/wheel.py CHECKOUT

Trains the environment and loss of docs/compose.md with resume points, kills that run, goes on with
it, and plays with what was learned; the same for a run of a config.
"""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

CHECKOUT = Path(sys.argv[1]).resolve()


def write_page() -> None:
    """The files of docs/compose.md, here."""
    text = (CHECKOUT / "docs" / "compose.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        if name := re.match(r"# (\w+\.py)\n", block):
            Path(name[1]).write_text(block)


def kill_after_a_save(code: str, folder: Path) -> None:
    """Runs code until a resume point is there, then kills it."""
    process = subprocess.Popen([sys.executable, "-c", code])
    give_up = time.monotonic() + 300
    # A step that is still being written has a name that does not end after the number.
    while not any(p.parent.name.isdigit() for p in folder.glob("checkpoints/*/manifest")):
        assert process.poll() is None and time.monotonic() < give_up, "no resume point"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def main() -> None:
    import muzero_jax

    assert CHECKOUT not in Path(muzero_jax.__file__).resolve().parents, "the checkout is imported"
    assert not list(Path().iterdir()), "run it from an empty folder"
    write_page()
    sys.path.insert(0, os.getcwd())
    train = (
        "from entropy_loss import make_entropy_loss; import train_corridor as page\n"
        "from muzero_jax import training\n"
        "schedule = training.Schedule({steps}, evaluate_every=10**9, save_every=500)\n"
        "experiment = page.make_experiment(make_loss=make_entropy_loss)\n"
        "counters = training.train(experiment, 'runs/mine', schedule)\n"
        "assert counters.resumes == 1 and counters.env_steps >= {steps}, counters\n"
    )
    kill_after_a_save(train.format(steps=10**9), Path("runs/mine"))
    subprocess.run([sys.executable, "-c", train.format(steps=3_000)], check=True)
    import numpy as np
    from train_corridor import make_experiment

    player = muzero_jax.load_agent("runs/mine", agent=make_experiment().agent)
    print("one's own run acts:", player.act(np.eye(9, dtype=np.float32)[4]))

    from muzero_jax.config import build, runs, schema

    config = runs.load_config(f"{CHECKOUT / 'configs' / 'cartpole.py'}:on_device")
    config.total_env_steps = 2_000
    config.evaluation.update(episodes=4, num_envs=4)
    build.train(schema.check(config), Path("runs/cartpole"))
    player = muzero_jax.load_agent("runs/cartpole")
    print("a config's run acts:", player.act(np.zeros((2, 4), np.float32)))
    # The lines of the README, on this run.
    readme = (CHECKOUT / "README.md").read_text()
    (lines,) = [x for x in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "load_ag" in x]
    space: dict = {}
    exec(compile(lines.replace("runs/breakout", "runs/cartpole"), "README.md", "exec"), space)
    assert space["action"] in (0, 1) and space["found"].tree.root_visits.sum() > 0
    best = muzero_jax.load_agent("runs/cartpole", step="best")
    print("the best parameters act:", best.act(np.zeros(4, np.float32)))


if __name__ == "__main__":
    main()
