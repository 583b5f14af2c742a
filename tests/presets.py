"""Configs of `configs/` as objects, with fields changed."""

import ast
import importlib.util

from processes import ROOT
import validate


def config_of(name, arg=None, **fields):
    """The validated config of `configs/<name>.py:arg`; `fields` are dotted names."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*([] if arg is None else [arg]))
    parsed = {
        field: ast.literal_eval(x) if isinstance(x, str) and x.startswith("(") else x
        for field, x in fields.items()
    }
    config.update_from_flattened_dict(parsed)
    validate.check(config)
    return config
