"""Data sets to load: real ones where they lie beside the repository, and rows made by hand in the form of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's own data folder."""
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data sets."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets are not here (../shared/data)")
    return SHARED


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write tables of rows into a folder: `.json` as a list, `.jsonl` as lines."""

    def made(folder: str = "data", **tables: Any) -> Path:
        root = tmp_path / folder
        for name, rows in tables.items():
            path = root / f"{name.replace('__', '/')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return root

    return made
