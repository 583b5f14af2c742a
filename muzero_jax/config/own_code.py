"""Code of the user's own that a config names, as "module:function".

Nothing is imported that a caller has not allowed by the module's name: what is read from a folder
is data, and loading data runs no code.
"""

from collections.abc import Callable, Collection
import importlib
import importlib.util
from pathlib import Path
import sys
from typing import Any

from muzero_jax.config import schema
from muzero_jax.errors import BadInputError


def check(config, allow: Collection[str]) -> None:
    """Refuses a config that names code in modules which are not allowed.

    Raises:
      BadInputError: naming the field.
    """
    for field, kind in schema.own_kinds(config).items():
        module = kind.partition(":")[0]
        if module not in allow:
            raise BadInputError(
                f"{field}: {kind!r} names code, which is not run unless it is allowed, by"
                f" --allow={module} or allow=({module!r},)"
            )


def find(field: str, kind: str) -> Callable[..., Any]:
    """The function that a field names; `check` has to come first.

    Raises:
      BadInputError: where there is no such module or function.
    """
    module, _, name = kind.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise BadInputError(
            f"{field}: {kind!r} cannot be imported: {error}; put its folder on PYTHONPATH"
        ) from None
    except AttributeError:
        raise BadInputError(f"{field}: there is no {name!r} in the module {module!r}") from None
    if not callable(function):
        raise BadInputError(f"{field}: {kind!r} is no function")
    return function


def add_beside(path: Path, modules: Collection[str]) -> None:
    """Makes modules that lie beside a config file importable: those alone, and only where there is
    no other module of the name."""
    for module in modules:
        file = path.parent / f"{module}.py"
        if file.is_file() and importlib.util.find_spec(module) is None:
            spec = importlib.util.spec_from_file_location(module, file)
            sys.modules[module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module])
