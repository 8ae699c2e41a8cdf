"""Overview: the verdict as a ladder, what contradicts it, and every axis with its numbers."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.evidence import AuditReport, Evidence
from workbench.figures import forest, ladder
from workbench.figures_claims import worse_by
from workbench.figures_style import STATUS_LOOKS, equivalence_words, holm_mark, number, status_words
from workbench.figures_verdict import AXES
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.elsewhere import is_of, of_verb
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, head, picture
from workbench.pages.frame.reading import Opened, comparison_of
from workbench.pages.frame.states import absent, knowledge_of
from workbench.pages.frame.url import choose
from workbench.remains import by_layers, by_tokens
from workbench.report_words import AXIS_WORDS
from workbench.sparks import Spark, spark_of
from workbench.trace_cuts import layer_name

HERE = Path(__file__).parent

PAGE_OF = {
    "outputs": ("items", "Items"),
    "robustness": ("items", "Items"),
    "decodability": ("lens", "Lens"),
    "storage": ("trace", "Causal trace"),
    "recoverability": ("recovery", "Recovery"),
    "privacy": ("items", "Items"),
    "utility": ("items", "Items"),
}
"""Axis -> the page that shows its evidence; the report where that page is not there."""

PAGE_OF_CLAIM = {
    "probe": ("probes", "Probes"),
    "depth": ("depth", "Patching depth"),
    "vectors": ("concepts", "Concept vectors"),
    "causal": ("trace", "Causal trace"),
    "routing": ("experts", "Experts"),
    "patch_back": ("recovery", "Recovery"),
}
"""Claim -> its page, where that is another than its axis's."""

REMAINS = {"logit_lens.forget": ("lens", "Lens"), "linear_probes.forget": ("probes", "Probes")}
"""Readings by layer and fact in which knowledge may still show, and their pages."""

WITH_LAYER = ("lens", "probes", "depth")
"""Pages on which the layer a claim rests on can be chosen."""

LAYER = re.compile(r"embed|L\d+")

INSIDE = ("decodability", "storage", "recoverability")
"""Axes of what is inside."""

LINES = 6
"""Lines about what is inside; the table of axes has all claims."""

KEPT = ("folder", "concept", "run", "cmp")
"""Choices a link takes along."""

TRACED, STATE = "causal_trace.forget", "resid_post"

SPARK = "curve"
"""Column of the small curves, by layer, step, bits or strength."""

WIDTHS = {"axis": 108, "claim": 138, "status": 112, "after Holm": 84}
"""Pixels of the columns that name a claim; the others have what their content needs."""

NUMBERS = ("base", "unlearned", "reference", "never taught", "margin")
"""Columns of the table that hold one number."""


def page() -> None:
    """The verdict of Run A."""
    run = chosen().run
    head("Overview", "Was the knowledge removed, or only silenced?", run)
    report = run.report
    if report is None:
        _without_verdict(run)
        return
    for warning in getattr(report, "warnings", ()):
        st.warning(safe(warning, 600))
    _verdict(report)
    _remains(run)
    picture(ladder(report), "ladder", "A level holds only when every lower one does.")
    _contradictions(report)
    _inside(run, report)
    _axes(run, report)
    st.subheader("Every difference to its control", anchor=False)
    picture(
        forest(report),
        "forest",
        "Each axis has its own scale. The grey band is the margin fixed before the run. A ring and ≡: equivalent to "
        "the reference (two one-sided tests, p at most 0.05 after Holm over the primary claims).",
    )


def _without_verdict(run: Opened) -> None:
    """A run of another verb, an unfinished audit, or one that is damaged."""
    rows = (run.on.manifest or {}).get("question") or {}
    if run.on.is_audit:
        why = "its files were changed" if run.damaged or run.on.state == "damaged" else "the audit has not finished"
        absent("Verdict", f"withheld: {why}", run.on.command)
    else:
        st.write(f"A run of {safe(run.on.verb)} gives no verdict. What was asked:")
        st.json(rows, expanded=1)
    keys = sorted({key for keys in run.stored.values() for key in keys})
    if keys:
        st.caption(f"Readings stored in it ({len(keys)}); the pages at the left show them.")
        st.dataframe(pd.DataFrame({"reading": keys}), hide_index=True)


