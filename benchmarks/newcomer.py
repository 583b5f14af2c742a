"""How long a newcomer waits for a first curve, with nothing but the README.

  python benchmarks/newcomer.py --write

Clones the newest commit into an empty folder, makes a virtual environment, and gives the README's
command that trains. Once the run has written lines enough for a curve, the extra `plot` is
installed and the README's command that draws is given. Ctrl-C then has to end the run with a
save. The seconds count from the start of `git clone`, downloads of pip included. The exit code is
0 where the curve was drawn within --limit seconds and the run was saved, else 1.
"""

import argparse
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
import time

from provenance import ROOT, provenance

_RESULT = ROOT / "benchmarks" / "results" / "newcomer.json"


def commands(readme: str) -> tuple[str, str]:
    """The README's command that trains and the one that draws."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)).splitlines()
    (train,) = (line for line in lines if "experiments/atari.py" in line)
    (plot,) = (line for line in lines if "experiments/plot.py" in line)
    return train, plot


def measure(folder: Path, lines: int, patience_s: float) -> dict:
    """Seconds from the start of the clone to each thing that a newcomer sees."""
    own = {"PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS"}
    env = {k: v for k, v in os.environ.items() if k not in own and not k.startswith("JAX_")}
    env["PATH"] = f"{folder / 'venv' / 'bin'}{os.pathsep}{env['PATH']}"
    clone = folder / "clone"
    begin = time.monotonic()

    def passed():
        return round(time.monotonic() - begin, 1)

    def run(command):
        subprocess.run(["bash", "-c", command], cwd=clone, env=env, check=True)

    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    seen = {"environment_s": passed()}
    train, plot = commands((clone / "README.md").read_text())
    workdir = clone / re.search(r"--workdir=(\S+)", train)[1]
    picture = clone / re.search(r"--out=(\S+)", plot)[1]
    metrics = workdir / "metrics.jsonl"
    # A session of its own: Ctrl-C reaches what the shell has started, as in a terminal.
    with (folder / "screen").open("w") as screen:
        training = subprocess.Popen(
            ["bash", "-c", train],
            cwd=clone,
            env=env,
            stdout=screen,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while (count := metrics.read_text().count("\n") if metrics.exists() else 0) < lines:
            if training.poll() is not None or passed() > patience_s:
                raise SystemExit(f"after {passed()} s the run had written {count} lines of {lines}")
            for name, there in ("run_begins_s", workdir.exists()), ("first_line_s", count > 0):
                if there and name not in seen:
                    seen[name] = passed()
            time.sleep(0.2)
        seen["lines_s"] = passed()
        run('pip install -q -e ".[plot]"')
        run(plot)
        seen["curve_s"] = passed()
        drawn = picture.stat().st_size
        os.killpg(training.pid, signal.SIGINT)
        training.wait(timeout=120)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    saved = re.findall(r"saved at (\d+) env steps", (folder / "screen").read_text())
    return {
        "commands": [train, 'pip install -e ".[plot]"', plot],
        **seen,
        "lines": lines,
        "picture_bytes": drawn,
        "saved_at_env_steps": int(saved[-1]) if saved else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=4, help="of metrics that make a curve")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds until the curve")
    parser.add_argument("--write", action="store_true", help=f"write {_RESULT.name} to results/")
    args = parser.parse_args()
    result = provenance() | {"command": "python benchmarks/newcomer.py --write"}
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(Path(folder), args.lines, 3 * args.limit) | {"limit_s": args.limit}
    print(json.dumps(result, indent=1))
    if args.write:
        _RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(result["curve_s"] > args.limit or result["saved_at_env_steps"] is None)


if __name__ == "__main__":
    main()
