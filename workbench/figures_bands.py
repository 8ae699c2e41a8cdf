"""The mean of a trace along one axis, with the band drawn round it.

Read it as: the band is a 95% percentile bootstrap that resamples subjects (single facts where the reading does not say
whom they are about), and seeds where there are several.
Does not show: a band that holds over all layers at once; claims that take the worst layer have wider intervals.
"""

from dataclasses import dataclass

import numpy as np

from workbench.errors import BadInput
from workbench.figures_style import ITEMS
from workbench.trace import Trace

RESAMPLES = 1000
LEVEL = (2.5, 97.5)


@dataclass(frozen=True)
class Band:
    """Means along an axis; an entry that nothing was read for is NaN."""

    labels: tuple[str, ...]
    """Labels along the axis."""
    mean: np.ndarray
    """Mean over facts and seeds."""
    low: np.ndarray
    """Lower end; NaN where one number alone gives no interval."""
    high: np.ndarray
    """Upper end."""
    items: int
    """Facts (or texts) that were read anywhere along the axis; 0 when the trace has no such axis."""
    item: str
    """What an item is: `fact` or `text`."""
    seeds: int
    """Seeds it is a mean over; 0 when the trace has no such axis."""

    @property
    def of_what(self) -> str:
        """What the mean is over, in words and brackets; empty when there is nothing to take a mean over."""
        parts = [
            f"{count} {word}{'s' if count > 1 else ''}"
            for count, word in ((self.items, self.item), (self.seeds, "seed"))
            if count
        ]
        return f" ({' × '.join(parts)})" if parts else ""


def band_of(trace: Trace, along: str | None = None, seed: int = 0) -> Band:
    """Mean and interval along one axis, or of the whole trace when `along` is None.

    Args:
        trace: readings whose other axes are facts and seeds only.
        along: the axis that stays.
        seed: of the resampling.
    """
    item = "text" if "text" in trace.axes else "fact"
    cube = _cube(trace, along, item)
    read = np.isfinite(cube)
    filled = np.where(read, cube, 0.0)
    mean = _ratio(filled.sum(axis=(1, 2)), read.sum(axis=(1, 2)))
    low, high = _interval(filled, read.astype(float), _clusters(trace, cube.shape[2]), seed)
    alone = read.sum(axis=(1, 2)) < 2
    low[alone], high[alone] = np.nan, np.nan
    labels = trace.labels[along] if along else ("mean",)
    items = int(read.any(axis=(0, 1)).sum()) if item in trace.axes else 0
    return Band(labels, mean, low, high, items, item, _size(trace, "seed"))


def _cube(trace: Trace, along: str | None, item: str) -> np.ndarray:
    """Values as (along, seed, item), with size 1 for an axis that is not there."""
    order = [trace.axis(name) for name in (along, "seed", item) if name and name in trace.axes]
    if len(order) < len(trace.axes):
        rest = [name for name in trace.axes if name not in (along, *ITEMS)]
        raise BadInput(
            f"Trace {trace.name!r} cannot be drawn as means along {along!r}: it has the axes {rest} too. "
            "Pick one entry of each with .pick()"
        )
    shape = [_size(trace, along) if along else 1, _size(trace, "seed") or 1, _size(trace, item) or 1]
    return np.transpose(trace.values, order).astype(float).reshape(shape)


def _size(trace: Trace, axis: str) -> int:
    return len(trace.labels[axis]) if axis in trace.axes else 0


def _clusters(trace: Trace, items: int) -> np.ndarray:
    """The subject of every item as a number; every item is its own when the notes do not say."""
    subjects = trace.notes.get("subjects")
    if not isinstance(subjects, list | tuple) or len(subjects) != items:
        return np.arange(items)
    return np.unique(np.asarray(subjects, dtype=str), return_inverse=True)[1]


def _interval(filled: np.ndarray, read: np.ndarray, clusters: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Subjects and seeds are drawn anew independently of each other, because every seed saw every subject."""
    random = np.random.default_rng(seed)
    seeds, subjects = filled.shape[1], int(clusters.max()) + 1
    by_seed = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).astype(float)
    by_item = random.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES).astype(float)[:, clusters]
    total, count = np.zeros((RESAMPLES, len(filled))), np.zeros((RESAMPLES, len(filled)))
    for i in range(seeds):
        total += by_seed[:, i, None] * (by_item @ filled[:, i].T)
        count += by_seed[:, i, None] * (by_item @ read[:, i].T)
    means = _ratio(total, count)
    return _percentile(means, LEVEL[0]), _percentile(means, LEVEL[1])


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return ratio


def _percentile(means: np.ndarray, level: float) -> np.ndarray:
    found = np.full(means.shape[1], np.nan)
    known = np.isfinite(means).any(axis=0)
    found[known] = np.nanpercentile(means[:, known], level, axis=0)
    return found
