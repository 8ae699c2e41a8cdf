"""The one place that writes: results to stdout, everything else to stderr.

With `--json` stdout holds exactly one JSON object. For people it holds tables, and the last line names the paths
written. Text that comes from models and files is shown as it is: no markup in it is obeyed and no control character
reaches the terminal.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH = 140
"""Columns of a table when stdout is no terminal, where nothing else says how wide a line may be."""


@dataclass(frozen=True)
class Screen:
    """How a command talks."""

    json: bool = False
    """Whether the result is one JSON object instead of tables."""
    quiet: bool = False
    """Whether stderr stays empty unless something is wrong."""

    def note(self, text: str) -> None:
        """One line on stderr for whoever watches."""
        if not self.quiet:
            complain(text)

    def result(self, payload: Mapping[str, Any], shown: Iterable[Any] = (), paths: Sequence[Path] = ()) -> None:
        """The outcome of a command.

        Args:
            payload: for `--json`; NaN in it is an error, because a missing number is null.
            shown: for people: texts and tables of `table`.
            paths: what was written; for people they are the last line.
        """
        if self.json:
            sys.stdout.write(json.dumps(dict(payload), allow_nan=False) + "\n")
            return
        from rich.console import Console

        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
        for part in shown:
            console.print(clean(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
        if paths:
            console.print("Wrote " + " ".join(map(str, paths)), soft_wrap=True)


def complain(text: str) -> None:
    """One message on stderr, not wrapped, so that it can be searched for."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Any:
    """A table for `Screen.result`; numbers stand on the right, None is shown as a dash."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = [tuple(row) for row in rows]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = bool(made) and all(isinstance(row[number], int | float | None) for row in made)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in made:
        shown.add_row(*(Text(cell(value)) for value in row))
    return Group(Text(clean(title)), shown) if title else shown


def cell(value: object) -> str:
    """A value as it stands in a table."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.3g}"
    return clean(str(value))


def clean(text: str) -> str:
    """The text without control characters, which could move the cursor or recolour the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
