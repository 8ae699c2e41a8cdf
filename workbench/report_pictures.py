"""Which stored readings become which picture, and under which axis of the report.

A reading's key is `instrument.on` or `instrument.on.attack`, for instance `accuracy.forget.relearn`.

Read it as: one picture shows all roles; readings that are a single mean a role share one picture per axis and unit.
Does not show: a reading that is absent; where one is expected a card says what is missing and why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from workbench.errors import BadInput
from workbench.evidence import AuditReport
from workbench.figures import (
    compare_layers,
    compare_maps,
    compare_means,
    compare_ranked,
    figure_of,
    kind_of,
    relearn_curves,
)
from workbench.trace import Trace

RoleTraces = Mapping[str, Mapping[str, Trace]]
"""Role -> key -> trace."""

TopIds = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
"""Top tokens of value vectors, by site or in the order of the sites."""

ROLES = ("base", "checkpoint", "reference")
KEPT = ("near", "far", "text")
"""Sets that must stay: whatever is read on them belongs to utility."""

RECOVERY = ("relearn", "quant", "patch", "finetune", "prune", "merge", "steer")
"""Attacks on the weights or states begin with one of these; the others are prompts."""

ATTACK_INSTRUMENTS = ("relearn", "relearn_subjects", "relearn_near", "relearn_text", "patch_back")
"""Instruments that are attacks themselves."""

INSTRUMENT_AXIS = {
    "accuracy": "outputs",
    "answer_probability": "outputs",
    "best_of_n": "robustness",
    "perplexity": "utility",
    "logit_lens": "decodability",
    "linear_probes": "decodability",
    "depth_score": "decodability",
    "causal_trace": "storage",
    "expert_attribution": "storage",
    "concept_vectors": "storage",
    "weight_deltas": "storage",
    "sae_features": "storage",
    "membership": "privacy",
}
"""Axis of an instrument on the forget set, without an attack. Any other instrument counts as `outputs`."""

EXPECTED = {
    "outputs": ("accuracy.forget",),
    "decodability": ("logit_lens.forget", "linear_probes.forget"),
    "storage": ("causal_trace.forget",),
    "recoverability": ("relearn.forget",),
}
"""Readings every report has a place for."""

ROUTED = ("token_routing", "expert_load", "expert_shift", "routing_snapshot")
"""Where a mixture sends tokens: the app draws it."""

NOT_DRAWN = (
    "states",
    "coefficients",
    "tofu_losses",
    "answer_tokens",
    "lens_words",
    "probe_kinds",
    "random_vectors",
    "moved_vectors",
    *ROUTED,
)
"""Raw material of other readings, too large to draw, and what is shown a fact or a vector at a time."""


@dataclass(frozen=True)
class Picture:
    """A figure, or the card that stands where one would be."""

    title: str
    """What it shows, or would."""
    figure: go.Figure | None
    """The figure; None for a card."""
    why: str = ""
    """For a card: why there is nothing to draw."""


@dataclass(frozen=True)
class Key:
    """A reading's key, taken apart."""

    instrument: str
    """Probe or metric."""
    on: str
    """The set of facts."""
    attack: str
    """The attack it was read under; empty without one."""

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read `instrument.on` or `instrument.on.attack`."""
        instrument, on, attack = (text.split(".", 2) + ["", ""])[:3]
        return cls(instrument, on, instrument if instrument in ATTACK_INSTRUMENTS else attack)

    @property
    def axis(self) -> str:
        """The axis of evidence it belongs to."""
        if self.on in KEPT or self.on.startswith(tuple(f"{kept}/" for kept in KEPT)):
            return "utility"
        if self.attack:
            return "recoverability" if self.attack.startswith(RECOVERY) else "robustness"
        if "/" in self.on or self.on in ("paraphrases", "formats"):
            return "robustness"
        return INSTRUMENT_AXIS.get(self.instrument, "outputs")

    @property
    def words(self) -> str:
        """The key for a person."""
        under = f", under {self.attack}" if self.attack not in ("", self.instrument) else ""
        return f"{self.instrument} on {self.on or 'all facts'}{under}".replace("_", " ")


def pictures(report: AuditReport, traces: RoleTraces) -> dict[str, list[Picture]]:
    """Axis -> its pictures and cards."""
    by_key = _by_key(traces)
    found: dict[str, list[Picture]] = {}
    for axis, readings in _means(by_key).items():
        found.setdefault(axis, []).extend(readings)
    for text, by_role in by_key.items():
        if kind_of(_any(by_role)) != "means":
            found.setdefault(Key.parse(text).axis, []).append(_picture(Key.parse(text), by_role))
    for axis, keys in EXPECTED.items():
        for text in keys:
            if text not in by_key:
                card = Picture(Key.parse(text).words, None, _why(report, axis, bool(by_key)))
                found.setdefault(axis, []).append(card)
    return found


def picture_of(text: str, by_role: Mapping[str, Trace]) -> Picture:
    """The picture of one reading of several models, with the controls that lie inside it.

    Args:
        text: its key, like `linear_probes.forget`.
        by_role: role -> trace, at least one.
    """
    return _picture(Key.parse(text), by_role)


def with_controls(text: str, by_role: Mapping[str, Trace]) -> dict[str, Trace]:
    """The readings with the controls that lie inside them (never-taught facts, shuffled answers) as roles of their own.

    Args:
        text: the key of the reading.
        by_role: role -> trace; none gives none.
    """
    return _with_controls(Key.parse(text), by_role) if by_role else {}


def chance_of(trace: Trace) -> float | None:
    """What knowing nothing reads, if the reading says so."""
    return _chance(trace)


def _by_key(traces: RoleTraces) -> dict[str, dict[str, Trace]]:
    """Key -> role -> trace; what was read on never-taught facts joins the forget reading as a role of its own."""
    found: dict[str, dict[str, Trace]] = {}
    for role in [r for r in ROLES if r in traces] + [r for r in traces if r not in ROLES]:
        for text, trace in traces[role].items():
            key = Key.parse(text)
            if key.on != "never_taught" and key.instrument not in NOT_DRAWN:
                found.setdefault(text, {})[role] = trace
    for text, trace in traces.get("checkpoint", {}).items():
        twin = text.replace(".never_taught", ".forget", 1)
        if twin != text and twin in found:
            found[twin]["never taught"] = trace
    return dict(sorted(found.items()))


def _with_controls(key: Key, by_role: Mapping[str, Trace]) -> dict[str, Trace]:
    """The readings with the controls that lie inside them taken out as roles of their own."""
    found = dict(by_role)
    for role, trace in by_role.items():
        known = trace.notes.get("n_facts")
        if isinstance(known, int) and known < len(trace.labels["fact"]):
            found[role] = _facts(trace, slice(0, known))
            if role == "checkpoint":
                found["never taught"] = _facts(trace, slice(known, None))
    shuffled = by_role["checkpoint"].notes.get("controls", {}).get("shuffled") if "checkpoint" in by_role else None
    layers = _any(by_role).labels.get("layer", ())
    if key.instrument == "linear_probes" and isinstance(shuffled, list) and len(shuffled) == len(layers):
        found["shuffled answers"] = Trace(
            "shuffled", np.array(shuffled, dtype=float), ("layer",), _any(by_role).units, {"layer": layers}
        )
    return found


def _facts(trace: Trace, part: slice) -> Trace:
    """Some of a trace's facts, with their subjects."""
    number = trace.axis("fact")
    cut = tuple(part if i == number else slice(None) for i in range(len(trace.axes)))
    subjects = trace.notes.get("subjects")
    notes = {**trace.notes, "subjects": subjects[part]} if isinstance(subjects, list) else trace.notes
    return Trace(
        trace.name,
        trace.values[cut],
        trace.axes,
        trace.units,
        {**trace.labels, "fact": trace.labels["fact"][part]},
        notes,
    )


