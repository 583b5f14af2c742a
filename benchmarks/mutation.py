"""Planted bugs, and which of the fast tests notices each.

  python benchmarks/mutation.py
  python benchmarks/mutation.py --only=NAME

`data/plants.toml` lists the plants: a name, the part and the file it is in, the exact text to find
there (once), what takes its place, and the tests of the part: files, or, of long files, those tests
in them (`file::test`) that hold what the plant breaks. Each plant is made in a copy of
the tree, never in the tree itself, and the fast tests of its part run there until the first one
that fails. Before that, all these tests have to pass on a copy without any plant. The copies share
the tree's cache of compiled programs.

After each plant results/mutation.json is written: whether the plant was killed, by which test, in
how many seconds, beside the plant itself. The command can be ended and given again: what it found
of the same commit is kept, where no Python file differs from it and the plant has not changed.
--only runs one plant, prints its outcome and writes nothing. The exit code is 0 where every plant
was killed, else 1, and 2 where the list or the tree itself is at fault.
"""

import argparse
import collections
from concurrent import futures
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = Path(__file__).resolve().parents[1]
PLANTS = ROOT / "benchmarks" / "data" / "plants.toml"
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
FIELDS = ("name", "part", "file", "find", "replace", "tests")
LIMIT_SECONDS = 1800


class PlantError(Exception):
    """A plant that cannot be made, or a tree whose own tests fail; one line."""


def read_plants(path: Path = PLANTS) -> list[dict]:
    """The plants in the order of the file.

    Raises:
      PlantError: where one has other fields than `FIELDS`, or two have one name.
    """
    plants = tomllib.loads(path.read_text())["plant"]
    for number, plant in enumerate(plants):
        if set(plant) != set(FIELDS):
            name = plant.get("name", f"plant {number}")
            raise PlantError(f"{name}: its fields must be {', '.join(FIELDS)}")
    twice = [x for x, n in collections.Counter(plant["name"] for plant in plants).items() if n > 1]
    if twice:
        raise PlantError(f"{twice[0]}: two plants have this name")
    return plants


def planted(plant: dict, root: Path) -> str:
    """The text of the plant's file under `root`, with the bug in it.

    Raises:
      PlantError: where the text to replace is not there exactly once, or nothing would change.
    """
    path = root / plant["file"]
    text = path.read_text() if path.is_file() else ""
    count = text.count(plant["find"])
    if count != 1:
        raise PlantError(f"{plant['name']}: its text is {count} times in {plant['file']}, not once")
    if plant["find"] == plant["replace"]:
        raise PlantError(f"{plant['name']}: it changes nothing")
    missing = [name for name in plant["tests"] if not _is_test(name, root)]
    if missing or not plant["tests"]:
        raise PlantError(f"{plant['name']}: there is no test {', '.join(missing)}")
    return text.replace(plant["find"], plant["replace"])


def _is_test(name: str, root: Path) -> bool:
    """Whether there is the file, or the function of `file::test` in it."""
    file, _, function = name.partition("::")
    path = root / file
    return path.is_file() and (not function or f"\ndef {function}(" in path.read_text())


def judge(code: int, output: str) -> tuple[str, str | None]:
    """What pytest's exit code and output say: ("killed", test), ("survived", None) or ("error",
    why). A plant that no test can be collected with is an error: any import would notice it."""
    if code == 0:
        return "survived", None
    failed = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if code == 1 and failed:
        return "killed", failed[0].split(" ", 1)[1].split(" - ")[0]
    return "error", f"pytest ended with {code}: {' '.join(output.split())[-300:]}"


def run_tests(root: Path, tests: list[str], *options: str) -> tuple[str, str | None]:
    """Runs the fast ones of some tests in a copy; returns what `judge` does."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line"]
    try:
        ran = subprocess.run(
            [*command, *options, *tests],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "error", f"no end within {LIMIT_SECONDS} s"
    return judge(ran.returncode, ran.stdout + ran.stderr)


def copy_tree(to: Path) -> None:
    """The files that git knows or would add, and a link to the cache of compiled programs."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    cache = ROOT / ".jax_cache"
    cache.mkdir(exist_ok=True)
    (to / cache.name).symlink_to(cache)


