"""Where the tables of a source lie: a folder, one file, or a hub repository.

A folder is looked through by the names that the table goes by (`Table.stems`): `forget10.json`, a folder of that name
as the hub lays it out (`forget10/train-00000-of-00001.parquet`) or as `datasets` saves it (`forget10/data-*.arrow`).
The hub is read through `datasets`, which executes no code of a data set (since version 4 it cannot), or, where
`Table.file` names one, as a plain file that we read ourselves.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from workbench.datasets.row import Row
from workbench.datasets.spec import FOLDER_VARIABLE, REPOSITORY, Wanted
from workbench.datasets.table_files import MAX_ROWS, READERS, rows_of
from workbench.errors import BadInput


class NoTable(BadInput):
    """A place that lacks a table; a source may go on without it."""


@dataclass(frozen=True)
class Table:
    """One table of a source, by its names."""

    stems: tuple[str, ...]
    """Names of its file or folder in a local folder, without ending; a * stands for anything."""
    config: str | None = None
    """Name of its configuration on the hub; None for the only one."""
    split: str = "train"
    """Name of its split on the hub."""
    file: str = ""
    """Path of its file on the hub, where it is no table that `datasets` knows."""
    repo: str = ""
    """Its hub repository, where that is not the source's own."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a CSV without a header."""


@dataclass(frozen=True)
class Folder:
    """A local folder, or one file of it."""

    path: Path
    """The folder, or the file that is the only table."""

    @property
    def said(self) -> str:
        """How it is called in a report."""
        return str(self.path)

    def rows(self, table: Table, head: int | None = None) -> list[Row]:
        """Every row of a table.

        Raises:
            NoTable: when the folder has no file of any of its names.
            BadInput: for a malformed file.
        """
        if self.path.is_file():
            if any(fnmatch(self.path.stem, Path(stem).name) for stem in table.stems):
                return rows_of([_readable(self.path)], table.columns, head)
            raise NoTable(f"{self.path} is not {' or '.join(table.stems)}; name a folder that has it")
        for stem in table.stems:
            if files := self._files(stem, table.split):
                return rows_of(files, table.columns, head)
        raise NoTable(
            f"{self.path} has no table {' or '.join(table.stems)} (.{', .'.join(e[1:] for e in READERS)}), "
            "nor a folder of that name with such files"
        )

    def _files(self, stem: str, split: str) -> list[Path]:
        for pattern in (f"{stem}.*", f"{stem}-*-of-*", *(f"{stem}/{one}" for one in _inside(split))):
            found = [path for path in self.path.glob(pattern) if path.suffix.lower() in READERS and path.is_file()]
            if found:
                kinds = sorted({path.suffix for path in found}, key=list(READERS).index)
                return sorted(path for path in found if path.suffix == kinds[0])
        return []


def _inside(split: str) -> tuple[str, ...]:
    name = escape(split)
    return (f"{name}.*", f"{name}-*-of-*", f"{name}/data-*.arrow", "data-*.arrow")


def _readable(path: Path) -> Path:
    if path.suffix.lower() not in READERS:
        raise BadInput(f"{path} ends in none of {', '.join(READERS)}, which is what is read")
    return path


