"""Rows in files: what is read back, learned from and refused, against lists of episodes."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from muzero_jax import replay as replay_lib
from muzero_jax import targets
from muzero_jax.data import dataset, lanes, trajectories
from muzero_jax.errors import DatasetError
from muzero_jax.types import ActionSpec, ArraySpec, EnvSpec, Transition, Window
from oracles import episodes as oracle
from test_targets import WORLDS, assert_targets

_NO_SEARCH = dict.fromkeys(["policy", "value", "made_at_updates"])


def spec_of(players=1):
    return EnvSpec(**{**vars(fakes.SPEC), "turn_sign": 1 if players == 1 else -1})


def trajectory_of(rows):
    """`Transition` of NumPy of the oracle's rows."""

    def column(name, dtype):
        return np.array([getattr(row, name) for row in rows], dtype)

    floats = {name: column(name, np.float32) for name in ("reward", "discount", "value")}
    flags = {name: column(name, bool) for name in ("first", "last", "explored")}
    return Transition(
        observation=column("observation", np.float32),
        policy={"weights": column("policy", np.float32)},
        action=column("action", np.int32),
        invalid_actions=None,
        made_at_updates=np.arange(len(rows), dtype=np.int32),
        **floats,
        **flags,
    )


def random_trajectories(rng, count, *, num_episodes=60, world="one player, next step"):
    """(all episodes, trajectories), each trajectory being some of the episodes."""
    players, same_step, truncates, life_loss, blunders, *_ = WORLDS[world]
    episodes, found = [], []
    for _ in range(count):
        some = oracle.random_episodes(
            rng, num_episodes, num_actions=3, max_length=12, truncates=truncates,
            life_loss=life_loss, blunders=blunders,
        )
        rows = oracle.lay_out(some, players=players, same_step=same_step)
        if same_step:  # The reward of the newest end has no row yet: the episode is running.
            rows = rows[: max(i for i, row in enumerate(rows) if row.first) + 1]
            some = some[:-1]
        found.append(trajectory_of(rows))
        episodes += some
    return episodes, found


def small(path, seed=0, **changes):
    """Writes a small dataset of one player; returns its trajectories."""
    _, found = random_trajectories(np.random.default_rng(seed), 3, num_episodes=20)
    dataset.write_dataset(path, spec_of(), found, **{"rows_per_chunk": 90} | changes)
    return found


@pytest.mark.parametrize(
    "world",
    [
        "abandoned often",
        "life loss, same step",
        "two players, same step, abandoned",
        "two players, random moves, next step",
        "random moves, life loss, same step",
    ],
)
def test_windows_of_a_ring_that_was_read_from_files_make_the_targets_of_the_episodes(
    world, tmp_path
):
    """Every state but final ones can be drawn, and what is learned there is what brute force makes
    of the episodes, wherever files, segments and lanes begin and end. Planted bugs seen: a
    trajectory that resets in the same step closed without its last reward; the ring without its S
    spare slots; no padding after a lane."""
    players, same_step, *_, steps, unroll, bootstrap, gamma = WORLDS[world]
    rng = np.random.default_rng([5, sorted(WORLDS).index(world)])
    episodes, found = random_trajectories(rng, 3, world=world)
    dataset.write_dataset(tmp_path, spec_of(players), found, rows_per_chunk=200)
    assigned = lanes.assign(
        dataset.open_dataset(tmp_path), num_lanes=4, block_rows=16, most=100,
        future_steps=unroll + bootstrap,
    )
    row = Transition(
        observation=jax.ShapeDtypeStruct((2,), np.float32),
        policy={"weights": jax.ShapeDtypeStruct((3,), np.float32)},
        invalid_actions=None,
        **{name: jax.ShapeDtypeStruct((), dtype) for name, dtype in (
            ("reward", np.float32), ("discount", np.float32), ("first", bool), ("last", bool),
            ("action", np.int32), ("value", np.float32), ("explored", bool),
            ("made_at_updates", np.int32))},
    )
    ring = replay_lib.make_replay(
        row, lambda rows: jnp.ones(rows.reward.shape[0] - bootstrap), num_envs=4,
        rows_per_env=assigned.num_blocks * 16 + steps, observed_steps=steps,
        window=Window(steps, unroll, bootstrap),
        priority_exponent=1.0, priority_floor=0.1,
    )
    add, state = jax.jit(lambda state, rows: ring.add(state, 0, rows)), jax.jit(ring.init)()
    blocks = lanes.read_blocks(assigned, row, 0, own=range(4), searched=True)
    for _ in range(assigned.num_blocks):
        state = add(state, next(blocks))
    known = {(np.float32(x.tag), i): (x, i) for x in episodes for i in range(x.length)}
    drawable = np.asarray(state.rows.observation)[np.asarray(state.weights) > 0]
    counted = sorted((tag, int(i)) for tag, i in drawable)
    running = {(np.float32(x), np.float32(0)) for x, _ in _newest(found)} if same_step else set()
    assert [x for x in counted if x not in running] == sorted(known)

    sample = jax.device_get(jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(0), 500))
    roots = [(x[0], int(x[1])) for x in sample.observations[:, steps - 1]]
    picked = np.array([root not in running for root in roots])
    rule = {"unroll_steps": unroll, "td_steps": bootstrap, "gamma": gamma, "players": players}
    want = [oracle.targets_of(*known[root], **rule) for root in roots if root not in running]
    make = targets.make_targets(window=Window(steps, unroll, bootstrap), discount=gamma)
    got = jax.tree.map(lambda x: x[picked], jax.jit(make)(None, None, None, sample))
    assert_targets(got.replace(policy=got.policy["weights"]), want)


