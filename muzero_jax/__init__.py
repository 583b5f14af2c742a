"""MuZero and its family in JAX: pure functions to run as they are, or to recombine.

The names below are loaded, and JAX with them, when one is first used; so what needs no JAX
(`muzero_jax.metrics`, `muzero_jax.statistics`) starts fast. Environments (`muzero_jax.envs`) and
checkpoints (`muzero_jax.checkpoint`) are imported from their modules.
"""

# ruff: noqa: F403, F405
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muzero_jax.api import *

__version__ = "0.1.0"

__all__ = (
    "example_row",
    "identity_codec",
    "init_carry",
    "init_train_state",
    "make_act_and_add",
    "make_conv_network",
    "make_gumbel_search",
    "make_initial_priority",
    "make_learn",
    "make_loss",
    "make_mlp_network",
    "make_network",
    "make_network_bootstrap",
    "make_optimizer",
    "make_random_player",
    "make_replay",
    "make_rollout",
    "make_search_player",
    "make_targets",
    "make_two_hot_codec",
    "make_update",
    "play_episodes",
    "types",
)


def __getattr__(name: str):
    """Finds a name of `__all__` at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("muzero_jax.api"), name)