@dataclass(frozen=True)
class Hub:
    """A repository of data sets on the Hugging Face hub."""

    repo: str
    """`org/name`; empty for a source that is not on the hub."""
    revision: str | None
    """Branch, tag or commit."""
    offline: bool
    """Whether only the local cache may be used."""
    where_else: str
    """What to do when it cannot be reached."""

    @property
    def said(self) -> str:
        """How it is called in a report."""
        return f"https://huggingface.co/datasets/{self.repo}" + (f" at {self.revision}" if self.revision else "")

    def rows(self, table: Table, head: int | None = None) -> list[Row]:
        """Every row of a table, through the hub's local cache.

        Raises:
            NoTable: when the repository lacks it.
            BadInput: when it cannot be reached.
        """
        repo = table.repo or self.repo
        if not repo:
            raise BadInput(f"It is not on the hub. {self.where_else}")
        if table.file:
            return rows_of([self._file(repo, table.file)], table.columns, head)
        return self._loaded(repo, table, head)

    def _file(self, repo: str, name: str) -> Path:
        from huggingface_hub import errors, hf_hub_download

        try:
            found = hf_hub_download(
                repo, name, repo_type="dataset", revision=self.revision, local_files_only=self._offline
            )
        except errors.RemoteEntryNotFoundError:
            raise NoTable(f"{repo!r} has no file {name!r}") from None
        except Exception as error:
            raise self._unreachable(repo, error) from None
        return Path(found)

    def _loaded(self, repo: str, table: Table, head: int | None) -> list[Row]:
        datasets = _datasets(self.where_else, self._offline)
        revision = self.revision if repo == self.repo else None
        where = f"{repo} {table.config or ''} {table.split}".replace("  ", " ")
        try:
            found = datasets.load_dataset(
                repo, table.config, split=table.split, revision=revision, streaming=head is not None
            )
            values = list(islice(found, MAX_ROWS + 1 if head is None else head))
        except ValueError as error:
            if "BuilderConfig" in str(error) or "split" in str(error).lower():
                raise NoTable(f"{where} is not on the hub: {_first_line(error)}") from None
            raise self._unreachable(repo, error) from None
        except Exception as error:
            raise self._unreachable(repo, error) from None
        if len(values) > MAX_ROWS:
            raise BadInput(f"{where} has more than {MAX_ROWS:,} rows, which is more than is read")
        return [Row(value, f"{where} row {number}") for number, value in enumerate(values, start=1)]

    @property
    def _offline(self) -> bool:
        said = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        return self.offline or said

    def _unreachable(self, repo: str, error: Exception) -> BadInput:
        state = "the network is off (--offline or HF_HUB_OFFLINE)" if self._offline else _first_line(error)
        kind = BadInput if repo == self.repo else NoTable
        return kind(
            f"{repo!r} is not in the local cache and could not be read from the hub: {state}. {self.where_else}"
        )


def _datasets(where_else: str, offline: bool) -> Any:
    """The library; offline it is told so before it looks, since it reads the environment only once."""
    try:
        datasets = import_module("datasets")  # by name: it comes without types
    except ImportError:
        raise BadInput(
            "Reading the hub needs the library `datasets`: pip install 'unlearning-workbench[data]'. Without it, "
            f"do this: {where_else}"
        ) from None
    if offline:
        datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


Place = Folder | Hub
"""Anything with `rows(table)` and `said`."""


def place_of(wanted: Wanted, repo: str, folder: str = "") -> Place:
    """Where to look for a source's tables: what the spec says, else the data folder, else the hub.

    Args:
        wanted: the concept as it was asked for.
        repo: the source's own hub repository; empty when there is none.
        folder: the source's folder in the data folder, when it is not called as the source.

    Raises:
        BadInput: when the spec names a place that does not exist.
    """
    folder = folder or wanted.source
    here = Path(wanted.at).expanduser()
    advice = (
        f"Put its files into a folder and name it: {wanted.source}:{wanted.which}@FOLDER, or set --data DIR "
        f"(or ${FOLDER_VARIABLE}) to a folder that has them in {folder}/"
    )
    if wanted.at and here.exists():
        return Folder(here)
    if wanted.at and REPOSITORY.match(wanted.at) and not wanted.at.startswith("."):
        named, _, revision = wanted.at.partition("@")
        taken = f"There is no folder {wanted.at!r} here, so it was taken for a repository of the hub. {advice}"
        return Hub(named, revision or None, wanted.offline, taken)
    if wanted.at and ("/" in wanted.at or wanted.at.startswith(("~", "."))):
        raise BadInput(f"There is no folder or file {wanted.at!r} (from {wanted.spec!r})")
    if not wanted.at and wanted.data is not None and (wanted.data / folder).is_dir():
        return Folder(wanted.data / folder)
    return Hub(repo, wanted.at or None, wanted.offline, advice)


def rows_if_any(place: Place, table: Table, head: int | None = None) -> list[Row]:
    """The rows of a table that a source may lack; no rows then."""
    try:
        return place.rows(table, head)
    except NoTable:
        return []


def rows_of_all(place: Place, tables: Sequence[Table]) -> list[Row]:
    """The rows of several tables, each of which may be missing."""
    return [row for table in tables for row in rows_if_any(place, table)]