def _newest(found):
    return [x.observation[-1] for x in found]


def test_what_is_read_is_what_was_written_but_for_closed_ends(tmp_path):
    """Field by field, each leaf of a policy too. Planted bug seen: the leaves of a policy in
    reverse."""
    found = small(tmp_path)
    opened = dataset.open_dataset(tmp_path)
    assert len(opened.info.chunks) > 2
    chunks = [dataset.read_chunk(opened, i) for i in range(len(opened.info.chunks))]
    assert all(chunk.first[0] and chunk.last[-1] for chunk in chunks)
    both = jax.tree.map(lambda *x: np.concatenate(x), *(x.replace(policy=()) for x in chunks))
    wanted = jax.tree.map(lambda *x: np.concatenate(x), *(x.replace(policy=()) for x in found))
    wanted.explored[wanted.last] = both.explored[wanted.last]  # There it means nothing.
    fakes.assert_trees_equal(both, wanted)
    np.testing.assert_array_equal(
        np.concatenate([chunk.policy[0] for chunk in chunks]),
        np.concatenate([x.policy["weights"] for x in found]),
    )


def test_files_of_large_frames_have_fewer_rows(tmp_path):
    """Planted bug seen: the bytes of a row taken for its numbers."""
    found = [_rows() for _ in range(5)]
    thirty = 8 * 30  # Two numbers of four bytes each.
    info = dataset.write_dataset(tmp_path, spec_of(), found, bytes_per_chunk=thirty)
    assert 10 < max(chunk.rows for chunk in info.chunks) <= 30 < info.rows


@pytest.mark.parametrize("same_step", [False, True])
def test_rows_episodes_and_their_mean_return_are_written(same_step, tmp_path):
    """Against sums over the episodes. Planted bugs seen: an episode that is running counted; the
    reward of a `first` row in the new episode."""
    world = "one player, same step" if same_step else "truncated"
    episodes, found = random_trajectories(np.random.default_rng(1), 4, world=world)
    info = dataset.write_dataset(tmp_path, spec_of(), found)
    assert info == dataset.open_dataset(tmp_path).info
    assert info.episodes == len(episodes)
    assert info.return_mean == pytest.approx(np.mean([sum(x.rewards) for x in episodes]))
    # Only inside the one file is nothing closed.
    assert info.rows == sum(len(x.first) for x in found)


def _flags(word, letter):
    return np.array([x == letter for x in word])


