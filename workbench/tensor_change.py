"""`change_of`: what happened to one tensor, in numbers.

Read it as: whether anything changed is decided on bytes, so that a change of one unit in the last place of a bf16
number counts. Norms are summed in double precision. Singular values are those of the changed rows and columns only;
the rest of the difference is zero and adds none. The rank counts singular values above a threshold: a share of the
largest, but at least what rounding the result to its stored dtype can leave behind by itself (unit roundoff times the
largest row norm plus the largest column norm of the new numbers). So a rank-1 edit stored in bf16 has rank 1.
Does not show: the exact rank when the spectrum is estimated (then it is a lower bound: a randomised range finder after
Halko, Martinsson and Tropp 2011, as in `torch.svd_lowrank`), nor a direction that is weaker than the rounding.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from scipy.sparse.linalg import ArpackError
from torch import Tensor

from workbench.comparison import CompareOptions
from workbench.comparison_rows import WITHOUT_OVERLAP
from workbench.tensor_entries import Entries, entries_of
from workbench.tensor_overlap import Overlap, overlap_of

BLOCK = 1 << 18
"""Entries that are turned into double precision at a time: few enough to stay in a core's cache."""

OVERSAMPLED = 16
"""Further directions an estimate is taken with, so that the ones kept are better."""

ESTIMATE_TOLERANCE = 1e-5
"""Singular values of an estimate below this share of the largest are single-precision noise."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a difference, largest first."""

    values: tuple[float, ...]
    """The leading ones."""
    rank: int
    """How many lie above the threshold."""
    threshold: float
    """Below it a singular value is rounding."""
    estimated: bool
    """Whether the values are a randomised estimate; then the rank is a lower bound."""


@dataclass(frozen=True)
class Change:
    """What happened to one tensor; a norm leaves out entries that are not finite on either side."""

    status: str
    """`identical`, `retyped`, `rounded` or `changed`, as in `workbench.comparison.STATUSES`."""
    entries_changed: int
    """Entries whose bytes differ (numbers, when the dtypes differ)."""
    base_norm: float
    """Frobenius norm before."""
    change_norm: float
    """Frobenius norm of after minus before."""
    largest_change: float
    """Largest absolute change of an entry."""
    rows: tuple[int, ...]
    """Rows (of a vector: entries) that hold a change."""
    columns: tuple[int, ...]
    """Columns that hold a change; of a vector none."""
    not_finite: tuple[int, int]
    """Entries before and after that are infinite or not a number."""
    spectrum: Spectrum | None
    """Of a changed matrix; None for vectors and for what did not change."""
    overlap: Overlap | None = None
    """With the base's own directions; None too where the change has none above the rounding."""
    why_no_overlap: str = ""
    """For a matrix whose change has directions that were not held against the base's."""
    entries: Entries | None = None
    """Counts of the single entries of what changed; None when the base's are all alike."""


