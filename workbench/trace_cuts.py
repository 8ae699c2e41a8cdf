"""Cuts through a trace for looking closer: one kind of state, one layer, one fact. Nothing is computed.

Read it as: a cut holds the numbers of the trace, with fewer entries or axes.
Does not show: anything the trace does not hold; an entry that was not read stays NaN.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workbench.errors import BadInput
from workbench.sites import Site, parse_sites
from workbench.trace import Trace

_LAYER = re.compile(r"L(\d+)(\..*)?$")


def layer_name(label: str) -> str:
    """`L3`, `L3.resid_post` and `3` as `3`; anything else (`embed`) as it stands."""
    found = _LAYER.match(label)
    return found.group(1) if found else label


def layers_of(trace: Trace) -> tuple[str, ...]:
    """The layers a trace was read at, in its order."""
    if "layer" in trace.axes:
        return tuple(dict.fromkeys(layer_name(label) for label in trace.labels["layer"]))
    sites = parse_sites(trace.labels["site"]) if "site" in trace.axes else ()
    return tuple(dict.fromkeys(_name(site) for site in sites))


def parts_of(trace: Trace) -> tuple[str, ...]:
    """The kinds of state of a trace by site: `resid_post`, `mlp_out`, ..."""
    return tuple(dict.fromkeys(site.part for site in parse_sites(trace.labels["site"])))


def only_part(trace: Trace, part: str) -> Trace:
    """The sites of one kind."""
    sites = parse_sites(trace.labels["site"])
    return kept(trace, "site", [i for i, site in enumerate(sites) if site.part == part])


def by_layer(trace: Trace, part: str) -> Trace:
    """The sites of one kind that are whole states, with an axis `layer` in the place of `site`."""
    sites = parse_sites(trace.labels["site"])
    there = [i for i, site in enumerate(sites) if site.part == part and site.index is None and site.expert is None]
    cut = kept(trace, "site", there)
    names = tuple("layer" if axis == "site" else axis for axis in cut.axes)
    labels = {axis: cut.labels[axis] for axis in cut.axes if axis != "site"}
    return replace(cut, axes=names, labels=labels | {"layer": tuple(_name(sites[i]) for i in there)})


def named_layers(trace: Trace) -> Trace:
    """The same with the layers called `embed`, `0`, `1`, ..., where each is there once."""
    names = tuple(layer_name(label) for label in trace.labels["layer"])
    return replace(trace, labels={**trace.labels, "layer": names}) if len(set(names)) == len(names) else trace


def kept(trace: Trace, axis: str, entries: Sequence[int]) -> Trace:
    """Some entries of one axis, in the order given; the notes' subjects go with the facts."""
    number = trace.axis(axis)
    labels = {**trace.labels, axis: tuple(trace.labels[axis][i] for i in entries)}
    subjects = trace.notes.get("subjects")
    notes = trace.notes
    if axis == "fact" and isinstance(subjects, list) and len(subjects) == len(trace.labels["fact"]):
        notes = {**notes, "subjects": [subjects[i] for i in entries]}
    return replace(trace, values=np.take(trace.values, list(entries), axis=number), labels=labels, notes=notes)


def fact_number(label: str) -> str:
    """The number a fact's label begins with (`12: The capital of ...`); the label itself where there is none."""
    head, colon, _ = label.partition(":")
    return head if colon and head.isdigit() else label


def has_fact(trace: Trace, number: str) -> bool:
    """Whether a trace was read on the fact of that number."""
    return any(fact_number(label) == number for label in trace.labels.get("fact", ()))


def one_fact(trace: Trace, number: str) -> Trace:
    """The readings of one fact; the axis disappears.

    Raises:
        BadInput: when the trace was not read on it.
    """
    for label in trace.labels.get("fact", ()):
        if fact_number(label) == number:
            return trace.pick("fact", label)
    raise BadInput(f"Fact {number!r} was not read by {trace.name!r}: it has {len(trace.labels.get('fact', ()))} facts")


def _name(site: Site) -> str:
    return "embed" if site.layer is None else str(site.layer)
