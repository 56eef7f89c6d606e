"""Heat maps of classes against classes: drawn up to 40 classes, above that a picture with alike classes together.

What this file does not know: what the values mean.
"""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from limbeck.report.figures import Figure, svg, text
from limbeck.report.words import lines_of

MOST_DRAWN, MOST_WRITTEN = 40, 12
"""Up to this many classes: every cell is drawn; every cell has its value written in it."""

INK = (83, 116, 232)
"""The colour of a heat map, whose opacity is the value: it can be read on light and on dark paper."""

STRONGEST = 0.55
"""Opacity of the largest value: ink on it can still be read."""

LINE = 11.5
"""Pixels between two lines of a name."""

SIDE, EDGE, MOST_EDGE, CHARACTER = 360, 46, 104, 6.4
"""Pixels: of the drawing, the room for names of up to three characters, the most of it, and of one character more."""


def heat_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    names: Sequence[str],
    row_label: str,
    column_label: str,
    written: Callable[[float], str],
    in_cell: Callable[[float], str],
    note: str = "",
) -> Figure | None:
    """Values `[C][C]`, None where nothing is known; None if there are none. The diagonal, far larger, has no colour.

    Colour goes with the root of the value, so that small ones are seen. written, in_cell: a value at length, in short.
    """
    off = [v for i, row in enumerate(values) for j, v in enumerate(row) if i != j and v is not None]
    most = max(off, default=0.0)
    if most <= 0:
        return None
    if len(values) > MOST_DRAWN:
        return Figure(title, _picture(title, values, most, row_label, column_label), note=note)
    return Figure(title, _drawn(title, values, names, most, row_label, column_label, written, in_cell), note=note)


def _drawn(
    title: str,
    values: Sequence[Sequence[float | None]],
    names: Sequence[str],
    most: float,
    row_label: str,
    column_label: str,
    written: Callable[[float], str],
    in_cell: Callable[[float], str],
) -> Markup:
    longest = max(len(name) for name in names)
    edge = min(MOST_EDGE, EDGE + CHARACTER * max(0, longest - 3))
    cell = (SIDE - edge - 4) / len(values)
    fits, every = int((edge - 24) / CHARACTER), 1 if len(values) <= 20 else 2
    upright = longest * CHARACTER > cell * every
    parts = []
    for i, row in enumerate(values):
        y, middle = edge + i * cell, edge + (i + 0.5) * cell
        if i % every == 0:
            room = max(1, int(cell * every / LINE))
            for line, words in _beside(names[i], fits, room):
                parts.append(text(edge - 5, y + cell / 2 + 3.5 + line, words, "tick", "end"))
                if upright:
                    parts.append(_turned(middle + 3.5 + line, edge - 6, words))
            if not upright:
                parts.append(text(middle, edge - 6, names[i], "tick", "middle"))
        for j, value in enumerate(row):
            if value is None:
                continue
            x, share = edge + j * cell, 0.0 if i == j else STRONGEST * (max(0.0, value) / most) ** 0.5
            parts.append(
                Markup(
                    '<rect class="cell{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
                    'fill-opacity="{:.3f}"><title>{}</title></rect>'
                ).format(
                    " same" if i == j else "",
                    *(x, y, cell - 1, cell - 1, share),
                    f"{names[i]} → {names[j]}: {written(value)}",
                )
            )
            if len(values) <= MOST_WRITTEN and (i == j or value >= 0.005 * most):
                kind = "in-cell same" if i == j else "in-cell"
                parts.append(text(x + cell / 2, y + cell / 2 + 3, in_cell(value), kind, "middle"))
    parts.append(text((edge + SIDE) / 2, 12, column_label, "label", "middle"))
    turned = Markup('<text class="label" text-anchor="middle" transform="translate(9 {:.1f}) rotate(-90)">{}</text>')
    parts.append(turned.format((edge + SIDE) / 2, row_label))
    return svg(f"{title}: {len(values)} classes, {row_label} against {column_label}", parts, SIDE, SIDE)


def _beside(name: str, fits: int, room: int) -> list[tuple[float, str]]:
    """The lines of a name beside its row, and how far below the middle each stands."""
    found = lines_of(name, fits, room)
    return [((place - (len(found) - 1) / 2) * LINE, words) for place, words in enumerate(found)]


def _turned(x: float, y: float, words: str) -> Markup:
    """A line of text that is read upwards."""
    return Markup('<text class="tick" transform="translate({:.1f} {:.1f}) rotate(-90)">{}</text>').format(x, y, words)


def _picture(
    title: str, values: Sequence[Sequence[float | None]], most: float, row_label: str, column_label: str
) -> Markup:
    """A PNG, a pixel per pair of classes, rows and columns in the order of a clustering."""
    import numpy as np
    from PIL import Image

    dense = np.nan_to_num(np.array(values, dtype=np.float64))
    np.fill_diagonal(dense, 0.0)
    shares = np.sqrt(np.clip(dense / most, 0, 1))
    order = _alike(shares)
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = INK
    pixels[..., 3] = np.round(255 * shares[order][:, order])
    scale = max(1, 400 // len(shares))  # a print has more dots than there are classes
    pixels = pixels.repeat(scale, 0).repeat(scale, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return Markup('<img class="picture" src="data:image/png;base64,{}" alt="{}">').format(
        base64.b64encode(file.getvalue()).decode("ascii"),
        f"{title}: {len(values)} classes, rows {row_label}, columns {column_label}, alike classes side by side",
    )


def _alike(shares: Any) -> Any:
    """The classes in an order in which those with like rows and columns are neighbours."""
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage

    both = shares + shares.T
    norms = np.linalg.norm(both, axis=1, keepdims=True)
    return leaves_list(linkage(both / np.where(norms > 0, norms, 1.0), "average"))
