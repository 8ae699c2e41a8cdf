"""Causal trace: putting which state back restores the answer, before and after."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.figures import compare_layers
from workbench.figures_click import CellAt
from workbench.figures_maps import compare_maps, map_figure, upright
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.trace_cell import cell_moves, fact_copies, noise_note, window_note
from workbench.pages.frame.url import choose, pick
from workbench.sites import LAYER_PARTS
from workbench.trace import Trace
from workbench.trace_cuts import by_layer, fact_number, layer_name, one_fact, only_part, parts_of
from workbench.trace_moves import ceiling_of

KEY = "causal_trace"


def page() -> None:
    """The map of one kind of state, the chosen cell, and the curve over layers."""
    run = chosen().run
    head("Causal trace", "The subject is corrupted; putting which inner state back restores the answer?", run)
    key = one_reading(run, KEY)
    if key is None:
        return
    traces = {role: trace for role, trace in run.traces(key).items() if "site" in trace.axes}
    if not traces:
        missing(run, key)
        return
    first = next(iter(traces.values()))
    across = next(axis for axis in first.axes if axis not in ("site", "fact", "seed"))
    left, right = st.columns(2)
    with left:
        kind = pick("State", "kind", parts_of(first), lambda part: part)
    with right:
        column = choose("Token", "tok", [ALL, *first.labels[across]], lambda t: "all tokens" if t == ALL else t)
    st.caption(safe(f"{kind}: {LAYER_PARTS.get(kind, kind)}. {window_note(first, kind)}"))
    st.caption(safe(noise_note(traces)))
    _map(run, key, {role: only_part(trace, kind) for role, trace in traces.items()}, column)
    _cell(traces, (kind, across, column))
    _curve(traces, (kind, across, column))


def _map(run: Opened, key: str, cut: Mapping[str, Trace], column: str) -> None:
    """The clickable maps: base, checkpoint, difference and reference; then Run B against the checkpoint."""
    fact, title = chosen().fact, run.words(key)
    if fact is not None:
        try:
            cut = {role: one_fact(trace, fact) for role, trace in cut.items()}
        except BadInput as error:
            absent(title, str(error))
            return
        title = f"{title}, fact {fact}"
    frame = CellAt(chosen().layer, column) if ALL not in (chosen().layer, column) else None
    told = "Click a cell, or choose Layer (at the left) and Token (above), for what is in it."
    if fact is not None:
        told += " One fact has no interval, so nothing is known of its noise and no cell is grey."
    if "base" in cut and "checkpoint" in cut:
        figure = compare_maps(cut["base"], cut["checkpoint"], cut.get("reference"), title, greyed=fact is None)
    else:
        role = next(iter(cut))
        figure = map_figure(cut[role], f"{title}: {role}")
        for lost in ("base", "checkpoint"):
            if lost not in cut and run.on.is_audit:
                absent(f"{title}: {lost}", run.why_missing(key))
    grid(upright(figure), key, frame, _choose, told)
    other = run.name_of_other
    if other in cut and "checkpoint" in cut:
        figure = compare_maps(cut["checkpoint"], cut[other], None, f"{title}: run A, then run B", greyed=fact is None)
        grid(
            upright(figure),
            f"{key} run B",
            frame,
            _choose,
            "Before is the checkpoint of Run A, after that of Run B.",
        )


def _choose(at: CellAt) -> None:
    """What a click does: the same as the two boxes."""
    st.session_state["layer"], st.session_state["tok"] = at.row, at.column


def _cell(traces: Mapping[str, Trace], place: tuple[str, str, str]) -> None:
    """Every fact's numbers in the chosen cell."""
    kind, across, column = place
    layer = chosen().layer
    if ALL in (layer, column):
        return
    found = {}
    for role, trace in traces.items():
        there = by_layer(trace, kind)
        label = next((text for text in there.labels["layer"] if layer_name(text) == layer), None)
        if label is not None and column in there.labels[across]:
            found[role] = there.pick("layer", label).pick(across, column)
    st.subheader(f"Layer {safe(layer)}, {safe(column)}", anchor=False)
    if not found:
        absent(f"{kind} at layer {layer}", "the trace does not hold it")
        return
    table = pd.concat([_facts(role, trace) for role, trace in found.items()], ignore_index=True)
    fact = chosen().fact
    if fact is not None:
        table = table[table["fact"].map(fact_number) == fact]
    st.dataframe(
        table, hide_index=True, height=min(260, 38 + 35 * len(table)), alt=f"Facts at layer {layer}, {column}."
    )
    st.caption("Restored is corrupted plus effect: the answer's score with this state put back.")
    download(table, "cell", f"cell {kind} layer {layer} {column}")
    cell_moves(found, f"{kind}, layer {layer}, {column}")
    if fact is not None:
        fact_copies(traces, (kind, layer, column), fact)


def _facts(role: str, trace: Trace) -> pd.DataFrame:
    """One row a fact (and seed), with the score it had before and after corruption."""
    rows = (
        trace.to_frame().rename(columns={"value": "effect"}) if trace.axes else pd.DataFrame({"effect": [trace.values]})
    )
    rows.insert(0, "role", role)
    for name in ("clean", "corrupted"):
        scores = trace.notes.get(name)
        if isinstance(scores, list) and "fact" in trace.axes and len(scores) == len(trace.labels["fact"]):
            by_fact = dict(zip(trace.labels["fact"], scores, strict=True))
            rows[name] = [by_fact[fact] for fact in rows["fact"]]
    if "corrupted" in rows:
        effect = np.asarray(rows["effect"], dtype=float) * ceiling_of(trace.notes)
        rows["restored"] = np.asarray(rows["corrupted"], dtype=float) + effect
    return rows


def _curve(traces: Mapping[str, Trace], place: tuple[str, str, str]) -> None:
    """Mean effect by layer, at the chosen token or the last token of the subject."""
    kind, across, column = place
    names = next(iter(traces.values())).labels[across]
    at = column if column != ALL else next((name for name in names if "last subject" in name), names[0])
    by_role = {
        role: by_layer(trace, kind).pick(across, at) for role, trace in traces.items() if at in trace.labels[across]
    }
    units = next(iter(by_role.values())).units
    picture(compare_layers(by_role, f"{kind} at {at}", units, None), "curve", "Mean and 95% band over facts.")


if __name__ == "__main__":
    page()
