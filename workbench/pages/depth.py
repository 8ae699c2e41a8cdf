"""Patching depth: how deep does the knowledge still lie, by what the base can read from this model's states?"""

import numpy as np
import streamlit as st

from workbench.errors import BadInput
from workbench.figures import compare_layers
from workbench.figures_depth import encoded, encoding_bars
from workbench.figures_style import number
from workbench.pages.frame.by_fact import facts_by_layer
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import head, marks, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.report_pictures import picture_of
from workbench.trace import Trace
from workbench.trace_cuts import named_layers

KEY = "depth_score"
CARRIES = 0.05
"""Nats the reference's states must cost at a layer before a share of them is told; the probe's own threshold."""


def page() -> None:
    """The drop by layer, the share erased, and the facts."""
    run = chosen().run
    head("Patching depth", "This model's state is put into the base, a layer at a time: does the answer suffer?", run)
    key = one_reading(run, KEY)
    if key is None:
        return
    traces = run.traces(key)
    if not traces:
        missing(run, key)
        return
    if any("layer" not in trace.axes for trace in traces.values()):
        drawn = picture_of(key, traces)
        picture(drawn.figure, key) if drawn.figure is not None else absent(drawn.title, drawn.why)
        return
    traces = {role: named_layers(trace) for role, trace in traces.items()}
    units = "drop of the answer's log-probability, nats"
    picture(
        compare_layers(traces, run.words(key), units, None),
        key,
        "Near the base: the state still holds the answer. Near the reference: it is gone there.",
    )
    _encoding(run, traces)
    _erased(traces, run.on.command)
    facts_by_layer(key, traces, units, most="below the reference")


def _encoding(run: Opened, traces: dict[str, Trace]) -> None:
    """For how many facts each layer carries the knowledge, and how much is erased; a click chooses the layer."""
    title = "Knowledge-encoding layers"
    reference = traces.get("reference")
    told = [role for role in traces if role not in ("base", "reference")]
    st.subheader(title, anchor=False)
    found = {}
    for role in told:
        try:
            found[role] = encoded(traces[role], reference)
        except BadInput as error:
            absent(f"{title}: {role}", str(error), _with_reference(run) if reference is None else run.again)
    if not found:
        return
    threshold = traces[next(iter(found))].notes["options"]["threshold"]
    whose = "the reference's states" if reference is not None else "the states of the base reading of another subject"
    marks(
        encoding_bars(
            found,
            "Facts that each layer carries, and what is erased of them",
            "" if chosen().layer == ALL else chosen().layer,
        ),
        "encoding",
        _choose_layer,
        f"A layer carries a fact when {whose} cost the base more than {number(threshold)} nats an answer token there. "
        "Hatched: erased, as in the reference; solid: still readable. Click a bar, or choose Layer at the left, for "
        "the facts below.",
    )


def _choose_layer(layer: str) -> None:
    """What a click on a bar does: the same as the box at the left."""
    st.session_state["layer"] = layer


def _with_reference(run: Opened) -> str:
    """The run's command into a new folder, with a place for the reference."""
    return f"{run.again} --reference REFERENCE" if run.on.is_audit else run.again


def _erased(traces: dict[str, Trace], command: str) -> None:
    """How much of the reference's drop is seen in each model, layer by layer."""
    if "reference" not in traces:
        absent("Share erased by layer", "it is told against a model retrained without the concept", command)
        return
    reference = traces["reference"]
    full = dict(zip(reference.labels["layer"], reference.scores("layer"), strict=True))
    shares = {
        role: Trace(
            "Share erased",
            np.array([_share(value, full.get(label)) for label, value in _by_layer(trace)]),
            ("layer",),
            "share of the reference's drop",
            {"layer": tuple(label for label, _ in _by_layer(trace))},
        )
        for role, trace in traces.items()
        if role not in ("base", "reference")
    }
    left = sum(value is None or value < CARRIES for value in full.values())
    st.subheader("Share erased by layer", anchor=False)
    picture(
        compare_layers(shares, "Share erased", "share of the reference's drop", None),
        "erased",
        "1 is like the retrained model, 0 like the base."
        + (
            f" Left out: {left} of {len(full)} layers, where even the reference's state costs the base less than "
            f"{number(CARRIES)} nats."
            if left
            else ""
        ),
    )


def _by_layer(trace: Trace) -> list[tuple[str, float]]:
    return list(zip(trace.labels["layer"], map(float, trace.scores("layer")), strict=True))


def _share(value: float, full: float | None) -> float:
    if full is None or not full >= CARRIES:
        return float("nan")
    return float(np.clip(value / full, 0.0, 1.0))


if __name__ == "__main__":
    page()
