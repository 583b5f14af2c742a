"""MuZero and its family in JAX: pure functions to run as they are, or to recombine.

The names of this package, which `__init__.pyi` lists, are imported when they are first used: a
script that only has a flag to refuse never waits for JAX. Environments (`muzero_jax.envs`) and
checkpoints (`muzero_jax.checkpoint`) are imported from their modules.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
