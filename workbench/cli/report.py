"""`workbench report`: make the report of a run again from what is stored; needs no model."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.console import Screen
from workbench.cli.options import AsJson, Out, Quiet, Run
from workbench.errors import BadInput, did_you_mean

FILES = {"html": "report.html", "md": "report.md", "json": "report.json", "parquet": "evidence.parquet"}
"""Format -> the file it is written to."""


def report(
    run: Run,
    form: Annotated[
        str, typer.Option("--format", metavar="LIST", help=f"Which of {', '.join(FILES)}, with commas between.")
    ] = "html,md,json",
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw the report of an audit again.

    It goes into the run itself, or into --out.
    """
    from workbench.report import read_report, read_traces, write_report
    from workbench.store import write_atomically

    screen, names = Screen(as_json, quiet), _files(form)
    stored, traces = read_report(run), read_traces(run)
    screen.note(f"Drawing the report of {run}")
    with tempfile.TemporaryDirectory() as building:
        write_report(stored, Path(building), traces)
        paths = [write_atomically((out or run) / name, (Path(building) / name).read_bytes()) for name in names]
    if out is None:
        _sign(run, names)
    screen.result(
        {"verb": "report", "run": str(run), "verdict": stored.verdict, "paths": list(map(str, paths))},
        (f"{stored.verdict}",),
        paths,
    )


def _files(form: str) -> list[str]:
    names = [name.strip() for name in form.split(",") if name.strip()]
    for name in names:
        if name not in FILES:
            raise BadInput(f"No format called {name!r}. {did_you_mean(name, FILES)}")
    if not names:
        raise BadInput(f"--format names no format. There are: {', '.join(FILES)}")
    return [FILES[name] for name in dict.fromkeys(names)]


def _sign(run: Path, names: Sequence[str]) -> None:
    """Enter what was drawn anew into the manifest.

    report.json is the source of the others and keeps its old hash: one that was changed by hand must go on failing
    `workbench verify`.
    """
    from workbench.checkpoint import file_digest
    from workbench.store import MANIFEST, read_manifest, write_json

    if not (run / MANIFEST).is_file():
        return
    manifest = read_manifest(run)
    drawn = {name: file_digest(run / name) for name in names if name in manifest["files"] and name != FILES["json"]}
    write_json(run / MANIFEST, {**manifest, "files": manifest["files"] | drawn})
