"""How a mixture shares out the tokens of a set of facts: by layer and expert, how evenly, and how far from the base."""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from workbench.errors import BadInput
from workbench.expert_load import entropies, load_by_fact, loads_of
from workbench.figures import compare_layers, compare_maps
from workbench.figures_click import CellAt
from workbench.figures_maps import map_figure
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import grid, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.pages.frame.url import pick
from workbench.trace import Trace
from workbench.trace_cuts import named_layers

LOAD, SHIFT = "expert_load", "expert_shift"
"""Instruments of these pictures."""

ROLE_OF = {"before": "base", "after": "checkpoint"}
"""Side of a run of `expert_shift` -> role."""

SPLIT = "forget-near"
"""Name in the URL of what is sent elsewhere on the forget facts than on the near ones."""

WORDS = {"forget": "forget facts", "near": "near facts", "far": "far facts", SPLIT: "forget − near"}
"""Set -> words."""

MEASURES = {"distribution": "Jensen-Shannon divergence", "selection": "share of choices not kept"}
"""Measure of the shift -> words; the first is shown first."""

EVEN = "evenness of the load, 1 is even"


@dataclass(frozen=True)
class Sets:
    """Readings of some sets of facts in one run."""

    source: Opened
    """The run."""

    def key(self, instrument: str, name: str) -> str | None:
        """Key of a set's reading, None where the run has none."""
        key = f"{instrument}.{name}"
        return key if key in self.source.keys(instrument) else None

    @property
    def names(self) -> list[str]:
        """Sets that were read, the forget facts first, and the split where both of its sides were."""
        found = dict.fromkeys(key.partition(".")[2] for key in self.source.keys(LOAD, SHIFT))
        known = [name for name in WORDS if name in found]
        both = self.key(LOAD, "forget") and self.key(LOAD, "near")
        return [*known, *(name for name in found if name not in known), *([SPLIT] if both else [])]

    def traces(self, instrument: str, name: str) -> dict[str, Trace]:
        """Role -> trace; nothing where the run has none."""
        key = self.key(instrument, name)
        return self.source.traces(key) if key else {}


def routing_of_sets(source: Opened | None, expert: str) -> None:
    """The maps of the load, the curve of the shift and that of the evenness.

    Args:
        source: the run that holds them, None for none.
        expert: number of the chosen expert, or `all`.
    """
    if source is None:
        absent(
            "Share of tokens by expert, and shift of the router",
            "this run was made before audits read them, or by a suite or checks that leave them out, and no other run "
            "on the shelf did. A standard audit reads them; so does, for two checkpoints alone:",
            "workbench look expert_shift CHECKPOINT --against BASE --concept CONCEPT",
        )
        return
    sets = Sets(source)
    names = sets.names
    name = pick("Facts", "set", names, lambda n: safe(WORDS.get(n, n))) if len(names) > 1 else names[0]
    _loads(sets, name, expert)
    st.subheader("Shift of the router", anchor=False)
    _shift(sets, name)
    _evenness(sets, name)


def _by_role(sets: Sets, name: str) -> dict[str, Trace]:
    """Role -> share of tokens by expert, with facts apart where an audit read them."""
    found = sets.traces(LOAD, name)
    if found:
        return {role: load_by_fact(trace) for role, trace in found.items()}
    first = next(iter(sets.traces(SHIFT, name).values()), None)
    return {} if first is None else {ROLE_OF[side]: load for side, load in loads_of(first).items()}


