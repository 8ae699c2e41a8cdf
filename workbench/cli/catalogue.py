"""What there is, told without importing it: names and first sentences are read from the source text.

Only a question about one method imports its module, because its options are then shown with their defaults.
"""

import ast
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from workbench.errors import RunError

if TYPE_CHECKING:
    from workbench.registry import Registry

METHODS = {
    "probes": "probes:PROBES",
    "behaviour": "audits.behaviour:BEHAVIOUR",
    "privacy": "audits.privacy:PRIVACY",
    "interventions": "interventions:INTERVENTIONS",
    "attacks": "audits.attacks:ATTACKS",
}
"""Kinds of methods -> where their catalogue is."""

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
"""How pydantic calls a bound -> how it is written."""


def catalogue_of(kind: str) -> "Registry":
    """The catalogue of a kind of method; importing it imports none of its methods."""
    module, _, name = METHODS[kind].partition(":")
    found: Registry = getattr(import_module(module), name)
    return found


def first_lines(catalogue: Mapping[str, str]) -> dict[str, str]:
    """Name -> first line of the module's docstring, or of the class's where methods share a module."""
    modules = [place.partition(":")[0] for place in catalogue.values()]
    found = {}
    for name, place in catalogue.items():
        module, _, class_name = place.partition(":")
        tree = _tree(module)
        node: ast.Module | ast.ClassDef = (
            tree
            if modules.count(module) == 1
            else next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
        )
        found[name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return found


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise RunError(f"The catalogue names the module {module}, which is not installed; reinstall the workbench")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def method_card(catalogue: "Registry", kind: str, name: str) -> dict[str, Any]:
    """Everything a reader should know of one method: its documentation, its source and its options."""
    found = catalogue.load(name)
    docs = (import_module(found.__module__).__doc__ or "").strip()
    options = [
        {
            "name": option,
            "type": type_words(field.annotation, field.metadata),
            "default": field.get_default(call_default_factory=True),
            "doc": " ".join((field.description or "").split()),
        }
        for option, field in found.model_fields.items()
    ]
    return {
        "kind": kind,
        "name": name,
        "class": catalogue[name],
        "about": (found.__doc__ or "").strip(),
        "docs": docs,
        "options": [{**row, "default": plain(row["default"])} for row in options],
        "schema": found.model_json_schema(),
    }


def plain(value: Any) -> Any:
    """A default in JSON form; the options of a nested method as a mapping."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def type_words(annotation: Any, bounds: list[Any]) -> str:
    """A type and its bounds as one would say them."""
    limits = [
        f"{sign} {getattr(bound, name)}"
        for bound in bounds
        for name, sign in BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return ", ".join([_words(annotation), *limits])


def _words(annotation: Any) -> str:
    kind = get_origin(annotation)
    if kind is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if kind in (Union, UnionType):
        return " | ".join(map(_words, get_args(annotation)))
    if annotation is type(None):
        return "None"
    if kind is None and hasattr(annotation, "__name__"):
        return str(annotation.__name__)
    return str(annotation).replace("typing.", "")
