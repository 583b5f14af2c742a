"""Pictures and text of what an agent sees and thinks, and a person against it."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from muzero_jax.envs.pgx import make_pgx
from muzero_jax.errors import BadInputError
from muzero_jax.evaluation import film
from muzero_jax.evaluation.actors import without_memory
from muzero_jax.types import SearchOutput, Tree
import play


def _found(policy, visits, action):
    tree = Tree(**dict.fromkeys(Tree.__dataclass_fields__)).replace(
        root_action=np.arange(len(policy)), root_prior=np.where(np.asarray(visits) < 0, 0.0, 0.1),
        root_visits=np.maximum(visits, 0), root_policy=np.asarray(policy))
    return SearchOutput(action=action, policy=None, value=0.25, explored=False, tree=tree)


def test_the_best_actions_are_those_of_the_policy():
    """At most five, none without a prior. Planted: by visits; an action that is not allowed."""
    found = _found([0.1, 0.5, 0.0, 0.2, 0.1, 0.05, 0.05], [9, 2, -1, 3, 0, 0, 0], 1)
    assert film.best_actions(found) == [
        ("1", 2, 0.5), ("3", 3, 0.2), ("0", 9, 0.1), ("4", 0, 0.1), ("5", 0, 0.05)]
    assert film.best_actions(found.replace(tree=None)) == []


@pytest.mark.parametrize("observation", [
    np.zeros((96, 96, 3), np.uint8), np.zeros((84, 84, 4), np.uint8), np.eye(5)[..., None] > 0,
    np.zeros((10, 5)), np.array([0.5, -2.0, np.nan]), {"a": np.zeros(3), "b": np.zeros((4, 4, 2))},
])
def test_everything_seen_is_a_picture_of_an_even_size(observation):
    drawn = film.picture(None, observation)
    assert drawn.dtype == np.uint8 and drawn.shape[-1] == 3 and drawn.shape[0] >= 420
    shown = film.frame(drawn, _found([0.6, 0.4], [3, 1], 0), step=3, score=1.5)
    assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0
    np.testing.assert_array_equal(shown[: drawn.shape[0], : drawn.shape[1]], drawn)
    assert len(np.unique(shown[:, drawn.shape[1] + 1 :].reshape(-1, 3), axis=0)) > 4


def test_planes_have_a_colour_and_a_sign_each():
    """Planted: rows and columns changed over."""
    planes = np.zeros((2, 3, 2), bool)
    planes[0, 2, 0] = planes[1, 0, 1] = True
    assert film.text(planes) == film.grid(planes) == ". . X\nO . ."
    drawn = film.picture(None, planes)
    cell = drawn.shape[0] // 2
    colours = {tuple(drawn[cell // 2 + cell * r, cell // 2 + cell * c])
               for r in range(2) for c in range(3)}
    assert len(colours) == 3
    assert film.text(np.array([0.5, 2.0])) == "0.5 2"
    assert "image of 96x96" in film.text(np.zeros((96, 96, 3), np.uint8))


def test_a_film_is_there_whole_or_not_at_all(tmp_path):
    frames = [np.full((40, 60, 3), 40 * i, np.uint8) for i in range(4)]
    path = tmp_path / "deep" / "a.gif"
    assert film.write(path, frames, frames_per_s=10.0) == 4
    with Image.open(path) as made:
        assert made.n_frames == 4 and made.size == (60, 40) and made.info["duration"] == 100
    with pytest.raises(BadInputError, match="--out must end in .gif or .mp4"):
        film.write(tmp_path / "a.avi", frames, frames_per_s=10.0)
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="--out: "):
        film.write(tmp_path / "file" / "a.gif", frames, frames_per_s=10.0)
    assert [x.name for x in tmp_path.iterdir() if "partial" in x.name] == []


@pytest.mark.parametrize("board, num_actions", [((6, 7), 7), ((3, 3), 9), ((9, 9), 82)])
def test_every_move_can_be_typed(board, num_actions):
    """Planted: rows counted from the top; columns that go on after the i."""
    names = [play.name_of(action, board, num_actions) for action in range(num_actions)]
    assert len(set(names)) == num_actions
    assert [play.move_of(f" {x.upper()} ", board, num_actions) for x in names] == [
        *range(num_actions)]
    for words in ("", "0", str(num_actions + 1), "z3", "a0", "a99", "help"):
        assert play.move_of(words, board, num_actions) is None
    if num_actions == 82:
        assert names[0] == "a9" and names[8] == "j9" and names[80] == "j1" and names[81] == "pass"


def _scripted(moves):
    """Plays these cells, one at each stone of its own."""
    moves = jnp.int32(moves)

    def choose(carry, key, state, timestep):
        return moves[jnp.sum(timestep.observation[..., 0], axis=(1, 2)).astype(int)]

    return without_memory(choose)


@pytest.mark.parametrize("you_begin, typed, theirs, result", [
    (True, ["1", "2", "3"], [3, 4], 1.0),
    (False, ["1", "2", "9"], [3, 4, 5], -1.0),
])
def test_a_game_is_played_to_its_end(you_begin, typed, theirs, result):
    """Planted: the result of the one who moved last; the colours changed over."""
    actor = _scripted(theirs)
    lines, words = [], iter(["", "5x", *typed])
    found = play.game(
        make_pgx("tic_tac_toe"), actor, {}, jax.random.key(0), you_begin=you_begin,
        ask=lambda prompt: next(words), tell=lines.append)
    assert found == result
    assert lines[-1] == ("you win" if result > 0 else "you lose")
    assert any("allowed: 1 2 3" in x or "allowed: 1 2 3 5" in x for x in lines)
    boards = [x for x in lines if "\n" in x]
    assert boards[-1].count("X") >= 2 and boards[-1].count("O") == len(theirs) - (result < 0)


def test_a_game_can_be_left():
    actor = without_memory(lambda carry, key, state, timestep: np.int32([0]))

    def ends(prompt):
        raise EOFError

    for ask in (ends, lambda prompt: "quit"):
        assert play.game(
            make_pgx("tic_tac_toe"), actor, {}, jax.random.key(0), you_begin=True, ask=ask,
            tell=lambda line: None) is None
