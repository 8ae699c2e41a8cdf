"""Experts: which experts push the answers, before and after, and where does the router send the same tokens now?"""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.expert_load import entropies, loads_of
from workbench.figures import compare_layers
from workbench.figures_click import CellAt
from workbench.figures_maps import compare_maps, map_figure
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.elsewhere import holding
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner, missing
from workbench.pages.frame.url import choose, pick
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, layer_name, named_layers, one_fact

EFFECT, SHIFT = "expert_attribution", "expert_shift"
ROLE_OF = {"before": "base", "after": "checkpoint"}
EVEN = "evenness of the load, 1 is even"


def page() -> None:
    """The map of experts with the chosen one, then the shift of the router."""
    run = chosen().run
    head("Experts", "Which experts write the answers, and are tokens sent elsewhere now?", run)
    source = holding(run, [EFFECT])
    if source is None:
        missing(run, f"{EFFECT}.forget")
        st.caption("Only models with experts (mixture-of-experts layers) have this reading.")
    else:
        _effects(run, source)
    st.subheader("Shift of the router", anchor=False)
    _shift(run, source is not None)


def _effects(run: Opened, source: Opened) -> None:
    """Before, after, difference and reference; a cell is an expert."""
    if source is not run:
        banner(source)
    key = source.keys(EFFECT)[0]
    traces = source.traces(key)
    fact, title = chosen().fact, source.words(key)
    first = next(iter(traces.values()), None)
    if first is None:
        missing(source, key)
        return
    experts = sorted({str(site.index) for site in parse_sites(first.labels["site"])}, key=lambda n: (len(n), n))
    expert = choose("Expert", "expert", [ALL, *experts], lambda n: "all experts" if n == ALL else f"expert {n}")
    frame = CellAt(chosen().layer, expert) if ALL not in (chosen().layer, expert) else None
    try:
        cut = {role: trace if fact is None else one_fact(trace, fact) for role, trace in traces.items()}
        if "base" in cut and "checkpoint" in cut:
            figure = compare_maps(cut["base"], cut["checkpoint"], cut.get("reference"), title, greyed=fact is None)
        else:
            figure = map_figure(next(iter(cut.values())), title)
    except BadInput as error:
        absent(title, str(error))
        return
    told = "Click a cell, or choose Layer (at the left) and Expert (above), for every fact's effect in it."
    grid(figure, key, frame, _choose, told)
    _expert(traces, expert)


def _choose(at: CellAt) -> None:
    st.session_state["layer"], st.session_state["expert"] = at.row, at.column


def _expert(traces: Mapping[str, Trace], expert: str) -> None:
    """Every fact's effect of the chosen expert, the strongest first."""
    layer = chosen().layer
    if ALL in (layer, expert):
        return
    site = f"L{layer}.expert[{expert}]"
    columns = {}
    for role, trace in traces.items():
        if site in trace.labels["site"]:
            one = trace.pick("site", site)
            one = one.mean("seed") if "seed" in one.axes else one
            columns[role] = dict(zip(one.labels.get("fact", ()), map(float, one.values.reshape(-1)), strict=False))
    st.subheader(f"Layer {safe(layer)}, expert {safe(expert)}", anchor=False)
    if not columns:
        absent(site, "the run does not hold it")
        return
    table = pd.DataFrame(columns).rename_axis("fact").reset_index()
    by = "checkpoint" if "checkpoint" in columns else next(iter(columns))
    table = table.sort_values(by, ascending=False, kind="stable").reset_index(drop=True)

    def told() -> None:
        rows = ((st.session_state.get("expert facts") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["item"] = fact_number(str(table["fact"].iloc[rows[0]]))

    st.dataframe(
        table,
        hide_index=True,
        height=280,
        key="expert facts",
        on_select=told,
        selection_mode="single-row",
        alt=f"Effect of {site} on every fact.",
    )
    st.caption("Effect on the answer's logit. Click a row to draw the map of that fact.")
    download(table, "expert facts", f"expert {layer} {expert}")


def _shift(run: Opened, boxes: bool) -> None:
    """How far the choice of experts moved, by layer; `boxes` says whether the page has a box for the expert."""
    source = holding(run, [SHIFT], "shift")
    if source is None:
        absent(
            "Expert shift",
            "an audit does not read it, and no other run on the shelf did",
            "workbench look expert_shift CHECKPOINT --against BASE --concept CONCEPT",
        )
        return
    keys = source.keys(SHIFT)
    key = choose("Facts", "set", keys, source.words) if len(keys) > 1 else keys[0]
    traces = source.traces(key)
    if not traces:
        missing(source, key)
        return
    first = next(iter(traces.values()))
    measure = pick("Measure", "measure", first.labels["measure"])
    cut = {role: named_layers(trace.pick("measure", measure)) for role, trace in traces.items()}
    st.caption(safe(f"{first.notes.get('model', '?')} against {first.notes.get('donor', '?')}"))
    picture(
        compare_layers(cut, f"{source.words(key)}: {measure}", first.units, None),
        key,
        safe(str(first.notes.get("axes", {}).get("measure", {}).get(measure, ""))),
    )
    _loads(source, first, boxes)


def _loads(source: Opened, shift: Trace, boxes: bool) -> None:
    """Who gets the tokens, before and after, and how evenly."""
    st.subheader("Where the tokens go", anchor=False)
    loads = loads_of(shift)
    if not loads:
        absent(
            "Tokens by expert",
            "this run was made before expert shift noted them; the same command in another folder does",
            source.on.command,
        )
        return
    figure = compare_maps(loads["before"], loads["after"], None, "Share of tokens sent to each expert", greyed=False)
    layer = chosen().layer
    frame = CellAt(layer, str(st.session_state.get("expert", ALL)))
    said = "Over all tokens of these facts: nothing is known of noise. A row sums to the experts a token gets."
    if boxes:
        grid(figure, "loads", frame if ALL not in (frame.row, frame.column) else None, _choose, said)
    else:
        picture(figure, "loads", said)
    layers = tuple(map(layer_name, shift.labels["layer"]))
    picture(
        compare_layers(
            {ROLE_OF[side]: entropies(load, layers) for side, load in loads.items()}, "Load entropy", EVEN, None
        ),
        "entropy",
        "1: every expert of the layer gets as many tokens. A fall: tokens were gathered in few experts.",
    )


if __name__ == "__main__":
    page()
