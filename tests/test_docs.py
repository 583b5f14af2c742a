"""Every Python block of the documents runs as it stands."""

import ast
import json
from pathlib import Path
import re
import shlex
import sys
import types

import jax
import numpy as np
import pytest

import fakes
from muzero_jax import MuZeroAgent
from muzero_jax.config import build, runs, schema
from presets import config_of

DOCS = Path(__file__).parent.parent / "docs"
FILES = (
    "corridor",
    "train_corridor",
    "entropy_loss",
    "consistency",
    "noisy_loss",
    "one_step_search",
    "true_rules",
    "reach",
    "train_reach",
    "binned",
)


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def compose(tmp_path, monkeypatch):
    """The page's files on the import path; returns its blocks that are no files."""
    loose = []
    for block in _blocks("compose.md"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
        else:
            loose.append(block)
    monkeypatch.syspath_prepend(tmp_path)
    yield loose
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_compose_learns_with_each_swap(compose, tmp_path, monkeypatch):
    """Seen to fail with the reward of the corridor's ends exchanged in a scratch copy."""
    assert {path.stem for path in tmp_path.glob("*.py")} == set(FILES)
    corridor = [block for block in compose if "train_corridor" in block]
    assert len(corridor) == 5
    monkeypatch.chdir(tmp_path)
    for block in ("from train_corridor import train\nreturns = train('runs/plain')\n", *corridor):
        space: dict = {}
        exec(compile(block, "compose.md", "exec"), space)
        returns = space["returns"]
        # Play at random reaches either end equally often: about 0.
        assert np.mean(returns[-5:]) > 0.6, returns
        knows_the_rules = "true_rules" in block
        assert (np.mean(returns[:3]) > 0.6) == knows_the_rules, returns


@pytest.mark.slow
def test_compose_learns_actions_that_are_numbers(compose, tmp_path, monkeypatch):
    """By a Gaussian policy, and by one of the page's own. Seen to fail with a policy's loss that
    does not look at the weights of the search."""
    reach = [block for block in compose if "train_reach" in block]
    assert len(reach) == 2
    monkeypatch.chdir(tmp_path)
    for block in reach:
        space: dict = {}
        exec(compile(block, "compose.md", "exec"), space)
        returns = space["returns"]
        assert np.mean(returns[:2]) < -7 and np.mean(returns[-3:]) > -3, returns


def _commands():
    """(page, script, flags) of each command of the README and the docs."""
    found = []
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text(), flags=re.DOTALL)
        for block in (text for language, text in blocks if language in ("", "bash")):
            for line in block.replace("\\\n", " ").splitlines():
                if command := re.search(r"python (experiments/\w+\.py)(.*)", line):
                    found.append((page.name, command[1], shlex.split(command[2], comments=True)))
    return found


def test_commands_name_configs_fields_and_flags_that_are_there(compose, tmp_path):
    """The scripts' own tests run them; here each is read as it stands in a page.

    Planted: a preset, a field and a flag of other names in a scratch copy of a page.
    """
    del compose  # The README's config stands beside docs/compose.md's environment.
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "my_config.py").write_text(
        re.search(r"```python\n(# my_config.py.*?)```", readme, flags=re.DOTALL)[1]
    )
    shared = (ROOT / "experiments" / "command_line.py").read_text()
    commands = _commands()
    assert len(commands) > 20
    for page, script, words in commands:
        source = (ROOT / script).read_text() + shared
        config = None
        for word in words:
            if not word.startswith("--"):
                continue
            flag, _, value = word[2:].partition("=")
            if flag == "config":
                beside = tmp_path if value.startswith("my_") else ROOT
                config = runs.load_config(str(beside / value))
            elif flag.startswith("config."):
                name = flag.removeprefix("config.")
                config.update_from_flattened_dict({name: ast.literal_eval(value)})
            else:
                assert f'"{flag}"' in source, (page, script, flag)
        if config is not None:
            schema.check(config)


def test_the_match_counts_every_game_and_line():
    """A player that takes the lowest free cell beats random moves more often than not. Seen to
    fail with `argmax` for `argmin`: moves that are not allowed lose."""
    pytest.importorskip("pgx")
    (block,) = _blocks("matches.md")
    space: dict = {}
    exec(compile(block, "matches.md", "exec"), space)
    wins, draws, losses = space["outcomes"]
    assert wins + draws + losses == 200 and wins > 2 * losses > 0
    assert space["lines_first"].wins > space["lines_first"].losses > 0
    assert sum(space["lines_second"]) > sum(space["lines_first"])


def test_the_search_over_drawn_actions():
    """Seen to fail with one of the bounds in another place."""
    (block,) = _blocks("actions.md")
    space: dict = {}
    exec(compile(block, "actions.md", "exec"), space)
    output = space["output"]
    drawn = np.asarray(output.policy["actions"])
    assert drawn.shape == (4, 16, 2)
    assert (drawn >= [-1, 0]).all() and (drawn <= [1, 5]).all() and drawn[..., 1].max() > 3
    assert (drawn == np.asarray(output.action)[:, None]).all(axis=-1).any(axis=1).all()
    np.testing.assert_allclose(output.policy["weights"].sum(axis=1), 1.0, rtol=1e-5)


