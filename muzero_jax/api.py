"""The public names of `muzero_jax`, which looks here for what is asked of it."""

# ruff: noqa: F401
from muzero_jax import types
from muzero_jax.acting import example_row, init_carry, make_act_and_add, make_rollout
from muzero_jax.codecs import identity_codec, make_two_hot_codec
from muzero_jax.evaluate import make_random_player, make_search_player, play_episodes
from muzero_jax.learner import init_train_state, make_learn, make_optimizer, make_update
from muzero_jax.losses import make_loss
from muzero_jax.networks.blocks import make_network
from muzero_jax.networks.conv import make_conv_network
from muzero_jax.networks.mlp import make_mlp_network
from muzero_jax.replay import make_replay
from muzero_jax.search import make_gumbel_search
from muzero_jax.targets import make_initial_priority, make_network_bootstrap, make_targets
