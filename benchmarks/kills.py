"""kill -9, again and again: what is restored, what was called saved, and where it ends.

  python benchmarks/kills.py --write

Tiny runs of CartPole over both loops (environments on the device, and on the host in envpool), half
of the kills each, at moments drawn from a seed: while the process starts, while it saves, while it
evaluates, and at any time. After every tenth kill of a run one bit of its newest resume point is
flipped, or one of its files cut short; the next process is asked to leave by SIGTERM as soon as it
has written a line of metrics, and what it calls saved is looked for. At last each run goes on to an
end, and the one on the device is compared with an undisturbed run. Prints JSON; --write
keeps it in results/kills.json. The exit code is 1 where a figure that has to be 0 is not.

  bad_restores        a resume point was read with other bits than before something was damaged, or
                      than the undisturbed run has there; or the next process began elsewhere
  announced_missing   "saved at N env steps", and no whole resume point of N env steps
  unexpected_ends     a process that ended by itself, or with another code than it should
  leftovers           folders of unfinished saves that are there when all is over
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import hashlib
import json
from pathlib import Path
import random
import re
import shutil
import signal
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402
from provenance import provenance  # noqa: E402

from muzero_jax import checkpoint  # noqa: E402
import processes  # noqa: E402

MOMENTS = ("start", "save", "evaluation", "any")
MUST_BE_ZERO = ("bad_restores", "announced_missing", "unexpected_ends", "leftovers")
_PATIENCE_SECONDS = 300
_OPTIONS = processes.TINY_CONTROL | {
    "total_env_steps": 10**8,
    "evaluation.interval_env_steps": 1500,
    "evaluation.episodes": 40,  # So that it lasts longer than the save before it.
    "evaluation.stop_at": 1000.0,
    "checkpoint.resume_interval_env_steps": 500,
    "checkpoint.params_interval_env_steps": 400,
    "checkpoint.max_to_keep": 3,
    "logging.interval_env_steps": 200,
}
_LOOPS = {"device": ("on_device", {"env.num_groups": 1}), "host": ("host", {"env.num_groups": 2})}


class EndedError(Exception):
    """A process has ended by itself."""


@dataclasses.dataclass
class Victim:
    """One run and what was seen of it; `seen` is iteration -> (digest, counters) as restored."""

    loop: str
    folder: Path
    rng: random.Random
    experiment: object = None
    start_s: float = 10.0  # From the start of a process to its first line, as it was last.
    expected: dict | None = None  # Counters that the next process has to begin with.
    seen: dict = dataclasses.field(default_factory=dict)
    report: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.workdir, self.log = self.folder / "run", self.folder / "log"
        self.report = {"kills": {x: 0 for x in MOMENTS}, "amid_a_save": 0, "amid_an_evaluation": 0}
        self.report |= {"restores": 0, "resumed": 0, "damaged": 0, "passed_over": 0, "announced": 0}
        self.report |= {name: 0 for name in MUST_BE_ZERO}

    def command(self, workdir=None, **options):
        variant, own = _LOOPS[self.loop]
        return processes.command(
            "control",
            f"--config=configs/cartpole.py:{variant}",
            f"--workdir={workdir or self.workdir}",
            **_OPTIONS | own | options,
        )

    def lines(self) -> int:
        path = self.workdir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def newest(self) -> tuple[int, str, dict] | None:
        """(iteration, digest, counters) of the newest resume point that can be restored."""
        if not (self.workdir / "config.json").exists():
            return None
        self.experiment = self.experiment or processes.experiment_of(self.workdir)[1]
        return restored(self.experiment, self.workdir)


def restored(experiment, workdir: Path, step: int | None = None) -> tuple[int, str, dict] | None:
    """(iteration, SHA-256 of all leaves, counters) of a resume point; None where there is none."""
    target = jax.eval_shape(lambda: processes.saved_tree(experiment.init()))
    found = checkpoint.restore_newest(workdir / "checkpoints", target, step=step)
    if found is None:
        return None
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(found[1]):
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = jax.device_get(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {data.dtype} {data.shape}".encode())
        digest.update(data.tobytes())
    counters = {k: v for k, v in found[2]["counters"].items() if k != "resumes"}
    return found[0], digest.hexdigest(), counters


def unfinished(workdir: Path) -> list[Path]:
    """Folders of saves under way, or left behind."""
    return [x for name in ("checkpoints", "params") for x in (workdir / name).glob("*tmp*")]


def wait_until(happened, process) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        if process.poll() is not None:
            raise EndedError(f"code {process.returncode}")
        if time.monotonic() > give_up:
            raise EndedError("nothing happens")
        time.sleep(0.005)


def is_evaluating(victim: Victim, known: set[int]) -> bool:
    """Whether a resume point made since then has its evaluation before it."""
    for step in set(checkpoint.committed_steps(victim.workdir / "checkpoints")) - known:
        path = victim.workdir / "checkpoints" / str(step) / "manifest" / "metadata"
        try:
            meta = json.loads(path.read_bytes())["record"]["meta"]
        except OSError:  # Deleted meanwhile.
            continue
        if meta["evaluation_due"] and not is_scored(victim, meta["counters"]["env_steps"]):
            return True
    return False


def is_scored(victim: Victim, env_steps: int) -> bool:
    """Whether one of the newest lines of metrics is the evaluation at so many env steps."""
    lines = (victim.workdir / "metrics.jsonl").read_text().splitlines()[-30:]
    wanted = re.compile(rf'"env_steps": {env_steps},.*"eval/return_mean"')
    return any(wanted.search(line) for line in lines)


def kill_once(victim: Victim) -> None:
    """Starts the run's command, and kills it at a random moment of a random kind."""
    rng, report = victim.rng, victim.report
    moment = rng.choice(MOMENTS)
    lines, begin = victim.lines(), time.monotonic()
    said = victim.log.stat().st_size if victim.log.exists() else 0
    known = set(checkpoint.committed_steps(victim.workdir / "checkpoints"))
    process = processes.start(victim.command(), output=victim.log)
    try:
        if moment == "start":
            end = begin + rng.uniform(0, victim.start_s)
            wait_until(lambda: time.monotonic() > end, process)
        else:
            wait_until(lambda: victim.lines() > lines, process)
            victim.start_s = time.monotonic() - begin
        if moment == "save":
            wait_until(lambda: unfinished(victim.workdir), process)
            time.sleep(rng.uniform(0, 0.05))
        elif moment == "evaluation":
            wait_until(lambda: is_evaluating(victim, known), process)
            time.sleep(rng.uniform(0, 0.2))
        elif moment == "any":
            time.sleep(rng.uniform(0, 2))
    except EndedError as error:
        report["unexpected_ends"] += 1
        print(f"{victim.loop}: {error}: {victim.log.read_text()[-2000:]}", file=sys.stderr)
    process.send_signal(signal.SIGKILL)
    process.wait()
    report["kills"][moment] += 1
    report["amid_a_save"] += bool(unfinished(victim.workdir))
    report["amid_an_evaluation"] += moment == "evaluation" and is_evaluating(victim, known)
    check_beginning(victim, said)
    look(victim)