def digest_of(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes, in the order in which they are stored."""
    return hashlib.sha256(_bytes(tensor).numpy().data).hexdigest()


def change_of(before: Tensor, after: Tensor, options: CompareOptions, device: str = "cpu") -> Change:
    """Compare two tensors of one shape; what has more than two axes is read as (first axis, all others).

    Args:
        before: the base's, any dtype, on the CPU.
        after: the checkpoint's.
        options: how the spectrum is taken.
        device: where the singular values are computed.
    """
    first, second = _as_matrix(before), _as_matrix(after)
    tally = _Tally(first, second)
    rows = tuple(torch.nonzero(tally.in_row).flatten().tolist())
    columns = tuple(torch.nonzero(tally.in_column).flatten().tolist()) if before.ndim > 1 else ()
    spectrum, overlap, why = None, None, ""
    if rows and columns:
        difference = _difference((first, second), rows, columns, options)
        spectrum = spectrum_of(difference, options, tally.rounding(after.dtype), device)
        overlap, why = _overlap(first, difference, (rows, columns), spectrum.rank, options)
    return Change(
        status=_status(before, after, tally.changed),
        entries_changed=tally.changed,
        base_norm=math.sqrt(tally.base_squares),
        change_norm=math.sqrt(tally.squares),
        largest_change=tally.largest,
        rows=rows,
        columns=columns,
        not_finite=(tally.lost_before, tally.lost_after),
        spectrum=spectrum,
        overlap=overlap,
        why_no_overlap=why,
        entries=entries_of(first, second) if tally.changed else None,
    )


def spectrum_of(difference: Tensor, options: CompareOptions, floor: float = 0.0, device: str = "cpu") -> Spectrum:
    """Singular values and numerical rank of a matrix.

    Args:
        difference: (row, column), finite.
        options: how many are kept, up to which size they are exact, and the tolerance of the rank.
        floor: singular values up to here are rounding.
        device: where to compute; on `mps`, which has no double precision, the CPU is taken.
    """
    estimated = min(difference.shape) > options.exact_below
    scale = float(difference.abs().max()) or 1.0
    scaled = (difference / scale).to("cpu" if device.startswith("mps") else device)
    values = (
        scale * (_estimated(scaled, options) if estimated else torch.linalg.svdvals(scaled.double())).cpu().double()
    )
    share = max(options.rank_tolerance, ESTIMATE_TOLERANCE) if estimated else options.rank_tolerance
    threshold = max(share * float(values[0]), floor)
    kept = tuple(values[: options.singular_values].tolist())
    return Spectrum(kept, int((values > threshold).sum()), threshold, estimated)


def _estimated(matrix: Tensor, options: CompareOptions) -> Tensor:
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(options.seed)
        count = min(options.singular_values + OVERSAMPLED, *matrix.shape)
        return torch.svd_lowrank(matrix.float(), q=count, niter=4)[1]


def _overlap(
    before: Tensor, difference: Tensor, places: tuple[tuple[int, ...], ...], rank: int, options: CompareOptions
) -> tuple[Overlap | None, str]:
    """The overlap with the base's directions, or why there is none though the change has directions."""
    if not rank or not options.base_directions:
        return None, f"{WITHOUT_OVERLAP}: base_directions=0" if rank else ""
    if min(before.shape) > options.overlap_below:
        size = " by ".join(map(str, before.shape))
        return None, f"{WITHOUT_OVERLAP}: {size} is larger than overlap_below={options.overlap_below}"
    base = torch.nan_to_num(before.double(), 0.0, 0.0, 0.0)
    try:
        return overlap_of(base.numpy(), difference.numpy(), (places[0], places[1]), rank, options), ""
    except ArpackError as error:
        return None, f"{WITHOUT_OVERLAP}: the iteration did not end ({error})"


class _Tally:
    """Sums over two matrices, block of rows by block of rows."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        rows, columns = before.shape
        self.changed = self.lost_before = self.lost_after = 0
        self.squares = self.base_squares = self.largest = 0.0
        self.in_row, self.in_column = torch.zeros(rows, dtype=torch.bool), torch.zeros(columns, dtype=torch.bool)
        self.row_squares = torch.zeros(rows, dtype=torch.float64)
        self.column_squares = torch.zeros(columns, dtype=torch.float64)
        step = max(1, BLOCK // max(1, columns))
        for start in range(0, rows, step):
            self._add(slice(start, start + step), before[start : start + step], after[start : start + step])

    def _add(self, part: slice, before: Tensor, after: Tensor) -> None:
        old = before.double()
        if before.dtype == after.dtype and torch.equal(_bytes(before), _bytes(after)):
            squares = float(old.flatten() @ old.flatten())
            if math.isfinite(squares):  # else something is not finite and has to be counted
                self.base_squares += squares
                return
        finite = torch.isfinite(old)
        self.lost_before += int((~finite).sum())
        differs = _differs(before, after)
        new = after.double()
        self.lost_after += int((~torch.isfinite(new)).sum())
        finite &= torch.isfinite(new)
        self.base_squares += float(torch.where(finite, old, 0.0).square().sum())
        change = torch.where(finite, new - old, 0.0)
        self.changed += int(differs.sum())
        self.squares += float(change.square().sum())
        self.largest = max(self.largest, float(change.abs().max()))
        self.in_row[part] = differs.any(dim=1)
        self.in_column |= differs.any(dim=0)
        written = torch.where(differs & finite, new, 0.0).square()
        self.row_squares[part] = written.sum(dim=1)
        self.column_squares += written.sum(dim=0)

    def rounding(self, dtype: torch.dtype) -> float:
        """The spectral norm that rounding the changed entries to a dtype is expected to leave in the difference.

        Rounding errors are at most the unit roundoff times the number and spread evenly, hence the root of three; the
        norm of a matrix of independent errors is about its largest row norm plus its largest column norm.
        """
        if not dtype.is_floating_point or not self.changed:
            return 0.0
        widest = math.sqrt(float(self.row_squares.max())) + math.sqrt(float(self.column_squares.max()))
        return torch.finfo(dtype).eps / 2 * widest / math.sqrt(3)


def _difference(
    pair: tuple[Tensor, Tensor], rows: tuple[int, ...], columns: tuple[int, ...], how: CompareOptions
) -> Tensor:
    """After minus before at the changed rows and columns, with 0 where it is not finite; double if small enough."""
    before, after = pair
    exact = min(len(rows), len(columns)) <= how.exact_below
    made = torch.empty(len(rows), len(columns), dtype=torch.float64 if exact else torch.float32)
    at = torch.tensor(columns)
    step = max(1, BLOCK // before.shape[1])
    for start in range(0, len(rows), step):
        here = torch.tensor(rows[start : start + step])
        change = (after[here].double() - before[here].double())[:, at]
        made[start : start + step] = torch.where(torch.isfinite(change), change, 0.0)
    return made


def _status(before: Tensor, after: Tensor, changed: int) -> str:
    if before.dtype == after.dtype:
        return "changed" if changed else "identical"
    if not changed:
        return "retyped"
    narrowed = torch.equal(_bytes(before.to(after.dtype)), _bytes(after))
    return "rounded" if narrowed else "changed"


def _differs(before: Tensor, after: Tensor) -> Tensor:
    """Which entries differ: by their bytes, or as numbers where the dtypes are not the same."""
    if before.dtype == after.dtype:
        words = _WORDS.get(before.element_size())
        return before != after if words is None else before.view(words) != after.view(words)
    old, new = before.double(), after.double()
    return (old != new) & ~(torch.isnan(old) & torch.isnan(new))


def _as_matrix(tensor: Tensor) -> Tensor:
    """(first axis, all others); a vector is one column."""
    return tensor.contiguous().reshape(tensor.shape[0] if tensor.ndim else 1, math.prod(tensor.shape[1:]))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
