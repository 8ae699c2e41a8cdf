"""Probes: can a linear classifier read the answer from the states, beyond what it reads of nothing?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from workbench.figures import compare_layers
from workbench.figures_bands import band_of
from workbench.figures_style import INK
from workbench.pages.frame.by_fact import facts_by_layer
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, head, picture
from workbench.pages.frame.states import missing
from workbench.report_pictures import chance_of, with_controls
from workbench.trace import Trace
from workbench.trace_cuts import named_layers

KEY = "linear_probes"
FLOORS = ("never taught", "shuffled answers")
"""Roles that hold what a probe reads of nothing."""


def page() -> None:
    """Accuracy by layer with its controls, selectivity, and the facts."""
    run = chosen().run
    head("Probes", "Can a linear classifier read the answer from the states?", run)
    key = one_reading(run, KEY)
    if key is None:
        return
    own = run.traces(key)
    if not own:
        missing(run, key)
        return
    traces = {role: named_layers(trace) for role, trace in with_controls(key, own).items()}
    first = next(iter(own.values()))
    _setup(first)
    figure = compare_layers(traces, run.words(key), first.units, chance_of(first))
    picture(figure, key, "Read it against the reference and the shuffled answers: a probe learns on its own too.")
    _selectivity(traces, first)
    facts_by_layer(key, {role: trace for role, trace in traces.items() if role not in FLOORS}, first.units)


def _setup(trace: Trace) -> None:
    notes, options = trace.notes, trace.notes.get("options", {})
    st.caption(
        safe(
            f"Reader: {options.get('reader', 'not recorded')}, at the {options.get('role', '?')} token; trained on "
            f"{notes.get('n_train', '?')} prompts, tested on facts of subjects it was not trained on; "
            f"{len(trace.labels.get('seed', ()))} seeds."
        )
    )


def _selectivity(traces: Mapping[str, Trace], first: Trace) -> None:
    """Probe minus control, layer by layer; a control task of each model where its run kept one."""
    st.subheader("Selectivity: probe minus control", anchor=False)
    rows = {}
    for role, trace in traces.items():
        shuffled = trace.notes.get("controls", {}).get("shuffled")
        if role not in FLOORS and isinstance(shuffled, list) and len(shuffled) == len(trace.labels["layer"]):
            rows[role] = Trace(
                "Selectivity",
                band_of(trace, "layer").mean - np.array(shuffled, dtype=float),
                ("layer",),
                first.units,
                {"layer": trace.labels["layer"]},
            )
    if not rows:
        missing(chosen().run, KEY)
        return
    figure = compare_layers(rows, "Selectivity", f"{first.units}, above shuffled answers", None)
    picture(
        figure.add_hline(y=0, line={"color": INK, "width": 1}),
        "selectivity",
        "The control is the same probe trained on answers shuffled within a relation. At or below 0 it tells nothing.",
    )
    controls = pd.DataFrame({"layer": first.labels["layer"], **_controls(first)})
    with st.expander("All controls of " + safe(str(first.notes.get("model", "the first model")))):
        st.dataframe(controls, hide_index=True, alt="Every control by layer.")
        for name, meaning in first.notes.get("controls_mean", {}).items():
            st.caption(safe(f"{name}: {meaning}"))
        download(controls, "controls", "probe controls")


def _controls(trace: Trace) -> dict[str, list[float]]:
    """Every control that has a number a layer, or one for all."""
    count, found = len(trace.labels["layer"]), {}
    for name, values in trace.notes.get("controls", {}).items():
        if isinstance(values, list) and len(values) in (1, count):
            found[name] = values * (count if len(values) == 1 else 1)
    return found


if __name__ == "__main__":
    page()
