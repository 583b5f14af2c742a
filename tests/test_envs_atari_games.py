"""Names and scores of Atari games."""

import pytest

from muzero_jax.envs import atari_games


@pytest.mark.parametrize("asked", ["Pong", "pong", "PONG", "Pong-v5", "pong-v5"])
def test_canonical_name(asked):
    """Planted bug seen: `-v5` not stripped."""
    assert atari_games.canonical_name(asked) == "Pong"
    assert atari_games.canonical_name("kungfumaster") == "KungFuMaster"


def test_unknown_game_is_refused_with_a_hint():
    """Planted bug seen: the lower-case candidate in the hint."""
    with pytest.raises(ValueError, match=r"^unknown game 'Pongg'; did you mean 'Pong'\?$"):
        atari_games.canonical_name("Pongg")
    with pytest.raises(ValueError, match=r"^unknown game 'CartPole-v1'$"):
        atari_games.canonical_name("CartPole-v1")


def test_scores():
    """57 games; literal values. Planted bug seen: human and random swapped."""
    table = atari_games.RANDOM_AND_HUMAN_SCORES
    assert len(table) == 57 and set(table) <= set(atari_games.GAMES)
    assert all(human > random for random, human in table.values())
    assert atari_games.human_normalised("pong", -20.7) == 0
    assert atari_games.human_normalised("Pong-v5", 14.6) == 1
    # (30.5 - 1.7) / 2 + 1.7 = 16.1 is half way in Breakout.
    assert atari_games.human_normalised("Breakout", 16.1) == pytest.approx(0.5)
    # Sums of the table once it was compared with dqn_zoo: a digit changed later shows.
    assert sum(random for random, _ in table.values()) == pytest.approx(50864.9)
    assert sum(human for _, human in table.values()) == pytest.approx(606494.2)


def test_a_game_without_scores_is_refused():
    """Planted bug seen: a plain KeyError."""
    with pytest.raises(ValueError, match="no published scores for game 'Klax'"):
        atari_games.human_normalised("Klax", 1.0)


@pytest.mark.envpool
def test_names_equal_the_registry_of_envpool():
    """Planted bug seen: `Zaxxon` left out."""
    from envpool import registration

    specs = registration.registry.specs
    atari = {name for name, spec in specs.items() if "atari" in str(spec).lower()}
    assert {f"{name}-v5" for name in atari_games.GAMES} == atari
    assert list(atari_games.GAMES) == sorted(set(atari_games.GAMES))
