"""Cuts through a `probe_kinds` trace: a map over kinds, a learning curve, a confusion, a calibration, tables of words.

Read it as: each cut holds the numbers of the trace, as the pictures of `workbench.figures_probes` need them. Only facts
whose answer was among the choices count; what a probe chose is a share of its repetitions (seeds).
Does not show: anything the trace does not hold; a fact without a choice stays NaN.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import BadInput
from workbench.figures_bands import Band, band_of
from workbench.trace import Trace
from workbench.trace_cuts import layer_name, named_layers

KIND_WORDS = {
    "linear": "linear",
    "residualised": "residualised",
    "mlp": "MLP",
    "erased": "LEACE-erased",
}
"""Kind of probe -> its name in pictures."""

UNITS = "share of facts"
BINS = 5
"""Bins of a probe's confidence, equally wide."""

WIDEST = 32
"""Letters of an answer in a picture."""


def kinds_in(trace: Trace) -> tuple[str, ...]:
    """The kinds of probe a trace holds."""
    return tuple(kind for kind in KIND_WORDS if kind in trace.labels["reading"])


def right_by(trace: Trace, kind: str, end: str = "") -> Trace:
    """Whether probes of a kind chose the true answer: axes (layer, seed, fact).

    Args:
        trace: a `probe_kinds` trace.
        kind: of `kinds_in`.
        end: ` shuffled` for the same probe trained on shuffled answers.
    """
    one = named_layers(trace.pick("reading", kind + end))
    return Trace("probe_kinds", one.values, one.axes, UNITS, one.labels, one.notes)


def has_shuffled(trace: Trace, kind: str) -> bool:
    """Whether the kind was also trained on shuffled answers."""
    return f"{kind} shuffled" in trace.labels["reading"]


def map_of(trace: Trace, selectivity: bool = False) -> Trace:
    """Layer by kind of probe: the share of repetitions that chose the true answer, fact by fact.

    Args:
        trace: a `probe_kinds` trace.
        selectivity: less the same of the probe trained on shuffled answers, for the kinds that have one.
    """
    kinds = [kind for kind in kinds_in(trace) if not selectivity or has_shuffled(trace, kind)]
    if not kinds:
        raise BadInput("No kind of probe was trained on shuffled answers here; read it again")
    columns = []
    for kind in kinds:
        values = right_by(trace, kind).mean("seed").values
        columns.append(values - right_by(trace, kind, " shuffled").mean("seed").values if selectivity else values)
    labels = {
        "layer": right_by(trace, kinds[0]).labels["layer"],
        "probe": tuple(KIND_WORDS[kind] for kind in kinds),
        "fact": trace.labels["fact"],
    }
    units = "above shuffled answers" if selectivity else UNITS
    return Trace("probe_kinds", np.stack(columns, axis=1), ("layer", "probe", "fact"), units, labels, trace.notes)


def most_read(trace: Trace, kind: str) -> str:
    """The layer at which a kind of probe reads most: where most is left."""
    one = right_by(trace, kind)
    mean = band_of(one, "layer").mean
    return one.labels["layer"][int(np.nanargmax(mean)) if np.isfinite(mean).any() else -1]


def curve_of(trace: Trace, layer: str) -> Trace:
    """The linear probe against the number of its training subjects, at one layer: axes (step, seed, fact)."""
    counts = [int(count) for count in trace.notes.get("curve", ())]
    names = [*(f"{count} subjects" for count in counts), "linear"]
    parts = [_at(trace.pick("reading", name), layer).values for name in names]
    labels = {
        "step": (*map(str, counts), str(trace.notes["training_subjects"])),
        "seed": trace.labels["seed"],
        "fact": trace.labels["fact"],
    }
    return Trace("probe_curve", np.stack(parts), ("step", "seed", "fact"), UNITS, labels, trace.notes)


def _at(trace: Trace, layer: str) -> Trace:
    """One layer of a trace, by its name in pictures.

    Raises:
        BadInput: when the trace was not read there.
    """
    label = next((label for label in trace.labels["layer"] if layer_name(label) == layer), layer)
    return trace.pick("layer", label)


@dataclass(frozen=True)
class Reliability:
    """How sure a probe was, and how often it was right then."""

    sure: Band
    """Mean confidence in each bin."""
    right: Band
    """Accuracy in each bin, with its interval over subjects and seeds."""
    count: np.ndarray
    """Choices (facts times seeds) in each bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of accuracy from confidence, bins weighted by their choices."""
        there = self.count > 0
        if not there.any():
            return float("nan")
        return float(np.average(np.abs(self.right.mean - self.sure.mean)[there], weights=self.count[there]))


def reliability_of(trace: Trace, kind: str, layer: str) -> Reliability:
    """Confidence against accuracy of the probes of a kind at a layer, in `BINS` bins (Guo et al. 2017)."""
    sure, right = (_at(trace.pick("reading", kind + end), layer).values for end in (" sure", ""))
    known = np.isfinite(sure) & np.isfinite(right)
    which = np.where(known, np.clip((np.nan_to_num(sure) * BINS).astype(int), 0, BINS - 1), -1)
    inside = which == np.arange(BINS)[:, None, None]
    names = tuple(f"{i / BINS:g} to {(i + 1) / BINS:g}" for i in range(BINS))
    labels = {"bin": names, "seed": trace.labels["seed"], "fact": trace.labels["fact"]}
    bands = [
        band_of(Trace("bins", np.where(inside, v, np.nan), ("bin", "seed", "fact"), "", labels, trace.notes), "bin")
        for v in (sure, right)
    ]
    return Reliability(bands[0], bands[1], inside.sum(axis=(1, 2)))


