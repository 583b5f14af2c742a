"""Searches: each maker returns a `SearchFn`, but those of the true rules, see `true_model`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
