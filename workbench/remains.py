"""Where in a checkpoint something still shows: the layer, token and fact of the strongest stored reading.

Read it as: a place to look at first: the layer whose mean over facts stands furthest above the reference's (above 0
where there is none), and there the fact that stands out most. The last layer of a lens is the model's own output, so it
is left out; in a causal trace only tokens of the subject count, because what is put back at the last token of the last
layer is the answer itself.
Does not show: that the place differs from chance; compare its number with the reference's, which stands beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import by_layer, fact_number, layer_name

SUBJECT = "subject"
"""Word in the labels of the tokens that count."""


@dataclass(frozen=True)
class Place:
    """One fact at one layer (and token)."""

    layer: str
    """Name of the layer, as the app calls it."""
    token: str
    """Label of the token; empty where the reading has none."""
    fact: str
    """Label of the fact."""
    values: Mapping[str, float]
    """Role -> number of this fact at this place; a role that was not read there is left out."""

    @property
    def number(self) -> str:
        """The fact's number."""
        return fact_number(self.fact)


def by_layers(traces: Mapping[str, Trace]) -> Place | None:
    """The strongest place of a reading by layer and fact (lens, probes)."""
    own = traces.get("checkpoint")
    if own is None or not {"layer", "fact"} <= set(own.axes) or len(own.labels["layer"]) < 2:
        return None
    tables = {role: _table(trace) for role, trace in traces.items() if {"layer", "fact"} <= set(trace.axes)}
    top = _top(tables, {layer_name(label) for label in own.labels["layer"][:-1]})
    return None if top is None else _place(tables, top[0], "")


def by_tokens(traces: Mapping[str, Trace], part: str) -> Place | None:
    """The strongest place of a causal trace in one kind of state, at a token of the subject."""
    own = traces.get("checkpoint")
    if own is None or not {"site", "role", "fact"} <= set(own.axes):
        return None
    if part not in {site.part for site in parse_sites(own.labels["site"])}:
        return None
    cut = {role: by_layer(trace, part) for role, trace in traces.items() if {"site", "role"} <= set(trace.axes)}
    tokens = [name for name in own.labels["role"] if SUBJECT in name]
    found = [
        (token, {role: _table(t.pick("role", token)) for role, t in cut.items() if token in t.labels["role"]})
        for token in tokens
    ]
    tops = [(top, token, tables) for token, tables in found if (top := _top(tables, set(_layers(tables))))]
    if not tops:
        return None
    (layer, _), token, tables = max(tops, key=lambda one: one[0][1])
    return _place(tables, layer, token)


Tables = Mapping[str, Mapping[tuple[str, str], float]]
"""Role -> (layer, fact) -> number."""


def _layers(tables: Tables) -> list[str]:
    return list(dict.fromkeys(layer for layer, _ in tables["checkpoint"]))


def _above(tables: Tables, at: tuple[str, str]) -> float:
    """How far the checkpoint stands above the reference, or above 0 where there is none."""
    other = tables.get("reference", {}).get(at, 0.0)
    return tables["checkpoint"][at] - (max(other, 0.0) if np.isfinite(other) else 0.0)  # below 0 is noise of a trace


def _top(tables: Tables, among: set[str]) -> tuple[str, float] | None:
    """The layer whose mean over facts stands furthest above the reference's, and how far; None where none does."""
    means = {}
    for layer in (name for name in _layers(tables) if name in among):
        here = [
            _above(tables, at) for at, value in tables["checkpoint"].items() if at[0] == layer and np.isfinite(value)
        ]
        if here:
            means[layer] = sum(here) / len(here)
    best = max(means, key=lambda layer: means[layer], default=None)
    return None if best is None or means[best] <= 0 else (best, means[best])


def _place(tables: Tables, layer: str, token: str) -> Place:
    """The fact that stands out most there; ties go to the higher number."""
    own = tables["checkpoint"]
    there = [at for at, value in own.items() if at[0] == layer and np.isfinite(value)]
    best = max(there, key=lambda at: (_above(tables, at), own[at]))
    return Place(layer, token, best[1], {role: table[best] for role, table in tables.items() if best in table})


def _table(trace: Trace) -> dict[tuple[str, str], float]:
    """(layer, fact) -> number."""
    trace = trace.mean("seed") if "seed" in trace.axes else trace
    grid = np.moveaxis(trace.values, trace.axis("layer"), 0)
    return {
        (layer_name(layer), fact): float(grid[i, j])
        for i, layer in enumerate(trace.labels["layer"])
        for j, fact in enumerate(trace.labels["fact"])
    }
