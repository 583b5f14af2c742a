"""Pictures of a report as SVG text, in colours that the colour-blind tell apart (Okabe and Ito)."""

from collections.abc import Sequence
import io
import re
from typing import Any

import numpy as np

from muzero_jax.errors import BadInputError
from muzero_jax.types import Tree

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_SIZE = (4.4, 3.1)  # Inches: letters stay readable at the width of a phone.
_MOST_NODES = 24


def _figure(size: tuple[float, float] = _SIZE):
    try:
        import matplotlib
    except ImportError:
        raise BadInputError("pictures need: pip install 'muzero_jax[plot]'") from None
    from matplotlib.figure import Figure

    # Letters as letters, and the same bytes each time.
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "muzero_jax", "font.size": 9}
    )
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure, label: str) -> str:
    """The figure without its XML header, as wide as there is room."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    view = head[head.index("viewBox") :].split('"')[1]
    rest = re.sub(r"(\d\.\d\d)\d+", r"\1", rest)  # A hundredth of a point is not seen.
    return f'<svg viewBox="{view}" role="img" aria-label="{label}" class="picture">{rest}'


def _axes(axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure) -> None:
    """Below the axes, where it covers no curve."""
    figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _with_interval(axes, x, points: Sequence[dict[str, Any]], color, label, style="-o") -> None:
    kept = [(i, p) for i, p in zip(x, points) if p["mean"] is not None]
    if not kept:
        return
    place = [i for i, _ in kept]
    axes.plot(place, [p["mean"] for _, p in kept], style, color=color, label=label, markersize=3.5)
    if all(p["low"] is not None for _, p in kept):
        axes.fill_between(
            place, [p["low"] for _, p in kept], [p["high"] for _, p in kept], color=color,
            alpha=0.2, linewidth=0,
        )


def model_errors(report: dict[str, Any]) -> list[str]:
    """The error of each head, and the distance of embeddings, by steps of the model."""
    model, made = report["model"], []
    titles = {
        "reward": ("Error of the reward", "mean |predicted - real|"),
        "value": ("Error of the value", "mean |predicted - real return|"),
        "policy": ("Error of the policy", "nats from what search chose"),
        "embedding": ("Distance of embeddings", "share of that of any two"),
    }
    for name, (title, unit) in titles.items():
        figure, axes = _figure()
        points = model["error"][name]
        begin = 1 if name == "reward" else 0
        _with_interval(axes, range(begin, begin + len(points)), points, _BLUE, "along the model")
        if name == "value":
            _with_interval(
                axes, range(len(points)), model["error"]["value_without_model"], _ORANGE,
                "from the frames that came", "--s",
            )
        axes.axvline(model["learned_depth"], color=_GREY, linestyle=":", label="learned so far")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure)
        _axes(axes, title, "steps of the model", unit)
        made.append(_svg(figure, title))
    return made


def calibration(report: dict[str, Any]) -> str:
    """What the value says against the return that came."""
    figure, axes = _figure()
    bins = report["value"]["bins"]
    said = [x["predicted"] for x in bins]
    ends = [min(said), max(said)]
    axes.plot(ends, ends, ":", color=_GREY, label="as it should be")
    _with_interval(axes, said, [x["real"] for x in bins], _BLUE, "a tenth of the positions")
    _legend(figure)
    _axes(axes, "Calibration of the value", "value", "real return")
    return _svg(figure, "Calibration of the value")


def scores(report: dict[str, Any]) -> str:
    """The score by the number of simulations."""
    figure, axes = _figure()
    points = report["search"]["scores"]
    _with_interval(axes, range(len(points)), points, _BLUE, None)
    axes.set_xticks(range(len(points)), [str(x["simulations"]) for x in points])
    _axes(axes, "What search adds", "simulations (0: the policy alone)", report["search"]["unit"])
    return _svg(figure, "Score by simulations")


def trajectory(title: str, predicted, real_value, real, inside) -> str:
    """One real continuation `[D + 1]`: the value along the model, of the frames, and the return."""
    figure, axes = _figure()
    steps = np.arange(len(real))[inside]
    axes.plot(steps, np.asarray(real)[inside], "-", color=_GREY, label="real return", linewidth=2)
    axes.plot(steps, np.asarray(predicted)[inside], "-o", color=_BLUE, label="along the model",
              markersize=3.5)
    axes.plot(steps, np.asarray(real_value)[inside], "--s", color=_ORANGE,
              label="from the frames that came", markersize=3.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure)
    _axes(axes, title, "steps from the position", "value")
    return _svg(figure, title)


def embeddings(points: np.ndarray, value: np.ndarray) -> str:
    """Embeddings `[N, 2]`, coloured by value `[N]`."""
    figure, axes = _figure()
    shown = axes.scatter(points[:, 0], points[:, 1], c=value, cmap="cividis", s=9)
    figure.colorbar(shown, label="value")
    _axes(axes, "Embeddings", "first direction", "second direction")
    return _svg(figure, "Embeddings in two dimensions, coloured by value")


def search_tree(tree: Tree, names: Sequence[str] | None = None) -> str:
    """A tree without `[B]`: the nodes with the most visits, and the line of most visits marked.

    Args:
      tree: of one search, arrays of NumPy.
      names: of the actions, where they are one discrete choice.
    """
    kept = _nodes(tree)
    children: dict[int, list[int]] = {n: [] for n in kept}
    for n in kept[1:]:
        children[int(tree.parent[n])].append(n)
    place, depth, leaf = {}, {0: 0}, 0

    def put(node: int) -> float:
        nonlocal leaf
        for child in children[node]:
            depth[child] = depth[node] + 1
        if children[node]:
            place[node] = float(np.mean([put(child) for child in children[node]]))
        else:
            place[node], leaf = float(leaf), leaf + 1
        return place[node]

    put(0)
    line, node = {0}, 0
    while children[node]:
        node = max(children[node], key=lambda n: tree.visits[n])
        line.add(node)
    deepest = max(depth.values())
    figure, axes = _figure((4.4, max(3.1, 0.42 * leaf + 0.8)))
    for n in kept[1:]:
        parent, main = int(tree.parent[n]), n in line
        axes.plot(
            [depth[parent], depth[n]], [-place[parent], -place[n]],
            color=_ORANGE if main else _GREY, zorder=1,
            linewidth=(1.0 if main else 0.4) + 2.5 * tree.visits[n] / tree.visits[0],
        )
    for n in kept:
        label = "root" if n == 0 else _name(tree.action[n], names)
        axes.plot(depth[n], -place[n], "s" if n in line else "o", zorder=2, markersize=4,
                  color=_ORANGE if n in line else _BLUE)
        above = depth[n] % 2 == 0  # Those of a line of single moves would cover each other.
        axes.text(
            depth[n] + 0.05, -place[n] + (0.12 if above else -0.14),
            f"{label}: {tree.visits[n]}×, {round(float(tree.value[n]), 3):z.3g}",
            fontsize=7, verticalalignment="bottom" if above else "top", zorder=3,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.5},
        )
    axes.set(xlim=(-0.15, deepest + 0.95), ylim=(-leaf + 0.3, 0.8), xlabel="moves ahead")
    axes.set_title("Search tree: action, visits, value; squares: the main line")
    axes.title.set_fontsize(8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _svg(figure, "Search tree")


def _nodes(tree: Tree) -> list[int]:
    """The root and the nodes with the most visits, each with its parent, in order."""
    visits = np.asarray(tree.visits)
    kept = {0}
    for n in np.argsort(-visits, kind="stable"):
        path, node = [], int(n)
        while visits[n] > 0 and node not in kept:
            path.append(node)
            node = int(tree.parent[node])
        if len(kept) + len(path) <= _MOST_NODES:
            kept.update(path)
    return sorted(kept)


def _name(action, names: Sequence[str] | None) -> str:
    if np.ndim(action) == 0:
        return names[int(action)] if names else str(int(action))
    return " ".join(f"{x:.2g}" for x in np.ravel(action)[:3])
