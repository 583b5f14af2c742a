"""Slow proofs that the agent learns, by the scripts that a user runs.

  python -m pytest -m slow tests/test_learning.py
"""

import json
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parent.parent


def _python(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on_device", "host"])
def test_cartpole_is_solved(tmp_path, where):
    """The last checkpoint, on games never seen: a mean of 475 over 20."""
    _python(
        "experiments/train.py",
        f"--config=configs/cartpole.py:{where}",
        f"--workdir={tmp_path}",
        "--config.seed=7",
    )
    line = _python(
        "experiments/evaluate.py", f"--workdir={tmp_path}", "--episodes=20", "--seed=99"
    )
    score = json.loads(line)
    assert len(score["returns"]) == 20
    assert score["return_mean"] >= 475, score["returns"]


@pytest.mark.slow
def test_atari_beats_random(tmp_path):
    """Five minutes of RoadRunner on real frames: at least ten times random play's score."""
    _python(
        "experiments/atari.py",
        "--config=configs/atari.py:RoadRunner",
        f"--workdir={tmp_path}",
        "--config.max_wall_minutes=5",
    )
    command = ["experiments/evaluate.py", f"--workdir={tmp_path}", "--episodes=20", "--seed=99"]
    learned = json.loads(_python(*command))
    random = json.loads(_python(*command, "--policy=random"))
    assert learned["return_mean"] > 10 * random["return_mean"]


@pytest.mark.slow
def test_no_reply_beats_tic_tac_toe(tmp_path):
    """The whole run: every line of play that any opponent can choose is won or drawn, whichever
    player begins, by the search and by the policy head alone."""
    _python(
        "experiments/train.py",
        "--config=configs/board_games.py:tic_tac_toe",
        f"--workdir={tmp_path}",
    )
    for policy in ("search", "prior"):
        command = ["experiments/evaluate.py", f"--workdir={tmp_path}", f"--policy={policy}"]
        lines = json.loads(_python(*command, "--opponent=exhaustive"))
        assert lines["losses"] == 0 and lines["wins"] > 300, lines
