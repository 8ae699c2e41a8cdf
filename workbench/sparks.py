"""The small curve beside a claim: its own reading of the checkpoint along layers, steps, bits or strengths.

    layers      lens, probes, depth (share kept of what the reference lost), causal trace at the subject's last token,
                value vectors (mean overlap with the base's in each layer)
    steps       relearning; facts in the context
    bits        rounding, from fine to coarse
    strengths   attacks that were tried with rising strength (pruning)

Read it as: higher is more knowledge left, on one scale from 0 to 1; a gap was not read.
Does not show: intervals, or the other models; the claim's page does. A claim whose reading is one number has no curve.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.remains import SUBJECT
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import by_layer, kept, layer_name, parts_of

Read = Callable[[str, str], Trace | None]
"""(role, key) -> trace, None where it is not stored."""

ALONG_LAYERS = {"lens": "logit_lens.forget", "probe": "linear_probes.forget"}
ALONG_STEPS = {
    "in_context": "in_context.forget",
    **{name: f"{name}.forget" for name in ("relearn", "relearn_subjects", "relearn_near", "relearn_text")},
}
BITS = {"8": "accuracy.forget.quantise_8", "4": "accuracy.forget.quantise", "3": "accuracy.forget.quantise_3"}
STRENGTHS = {"prune": ("accuracy.forget.prune", "shares")}
"""Claim -> its reading and the option that holds a rising strength for each try."""

VECTORS = "concept_vectors.forget"
STATE = "resid_post"
CARRIES = 0.05
"""Nats the reference must have lost at a layer before a share of them is told; the depth probe's own threshold."""


@dataclass(frozen=True)
class Spark:
    """One curve."""

    along: str
    """What it runs along: `layers`, `steps`, `bits`, ..."""
    labels: tuple[str, ...]
    """Label of every number."""
    values: tuple[float, ...]
    """From 0 to 1; NaN where nothing was read."""

    @property
    def words(self) -> str:
        """Along what, from where to where."""
        return f"{self.along} {self.labels[0]} to {self.labels[-1]}"


def spark_of(claim: str, read: Read) -> Spark | None:
    """The curve of a claim; None where its reading has nothing to run along, or was not stored."""
    found = _spark(claim, read)
    return found if found is not None and len(found.values) > 1 and np.isfinite(found.values).any() else None


def _spark(claim: str, read: Read) -> Spark | None:
    if claim in ALONG_LAYERS:
        return _along(read("checkpoint", ALONG_LAYERS[claim]), "layer")
    if claim in ALONG_STEPS:
        return _along(read("checkpoint", ALONG_STEPS[claim]), "step")
    if claim == "quantise":
        return _bits(read)
    if claim in STRENGTHS:
        return _strengths(read("checkpoint", STRENGTHS[claim][0]), STRENGTHS[claim][1])
    by_claim = {"depth": _depth, "causal": _causal, "vectors": _vectors}
    return by_claim[claim](read) if claim in by_claim else None


def _along(trace: Trace | None, axis: str) -> Spark | None:
    """Means over facts and seeds; the control facts behind the forget facts do not enter."""
    if trace is None or axis not in trace.axes or set(trace.axes) - {axis, "fact", "seed"}:
        return None
    known = trace.notes.get("n_facts")
    if isinstance(known, int) and "fact" in trace.axes:
        trace = kept(trace, "fact", range(min(known, len(trace.labels["fact"]))))
    for item in ("seed", "fact"):
        trace = trace.mean(item) if item in trace.axes else trace
    labels = tuple(map(layer_name, trace.labels[axis])) if axis == "layer" else trace.labels[axis]
    return Spark(f"{axis}s", labels, tuple(map(float, trace.values)))


def _bits(read: Read) -> Spark | None:
    found = {bits: trace for bits, key in BITS.items() if (trace := read("checkpoint", key)) is not None}
    means = [trace.values[: trace.notes.get("n_facts")] for trace in found.values()]
    return Spark("bits", tuple(found), tuple(float(np.nanmean(values)) for values in means)) if found else None


def _strengths(trace: Trace | None, option: str) -> Spark | None:
    attacks = None if trace is None else trace.notes.get("attacks")
    if not isinstance(attacks, list) or not attacks:
        return None
    strengths = next((edit[option] for edit in attacks[0].get("edits") or () if option in edit), None)
    if not isinstance(strengths, list) or len(strengths) != len(attacks):
        return None
    shares = tuple(float("nan") if one.get("share") is None else float(one["share"]) for one in attacks)
    return Spark(option, tuple(map(str, strengths)), shares)


def _depth(read: Read) -> Spark | None:
    """1 less the share of the reference's drop."""
    own, reference = read("checkpoint", "depth_score.forget"), read("reference", "depth_score.forget")
    if own is None or reference is None or own.labels.get("layer") != reference.labels.get("layer"):
        return None
    ours, full = own.scores("layer"), reference.scores("layer")
    lost = np.divide(ours, full, out=np.full(ours.shape, np.nan), where=full >= CARRIES)
    return Spark("layers", tuple(map(layer_name, own.labels["layer"])), tuple(map(float, 1 - np.clip(lost, 0, 1))))


def _causal(read: Read) -> Spark | None:
    """Effect of the stream at the subject's last token; below 0 is noise of a trace and drawn as 0."""
    trace = read("checkpoint", "causal_trace.forget")
    if trace is None or "role" not in trace.axes or STATE not in parts_of(trace):
        return None
    at = next((role for role in trace.labels["role"] if role == f"last {SUBJECT}"), None)
    if at is None:
        return None
    found = _along(by_layer(trace, STATE).pick("role", at), "layer")
    return found and Spark(found.along, found.labels, tuple(float(max(0.0, v)) for v in found.values))


def _vectors(read: Read) -> Spark | None:
    """Jaccard of the top tokens with the base's, mean over the vectors of a layer."""
    tops: list[Any] = [
        trace.notes.get("top_ids") for role in ("base", "checkpoint") if (trace := read(role, VECTORS)) is not None
    ]
    if len(tops) < 2 or any(not isinstance(top, Mapping) for top in tops):
        return None
    before, after = tops
    by_layers: dict[int, list[float]] = {}
    for site in parse_sites(text for text in after if text in before):
        old, new = set(before[str(site)]), set(after[str(site)])
        by_layers.setdefault(site.layer or 0, []).append(len(old & new) / max(1, len(old | new)))
    layers = sorted(by_layers)
    return Spark("layers", tuple(map(str, layers)), tuple(float(np.mean(by_layers[layer])) for layer in layers))
