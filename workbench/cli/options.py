"""Options that several verbs share, so that they are called the same and read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

ConceptName = Annotated[
    str,
    typer.Option(
        "--concept",
        metavar="SPEC",
        help="What is to be forgotten: demo:chemistry, "
        "or a .json, .jsonl or .yaml file of facts. `workbench list concepts`.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An option of the method; may be given many times. `workbench list KIND NAME` shows them.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder to write into; by default one under runs/ named after the question."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything the method draws at random.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="Torch device: cpu, cuda, cuda:1, mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result to stdout as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Write nothing to stderr unless something is wrong.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def default_out(verb: str, name: str, run_id: str) -> Path:
    """Where a run goes when `--out` does not say: the same question always goes to the same folder."""
    return Path("runs") / f"{verb}-{name}-{run_id}"
