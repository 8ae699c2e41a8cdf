"""Files of a hub repository, brought into the local cache; whoever reads them sees only a folder.

Only files that are read come down: never pickles or code unless the opening allows them. Every way a download can
fail is one sentence of `BadInput`.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.opening import Opening

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.pickle")
"""Files whose reading can run code."""

CODE = ("*.py", "*.so", "*.pyc")
"""Files that are code."""


def fetch(repo: str, revision: str | None, opening: "Opening", patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder of a hub repository in the cache, and the commit it is at.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit; the default branch when None.
        opening: says whether the network may be used, and whether pickles and code may come.
        patterns: names of the files that are wanted.

    Raises:
        BadInput: when it is not in the cache and cannot be brought there.
    """
    from huggingface_hub import snapshot_download

    offline = is_offline(opening)
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[*patterns, *(CODE[:1] if opening.trust_remote_code else ())],
            ignore_patterns=refused_files(opening),
            local_files_only=offline,
        )
    except Exception as error:
        raise BadInput(_sentence(error, repo, revision, offline)) from None
    return Path(folder), Path(folder).name


def refused_files(opening: "Opening") -> list[str]:
    """Patterns of files that are not fetched: folders, and what can run code unless the opening allows it."""
    pickles = () if opening.allow_pickle else PICKLES
    code = CODE[1:] if opening.trust_remote_code else CODE
    return ["*/*", *pickles, *code]


def is_offline(opening: "Opening") -> bool:
    """Whether the network is out of bounds, by the opening or by the environment."""
    from huggingface_hub.constants import is_offline_mode

    said = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return bool(opening.offline or said or is_offline_mode())


def _sentence(error: Exception, repo: str, revision: str | None, offline: bool) -> str:
    """What went wrong with a download, and what to do."""
    from huggingface_hub import errors

    what = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    if isinstance(error, errors.IncompleteSnapshotError):
        return f"{what} is only partly in the local cache. Open it once with a connection, without --offline"
    if isinstance(error, errors.LocalEntryNotFoundError) and offline:
        return (
            f"There is no folder {repo!r} here, and {what} is not in the local cache, while the network is off "
            f"(--offline or HF_HUB_OFFLINE). Bring it with `hf download {repo}"
            f"{f' --revision {revision}' if revision else ''}` where there is a connection, or give a folder"
        )
    if isinstance(error, errors.GatedRepoError):
        return f"{what} is gated. Accept its terms on https://huggingface.co/{repo} and log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"The hub's {repo!r} has no revision {revision!r}. Give one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no folder {repo!r} here, and no public model of that name on the hub. Check the spelling; "
            "for a private one log in with `hf auth login`"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{what} is no name the hub could have: {str(error).splitlines()[0]}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return f"Cannot write {what} into the hub's cache: {error.strerror}. Free some space, or set HF_HOME"
    return (
        f"There is no folder {repo!r} here, {what} is not in the local cache, and the hub cannot be reached "
        f"({type(error).__name__}). Check the connection, or give a folder"
    )
