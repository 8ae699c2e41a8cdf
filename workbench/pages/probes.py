"""Probes: can a classifier read the answer from the states, beyond what it reads of nothing?

The kinds are those of `probes.probe_kinds`. The toggle of residualisation is the kind `residualised`: a linear probe on
states without what a regression on the prompt's surface (wording and lengths) explains.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from workbench.figures import compare_layers
from workbench.figures_bands import band_of
from workbench.figures_click import CellAt
from workbench.figures_probes import kinds_figure
from workbench.figures_style import INK
from workbench.pages.frame.by_fact import facts_by_layer
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.probe_layer import at_layer
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import pick
from workbench.probe_cuts import KIND_WORDS, has_shuffled, kinds_in, map_of, right_by
from workbench.report_pictures import chance_of, with_controls
from workbench.trace import Trace
from workbench.trace_cuts import named_layers

KEY, KINDS, PLAIN = "linear_probes", "probe_kinds.forget", "linear"
FLOORS = ("never taught", "shuffled answers")
"""Roles that hold what a probe reads of nothing."""

MEANING = {
    "linear": "A linear probe on the states as they are: the one the claim rests on.",
    "residualised": "A linear probe on states without what their wording and length explain (a regression fitted on "
    "the training prompts). What stays is not owed to templates.",
    "mlp": "A probe with one hidden layer. It can learn a task by itself: what it reads beyond a linear probe is told "
    "by the states in some way, and says little about the model.",
    "erased": "A linear probe on states from which LEACE erased the answers of the training facts: a floor. Above the "
    "commonest answer the erasure failed on new subjects.",
}


def page() -> None:
    """Accuracy by layer with its controls, selectivity, the kinds of probe, one layer, and the facts."""
    run = chosen().run
    head("Probes", "Can a classifier read the answer from the states?", run)
    key = one_reading(run, KEY)
    if key is None:
        return
    own = run.traces(key)
    if not own:
        missing(run, key)
        return
    first = next(iter(own.values()))
    kinds = run.traces(KINDS) if key == f"{KEY}.forget" else {}
    probe = pick("Probe", "probe", kinds_in(next(iter(kinds.values()))) if kinds else (PLAIN,), KIND_WORDS.__getitem__)
    st.caption(MEANING[probe])
    if probe == PLAIN:
        traces = {role: named_layers(trace) for role, trace in with_controls(key, own).items()}
        _setup(first)
    else:
        traces = _of_kind(kinds, probe)
    title = run.words(key) if probe == PLAIN else f"{KIND_WORDS[probe]} probes"
    figure = compare_layers(traces, title, first.units, chance_of(first))
    picture(figure, key, "Read it against the reference and the shuffled answers: a probe learns on its own too.")
    _selectivity(run, traces, kinds, probe)
    if kinds:
        _map(kinds)
        at_layer(run, kinds, probe)
    else:
        absent("Other kinds of probe, learning curve, calibration and confusion", run.why_not_shown(KINDS), run.again)
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


def _of_kind(kinds: Mapping[str, Trace], probe: str) -> dict[str, Trace]:
    """Accuracy of another kind of probe, with its floor."""
    found = {role: right_by(trace, probe) for role, trace in kinds.items() if probe in kinds_in(trace)}
    own = kinds.get("checkpoint")
    if own is not None and has_shuffled(own, probe):
        found["shuffled answers"] = right_by(own, probe, " shuffled")
    return found


def _selectivity(run: Opened, traces: Mapping[str, Trace], kinds: Mapping[str, Trace], probe: str) -> None:
    """Probe minus control, layer by layer; a control task of each model where its run kept one."""
    st.subheader("Selectivity: probe minus control", anchor=False)
    if probe == "erased":
        st.caption("Erased states are a floor themselves, so no probe is trained on shuffled answers here.")
        return
    rows = {}
    for role, trace in traces.items():
        floor = _floor(trace, kinds.get(role), probe)
        if role not in FLOORS and floor is not None and len(floor) == len(trace.labels["layer"]):
            values = band_of(trace, "layer").mean - floor
            rows[role] = Trace("Selectivity", values, ("layer",), trace.units, {"layer": trace.labels["layer"]})
    if not rows:
        missing(run, KEY)
        return
    units = next(iter(rows.values())).units
    figure = compare_layers(rows, "Selectivity", f"{units}, above shuffled answers", None)
    picture(
        figure.add_hline(y=0, line={"color": INK, "width": 1}),
        "selectivity",
        "The control is the same probe trained on answers shuffled within a relation. At or below 0 it tells nothing.",
    )
    if probe == PLAIN:
        _all_controls(next(iter(traces.values())))


def _floor(trace: Trace, kinds: Trace | None, probe: str) -> np.ndarray | None:
    """What the same probe reads after training on shuffled answers, a layer."""
    if probe != PLAIN:
        there = kinds is not None and has_shuffled(kinds, probe)
        return band_of(right_by(kinds, probe, " shuffled"), "layer").mean if kinds is not None and there else None
    shuffled = trace.notes.get("controls", {}).get("shuffled")
    return np.array(shuffled, dtype=float) if isinstance(shuffled, list) else None


def _all_controls(first: Trace) -> None:
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


def _map(kinds: Mapping[str, Trace]) -> None:
    """Layer by kind of probe; a click chooses both."""
    st.subheader("Layer by kind of probe", anchor=False)
    shown = pick("Shown", "shown", ("accuracy", "selectivity"))
    layer, probe = chosen().layer, str(st.session_state.get("probe", PLAIN))
    selective = shown == "selectivity"
    known = {role: trace for role, trace in kinds.items() if trace.labels == next(iter(kinds.values())).labels}
    figure = kinds_figure(known, f"Probes of several kinds: {shown}", selective)
    words = KIND_WORDS[probe]
    there = map_of(next(iter(known.values())), selective).labels["probe"]
    frame = CellAt(layer, words) if layer != ALL and words in there else None
    told = (
        "Grey in the difference is inside the noise of the facts. Click a cell, or choose Layer (at the left) and "
        "Probe (above), for what that probe says there."
    )
    grid(figure, "probe kinds", frame, _choose, told)


def _choose(at: CellAt) -> None:
    """What a click does: the same as the two boxes."""
    st.session_state["layer"] = at.row
    st.session_state["probe"] = next(kind for kind, words in KIND_WORDS.items() if words == at.column)


if __name__ == "__main__":
    page()
