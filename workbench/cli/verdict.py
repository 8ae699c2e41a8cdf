"""A verdict on the terminal: the level, what caps it, where mouth and inside disagree, and every claim."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.console import Screen, table
from workbench.guard_folder import WARNING

if TYPE_CHECKING:
    from workbench.evidence import AuditReport, Estimate, Evidence

FILES = ("report.html", "report.md", "report.json")


def show(screen: Screen, outcomes: "Sequence[tuple[AuditReport, Path]]") -> None:
    """Write the outcome of one audit, or of several as a table."""
    paths = [folder / name for _, folder in outcomes for name in FILES]
    payloads = [_payload(report, folder) for report, folder in outcomes]
    if len(outcomes) == 1:
        report = outcomes[0][0]
        shown = (*_lines(report), claims_table(report), *_not_asked(report), *_standard(report))
        screen.result(payloads[0], shown, paths)
    else:
        screen.result({"verb": "audit", "audits": payloads}, (reports_table([r for r, _ in outcomes]),), paths)


def _payload(report: "AuditReport", folder: Path) -> dict[str, Any]:
    return {
        "verb": "audit",
        "run": str(folder),
        "run_id": report.run_id,
        "verdict": report.verdict,
        "report": report.model_dump(mode="json"),
        "paths": [str(folder / name) for name in FILES],
    }


def _lines(report: "AuditReport") -> list[str]:
    return [
        f"Verdict     {report.verdict}",
        *([f"Guard       {WARNING}"] if report.roles["checkpoint"].guard else []),
        *(f"Warning     {sentence}" for sentence in report.warnings),
        *([f"Capped by   {report.capped_by}"] if report.capped_by else []),
        f"Knowledge   {report.knowledge_words}",
        f"Utility     {report.utility}: {report.utility_reason}",
        *(f"But         {sentence}" for sentence in report.contradictions),
    ]


def reports_table(reports: "Sequence[AuditReport]") -> Any:
    """One row a checkpoint."""
    columns = ("checkpoint", "verdict", "knowledge", "utility", "capped by", "strongest contradiction")
    rows = [
        (
            r.roles["checkpoint"].name,
            r.verdict,
            r.knowledge,
            r.utility,
            r.capped_by,
            (r.contradictions or r.warnings or ("",))[0],
        )
        for r in reports
    ]
    return table(columns, rows)


def claims_table(report: "AuditReport") -> Any:
    """One row a claim that was asked, undecided ones with their reason."""
    columns = ("level", "claim", "status", "base", "checkpoint", "control", "compared with", "note")
    return table(columns, [_row(e) for e in report.evidence if report.checks is None or e.claim in report.checks])


def _not_asked(report: "AuditReport") -> list[str]:
    """Claims that were not asked, in one line."""
    names = [e.claim for e in report.evidence if report.checks is not None and e.claim not in report.checks]
    return [f"Not asked   {', '.join(names)} (--suite full, or --checks NAMES)"] if names else []


def _standard(report: "AuditReport") -> list[Any]:
    """The numbers papers report, where there are any."""
    if not report.standard:
        return []
    rows = [
        (s.name, *(_number(value) for value in (s.base, s.value, s.reference)), s.unit, s.why_missing or s.entered)
        for s in report.standard
    ]
    return [
        "Numbers papers report (they decide nothing)",
        table(("number", "base", "checkpoint", "reference", "unit", "made of"), rows),
    ]


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}"


def _row(e: "Evidence") -> tuple[object, ...]:
    control = e.before if e.compared_with == "base" else e.reference if e.compared_with == "reference" else e.floor
    note = e.why_missing or (f"at {e.where}" if e.where else "")
    return (
        f"U{e.rung}" if e.rung is not None else "utility" if e.axis == "utility" else "—",
        e.claim,
        e.status,
        _estimate(e.before),
        _estimate(e.value),
        _estimate(control),
        e.compared_with,
        note,
    )


def _estimate(estimate: "Estimate | None") -> str:
    return "—" if estimate is None else f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
