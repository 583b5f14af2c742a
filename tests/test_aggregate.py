"""Tables of scores: literal rows, and what must not stand in one table."""

import json
from pathlib import Path

import numpy as np
import pytest

import aggregate
from muzero_jax import errors
from muzero_jax.evaluation import results
from presets import config_of
import processes
from test_plot import write_run


def _runs(base, name, scores, **fields):
    """A folder per game and seed; returns the pattern that finds them."""
    for game, column in scores.items():
        for seed, score in enumerate(column):
            lines = [(50, 1.0), (90 + seed, score)]
            write_run(base / f"{name}-{game}-{seed}", game=game, seed=seed, lines=lines, **fields)
    return str(base / f"{name}-*")


# Human-normalised: Pong (s + 20.7) / 35.3, Breakout (s - 1.7) / 28.8.
_SCORES = {"Pong": [14.6, -20.7, 14.6], "Breakout": [16.1, 1.7, 30.5]}


def test_rows_and_aggregates_by_hand(tmp_path):
    """Planted bugs seen: the first evaluation as the score; games in the place of seeds."""
    found = aggregate.read_scores([_runs(tmp_path, "a", _SCORES)])
    lines = aggregate.table([run for runs in found.values() for run in runs])
    # Breakout: mean 16.1, standard deviation 14.4, 4.302653 · 14.4 / sqrt(3) = 35.7715; mean
    # (0.5 + 0 + 1) / 3. Pong: mean 8.5 / 3 = 2.8333, standard deviation 35.3 / sqrt(3), so
    # 4.302653 · 35.3 / 3 = 50.6279; mean 2/3.
    assert lines[2:4] == [
        "| Breakout | 3 | 90 to 92 | 16.1 | [-19.7, 51.9] | 1.7 | 30.5 | 0.500 |",
        "| Pong | 3 | 90 to 92 | 2.8 | [-47.8, 53.5] | -20.7 | 14.6 | 0.667 |",
    ]
    scores = aggregate.normalised(found)
    np.testing.assert_allclose(scores, [[0.5, 1.0], [0.0, 0.0], [1.0, 1.0]], atol=1e-12)
    lines = aggregate.aggregates(scores)
    assert lines[0] == ("Human-normalised, 2 games, 3 seeds each; preliminary: fewer than 5 seeds:")
    # Sorted 0 0 .5 1 1 1; one goes off each end: 2.5 / 4. Means .5 and 2/3. Short of 1 by 2.5 / 6.
    values = [line.split(" | ")[:2] for line in lines[4:8]]
    assert values == [
        ["| interquartile mean", "0.625"],
        ["| median", "0.583"],
        ["| mean", "0.583"],
        ["| optimality gap", "0.417"],
    ]


def test_five_seeds_are_not_preliminary_and_one_has_no_interval():
    """Planted bugs seen: the limit at 4; an interval of one seed, which has no width."""
    five = aggregate.aggregates(np.arange(10.0).reshape(5, 2))
    assert "preliminary" not in "".join(five)
    assert "preliminary" in "".join(aggregate.aggregates(np.arange(8.0).reshape(4, 2)))
    one = aggregate.aggregates(np.array([[1.0, 3.0]]))
    assert one[4] == "| interquartile mean | 2.000 | – |"


def test_few_seeds_unequal_seeds_and_unknown_games_get_rows_but_no_aggregate(tmp_path):
    """Planted bug seen: numbers of seeds not looked at."""
    uneven = {"Pong": [1.0, 2.0], "Breakout": [3.0]}
    found = aggregate.read_scores([_runs(tmp_path, "a", uneven)])
    line = aggregate.normalised(found)
    assert line == "every game needs the same number of seeds (Breakout has 1, Pong has 2)"
    lines = aggregate.table([run for runs in found.values() for run in runs])
    assert lines[3] == "| Pong | 2 | 90 to 91 | 1.5 | – | -20.7 | 14.6 | 0.629 |"
    found = aggregate.read_scores([_runs(tmp_path, "b", {"Klax": [1.0]})])
    assert aggregate.normalised(found).endswith("scores of Klax")
    lines = aggregate.table([run for runs in found.values() for run in runs])
    assert lines[2] == "| Klax | 1 | 90 | 1.0 | – | – | – | – |"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"env__sticky": 0.25}, "different protocols.*sticky is 0.0 and 0.25"),
        ({"evaluation__max_steps": 60}, "different protocols.*max_steps is 50 and 60"),
        ({"optimizer__learning_rate": 0.2}, "different configs.*optimizer.learning_rate is 0.1"),
        ({"total_env_steps": 200}, "different budgets.*total_env_steps is 100 and 200"),
        ({"evaluation__stop_at": 9.0}, "different budgets.*stop_at is None and 9.0"),
    ],
)
def test_what_means_something_else_is_refused(tmp_path, fields, said):
    """Planted bugs seen: protocols not looked at; budgets not looked at."""
    one = _runs(tmp_path, "a", {"Pong": [1.0, 2.0]}, logging={"tensorboard": True})
    aggregate.read_scores([one, _runs(tmp_path, "b", {"Qbert": [1.0, 2.0]})])
    other = _runs(tmp_path, "c", {"Breakout": [1.0, 2.0]}, **fields)
    with pytest.raises(errors.BadInputError, match=said):
        aggregate.read_scores([one, other])


