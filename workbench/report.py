"""A report on disk and back: one `AuditReport` in; JSON, HTML, Markdown, a model card's section and Parquet tables out.

`report.json` is the report; the other forms are made from it and from the stored readings, and can be made again
without a model. The HTML needs no network: style, script and data are inside, and a content policy forbids the rest.

Read it as: verdict and contradictions first, evidence by axis after it, what was not tried and cannot be said last.
Does not show: single facts and model outputs; those stay in the run folder.
"""

import io
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import ValidationError

from workbench.errors import BadInput
from workbench.evidence import SCHEMA_VERSION, AuditReport
from workbench.model_card import model_card
from workbench.report_items import item_tables, parquet_of
from workbench.report_view import head_of, view_of
from workbench.store import read_manifest, write_atomically, write_json
from workbench.templating import render
from workbench.trace import Trace

REPORT = "report.json"


def write_report(report: AuditReport, out: Path, traces: Mapping[str, Mapping[str, Trace]] | None = None) -> list[Path]:
    """Write report.json, report.html, report.md, model_card.md, evidence.parquet and items/*.parquet.

    Each file is written whole or not at all.

    Args:
        report: the outcome of an audit.
        out: folder to write into; made when absent.
        traces: role (`base`, `checkpoint`, `reference`) -> key (`logit_lens.forget`, `accuracy.forget.relearn`) ->
            trace; pictures are drawn from them. Without them their places say so.

    Returns:
        The paths written, report.json first.

    Raises:
        BadInput: when the folder cannot be written (read-only, disk full).
        ValueError: when an estimate is NaN; what was not measured is None with a reason.
    """
    view = view_of(report, traces, _argv(out))
    # Everything is made before anything is written: a report that cannot be rendered leaves the old files alone.
    page, text, table = _html(view), render("report.md", view), _parquet(report)
    section, items = model_card(report), item_tables(traces or {})
    return [
        write_json(out / REPORT, report.model_dump(mode="json")),
        write_atomically(out / "report.html", page.encode()),
        write_atomically(out / "report.md", text.encode()),
        write_atomically(out / "model_card.md", section.encode()),
        write_atomically(out / "evidence.parquet", table),
        *(write_atomically(out / "items" / f"{name}.parquet", parquet_of(found)) for name, found in items.items()),
    ]


def read_report(folder: Path) -> AuditReport:
    """The report in a folder.

    Raises:
        BadInput: when there is none, it is damaged, or a newer version wrote it.
    """
    path = folder / REPORT
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise BadInput(f"{str(folder)!r} has no {REPORT}; `workbench audit` with --out {folder} makes one") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is damaged: {error}. Run the audit again, or restore the file") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BadInput(
            f"{str(path)!r} was written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); update the workbench"
        )
    try:
        return AuditReport.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BadInput(
            f"{str(path)!r} is damaged: {where}: {first['msg']}. Run the audit again, or restore the file"
        ) from None


def read_traces(folder: Path) -> dict[str, dict[str, Trace]]:
    """The readings of a run, from `traces/<role>/<key>.safetensors` and `.json`: role -> key -> trace.

    Raises:
        BadInput: when a file is damaged or lacks its other half. A run without readings gives an empty dict.
    """
    found: dict[str, dict[str, Trace]] = {}
    for words in sorted((folder / "traces").glob("*/*.json")):
        # The words of a trace are written after its numbers, so a reading without them was interrupted and is not one.
        if not words.name.startswith("."):
            key = words.name.removesuffix(".json")
            found.setdefault(words.parent.name, {})[key] = Trace.load(words.with_name(key))
    return found


def card(report: AuditReport) -> str:
    """The verdict as a short HTML card for a notebook."""
    return render("card.html", head_of(report))


def _html(view: Mapping[str, Any]) -> str:
    return render("report.html", {**view, "style": report_style(), "plotly": Markup(get_plotlyjs())})


@cache
def report_style() -> Markup:
    """The style sheet of reports and of the demo page."""
    return Markup(resources.files("workbench").joinpath("templates/report.css").read_text("utf-8"))


def _parquet(report: AuditReport) -> bytes:
    """The evidence as a table; a missing number is null."""
    buffer = io.BytesIO()
    report.to_frame().convert_dtypes().to_parquet(buffer, index=False)
    return buffer.getvalue()


def _argv(out: Path) -> list[str]:
    """The command line of the run the report is written into; empty when it was called from a notebook or a test."""
    try:
        argv = read_manifest(out).get("argv")
    except BadInput:
        return []
    return [str(word) for word in argv] if isinstance(argv, list) and argv[:1] in (["audit"], ["demo"]) else []


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; a missing number must be null with a reason")