def _verdict(report: AuditReport) -> None:
    """What was asked, and three answers that do not follow from each other."""
    told, facts = knowledge_of(report), report.counts.get("forget", 0)
    answers = (
        ("What was to be forgotten?", report.concept, f"{facts} facts"),
        ("How far is it suppressed?", report.verdict, report.meaning),
        ("Is the knowledge still there?", told[:1].upper() + told[1:], "whatever the level is"),
        ("Does other knowledge stand?", report.utility.capitalize(), report.utility_reason),
    )
    for column, (asks, answer, more) in zip(st.columns(len(answers), border=True, gap="small"), answers, strict=True):
        column.caption(asks)
        column.markdown(f"**{safe(answer, 160)}**")
        column.caption(safe(more, 160))


def _contradictions(report: AuditReport) -> None:
    st.subheader("What contradicts what", anchor=False)
    if not report.contradictions:
        st.write("No axis contradicts another.")
    for told in report.contradictions:
        st.markdown(f"- {safe(told, 600)}")


def _axes(run: Opened, report: AuditReport) -> None:
    """A table of all claims by axis; a row leads to its page."""
    st.subheader("Evidence by axis", anchor=False)
    order = {axis: i for i, axis in enumerate(AXES)}
    evidence = sorted(report.evidence, key=lambda e: order.get(e.axis, len(order)))
    sparks = {e.claim: spark_of(e.claim, run.trace) for e in evidence if e.value is not None}
    table = pd.DataFrame([_row(e, sparks.get(e.claim)) for e in evidence])
    names = [e.claim for e in evidence]

    def told() -> None:
        rows = ((st.session_state.get("axes") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["claim"] = names[rows[0]]

    st.dataframe(
        table,
        hide_index=True,
        key="axes",
        on_select=told,
        selection_mode="single-row",
        height=38 + 35 * len(table),
        column_config={
            SPARK: st.column_config.LineChartColumn(y_min=0, y_max=1, width="small"),
            **{name: st.column_config.TextColumn(width=pixels) for name, pixels in WIDTHS.items()},
            **{name: st.column_config.NumberColumn(format="%.3f") for name in NUMBERS},
        },
        alt=f"{len(table)} claims with their values, differences and status.",
    )
    st.caption(
        "Mean and 95% interval. A small curve is the claim's own reading of the checkpoint, from 0 to 1, higher is "
        "more left; a claim that rests on one number (all of outputs, privacy and utility) has none. After Holm: p of "
        "two one-sided tests for equivalence to the reference, adjusted over the primary claims, and ≡ where it is at "
        "most 0.05; a fail rests on the interval and has no p. Click a row, or choose a claim below, for all about it."
    )
    download(table.drop(columns=SPARK), "axes", f"evidence {run.on.model}")
    claim = choose("Claim", "claim", names, lambda name: f"{name}: {report.of(name).question}")
    _details(report.of(claim), sparks.get(claim))


def _row(e: Evidence, spark: Spark | None) -> dict[str, Any]:
    return {
        "axis": e.axis,
        "claim": e.claim,
        "status": status_words(e),
        "after Holm": holm_mark(e) or "–",
        SPARK: None if spark is None else list(spark.values),
        "base": None if e.before is None else e.before.mean,
        "unlearned": None if e.value is None else e.value.mean,
        "reference": None if e.reference is None else e.reference.mean,
        "never taught": None if e.floor is None else e.floor.mean,
        "difference": "–" if e.difference is None else _interval(e),
        "to": e.compared_with,
        "margin": e.margin,
        "unit": e.metric,
    }


def _interval(e: Evidence) -> str:
    d = e.difference
    return "–" if d is None else f"{number(d.mean)} [{number(d.low)}, {number(d.high)}]"


def _details(e: Evidence, spark: Spark | None) -> None:
    with st.container(border=True):
        st.markdown(f"**{safe(e.question)}** {safe(status_words(e))}")
        title, asks = AXIS_WORDS.get(e.axis, (e.axis, ""))
        st.caption(safe(f"{title}. {asks}"))
        if e.why_missing:
            st.caption(safe(e.why_missing, 600))
        columns = st.columns(4)
        for column, (name, estimate) in zip(
            columns,
            {"base": e.before, "unlearned": e.value, "reference": e.reference, "never taught": e.floor}.items(),
            strict=True,
        ):
            words = "–" if estimate is None else number(estimate.mean)
            below = (
                "not measured"
                if estimate is None
                else f"[{number(estimate.low)}, {number(estimate.high)}], n = {estimate.n}"
            )
            column.metric(name, words, help=safe(e.metric))
            column.caption(safe(below))
        facts = [f"at {e.where}" if e.where else "", e.note]
        facts += [f"difference to {e.compared_with}: {_interval(e)}" if e.difference else ""]
        facts += [f"equivalence to the reference: {equivalence_words(e)}" if e.p_equivalence is not None else ""]
        facts += [f"smallest difference this many items would show: {number(e.detectable)}" if e.detectable else ""]
        if spark is not None:
            along = zip(spark.labels, spark.values, strict=True)
            facts += [f"by {spark.along}: " + ", ".join(f"{label} {number(value)}" for label, value in along)]
        st.caption(safe("; ".join(fact for fact in facts if fact)))
        title = PAGE_OF_CLAIM.get(e.claim, PAGE_OF.get(e.axis, ("report", "Report")))[1]
        path, at = _page_of(e)
        _link(path, f"The evidence: {title}" + (f", layer {at['layer']}" if at else ""), at)


def _remains(run: Opened) -> None:
    """The fact, layer and token where most shows, each a click away."""
    st.subheader("Where most is left", anchor=False)
    found = [(path, title, by_layers(run.traces(key, other=False))) for key, (path, title) in REMAINS.items()]
    found.append(("trace", "Causal trace", by_tokens(run.traces(TRACED, other=False), STATE)))
    places = [(path, title, place) for path, title, place in found if place is not None]
    for path, title, place in places:
        at = {"layer": place.layer, "item": place.number}
        at |= {"tok": place.token, "kind": STATE} if place.token else {}
        token = f", {place.token}" if place.token else ""
        numbers = ", ".join(f"{role} {number(value)}" for role, value in place.values.items())
        _link(path, f"{title}: fact {place.number}, layer {place.layer}{token} ({numbers})", at)
    if places:
        st.caption(
            "The layer that stands out most against the reference, and the fact there. One fact alone is no evidence."
        )
    else:
        st.caption("No layer stands out against the reference, or no reading by layer and fact is stored in this run.")


def _inside(run: Opened, report: AuditReport) -> None:
    """One line a claim about what is inside, what stands out most first, each with its page."""
    st.subheader("What changed inside", anchor=False)
    found = [e for e in report.evidence if e.axis in INSIDE and e.value is not None and e.status != "ERROR"]
    order = {status: i for i, status in enumerate(STATUS_LOOKS)}
    for e in sorted(found, key=lambda e: (e.status != "FAIL", -(worse_by(e) or 0.0), order[e.status]))[:LINES]:
        control = {"reference": e.reference} if e.reference is not None else {"never taught": e.floor}
        numbers = {"base": e.before, "unlearned": e.value, **control}
        told = ", ".join(f"{name} {number(value.mean)}" for name, value in numbers.items() if value is not None)
        path, at = _page_of(e)
        _link(path, f"{e.question} {told}" + (f", at {e.where}" if e.where else "") + f" {status_words(e)}", at)
    if not found:
        st.caption("No claim about what is inside was measured.")
    elif len(found) > LINES:
        st.caption(f"{LINES} of {len(found)}, those furthest from their control first; all are in the table below.")
    _weights(run)


def _weights(run: Opened) -> None:
    """The sentence of a comparison of the same two models, where one lies on the shelf."""
    one = next((one for one in of_verb("compare").values() if is_of(run.on, one)), None)
    if one is None:
        return
    try:
        told = comparison_of(Opened(one)).sentence()
    except BadInput:
        return
    _link("weights", f"Weights: {told}", {"diff": one.name})


def _page_of(e: Evidence) -> tuple[str, dict[str, str]]:
    """The page with a claim's evidence, and the layer to choose there."""
    path = PAGE_OF_CLAIM.get(e.claim, PAGE_OF.get(e.axis, ("report", "Report")))[0]
    return path, {"layer": layer_name(e.where)} if path in WITH_LAYER and LAYER.fullmatch(e.where) else {}


def _link(path: str, words: str, at: dict[str, str]) -> None:
    """A link to another page with some choices made; the others stay as they are."""
    if (HERE / f"{path}.py").is_file():
        kept = {name: str(st.query_params[name]) for name in KEPT if name in st.query_params}
        st.page_link(
            str(HERE / f"{path}.py"), label=safe(words), icon=":material/arrow_forward:", query_params=kept | at
        )


if __name__ == "__main__":
    page()