def check_beginning(victim: Victim, said: int) -> None:
    """Whether the process began with what could be restored, if it came so far."""
    text = victim.log.read_bytes()[said:].decode()
    found = re.search(r"resuming at (\d+) env steps, (\d+) updates", text)
    if found is None:
        return
    victim.report["resumed"] += 1
    counters = victim.expected or {}
    if [int(x) for x in found.groups()] != [counters.get("env_steps"), counters.get("updates")]:
        victim.report["bad_restores"] += 1
        print(f"{victim.loop}: expected {counters}, got {found[0]}", file=sys.stderr)


def look(victim: Victim) -> tuple[int, str, dict] | None:
    """Reads the newest resume point, which the next process has to begin with."""
    found = victim.newest()
    if found is not None:
        victim.report["restores"] += 1
        victim.seen[found[0]] = found[1:]
    victim.expected = found and found[2]
    return found


def damage(victim: Victim) -> bool:
    """Damages the newest resume point and reads what is left; False where it is the only one."""
    steps = checkpoint.committed_steps(victim.workdir / "checkpoints")
    if len(steps) < 2:
        return False
    rng, report = victim.rng, victim.report
    truth = {step: restored(victim.experiment, victim.workdir, step) for step in steps}
    files = (victim.workdir / "checkpoints" / str(steps[-1])).rglob("*")
    path = rng.choice(sorted(x for x in files if x.is_file() and x.stat().st_size))
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        del content[rng.randrange(len(content)) :]
    path.write_bytes(content)
    found = look(victim)
    report["damaged"] += 1
    report["passed_over"] += found is not None and found[0] != steps[-1]
    report["bad_restores"] += found is None or found != truth[found[0]]
    return True


