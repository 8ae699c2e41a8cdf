"""Weights: which tensors of the checkpoint differ from the base's, how much, and of which rank?"""

import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.comparison import Comparison
from workbench.comparison_words import percent
from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_compare import change_maps, spectra
from workbench.figures_style import number
from workbench.figures_two_changes import RELATIVE, two_changes
from workbench.figures_weights import OVERLAPS, SHORT, STATS, energies, stat_map
from workbench.pages.frame.alignment import alignment
from workbench.pages.frame.chosen import ALL, NONE, chosen, label
from workbench.pages.frame.elsewhere import is_of, of_verb
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_tensor import OVERLAP, one_tensor
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened, comparison_of
from workbench.pages.frame.states import absent, banner
from workbench.pages.frame.url import choose, pick
from workbench.shelf import Shelved

GREY = "Grey with ≈: no further from chance than random directions. "
"""What the maps of overlap add."""

SHOWN = ("tensor", "status", "relative_change", "share_changed", "rank", "stable_rank", "top_share", "note")
"""Columns of the table; the download has all."""


def page() -> None:
    """The maps, the reference's beside them, and the chosen cell: its spectra, directions and entries."""
    run = chosen().run
    head("Weights", "Which weights differ from the base's, and of what shape is the difference?", run)
    found = of_verb("compare")
    if not found:
        absent("Weights", "an audit does not compare them, and no run on the shelf did", _command(run))
        return
    name = choose("Comparison", "diff", list(found), lambda n: label(found[n]), default=_fitting(run, found))
    source = Opened(found[name])
    banner(source)
    comparison = _read(source)
    if comparison is None:
        return
    if not is_of(run.on, source.on):
        st.info("This comparison is of other weights than those of Run A.")
    st.markdown(f"{safe(comparison.base)} → {safe(comparison.checkpoint)}: **{safe(comparison.sentence())}**")
    for note in comparison.notes:
        st.caption(safe(note))
    _tiles(comparison)
    matrices = [ALL, *dict.fromkeys(str(series.x[i]) for series in _panels(comparison) for i in range(len(series.x)))]
    column = choose("Matrix or expert", "module", matrices, lambda n: "all" if n == ALL else n)
    frame = CellAt(chosen().layer, column) if ALL not in (chosen().layer, column) else None
    stat = pick("Number", "stat", [RELATIVE, *STATS], lambda name: SHORT.get(name, "relative change"))
    _map(comparison, stat, frame, source)
    _beside_reference(comparison, stat, run, source, found)
    _tensors(comparison, column, source)
    alignment(run)


def _read(source: Opened) -> Comparison | None:
    """A comparison, or a card that says why it cannot be read."""
    try:
        return comparison_of(source)
    except BadInput as error:
        absent("Weights", str(error), f"workbench verify {source.on.path}")
        return None


def _map(comparison: Comparison, stat: str, frame: CellAt | None, source: Opened) -> None:
    """The chosen number, layer by matrix and layer by expert."""
    if stat in OVERLAPS and not comparison.table[stat].notna().any():
        old = comparison.made_by.get("base_directions") is None
        why = (
            "an older version of the workbench made this and did not take it"
            if old
            else "no matrix was held against it"
        )
        absent(OVERLAP, why, source.again)
        return
    figure = change_maps(comparison) if stat == RELATIVE else stat_map(comparison, stat)
    grey = GREY if stat in OVERLAPS else ""
    grid(figure, "weights", frame, _choose, f"{grey}Click a cell for its tensors and their spectrum.")


