"""One's own facts from a file: JSON, YAML, or JSON Lines.

JSON and YAML hold one mapping: `forget` (a list of facts, required), and optionally `near`, `far`, `retain`,
`never_taught`, `attack_prompts` (lists of facts), `text`, `forget_texts`, `retain_texts`, `holdout_texts` (lists of
strings), `jailbreaks` (templates with {prompt}), `questions` (lists of strings by what they are about), `known_sites`,
`licence` and `source`. JSON Lines holds one fact a line, with an extra field `set` saying which of the lists it
belongs to (`forget` when absent). `workbench schema concept` prints the JSON schema, with `--example` a template.

YAML is read without anchors, aliases and tags: a small file with them can stand for a huge one, or for code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from workbench.concepts import FACT_SETS, TEXT_LISTS, Concept, Fact, FactSet, require_text
from workbench.datasets.table_files import text_of
from workbench.errors import BadInput, did_you_mean

WORDS = (*TEXT_LISTS, "known_sites")
"""Lists of strings a file may hold."""

SAID = ("licence", "source")
"""Single strings a file may hold."""

PARTS = (*FACT_SETS, *WORDS, "questions", *SAID)
"""Everything a file may hold."""

MAX_BYTES = 64 * 2**20
"""Largest file that is read."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"anchors and aliases are not read (line {self.peek_event().start_mark.line + 1})")
        return super().compose_node(parent, index)


def load(path: Path) -> Concept:
    """Read a concept from a file.

    Raises:
        BadInput: naming the row and the field that is wrong.
    """
    content = _content(path)
    for key in content:
        if key not in PARTS:
            raise BadInput(f"{path}: unknown part {key!r}. {did_you_mean(str(key), PARTS)}")
    licence, source = (_said(path, name, content.get(name, "")) for name in SAID)
    sets = {name: _facts(path, name, content.get(name, []), licence, source) for name in FACT_SETS}
    words = {name: _words(path, name, content.get(name, [])) for name in WORDS}
    _require_sites(path, words["known_sites"])
    return Concept(name=str(path), **sets, **words, questions=_questions(path, content.get("questions", {})))


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise BadInput(f"There is no concept file {str(path)!r}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadInput(f"{path} has {size / 2**20:,.0f} MiB; a concept file may have {MAX_BYTES // 2**20} MiB")
    text = text_of(path)
    try:
        if path.suffix == ".jsonl":
            return _by_set(path, text)
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, PlainLoader)  # noqa: S506
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        kind = path.suffix.removeprefix(".").upper()
        raise BadInput(f"{path} is not valid {kind}: {error}") from None
    if not isinstance(found, Mapping):
        raise BadInput(
            f"{path} holds a {type(found).__name__}; it should hold a mapping with at least 'forget', a list of facts"
        )
    return found


def _by_set(path: Path, text: str) -> dict[str, list[Any]]:
    """Facts by the set they belong to. Lines end at line feeds only: JSON may hold the other line separators."""
    grouped: dict[str, list[Any]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path} line {number} is not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number}: a fact is a JSON object, got {type(row).__name__}")
        name = row.pop("set", "forget")
        if name not in FACT_SETS:
            raise BadInput(f"{path} line {number}: there is no set {name!r}. {did_you_mean(str(name), FACT_SETS)}")
        grouped.setdefault(name, []).append(Fact.read(row, f"{path} line {number}"))
    return grouped


def _facts(path: Path, name: str, rows: Any, licence: str, source: str) -> FactSet:
    if not isinstance(rows, list):
        raise BadInput(f"{path}: {name!r} must be a list of facts, got {type(rows).__name__}")
    facts = tuple(
        row if isinstance(row, Fact) else Fact.read(row, f"{path}: {name} row {number}")
        for number, row in enumerate(rows, start=1)
    )
    return FactSet(name=f"{path.stem}/{name}", facts=facts, source=source or str(path), licence=licence)


def _words(path: Path, name: str, rows: Any) -> tuple[str, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise BadInput(f"{path}: {name!r} must be a list of strings")
    if name == "jailbreaks" and any(row.count("{prompt}") != 1 for row in rows):
        raise BadInput(f"{path}: every template in 'jailbreaks' must hold {{prompt}} exactly once")
    for number, row in enumerate(rows, start=1):
        _sound(path, f"{name} row {number}", row)
    return tuple(rows)


def _questions(path: Path, found: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: 'questions' must be a mapping of lists of strings, got {type(found).__name__}")
    return {str(about): _words(path, f"questions {about}", rows) for about, rows in found.items()}


def _said(path: Path, name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise BadInput(f"{path}: {name!r} must be a string, got {type(text).__name__}")
    _sound(path, name, text)
    return text


def _sound(path: Path, where: str, text: str) -> None:
    try:
        require_text(text)
    except ValueError as error:
        raise BadInput(f"{path}: {where}: {error}") from None


def _require_sites(path: Path, sites: tuple[str, ...]) -> None:
    from workbench.sites import Site

    for text in sites:
        try:
            Site.parse(text)
        except BadInput as error:
            raise BadInput(f"{path}: known_sites: {error}") from None