def test_where_trajectories_are_cut():
    """`f` begins an episode, `l` ends it. Planted bugs seen: the closing row not counted; the end
    of the trajectory taken for a `first` row that needs one."""

    def cut(word, most, wanted=None):
        found = trajectories.cut(_flags(word, "f"), _flags(word, "l"), most=most, wanted=wanted)
        return [word[begin:end] for begin, end in found]

    assert cut("f.lf.lf.l", 9) == ["f.lf.lf.l"]
    assert cut("f.lf.lf.l", 8) == ["f.lf.l", "f.l"]
    assert cut("f.lf.lf.l", 8, 2) == ["f.l", "f.l", "f.l"]
    assert cut("f.f.f.", 5) == ["f.f.", "f."]  # "f.f." and its closing row are five rows.
    assert cut("f.f.f.", 4) == ["f.", "f.f."]  # The newest needs none.
    assert cut("f......lf.l", 4) == ["f..", "...", ".l", "f.l"]
    assert cut("f", 2) == ["f"]


def test_the_rows_at_a_seam():
    """Row 2 begins an episode in the same step, row 5 is cut in half; each seam's row is there
    twice. Planted bugs seen: the reward of the seam in both segments; a closing row that is
    `first`."""
    number = np.arange(7, dtype=np.float32)
    rows = Transition(
        observation=10 * number,
        reward=number,
        discount=np.array([0, 1, 0, 1, 1, 1, 1], np.float32),
        first=np.array([1, 0, 1, 0, 0, 0, 0], bool),
        last=np.zeros(7, bool),
        action=np.arange(7),
        explored=np.ones(7, bool),
        invalid_actions=None,
        **_NO_SEARCH,
    )
    segments = [trajectories.take_rows(rows, *seam) for seam in ((0, 2), (2, 5), (5, 7))]
    listed = {
        name: [np.asarray(getattr(segment, name), int).tolist() for segment in segments]
        for name in ("observation", "reward", "discount", "first", "last", "explored")
    }
    assert listed == {
        "observation": [[0, 10, 20], [20, 30, 40, 50], [50, 60]],
        "reward": [[0, 1, 2], [0, 3, 4, 5], [0, 6]],
        "discount": [[0, 1, 0], [0, 1, 1, 1], [0, 1]],
        "first": [[1, 0, 0], [1, 0, 0, 0], [1, 0]],
        "last": [[0, 0, 1], [0, 0, 0, 1], [0, 1]],
        "explored": [[1, 1, 0], [1, 1, 1, 0], [1, 0]],
    }


def test_rows_of_plain_episodes_are_those_of_an_environment():
    """Planted bugs seen: reward i in row i; the discount of an episode that was cut off."""
    rng = np.random.default_rng(2)
    episodes = oracle.random_episodes(
        rng, 40, num_actions=3, max_length=6, truncates=0.5, life_loss=0.0, blunders=0.0
    )
    for players in (1, 2):
        for episode in episodes:
            want = trajectory_of(oracle.lay_out([episode], players=players, same_step=False))
            got = trajectories.rows_of_episode(
                spec_of(players),
                [(episode.tag, i) for i in range(episode.length + 1)],
                np.array(episode.actions, int),
                episode.rewards,
                terminated=episode.terminated,
            )
            want.action[-1] = got.action[-1]  # There both mean nothing.
            want.explored[-1] = False
            fakes.assert_trees_equal(got, want.replace(**_NO_SEARCH))


class _Minari:
    """The interface of `minari.MinariDataset` and `minari.EpisodeData` that is documented."""

    def __init__(self, *episodes):
        self._episodes = episodes

    def iterate_episodes(self):
        yield from self._episodes


class _EpisodeData:
    def __init__(self, length, terminated):
        self.observations = np.arange(2 * length + 2, dtype=np.float64).reshape(-1, 2)
        self.actions = np.arange(length) % 3
        self.rewards = np.arange(length, dtype=np.float64)
        self.terminations = np.arange(length) == (length - 1 if terminated else length)
        self.truncations = ~self.terminations


