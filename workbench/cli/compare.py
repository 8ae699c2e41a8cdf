"""`workbench compare`: which weights of a checkpoint differ from its base, how much, and of which rank."""

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import AsJson, Out, Quiet, default_out, opens_models
from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.comparison import CompareOptions, Comparison
    from workbench.opening import Opening
    from workbench.store import RunFolder

STORED = "A folder or a hub id org/name[@revision]"
"""What can be compared: files, so no BASE+ADAPTER."""

IDLE = ("dtype", "device_map", "max_memory")
"""Ways of opening a model that mean nothing here, where tensors are compared as they are stored."""


@opens_models
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"The model before. {STORED}.")],
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="The model after, likewise.")],
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many of the most changed to show.")] = 10,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="singular_values (how many are kept), exact_below (largest matrix side with an exact spectrum), "
            "rank_tolerance, base_directions (held against the change's), overlap_below (largest matrix side for that) "
            "or seed (of the estimate); may be given many times.",
        ),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    opening: "Opening",
) -> None:
    """Say which tensors of a checkpoint differ from its base, how much and of which rank; no model is loaded."""
    from workbench.cli.compare_job import question_of
    from workbench.cli.settings import parse_settings
    from workbench.cli.subjects import checkpoint_at
    from workbench.comparison import CompareOptions, Comparison
    from workbench.store import RunFolder, question_id

    screen = Screen(as_json, quiet)
    idle = [f"--{name.replace('_', '-')}" for name in IDLE if getattr(opening, name) not in (None, "auto")]
    if idle:
        raise BadInput(f"{idle[0]} means nothing here: tensors are compared as they are stored. Leave it out")
    options = CompareOptions(**parse_settings(settings))
    before, after = checkpoint_at(base, opening), checkpoint_at(checkpoint, opening)
    question = question_of((before, after), options)
    run = RunFolder.claim(out or default_out("compare", after.name, question_id(question)), question)
    if run.finished:
        screen.note("These were compared before; showing what is stored")
    else:
        _compare(screen, run, (before, after), options)
    _show(screen, run, Comparison.load(run.path), top)


def _compare(
    screen: Screen, run: "RunFolder", pair: "tuple[Checkpoint, Checkpoint]", options: "CompareOptions"
) -> None:
    """Compare and store, with a bar for the tensors."""
    from workbench.cli.compare_job import make
    from workbench.cli.machine import prepare_torch
    from workbench.cli.progress import progress

    base, other = pair
    screen.note(f"Comparing {other.name} with {base.name}")
    prepare_torch(base.opening.device)
    with progress(screen) as step:
        make(run, pair, options, step)


def _show(screen: Screen, run: "RunFolder", made: "Comparison", top: int) -> None:
    """The sentence, what else differs, and the most changed tensors."""
    from workbench.comparison_words import MOST_CHANGED, most_changed

    paths = [run.path / f"comparison.{ending}" for ending in ("html", "parquet", "json")]
    paths = [path for path in paths if path.is_file()]
    rows, total = most_changed(made, top), len(made.changed)
    payload = {
        "verb": "compare",
        "run": str(run.path),
        "run_id": run.run_id,
        "base": made.base,
        "checkpoint": made.checkpoint,
        "sentence": made.sentence(),
        "summary": made.summary(),
        "notes": list(made.notes),
        "most_changed": [dict(zip(MOST_CHANGED, row, strict=True)) for row in rows],
        "paths": list(map(str, paths)),
    }
    title = f"Most changed{f' ({len(rows)} of {total})' if len(rows) < total else ''}"
    shown = [table(MOST_CHANGED, rows, title)] if rows else []
    screen.result(payload, (f"{made.sentence()}.", *made.notes, *shown), paths)
