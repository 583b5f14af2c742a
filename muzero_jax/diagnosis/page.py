"""A report as one HTML page that needs nothing but itself."""

from collections.abc import Iterator
import html
import json
from typing import Any

from muzero_jax.diagnosis.verdict import Reason

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; color: #1a1a1a; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 28px 0 8px; border-bottom: 2px solid #0072B2; }
p.from { margin: 0; color: #444; overflow-wrap: anywhere; }
ol.verdict { padding: 12px 16px 12px 40px; border-left: 6px solid #D55E00; background: #fff4ec; }
p.verdict { padding: 12px 16px; border-left: 6px solid #009E73; background: #effaf6; }
code { font-size: .95em; background: #eee; padding: 0 3px; overflow-wrap: anywhere; }
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
.picture { width: 100%; height: auto; max-width: 560px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 24px; }
"""
_PARTS = {
    "model": "How well the model foretells what came",
    "value": "Whether the value means what it says",
    "search": "What search adds",
    "policy": "How sure the policy is",
    "learning": "How it learns",
    "support": "Whether the supports hold what is learned",
    "units": "What the network uses",
}


def render(report: dict[str, Any], reasons: list[Reason], pictures: dict[str, list[str]]) -> str:
    """The page.

    Args:
      report: plain JSON; every number of it stands on the page, under its name.
      reasons: of the verdict, the first cause first.
      pictures: SVG texts by the part of the report that they belong to.
    """
    title = f"{report['task']}: diagnosis"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="from">{html.escape(report["from"])}</p>',
        "<h2>Verdict</h2>",
        _verdict(report, reasons),
    ]
    for name, heading in _PARTS.items():
        if report.get(name) is None and not pictures.get(name):
            continue
        body.append(f"<h2>{heading}</h2>")
        if shown := pictures.get(name):
            body.append('<div class="pictures">' + "\n".join(shown) + "</div>")
        body.append(_table(_single(report.get(name) or {})))
    body.append(_numbers(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _verdict(report: dict[str, Any], reasons: list[Reason]) -> str:
    untold = report["not_checked"]
    left = f" Not checked, for want of numbers: {', '.join(untold)}." if untold else ""
    if not reasons:
        return f'<p class="verdict">No check is beyond its threshold.{html.escape(left)}</p>'
    items = "".join(
        f"<li>{html.escape(x.text[0].upper() + x.text[1:])}."
        f" Change: <code>{html.escape(x.field)}</code></li>"
        for x in reasons
    )
    return f'<ol class="verdict">{items}</ol><p>{html.escape(left.strip())}</p>'


def _numbers(report: dict[str, Any]) -> str:
    """Every number, under its name in the JSON file."""
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td data-key="{html.escape(name)}"'
        f' data-value="{html.escape(json.dumps(x))}">{html.escape(_shown(x))}</td></tr>\n'
        for name, x in leaves(report)
    )
    table = f"<table><tr><th>name</th><th>number</th></tr>\n{rows}</table>"
    return (
        "<details><summary>All numbers, as in report.json</summary>"
        f'<div class="scroll">{table}</div></details>'
    )


def _single(part: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, number) of what no picture of the part shows; a mean with its interval."""
    found = []
    for name, x in part.items():
        words = name.replace("_", " ")
        if isinstance(x, dict) and {"mean", "low", "high"} <= x.keys():
            interval = "" if x["low"] is None else f" [{_shown(x['low'])}, {_shown(x['high'])}]"
            found.append((words, _shown(x["mean"]) + interval))
        elif isinstance(x, dict):
            found += [(f"{words}: {key}", value) for key, value in _single(x)]
        elif not isinstance(x, list):
            found.append((words, _shown(x)))
    return found


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(x)}</td></tr>\n" for name, x in rows
    )
    return f'<div class="scroll"><table>{cells}</table></div>' if rows else ""


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in a report that is neither a dict nor a list."""
    if isinstance(tree, dict | list):
        inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, value in inner:
            yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree


def _shown(x: Any) -> str:
    if x is None:
        return "-"
    if isinstance(x, bool | str):
        return str(x)
    return f"{x:.4g}" if isinstance(x, float) else f"{x:,}"
