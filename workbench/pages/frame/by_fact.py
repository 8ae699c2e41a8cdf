"""The facts behind a curve, the one that shows most first; a click on a row chooses the fact and its layer."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import streamlit as st

from workbench.figures import compare_layers
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, picture
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, layer_name, one_fact

HEIGHT = 300

Most = Literal["high", "low", "below the reference"]
"""Which number tells of the most knowledge left: the highest, the lowest, or the one furthest below the reference's
(the lowest where there is no reference)."""


def facts_by_layer(key: str, traces: Mapping[str, Trace], units: str, most: Most = "high") -> None:
    """The table of facts at the chosen layer, and the curve of the chosen fact.

    Args:
        key: apart from all other tables of the page.
        traces: role -> trace with the axes layer and fact (and seed).
        units: what the numbers are.
        most: which number tells of the most knowledge left.
    """
    known = {role: _mean(trace) for role, trace in traces.items() if "fact" in trace.axes and role != "never taught"}
    if "checkpoint" not in known:
        return
    layer = chosen().layer
    table = facts_table(known, None if layer == ALL else layer, most)
    where = "at the layer that shows most" if layer == ALL else f"at layer {layer}"
    st.subheader(f"Every fact {safe(where)}", anchor=False)
    if table.empty:
        st.info(f"Nothing was read at layer {safe(layer)}.")
        return

    def told() -> None:
        rows = ((st.session_state.get(f"facts {key}") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["item"] = fact_number(str(table["fact"].iloc[rows[0]]))
            st.session_state["layer"] = str(table["layer"].iloc[rows[0]])

    st.dataframe(
        table,
        hide_index=True,
        height=HEIGHT,
        key=f"facts {key}",
        on_select=told,
        selection_mode="single-row",
        alt=f"{len(table)} facts {where}.",
    )
    st.caption(f"{safe(units)}; what shows most of it left comes first. Click a row to look at that fact and layer.")
    download(table, f"facts {key}", f"{key} facts {layer}")
    _curve(known, units, key)


def facts_table(known: Mapping[str, Trace], layer: str | None, most: Most = "high") -> pd.DataFrame:
    """A row a fact: every role's number at one layer, or at the layer where the checkpoint shows most of that fact.

    Args:
        known: role -> trace with axes (layer, fact), `checkpoint` among them.
        layer: the layer; None for the best of each fact.
        most: which number is the best.
    """
    own = known["checkpoint"]
    names = [layer_name(label) for label in own.labels["layer"]]
    grid = _grid(own)
    if layer is not None and layer not in names:
        return pd.DataFrame()
    seen = _left(known, grid, most)
    at = seen.argmax(axis=0) if layer is None else np.full(grid.shape[1], names.index(layer))
    table = pd.DataFrame({"fact": own.labels["fact"], "layer": [names[i] for i in at]})
    for role, trace in known.items():
        facts = {label: j for j, label in enumerate(trace.labels["fact"])}
        here, there = _grid(trace), [layer_name(label) for label in trace.labels["layer"]]
        table[role] = [
            here[there.index(name), facts[fact]] if name in there and fact in facts else np.nan
            for fact, name in zip(table["fact"], table["layer"], strict=True)
        ]
    left = seen[at, np.arange(len(at))]
    order = pd.DataFrame({"left": -left, "other": table.get("reference", 0.0)}).sort_values(["left", "other"]).index
    return table.loc[order].reset_index(drop=True)


def _left(known: Mapping[str, Trace], grid: np.ndarray, most: Most) -> np.ndarray:
    """What is left as (layer, fact), more is more; minus infinity where nothing was read."""
    reference = known.get("reference")
    alike = reference is not None and reference.labels == known["checkpoint"].labels
    if most == "below the reference" and reference is not None and alike:
        left = _grid(reference) - grid
    else:
        left = grid if most == "high" else -grid
    return np.where(np.isfinite(left), left, -np.inf)


def _mean(trace: Trace) -> Trace:
    return trace.mean("seed") if "seed" in trace.axes else trace


def _grid(trace: Trace) -> np.ndarray:
    return np.asarray(np.moveaxis(trace.values, trace.axis("layer"), 0), dtype=float)


def _curve(known: Mapping[str, Trace], units: str, key: str) -> None:
    """The chosen fact by layer."""
    fact = chosen().fact
    label = next((text for text in known["checkpoint"].labels["fact"] if fact_number(text) == fact), None)
    if fact is None or label is None:
        st.caption("Choose Item at the left, or click a row, for the curve of one fact.")
        return
    there = {
        role: one_fact(trace, fact)
        for role, trace in known.items()
        if any(fact_number(text) == fact for text in trace.labels["fact"])
    }
    st.text(label)
    picture(
        compare_layers(there, f"Fact {fact}", units, None), f"fact {key}", "One fact: a single reading has no interval."
    )
