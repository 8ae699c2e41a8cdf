"""Which checkpoint a text means, and what to call it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.model_remote_place import RemoteCheckpoint
    from workbench.opening import Opening

WITHIN_RUN = ("checkpoint", "guarded")
"""Names of the checkpoint, or guard, inside a run of `unlearn`."""


def checkpoint_at(text: Path | str, opening: "Opening | None" = None) -> "Checkpoint":
    """The checkpoint that a text means: a folder, a hub id, base+adapter, or a run of `unlearn`.

    One inside a run is called after its run.

    Raises:
        BadInput: when there is none.
    """
    from workbench.checkpoint import Checkpoint
    from workbench.checkpoint_files import is_folder
    from workbench.opening import Opening
    from workbench.store import MANIFEST

    how = opening or Opening()
    if not is_folder(str(text)):
        return Checkpoint(text, opening=how)
    path = Path(text).expanduser()
    made = [path / name for name in WITHIN_RUN if (path / name).is_dir()] if (path / MANIFEST).is_file() else []
    path = made[0] if made else path
    whole = path.resolve()
    return Checkpoint(path, whole.parent.name if whole.name in WITHIN_RUN else "", how)


def remote_at(text: str, opening: "Opening") -> "RemoteCheckpoint":
    """The model of that name on the deployment that the environment names.

    Raises:
        BadInput: when no deployment is named, or nothing is found of the model.
    """
    from workbench.model_remote_place import RemoteCheckpoint

    return RemoteCheckpoint(text, opening)
