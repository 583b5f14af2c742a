from .common import (
    choose_action,
    exploring_shares,
    legal_actions,
    make_recurrent_fn,
    noise_scales,
    root_of,
    search_value,
)
from .gumbel import make_gumbel_plan, make_gumbel_search
from .muzero import draw_dirichlet, make_muzero_search
from .true_model import make_true_model_search
from .uct import make_uct_search

__all__ = [
    "choose_action",
    "draw_dirichlet",
    "exploring_shares",
    "legal_actions",
    "make_gumbel_plan",
    "make_gumbel_search",
    "make_muzero_search",
    "make_recurrent_fn",
    "make_true_model_search",
    "make_uct_search",
    "noise_scales",
    "root_of",
    "search_value",
]
