"""Runs: everything on the shelf, and what Run A and Run B were made with differently."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import pandas as pd
import streamlit as st

from workbench.makers import Made, made_on, settings_of
from workbench.pages.frame.chosen import NONE, chosen, label
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download
from workbench.pages.frame.states import no_runs
from workbench.pages.frame.url import choose, type_in
from workbench.shelf import Shelved

WIDTHS = {
    "shown": 62,
    "model": 150,
    "verdict": 150,
    "knowledge": 92,
    "state": 78,
    "method": 118,
    "verb": 68,
    "suite": 76,
}
"""Pixels of the columns that are seen first at 1280 pixels across; the others are found by scrolling."""

TOLD = ("question", "environment", "checkpoints", "checkpoint", "inputs", "argv")
"""Parts of a manifest that say how a run was made."""


def page() -> None:
    """The table of runs, and two of them side by side."""
    found = chosen()
    if not found.runs:
        no_runs(found.root)
        return
    st.header("Runs", anchor=False)
    st.caption(f"{len(found.runs)} runs below the chosen folder, audits first, then newest first.")
    asked = type_in("Filter", "q", "Shows runs that have this word in any column.").casefold()
    made = made_on(found.every)
    rows = {run.name: _row(run, made) for run in found.runs}
    runs = [run for run in found.runs if asked in " ".join(map(str, rows[run.name].values())).casefold()]
    if not runs:
        st.info(f"No run has {safe(repr(asked), 60)} in any column.")
        return
    _table(runs, [rows[run.name] for run in runs])
    _pins(runs)
    a, b = found.opened, found.opened.other if found.opened else None
    if a is not None and b is not None:
        _provenance(a.on, b.on, made)
    else:
        st.caption("Choose a Run B to see what the two were made with differently.")


def _row(run: Shelved, made: tuple[Made, ...]) -> dict[str, Any]:
    return {
        "model": run.model,
        "verdict": run.verdict,
        "knowledge": run.knowledge or "–",
        "state": run.state,
        "method": run.method or _making(run, made).get("made with method", "–"),
        "verb": run.verb,
        "suite": run.suite or "–",
        "utility": run.utility or "–",
        "written (UTC)": run.written_at.replace("T", " ").removesuffix("Z"),
        "concept": run.concept,
        "run id": run.run_id,
        "folder": run.name,
    }


def _making(run: Shelved, made: tuple[Made, ...]) -> dict[str, str]:
    """Of an audit, how its checkpoint was made, where a run on the shelf wrote these very files."""
    shards = ((run.manifest or {}).get("inputs") or {}).get("checkpoint") or {}
    return {f"made with {name}": value for name, value in settings_of(shards, made).items()}


def _table(runs: list[Shelved], rows: list[dict[str, Any]]) -> None:
    a = chosen().opened
    shown = {a.on.name: "A", a.other.on.name if a.other else "": "B"} if a else {}
    table = pd.DataFrame([{"shown": shown.get(run.name, ""), **row} for run, row in zip(runs, rows, strict=True)])
    names = [run.name for run in runs]

    def told() -> None:
        picked = ((st.session_state.get("table") or {}).get("selection") or {}).get("rows") or ()
        if picked:
            st.session_state["run"] = names[picked[0]]
            st.session_state["cmp"] = names[picked[1]] if len(picked) > 1 else NONE
            st.session_state["mark"] = names[picked[-1]]

    st.dataframe(
        table,
        hide_index=True,
        key="table",
        on_select=told,
        selection_mode="multi-row",
        column_config={name: st.column_config.TextColumn(width=width) for name, width in WIDTHS.items()},
        alt=f"{len(table)} runs with model, verdict and state.",
    )
    st.caption(
        "Mark one row to make it Run A, a second to make it Run B; the boxes at the left and the buttons below do the "
        "same. Method: of an audit, what made its checkpoint, where a run below the runs folder wrote these very files."
    )
    download(table, "runs", "runs")


def _pins(runs: list[Shelved]) -> None:
    """Any run pinned as Run A or Run B by keyboard, and both as a link and as folders to copy."""
    by_name = {run.name: run for run in runs}
    a = chosen().opened
    if a is None:
        return
    one, other = a.on, a.other.on if a.other else None
    columns = st.columns([3, 1, 1], vertical_alignment="bottom")
    with columns[0]:
        marked = choose("Marked run", "mark", list(by_name), lambda name: label(by_name[name]), "The row marked last.")

    def pin_a() -> None:
        st.session_state["run"] = marked
        if other is not None and other.name == marked:
            st.session_state["cmp"] = one.name  # they change places

    def pin_b() -> None:
        st.session_state["cmp"] = marked

    is_a, is_b = marked == one.name, other is not None and marked == other.name
    columns[1].button("Pin as Run A", key="pin a", on_click=pin_a, disabled=is_a, width="stretch")
    columns[2].button("Pin as Run B", key="pin b", on_click=pin_b, disabled=is_a or is_b, width="stretch")
    if is_a or is_b:
        st.caption(f"The marked run is Run {'A' if is_a else 'B'}.")
    st.caption("Link to what is chosen now, for somebody who has this app open at the same address:")
    st.code(link_to(st.context.url, one.name, other.name if other else NONE), language=None, wrap_lines=True)
    for name, run in (("Run A", one), ("Run B", other)):
        if run is not None:
            st.caption(f"Folder of {name}:")
            st.code(str(run.path), language=None, wrap_lines=True)


def link_to(url: str | None, run: str, cmp: str) -> str:
    """The address of the overview with two runs chosen; without the server's part where that is not known.

    Args:
        url: of the page that is open.
        run: name of Run A.
        cmp: name of Run B, or `none`.
    """
    at = urlsplit(url or "")
    home = at.path.rstrip("/").rpartition("/")[0] if at.path.rstrip("/").endswith("/runs") else at.path.rstrip("/")
    return urlunsplit((at.scheme, at.netloc, f"{home}/", urlencode({"run": run, "cmp": cmp}), ""))


def _provenance(a: Shelved, b: Shelved, made: tuple[Made, ...]) -> None:
    """What differs in question, packages and inputs, and in how the audited checkpoints were made."""
    st.subheader("Made differently", anchor=False)
    one, other = (dict(_flat(run.manifest)) | _making(run, made) for run in (a, b))
    rows = [
        {"what": name, "Run A": one.get(name, "–"), "Run B": other.get(name, "–")}
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]
    same = len({*one, *other}) - len(rows)
    st.caption(f"{len(rows)} entries differ, {same} are the same.")
    if rows:
        table = pd.DataFrame(rows)
        wide = {name: st.column_config.TextColumn(width=270) for name in table.columns}
        alt = f"{len(rows)} entries of the manifests that differ."
        st.dataframe(table, hide_index=True, column_config=wide, alt=alt)
        download(table, "provenance", "provenance")


def _flat(manifest: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    for part in TOLD:
        yield from _entries(part, (manifest or {}).get(part))


def _entries(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _entries(f"{name}.{key}", inner)
    elif value is not None:
        yield name, value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    page()
