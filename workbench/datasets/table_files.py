"""Rows of a local file: JSON, JSON Lines, CSV, Parquet, Arrow, or plain text.

Nothing in a file is ever executed: no pickles, no Python, no YAML objects. A file may have 512 MiB and a million
rows; more is refused before, or while, it is read. Files are read by ourselves and not through `datasets`, because a
malformed row must be named by its file and line, and because columns of mixed types (published concept files have ids
that are numbers here and text there) are no error to us.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from workbench.datasets.row import Row
from workbench.errors import BadInput

MAX_BYTES = 512 * 2**20
"""Largest file that is read."""

MAX_ROWS = 1_000_000
"""Most rows of a file."""

PASSAGE = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|$))+")
"""Lines with something in them, one after the other."""

BETWEEN = re.compile(r"[ \t\r\n]*")
"""White space of JSON."""


def rows_of(paths: Sequence[Path], columns: Sequence[str] = (), head: int | None = None) -> list[Row]:
    """Every row of files that hold one table, in the order of the files.

    Args:
        paths: the files, or the parts of one table.
        columns: names of the columns, for a CSV without a header and for rows that are lists.
        head: stop after so many rows; None for all.

    Raises:
        BadInput: naming the file, and the line where there is one.
    """
    made = (row for path in paths for row in _rows(path, columns))
    found = list(islice(made, MAX_ROWS + 1 if head is None else head))
    if len(found) > MAX_ROWS:
        raise BadInput(f"{paths[0]} has more than {MAX_ROWS:,} rows; cut it into smaller files")
    return found


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadInput(f"{path} has {size / 2**20:,.0f} MiB; files of up to {MAX_BYTES // 2**20} MiB are read. Cut it")
    kind = path.suffix.lower()
    for values, where in _csv(path, columns) if kind == CSV else READERS[kind](path):
        if isinstance(values, list) and columns and len(values) == len(columns):
            values = dict(zip(columns, values, strict=True))
        if isinstance(values, str):
            values = {"text": values}
        if not isinstance(values, dict):
            raise BadInput(f"{where}: a row is a JSON object, not a {type(values).__name__}")
        yield Row(values, where)


Found = Iterator[tuple[Any, str]]
"""Values, and where they stand."""


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        BadInput: when it cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}") from None


def _json(path: Path) -> Found:
    """A list of rows, one mapping, or JSON Lines under the name of JSON (as TOFU publishes them)."""
    text = text_of(path)
    if text.lstrip().startswith("["):
        yield from _elements(path, text)
        return
    try:
        value, end = json.JSONDecoder().raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError):
        end = -1
    if end >= 0 and not text[end:].strip():
        yield value, f"{path} line 1"
    else:
        yield from _json_lines(path)


def _elements(path: Path, text: str) -> Found:
    """The elements of a JSON list, each with its line."""
    decode, at, line, counted = json.JSONDecoder().raw_decode, text.index("[") + 1, 1, 0
    at = _skip(text, at)
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        value, at = _decoded(decode, text, at, f"{path} line {line}")
        yield value, f"{path} line {line}"
        at = _skip(text, at)
        if at < len(text) and text[at] == ",":
            at = _skip(text, at + 1)
        elif at >= len(text) or text[at] != "]":
            break
    if at >= len(text) or text[at] != "]" or text[at + 1 :].strip():
        line += text.count("\n", counted, min(at, len(text)))
        raise BadInput(f"{path} line {line} is not valid JSON: the list is not closed, or something stands after it")


def _skip(text: str, at: int) -> int:
    found = BETWEEN.match(text, at)
    return found.end() if found else at


def _decoded(decode: Callable[[str, int], tuple[Any, int]], text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        return decode(text, at)
    except ValueError as error:
        raise BadInput(f"{where} is not valid JSON: {str(error).partition(': line')[0]}") from None
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply to be a row of data") from None


def _json_lines(path: Path) -> Found:
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if line.strip():
            where = f"{path} line {number}"
            value, end = _decoded(json.JSONDecoder().raw_decode, line, len(line) - len(line.lstrip()), where)
            if line[end:].strip():
                raise BadInput(f"{where} is not valid JSON Lines: more stands after the first value")
            yield value, where


def _csv(path: Path, columns: Sequence[str]) -> Found:
    """With a header, unless the columns are known and the first line has none of their names."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if not names:
                headless = bool(columns) and not set(cells) & set(columns)
                names = list(columns) if headless else cells
                if not headless:
                    continue
            if len(cells) != len(names):
                raise BadInput(f"{where} has {len(cells)} cells; {len(names)} belong there: {', '.join(names)}")
            yield dict(zip(names, cells, strict=True)), where
    except csv.Error as error:
        raise BadInput(f"{path} line {reader.line_num} is not valid CSV: {error}") from None


def _parquet(path: Path) -> Found:
    import pyarrow.parquet

    return _batches(path, pyarrow.parquet.ParquetFile, "iter_batches")


def _arrow(path: Path) -> Found:
    """What `datasets` leaves behind when it saves a table to disk."""
    import pyarrow.ipc

    return _batches(path, pyarrow.ipc.open_stream, "__iter__")


def _batches(path: Path, open_file: Callable[[Any], Any], walk: str) -> Found:
    import pyarrow

    number = 0
    try:
        with path.open("rb") as stream:
            for batch in getattr(open_file(stream), walk)():
                for values in batch.to_pylist():
                    number += 1
                    yield values, f"{path} row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        kind = path.suffix.removeprefix(".")
        raise BadInput(f"{path} is no readable {kind} file: {str(error).splitlines()[0]}") from None


def _text(path: Path) -> Found:
    """Passages, with empty lines between them."""
    text, line, counted = text_of(path), 1, 0
    for passage in PASSAGE.finditer(text):
        line, counted = line + text.count("\n", counted, passage.start()), passage.start()
        yield passage[0].strip(), f"{path} line {line}"


CSV = ".csv"

READERS: dict[str, Callable[[Path], Found]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    CSV: partial(_csv, columns=()),
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text,
}
"""Ending of a file -> how it is read."""
