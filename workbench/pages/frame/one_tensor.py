"""One changed tensor on the page Weights: its change beside the base's directions, and its single entries."""

from typing import Any

import pandas as pd

from workbench.comparison import Comparison
from workbench.figures_compare import short_name
from workbench.figures_entries import entries_histogram
from workbench.figures_overlap import angle_map, overlap_lines, why_no_overlap
from workbench.pages.frame.picture import picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.pages.frame.url import choose

MOST = "most"
"""The choice that stays when another cell is chosen."""

OVERLAP, ENTRIES = "Change against the base's own directions", "Single entries of the change"


def one_tensor(comparison: Comparison, changed: pd.DataFrame, source: Opened) -> None:
    """The pictures of one tensor, chosen among those of the cell.

    Args:
        comparison: all of it.
        changed: the changed tensors of the chosen cell, at least one.
        source: the run that holds it.
    """
    if comparison.made_by.get("base_directions") is None:
        absent(
            f"{OVERLAP}; {ENTRIES.lower()}",
            "an older version of the workbench made this and took neither",
            source.again,
        )
        return
    rows = {_key(row): row for row in changed.to_dict("records")}
    first = next(iter(rows))
    chosen = choose(
        "Tensor",
        "tensor",
        [MOST, *rows],
        lambda key: f"most changed: {short_name(rows[first])}" if key == MOST else short_name(rows[key]),
        "Of the chosen cell, most changed first.",
    )
    row = rows[first if chosen == MOST else chosen]
    if why := why_no_overlap(row):
        absent(OVERLAP, why)
    else:
        picture(overlap_lines(row), "overlap", _overlap_words(row))
        picture(angle_map(row), "angles", "Bright: this direction of the change is one of the base's.")
    if row["change_counts"] is None:
        absent(ENTRIES, "the base's entries are all alike, so that there is no standard deviation to count in")
    else:
        picture(
            entries_histogram(row),
            "entries",
            "Both axes are logarithmic; the bar at 0 holds the entries that did not change.",
        )


def _key(row: dict[Any, Any]) -> str:
    return str(row["tensor"]) if pd.isna(row["expert"]) else f"{row['tensor']} expert {row['expert']}"


def _overlap_words(row: dict[Any, Any]) -> str:
    r = len(row["base_singular_values"])
    return (
        f"At 1 a direction of the change lies wholly in the base's {r} leading ones. Broken lines: random directions, "
        "on average (first panel) and at their largest in 95 of 100 draws (second). Left: of most architectures what "
        "the matrix writes; right: what it reads."
    )
