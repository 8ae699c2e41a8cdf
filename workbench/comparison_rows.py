"""`TensorRow`: all that a comparison keeps of one tensor, and how a table of them is read back.

Read it as: None is what cannot be said of this tensor, or what a comparison of an older version did not take. The
cosines are signed, but a singular vector has no sign of its own: only their sizes, and the angles of whole subspaces,
mean something.
Does not show: the vectors and the entries themselves; a run keeps their cosines and their counts.
"""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

NAMED = 64
"""Changed rows or columns are listed up to this many; above it only counted."""

STATUSES = {
    "identical": "the same bytes",
    "retyped": "the same numbers in another dtype",
    "rounded": "the base's numbers rounded to the checkpoint's dtype, nothing else",
    "changed": "other numbers",
    "only in base": "not stored in the checkpoint",
    "only in checkpoint": "not stored in the base",
}
"""Everything `TensorRow.status` can be."""

DIFFERENT = ("changed", "rounded")
"""Statuses of tensors whose numbers differ."""


@dataclass(frozen=True)
class TensorRow:
    """One row of `Comparison.table`; None is what cannot be said."""

    tensor: str
    """Name on disk."""
    layer: int | None
    """Number of the layer."""
    module: str
    """One of `workbench.tensor_names.MODULES`."""
    matrix: str
    """Name within the module, such as `q_proj`."""
    expert: int | None
    """Number of the expert."""
    shape: str
    """Sizes; of one expert where experts are stored fused."""
    entries: int
    """Number of entries."""
    status: str
    """One of `STATUSES`."""
    dtype_before: str | None = None
    """Stored dtype in the base."""
    dtype_after: str | None = None
    """Stored dtype in the checkpoint."""
    entries_changed: int | None = None
    """Entries that differ."""
    share_changed: float | None = None
    """Of all entries."""
    base_norm: float | None = None
    """Frobenius norm of the base's tensor."""
    change_norm: float | None = None
    """Frobenius norm of the difference."""
    relative_change: float | None = None
    """Change over base; None when the base is zero and changed."""
    largest_change: float | None = None
    """Largest absolute difference of one entry."""
    rows_changed: int | None = None
    """Rows with a difference; of a vector its entries."""
    columns_changed: int | None = None
    """Columns with a difference; None for a vector."""
    rows: list[int] | None = None
    """Which rows, when they are at most `NAMED`."""
    columns: list[int] | None = None
    """Which columns, when they are at most `NAMED`."""
    rank: int | None = None
    """Singular values of the difference above the threshold; None for vectors."""
    rank_is_at_least: bool | None = None
    """Whether the spectrum is estimated, so that the rank is a lower bound."""
    rank_threshold: float | None = None
    """Singular values up to here do not count."""
    stable_rank: float | None = None
    """Squared Frobenius norm over squared largest singular value."""
    top_share: float | None = None
    """Share of the squared norm in the first direction."""
    singular_values: list[float] | None = None
    """The leading ones, largest first."""
    sha256_before: str | None = None
    """Of the tensor's bytes in the base."""
    sha256_after: str | None = None
    """Of its bytes in the checkpoint; None when they are the same."""
    base_singular_values: list[float] | None = None
    """The base's own leading ones, as many as the change was held against; None where it was not."""
    left_cosines: list[float] | None = None
    """Cosine of each of the base's left singular vectors with each of the change's, both largest first: one base vector
    after the other, so that (base, change) is the shape when as many rows are cut as there are base values."""
    right_cosines: list[float] | None = None
    """The same of the right singular vectors."""
    left_overlap: float | None = None
    """Mean over the change's leading left vectors of the squared length that lies in the base's leading ones."""
    right_overlap: float | None = None
    """The same of the right ones."""
    base_std: float | None = None
    """Standard deviation of the base's entries, the unit of the counts; None when they are all alike."""
    change_counts: list[int] | None = None
    """Entries of the change by size, as `workbench.entry_bins` cuts them; None when nothing changed."""
    base_counts: list[int] | None = None
    """The base's own entries in the same bins."""
    not_finite_before: int | None = None
    """Entries of the base that are infinite or not a number; norms leave them out."""
    not_finite_after: int | None = None
    """The same of the checkpoint."""
    note: str = ""
    """What else to know."""


COLUMNS = tuple(f.name for f in fields(TensorRow))
WHOLE = (
    "layer",
    "expert",
    "entries",
    "entries_changed",
    "rows_changed",
    "columns_changed",
    "rank",
    "not_finite_before",
    "not_finite_after",
)


WITHOUT_OVERLAP = "not held against the base's directions"
"""How the note of a row begins that says why it has no overlap."""

LATER = (
    "base_singular_values",
    "left_cosines",
    "right_cosines",
    "left_overlap",
    "right_overlap",
    "base_std",
    "change_counts",
    "base_counts",
)
"""Columns that tables of older versions lack."""

LISTS = ("rows", "columns", "singular_values", "base_singular_values", "left_cosines", "right_cosines")
COUNTS = ("change_counts", "base_counts")
REALS = ("top_share", "left_overlap", "right_overlap", "base_std")


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers stay whole where some are missing; lists read from disk are lists again."""
    table = table.astype(dict.fromkeys(WHOLE, "Int64"))
    for name in (*LISTS, *COUNTS):
        lists = [None if cell is None else np.asarray(cell).tolist() for cell in table[name]]
        table[name] = pd.Series(lists, index=table.index, dtype=object)
    numbers = [name for name in COLUMNS if name.endswith(("_norm", "_change", "_threshold", "_rank", "share_changed"))]
    return table.astype(dict.fromkeys([*numbers, *REALS], float))
