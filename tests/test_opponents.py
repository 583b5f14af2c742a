"""Opponents by name and scores of matches, against tic-tac-toe on plain boards; the scripts."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elo
import evaluate
import fakes
from muzero_jax.checkpoint import CheckpointStore
from muzero_jax.config import build, opponents
from muzero_jax.envs import host
from muzero_jax.errors import BadInputError, StoppedError
from muzero_jax.evaluation import matches, scoring, statistics
from muzero_jax.evaluation.scoring import Side
from muzero_jax.types import Counters
from presets import config_of
import processes
from test_matches import best_move, free, make_table_player, worst_move
from test_search_play import after_move, is_lost

pytest.importorskip("pgx")

_TINY = {
    "env.num_envs": 4,
    "network.width": 8,
    "search.num_simulations": 2,
    "codec.value.num_bins": 5,
    "replay.min_rows": 128,
    "replay.batch_size": 8,
    "evaluation.episodes": 8,
    "evaluation.num_envs": 4,
}
_STEPS = (3, 7)


def _config(**fields):
    return config_of("board_games", "tic_tac_toe", **_TINY | fields)


@pytest.fixture(scope="module")
def experiment():
    return build.experiment(_config())


def _params(experiment, step):
    """Drawn again: at first all values are equal, and every search plays as its prior."""
    params = experiment.agent.network.init(jax.random.key(step))
    random = np.random.default_rng(step)
    return jax.tree.map(lambda x: x + random.normal(size=x.shape).astype(x.dtype), params)


@pytest.fixture(scope="module")
def workdir(experiment, tmp_path_factory):
    """A run with two saves of parameters, and one of a game for one player."""
    base = tmp_path_factory.mktemp("runs")
    for name, config in (("run", _config()), ("cartpole", config_of("cartpole", "on_device"))):
        (base / name).mkdir()
        (base / name / "config.json").write_text(config.to_json())
    with CheckpointStore(base / "run" / "params", max_to_keep=5) as store:
        for step in _STEPS:
            counters = Counters(iteration=step, env_steps=100 * step, updates=10 * step)
            tree = {"params": jax.tree.map(jnp.asarray, _params(experiment, step))}
            store.save(step, tree, {"counters": counters._asdict()})
    return base / "run"


def lowest_move(board):
    return min(free(board))


def play_out(first, second):
    """The score of `first` where both move by `choose(board)`."""
    board = (0,) * 9
    for ply in range(9):
        board = after_move(board, (first, second)[ply % 2](board))
        if is_lost(board):
            return 1 if ply % 2 == 0 else -1
    return 0


def test_scores_have_the_sign_of_the_color(experiment):
    """Table players have no chance in them: plain boards say who wins with which color.

    Planted bugs seen: the score of the second game not negated; params handed to the wrong side;
    colors counted the other way round; games of the second round left out.
    """
    player, _ = make_table_player(best_move)
    tables = {x: make_table_player(x)[1] for x in (best_move, lowest_move, worst_move)}
    seen = set()
    for opponent in (lowest_move, worst_move):
        side = Side(player, tables[opponent], "table")
        score = scoring.make_match_scorer(
            experiment.match_env, player, side, episodes=12, num_envs=4
        )
        agent = {lowest_move: lowest_move, worst_move: best_move}[opponent]
        scores = score(tables[agent], [0])
        expected = (play_out(agent, opponent), -play_out(opponent, agent))
        assert scores["returns"] == [expected[0]] * 6 + [expected[1]] * 6
        assert scores["return_mean"] == sum(expected) / 2
        for color, result in zip(("first", "second"), expected):
            counts = [scores[f"{name}_{color}"] for name in ("wins", "draws", "losses")]
            assert counts == [6 * (result == 1), 6 * (result == 0), 6 * (result == -1)]
        assert [scores[x] for x in ("wins", "draws", "losses")] == [
            6 * expected.count(x) for x in (1, 0, -1)
        ]
        seen.add(expected)
    assert len(seen) == 2


@pytest.mark.slow
def test_an_evaluation_in_a_run_plays_both_colors(experiment):
    """Eight games, four at a time, against random moves: other seeds, other games; it stops
    between plies. Nothing is compiled after the second evaluation. Planted bugs seen: `stop` not
    handed on; seeds not used; a match that is made for each evaluation."""
    config, params = _config(), _params(experiment, 3)
    asked = iter([False] * 12 + [True])  # Before a ply of the second match.
    score = build.scorer(experiment, config, episodes=8, num_envs=4)
    with pytest.raises(StoppedError):
        score(params, [1], lambda: next(asked))
    scores = [score(params, [seed]) for seed in (1, 1)]
    with fakes.compiled(lambda: len(scores)) as late:
        scores += [score(params, [seed]) for seed in (2, 3, 4)]
    assert not late
    assert scores[0] == scores[1] and len({str(x["returns"]) for x in scores}) > 1
    for result in scores:
        assert result["wins"] + result["draws"] + result["losses"] == len(result["returns"]) == 8
        assert all(sum(result[f"{x}_{c}"] for x in ("wins", "draws", "losses")) == 4
                   for c in ("first", "second"))
        assert result["return_mean"] == np.mean(result["returns"])
    with pytest.raises(BadInputError, match="even"):
        build.scorer(experiment, config, episodes=7, num_envs=1)


def test_another_run_plays_with_the_parameters_asked_for(experiment, workdir):
    """Planted bug seen: the newest whatever the step."""
    for name, step in ((f"{workdir}", 7), (f"{workdir}@3", 3), (f"{workdir}@7", 7)):
        side = opponents.make(name, _config(), experiment.match_env)
        assert side.name == f"{workdir}@{step}"
        expected = _params(experiment, step)
        jax.tree.map(np.testing.assert_array_equal, side.params, expected)
    assert side.player.init(side.params, 2).history.action.shape == (2, 1)


@pytest.mark.parametrize(
    "name, said",
    [
        ("no_one", "'no_one' is none of random, perfect, mcts:"),
        ("mcts:", "mcts needs its simulations, 1 to 10000, e.g. mcts:400"),
        ("mcts:0", "mcts needs its simulations"),
        ("mcts:10001", "mcts needs its simulations, 1 to 10000"),
        pytest.param("mcts:1" + 5_000 * "0", "mcts needs its simulations, 1 to 10000", id="huge"),
        ("{run}@5", "no checkpoint 5 in .*; there are .3, 7."),
        ("{run}/../cartpole", "plays cartpole, this run tic_tac_toe"),
    ],
)
def test_who_cannot_be_played_is_refused(experiment, workdir, name, said):
    """Planted bugs seen: the game not compared; the step not looked for."""
    with pytest.raises(BadInputError, match=f"^--opponent: .*{said}"):
        opponents.make(name.format(run=workdir), _config(), experiment.match_env)


def test_there_is_no_perfect_player_of_every_game(experiment):
    """Planted bug seen: the maker's error raised as it is."""
    config = _config()
    config.env.game = "go_9x9"
    with pytest.raises(BadInputError, match="--opponent: there is no perfect player for"):
        opponents.make("perfect", config, experiment.match_env)


