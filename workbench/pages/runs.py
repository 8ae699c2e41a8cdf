"""Runs: everything on the shelf, and what Run A and Run B were made with differently."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.pages.frame.chosen import NONE, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download
from workbench.pages.frame.states import no_runs
from workbench.pages.frame.url import type_in
from workbench.shelf import Shelved

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
    runs = [run for run in found.runs if asked in " ".join(map(str, _row(run).values())).casefold()]
    if not runs:
        st.info(f"No run has {safe(repr(asked), 60)} in any column.")
        return
    _table(runs)
    a, b = found.opened, found.opened.other if found.opened else None
    if a is not None and b is not None:
        _provenance(a.on, b.on)
    else:
        st.caption("Choose a Run B to see what the two were made with differently.")


def _row(run: Shelved) -> dict[str, Any]:
    return {
        "model": run.model,
        "verb": run.verb,
        "method": run.method,
        "concept": run.concept,
        "verdict": run.verdict,
        "knowledge": run.knowledge or "–",
        "utility": run.utility or "–",
        "state": run.state,
        "written (UTC)": run.written_at.replace("T", " ").removesuffix("Z"),
        "run id": run.run_id,
        "folder": run.name,
    }


def _table(runs: list[Shelved]) -> None:
    a = chosen().opened
    shown = {a.on.name: "A", a.other.on.name if a.other else "": "B"} if a else {}
    table = pd.DataFrame([{"shown": shown.get(run.name, ""), **_row(run)} for run in runs])
    names = [run.name for run in runs]

    def told() -> None:
        rows = ((st.session_state.get("table") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["run"] = names[rows[0]]
            st.session_state["cmp"] = names[rows[1]] if len(rows) > 1 else NONE

    st.dataframe(
        table,
        hide_index=True,
        key="table",
        on_select=told,
        selection_mode="multi-row",
        alt=f"{len(table)} runs with model, verdict and state.",
    )
    st.caption("Mark one row to make it Run A, a second to make it Run B; the boxes at the left do the same.")
    download(table, "runs", "runs")


def _provenance(a: Shelved, b: Shelved) -> None:
    """What differs in question, packages and inputs."""
    st.subheader("Made differently", anchor=False)
    one, other = dict(_flat(a.manifest)), dict(_flat(b.manifest))
    rows = [
        {"what": name, "Run A": one.get(name, "–"), "Run B": other.get(name, "–")}
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]
    same = len({*one, *other}) - len(rows)
    st.caption(f"{len(rows)} entries differ, {same} are the same.")
    if rows:
        table = pd.DataFrame(rows)
        st.dataframe(table, hide_index=True, alt=f"{len(rows)} entries of the manifests that differ.")
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
