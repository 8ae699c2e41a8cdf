"""Trade-off: which of the audited checkpoints forgets most and breaks least?"""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.evidence import AuditReport
from workbench.figures_claims import all_claims, one_claim
from workbench.figures_groups import BASE, REFERENCE, UNKNOWN, Groups, groups_by, options_of
from workbench.figures_style import plain
from workbench.figures_tradeoff import comparable, tradeoff
from workbench.makers import made_on, settings_of
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.picture import download, head, many_marks, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, knowledge_of
from workbench.pages.frame.url import choose, several

FORGET, KEPT = "direct", "near"
"""Claims the axes begin with."""

NOTHING = "nothing"
"""Not grouped."""

Reports = Mapping[str, AuditReport]
"""Name of the run -> its report."""


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
    settings, columns = _settings(reports), st.columns(3)
    with columns[0]:
        x = choose("Forgotten, by claim", "x", forget, lambda n: f"{n}: {claims[n].question}", default=FORGET)
    with columns[1]:
        y = choose("Kept, by claim", "y", kept, lambda n: f"{n}: {claims[n].question}", default=KEPT)
    with columns[2]:
        by = choose("Colour and mark by", "by", [NOTHING, *options_of(settings)], tip="How each checkpoint was made.")
    groups = None if by == NOTHING else groups_by(settings, by)
    _scatter(reports, x, y, groups, settings)
    names = _names(reports)
    here, one = {names[name]: report for name, report in reports.items()}, names[run.on.name]
    picture(
        all_claims(here, one, _renamed(groups, names)),
        "claims",
        "Up is worse. In the grey band a difference counts as none; more than 12 margins are drawn at the edge.",
    )
    with_difference = [e for e in (*forget, *kept) if any(_has(r, e) for r in reports.values())]
    claim = choose("Claim", "claim", with_difference, lambda n: f"{n}: {claims[n].question}") if with_difference else ""
    if claim:
        picture(one_claim(here, claim, one), "forest", _forest_words(reports, claim))


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


def _names(reports: Reports) -> dict[str, str]:
    """Run -> what it is called: the model's name where no other has it, else the run's."""
    models = {name: r.roles["checkpoint"].name if "checkpoint" in r.roles else name for name, r in reports.items()}
    every = list(models.values())
    return {name: model if every.count(model) == 1 else name for name, model in models.items()}


def _settings(reports: Reports) -> dict[str, dict[str, str]]:
    """Run -> how its checkpoint was made, found by the digests of its files among what the shelf's runs wrote."""
    made, found = made_on(chosen().every), {}
    manifests = {run.name: run.manifest or {} for run in chosen().runs}
    itself = {
        report.roles[role].digest: words
        for role, words in (("base", BASE), ("reference", REFERENCE))
        for report in reports.values()
        if role in report.roles
    }
    for name, report in reports.items():
        own = report.roles["checkpoint"].digest if "checkpoint" in report.roles else ""
        shards = (manifests.get(name, {}).get("inputs") or {}).get("checkpoint") or {}
        found[name] = {"itself": itself[own]} if own in itself else settings_of(shards, made)
    return found


def _renamed(groups: Groups | None, names: Mapping[str, str]) -> Groups | None:
    """Groups by the names that pictures give the runs."""
    return None if groups is None else Groups(groups.by, {names[run]: value for run, value in groups.of.items()})


def _scatter(
    reports: Reports, x: str, y: str, groups: Groups | None, settings: Mapping[str, Mapping[str, str]]
) -> None:
    """The picture whose marks can be clicked or boxed, the box that does the same by keyboard, and their table."""
    names, one = _names(reports), chosen().run.on.name
    place = st.container()  # the box is made first, because the picture rings what it says
    listed = several(
        "Audits in the table", "runs", list(reports), names.__getitem__, "None: all. Clicks and boxes set it too."
    )

    def told(picked: list[str]) -> None:
        st.session_state["runs"] = [run for run in reports if plain(names[run]) in picked]

    with place:
        many_marks(
            tradeoff(
                {names[run]: report for run, report in reports.items()},
                x,
                y,
                names[one],
                _renamed(groups, names),
                [names[run] for run in listed],
            ),
            "tradeoff",
            told,
            "Right and up is better. The dashed box is the margin round the model retrained without the concept. Click "
            "marks (with shift for several), or drag a box, to have them alone in the table.",
        )
    if groups is not None and UNKNOWN in groups.of.values():
        st.caption(
            "Not recorded: no finished run of `workbench unlearn` or `workbench demo` in the runs folder wrote these "
            "files. Checkpoints are matched by the sha256 of every file."
        )
    _table({run: reports[run] for run in listed or reports}, x, y, settings)


def _table(reports: Reports, x: str, y: str, settings: Mapping[str, Mapping[str, str]]) -> None:
    """A row an audit; a click makes it Run A."""
    by = st.session_state.get("by", NOTHING)
    shown = dict.fromkeys(["method", "seed", *([by] if by != NOTHING else [])])
    rows = []
    for name, report in reports.items():
        values = {e.claim: e.value.mean for e in report.evidence if e.value is not None}
        rows.append(
            {
                "run": name,
                x: values.get(x),
                y: values.get(y),
                **{option: groups_by({name: settings[name]}, option).of[name] for option in shown},
                "claims that fail": sum(e.status == "FAIL" for e in report.evidence),
                "verdict": report.verdict,
                "other knowledge": report.utility,
                "knowledge": knowledge_of(report),
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


def _forest_words(reports: Reports, claim: str) -> str:
    """What stands under the forest: how its marks came about, or why there are none."""
    found = [e for r in reports.values() for e in r.evidence if e.claim == claim and e.p_equivalence is not None]
    told = "Best on top. Intervals are 95%, not adjusted for many audits."
    if any(e.equivalent is not None for e in found):
        return (
            f"{told} p is of two one-sided tests for equivalence to the reference, Holm-adjusted over the primary "
            "claims of that audit; ≡ and a ring mark what is at most 0.05. A fail rests on the interval and has no p."
        )
    if any(e.p_unadjusted is not None for e in found):
        return f"{told} This claim is not a primary one, so its p of equivalence is not adjusted and bears no mark."
    if found:
        return f"{told} No marks: an older version made these audits, which did not tell which p were adjusted."
    return f"{told} No marks: equivalence is tested against a retrained reference, and only for claims about knowledge."


if __name__ == "__main__":
    page()
