"""From `--method npo --set lr=1e-4` to a method with its options, or a message that says what there is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.registry import Registry


def parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """`["lr=1e-4", "relearn.steps=[0, 5]"]` as nested values; a dot goes one level down, values are YAML.

    Raises:
        BadInput: for text without `=`, a value that is no YAML, or an option that is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise BadInput(f"--set {text!r} is no setting. Write --set key=value, for instance --set lr=1e-4")
        try:
            _put(found, key, yaml.safe_load(value))
        except yaml.YAMLError:
            raise BadInput(f"The value of --set {text!r} is not valid YAML; write lists as [1, 2]") from None
    return found


def _put(into: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
        if not isinstance(into, dict):
            raise BadInput(f"--set {key} goes into {parent!r}, which is set to {into!r} already; set one or the other")
    if last in into:
        raise BadInput(f"--set {key} is given twice; give it once")
    into[last] = value


def method_of(catalogues: "Sequence[Registry]", name: str) -> type[Any]:
    """The class of that name in the first catalogue that has it.

    Raises:
        BadInput: when none has it, with the nearest name over all of them.
    """
    for catalogue in catalogues:
        if name in catalogue:
            return catalogue.load(name)
    kinds = " or ".join(catalogue.kind for catalogue in catalogues)
    raise BadInput(f"No {kinds} called {name!r}. {did_you_mean(name, [n for one in catalogues for n in one])}")


def with_options(method: type[Any], settings: Mapping[str, Any], seed: int | None = None) -> Any:
    """The method with its options; `--seed` goes into the option `seed` of methods that have one.

    Raises:
        BadInput: for options that do not exist or values that are not allowed, or a seed that is given twice.
    """
    if seed is None or "seed" not in method.model_fields:
        return method(**settings)
    if "seed" in settings:
        raise BadInput(f"The seed is given twice: --seed {seed} and --set seed={settings['seed']}; give it once")
    return method(**settings, seed=seed)
