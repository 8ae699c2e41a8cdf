"""One's own facts from a file: JSON, YAML, or JSON Lines.

JSON and YAML hold one mapping: `forget` (a list of facts, required), and optionally `near`, `far`, `retain`,
`never_taught` (lists of facts), `text` (a list of strings) and `jailbreaks` (templates with {prompt}). JSON Lines holds
one fact a line, with an extra field `set` saying which of the lists it belongs to (`forget` when absent).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from workbench.concepts import Concept, Fact, FactSet
from workbench.errors import BadInput, did_you_mean

SETS = ("forget", "near", "far", "retain", "never_taught")
"""Lists of facts a file may hold."""

WORDS = ("text", "jailbreaks")
"""Lists of strings a file may hold."""


def load(path: Path) -> Concept:
    """Read a concept from a file.

    Raises:
        BadInput: naming the row and the field that is wrong.
    """
    content = _content(path)
    for key in content:
        if key not in (*SETS, *WORDS):
            raise BadInput(f"{path}: unknown part {key!r}. {did_you_mean(key, (*SETS, *WORDS))}")
    sets = {name: _facts(path, name, content.get(name, [])) for name in SETS}
    return Concept(name=str(path), **sets, **{name: _words(path, name, content.get(name, [])) for name in WORDS})


def _content(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"There is no concept file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Cannot read the concept file {str(path)!r}: {error}") from None
    try:
        if path.suffix == ".jsonl":
            return _by_set(path, [json.loads(line) for line in text.splitlines() if line.strip()])
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is not valid {path.suffix.removeprefix('.').upper()}: {error}") from None
    if not isinstance(found, Mapping):
        raise BadInput(
            f"{path} holds a {type(found).__name__}; it should hold a mapping with at least 'forget', a list of facts"
        )
    return found


def _by_set(path: Path, rows: list[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number}: a fact is a JSON object, got {type(row).__name__}")
        grouped.setdefault(row.pop("set", "forget"), []).append(row)
    return grouped


def _facts(path: Path, name: str, rows: Any) -> FactSet:
    if not isinstance(rows, list):
        raise BadInput(f"{path}: {name!r} must be a list of facts, got {type(rows).__name__}")
    facts = tuple(Fact.read(row, f"{path}: {name} row {number}") for number, row in enumerate(rows, start=1))
    return FactSet(name=f"{path.stem}/{name}", facts=facts, source=str(path))


def _words(path: Path, name: str, rows: Any) -> tuple[str, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise BadInput(f"{path}: {name!r} must be a list of strings")
    if name == "jailbreaks" and any(row.count("{prompt}") != 1 for row in rows):
        raise BadInput(f"{path}: every template in 'jailbreaks' must hold {{prompt}} exactly once")
    return tuple(rows)
