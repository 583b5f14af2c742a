"""The driver of runs, and all around it: folder, resume points, signals, several hosts, metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
