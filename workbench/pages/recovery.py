"""Recovery: what brings the answers back: relearning, rounding, patching back, other prompts."""

import shlex
from collections.abc import Mapping

import numpy as np
import streamlit as st

from workbench.figures import compare_means, relearn_curves
from workbench.figures_attacks import doses_of, tries, tries_of
from workbench.figures_curves import SPACINGS, STEPS, Spacing
from workbench.figures_ladder import rounding_ladder, width_of
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
TRAININGS = (RELEARN, "relearn_subjects.forget", "relearn_near.forget", "relearn_text.forget")
"""Readings of a relearning: what the attacker trains on differs."""

CURVES = (*TRAININGS, "in_context.forget", "latent_perturbation.forget")
"""Readings along doses: steps of training, facts in the context, lengths of a vector."""

ATTACKS = ("accuracy.forget.quantise", "patch_back.forget", "accuracy.forget.few_shot", "accuracy.forget.jailbreak")
"""Readings of the same facts with an attack on that every audit of the standard suite takes."""

RUNGS = {
    DIRECT: "as stored",
    "accuracy.forget.quantise_bf16": "bfloat16",
    "accuracy.forget.quantise_8": "8 bits",
    "accuracy.forget.quantise": "4 bits",
    "accuracy.forget.quantise_3": "3 bits",
}
"""Reading -> how wide the weights are, where nothing was read that says it; the widest first."""

ALL = "all"
"""Every dose."""

Readings = Mapping[str, Mapping[str, Trace]]
"""What was read, in words -> role -> trace."""


def page() -> None:
    """Curves of relearning, the ladder of widths, one mean for every other attack, and one attack dose by dose."""
    run = chosen().run
    head("Recovery", "How easily does the knowledge come back?", run)
    _relearning(run)
    _rounding(run)
    _attacks(run)


def _relearning(run: Opened) -> None:
    st.subheader("Relearning", anchor=False)
    there = [key for key in TRAININGS if key in run.keys(key.partition(".")[0])]
    if not there:
        missing(run, RELEARN)
        return
    columns = st.columns(2)
    with columns[0]:
        key = choose("What the attacker trains on", "training", there, run.words) if len(there) > 1 else there[0]
    with columns[min(1, len(there) - 1)]:
        spacing: Spacing = pick("Steps", "spacing", SPACINGS)  # type: ignore[assignment]  # one of the options
    traces = with_controls(key, run.traces(key))
    if not traces:
        missing(run, key)
        return
    picture(
        relearn_curves(traces, "Facts the attacker did not train on", spacing),
        "relearn",
        "A model that never knew them climbs like the reference; one that only hides them jumps. " + _budget(traces),
    )
    for column, (role, trace) in zip(st.columns(max(4, len(traces))), traces.items(), strict=False):
        area, half = _area(trace)
        column.caption(f"**{safe(role)}**")
        column.metric("area", number(area), help="Area under the curve, as a share: 1 is everything at once.")
        column.metric("half back", f"step {half}" if half else "never", help="First step read with half of it back.")
    if lost := [key for key in TRAININGS if key not in there]:
        st.caption(f"Not read in this run, the suite `full` does: {', '.join(run.words(key) for key in lost)}.")


def _budget(traces: Mapping[str, Trace]) -> str:
    """Optimiser and budget, as the reading noted them."""
    told = next((trace.notes["budget"] for trace in traces.values() if "budget" in trace.notes), None)
    return f"Budget: {safe(told)}." if told else ""


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


def _rounding(run: Opened) -> None:
    """One picture of every width; the widths that were not read are named with the command that reads them."""
    st.subheader("Fewer bits", anchor=False)
    rungs: dict[str, Mapping[str, Trace]] = {}
    for key, words in RUNGS.items():
        traces = with_controls(key, run.traces(key, control=key == DIRECT))
        rungs[width_of(traces.get("checkpoint") or next(iter(traces.values()))) if traces else words] = traces
    if not any(by_role for by_role in list(rungs.values())[1:]):
        missing(run, "accuracy.forget.quantise")
        return
    units = next(trace.units for by_role in rungs.values() for trace in by_role.values())
    kept = {
        width: by_role["checkpoint"].notes["codes_kept"]
        for width, by_role in rungs.items()
        if "checkpoint" in by_role and "codes_kept" in by_role["checkpoint"].notes
    }
    told = "; ".join(f"{number(100 * share)}% of the weights inside the blocks in {w}" for w, share in kept.items())
    picture(
        rounding_ladder(_in_order(rungs), units),
        "ladder",
        "What climbs where the reference does not was hidden in changes smaller than a step; where the base falls, the "
        "model itself breaks." + (f" Rounded to the same integer as the base's: {told}." if told else ""),
    )
    if lost := [width for width, by_role in rungs.items() if not by_role]:
        st.caption(f"Not read in this run: {', '.join(lost)}. The suite `full` of this version reads every width:")
        st.code(_in_full(run), language="bash")


def _in_order(rungs: Readings) -> dict[str, Mapping[str, Trace]]:
    """The widest first."""

    def bits(width: str) -> float:
        return {"a": -100.0, "b": -50.0}.get(width[:1], 0.0) or -float(width.split()[0])

    return {width: rungs[width] for width in sorted(rungs, key=bits)}


def _in_full(run: Opened) -> str:
    """The run's command with the suite `full`, into a new folder."""
    words = shlex.split(run.again)
    for option in ("--suite", "--checks"):
        if option in words[:-1]:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join([*words, "--suite", "full"])


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
        curves = {run.words(key): traces for key in CURVES if (traces := with_controls(key, run.traces(key)))}
        _doses({words: traces for words, traces in there.items() if any(map(tries_of, traces.values()))}, curves, units)
    for key in (DIRECT, *ATTACKS):
        if run.words(key) not in there:
            missing(run, key)


def _doses(tried: Readings, curves: Readings, units: str) -> None:
    """One attack, try by try or step by step, at all doses or at one."""
    st.subheader("One attack, dose by dose", anchor=False)
    if not tried and not curves:
        st.caption("No attack of this run was tried in more than one strength or wording.")
        return
    columns = st.columns(2)
    with columns[0]:
        words = choose("Attack", "attack", [*tried, *curves])
    traces = tried.get(words) or curves[words]
    any_one = traces.get("checkpoint") or next(iter(traces.values()))
    counted = STEPS.get(any_one.name, "step")
    steps = {f"{counted}: {label}": label for label in any_one.labels.get("step", ())}
    with columns[1]:
        doses = [*(steps or doses_of(any_one))]
        dose = choose("Dose", "dose", [ALL, *doses], tip="Strength of the attack; wordings have none.")
    if words in tried:
        figure = tries(traces, words, units, "" if dose == ALL else dose)
        picture(figure, "tries", "Means without intervals: the run keeps one for each try.")
    elif dose == ALL:
        picture(relearn_curves(traces, words, "evenly"), "doses", "Every dose that was read, side by side.")
    else:
        label = steps[dose]
        cut = {role: trace.pick("step", label) for role, trace in traces.items() if label in trace.labels["step"]}
        picture(
            compare_means({f"{words}, {dose}": cut}, f"{words} at one dose", units), "dose", "Mean and 95% interval."
        )


if __name__ == "__main__":
    page()
