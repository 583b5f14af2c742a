"""docs/config.md: every field of a config, from the table in the code.

`python tests/config_page.py` writes it; tests/test_bad_inputs.py compares it.
"""

from muzero_jax.config import base, fields, schema
from processes import ROOT

PATH = ROOT / "docs" / "config.md"
_MARK = "\n## Fields\n"  # What comes before it is written by hand.
_HEAD = """
A file of `configs/` is a Python function, `get_config(variant)`. It takes the usual values of
[`muzero_jax/config/base.py`](../muzero_jax/config/base.py) and changes what differs. On the command
line `--config.search.num_simulations=32` changes one more field, `--config.NAME=None` unsets one
that may be None, and `--config.help` lists all fields of the preset with their values. A number
outside of what the table allows is refused in one line, with exit code 78, before anything is
traced. What has an upper end would, above it, trace for minutes or overflow; sizes that only take
memory are refused by the [memory budget](operations.md#memory).

"usual" is the value of `base.py`; where there is none, the field belongs to some suites, networks
or searches only, or every preset has to give it. "part" is the function or type that takes the
field, as a module of `muzero_jax`: its docstring has the details and sources. A maker of your own
([compose.md](compose.md)) gets the other fields of its group as arguments.

This table is made from the code: `python tests/config_page.py`.

| field | meaning | value | unit | usual | part |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page's text, with its first part as it stands."""
    written = PATH.read_text().partition(_MARK)[0]
    usual = dict(schema.leaves(base.get_config().to_dict()))
    rows = []
    for name, field in fields.FIELDS.items():
        value = f"`{usual[name]!r}`" if name in usual else ""
        rows.append(
            f"| `{name}` | {field.meaning} | {field.values()} | {field.unit} | {value} |"
            f" `{field.part}` |"
        )
    return written + _MARK + _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PATH.write_text(page())
