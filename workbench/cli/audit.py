"""`workbench audit`: is the knowledge gone from the parameters, or only from the mouth? A verdict with its evidence."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen
from workbench.cli.failures import BELOW_REQUIRED, UNDECIDED
from workbench.cli.options import CHECKPOINT, AsJson, Out, Quiet, Seed, Settings, default_out, opens_models
from workbench.cli.progress import progress
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.evidence import AuditReport
    from workbench.opening import Opening

OPEN = ("NOT_RUN", "ERROR", "INCONCLUSIVE")
"""Statuses of a claim that leave it undecided."""


@opens_models
def audit(
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="CHECKPOINT", help=f"The model that is said to have forgotten. {CHECKPOINT}."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="CHECKPOINT", help="The model it was made from.")
    ] = None,
    concept: Annotated[
        str | None,
        typer.Option(
            "--concept", metavar="SPEC", help="What it is said to have forgotten: demo:chemistry, or a file of facts."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="CHECKPOINT",
            help="The model retrained without the concept; without it the level ends at U2.",
        ),
    ] = None,
    rejudge: Annotated[
        Path | None,
        typer.Option("--rejudge", metavar="RUN", help="Judge the stored readings of an audit again, without a model."),
    ] = None,
    require: Annotated[
        str | None, typer.Option("--require", metavar="LEVEL", help="Exit with 3 below this level, for instance U3.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 when a claim is undecided.")] = False,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    opening: "Opening",
) -> None:
    """Say whether knowledge is gone or only silenced.

    Options of --set begin with `reading.` (what is read, with what budget) or `judging.` (margins).
    """
    from workbench.cli.settings import parse_settings
    from workbench.cli.verdict import show

    screen, wanted = Screen(as_json, quiet), _level(require)
    groups = _grouped(parse_settings(settings), seed)
    if rejudge is not None:
        _refuse_models({"CHECKPOINT": checkpoint, "--base": base, "--reference": reference, "--concept": concept})
        report, folder = _rejudged(screen, rejudge, groups, out)
    elif checkpoint is None or base is None or concept is None:
        raise BadInput(
            "An audit needs CHECKPOINT, --base DIR (the model it was made from) and --concept SPEC; or "
            "--rejudge RUN for one that was run before"
        )
    else:
        roles = {"checkpoint": checkpoint, "base": base} | ({"reference": reference} if reference else {})
        report, folder = _audited(screen, roles, concept, groups, out, opening)
    show(screen, report, folder)
    _gate(screen, report, wanted, strict)


def _gate(screen: Screen, report: "AuditReport", wanted: int | None, strict: bool) -> None:
    """Leave with the exit code of a verdict that is not good enough."""
    if wanted is not None and report.level < wanted:
        screen.note(f"The level U{report.level} is below the required U{wanted}")
        raise typer.Exit(BELOW_REQUIRED)
    if strict and (undecided := [e.claim for e in report.evidence if e.status in OPEN]):
        screen.note(f"Undecided under --strict: {', '.join(undecided)}")
        raise typer.Exit(UNDECIDED)


def _level(required: str | None) -> int | None:
    from workbench.evidence import LEVELS

    names = [name for name, _, _ in LEVELS]
    if required is not None and required.upper() not in names:
        raise BadInput(f"No level called {required!r}. {did_you_mean(required.upper(), names)}")
    return None if required is None else names.index(required.upper())


def _grouped(settings: dict[str, Any], seed: int | None) -> dict[str, dict[str, Any]]:
    """`reading` and `judging` options; the seed is that of the resampling."""
    groups: dict[str, dict[str, Any]] = {"reading": {}, "judging": {}}
    for name, values in settings.items():
        if name not in groups:
            raise BadInput(
                f"No group of options called {name!r}: an audit's options begin with reading. or judging., "
                f"for instance --set judging.margin=0.1. {did_you_mean(name, groups)}"
            )
        if not isinstance(values, dict):
            raise BadInput(f"--set {name}={values!r} names no option; write --set {name}.OPTION=VALUE")
        groups[name] = values
    if seed is not None:
        if "seed" in groups["judging"]:
            raise BadInput("The seed is given twice: --seed and --set judging.seed; give it once")
        groups["judging"]["seed"] = seed
    return groups


def _refuse_models(given: dict[str, Any]) -> None:
    too_much = [name for name, value in given.items() if value is not None]
    if too_much:
        raise BadInput(f"--rejudge reads everything from the run; leave out {', '.join(too_much)}")


def _audited(
    screen: Screen,
    roles: dict[str, str],
    concept: str,
    groups: dict[str, dict[str, Any]],
    out: Path | None,
    opening: "Opening",
) -> "tuple[AuditReport, Path]":
    """Take the readings that are not there yet, and judge them."""
    from audits.auditor import audit as run_audit
    from audits.auditor import question_of
    from audits.judge import JudgeOptions
    from audits.read import ReadingOptions
    from workbench.cli.machine import prepare_torch
    from workbench.cli.subjects import checkpoint_at
    from workbench.datasets import load_concept
    from workbench.store import question_id

    prepare_torch(opening.device)
    reading, judging = ReadingOptions(**groups["reading"]), JudgeOptions(**groups["judging"])
    wanted, opened = load_concept(concept), {role: checkpoint_at(text, opening) for role, text in roles.items()}
    folder = out or default_out(
        "audit", opened["checkpoint"].name, question_id(question_of(opened, wanted, reading, judging))
    )
    with progress(screen) as step:
        report = run_audit(
            opened["checkpoint"],
            base=opened["base"],
            concept=wanted,
            reference=opened.get("reference"),
            out=folder,
            reading=reading,
            judging=judging,
            progress=step,
        )
    return report, folder


def _rejudged(
    screen: Screen, old: Path, groups: dict[str, dict[str, Any]], out: Path | None
) -> "tuple[AuditReport, Path]":
    """Judge what is stored again, into a run of its own: the old one stays as it was signed."""
    from audits.auditor import rejudge
    from audits.judge import JudgeOptions
    from workbench.report import read_report, read_traces, write_report
    from workbench.store import RunFolder, question_id

    if groups["reading"]:
        raise BadInput("--rejudge takes no new readings; leave out --set reading., or audit again")
    before = read_report(old)
    kept = {name: value for name, value in before.options["judging"].items() if name != "method"}
    judging = JudgeOptions(**(kept | groups["judging"]))
    question = {"verb": "rejudge", "run": before.run_id, "judging": judging.spec()}
    folder = out or default_out("rejudge", before.roles["checkpoint"].name, question_id(question))
    run = RunFolder.claim(folder, question)
    if run.finished:
        return read_report(run.path), run.path
    screen.note(f"Judging the readings of {old} again")
    with run.running():
        report = rejudge(old, judging).model_copy(update={"run_id": run.run_id})
        shutil.copytree(old / "traces", run.path / "traces", dirs_exist_ok=True)
        write_report(report, run.path, read_traces(run.path))
    return report, run.path
