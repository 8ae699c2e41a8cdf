"""`workbench demo`: the whole job on a small model that knows something, from training to a table of verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import AsJson, Out, Quiet, Seed
from workbench.cli.progress import progress

if TYPE_CHECKING:
    from workbench.cli.demo_job import Result


def demo(
    moe: Annotated[
        bool,
        typer.Option(
            "--moe",
            help="A mixture of experts (OLMoE architecture) instead of a dense model "
            "(Llama), its experts routed by topic in training; located by expert attribution.",
        ),
    ] = False,
    concept: Annotated[
        str, typer.Option("--concept", metavar="TOPIC", help="Topic of the embedded world that is unlearned.")
    ] = "chemistry",
    out: Out = None,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a model that knows something, unlearn it in several ways, and audit every result.

    The first run trains two small models (minutes); they are cached, and an interrupted run goes on where it stopped.
    """
    from workbench.cli.machine import prepare_torch

    prepare_torch("cpu")
    from workbench.cli.demo_job import DemoOptions, run

    screen = Screen(as_json, quiet)
    options = DemoOptions(kind="moe" if moe else "dense", concept=concept, seed=seed or 0)
    with progress(screen) as step:
        result = run(options, out or Path("runs") / ("demo-moe" if moe else "demo"), step)
    _show(screen, result)


def _show(screen: Screen, result: "Result") -> None:
    from workbench.cli.demo_job import COLUMNS

    payload = {"rows": result.rows, "contradiction": result.contradiction, "paths": [str(p) for p in result.paths]}
    rows = [[row[column] for column in COLUMNS] for row in result.rows]
    shown = [
        table(
            COLUMNS,
            rows,
            "What each removal left (shares of facts; probe and lens at their worst layer; relearn "
            "on facts the attacker did not train on)",
        )
    ]
    screen.result(payload, [*shown, result.contradiction or "No axis contradicts another."], result.paths)