def _beside_reference(
    comparison: Comparison, stat: str, run: Opened, source: Opened, found: Mapping[str, Shelved]
) -> None:
    """The same map of a second comparison, of the reference if there is one, and the difference."""
    st.subheader("Beside the reference", anchor=False)
    others = {name: one for name, one in found.items() if name != source.on.name}
    gold = next((name for name, one in others.items() if _is_reference(run, one, source)), NONE)
    if gold == NONE:
        why = "no comparison of the base with the reference is on the shelf"
        absent("Difference to the reference", why, _command(run, "reference"))
    if not others:
        return
    name = choose(
        "Second comparison",
        "gold",
        [NONE, *others],
        lambda n: "none" if n == NONE else label(others[n]),
        "The reference's, if it is on the shelf; or any other.",
        gold,
    )
    other = _read(Opened(others[name])) if name != NONE else None
    if other is None:
        return
    if _base_of(others[name]) != _base_of(source.on):
        st.info("The second comparison starts from another base.")
    try:
        picture(
            two_changes(comparison, other, stat),
            "reference",
            f"Second panel: {safe(other.checkpoint)}. Blue: more in {safe(comparison.checkpoint)}; red: less. "
            "0 and ∞: changed in one of the two only.",
        )
    except BadInput as error:
        absent("Difference to the reference", str(error))


def _is_reference(run: Opened, other: Shelved, source: Opened) -> bool:
    """Whether a comparison is of Run A's base and reference, and of the same base as the one that is shown."""
    roles = ((run.on.manifest or {}).get("question") or {}).get("roles") or {}
    asked = (other.manifest or {}).get("question") or {}
    wanted = roles.get("base"), roles.get("reference")
    same = _base_of(other) == _base_of(source.on)
    return None not in wanted and same and (asked.get("base"), asked.get("checkpoint")) == wanted


def _base_of(one: Shelved) -> str:
    return str(((one.manifest or {}).get("question") or {}).get("base"))


def _panels(comparison: Comparison) -> list[Any]:
    return [series for series in change_maps(comparison).data if isinstance(series.meta, Mapping)]


def _choose(at: CellAt) -> None:
    st.session_state["layer"], st.session_state["module"] = at.row, at.column


def _fitting(run: Opened, found: Mapping[str, Shelved]) -> str:
    """The first comparison of Run A's checkpoint, if there is one."""
    return next((name for name, one in found.items() if is_of(run.on, one)), "")


def _command(run: Opened, other: str = "checkpoint") -> str:
    about = (run.on.manifest or {}).get("checkpoints") or {}
    base, after = (str((about.get(role) or {}).get("address") or role.upper()) for role in ("base", other))
    return shlex.join(["workbench", "compare", base, after])


def _tiles(comparison: Comparison) -> None:
    told = comparison.summary()
    values = {
        "tensors changed": f"{told['changed'] + told['rounded']} of {told['tensors']}",
        "parameters changed": percent(told["share_of_parameters"]),
        "relative change": number(told["relative_change"]),
        "rank": "–" if told["rank"] is None else " to ".join(str(r) for r in dict.fromkeys(told["rank"])),
    }
    for column, (name, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(name, value)


def _tensors(comparison: Comparison, column: str, source: Opened) -> None:
    """Tensors of the chosen cell, most changed first, their spectra, and one of them in full."""
    table, layer = comparison.table, chosen().layer
    if layer != ALL:
        table = table[table["layer"].astype("string") == layer]
    if column != ALL:
        matrix = table["matrix"].str.removesuffix(" bias")
        full = table["module"] + " " + matrix
        table = table[(full == column) | (matrix == column) | (table["expert"].astype("string") == column)]
    cut = Comparison(comparison.base, comparison.checkpoint, table)
    changed = cut.changed
    where = "all" if layer == column == ALL else f"layer {layer}, {column}"
    st.subheader(f"Changed tensors: {safe(where)}", anchor=False)
    if changed.empty:
        st.info("Nothing changed here.")
        return
    if changed["singular_values"].notna().any():
        picture(spectra(cut), "spectra", "A steep fall is a change of few directions.")
        picture(energies(cut), "energies", "Near 1 after a few directions: a change of low rank.")
    st.dataframe(
        changed[list(SHOWN)],
        hide_index=True,
        height=min(280, 38 + 35 * len(changed)),
        alt=f"{len(changed)} changed tensors.",
    )
    download(changed, "tensors", "changed tensors")
    one_tensor(comparison, changed, source)


if __name__ == "__main__":
    page()
