"""`workbench verify`: is every file of a run still what the run wrote?"""

import typer

from workbench.cli.console import Screen
from workbench.cli.failures import FAILED
from workbench.cli.options import AsJson, Quiet, Run


def verify(run: Run, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Hash every file of a run again.

    Exits with 1 when a file is missing or was changed.
    """
    from workbench.store import read_manifest
    from workbench.store import verify as problems_of

    screen, problems = Screen(as_json, quiet), problems_of(run)
    manifest = read_manifest(run)
    payload = {
        "verb": "verify",
        "run": str(run),
        "run_id": manifest["run_id"],
        "files": len(manifest["files"]),
        "problems": problems,
    }
    good = f"{run}: all {len(manifest['files'])} files are as the run wrote them"
    screen.result(payload, [f"{run}: {problem}" for problem in problems] or [good])
    if problems:
        raise typer.Exit(FAILED)
