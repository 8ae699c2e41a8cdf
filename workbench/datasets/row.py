"""One row of somebody else's table, which says where it stands when a field of it is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.concepts import Fact, require_text
from workbench.errors import BadInput


@dataclass(frozen=True)
class Row:
    """Untrusted values, and where they were found."""

    values: Mapping[str, Any]
    """Column -> value, of any type."""
    where: str
    """File and line, or table of the hub and row, for messages."""

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """A text that is not empty.

        Raises:
            BadInput: naming the row and the field.
        """
        if name not in self:
            has = ", ".join(map(repr, self.values)) or "none"
            raise BadInput(f"{self.where}: field {name!r} is missing; the row has {has}")
        return self._sound(name, self.values[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when the row has no such field."""
        found = self.values.get(name)
        if found is None:
            return ()
        if not isinstance(found, Sequence) or isinstance(found, str | bytes):
            raise self._wrong(name, "a list of texts", found)
        return tuple(self._sound(name, value) for value in found)

    def number(self, name: str, below: int | None = None) -> int:
        """A whole number from 0, or its digits.

        Args:
            name: the field.
            below: what it must be smaller than.
        """
        found = self.values.get(name)
        if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 10:
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0 or (below is not None and found >= below):
            raise self._wrong(name, f"a whole number from 0{'' if below is None else f' to {below - 1}'}", found)
        return found

    def row(self, name: str) -> "Row":
        """A mapping inside this one."""
        found = self.values.get(name)
        if not isinstance(found, Mapping):
            raise self._wrong(name, "a mapping", found)
        return Row(found, f"{self.where}, {name}")

    def rows(self, name: str) -> list["Row"]:
        """A list of mappings inside this one."""
        found = self.values.get(name)
        if not isinstance(found, Sequence) or isinstance(found, str | bytes):
            raise self._wrong(name, "a list of mappings", found)
        if not all(isinstance(one, Mapping) for one in found):
            raise self._wrong(name, "a list of mappings", next(one for one in found if not isinstance(one, Mapping)))
        return [Row(one, f"{self.where}, {name} {number}") for number, one in enumerate(found, start=1)]

    def fact(self, **fields: Any) -> Fact:
        """A fact made from this row.

        Raises:
            BadInput: naming the row.
        """
        return Fact.read(fields, self.where)

    def wrong(self, what: str) -> BadInput:
        """The error that says what is wrong with this row."""
        return BadInput(f"{self.where}: {what}")

    def _sound(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, "text that is not empty", value)
        try:
            require_text(value)
        except ValueError as error:
            raise self.wrong(f"field {name!r}: {error}") from None
        return value.strip()

    def _wrong(self, name: str, wanted: str, found: object) -> BadInput:
        said = repr(found) if len(repr(found)) < 60 else f"a {type(found).__name__}"
        return self.wrong(f"field {name!r} should hold {wanted}, not {said}")
