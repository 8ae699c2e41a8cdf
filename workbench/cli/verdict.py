"""A verdict on the terminal: the level, what caps it, where mouth and inside disagree, and every claim."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.console import Screen, table
from workbench.guard_folder import WARNING

if TYPE_CHECKING:
    from workbench.evidence import AuditReport, Estimate, Evidence

FILES = ("report.html", "report.md", "report.json")


def show(screen: Screen, report: "AuditReport", folder: Path) -> None:
    """Write the outcome of an audit."""
    paths = [folder / name for name in FILES]
    payload = {
        "verb": "audit",
        "run": str(folder),
        "run_id": report.run_id,
        "verdict": report.verdict,
        "report": report.model_dump(mode="json"),
        "paths": list(map(str, paths)),
    }
    lines = [
        f"Verdict     {report.verdict}",
        *([f"Guard       {WARNING}"] if report.roles["checkpoint"].guard else []),
        *([f"Capped by   {report.capped_by}"] if report.capped_by else []),
        f"Utility     {report.utility}: {report.utility_reason}",
        *(f"But         {sentence}" for sentence in report.contradictions),
    ]
    screen.result(payload, (*lines, claims_table(report)), paths)


def claims_table(report: "AuditReport") -> Any:
    """One row a claim, undecided ones with their reason."""
    columns = ("level", "claim", "status", "base", "checkpoint", "control", "compared with", "note")
    return table(columns, map(_row, report.evidence))


def _row(e: "Evidence") -> tuple[object, ...]:
    control = e.before if e.compared_with == "base" else e.reference if e.compared_with == "reference" else e.floor
    note = e.why_missing or (f"at {e.where}" if e.where else "")
    return (
        "utility" if e.rung is None else f"U{e.rung}",
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
