"""Which stored readings become which picture, and under which axis of the report.

A reading's key is `instrument.on` or `instrument.on.attack`, for instance `accuracy.forget.relearn`.

Read it as: one picture shows all roles; readings that are a single mean a role share one picture per axis and unit.
Does not show: a reading that is absent; where one is expected a card says what is missing and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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

ROLES = ("base", "checkpoint", "reference")
KEPT = ("near", "far", "text")
"""Sets that must stay: whatever is read on them belongs to utility."""

RECOVERY = ("relearn", "quant", "patch", "finetune", "prune", "merge", "steer")
"""Attacks on the weights begin with one of these; the others are prompts."""

INSTRUMENT_AXIS = {
    "accuracy": "outputs", "answer_probability": "outputs", "choice": "outputs", "rouge": "outputs",
    "logit_lens": "decodability", "linear_probes": "decodability", "depth_score": "decodability",
    "causal_trace": "storage", "expert_attribution": "storage", "concept_vectors": "storage",
    "weight_deltas": "storage", "sae_features": "storage",
    "membership": "privacy", "privacy": "privacy",
}
"""Axis of an instrument on the forget set, without an attack. Any other instrument counts as `outputs`."""

EXPECTED = {
    "outputs": ("accuracy.forget",),
    "decodability": ("logit_lens.forget", "linear_probes.forget"),
    "storage": ("causal_trace.forget",),
    "recoverability": ("accuracy.forget.relearn",),
}
"""Readings every report has a place for."""


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
        return cls(instrument, on, attack)

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
        under = f", after {self.attack}" if self.attack else ""
        return f"{self.instrument.replace('_', ' ')} on {self.on or 'all facts'}{under}"


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
                found.setdefault(axis, []).append(Picture(Key.parse(text).words, None, _why(report, axis, bool(by_key))))
    return found


def _by_key(traces: RoleTraces) -> dict[str, dict[str, Trace]]:
    """Key -> role -> trace; what was read on never-taught facts joins the forget reading as a role of its own."""
    found: dict[str, dict[str, Trace]] = {}
    for role in [r for r in ROLES if r in traces] + [r for r in traces if r not in ROLES]:
        for text, trace in traces[role].items():
            if Key.parse(text).on != "never_taught":
                found.setdefault(text, {})[role] = trace
    for text, trace in traces.get("checkpoint", {}).items():
        twin = text.replace(".never_taught", ".forget", 1)
        if twin != text and twin in found:
            found[twin]["never taught"] = trace
    return dict(sorted(found.items()))


def _any(by_role: Mapping[str, Trace]) -> Trace:
    return by_role.get("checkpoint") or next(iter(by_role.values()))


def _means(by_key: Mapping[str, Mapping[str, Trace]]) -> dict[str, list[Picture]]:
    """Readings with facts and seeds only, gathered by axis and unit."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, Trace]]] = {}
    for text, by_role in by_key.items():
        if kind_of(_any(by_role)) == "means":
            key = Key.parse(text)
            groups.setdefault((key.axis, _any(by_role).units), {})[key.words] = by_role
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
    kind = kind_of(trace)
    if kind == "layers":
        return compare_layers(by_role, title, trace.units, _chance(trace))
    if kind == "relearning":
        return relearn_curves(by_role, title)
    if kind == "map" and "base" in by_role and "checkpoint" in by_role:
        return compare_maps(by_role["base"], by_role["checkpoint"], by_role.get("reference"))
    if kind == "map":
        return figure_of(trace)
    return compare_ranked({role: found for role, found in by_role.items() if role != "never taught"})


def _chance(trace: Trace) -> float | None:
    """What knowing nothing reads, if the reading says so in its notes."""
    chance = trace.notes.get("chance")
    return float(chance) if isinstance(chance, int | float) and not isinstance(chance, bool) else None


def _why(report: AuditReport, axis: str, any_stored: bool) -> str:
    """Why an expected reading is absent: in the words of a claim that was not run, if there is one."""
    reasons = [e.why_missing for e in report.evidence if e.axis == axis and e.why_missing]
    if reasons:
        return str(reasons[0])
    if not any_stored:
        return ("no readings lie with this report, only its numbers; run `workbench report` on the folder of the run, "
                "which holds them under traces/")
    return "this reading is not among the stored ones; run `workbench audit` with it to have the picture"
