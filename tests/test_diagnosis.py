"""The numbers of a diagnosis, on a world whose model is known, and what is made of them."""

import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakes import take
from muzero_jax import assembly, codecs, learner, losses, targets
from muzero_jax.acting import NO_EXPLORATION, init_carry
from muzero_jax.config import build
from muzero_jax.diagnosis import beliefs, learning, page, pictures, report, verdict
from muzero_jax.envs import wrappers
from muzero_jax.errors import ArgumentError
from muzero_jax.evaluation.recording import episode_trajectories, search_play
from muzero_jax.search import gumbel_plan, learned_model, make_search
from muzero_jax.types import (
    ActionSpec,
    ArraySpec,
    Codecs,
    Env,
    EnvSpec,
    Network,
    Prediction,
    TimeStep,
    Window,
)
from presets import config_of
import processes

WINDOW, DISCOUNT, LENGTH = Window(history=2, unroll=2, bootstrap=1), 0.5, 7
SPEC = EnvSpec(
    observation=ArraySpec((2,), "float32"), action=ActionSpec.discrete(2), turn_sign=1,
    truncates=False, max_steps=LENGTH,
)


def _walk():
    """(place, time): action 1 goes up, 0 down; a step is worth the place that it leaves."""

    def row(state, reward, first):
        over = state[1] >= LENGTH
        return TimeStep(
            observation=state, reward=jnp.float32(reward),
            discount=jnp.where(first | over, 0.0, 1.0), first=jnp.bool_(first), last=over,
            invalid_actions=None)

    def reset(key):
        state = jnp.stack([jax.random.randint(key, (), -3, 4), 0]).astype(jnp.float32)
        return state, row(state, 0.0, True)

    def step(state, action, key):
        after = state + jnp.stack([2.0 * action - 1.0, 1.0])
        return after, row(after, state[0], False)

    return wrappers.auto_reset(Env(spec=SPEC, reset=reset, step=step), same_step=False)


def _network(**wrong):
    """It knows the world: the embedding is the state, the value half the place; `wrong` are by how
    much it errs."""
    moved, reward, value = (wrong.get(name, 0.0) for name in ("moved", "reward", "value"))

    def predict(state, came):
        logits = jnp.stack([jnp.zeros(len(state)), state[:, 0]], axis=-1)
        return Prediction(embedding=state, reward_logits=came[:, None],
                          value_logits=state[:, :1] / 2 + value, policy_logits=logits)

    def look(params, history):
        return predict(history.observation[:, -1], jnp.zeros(len(history.valid)))

    def go(params, state, action):
        after = state + jnp.stack([2.0 * action - 1.0, jnp.ones(len(state))], axis=-1)
        return predict(after + moved, state[:, 0] + reward)

    return Network(lambda key: {"w": jnp.ones(1)}, look, go)


def _agent(**wrong):
    codec = Codecs(value=codecs.identity_codec(), reward=codecs.identity_codec())
    network = _network(**wrong)
    model = learned_model(network, codec, action=SPEC.action, discount=DISCOUNT, turn_sign=1)
    return assembly.make_agent(
        SPEC, network, codec, make_search(model, gumbel_plan(num_simulations=4)), window=WINDOW,
        discount=DISCOUNT, num_simulations=4)


