"""Bad input ends in one line that names the field and what it may be; a bug keeps its traceback."""

import pytest

import assemble
import launch
from muzero_jax.types import ArgumentError
from presets import config_of


def test_only_our_own_refusals_become_one_line(monkeypatch):
    """A part that somebody composed raises `ValueError` by mistake: they need its traceback.
    Planted bug seen: `assemble.build` turns every `ValueError` into a refusal."""

    def broken(max_steps):
        raise ValueError("could not broadcast")

    def refuses(max_steps):
        raise ArgumentError("env.max_steps is too odd")

    config = config_of("cartpole", "on_device")
    monkeypatch.setitem(assemble.JAX_ENVS, "cartpole", broken)
    with pytest.raises(ValueError, match="^could not broadcast$") as caught:
        assemble.build(config)
    assert not isinstance(caught.value, ArgumentError)
    monkeypatch.setitem(assemble.JAX_ENVS, "cartpole", refuses)
    with pytest.raises(launch.BadInputError, match=r"^env\.max_steps is too odd$"):
        assemble.build(config)