def try_plant(plant: dict, whole: Path) -> dict:
    """Makes the plant in a copy of the copy `whole` and runs its tests; the outcome."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        shutil.copytree(whole, root, symlinks=True)
        (root / plant["file"]).write_text(planted(plant, whole))
        outcome, by = run_tests(root, plant["tests"], "-n", "0", "-x")
    seconds = round(time.perf_counter() - begin, 1)
    return plant | {"outcome": outcome, "by": by, "seconds": seconds}


def found_before(origin: dict, path: Path = RESULT) -> dict:
    """The file of results, if it is of this commit and no Python file differed from it, else {}."""
    before = json.loads(path.read_text()) if path.is_file() else {"commit": None}
    if before["commit"] != origin["commit"]:
        return {}
    return {} if origin["uncommitted_changes"] or before["uncommitted_changes"] else before


def kept_outcomes(plants: list[dict], before: dict) -> dict[str, dict]:
    """Outcomes by name that still hold, from what `found_before` returns."""
    done = {x["name"]: x for x in before.get("outcomes", ()) if x["outcome"] != "error"}
    return {
        plant["name"]: done[plant["name"]]
        for plant in plants
        if plant == {name: done.get(plant["name"], {}).get(name) for name in FIELDS}
    }


def write(
    origin: dict,
    plants: list[dict],
    passed: set[str],
    outcomes: dict[str, dict],
    path: Path = RESULT,
) -> None:
    """The file of results, in the order of the plants; `passed` are tests without any plant."""
    known = [outcomes[plant["name"]] for plant in plants if plant["name"] in outcomes]
    counts = collections.Counter(x["outcome"] for x in known)
    summary = {
        "plants": len(plants),
        **{name: counts[name] for name in ("killed", "survived", "error")},
        "seconds": round(sum(x["seconds"] for x in known), 1),
        "passed_without_plants": sorted(passed),
    }
    path.write_text(json.dumps({**origin, **summary, "outcomes": known}, indent=1) + "\n")


def run(only: str | None, jobs: int) -> int:
    """Runs what has no outcome yet; returns the exit code."""
    from provenance import provenance

    plants = read_plants()
    for plant in plants:
        planted(plant, ROOT)
    origin = {**provenance(), "command": "python benchmarks/mutation.py", "jobs": jobs}
    before = {} if only else found_before(origin)
    outcomes, passed = kept_outcomes(plants, before), set(before.get("passed_without_plants", ()))
    left = [x for x in plants if x["name"] not in outcomes and only in (None, x["name"])]
    if only and not left:
        raise PlantError(f"{only}: there is no plant of this name")

    def report(line):
        print(line, flush=True)
        if not only:
            write(origin, plants, passed, outcomes)

    with tempfile.TemporaryDirectory() as folder, futures.ThreadPoolExecutor(jobs) as pool:
        whole = Path(folder) / "tree"
        copy_tree(whole)
        tests = sorted({name for plant in left for name in plant["tests"]} - passed)
        trials = {pool.submit(run_tests, whole, [name], "-n", "0"): name for name in tests}
        for trial in futures.as_completed(trials):
            outcome, failed = trial.result()
            if outcome != "survived":
                pool.shutdown(cancel_futures=True)
                raise PlantError(f"without any plant, {trials[trial]}: {outcome}: {failed}")
            passed.add(trials[trial])
            report(f"no plant: {trials[trial]} passes")
        for trial in futures.as_completed([pool.submit(try_plant, plant, whole) for plant in left]):
            done = trial.result()
            outcomes[done["name"]] = done
            report(f"{done['outcome']}: {done['name']} ({done['seconds']} s; {done['by']})")
    alive = [name for name, x in outcomes.items() if x["outcome"] != "killed"]
    print(f"{len(outcomes) - len(alive)} of {len(outcomes)} killed", *alive, sep="\n  ")
    return 1 if alive else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="the name of one plant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="plants at a time")
    args = parser.parse_args()
    try:
        sys.exit(run(args.only, args.jobs))
    except PlantError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
