"""Concept vectors: what is left of the value vectors that spelled the answers, and how far did all the others move?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import streamlit as st

from workbench.figures import compare_ranked, figure_of
from workbench.figures_strip import Marked, move_strips
from workbench.figures_style import number
from workbench.figures_vectors import LENGTH, undirected, vector_scatter
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.elsewhere import holding
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, head, marks, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner, missing
from workbench.pages.frame.url import choose, named, pick
from workbench.report_pictures import picture_of
from workbench.sites import Site, parse_sites
from workbench.trace import Trace
from workbench.vector_moves import ids_at, lost, moves, ranks, spells
from workbench.vector_strip import EVERY, experts_of, is_vector, strip_of, told, value_of

KEY = "concept_vectors"
RANDOM = "random_vectors.forget"
MOVED = "moved_vectors.forget"
LENGTHS = (10, 20, 50)
LISTED = 50
"""Vectors offered in the box because they moved furthest."""

WIDTHS: dict[str, Any] = {
    "rank": st.column_config.NumberColumn(width=45),
    "moved": st.column_config.TextColumn("rank moved", width=90),
}
"""Columns of the table of tokens: words get the room."""

NO_DIRECTION = "A vector of zeros has no direction."


@dataclass(frozen=True)
class Held:
    """What the runs hold of value vectors."""

    found: Mapping[str, Trace] = field(default_factory=dict)
    """Role -> snapshot of the vectors that speak for the concept; empty where they cannot be compared."""
    random: Mapping[str, Trace] = field(default_factory=dict)
    """Role -> the same of random vectors."""
    moved: Mapping[str, Trace] = field(default_factory=dict)
    """Role -> how far every vector moved."""

    def snapshots(self, vector: str) -> Mapping[str, Trace]:
        """The snapshots a vector is kept in; empty where it is in none."""
        return next((s for s in (self.found, self.random) if s and vector in s["base"].labels["site"]), {})


def page() -> None:
    """Followed vectors in one picture, all vectors in another, and one of them token by token."""
    run = chosen().run
    head("Concept vectors", "Do the value vectors that spelled the answers still stand?", run)
    key = one_reading(run, KEY)
    traces = {} if key is None else run.traces(key)
    whole = _comparable(traces)
    if key is not None and not whole:
        _ranking(run, key, traces)
    moving = holding(run, [MOVED.partition(".")[0]], "moves")
    random = run.traces(RANDOM)
    held = Held(
        traces if whole else {}, random if whole and _comparable(random) else {}, moving.traces(MOVED) if moving else {}
    )
    if moving is not None and moving is not run:
        banner(moving)
    vector = _vector(held)
    k = 0
    if key is not None and held.found:
        k = _followed(run, held, vector)
    _strips(run, held, vector)
    if vector:
        _one(run, held, vector, k)
    if key is not None and held.found:
        _shared(key, held)


def _comparable(traces: Mapping[str, Trace]) -> bool:
    return "base" in traces and len(traces) > 1 and all("top_ids" in trace.notes for trace in traces.values())


def _ranking(run: Opened, key: str, traces: Mapping[str, Trace]) -> None:
    """A run of one model: its strongest vectors."""
    if not traces:
        missing(run, key)
        return
    single = len(traces) == 1
    figure = figure_of(next(iter(traces.values()))) if single else compare_ranked(traces)
    picture(figure, key, "The vectors that push the answers most; with an audit they are compared with the base's.")
    absent("Vectors before and after", "this run holds no snapshot of the base's vectors beside the checkpoint's")


# ---- which vector


def _vector(held: Held) -> str:
    """The box that every click is doubled by: followed vectors, those that moved furthest, and what a link names."""
    told = {vector: "speaks for the concept" for vector in _sites(held.found)}
    told |= {vector: "random" for vector in _sites(held.random)}
    first = held.moved.get("checkpoint") or next(iter(held.moved.values()), None)
    if first is not None:
        beside = [
            *strip_of(first).furthest(LISTED, chosen().layer),
            *(v for v in named("vector") if is_vector(first, v)),
        ]
        told |= {vector: f"moved by {number(value_of(first, vector))}" for vector in beside if vector not in told}
    if not told:
        return ""
    tip = (
        "Those that speak for the concept, random ones, and those that moved furthest in the layer chosen at the left."
    )
    return choose("Vector", "vector", list(told), lambda v: f"{v} · {told[v]}", tip)


def _sites(traces: Mapping[str, Trace]) -> Sequence[str]:
    return traces["base"].labels["site"] if traces else ()


def _choose(vector: str) -> None:
    """What a click on a mark does."""
    st.session_state["vector"] = vector


def _choose_cell(vector: str) -> None:
    """A click in the strip chooses the layer too."""
    _choose(vector)
    st.session_state["layer"] = str(Site.parse(vector).layer)


# ---- followed vectors


def _followed(run: Opened, held: Held, vector: str) -> int:
    """Every followed vector against the base's, among random ones; returns how many top tokens are compared."""
    base = held.found["base"]
    longest = max((len(ids_at(base, site)) for site in base.labels["site"]), default=0)
    k = int(pick("Top tokens", "k", [str(k) for k in sorted({*LENGTHS, longest}) if 0 < k <= longest] or ["0"]))
    moved, random = _moves(held.found, k), _moves(held.random, k)
    said = "The base's vector is at 1, 1. The reference is how far training anew moves. Click a mark for its tokens."
    grey = " Grey: random vectors of the same MLPs." if random else ""
    figure = vector_scatter(moved, k, random, vector)
    marks(figure, KEY, _choose, " ".join(filter(None, (said + grey, undirected(moved)))))
    if not random:
        absent("Random vectors of the same MLPs", run.why_not_shown(RANDOM), run.again)
    _vectors(moved)
    return k


