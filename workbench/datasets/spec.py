"""How a concept is named: `source:which`, optionally `@place` and `?option=value&option=value`.

tofu:forget10                        from $WORKBENCH_DATA/tofu, else from the hub
tofu:forget10@/data/tofu             from that folder
tofu:forget10@org/name               from that hub repository (a mirror); `@org/name@revision` pins it
tofu:forget10@v1.0                   from the source's own repository, at that revision
tofu:forget10?limit=100&seed=1       at most 100 facts in every set but `forget`, another draw
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import BadInput, did_you_mean

FOLDER_VARIABLE = "WORKBENCH_DATA"
"""Environment variable that names the folder of all local data sets, a folder a source."""

REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
"""What a hub repository looks like, with or without a revision."""


class Draw(BaseModel):
    """What is taken of a source, and how its questions are put."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limit: int = Field(400, ge=1)
    """Most facts in every set but `forget`, and most passages in every list of texts."""
    forget_limit: int | None = Field(None, ge=1)
    """Most facts to forget; all when not given."""
    seed: int = Field(0, ge=0)
    """Which facts are drawn where there are more."""
    frame: Literal["qa", "plain"] = "qa"
    """`qa` writes Question: ... Answer: around a question; `plain` leaves it bare."""
    answer: Literal["letter", "text"] = "letter"
    """What answers a multiple-choice question: the letter of a choice, or its text (then the choices are not shown)."""


@dataclass(frozen=True)
class Wanted:
    """A concept as it was asked for."""

    spec: str
    """As the user wrote it."""
    source: str
    """Which source."""
    which: str
    """Which part of it."""
    at: str = ""
    """Folder, file, hub repository or revision; empty when the spec names none."""
    draw: Draw = Draw()
    """How much of it."""
    data: Path | None = None
    """Folder of all local data sets."""
    offline: bool = False
    """Whether the hub is out of bounds."""

    def named(self, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
        """`which`, when it is one of the known names.

        Raises:
            BadInput: with the nearest.
        """
        if self.which not in known:
            raise BadInput(f"{self.source} has no {what} {self.which!r}. {did_you_mean(self.which, known)}")
        return self.which

    def of(self, source: str) -> "Wanted":
        """The same place and draw, for a set that another source supplies; looked for beside this one's folder."""
        inside = self.at if self.at and Path(self.at).expanduser().is_dir() else ""
        return replace(self, source=source, at="", data=Path(inside).expanduser() if inside else self.data)


def parse(spec: str, data: Path | None = None, offline: bool = False, **draw: Any) -> Wanted:
    """Read a spec.

    Args:
        spec: as above.
        data: folder of all local data sets; the environment variable WORKBENCH_DATA when not given.
        offline: leave the hub alone.
        draw: options of `Draw`, which the spec's own options override.

    Raises:
        BadInput: for an option that does not exist or a value that is not allowed.
    """
    source, _, rest = spec.partition(":")
    named, question, options = rest.rpartition("?")
    if not question or "=" not in options:
        named, options = rest, ""
    which, _, at = named.partition("@")
    folder = os.environ.get(FOLDER_VARIABLE, "") if data is None else str(data)
    if folder and not Path(folder).expanduser().is_dir():
        said = f"${FOLDER_VARIABLE}" if data is None else "--data"
        raise BadInput(f"{said} names {folder!r}, which is no folder; name the folder that holds one folder a source")
    said_draw = {name: value for name, value in draw.items() if value is not None}
    return Wanted(
        spec,
        source,
        which.strip(),
        at.strip(),
        _draw(spec, {**said_draw, **_options(spec, options)}),
        Path(folder).expanduser() if folder else None,
        offline,
    )


def _options(spec: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        name, equals, value = part.partition("=")
        if not equals or name in found:
            raise BadInput(f"{part!r} in {spec!r} is no option, or is given twice; write ?name=value&name=value")
        found[name] = value
    return found


def _draw(spec: str, options: dict[str, Any]) -> Draw:
    for name in options:
        if name not in Draw.model_fields:
            raise BadInput(f"A concept has no option {name!r} ({spec!r}). {did_you_mean(name, Draw.model_fields)}")
    try:
        return Draw(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"Option {first['loc'][0]!r} of {spec!r}: {first['msg']}, got {first['input']!r}") from None