def ask_to_leave(victim: Victim) -> None:
    """Starts the command, sends SIGTERM after its first line, and looks for what it calls saved."""
    lines, said, report = victim.lines(), victim.log.stat().st_size, victim.report
    process = processes.start(victim.command(), output=victim.log)
    try:
        wait_until(lambda: victim.lines() > lines, process)
        process.send_signal(signal.SIGTERM)
        report["unexpected_ends"] += process.wait(_PATIENCE_SECONDS) != 75
    except EndedError as error:
        report["unexpected_ends"] += 1
        print(f"{victim.loop}: {error}: {victim.log.read_text()[-2000:]}", file=sys.stderr)
        process.kill()
        process.wait()
    check_beginning(victim, said)
    found = look(victim)
    text = victim.log.read_bytes()[said:].decode()
    if announced := re.search(r"saved at (\d+) env steps", text):
        report["announced"] += 1
        report["announced_missing"] += not found or found[2]["env_steps"] != int(announced[1])


def torment(loop: str, kills: int, every: int, seed: int, folder: Path) -> dict:
    """One run, killed so many times, damaged after every so many, and then finished."""
    victim = Victim(loop, folder, random.Random(f"{seed} {loop}"))
    folder.mkdir(parents=True)
    begin, owed = time.monotonic(), 0
    for number in range(1, kills + 1):
        kill_once(victim)
        owed += number % every == 0
        if owed and victim.experiment and damage(victim):
            owed -= 1
            ask_to_leave(victim)
        print(f"{loop}: kill {number}, {victim.expected}", file=sys.stderr)
    reached = (victim.expected or {"env_steps": 0})["env_steps"]
    total = {"total_env_steps": reached + 2000}
    report, log = victim.report, folder / "end"
    code = processes.finish(victim.command(**total), output=log, patience_seconds=600)
    report["unexpected_ends"] += code != 0
    end = look(victim)
    report["env_steps"] = end[2]["env_steps"]
    report["leftovers"] += len(unfinished(victim.workdir))
    report["set_aside"] = len(list((victim.workdir / "checkpoints").glob("*.damaged.*")))
    if loop == "device":
        report |= compare(victim, end, total)
    report["seconds"] = round(time.monotonic() - begin)
    return report


def compare(victim: Victim, end, total: dict) -> dict:
    """Every resume point that was seen, and the end, against an undisturbed run."""
    whole = victim.folder / "whole"
    options = total | {"checkpoint.max_to_keep": 10**6}
    log = victim.folder / "whole_log"
    code = processes.finish(victim.command(whole, **options), output=log, patience_seconds=3600)
    assert code == 0, log.read_text()
    common = set(checkpoint.committed_steps(whole / "checkpoints")) & set(victim.seen)
    differing = [
        step
        for step in common
        if restored(victim.experiment, whole, step)[1:] != victim.seen[step]
    ]
    victim.report["bad_restores"] += len(differing)
    return {
        "compared_with_undisturbed": len(common),
        "final_state_equal": restored(victim.experiment, whole) == end,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="of both loops together")
    parser.add_argument("--damage_every", type=int, default=10, help="kills of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    command = f"python benchmarks/kills.py --kills={args.kills} --seed={args.seed}"
    report = {**provenance(), "command": command, "seed": args.seed, "kills": args.kills}
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    halves = {"device": args.kills - args.kills // 2, "host": args.kills // 2}
    with ThreadPoolExecutor(2) as pool:  # One core each.
        runs = {
            loop: pool.submit(torment, loop, kills, args.damage_every, args.seed, folder / loop)
            for loop, kills in halves.items()
        }
        report["loops"] = {loop: run.result() for loop, run in runs.items()}
    for name in MUST_BE_ZERO:
        report[name] = sum(run[name] for run in report["loops"].values())
    report["final_state_equal"] = report["loops"]["device"]["final_state_equal"]
    text = json.dumps(report, indent=1)
    print(text)
    if args.write:
        (ROOT / "benchmarks" / "results" / "kills.json").write_text(text + "\n")
    if any(report[name] for name in MUST_BE_ZERO) or not report["final_state_equal"]:
        print(f"see {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