def _moves(traces: Mapping[str, Trace], k: int) -> dict[str, pd.DataFrame]:
    return {role: moves(traces["base"], trace, k) for role, trace in traces.items() if role != "base"}


def _vectors(moved: Mapping[str, pd.DataFrame]) -> None:
    """The table of vectors; a click chooses one."""
    table = pd.concat([found.assign(role=role) for role, found in moved.items()], ignore_index=True)
    layer = chosen().layer
    if layer != ALL:
        at = {str(site): str(site.layer) for site in parse_sites(tuple(dict.fromkeys(table["vector"])))}
        table = table[table["vector"].map(at) == layer].reset_index(drop=True)
    if table.empty:
        st.info(f"No vector that speaks for the concept lies in layer {safe(layer)}.")
        return

    def told() -> None:
        rows = ((st.session_state.get("vectors") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["vector"] = str(table["vector"].iloc[rows[0]])

    st.dataframe(
        table[["role", "vector", "Jaccard", "cosine", LENGTH]],
        hide_index=True,
        height=min(280, 38 + 35 * len(table)),
        key="vectors",
        on_select=told,
        selection_mode="single-row",
        alt=f"{len(table)} vectors with Jaccard index, cosine and length.",
    )
    st.caption("Most changed first. Click a row, or choose a vector above, for its tokens.")
    download(table, "vectors", "vectors")


def _shared(key: str, held: Held) -> None:
    """Every followed vector's share of tokens, by name."""
    drawn = picture_of(key, held.found)
    if drawn.figure is not None:
        picture(drawn.figure, "shared", "All top tokens kept in the run.")


# ---- all vectors


def _strips(run: Opened, held: Held, vector: str) -> None:
    """How far every value vector moved."""
    st.subheader("All value vectors", anchor=False)
    if not held.moved:
        absent("How far every value vector moved", run.why_not_shown(MOVED), _look(run))
        return
    first = next(iter(held.moved.values()))
    experts, expert = experts_of(first), EVERY
    if experts:
        words = "the furthest of all experts"
        expert = choose("Expert", "expert", [EVERY, *experts], lambda n: words if n == EVERY else f"expert {n}")
    strips = {role: strip_of(trace, expert) for role, trace in held.moved.items()}
    said = [f"{role}: {told(trace)}" for role, trace in held.moved.items()]
    width = next(iter(strips.values())).width
    wide = f" A column is {width} neighbouring neurons and shows the one that moved furthest." if width > 1 else ""
    pooled = " A row is the furthest of the layer's experts." if next(iter(strips.values())).pooled else ""
    caption = "1 is as far as setting a vector to zero moves it. Grey did not move. Click a cell for its vector."
    figure = move_strips(strips, Marked(vector, _sites(held.found)), said)
    marks(figure, "strip", _choose_cell, caption + wide + pooled)
    for line in said:
        st.caption(safe(line))


def _look(run: Opened) -> str:
    """The command that reads it beside a finished run."""
    about = (run.on.manifest or {}).get("checkpoints") or {}
    address = {role: str((about.get(role) or {}).get("address") or role.upper()) for role in ("base", "checkpoint")}
    concept = run.on.concept or "CONCEPT"
    return f"workbench look moved_vectors {address['checkpoint']} --against {address['base']} --concept {concept}"


# ---- one vector


def _one(run: Opened, held: Held, vector: str, k: int) -> None:
    """One vector: its numbers, and its top tokens before and after."""
    st.subheader(safe(vector), anchor=False)
    traces = held.snapshots(vector)
    roles = [role for role in dict.fromkeys([*traces, *held.moved]) if role != "base"]
    for role in roles:
        _tiles(_numbers(held, traces, role, vector, k), role)
    for column, role in zip(st.columns(max(2, len(roles))), (r for r in roles if r in traces), strict=False):
        with column:
            _tokens(traces["base"], traces[role], (vector, role), k)
    if not traces:
        layer = Site.parse(vector).layer
        near = [v for v in (*_sites(held.found), *_sites(held.random)) if Site.parse(v).layer == layer]
        kept = f"; of layer {layer} it has {', '.join(near[:8])}{' and more' if len(near) > 8 else ''}" if near else ""
        absent(
            f"Top tokens of {vector}",
            f"a run keeps those of {len(_sites(held.found))} vectors that speak for the concept and of "
            f"{len(_sites(held.random))} random ones, and this is none of them{kept}. With more vectors it may be:",
            f"{run.again} --set reading.vectors=200" if run.on.is_audit else "",
        )
    elif not all(spells(trace) for trace in traces.values()):
        absent("The words of these tokens", "this run was made before runs kept them; audit again to have them")


def _numbers(held: Held, traces: Mapping[str, Trace], role: str, vector: str, k: int) -> dict[str, Any]:
    """Name -> number and what it is: Jaccard index, cosine, length and distance of one role's vector."""
    found: dict[str, Any] = {}
    if role in traces:
        table = moves(traces["base"], traces[role], k)
        row = table[table["vector"] == vector]
        if len(row):
            found[f"Jaccard@{k}"] = row["Jaccard"].iloc[0], "Shared top tokens over all of both lists."
            found["cosine"] = row["cosine"].iloc[0], f"With the base's vector. {NO_DIRECTION}"
            found["length ×"] = row[LENGTH].iloc[0], "Length after over length before."
    if role in held.moved:
        found["moved by"] = value_of(held.moved[role], vector), "Distance to the base's vector, in its lengths."
    return found


def _tiles(numbers: Mapping[str, Any], role: str) -> None:
    """One role's numbers in a row, so that those of two roles stand above each other."""
    if not numbers:
        return
    first, *rest = st.columns([1.2, *[1] * max(4, len(numbers))], vertical_alignment="center")
    first.markdown(f"**{safe(role)}**")
    for tile, (name, (value, tip)) in zip(rest, numbers.items(), strict=False):
        tile.metric(name, "–" if value is None or value != value else number(float(value)), help=tip)


def _tokens(base: Trace, after: Trace, whose: tuple[str, str], k: int) -> None:
    """The top tokens side by side; an arrow says how far a token's rank moved."""
    vector, role = whose
    shown = ranks(base, after, vector, k)
    words = (
        [name for name in shown.columns if not name.startswith("token id")] if spells(base) and spells(after) else None
    )
    st.dataframe(
        shown,
        hide_index=True,
        height=300,
        column_order=words,
        column_config=WIDTHS,
        alt=f"Top tokens of {vector} in the base and {role}.",
    )
    if not after.values[after.labels["site"].index(vector)].any():
        st.caption(f"{safe(role)}: the vector is zero and promotes nothing; the tokens after are in no order.")
        return
    gone = f"{lost(base, after, vector, k)} of {min(k, len(ids_at(base, vector)))} tokens before are gone"
    st.caption(f"Base and {safe(role)}: {gone}. An arrow says how many ranks a token after has moved.")


if __name__ == "__main__":
    page()