def test_minari_episodes_become_trajectories(tmp_path):
    """Planted bug seen: `truncations` for `terminations`."""
    held = _Minari(_EpisodeData(3, True), _EpisodeData(2, False))
    info = dataset.write_dataset(tmp_path, spec_of(), trajectories.rows_of_minari(held, spec_of()))
    assert (info.rows, info.episodes, info.return_mean) == (7, 2, 2.0)
    rows = dataset.read_chunk(dataset.open_dataset(tmp_path), 0)
    assert rows.discount.tolist() == [0, 1, 1, 0, 0, 1, 1]
    assert rows.observation[4].tolist() == [0, 1] and rows.policy is None


def test_a_dataset_of_minari_itself(tmp_path, monkeypatch):
    """Collected by Minari's own `DataCollector` from gymnasium's CartPole."""
    minari = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = minari.DataCollector(gymnasium.make("CartPole-v1", max_episode_steps=12))
    lengths = []
    for seed in range(8):
        env.reset(seed=seed)
        lengths.append(1)
        while not any(env.step(seed % 2 if seed < 4 else lengths[-1] % 2)[2:4]):
            lengths[-1] += 1
    held = env.create_dataset("cartpole/test-v0")
    spec = EnvSpec(ArraySpec((4,), "float32"), ActionSpec.discrete(2), 1, True, 12)
    info = dataset.write_dataset(tmp_path / "data", spec, trajectories.rows_of_minari(held, spec))
    assert info.episodes == 8 and info.rows == sum(lengths) + 8
    assert info.return_mean == np.mean(lengths)
    rows = dataset.read_chunk(dataset.open_dataset(tmp_path / "data"), 0)
    ended = rows.discount[rows.last] == 0
    assert ended.tolist() == [length < 12 for length in lengths] and 0 < ended.sum() < 8


_BAD_EPISODES = {
    "observations": (dict(observations=np.zeros((3, 2))), "observations .* not (4, 2)"),
    "shape": (dict(observations=np.zeros((4, 3))), "observations .* not (4, 2)"),
    "rewards": (dict(rewards=np.zeros(4)), "rewards .* not (3,)"),
    "actions": (dict(actions=np.zeros(3)), "actions .* float64, not whole"),
}


@pytest.mark.parametrize("name", _BAD_EPISODES)
def test_episodes_that_do_not_fit_are_refused(name):
    """Planted bug seen: lengths left to NumPy, which takes the shorter one."""
    change, said = _BAD_EPISODES[name]
    good = dict(observations=np.zeros((4, 2)), actions=np.zeros(3, int), rewards=np.zeros(3))
    trajectories.rows_of_episode(spec_of(), **good, terminated=True)
    with pytest.raises(DatasetError, match=said.replace("(", r"\(").replace(")", r"\)")):
        trajectories.rows_of_episode(spec_of(), **good | change, terminated=True)


def _rows(**changes):
    rows = trajectory_of(oracle.lay_out(
        oracle.random_episodes(
            np.random.default_rng(3), 5, num_actions=3, max_length=6, truncates=0.0,
            life_loss=0.0, blunders=0.0,
        ), players=1, same_step=False,
    ))
    return rows.replace(**{name: change(getattr(rows, name)) for name, change in changes.items()})


def _set(index, value):
    def change(x):
        x[index] = value
        return x

    return change


_BAD_TRAJECTORIES = {
    "dtype": (dict(observation=lambda x: x.astype(np.float64)), "observation is float64"),
    "shape": (dict(observation=lambda x: x[:, :1]), "observation is float32"),
    "length": (dict(reward=lambda x: x[1:]), "reward is float32"),
    "discount": (dict(discount=_set(1, 0.5)), "neither 0 nor the turn sign"),
    "turn": (dict(discount=_set(1, -1.0)), "neither 0 nor the turn sign"),
    "begin": (dict(first=_set(0, False)), "not `first`"),
    "no begin": (dict(first=lambda x: x & (np.arange(len(x)) == 0)), "after a `last` one"),
    "leak": (dict(discount=lambda x: np.ones_like(x)), "of a `first` row is not 0"),
    "action": (dict(action=_set(0, 3)), "an action is not allowed"),
    "reward": (dict(reward=_set(1, np.nan)), "not finite"),
    "value": (dict(value=_set(0, np.inf)), "not finite"),
    "frame": (dict(observation=_set(0, np.nan)), "not finite"),
    "no rows": (
        dict.fromkeys(vars(_rows()), lambda x: jax.tree.map(lambda y: y[:0], x)),
        "no rows",
    ),
}


