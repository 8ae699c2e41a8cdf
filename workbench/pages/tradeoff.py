"""Trade-off: which of the audited checkpoints forgets most and breaks least?"""

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.evidence import AuditReport
from workbench.figures_tradeoff import all_claims, comparable, one_claim, tradeoff
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.picture import download, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, knowledge_of
from workbench.pages.frame.url import choose

FORGET, KEPT = "direct", "near"
"""Claims the axes begin with."""


def page() -> None:
    """Every finished audit with the same concept, base and margins as Run A."""
    run = chosen().run
    head("Trade-off", "Which checkpoint forgets most and breaks least?", run)
    own = run.report
    if own is None:
        absent("Trade-off", "Run A has no verdict, so there is nothing to set others beside", run.on.command)
        return
    reports, left = _alike(run, own)
    st.caption(
        f"{len(reports)} audits below the chosen folder have Run A's concept, base and margins"
        + (f"; {left} others differ in one of them and are left out." if left else ".")
    )
    claims = {e.claim: e for report in reports.values() for e in report.evidence if e.value is not None}
    forget = [name for name, e in claims.items() if e.axis != "utility"]
    kept = [name for name, e in claims.items() if e.axis == "utility"]
    if not forget or not kept:
        absent("Forgotten against kept", "no audit here measured both what was forgotten and what was kept")
        return
    columns = st.columns(2)
    with columns[0]:
        x = choose("Forgotten, by claim", "x", forget, lambda n: f"{n}: {claims[n].question}", default=FORGET)
    with columns[1]:
        y = choose("Kept, by claim", "y", kept, lambda n: f"{n}: {claims[n].question}", default=KEPT)
    names = _names(reports)
    here = {names[name]: report for name, report in reports.items()}
    one = names[run.on.name]
    picture(
        tradeoff(here, x, y, one),
        "tradeoff",
        "Right and up is better. The dashed box is the margin round the model retrained without the concept.",
    )
    _table(reports, x, y)
    picture(
        all_claims(here, one),
        "claims",
        "Up is worse. In the grey band a difference counts as none; more than 12 margins are drawn at the edge.",
    )
    with_difference = [e for e in (*forget, *kept) if any(_has(r, e) for r in reports.values())]
    claim = choose("Claim", "claim", with_difference, lambda n: f"{n}: {claims[n].question}") if with_difference else ""
    if claim:
        picture(one_claim(here, claim, one), "forest", "Best on top. Intervals are 95%, not adjusted for many audits.")


def _has(report: AuditReport, claim: str) -> bool:
    return any(e.claim == claim and e.difference is not None for e in report.evidence)


def _alike(run: Opened, own: AuditReport) -> tuple[dict[str, AuditReport], int]:
    """Reports that may stand beside Run A's, by name of the run, and how many may not."""
    found, left = {run.on.name: own}, 0
    for other in chosen().runs:
        if other.level is None or other.name == run.on.name:
            continue
        try:
            report = Opened(other).report
        except BadInput:
            report = None
        if report is not None and comparable(report) == comparable(own):
            found[other.name] = report
        else:
            left += 1
    return found, left


def _names(reports: dict[str, AuditReport]) -> dict[str, str]:
    """Run -> what it is called: the model's name where no other has it, else the run's."""
    models = {name: r.roles["checkpoint"].name if "checkpoint" in r.roles else name for name, r in reports.items()}
    every = list(models.values())
    return {name: model if every.count(model) == 1 else name for name, model in models.items()}


def _table(reports: dict[str, AuditReport], x: str, y: str) -> None:
    """A row an audit; a click makes it Run A."""
    rows = []
    for name, report in reports.items():
        values = {e.claim: e.value.mean for e in report.evidence if e.value is not None}
        rows.append(
            {
                "run": name,
                "verdict": report.verdict,
                "knowledge": knowledge_of(report),
                "other knowledge": report.utility,
                x: values.get(x),
                y: values.get(y),
                "claims that fail": sum(e.status == "FAIL" for e in report.evidence),
            }
        )
    table = (
        pd.DataFrame(rows).sort_values(["verdict", x], ascending=[False, True], kind="stable").reset_index(drop=True)
    )

    def told() -> None:
        picked = ((st.session_state.get("audits") or {}).get("selection") or {}).get("rows") or ()
        if picked:
            st.session_state["run"] = str(table["run"].iloc[picked[0]])

    st.dataframe(
        table,
        hide_index=True,
        height=min(38 + 35 * len(table), 320),
        key="audits",
        on_select=told,
        selection_mode="single-row",
        alt=f"{len(table)} audits with verdict and the two claims.",
    )
    st.caption("Click a row to make it Run A.")
    download(table, "audits", "audits")


if __name__ == "__main__":
    page()
