"""`entries_of`: how large the single entries of a change are, counted in the fixed bins of `workbench.entry_bins`.

Read it as: an edit of few places leaves most entries at exactly zero and some far out; training moves nearly all of
them by a little. The base's own entries in the same bins say what a large entry is.
Does not show: an entry that is not finite on either side, which is left out, as norms leave it out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.entry_bins import COUNTED, EDGES, SIZES, ZERO

BLOCK = 1 << 18
"""Entries that are turned into double precision at a time."""


@dataclass(frozen=True)
class Entries:
    """Counts of the entries of one tensor and of its change."""

    std: float
    """Standard deviation of the base's entries."""
    change: tuple[int, ...]
    """Of after minus before."""
    base: tuple[int, ...]
    """Of the base."""


def entries_of(before: Tensor, after: Tensor) -> Entries | None:
    """Count two tensors of one shape; None when the base's entries are all alike, so that there is no unit.

    Args:
        before: the base's, any dtype, on the CPU.
        after: the checkpoint's.
    """
    count, total, squares, middle = 0, 0.0, 0.0, None
    for old, _ in _blocks(before, after):
        middle = float(old[0]) if middle is None and len(old) else middle
        off = old - (middle or 0.0)  # else the spread of numbers near 1 would be lost in their squares
        count, total, squares = count + len(off), total + float(off.sum()), squares + float(off.square().sum())
    std = math.sqrt(max(0.0, squares / count - (total / count) ** 2)) if count else 0.0
    if not std:
        return None
    change, base = torch.zeros(COUNTED, dtype=torch.long), torch.zeros(COUNTED, dtype=torch.long)
    for old, new in _blocks(before, after):
        change += _counts(new - old, std)
        base += _counts(old, std)
    return Entries(std, tuple(change.tolist()), tuple(base.tolist()))


def _blocks(before: Tensor, after: Tensor) -> Iterator[tuple[Float[Tensor, " entry"], Float[Tensor, " entry"]]]:
    """Both in double precision, a block at a time, without what is not finite."""
    first, second = before.reshape(-1), after.reshape(-1)
    for start in range(0, len(first), BLOCK):
        old, new = first[start : start + BLOCK].double(), second[start : start + BLOCK].double()
        finite = torch.isfinite(old) & torch.isfinite(new)
        yield old[finite], new[finite]


def _counts(values: Float[Tensor, " entry"], std: float) -> Tensor:
    """(COUNTED,), from the most negative to the most positive."""
    size = torch.bucketize(values.abs(), torch.from_numpy(EDGES) * std)
    place = torch.where(values < 0, SIZES - 1 - size, SIZES + 1 + size)
    return torch.bincount(torch.where(values == 0, ZERO, place), minlength=COUNTED)