@pytest.mark.parametrize("name", _BAD_TRAJECTORIES)
def test_trajectories_that_break_the_convention_are_refused(name, tmp_path):
    """By what writes and by what reads alike. Planted bugs seen: each check left out."""
    changes, said = _BAD_TRAJECTORIES[name]
    changes = {x: c for x, c in changes.items() if x != "invalid_actions"}
    with pytest.raises(DatasetError, match=said) as error:
        dataset.write_dataset(tmp_path / "data", spec_of(), [_rows(**changes)])
    assert str(tmp_path / "data") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_masked_moves_that_are_not_allowed_are_refused(tmp_path):
    """Planted bug seen: masks not looked at."""
    rows = _rows()
    masks = np.ones((len(rows.first), 3), bool)
    masks[np.arange(len(masks)), rows.action] = False
    masked = dataclasses.replace(spec_of(), masked=True)
    dataset.write_dataset(tmp_path / "good", masked, [rows.replace(invalid_actions=masks)])
    opened = dataset.open_dataset(tmp_path / "good")
    np.testing.assert_array_equal(dataset.read_chunk(opened, 0).invalid_actions, masks)
    dataset.check_spec(opened, masked)
    with pytest.raises(DatasetError, match="masked is True, that of the environment False"):
        dataset.check_spec(opened, spec_of())
    with pytest.raises(DatasetError, match="not allowed"):
        bad = rows.replace(invalid_actions=np.roll(masks, 1, axis=1))
        dataset.write_dataset(tmp_path / "bad", masked, [bad])


def test_trajectories_that_differ_in_their_fields_are_refused(tmp_path):
    """Planted bug seen: only the first trajectory looked at."""
    rows = _rows()
    with pytest.raises(DatasetError, match="trajectory 1 has other fields than trajectory 0"):
        dataset.write_dataset(tmp_path, spec_of(), [rows, rows.replace(**_NO_SEARCH)])


def _edit(**changes):
    def edit(folder):
        path = folder / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _cut_short(folder):
    path = folder / "chunk-000001.npz"
    path.write_bytes(path.read_bytes()[:-100])