def _loads(sets: Sets, name: str, expert: str) -> None:
    """Layer by expert: before, after, difference, reference."""
    title = f"Share of tokens sent to each expert, {WORDS.get(name, name)}"
    try:
        by_role = _by_role(sets, "forget" if name == SPLIT else name)
        less = _by_role(sets, "near") if name == SPLIT else None
        if not by_role:
            absent(
                "Tokens by expert",
                "this run was made before expert shift noted them; the same command in another folder does",
                sets.source.on.command,
            )
            return
        known = all("fact" in load.axes for load in by_role.values())
        if {"base", "checkpoint"} <= set(by_role):
            off = {side: less[role] for side, role in _SIDES.items() if role in less} if less else None
            pair = (by_role["base"], by_role["checkpoint"], by_role.get("reference"))
            figure = compare_maps(*pair, title, greyed=known, less=off)
        else:
            figure = map_figure(next(iter(by_role.values())), title)
    except (BadInput, KeyError) as error:
        absent(title, str(error))
        return
    frame = CellAt(chosen().layer, expert)
    told = _told(by_role, name, known)
    grid(figure, "loads", frame if ALL not in (frame.row, frame.column) else None, _choose, told)


_SIDES = {"before": "base", "after": "checkpoint", "reference": "reference"}


APART = (
    "A reference that was trained apart from the base may number its experts otherwise: compare its experts with care."
)


def _told(by_role: Mapping[str, Trace], name: str, known: bool) -> str:
    """How to read the maps."""
    load = next(iter(by_role.values()))
    if name == SPLIT:
        first = (
            "What the forget facts send to an expert more (blue) or less (red) than the near facts do; 0 is no split."
        )
    else:
        first = f"A row sums to the experts a token gets ({load.notes.get('experts_per_token', 'K')})."
    noise = (
        "Grey: a difference within two standard errors over facts."
        if known
        else "Over all tokens of these facts: nothing is known of noise."
    )
    apart = f" {APART}" if "reference" in by_role else ""
    return f"{first} {noise}{apart} Click a cell: what is known of the expert stands at the foot of the page."


def _choose(at: CellAt) -> None:
    st.session_state["layer"], st.session_state["expert"] = at.row, at.column


def _shift(sets: Sets, name: str) -> None:
    """How far the choice of experts moved, by layer."""
    traces, of_what = _moved(sets.traces(SHIFT, "forget" if name == SPLIT else name)), WORDS.get(name, name)
    if name == SPLIT:
        near, of_what = _moved(sets.traces(SHIFT, "near")), "forget facts and near facts"
        traces |= {f"{role}, near facts": trace for role, trace in near.items()}
    if not traces:
        key = f"{SHIFT}.{'forget' if name == SPLIT else name}"
        absent(sets.source.words(key), sets.source.why_missing(key), sets.source.again)
        return
    first = next(iter(traces.values()))
    measures = [m for m in MEASURES if m in first.labels["measure"]] or list(first.labels["measure"])
    measure = pick("Measure", "measure", measures, lambda m: safe(MEASURES.get(m, m)))
    cut = {role: named_layers(trace.pick("measure", measure)) for role, trace in traces.items()}
    st.caption(safe(f"Against {first.notes.get('donor', '?')}, which is 0 everywhere."))
    picture(
        compare_layers(cut, f"{MEASURES.get(measure, measure)}, {of_what}", first.units, None),
        f"{SHIFT} {name}",
        safe(str(first.notes.get("axes", {}).get("measure", {}).get(measure, "")))
        + ". 0: sent as by the base. Bands: 95% over facts, drawn by subject. A shift that begins at a layer was "
        f"caused at or below it.{f' {APART}' if 'reference' in traces else ''}",
    )


def _moved(by_role: Mapping[str, Trace]) -> dict[str, Trace]:
    """Without the base, which has not moved from itself."""
    return {role: trace for role, trace in by_role.items() if role != "base" or len(by_role) == 1}


def _evenness(sets: Sets, name: str) -> None:
    """How evenly the tokens are shared out, by layer."""
    if name == SPLIT:
        st.caption("How even the load is can be told of one set at a time: choose Facts above.")
        return
    by_role = _by_role(sets, name)
    if not by_role:
        return
    picture(
        compare_layers({role: entropies(load) for role, load in by_role.items()}, "Load entropy", EVEN, None),
        f"entropy {name}",
        "1: every expert of the layer gets as many tokens. A fall: tokens were gathered in few experts.",
    )
