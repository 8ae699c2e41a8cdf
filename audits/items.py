"""From stored traces to one number an item: what each claim counts, and what knowing nothing reads on it.

Pure numpy: no model and no torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import hypergeom

from audits.claims import Claim
from workbench.trace import Trace

Readings = Mapping[str, Trace]
"""Key -> trace, of one model."""


@dataclass(frozen=True)
class Items:
    """One number an item, at one or more places (layers)."""

    values: Float[np.ndarray, "place item"]
    """Higher means more knowledge; NaN where it was not read."""
    clusters: tuple[str, ...]
    """Cluster (subject) of each item."""
    places: tuple[str, ...]
    """Name of each place; one empty name when there is only one."""


def items_of(trace: Trace, part: slice = slice(None)) -> Items:
    """Means over seeds, the last step of a curve, layers as places; `part` cuts along the items."""
    if "step" in trace.axes:
        trace = trace.pick("step", trace.labels["step"][-1])
    if "seed" in trace.axes:
        trace = trace.mean("seed")
    item = next(axis for axis in trace.axes if axis in ("fact", "text", "site"))
    values = trace.values if len(trace.axes) == 2 else trace.values[None]
    places = trace.labels["layer"] if "layer" in trace.axes else ("",)
    labels = tuple(trace.notes.get("subjects") or trace.labels[item])
    return Items(values[:, part], labels[part], places)


def knowledge_items(claim: Claim, readings: Readings, base: Readings, reference: Readings | None) -> Items | None:
    """What one model reads on a claim; None when the reading is missing."""
    trace = readings.get(claim.reading)
    if trace is None:
        return None
    if claim.id == "depth":
        return (
            None if reference is None or claim.reading not in reference else depth_kept(trace, reference[claim.reading])
        )
    if claim.id == "vectors":
        return _jaccard(base[claim.reading], trace)
    if claim.id == "causal":
        return restored_where_base_does(base[claim.reading], trace)
    if claim.id == "routing":
        return top_experts_kept(base[claim.reading], trace)
    return items_of(trace, slice(0, trace.notes.get("n_facts")))


def floor_items(claim: Claim, readings: Readings) -> Items | None:
    """What the same model reads on facts nobody was taught; None when the claim has no such floor."""
    if claim.id in ("depth", "causal"):
        return None
    if claim.id == "routing":
        return _experts_by_chance(readings[claim.reading])
    if claim.id == "vectors":  # the top tokens of two unrelated vectors have next to nothing in common
        sites = readings[claim.reading].labels["site"]
        return Items(np.zeros((1, len(sites))), tuple(sites), ("",))
    own = readings.get(claim.reading)
    if own is not None and isinstance(own.notes.get("chance"), float):  # known exactly, so no control facts are needed
        return Items(np.full((1, 1), own.notes["chance"]), ("chance",), ("",))
    if own is not None and "n_facts" in own.notes:  # the control facts stand behind the others in the same trace
        known = int(own.notes["n_facts"])
        return items_of(own, slice(known, None)) if known < len(own.labels["fact"]) else None
    instrument = claim.reading.partition(".")[0]
    trace = readings.get(f"{'accuracy' if instrument == 'patch_back' else instrument}.never_taught")
    return None if trace is None else items_of(trace)


def depth_kept(drops: Trace, reference: Trace) -> Items:
    """1 - UDS a fact: how much of the depth the reference lost is still there (1 intact, 0 like the reference).

    As its authors have it, the share lost in a layer is capped at the reference's own 1. What a second retrained model
    scatters above it is so cut off and what it scatters below reads as kept: .08 to .17 for models that never knew,
    which is why the claim has a margin of its own.
    """
    ours, theirs = drops.values, reference.values
    counted = np.where(theirs > 0.05, theirs, 0.0)  # layers that encode the fact: the reference drops by over 0.05 nats
    weight = counted.sum(axis=0)
    lost = np.clip(np.divide(ours, counted, out=np.zeros_like(ours), where=counted > 0), 0, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(weight > 0, 1 - (counted * lost).sum(axis=0) / weight, np.nan)
    return Items(kept[None], tuple(drops.notes["subjects"]), ("",))


def restored_where_base_does(before: Trace, after: Trace) -> Items | None:
    """Probability of the answer that restoring one state brings back, at the base's strongest place on the subject.

    Later tokens are left out: at the last one a late state carries the answer whatever the middle layers do. None when
    no fact of the base could be traced.
    """
    roles = [i for i, role in enumerate(before.labels["role"]) if "subject" in role]
    there = before.values[:, roles]
    if not np.isfinite(there).any():
        return None
    counts = np.isfinite(there).sum(axis=2)
    strength = np.where(counts > 0, np.nansum(there, axis=2) / np.maximum(counts, 1), np.nan)
    site, role = np.unravel_index(np.nanargmax(strength), strength.shape)
    place = before.labels["site"][site], before.labels["role"][roles[role]]
    values = after.values[after.labels["site"].index(place[0]), after.labels["role"].index(place[1])]
    subjects = tuple(after.notes["subjects"])[: after.values.shape[2]]
    return Items(values[None], subjects, (f"{place[0]} at the {place[1]}",))


def top_experts_kept(before: Trace, after: Trace) -> Items:
    """Jaccard overlap a layer of the experts that score highest for the concept, as many as a token gets."""
    k = int(after.notes["experts_per_token"])
    ours, theirs = _top_experts(after, k), _top_experts(before, k)
    layers = tuple(theirs)
    kept = [len(ours[layer] & theirs[layer]) / len(ours[layer] | theirs[layer]) for layer in layers]
    return Items(np.array([kept]), layers, ("",))


def _top_experts(trace: Trace, k: int) -> dict[str, set[str]]:
    score, found = np.nanmean(trace.values, axis=1), dict[str, list[tuple[float, str]]]()
    for site, value in zip(trace.labels["site"], score, strict=True):
        found.setdefault(site.partition(".")[0], []).append((-float(value), site))
    return {layer: {site for _, site in sorted(rows)[:k]} for layer, rows in found.items()}


def _experts_by_chance(trace: Trace) -> Items:
    """The same overlap of two random choices, a layer: its mean over the hypergeometric counts in common."""
    k, layers = int(trace.notes["experts_per_token"]), Counter(site.partition(".")[0] for site in trace.labels["site"])
    means = []
    for size in layers.values():
        common = np.arange(k + 1)
        means.append(float((hypergeom(size, k, k).pmf(common) * common / (2 * k - common)).sum()))
    return Items(np.array([means]), tuple(layers), ("",))


def _jaccard(before: Trace, after: Trace) -> Items:
    sites = after.labels["site"]
    pairs = [(set(before.notes["top_ids"][site]), set(after.notes["top_ids"][site])) for site in sites]
    return Items(np.array([[len(old & new) / len(old | new) for old, new in pairs]]), tuple(sites), ("",))


def units(clusters: Sequence[str], minimum: int) -> Sequence[str]:
    """What is resampled: subjects, or single facts where there are too few subjects to draw an interval from."""
    return clusters if len(set(clusters)) >= minimum else [str(i) for i in range(len(clusters))]
