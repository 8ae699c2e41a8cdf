"""The picture of `bench.tradeoff`: what is forgotten against what stays, as made and after relearning.

Read it as: the upper left corner has forgotten and kept its neighbours; a row that moves right from the first panel to
the second had only hidden it. A line joins the rows that no other row beats in both (means over seeds).
Does not show: far facts and fluency; see the table.
"""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench.tradeoff_table import Row, shown
from workbench.errors import BadInput
from workbench.figures_style import MUTED, ROLE_LOOKS, SPARE_LOOKS, Look, describes, finish, plain
from workbench.store import write_atomically

APART = (0.13, 0.018)
"""How far from each other marks must lie along x or y for both to carry their names."""

PANELS = {"forget": "as made", "relearnt": "after relearning on other forget facts"}
"""What lies along x -> the panel's title."""

LOOKS: dict[str, Look] = {
    "taught": ROLE_LOOKS["base"],
    "reference": ROLE_LOOKS["reference"],
    "weights": ROLE_LOOKS["checkpoint"],
    "guard": SPARE_LOOKS[0],
}
"""Kinds of row."""


def kind_of(row: Row) -> str:
    """Which look a row has."""
    if row.label in LOOKS:
        return row.label
    return "guard" if row.seeds[0]["kind"] == "hooks" else "weights"


def front(rows: Sequence[Row], across: str) -> list[Row]:
    """The rows that no other beats: none has at most their `across` and at least their near accuracy, and is better."""

    def beaten(row: Row) -> bool:
        mine = (row.mean(across), -row.mean("near"))
        others = ((other.mean(across), -other.mean("near")) for other in rows)
        return any(one != mine and one[0] <= mine[0] and one[1] <= mine[1] for one in others)

    return sorted((row for row in rows if not beaten(row)), key=lambda row: row.mean(across))


def named(rows: Sequence[Row], across: str, first: Sequence[Row]) -> list[Row]:
    """The rows there is room to name, `first` ones first; all have their name in the hover text."""
    kept: list[Row] = []
    for row in [*first, *(row for row in rows if row not in first)]:
        gaps = ((abs(row.mean(across) - one.mean(across)), abs(row.mean("near") - one.mean("near"))) for one in kept)
        if all(x >= APART[0] or y >= APART[1] for x, y in gaps):
            kept.append(row)
    return kept


def drawn(found: Sequence[Row]) -> go.Figure:
    """Two panels of the dense model's rows."""
    rows = [row for row in found if row.model == "dense"] or list(found)
    edits = [row for row in rows if kind_of(row) in ("weights", "guard")]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(PANELS.values()))
    for column, across in enumerate(PANELS, start=1):
        best = front(edits, across)
        figure.add_scatter(
            x=[row.mean(across) for row in best],
            y=[row.mean("near") for row in best],
            mode="lines",
            line={"color": MUTED, "dash": "dot", "width": 1},
            showlegend=False,
            hoverinfo="skip",
            row=1,
            col=column,
        )
        bare = [row for row in rows if row not in edits]
        names = {row.label for row in named(rows, across, [*best, *bare])}
        for kind, look in LOOKS.items():
            _points(figure, [row for row in rows if kind_of(row) == kind], kind, look, across, column, names)
    alt = (
        f"Forget against near accuracy of {len(edits)} edits. As made, no other row beats "
        f"{', '.join(row.label for row in front(edits, 'forget'))}."
    )
    finish(figure, "Forgotten, kept, brought back", alt, 640)
    figure.update_layout(margin={"b": 110}, legend={"y": -0.12, "yanchor": "top"})
    figure.update_xaxes(title_text="forget accuracy", range=[-0.04, 1.18], dtick=0.2)
    figure.update_yaxes(title_text="near accuracy", row=1, col=1)
    return figure.update_annotations(font={"size": 12})


def _points(
    figure: go.Figure, rows: Sequence[Row], kind: str, look: Look, across: str, column: int, names: Collection[str]
) -> None:
    """The rows of one look in one panel."""
    figure.add_scatter(
        x=[row.mean(across) for row in rows],
        y=[row.mean("near") for row in rows],
        text=[plain(row.label) if row.label in names else "" for row in rows],
        textposition="top right",
        textfont={"size": 10},
        cliponaxis=False,
        mode="markers+text",
        marker={"color": look.color, "symbol": look.marker, "size": 9},
        name=kind,
        legendgroup=kind,
        showlegend=column == 1,
        customdata=[[plain(row.label), shown(row.values(across)), shown(row.values("near"))] for row in rows],
        meta=describes(PANELS[across], kind, across, "near", ["method"]),
        hovertemplate="%{customdata[0]}<br>forget %{customdata[1]}<br>near %{customdata[2]}<extra></extra>",
        row=1,
        col=column,
    )


def photographed(page: Path, out: Path) -> Path | None:
    """The page as a PNG, when a Chromium and playwright are there; None when they are not."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium)
        try:
            view = browser.new_page(viewport={"width": 1400, "height": 680})
            view.goto(page.resolve().as_uri())
            view.wait_for_selector(".main-svg")
            content = view.screenshot()
        finally:
            browser.close()
    if not content:
        raise BadInput(f"Chromium made no picture of {str(page)!r}")
    return write_atomically(out, content)
