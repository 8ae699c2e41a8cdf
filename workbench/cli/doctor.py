"""`workbench doctor`: is this installation sound, and does a checkpoint's architecture prove itself?"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.doctor_model import examine
from workbench.cli.doctor_model import problems as problems_of
from workbench.cli.doctor_model import tables as tables_of
from workbench.cli.failures import FAILED
from workbench.cli.options import CHECKPOINT, AsJson, Quiet, opens_models

if TYPE_CHECKING:
    from workbench.opening import Opening

OURS = ("workbench", "probes", "interventions", "audits")
"""Our top-level packages; their names are plain enough for others to use them too."""

DISTRIBUTION = "unlearning-workbench"

FLAGS = (
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "WANDB_MODE",
    "TOKENIZERS_PARALLELISM",
    "WORKBENCH_THREADS",
    "WORKBENCH_CACHE_DIR",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    """Its name."""
    value: str
    """What was found."""
    ok: bool = True
    """Whether it is as it should be."""


@opens_models
def doctor(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CHECKPOINT]", help=f"Also check this model. {CHECKPOINT}.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    opening: "Opening",
) -> None:
    """Check the installation, and a checkpoint.

    Shows versions, devices and folders, looks for other packages of our names, and tries every self-check of the model.
    """
    from workbench.cli.machine import prepare_torch

    screen = Screen(as_json, quiet)
    prepare_torch(opening.device)
    findings = [*_installation(), *_devices(), *_folders(), *(Finding(f, os.environ.get(f, "not set")) for f in FLAGS)]
    model = None if checkpoint is None else examine(checkpoint, opening)
    problems = [f"{f.what}: {f.value}" for f in findings if not f.ok]
    problems += [] if model is None else problems_of(model)
    tables = [table(("what", "found", "state"), [(f.what, f.value, mark(f.ok)) for f in findings])]
    tables += [] if model is None else tables_of(model)
    screen.result(
        {"verb": "doctor", "findings": [asdict(f) for f in findings], "model": model, "problems": problems},
        [*tables, "All is well" if not problems else "\n".join(f"Problem: {text}" for text in problems)],
    )
    if problems:
        raise typer.Exit(FAILED)


def mark(ok: bool) -> str:
    """A word for a table."""
    return "ok" if ok else "PROBLEM"


def _installation() -> Iterator[Finding]:
    """Versions, and whether our packages are ours alone and lie together."""
    from workbench.store import environment

    found = environment()
    yield Finding("python", found["python"])
    yield Finding("machine", found["machine"])
    yield from (Finding(name, version) for name, version in found["packages"].items())
    yield Finding("commit", f"{found['commit'] or 'not a git checkout'}{' (changed)' if found['dirty'] else ''}")
    yield from clashes(metadata.packages_distributions())


def clashes(owners: Any) -> Iterator[Finding]:
    """One finding a package: does another distribution own its name, and does it lie beside the others?

    Args:
        owners: top-level package -> distributions that bring it, as `importlib.metadata` tells.
    """
    home = Path(__file__).resolve().parents[2]
    for name in OURS:
        others = sorted({owner for owner in owners.get(name, ()) if owner.lower().replace("_", "-") != DISTRIBUTION})
        spec = find_spec(name)
        place = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if others:
            yield Finding(
                f"package {name}",
                f"also brought by {', '.join(others)}; uninstall it (`pip uninstall "
                f"{others[0]}`) or give the workbench an environment of its own",
                ok=False,
            )
        elif place != home:
            yield Finding(
                f"package {name}",
                f"lies in {place}, the workbench in {home}: another package of that name "
                "is found first; run from another folder or use an environment of its own",
                ok=False,
            )
        else:
            yield Finding(f"package {name}", str(home / name))


def _devices() -> Iterator[Finding]:
    import torch

    from workbench.cli.machine import THREADS

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("cuda", ", ".join(names) or "none")
    yield Finding("mps", "available" if torch.backends.mps.is_available() else "none")
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} (set {THREADS} for large models)")


def _folders() -> Iterator[Finding]:
    """The cache folder, or its nearest parent that is there: can it be written?"""
    from workbench.cache import cache_folder

    folder = cache_folder()
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    told = str(folder) if writable else f"{folder} cannot be written; set WORKBENCH_CACHE_DIR"
    yield Finding("cache", told, writable)
