"""Strips of all value vectors of a model: how far each moved, layer by neuron, in columns an eye can take in.

A wide MLP is cut into columns of neighbouring neurons, and a column holds its vector that moved furthest; so does a
layer that stands for all its experts. So one moved vector among thousands stays a bright cell.

Read it as: `strip_of(trace)` of a `moved_vectors` trace; `strip.vector_at(row, column)` names the vector of a cell.
Does not show: how many vectors of a column moved; `told` counts them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import BadInput
from workbench.sites import Site, parse_sites
from workbench.trace import Trace

COLUMNS = 512
"""Columns of a strip at most."""

ROWS = 64
"""Rows at most; with more experts than that, a layer stands for all of its own."""

EVERY = "all"
"""No single expert."""


@dataclass(frozen=True)
class Strip:
    """What is drawn of one model."""

    rows: tuple[str, ...]
    """Layer, or layer and expert (`3.e5`), upwards."""
    width: int
    """Neighbouring neurons in a column."""
    values: Float[np.ndarray, "row column"]
    """How far the vector that moved furthest did; NaN where there is none."""
    sites: tuple[tuple[Site, ...], ...]
    """For every row the MLPs or experts it stands for."""
    place: Int[np.ndarray, "row column"]
    """Which of them the vector lies in."""
    neuron: Int[np.ndarray, "row column"]
    """Its number."""

    @property
    def starts(self) -> tuple[int, ...]:
        """First neuron of every column."""
        return tuple(range(0, self.width * self.values.shape[1], self.width))

    @property
    def pooled(self) -> bool:
        """Whether a row stands for several experts."""
        return any(len(sites) > 1 for sites in self.sites)

    def vector_at(self, row: int, column: int) -> str:
        """Text form of the vector of a cell."""
        whole = self.sites[row][int(self.place[row, column])]
        return str(Site(whole.layer, whole.part, int(self.neuron[row, column]), whole.expert))

    def cell_of(self, vector: str) -> tuple[int, int] | None:
        """Row and column a vector lies in; None where it is not drawn."""
        site = Site.parse(vector)
        row = next((i for i, sites in enumerate(self.sites) if site.whole in sites), None)
        if row is None or site.index is None or site.index >= self.width * self.values.shape[1]:
            return None
        return row, site.index // self.width

    def furthest(self, count: int, layer: str = EVERY) -> list[str]:
        """The vectors that moved furthest, one a cell, of a layer or of all; those that did not move are left out."""
        order = np.argsort(-np.nan_to_num(self.values, nan=0.0), axis=None, kind="stable")
        cells = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, self.values.shape), strict=True)]
        there = [(i, j) for i, j in cells if self.values[i, j] > 0 and layer in (EVERY, _layer(self.rows[i]))]
        return [self.vector_at(i, j) for i, j in there[:count]]


def experts_of(trace: Trace) -> list[str]:
    """Numbers of the experts of a model, if it is a mixture with more of them than there are rows to draw."""
    sites = parse_sites(trace.labels["site"])
    if len(sites) <= ROWS:
        return []
    return sorted({str(site.expert) for site in sites if site.expert is not None}, key=int)


def strip_of(trace: Trace, expert: str = EVERY, columns: int = COLUMNS) -> Strip:
    """Cut a trace into the rows and columns that are drawn.

    Args:
        trace: of `probes.moved_vectors`, axes (site, neuron).
        expert: number of the one to draw; all by default.
        columns: at most so many.

    Raises:
        BadInput: when no layer has that expert.
    """
    sites = parse_sites(trace.labels["site"])
    chosen = [i for i, site in enumerate(sites) if expert in (EVERY, str(site.expert))]
    if not chosen:
        raise BadInput(f"No layer has an expert {expert!r}; there are {', '.join(experts_of(trace)) or 'none'}")
    names = [_row(sites[i], len(chosen) > ROWS or expert != EVERY) for i in chosen]
    rows = {name: [i for i, other in zip(chosen, names, strict=True) if other == name] for name in dict.fromkeys(names)}
    width = -(-trace.values.shape[1] // columns)
    cells = [_row_of(trace.values[members], width) for members in rows.values()]
    values, place, neuron = (np.stack([cell[i] for cell in cells]) for i in range(3))
    meant = tuple(tuple(sites[i] for i in members) for members in rows.values())
    return Strip(tuple(rows), width, values, meant, place, neuron)


def value_of(trace: Trace, vector: str) -> float | None:
    """How far one vector moved; None where the trace has no number for it."""
    site = Site.parse(vector)
    if str(site.whole) not in trace.labels["site"] or site.index is None or site.index >= trace.values.shape[1]:
        return None
    value = float(trace.values[trace.labels["site"].index(str(site.whole)), site.index])
    return value if np.isfinite(value) else None


def is_vector(trace: Trace, text: str) -> bool:
    """Whether a text names a value vector of the model that was read."""
    try:
        site = Site.parse(text)
    except BadInput:
        return False
    width = trace.notes.get("widths", {}).get(str(site.whole), 0)
    return site.index is not None and site.index < int(width)


def told(trace: Trace) -> str:
    """How many vectors moved, how far half of them did, and which moved furthest."""
    read = trace.values[np.isfinite(trace.values)]
    moved = read[read > 0]
    fresh = sum(len(found) for found in trace.notes.get("from_zero", {}).values())
    new = f"; {fresh} that were zero before are not now, which has no number" if fresh else ""
    if not moved.size:
        return f"none of {read.size:,} vectors moved{new}"
    i, j = np.unravel_index(int(np.nanargmax(trace.values)), trace.values.shape)
    whole = Site.parse(trace.labels["site"][int(i)])
    best = Site(whole.layer, whole.part, int(j), whole.expert)
    return (
        f"{moved.size:,} of {read.size:,} vectors moved, half of these by {np.median(moved):.2g} of their length or "
        f"more, {best} the furthest, by {moved.max():.2g}{new}"
    )


def _row(site: Site, by_layer: bool) -> str:
    return str(site.layer) if by_layer or site.expert is None else f"{site.layer}.e{site.expert}"


def _layer(row: str) -> str:
    return row.partition(".")[0]


def _row_of(
    values: Float[np.ndarray, "site neuron"], width: int
) -> tuple[Float[np.ndarray, " column"], Int[np.ndarray, " column"], Int[np.ndarray, " column"]]:
    """The largest of every column of neurons, over all sites; which site it lies in, and which neuron it is."""
    sites, neurons = values.shape
    count = -(-neurons // width)
    filled = np.full((sites, count * width), -np.inf)
    filled[:, :neurons] = np.where(np.isfinite(values), values, -np.inf)
    blocks = filled.reshape(sites, count, width).transpose(1, 0, 2).reshape(count, sites * width)
    best = blocks.argmax(axis=1)
    largest = blocks[np.arange(count), best]
    return (
        np.where(np.isfinite(largest), largest, np.nan),
        best // width,
        np.arange(count) * width + best % width,
    )
