"""Weights: which tensors of the checkpoint differ from the base's, how much, and of which rank?"""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.comparison import Comparison
from workbench.comparison_words import percent
from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_compare import change_maps, spectra
from workbench.figures_style import number
from workbench.figures_weights import STATS, energies, stat_map
from workbench.pages.frame.chosen import ALL, chosen, label
from workbench.pages.frame.elsewhere import is_of, of_verb
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened, comparison_of
from workbench.pages.frame.states import absent, banner
from workbench.pages.frame.url import choose, pick
from workbench.shelf import Shelved

NAMES = {"share_changed": "entries changed", "top_share": "share of the first direction"}
"""Short names of numbers whose own say too little."""

RELATIVE = "relative_change"
"""The number the map begins with."""

SHOWN = ("tensor", "status", "relative_change", "share_changed", "rank", "stable_rank", "top_share", "note")
"""Columns of the table; the download has all."""


def page() -> None:
    """The maps, the spectra and the tensors of the chosen cell."""
    run = chosen().run
    head("Weights", "Which weights differ from the base's, and of what shape is the difference?", run)
    found = of_verb("compare")
    if not found:
        absent("Weights", "an audit does not compare them, and no run on the shelf did", _command(run))
        return
    name = choose("Comparison", "diff", list(found), lambda n: label(found[n]), default=_fitting(run, found))
    source = Opened(found[name])
    banner(source)
    try:
        comparison = comparison_of(source)
    except BadInput as error:
        absent("Weights", str(error), f"workbench verify {source.on.path}")
        return
    if not is_of(run.on, source.on):
        st.info("This comparison is of other weights than those of Run A.")
    st.markdown(f"{safe(comparison.base)} → {safe(comparison.checkpoint)}: **{safe(comparison.sentence())}**")
    for note in comparison.notes:
        st.caption(safe(note))
    _tiles(comparison)
    matrices = [ALL, *dict.fromkeys(str(series.x[i]) for series in _panels(comparison) for i in range(len(series.x)))]
    column = choose("Matrix or expert", "matrix", matrices, lambda n: "all" if n == ALL else n)
    frame = CellAt(chosen().layer, column) if ALL not in (chosen().layer, column) else None
    stat = pick("Number", "stat", [RELATIVE, *STATS], lambda name: NAMES.get(name, name.replace("_", " ")))
    figure = change_maps(comparison) if stat == RELATIVE else stat_map(comparison, stat)
    grid(figure, "weights", frame, _choose, "Click a cell for its tensors and their spectrum.")
    _tensors(comparison, column)
    absent(
        "Angle to the base's own directions, and the histogram of single entries",
        "a comparison keeps singular values and norms of each tensor, no vectors and no entries",
    )


def _panels(comparison: Comparison) -> list[Any]:
    return [series for series in change_maps(comparison).data if isinstance(series.meta, Mapping)]


def _choose(at: CellAt) -> None:
    st.session_state["layer"], st.session_state["matrix"] = at.row, at.column


def _fitting(run: Opened, found: Mapping[str, Shelved]) -> str:
    """The first comparison of Run A's checkpoint, if there is one."""
    return next((name for name, one in found.items() if is_of(run.on, one)), "")


def _command(run: Opened) -> str:
    about = (run.on.manifest or {}).get("checkpoints") or {}
    address = {role: str((about.get(role) or {}).get("address") or role.upper()) for role in ("base", "checkpoint")}
    return f"workbench compare {address['base']} {address['checkpoint']}"


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


def _tensors(comparison: Comparison, column: str) -> None:
    """Tensors of the chosen cell, most changed first, and their spectra."""
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


if __name__ == "__main__":
    page()
