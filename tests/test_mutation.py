"""The list of planted bugs and what its command makes of a test's outcome; nothing is planted."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("mutation", ROOT / "benchmarks" / "mutation.py")
mutation = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(mutation)

PLANTS = mutation.read_plants()


@pytest.mark.parametrize("plant", PLANTS, ids=[plant["name"] for plant in PLANTS])
def test_every_plant_can_be_made(plant):
    """Where this fails, code has moved on: the plant needs the new text, or has to go. Planted bugs
    seen: a plant whose text is not there; one whose text is there twice; a test file renamed."""
    source = mutation.planted(plant, ROOT)
    compile(source, plant["file"], "exec")  # No test is needed for what does not even compile.
    assert plant["replace"] in source
    assert plant["file"].startswith(("muzero_jax/", "experiments/"))


def _plant(folder, **changes):
    (folder / "part.py").write_text("a = 1\nb = 1\n")
    (folder / "test_part.py").write_text("import a\n\n\ndef test_a():\n    pass\n")
    plain = {"name": "one", "part": "part", "file": "part.py", "find": "a = 1",
             "replace": "a = 2", "tests": ["test_part.py"]}
    return plain | changes


@pytest.mark.parametrize("changes, line", [
    ({"find": "c = 1"}, "one: its text is 0 times in part.py, not once"),
    ({"find": "= 1"}, "one: its text is 2 times in part.py, not once"),
    ({"file": "gone.py"}, "one: its text is 0 times in gone.py, not once"),
    ({"replace": "a = 1"}, "one: it changes nothing"),
    ({"tests": ["test_gone.py"]}, "one: there is no test test_gone.py"),
    ({"tests": ["test_part.py", "test_part.py::test_b"]},
     "one: there is no test test_part.py::test_b"),
    ({"tests": []}, "one: there is no test "),
])
def test_a_plant_that_cannot_be_made_is_an_error_with_its_name(tmp_path, changes, line):
    """Planted bug seen: each check left out."""
    for tests in ["test_part.py"], ["test_part.py::test_a"]:
        assert mutation.planted(_plant(tmp_path, tests=tests), tmp_path) == "a = 2\nb = 1\n"
    with pytest.raises(mutation.PlantError) as error:
        mutation.planted(_plant(tmp_path, **changes), tmp_path)
    assert str(error.value) == line


def test_a_list_with_a_wrong_field_or_a_name_twice_is_an_error(tmp_path):
    """Planted bugs seen: neither is looked at."""
    fields = [f'{name} = "x"\n' for name in mutation.FIELDS if name != "tests"]
    good = "[[plant]]\n" + "".join(fields) + 'tests = ["y"]\n'
    path = tmp_path / "plants.toml"
    path.write_text(good)
    assert [plant["name"] for plant in mutation.read_plants(path)] == ["x"]
    path.write_text(good + good)
    with pytest.raises(mutation.PlantError, match="^x: two plants have this name$"):
        mutation.read_plants(path)
    path.write_text(good.replace("part", "parts"))
    with pytest.raises(mutation.PlantError, match="^x: its fields must be name, part, file, "):
        mutation.read_plants(path)


@pytest.mark.parametrize("code, output, judged", [
    (0, "...\n", ("survived", None)),
    (1, "F\nFAILED tests/test_a.py::test_b[x y] - assert 1 == 2\n",
     ("killed", "tests/test_a.py::test_b[x y]")),
    (1, "E\nERROR tests/test_a.py::test_b - no\n", ("killed", "tests/test_a.py::test_b")),
    (2, "ERROR tests/test_a.py\nInterrupted: 1 error during collection\n", None),
    (1, "", None), (4, "no such file\n", None), (5, "no tests ran\n", None), (-9, "", None),
])
def test_only_a_test_that_ran_and_failed_kills(code, output, judged):
    """Planted bugs seen: any exit code but 0 kills; no tests survive."""
    found = mutation.judge(code, output)
    assert found == judged if judged else found[0] == "error"


def test_only_outcomes_that_still_hold_are_kept(tmp_path):
    """Planted bugs seen: outcomes of another commit kept; of a tree that differs from its commit;
    of a plant that has changed since; an error taken for an outcome."""
    path = tmp_path / "mutation.json"
    plants = [_plant(tmp_path, name=name) for name in ("dead", "alive", "fault", "changed", "new")]
    origin = {"commit": "abc", "uncommitted_changes": False}
    changed = origin | {"uncommitted_changes": True}
    assert mutation.found_before(origin, path) == {} == mutation.kept_outcomes(plants, {})
    ends = {"dead": "killed", "alive": "survived", "fault": "error", "changed": "killed"}
    outcomes = {
        plant["name"]: plant | {"outcome": ends[plant["name"]], "by": None, "seconds": 1.0}
        for plant in plants[:4]
    }
    outcomes["changed"] |= {"replace": "a = 3"}
    mutation.write(origin, plants, {"test_part.py"}, outcomes, path)
    before = mutation.found_before(origin, path)
    kept = mutation.kept_outcomes(plants, before)
    assert kept == {name: outcomes[name] for name in ("dead", "alive")}
    assert before["passed_without_plants"] == ["test_part.py"] and before["killed"] == 2
    assert mutation.found_before(origin | {"commit": "def"}, path) == {}
    assert mutation.found_before(changed, path) == {}
    mutation.write(changed, plants, set(), outcomes, path)
    assert mutation.found_before(origin, path) == {}
