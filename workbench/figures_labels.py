"""Names beside marks of a scatter, so that no name lies on a mark or on another name, however wide the picture is.

A browser draws a picture as wide as its window, and plotly does not move labels apart. So every name tries the eight
sides of its mark, near ones first and then further out with a thin line to the mark, and takes the first that is free
at each of `SIZES`. Names that find no place are left to the hover and the table.

Read it as: a line leads from a name to the mark it belongs to.
Does not show: which names were left out; the caller has the ones that are missing and says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.figures_style import INK, MUTED, plain

SIZES = np.array([(width, height) for width in (480, 640, 860, 1100, 1450) for height in (330, 400)], dtype=float)
"""Plot areas, in pixels, in which names are kept apart."""

LETTER, LINE = 6.4, 16.0
"""Pixels of a letter and of a line at `FONT` pixels, on the wide side."""

FONT = 11
NEAR = 14.0
"""Pixels between a mark's middle and a name beside it."""

FURTHER = (28.0, 42.0, 60.0, 84.0, 112.0)
"""The same with a line."""

MARK = 9.0
"""Half of the square that a mark is kept free in."""

SIDES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
"""Right, left, then the corners, then above and below."""

ANCHORS = {"x": {1: "left", 0: "center", -1: "right"}, "y": {1: "bottom", 0: "middle", -1: "top"}}


@dataclass(frozen=True)
class Label:
    """Where a name stands, from its mark."""

    dx: float
    """Pixels to the right."""
    dy: float
    """Pixels up."""
    side: tuple[int, int]
    """Of the mark: -1, 0 or 1 to the right, and up."""
    far: bool
    """Whether a line leads to it."""

    def box(self, name: str) -> Float[np.ndarray, " 4"]:
        """Left, bottom, right, top of the name, from its mark."""
        width = LETTER * len(name) + 4
        left = self.dx - width * (1 - self.side[0]) / 2
        bottom = self.dy - LINE * (1 - self.side[1]) / 2
        return np.array([left, bottom, left + width, bottom + LINE])


Point = tuple[float, float]


def labels(
    names: Mapping[str, Point], marks: Sequence[Point], ranges: tuple[Sequence[float], Sequence[float]]
) -> dict[str, Label]:
    """A place for each name; those without one are missing.

    Args:
        names: name as drawn -> its mark. The first ones choose first.
        marks: every mark that is drawn, whether it has a name or not.
        ranges: first and last number of the x axis and of the y axis; either may run backwards.
    """
    taken = _around(_pixels(marks, ranges), MARK)
    found: dict[str, Label] = {}
    for name, point in names.items():
        at = _pixels([point], ranges)[:, 0]
        for label in _tries(at):
            box = np.concatenate([at, at], axis=1) + label.box(name)
            inside = (box[:, :2] >= 0).all() and (box[:, 2:] <= SIZES).all()
            if inside and not _meet(box[:, None], taken).any():
                found[name] = label
                taken = np.concatenate([taken, box[:, None]], axis=1)
                break
    return found


def annotations(found: Mapping[str, Label], names: Mapping[str, Point], bold: str = "") -> list[dict[str, Any]]:
    """The names as plotly annotations.

    Args:
        found: of `labels`.
        names: name as drawn -> its mark.
        bold: the name that stands out.
    """
    made = []
    for name, label in found.items():
        one: dict[str, Any] = {
            "x": names[name][0],
            "y": names[name][1],
            "text": f"<b>{plain(name)}</b>" if name == bold else plain(name),
            "font": {"size": FONT, "color": INK},
            "xanchor": ANCHORS["x"][label.side[0]],
            "yanchor": ANCHORS["y"][label.side[1]],
            "bgcolor": "rgba(255,255,255,0.7)",
            "borderpad": 0,
            "showarrow": label.far,
        }
        line = {"ax": label.dx, "ay": -label.dy, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": MUTED, "standoff": 5}
        made.append(one | (line if label.far else {"xshift": label.dx, "yshift": label.dy}))
    return made


def _tries(at: Float[np.ndarray, "size 2"]) -> Iterator[Label]:
    """Places in the order they are wished: near before far, towards the middle before outwards."""
    inwards = 1 if at[0, 0] < SIZES[0, 0] / 2 else -1
    for distance in (NEAR, *FURTHER):
        for right, up in SIDES:
            side = (right * inwards, up)
            length = distance if 0 in side else distance * 0.75
            yield Label(side[0] * length, side[1] * length, side, distance > NEAR)


def _pixels(
    points: Sequence[Point], ranges: tuple[Sequence[float], Sequence[float]]
) -> Float[np.ndarray, "size point 2"]:
    first, last = np.array(ranges, dtype=float).T
    share = (np.array(points, dtype=float).reshape(-1, 2) - first) / (last - first)
    return share * SIZES[:, None]


def _around(at: Float[np.ndarray, "size point 2"], half: float) -> Float[np.ndarray, "size point 4"]:
    return np.concatenate([at - half, at + half], axis=2)


def _meet(one: Float[np.ndarray, "size 1 4"], others: Float[np.ndarray, "size n 4"]) -> Any:
    """Which boxes overlap, at any size."""
    return ((one[..., :2] < others[..., 2:]) & (others[..., :2] < one[..., 2:])).all(axis=2)
