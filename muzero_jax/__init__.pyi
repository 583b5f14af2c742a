from . import distributions, types
from .acting import example_row, init_carry, make_act_and_add, make_rollout
from .assembly import make_agent, on_device, on_host
from .codecs import identity_codec, make_two_hot_codec
from .config.loading import load_agent
from .evaluation.actors import make_prior_player, make_random_player, make_search_player
from .evaluation.episodes import play_episodes
from .evaluation.matches import (
    make_count_lines,
    make_match,
    make_prior_match_player,
    make_random_match_player,
    make_search_match_player,
)
from .history import random_shift
from .learner import averaged_params, init_train_state, make_learn, make_optimizer, make_update
from .losses import make_loss, with_augmentation
from .mesh import make_mesh
from .muzero_agent import MuZeroAgent
from .networks.blocks import make_network
from .networks.conv import make_conv_network
from .networks.gru import make_gru_network
from .networks.mlp import make_mlp_network
from .networks.ring import make_ring_network
from .player import Player
from .reanalyse import with_reanalyse
from .replay import make_replay
from .search.common import learned_model, make_search
from .search.gumbel import gumbel_plan, make_gumbel_search
from .search.muzero import make_muzero_search, muzero_plan
from .search.sampled import sampled_model
from .search.true_model import make_true_model_search
from .search.uct import make_uct_search
from .targets import make_initial_priority, make_network_bootstrap, make_targets
from .value_error import with_value_error

__all__ = [
    "MuZeroAgent",
    "Player",
    "averaged_params",
    "distributions",
    "example_row",
    "gumbel_plan",
    "identity_codec",
    "init_carry",
    "init_train_state",
    "learned_model",
    "load_agent",
    "make_act_and_add",
    "make_agent",
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
    "make_prior_player",
    "make_random_match_player",
    "make_random_player",
    "make_replay",
    "make_ring_network",
    "make_rollout",
    "make_search",
    "make_search_match_player",
    "make_search_player",
    "make_targets",
    "make_true_model_search",
    "make_two_hot_codec",
    "make_uct_search",
    "make_update",
    "muzero_plan",
    "on_device",
    "on_host",
    "play_episodes",
    "random_shift",
    "sampled_model",
    "types",
    "with_augmentation",
    "with_reanalyse",
    "with_value_error",
]
