"""Every method in a catalogue loads, is frozen, works with its defaults, is documented; and every method is in one."""

import inspect
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from audits.attacks import ATTACKS
from audits.behaviour import BEHAVIOUR
from audits.privacy import PRIVACY
from interventions import INTERVENTIONS
from probes import PROBES
from workbench.cli.catalogue import METHODS, catalogue_of, first_lines, method_card
from workbench.errors import BadInput
from workbench.registry import Method, Registry

CATALOGUES = {
    "probes": PROBES,
    "interventions": INTERVENTIONS,
    "audits.behaviour": BEHAVIOUR,
    "audits.privacy": PRIVACY,
    "audits.attacks": ATTACKS,
}
ENTRIES = [
    pytest.param(catalogue, name, id=f"{package}/{name}")
    for package, catalogue in CATALOGUES.items()
    for name in catalogue
]

NOT_LISTED = {
    "probes.depth_score:States": "its states mean something only in another model, so DepthScore takes them",
    "probes.patch_back:Coefficients": "they mean something only in another model, so PatchBack takes them",
    "probes.vector_comparison:VectorSnapshot": "it means something only next to another's, so VectorChange takes it",
    "probes.expert_shift:RoutingSnapshot": "it means something only next to another model's, so ExpertShift takes it",
}
"""Methods that no catalogue holds, and why."""


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_an_entry_is_a_frozen_method_that_works_with_its_defaults(catalogue: Registry, name: str):
    method = catalogue.load(name)
    assert issubclass(method, Method)
    made = method()
    assert made.model_config["frozen"] and made.model_config["extra"] == "forbid"
    for option in type(made).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(made, option, None)
    assert method(**{k: v for k, v in made.spec().items() if k != "method"}) == made
    assert made.spec()["method"] == catalogue[name]


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_an_entry_has_its_verb(catalogue: Registry, name: str):
    method = catalogue.load(name)
    verb = "look" if catalogue in (PROBES, BEHAVIOUR, PRIVACY) else "fit"
    words = list(inspect.signature(getattr(method, verb)).parameters)
    assert words[0] == "self"
    if catalogue is not ATTACKS:
        assert words[1] == "model"
    if catalogue is INTERVENTIONS:
        assert words[2:4] == ["concept", "where"]


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_an_entry_is_documented(catalogue: Registry, name: str):
    method = catalogue.load(name)
    docs = import_module(method.__module__).__doc__ or ""
    assert "Source:" in docs or "Read it as" in docs
    assert any(words in docs for words in ("Read it as", "Expect", "Does not show", "Cannot do"))
    assert (method.__doc__ or "").strip() != (Method.__doc__ or "").strip()
    bare = [option for option, field in method.model_fields.items() if not field.description]
    assert bare == [], f"options without a docstring under them: {bare}"


@pytest.mark.parametrize(("catalogue", "name"), ENTRIES)
def test_an_unknown_option_gets_the_nearest_one(catalogue: Registry, name: str):
    method = catalogue.load(name)
    with pytest.raises(BadInput, match="has no option 'zzz'"):
        method(zzz=1)
    for option in method.model_fields:
        if len(option) < 3:
            continue  # two wrong letters behind two right ones are nearer to other words
        with pytest.raises(BadInput, match=f"Did you mean '{option}'"):
            method(**{f"{option}s_": 1})


@pytest.mark.parametrize("catalogue", CATALOGUES.values(), ids=CATALOGUES)
def test_an_unknown_name_gets_the_nearest_one(catalogue: Registry):
    for name in catalogue:
        with pytest.raises(BadInput, match=f"Did you mean '{name}'"):
            catalogue.load(f"{name}_")
    with pytest.raises(BadInput, match=f"No {catalogue.kind} called '12345'. There are: "):
        catalogue.load("12345")


def methods_in(package: ModuleType) -> set[str]:
    """Every method with a verb that is defined in a folder and can be used as it is."""
    found = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        loaded: Any = import_module(module.name)
        for thing in vars(loaded).values():
            if (
                inspect.isclass(thing)
                and issubclass(thing, Method)
                and not inspect.isabstract(thing)
                and not thing.__name__.startswith("_")  # what several methods share
                and thing.__module__ == module.name
                and any(hasattr(thing, verb) for verb in ("look", "fit"))
            ):
                found.add(f"{module.name}:{thing.__name__}")
    return found


@pytest.mark.parametrize(("package", "catalogue"), CATALOGUES.items(), ids=CATALOGUES)
def test_the_table_agrees_with_the_folder(package: str, catalogue: Registry):
    assert methods_in(import_module(package)) - set(NOT_LISTED) == set(catalogue.values())


def test_what_is_not_listed_is_there():
    assert set(NOT_LISTED) <= methods_in(import_module("probes"))


@pytest.mark.parametrize("kind", METHODS)
def test_the_command_line_shows_a_first_line_for_each(kind: str):
    catalogue = catalogue_of(kind)
    lines = first_lines(catalogue)
    assert list(lines) == list(catalogue)
    assert all(20 < len(line) <= 120 for line in lines.values())
    assert len(set(lines.values())) == len(lines)
    for name in catalogue:
        card = method_card(catalogue, kind, name)
        assert card["docs"] and all(option["type"] and option["doc"] for option in card["options"])