@pytest.mark.slow
def test_perfect_play_and_a_search_on_the_rules_are_opponents(experiment):
    """The perfect player is never beaten, and a search of 32 simulations holds many draws. Planted
    bug seen: the search's worst move."""
    perfect = opponents.make("perfect", _config(), experiment.match_env)
    search = opponents.make("mcts:32", _config(), experiment.match_env)
    score = scoring.make_match_scorer(
        experiment.match_env, perfect.player, search, episodes=40, num_envs=20
    )
    score_of = score(perfect.params, [0])
    assert score_of["losses"] == 0 and score_of["draws"] >= 16
    assert (perfect.name, search.name) == ("perfect", "mcts:32")


@pytest.mark.parametrize(
    "flags, two_players, said",
    [
        ({"opponent": "random"}, False, "--opponent is for games of two players"),
        ({"opening_plies": 2}, False, "--opening_plies is for games of two players"),
        ({"policy": "prior", "simulations": 5}, True, "--simulations is for --policy=search"),
        ({"policy": "prior"}, False, "--policy=prior is for games of two players"),
        ({"episodes": 21}, True, "--episodes must be even"),
        ({"opponent": "exhaustive", "policy": "random"}, True, "without chance"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, two_players, said):
    """Planted bug seen: `exhaustive` let through for random moves."""
    given = dict(opponent=None, opening_plies=None, policy="search", episodes=20, simulations=None)
    evaluate.check_flags(types.SimpleNamespace(**given), two_players)
    with pytest.raises(BadInputError, match=said):
        evaluate.check_flags(types.SimpleNamespace(**given | flags), two_players)


def _run(script, *words, base):
    output, errors = base / "out", base / "err"
    output.unlink(missing_ok=True)
    arguments = processes.command(script, *words)
    code = processes.start(arguments, output=output, errors=errors).wait(240)
    assert code == 0, errors.read_text()
    (line,) = output.read_text().splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_a_match_is_one_line(experiment, workdir, tmp_path):
    """Between two saves of a run. Planted bugs seen: `--step` not used; the interval over games of
    both colors in one; `--simulations` not read, or used for the opponent too."""
    match = _run("evaluate", f"--workdir={workdir}", "--step=3", f"--opponent={workdir}@7",
                 "--episodes=8", "--simulations=40", base=tmp_path)
    assert (match["step"], match["env_steps"], match["updates"]) == (3, 300, 30)
    assert match["opponent"] == f"{workdir}@7" and match["opening_plies"] == 2
    assert match["protocol"]["game"] == "tic_tac_toe" and match["policy"] == "search"
    colors = np.reshape(match["returns"], (2, 4)).T
    interval = statistics.bootstrap_interval(statistics.mean, colors)
    assert match["interval_95"] == list(interval)
    # The same games, of a search of 40 simulations against one of two.
    deep = _config(**{"search.num_simulations": 40})
    searches = build.player(build.experiment(deep).agent, "search")
    side = opponents.make(f"{workdir}@7", _config(), experiment.match_env)
    score = scoring.make_match_scorer(
        experiment.match_env, searches, side, episodes=8, num_envs=4, opening_plies=2
    )
    again = score(_params(experiment, 3), host.env_seeds(0, host.EVAL, 1, 0, 4))
    assert match["returns"] == again["returns"]
    assert match["protocol"]["num_simulations"] == 40


@pytest.mark.slow
def test_lines_and_a_league_are_one_line_each(experiment, workdir, tmp_path):
    """Every reply to the prior as the functions count them, and a league of two. Planted bugs seen:
    the search for the prior; `--simulations` not used."""
    replies = _run("evaluate", f"--workdir={workdir}", "--policy=prior", "--opponent=exhaustive",
                   base=tmp_path)
    assert replies["step"] == 7 and replies["policy"] == "prior"
    prior = build.player(experiment.agent, "prior")
    count = matches.make_count_lines(experiment.match_env, prior)
    lines = count(jax.random.key(0), _params(experiment, 7))
    counted = scoring.both_colors(*lines)
    assert {name: replies[name] for name in counted} == counted and sum(lines[0]) > 100
    league = _run("elo", f"--workdir={workdir}", "--games=4", "--simulations=1", base=tmp_path)
    assert [x["step"] for x in league["players"]] == [3, 7]
    assert [x["env_steps"] for x in league["players"]] == [300, 700]
    assert league["players"][0]["elo"] == 0 and league["num_simulations"] == 1
    low, high = league["players"][1]["interval_95"]
    assert low <= league["players"][1]["elo"] <= high


def test_a_league_of_known_results():
    """Four players whose number decides the chance to win, 300 games a pair; the points are summed
    up one by one here. Planted bugs seen: the games with exchanged colors not negated; pairs in
    another order; points of the loser's."""
    rng, points = np.random.default_rng(0), np.zeros((4, 4))

    def play(key, first, second):
        del key
        chance = 1 / (1 + np.exp(0.5 * (second - first)))
        scores = np.where(rng.random(150) < chance, 1.0, -1.0) * (rng.random(150) < 0.7)
        points[first, second] += np.sum((scores + 1) / 2)
        points[second, first] += np.sum((1 - scores) / 2)
        return scores

    scores = elo.play_league(play, [0, 1, 2, 3], jax.random.key(0))
    assert scores.shape == (150, 12)
    found = elo.ratings(scores, 4)
    np.testing.assert_allclose(found, statistics.elo_ratings(points), atol=1e-9)
    assert found[0] == 0 and (np.diff(found) > 20).all()
    resampled = elo.ratings(np.stack([scores, scores[::-1]]), 4)
    np.testing.assert_allclose(resampled, [found, found], atol=1e-9)
