"""Every Python block of docs/environments.md runs as it stands."""

import re
import sys

import pytest

from test_docs import _blocks

PAGE = "environments.md"


@pytest.fixture
def loose(tmp_path, monkeypatch):
    """The page's files on the import path; returns its blocks that are no files."""
    names, blocks = [], []
    for block in _blocks(PAGE):
        if name := re.match(r"# (\w+)\.py\n", block):
            (tmp_path / f"{name[1]}.py").write_text(block)
            names.append(name[1])
        else:
            blocks.append(block)
    monkeypatch.syspath_prepend(tmp_path)
    yield blocks
    for name in names:
        sys.modules.pop(name, None)


def _run(block):
    space: dict = {}
    exec(compile(block, PAGE, "exec"), space)
    return space


@pytest.mark.envpool  # gymnasium comes with it.
def test_the_gymnasium_example_plays_whole_episodes(loose):
    """Seen to fail with the mask of `Ladder` inverted, and with its top a truncation."""
    pytest.importorskip("gymnasium")
    assert len(loose) == 3
    episodes = _run(loose[0])["episodes"]
    assert len(episodes) == 32 and {episode.environment for episode in episodes} == set(range(8))
    for episode in episodes:  # A player that does not reach the top is stopped at 30 steps.
        assert (episode.score == 1.0 and not episode.cut) or episode.steps == 30
    assert {episode.cut for episode in episodes} == {False, True}


def test_the_jax_example_passes_its_trial(loose):
    """Games of 3 to 12 moves, 8 at a time for 50 steps. Seen to fail with
    `jnp.arange(1, 4) < stones`, and with the discount of a win at -1."""
    assert 8 * (50 // 12) <= _run(loose[1])["episodes"] <= 8 * (50 // 3)


def test_the_games_of_pgx_are_won_as_often_as_they_are(loose):
    """Of random games of tic-tac-toe 58.5% are won by the first player and 28.8% by the second.

    Seen to fail with `~row.invalid_actions`.
    """
    space = _run(loose[2])
    assert space["games"] > 200
    assert abs(space["won_by_the_last_move"] - 0.873) < 0.08  # 3.5 standard errors.
    assert (space["rows"].reward >= 0).all() and not space["rows"].last.any()
