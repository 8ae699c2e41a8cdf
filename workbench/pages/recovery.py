"""Recovery: what brings the answers back: relearning, rounding, patching back, other prompts."""

from collections.abc import Mapping

import numpy as np
import streamlit as st

from workbench.figures import compare_means, relearn_curves
from workbench.figures_attacks import tries, tries_of
from workbench.figures_style import number
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import missing
from workbench.pages.frame.url import choose, pick
from workbench.report_pictures import with_controls
from workbench.trace import Trace

RELEARN, DIRECT = "relearn.forget", "accuracy.forget"
ATTACKS = ("accuracy.forget.quantise", "patch_back.forget", "accuracy.forget.few_shot", "accuracy.forget.jailbreak")
"""Readings of the same facts with an attack on that every audit of the standard suite takes."""


def page() -> None:
    """Curves of relearning, and one mean for every other attack."""
    run = chosen().run
    head("Recovery", "How easily does the knowledge come back?", run)
    _relearning(run)
    _attacks(run)


def _relearning(run: Opened) -> None:
    st.subheader("Relearning", anchor=False)
    traces = with_controls(RELEARN, run.traces(RELEARN))
    if not traces:
        missing(run, RELEARN)
        return
    spacing = pick("Steps", "spacing", ("to scale", "evenly"))
    figure = relearn_curves(traces, "Facts the attacker did not train on")
    if spacing == "evenly":  # the early steps tell most; a logarithmic axis would have no place for step 0
        steps = sorted({float(step) for trace in traces.values() for step in trace.labels["step"]})
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=steps)
    picture(
        figure, "relearn", "A model that never knew them climbs like the reference; one that only hides them jumps."
    )
    for column, (role, trace) in zip(st.columns(max(3, len(traces))), traces.items(), strict=False):
        area, half = _area(trace)
        column.metric(safe(role), number(area), help="Area under the curve, as a share: 1 is everything at once.")
        column.caption(f"half at step {half}" if half else "never reaches half")


def _mean_curve(trace: Trace) -> np.ndarray:
    for axis in ("seed", "fact"):
        trace = trace.mean(axis) if axis in trace.axes else trace
    return np.asarray(trace.values, dtype=float)


def _area(trace: Trace) -> tuple[float | None, str]:
    """Area under the mean curve over the steps that were read, and the first step at which half of it is back."""
    steps, curve = np.array([float(step) for step in trace.labels["step"]]), _mean_curve(trace)
    if not np.isfinite(curve).all():
        return None, ""
    half = next((label for label, value in zip(trace.labels["step"], curve, strict=True) if value >= 0.5), "")
    width = float(steps[-1] - steps[0])
    return (float(np.trapezoid(curve, steps) / width) if width else None), half


def _attacks(run: Opened) -> None:
    st.subheader("Other ways back", anchor=False)
    further = [key for key in run.keys("accuracy") if key.startswith(f"{DIRECT}.") and key not in ATTACKS]
    # Most attacks were tried on facts nobody was taught too; those are a role of their own, not part of the mean.
    readings = {run.words(key): with_controls(key, run.traces(key)) for key in (DIRECT, *ATTACKS, *further)}
    there = {words: traces for words, traces in readings.items() if traces}
    if there:
        units = next(iter(next(iter(there.values())).values())).units
        picture(
            compare_means(there, "The forget facts, asked directly and under each attack", units),
            "attacks",
            "The first row is without an attack; what a row adds to it came back.",
        )
        _tries({words: traces for words, traces in there.items() if any(map(tries_of, traces.values()))}, units)
    for key in (DIRECT, *ATTACKS):
        if run.words(key) not in there:
            missing(run, key)


def _tries(readings: Mapping[str, Mapping[str, Trace]], units: str) -> None:
    """One attack, try by try."""
    st.subheader("Every try of an attack", anchor=False)
    if not readings:
        st.caption("No attack of this run was tried in more than one strength or wording.")
        return
    words = choose("Attack", "attack", list(readings))
    picture(tries(readings[words], words, units), "tries", "Means without intervals: the run keeps one for each try.")


if __name__ == "__main__":
    page()