def _flip(folder):
    path = folder / "chunk-000001.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {  # Name: (what is done to the folder, what the line has to say).
    "flipped byte": (_flip, "chunk-000001.npz is damaged"),
    "cut short": (_cut_short, "chunk-000001.npz is damaged, it has "),
    "file missing": (lambda folder: (folder / "chunk-000000.npz").unlink(), "000.npz is missing"),
    "version": (_edit(version=3), "its version is 3, this program reads 1 to 2"),
    "format": (_edit(format="x"), "its format is 'x'"),
    "no rows": (_edit(chunks=[], rows=0), "there are no rows"),
    "other rows": (_edit(rows=7), "its chunks do not have 7 rows"),
    "field missing": (lambda folder: _edit(chunks=3)(folder), "dataset.json: "),
    "another folder": (
        _edit(rows=1, chunks=[dict(file="../x", rows=1, bytes=1, sha256="")]),
        "chunks[0].file must be the name of a file in this folder (got '../x')",
    ),
    "empty folder": (_emptied, "is empty"),
    "no dataset.json": (lambda folder: (folder / "dataset.json").unlink(), "has no dataset.json"),
    "no json": (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json: "),
    "a list": (lambda folder: (folder / "dataset.json").write_text("[]"), "dataset.json: "),
    "no folder": (shutil.rmtree, "there is no folder"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(name, tmp_path):
    """Planted bugs seen: sizes not compared; hashes not compared; any version read."""
    damage, said = DAMAGE[name]
    small(tmp_path / "data")
    dataset.verify(dataset.open_dataset(tmp_path / "data"))
    damage(tmp_path / "data")
    with pytest.raises(DatasetError) as error:
        dataset.verify(dataset.open_dataset(tmp_path / "data"))
    text = str(error.value)
    assert said in text and str(tmp_path / "data") in text and "\n" not in text


def test_any_other_structure_of_the_json_is_named_by_field(tmp_path):
    """Each entry of `dataset.json`, and of its chunks, missing and of every wrong type, under no
    hash that could show it. Planted bugs seen: types not looked at (a NUL in a file's name and a
    text for a size were tracebacks; `true` for a number passed)."""
    small(tmp_path)
    path = tmp_path / "dataset.json"
    whole = json.loads(path.read_text())
    wrong = (None, True, -1, 1.5, "x", "a\0b", [], [-1], [[]], {}, [{}], "1" * 300)
    count = 0
    for holder, prefix in ((whole, ""), (whole["chunks"][0], "chunks[0].")):
        for name, right in list(holder.items()):
            if name in ("format", "version"):
                continue
            for value in (..., *wrong):
                holder.pop(name)
                holder.update({} if value is ... else {name: value})
                path.write_text(json.dumps(whole))
                try:
                    dataset.open_dataset(tmp_path)
                except DatasetError as error:
                    count += 1
                    assert "\n" not in str(error) and len(str(error)) < 600
                    if value is ... or value == {}:
                        assert f"{prefix}{name}" in str(error)
                else:
                    allowed = (name, value) in _ALSO_RIGHT
                    assert allowed or type(value) is type(right), (name, value)
                holder[name] = right
    assert count > 100


_ALSO_RIGHT = [("return_mean", None), ("return_mean", -1), ("policy", None), ("policy", [])]


def test_no_flipped_bit_passes(tmp_path):
    """At 60 random places of a file. Planted bug seen: the hash left out (names of a zip's members,
    dates and unread fields are under no checksum)."""
    small(tmp_path)
    opened = dataset.open_dataset(tmp_path)
    path = tmp_path / "chunk-000000.npz"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(12), *rng.integers(len(content), size=48)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="damaged"):
            dataset.read_chunk(opened, 0)
    path.write_bytes(content)
    dataset.read_chunk(opened, 0)


def test_the_identity_is_that_of_all_rows(tmp_path):
    """One action in one file more or less is another identity; a copy is not. Planted bug seen:
    only the numbers of rows hashed."""
    for name, changes in (("a", {}), ("b", {"action": _set(2, 2)}), ("copy", {})):
        dataset.write_dataset(tmp_path / name, spec_of(), [_rows(**changes)])
    identities = [dataset.open_dataset(tmp_path / name).identity for name in ("a", "b", "copy")]
    assert identities[0] == identities[2] != identities[1]


@pytest.mark.parametrize(
    "name, value",
    [
        ("observation", ArraySpec((3,), "float32")),
        ("observation", ArraySpec((2,), "uint8")),
        ("action", ActionSpec.discrete(4)),
        ("turn_sign", -1),
    ],
)
def test_data_of_another_environment_are_refused(name, value, tmp_path):
    """Planted bug seen: the turn sign not compared."""
    small(tmp_path)
    opened = dataset.open_dataset(tmp_path)
    dataset.check_spec(opened, spec_of())
    with pytest.raises(DatasetError, match=f"{name} is .*, that of the environment"):
        dataset.check_spec(opened, EnvSpec(**{**vars(spec_of()), name: value}))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    """Planted bug seen: the check left out."""
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DatasetError, match="not empty"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_interrupted_is_no_dataset(tmp_path):
    """`dataset.json` comes last. Planted bug seen: it was written with the first file."""

    def broken():
        for _ in range(5):
            yield _rows()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        dataset.write_dataset(tmp_path, spec_of(), broken(), rows_per_chunk=30)
    assert list(tmp_path.glob("chunk-*.npz"))
    with pytest.raises(DatasetError, match="has no dataset.json"):
        dataset.open_dataset(tmp_path)
