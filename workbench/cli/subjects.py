"""Which checkpoint a path means, and what to call it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint

WITHIN_RUN = "checkpoint"
"""Name of the checkpoint folder inside a run of `unlearn`."""


def checkpoint_at(path: Path) -> "Checkpoint":
    """The checkpoint in a folder, or in a run of `unlearn`; one inside a run is called after its run.

    Raises:
        BadInput: when there is none.
    """
    from workbench.checkpoint import Checkpoint
    from workbench.store import MANIFEST

    if (path / MANIFEST).is_file() and (path / WITHIN_RUN).is_dir():
        path = path / WITHIN_RUN
    whole = path.expanduser().resolve()
    return Checkpoint(path, whole.parent.name if whole.name == WITHIN_RUN else "")
