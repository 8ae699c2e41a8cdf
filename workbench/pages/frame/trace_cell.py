"""The chosen cell of a causal trace: how the score moves there, each corrupted copy of a fact, and what was done."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.figures_moves import moves_figure
from workbench.figures_style import number
from workbench.pages.frame.picture import download, picture
from workbench.pages.frame.states import absent
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, layer_name
from workbench.trace_moves import moves_of, samples_of

WINDOWED = ("mlp_out", "attn_out")
"""Kinds of state of which several layers can be restored together."""

WINDOWS = "workbench look causal_trace CHECKPOINT --concept CONCEPT --set window=3"


def window_note(trace: Trace, kind: str) -> str:
    """How many layers a row of the map restores, and the option that sets it."""
    if kind not in WINDOWED:
        return "Each row restores one layer; windows are for mlp_out and attn_out."
    width = _options(trace).get("window")
    if not isinstance(width, int):
        return "Whether single layers or windows were restored is not recorded."
    if width == 1:
        return f"Each row restores one layer, as in every audit. Windows of 3: {WINDOWS} (its run as Run A or Run B)."
    return (
        f"Each row restores a window of {width} layers about it (option window={width}, centring "
        f"{_options(trace).get('centring')}); windows make peaks larger and wider than single layers do."
    )


def noise_note(traces: Mapping[str, Trace]) -> str:
    """How the subject was corrupted, how strongly, and how much of the answer that took away, model by model."""
    options = _options(next(iter(traces.values())))
    samples, seed = options.get("samples", "?"), options.get("seed", "?")
    copies = f"{samples} {'copy' if samples == 1 else 'copies'} of each fact"
    if options.get("corruption") == "replace":
        how = f"Corruption: the subject is swapped for another of as many tokens, {copies}; no noise, so no scale."
    elif options.get("corruption") == "noise":
        sizes = _by_role(traces, "noise") or "not noted by this run"
        how = (
            f"Corruption: Gaussian noise of {options.get('noise_scale')} standard deviations of all the subjects' "
            f"token embeddings, measured in each model ({sizes}), {copies}, seed {seed}."
        )
    else:
        how = "Corruption: not recorded."
    totals = _by_role(traces, "mean_total_effect")
    return how + (f" Mean total effect, the ceiling of a cell: {totals}." if totals else "")


def _by_role(traces: Mapping[str, Trace], note: str) -> str:
    found = {role: trace.notes.get(note) for role, trace in traces.items()}
    return ", ".join(f"{role} {number(value)}" for role, value in found.items() if isinstance(value, int | float))


def cell_moves(found: Mapping[str, Trace], where: str) -> None:
    """The score clean, corrupted and restored, by role: the mean over facts.

    Args:
        found: role -> trace at the cell.
        where: the cell, in words.
    """
    moves = {role: moved for role, cell in found.items() if (moved := moves_of(cell)) is not None}
    if not moves:
        absent(f"How the score moves at {where}", "the notes of this trace hold no clean and corrupted scores")
        return
    caption = "Mean and 95% interval over the facts that were traced; the same facts at every stage."
    picture(moves_figure(moves, f"Mean over facts at {where}"), "moves", caption)


def fact_copies(traces: Mapping[str, Trace], place: tuple[str, str, str], fact: str) -> None:
    """The chosen fact: its own moves, with each corrupted copy, and their numbers.

    Args:
        traces: role -> whole causal trace.
        place: kind of state, layer and token.
        fact: number of the fact.
    """
    kind, layer, column = place
    moves, copies, named = {}, {}, {}
    for role, trace in traces.items():
        site, label = _site(trace, kind, layer), _label(trace, fact)
        if site is None or label is None or trace.axes != ("site", "role", "fact"):
            continue
        moved = moves_of(trace.pick("site", site).pick("role", column), label)
        if moved is not None:
            moves[role], named[role] = moved, _instead(trace, label)
        table = samples_of(trace, (site, column), label)
        if table is not None:
            copies[role] = table
    if not moves:
        absent(f"Fact {fact} in this cell", _why_untraced(traces, fact))
        return
    title = f"Fact {fact} at {kind}, layer {layer}, {column}"
    picture(moves_figure(moves, title, copies), "fact moves", "One fact has no interval; thin lines are its copies.")
    st.markdown("**Every corrupted copy of this fact**")
    if copies:
        table = pd.concat([rows.assign(role=role) for role, rows in copies.items()], ignore_index=True)
        table.insert(0, "role", table.pop("role"))
        st.dataframe(table, hide_index=True, alt=f"{len(table)} corrupted copies of fact {fact}.")
        download(table, "copies", f"copies of fact {fact} at {kind} layer {layer} {column}")
        return
    st.text(_without_copies(next(iter(traces.values())), named))


def _without_copies(trace: Trace, named: Mapping[str, list[str]]) -> str:
    """Why there is no number a copy, and what stood in."""
    by_role = {role: names[0] for role, names in named.items() if names}
    alike = len(set(by_role.values())) == 1
    who = next(iter(by_role.values())) if alike else "; ".join(f"{role}: {name}" for role, name in by_role.items())
    if by_role or _options(trace).get("samples") == 1:
        told = "There is one copy, so its numbers are those of the fact: no seeds to compare."
        return told + (f" In the subject's place stood {who}." if who else " Which subject stood in is not noted.")
    return (
        f"{_options(trace).get('samples', 'Some')} copies were made, of which this run kept the mean: it was made "
        "before traces noted single copies."
    )


def _why_untraced(traces: Mapping[str, Trace], fact: str) -> str:
    for trace in traces.values():
        label = _label(trace, fact)
        why = dict(trace.notes.get("why_not_traced") or {}).get(label)
        if why:
            return f"it was not traced: {why}"
    return "it was not traced, or the notes hold no clean and corrupted scores"


def _instead(trace: Trace, label: str) -> list[str]:
    names, labels = trace.notes.get("instead"), trace.labels["fact"]
    return [str(name) for name in names[labels.index(label)]] if isinstance(names, list) and names else []


def _site(trace: Trace, kind: str, layer: str) -> str | None:
    """Label of the whole state of a kind at a layer."""
    for label, site in zip(trace.labels["site"], parse_sites(trace.labels["site"]), strict=True):
        if site.part == kind and site.index is None and site.expert is None and layer_name(label) == layer:
            return label
    return None


def _label(trace: Trace, fact: str) -> str | None:
    return next((text for text in trace.labels.get("fact", ()) if fact_number(text) == fact), None)


def _options(trace: Trace) -> dict[str, object]:
    return dict(trace.notes.get("options") or {})