def relations_of(trace: Trace) -> tuple[str, ...]:
    """The relations of the tested facts."""
    notes = trace.notes
    return tuple(dict.fromkeys(notes["answer_relations"][answer] for answer in notes["truth"]))


def answer_names(trace: Trace) -> tuple[str, ...]:
    """Every answer, by number, short enough for a picture; no two of one relation are called alike."""
    notes, seen, names = trace.notes, Counter[tuple[str, str]](), []
    for relation, answer in zip(notes["answer_relations"], notes["answers"], strict=True):
        short = answer if len(answer) <= WIDEST else answer[: WIDEST - 1] + "…"
        seen[relation, short] += 1
        again = seen[relation, short]
        names.append(short if again == 1 else f"{short} ({again})")
    return tuple(names)


def confusion_of(trace: Trace, kind: str, layer: str, relation: str, also: Sequence[Trace] = ()) -> Trace:
    """True answer by chosen answer: the share of repetitions in which each fact's probe chose so.

    Axes (answer, predicted, fact): a fact stands in the row of its answer and is NaN elsewhere, so that a mean over
    facts is a share of the facts with that answer.

    Args:
        trace: a `probe_kinds` trace.
        kind: of probe.
        layer: by its name in pictures.
        relation: whose answers.
        also: traces of the same facts that are drawn beside it: what they chose gets a column too.
    """
    names, truth = answer_names(trace), np.asarray(trace.notes["truth"])
    mine = [i for i, of in enumerate(trace.notes["answer_relations"]) if of == relation]
    chosen, right = (_at(trace.pick("reading", kind + end), layer).values for end in (" chosen", ""))
    there = [_at(one.pick("reading", f"{kind} chosen"), layer).values for one in (trace, *also)]
    picked = {int(answer) for values in there for answer in values[np.isfinite(values)]}
    read = np.isfinite(right).any(axis=0)
    rows = [i for i in mine if (read & (truth == i)).any()]
    columns = [i for i in mine if i in picked or i in rows]
    values = np.full((len(rows), len(columns), len(truth)), np.nan)
    counted = np.isfinite(right)
    for r, row in enumerate(rows):
        for f in np.flatnonzero(read & (truth == row)):
            said = chosen[counted[:, f], f]
            values[r, :, f] = [(said == column).mean() for column in columns]
    labels = {
        "answer": tuple(names[i] for i in rows),
        "predicted": tuple(names[i] for i in columns),
        "fact": trace.labels["fact"],
    }
    return Trace("probe_confusion", values, ("answer", "predicted", "fact"), UNITS, labels, trace.notes)


def choices_frame(traces: Mapping[str, Trace], kind: str, layer: str) -> pd.DataFrame:
    """A row a fact: its answer and, of each role, what the probe chose most often, how sure, and how often rightly.

    The right answers come last, the surest mistakes of the first role named `checkpoint` (or of the first) come first.
    """
    lead = traces.get("checkpoint") or next(iter(traces.values()))
    names, notes = answer_names(lead), lead.notes
    truth = notes["truth"]
    table = pd.DataFrame(
        {
            "fact": lead.labels["fact"],
            "relation": [notes["answer_relations"][i] for i in truth],
            "answer": [names[i] for i in truth],
        }
    )
    ordered = sorted(traces.items(), key=lambda one: one[1] is not lead)  # what is sorted by stands first
    for role, trace in ordered:
        chosen, sure, right = (_at(trace.pick("reading", kind + end), layer).values for end in (" chosen", " sure", ""))
        said = [Counter(one[np.isfinite(one)].astype(int).tolist()).most_common(1) for one in chosen.T]
        table[f"{role} chose"] = [names[found[0][0]] if found else None for found in said]
        table[f"{role} sure"] = _mean(sure)
        table[f"{role} right"] = _mean(right)
    return table.sort_values(
        [f"{ordered[0][0]} right", f"{ordered[0][0]} sure"], ascending=[True, False], na_position="last", kind="stable"
    ).reset_index(drop=True)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over seeds; NaN where none was read."""
    read = np.isfinite(values)
    total, count = np.where(read, values, 0.0).sum(axis=0), read.sum(axis=0)
    mean: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def tokens_frame(traces: Mapping[str, Trace], layer: str, relation: str) -> pd.DataFrame:
    """A row an answer and role: the tokens that the answer's weights promote, and the rank of its own first token.

    An answer that was not seen in training, or that has no weights at this layer, has no row.
    """
    lead = next(iter(traces.values()))
    names, rows = answer_names(lead), []
    for i in sorted(set(lead.notes["truth"])):
        for role, trace in traces.items():
            first, ranks = (_of_layer(trace.notes.get(name, {}), layer) for name in ("promoted", "own_rank"))
            if lead.notes["answer_relations"][i] == relation and str(i) in first:
                spelt = trace.notes.get("vocabulary", {})
                tokens = " · ".join(str(spelt.get(str(token), token)).strip() for token in first[str(i)])
                rows.append((names[i], role, ranks.get(str(i), np.nan), tokens))
    return pd.DataFrame(rows, columns=["answer", "role", "rank of its own token", "promotes"])


def _of_layer(by_layer: Mapping[str, Mapping[str, Any]], layer: str) -> Mapping[str, Any]:
    return next((found for label, found in by_layer.items() if layer_name(label) == layer), {})