def _episodes(agent, number=6):
    env = wrappers.as_host_env(_walk(), 2, jax.random.key(3))
    play = search_play(agent.search, {"w": jnp.ones(1)}, jax.random.key(1), NO_EXPLORATION, 5)
    carry = init_carry(SPEC, 2, WINDOW.history)
    return [*episode_trajectories(env, play, carry, episodes_per_env=number // 2)]


@pytest.fixture(scope="module")
def episodes():
    return _episodes(_agent())


def test_returns_are_those_of_the_episode(episodes):
    """Planted: a reward one step late; a cut episode that is worth nothing."""
    agent = _agent()
    rows = episodes[0]
    found = beliefs.real_returns(rows, agent, DISCOUNT)
    places = rows.observation[:, 0]
    want = [sum(DISCOUNT ** i * places[t + i] for i in range(LENGTH - t)) for t in range(LENGTH)]
    np.testing.assert_allclose(found, [*want, 0.0], atol=1e-5)
    cut = rows.replace(discount=np.append(rows.discount[:-1], 1).astype(np.float32),
                       value=np.append(rows.value[:-1], 8).astype(np.float32))
    worth = beliefs.real_returns(cut, agent, DISCOUNT)
    more = 8 * DISCOUNT ** np.arange(LENGTH, -1.0, -1)
    np.testing.assert_allclose(worth - found, more, atol=1e-5)
    doubled = agent._replace(reward_transform=lambda x: 2 * x)
    np.testing.assert_allclose(beliefs.real_returns(rows, doubled, DISCOUNT), 2 * found, atol=1e-5)


def _measured(agent, episodes, depth=4):
    windows = beliefs.take_windows(episodes, agent, discount=DISCOUNT, depth=depth, number=100)
    seen = beliefs.look(agent, {"w": jnp.ones(1)}, windows, jax.random.key(0))
    return windows, seen, beliefs.measure(agent, windows, seen)


def test_a_model_that_knows_the_world_has_no_error(episodes):
    """All positions of all episodes, along what was done, whatever lies beyond an episode.

    Planted: the action after the one that was done; rows of another position; errors counted beyond
    an end; the last row's search counted.
    """
    windows, seen, found = _measured(_agent(), episodes)
    assert found["positions"] == len(episodes) * LENGTH
    assert (windows.inside.sum(1) == np.minimum(LENGTH - windows.step, 4) + 1).all()
    assert (windows.acted[:, 0]).all() and (windows.inside[:, 1:] == windows.acted[:, :-1]).all()
    error = found["model"]["error"]
    assert len(error["reward"]) == 4 and len(error["value"]) == 5
    for name in ("reward", "embedding"):
        assert max(x["mean"] for x in error[name]) < 1e-5, name
    for k, point in enumerate(error["reward"], start=1):
        assert point["number"] == len(episodes) * (LENGTH - k + 1)
    for k, point in enumerate(error["value"]):
        assert point["number"] == len(episodes) * (LENGTH - k)
    # The model's values are those of the frames, so both are equally wrong.
    np.testing.assert_allclose(seen.value[windows.acted], seen.real_value[windows.acted], atol=1e-5)
    np.testing.assert_array_equal(seen.embedding[:, 1], windows.step)
    # Of the search at the same row: nothing else was played.
    played = windows.rows.action[:, WINDOW.history]
    np.testing.assert_array_equal(seen.found.action, played)
    prior = seen.embedding[:, 0] > 0
    np.testing.assert_array_equal(seen.greedy, prior == played)


@pytest.mark.slow
def test_each_error_is_the_one_that_was_made(episodes):
    """Planted: the reward of the step after; the value's error at the wrong depth; the distance to
    the position's own embedding."""
    _, seen, found = _measured(_agent(reward=0.25), episodes)
    for point in found["model"]["error"]["reward"]:
        assert point["mean"] == pytest.approx(0.25, abs=1e-5)
        assert point["low"] == pytest.approx(point["high"], abs=1e-5)
    _, _, moved = _measured(_agent(moved=0.5), episodes)
    distance = [x["mean"] for x in moved["model"]["error"]["embedding"]]
    np.testing.assert_allclose(np.array(distance) / distance[1], range(5), atol=1e-4)
    assert distance[0] < 1e-6
    _, _, exact = _measured(_agent(), episodes)
    _, _, high = _measured(_agent(value=100.0), episodes)
    for a, b in zip(exact["value"]["bins"], high["value"]["bins"], strict=True):
        assert b["predicted"] == pytest.approx(a["predicted"] + 100.0, abs=1e-4)
        assert b["real"] == a["real"]
    np.testing.assert_allclose(
        [x["mean"] for x in high["model"]["error"]["value"]], 100.0, atol=8.0)


def test_intervals_are_over_episodes():
    """Two episodes of very different size: their bootstrap is that of three means."""
    agent = _agent()
    windows, seen, found = _measured(agent, _episodes(agent, number=2))
    point = found["policy"]["search_changes"]
    assert point["number"] == 2 * LENGTH
    values = ~seen.greedy
    of = [values[windows.episode == e].mean() for e in (0, 1)]
    assert point["low"] == pytest.approx(min(of)) and point["high"] == pytest.approx(max(of))
    with pytest.raises(ArgumentError, match="episodes must have steps"):
        beliefs.take_windows([], agent, discount=1.0, depth=1, number=1)


def test_rank_and_two_dimensions_are_those_of_the_directions():
    """Planted: not about the mean; the entropy of squares."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 9)) + 7.0
    assert 1.0 < beliefs.effective_rank(plane) < 2.0
    alike = np.kron(np.eye(4), np.ones((50, 1))) @ np.eye(4, 9)
    assert beliefs.effective_rank(alike) == pytest.approx(3.0, abs=1e-6)  # Four corners.
    assert beliefs.effective_rank(np.ones((5, 3))) == 0.0
    flat = beliefs.in_two_dimensions(plane)
    assert flat.shape == (400, 2)
    np.testing.assert_allclose(flat.var(0).sum(), plane.var(0).sum(), rtol=1e-6)
    assert beliefs.in_two_dimensions(plane[:, :1]).shape == (400, 2)


@pytest.fixture(scope="module")
def trained():
    """A small run of CartPole with its state after some updates."""
    config = config_of("cartpole", "reanalyse", **processes.TINY_CONTROL | {
        "env.num_groups": 1, "reanalyse.fraction": 0.0, "targets.target_interval_updates": 10_000})
    made = build.experiment(config)
    _, run = take(made.run(made.init()), 12)
    assert run.counters.updates > 10
    return made, run


@pytest.mark.slow
def test_learning_is_measured_and_nothing_is_changed(trained):
    """Planted: the reward's gradient among the shared; the update of another learning rate; the lag
    of a target network that is the newest."""
    made, run = trained
    before = jax.device_get(run.train.params)
    found = learning.measure(made, run, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(run.train.params))
    assert min(found["grad_norm"].values()) > 0
    assert found["target_network"] == {"is_read": True, "lag": pytest.approx(1.0, abs=1e-3)}
    agent = made.agent
    silent = losses.make_loss(agent.network, agent.codecs, window=agent.window, reward_weight=0.0)
    newest = run.train.replace(target_params=jax.tree.map(jnp.copy, run.train.params))
    other = learning.measure(
        made._replace(agent=agent._replace(loss=silent)), run.replace(train=newest),
        jax.random.key(0))
    assert other["grad_norm"]["reward"] == 0.0 < other["grad_norm"]["value"]
    assert other["target_network"]["lag"] == 0.0
    rows, weights = run.replay.rows, np.asarray(run.replay.weights)
    age = run.counters.updates - np.asarray(rows.made_at_updates)[weights > 0]
    assert found["replay"]["age_share"] == pytest.approx(age.mean() / run.counters.updates)
    assert found["replay"]["rows"] == (weights > 0).sum()
    empty = run.replace(replay=run.replay.replace(weights=run.replay.weights * 0))
    assert learning.measure(made, empty, jax.random.key(0)) is None


@pytest.mark.slow
def test_a_report_has_its_page(trained):
    """The page has every number of the report, and needs nothing but itself.

    Planted: a number formatted before it is written; a picture by address.
    """
    made, run = trained
    env = made.eval_env([1, 2])
    play = search_play(made.agent.search, run.train.params, jax.random.key(0), NO_EXPLORATION, 9)
    carry = init_carry(made.agent.spec, 2, made.agent.window.history)
    played = [*episode_trajectories(env, play, carry, episodes_per_env=1)]
    scores = [{"simulations": n, "mean": 1.0 + n, "low": 0.5, "high": 2.0} for n in (0, 4)]
    found = report.make(
        made, run.train.params, played, task="CartPole & more", origin="a <test>", discount=0.99,
        key=jax.random.key(0), run=run, scores=scores, number=40)
    text = json.dumps(found.report, allow_nan=False)
    assert json.loads(text) == found.report

    class Reader(html.parser.HTMLParser):
        numbers, open_tags, addresses = {}, [], []

        def handle_starttag(self, tag, attrs):
            attrs = dict(attrs)
            if "data-key" in attrs:
                self.numbers[attrs["data-key"]] = json.loads(attrs["data-value"])
            self.addresses += [x for name, x in attrs.items() if name in ("src", "href")]
            self.addresses += [x for name, x in attrs.items() if name == "xlink:href"]

    reader = Reader()
    reader.feed(found.page)
    assert reader.numbers == dict(page.leaves(found.report)) and len(reader.numbers) > 100
    assert all(x.startswith(("#", "data:")) for x in reader.addresses)
    assert "@import" not in found.page and "url(http" not in found.page
    assert "CartPole &amp; more" in found.page and "a &lt;test&gt;" in found.page
    assert found.page.count("<svg") == 9 and len(found.page) < 400_000
    assert found.report["units"]["dormant_share"] is not None
    assert found.report["model"]["learned_depth"] == 2
    assert [x["name"] for x in found.report["verdict"]] == ["target_network"]
    assert "targets.target_interval_updates" in found.page


def test_dormant_units_are_counted():
    """Units whose weights are gone do nothing. Planted: the share of a single layer; data counted
    as units."""
    env = _walk()
    scalar = codecs.make_two_hot_codec(num_bins=5, low=-9.0, high=9.0, transform="identity")
    codec = Codecs(value=scalar, reward=scalar)
    agent = assembly.make_agent(
        env.spec, network := build.NETWORKS["mlp"](env.spec, codec, history_steps=2, width=32),
        codec, make_search(
            learned_model(network, codec, action=SPEC.action, discount=0.5, turn_sign=1),
            gumbel_plan(num_simulations=2)),
        window=WINDOW, discount=0.5)
    params = network.init(jax.random.key(0))
    play = search_play(agent.search, params, jax.random.key(1), NO_EXPLORATION, 0)
    found = [*episode_trajectories(
        wrappers.as_host_env(env, 2, jax.random.key(3)), play, init_carry(SPEC, 2, 2),
        episodes_per_env=1)]
    windows = beliefs.take_windows(found, agent, discount=0.5, depth=1, number=20)
    healthy = beliefs.dormant_share(agent, params, windows)
    dead = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 - (x.ndim == 1) if "LayerNorm" in jax.tree_util.keystr(path) else x,
        params)
    assert healthy < 0.3 < 0.4 < beliefs.dormant_share(agent, dead, windows)
    assert beliefs.dormant_share(_agent(), {"w": jnp.ones(1)}, windows) is None


_HEALTHY = {
    "two_players": True,
    "units": {"embedding_spread": 0.4},
    "support": {"value_outside": 0.0, "reward_outside": 0.0},
    "model": {"reward_size": 1.0, "return_spread": 1.0},
    "value": {"correlation_with_next": 0.8, "spread": 0.5},
    "policy": {"tried": {"mean": 3.0}},
    "learning": {
        "grad_norm": {"reward": 0.2, "value": 1.0, "policy": 1.0},
        "update_size": 1e-3,
        "target_network": {"is_read": True, "lag": 0.02},
        "replay": {"age_share": 0.5},
    },
}
_WRONG = {
    "observations": ("units.embedding_spread", 1e-5),
    "value_support": ("support.value_outside", 0.3),
    "reward_support": ("support.reward_outside", 0.3),
    "reward_head": ("learning.grad_norm.reward", 0.0),
    "sign": ("value.correlation_with_next", -0.7),
    "learning_rate": ("learning.update_size", 0.3),
    "target_network": ("learning.target_network.lag", 1.0),
    "simulations": ("policy.tried.mean", 1.0),
    "stale_replay": ("learning.replay.age_share", 0.9),
}


def _changed(*faults):
    tree = json.loads(json.dumps(_HEALTHY))
    for fault in faults:
        path, value = _WRONG[fault]
        *names, last = path.split(".")
        inner = tree
        for name in names:
            inner = inner[name]
        inner[last] = value
    return tree


def test_every_fault_is_named_with_its_number_and_field():
    """Each by itself, and of many the first causes. Planted: a threshold with the other sign."""
    assert [check.name for check in verdict.CHECKS] == [*_WRONG]
    assert verdict.find(_HEALTHY) == [] == verdict.unknown(_HEALTHY)
    for name, (_, value) in _WRONG.items():
        (reason,) = verdict.find(_changed(name))
        assert reason.name == name and reason.field
        assert f"{reason.number:.3g}" in reason.text and f"{reason.threshold:g}" in reason.text
        if name != "reward_head":
            assert reason.number == value
    assert [x.name for x in verdict.find(_changed(*_WRONG))] == [*_WRONG][:3]
    # Without a resume point, or where there is nothing to compare, a check says nothing.
    lonely = _HEALTHY | {"learning": None, "two_players": False, "value": {}}
    assert verdict.find(lonely) == []
    assert set(verdict.unknown(lonely)) == {
        "reward_head", "sign", "learning_rate", "target_network", "stale_replay"}
    early = _changed("sign")
    early["value"]["spread"] = 0.1
    assert verdict.find(early) == [] and verdict.unknown(early) == ["sign"]


def test_a_tree_is_drawn_by_its_visits():
    """At most so many nodes, parents first; the main line is that of most visits."""
    agent = _agent()
    windows, seen, _ = _measured(agent, _episodes(agent, number=2))
    tree = jax.tree.map(lambda x: x[0], seen.found.tree)
    drawn = pictures.search_tree(tree)
    assert drawn.count("×,") == (np.asarray(tree.visits) > 0).sum()
    assert f"root: {tree.visits[0]}×" in drawn
    named = pictures.search_tree(tree, names=["down", "up"])
    assert "up: " in named and "down: " in named


def test_a_target_function_is_the_agents_own():
    """What a diagnosis reads as `agent.targets` is what updates learn from."""
    make = targets.make_targets(window=WINDOW, discount=0.5)
    agent = _agent()
    network = agent.network
    made = assembly.make_agent(
        SPEC, network, agent.codecs, agent.search, window=WINDOW, discount=0.5, targets=make,
        optimizer=learner.make_optimizer(learning_rate=1e-3))
    assert made.targets is make
