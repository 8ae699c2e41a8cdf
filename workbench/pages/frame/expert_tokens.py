"""Token by expert over one fact: to which experts each model sends every token at one layer."""

from collections.abc import Mapping

import streamlit as st

from workbench.errors import BadInput
from workbench.expert_tokens import RoutingGrid, layers_read, moved, routing_grid
from workbench.figures_click import CellAt
from workbench.figures_experts import routing_figure
from workbench.figures_tokens import visible_lines
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.fact_read import fact_read
from workbench.pages.frame.picture import grid
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.trace import Trace

ROUTING = "token_routing.forget"
"""The reading."""

ALONE = "workbench look token_routing CHECKPOINT --concept CONCEPT"


def token_by_token(run: Opened, expert: str) -> None:
    """The chosen fact (the first that was read, where none is chosen) at the chosen layer.

    Args:
        run: Run A.
        expert: number of the chosen expert, or `all`.
    """
    st.subheader("Token by token", anchor=False)
    traces = run.traces(ROUTING)
    if not traces:
        absent("Token by expert", run.why_not_shown(ROUTING), run.again if run.on.is_audit else ALONE)
        return
    first = next(iter(traces.values()))
    read = fact_read(run, first, "Routing")
    if read is None:
        return
    number, fact = read
    try:
        layer = _layer(traces, fact)
        grids = _grids(traces, fact, layer)
    except BadInput as error:
        absent("Token by expert", str(error))
        return
    if chosen().fact is None:
        st.caption("No item is chosen: this is the first that was read. Choose Item at the left for another.")
    at = first.labels["fact"].index(fact)
    st.text(visible_lines(f"{first.notes['prompt'][at]} → {first.notes['answer'][at]}"))
    if chosen().layer == ALL:
        st.caption(f"No layer is chosen: this is layer {safe(layer)}, where most choices of this fact were given up.")

    def told(cell: CellAt) -> None:
        st.session_state["layer"], st.session_state["expert"] = layer, cell.column

    figure = routing_figure(grids, f"Routing of fact {number} at layer {layer}", "" if expert == ALL else expert)
    caption = (
        "The dots mark the experts a token is sent to; ▲ chosen only after, ▼ only before; below the dashed line is "
        "the answer. Of one text no noise is known. Click a cell, or choose Layer (at the left) and Expert (above)."
    )
    grid(figure, "tokens", None, told, caption)


def _layer(traces: Mapping[str, Trace], fact: str) -> str:
    """The chosen layer, or else the one at which the checkpoint gave up most of the base's choices for the fact."""
    if chosen().layer != ALL:
        return chosen().layer
    layers = layers_read(next(iter(traces.values())))
    if not {"base", "checkpoint"} <= set(traces):
        return layers[0]
    counts = [moved(*_grids({r: traces[r] for r in ("base", "checkpoint")}, fact, one).values()) or 0 for one in layers]
    return layers[counts.index(max(counts))]


def _grids(traces: Mapping[str, Trace], fact: str, layer: str) -> dict[str, RoutingGrid]:
    return {role: routing_grid(t, fact, layer) for role, t in traces.items() if fact in t.labels["fact"]}
