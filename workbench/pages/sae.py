"""SAE features: which features of a sparse autoencoder fire on the facts to forget, and how well does it fit here?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from workbench.figures_features import fates, feature_changes, feature_scatter, firing_histogram
from workbench.figures_style import number
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.elsewhere import holding
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner
from workbench.pages.frame.url import choose
from workbench.trace import Trace

KEY = "sae_features"
COMMAND = "workbench look sae_features CHECKPOINT --concept CONCEPT"

FATES = {
    "killed": "Fired before, and on no token of the facts to forget any more.",
    "silenced": "Fires at most half as often as before.",
    "new": "Did not fire on the facts to forget before.",
}
"""What the counts count."""


def page() -> None:
    """The scatter, the fit of the autoencoder, and a table of features with one of them in full."""
    run = chosen().run
    head("SAE features", "Which features of a sparse autoencoder fire on the facts to forget?", run)
    source = holding(run, [KEY])
    keys = () if source is None else source.keys(KEY)
    traces = {} if source is None or not keys else source.traces(keys[0], other=False)
    if source is None or not traces:
        absent("SAE features", "an audit does not read them, and no other run on the shelf did", COMMAND)
        return
    if source is not run:
        banner(source)
    role = choose("Model", "model", list(traces)) if len(traces) > 1 else next(iter(traces))
    trace = traces[role]
    for warning in trace.notes.get("warnings", ()):
        st.warning(safe(warning, 600))
    picture(feature_scatter(trace), KEY, "Lower right: fires on the facts to forget and hardly on those to keep.")
    _fit(trace)
    _changes(trace, source)
    picture(firing_histogram(trace), "firing", "The number axis is logarithmic: most features never fire on few facts.")
    _features(trace)


def _fit(trace: Trace) -> None:
    """How much of the states the autoencoder explains, a set of facts a column."""
    explained = trace.notes.get("explained_variance", {})
    if not isinstance(explained, Mapping) or not explained:
        return
    st.subheader("How well the autoencoder fits", anchor=False)
    before = trace.notes.get("before", {}).get("explained_variance", {})
    for column, (name, share) in zip(st.columns(len(explained)), explained.items(), strict=True):
        told = number(share) if before.get(name) is None else f"{number(before[name])} → {number(share)}"
        column.metric(f"variance explained: {safe(name)}", told)
        active = trace.notes.get("l0", {}).get(name)
        column.caption(f"{number(active)} features active a token")
    if before:
        st.caption(safe(f"Left of the arrow: in {trace.notes['before'].get('model', 'the model before')}."))
    st.caption("Where it explains little, its features say little about this model, above all after an edit.")


def _changes(trace: Trace, source: Opened) -> None:
    """Before and after, where the run was made against the model before."""
    st.subheader("Before and after", anchor=False)
    counts = fates(trace)
    if not counts:
        absent("Features before and after", "this run read one model only", f"{source.on.command} --against BASE")
        return
    for column, (fate, count) in zip(st.columns(len(counts)), counts.items(), strict=True):
        column.metric(f"{fate} on forget", count, help=FATES[fate])
    picture(
        feature_changes(trace),
        "changes",
        "No intervals and no false-discovery rate: runs keep shares by feature, not by fact. How many features chance "
        "would find is told in the words of the first picture.",
    )


def _features(trace: Trace) -> None:
    """Every feature that fires, those found first; a click chooses one."""
    table = pd.DataFrame({"feature": trace.labels["feature"]})
    for measure in trace.labels["measure"]:
        table[measure] = trace.pick("measure", measure).values.astype(float)
    found = [str(feature) for feature in trace.notes.get("found", ())]
    table.insert(1, "found", table["feature"].isin(found))
    table = table[(table["forget"] > 0) | (table["retain"] > 0) | table["found"]].reset_index(drop=True)
    if table.empty:
        st.info("No feature fires on these tokens.")
        return
    sort = choose("Sort by", "sort", ["found first", *trace.labels["measure"]])
    if sort != "found first":
        order = np.argsort(-table[sort].abs().fillna(0.0).to_numpy(), kind="stable")
        table = table.iloc[order].reset_index(drop=True)

    def told() -> None:
        rows = ((st.session_state.get("features") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["feature"] = str(table["feature"].iloc[rows[0]])

    st.dataframe(
        table,
        hide_index=True,
        height=300,
        key="features",
        on_select=told,
        selection_mode="single-row",
        alt=f"{len(table)} features that fire.",
    )
    said = trace.notes.get("axes", {}).get("measure", "")
    st.caption(safe(said) + ". Click a row, or choose a feature below.")
    download(table, "features", "sae features")
    _one(trace, choose("Feature", "feature", list(table["feature"])))


def _one(trace: Trace, feature: str) -> None:
    """What the run kept about one feature."""
    kept: Mapping[str, Any] = trace.notes.get("features", {})
    known = kept.get(feature) if isinstance(kept, Mapping) else None
    if not isinstance(known, Mapping):
        absent(f"Feature {feature}", "the run keeps tokens and texts only of the features it found")
        return
    st.subheader(f"Feature {safe(feature)}", anchor=False)
    lists = {name: pd.Series(value, dtype=str) for name, value in known.items() if isinstance(value, list)}
    if lists:
        st.dataframe(pd.DataFrame(lists), hide_index=True, alt=f"What feature {feature} promotes and suppresses.")
    rest = {name: value for name, value in known.items() if name not in lists}
    if rest:
        st.json(rest, expanded=1)


if __name__ == "__main__":
    page()
