"""The angle of a change to the concept, on the page Weights: read from a run of `look weight_deltas`."""

import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.figures_alignment import alignment_map, alignment_of, places_of
from workbench.figures_click import CellAt
from workbench.pages.frame.elsewhere import holding
from workbench.pages.frame.picture import grid, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner
from workbench.pages.frame.url import choose

KEY = "weight_deltas"
TITLE = "Angle to the concept"


def alignment(run: Opened) -> None:
    """What the leading directions of each changed down-projection point at.

    Args:
        run: Run A.
    """
    st.subheader(TITLE, anchor=False)
    source = holding(run, [KEY], "deltas")
    if source is None:
        absent(TITLE, "an audit does not read it, and no run of the probe weight_deltas is on the shelf", _command(run))
        return
    if source is not run:
        banner(source)
    keys = source.keys(KEY)
    trace = source.traces(keys[0], other=False).get("checkpoint") if keys else None
    if trace is None:
        absent(TITLE, source.why_missing(KEY), source.again)
        return
    found = [entry for entry in trace.notes.get("alignment") or () if isinstance(entry, Mapping)]
    if not found:
        absent(TITLE, str(trace.notes.get("why_no_alignment") or "the run did not read it"), _again(source))
        return
    places = places_of(found)
    site = choose("Place", "site", places, tip="A changed down-projection.")
    column = str(int(next(entry["direction"] for entry in found if entry["site"] == site)) + 1)
    grid(
        alignment_map(found),
        "alignment",
        CellAt(site, column),
        _choose,
        "Click a cell for the words. Grey with ≈: as near as random tokens or value vectors come.",
    )
    picture(
        alignment_of(found, site),
        "place",
        "Filled marks are nearer than chance (p below .05), open ones are not. p counts the tokens tried in one "
        "direction, not the number of directions.",
    )


def _choose(at: CellAt) -> None:
    st.session_state["site"] = at.row


def _again(source: Opened) -> str:
    """The run's command, asking for directions."""
    return source.again if "directions=0" not in source.again else source.again.replace("directions=0", "directions=4")


def _command(run: Opened) -> str:
    manifest: Mapping[str, Any] = run.on.manifest or {}
    about = manifest.get("checkpoints") or {}
    base, checkpoint = (
        shlex.quote(str((about.get(role) or {}).get("address") or role.upper())) for role in ("base", "checkpoint")
    )
    return f"workbench look {KEY} {checkpoint} --against {base} --concept {shlex.quote(run.on.concept or 'CONCEPT')}"