def _shared_tokens(by_role: Mapping[str, Trace]) -> dict[str, Trace]:
    """Snapshots of value vectors as the share of top tokens they still have in common with the base's."""
    base = by_role["base"]
    found = {}
    for role, trace in by_role.items():
        if role != "base":
            same = [
                _jaccard(base.notes["top_ids"], trace.notes["top_ids"], i, site)
                for i, site in enumerate(base.labels["site"])
            ]
            found[role] = Trace(
                "Top tokens of value vectors shared with the base",
                np.array(same),
                ("site",),
                "Jaccard index",
                {"site": base.labels["site"]},
            )
    return found


def _jaccard(before: TopIds, after: TopIds, number: int, site: str) -> float:
    one, other = (set(ids[site] if isinstance(ids, Mapping) else ids[number]) for ids in (before, after))
    return len(one & other) / len(one | other) if one | other else float("nan")


def _any(by_role: Mapping[str, Trace]) -> Trace:
    return by_role.get("checkpoint") or next(iter(by_role.values()))


def _means(by_key: Mapping[str, Mapping[str, Trace]]) -> dict[str, list[Picture]]:
    """Readings with facts and seeds only, gathered by axis and unit."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, Trace]]] = {}
    for text, by_role in by_key.items():
        if kind_of(_any(by_role)) == "means":
            key = Key.parse(text)
            groups.setdefault((key.axis, _any(by_role).units), {})[key.words] = _with_controls(key, by_role)
    found: dict[str, list[Picture]] = {}
    for (axis, units), readings in groups.items():
        figure = compare_means(readings, f"{axis.capitalize()}: {units}", units)
        found.setdefault(axis, []).append(Picture(f"{axis}: {units}", figure))
    return found


def _picture(key: Key, by_role: Mapping[str, Trace]) -> Picture:
    """A picture of one reading; readings that do not fit together become a card that says so."""
    try:
        return Picture(key.words, _draw(key, by_role))
    except BadInput as error:
        return Picture(key.words, None, f"the stored readings cannot be drawn together: {error}")


def _draw(key: Key, by_role: Mapping[str, Trace]) -> go.Figure:
    trace, title = _any(by_role), key.words[:1].upper() + key.words[1:]
    if "top_ids" in trace.notes and "base" in by_role and len(by_role) > 1:
        return compare_ranked(_shared_tokens(by_role))
    by_role, kind = _with_controls(key, by_role), kind_of(trace)
    if kind == "layers":
        return compare_layers(by_role, title, trace.units, _chance(trace))
    if kind == "relearning":
        return relearn_curves(by_role, title)
    if kind == "map" and "base" in by_role and "checkpoint" in by_role:
        return compare_maps(by_role["base"], by_role["checkpoint"], by_role.get("reference"), title)
    if kind == "map":
        return figure_of(trace)
    if kind == "measures":
        return figure_of(trace)
    return compare_ranked({role: found for role, found in by_role.items() if role != "never taught"})


def _chance(trace: Trace) -> float | None:
    """What knowing nothing reads, if the reading says so in its notes: one number, or one a layer (they agree)."""
    chance = trace.notes.get("chance", trace.notes.get("controls", {}).get("chance"))
    numbers = chance if isinstance(chance, list) else [chance]
    known = [float(n) for n in numbers if isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)]
    return sum(known) / len(known) if known else None


def _why(report: AuditReport, axis: str, any_stored: bool) -> str:
    """Why an expected reading is absent: in the words of a claim that was not run, if there is one."""
    reasons = [e.why_missing for e in report.evidence if e.axis == axis and e.why_missing]
    if reasons:
        return str(reasons[0])
    if not any_stored:
        return (
            "no readings lie with this report, only its numbers; run `workbench report` on the folder of the run, "
            "which holds them under traces/"
        )
    return "this reading is not among the stored ones; run `workbench audit` with it to have the picture"
