"""`workbench audit`: is the knowledge gone from the parameters, or only from the mouth? A verdict with its evidence."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.audit_job import Job, audited, rejudged
from workbench.cli.console import Screen
from workbench.cli.failures import BELOW_REQUIRED, UNDECIDED
from workbench.cli.options import CHECKPOINT, AsJson, Out, Quiet, Seed, Settings, opens_models
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.evidence import AuditReport
    from workbench.opening import Opening

OPEN = ("NOT_RUN", "ERROR", "INCONCLUSIVE")
"""Statuses of a claim that leave it undecided."""


@opens_models
def audit(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECKPOINT...",
            help=f"The model that is said to have forgotten, or several made from one base. {CHECKPOINT}.",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="CHECKPOINT", help="The model it was made from.")
    ] = None,
    concept: Annotated[
        str | None,
        typer.Option(
            "--concept",
            metavar="SPEC",
            help="What it is said to have forgotten: demo:chemistry, tofu:forget10, or a file of facts "
            "(`workbench list concepts`).",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "--gold",
            metavar="CHECKPOINT",
            help="The model retrained without the concept; without it the level ends at U2.",
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="How much is asked: quick (outputs and stored states), standard (all that a level needs), "
            "full (stronger searches, and metrics others report).",
        ),
    ] = "standard",
    checks: Annotated[
        str | None,
        typer.Option(
            "--checks",
            metavar="NAMES",
            help="Ask these claims only, commas between: direct,lens,relearn. `workbench list claims`.",
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            metavar="FILE",
            help="Numbers of another tool, to stand in the report: OpenUnlearning's *_EVAL.json, lm-eval's "
            "results_*.json, an Inspect log. May be given many times.",
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

    Options of --set begin with `reading.` (what is read, with what budget) or `judging.` (margins). Several
    checkpoints share the readings of their base and reference, and each gets a run folder.
    """
    from workbench.cli.settings import parse_settings
    from workbench.cli.verdict import show

    screen, wanted = Screen(as_json, quiet), _level(require)
    groups = _grouped(parse_settings(settings), seed)
    if rejudge is not None:
        given = {"CHECKPOINT": checkpoints, "--base": base, "--reference": reference, "--concept": concept}
        _refuse_models({**given, "--checks": checks, "--beside": beside})
        outcomes = [rejudged(screen, rejudge, groups, out)]
    elif not checkpoints or base is None or concept is None:
        raise BadInput(
            "An audit needs CHECKPOINT, --base DIR (the model it was made from) and --concept SPEC; or "
            "--rejudge RUN for one that was run before"
        )
    else:
        named = None if checks is None else tuple(name.strip() for name in checks.split(",") if name.strip())
        job = Job(checkpoints, base, reference, concept, suite, named, beside or (), groups, out, opening)
        outcomes = list(audited(screen, job))
    show(screen, outcomes)
    _gate(screen, [report for report, _ in outcomes], wanted, strict)


def _gate(screen: Screen, reports: "list[AuditReport]", wanted: int | None, strict: bool) -> None:
    """Leave with the exit code of a verdict that is not good enough."""
    below = [r for r in reports if wanted is not None and r.level < wanted]
    for report in below:
        screen.note(f"{report.roles['checkpoint'].name}: the level U{report.level} is below the required U{wanted}")
    if below:
        raise typer.Exit(BELOW_REQUIRED)
    undecided = {r.roles["checkpoint"].name: names for r in reports if (names := _undecided(r))}
    for name, claims in undecided.items() if strict else ():
        screen.note(f"Undecided under --strict: {', '.join(claims)} ({name})")
    if strict and undecided:
        raise typer.Exit(UNDECIDED)


def _undecided(report: "AuditReport") -> list[str]:
    """Claims that were asked, that a verdict rests on, and that are open."""
    asked = [e for e in report.evidence if report.checks is None or e.claim in report.checks]
    return [e.claim for e in asked if e.status in OPEN and (e.rung is not None or e.axis == "utility")]


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