def test_a_run_without_evaluation_is_refused(tmp_path):
    """Planted bug seen: the check left out."""
    write_run(tmp_path / "a", lines=[(10, None)])
    with pytest.raises(errors.BadInputError, match="no evaluation yet"):
        aggregate.read_scores([str(tmp_path / "a")])


def test_comparison_by_hand(tmp_path):
    """Planted bugs seen: the sides exchanged; games that only one side has left out."""
    ours = aggregate.read_scores([_runs(tmp_path, "a", _SCORES)])
    theirs = aggregate.read_scores(
        [_runs(tmp_path, "b", {"Pong": [-20.7, -20.7], "Breakout": [16.1, 16.1]})]
    )
    lines = aggregate.comparison(ours, theirs)
    # Theirs is 0, 0 and .5, .5: interquartile mean .25, ours .625. Pong: 1 > 0, 0 = 0, 1 > 0, so
    # 2.5 / 3; Breakout: .5 = .5, 0 < .5, 1 > .5, so 1.5 / 3; their mean is 2/3.
    assert lines[0].endswith("2 seeds each of --versus; preliminary: fewer than 5 seeds:")
    assert lines[4].startswith("| difference of interquartile means | 0.375 | [")
    assert lines[5].startswith("| probability of improvement | 0.667 | [")
    del theirs["Pong"]
    with pytest.raises(errors.BadInputError, match="only one side has Pong"):
        aggregate.comparison(ours, theirs)
    other = aggregate.read_scores([_runs(tmp_path, "c", _SCORES, env__sticky=0.25)])
    with pytest.raises(errors.BadInputError, match="different protocols"):
        aggregate.comparison(ours, other)


def test_published_results_make_a_table(capsys):
    """The files of benchmarks/results/ are read as they stand; their protocol is the evaluation's.
    Planted bug seen: the last point of a file's curve as its score."""
    folder = processes.ROOT / "benchmarks" / "results" / "atari_steps"
    aggregate.flags.DEFINE_list("versus", [], "")
    aggregate.flags.FLAGS(["test"])
    try:
        for files in ("*.json", "*-0.json"):  # A table, and one with aggregates: of as many seeds.
            aggregate.main([str(folder / files)])
    finally:
        delattr(aggregate.flags.FLAGS, "versus")
    printed = capsys.readouterr().out
    for path in folder.glob("*.json"):
        written = json.loads(path.read_text())
        run = results.read(path)
        assert run.score == pytest.approx(np.mean(written["score"]["returns"]))
        assert run.protocol["max_steps"] == 27_000
        if path.stem.endswith("-0"):
            assert f"| {run.task} | 1 | {written['env_steps']:,} | " in printed
    assert "| Breakout | 3 | 630,013 to 630,598 | " in printed
    assert "preliminary" in printed


def test_a_folders_protocol_is_that_of_the_evaluation_script():
    """Planted bugs seen: `life_loss_is_end`, which shapes training alone, in the protocol; its
    random moves left out."""
    from configs import atari

    config = atari.get_config("Pong").to_dict()
    stored = processes.ROOT / "benchmarks" / "results" / "atari_steps"
    stored = stored / "Pong-0.json"
    expected = json.loads(stored.read_text())["protocol"] | {"max_steps": 3_000}
    assert results.protocol(config) == expected
    config["evaluation"]["random_move"] = 0.0
    assert results.protocol(config) == expected | {"noise": "none"}


def test_procgen_runs_are_read_too():
    """Their evaluation has levels and no limit. Planted bug seen: `max_steps` taken for granted."""
    config = config_of("procgen", "coinrun").to_dict()
    run = results.Run(Path(), config, [], 5.0, 100, results.protocol(config))
    assert results.method(run)["evaluation"] == {"num_levels": 0}
    assert run.protocol["num_levels"] == 0 and "max_steps" not in run.protocol
