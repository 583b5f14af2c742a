"""What an agent sees and thinks, as pictures for a video and as text for a terminal."""

from collections.abc import Iterable
import contextlib
import importlib
import io
import math
from pathlib import Path
from typing import Any
import warnings

import numpy as np

from muzero_jax.errors import BadInputError
from muzero_jax.types import SearchOutput

_SIDE = 420  # Least height of a picture, in pixels.
_WIDTH = 300  # Of what stands beside it.
_WHITE, _INK, _BLUE, _ORANGE = (255, 255, 255), (26, 26, 26), (0, 114, 178), (213, 94, 0)
# Okabe and Ito: planes of a grid that the colour-blind tell apart.
_PLANES = np.array(
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167),
     (240, 228, 66), (120, 120, 120)], np.uint8,
)
_SIGNS = "XO#@%&*+"
_SHOWN = 5  # Actions beside a picture.


def picture(drawing: Any, observation: Any) -> np.ndarray:
    """RGB `[H, W, 3]` uint8 of an environment.

    Args:
      drawing: the environment's own, RGB or SVG text; None where it has none.
      observation: that is drawn in its place: an image as it is, planes of a grid as coloured
        cells, numbers as bars.
    """
    if isinstance(drawing, str):
        return _rasterise(drawing)
    if drawing is None:
        drawing = _draw(observation)
    factor = max(1, math.ceil(_SIDE / drawing.shape[0]))
    return np.ascontiguousarray(np.repeat(np.repeat(drawing, factor, 0), factor, 1))


def _rasterise(svg: str) -> np.ndarray:
    image = _pillow("Image")
    try:
        import resvg_py
    except ImportError:
        raise BadInputError("drawings of games need: pip install 'muzero_jax[video]'") from None
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, height=_SIDE, background="#ffffff"))
    return np.asarray(image.open(io.BytesIO(png)).convert("RGB"))


def _draw(observation: Any) -> np.ndarray:
    if isinstance(observation, dict):
        observation = max(observation.values(), key=np.size)
    x = np.asarray(observation)
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[..., :3] if x.shape[-1] >= 3 else np.repeat(x[..., :1], 3, axis=-1)
    if x.ndim in (2, 3):
        return _draw_grid(x.reshape(*x.shape[:2], -1))
    return _draw_bars(x.ravel())


def _draw_grid(planes: np.ndarray) -> np.ndarray:
    """Cells of 20 pixels, each in the colour of its last plane that is not 0."""
    cells = np.full((*planes.shape[:2], 3), 245, np.uint8)
    for plane in range(planes.shape[-1]):
        cells[planes[..., plane] > 0] = _PLANES[plane % len(_PLANES)]
    drawn = np.repeat(np.repeat(cells, 20, 0), 20, 1)
    drawn[::20], drawn[:, ::20] = 225, 225
    return drawn


def _draw_bars(numbers: np.ndarray) -> np.ndarray:
    """A bar for each number, up or down from the middle."""
    drawn = np.full((200, 24 * len(numbers), 3), 245, np.uint8)
    drawn[100] = 120
    for i, x in enumerate(np.tanh(np.nan_to_num(numbers.astype(np.float64)))):
        low, high = sorted((100, round(100 - 95 * x)))
        drawn[low : high + 1, 24 * i + 4 : 24 * i + 20] = _BLUE if x >= 0 else _ORANGE
    return drawn


