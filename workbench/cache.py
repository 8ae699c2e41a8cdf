"""Where things that can be made again are kept: `$WORKBENCH_CACHE_DIR`, else the user's cache folder."""

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_folder() -> Path:
    """The cache folder; not made here."""
    return Path(os.environ.get("WORKBENCH_CACHE_DIR") or user_cache_dir("unlearning-workbench")).expanduser()
