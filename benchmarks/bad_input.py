"""How long each kind of bad input takes until it is refused.

  python benchmarks/bad_input.py

Gives every command line of `tests/bad_commands.py` as a process of its own, one after the other, in
a folder made for them, and takes the time from its start to its end. Each has to end with code 78
and one line on standard error. Writes results/bad_input.json. The exit code is 0 where all did, and
none took longer than --limit seconds, else 1.
"""

import argparse
import json
from pathlib import Path
import statistics
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from provenance import provenance  # noqa: E402

import bad_commands  # noqa: E402


def refuse(name: str, folder: Path) -> dict:
    """One command: what was given, how it ended and after how many seconds."""
    script, words, variables = bad_commands.command(name)
    begin = time.monotonic()
    ran = bad_commands.run(name, folder)
    seconds = round(time.monotonic() - begin, 2)
    given = " ".join([*(f"{x}={y}" for x, y in variables.items()), f"{script}.py", *words])
    line = ran.stderr.replace(str(folder), ".").replace(str(ROOT), ".")
    return {
        "name": name,
        "command": given[:200],
        "code": ran.returncode,
        "seconds": seconds,
        "stderr": line[-400:],
        "refused": ran.returncode == 78 and line.startswith("error: ") and line.count("\n") == 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=5.0, help="seconds that none may exceed")
    args = parser.parse_args()
    result = provenance() | {"command": "python benchmarks/bad_input.py", "limit_s": args.limit}
    with tempfile.TemporaryDirectory() as folder:
        bad_commands.make_folder(Path(folder))
        refusals = [refuse(name, Path(folder)) for name in bad_commands.COMMANDS]
        began = (Path(folder) / "fresh").exists()
    seconds = [refusal["seconds"] for refusal in refusals]
    failed = [x["name"] for x in refusals if not x["refused"] or x["seconds"] > args.limit]
    result |= {
        "commands": len(refusals),
        "median_s": statistics.median(seconds),
        "most_s": max(seconds),
        "failed": failed,
        "a_run_began": began,
        "refusals": refusals,
    }
    path = ROOT / "benchmarks" / "results" / "bad_input.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(refusals)} commands, median {result['median_s']} s, most {result['most_s']} s")
    print(f"failed: {failed}" if failed else "all refused in one line")
    sys.exit(1 if failed or began else 0)


if __name__ == "__main__":
    main()
