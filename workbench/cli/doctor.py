"""`workbench doctor`: is this installation sound, and does a checkpoint's architecture prove itself?"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.failures import FAILED
from workbench.cli.options import AsJson, Device, Quiet

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


def doctor(
    checkpoint: Annotated[Path | None, typer.Argument(metavar="[CHECKPOINT]", help="Also check this model.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the installation, and a checkpoint.

    Shows versions, devices and folders, looks for other packages of our names, and tries every self-check of the model.
    """
    from workbench.cli.machine import prepare_torch

    screen = Screen(as_json, quiet)
    prepare_torch(device)
    findings = [*_installation(), *_devices(), *_folders(), *(Finding(f, os.environ.get(f, "not set")) for f in FLAGS)]
    checks = [] if checkpoint is None else _checks(checkpoint, device)
    problems = [f"{f.what}: {f.value}" for f in findings if not f.ok]
    problems += [f"{row['name']}: deviation {amount(row['deviation'])}" for row in checks if not row["passed"]]
    tables = [table(("what", "found", "state"), [(f.what, f.value, mark(f.ok)) for f in findings])]
    if checks:
        rows = [(row["name"], row["deviation"], mark(row["passed"])) for row in checks]
        tables.append(table(("self-check", "deviation", "state"), rows, str(checkpoint)))
    screen.result(
        {"verb": "doctor", "findings": [asdict(f) for f in findings], "checks": checks, "problems": problems},
        [*tables, "All is well" if not problems else "\n".join(f"Problem: {text}" for text in problems)],
    )
    if problems:
        raise typer.Exit(FAILED)


def mark(ok: bool) -> str:
    """A word for a table."""
    return "ok" if ok else "PROBLEM"


def amount(deviation: float | None) -> str:
    """A deviation in a sentence."""
    return "not a number" if deviation is None else f"{deviation:.2g}"


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


def _checks(checkpoint: Path, device: str) -> list[dict[str, Any]]:
    """Every identity of the architecture, without refusing the model for a failed one."""
    from workbench.cli.subjects import checkpoint_at
    from workbench.model_check import check

    with checkpoint_at(checkpoint).open(device, check=False) as model:
        return [
            {"name": c.name, "deviation": c.deviation if math.isfinite(c.deviation) else None, "passed": c.passed}
            for c in check(model)
        ]
