"""Curves drawn from run folders: which points, which curves, and one line for what is wrong."""

from concurrent.futures import ThreadPoolExecutor
import json
import subprocess
import sys

import numpy as np
import pytest

from muzero_jax import errors
from muzero_jax.evaluation import results
import plot
import processes


def write_run(folder, *, seed=0, game="Pong", lines=(), **fields):
    """A run folder with evaluations `(env_steps, return)` or `(env_steps, return, resumes)`."""
    config = {
        "seed": seed,
        "total_env_steps": 100,
        "max_wall_minutes": None,
        "env": {"game": game, "num_envs": 4, "num_threads": 0, "sticky": 0.0},
        "search": {"num_simulations": 8},
        "optimizer": {"learning_rate": 0.1},
        "evaluation": {"max_steps": 50, "interval_env_steps": 5, "stop_at": None},
        "logging": {"tensorboard": False},
    }
    for name, value in fields.items():
        group, _, field = name.partition("__")
        if field:
            config[group][field] = value
        else:
            config[group] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    records = [
        {
            "env_steps": line[0],
            "updates": line[0] // 2,
            "wall_s": line[0] * 60.0,
            "resumes": line[2] if len(line) > 2 else 0,
            "eval/return_mean": line[1],
            "eval/returns": [line[1]],
        }
        for line in lines
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def _plot(*words, cwd, options=()):
    arguments = processes.command("plot", *words)
    arguments[1:1] = options
    return subprocess.run(
        arguments,
        cwd=cwd,
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_pool_by_hand():
    """Planted bugs seen: curves held beyond their last point; points of the first seed alone."""
    # On [10, 30]: seed 1 is 0 at 10, 4 at 30; seed 2 is 2 at 0, 6 at 20 and 8 at 40, so 4 at 10 and
    # 7 at 30; seed 3 is 8 throughout. Means at 10, 20, 30: 12/3, (2 + 6 + 8)/3, (4 + 7 + 8)/3.
    seeds = [
        (np.array([10.0, 30.0]), np.array([0.0, 4.0])),
        (np.array([0.0, 20.0, 40.0]), np.array([2.0, 6.0, 8.0])),
        (np.array([5.0, 50.0]), np.array([8.0, 8.0])),
    ]
    points, mean, low, high = plot.pool(seeds)
    np.testing.assert_array_equal(points, [10, 20, 30])
    np.testing.assert_allclose(mean, [4, 16 / 3, 19 / 3])
    # Standard deviations of (0, 4, 8), (2, 6, 8), (4, 7, 8): 4, sqrt(28/3), sqrt(13/3); the 97.5 %
    # point of Student's t of 2 degrees is 4.302653.
    half = 4.302653 * np.sqrt(np.array([16, 28 / 3, 13 / 3]) / 3)
    np.testing.assert_allclose(low, mean - half, rtol=1e-6)
    np.testing.assert_allclose(high, mean + half, rtol=1e-6)


def test_a_resumed_run_counts_as_it_finally_went(tmp_path):
    """Planted bug seen: all records of the file taken."""
    lines = [(10, 1.0), (20, 2.0), (30, 99.0), (40, 99.0)]
    lines += [(30, 3.0, 1), (40, None, 1), (50, 5.0, 1)]
    run = results.read(write_run(tmp_path / "a", lines=lines))
    x, y = plot.series(run, "updates", "eval/return_mean")
    np.testing.assert_array_equal(x, [5, 10, 15, 25])
    np.testing.assert_array_equal(y, [1, 2, 3, 5])
    assert (run.score, run.env_steps, run.task) == (5.0, 50, "Pong")


def test_a_run_without_an_evaluation_yet_is_drawn_by_its_training_returns(tmp_path):
    """Planted: training returns always; evaluations wherever one run has them."""
    evaluated = write_run(tmp_path / "old", lines=[(10, 1.0), (20, 2.0)])
    young = write_run(tmp_path / "young", lines=[])
    trained = dict(env_steps=10, updates=5, wall_s=1.0, resumes=0) | {"train/return_mean": 3.0}
    for folder in (evaluated, young):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(trained) + "\n")
    old, new = map(results.read, (evaluated, young))
    assert plot.usual_metric([old]) == "eval/return_mean"
    assert plot.usual_metric([new]) == "train/return_mean"
    assert plot.usual_metric([old, new]) == "train/return_mean"
    without = results.read(write_run(tmp_path / "without", lines=[(10, 1.0)]))
    assert plot.usual_metric([without, new]) == "eval/return_mean"  # Its refusal names the run.


def test_runs_of_one_method_are_one_curve_and_each_game_a_panel(tmp_path):
    """Planted bugs seen: the logging group in the comparison; the game in it; the evaluation's
    length left out of it."""
    line = [(10, 1.0), (20, 2.0)]
    base = tmp_path
    for seed in (0, 1):
        write_run(base / f"pong-{seed}", seed=seed, lines=line, logging={"tensorboard": bool(seed)})
    write_run(base / "qbert-0", game="Qbert", lines=line, total_env_steps=7)
    write_run(base / "fast-0", lines=line, optimizer__learning_rate=0.2)
    groups = plot.grouped([str(base / "pong-*"), str(base / "qbert-0"), str(base / "fast-0")])
    names = {label: [run.path.name for run in runs] for label, runs in groups.items()}
    assert names == {
        "learning_rate 0.1": ["pong-0", "pong-1", "qbert-0"],
        "learning_rate 0.2": ["fast-0"],
    }
    points = {
        run.path: plot.series(run, "env_steps", "eval/return_mean")
        for runs in groups.values()
        for run in runs
    }
    panels = plot.make_panels(groups, points, ["human"])
    assert [(p.title, [(c.label, len(c.seeds)) for c in p.curves], p.levels) for p in panels] == [
        ("Pong", [("learning_rate 0.1", 2), ("learning_rate 0.2", 1)], {"human": 14.6}),
        ("Qbert", [("learning_rate 0.1", 1)], {"human": 13455.0}),
    ]
    # By hand; and a path with = in its name is a path.
    write_run(base / "x=1", lines=line, evaluation__max_steps=51)
    groups = plot.grouped([f"mine={base}/*-0", f"{base}/x=1", str(base / "pong-1")])
    assert [len(runs) for runs in groups.values()] == [3, 1, 1]
    assert list(groups) == ["mine", "max_steps 51", "max_steps 50"]


def test_one_seed_twice_is_refused(tmp_path):
    """Planted bug seen: the second one drawn as another seed."""
    for name in ("a", "b"):
        write_run(tmp_path / name, lines=[(10, 1.0)])
    runs = [results.read(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(errors.BadInputError, match=r"seed 0 twice: .*a and .*b"):
        results.seeds_of(runs)
    with pytest.raises(errors.BadInputError, match="seed 0 twice"):
        results.seeds_of([runs[0], results.read(tmp_path / "a")])


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (500, "500"), (1000, "1k"), (2.5e6, "2.5M"), (1e9, "1B"), (0.25, "0.25"),
     (-20, "\N{MINUS SIGN}20"), (-1500, "\N{MINUS SIGN}1.5k")],
)  # fmt: skip
def test_ticks_are_for_people(value, label):
    """Planted bug seen: a thousandth written with the prefix for thousands."""
    assert plot.compact(value) == label


def test_the_figure_shows_mean_band_and_seeds():
    """Planted bugs seen: two seeds pooled; a band that is too narrow by 0.5."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    x = np.array([0.0, 10.0])
    three = plot.Curve("three", [(x, x + seed) for seed in range(3)])
    two = plot.Curve("two", [(x, -x), (x, -2 * x)])
    panels = [plot.Panel("Pong", [three, two], {"human": 14.6}), plot.Panel("B", [two], {})]
    figure = plot.draw(Figure, panels, "steps", "return")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("Pong", "B")
    drawn = [(line.get_color(), list(line.get_ydata())) for line in first.lines]
    blue, orange = plot.COLORS[:2]
    assert drawn[:6] == [
        (blue, [0, 10]), (blue, [1, 11]), (blue, [2, 12]), (blue, [1, 11]),
        (orange, [0, -10]), (orange, [0, -20]),
    ]  # fmt: skip
    assert list(first.lines[6].get_ydata()) == [14.6, 14.6]
    # Seeds 0, 1, 2 apart: 1 ± 4.302653 / sqrt(3) where x is 0.
    (band,) = first.collections
    corners = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([corners.min(), corners.max()], [1 - 2.484138, 11 + 2.484138], 1e-5)
    assert not second.collections and {line.get_color() for line in second.lines} == {orange}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["three", "two"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Three good seeds of two games, and folders that are not."""
    base = tmp_path_factory.mktemp("plots")
    for seed in range(3):
        for game in ("Pong", "Qbert"):
            lines = [(step, float(step * seed)) for step in range(10, 60, 10)]
            write_run(base / f"{game}-{seed}", seed=seed, game=game, lines=lines)
    write_run(base / "empty")
    (base / "bare").mkdir()
    (base / "bare" / "config.json").write_text("{}")
    (base / "list.json").write_text("[]")
    (base / "torn.json").write_text("{")
    return base


_UNREADABLE = {  # Word: what the line has to say.
    "mine=now*": "now*: there is no such run folder",
    "bare": "bare is no run folder: metrics.jsonl is missing",
    "list.json": "list.json cannot be read: it holds no JSON object",
    "torn.json": "torn.json cannot be read",
    "bare/config.json": "is no result of benchmarks/learning.py",
}


@pytest.mark.parametrize("word", _UNREADABLE)
def test_what_is_no_run_is_refused(word, base, monkeypatch):
    """Planted bug seen: any JSON file taken for a result."""
    monkeypatch.chdir(base)
    with pytest.raises(errors.BadInputError) as caught:
        plot.grouped([word])
    assert _UNREADABLE[word] in str(caught.value)


_BAD = {  # Name: (words, what the line has to say).
    "no words": ([], ["which runs?"]),
    "no folder": (["nowhere"], ["nowhere: there is no such run folder"]),
    "empty": (["empty"], ["metrics.jsonl holds no records yet"]),
    "no metric": (
        ["--y=eval/returns", "Pong-0"],
        ["--y: Pong-0 has no 'eval/returns'", "has env_steps, eval/return_mean, resumes, updates"],
    ),
    "format": (["--out=x.docx", "Pong-0"], ["--out: use one of .pdf, .svg, .png"]),
    "no room": (["--out=list.json/x.png", "Pong-0"], ["cannot be written"]),
    "axis": (["--x=time", "Pong-0"], ["--x=time", "env_steps|wall_s|updates"]),
    "flag": (["Pong-0", "--why=3"], ["Unknown command line flag 'why'"]),
    "level": (["--levels=cat", "Pong-0"], ["--levels: of random, human (got 'cat')"]),
}


@pytest.fixture(scope="module")
def outcomes(base):
    """Name -> what the script did with each bad input."""
    with ThreadPoolExecutor(2) as pool:
        ran = pool.map(lambda case: _plot(*case[0], cwd=base), _BAD.values())
        return dict(zip(_BAD, ran, strict=True))


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_is_one_line_and_exit_code_78(name, outcomes):
    """Planted bug seen: names of lists among the metrics."""
    ran = outcomes[name]
    assert ran.returncode == 78, ran.stderr
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1
    for part in _BAD[name][1]:
        assert part in ran.stderr
    assert not ran.stdout


def test_a_plot_is_drawn_without_envpool_or_orbax(base):
    """Planted bug seen: the module that builds experiments imported at the top of `plot`."""
    pytest.importorskip("matplotlib")
    words = ["--out=deep/two.svg", "Pong-*", "Qbert-*", "--x=wall_s"]
    ran = _plot(*words, cwd=base, options=["-X", "importtime"])
    assert ran.returncode == 0, ran.stderr
    assert "Student-t interval" in ran.stdout
    modules = {line.split("|")[-1].strip() for line in ran.stderr.splitlines()}
    assert "muzero_jax.metrics" in modules
    assert not {name for name in modules if name.split(".")[0] in ("envpool", "orbax")}
    drawn = (base / "deep" / "two.svg").read_text()
    # 50 steps are 50 minutes here: text stays text, and the unit fits.
    for text in ("wall-clock minutes", "evaluation return", "Pong", "Qbert"):
        assert f">{text}<" in drawn


def test_missing_matplotlib_is_one_line(tmp_path, monkeypatch):
    """Planted bug seen: the ImportError let through."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(errors.BadInputError, match=r"pip install 'muzero_jax\[plot\]'"):
        plot.save(tmp_path / "x.png", [], x_label="", y_label="")
