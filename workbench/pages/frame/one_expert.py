"""One expert looked at closer: the tokens it gets, what became of its weights, and what it does for every fact."""

import math
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.expert_tokens import tokens_of
from workbench.figures_style import number
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.elsewhere import is_of, of_verb
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download
from workbench.pages.frame.reading import Opened, comparison_of
from workbench.pages.frame.states import absent
from workbench.trace import Trace
from workbench.trace_cuts import fact_number

TENSORS = ("tensor", "status", "relative_change", "share_changed", "rank", "largest_change", "note")
"""Columns of the table of weights; the download has all."""


def one_expert(run: Opened, routing: Mapping[str, Trace], effects: Mapping[str, Trace], expert: str) -> None:
    """What the run knows of the chosen expert.

    Args:
        run: Run A.
        routing: role -> `token_routing` trace.
        effects: role -> `expert_attribution` trace.
        expert: its number, or `all`.
    """
    layer = chosen().layer
    if ALL in (layer, expert):
        st.subheader("One expert", anchor=False)
        st.caption(
            "Click a cell of a map, or choose Layer (at the left) and Expert (above): its tokens, weights, facts."
        )
        return
    st.subheader(f"Layer {safe(layer)}, expert {safe(expert)}", anchor=False)
    _tokens(routing, layer, expert)
    _weights(run, layer, expert)
    if effects:
        _facts(effects, layer, expert)


def _tokens(routing: Mapping[str, Trace], layer: str, expert: str) -> None:
    """The tokens it gets most, of all facts whose routing is stored."""
    if not routing:
        return  # the card above says why
    st.markdown("**Its tokens**")
    try:
        table = tokens_of(routing, layer, expert)
    except BadInput as error:
        absent("Its tokens", str(error))
        return
    facts = len(next(iter(routing.values())).labels["fact"])
    if table.empty:
        st.info(f"No token of the {facts} facts is sent to this expert, in any of the models.")
        return
    shares = {
        name: st.column_config.NumberColumn(name.replace("probability", "prob."), format="%.3f")
        for name in table.columns
        if name.endswith(": probability")
    }
    st.dataframe(
        table,
        hide_index=True,
        height=min(280, 38 + 35 * len(table)),
        column_config=shares,
        alt=f"{len(table)} tokens that layer {layer}, expert {expert} gets.",
    )
    st.caption(
        f"Tokens of prompts and answers of {facts} forget facts, as spelt (· is a blank): how often each was seen and "
        "sent here, and the router's mean probability of this expert over all that were seen."
    )
    download(table, "expert tokens", f"tokens of layer {layer} expert {expert}")


def _weights(run: Opened, layer: str, expert: str) -> None:
    """What became of its tensors, from a comparison of the same checkpoints."""
    st.markdown("**Its weights against the base's**")
    there = [one for one in of_verb("compare").values() if is_of(run.on, one)]
    if not there:
        absent(
            "Change of its weights",
            "an audit does not compare weights, and no comparison of this checkpoint lies here",
            _command(run),
        )
        return
    source = Opened(there[0])
    try:
        comparison = comparison_of(source)
        cells = comparison.by("layer", "expert")
    except BadInput as error:
        absent("Change of its weights", str(error), f"workbench verify {source.on.path}")
        return
    table = comparison.table
    own = table[(table["layer"].astype("string") == layer) & (table["expert"].astype("string") == expert)]
    if own.empty:
        absent("Change of its weights", f"the comparison {source.on.name} holds no tensor of this expert")
        return
    sizes = zip(cells.columns, cells.loc[[int(layer)]].to_numpy()[0].tolist(), strict=True)
    row = {int(n): size for n, size in sizes if math.isfinite(size)}  # missing: it was zero in the base
    size = row.get(int(expert))
    place = "–" if size is None else f"{sum(other > size for other in row.values()) + 1} of {len(row)}"
    values = {
        "relative change": "from zero" if size is None else number(size),
        "place among its layer's experts": place,
        "largest of its layer": number(max(row.values())) if row else "–",
        "tensors changed": f"{int(own['status'].isin(('changed', 'rounded')).sum())} of {len(own)}",
    }
    for column, (name, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(name, value)
    st.dataframe(own[list(TENSORS)], hide_index=True, alt=f"Tensors of layer {layer}, expert {expert}.")
    st.caption(f"From the comparison {safe(source.on.name)}; the page Weights has its maps and spectra.")
    download(own, "expert tensors", f"tensors of layer {layer} expert {expert}")


def _command(run: Opened) -> str:
    about = (run.on.manifest or {}).get("checkpoints") or {}
    address = {role: str((about.get(role) or {}).get("address") or role.upper()) for role in ("base", "checkpoint")}
    return f"workbench compare {address['base']} {address['checkpoint']}"


def _facts(traces: Mapping[str, Trace], layer: str, expert: str) -> None:
    """Every fact's effect of the expert, the strongest first."""
    site = f"L{layer}.expert[{expert}]"
    columns = {}
    for role, trace in traces.items():
        if site in trace.labels["site"]:
            one = trace.pick("site", site)
            one = one.mean("seed") if "seed" in one.axes else one
            columns[role] = dict(zip(one.labels.get("fact", ()), map(float, one.values.reshape(-1)), strict=False))
    st.markdown("**What it does for every fact**")
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
    st.caption("Effect on the answer's logit. Click a row to choose that fact.")
    download(table, "expert facts", f"expert {layer} {expert}")