def test_the_mean_of_all_shards():
    """Seen to fail with `pmean` left out."""
    (block,) = _blocks("scaling.md")
    space: dict = {}
    exec(compile(block, "scaling.md", "exec"), space)
    mesh, rows = space["mesh"], space["rows"]
    assert mesh.size == len(jax.devices())
    mean = space["shard"](space["mean_of_all"], mesh, space["SHARDED"], space["REPLICATED"])(rows)
    assert mean == sum(range(len(rows))) / len(rows)


def test_the_fresh_targets_search_again():
    """As many searches as examples' windows (n = 10: twice the unroll)."""
    (block,) = _blocks("reanalyse.md")
    space: dict = {}
    exec(compile(block, "reanalyse.md", "exec"), space)
    config = config_of("cartpole", "on_device", **{"targets.bootstrap_steps": 10})
    agent = build.experiment(config).agent
    searched = []

    def search(params, key, history, *rest):
        searched.append(history.action.shape[0])
        return agent.search(params, key, history, *rest)

    fresh = space["make_fresh_targets"](search)
    config.reanalyse.fraction = 0.8  # For as many frames in a sample.
    experiment = build.experiment(config)

    def targets(state, params, key):
        return fresh(params, params, key, experiment.replay.sample(state, key, 10))

    params = jax.eval_shape(agent.network.init, jax.random.key(0))
    ring = jax.eval_shape(experiment.replay.init)
    made = jax.eval_shape(targets, ring, params, jax.random.key(0))
    assert made.value.shape == (10, 6) and searched == [8 * 12]


def test_episodes_of_ones_own_become_a_dataset(tmp_path):
    """And those of whatever has Minari's interface. Seen to fail with the final observation left
    out, and with `terminated` for all."""
    own, minari = _blocks("datasets.md")
    space: dict = {}
    exec(compile(own, "datasets.md", "exec"), space)
    assert (space["info"].rows, space["info"].return_mean) == (24, 7.0)
    assert space["rows"].discount[space["rows"].last].tolist() == [0, 1, 0]
    exec(compile(minari, "datasets.md", "exec"), space)
    episode = types.SimpleNamespace(
        observations=np.zeros((4, 4)),
        actions=np.ones(3, int),
        rewards=np.ones(3),
        terminations=np.array([0, 0, 1]),
    )
    held = types.SimpleNamespace(iterate_episodes=lambda: iter([episode, episode]))
    info = space["convert"](held, tmp_path)
    assert (info.rows, info.episodes, info.return_mean) == (8, 2, 3.0)


ROOT = DOCS.parent
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "benchmarks" / "README.md"])


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere():
    """To a file of the tree, and to a heading of it."""
    found = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith(("http://", "https://")):
                continue
            found += 1
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                assert anchor in _anchors(target), f"{page.name}: {link}"
    assert found > 40


def test_the_index_leads_to_every_page():
    """All but itself."""
    index = (DOCS / "index.md").read_text()
    assert [p.name for p in DOCS.glob("*.md") if f"({p.name})" not in index] == ["index.md"]


@pytest.mark.slow
def test_the_tour_that_the_readme_links_to_runs(tmp_path, monkeypatch, capsys):
    """All cells of docs/tour.ipynb, in order, after fewer steps; none holds an output."""
    cells = json.loads((DOCS / "tour.ipynb").read_text())["cells"]
    code = ["".join(x["source"]) for x in cells if x["cell_type"] == "code"]
    assert not any(x.get("outputs") for x in cells) and code[0].count("40_000") == 1
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for cell in [code[0].replace("40_000", "6_000"), *code[1:]]:
        exec(compile(cell, "tour.ipynb", "exec"), space)
    assert "visits" in capsys.readouterr().out and space["tree"].startswith("<svg")
    assert len(space["points"]) >= 1 and space["scored"]["episodes_cut"] == 0


@pytest.mark.slow
def test_the_readme_trains_and_plays(compose, tmp_path, monkeypatch):
    """Its config, beside the environment of docs/compose.md, then its player; and its loop, for
    some steps of another environment."""
    del compose
    readme = (ROOT / "README.md").read_text()
    played, loop, config = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (tmp_path / "my_config.py").write_text(config)
    monkeypatch.chdir(tmp_path)
    made = runs.load_config("my_config.py")
    made.update(total_env_steps=1_500)
    made.evaluation.update(episodes=4, num_envs=4)
    build.train(schema.check(made), tmp_path / "runs" / "mine", allow={"corridor"})
    space: dict = {}
    played = played.replace(
        'load_agent("runs/breakout")', 'load_agent("runs/mine", allow=("corridor",))'
    )
    exec(compile(played, "README.md", "exec"), space)
    assert space["action"] in (0, 1) and space["player"].spec.observation_shape == (9,)
    gym = types.SimpleNamespace(make=lambda task: fakes.Gym(30))
    monkeypatch.setitem(sys.modules, "gymnasium", gym)
    assert loop.count("20_000") == 1
    exec(compile(loop.replace("20_000", "1_100"), "README.md", "exec"), space)
    loaded = MuZeroAgent.load("cartpole_agent")
    assert loaded.updates == space["agent"].updates > 0
