"""Concept vectors: what is left of the value vectors that spelled the answers?"""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.figures import compare_ranked, figure_of
from workbench.figures_style import number
from workbench.figures_vectors import vector_scatter
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import choose, pick
from workbench.report_pictures import picture_of
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.vector_moves import ids_at, moves, ranks, spells

KEY = "concept_vectors"
LENGTHS = (10, 20, 50)


def page() -> None:
    """Every vector against the base's, and one of them token by token."""
    run = chosen().run
    head("Concept vectors", "Do the value vectors that spelled the answers still stand?", run)
    key = one_reading(run, KEY)
    if key is None:
        return
    traces = run.traces(key)
    if "base" not in traces or len(traces) < 2 or any("top_ids" not in trace.notes for trace in traces.values()):
        _ranking(run, key, traces)
        return
    base = traces["base"]
    longest = max((len(ids_at(base, site)) for site in base.labels["site"]), default=0)
    k = int(pick("Top tokens", "k", [str(k) for k in sorted({*LENGTHS, longest}) if 0 < k <= longest] or ["0"]))
    moved = {role: moves(base, trace, k) for role, trace in traces.items() if role != "base"}
    picture(
        vector_scatter(moved, k), key, "The base's vector is at 1, 1. The reference is how far training anew moves."
    )
    _vectors(moved)
    drawn = picture_of(key, traces)
    if drawn.figure is not None:
        picture(drawn.figure, "shared", f"All {longest} top tokens kept in the run.")
    _one(traces, moved, k)


def _ranking(run: Opened, key: str, traces: Mapping[str, Trace]) -> None:
    """A run of one model: its strongest vectors."""
    if not traces:
        missing(run, key)
        return
    single = len(traces) == 1
    figure = figure_of(next(iter(traces.values()))) if single else compare_ranked(traces)
    picture(figure, key, "The vectors that push the answers most; with an audit they are compared with the base's.")
    absent("Vectors before and after", "this run holds no snapshot of the base's vectors beside the checkpoint's")


def _vectors(moved: Mapping[str, pd.DataFrame]) -> None:
    """The table of vectors; a click chooses one."""
    table = pd.concat([found.assign(role=role) for role, found in moved.items()], ignore_index=True)
    layer = chosen().layer
    if layer != ALL:
        at = {str(site): str(site.layer) for site in parse_sites(tuple(dict.fromkeys(table["vector"])))}
        table = table[table["vector"].map(at) == layer].reset_index(drop=True)
    if table.empty:
        st.info(f"No vector of these lies in layer {safe(layer)}.")
        return

    def told() -> None:
        rows = ((st.session_state.get("vectors") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["vector"] = str(table["vector"].iloc[rows[0]])

    st.dataframe(
        table[["role", "vector", "Jaccard", "cosine", "length after / before"]],
        hide_index=True,
        height=280,
        key="vectors",
        on_select=told,
        selection_mode="single-row",
        alt=f"{len(table)} vectors with Jaccard index, cosine and length.",
    )
    st.caption("Most changed first. Click a row, or choose a vector below, for its tokens.")
    download(table, "vectors", "vectors")


def _one(traces: Mapping[str, Trace], moved: Mapping[str, pd.DataFrame], k: int) -> None:
    """One vector: three numbers, and its top tokens before and after."""
    site = choose("Vector", "vector", list(traces["base"].labels["site"]))
    st.subheader(safe(site), anchor=False)
    for column, (role, table) in zip(st.columns(max(2, len(moved))), moved.items(), strict=False):
        row = table[table["vector"] == site]
        if row.empty:
            continue
        column.metric(f"{safe(role)}: Jaccard", number(float(row["Jaccard"].iloc[0])))
        told = [f"{name} {number(float(row[name].iloc[0]))}" for name in ("cosine", "length after / before")]
        column.caption(safe(", ".join(told)))
        shown = ranks(traces["base"], traces[role], site, k)
        column.dataframe(shown, hide_index=True, height=300, alt=f"Top tokens of {site} in the base and {role}.")
    if not all(spells(trace) for trace in traces.values()):
        absent("The words of these tokens", "this run was made before runs kept them; audit again to have them")


if __name__ == "__main__":
    page()
