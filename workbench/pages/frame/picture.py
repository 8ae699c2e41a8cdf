"""The picture card: figure, caption, table of the numbers drawn, download, and a way by keyboard for every click."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from workbench.figures_click import CELLS, CellAt, clickable, clicked, clicked_id, selectable
from workbench.figures_style import alt_text, rows_of, table_of
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import verdict_of

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"], "scrollZoom": False}
"""Of every figure: no link to plotly's maker, no tools that select by area."""

ROWS = 2000
"""Rows of a table shown on the page; the download has all."""


def head(title: str, asks: str, run: Opened | None = None) -> None:
    """Title of a page, the question it answers, and whose run it is."""
    st.header(title, anchor=False)
    st.caption(asks)
    if run is None:
        return
    parts = [run.on.model or run.on.name, verdict_of(run)]
    report = run.report
    if report is not None:
        parts += [f"{report.counts.get('forget', 0)} forget facts"]
        parts += [f"{role}: {who.name} ({who.digest[:8]})" for role, who in report.roles.items()]
    st.markdown(" · ".join(safe(part) for part in parts))


def picture(figure: go.Figure, key: str, caption: str = "", name: str = "") -> None:
    """A figure with its sentence, table and download.

    Args:
        figure: made by a function of `workbench.figures*`.
        key: apart from all other pictures of the page.
        caption: one sentence on how to read it.
        name: of the downloaded file, without ending; `key` when empty.
    """
    st.plotly_chart(figure, key=f"picture {key}", theme=None, config=CONFIG, alt=alt_text(figure))
    _beneath(figure, key, caption, name or key)


def grid(
    figure: go.Figure, key: str, chosen: CellAt | None, on_cell: Callable[[CellAt], None], caption: str = ""
) -> None:
    """A heat map whose cells can be clicked; the page offers the same choice in select boxes, for the keyboard.

    Args:
        figure: a heat map of `workbench.figures_maps`.
        key: apart from all other pictures of the page.
        chosen: the cell to frame.
        on_cell: called before the page is drawn again; sets `st.session_state` of the select boxes.
        caption: one sentence on how to read it.
    """
    drawn, widget = clickable(figure, chosen, "after"), f"picture {key}"
    if rows_of(figure) > CELLS:
        caption += " So large a map takes clicks in one panel only, `after` where there is one."

    def told() -> None:
        points = _points(st.session_state.get(widget))
        at = clicked(drawn, points[-1]) if points else None
        if at is not None:
            on_cell(at)

    st.plotly_chart(
        drawn, key=widget, theme=None, config=CONFIG, alt=alt_text(drawn), on_select=told, selection_mode="points"
    )
    _beneath(drawn, key, caption, key)


def marks(figure: go.Figure, key: str, on_mark: Callable[[str], None], caption: str = "") -> None:
    """A figure whose marks can be clicked; the page offers the same choice in a select box, for the keyboard.

    Args:
        figure: series with `ids` take clicks.
        key: apart from all other pictures of the page.
        on_mark: called with the id of the clicked mark before the page is drawn again.
        caption: one sentence on how to read it.
    """
    drawn, widget = selectable(figure), f"picture {key}"

    def told() -> None:
        found = _ids(drawn, widget)
        if found:
            on_mark(found[-1])

    st.plotly_chart(
        drawn, key=widget, theme=None, config=CONFIG, alt=alt_text(drawn), on_select=told, selection_mode="points"
    )
    _beneath(drawn, key, caption, key)


def many_marks(figure: go.Figure, key: str, on_marks: Callable[[list[str]], None], caption: str = "") -> None:
    """The same where several marks are chosen together, by clicks with shift or in a box.

    Args:
        figure: series with `ids` take clicks.
        key: apart from all other pictures of the page.
        on_marks: called with the ids of all chosen marks, none when the choice was taken back.
        caption: one sentence on how to read it.
    """
    widget = f"picture {key}"
    st.plotly_chart(
        figure,
        key=widget,
        theme=None,
        config=CONFIG | {"modeBarButtonsToRemove": ["lasso2d"]},
        alt=alt_text(figure),
        on_select=lambda: on_marks(_ids(figure, widget)),
        selection_mode=("points", "box"),
    )
    _beneath(figure, key, caption, key)


def _ids(figure: go.Figure, widget: str) -> list[str]:
    """What the chosen marks stand for."""
    found = (clicked_id(figure, point) for point in _points(st.session_state.get(widget)))
    return [one for one in found if one is not None]


def _points(event: Any) -> Sequence[Any]:
    """The points of a selection; a page under test gets a plain dict."""
    return list(((event or {}).get("selection") or {}).get("points") or ())


def _beneath(figure: go.Figure, key: str, caption: str, name: str) -> None:
    """What stands under every picture; the table is made only when it is opened or downloaded."""
    if caption:
        st.caption(caption)
    rows, alt = rows_of(figure), alt_text(figure)
    with st.container(horizontal=True, vertical_alignment="top"):
        # Closed it costs nothing: the table and the code that draws tables are sent when it is opened.
        inside = st.expander(
            f"In words and numbers ({rows} rows)", key=f"numbers {key}", on_change="rerun", width="stretch"
        )
        if inside.open:
            with inside:
                st.text(alt)
                if rows > ROWS:
                    st.caption(f"The first {ROWS} rows; the download has all {rows}.")
                st.dataframe(table_of(figure).head(ROWS), hide_index=True, alt=f"The numbers drawn. {alt}"[:500])
        _button(partial(_drawn, figure), key, name)


def download(table: pd.DataFrame, key: str, name: str) -> None:
    """A button that gives the table as CSV, in full precision."""
    _button(partial(_csv, table), key, name)


def _button(content: Callable[[], bytes], key: str, name: str) -> None:
    """The content is made when the button is pressed."""
    st.download_button(
        "Download CSV",
        content,
        file_name=f"{name}.csv".replace(" ", "_").replace("/", "_"),
        mime="text/csv",
        key=f"download {key}",
        on_click="ignore",
    )


def _drawn(figure: go.Figure) -> bytes:
    return _csv(table_of(figure))


def _csv(table: pd.DataFrame) -> bytes:
    """With a byte-order mark, so that spreadsheets read it as UTF-8; a missing number is an empty field."""
    buffer = io.StringIO()
    _harmless(table).to_csv(buffer, index=False)
    return buffer.getvalue().encode("utf-8-sig")


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    made = table.copy()
    for column in made.columns:
        if made[column].dtype == object or str(made[column].dtype) == "str":
            made[column] = [
                f"'{value}"
                if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") and not _is_number(value)
                else value
                for value in made[column]
            ]
    return made


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
