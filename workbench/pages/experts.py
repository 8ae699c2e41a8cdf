"""Experts: where does the router send the tokens, before and after, and which experts write the answers?"""

from collections.abc import Mapping

import plotly.graph_objects as go
import streamlit as st

from workbench.errors import BadInput
from workbench.expert_load import NO_EXPERTS
from workbench.figures import compare_maps
from workbench.figures_click import CellAt
from workbench.figures_maps import map_figure
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.elsewhere import holding
from workbench.pages.frame.expert_routing import LOAD, SHIFT, routing_of_sets
from workbench.pages.frame.expert_tokens import ROUTING, token_by_token
from workbench.pages.frame.one_expert import one_expert
from workbench.pages.frame.picture import grid, head
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner, missing
from workbench.pages.frame.url import choose
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import one_fact

EFFECT = "expert_attribution"


def page() -> None:
    """Where tokens go, token by token, which experts write the answers, and one expert."""
    run = chosen().run
    head("Experts", "Where does the router send the tokens, and which experts write the answers?", run)
    if _dense(run):
        absent(
            "Experts",
            f"{NO_EXPERTS}: every token passes by the same weights, so there is no choice of experts to look at. "
            "The other pages show what changed inside it; for this one choose the run of a mixture as Run A",
        )
        return
    top, routing, tokens, effects = (st.container() for _ in range(4))
    with routing:
        st.subheader("Where the tokens go", anchor=False)
        router = holding(run, [LOAD, SHIFT], "shift")
    with effects:
        st.subheader("Which experts write the answers", anchor=False)
        source = holding(run, [EFFECT])
    with top:
        numbers = _numbers(run, router, source)
        expert = choose("Expert", "expert", [ALL, *numbers], lambda n: "all experts" if n == ALL else f"expert {n}")
    with routing:
        routing_of_sets(router, expert)
    with tokens:
        token_by_token(run, expert)
    with effects:
        _effects(run, source, expert)
    one_expert(run, run.traces(ROUTING), {} if source is None else source.traces(source.keys(EFFECT)[0]), expert)


def _dense(run: Opened) -> bool:
    """Whether the audit found that its checkpoint has no experts."""
    try:
        troubles = getattr(run.report, "troubles", {})
    except BadInput:
        return False
    return any(trouble.why == NO_EXPERTS for trouble in troubles.get("checkpoint", {}).values())


def _numbers(*sources: Opened | None) -> list[str]:
    """Numbers of the experts of any reading there is."""
    found: set[str] = set()
    for source in filter(None, sources):
        for key in source.keys(EFFECT, LOAD, ROUTING.partition(".")[0]):
            trace = next(iter(source.traces(key, other=False).values()), None)
            if trace is not None and "site" in trace.axes:
                found |= {str(site.index) for site in parse_sites(trace.labels["site"])}
            elif trace is not None:
                found |= set(trace.labels["expert"])
    return sorted(found, key=lambda n: (len(n), n))


def _effects(run: Opened, source: Opened | None, expert: str) -> None:
    """Before, after, difference and reference; a cell is an expert."""
    if source is None:
        missing(run, f"{EFFECT}.forget")
        return
    if source is not run:
        banner(source)
    key = source.keys(EFFECT)[0]
    traces, fact, title = source.traces(key), chosen().fact, source.words(key)
    if not traces:
        missing(source, key)
        return
    try:
        figure = _map({role: trace if fact is None else one_fact(trace, fact) for role, trace in traces.items()}, title)
    except BadInput as error:
        absent(title, str(error))
        return
    frame = CellAt(chosen().layer, expert)
    told = "Effect on the answer's logit, all facts or the chosen one. Click a cell: what is known of it stands below."
    grid(figure, key, frame if ALL not in (frame.row, frame.column) else None, _choose, told)


def _map(cut: Mapping[str, Trace], title: str) -> go.Figure:
    if "base" in cut and "checkpoint" in cut:
        return compare_maps(cut["base"], cut["checkpoint"], cut.get("reference"), title, chosen().fact is None)
    return map_figure(next(iter(cut.values())), title)


def _choose(at: CellAt) -> None:
    st.session_state["layer"], st.session_state["expert"] = at.row, at.column


if __name__ == "__main__":
    page()
