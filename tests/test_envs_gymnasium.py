"""Rows of environments with gymnasium's interface, against lists of episodes."""

from types import SimpleNamespace

import numpy as np
import pytest

from muzero_jax.envs.gymnasium import make_gymnasium
from muzero_jax.errors import EnvError


class _Count:
    """Observes (seed, steps, action); episode k ends after its k-th script: (steps, how)."""

    def __init__(self, script, **spaces):
        self.observation_space = SimpleNamespace(shape=(3,), dtype=np.float64)
        self.action_space = SimpleNamespace(n=2)
        self.script = iter(script)
        self.seeds, self.steps = [], 0
        vars(self).update(spaces)

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.length, self.how = next(self.script)
        self.steps = 0
        return np.array([self.seeds[0], 0, -1]), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        observation = np.array([self.seeds[0], self.steps, action])
        ends = (over and "d" in self.how, over and "t" in self.how)
        return observation, 10.0 * self.steps, *ends, {}


def _play(env, actions):
    rows = [env.reset()] + [env.step(np.array(action)) for action in actions]
    names = ("observation", "reward", "discount", "first", "last")
    return {name: np.stack([getattr(row, name) for row in rows]) for name in names}


def test_literal_rows():
    """Environment 0 is terminated, truncated, both at once; environment 1 meets the limit of 4.
    Planted bugs seen: both at once taken for a truncation; a terminated row keeps d = 1; the
    seed given to every reset; the limit not counted from 0 after a reset."""
    made = []

    def make_env():
        script = [(1, "d"), (2, "t"), (1, "dt"), (9, "d")] if not made else [(9, "d")] * 9
        made.append(_Count(script))
        return made[-1]

    env = make_gymnasium(make_env, seeds=[7, 8], max_steps=4)
    assert env.num_envs == 2 and env.spec.num_actions == 2 and env.spec.max_steps == 4
    assert env.spec.observation_dtype == "float32" and env.spec.truncates
    rows = _play(env, [[1, 0]] * 9)
    np.testing.assert_array_equal(rows["first"][:, 0], [1, 0, 1, 0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows["last"][:, 0], [0, 1, 0, 0, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(rows["discount"][:, 0], [0, 0, 0, 1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(rows["reward"][:, 0], [0, 10, 0, 10, 20, 0, 10, 0, 10, 20])
    np.testing.assert_array_equal(rows["first"][:, 1], np.arange(10) % 5 == 0)
    np.testing.assert_array_equal(rows["last"][:, 1], np.arange(10) % 5 == 4)
    np.testing.assert_array_equal(rows["discount"][:, 1], np.arange(10) % 5 != 0)
    np.testing.assert_array_equal(rows["observation"][:, 1, 1], np.arange(10) % 5)
    np.testing.assert_array_equal(rows["observation"][3], [[7, 1, 1], [8, 3, 0]])
    assert made[0].seeds == [7, None, None, None] and made[1].seeds == [8, None]


@pytest.mark.envpool
def test_cartpole_equals_its_episodes_played_alone():
    """gymnasium's CartPole-v1, 3 seeds. Planted bug seen: seeds given in reverse order."""
    gymnasium = pytest.importorskip("gymnasium")

    def balance(observation):
        return int(observation[2] + 0.5 * observation[3] > 0)

    def episodes(seed, count):
        """Lists of (observation, reward, terminated, truncated), the start with None."""
        single, played = gymnasium.make("CartPole-v1", max_episode_steps=60), []
        for k in range(count):
            observation, _ = single.reset(**({"seed": seed} if k == 0 else {}))
            played.append([(observation, None, False, False)])
            while not (played[-1][-1][2] or played[-1][-1][3]):
                # Every other episode pushes one way and falls.
                action = balance(played[-1][-1][0]) if k % 2 == 0 else 1
                played[-1].append(single.step(action)[:4])
        return played

    seeds, ends = [3, 500, 11], set()
    env = make_gymnasium(lambda: gymnasium.make("CartPole-v1", max_episode_steps=60), seeds=seeds)
    assert env.spec.max_steps == 60  # Of its own.
    row, number, rows = env.reset(), np.zeros(3, int), []
    for _ in range(200):
        rows.append(row)
        pushed = [balance(row.observation[i]) if number[i] % 2 == 0 else 1 for i in range(3)]
        number += row.last
        row = env.step(np.array(pushed))
    for i, seed in enumerate(seeds):
        flat = [step for episode in episodes(seed, 8) for step in episode][:200]
        for row, (observation, reward, terminated, truncated) in zip(rows, flat, strict=True):
            np.testing.assert_array_equal(row.observation[i], observation)
            assert row.first[i] == (reward is None) and row.reward[i] == (reward or 0)
            assert row.last[i] == (terminated or truncated)
            assert row.discount[i] == (reward is not None and not terminated)
            ends |= {(bool(terminated), bool(truncated))}
    assert ends == {(False, False), (True, False), (False, True)}


def test_masks_starts_and_images():
    """Planted bugs seen: the mask not inverted; `start` not added; uint8 cast to float32."""

    class Masked(_Count):
        def reset(self, seed=None):
            super().reset(seed)
            return np.zeros((2, 2, 1), np.uint8), {"action_mask": np.array([1, 0, 1], np.int8)}

        def step(self, action):
            _, *rest, _ = super().step(action)
            image = np.full((2, 2, 1), action, np.uint8)
            return image, *rest, {"action_mask": np.array([0, 1, 0])}

    spaces = dict(
        observation_space=SimpleNamespace(shape=(2, 2, 1), dtype=np.uint8),
        action_space=SimpleNamespace(n=3, start=5),
    )
    env = make_gymnasium(lambda: Masked([(3, "d")], **spaces), seeds=[0, 1], max_steps=9)
    row = env.reset()
    assert env.spec.observation_dtype == "uint8" and row.observation.dtype == np.uint8
    np.testing.assert_array_equal(row.invalid_actions, [[False, True, False]] * 2)
    row = env.step(np.array([0, 2]))
    np.testing.assert_array_equal(row.observation[:, 0, 0, 0], [5, 7])
    with pytest.raises(EnvError, match="env 1, step 2: action 0 is not legal"):
        env.step(np.array([1, 0]))


def _returns(**calls):
    """An environment whose calls return what is given, as `{name: value}`."""
    env = _Count([(5, "d")] * 9)
    vars(env).update(
        {name: lambda *args, value=value, **seed: value for name, value in calls.items()}
    )
    return env


_OBSERVATION = np.zeros(3)
_MASK = {"action_mask": np.ones(2)}


@pytest.mark.parametrize(
    "calls,line",
    [
        ({"reset": _OBSERVATION}, "step 0: reset returned ndarray, needed (observation, info)"),
        ({"step": (_OBSERVATION, 0.0, False, {})}, "step 1: step returned 4 values, needed"
         " (observation, reward, terminated, truncated, info)"),
        ({"step": (_OBSERVATION, [0.5], False, False, {})}, "step 1: reward [0.5] is not one"
         " number"),
        ({"step": (np.zeros(1), 0.0, False, False, {})}, "step 1: observation (1,) float64,"
         " declared (3,) float32"),
        ({"step": (np.zeros(3, complex), 0.0, False, False, {})}, "step 1: observation (3,)"
         " complex128, declared (3,) float32"),
        ({"reset": (_OBSERVATION, {"action_mask": np.ones(3)})}, 'step 0: info["action_mask"] (3,),'
         " needed (2,)"),
        ({"reset": (_OBSERVATION, {"action_mask": np.zeros(2)})}, "step 0: no legal action:"
         " invalid_actions is True for all"),
        ({"reset": (_OBSERVATION, _MASK), "step": (_OBSERVATION, 0.0, False, False, {})}, "step 1:"
         " invalid_actions None, but spec.masked is True"),
    ],
)  # fmt: skip
def test_what_an_environment_does_wrong_is_one_line(calls, line):
    """Planted bugs seen: each check of the adapter left out."""
    with pytest.raises(EnvError) as caught:
        env = make_gymnasium(lambda: _returns(**calls), seeds=[0], max_steps=9)
        env.reset()
        env.step(np.array([0]))
    assert str(caught.value).removeprefix("env 0, ") == line


def test_a_mask_that_only_some_bring():
    """Planted bug seen: masks dropped unless all have one."""
    made = iter([_returns(reset=(_OBSERVATION, _MASK)), _returns(reset=(_OBSERVATION, {}))])
    env = make_gymnasium(lambda: next(made), seeds=[0, 1], max_steps=9)
    with pytest.raises(EnvError, match=r'^env 1, step 0: info\["action_mask"\] is missing'):
        env.reset()


@pytest.mark.parametrize(
    "spaces,options,line",
    [
        ({"action_space": SimpleNamespace(shape=(2,), dtype=np.float32)}, {}, "a Box with finite"),
        (
            {"action_space": SimpleNamespace(shape=(1,), dtype=float, low=[0.0], high=[np.inf])},
            {},
            "a Box with finite bounds",
        ),
        ({"observation_space": SimpleNamespace(shape=(), dtype=str)}, {}, "needed: Box, Discrete"),
        ({}, {"max_steps": None}, "max_steps None must be >= 1"),
        ({}, {"max_steps": 0}, "max_steps 0 must be >= 1"),
        ({}, {"seeds": []}, "number of seeds 0 must be >= 1"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(spaces, options, line):
    """Planted bugs seen: infinite bounds taken; no limit taken for 0."""
    with pytest.raises(ValueError, match=line):
        make_gymnasium(lambda: _Count([], **spaces), **{"seeds": [0], "max_steps": 9, **options})


def test_numbers_that_uint8_would_cut_are_refused():
    """300 would arrive as 44. Planted bug seen: "same_kind" for all, which takes uint16."""

    class Wide:
        observation_space = SimpleNamespace(shape=(3,), dtype=np.dtype(np.uint8))
        action_space = SimpleNamespace(n=2)

        def reset(self, seed=None):
            del seed
            return np.full(3, 300, np.uint16), None

    with pytest.raises(EnvError, match="uint16, declared .3,. uint8"):
        make_gymnasium(Wide, seeds=[1], max_steps=5)
