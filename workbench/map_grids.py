"""A trace as panels of a map: rows by columns with the facts still apart, their means, and what a difference is worth.

Read it as: `mean` is over the facts that were read; `difference_of` gives after minus before with its standard error.
Does not show: anything the trace does not hold; where nothing was read there is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench.errors import BadInput
from workbench.figures_style import ITEMS
from workbench.sites import Site, parse_sites
from workbench.trace import Trace

NUMBERED_PARTS = ("expert", "head")
"""Parts with few enough members to be columns of a map."""

WIDEST = 512
"""Entries along one side; what is longer is no map."""


@dataclass(frozen=True)
class Grid:
    """One panel: rows by columns, with the facts still apart."""

    part: str
    """Site part, or what the panel shows."""
    rows: tuple[str, ...]
    """Labels upwards, usually layers."""
    columns: tuple[str, ...]
    """Labels to the right."""
    across: str
    """What the columns are."""
    values: np.ndarray
    """(row, column, fact); NaN where nothing was read."""
    pooled: bool = False
    """Whether each number is of all facts at once, so that `values` has one entry that is no fact."""
    less: "Grid | None" = None
    """The same of other facts, whose mean is taken off."""

    @property
    def mean(self) -> np.ndarray:
        """Mean over the facts that were read (less that of the other facts); NaN where none was."""
        read = np.isfinite(self.values)
        count = read.sum(axis=-1)
        total = np.where(read, self.values, 0.0).sum(axis=-1)
        mean: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return mean if self.less is None else mean - self.less.mean


def is_map(trace: Trace) -> bool:
    """Whether a trace spans a map that an eye can take in."""
    rest = _spanning(trace)
    if len(rest) == 1 and rest == ["site"]:
        sites = parse_sites(trace.labels["site"])
        return all(s.part in NUMBERED_PARTS and s.index is not None for s in sites)
    return len(rest) == 2 and "measure" not in rest and all(len(trace.labels[axis]) <= WIDEST for axis in rest)


def _spanning(trace: Trace) -> list[str]:
    return [axis for axis in trace.axes if axis not in ITEMS]


def grids_of(trace: Trace) -> tuple[Grid, ...]:
    """A trace as panels, one a site part.

    Raises:
        BadInput: when it has no two axes to span a map.
    """
    if not is_map(trace):
        raise BadInput(
            f"Trace {trace.name!r} with axes {trace.axes} is no map: it needs `site` with a second axis, "
            "sites that are experts or heads, or two axes beside facts and seeds"
        )
    if "seed" in trace.axes:
        trace = trace.mean("seed")
    rest = _spanning(trace)
    rest = sorted(rest, key=lambda axis: axis != "site")
    order = [trace.axis(axis) for axis in (*rest, "fact") if axis in trace.axes]
    values = np.transpose(trace.values, order).astype(float)
    pooled = "fact" not in trace.axes
    values = values[..., None] if pooled else values
    sites = parse_sites(trace.labels["site"]) if "site" in rest else ()
    parts = list(dict.fromkeys(site.part for site in sites))
    if len(rest) == 1:
        return tuple(replace(_numbered(part, sites, values), pooled=pooled) for part in parts)
    if not sites or any(site.index is not None for site in sites):
        return (Grid("", trace.labels[rest[0]], trace.labels[rest[1]], rest[1], values, pooled),)
    columns, across = trace.labels[rest[1]], rest[1]
    return tuple(replace(_by_layer(part, sites, values, columns, across), pooled=pooled) for part in parts)


def _rows(part: str, sites: Sequence[Site]) -> list[int | None]:
    found = {site.layer for site in sites if site.part == part}
    return sorted(found, key=lambda layer: -1 if layer is None else layer)


def _by_layer(part: str, sites: Sequence[Site], values: np.ndarray, columns: tuple[str, ...], across: str) -> Grid:
    rows = _rows(part, sites)
    grid = np.full((len(rows), *values.shape[1:]), np.nan)
    for i, site in enumerate(sites):
        if site.part == part:
            grid[rows.index(site.layer)] = values[i]
    return Grid(part, _names(rows), columns, across, grid)


def _numbered(part: str, sites: Sequence[Site], values: np.ndarray) -> Grid:
    rows = _rows(part, sites)
    columns = sorted({site.index for site in sites if site.part == part and site.index is not None})
    grid = np.full((len(rows), len(columns), values.shape[-1]), np.nan)
    for i, site in enumerate(sites):
        if site.part == part and site.index is not None:
            grid[rows.index(site.layer), columns.index(site.index)] = values[i]
    return Grid(part, _names(rows), tuple(str(column) for column in columns), part, grid)


def _names(rows: Sequence[int | None]) -> tuple[str, ...]:
    return tuple("embed" if layer is None else str(layer) for layer in rows)


def difference_of(before: Grid, after: Grid, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """After minus before with its standard error over facts; NaN where it cannot be told."""
    if paired:
        change = Grid(after.part, after.rows, after.columns, after.across, after.values - before.values)
        if before.less is None or after.less is None:
            return change.mean, standard_error(change)
        off, error = difference_of(before.less, after.less, paired)
        return change.mean - off, np.hypot(standard_error(change), error)
    return after.mean - before.mean, np.hypot(standard_error(before), standard_error(after))


def standard_error(grid: Grid) -> np.ndarray:
    """Of the mean over facts, by row and column; NaN where fewer than two were read."""
    count = np.isfinite(grid.values).sum(axis=-1)
    spread = np.where(np.isfinite(grid.values), grid.values - replace(grid, less=None).mean[..., None], 0.0)
    variance = np.divide((spread**2).sum(axis=-1), count - 1, out=np.full(count.shape, np.nan), where=count > 1)
    error = np.sqrt(variance / np.maximum(count, 1))
    return np.asarray(error if grid.less is None else np.hypot(error, standard_error(grid.less)))


def require_alike(name: str, sides: Sequence[tuple[Grid, ...]]) -> None:
    """See to it that all sides have the same rows and columns.

    Raises:
        BadInput: when they have not.
    """
    shapes = [[(grid.part, grid.rows, grid.columns) for grid in grids] for grids in sides]
    if any(shape != shapes[0] for shape in shapes):
        raise BadInput(
            f"The {name!r} traces to compare were read at different sites; read all models with the same options"
        )