def frame(drawn: np.ndarray, found: SearchOutput, *, step: int, score: float) -> np.ndarray:
    """A picture with value, best actions and their visits beside it, of an even size.

    Args:
      drawn: of `picture`.
      found: of `Player.search`, in one environment.
      step: of the episode.
      score: so far.
    """
    image, draw_on, font = (_pillow(name) for name in ("Image", "ImageDraw", "ImageFont"))
    height, width = (x + x % 2 for x in drawn.shape[:2])
    whole = image.new("RGB", (width + _WIDTH, height), _WHITE)
    whole.paste(image.fromarray(drawn))
    draw, large, small = draw_on.Draw(whole), font.load_default(22), font.load_default(15)
    left = width + 14
    draw.text((left, 10), f"step {step}   score {score:.4g}", _INK, small)
    draw.text((left, 36), f"value {float(found.value):.3g}", _INK, large)
    for place, (name, visits, share) in enumerate(best_actions(found)):
        top = 84 + 46 * place
        draw.text((left, top), f"{name}", _INK, small)
        draw.text((left + 170, top), f"{visits} visits", _INK, small)
        draw.rectangle((left, top + 22, left + 260, top + 32), outline=_INK)
        colour = _ORANGE if name == _name(found.action) else _BLUE
        draw.rectangle((left, top + 22, left + round(260 * share), top + 32), fill=colour)
    return np.asarray(whole)


def best_actions(found: SearchOutput) -> list[tuple[str, int, float]]:
    """(action, visits, share of the search's policy) of the likeliest actions of one root; none of
    a search that shows no tree."""
    tree = found.tree
    if tree is None:
        return []
    order = np.argsort(-np.asarray(tree.root_policy), kind="stable")[:_SHOWN]
    return [
        (_name(tree.root_action[i]), int(tree.root_visits[i]), float(tree.root_policy[i]))
        for i in order
        if tree.root_prior[i] > 0
    ]


def _name(action: Any) -> str:
    if np.ndim(action) == 0:
        return str(action if isinstance(action, int) else np.asarray(action).item())
    return " ".join(f"{x:.2f}" for x in np.ravel(action)[:4])


def text(observation: Any) -> str:
    """An observation as lines of a terminal: a grid by a sign for each plane, else its numbers."""
    if isinstance(observation, dict):
        return "\n".join(f"{name}:\n{text(x)}" for name, x in observation.items())
    x = np.asarray(observation)
    if x.ndim in (2, 3) and max(x.shape[:2]) <= 32 and x.dtype != np.uint8:
        return grid(x.reshape(*x.shape[:2], -1))
    if x.ndim > 1:
        return f"(an image of {x.shape[0]}x{x.shape[1]}; write a video with --out)"
    return " ".join(f"{number:.3g}" for number in x.ravel())


def grid(planes: np.ndarray) -> str:
    """Planes `[H, W, C]` as text, a line for each row; a cell shows its last plane that is not
    0."""
    signs = np.full(planes.shape[:2], ".")
    for plane in range(planes.shape[-1]):
        signs[planes[..., plane] > 0] = _SIGNS[plane % len(_SIGNS)]
    return "\n".join(" ".join(row) for row in signs)


def write(path: Path, frames: Iterable[np.ndarray], *, frames_per_s: float) -> int:
    """Writes a video, under another name until it is whole; returns how many frames.

    Args:
      path: ends in `.gif` or `.mp4`.
      frames: RGB, all of one even size.
      frames_per_s: speed.

    Raises:
      BadInputError: for another ending, a package that is missing, or a folder that cannot be
        written.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise BadInputError(f"--out must end in .gif or .mp4 (got {path.name})")
    frames = list(frames)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            image = _pillow("Image")
            first, *rest = [image.fromarray(x) for x in frames]
            first.save(
                partial, save_all=True, append_images=rest, duration=round(1000 / frames_per_s),
                loop=0,
            )
        else:
            try:
                import imageio.v2 as imageio
                import imageio_ffmpeg  # noqa: F401 (which brings ffmpeg)
            except ImportError:
                raise BadInputError("MP4 needs: pip install 'muzero_jax[video]'") from None
            with warnings.catch_warnings():  # Nothing of JAX is used in the process of ffmpeg.
                warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)
                imageio.mimwrite(partial, frames, fps=frames_per_s, macro_block_size=None)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise BadInputError(f"--out: {error}") from None
    return len(frames)


def _pillow(name: str):
    try:
        return importlib.import_module(f"PIL.{name}")
    except ImportError:
        raise BadInputError("pictures need: pip install 'muzero_jax[video]'") from None
