"""MuZero and its family in JAX: pure functions to run as they are, or to recombine.

Environments (`muzero_jax.envs`) and checkpoints (`muzero_jax.checkpoint`) are imported from their
modules: envpool and orbax take seconds to load.
"""

from muzero_jax import types
from muzero_jax.acting import example_row, init_carry, make_act_and_add, make_rollout
from muzero_jax.codecs import identity_codec, make_two_hot_codec
from muzero_jax.evaluate import make_random_player, make_search_player, play_episodes
from muzero_jax.frames import random_shift
from muzero_jax.learner import init_train_state, make_learn, make_optimizer, make_update
from muzero_jax.losses import make_loss, with_augmentation
from muzero_jax.matches import (
    make_count_lines,
    make_match,
    make_prior_match_player,
    make_random_match_player,
    make_search_match_player,
)
from muzero_jax.mesh import make_mesh
from muzero_jax.networks.blocks import make_network
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.gru import make_gru_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.reanalyse import with_reanalyse
from muzero_jax.replay import make_replay
from muzero_jax.search import make_gumbel_search
from muzero_jax.search_muzero import make_muzero_search
from muzero_jax.search_true_model import make_true_model_search, make_uct_search
from muzero_jax.targets import make_initial_priority, make_network_bootstrap, make_targets
from muzero_jax.value_error import with_value_error

__version__ = "0.1.0"

__all__ = (
    "example_row",
    "identity_codec",
    "init_carry",
    "init_train_state",
    "make_act_and_add",
    "make_conv_network",
    "make_count_lines",
    "make_gru_network",
    "make_gumbel_search",
    "make_initial_priority",
    "make_learn",
    "make_loss",
    "make_match",
    "make_mesh",
    "make_mlp_network",
    "make_muzero_search",
    "make_network",
    "make_network_bootstrap",
    "make_optimizer",
    "make_prior_match_player",
    "make_random_match_player",
    "make_random_player",
    "make_replay",
    "make_rollout",
    "make_search_match_player",
    "make_search_player",
    "make_targets",
    "make_true_model_search",
    "make_two_hot_codec",
    "make_uct_search",
    "make_update",
    "play_episodes",
    "random_shift",
    "types",
    "with_augmentation",
    "with_reanalyse",
    "with_value_error",
)
