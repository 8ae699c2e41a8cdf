"""Items: which facts were lost, kept or gained, and everything that was read on one of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from workbench.askings import WORDINGS, parent_of
from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_items import QUADRANTS, discordance, quadrants_of
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.one_item import CONTROLS, FIRST, one_item
from workbench.pages.frame.picture import download, grid, head
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import choose
from workbench.report_pictures import Key, with_controls
from workbench.trace import Trace
from workbench.trace_cuts import fact_number

PROBABILITY = "answer_probability"


def page() -> None:
    """The four quadrants, the items in the chosen one, and the chosen item."""
    run = chosen().run
    head("Items", "Which facts did it lose, and what is left of each?", run)
    keys = sorted(run.keys("accuracy"), key=lambda key: (key != FIRST, key))
    if not keys:
        missing(run, FIRST)
        return
    key = choose("Slice", "slice", keys, run.words)
    traces = {role: trace for role, trace in with_controls(key, run.traces(key)).items() if role not in CONTROLS}
    if "base" in traces and "checkpoint" in traces:
        quad = _quadrants(run, key, traces)
    else:
        absent("Right and wrong before and after", "only one model was read", run.on.command)
        quad = None
    numbers = _table(run, key, traces, quad)
    if Key.parse(key).on in ("forget", *WORDINGS):
        one_item(run, numbers)


def _quadrants(run: Opened, key: str, traces: Mapping[str, Trace]) -> np.ndarray | None:
    """The clickable counts; returns which items are in the chosen quadrant."""
    try:
        found = quadrants_of(traces["base"], traces["checkpoint"])
    except BadInput as error:
        absent(run.words(key), str(error))
        return None
    quad = choose("Quadrant", "quad", [ALL, *QUADRANTS], lambda q: "all items" if q == ALL else _words(q))
    figure = discordance(traces["base"], traces["checkpoint"], run.words(key))
    grid(figure, "discordance", None, _choose, "Click a quadrant, or choose it above.")  # a frame would hide the count
    return np.full(found.shape, True) if quad == ALL else found == quad


def _words(quad: str) -> str:
    return f"{quad}: {QUADRANTS[quad][0]}, {QUADRANTS[quad][1]}"


def _choose(at: CellAt) -> None:
    st.session_state["quad"] = next(name for name, place in QUADRANTS.items() if place == (at.row, at.column))


def _table(run: Opened, key: str, traces: Mapping[str, Trace], quad: np.ndarray | None) -> list[str]:
    """Every item of the quadrant, a row; a click chooses it. Returns the facts they are of, by number."""
    first = next(iter(traces.values()))
    labels = first.labels["fact"]
    table = pd.DataFrame({"item": labels})
    for role, trace in traces.items():
        table[f"{role}: right"] = _numbers(trace, labels)
    likely = key.replace("accuracy", PROBABILITY, 1)
    for role, trace in run.traces(likely).items():
        table[f"{role}: probability"] = _numbers(trace, labels)
    table = table if quad is None else table[quad]
    if table.empty:
        st.info("No item is in this quadrant.")
        return []
    names = [_fact_of(key, first, label) for label in table["item"]]

    def told() -> None:
        rows = ((st.session_state.get("items") or {}).get("selection") or {}).get("rows") or ()
        if rows and names[rows[0]]:
            st.session_state["item"] = names[rows[0]]

    st.dataframe(
        table,
        hide_index=True,
        key="items",
        on_select=told,
        selection_mode="single-row",
        height=min(420, 38 + 35 * len(table)),
        column_config={c: st.column_config.NumberColumn(format="%.3f") for c in table.columns if "probability" in c},
        alt=f"{len(table)} items, right or wrong for each model.",
    )
    st.caption(f"{len(table)} items. Click a row, or choose Item at the left, for all that was read on it.")
    download(table, "items", f"items {key}")
    return list(dict.fromkeys(name for name in names if name))


def _fact_of(key: str, trace: Trace, label: str) -> str:
    """Number of the forget fact a row is about; empty where it is about another fact, or the run does not tell."""
    on = Key.parse(key).on
    parent = parent_of(trace, label) if on in WORDINGS else label if on == "forget" else None
    return "" if parent is None else fact_number(parent)


def _numbers(trace: Trace, labels: Sequence[str]) -> list[float]:
    """One number an item, in the order of the labels; NaN where the trace has no such item."""
    trace = trace.mean("seed") if "seed" in trace.axes else trace
    known = dict(zip(trace.labels["fact"], map(float, trace.values), strict=True)) if trace.axes == ("fact",) else {}
    return [known.get(label, float("nan")) for label in labels]


if __name__ == "__main__":
    page()
