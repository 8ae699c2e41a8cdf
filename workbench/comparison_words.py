"""A `Comparison` in words: its sentence, its table of the most changed tensors, its card and its page.

Read it as: every number stands in `Comparison.table` too; the page is one file that opens offline.
Does not show: tensors below the cut of the table; it says how many there are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from workbench.comparison import Comparison
from workbench.comparison_rows import STATUSES
from workbench.figures_style import alt_text, number
from workbench.templating import render

FEW = 6
"""Experts or places that a sentence names; above it counts them."""

PAGE_ROWS = 50
CARD_ROWS = 5

MOST_CHANGED = ("tensor", "expert", "entries changed", "relative", "norm", "rows", "columns", "rank", "first direction")
"""Headings of the rows of `most_changed`."""


def sentence_of(summary: Mapping[str, Any]) -> str:
    """What differs, how much of the model that is, where, and of which rank."""
    tensors, differ, rounded = summary["tensors"], summary["changed"], summary["rounded"]
    alone = [
        f"{summary[status]} {'is' if summary[status] == 1 else 'are'} {status}"
        for status in ("only in base", "only in checkpoint")
        if summary[status]
    ]
    if not differ and not rounded:
        same = f"No tensor differs: {_count(summary['identical'], 'tensor')} hold the same bytes"
        retyped = f", {summary['retyped']} the same numbers in another dtype" if summary["retyped"] else ""
        return "; ".join([same + retyped, *alone])
    if not differ:
        return "; ".join([f"{rounded} of {_count(tensors, 'tensor')} are the base's rounded to another dtype", *alone])
    told = f"{differ} of {_count(tensors, 'tensor')} {'differs' if differ == 1 else 'differ'}"
    if rounded:
        told += " by more than rounding"
        alone.append(f"{rounded} more {'is' if rounded == 1 else 'are'} the base's rounded to another dtype")
    else:
        told += f", {percent(summary['share_of_parameters'])} of parameters"
    return "; ".join([f"{told}, {_where(summary)}", *([_rank(summary)] if summary["rank"] else []), *alone])


def percent(share: float | None) -> str:
    """A share in per cent; never 0% or 100% of what is not none or all."""
    if share is None:
        return "not measured"
    if 0 < share < 1e-5:
        return "under 0.001%"
    text = f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.1f}".removesuffix(".0")
    return "over 99.9%" if text == "100" and share < 1 else f"{text}%"


def ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    runs: list[list[int]] = []
    for value in sorted(numbers):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def rank_words(rank: Any, at_least: Any) -> str | None:
    """A rank, or that it is a lower bound; None where there is none."""
    if pd.isna(rank):
        return None
    return f"at least {int(rank)}" if at_least is not None and not pd.isna(at_least) and at_least else str(int(rank))


def most_changed(comparison: Comparison, k: int) -> list[tuple[Any, ...]]:
    """The k most changed rows, one tuple as in `MOST_CHANGED` each; None is what cannot be said."""
    return [
        (
            row["tensor"],
            _whole(row["expert"]),
            percent(row["share_changed"]),
            _real(row["relative_change"]),
            _real(row["change_norm"]),
            _whole(row["rows_changed"]),
            _whole(row["columns_changed"]),
            rank_words(row["rank"], row["rank_is_at_least"]),
            None if pd.isna(row["top_share"]) else percent(row["top_share"]),
        )
        for row in comparison.changed.head(k).to_dict("records")
    ]


def comparison_card(comparison: Comparison) -> str:
    """A short HTML card for a notebook."""
    return render("comparison_card.html", _view(comparison, CARD_ROWS))


def comparison_page(comparison: Comparison) -> str:
    """The whole comparison as one HTML file with its pictures."""
    from plotly.offline import get_plotlyjs

    from workbench.report import report_style

    pictures = [comparison.plot(), comparison.plot_spectra()] if len(comparison.changed) else []
    return render(
        "comparison.html",
        {
            **_view(comparison, PAGE_ROWS),
            "style": report_style(),
            "plotly": Markup(get_plotlyjs()) if pictures else "",
            "pictures": [_picture(figure) for figure in pictures],
            "statuses": STATUSES,
            "made_by": {name: str(value) for name, value in comparison.made_by.items()},
        },
    )


def _view(comparison: Comparison, k: int) -> dict[str, Any]:
    rows = most_changed(comparison, k)
    return {
        "base": comparison.base,
        "checkpoint": comparison.checkpoint,
        "sentence": comparison.sentence(),
        "relative": number(comparison.summary()["relative_change"]),
        "notes": comparison.notes,
        "columns": MOST_CHANGED,
        "rows": [
            ["—" if cell is None else number(cell) if isinstance(cell, float) else cell for cell in row] for row in rows
        ],
        "more": len(comparison.changed) - len(rows),
    }


def _picture(figure: Any) -> dict[str, Any]:
    # Labels were escaped for plotly when the figure was made, and `to_html` escapes what could end the script element.
    html = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return {"html": Markup(html), "alt": alt_text(figure)}


def _where(summary: Mapping[str, Any]) -> str:
    layers, experts = summary["layers"], sorted({expert for _, expert in summary["experts"]})
    outside = list(summary["outside_layers"])
    places = [f"{'layer' if len(layers) == 1 else 'layers'} {ranges(layers)}"] if layers else []
    places += [" and ".join(outside[:FEW])] if outside else []
    told = f"{'all ' if len(places) == 1 else ''}in {' and in '.join(places)}"
    if not experts:
        return told
    if len(experts) > FEW:
        return f"{told}, {len(summary['experts'])} experts"
    return f"{told}, {'expert' if len(experts) == 1 else 'experts'} {ranges(experts)}"


def _rank(summary: Mapping[str, Any]) -> str:
    low, high = summary["rank"]
    least = "at least " if summary["rank_is_at_least"] else ""
    told = f"rank {least}{low}" if low == high else f"rank {low} to {least}{high}"
    return f"{told} (not above what rounding leaves)" if high == 0 else told


def _count(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _real(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
