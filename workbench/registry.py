"""`Registry`: an explicit table `name -> "module:Class"`, loaded only when a method is asked for.

A method is one frozen pydantic model (`Method`) whose fields are its options, each with a docstring under it: the
command line's help, the app's forms, the JSON schema and validation all come from that one place.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.errors import BadInput, did_you_mean


class Method(BaseModel):
    """A probe, intervention, attack or reading: options in, one verb.

    Raises:
        BadInput: for an option that does not exist or has a value that is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    donor_from: ClassVar[Literal["against", "checkpoint"]] = "against"
    """For a reading that needs another model: is the donor the one compared against, or the one asked about?"""

    def donor_reading(self) -> "Method | None":
        """What is read of the donor first and handed to `look(..., donor=trace)`; None when one model is enough."""
        return None

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in type(self).model_fields:
                raise BadInput(
                    f"{type(self).__name__} has no option {name!r}. {did_you_mean(name, type(self).model_fields)}"
                )
        try:
            super().__init__(**options)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            if not field:  # said by the options together
                said = first["msg"].removeprefix("Value error, ")
                raise BadInput(f"The options of {type(self).__name__} do not go together: {said}") from None
            raise BadInput(
                f"Option {field!r} of {type(self).__name__}: {first['msg']}, got {first['input']!r}"
            ) from None

    def spec(self) -> dict[str, Any]:
        """The options in JSON form, with the class they belong to: what a result remembers of how it was made."""
        return {"method": f"{type(self).__module__}:{type(self).__name__}", **self.model_dump(mode="json")}


class Registry(Mapping[str, str]):
    """A catalogue of methods of one kind.

    Args:
        kind: what an entry is called in messages, for instance `probe`.
        table: name -> "module:Class".
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)

    def load(self, name: str) -> type[Any]:
        """Import and return the class.

        Raises:
            BadInput: for a name that is not in the table, with the nearest one that is.
        """
        if name not in self._table:
            raise BadInput(f"No {self.kind} called {name!r}. {did_you_mean(name, self._table)}")
        module, _, attribute = self._table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __getitem__(self, name: str) -> str:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
