from .common import (
    answer,
    check_root,
    exploring_shares,
    learned_model,
    legal_actions,
    make_search,
    noise_scales,
    search_value,
    tree_of,
)
from .gumbel import gumbel_plan, make_gumbel_search
from .muzero import draw_dirichlet, make_muzero_search, muzero_plan
from .sampled import sampled_model
from .true_model import make_true_model_search, true_model
from .uct import make_uct_search

__all__ = [
    "answer",
    "check_root",
    "draw_dirichlet",
    "exploring_shares",
    "gumbel_plan",
    "learned_model",
    "legal_actions",
    "make_gumbel_search",
    "make_muzero_search",
    "make_search",
    "make_true_model_search",
    "make_uct_search",
    "muzero_plan",
    "noise_scales",
    "sampled_model",
    "search_value",
    "tree_of",
    "true_model",
]
