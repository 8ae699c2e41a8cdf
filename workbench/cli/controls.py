"""`--controls`: the same method at its sites, at random ones of the same kind and number, and at all of them.

Read it as: three rows of what is left of the forget, near and far facts (share that greedy decoding gives). Sites are a
finding only if theirs is lower on forget than random ones', at no greater loss of near and far than all sites'.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.cli.console import table

if TYPE_CHECKING:
    from workbench.concepts import Concept
    from workbench.edits import Edit
    from workbench.model import HookedModel
    from workbench.sites import Site

SETS = ("forget", "near", "far")
"""What is measured."""

GIVEN = "as given"
"""The method at the sites it was told or chose itself."""


def fit(method: Any, model: "HookedModel", concept: "Concept", where: "Sequence[Site] | None", **more: Any) -> "Edit":
    """Call `fit` with what it takes."""
    takes = inspect.signature(method.fit).parameters
    given: dict[str, Any] = {} if where is None else {"where": where}
    edit: Edit = method.fit(model, concept, **given, **{name: value for name, value in more.items() if name in takes})
    return edit


def measured(model: "HookedModel", concept: "Concept", edit: "Edit | None" = None) -> dict[str, Any]:
    """Share of each set's answers that greedy decoding gives, with an edit on."""
    import contextlib

    from workbench.scoring import score

    with edit.on(model) if edit else contextlib.nullcontext():
        sets = {name: getattr(concept, name).facts for name in SETS}
        return {name: float(score(model, f).greedy.double().mean()) if f else None for name, f in sets.items()}


def compared(
    model: "HookedModel",
    concept: "Concept",
    method: Any,
    where: "Sequence[Site] | None",
    edit: "Edit",
    seed: int,
    step: Any,
) -> list[dict[str, Any]]:
    """A row for the model as it is, the edit, and each control.

    Raises:
        BadInput: when the method is not localised.
    """
    controls = method.controls(model, where, seed)
    rows = [
        {"sites": "before", **measured(model, concept)},
        {"sites": GIVEN, **measured(model, concept, edit)},
    ]
    for done, (name, (other, sites)) in enumerate(controls.items()):
        step(f"control: {name}", done, len(controls))
        control = fit(other, model, concept, sites)
        acted = len(sites) if sites is not None else None
        rows.append({"sites": name, "count": acted, "edit": control.digest, **measured(model, concept, control)})
    return rows


def controls_table(rows: Sequence[dict[str, Any]], name: str) -> Any:
    """The rows for a terminal."""
    shown = [(row["sites"], *(_share(row[part]) for part in SETS)) for row in rows]
    return table(("sites", *SETS), shown, f"What is left after {name}: share of answers given")


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
