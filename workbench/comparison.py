"""`Comparison`: which tensors of a checkpoint differ from its base, as a table, a sentence and pictures.

Read it as: one row a tensor (a row an expert where experts are stored fused). Relative change is the Frobenius norm of
the difference over that of the base; pooled over tensors, the root of the summed squares of each. 0 with the status
`identical` means the same bytes. Few changed columns of a down-projection stored as (d_model, d_mlp) are few value
vectors; GPT-2 and gpt-oss store them as rows.
Does not show: what the change does. A small change of weights may carry a large change of knowledge and the other way
round; rank 1 does not mean local (a rank-1 matrix can act on every input); and a model can behave differently with no
tensor changed, through its config or tokenizer. Rank and norm describe the difference of the numbers stored, packed
quantised blocks (MXFP4) included, whose numbers are codes.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from workbench.comparison_rows import COLUMNS, DIFFERENT, LATER, STATUSES, TensorRow, typed
from workbench.errors import BadInput, did_you_mean
from workbench.registry import Method
from workbench.tensor_names import MODULES

if TYPE_CHECKING:
    import plotly.graph_objects

OUTSIDE = "outside the layers"
"""Label of tensors that belong to no layer."""

VALUES = ("relative_change", "change_norm", "entries_changed", "tensors_changed")
"""What `Comparison.by` can put into its cells."""


class CompareOptions(Method):
    """How the difference of two checkpoints is described."""

    singular_values: int = Field(16, ge=1, le=512)
    """How many leading singular values of every changed matrix are kept."""
    exact_below: int = Field(1024, ge=0)
    """Largest min(changed rows, changed columns) for which the singular values are exact; above it they are a
    randomised estimate and the rank is a lower bound. 1024 by 4096 takes about two seconds on one core."""
    rank_tolerance: float = Field(1e-6, gt=0, lt=1)
    """A singular value counts towards the rank when it exceeds this share of the largest (and the rounding of the
    stored dtype)."""
    base_directions: int = Field(8, ge=0, le=64)
    """How many leading directions of the base's matrix and of its change are held against each other; 0 leaves that
    out."""
    overlap_below: int = Field(1024, ge=0)
    """Largest side min(rows, columns) of a matrix for which that is done. 1024 by 4096 takes about half a second on one
    core, 4096 by 11008 about ten."""
    seed: int = 0
    """Of the randomised estimate."""


@dataclass(frozen=True)
class Comparison:
    """The differences of a checkpoint from its base; made by `workbench.compare.compare`."""

    base: str
    """Name of the base."""
    checkpoint: str
    """Name of the checkpoint."""
    table: pd.DataFrame
    """One row a tensor or expert, columns as in `TensorRow`."""
    notes: tuple[str, ...] = ()
    """What else differs, a sentence each: config, tokenizer, tensors that only one of the two stores."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Digests of both and the options."""

    @classmethod
    def of_rows(cls, names: tuple[str, str], rows: list[TensorRow], **more: Any) -> "Comparison":
        """From rows in the order of the files."""
        table = pd.DataFrame([[getattr(row, name) for name in COLUMNS] for row in rows], columns=list(COLUMNS))
        return cls(*names, typed(table), **more)

    @property
    def changed(self) -> pd.DataFrame:
        """The rows with other numbers, most changed (relative to the base) first; what was only rounded comes last.

        A change from zero, which has no relative size, comes before all others.
        """
        found = self.table[self.table["status"].isin(DIFFERENT)]
        size = found["relative_change"].fillna(np.inf)
        order = pd.DataFrame({"rounded": found["status"] == "rounded", "size": -size})
        return found.loc[order.sort_values(["rounded", "size"], kind="stable").index]

    def summary(self) -> dict[str, Any]:
        """The comparison in numbers.

        `tensors` counts names on disk, `parameters` entries of what both store, `relative_change` is pooled over the
        whole model. The places, `experts` as (layer, expert) pairs, and `rank`, the smallest and largest, are those
        of the changed tensors, and of the rounded ones when there are no others.
        """
        shared = self.table[self.table["entries_changed"].notna()]
        by_name = self.table.groupby("tensor")["status"].agg(_worst)
        differing = self.changed
        changed = differing[differing["status"] == "changed"] if "changed" in set(differing["status"]) else differing
        ranks = changed["rank"].dropna()
        parameters, differ = int(shared["entries"].sum()), int(differing["entries_changed"].sum())
        pairs = changed.dropna(subset=["layer", "expert"])[["layer", "expert"]].drop_duplicates()
        return {
            "tensors": len(by_name),
            **{status: int((by_name == status).sum()) for status in STATUSES},
            "parameters": parameters,
            "parameters_changed": differ,
            "share_of_parameters": differ / parameters if parameters else None,
            "relative_change": pooled(shared),
            "layers": sorted({int(layer) for layer in changed["layer"].dropna()}),
            "outside_layers": list(dict.fromkeys(changed.loc[changed["layer"].isna(), "module"])),
            "modules": list(dict.fromkeys(changed["module"])),
            "experts": sorted((int(layer), int(expert)) for layer, expert in pairs.itertuples(index=False)),
            "rank": [int(ranks.min()), int(ranks.max())] if len(ranks) else None,
            "rank_is_at_least": bool(changed["rank_is_at_least"].fillna(False).astype(bool).any()),
            "not_finite": int(shared["not_finite_after"].sum()),
        }

    def sentence(self) -> str:
        """The finding in one sentence."""
        from workbench.comparison_words import sentence_of

        return sentence_of(self.summary())

    def by(self, rows: str = "layer", columns: str = "module", value: str = "relative_change") -> pd.DataFrame:
        """A table of two columns of `table` against each other; 0 where all is the same, missing where nothing is.

        Args:
            rows: column whose entries become rows, for instance `layer`.
            columns: column whose entries become columns, for instance `module`, `matrix` or `expert`.
            value: `relative_change` (pooled), `change_norm` (root of summed squares), `entries_changed` or
                `tensors_changed` (rows of `table` with other numbers).

        Raises:
            BadInput: for a column or value that does not exist.
        """
        for name, known in ((rows, COLUMNS), (columns, COLUMNS), (value, VALUES)):
            if name not in known:
                raise BadInput(f"A comparison has no {name!r} to lay out. {did_you_mean(name, known)}")
        shared = self.table[self.table["entries_changed"].notna()]
        if "expert" in (rows, columns):
            shared = shared.dropna(subset=["expert"])
        labels = [shared[name].astype(object).where(shared[name].notna(), OUTSIDE) for name in (rows, columns)]
        cells: dict[Any, dict[Any, float]] = {}
        for (row, column), group in shared.groupby(labels, sort=False):
            cells.setdefault(column, {})[row] = _cell(group, value)
        made = pd.DataFrame(cells, dtype=float)
        return made.loc[sorted(made.index, key=_place), sorted(made.columns, key=_place)]

    def plot(self) -> "plotly.graph_objects.Figure":
        """Heat maps of the relative change: layer by matrix, and layer by expert where there are experts."""
        from workbench.figures_compare import change_maps

        return change_maps(self)

    def plot_spectra(self, k: int = 8) -> "plotly.graph_objects.Figure":
        """Singular values of the change, of the k matrices that changed most."""
        from workbench.figures_compare import spectra

        return spectra(self, k)

    def _repr_html_(self) -> str:
        from workbench.comparison_words import comparison_card

        return comparison_card(self)

    # ---- on disk

    def save(self, folder: Path, page: bool = True) -> list[Path]:
        """Write comparison.html, comparison.parquet (spectra in its column `singular_values`) and comparison.json.

        Args:
            folder: where.
            page: whether to write the page, which is 5 MB and takes longer than comparing two small models.
        """
        from workbench.comparison_words import comparison_page
        from workbench.store import write_atomically, write_json

        buffer = io.BytesIO()
        self.table.to_parquet(buffer, index=False)
        words = {"base": self.base, "checkpoint": self.checkpoint, "notes": self.notes, "made_by": dict(self.made_by)}
        return [
            *([write_atomically(folder / "comparison.html", comparison_page(self).encode())] if page else []),
            write_atomically(folder / "comparison.parquet", buffer.getvalue()),
            write_json(folder / "comparison.json", {**words, "sentence": self.sentence(), "summary": self.summary()}),
        ]

    @classmethod
    def load(cls, folder: Path) -> "Comparison":
        """Read what `save` wrote.

        Raises:
            BadInput: when a file is missing or damaged.
        """
        try:
            words = json.loads((folder / "comparison.json").read_text())
            table = pd.read_parquet(folder / "comparison.parquet")
            older = [name for name in LATER if name not in table]
            table = table.assign(**dict.fromkeys(older))[list(COLUMNS)]
            return cls(words["base"], words["checkpoint"], typed(table), tuple(words["notes"]), words["made_by"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BadInput(
                f"Cannot read the comparison in {str(folder)!r}: {error}. Run `workbench verify` on the run"
            ) from None


def _worst(statuses: "pd.Series[Any]") -> str:
    """The status of a tensor of which each expert has its own."""
    found = set(statuses)
    return next(status for status in ("changed", "rounded", "retyped", *STATUSES) if status in found)


def pooled(rows: pd.DataFrame) -> float | None:
    """Root of summed squares of the change over that of the base; None when the base is zero and something changed."""
    change, base = float(np.square(rows["change_norm"]).sum()), float(np.square(rows["base_norm"]).sum())
    if not change:
        return 0.0
    return float(np.sqrt(change / base)) if base else None


def _cell(rows: pd.DataFrame, value: str) -> float:
    if value == "relative_change":
        found = pooled(rows)
        return np.nan if found is None else found
    if value == "change_norm":
        return float(np.sqrt(np.square(rows["change_norm"]).sum()))
    return float(rows["status"].isin(DIFFERENT).sum() if value == "tensors_changed" else rows["entries_changed"].sum())


def _place(label: Any) -> tuple[int, Any]:
    """Numbers in their order, then modules in theirs, then other words by the alphabet, and what lies outside last."""
    if not isinstance(label, str):
        return 0, label
    return (1, MODULES.index(label)) if label in MODULES else (3 if label == OUTSIDE else 2, label)
